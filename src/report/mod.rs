//! The report: what each image and each rank took, gathered from all ranks into one document.
//!
//! [`table`] prints it for people, [`csv`] for spreadsheets; its JSON form is the schema `niimpi-report/1`. [`merge`] joins
//! the reports of several runs over one list.

pub mod accounts;
pub mod csv;
pub(crate) mod destination;
pub mod merge;
pub mod table;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::ops::Add;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::partition::{Strategy, imbalance};
use crate::volume::Datatype;

/// Name and version of the JSON form.
pub const SCHEMA: &str = "niimpi-report/1";

/// A stage of an image's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading and inflating the file.
    Read,
    /// Filtering the voxels.
    Filter,
    /// Compressing and writing the result.
    Write,
}

impl Stage {
    /// The stage's name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Filter => "filter",
            Stage::Write => "write",
        }
    }
}

/// What became of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its result is written.
    Done,
    /// It was given up; `stage` and `error` say where and why.
    Failed,
    /// It was left alone: its result was there before, or the run ended first.
    Skipped,
}

/// One image's record, as a rank makes it. Times in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The image's place in the whole list, from 1.
    pub index: usize,
    /// The rank that had it.
    pub rank: usize,
    /// The worker of that rank, from 0.
    pub worker: usize,
    /// What became of it.
    pub status: Status,
    /// The stage that failed.
    pub stage: Option<Stage>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was begun, since the run's start.
    pub start_s: f64,
    /// Reading, inflating included.
    pub read_s: f64,
    /// Filtering.
    pub filter_s: f64,
    /// Writing, compressing included.
    pub write_s: f64,
    /// Voxels of all its volumes.
    pub voxels: u64,
    /// Of these, NaN or infinite in the input.
    pub nonfinite_voxels: u64,
    /// The type of a voxel in the input; `None` when it was not read.
    pub datatype: Option<Datatype>,
    /// Whether the input has an intensity scale.
    pub scaled: bool,
    /// Bytes of the input file.
    pub bytes_in: u64,
    /// Bytes of the result's file.
    pub bytes_out: u64,
}

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
    /// Made of another input, or of one that was changed since.
    pub input_changed: usize,
    /// Made with other options.
    pub options_changed: usize,
    /// Not what their records say.
    pub mismatched: usize,
    /// Files of which no journal knows.
    pub unrecorded: usize,
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
            (self.mismatched, "no longer matching their record"),
            (self.unrecorded, "without a record"),
        ];
        let all: usize = todo.iter().map(|(count, _)| count).sum();
        let mut text = format!("resume: {} kept, {all} to do", self.kept);
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

/// What one rank brings to the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RankRecord {
    /// Its number.
    pub rank: usize,
    /// The host that it ran on.
    pub host: String,
    /// Its workers.
    pub threads: usize,
    /// The CPUs that it was given, by which its efficiency is measured.
    pub cpus: usize,
    /// From the run's start until its last image was done, seconds.
    pub elapsed_s: f64,
    /// CPU seconds of all its threads since the run's start.
    pub cpu_s: f64,
    /// Its highest resident memory.
    pub max_rss_bytes: u64,
    /// Its images, in the order in which they were done.
    pub images: Vec<ImageRecord>,
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every image was done.
    Completed,
    /// Some images failed; all others were done.
    Failed,
    /// The run was told to stop before its end.
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
}

/// The filter, as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterDescription {
    /// Its name.
    pub name: String,
    /// Sigma along x, y, z in voxels; empty when FWHM was given, since it then depends on each image's voxel size.
    pub sigma_vox: Vec<f64>,
    /// FWHM along x, y, z in mm; empty when sigma was given.
    pub fwhm_mm: Vec<f64>,
    /// What lies beyond the image's edge.
    pub boundary: String,
    /// The value beyond the edge with the boundary `constant`.
    pub cval: f64,
    /// The kernel ends at this many sigmas.
    pub truncate: f64,
    /// Half widths of the kernels; empty when FWHM was given.
    pub radius_vox: Vec<usize>,
    /// `same` or the type of the results.
    pub output_type: String,
    /// How results become integers.
    pub round: String,
    /// What becomes of voxels that are NaN or infinite.
    #[serde(default = "propagate")]
    pub nan: String,
}

