//! Errors of reading and writing images. Each message states the cause and what to do.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::not_fetched;

/// A failure to read or write one image: the file concerned and the cause.
///
/// ```
/// use std::path::Path;
/// use niimpi::image_io::{Cause, probe};
///
/// let error = probe(Path::new("missing.nii.gz")).unwrap_err();
/// assert!(matches!(error.cause, Cause::NotFound));
/// assert_eq!(error.to_string(), "missing.nii.gz: there is no such file; check the path");
/// ```
#[derive(Debug, Error)]
#[error("{}: {cause}", path.display())]
pub struct ImageError {
    /// The file concerned; for a pair, one of the two.
    pub path: PathBuf,
    /// What went wrong.
    pub cause: Cause,
}

/// What went wrong with an image file. See [`ImageError`] for an example.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "each variant's message is its description, and its fields are the figures in it"
)]
pub enum Cause {
    // The file itself.
    #[error("there is no such file; check the path")]
    NotFound,
    #[error("its content is not fetched, only a pointer to it is here; fetch it with `{command}`")]
    NotFetched { command: &'static str },
    #[error("no permission to read it; ask its owner, or check with `ls -l`")]
    PermissionDenied,
    #[error("is a folder, not an image")]
    IsDirectory,
    #[error("is a pipe, socket or device; an image must be a regular file")]
    NotRegular,
    #[error("is not an image file name; names end in .nii, .nii.gz, .hdr, .img, .hdr.gz or .img.gz")]
    UnknownSuffix,
    #[error("its other half {} is missing; a pair needs both its .hdr and its .img", partner.display())]
    PartnerMissing { partner: PathBuf },
    #[error("reading failed: {0}")]
    Read(io::Error),
    #[error("is empty (0 bytes); copy or convert it again")]
    Empty,
    #[error("was changed while it was read; wait until its writer is done, then process it again")]
    ChangedWhileRead,

    // The kind of file.
    #[error("is not a NIfTI image: it begins with {begins}")]
    NotNifti { begins: String },
    #[error("its magic is {found}, where NIfTI has n+1, ni1, n+2 or ni2; the header is damaged")]
    BadMagic { found: String },
    #[error(
        "is an Analyze 7.5 image (no NIfTI magic), which does not define left and right; convert it to NIfTI"
    )]
    Analyze,
    #[error("is a CIFTI file (grayordinates, not a grid of voxels); smooth it with a CIFTI tool")]
    Cifti,
    #[error(
        "is a FreeSurfer surface overlay ({vertices} vertices, not a grid of voxels); \
         smooth it with a surface tool, such as mri_surf2surf or wb_command -metric-smoothing"
    )]
    SurfaceOverlay { vertices: i64 },
    #[error(
        "its NIfTI-2 signature was changed by a transfer in text mode; copy the file again in binary mode"
    )]
    MangledByTextMode,
    #[error("is compressed with gzip but its name does not say so; rename it to end in .gz")]
    GzipInPlainName,
    #[error("its name ends in .gz but it is not compressed; rename it without .gz")]
    PlainInGzipName,
    #[error("its name ends in .gz but it is not a gzip file: it begins with {begins}")]
    NotGzip { begins: String },

    // The header.
    #[error("ends after {found} bytes, inside its header of {needed}; the file was cut short: copy it again")]
    HeaderTruncated { found: u64, needed: u64 },
    #[error(
        "holds {name} voxels (datatype {code}); only real integers and floats of up to 64 bits can be read"
    )]
    UnsupportedDatatype { code: i16, name: String },
    #[error("its header says {ndim} dimensions, where NIfTI has 1 to 7; the header is damaged")]
    BadDimensionCount { ndim: i64 },
    #[error("its header says that axis {axis} is {length} voxels long; the header is damaged")]
    BadDimension { axis: usize, length: i64 },
    #[error(
        "its header says that the voxels start at byte {offset} (vox_offset), which no file has; \
         the header is damaged"
    )]
    BadVoxOffset { offset: f64 },
    #[error(
        "its header says that the voxels start at byte {offset} (vox_offset), inside the header, \
         which needs {least}; set vox_offset to where they do start"
    )]
    OffsetInHeader { offset: u64, least: u64 },
    #[error(
        "its header says that the voxels start at byte {offset} (vox_offset), but the .img has only \
         {found} bytes, which are the voxels alone; set vox_offset to 0"
    )]
    OffsetInPair { offset: u64, found: u64 },
    #[error(
        "its header has a valid slope of {slope} but an intercept of {intercept}; set scl_inter to a number"
    )]
    NonFiniteIntercept { slope: f64, intercept: f64 },
    #[error("its header extensions take {bytes} bytes; at most {limit} can be copied to the output")]
    ExtensionsTooLarge { bytes: u64, limit: u64 },

    // The voxels.
    #[error(
        "its header declares {declared} bytes, more than a gzip file of {file_bytes} can hold; \
         the header is damaged or the file was cut short"
    )]
    ImpossibleSize { declared: u128, file_bytes: u64 },
    #[error("needs {needed} bytes of memory, more than the limit of {limit}; give the run more memory")]
    OverMemoryLimit { needed: u64, limit: u64 },
    #[error(
        "needs {needed} bytes for its voxels, which the system does not have; \
         use fewer threads or more memory"
    )]
    OutOfMemory { needed: u64 },
    #[error(
        "its header declares {declared} bytes but it holds {found}; the file was cut short: copy it again"
    )]
    VoxelsTruncated { declared: u128, found: u64 },

    // gzip.
    #[error(
        "its gzip stream ends early, after {inflated} bytes of content; \
         the file was cut short: copy it again"
    )]
    GzipTruncated { inflated: u64 },
    #[error(
        "its last {missing} bytes are missing (gzip's checksum and length); \
         the file was cut short: copy it again"
    )]
    GzipTrailerCut { missing: usize },
    #[error(
        "its gzip stream is damaged after {inflated} bytes of content; copy it again and check with `gzip -t`"
    )]
    GzipDamaged { inflated: u64 },
    #[error(
        "its gzip header is damaged or uses an unknown method or flag; copy it again and check with `gzip -t`"
    )]
    GzipHeaderDamaged,
    #[error(
        "its content has the checksum {computed:08x} where gzip recorded {stored:08x}; \
         the file is damaged: copy it again"
    )]
    CrcMismatch { stored: u32, computed: u32 },
    #[error(
        "its content is {found} bytes long (mod 2^32) where gzip recorded {stored}; \
         the file is damaged: copy it again"
    )]
    LengthMismatch { stored: u32, found: u32 },
    #[error("data that are not gzip follow its gzip stream; copy it again, or remove them")]
    TrailingGarbage,
    #[error("more than {limit} zero bytes follow its gzip stream; cut them off")]
    PaddingTooLong { limit: u64 },

    // Writing.
    #[error("the disk is full or the quota is used up ({error}); free space or choose another output folder")]
    NoSpace { error: io::Error },
    #[error("no permission to write in {}; choose another output folder", folder.display())]
    WriteDenied { folder: PathBuf },
    #[error(
        "the folder {} is a link, which leads out of the output folder; remove it, or follow links",
        folder.display()
    )]
    FolderIsLink { folder: PathBuf },
    #[error("another run wrote it meanwhile; what it wrote is kept")]
    WrittenMeanwhile,
    #[error("the journal cannot be written ({error}), and no result gets its name without a record")]
    NotRecorded { error: io::Error },
    #[error("the folder {} does not exist; create it first", folder.display())]
    FolderMissing { folder: PathBuf },
    #[error("{action} failed: {error}")]
    Write { action: &'static str, error: io::Error },
    #[error("axis {axis} is {length} voxels long, more than NIfTI-1 allows (32767); write NIfTI-2")]
    TooLongForNifti1 { axis: usize, length: usize },
    #[error("the image in memory has {found} bytes of voxels, but its shape and type need {needed}")]
    Inconsistent { found: usize, needed: usize },
}

