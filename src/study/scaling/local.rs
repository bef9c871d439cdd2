//! Runs a study on this machine, one configuration after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::folder::{StudyFolder, StudySpec};
use super::record::{self, Configuration, RunRecord};
use crate::console;
use crate::launch::LocalMachine;
use crate::launch::child::{How, Limits};

/// Options of the runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunOptions<'a> {
    /// Whether to keep the results.
    pub keep: bool,
    /// Time limit of one run.
    pub time_limit: Option<Duration>,
    /// Set to stop the study.
    pub stop: &'a AtomicBool,
    /// Whether to print no progress.
    pub quiet: bool,
}

/// Runs every configuration that is not done yet. Returns false if the study was stopped; the run in progress
/// is then not recorded. A failed run is recorded, and the study continues.
pub(crate) fn run(
    folder: &StudyFolder,
    spec: &StudySpec,
    machine: &LocalMachine,
    options: &RunOptions<'_>,
) -> Result<bool, String> {
    let all = spec.configurations();
    let missing: Vec<Configuration> = all
        .iter()
        .filter(|configuration| !folder.is_done(configuration))
        .copied()
        .collect();
    if !options.quiet && missing.len() < all.len() {
        console::note(format!(
            "{} of {} runs are already done",
            all.len() - missing.len(),
            all.len()
        ));
    }
    let started = Instant::now();
    for (place, configuration) in missing.iter().enumerate() {
        if !options.quiet {
            console::note(format!(
                "run {} of {}: {configuration}; {}",
                place + 1,
                missing.len(),
                time_left(started.elapsed(), place, missing.len())
            ));
        }
        let output = folder.output(configuration);
        let run = folder.run(spec, configuration);
        let limits = Limits {
            time: options.time_limit,
            stop: options.stop,
        };
        let ended = machine.run(&run, &limits)?;
        if !options.keep {
            let _ = std::fs::remove_dir_all(&output);
        }
        if ended.how == How::Stopped || options.stop.load(Ordering::Relaxed) {
            // The report of an interrupted run must not count as a measurement.
            let _ = std::fs::remove_file(&run.report);
            return Ok(false);
        }
        let state = record::state_of(ended.how);
        let message =
            (state != record::COMPLETED).then(|| format!("{}; its log is {}", ended.how, run.log.display()));
        if let (Some(message), false) = (&message, options.quiet) {
            console::note(format!("{state}: {message}"));
        }
        folder.write_record(&RunRecord {
            configuration: *configuration,
            state: state.to_owned(),
            wall_s: Some(ended.wall_s),
            message,
            others_cpus: ended.others_cpus,
            ..RunRecord::default()
        })?;
    }
    if !options.keep {
        let _ = std::fs::remove_dir(folder.path().join("outputs"));
    }
    Ok(true)
}

/// The time left if the remaining runs take as long as the earlier ones on average. This is accurate once all
/// sizes were run.
fn time_left(elapsed: Duration, done: usize, all: usize) -> String {
    if done == 0 {
        return "time left unknown".to_owned();
    }
    let left_s = elapsed.as_secs_f64() / done as f64 * (all - done) as f64;
    let left = Duration::from_secs(left_s.ceil() as u64);
    format!("about {} left", humantime::format_duration(left))
}
