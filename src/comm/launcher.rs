//! The environment variables that the launcher (mpirun, srun) sets for this process.

use std::time::Duration;

use super::flavour::MpiFlavour;

/// The number of processes of this launch and the number of this one, as far as known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The variable with the number of processes, for messages.
    pub variable: &'static str,
    /// Processes of the launch.
    pub size: usize,
    /// This process's number among them, if known.
    pub rank: Option<usize>,
}

/// What is known before MPI starts. MPI itself can end the process during its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// No problem found.
    Good,
    /// It may fail: advice, printed before the library's own message.
    Doubtful(String),
    /// It cannot work: the reason and what to do.
    Hopeless(String),
}

/// Checks for the mistake that makes Open MPI print a page of text and exit during its start: a Slurm step
/// without the interface (`srun --mpi=…`) that connects the ranks.
pub fn outlook(mpi_description: &str) -> Outlook {
    outlook_from(mpi_description, |name| std::env::var(name).ok())
}

fn outlook_from(mpi_description: &str, lookup: impl Fn(&str) -> Option<String>) -> Outlook {
    let has = |name: &str| lookup(name).is_some();
    let in_step = has("SLURM_STEP_ID") && has("SLURM_PROCID");
    let is_open_mpi = MpiFlavour::of_library(mpi_description) == MpiFlavour::OpenMpi;
    if !in_step || !is_open_mpi || has("OMPI_COMM_WORLD_SIZE") {
        return Outlook::Good;
    }
    if has("PMIX_RANK") || has("PMIX_NAMESPACE") {
        return Outlook::Good;
    }
    let tasks = lookup("SLURM_STEP_NUM_TASKS").unwrap_or_else(|| "1".to_owned());
    if has("PMI_RANK") || has("PMI_FD") {
        return Outlook::Doubtful(format!(
            "srun started {tasks} tasks with PMI-2, which not every Open MPI can use; if it fails below, \
             start it with `srun --mpi=pmix` (`srun --mpi=list` shows what this cluster offers)"
        ));
    }
    Outlook::Hopeless(format!(
        "srun started {tasks} tasks, but without --mpi=pmix, so Open MPI cannot connect its ranks. \
         Nothing was written.\n  Start it with `srun --mpi=pmix`. `srun --mpi=list` shows what this \
         cluster offers; if pmix is not listed, do not use srun but the mpirun of the MPI that \
         niimpi was built with"
    ))
}

/// Warns about a batch script that requests several tasks but starts the program without srun or mpirun: one
/// process does all the work, and the other CPUs idle. `None` if nothing looks wrong. Call this before MPI is
/// started, because Open MPI without a launcher sets a launcher's variables itself.
pub fn started_without_srun(mpi_description: &str) -> Option<String> {
    without_srun_from(mpi_description, |name| std::env::var(name).ok())
}

fn without_srun_from(mpi_description: &str, lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    let has = |name: &str| lookup(name).is_some();
    let number = |name: &str| lookup(name)?.trim().parse::<usize>().ok();
    // If tasks were requested per node, their total is not in the environment.
    let by_node = || number("SLURM_NTASKS_PER_NODE").zip(number("SLURM_JOB_NUM_NODES"));
    let tasks = number("SLURM_NTASKS").or_else(|| by_node().map(|(tasks, nodes)| tasks * nodes))?;
    if !has("SLURM_JOB_ID") || is_present_in(&lookup) || tasks < 2 {
        return None;
    }
    let nodes = lookup("SLURM_JOB_NUM_NODES").filter(|nodes| nodes != "1");
    Some(format!(
        "the job requested {tasks} tasks{}, but niimpi was started without srun: this process does all the \
         work and the other CPUs are idle; write `srun --mpi={}` before niimpi",
        nodes.map_or_else(String::new, |nodes| format!(" on {nodes} nodes")),
        MpiFlavour::of_library(mpi_description).srun_interface(),
    ))
}

/// Variables that only launchers set, each in every process that it starts: Open MPI, PMI and PMIx, MPICH's
/// Hydra, MVAPICH, Cray's PALS and ALPS, Flux, IBM's jsrun.
const MARKS: [&str; 17] = [
    "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_FD",
    "PMI_PORT",
    "PMIX_RANK",
    "PMIX_NAMESPACE",
    "MPI_LOCALNRANKS",
    "MPI_LOCALRANKID",
    "HYDI_CONTROL_FD",
    "MV2_COMM_WORLD_SIZE",
    "MPIRUN_RANK",
    "PALS_RANKID",
    "ALPS_APP_PE",
    "FLUX_TASK_RANK",
    "JSM_NAMESPACE_RANK",
    "JSM_NAMESPACE_SIZE",
];

