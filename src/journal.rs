//! The journal: a log of each rank's work below the output folder, one JSON object per line, written
//! immediately.
//!
//! | file | role |
//! |---|---|
//! | `writer` | a rank appends to its own file |
//! | `past` | what the journals of earlier runs record about every result |
//! | `qualities` | the figures of kept results |
//! | `living` | whether the run of a journal is still alive |
//! | `status`, `status_text` | the progress of runs |
//! | `series` | resource samples of the ranks over time |
//!
//! A file belongs to one rank of one run: `OUT/.niimpi/journal-<run>-<rank>.jsonl`. Lines are only appended,
//! so when a rank is killed, at most its last line is incomplete. Readers skip incomplete lines and unknown
//! events and fields. [`Line`] lists the events:
//!
//! ```json
//! {"event":"run","format":"niimpi-journal/2","unix_s":1795423478.123,
//!  "run":"20261123T084438-5bd1e995c0ffee11","version":"0.2.0","rank":0,"ranks":2,
//!  "host":"n1","pid":4711,"workers":2,"images":400,"kept":0,"share":200,"strategy":"size",
//!  "options":{"filter":{"name":"gaussian"},"compression":1,"numerics":1}}
//! {"event":"begin","unix_s":1795423478.130,"index":17,"worker":0,"input":"/data/a.nii.gz",
//!  "output":"a.nii.gz"}
//! {"event":"staged","unix_s":1795423478.160,"index":17,"input":"/data/a.nii.gz","output":"a.nii.gz",
//!  "files_in":[{"bytes":812345,"mtime_ns":1795420000123456789,"crc32":"5d1e77a0"}],
//!  "files_out":[{"bytes":799001,"mtime_ns":1795423478159000000,"crc32":"09f1c2d4","raw_bytes":1764352}]}
//! {"event":"end","unix_s":1795423478.161,"input":"/data/a.nii.gz","output":"a.nii.gz","index":17,"rank":0,
//!  "worker":0,"status":"done","stage":null,"error":null,"start_s":0.03,"read_s":0.0061,"filter_s":0.0122,
//!  "write_s":0.0119,"publish_s":0.004,"voxels":882000,"datatype":"int16","bytes_in":812345,…}
//! {"event":"sharing","unix_s":1795423478.170,"index":18,"output":"b.nii","ends":false}
//! {"event":"alive","unix_s":1795423508.2}
//! {"event":"sample","unix_s":1795423510.0,"cpu_s":27.31,"rss_bytes":41943040,"done":301,"failed":1,
//!  "bytes_in":245012345,"bytes_out":240112345}
//! {"event":"close","unix_s":1795423520.5,"state":"completed"}
//! ```
//!
//! `input` is absolute, `output` is below the output folder. A file in `files_in` and `files_out` has a
//! `path` only if it is not the image's own: the other half of a pair has its name there, and a mask, which
//! comes last in `files_in`, its absolute path. A name that is not UTF-8 is a list of its bytes. `crc32` and
//! `raw_bytes` describe the content before compression, as the last eight bytes of a gzip file do.
//!
//! The line `staged` is written before a result is renamed. If results are synced, so is this line, so every
//! file under a result's name has a record even after a crash. All times of a run count from its start, on
//! every rank, and are later than those of every earlier run, so the latest line about a result is the valid
//! one.

pub(crate) mod living;
pub mod past;
mod qualities;
pub mod series;
pub mod status;
mod status_text;
mod writer;

pub use qualities::qualities;
pub use writer::Journal;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::image_io::{FileId, path_text};
use crate::job::outcome::Outcome;
use crate::partition::Strategy;
use crate::process::ProcessId;
use crate::report::State;

