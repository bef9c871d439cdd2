//! The report's schema: what its JSON form holds, niimpi-report/2.
//!
//! Fields are only ever added within a version. Reports of niimpi-report/1 are read, too; [`super::read`]
//! does it.

use serde::{Deserialize, Serialize};

use crate::job::description::FilterDescription;
use crate::job::outcome::Outcome;
use crate::partition::Strategy;

/// Name and version of the JSON format.
pub const SCHEMA: &str = "niimpi-report/2";
/// The format of 0.1, which is read, too.
pub const SCHEMA_1: &str = "niimpi-report/1";

/// How the results of earlier runs were found when a run was resumed. All but `kept` were done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeCounts {
    /// Results that are what their records say.
    pub kept: usize,
    /// No result.
    pub missing: usize,
    /// Failed the last time.
    pub failed_before: usize,
    /// In hand when a run broke off.
    pub unfinished: usize,
    /// With an input that was changed since.
    pub input_changed: usize,
    /// Made with other options.
    pub options_changed: usize,
    /// Not what their records say.
    pub mismatched: usize,
    /// Files of which no journal knows.
    pub unrecorded: usize,
    /// Made from another input.
    #[serde(default)]
    pub other_input: usize,
    /// Of those that are kept, results whose input is at another path now.
    #[serde(default)]
    pub moved: usize,
}

impl ResumeCounts {
    /// The counts as a sentence for people; what there is none of is left out.
    pub fn sentence(&self) -> String {
        let todo = [
            (self.missing, "missing"),
            (self.failed_before, "failed before"),
            (self.unfinished, "left unfinished"),
            (self.input_changed, "with a changed input"),
            (self.options_changed, "made with other options"),
            (self.mismatched, "no longer as niimpi wrote them"),
            (self.unrecorded, "without a record"),
            (self.other_input, "made from another input"),
        ];
        let all: usize = todo.iter().map(|(count, _)| count).sum();
        let mut text = format!("resume: {} kept, {all} to do", self.kept);
        if self.moved > 0 {
            text = format!(
                "resume: {} kept ({} of them with an input that has moved), {all} to do",
                self.kept, self.moved
            );
        }
        let parts: Vec<String> = todo
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if !parts.is_empty() {
            text = format!("{text}: {}", parts.join(", "));
        }
        text
    }
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every image was done.
    Completed,
    /// Some images failed; all others were done.
    Failed,
    /// The run was stopped before its end.
    Interrupted,
}

/// How the run was started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Number of ranks.
    pub ranks: usize,
    /// Workers of a rank; the largest number where ranks differ.
    pub threads_per_rank: usize,
    /// The hosts, in the order of their first rank.
    pub nodes: Vec<String>,
    /// The CPUs that all ranks together may run on, each counted once; `None` where the system does not tell.
    #[serde(default)]
    pub cpus: Option<usize>,
    /// The MPI library.
    pub mpi: String,
    /// What Slurm says of the job; `None` outside one.
    pub slurm: Option<crate::slurm::Job>,
    /// Whether results were synced to the disk; `None` in a report of an earlier version.
    #[serde(default)]
    pub sync: Option<bool>,
}

/// Sums and figures over all ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "the names are the report's, explained on RankRow and ImageRecord"
)]
pub struct Totals {
    pub images: usize,
    pub done: usize,
    pub failed: usize,
    pub skipped: usize,
    /// Of the skipped images, those whose results are kept.
    #[serde(default)]
    pub kept: usize,
    /// Of the skipped images, those that were not started.
    #[serde(default)]
    pub not_started: usize,
    /// Images that were read again after an error.
    #[serde(default)]
    pub retried: usize,
    pub read_s: f64,
    pub filter_s: f64,
    pub write_s: f64,
    #[serde(default)]
    pub publish_s: f64,
    pub cpu_s: f64,
    /// CPU seconds / Σ (elapsed × CPUs) over the ranks.
    pub cpu_efficiency: f64,
    /// Of the rank that held the most.
    pub max_rss_bytes: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub voxels: u64,
    /// Longest over mean elapsed time of the ranks.
    pub imbalance: f64,
    /// Images done / elapsed seconds of the run.
    pub images_per_s: f64,
}

