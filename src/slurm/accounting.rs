//! Accounting: what `sacct` knows of a job: state, memory, times.

use std::process::Command;

use serde::{Deserialize, Serialize};

/// The columns asked of `sacct`, in this order.
const COLUMNS: &str =
    "JobID,State,ExitCode,ElapsedRaw,TotalCPU,MaxRSS,AllocCPUS,NNodes,ReqMem,TimelimitRaw";

/// A job, its steps taken together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accounting {
    /// The job's number.
    pub job_id: String,
    /// Slurm's word for how it stands: `COMPLETED`, `OUT_OF_MEMORY`, `TIMEOUT`, `RUNNING`, …
    pub state: String,
    /// `ExitCode`: the script's code and the signal.
    pub exit_code: String,
    /// Seconds from start to end.
    pub elapsed_s: f64,
    /// CPU seconds of all steps.
    pub total_cpu_s: f64,
    /// The most memory that any one task of any step held; `None` for steps too short to have been looked at.
    pub max_rss_bytes: Option<u64>,
    /// CPUs that the job had.
    pub alloc_cpus: usize,
    /// Nodes that the job had.
    pub nodes: usize,
    /// Memory that was asked for, in bytes, of the whole job; `None` where it is not told.
    pub requested_mem_bytes: Option<u64>,
    /// Its time limit; `None` for none.
    pub time_limit_s: Option<f64>,
}

impl Accounting {
    /// Whether nothing more will become of the job.
    pub fn is_final(&self) -> bool {
        !matches!(
            self.state.as_str(),
            "PENDING"
                | "RUNNING"
                | "CONFIGURING"
                | "COMPLETING"
                | "REQUEUED"
                | "RESIZING"
                | "SUSPENDED"
                | ""
        )
    }

    /// Asks `sacct`. `None` while it does not know the job yet.
    ///
    /// # Errors
    /// A sentence when `sacct` is not there or fails (a cluster without accounting).
    pub fn of_job(job_id: &str) -> Result<Option<Self>, String> {
        let output = Command::new("sacct")
            .args([
                "--noheader",
                "--parsable2",
                "--units=K",
                "--jobs",
                job_id,
                "--format",
                COLUMNS,
            ])
            .output()
            .map_err(|error| format!("sacct cannot be started: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "sacct fails: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Self::parse(&String::from_utf8_lossy(&output.stdout), job_id)
    }

    /// Reads the rows that `sacct` printed: the job's own row has state and times, its steps' rows the memory.
    fn parse(text: &str, job_id: &str) -> Result<Option<Self>, String> {
        let mut job: Option<Self> = None;
        let mut max_rss: Option<u64> = None;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let fields: Vec<&str> = line.split('|').collect();
            let [
                id,
                state,
                exit_code,
                elapsed,
                cpu,
                rss,
                cpus,
                nodes,
                requested,
                limit,
            ] = fields[..]
            else {
                return Err(format!(
                    "sacct says something that niimpi cannot read: {line}"
                ));
            };
            if let Some(step) = id
                .strip_prefix(job_id)
                .and_then(|rest| rest.strip_prefix('.'))
            {
                // The extern step holds what is left of the job's other processes, not the program.
                if step != "extern" {
                    max_rss = max_rss.max(size_bytes(rss).filter(|&bytes| bytes > 0));
                }
            } else if id == job_id {
                // "CANCELLED by 1000"
                let state = state.split_whitespace().next().unwrap_or_default();
                let cpus = cpus.parse().unwrap_or(0);
                let nodes = nodes.parse().unwrap_or(0);
                job = Some(Self {
                    job_id: job_id.to_owned(),
                    state: state.trim_end_matches('+').to_owned(),
                    exit_code: exit_code.to_owned(),
                    elapsed_s: elapsed.parse().unwrap_or(0.0),
                    total_cpu_s: clock_s(cpu).unwrap_or(0.0),
                    max_rss_bytes: None,
                    alloc_cpus: cpus,
                    nodes,
                    requested_mem_bytes: requested_bytes(requested, cpus, nodes),
                    time_limit_s: limit.parse::<f64>().ok().map(|minutes| minutes * 60.0),
                });
            }
        }
        Ok(job.map(|job| Self {
            max_rss_bytes: max_rss,
            ..job
        }))
    }
}

/// Bytes of a size as Slurm writes it: `20480K`, `1.5G`, `0`.
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].chars().next() {
        None => 1.0,
        Some('K') => 1024.0,
        Some('M') => 1024.0 * 1024.0,
        Some('G') => 1024.0_f64.powi(3),
        Some('T') => 1024.0_f64.powi(4),
        Some(_) => return None,
    };
    digits
        .parse::<f64>()
        .ok()
        .map(|number| (number * factor) as u64)
}

