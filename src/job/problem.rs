//! Problem: the kind of a failure's cause, by which a report says what to do about it.

use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use crate::filter::FilterError;
use crate::image_io::Cause;

/// The kind of the cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// Only a pointer to the content is there.
    NotFetched,
    NotFound,
    /// The input must not be read.
    NoPermission,
    /// The file system does not read it.
    Unreadable,
    ChangedWhileRead,
    /// The file or its header is cut short or altered.
    Damaged,
    /// A kind of file or voxels that no filter processes.
    Unsupported,
    /// A mask is missing or does not fit.
    Mask,
    /// Metadata of a BIDS dataset.
    Metadata,
    /// More memory is needed than there is.
    Memory,
    /// The filter refuses NaN and infinite voxels.
    NonFinite,
    /// The options do not fit the image.
    Options,
    /// An OpenCL device.
    Device,
    DiskFull,
    /// The output folder must not be written, or is missing.
    NotWritable,
    /// Another run wrote the result.
    WrittenMeanwhile,
    /// The journal cannot be written.
    Journal,
    /// Anything else, also of a later version.
    #[serde(other)]
    Other,
}

impl Problem {
    /// The kind of an error of reading or writing.
    pub(super) fn of_file(cause: &Cause) -> Self {
        match cause {
            Cause::NotFetched { .. } => Problem::NotFetched,
            Cause::NotFound | Cause::PartnerMissing { .. } => Problem::NotFound,
            Cause::PermissionDenied => Problem::NoPermission,
            Cause::Read(_) => Problem::Unreadable,
            Cause::ChangedWhileRead => Problem::ChangedWhileRead,
            Cause::IsDirectory
            | Cause::NotRegular
            | Cause::UnknownSuffix
            | Cause::NotNifti { .. }
            | Cause::Analyze
            | Cause::Cifti
            | Cause::SurfaceOverlay { .. }
            | Cause::UnsupportedDatatype { .. }
            | Cause::TooLongForNifti1 { .. } => Problem::Unsupported,
            Cause::Empty
            | Cause::BadMagic { .. }
            | Cause::MangledByTextMode
            | Cause::GzipInPlainName
            | Cause::PlainInGzipName
            | Cause::NotGzip { .. }
            | Cause::HeaderTruncated { .. }
            | Cause::BadDimensionCount { .. }
            | Cause::BadDimension { .. }
            | Cause::BadVoxOffset { .. }
            | Cause::OffsetInHeader { .. }
            | Cause::OffsetInPair { .. }
            | Cause::NonFiniteIntercept { .. }
            | Cause::ExtensionsTooLarge { .. }
            | Cause::ImpossibleSize { .. }
            | Cause::VoxelsTruncated { .. }
            | Cause::GzipTruncated { .. }
            | Cause::GzipTrailerCut { .. }
            | Cause::GzipDamaged { .. }
            | Cause::GzipHeaderDamaged
            | Cause::CrcMismatch { .. }
            | Cause::LengthMismatch { .. }
            | Cause::TrailingGarbage
            | Cause::PaddingTooLong { .. } => Problem::Damaged,
            Cause::OverMemoryLimit { .. } | Cause::OutOfMemory { .. } => Problem::Memory,
            Cause::NoSpace { .. } => Problem::DiskFull,
            Cause::NotRecorded { error } => match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Problem::DiskFull,
                _ => Problem::Journal,
            },
            Cause::WriteDenied { .. } | Cause::FolderIsLink { .. } | Cause::FolderMissing { .. } => {
                Problem::NotWritable
            }
            Cause::WrittenMeanwhile => Problem::WrittenMeanwhile,
            Cause::Write { .. } | Cause::Inconsistent { .. } => Problem::Other,
        }
    }

    /// The kind of an error of a filter.
    pub(super) fn of_filter(error: &FilterError) -> Self {
        match error {
            FilterError::Parameter { name: "nan", .. } => Problem::NonFinite,
            FilterError::Parameter { .. }
            | FilterError::VoxelSize { .. }
            | FilterError::Radius { .. }
            | FilterError::Work { .. } => Problem::Options,
            FilterError::Memory { .. } => Problem::Memory,
            FilterError::Device { .. } | FilterError::DeviceMemory { .. } => Problem::Device,
            FilterError::Stopped | FilterError::Length { .. } => Problem::Other,
        }
    }

    /// What to do about it. The error itself names the file and the figures.
    pub(crate) fn cure(self) -> &'static str {
        match self {
            Problem::NotFetched => {
                "Fetch the content with the command that the cause names, then run the same command with \
                 --resume."
            }
            Problem::NotFound => {
                "Check that the file exists and that every node sees it, then run the same command with \
                 --resume."
            }
            Problem::NoPermission => {
                "Get permission to read the file from its owner, then run the same command with --resume."
            }
            Problem::Unreadable => {
                "Check the file system, or ask its administrator; then run the same command with --resume."
            }
            Problem::ChangedWhileRead => {
                "Wait until the program that writes the image is done, then run the same command with \
                 --resume."
            }
            Problem::Damaged => {
                "Replace the file by an intact copy or correct it as the cause says, then run the same \
                 command with --resume."
            }
            Problem::Unsupported => {
                "Leave the file out with --exclude, or convert it to a NIfTI image of real numbers."
            }
            Problem::Mask => {
                "Correct the mask that the cause names, then run the same command with --resume."
            }
            Problem::Metadata => {
                "Correct the metadata file that the cause names, then run the same command with --resume."
            }
            Problem::Memory => {
                "Give the job more memory or start fewer ranks on a node, then run the same command with \
                 --resume."
            }
            Problem::NonFinite => {
                "Repair the image and run the same command with --resume; or filter it with another --nan \
                 into another output folder."
            }
            Problem::Options => {
                "Correct the image and run the same command with --resume; or filter it with other options \
                 into another output folder."
            }
            Problem::Device => {
                "Run the same command with --resume, and with --device cpu if the device fails again."
            }
            Problem::DiskFull => "Free space or get a larger quota, then run the same command with --resume.",
            Problem::NotWritable => {
                "Correct the folder of the results as the cause says, then run the same command with \
                 --resume."
            }
            Problem::WrittenMeanwhile => {
                "Start one run at a time for these results. niimpi verify checks what the other run wrote."
            }
            Problem::Journal => {
                "Make the folder .niimpi below the output folder writable, then run the same command with \
                 --resume."
            }
            Problem::Other => "Follow the cause, then run the same command with --resume.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_reports_are_stable_and_later_ones_are_read() {
        let text = serde_json::to_string(&[Problem::NotFetched, Problem::DiskFull]).unwrap();
        assert_eq!(text, r#"["not-fetched","disk-full"]"#);
        let later: Problem = serde_json::from_str(r#""made-up-later""#).unwrap();
        assert_eq!(later, Problem::Other);
        for problem in [Problem::NotFetched, Problem::Memory, Problem::Other] {
            let bytes = crate::comm::encode(&problem);
            assert_eq!(crate::comm::decode::<Problem>(&bytes), problem);
        }
    }

    #[test]
    fn a_full_disk_is_one_kind_wherever_it_is_noticed() {
        let full = || std::io::Error::from(ErrorKind::StorageFull);
        for cause in [
            Cause::NoSpace { error: full() },
            Cause::NotRecorded { error: full() },
        ] {
            assert_eq!(Problem::of_file(&cause), Problem::DiskFull);
        }
    }
}
