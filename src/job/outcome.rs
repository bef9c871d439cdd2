//! The outcome of an image: its rank and worker, its stage times, its input, and how it ended.
//!
//! A worker creates it once. A journal line and a report row are this type in JSON. Versions before
//! niimpi-journal/2 and niimpi-report/2 used other names for some fields; only `Row` reads these.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use super::failure::{Failure, FailureKind, Stage};
use super::problem::Problem;
use super::quality::Quality;
use super::warning::Warning;
pub use crate::image_io::{Crc32, FileId};
use crate::volume::Datatype;

/// What happened to an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The image's index in the whole list, from 1.
    pub index: usize,
    /// The rank that processed it.
    pub rank: usize,
    /// The worker of that rank, from 0.
    pub worker: usize,
    /// When work on it started, seconds since the run's start.
    pub start_s: f64,
    /// When its result had its name or it had failed, seconds since the run's start. `None` if it was not
    /// processed, and in records of earlier versions.
    pub end_s: Option<f64>,
    /// The time that each stage took.
    pub timings: Timings,
    /// What was read.
    pub input: InputFacts,
    /// How often the image was read again after an error that may be temporary.
    pub retries: u32,
    /// Warnings about the image or its result.
    pub warnings: Vec<Warning>,
    /// The ranks that shared it, this one included; empty if there is only one.
    pub shared: Vec<Sharer>,
    /// What was measured before and after, with `--qc`.
    pub quality: Option<Box<Quality>>,
    /// Bytes of all files that were written.
    pub bytes_out: u64,
    /// How it ended.
    pub end: End,
}

/// The stage times of one of several ranks that share an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sharer {
    pub rank: usize,
    pub read_s: f64,
    pub filter_s: f64,
    /// Compressing.
    pub write_s: f64,
}

/// Seconds of each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Reading, including inflating.
    pub read_s: f64,
    pub filter_s: f64,
    /// Compressing and writing in the worker.
    pub write_s: f64,
    /// Syncing and renaming the result, while the worker processes the next images.
    pub publish_s: f64,
}

impl Timings {
    /// Seconds that the worker spent on the image.
    pub fn worker_s(&self) -> f64 {
        self.read_s + self.filter_s + self.write_s
    }

    /// Adds the seconds of other work.
    pub(crate) fn add(&mut self, other: Timings) {
        self.read_s += other.read_s;
        self.filter_s += other.filter_s;
        self.write_s += other.write_s;
        self.publish_s += other.publish_s;
    }

    /// The same times rounded to microseconds, to keep records short.
    pub(crate) fn rounded(self) -> Self {
        let round = |seconds: f64| (seconds * 1e6).round() / 1e6;
        Self {
            read_s: round(self.read_s),
            filter_s: round(self.filter_s),
            write_s: round(self.write_s),
            publish_s: round(self.publish_s),
        }
    }
}

/// What is known about an image after reading it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InputFacts {
    /// Its files. Journals contain them, reports do not.
    pub files: Vec<FileId>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// The datatype; `None` if the image was not read.
    pub datatype: Option<Datatype>,
    /// Whether it has an intensity scale.
    pub scaled: bool,
    /// Voxels of all its volumes.
    pub voxels: u64,
    /// Number of NaN or infinite voxels.
    pub nonfinite_voxels: u64,
    /// Distance between voxel centres along x, y and z.
    pub voxel_size_mm: Option<[f64; 3]>,
    /// The kernel's sigma along x, y and z, in voxels of this image.
    pub sigma_vox: Option<[f64; 3]>,
}

/// How an image ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum End {
    /// Its result is written: these files, in the order of renaming. Reports omit the files.
    Done(Vec<FileId>),
    Failed(Failure),
    Skipped(Reason),
}

impl Default for End {
    fn default() -> Self {
        End::Skipped(Reason::NotStarted)
    }
}

/// Why an image was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The result of an earlier run is kept.
    #[serde(rename = "kept")]
    Kept,
    /// The run ended before its turn.
    #[serde(rename = "not started")]
    NotStarted,
}

/// The status of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Done,
    Failed,
    Skipped,
}

