//! The report: what each image and each rank took, gathered from all ranks into one document.
//!
//! | file | role |
//! |---|---|
//! | `schema` | what the JSON form holds |
//! | `assemble` | the ranks' outcomes become a report |
//! | `table`, `csv` | the report for people and for spreadsheets |
//! | `merge` | the reports of several runs over one list become one |

mod assemble;
pub mod csv;
pub(crate) mod destination;
pub mod merge;
mod schema;
pub mod table;

use std::io::Write;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use crate::job::outcome::{Stage, Status};
#[cfg(test)]
pub(crate) use assemble::tests as sample;
pub use assemble::{RankRecord, RunFacts};
pub use schema::{
    FilterDescription, ImageRow, Journals, Launch, RankRow, Report, ResumeCounts, SCHEMA, SCHEMA_1,
    Shares, State, Totals,
};

/// Why a report cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A file that cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file that is no report.
    #[error("{path}: is not a report of niimpi ({SCHEMA} or {SCHEMA_1}): {reason}")]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads a report of this version or of version 1.
///
/// # Errors
/// When the file cannot be read or is no such report.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    let bytes = std::fs::read(path).map_err(|error| ReadError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    parse(&bytes).map_err(|reason| ReadError::NoReport {
        path: path.to_owned(),
        reason,
    })
}

fn parse(bytes: &[u8]) -> Result<Report, String> {
    #[derive(serde::Deserialize)]
    struct Head {
        schema: Option<String>,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match head.schema.as_deref() {
        Some(SCHEMA | SCHEMA_1) => {}
        Some(other) => return Err(format!("its schema is {other}")),
        None => return Err("it has no schema".to_owned()),
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

impl Report {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
