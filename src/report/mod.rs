//! The report: times and results of each image and each rank, gathered into one document.
//!
//! | file | role |
//! |---|---|
//! | `schema` | the JSON form |
//! | `assemble` | builds a report from the ranks' outcomes |
//! | `table`, `csv` | the report as a table and for spreadsheets |
//! | `html`, `trace` | the report as a page and as a timeline for Perfetto |
//! | `spans` | when each worker did what, for timelines |
//! | `merge` | merges the reports of several runs over one list |

mod assemble;
pub mod csv;
pub(crate) mod destination;
pub(crate) mod html;
pub mod merge;
mod schema;
mod spans;
pub mod table;
pub(crate) mod trace;

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use crate::job::outcome::{End, Reason};

pub(crate) use crate::atomic_file::{is_device, write_whole};
pub use crate::job::description::FilterDescription;
pub use crate::job::outcome::{Stage, Status};
pub use assemble::RankRecord;
#[cfg(test)]
pub(crate) use assemble::tests as sample;
pub use schema::{
    ImageRow, Journals, Launch, RankRow, Report, ResumeCounts, SCHEMA, SCHEMA_1, Shards, State, Totals,
};

/// Maximum size of a report, about four million images.
const MAX_BYTES: u64 = 3 << 30;

/// Reads a report of this version or of version 1.
pub fn read(path: &Path) -> Result<Report, String> {
    read_at_most(path, MAX_BYTES)
}

fn read_at_most(path: &Path, most: u64) -> Result<Report, String> {
    let open = || {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(BufReader::with_capacity(1 << 18, file.take(most)))
    };
    let no_report = |reason: String| {
        let path = path.display();
        format!("{path}: is not a report of niimpi ({SCHEMA} or {SCHEMA_1}): {reason}")
    };
    // Read row by row, because the text of a long list needs as much memory as its rows.
    let mut reader = open()?;
    match serde_json::from_reader::<_, Report>(&mut reader) {
        Ok(report) if report.schema == SCHEMA => Ok(report),
        Ok(report) if report.schema == SCHEMA_1 => Ok(of_version_1(report)),
        Ok(report) => Err(no_report(format!("its schema is {}", report.schema))),
        Err(_) if reader.get_ref().limit() == 0 => {
            Err(no_report(format!("it is larger than {} MiB", most >> 20)))
        }
        Err(error) => Err(no_report(match schema_of(open()?).as_deref() {
            Some(SCHEMA | SCHEMA_1) => error.to_string(),
            Some(other) => format!("its schema is {other}"),
            None if error.is_syntax() || error.is_eof() => error.to_string(),
            None => "it has no schema".to_owned(),
        })),
    }
}

/// Version 1 has the same status for kept results and for images that were not started. A completed run kept
/// all images that it skipped.
fn of_version_1(mut report: Report) -> Report {
    let reason = match report.state {
        State::Interrupted => Reason::NotStarted,
        State::Completed | State::Failed => Reason::Kept,
    };
    for image in &mut report.images {
        if let End::Skipped(why) = &mut image.end {
            *why = reason;
        }
    }
    let skipped = report.totals.skipped;
    match reason {
        Reason::Kept => report.totals.kept = skipped,
        Reason::NotStarted => report.totals.not_started = skipped,
    }
    report
}

fn schema_of(reader: impl Read) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Head {
        schema: String,
    }
    let head: Head = serde_json::from_reader(reader).ok()?;
    Some(head.schema)
}

impl Report {
    /// Writes the JSON form atomically: a temporary file in the same folder is renamed when it is complete.
    pub fn write_json(&self, path: &Path) -> std::io::Result<()> {
        write_whole(path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            writeln!(file)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_or_oversized_file_is_no_report() {
        let message = |path: &Path, most| read_at_most(path, most).unwrap_err().to_string();
        let zeros = message(Path::new("/dev/zero"), 1 << 20);
        assert!(zeros.contains("is not a report"), "{zeros}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large.json");
        std::fs::write(&path, format!("{{\"x\":\"{}\"}}", "a".repeat(3 << 20))).unwrap();
        assert!(message(&path, 1 << 20).contains("it is larger than 1 MiB"));
    }
}