impl Cause {
    /// The error for the file at `path`.
    pub(super) fn at(self, path: &Path) -> ImageError {
        let is_other_content = matches!(
            self,
            Cause::NotFound | Cause::NotNifti { .. } | Cause::NotGzip { .. } | Cause::HeaderTruncated { .. }
        );
        let command = is_other_content.then(|| not_fetched::command_for(path)).flatten();
        ImageError {
            path: path.to_path_buf(),
            cause: command.map_or(self, |command| Cause::NotFetched { command }),
        }
    }

    /// Whether the file could not be read, so that its content is unknown.
    pub(crate) fn is_of_access(&self) -> bool {
        matches!(
            self,
            Cause::Read(_)
                | Cause::PermissionDenied
                | Cause::NotFetched { .. }
                | Cause::ChangedWhileRead
                | Cause::OutOfMemory { .. }
                | Cause::OverMemoryLimit { .. }
        )
    }

    /// The cause of a failed open or read.
    pub(super) fn reading(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Cause::NotFound,
            io::ErrorKind::NotADirectory => Cause::NotFound,
            io::ErrorKind::PermissionDenied => Cause::PermissionDenied,
            io::ErrorKind::IsADirectory => Cause::IsDirectory,
            _ => Cause::Read(error),
        }
    }

    /// The cause of a failed step of writing a file in `folder`.
    pub(super) fn writing(action: &'static str, folder: &Path, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::NoSpace { error },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Cause::WriteDenied {
                folder: folder.to_path_buf(),
            },
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Cause::FolderMissing {
                folder: folder.to_path_buf(),
            },
            io::ErrorKind::AlreadyExists => Cause::WrittenMeanwhile,
            _ => Cause::Write { action, error },
        }
    }
}

