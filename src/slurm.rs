//! Slurm: information about a job from its environment and from accounting. Results never depend on it.
//!
//! [`steps`] queries what a job and its steps used, [`accounting`] combines the steps of a job, [`limits`]
//! queries the limits of a partition, and [`batch`] writes and submits scripts.

pub mod accounting;
pub mod batch;
pub mod limits;
pub(crate) mod running;
pub mod steps;

use serde::{Deserialize, Serialize};

/// The job of this process, for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub job_id: String,
    pub job_name: Option<String>,
    pub partition: Option<String>,
    pub array_job_id: Option<String>,
    pub array_task_id: Option<String>,
    /// `SLURM_STEP_ID`, inside a step.
    pub step_id: Option<String>,
    /// `SLURM_JOB_NODELIST`, as Slurm writes it.
    pub node_list: Option<String>,
    pub ntasks: Option<String>,
    pub cpus_per_task: Option<String>,
    /// `SLURM_MEM_PER_CPU`, in MiB.
    pub mem_per_cpu_mib: Option<String>,
    /// `SLURM_MEM_PER_NODE`, in MiB.
    pub mem_per_node_mib: Option<String>,
    /// `SLURM_RESTART_COUNT`: how often the job was requeued.
    pub restart_count: Option<String>,
}

impl Job {
    /// The job of this process; `None` outside a job.
    pub fn from_env() -> Option<Self> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Option<Self> {
        Some(Self {
            job_id: lookup("SLURM_JOB_ID")?,
            job_name: lookup("SLURM_JOB_NAME"),
            partition: lookup("SLURM_JOB_PARTITION"),
            array_job_id: lookup("SLURM_ARRAY_JOB_ID"),
            array_task_id: lookup("SLURM_ARRAY_TASK_ID"),
            step_id: lookup("SLURM_STEP_ID"),
            node_list: lookup("SLURM_JOB_NODELIST"),
            ntasks: lookup("SLURM_NTASKS"),
            cpus_per_task: lookup("SLURM_CPUS_PER_TASK"),
            mem_per_cpu_mib: lookup("SLURM_MEM_PER_CPU"),
            mem_per_node_mib: lookup("SLURM_MEM_PER_NODE"),
            restart_count: lookup("SLURM_RESTART_COUNT"),
        })
    }
}

/// A job's state, as Slurm names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobState(String);

impl JobState {
    /// Reads a state as `sacct` and `squeue` print it: `CANCELLED by 1000` and `CANCELLED+` are `CANCELLED`.
    pub(crate) fn parse(text: &str) -> Self {
        let word = text.split_whitespace().next().unwrap_or_default();
        Self(word.trim_end_matches('+').to_owned())
    }

    /// Whether the job has ended and will not be requeued.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(
            self.0.as_str(),
            "" | "CONFIGURING"
                | "COMPLETING"
                | "EXPEDITING"
                | "PENDING"
                | "POWER_UP_NODE"
                | "REQUEUED"
                | "REQUEUE_FED"
                | "REQUEUE_HOLD"
                | "RESIZING"
                | "RESV_DEL_HOLD"
                | "RUNNING"
                | "SIGNALING"
                | "SPECIAL_EXIT"
                | "STAGE_OUT"
                | "STOPPED"
                | "SUSPENDED"
                | "UPDATE_DB"
        )
    }

    /// Whether the job holds its nodes and its processes can run.
    pub(crate) fn is_at_work(&self) -> bool {
        matches!(
            self.0.as_str(),
            "RUNNING" | "COMPLETING" | "SUSPENDED" | "STOPPED" | "SIGNALING" | "RESIZING"
        )
    }

    /// Slurm's name of the state.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The CPUs that Slurm allocated to each task (`--cpus-per-task`); `None` outside a job or if not requested.
pub fn cpus_per_task() -> Option<usize> {
    std::env::var("SLURM_CPUS_PER_TASK")
        .ok()?
        .parse()
        .ok()
        .filter(|&cpus| cpus > 0)
}

/// The Slurm option that limits a job's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryOption {
    /// `--mem`: all tasks on a node together.
    PerNode,
    /// `--mem-per-cpu`, times the CPUs of a task.
    PerCpu,
}

impl MemoryOption {
    /// Whether the limit is for all tasks on a node together.
    pub fn per_node(self) -> bool {
        self == MemoryOption::PerNode
    }

    /// The name of the option.
    pub fn option(self) -> &'static str {
        match self {
            MemoryOption::PerNode => "Slurm's --mem",
            MemoryOption::PerCpu => "Slurm's --mem-per-cpu",
        }
    }
}

/// The memory that Slurm allocated, in bytes, and the option; `None` outside a job or if the job can use all
/// memory of a node.
pub fn memory_bytes() -> Option<(u64, MemoryOption)> {
    memory_bytes_from(|name| std::env::var(name).ok())
}

