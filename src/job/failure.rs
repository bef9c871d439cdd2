//! Failures: where and why an image failed, and what its error means for others.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::filter::FilterError;
use crate::image_io::{Cause, ImageError};

/// Where and why an image failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub stage: Stage,
    /// The cause with the path, in one sentence.
    pub error: String,
    /// The kind of the cause; `None` in a record of an earlier version.
    pub problem: Option<Problem>,
    /// What the cause means for other images; known only on the rank that processed the image.
    #[serde(skip)]
    pub kind: FailureKind,
}

/// What a failure means for other images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// It affects only this image.
    #[default]
    Own,
    /// Its file cannot be opened, perhaps only on this node.
    CannotOpen,
    /// This process has too many open files, which is temporary.
    NoFreeFile,
    /// Reading again may succeed.
    Temporary,
    /// The run was stopped before the image was finished.
    Stopped,
    /// The disk or quota is full; this affects other images, too.
    NoSpace,
    /// The journal cannot be written, and without it no result can be renamed.
    NoJournal,
    /// It needs this many bytes, more than it can use while other images are in progress.
    NeedsMemory {
        /// All that it needs.
        needed_bytes: u64,
    },
}

/// A stage of the work on an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading and inflating the file.
    Read,
    Filter,
    /// Compressing and writing the result.
    Write,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Filter => "filter",
            Stage::Write => "write",
        }
    }
}

/// The failure of an image in the filter.
pub(super) fn filter_failure(input: &Path, error: &FilterError) -> Failure {
    Failure {
        stage: Stage::Filter,
        error: format!("{}: {error}", input.display()),
        problem: Some(Problem::of_filter(error)),
        kind: match *error {
            FilterError::Memory { bytes } => FailureKind::NeedsMemory { needed_bytes: bytes },
            FilterError::Stopped => FailureKind::Stopped,
            _ => FailureKind::Own,
        },
    }
}

/// The failure of an image whose mask cannot be read.
pub(super) fn mask_failure(input: &Path, error: &ImageError) -> Failure {
    let failure = failure(Stage::Read, error);
    Failure {
        error: format!("{}: its mask {}", input.display(), failure.error),
        problem: match failure.problem {
            Some(Problem::NotFetched | Problem::Memory) => failure.problem,
            _ => Some(Problem::Mask),
        },
        ..failure
    }
}

/// Whether this process or the system has reached its limit on open files.
pub(super) fn is_out_of_files(error: &std::io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// Whether reading again may succeed.
pub(super) fn may_pass(cause: &Cause) -> bool {
    use nix::libc::{EIO, ESTALE};
    match cause {
        Cause::Read(error) => [Some(EIO), Some(ESTALE)].contains(&error.raw_os_error()),
        Cause::CrcMismatch { .. } | Cause::GzipDamaged { .. } => true,
        _ => false,
    }
}

/// The failure of an image while it is read or written.
pub(super) fn failure(stage: Stage, error: &ImageError) -> Failure {
    Failure {
        stage,
        error: error.to_string(),
        problem: Some(Problem::of_file(&error.cause)),
        kind: match &error.cause {
            Cause::Read(error) | Cause::Write { error, .. } if is_out_of_files(error) => {
                FailureKind::NoFreeFile
            }
            Cause::NotFound | Cause::PermissionDenied | Cause::PartnerMissing { .. } | Cause::Read(_)
                if stage == Stage::Read =>
            {
                FailureKind::CannotOpen
            }
            Cause::NoSpace { .. } => FailureKind::NoSpace,
            Cause::NotRecorded { error } => match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureKind::NoSpace,
                _ => FailureKind::NoJournal,
            },
            Cause::OverMemoryLimit { needed, .. } => FailureKind::NeedsMemory {
                needed_bytes: *needed,
            },
            _ => FailureKind::Own,
        },
    }
}
