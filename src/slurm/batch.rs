//! Batch scripts: writes the Slurm request of a run as a script and submits it with `sbatch`.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::JobState;
use super::running::squeue;
use crate::comm::flavour::MpiFlavour;

/// The resources requested from Slurm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `--nodes`.
    pub nodes: usize,
    /// `--ntasks-per-node`.
    pub tasks_per_node: usize,
    /// `--cpus-per-task`.
    pub cpus_per_task: usize,
    /// `--mem-per-cpu`, in MiB; `None`: the cluster's default.
    pub mem_per_cpu_mib: Option<u64>,
    /// `--time`, in minutes; `None`: the partition's default.
    pub time_min: Option<u64>,
    /// `--partition`; `None`: the cluster's default.
    pub partition: Option<String>,
}

/// A script for `sbatch` that starts one run of this program.
#[derive(Clone, Debug)]
pub struct BatchScript {
    /// `--job-name`.
    pub name: String,
    pub request: Request,
    /// The file for the job's standard output and error.
    pub log: OsString,
    /// Comment lines that explain the numbers.
    pub remarks: Vec<String>,
    /// How `srun` starts the ranks (`--mpi`).
    pub mpi_type: String,
    /// The program and its arguments.
    pub command: Vec<OsString>,
}

impl BatchScript {
    /// The script. Arguments are quoted for the shell; an argument that is not UTF-8 is an error.
    pub fn render(&self) -> Result<String, String> {
        let request = &self.request;
        let mut text = String::from("#!/bin/bash\n");
        let mut ask = |option: &str, value: &str| {
            let _ = writeln!(text, "#SBATCH --{option}={value}");
        };
        ask("job-name", &self.name);
        ask("nodes", &request.nodes.to_string());
        ask("ntasks-per-node", &request.tasks_per_node.to_string());
        ask("cpus-per-task", &request.cpus_per_task.to_string());
        if let Some(mib) = request.mem_per_cpu_mib {
            ask("mem-per-cpu", &format!("{mib}M"));
        }
        if let Some(minutes) = request.time_min {
            ask("time", &clock(minutes));
        }
        if let Some(partition) = &request.partition {
            ask("partition", partition);
        }
        // sbatch splits these lines like a shell.
        ask("output", &quoted(&self.log)?);
        for remark in &self.remarks {
            for line in remark.lines() {
                let _ = writeln!(text, "# {line}");
            }
        }
        text.push_str("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK\n");
        // With Slurm's default, ranks on several nodes occasionally leave MPI's start before the others have
        // finished it (docs/slurm.md).
        if self.mpi_type.starts_with("pmix") && request.nodes > 1 {
            text.push_str("export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-ring}\n");
        }
        let _ = write!(text, "srun --mpi={} --kill-on-bad-exit=1", self.mpi_type);
        for word in &self.command {
            let _ = write!(text, " {}", quoted(word)?);
        }
        text.push('\n');
        Ok(text)
    }
}

/// The value of `srun --mpi=` for this MPI library.
pub fn mpi_type_of(library: Option<&str>) -> &'static str {
    library.map_or("none", |name| MpiFlavour::of_library(name).srun_interface())
}

/// Minutes as `HH:MM:00`.
fn clock(minutes: u64) -> String {
    format!("{:02}:{:02}:00", minutes / 60, minutes % 60)
}

fn quoted(word: &OsStr) -> Result<String, String> {
    let text = word.to_str().ok_or_else(|| {
        format!(
            "{}: a batch script cannot contain a name that is not UTF-8",
            word.display()
        )
    })?;
    // shlex also quotes --sigma=2, which no shell requires.
    if text.starts_with("--")
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-=,.".contains(c))
    {
        return Ok(text.to_owned());
    }
    // A line break would end an #SBATCH line.
    shlex::try_quote(text)
        .ok()
        .filter(|quoted| !quoted.contains('\n'))
        .map(|quoted| quoted.into_owned())
        .ok_or_else(|| {
            format!("{text:?}: a batch script cannot contain a name with a line break or a null byte")
        })
}

/// The result of submitting a script with `sbatch`.
pub(crate) enum Submission {
    /// A job with this ID.
    Job(String),
    /// The job was refused for this reason.
    Refused(String),
}