/// What reports of versions without the choice did.
fn propagate() -> String {
    "propagate".to_owned()
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
    pub read_s: f64,
    pub filter_s: f64,
    pub write_s: f64,
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
    /// Writing.
    pub write_s: f64,
    /// Worker seconds without an image in hand, from the run's start to its end.
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
}

/// An image's record with its files' names. A name that is not UTF-8 has U+FFFD in place of its odd bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "explained on ImageRecord")]
pub struct ImageRow {
    pub index: usize,
    pub input: String,
    pub output: String,
    pub rank: usize,
    pub worker: usize,
    pub status: Status,
    pub stage: Option<Stage>,
    pub error: Option<String>,
    pub start_s: f64,
    pub read_s: f64,
    pub filter_s: f64,
    pub write_s: f64,
    pub voxels: u64,
    #[serde(default)]
    pub datatype: Option<Datatype>,
    #[serde(default)]
    pub scaled: bool,
    pub bytes_in: u64,
    pub bytes_out: u64,
    #[serde(default)]
    pub nonfinite_voxels: u64,
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
    /// The numbers of the shares that the report knows nothing of.
    pub fn missing(&self) -> Vec<usize> {
        (1..=self.count)
            .filter(|number| !self.numbers.contains(number))
            .collect()
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
    /// How the images were shared out.
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
    /// Sums over all ranks.
    pub totals: Totals,
    /// A row a rank.
    pub ranks: Vec<RankRow>,
    /// A row an image, in the list's order.
    pub images: Vec<ImageRow>,
}

/// What is known of a run besides its ranks' records.
#[derive(Clone, Debug)]
pub struct RunFacts {
    /// The command line.
    pub command: Vec<String>,
    /// Whether it was told to stop before its end.
    pub interrupted: bool,
    /// When it began.
    pub started: std::time::SystemTime,
    /// How long it took, seconds.
    pub elapsed_s: f64,
    /// The CPUs that all ranks together may run on, each counted once.
    pub cpus: Option<usize>,
    /// The MPI library.
    pub mpi: String,
    /// What Slurm says of the job.
    pub slurm: Option<crate::slurm::Job>,
    /// The filter.
    pub filter: FilterDescription,
    /// How the images were shared out.
    pub strategy: Strategy,
    /// The share of the list that the run had.
    pub shard: Option<Shares>,
    /// Where the ranks' journals are.
    pub journals: Option<Journals>,
    /// What was found of earlier runs, when the run was resumed.
    pub resume: Option<ResumeCounts>,
}

impl Report {
    /// Puts the ranks' records together. `names` are the images' index, input and output, and must ascend by index; an image of
    /// which no rank has a record (the run was stopped first) is listed as skipped, a record without a name is left out.
    pub fn assemble(
        facts: RunFacts,
        names: impl IntoIterator<Item = (usize, String, String)>,
        mut records: Vec<RankRecord>,
    ) -> Self {
        records.sort_by_key(|record| record.rank);
        let ranks: Vec<RankRow> = records
            .iter()
            .map(|record| RankRow::new(record, facts.elapsed_s))
            .collect();
        let mut nodes: Vec<String> = Vec::new();
        for rank in &ranks {
            if !nodes.contains(&rank.host) {
                nodes.push(rank.host.clone());
            }
        }
        let launch = Launch {
            ranks: ranks.len(),
            threads_per_rank: records
                .iter()
                .map(|record| record.threads)
                .max()
                .unwrap_or(0),
            nodes,
            cpus: facts.cpus,
            mpi: facts.mpi,
            slurm: facts.slurm,
        };
        let mut records = ByIndex::new(records);
        let mut before = 0;
        let images: Vec<ImageRow> = names
            .into_iter()
            .map(|(index, input, output)| {
                debug_assert!(index > before, "{index} comes after {before}");
                before = index;
                let record = records.take(index);
                ImageRow::new(record, index, input, output)
            })
            .collect();
        let totals = Totals::new(&ranks, &images, facts.elapsed_s);
        let state = if facts.interrupted {
            State::Interrupted
        } else if totals.failed > 0 {
            State::Failed
        } else {
            State::Completed
        };
        Report {
            schema: SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: facts.command,
            state,
            started: humantime::format_rfc3339_millis(facts.started).to_string(),
            elapsed_s: facts.elapsed_s,
            launch,
            filter: facts.filter,
            strategy: facts.strategy,
            shard: facts.shard,
            journals: facts.journals,
            resume: facts.resume,
            totals,
            ranks,
            images,
        }
    }

