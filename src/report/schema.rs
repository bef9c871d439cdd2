//! The report's schema: its JSON form, niimpi-report/2.
//!
//! Within a version, fields are added but never removed or changed. [`super::read`] also reads
//! niimpi-report/1.

use serde::{Deserialize, Serialize};

use crate::job::description::FilterDescription;
use crate::job::outcome::Outcome;
use crate::partition::Strategy;
use crate::text::gaps;

/// Name and version of the JSON format.
pub const SCHEMA: &str = "niimpi-report/2";
/// The format of niimpi 0.1, which can still be read.
pub const SCHEMA_1: &str = "niimpi-report/1";

/// Counts of the results of earlier runs when a run was resumed. All except `kept` were processed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeCounts {
    /// Results that match their records.
    pub kept: usize,
    pub missing: usize,
    pub failed_before: usize,
    /// In progress when a run ended.
    pub unfinished: usize,
    pub input_changed: usize,
    pub options_changed: usize,
    /// Results that differ from their records.
    pub mismatched: usize,
    /// Files without a journal record.
    pub unrecorded: usize,
    #[serde(default)]
    pub other_input: usize,
    /// Number of kept results whose input has moved.
    #[serde(default)]
    pub moved: usize,
}

impl ResumeCounts {
    /// The counts as a sentence; zero counts are omitted.
    pub fn sentence(&self) -> String {
        let todo = [
            (self.missing, "missing"),
            (self.failed_before, "failed before"),
            (self.unfinished, "left unfinished"),
            (self.input_changed, "with a changed input"),
            (self.options_changed, "made with other options"),
            (self.mismatched, "changed since niimpi wrote them"),
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
    /// The run was stopped early.
    Interrupted,
}

/// How the run was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    pub ranks: usize,
    /// Workers of a rank; the maximum if ranks differ.
    pub threads_per_rank: usize,
    /// The hosts, in the order of their first rank.
    pub nodes: Vec<String>,
    /// The number of CPUs that all ranks together can use, each counted once; `None` if the system does not
    /// report them.
    #[serde(default)]
    pub cpus: Option<usize>,
    pub mpi: String,
    /// The Slurm job; `None` outside Slurm.
    pub slurm: Option<crate::slurm::Job>,
    /// Whether results were synced to disk; `None` in a report of an earlier version.
    #[serde(default)]
    pub sync: Option<bool>,
}

/// Totals over all ranks.
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
    /// Number of skipped images whose results are kept.
    #[serde(default)]
    pub kept: usize,
    /// Number of skipped images that were not started.
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
    /// The maximum over the ranks.
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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankRow {
    pub rank: usize,
    pub host: String,
    pub images: usize,
    pub done: usize,
    pub failed: usize,
    pub skipped: usize,
    pub read_s: f64,
    pub filter_s: f64,
    /// Compressing and writing.
    pub write_s: f64,
    /// Thread seconds without work, as measured where workers wait.
    pub idle_s: f64,
    /// When its run began, seconds since the first of the runs in a merged report; 0 otherwise.
    #[serde(default)]
    pub start_s: f64,
    /// From its run's start until its last image was done.
    pub elapsed_s: f64,
    /// CPU seconds of all its threads since the run's start.
    pub cpu_s: f64,
    /// CPU seconds / (elapsed × CPUs of the rank).
    pub cpu_efficiency: f64,
    /// Highest resident memory until its last image was done; on rank 0 until the report was assembled.
    pub max_rss_bytes: u64,
    /// Bytes of its input files.
    pub bytes_in: u64,
    /// Bytes of its results' files.
    pub bytes_out: u64,
    /// Its workers; 0 in a report of an earlier version.
    #[serde(default)]
    pub threads: usize,
    /// The CPUs allocated to it; 0 in a report of an earlier version.
    #[serde(default)]
    pub cpus: usize,
    /// Syncing and renaming results while its workers process the next images; 0 in a report of an earlier
    /// version.
    #[serde(default)]
    pub publish_s: f64,
    /// Thread seconds that are neither idle nor in a stage; 0 in a report of an earlier version.
    #[serde(default)]
    pub other_s: f64,
    /// The model of its host's CPUs; empty in a report of an earlier version or if unknown.
    #[serde(default)]
    pub cpu_model: String,
    /// The device that it uses; empty for the CPU.
    #[serde(default)]
    pub device: String,
}

/// An image's outcome with the names of its files. In a name that is not UTF-8, invalid bytes are replaced by
/// U+FFFD.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRow {
    /// The image file.
    pub input: String,
    /// Its result.
    pub output: String,
    /// The noise that was removed, with `--output-noise`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_noise: Option<String>,
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

/// The shards of the list that a report covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shards {
    /// Their numbers, from 1, ascending.
    pub numbers: Vec<usize>,
    /// Number of shards of the list.
    pub count: usize,
}

impl Shards {
    /// The shards without a report, as ranges of first and last. The count comes from files and can have any
    /// value.
    pub fn missing(&self) -> Vec<(usize, usize)> {
        gaps(self.numbers.iter().copied(), self.count)
    }
}

/// The location of the ranks' journals, which contain more details than a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journals {
    /// Their folder, absolute.
    pub folder: String,
    /// The names of the runs, as in the journals' file names.
    pub runs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: String,
    pub version: String,
    pub command: Vec<String>,
    pub state: State,
    /// Time of its start, RFC 3339, UTC.
    pub started: String,
    /// Seconds from MPI's start to the last record.
    pub elapsed_s: f64,
    /// How it was started.
    pub launch: Launch,
    pub filter: FilterDescription,
    /// All options that affect the results; `null` in a report of an earlier version. Equal for runs with
    /// equal results.
    #[serde(default)]
    pub options: serde_json::Value,
    pub strategy: Strategy,
    /// The shards that it covers; `None` if the run processed the whole list.
    #[serde(default)]
    pub shard: Option<Shards>,
    /// The location of the ranks' journals; `None` in a report of an earlier version.
    #[serde(default)]
    pub journals: Option<Journals>,
    /// Counts of the results of earlier runs; `null` unless the run was resumed.
    #[serde(default)]
    pub resume: Option<ResumeCounts>,
    /// Folders of the input that could not be read. Their images are missing, so the run failed.
    #[serde(default)]
    pub unreadable_folders: usize,
    /// Sums over all ranks.
    pub totals: Totals,
    pub ranks: Vec<RankRow>,
    /// One row per image, in list order.
    pub images: Vec<ImageRow>,
}
