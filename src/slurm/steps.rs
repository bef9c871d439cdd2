//! Steps: queries `sacct` about a job, its script and each of its steps, during or after the job. Only this
//! file calls `sacct`.

use std::process::Command;

use serde::Serialize;

use crate::text::{parse_bytes, parse_clock_s};

/// The requested fields. The job's name comes last, because it can contain anything.
const FIELDS: &str =
    "JobID,State,ExitCode,ElapsedRaw,TotalCPU,AllocCPUS,MaxRSS,ReqMem,NodeList,NNodes,TimelimitRaw,JobName";

/// The accounting of a job (`4711`), one of its steps (`4711.0`) or its script (`4711.batch`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    pub job_id: String,
    /// `State`, such as COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED.
    pub state: String,
    /// `ExitCode`: the code, and the signal if one ended it (`1:0`, `0:9`).
    pub exit_code: String,
    /// `ElapsedRaw`, seconds.
    pub elapsed_s: f64,
    /// `TotalCPU`, seconds of all its processes.
    pub cpu_s: f64,
    /// CPU seconds / (elapsed × CPUs); `None` if the elapsed time is 0.
    pub cpu_efficiency: Option<f64>,
    pub cpus: u64,
    /// `MaxRSS` of the largest task, bytes; `None` for a whole job or if no sample was taken.
    pub max_rss_bytes: Option<u64>,
    /// `ReqMem`, as Slurm writes it in KiB (`2097152K`).
    pub requested_memory: String,
    /// `NodeList`, as Slurm writes it.
    pub node_list: String,
    #[serde(skip)]
    pub nodes: usize,
    /// `TimelimitRaw`, in seconds; `None` without a limit and for a step.
    #[serde(skip)]
    pub time_limit_s: Option<f64>,
    pub name: String,
}

/// Queries `sacct` about a job and its steps; none if it does not know the job. All runs of a requeued job
/// are included, in order.
pub fn of_job(job_id: &str) -> Result<Vec<Account>, String> {
    let output = Command::new("sacct")
        .args([
            "--jobs",
            job_id,
            "--duplicates",
            "--parsable2",
            "--noheader",
            // Slurm would round 20512K to megabytes.
            "--units=K",
        ])
        .arg(format!("--format={FIELDS}"))
        .output()
        .map_err(|error| {
            format!(
                "sacct cannot be started ({error}); run this command on a login node of the cluster that ran \
                 the job, with Slurm's commands on the PATH"
            )
        })?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    answer(
        output.status.success(),
        &String::from_utf8_lossy(&output.stdout),
        complaint.trim(),
    )
}

fn answer(success: bool, text: &str, complaint: &str) -> Result<Vec<Account>, String> {
    if complaint.contains("accounting storage is disabled") {
        return Err(
            "this cluster has no accounting (its slurm.conf sets no AccountingStorageType), so only the \
             report's own numbers are available"
                .to_owned(),
        );
    }
    match success {
        true => rows(text),
        false => Err(format!("sacct: {complaint}")),
    }
}

/// Parses the rows of `sacct`'s output. Other lines are skipped, because a job's name can contain a line
/// break; output without any row is an error.
pub(super) fn rows(text: &str) -> Result<Vec<Account>, String> {
    let accounts: Vec<Account> = text.lines().filter_map(parse).collect();
    match text.lines().find(|line| !line.trim().is_empty()) {
        Some(line) if accounts.is_empty() => Err(format!("unexpected output of sacct: {line}")),
        _ => Ok(accounts),
    }
}

fn parse(line: &str) -> Option<Account> {
    let mut fields = line.splitn(FIELDS.split(',').count(), '|');
    let mut next = || fields.next();
    let (job_id, state, exit_code) = (next()?, next()?, next()?);
    let (elapsed_s, cpu_s): (f64, f64) = (next()?.parse().ok()?, parse_clock_s(next()?).unwrap_or(0.0));
    let cpus = next()?.parse().unwrap_or(0);
    let max_rss_bytes = parse_bytes(next()?, 1);
    let (requested_memory, node_list) = (next()?, next()?);
    let nodes = next()?.parse().unwrap_or(0);
    let time_limit_s = next()?.parse().ok().map(|minutes: f64| minutes * 60.0);
    let name = next()?;
    let given_s = elapsed_s * cpus as f64;
    Some(Account {
        job_id: job_id.to_owned(),
        // "CANCELLED by 1000" keeps the user; the rest of the row is the same.
        state: state.to_owned(),
        exit_code: exit_code.to_owned(),
        elapsed_s,
        cpu_s,
        cpu_efficiency: (given_s > 0.0).then(|| cpu_s / given_s),
        cpus,
        max_rss_bytes,
        requested_memory: requested_memory.to_owned(),
        node_list: node_list.to_owned(),
        nodes,
        time_limit_s,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let text = "7|COMPLETED|0:0|100|02:30.500|4||2G|n[1-2]|2|10|a|b\n\
                    7.batch|COMPLETED|0:0|100|00:00.100|2|3000K||n1|1||batch\n\
                    7.0|OUT_OF_MEMORY|0:125|86401|00:00:00|4|1.5G||n[1-2]|2||niimpi\n";
        let accounts = answer(true, text, "").unwrap();
        assert_eq!(accounts.len(), 3);
        let job = &accounts[0];
        assert_eq!((job.elapsed_s, job.cpu_s, job.cpus), (100.0, 150.5, 4));
        assert_eq!(job.cpu_efficiency, Some(150.5 / 400.0));
        assert_eq!((job.max_rss_bytes, job.name.as_str()), (None, "a|b"));
        assert_eq!((job.nodes, job.time_limit_s), (2, Some(600.0)));
        assert_eq!(accounts[1].time_limit_s, None);
        assert_eq!(accounts[1].max_rss_bytes, Some(3000 * 1024));
        assert_eq!(accounts[2].elapsed_s, 86_401.0);
        assert_eq!(accounts[2].max_rss_bytes, Some(3 << 29));
        assert_eq!(accounts[2].state, "OUT_OF_MEMORY");
    }

    #[test]
    fn silence_is_told_apart() {
        let message = |success, complaint: &str| answer(success, "", complaint).unwrap_err();
        let off = "Slurm accounting storage is disabled";
        assert!(message(true, off).contains("has no accounting"));
        assert!(message(false, off).contains("has no accounting"));
        assert_eq!(message(false, "bad field"), "sacct: bad field");
        assert_eq!(answer(true, "", ""), Ok(Vec::new()));
        let error = answer(true, "error: no such thing\n", "").unwrap_err();
        assert_eq!(error, "unexpected output of sacct: error: no such thing");
    }
}