fn memory_bytes_from(lookup: impl Fn(&str) -> Option<String>) -> Option<(u64, MemoryOption)> {
    let number = |name: &str| lookup(name)?.parse::<u64>().ok().filter(|&number| number > 0);
    let of_cpus = number("SLURM_MEM_PER_CPU").map(|mib| {
        let cpus = number("SLURM_CPUS_PER_TASK").unwrap_or(1);
        (
            mib.saturating_mul(cpus).saturating_mul(1 << 20),
            MemoryOption::PerCpu,
        )
    });
    of_cpus.or_else(|| {
        number("SLURM_MEM_PER_NODE").map(|mib| (mib.saturating_mul(1 << 20), MemoryOption::PerNode))
    })
}

/// Time limit of the job, seconds since 1970 (`SLURM_JOB_END_TIME`); `None` outside a job or without a limit.
pub fn job_end_unix_s() -> Option<f64> {
    std::env::var("SLURM_JOB_END_TIME")
        .ok()?
        .parse()
        .ok()
        .filter(|&unix_s: &f64| unix_s > 0.0)
}

/// The shard of an array task: (its number from 1, number of tasks).
pub fn array_shard() -> Result<(usize, usize), String> {
    array_shard_from(|name| std::env::var(name).ok())
}

fn array_shard_from(lookup: impl Fn(&str) -> Option<String>) -> Result<(usize, usize), String> {
    let number = |name: &str| {
        lookup(name)
            .and_then(|value| value.parse::<usize>().ok())
            .ok_or_else(|| {
                format!(
                    "--shard slurm: {name} is not set; submit the script as an array, with sbatch \
                     --array=1-N"
                )
            })
    };
    let id = number("SLURM_ARRAY_TASK_ID")?;
    let min = number("SLURM_ARRAY_TASK_MIN")?;
    let step = lookup("SLURM_ARRAY_TASK_STEP")
        .and_then(|value| value.parse().ok())
        .unwrap_or(1)
        .max(1);
    let max = number("SLURM_ARRAY_TASK_MAX")?;
    let count = number("SLURM_ARRAY_TASK_COUNT")?;
    if id < min || id > max || (id - min) % step != 0 || (max - min) / step + 1 != count {
        return Err(format!(
            "--shard slurm: the array's tasks are not evenly numbered (task {id} of {min}-{max}:{step}, \
             {count} tasks), \
             so their shards are unknown; use --shard K/N"
        ));
    }
    Ok(((id - min) / step + 1, count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::launcher::tests::lookup;

    #[test]
    fn a_job_is_known_by_its_id() {
        assert_eq!(Job::from_lookup(lookup(&[("SLURM_NTASKS", "4")])), None);
        let job = Job::from_lookup(lookup(&[("SLURM_JOB_ID", "7"), ("SLURM_JOB_NAME", "smooth")])).unwrap();
        assert_eq!(
            (job.job_id.as_str(), job.job_name.as_deref()),
            ("7", Some("smooth"))
        );
    }

    #[test]
    fn a_job_that_may_run_again_has_not_ended() {
        for state in [
            "COMPLETED",
            "PREEMPTED",
            "REVOKED",
            "CANCELLED by 7",
            "NODE_FAIL+",
        ] {
            assert!(JobState::parse(state).is_final(), "{state}");
        }
        for state in ["", "PENDING", "SUSPENDED", "RESIZING", "REQUEUE_HOLD"] {
            assert!(!JobState::parse(state).is_final(), "{state}");
        }
        assert_eq!(JobState::parse("CANCELLED by 7").as_str(), "CANCELLED");
    }

    #[test]
    fn memory_is_by_the_cpu_or_by_the_node() {
        assert_eq!(memory_bytes_from(lookup(&[])), None);
        // --mem=0 asks for all of a node.
        assert_eq!(memory_bytes_from(lookup(&[("SLURM_MEM_PER_NODE", "0")])), None);
        assert_eq!(
            memory_bytes_from(lookup(&[("SLURM_MEM_PER_NODE", "4000")])),
            Some((4000 << 20, MemoryOption::PerNode))
        );
        let by_cpu = [("SLURM_MEM_PER_CPU", "500"), ("SLURM_CPUS_PER_TASK", "3")];
        assert_eq!(
            memory_bytes_from(lookup(&by_cpu)),
            Some((1500 << 20, MemoryOption::PerCpu))
        );
    }

    #[test]
    fn array_tasks_are_shards() {
        let array = |id, min, max, step, count| {
            array_shard_from(lookup(&[
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", min),
                ("SLURM_ARRAY_TASK_MAX", max),
                ("SLURM_ARRAY_TASK_STEP", step),
                ("SLURM_ARRAY_TASK_COUNT", count),
            ]))
        };
        assert_eq!(array("1", "1", "4", "1", "4"), Ok((1, 4)));
        assert_eq!(array("0", "0", "3", "1", "4"), Ok((1, 4)));
        assert_eq!(array("20", "10", "30", "5", "5"), Ok((3, 5)));
        // Values that Slurm does not set, but a container or a user's script can.
        assert!(array("9", "1", "4", "1", "4").is_err());
        assert!(array("5", "5", "4", "1", "0").is_err());
        assert!(
            array("7", "1", "9", "1", "3")
                .unwrap_err()
                .contains("--shard K/N")
        );
        assert!(array_shard_from(lookup(&[])).unwrap_err().contains("--array=1-N"));
    }
}
