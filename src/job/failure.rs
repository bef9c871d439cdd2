//! Failures: what an error means for its image and for others.

use std::io::ErrorKind;
use std::path::Path;

use super::outcome::{Failure, FailureKind, Stage};
use crate::filter::FilterError;
use crate::image_io::{Cause, ImageError};

/// The failure of an image in the filter.
pub(super) fn filter_failure(input: &Path, error: &FilterError) -> Failure {
    Failure {
        stage: Stage::Filter,
        error: format!("{}: {error}", input.display()),
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
        ..failure
    }
}

/// Whether this process or the system has reached its limit on open files.
fn is_out_of_files(error: &std::io::Error) -> bool {
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
