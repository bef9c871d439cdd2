//! Records: a configuration, the outcome of its run, and the figures for the tables.

use serde::{Deserialize, Serialize};

use crate::launch::child::How;
use crate::report::Report;
use crate::slurm::JobState;
use crate::slurm::accounting::Accounting;
use crate::text::counted;

/// One combination of the varied numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Configuration {
    pub nodes: usize,
    /// Ranks, on all nodes together.
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    pub images: usize,
    /// The repeat, from 1; 0 for all repeats together.
    pub repeat: usize,
}

impl Configuration {
    /// Its name in file names.
    pub(crate) fn id(&self) -> String {
        let Self {
            ranks,
            threads,
            nodes,
            images,
            repeat,
        } = self;
        format!("ranks-{ranks}_threads-{threads}_nodes-{nodes}_images-{images}_repeat-{repeat}")
    }
}

impl std::fmt::Display for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [images, ranks, threads] = [
            (self.images, "image"),
            (self.ranks, "rank"),
            (self.threads, "thread"),
        ]
        .map(|(count, noun)| counted(count, noun));
        write!(f, "{images}, {ranks} × {threads}")?;
        if self.nodes > 1 {
            write!(f, " on {} nodes", self.nodes)?;
        }
        if self.repeat > 0 {
            write!(f, ", repeat {}", self.repeat)?;
        }
        Ok(())
    }
}

/// The state of a run that processed all its images.
pub const COMPLETED: &str = "COMPLETED";

/// The outcome of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub configuration: Configuration,
    /// A state as in Slurm: `COMPLETED`, `FAILED`, `TIMEOUT`, `OUT_OF_MEMORY`, `PENDING`, …
    pub state: String,
    /// Seconds from the launcher's start to its end; for a job, Slurm's elapsed time.
    pub wall_s: Option<f64>,
    pub job_id: Option<String>,
    /// Slurm's accounting of the job.
    pub accounting: Option<Accounting>,
    pub message: Option<String>,
    /// Number of CPUs that other programs kept busy during the run.
    #[serde(default)]
    pub others_cpus: Option<f64>,
}

impl RunRecord {
    /// Whether the run has ended.
    pub fn is_final(&self) -> bool {
        JobState::parse(&self.state).is_final()
    }
}

/// Slurm's name for the way in which a child ended.
pub fn state_of(how: How) -> &'static str {
    match how {
        How::Exited(0) => COMPLETED,
        How::Exited(_) => "FAILED",
        How::OutOfMemory => "OUT_OF_MEMORY",
        How::TimedOut => "TIMEOUT",
        How::Killed(_) | How::Stopped => "CANCELLED",
    }
}

/// A run with its report.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its record.
    pub record: RunRecord,
    /// Its report, if it wrote one.
    pub report: Option<Report>,
}

/// The figures of one run in the tables.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Highest memory of a rank, in bytes.
    pub memory_bytes: f64,
    /// Sum of the highest memory of each rank, in bytes.
    pub memory_total_bytes: f64,
    /// Seconds from start to end, including launching.
    pub time_s: f64,
    /// `elapsed_s` of the report: without the launcher and the start of MPI.
    pub elapsed_s: f64,
    /// Seconds of the stages, summed over the images.
    pub read_s: f64,
    pub filter_s: f64,
    pub write_s: f64,
    /// Seconds of publishing in the background, summed over the images.
    pub publish_s: f64,
    /// CPU seconds over (CPUs × time).
    pub cpu_efficiency: f64,
}

impl Figures {
    /// Seconds of the launcher and of the start of MPI.
    pub fn setup_s(&self) -> f64 {
        self.time_s - self.elapsed_s
    }
}

impl Run {
    /// The run's figures; `None` without a report or if not all images are done.
    pub fn figures(&self) -> Option<Figures> {
        let report = self.report.as_ref().filter(|_| self.record.state == COMPLETED)?;
        let totals = &report.totals;
        let accounting = self.record.accounting.as_ref();
        let by_slurm = accounting
            .map(|job| job.total_cpu_s / (job.elapsed_s * job.alloc_cpus as f64))
            .filter(|efficiency| efficiency.is_finite() && *efficiency > 0.0);
        Some(Figures {
            // Slurm's sampling misses peaks of short jobs; the kernel's high-water mark in the report does
            // not.
            memory_bytes: accounting
                .and_then(|job| job.max_rss_bytes)
                .unwrap_or(0)
                .max(totals.max_rss_bytes) as f64,
            memory_total_bytes: report.ranks.iter().map(|rank| rank.max_rss_bytes as f64).sum(),
            // Slurm counts whole seconds, so a shorter job has 0.
            time_s: self.record.wall_s.unwrap_or(0.0).max(report.elapsed_s),
            elapsed_s: report.elapsed_s,
            read_s: totals.read_s,
            filter_s: totals.filter_s,
            write_s: totals.write_s,
            publish_s: totals.publish_s,
            cpu_efficiency: by_slurm.unwrap_or(totals.cpu_efficiency),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_have_slurms_names() {
        for (how, state) in [
            (How::Exited(0), "COMPLETED"),
            (How::Exited(1), "FAILED"),
            (How::TimedOut, "TIMEOUT"),
            (How::OutOfMemory, "OUT_OF_MEMORY"),
            (How::Killed(15), "CANCELLED"),
        ] {
            assert_eq!(state_of(how), state);
        }
    }

    #[test]
    fn a_job_shorter_than_a_second_has_the_time_of_its_report() {
        let mut run = crate::study::scaling::tables::tests::run(1, 1, 10, 1, 0.75);
        run.record.wall_s = Some(0.0);
        assert_eq!(run.figures().unwrap().time_s, 0.25);
    }
}
