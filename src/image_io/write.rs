//! Writing: from an image in memory to complete files, which are renamed when they are published.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::error::{Cause, ImageError};
use super::file_name::{self, Role};
use super::files::suffix_of;
use super::gzip::{Chunk, ChunkEncoder, CompressionLevel, GzipMember, Written};
use super::header::Header;
use super::header_layout::Layout;
use super::identity::FileId;
use super::image::Image;
use super::in_place::{InPlace, Place};
use super::publish::{Part, StagedFile, create_part, failed};
use crate::atomic_file::{Folders, PartFile};
use crate::volume::Volume;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    /// Sync the file and its folder entry when publishing, so that they survive a power failure.
    pub(crate) sync: bool,
    /// Which folders of the path are followed and created.
    pub(crate) folders: Folders,
}

/// The codec of one thread.
struct Codec {
    encoder: ChunkEncoder,
    chunk: Chunk,
}

/// Writes images, one after another. It keeps the codec's state and its buffers.
///
/// ```
/// use niimpi::image_io::{CompressionLevel, Image, ImageWriter};
/// use niimpi::volume::{Datatype, Volume};
///
/// let folder = tempfile::tempdir()?;
/// let image = Image::new(Volume::zeros(&[9, 8, 7], Datatype::Int16));
/// let mut writer = ImageWriter::new().compression(CompressionLevel::FAST).sync(false);
/// let files = writer.write(&folder.path().join("image.nii.gz"), &image)?;
/// assert_eq!(files[0].raw_bytes, 352 + 9 * 8 * 7 * 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ImageWriter {
    codec: Codec,
    header: Vec<u8>,
    sync: bool,
}

impl Default for ImageWriter {
    fn default() -> Self {
        ImageWriter::new()
    }
}

impl ImageWriter {
    /// A writer that compresses at [`CompressionLevel::FAST`] and syncs. It needs about 2 MB.
    pub fn new() -> Self {
        ImageWriter {
            codec: Codec {
                encoder: ChunkEncoder::new(CompressionLevel::FAST),
                chunk: Chunk::default(),
            },
            header: Vec::new(),
            sync: true,
        }
    }

    /// Compresses `.gz` outputs at `level`.
    #[must_use]
    pub fn compression(mut self, level: CompressionLevel) -> Self {
        self.codec.encoder = ChunkEncoder::new(level);
        self
    }

    /// Sets whether [`ImageWriter::write`] syncs a file and its folder entry, so that they survive a power
    /// failure.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Writes `image` to `path`, whose suffix decides between a single file and a pair, compressed or not.
    /// Returns the files in the order of renaming; the header of a pair is last.
    ///
    /// A file gets its final name only when it is complete. An existing file is replaced. The folder must
    /// exist. The bytes depend only on the image, the compression level and the codec.
    ///
    /// # Errors
    /// See [`Cause`]. If the image cannot be written or renamed, nothing of it remains under `path`, and an
    /// existing single file is unchanged. Of an existing pair, the files can be gone, because an old header
    /// must never describe new voxels. If only syncing the folder fails, the new files have their names.
    pub fn write(&mut self, path: &Path, image: &Image) -> Result<Vec<FileId>, ImageError> {
        let options = WriteOptions {
            sync: self.sync,
            folders: Folders::Existing,
        };
        self.stage(path, image, &options)?.publish()
    }

    /// [`ImageWriter::write`] without its last step, which waits for the disk. [`StagedFile::publish`] does
    /// this step, perhaps in another thread.
    pub(crate) fn stage(
        &mut self,
        path: &Path,
        image: &Image,
        options: &WriteOptions,
    ) -> Result<StagedFile, ImageError> {
        let suffix = suffix_of(path)?;
        let volume = &image.volume;
        let voxels = volume.voxels.as_bytes();
        let voxel_bytes = volume.datatype.size_bytes();
        let needed = volume.len() * voxel_bytes;
        if voxels.len() != needed || !(1..=7).contains(&volume.shape.len()) {
            return Err(Cause::Inconsistent {
                found: voxels.len(),
                needed,
            }
            .at(path));
        }
        let ImageWriter { codec, header, .. } = self;
        header.clear();
        let layout = match suffix.is_pair() {
            true => Layout::Pair,
            false => Layout::SingleFile,
        };
        image
            .header
            .serialise(volume, layout, header)
            .map_err(|cause| cause.at(path))?;
        let codec = suffix.gzip.then_some(codec);

        if !suffix.is_pair() {
            let part = write_part(path, options, codec, &[header, voxels], voxel_bytes)?;
            return Ok(StagedFile::new(vec![part], options.sync));
        }
        let partner_name = path.file_name().and_then(file_name::pair_partner);
        let partner = path.with_file_name(partner_name.ok_or_else(|| Cause::UnknownSuffix.at(path))?);
        let (header_path, voxel_path) = match suffix.role {
            Role::Voxels => (partner.as_path(), path),
            _ => (path, partner.as_path()),
        };
        let mut codec = codec;
        let first = codec.as_deref_mut();
        let voxel_part = write_part(voxel_path, options, first, &[voxels], voxel_bytes)?;
        let header_part = write_part(header_path, options, codec, &[header], voxel_bytes)?;
        Ok(StagedFile::new(vec![voxel_part, header_part], options.sync))
    }
}

/// Writes a file that is not an image, to be published with one.
///
/// # Errors
/// See [`Cause`].
pub(crate) fn stage_sidecar(
    path: &Path,
    content: &[u8],
    options: &WriteOptions,
) -> Result<StagedFile, ImageError> {
    let part = write_part(path, options, None, &[content], 1)?;
    Ok(StagedFile::new(vec![part], options.sync))
}