impl Outcome {
    /// The outcome of an image that was skipped.
    pub fn skipped(index: usize, reason: Reason) -> Self {
        Self {
            index,
            end: End::Skipped(reason),
            ..Self::default()
        }
    }

    pub fn status(&self) -> Status {
        match self.end {
            End::Done(_) => Status::Done,
            End::Failed(_) => Status::Failed,
            End::Skipped(_) => Status::Skipped,
        }
    }

    /// Where and why it failed.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.end {
            End::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Adds what a rank spent on a section of the image.
    pub(crate) fn add_sharer(&mut self, rank: usize, spent: Timings) {
        self.timings.add(spent);
        let place = self.shared.iter().position(|sharer| sharer.rank == rank);
        let place = place.unwrap_or_else(|| {
            self.shared.push(Sharer {
                rank,
                ..Sharer::default()
            });
            self.shared.len() - 1
        });
        let sharer = &mut self.shared[place];
        let rounded = |sum: f64, more: f64| ((sum + more) * 1e6).round() / 1e6;
        sharer.read_s = rounded(sharer.read_s, spent.read_s);
        sharer.filter_s = rounded(sharer.filter_s, spent.filter_s);
        sharer.write_s = rounded(sharer.write_s, spent.write_s);
    }

    /// Drops the files' identities, which only journals record. They would double the memory of a long list's
    /// report.
    pub(crate) fn forget_files(&mut self) {
        self.input.files = Vec::new();
        if let End::Done(files) = &mut self.end {
            *files = Vec::new();
        }
    }
}

/// An outcome as one flat JSON object. Fields of version 1 with other names or places are also read.
#[derive(Serialize, Deserialize)]
struct Row {
    index: usize,
    #[serde(default)]
    rank: usize,
    worker: usize,
    #[serde(alias = "state")]
    status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(default)]
    stage: Option<Stage>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
    #[serde(default)]
    start_s: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end_s: Option<f64>,
    read_s: f64,
    filter_s: f64,
    write_s: f64,
    #[serde(default)]
    publish_s: f64,
    voxels: u64,
    #[serde(default)]
    nonfinite_voxels: u64,
    #[serde(default)]
    datatype: Option<Datatype>,
    #[serde(default)]
    scaled: bool,
    #[serde(default)]
    voxel_size_mm: Option<[f64; 3]>,
    #[serde(default)]
    sigma_vox: Option<[f64; 3]>,
    #[serde(default, alias = "input_bytes")]
    bytes_in: u64,
    #[serde(default, alias = "output_bytes")]
    bytes_out: u64,
    #[serde(default)]
    retries: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quality: Option<Box<Quality>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    shared: Vec<Sharer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files_in: Vec<FileId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files_out: Vec<FileId>,
    /// From niimpi-journal/1, which has one identity for both files of a pair.
    #[serde(default, skip_serializing)]
    input_mtime_ns: Option<i64>,
    #[serde(default, skip_serializing)]
    output_mtime_ns: Option<i64>,
    #[serde(default, skip_serializing)]
    raw_bytes: u64,
    #[serde(default, skip_serializing)]
    crc32: Option<Crc32>,
}

impl From<&Outcome> for Row {
    fn from(outcome: &Outcome) -> Self {
        let (mut files_out, mut reason) = (Vec::new(), None);
        match &outcome.end {
            End::Done(files) => files_out.clone_from(files),
            End::Skipped(why) => reason = Some(*why),
            End::Failed(_) => {}
        }
        let failure = outcome.failure();
        let Timings {
            read_s,
            filter_s,
            write_s,
            publish_s,
        } = outcome.timings;
        let input = &outcome.input;
        // JSON cannot represent non-finite numbers.
        let finite =
            |values: Option<[f64; 3]>| values.filter(|values| values.iter().all(|value| value.is_finite()));
        Row {
            index: outcome.index,
            rank: outcome.rank,
            worker: outcome.worker,
            status: outcome.status(),
            reason,
            stage: failure.map(|failure| failure.stage),
            error: failure.map(|failure| failure.error.clone()),
            problem: failure.and_then(|failure| failure.problem),
            start_s: outcome.start_s,
            end_s: outcome.end_s,
            read_s,
            filter_s,
            write_s,
            publish_s,
            voxels: input.voxels,
            nonfinite_voxels: input.nonfinite_voxels,
            datatype: input.datatype,
            scaled: input.scaled,
            voxel_size_mm: finite(input.voxel_size_mm),
            sigma_vox: finite(input.sigma_vox),
            bytes_in: input.bytes,
            bytes_out: outcome.bytes_out,
            retries: outcome.retries,
            warnings: outcome.warnings.clone(),
            shared: outcome.shared.clone(),
            quality: outcome.quality.clone(),
            files_in: input.files.clone(),
            files_out,
            input_mtime_ns: None,
            output_mtime_ns: None,
            raw_bytes: 0,
            crc32: None,
        }
    }
}