    /// Raises a rank's `max_rss_bytes`, and that of all, to what it has held since its record was made. A rank that the report
    /// does not know is left alone.
    pub fn raise_rank_peak(&mut self, rank: usize, rss_bytes: u64) {
        if let Some(row) = self.ranks.iter_mut().find(|row| row.rank == rank) {
            row.max_rss_bytes = row.max_rss_bytes.max(rss_bytes);
            self.totals.max_rss_bytes = self.totals.max_rss_bytes.max(rss_bytes);
        }
    }

    /// Writes the JSON form, whole or not at all: a temporary file in the same folder takes the name when it is complete.
    ///
    /// # Errors
    /// The file system's, as they are.
    pub fn write_json(&self, path: &Path) -> std::io::Result<()> {
        write_whole(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            writeln!(file)
        })
    }
}

/// Whether the path leads to something that is neither a file nor a folder, such as /dev/null or a pipe.
pub(crate) fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// Writes a file whole or not at all. A device or pipe is written to and stays what it is.
pub(crate) fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    if is_device(path) {
        let file = std::fs::File::options().write(true).open(path)?;
        let mut writer = std::io::BufWriter::new(file);
        fill(&mut writer)?;
        return writer.flush();
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".niimpi-").suffix(".part");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder)?;
    let mut writer = std::io::BufWriter::new(file);
    fill(&mut writer)?;
    let file = writer
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

impl RankRow {
    fn new(record: &RankRecord, run_elapsed_s: f64) -> Self {
        let count = |status| {
            record
                .images
                .iter()
                .filter(|image| image.status == status)
                .count()
        };
        let sum = |seconds: fn(&ImageRecord) -> f64| {
            record.images.iter().map(seconds).fold(0.0, f64::add)
        };
        let (read_s, filter_s, write_s) = (
            sum(|image| image.read_s),
            sum(|image| image.filter_s),
            sum(|image| image.write_s),
        );
        let busy_s = read_s + filter_s + write_s;
        RankRow {
            rank: record.rank,
            host: record.host.clone(),
            images: record.images.len(),
            done: count(Status::Done),
            failed: count(Status::Failed),
            skipped: count(Status::Skipped),
            read_s,
            filter_s,
            write_s,
            idle_s: (run_elapsed_s * record.threads as f64 - busy_s).max(0.0),
            elapsed_s: record.elapsed_s,
            cpu_s: record.cpu_s,
            cpu_efficiency: ratio(record.cpu_s, record.elapsed_s * record.cpus as f64),
            max_rss_bytes: record.max_rss_bytes,
            bytes_in: record.images.iter().map(|image| image.bytes_in).sum(),
            bytes_out: record.images.iter().map(|image| image.bytes_out).sum(),
            threads: record.threads,
            cpus: record.cpus,
        }
    }

    /// CPU seconds that it could have used.
    fn cpu_time_given_s(&self) -> f64 {
        self.elapsed_s * self.cpus as f64
    }
}

impl ImageRow {
    fn new(record: Option<ImageRecord>, index: usize, input: String, output: String) -> Self {
        let record = record.unwrap_or(ImageRecord {
            index,
            rank: 0,
            worker: 0,
            status: Status::Skipped,
            stage: None,
            error: None,
            start_s: 0.0,
            read_s: 0.0,
            filter_s: 0.0,
            write_s: 0.0,
            voxels: 0,
            nonfinite_voxels: 0,
            datatype: None,
            scaled: false,
            bytes_in: 0,
            bytes_out: 0,
        });
        ImageRow {
            index,
            input,
            output,
            rank: record.rank,
            worker: record.worker,
            status: record.status,
            stage: record.stage,
            error: record.error,
            start_s: record.start_s,
            read_s: record.read_s,
            filter_s: record.filter_s,
            write_s: record.write_s,
            voxels: record.voxels,
            datatype: record.datatype,
            scaled: record.scaled,
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            nonfinite_voxels: record.nonfinite_voxels,
        }
    }
}

/// The records of all ranks by their index, ascending. A list may have a million images: each rank's records stay where they are
/// until they are taken.
struct ByIndex {
    ranks: Vec<std::vec::IntoIter<ImageRecord>>,
    /// The index of each rank's next record, and the rank's place.
    next: BinaryHeap<Reverse<(usize, usize)>>,
}