/// A single file that is written chunk by chunk while its image is still being computed. Dropping it removes
/// the file.
pub(crate) struct ChunkedWriter {
    path: PathBuf,
    file: PartFile,
    member: GzipMember,
    sync: bool,
}

impl ChunkedWriter {
    /// Starts the file at `path` for an image with this header and the shape and type of `volume`. `None` if
    /// that is not one compressed file; it must then be written as a whole.
    ///
    /// With all chunks of voxels, the file has the bytes that [`ImageWriter::write`] gives the image.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn begin(
        path: &Path,
        header: &Header,
        volume: &Volume,
        level: CompressionLevel,
        options: &WriteOptions,
    ) -> Result<Option<Self>, ImageError> {
        let suffix = suffix_of(path)?;
        match suffix.gzip && !suffix.is_pair() {
            true => Self::begin_any(path, header, volume, level, options),
            false => Ok(None),
        }
    }

    /// The same for a single file that is compressed or not. Its chunks are from [`ChunkedWriter::encoder`].
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn begin_any(
        path: &Path,
        header: &Header,
        volume: &Volume,
        level: CompressionLevel,
        options: &WriteOptions,
    ) -> Result<Option<Self>, ImageError> {
        let Some(mut encoder) = Self::encoder(path, level)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        header
            .serialise(volume, Layout::SingleFile, &mut bytes)
            .map_err(|cause| cause.at(path))?;
        let mut chunk = Chunk::default();
        let not_written = |error| failed("writing", path, error);
        let mut file = create_part(path, options.folders, options.sync)?;
        let mut member = match suffix_of(path)?.gzip {
            true => GzipMember::start(file.file()).map_err(not_written)?,
            false => GzipMember::plain(),
        };
        let voxel_bytes = volume.datatype.size_bytes();
        member
            .append_content(file.file(), &bytes, voxel_bytes, &mut encoder, &mut chunk)
            .map_err(not_written)?;
        Ok(Some(ChunkedWriter {
            path: path.to_owned(),
            file,
            member,
            sync: options.sync,
        }))
    }

    /// The encoder of the chunks of the file at `path`; `None` if that is one of a pair.
    ///
    /// # Errors
    /// If the name has no known suffix.
    pub fn encoder(path: &Path, level: CompressionLevel) -> Result<Option<ChunkEncoder>, ImageError> {
        let suffix = suffix_of(path)?;
        Ok(match (suffix.is_pair(), suffix.gzip) {
            (true, _) => None,
            (_, true) => Some(ChunkEncoder::new(level)),
            (_, false) => Some(ChunkEncoder::plain()),
        })
    }

    /// Writes the next chunk of voxels.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn append(&mut self, chunk: &Chunk) -> Result<(), ImageError> {
        let written = self.member.append(self.file.file(), chunk);
        written.map_err(|error| failed("writing", &self.path, error))
    }

    /// The file before its first voxels are written, for processes that write in place; `None` if it is
    /// compressed.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn in_place(&mut self) -> Result<Option<(Place, InPlace)>, ImageError> {
        if !self.member.is_plain() {
            return Ok(None);
        }
        let file = self.file.file();
        let opened = file.metadata().and_then(|now| Ok((now.ino(), file.try_clone()?)));
        let (inode, file) = opened.map_err(|error| failed("writing", &self.path, error))?;
        let place = Place {
            path: self.file.path(),
            inode,
            voxel_offset: self.member.raw_bytes(),
            sync: self.sync,
        };
        let own = InPlace::new(file, &self.path, &place);
        Ok(Some((place, own)))
    }

    /// Leaves out the next voxels, which were written in place.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn skip(&mut self, written: &Written) -> Result<(), ImageError> {
        self.member.skip(written);
        let end = SeekFrom::Start(self.member.raw_bytes());
        let moved = self.file.file().seek(end);
        moved
            .map(drop)
            .map_err(|error| failed("writing", &self.path, error))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn finish(mut self) -> Result<StagedFile, ImageError> {
        let written = self
            .member
            .finish(self.file.file())
            .map_err(|error| failed("writing", &self.path, error))?;
        let part = Part::complete(self.file, &self.path, &written);
        Ok(StagedFile::new(vec![part], self.sync))
    }
}

/// Writes the concatenation of `parts` to an unfinished file for `path`, as gzip if there is a codec.
fn write_part(
    path: &Path,
    options: &WriteOptions,
    codec: Option<&mut Codec>,
    parts: &[&[u8]],
    voxel_bytes: usize,
) -> Result<Part, ImageError> {
    let mut file = create_part(path, options.folders, options.sync)?;
    let sink = file.file();
    let written = match codec {
        Some(codec) => write_gzip(sink, codec, parts, voxel_bytes),
        None => write_plain(sink, parts),
    }
    .map_err(|error| failed("writing", path, error))?;
    Ok(Part::complete(file, path, &written))
}

fn write_gzip(
    sink: &mut File,
    codec: &mut Codec,
    parts: &[&[u8]],
    voxel_bytes: usize,
) -> io::Result<Written> {
    let Codec { encoder, chunk } = codec;
    let mut member = GzipMember::start(sink)?;
    for part in parts {
        member.append_content(sink, part, voxel_bytes, encoder, chunk)?;
    }
    member.finish(sink)
}

fn write_plain(sink: &mut File, parts: &[&[u8]]) -> io::Result<Written> {
    let mut crc = Hasher::new();
    let mut len = 0;
    for part in parts {
        crc.update(part);
        sink.write_all(part)?;
        len += part.len() as u64;
    }
    Ok(Written {
        raw_bytes: len,
        crc32: crc.finalize(),
    })
}