impl From<Row> for Outcome {
    fn from(row: Row) -> Self {
        let (mut files_in, mut files_out) = (row.files_in, row.files_out);
        if let Some(mtime_ns) = row.input_mtime_ns {
            files_in.push(FileId {
                bytes: row.bytes_in,
                mtime_ns: Some(mtime_ns),
                ..FileId::default()
            });
        }
        if row.crc32.is_some() {
            files_out.push(FileId {
                path: PathBuf::new(),
                bytes: row.bytes_out,
                mtime_ns: row.output_mtime_ns,
                crc32: row.crc32,
                raw_bytes: row.raw_bytes,
            });
        }
        Outcome {
            index: row.index,
            rank: row.rank,
            worker: row.worker,
            start_s: row.start_s,
            end_s: row.end_s,
            timings: Timings {
                read_s: row.read_s,
                filter_s: row.filter_s,
                write_s: row.write_s,
                publish_s: row.publish_s,
            },
            input: InputFacts {
                files: files_in,
                bytes: row.bytes_in,
                datatype: row.datatype,
                scaled: row.scaled,
                voxels: row.voxels,
                nonfinite_voxels: row.nonfinite_voxels,
                voxel_size_mm: row.voxel_size_mm,
                sigma_vox: row.sigma_vox,
            },
            warnings: row.warnings,
            shared: row.shared,
            quality: row.quality,
            bytes_out: row.bytes_out,
            retries: row.retries,
            end: match row.status {
                Status::Done => End::Done(files_out),
                Status::Failed => End::Failed(Failure {
                    stage: row.stage.unwrap_or(Stage::Read),
                    error: row.error.unwrap_or_default(),
                    problem: row.problem,
                    kind: FailureKind::Own,
                }),
                Status::Skipped => End::Skipped(row.reason.unwrap_or(Reason::NotStarted)),
            },
        }
    }
}