/// A rank's row. Times in seconds, sums over its images; sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankRow {
    /// Its number.
    pub rank: usize,
    /// The host that it ran on.
    pub host: String,
    /// Images that it had.
    pub images: usize,
    /// Of these, done.
    pub done: usize,
    /// Of these, failed.
    pub failed: usize,
    /// Of these, left alone.
    pub skipped: usize,
    /// Reading.
    pub read_s: f64,
    /// Filtering.
    pub filter_s: f64,
    /// Compressing and writing.
    pub write_s: f64,
    /// Thread seconds without work, as measured where workers wait.
    pub idle_s: f64,
    /// From the run's start until its last image was done.
    pub elapsed_s: f64,
    /// CPU seconds of all its threads since the run's start.
    pub cpu_s: f64,
    /// CPU seconds / (elapsed × CPUs of the rank).
    pub cpu_efficiency: f64,
    /// Highest resident memory until its last image was done; of rank 0 until the report was together.
    pub max_rss_bytes: u64,
    /// Bytes of its input files.
    pub bytes_in: u64,
    /// Bytes of its results' files.
    pub bytes_out: u64,
    /// Its workers; 0 in a report of an earlier version.
    #[serde(default)]
    pub threads: usize,
    /// The CPUs that it was given; 0 in a report of an earlier version.
    #[serde(default)]
    pub cpus: usize,
    /// Waiting for the disk and naming results, while its workers are at the next images; 0 in a report of an
    /// earlier version.
    #[serde(default)]
    pub publish_s: f64,
    /// Thread seconds that are neither idle nor in a stage; 0 in a report of an earlier version.
    #[serde(default)]
    pub other_s: f64,
    /// The model of its host's CPUs; empty in a report of an earlier version and where the system does not
    /// name it.
    #[serde(default)]
    pub cpu_model: String,
}

/// An image's outcome with the names of its files. A name that is not UTF-8 has U+FFFD in place of its odd
/// bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRow {
    /// The image file.
    pub input: String,
    /// Its result.
    pub output: String,
    /// What happened to it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl std::ops::Deref for ImageRow {
    type Target = Outcome;

    fn deref(&self) -> &Outcome {
        &self.outcome
    }
}

impl std::ops::DerefMut for ImageRow {
    fn deref_mut(&mut self) -> &mut Outcome {
        &mut self.outcome
    }
}

/// Which shares of the list a report is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Their numbers, from 1, ascending.
    pub numbers: Vec<usize>,
    /// How many shares the list was cut into.
    pub count: usize,
}

impl Shares {
    /// The shares without a report, as ranges of first and last. The count is read from files: it may be
    /// anything.
    pub fn missing(&self) -> Vec<(usize, usize)> {
        let mut next = 1;
        let mut missing = Vec::new();
        for &number in &self.numbers {
            if number > next {
                missing.push((next, number - 1));
            }
            next = next.max(number.saturating_add(1));
        }
        if next <= self.count {
            missing.push((next, self.count));
        }
        missing
    }
}

/// Where the journals of the ranks lie, which hold what a report has no room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journals {
    /// Their folder, absolute.
    pub folder: String,
    /// The names of the runs, as in the journals' file names.
    pub runs: Vec<String>,
}

/// The whole report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The program's version.
    pub version: String,
    /// The command line.
    pub command: Vec<String>,
    /// How the run ended.
    pub state: State,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// How long it took, from MPI's start to the last record, seconds.
    pub elapsed_s: f64,
    /// How it was started.
    pub launch: Launch,
    /// The filter.
    pub filter: FilterDescription,
    /// All that shapes the results besides their inputs; `null` in a report of an earlier version. Equal for
    /// runs whose results are equal.
    #[serde(default)]
    pub options: serde_json::Value,
    /// How the images were distributed.
    pub strategy: Strategy,
    /// The shares that it covers; `None` when the run had the whole list.
    #[serde(default)]
    pub shard: Option<Shares>,
    /// Where the ranks' journals are; `None` in a report of an earlier version.
    #[serde(default)]
    pub journals: Option<Journals>,
    /// What was found of earlier runs; `null` unless the run was resumed.
    #[serde(default)]
    pub resume: Option<ResumeCounts>,
    /// Folders of the input that could not be read. Their images are missing, so the run failed.
    #[serde(default)]
    pub unreadable_folders: usize,
    /// Sums over all ranks.
    pub totals: Totals,
    /// One row per rank.
    pub ranks: Vec<RankRow>,
    /// One row per image, in the list's order.
    pub images: Vec<ImageRow>,
}
