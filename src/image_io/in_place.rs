//! In place: several processes write to one unfinished file, each to its own range. One of them creates the
//! file and gives it its name.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use super::error::ImageError;
use super::identity::path_text;
use super::publish::failed;

/// An unfinished file, as another process finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Its temporary path, which no other file has.
    #[serde(with = "path_text")]
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    /// The first byte of the voxels.
    pub(super) voxel_offset: u64,
    /// Whether it has to survive a power failure.
    pub(super) sync: bool,
}

/// An unfinished file that is open for writing.
pub(crate) struct InPlace {
    file: File,
    /// Its final path, for messages.
    path: PathBuf,
    voxel_offset: usize,
    sync: bool,
}

impl InPlace {
    /// Ranges start and end at multiples of this in the file. A network file system can write whole pages for
    /// a few bytes, so two nodes must not write to the same page.
    const BLOCK_BYTES: usize = 64 << 10;

    pub(super) fn new(file: File, path: &Path, place: &Place) -> Self {
        InPlace {
            file,
            path: path.to_owned(),
            voxel_offset: place.voxel_offset as usize,
            sync: place.sync,
        }
    }

    /// Opens the file that becomes `path`; `None` if this process does not find it there.
    pub(crate) fn open(path: &Path, place: &Place) -> Option<Self> {
        let flags = OFlag::O_NOFOLLOW.bits();
        let opened = File::options().write(true).custom_flags(flags).open(&place.path);
        let file = opened
            .inspect_err(|error| tracing::debug!("{}: cannot be opened: {error}", place.path.display()))
            .ok()?;
        let found = file.metadata().ok()?;
        let is_it = found.is_file() && found.ino() == place.inode;
        is_it.then(|| InPlace::new(file, path, place))
    }

    /// Those of these bytes of the voxels that are written in place. The file's last byte is never among
    /// them: its creator writes it when all else is written.
    pub(crate) fn range(&self, bytes: Range<usize>) -> Range<usize> {
        let offset = self.voxel_offset;
        let start = (bytes.start + offset).next_multiple_of(Self::BLOCK_BYTES) - offset;
        let last = (bytes.end + offset).saturating_sub(1);
        let end = (last - last % Self::BLOCK_BYTES).saturating_sub(offset);
        match start < end {
            true => start..end,
            false => bytes.end..bytes.end,
        }
    }

    /// Writes bytes of the voxels, from this one on.
    ///
    /// # Errors
    /// See [`Cause`](super::Cause).
    pub(crate) fn write(&self, first: usize, content: &[u8]) -> Result<(), ImageError> {
        let written = self
            .file
            .write_all_at(content, (self.voxel_offset + first) as u64);
        written.map_err(|error| failed("writing", &self.path, error))
    }

    /// Completes the writing of this process. Network file systems report some errors only now.
    ///
    /// # Errors
    /// See [`Cause`](super::Cause).
    pub(crate) fn finish(self) -> Result<(), ImageError> {
        let synced = match self.sync {
            true => self.file.sync_data(),
            false => Ok(()),
        };
        let closed = synced.and_then(|()| Ok(nix::unistd::close(self.file)?));
        closed.map_err(|error| failed("writing", &self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole_blocks_of_the_file() {
        let file = tempfile::tempfile().unwrap();
        let place = Place {
            path: PathBuf::new(),
            inode: 0,
            voxel_offset: 352,
            sync: false,
        };
        let file = InPlace::new(file, Path::new("a.nii"), &place);
        const BLOCK: usize = InPlace::BLOCK_BYTES;
        assert_eq!(file.range(0..BLOCK), BLOCK..BLOCK, "too short");
        assert_eq!(file.range(0..3 * BLOCK), BLOCK - 352..3 * BLOCK - 352);
        // The last block is left out, also if it is whole.
        assert_eq!(file.range(0..3 * BLOCK - 352), BLOCK - 352..2 * BLOCK - 352);
        assert_eq!(file.range(0..3 * BLOCK - 351), BLOCK - 352..3 * BLOCK - 352);
        let next = 2 * BLOCK - 352;
        assert_eq!(file.range(next..5 * BLOCK), next..5 * BLOCK - 352);
        assert_eq!(file.range(7..7), 7..7);
        assert_eq!(file.range(0..0), 0..0);
    }
}