/// `ReqMem` in bytes of the whole job. Older versions append `c` (a CPU) or `n` (a node); newer ones give the sum.
fn requested_bytes(text: &str, cpus: usize, nodes: usize) -> Option<u64> {
    let (text, times) = if let Some(text) = text.strip_suffix('c') {
        (text, cpus)
    } else if let Some(text) = text.strip_suffix('n') {
        (text, nodes)
    } else {
        (text, 1)
    };
    size_bytes(text)
        .filter(|&bytes| bytes > 0)
        .map(|bytes| bytes * times as u64)
}

/// Seconds of a time as Slurm writes it: `[DD-[HH:]]MM:SS[.mmm]`.
pub fn clock_s(text: &str) -> Option<f64> {
    let (days, rest) = match text.trim().split_once('-') {
        Some((days, rest)) => (days.parse::<f64>().ok()?, rest),
        None => (0.0, text.trim()),
    };
    let mut seconds = 0.0;
    for part in rest.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(days * 86_400.0 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completed_job_is_read_with_its_steps() {
        let text = "\
7|COMPLETED|0:0|12|00:20.250||4|2|400M|10
7.batch|COMPLETED|0:0|12|00:00.010|3120K|2|1||
7.extern|COMPLETED|0:0|12|00:00|900000K|4|2||
7.0|COMPLETED|0:0|11|00:20.240|20512K|4|2||
";
        let job = Accounting::parse(text, "7").unwrap().unwrap();
        assert_eq!(job.state, "COMPLETED");
        assert!(job.is_final());
        assert_eq!((job.elapsed_s, job.total_cpu_s), (12.0, 20.25));
        assert_eq!(job.max_rss_bytes, Some(20512 * 1024));
        assert_eq!((job.alloc_cpus, job.nodes), (4, 2));
        assert_eq!(job.requested_mem_bytes, Some(400 << 20));
        assert_eq!(job.time_limit_s, Some(600.0));
    }

    #[test]
    fn other_ends_have_their_names() {
        for (row, state, is_final) in [
            (
                "7|OUT_OF_MEMORY|0:125|3|00:01||1|1|16M|1",
                "OUT_OF_MEMORY",
                true,
            ),
            ("7|TIMEOUT|0:0|60|00:58||1|1|1G|1", "TIMEOUT", true),
            (
                "7|CANCELLED by 0|0:0|0|00:00:00||1|1|1G|UNLIMITED",
                "CANCELLED",
                true,
            ),
            ("7|RUNNING|0:0|5|00:00:00||1|1|100Mc|1", "RUNNING", false),
            ("7|PENDING|0:0|0|00:00:00||1|1|100Mn|1", "PENDING", false),
        ] {
            let job = Accounting::parse(row, "7").unwrap().unwrap();
            assert_eq!((job.state.as_str(), job.is_final()), (state, is_final));
            assert_eq!(job.max_rss_bytes, None);
        }
        assert_eq!(Accounting::parse("", "7"), Ok(None));
        assert!(Accounting::parse("error: no such thing", "7").is_err());
    }

    #[test]
    fn sizes_and_times_are_slurms() {
        assert_eq!(size_bytes("1.5G"), Some(3 << 29));
        assert_eq!(size_bytes("0"), Some(0));
        assert_eq!(size_bytes(""), None);
        assert_eq!(requested_bytes("100Mc", 4, 2), Some(400 << 20));
        assert_eq!(requested_bytes("1Gn", 4, 2), Some(2 << 30));
        assert_eq!(clock_s("1-02:03:04"), Some(93_784.0));
        assert_eq!(clock_s("02:03.500"), Some(123.5));
        assert_eq!(clock_s("Partition_Limit"), None);
    }
}
