//! Running a study on this machine: one configuration after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::configuration::Configuration;
use super::folder::{StudyFolder, StudySpec};
use super::record::{self, RunRecord};
use crate::console;
use crate::launch::child::{How, Limits};
use crate::launch::{LocalMachine, LocalRun};

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
    let mut pace = Pace::new(spec.cpus);
    for (place, configuration) in missing.iter().enumerate() {
        if !manner.quiet {
            console::note(format!(
                "run {} of {}: {configuration}; {}",
                place + 1,
                missing.len(),
                pace.left(&missing[place..])
            ));
        }
        let output = folder.output(configuration);
        let run = LocalRun {
            words: spec.words(configuration, &output),
            ranks: configuration.ranks,
            threads: configuration.threads,
            report: folder.report(configuration),
            log: folder.log(configuration),
        };
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
        if state == record::COMPLETED {
            pace.learn(configuration, ended.wall_s);
        }
    }
    if !manner.keep {
        let _ = std::fs::remove_dir(folder.path().join("outputs"));
    }
    Ok(true)
}

/// How long runs take, learnt from those that have ended: a start and a rate per image, shared by the workers
/// that have a CPU each.
struct Pace {
    cpus: usize,
    start_s: Option<f64>,
    image_s: Option<f64>,
    learnt_from: usize,
}

impl Pace {
    fn new(cpus: usize) -> Self {
        Self {
            cpus: cpus.max(1),
            start_s: None,
            image_s: None,
            learnt_from: 0,
        }
    }

    fn at_once(&self, configuration: &Configuration) -> f64 {
        configuration
            .workers()
            .min(self.cpus)
            .min(configuration.images)
            .max(1) as f64
    }

    fn learn(&mut self, configuration: &Configuration, wall_s: f64) {
        let start_s = self.start_s.map_or(wall_s, |start_s| start_s.min(wall_s));
        self.start_s = Some(start_s);
        if configuration.images >= self.learnt_from && configuration.images > 1 {
            self.learnt_from = configuration.images;
            let worked_s = (wall_s - start_s).max(0.0) * self.at_once(configuration);
            self.image_s = Some(worked_s / configuration.images as f64);
        }
    }

    fn left(&self, configurations: &[Configuration]) -> String {
        let Some(start_s) = self.start_s else {
            return "time left unknown".to_owned();
        };
        let image_s = self.image_s.unwrap_or(0.0);
        let seconds: f64 = configurations
            .iter()
            .map(|configuration| {
                start_s + image_s * configuration.images as f64 / self.at_once(configuration)
            })
            .sum();
        format!(
            "about {} left",
            humantime::format_duration(Duration::from_secs(seconds.ceil() as u64))
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_learnt() {
        let configuration = |ranks, images| Configuration {
            ranks,
            threads: 1,
            nodes: 1,
            images,
            repeat: 1,
        };
        let mut pace = Pace::new(2);
        assert_eq!(pace.left(&[configuration(1, 1)]), "time left unknown");
        pace.learn(&configuration(1, 1), 1.0);
        pace.learn(&configuration(1, 100), 11.0);
        // Four workers on two CPUs share two.
        let left = pace.left(&[configuration(1, 100), configuration(4, 200)]);
        assert_eq!(left, "about 22s left");
    }
}