impl ByIndex {
    fn new(records: Vec<RankRecord>) -> Self {
        let sorted = records.into_iter().map(|mut record| {
            record.images.sort_unstable_by_key(|image| image.index);
            record.images.into_iter()
        });
        let ranks: Vec<_> = sorted.collect();
        let first = ranks
            .iter()
            .enumerate()
            .filter_map(|(place, images)| Some(Reverse((images.as_slice().first()?.index, place))));
        Self {
            next: first.collect(),
            ranks,
        }
    }

    /// The record with this index, if there is one; those before it are dropped.
    fn take(&mut self, index: usize) -> Option<ImageRecord> {
        loop {
            let &Reverse((found, place)) = self.next.peek()?;
            if found > index {
                return None;
            }
            self.next.pop();
            let images = &mut self.ranks[place];
            let record = images.next();
            if let Some(after) = images.as_slice().first() {
                self.next.push(Reverse((after.index, place)));
            }
            if found == index {
                return record;
            }
        }
    }
}

impl Totals {
    fn new(ranks: &[RankRow], images: &[ImageRow], elapsed_s: f64) -> Self {
        let count = |status| images.iter().filter(|image| image.status == status).count();
        let sum = |seconds: fn(&RankRow) -> f64| ranks.iter().map(seconds).fold(0.0, f64::add);
        let done = count(Status::Done);
        let cpu_s = sum(|rank| rank.cpu_s);
        Totals {
            images: images.len(),
            done,
            failed: count(Status::Failed),
            skipped: count(Status::Skipped),
            read_s: sum(|rank| rank.read_s),
            filter_s: sum(|rank| rank.filter_s),
            write_s: sum(|rank| rank.write_s),
            cpu_s,
            cpu_efficiency: ratio(cpu_s, sum(RankRow::cpu_time_given_s)),
            max_rss_bytes: ranks
                .iter()
                .map(|rank| rank.max_rss_bytes)
                .max()
                .unwrap_or(0),
            bytes_in: ranks.iter().map(|rank| rank.bytes_in).sum(),
            bytes_out: ranks.iter().map(|rank| rank.bytes_out).sum(),
            voxels: images.iter().map(|image| image.voxels).sum(),
            imbalance: imbalance(ranks.iter().map(|rank| rank.elapsed_s)),
            images_per_s: ratio(done as f64, elapsed_s),
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn image(index: usize, rank: usize, status: Status) -> ImageRecord {
        ImageRecord {
            index,
            rank,
            worker: 0,
            status,
            stage: (status == Status::Failed).then_some(Stage::Read),
            error: (status == Status::Failed).then(|| "the file is empty".to_owned()),
            start_s: 0.0,
            read_s: 1.0,
            filter_s: 2.0,
            write_s: 3.0,
            voxels: 1000,
            nonfinite_voxels: 0,
            datatype: Some(Datatype::Uint8),
            scaled: false,
            bytes_in: 500,
            bytes_out: 400,
        }
    }

    fn rank(rank: usize, host: &str, elapsed_s: f64, images: Vec<ImageRecord>) -> RankRecord {
        RankRecord {
            rank,
            host: host.to_owned(),
            threads: 2,
            cpus: 2,
            elapsed_s,
            cpu_s: elapsed_s,
            max_rss_bytes: 10 << 20,
            images,
        }
    }

    fn facts() -> RunFacts {
        RunFacts {
            command: vec!["niimpi".to_owned(), "smooth".to_owned()],
            interrupted: false,
            started: std::time::UNIX_EPOCH,
            elapsed_s: 12.0,
            cpus: Some(4),
            mpi: "none".to_owned(),
            slurm: None,
            filter: FilterDescription {
                name: "gaussian".to_owned(),
                sigma_vox: vec![2.0; 3],
                fwhm_mm: vec![],
                boundary: "reflect".to_owned(),
                cval: 0.0,
                truncate: 4.0,
                radius_vox: vec![8; 3],
                output_type: "same".to_owned(),
                round: "truncate".to_owned(),
                nan: propagate(),
            },
            strategy: Strategy::Size,
            shard: None,
            journals: None,
            resume: None,
        }
    }

    pub(crate) fn report() -> Report {
        let names =
            (1..=4).map(|index| (index, format!("in/{index}.nii"), format!("out/{index}.nii")));
        let records = vec![
            rank(1, "n2", 6.0, vec![image(3, 1, Status::Done)]),
            rank(
                0,
                "n1",
                12.0,
                vec![image(1, 0, Status::Done), image(2, 0, Status::Failed)],
            ),
        ];
        Report::assemble(facts(), names, records)
    }

    #[test]
    fn records_add_up_and_an_image_without_one_is_listed() {
        let report = report();
        assert_eq!(
            report
                .ranks
                .iter()
                .map(|rank| rank.rank)
                .collect::<Vec<_>>(),
            [0, 1]
        );
        assert_eq!(report.launch.nodes, ["n1", "n2"]);
        let totals = &report.totals;
        assert_eq!(
            (totals.images, totals.done, totals.failed, totals.skipped),
            (4, 2, 1, 1)
        );
        assert_eq!(
            (totals.read_s, totals.filter_s, totals.write_s),
            (3.0, 6.0, 9.0)
        );
        assert_eq!(totals.imbalance, 12.0 / 9.0);
        assert_eq!(totals.cpu_efficiency, 18.0 / 36.0);
        assert_eq!(totals.images_per_s, 2.0 / 12.0);
        assert_eq!(report.ranks[0].idle_s, 12.0 * 2.0 - 12.0);
        assert_eq!(report.state, State::Failed);
        assert_eq!(report.started, "1970-01-01T00:00:00.000Z");
        assert_eq!(report.images[3].status, Status::Skipped);
    }

    #[test]
    fn records_find_their_images_whatever_their_order() {
        // A share of a list: it neither begins at 1 nor goes on without gaps.
        let names = [3, 7, 8, 20].map(|index| (index, format!("{index}.nii"), String::new()));
        let images = |indices: &[usize]| {
            let made = indices.iter().map(|&index| image(index, 0, Status::Done));
            made.collect()
        };
        let records = vec![
            rank(1, "n", 1.0, images(&[20, 3, 9])),
            rank(0, "n", 1.0, images(&[8])),
        ];
        let report = Report::assemble(facts(), names, records);
        let found: Vec<_> = report
            .images
            .iter()
            .map(|row| (row.index, row.status, row.input.as_str()))
            .collect();
        let expected = [
            (3, Status::Done, "3.nii"),
            (7, Status::Skipped, "7.nii"),
            (8, Status::Done, "8.nii"),
            (20, Status::Done, "20.nii"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn memory_is_counted_to_the_end() {
        let mut report = report();
        report.raise_rank_peak(0, 11 << 20);
        report.raise_rank_peak(1, 9 << 20);
        report.raise_rank_peak(7, 99 << 20);
        let held: Vec<u64> = report.ranks.iter().map(|rank| rank.max_rss_bytes).collect();
        assert_eq!(held, [11 << 20, 10 << 20]);
        assert_eq!(report.totals.max_rss_bytes, 11 << 20);
    }

    #[test]
    fn the_json_form_reads_back() {
        let report = report();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        report.write_json(&path).unwrap();
        let read: Report = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, report);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_resumed_run_found_is_one_sentence() {
        let counts = ResumeCounts {
            kept: 380,
            missing: 15,
            failed_before: 3,
            input_changed: 2,
            ..ResumeCounts::default()
        };
        assert_eq!(
            counts.sentence(),
            "resume: 380 kept, 20 to do: 15 missing, 3 failed before, 2 with a changed input"
        );
        assert_eq!(
            ResumeCounts::default().sentence(),
            "resume: 0 kept, 0 to do"
        );
    }

    #[test]
    fn a_pipe_is_written_to_and_stays_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("report.json");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = {
            let pipe = pipe.clone();
            std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap())
        };
        write_whole(&pipe, |file| file.write_all(b"whole")).unwrap();
        assert!(is_device(&pipe));
        assert_eq!(reader.join().unwrap(), "whole");
    }

    #[test]
    fn a_rank_without_images_took_no_time_of_either_sign() {
        let mut idle = report();
        let record = RankRecord {
            rank: 0,
            host: "a".to_owned(),
            threads: 1,
            cpus: 1,
            elapsed_s: 1.0,
            cpu_s: 0.0,
            max_rss_bytes: 0,
            images: Vec::new(),
        };
        idle.ranks = vec![RankRow::new(&record, 1.0)];
        assert!(idle.ranks[0].read_s.is_sign_positive());
        assert!(!super::table::render(&idle).contains("-0.00"));
    }
}
