//! Running a study on this machine: one configuration after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::folder::{StudyFolder, StudySpec};
use super::record::{self, Configuration, RunRecord};
use crate::console;
use crate::launch::LocalMachine;
use crate::launch::child::{How, Limits};

/// How the runs are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner<'a> {
    /// Whether results are kept.
    pub keep: bool,
    /// The longest that one run may take.
    pub time_limit: Option<Duration>,
    /// Set when the study is to end now.
    pub stop: &'a AtomicBool,
    /// Whether nothing is said of progress.
    pub quiet: bool,
}

/// Runs every configuration that is not done yet. Returns whether the study came to its end: a failed run is
/// recorded and the study goes on, a study told to stop leaves the run in hand unrecorded.
///
/// # Errors
/// A sentence when runs cannot be started or the folder cannot be written.
pub(crate) fn run(
    folder: &StudyFolder,
    spec: &StudySpec,
    machine: &LocalMachine,
    manner: &Manner<'_>,
) -> Result<bool, String> {
    let all = spec.configurations();
    let missing: Vec<Configuration> = all
        .iter()
        .filter(|configuration| !folder.is_done(configuration))
        .copied()
        .collect();
    if !manner.quiet && missing.len() < all.len() {
        console::note(format!(
            "{} of {} runs are there already",
            all.len() - missing.len(),
            all.len()
        ));
    }
    let started = Instant::now();
    for (place, configuration) in missing.iter().enumerate() {
        if !manner.quiet {
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
            time: manner.time_limit,
            stop: manner.stop,
        };
        let ended = machine.run(&run, &limits)?;
        if !manner.keep {
            let _ = std::fs::remove_dir_all(&output);
        }
        if ended.how == How::Stopped || manner.stop.load(Ordering::Relaxed) {
            // What a run leaves that was cut short would be taken for a measurement.
            let _ = std::fs::remove_file(&run.report);
            return Ok(false);
        }
        let state = record::state_of(ended.how);
        let message = (state != record::COMPLETED)
            .then(|| format!("{:?}; its words are in {}", ended.how, run.log.display()));
        if let (Some(message), false) = (&message, manner.quiet) {
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
    if !manner.keep {
        let _ = std::fs::remove_dir(folder.path().join("outputs"));
    }
    Ok(true)
}

/// How long the other runs take if they take as long as those before, which is so once all sizes were run.
fn time_left(elapsed: Duration, done: usize, all: usize) -> String {
    if done == 0 {
        return "time left unknown".to_owned();
    }
    let left_s = elapsed.as_secs_f64() / done as f64 * (all - done) as f64;
    let left = Duration::from_secs(left_s.ceil() as u64);
    format!("about {} left", humantime::format_duration(left))
}