/// Whether a launcher started this process, so that there can be other ranks. A Slurm step counts, with any
/// interface.
#[cfg(feature = "mpi")]
pub(super) fn is_present() -> bool {
    is_present_in(&|name: &str| std::env::var(name).ok())
}

fn is_present_in(lookup: &impl Fn(&str) -> Option<String>) -> bool {
    let has = |name: &str| lookup(name).is_some();
    MARKS.into_iter().any(has) || (has("SLURM_STEP_ID") && has("SLURM_PROCID"))
}

/// How long the other processes of a launch wait for the first one to print its error. mpirun then ends them.
const HEAD_START: Duration = Duration::from_secs(1);

/// Variables of the launchers: launcher, variable with the size, variable with the rank.
const LAUNCHERS: [(&str, &str); 6] = [
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("MPI_LOCALNRANKS", "MPI_LOCALRANKID"),
    ("PALS_SIZE", "PALS_RANKID"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
];

impl Launch {
    /// Reads the process's environment. `None` if no launcher set its variables.
    pub fn from_env() -> Option<Self> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads an environment given as a function from name to value.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| lookup(name)?.trim().parse::<usize>().ok();
        // A program that a batch script calls without srun is not in a step: SLURM_NTASKS is then the
        // request, not the number of processes.
        let in_step = lookup("SLURM_STEP_ID").is_some() && lookup("SLURM_PROCID").is_some();
        let found = LAUNCHERS
            .into_iter()
            .filter(|(size, _)| !size.starts_with("SLURM_") || in_step)
            .filter_map(|(size, rank)| {
                Some(Launch {
                    variable: size,
                    size: number(size)?,
                    rank: number(rank),
                })
            })
            .max_by_key(|launch| launch.size);
        let pmix_rank = number("PMIX_RANK").filter(|&rank| rank > 0);
        match (found, pmix_rank) {
            (Some(launch), _) if launch.size > 1 => Some(launch),
            (_, Some(rank)) => Some(Launch {
                variable: "PMIX_RANK",
                size: rank + 1,
                rank: Some(rank),
            }),
            (found, None) => found,
        }
    }

    /// Whether this process prints for all: it is the first of its launch, or the only one.
    pub fn speaks(launch: Option<&Launch>) -> bool {
        launch.is_none_or(|launch| launch.rank.unwrap_or(0) == 0)
    }

    /// Calls `say` in the process that prints for all; the others wait. mpirun ends a job as soon as one of
    /// its processes exits with an error, and would cut off the message if another process exits first.
    pub fn say_error(say: impl FnOnce()) {
        if Launch::speaks(Launch::from_env().as_ref()) {
            say();
        } else {
            std::thread::sleep(HEAD_START);
        }
    }

    /// The error if the launcher started several processes but MPI sees one rank in each, because each would
    /// process the whole list. `None` if they agree.
    pub fn disagreement(&self, mpi_size: usize, mpi_description: &str) -> Option<String> {
        (mpi_size == 1 && self.size > 1).then(|| {
            let (variable, size) = (self.variable, self.size);
            let cure = if variable.starts_with("SLURM") || variable.starts_with("PMIX") {
                format!(
                    "start it with `srun --mpi={}` (see `srun --mpi=list` for what this cluster offers; \
                     Open MPI uses pmix, MPICH pmi2 or pmix)",
                    MpiFlavour::of_library(mpi_description).srun_interface()
                )
            } else {
                "start it with the mpirun of the MPI that it was built with, and check that it was \
                 built with MPI"
                    .to_owned()
            };
            format!(
                "the launcher started {size} processes ({variable}={size}), but each is an MPI world of \
                 its own ({mpi_description}), so each would process the whole list. Nothing was \
                 written.\n  {cure}"
            )
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn launch(variables: &[(&str, &str)]) -> Option<Launch> {
        Launch::from_lookup(lookup(variables))
    }

    #[test]
    fn a_laptop_without_launcher_says_nothing() {
        assert_eq!(launch(&[]), None);
        assert!(Launch::speaks(None));
    }

    #[test]
    fn several_processes_with_a_world_of_one_are_refused() {
        let cases: [&[(&str, &str)]; 5] = [
            &[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "0")],
            &[("PMI_SIZE", "4"), ("PMI_RANK", "0")],
            &[("MPI_LOCALNRANKS", "4"), ("MPI_LOCALRANKID", "0")],
            &[
                ("SLURM_NTASKS", "4"),
                ("SLURM_STEP_ID", "0"),
                ("SLURM_PROCID", "0"),
            ],
            &[("PMIX_RANK", "3")],
        ];
        for variables in cases {
            let launch = launch(variables).unwrap();
            assert_eq!(launch.size, 4, "{variables:?}");
            assert!(
                launch
                    .disagreement(1, "Open MPI")
                    .unwrap()
                    .contains("4 processes")
            );
            assert_eq!(launch.disagreement(4, "Open MPI"), None);
        }
    }

    #[test]
    fn a_batch_script_that_runs_one_process_itself_is_no_launch() {
        assert_eq!(launch(&[("SLURM_NTASKS", "4"), ("SLURM_JOB_ID", "7")]), None);
    }

    pub(crate) fn lookup<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        }
    }

    #[test]
    fn a_step_without_pmix_is_told_before_open_mpi_dies_of_it() {
        let step = [
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "6"),
        ];
        let with = |more: &[(&str, &str)], mpi: &str| {
            let variables: Vec<_> = step.iter().chain(more).copied().collect();
            outlook_from(mpi, lookup(&variables))
        };
        let Outlook::Hopeless(message) = with(&[], "Open MPI v4.1.4") else {
            panic!("Open MPI cannot start without an interface");
        };
        assert!(
            message.contains("6 tasks") && message.contains("srun --mpi=list"),
            "{message}"
        );
        assert!(matches!(
            with(&[("PMI_FD", "7")], "Open MPI v4.1.4"),
            Outlook::Doubtful(_)
        ));
        assert_eq!(with(&[("PMIX_RANK", "1")], "Open MPI v4.1.4"), Outlook::Good);
        assert_eq!(
            with(&[("OMPI_COMM_WORLD_SIZE", "6")], "Open MPI v4.1.4"),
            Outlook::Good
        );
        // MPICH starts unconnected ranks, which is detected afterwards.
        assert_eq!(with(&[], "MPICH Version: 4.0.2"), Outlook::Good);
        // Not a step: a login node, or the batch script itself.
        assert_eq!(
            outlook_from("Open MPI v4.1.4", lookup(&[("SLURM_JOB_ID", "7")])),
            Outlook::Good
        );
    }

    #[test]
    fn a_batch_script_without_srun_is_warned() {
        let batch = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_NTASKS", "6"),
            ("SLURM_JOB_NUM_NODES", "3"),
        ];
        let warning = without_srun_from("Open MPI v4.1.4", lookup(&batch)).unwrap();
        assert!(
            warning.contains("6 tasks on 3 nodes") && warning.contains("srun --mpi=pmix"),
            "{warning}"
        );
        let by_node = [
            ("SLURM_JOB_ID", "7"),
            ("SLURM_NTASKS_PER_NODE", "2"),
            ("SLURM_JOB_NUM_NODES", "2"),
        ];
        let warning = without_srun_from("MPICH Version: 4.0.2", lookup(&by_node)).unwrap();
        assert!(
            warning.contains("4 tasks on 2 nodes") && warning.contains("--mpi=pmi2"),
            "{warning}"
        );
        // mpirun in a batch script, a job of one task, a step, no job at all.
        let mpirun = [&batch[..], &[("PMI_SIZE", "6")]].concat();
        assert_eq!(without_srun_from("Open MPI v4.1.4", lookup(&mpirun)), None);
        assert_eq!(
            without_srun_from(
                "Open MPI v4.1.4",
                lookup(&[("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "1")])
            ),
            None
        );
        let step = [&batch[..], &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0")]].concat();
        assert_eq!(without_srun_from("Open MPI v4.1.4", lookup(&step)), None);
        assert_eq!(
            without_srun_from("Open MPI v4.1.4", lookup(&[("SLURM_NTASKS", "6")])),
            None
        );
    }

    #[test]
    fn every_launcher_is_seen_and_a_laptop_or_a_batch_script_is_none() {
        let present = |variables: &[(&str, &str)]| is_present_in(&lookup(variables));
        for mark in MARKS {
            assert!(present(&[(mark, "0")]), "{mark}");
        }
        assert!(present(&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0")]));
        assert!(!present(&[]));
        assert!(!present(&[
            ("SLURM_JOB_ID", "7"),
            ("SLURM_NTASKS", "1"),
            ("SLURM_PROCID", "0")
        ]));
        // A user's settings of a library do not count as a launcher.
        assert!(!present(&[("OMPI_MCA_btl", "tcp"), ("PMIX_MCA_gds", "hash")]));
    }

    #[test]
    fn only_the_first_process_speaks() {
        let second = launch(&[("PMI_SIZE", "2"), ("PMI_RANK", "1")]);
        assert!(!Launch::speaks(second.as_ref()));
    }
}
