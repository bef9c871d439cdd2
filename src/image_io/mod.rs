//! Image files: reading, writing and probing NIfTI images.
//!
//! | file | what it holds |
//! |---|---|
//! | `file_name` | which names are images, their stems and suffixes, the two halves of a pair |
//! | `header` | NIfTI-1 and NIfTI-2 headers: parsing, checking, serialising; extensions |
//! | `header_layout` | where a header's fields lie, and their byte order |
//! | `gzip` | the gzip wrapper: members, trailers, chunks |
//! | `gzip_isal`, `gzip_flate2` | raw deflate streams, one interface, one of the two chosen when the crate is built |
//! | `read`, `write` | one image's way in and out |
//! | `part` | files on their way, and what dead processes left of theirs |
//! | `identity` | what tells a file from a changed one |
//! | `verify` | whether what was written is still there |
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
mod gzip;
mod header;
mod header_layout;
mod identity;
mod part;
mod read;
mod verify;
mod warning;
mod write;

use std::path::Path;

use crate::volume::Volume;

pub use error::{Cause, ImageError};
pub use gzip::CompressionLevel;
pub(crate) use gzip::{Chunk, ChunkEncoder};
pub use header::{Header, VoxelSizeDisagreement};
pub use header_layout::Version;
pub(crate) use identity::path_text;
pub use identity::{Crc32, FileId, identify};
pub use part::{remove_parts_in_hand, remove_stale_parts};
pub use read::{Fetched, NextBytes, Probe, ReadSummary, TakeVoxels, probe, read_ahead};
pub use verify::{Verifier, input_crc32, pair_seems_intact, seems_intact};
pub use warning::Warning;
pub(crate) use write::GrowingFile;
pub use write::{NamelessOutput, WriteOptions};

/// One image: its header and its voxels. A worker keeps one and reads image after image into it.
#[derive(Default)]
pub struct Image {
    /// What the file says beside the voxels; carried over to the output.
    pub header: Header,
    /// The voxels with what is needed to compute with them.
    pub volume: Volume,
}

/// What one worker needs to read and write images: the codec's state and a few buffers, reused from image to image.
pub struct Workspace {
    reader: read::Reader,
    writer: write::Writer,
}

impl Workspace {
    /// A workspace that compresses its outputs at `level`. About 3 MB.
    pub fn new(level: CompressionLevel) -> Self {
        Workspace {
            reader: read::Reader::new(),
            writer: write::Writer::new(level),
        }
    }

    /// Refuses images that need more than `limit_bytes`, before anything is allocated for them. Their voxels count, unless
    /// [`Workspace::set_memory_need`] says otherwise.
    pub fn set_memory_limit(&mut self, limit_bytes: Option<u64>) {
        self.reader.memory.limit_bytes = limit_bytes;
    }

    /// Says what an image needs by its header, in bytes, when more than its voxels counts.
    pub fn set_memory_need(&mut self, need: impl Fn(&Header) -> u64 + Send + 'static) {
        self.reader.memory.need = Box::new(need);
    }

    /// Reads the image at `path` into `image`, whose memory is reused. Of a pair either half may be named.
    ///
    /// The voxels are the file's own numbers in its own type, in native byte order. gzip's checksum and length are verified
    /// to the end of the file, also when more follows the voxels.
    ///
    /// # Errors
    /// See [`Cause`]. What `image` then holds is unspecified; it can be read into again.
    pub fn read(&mut self, path: &Path, image: &mut Image) -> Result<ReadSummary, ImageError> {
        self.read_fetched(path, None, image)
    }

    /// [`Workspace::read`] from a file that [`read_ahead`] has opened at the same path.
    ///
    /// # Errors
    /// Those of [`Workspace::read`].
    pub fn read_fetched(
        &mut self,
        path: &Path,
        fetched: Option<Fetched>,
        image: &mut Image,
    ) -> Result<ReadSummary, ImageError> {
        self.read_with(path, fetched, image, &mut |_header, volume, next| {
            next(volume.voxels.as_bytes_mut())
        })
    }

    /// [`Workspace::read_fetched`], but `take` fetches the voxels, and may do something with the first while the last are still to
    /// come. They are known to be sound when this returns, not earlier.
    ///
    /// # Errors
    /// Those of [`Workspace::read`].
    pub fn read_with(
        &mut self,
        path: &Path,
        fetched: Option<Fetched>,
        image: &mut Image,
        take: &mut TakeVoxels<'_>,
    ) -> Result<ReadSummary, ImageError> {
        self.reader.read(path, fetched, image, take)
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
