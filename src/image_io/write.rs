//! Writing: a file appears under its name once it is complete.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::error::{Cause, ImageError};
use super::file_name::{self, Role};
use super::files::suffix_of;
use super::gzip::{Chunk, ChunkEncoder, CompressionLevel, GzipMember, Written};
use super::header::Header;
use super::header_layout::Layout;
use super::image::Image;
use super::publish::{NamelessOutput, Part, create_part, folder_of};
use crate::atomic_file::{Folders, PartFile};
use crate::volume::Volume;

/// How an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Whether the file and its name must be on the disk when the call returns, so that not even a power cut loses them.
    pub sync: bool,
    /// Which folders of the path are followed and made.
    pub folders: Folders,
}

impl WriteOptions {
    /// Files reach the disk when the system writes them there, which a power cut may forestall.
    pub const NO_SYNC: Self = WriteOptions {
        sync: false,
        folders: Folders::Existing,
    };
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions {
            sync: true,
            folders: Folders::Existing,
        }
    }
}

/// What one thread compresses with.
struct Codec {
    encoder: ChunkEncoder,
    chunk: Chunk,
}

/// What is kept from image to image.
pub(super) struct Writer {
    codec: Codec,
    header: Vec<u8>,
}

impl Writer {
    pub fn new(level: CompressionLevel) -> Self {
        Writer {
            codec: Codec {
                encoder: ChunkEncoder::new(level),
                chunk: Chunk::default(),
            },
            header: Vec::new(),
        }
    }

    pub fn write(
        &mut self,
        path: &Path,
        image: &Image,
        options: &WriteOptions,
    ) -> Result<NamelessOutput, ImageError> {
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
        let Writer { codec, header } = self;
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
            let part = write_part(path, options.folders, codec, &[header, voxels], voxel_bytes)?;
            return Ok(NamelessOutput::new(vec![part], options.sync));
        }
        let partner_name = path.file_name().and_then(file_name::pair_partner);
        let partner =
            path.with_file_name(partner_name.ok_or_else(|| Cause::UnknownSuffix.at(path))?);
        let (header_path, voxel_path) = match suffix.role {
            Role::Voxels => (partner.as_path(), path),
            _ => (path, partner.as_path()),
        };
        let mut codec = codec;
        let (folders, first) = (options.folders, codec.as_deref_mut());
        let voxel_part = write_part(voxel_path, folders, first, &[voxels], voxel_bytes)?;
        let header_part = write_part(header_path, folders, codec, &[header], voxel_bytes)?;
        Ok(NamelessOutput::new(
            vec![voxel_part, header_part],
            options.sync,
        ))
    }
}

/// A `.nii.gz` file that is put together of chunks while its image is still being made. Dropped, nothing remains of it.
pub(crate) struct GrowingFile {
    path: PathBuf,
    file: PartFile,
    member: GzipMember,
    sync: bool,
}

impl GrowingFile {
    /// Begins the file at `path` of an image with this header; shape and type are `volume`'s, whose voxels are not looked at.
    /// `None` where that is not one compressed file; it is then written whole.
    ///
    /// With all chunks of voxels it becomes what [`super::Workspace::write`] makes of the image: the same bytes, and atomic.
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
        if !suffix.gzip || suffix.is_pair() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        header
            .serialise(volume, Layout::SingleFile, &mut bytes)
            .map_err(|cause| cause.at(path))?;
        let mut chunk = Chunk::default();
        let mut encoder = ChunkEncoder::new(level);
        let failed = |action| move |error| Cause::writing(action, folder_of(path), error).at(path);
        let mut file = create_part(path, options.folders)?;
        let mut member = GzipMember::start(file.file()).map_err(failed("writing"))?;
        let voxel_bytes = volume.datatype.size_bytes();
        member
            .append_content(file.file(), &bytes, voxel_bytes, &mut encoder, &mut chunk)
            .map_err(failed("writing"))?;
        Ok(Some(GrowingFile {
            path: path.to_owned(),
            file,
            member,
            sync: options.sync,
        }))
    }

    /// Writes the next chunk of voxels.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn append(&mut self, chunk: &Chunk) -> Result<(), ImageError> {
        let written = self.member.append(self.file.file(), chunk);
        written
            .map_err(|error| Cause::writing("writing", folder_of(&self.path), error).at(&self.path))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn finish(mut self) -> Result<NamelessOutput, ImageError> {
        let written = self.member.finish(self.file.file()).map_err(|error| {
            Cause::writing("writing", folder_of(&self.path), error).at(&self.path)
        })?;
        let part = Part::complete(self.file, &self.path, &written);
        Ok(NamelessOutput::new(vec![part], self.sync))
    }
}

/// Writes the concatenation of `parts` beside `path`, as gzip if there is a codec.
fn write_part(
    path: &Path,
    folders: Folders,
    codec: Option<&mut Codec>,
    parts: &[&[u8]],
    voxel_bytes: usize,
) -> Result<Part, ImageError> {
    let failed = |action| move |error| Cause::writing(action, folder_of(path), error).at(path);
    let mut file = create_part(path, folders)?;
    let sink = file.file();
    let written = match codec {
        Some(codec) => write_gzip(sink, codec, parts, voxel_bytes),
        None => write_plain(sink, parts),
    }
    .map_err(failed("writing"))?;
    sink.flush().map_err(failed("writing"))?;
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