/// Submits a script with `sbatch`.
pub(crate) fn submit(script: &Path) -> Result<Submission, String> {
    let output = Command::new("sbatch")
        .arg("--parsable")
        .arg(script)
        .output()
        .map_err(|error| {
            format!("sbatch cannot be started: {error}; --via slurm needs a cluster with Slurm")
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said
            .trim()
            .lines()
            .last()
            .unwrap_or("sbatch fails without a reason");
        return Ok(Submission::Refused(reason.to_owned()));
    }
    // "12" or "12;cluster"
    let text = String::from_utf8_lossy(&output.stdout);
    let id = text.trim().split(';').next().unwrap_or_default();
    if id.chars().all(|c| c.is_ascii_digit()) && !id.is_empty() {
        Ok(Submission::Job(id.to_owned()))
    } else {
        Err(format!(
            "unexpected output of sbatch: {:?} instead of a job ID",
            text.trim()
        ))
    }
}

/// A job in the queue.
#[derive(Debug, Default, PartialEq)]
pub struct Queued {
    /// Why it waits, in Slurm's words, if that is more than its turn.
    pub waits_for: Option<String>,
}

/// The job's place in the queue according to `squeue`, `None` if it has left it. The outer `None` means that
/// `squeue` failed.
pub fn in_queue(job_id: &str) -> Option<Option<Queued>> {
    squeue(&["--format=%T %r", "--jobs", job_id]).map(|text| queued(&text))
}

/// The job of these lines: state and reason. Jobs that wait for their turn have the reasons below.
fn queued(text: &str) -> Option<Queued> {
    const TURN: [&str; 4] = ["None", "Priority", "Resources", "Prolog"];
    let mut jobs = text.lines().filter_map(|line| line.trim().split_once(' '));
    let (state, reason) = jobs.find(|(state, _)| !JobState::parse(state).is_final())?;
    let waits = state == "PENDING" && !TURN.contains(&reason);
    Some(Queued {
        waits_for: waits.then(|| reason.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_waits_for_more_than_its_turn_has_a_reason() {
        let waits_for = |text| queued(text).map(|job| job.waits_for);
        assert_eq!(waits_for(""), None);
        assert_eq!(waits_for("COMPLETED None\n"), None);
        assert_eq!(waits_for("RUNNING None\n"), Some(None));
        assert_eq!(waits_for("PENDING Resources\n"), Some(None));
        let reason = Some("PartitionConfig".to_owned());
        assert_eq!(waits_for("PENDING PartitionConfig\n"), Some(reason));
    }

    #[test]
    fn a_script_asks_for_what_it_says_and_ends_with_its_step() {
        let script = BatchScript {
            name: "niimpi".to_owned(),
            request: Request {
                nodes: 2,
                tasks_per_node: 4,
                cpus_per_task: 3,
                mem_per_cpu_mib: Some(120),
                time_min: Some(95),
                partition: Some("cpu24".to_owned()),
            },
            log: "logs/my job-%j.log".into(),
            remarks: vec!["first\nsecond".to_owned()],
            mpi_type: "pmix".to_owned(),
            command: ["/opt/niimpi", "smooth", "it's here", "--sigma=2"]
                .map(OsString::from)
                .to_vec(),
        };
        let text = script.render().unwrap();
        let expected = "\
#!/bin/bash
#SBATCH --job-name=niimpi
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=3
#SBATCH --mem-per-cpu=120M
#SBATCH --time=01:35:00
#SBATCH --partition=cpu24
#SBATCH --output='logs/my job-%j.log'
# first
# second
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export SLURM_PMIX_FENCE=${SLURM_PMIX_FENCE:-ring}
srun --mpi=pmix --kill-on-bad-exit=1 /opt/niimpi smooth \"it's here\" --sigma=2
";
        assert_eq!(text, expected);
    }

    #[test]
    fn only_ranks_of_several_nodes_that_pmix_starts_need_its_ring() {
        for (mpi_type, nodes, expected) in [
            ("pmix", 2, true),
            ("pmix_v4", 2, true),
            ("pmix", 1, false),
            ("pmi2", 2, false),
        ] {
            let script = BatchScript {
                name: "niimpi".to_owned(),
                request: Request {
                    nodes,
                    ..Request::default()
                },
                log: "log".into(),
                remarks: Vec::new(),
                mpi_type: mpi_type.to_owned(),
                command: vec!["niimpi".into()],
            };
            let text = script.render().unwrap();
            assert_eq!(text.contains("SLURM_PMIX_FENCE"), expected, "{text}");
        }
    }

    #[test]
    fn a_word_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let error = quoted(OsStr::from_bytes(b"a\xff")).unwrap_err();
        assert!(error.contains("not UTF-8"), "{error}");
        let error = quoted(OsStr::new("a\nb")).unwrap_err();
        assert!(error.contains("line break"), "{error}");
    }

    #[test]
    fn bash_reads_quoted_words_as_they_were() {
        for word in [
            "",
            "a b",
            "it's",
            "$HOME `id` \\",
            "\"x\"!",
            "*",
            "~/x",
            "--sigma=2",
            "é;|&",
        ] {
            let script = format!("printf %s {}", quoted(OsStr::new(word)).unwrap());
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout), word);
        }
    }

    #[test]
    fn each_mpi_has_its_way_to_be_started() {
        assert_eq!(mpi_type_of(Some("Open MPI v4.1.4")), "pmix");
        assert_eq!(mpi_type_of(Some("MPICH Version: 4.0.2")), "pmi2");
        assert_eq!(mpi_type_of(None), "none");
    }
}