/// An outcome as sent between ranks: fields in order without names.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Outcome")]
struct Message {
    index: usize,
    rank: usize,
    worker: usize,
    start_s: f64,
    end_s: Option<f64>,
    timings: Timings,
    input: InputFacts,
    retries: u32,
    warnings: Vec<Warning>,
    shared: Vec<Sharer>,
    quality: Option<Box<Quality>>,
    bytes_out: u64,
    end: End,
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => Row::from(self).serialize(serializer),
            false => Message::serialize(self, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => Row::deserialize(deserializer).map(Self::from),
            false => Message::deserialize(deserializer),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn done() -> Outcome {
        Outcome {
            index: 2,
            rank: 3,
            worker: 1,
            start_s: 0.5,
            end_s: None,
            timings: Timings {
                read_s: 0.25,
                filter_s: 0.5,
                write_s: 0.125,
                publish_s: 2.0,
            },
            input: InputFacts {
                files: vec![FileId {
                    path: PathBuf::new(),
                    bytes: 10,
                    mtime_ns: Some(1_795_420_000_123_456_789),
                    crc32: Some(Crc32(0xfeed)),
                    raw_bytes: 0,
                }],
                bytes: 10,
                datatype: Some(Datatype::Int16),
                scaled: false,
                voxels: 48,
                nonfinite_voxels: 0,
                voxel_size_mm: Some([1.0, 1.0, 2.0]),
                sigma_vox: Some([2.0, 2.0, 1.0]),
            },
            warnings: Vec::new(),
            shared: Vec::new(),
            quality: None,
            bytes_out: 20,
            retries: 0,
            end: End::Done(vec![FileId {
                path: PathBuf::new(),
                bytes: 20,
                mtime_ns: Some(7),
                crc32: Some(Crc32(0x0001_f00d)),
                raw_bytes: 400,
            }]),
        }
    }

    fn failed() -> Outcome {
        Outcome {
            end: End::Failed(Failure {
                stage: Stage::Write,
                error: "full".to_owned(),
                problem: Some(Problem::DiskFull),
                kind: FailureKind::Own,
            }),
            ..done()
        }
    }

    #[test]
    fn json_is_one_flat_object_and_reads_back() {
        let text = serde_json::to_string(&done()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"index":2,"rank":3,"worker":1,"status":"done","stage":null,"error":null,"start_s":0.5,"#,
                r#""read_s":0.25,"filter_s":0.5,"write_s":0.125,"publish_s":2.0,"voxels":48,"#,
                r#""nonfinite_voxels":0,"datatype":"int16","scaled":false,"voxel_size_mm":[1.0,1.0,2.0],"#,
                r#""sigma_vox":[2.0,2.0,1.0],"bytes_in":10,"bytes_out":20,"retries":0,"#,
                r#""files_in":[{"bytes":10,"mtime_ns":1795420000123456789,"crc32":"0000feed"}],"#,
                r#""files_out":[{"bytes":20,"mtime_ns":7,"crc32":"0001f00d","raw_bytes":400}]}"#
            )
        );
        for outcome in [
            done(),
            failed(),
            Outcome {
                warnings: vec![Warning::new("bitpix", "is odd".to_owned())],
                ..done()
            },
            Outcome {
                end_s: Some(3.5),
                ..done()
            },
            Outcome {
                shared: vec![Sharer {
                    rank: 1,
                    read_s: 0.5,
                    ..Sharer::default()
                }],
                quality: Some(Box::new(Quality {
                    picture: Some("a/b.nii.png".to_owned()),
                    ..Quality::default()
                })),
                ..done()
            },
            Outcome::skipped(1, Reason::Kept),
            Outcome::skipped(1, Reason::NotStarted),
        ] {
            let text = serde_json::to_string(&outcome).unwrap();
            assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
            let bytes = crate::comm::encode(&outcome);
            assert_eq!(crate::comm::decode::<Outcome>(&bytes), outcome);
        }
    }

    #[test]
    fn what_json_cannot_hold_is_left_out() {
        let mut outcome = done();
        outcome.input.voxel_size_mm = Some([1.0, f64::NAN, 1.0]);
        let text = serde_json::to_string(&outcome).unwrap();
        let read: Outcome = serde_json::from_str(&text).unwrap();
        assert_eq!(read.input.voxel_size_mm, None);
    }

    #[test]
    fn a_line_of_version_1_is_read() {
        let line = concat!(
            r#"{"unix_s":1.5,"index":2,"worker":1,"state":"done","input":"/in/a.nii","input_bytes":10,"#,
            r#""input_mtime_ns":99,"output":"a.nii","output_bytes":20,"output_mtime_ns":77,"raw_bytes":20,"#,
            r#""crc32":"0001f00d","read_s":0.25,"filter_s":0.5,"write_s":0.125,"voxels":48}"#
        );
        let outcome: Outcome = serde_json::from_str(line).unwrap();
        assert_eq!(outcome.input.bytes, 10);
        let input = &outcome.input.files[0];
        assert_eq!((input.bytes, input.mtime_ns, input.crc32), (10, Some(99), None));
        let End::Done(files) = &outcome.end else {
            panic!("{outcome:?}")
        };
        assert_eq!(files[0].mtime_ns, Some(77));
        assert_eq!(
            (files[0].raw_bytes, files[0].crc32),
            (20, Some(Crc32(0x0001_f00d)))
        );
    }
}
