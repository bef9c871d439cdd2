//! Image files: reading, writing and probing NIfTI images.
//!
//! | file | contents |
//! |---|---|
//! | `file_name` | which names are images, their stems and suffixes, the two halves of a pair |
//! | `files` | the files of an image: finding, opening and watching them |
//! | `identity` | what tells a file from a changed one |
//! | `header`, `header_layout` | NIfTI-1 and NIfTI-2 headers: meaning and bytes |
//! | `gzip` | gzip files, over ISA-L or flate2 |
//! | `input_stream` | the content of a file, compressed or not |
//! | `read_header`, `read`, `probe` | reading a header, an image, or only what a header says |
//! | `write` | writing an image |
//! | `publish` | complete files get their names |
//! | `verify` | checking that what was written is still there |
//! | `error`, `warning` | every cause of failure and every oddity, in words |
//!
//! A [`Workspace`] belongs to one worker. It keeps the codec's state and a few small buffers from image to image; the voxels
//! themselves are inflated straight into [`Volume::voxels`] and deflated straight out of it, a piece at a time, so that an
//! image costs its decompressed size and nothing more.

#[cfg(target_endian = "big")]
compile_error!(
    "image_io writes voxels as they lie in memory and so needs a little-endian processor"
);

mod error;
pub mod file_name;
mod files;
mod gzip;
mod header;
mod header_layout;
mod identity;
mod image;
mod input_stream;
mod not_fetched;
mod probe;
mod publish;
mod read;
mod read_header;
mod verify;
mod warning;
mod write;

use std::path::Path;

pub use crate::atomic_file::Folders;
pub use error::{Cause, ImageError};
pub(crate) use files::OpenedInput;
pub use files::identify;
pub use gzip::CompressionLevel;
pub(crate) use gzip::{Chunk, ChunkEncoder};
pub use header::{Header, LengthUnit, VoxelSizeDisagreement};
pub use header_layout::Version;
pub(crate) use identity::path_text;
pub use identity::{Crc32, FileId};
pub use image::Image;
pub use probe::{Probe, probe};
pub(crate) use publish::Existing;
pub use publish::NamelessOutput;
pub(crate) use read::TakeVoxels;
pub use read::{ImageReader, ReadSummary};
pub use verify::{Verifier, input_crc32, pair_seems_intact, seems_intact};
pub use warning::Warning;
pub(crate) use write::GrowingFile;
pub use write::WriteOptions;

/// What one worker needs to read and write images: the codec's state and a few buffers, reused from image to image.
pub struct Workspace {
    reader: ImageReader,
    writer: write::Writer,
}

impl Workspace {
    /// A workspace that compresses its outputs at `level`. About 3 MB.
    pub fn new(level: CompressionLevel) -> Self {
        Workspace {
            reader: ImageReader::new(),
            writer: write::Writer::new(level),
        }
    }

    /// Refuses images that need more than `limit_bytes`, before anything is allocated for them. Their voxels count, unless
    /// [`Workspace::set_memory_need`] says otherwise.
    pub fn set_memory_limit(&mut self, limit_bytes: Option<u64>) {
        self.reader.set_memory_limit(limit_bytes);
    }

    /// Says what an image needs by its header, in bytes, when more than its voxels counts.
    pub(crate) fn set_memory_need(&mut self, need: impl Fn(&Header) -> u64 + Send + 'static) {
        self.reader.set_memory_need(need);
    }

    /// Reads the image at `path` into `image`, whose memory is reused. Of a pair either half may be named.
    ///
    /// The voxels are the file's own numbers in its own type, in native byte order. gzip's checksum and length are verified
    /// to the end of the file, also when more follows the voxels.
    ///
    /// # Errors
    /// See [`Cause`]. What `image` then holds is unspecified; it can be read into again.
    pub fn read(&mut self, path: &Path, image: &mut Image) -> Result<ReadSummary, ImageError> {
        self.reader.read(path, image)
    }

    /// [`Workspace::read`], from files that were opened ahead, but `take` fetches the voxels, and may do something with the first while the last are still to
    /// come. They are known to be sound when this returns, not earlier.
    ///
    /// # Errors
    /// Those of [`Workspace::read`].
    pub(crate) fn read_with(
        &mut self,
        path: &Path,
        fetched: Option<OpenedInput>,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<ReadSummary, ImageError> {
        self.reader.read_with(path, fetched, image, take)
    }

    /// Writes `image` to `path`, whose suffix decides between a single file and a pair, compressed or not.
    ///
    /// The file appears under its name once it is complete: it is written beside it under a name of the form
    /// `.niimpi-….part` and renamed. An existing file is replaced. The folder must exist. The bytes depend on the image, the
    /// compression level and the codec alone.
    ///
    /// # Errors
    /// See [`Cause`]. No part of the file remains under `path`, and what was there before is untouched.
    pub fn write(
        &mut self,
        path: &Path,
        image: &Image,
        options: &WriteOptions,
    ) -> Result<Vec<FileId>, ImageError> {
        self.write_nameless(path, image, options)?.publish()
    }

    /// [`Workspace::write`] but for its last step, the one that waits for the disk: [`NamelessOutput::publish`] takes it, in
    /// another thread perhaps, while the next image is at work.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn write_nameless(
        &mut self,
        path: &Path,
        image: &Image,
        options: &WriteOptions,
    ) -> Result<NamelessOutput, ImageError> {
        self.writer.write(path, image, options)
    }
}
