//! What runs now, as `squeue` reports it.

use std::process::Command;

use super::JobState;

/// Whether a job is at work on its nodes; `None` when `squeue` cannot say.
pub(crate) fn job_runs(job_id: &str) -> Option<bool> {
    let text = squeue(&["--format=%T", "--jobs", job_id])?;
    Some(text.lines().any(|line| JobState::parse(line).is_at_work()))
}

/// Whether a step of a job is at work; `None` when `squeue` cannot say.
pub(crate) fn step_runs(job_id: &str, step_id: &str) -> Option<bool> {
    let text = squeue(&["--steps", "--format=%i", "--jobs", job_id])?;
    let wanted = format!("{job_id}.{step_id}");
    Some(text.lines().any(|line| line.trim() == wanted))
}

/// What `squeue` prints; empty for a job that Slurm has forgotten.
fn squeue(arguments: &[&str]) -> Option<String> {
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
