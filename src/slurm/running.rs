//! Running jobs and steps, from `squeue`.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::process::Command;

use super::{Job, JobState};

/// Longer lists of jobs may not fit on a command line; then `squeue` prints all jobs.
const MOST_NAMED_JOBS: usize = 1000;

/// What `squeue` prints about several jobs. It is called only when needed, and once for all of them, because
/// each call costs the cluster's controller time.
#[derive(Default)]
pub(crate) struct Queue {
    job_ids: BTreeSet<String>,
    jobs: OnceCell<Option<String>>,
    steps: OnceCell<Option<String>>,
}

impl Queue {
    pub(crate) fn of<'a>(job_ids: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            job_ids: job_ids.into_iter().map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// Whether one of the jobs is running on its nodes; `None` if `squeue` fails, and while Slurm ends the
    /// job.
    pub(crate) fn job_runs(&self, job_id: &str) -> Option<bool> {
        let ask = || {
            let job_ids = Vec::from_iter(self.job_ids.iter().map(String::as_str)).join(",");
            match self.job_ids.len() {
                ..=MOST_NAMED_JOBS => squeue(&["--format=%A %T", "--jobs", &job_ids]),
                _ => squeue(&["--format=%A %T"]),
            }
        };
        state_in(self.jobs.get_or_init(ask).as_deref()?, job_id)
    }

    /// Whether a step of this process's own job is running; `None` if `squeue` fails.
    pub(crate) fn step_runs(&self, own: &Job, step_id: &str) -> Option<bool> {
        let ask = || squeue(&["--steps", "--format=%i", "--jobs", &own.job_id]);
        Some(has_step(self.steps.get_or_init(ask).as_deref()?, own, step_id))
    }
}

/// Whether the job is running according to these lines of `squeue`. The ID of an array lists all its tasks,
/// and one of them has the same ID.
fn state_in(text: &str, job_id: &str) -> Option<bool> {
    let state = text.lines().find_map(|line| {
        let (number, state) = line.trim().split_once(' ')?;
        (number == job_id).then(|| JobState::parse(state))
    });
    match state {
        // Its processes are being killed, but after the loss of a node this state can last for hours.
        Some(state) if state.as_str() == "COMPLETING" => None,
        state => Some(state.is_some_and(|state| state.is_at_work())),
    }
}

/// Whether these lines of `squeue` contain the job's step. The step of an array task is named after the array
/// and the task: `77_3.0`.
fn has_step(text: &str, job: &Job, step_id: &str) -> bool {
    let by_number = format!("{}.{step_id}", job.job_id);
    let by_task = job
        .array_job_id
        .as_ref()
        .zip(job.array_task_id.as_ref())
        .map(|(array, task)| format!("{array}_{task}.{step_id}"));
    text.lines()
        .map(str::trim)
        .any(|step| step == by_number || by_task.as_deref() == Some(step))
}

/// The output of `squeue`; empty for a job that Slurm no longer knows.
pub(super) fn squeue(arguments: &[&str]) -> Option<String> {
    let output = Command::new("squeue")
        .arg("--noheader")
        .args(arguments)
        .output()
        .ok()?;
    let forgotten = || String::from_utf8_lossy(&output.stderr).contains("Invalid job id");
    match output.status.success() {
        true => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => forgotten().then(String::new),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Job;
    use super::{has_step, state_in};

    #[test]
    fn the_jobs_own_line_decides() {
        for (text, runs) in [
            ("7 RUNNING\n", Some(true)),
            ("7 SUSPENDED\n", Some(true)),
            ("7 COMPLETING\n", None),
            ("7 PENDING\n", Some(false)),
            ("", Some(false)),
            // Task 9 of the array 7 runs; the last task, which has the array's ID, does not.
            ("9 RUNNING\n", Some(false)),
            ("9 PENDING\n7 RUNNING\n", Some(true)),
        ] {
            assert_eq!(state_in(text, "7"), runs, "{text}");
        }
    }

    #[test]
    fn steps_of_array_tasks_are_named_after_the_task() {
        let job = Job {
            job_id: "80".to_owned(),
            ..Job::default()
        };
        let task = Job {
            array_job_id: Some("77".to_owned()),
            array_task_id: Some("3".to_owned()),
            ..job.clone()
        };
        assert!(has_step("80.batch\n80.1\n", &job, "1"));
        assert!(!has_step("80.10\n", &job, "1"));
        assert!(has_step("77_3.batch\n77_3.1\n", &task, "1"));
        assert!(!has_step("77_4.1\n77_3.0\n", &task, "1"));
    }
}
