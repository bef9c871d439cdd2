//! The files of an image on disk: finding and opening them.

use std::borrow::Cow;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use super::error::{Cause, ImageError};
use super::file_name::{self, Role, Suffix};
use super::header_layout::Layout;
use super::identity::FileId;

/// The files of an image.
pub(super) struct ImageFiles<'a> {
    given: &'a Path,
    role: Role,
    pub header: Cow<'a, Path>,
}

impl<'a> ImageFiles<'a> {
    pub fn of(given: &'a Path) -> Result<Self, ImageError> {
        let role = suffix_of(given)?.role;
        let header = match role {
            Role::Voxels => partner(given)?,
            Role::Single | Role::Header => Cow::Borrowed(given),
        };
        Ok(ImageFiles { given, role, header })
    }

    pub fn layout(&self) -> Layout {
        match self.role {
            Role::Single => Layout::SingleFile,
            Role::Header | Role::Voxels => Layout::Pair,
        }
    }

    /// The file with the voxels. It can be missing in a pair.
    pub fn voxels(&self) -> Result<Cow<'a, Path>, ImageError> {
        match self.role {
            Role::Header => partner(self.given),
            Role::Single | Role::Voxels => Ok(Cow::Borrowed(self.given)),
        }
    }
}

/// The suffix of the path.
pub(super) fn suffix_of(path: &Path) -> Result<Suffix, ImageError> {
    match path.file_name().and_then(file_name::split) {
        Some((_, suffix)) => Ok(suffix),
        None if path.is_dir() => Err(Cause::IsDirectory.at(path)),
        None => Err(Cause::UnknownSuffix.at(path)),
    }
}

/// The existing other file of a pair, preferably compressed like the given one.
fn partner<'a>(path: &Path) -> Result<Cow<'a, Path>, ImageError> {
    let name = path
        .file_name()
        .and_then(file_name::pair_partner)
        .ok_or_else(|| Cause::UnknownSuffix.at(path))?;
    let other_name = file_name::toggle_gzip(&name);
    let same = path.with_file_name(&name);
    if same.exists() {
        return Ok(Cow::Owned(same));
    }
    match other_name.map(|name| path.with_file_name(name)) {
        Some(other) if other.exists() => Ok(Cow::Owned(other)),
        // If neither file exists, report the requested one as missing.
        _ if !path.exists() => Err(Cause::NotFound.at(path)),
        _ => Err(Cause::PartnerMissing { partner: same }.at(path)),
    }
}

/// Size and time of the image's file, or of both halves of a pair, the header first.
///
/// # Errors
/// See [`Cause`].
pub fn identify(path: &Path) -> Result<Vec<FileId>, ImageError> {
    let look = |path: &Path| {
        std::fs::metadata(path)
            .map(|metadata| FileId::of(path, &metadata))
            .map_err(|error| Cause::reading(error).at(path))
    };
    let files = ImageFiles::of(path)?;
    let mut all = vec![look(&files.header)?];
    if files.layout() == Layout::Pair {
        all.push(look(&files.voxels()?)?);
    }
    Ok(all)
}

/// A regular file that is open for reading.
pub(crate) struct OpenFile {
    pub(super) file: File,
    pub(super) id: FileId,
    pub(super) gzip: bool,
    stamp: Stamp,
}

