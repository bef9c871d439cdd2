//! Accounting: state, memory and times of a whole job, combined from the `sacct` rows of the job and its
//! steps.

use serde::{Deserialize, Serialize};

use super::JobState;
use super::steps::{self, Account};
use crate::text::parse_bytes;

/// A job with its steps combined.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accounting {
    pub job_id: String,
    /// Slurm's state: `COMPLETED`, `OUT_OF_MEMORY`, `TIMEOUT`, `RUNNING`, …
    pub state: String,
    /// `ExitCode`: the script's code and the signal.
    pub exit_code: String,
    /// Seconds from start to end.
    pub elapsed_s: f64,
    /// CPU seconds of all steps.
    pub total_cpu_s: f64,
    /// The highest memory of any task of any step; `None` if the steps were too short to be sampled.
    pub max_rss_bytes: Option<u64>,
    /// CPUs of the job.
    pub alloc_cpus: usize,
    pub nodes: usize,
    /// Requested memory of the whole job, in bytes; `None` if unknown.
    pub requested_mem_bytes: Option<u64>,
    /// Its time limit; `None` if unlimited.
    pub time_limit_s: Option<f64>,
}

impl Accounting {
    /// Whether the job has ended for good.
    pub fn is_final(&self) -> bool {
        JobState::parse(&self.state).is_final()
    }

    /// The accounting of a job. `None` if accounting does not know it yet.
    pub fn of_job(job_id: &str) -> Result<Option<Self>, String> {
        Ok(Self::of(job_id, &steps::of_job(job_id)?))
    }

    /// Combines a job's rows: its own has state and times, those of its steps have the memory. For a requeued
    /// job only the last run counts, which `sacct` prints last.
    fn of(job_id: &str, rows: &[Account]) -> Option<Self> {
        let own = rows.iter().rposition(|row| row.job_id == job_id)?;
        let (job, steps) = (&rows[own], &rows[own + 1..]);
        let max_rss_bytes = steps
            .iter()
            .filter(|row| {
                let step = row.job_id.strip_prefix(job_id);
                // The extern step contains the job's other processes, not the program.
                step.and_then(|rest| rest.strip_prefix('.'))
                    .is_some_and(|step| step != "extern")
            })
            .filter_map(|row| row.max_rss_bytes.filter(|&bytes| bytes > 0))
            .max();
        let alloc_cpus = job.cpus as usize;
        Some(Self {
            job_id: job_id.to_owned(),
            state: JobState::parse(&job.state).as_str().to_owned(),
            exit_code: job.exit_code.clone(),
            elapsed_s: job.elapsed_s,
            total_cpu_s: job.cpu_s,
            max_rss_bytes,
            alloc_cpus,
            nodes: job.nodes,
            requested_mem_bytes: requested_bytes(&job.requested_memory, alloc_cpus, job.nodes),
            time_limit_s: job.time_limit_s,
        })
    }
}

/// `ReqMem` in bytes of the whole job. Older versions append `c` (per CPU) or `n` (per node); newer ones
/// print the total. Until the accounting knows the request, Slurm prints 2⁷⁴ bytes: `None`.
fn requested_bytes(text: &str, cpus: usize, nodes: usize) -> Option<u64> {
    let (text, times) = if let Some(text) = text.strip_suffix('c') {
        (text, cpus)
    } else if let Some(text) = text.strip_suffix('n') {
        (text, nodes)
    } else {
        (text, 1)
    };
    parse_bytes(text, 1)
        .filter(|bytes| (1..u64::MAX).contains(bytes))
        .and_then(|bytes| bytes.checked_mul(times as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Accounting> {
        Accounting::of("7", &steps::rows(text).unwrap())
    }

    #[test]
    fn a_completed_job_is_read_with_its_steps() {
        let text = "\
7|COMPLETED|0:0|12|00:20.250|4||400M|n[1-2]|2|10|a
7.batch|COMPLETED|0:0|12|00:00.010|2|3120K||n1|1||batch
7.extern|COMPLETED|0:0|12|00:00|4|900000K||n[1-2]|2||extern
7.0|COMPLETED|0:0|11|00:20.240|4|20512K||n[1-2]|2||niimpi
";
        let job = read(text).unwrap();
        assert_eq!(job.state, "COMPLETED");
        assert!(job.is_final());
        assert_eq!((job.elapsed_s, job.total_cpu_s), (12.0, 20.25));
        assert_eq!(job.max_rss_bytes, Some(20512 * 1024));
        assert_eq!((job.alloc_cpus, job.nodes), (4, 2));
        assert_eq!(job.requested_mem_bytes, Some(400 << 20));
        assert_eq!(job.time_limit_s, Some(600.0));
    }

    #[test]
    fn of_a_requeued_job_the_last_run_counts() {
        let text = "\
7|REQUEUED|0:0|50|00:20|4||400M|n1|1|10|a
7.0|CANCELLED|0:9|49|00:20|4|90000K||n1|1||niimpi
7|RUNNING|0:0|3|00:00|4||400M|n2|1|10|a
";
        let job = read(text).unwrap();
        assert_eq!((job.state.as_str(), job.elapsed_s), ("RUNNING", 3.0));
        assert_eq!(job.max_rss_bytes, None);
    }

    #[test]
    fn other_ends_have_their_names() {
        for (row, state, is_final) in [
            (
                "7|OUT_OF_MEMORY|0:125|3|00:01|1||16M|n1|1|1|a",
                "OUT_OF_MEMORY",
                true,
            ),
            ("7|TIMEOUT|0:0|60|00:58|1||1G|n1|1|1|a", "TIMEOUT", true),
            (
                "7|CANCELLED by 0|0:0|0|00:00:00|1||1G|None assigned|1|UNLIMITED|a",
                "CANCELLED",
                true,
            ),
            ("7|RUNNING|0:0|5|00:00:00|1||100Mc|n1|1|1|a", "RUNNING", false),
            (
                "7|PENDING|0:0|0|00:00:00|1||100Mn|None assigned|1|1|a",
                "PENDING",
                false,
            ),
        ] {
            let job = read(row).unwrap();
            assert_eq!((job.state.as_str(), job.is_final()), (state, is_final));
            assert_eq!(job.max_rss_bytes, None);
        }
        // Another job's row, and another task's.
        assert_eq!(read("70|RUNNING|0:0|5|00:00|1||1G|n1|1|1|a"), None);
    }

    #[test]
    fn memory_for_each_cpu_or_node_is_that_of_the_job() {
        assert_eq!(requested_bytes("100Mc", 4, 2), Some(400 << 20));
        assert_eq!(requested_bytes("1Gn", 4, 2), Some(2 << 30));
    }

    #[test]
    fn memory_that_slurm_does_not_know_yet_is_none() {
        assert_eq!(requested_bytes("18889465931478580854784.00K", 2, 1), None);
        assert_eq!(requested_bytes("18889465931478580854784.00Kc", 2, 1), None);
    }
}