pub use crate::images::RECORDS as FOLDER;
/// Name and version of the format.
pub const FORMAT: &str = "niimpi-journal/2";
/// The format of niimpi 0.1, which can still be read.
const FORMAT_1: &str = "niimpi-journal/1";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
#[allow(
    clippy::large_enum_variant,
    reason = "a line is read, used and dropped, one at a time"
)]
pub enum Line {
    /// The first line: the run and this rank of it.
    Run(RunLine),
    /// An image is started.
    Begin(BeginLine),
    /// The files of a result are complete and are renamed next.
    Staged(Box<StagedLine>),
    /// The outcome of an image.
    End(Box<EndLine>),
    /// The rank computes sections of an image that another rank records.
    Sharing(SharingLine),
    /// Heartbeat: the rank is alive and wrote no other line for a while.
    Alive {
        /// When, seconds since 1970.
        unix_s: f64,
    },
    /// Resource use and progress of the rank.
    Sample(SampleLine),
    /// The last line: the rank ended normally.
    Close {
        /// When, seconds since 1970.
        unix_s: f64,
        state: State,
    },
    /// An event of a later version.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Line {
    /// Parses these bytes, with or without line break; `None` for an empty line.
    fn parse(bytes: &[u8]) -> Option<serde_json::Result<Self>> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        (!bytes.is_empty()).then(|| serde_json::from_slice(bytes))
    }
}

/// An image that this rank shares and does not record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SharingLine {
    /// When, seconds since 1970.
    pub unix_s: f64,
    /// The image's index in the whole list, from 1.
    pub index: usize,
    /// Where its result goes, below the output folder.
    #[serde(with = "path_text")]
    pub output: PathBuf,
    /// Whether it has computed the last one.
    pub ends: bool,
}

/// The run and the rank that writes this journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunLine {
    pub format: String,
    /// Time of the run's start, seconds since 1970, equal on all ranks.
    pub unix_s: f64,
    /// The run's name; names sort by start time.
    pub run: String,
    pub version: String,
    pub rank: usize,
    pub ranks: usize,
    pub host: String,
    pub pid: u32,
    pub workers: usize,
    /// Images of the run, on all ranks.
    pub images: usize,
    /// Results of earlier runs that it keeps.
    pub kept: usize,
    /// Images of this rank; absent if shares are not fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<usize>,
    pub strategy: Strategy,
    /// The Slurm job, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job: Option<String>,
    /// How often Slurm has requeued that job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_restarts: Option<u32>,
    /// The step of that job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_step: Option<String>,
    /// Identifies its process among those of all machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<ProcessId>,
    /// Digest of the whole list: equal inputs and outputs give equal digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_digest: Option<String>,
    /// The shard of the list that the run processes, as `K/N`; absent for the whole list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    /// The device that the rank uses; absent for the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// All options that affect the results' bytes.
    pub options: serde_json::Value,
}

/// An image is started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeginLine {
    /// When, seconds since 1970.
    pub unix_s: f64,
    /// The image's place in the whole list, from 1.
    pub index: usize,
    /// The worker, from 0.
    pub worker: usize,
    /// The image file, absolute.
    #[serde(with = "path_text")]
    pub input: PathBuf,
    /// Where its result goes, below the output folder.
    #[serde(with = "path_text")]
    pub output: PathBuf,
}

/// The files of a result that are renamed next, and their inputs. Even if the run is killed after this line,
/// files with these names have a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StagedLine {
    /// When, seconds since 1970.
    pub unix_s: f64,
    /// The image's place in the whole list, from 1.
    pub index: usize,
    /// The image file, absolute.
    #[serde(with = "path_text")]
    pub input: PathBuf,
    /// Where its result goes, below the output folder.
    #[serde(with = "path_text")]
    pub output: PathBuf,
    pub files_in: Vec<FileId>,
    pub files_out: Vec<FileId>,
}

/// The outcome of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndLine {
    /// When, seconds since 1970.
    pub unix_s: f64,
    /// The image file, absolute.
    #[serde(with = "path_text")]
    pub input: PathBuf,
    /// Where its result is, below the output folder.
    #[serde(with = "path_text")]
    pub output: PathBuf,
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Resource use and progress of a rank since its start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleLine {
    /// When, seconds since 1970.
    pub unix_s: f64,
    /// CPU seconds of all its threads since the run's start.
    pub cpu_s: f64,
    /// Current memory in bytes.
    pub rss_bytes: u64,
    pub done: usize,
    pub failed: usize,
    /// Bytes of the input files.
    pub bytes_in: u64,
    /// Bytes of the results' files.
    pub bytes_out: u64,
}