impl OpenFile {
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        suffix_of(path)?;
        let file = OpenOptions::new()
            .read(true)
            // Opening a pipe would otherwise wait for a writer.
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path);
        Self::of(file.map_err(|error| Cause::reading(error).at(path))?, path)
    }

    fn of(file: File, path: &Path) -> Result<Self, ImageError> {
        let gzip = suffix_of(path)?.gzip;
        let at = |cause: Cause| cause.at(path);
        let metadata = file.metadata().map_err(|error| at(Cause::reading(error)))?;
        if metadata.is_dir() {
            return Err(at(Cause::IsDirectory));
        }
        if !metadata.is_file() {
            return Err(at(Cause::NotRegular));
        }
        if metadata.len() == 0 {
            return Err(at(Cause::Empty));
        }
        Ok(OpenFile {
            file,
            id: FileId::of(path, &metadata),
            gzip,
            stamp: Stamp::of(&metadata),
        })
    }

    /// Whether its path still leads to this file, unchanged.
    fn is_current(&self) -> bool {
        self.stamp.is_of(&self.id.path)
    }

    /// Properties that must not change while the file is read.
    pub(super) fn watch(&self) -> Watch {
        Watch {
            id: self.id.clone(),
            stamp: self.stamp,
        }
    }

    /// Asks the system to prefetch the content, without waiting for it.
    fn fetch(&self) {
        #[cfg(target_os = "linux")]
        {
            use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
            /// Linux fetches no more than its read-ahead window per call.
            const STEP: u64 = 128 << 10;
            for start in (0..self.id.bytes).step_by(STEP as usize) {
                let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
                if posix_fadvise(&self.file, start as i64, STEP as i64, advice).is_err() {
                    return;
                }
            }
        }
    }
}

/// An input file that is checked for changes after reading.
pub(super) struct Watch {
    pub id: FileId,
    stamp: Stamp,
}

impl Watch {
    /// Whether the open file is unchanged. A file that is written to while it is read gives a mixture of old
    /// and new, which only the checksum of a compressed file would detect.
    pub fn check_file(&self, file: &File) -> Result<(), Cause> {
        let now = FileId::of(&self.id.path, &file.metadata().map_err(Cause::reading)?);
        match now.seems_same(&self.id) {
            true => Ok(()),
            false => Err(Cause::ChangedWhileRead),
        }
    }

    /// Whether the path still leads to the file, unchanged.
    pub fn check_path(&self) -> Result<(), ImageError> {
        match self.stamp.is_of(&self.id.path) {
            true => Ok(()),
            false => Err(Cause::ChangedWhileRead.at(&self.id.path)),
        }
    }
}

/// Properties that change when a file is written to or replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn is_of(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|metadata| Stamp::of(&metadata) == *self)
    }
}

/// The open files of an image.
pub(crate) enum OpenedInput {
    SingleFile(OpenFile),
    /// The header and the voxels. If the voxels cannot be opened, errors of the header are reported first.
    Pair(OpenFile, Result<OpenFile, ImageError>),
}

impl OpenedInput {
    /// Opens the file of the image at `path`, or both files of a pair.
    pub(super) fn open(path: &Path) -> Result<Self, ImageError> {
        let files = ImageFiles::of(path)?;
        let header = OpenFile::open(&files.header)?;
        Ok(match files.layout() {
            Layout::SingleFile => OpenedInput::SingleFile(header),
            Layout::Pair => {
                let voxels = files.voxels().and_then(|path| OpenFile::open(&path));
                OpenedInput::Pair(header, voxels)
            }
        })
    }

    /// Opens the files and asks the system to fetch them into its cache, without waiting for the content.
    /// `None` if that fails: reading the image then reports the cause.
    pub(crate) fn open_ahead(path: &Path) -> Option<Self> {
        let opened = Self::open(path).ok()?;
        match &opened {
            OpenedInput::SingleFile(file) => file.fetch(),
            OpenedInput::Pair(header, voxels) => {
                header.fetch();
                voxels.as_ref().ok()?.fetch();
            }
        }
        Some(opened)
    }

    /// The current files of the image at `path`; `self` was opened some time ago.
    pub(super) fn refresh(self, path: &Path) -> Result<Self, ImageError> {
        match self {
            OpenedInput::SingleFile(file) => {
                OpenFile::of(file.file, &file.id.path).map(OpenedInput::SingleFile)
            }
            OpenedInput::Pair(header, Ok(voxels)) if header.is_current() && voxels.is_current() => {
                Ok(OpenedInput::Pair(header, Ok(voxels)))
            }
            OpenedInput::Pair(..) => Self::open(path),
        }
    }
}