/// The first bytes of a file for a message.
pub(super) fn beginning(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(16)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn system_errors_get_causes_that_say_what_to_do() {
        let path = Path::new("/out/a.nii.gz");
        let folder = Path::new("/out");
        let text = |code: i32| {
            let error = io::Error::from_raw_os_error(code);
            Cause::writing("writing", folder, error).at(path).to_string()
        };
        const ENOENT: i32 = 2;
        const EIO: i32 = 5;
        const EACCES: i32 = 13;
        const ENOSPC: i32 = 28;
        const EROFS: i32 = 30;
        let full = text(ENOSPC);
        assert!(full.starts_with("/out/a.nii.gz: the disk is full"), "{full}");
        assert!(
            full.ends_with("free space or choose another output folder"),
            "{full}"
        );
        assert!(text(EACCES).ends_with("no permission to write in /out; choose another output folder"));
        assert!(text(EROFS).contains("no permission to write in /out"));
        assert!(text(ENOENT).ends_with("the folder /out does not exist; create it first"));
        assert!(text(EIO).contains("writing failed: "));
        let read = Cause::reading(io::Error::from_raw_os_error(EACCES))
            .at(path)
            .to_string();
        assert!(read.contains("no permission to read it"), "{read}");
    }

    #[test]
    fn content_that_is_not_fetched_is_named_with_its_command() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.nii.gz");
        let cause = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let begins = "x".to_owned();
            Cause::NotGzip { begins }.at(&path).to_string()
        };
        let annexed = cause(b"/annex/objects/MD5E-s99--0123.nii.gz\n");
        assert!(
            annexed.ends_with("fetch it with `datalad get` or `git annex get`"),
            "{annexed}"
        );
        let lfs = cause(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n");
        assert!(lfs.ends_with("fetch it with `git lfs pull`"), "{lfs}");
        assert!(cause(b"text").contains("not a gzip file"));

        let link = dir.path().join("b.nii");
        std::os::unix::fs::symlink("../.git/annex/objects/cc/dd/K.nii/K.nii", &link).unwrap();
        assert!(Cause::NotFound.at(&link).to_string().contains("datalad get"));
        let elsewhere = dir.path().join("c.nii");
        std::os::unix::fs::symlink("nowhere", &elsewhere).unwrap();
        assert!(matches!(Cause::NotFound.at(&elsewhere).cause, Cause::NotFound));
    }
}
