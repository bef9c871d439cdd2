//! Steps: what `sacct` says of a job, its script and each of its steps, after or while it ran.

use std::process::Command;

use serde::Serialize;
use thiserror::Error;

use super::accounting::{clock_s, size_bytes};

/// The fields asked for. The job's name may hold anything, so it is the last.
const FIELDS: &str =
    "JobID,State,ExitCode,Elapsed,TotalCPU,AllocCPUS,MaxRSS,ReqMem,NodeList,JobName";

/// Why accounting says nothing, and what to do about it.
#[derive(Debug, Error)]
pub enum AccountingError {
    /// There is no such command here.
    #[error(
        "sacct cannot be started ({0}); ask where Slurm's commands are, on a login node of the cluster that ran the job"
    )]
    NoCommand(std::io::Error),
    /// The cluster keeps no accounts.
    #[error(
        "this cluster keeps no accounts (its slurm.conf names no AccountingStorageType), so nobody knows what the job used; \
         the report's own figures are all there is"
    )]
    Off,
    /// Another complaint of `sacct`.
    #[error("sacct: {0}")]
    Refused(String),
    /// It answered, but knows no such job.
    #[error(
        "the accounts have nothing on job {0}: is this the cluster that ran it, and was it longer ago than they reach?"
    )]
    Unknown(String),
}

/// What the accounts say of a job (`4711`), one of its steps (`4711.0`) or its script (`4711.batch`).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Account {
    /// `JobID`.
    pub job_id: String,
    /// `State`, such as COMPLETED, FAILED, TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED.
    pub state: String,
    /// `ExitCode`: the code, and the signal if one ended it (`1:0`, `0:9`).
    pub exit_code: String,
    /// `Elapsed`, seconds.
    pub elapsed_s: f64,
    /// `TotalCPU`, seconds of all its processes.
    pub cpu_s: f64,
    /// CPU seconds / (elapsed × CPUs); `None` for nothing elapsed.
    pub cpu_efficiency: Option<f64>,
    /// `AllocCPUS`.
    pub cpus: u64,
    /// `MaxRSS` of the largest task, bytes; `None` for a job as a whole and where no sample was taken.
    pub max_rss_bytes: Option<u64>,
    /// `ReqMem`, as Slurm writes it.
    pub requested_memory: String,
    /// `NodeList`, as Slurm writes it.
    pub node_list: String,
    /// `JobName`.
    pub name: String,
}

/// Asks `sacct` about a job and its steps. A requeued job's runs are all there, the last one last.
///
/// # Errors
/// A sentence for the user when there is no accounting, no such job or no `sacct`.
pub fn of_job(job_id: &str) -> Result<Vec<Account>, AccountingError> {
    let output = Command::new("sacct")
        .args([
            "--jobs",
            job_id,
            "--duplicates",
            "--parsable2",
            "--noheader",
        ])
        .arg(format!("--format={FIELDS}"))
        .output()
        .map_err(AccountingError::NoCommand)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    answer(
        job_id,
        output.status.success(),
        &String::from_utf8_lossy(&output.stdout),
        complaint.trim(),
    )
}

fn answer(
    job_id: &str,
    success: bool,
    text: &str,
    complaint: &str,
) -> Result<Vec<Account>, AccountingError> {
    if complaint.contains("accounting storage is disabled") {
        return Err(AccountingError::Off);
    }
    if !success {
        return Err(AccountingError::Refused(complaint.to_owned()));
    }
    let accounts: Vec<Account> = text.lines().filter_map(parse).collect();
    if accounts.is_empty() {
        return Err(AccountingError::Unknown(job_id.to_owned()));
    }
    Ok(accounts)
}

fn parse(line: &str) -> Option<Account> {
    let mut fields = line.splitn(FIELDS.split(',').count(), '|');
    let mut next = || fields.next();
    let (job_id, state, exit_code) = (next()?, next()?, next()?);
    let (elapsed_s, cpu_s) = (clock_s(next()?)?, clock_s(next()?).unwrap_or(0.0));
    let cpus = next()?.parse().unwrap_or(0);
    let max_rss_bytes = size_bytes(next()?);
    let (requested_memory, node_list, name) = (next()?, next()?, next()?);
    let given_s = elapsed_s * cpus as f64;
    Some(Account {
        job_id: job_id.to_owned(),
        // "CANCELLED by 1000" keeps who; the rest of the row is the same.
        state: state.to_owned(),
        exit_code: exit_code.to_owned(),
        elapsed_s,
        cpu_s,
        cpu_efficiency: (given_s > 0.0).then(|| cpu_s / given_s),
        cpus,
        max_rss_bytes,
        requested_memory: requested_memory.to_owned(),
        node_list: node_list.to_owned(),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read() {
        let text = "7|COMPLETED|0:0|00:01:40|02:30.500|4||2G|n[1-2]|a|b\n\
                    7.batch|COMPLETED|0:0|00:01:40|00:00.100|2|3000K||n1|batch\n\
                    7.0|OUT_OF_MEMORY|0:125|1-00:00:01|00:00:00|4|1.5G||n[1-2]|niimpi\n";
        let accounts = answer("7", true, text, "").unwrap();
        assert_eq!(accounts.len(), 3);
        let job = &accounts[0];
        assert_eq!((job.elapsed_s, job.cpu_s, job.cpus), (100.0, 150.5, 4));
        assert_eq!(job.cpu_efficiency, Some(150.5 / 400.0));
        assert_eq!((job.max_rss_bytes, job.name.as_str()), (None, "a|b"));
        assert_eq!(accounts[1].max_rss_bytes, Some(3000 * 1024));
        assert_eq!(accounts[2].elapsed_s, 86_401.0);
        assert_eq!(accounts[2].max_rss_bytes, Some(3 << 29));
        assert_eq!(accounts[2].state, "OUT_OF_MEMORY");
    }

    #[test]
    fn silence_is_told_apart() {
        let message =
            |success, complaint: &str| answer("7", success, "", complaint).unwrap_err().to_string();
        let off = "Slurm accounting storage is disabled";
        assert!(message(true, off).contains("keeps no accounts"));
        assert!(message(false, off).contains("keeps no accounts"));
        assert_eq!(message(false, "bad field"), "sacct: bad field");
        assert!(message(true, "").contains("nothing on job 7"));
    }
}