/// A name for a run that starts now: the time to the second and a unique suffix.
pub fn new_run_name(now: SystemTime) -> String {
    use std::hash::{BuildHasher, Hasher};
    let time = humantime::format_rfc3339_seconds(now).to_string();
    let time: String = time.chars().filter(|c| c.is_ascii_digit() || *c == 'T').collect();
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    format!("{time}-{random:016x}")
}

/// The file of a rank's journal.
pub fn file_of(output: &Path, run: &str, rank: usize) -> PathBuf {
    output.join(FOLDER).join(format!("journal-{run}-{rank:05}.jsonl"))
}

/// Seconds since 1970, to the millisecond.
pub fn unix_s(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| (since.as_secs_f64() * 1e3).round() / 1e3)
}

/// Seconds to the microsecond, so that lines stay short.
pub(crate) fn short(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::job::outcome;

    fn end() -> EndLine {
        EndLine {
            unix_s: 1.5,
            input: "/in/a\n\"b\".nii".into(),
            output: "a.nii.gz".into(),
            outcome: outcome::tests::done(),
        }
    }

    #[test]
    fn an_end_is_one_line_and_reads_back() {
        let line = Line::End(Box::new(end()));
        let text = serde_json::to_string(&line).unwrap();
        let start = concat!(
            r#"{"event":"end","unix_s":1.5,"input":"/in/a\n\"b\".nii","output":"a.nii.gz","index":2,"#,
            r#""rank":3,"#
        );
        assert!(text.starts_with(start), "{text}");
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }

    #[test]
    fn a_line_of_version_1_reads_as_one_of_today() {
        let text = concat!(
            r#"{"event":"end","unix_s":1.5,"index":2,"worker":1,"state":"done","input":"/in/a.nii","#,
            r#""input_bytes":10,"input_mtime_ns":1795420000123456789,"output":"a.nii.gz","output_bytes":20,"#,
            r#""raw_bytes":400,"crc32":"0001f00d","read_s":0.25,"filter_s":0.5,"write_s":0.125,"voxels":48}"#
        );
        let Line::End(end) = serde_json::from_str(text).unwrap() else {
            panic!("{text}")
        };
        assert_eq!(
            end.outcome.input.files[0].mtime_ns,
            Some(1_795_420_000_123_456_789)
        );
        assert_eq!(end.outcome.bytes_out, 20);
    }

    #[test]
    fn names_that_are_not_utf8_are_kept() {
        let input = PathBuf::from(OsString::from_vec(b"/in/\xff.nii".to_vec()));
        let line = Line::End(Box::new(EndLine { input, ..end() }));
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.contains(r#""input":[47,105,110,47,255,46,110,105,105]"#));
        assert_eq!(serde_json::from_str::<Line>(&text).unwrap(), line);
    }

    #[test]
    fn events_and_fields_of_later_versions_are_left_aside() {
        let sample = r#"{"event":"weather","unix_s":1.0,"rss_bytes":5}"#;
        assert_eq!(serde_json::from_str::<Line>(sample).unwrap(), Line::Unknown);
        let alive = r#"{"event":"alive","unix_s":1.0,"mood":"good"}"#;
        assert_eq!(
            serde_json::from_str::<Line>(alive).unwrap(),
            Line::Alive { unix_s: 1.0 }
        );
    }

    #[test]
    fn runs_have_names_of_their_own_that_sort_by_time() {
        let now = UNIX_EPOCH + std::time::Duration::from_secs(1_795_423_478);
        let name = new_run_name(now);
        assert!(name.starts_with("20261123T084438-"), "{name}");
        assert_ne!(name, new_run_name(now));
    }
}
