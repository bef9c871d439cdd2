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
use super::identity::{Crc32, FileId};
use super::image::Image;
use super::part::PartFile;
use crate::volume::Volume;

/// How an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Whether the file and its name must be on the disk when the call returns, so that not even a power cut loses them.
    pub sync: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions { sync: true }
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
            let part = Part::write(path, codec, &[header, voxels], voxel_bytes)?;
            return Ok(NamelessOutput {
                parts: vec![part],
                sync: options.sync,
            });
        }
        let partner_name = path.file_name().and_then(file_name::pair_partner);
        let partner =
            path.with_file_name(partner_name.ok_or_else(|| Cause::UnknownSuffix.at(path))?);
        let (header_path, voxel_path) = match suffix.role {
            Role::Voxels => (partner.as_path(), path),
            _ => (path, partner.as_path()),
        };
        let mut codec = codec;
        let voxel_part = Part::write(voxel_path, codec.as_deref_mut(), &[voxels], voxel_bytes)?;
        let header_part = Part::write(header_path, codec, &[header], voxel_bytes)?;
        // Whoever waits for the header finds the voxels complete.
        Ok(NamelessOutput {
            parts: vec![voxel_part, header_part],
            sync: options.sync,
        })
    }
}

/// An output that is complete but has no name yet. Dropped, nothing remains of it.
pub struct NamelessOutput {
    /// The files in the order in which they are named.
    parts: Vec<Part>,
    sync: bool,
}

impl NamelessOutput {
    /// Brings the output to the disk, where that was asked for, and gives it its name. The disk is waited for, the processor
    /// hardly used.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn publish(self) -> Result<Vec<FileId>, ImageError> {
        let NamelessOutput { mut parts, sync } = self;
        let failed =
            |action, path: &Path, error| Cause::writing(action, folder_of(path), error).at(path);
        if sync {
            for Part { file, id } in &mut parts {
                file.file()
                    .sync_all()
                    .map_err(|error| failed("bringing the file to the disk", &id.path, error))?;
            }
        }
        let mut files = Vec::with_capacity(parts.len());
        for Part { file, id } in parts {
            file.publish(&id.path)
                .map_err(|error| failed("giving the file its name", &id.path, error))?;
            files.push(id);
        }
        if let Some(file) = files.first().filter(|_| sync) {
            sync_folder(&file.path)?;
        }
        Ok(files)
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
        let mut file = PartFile::create(folder_of(path)).map_err(failed("creating a file"))?;
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
        Ok(NamelessOutput {
            parts: vec![Part::complete(self.file, &self.path, &written)?],
            sync: self.sync,
        })
    }
}

/// A complete file that does not have its name yet. Dropped, it is removed.
struct Part {
    file: PartFile,
    id: FileId,
}

impl Part {
    /// Writes the concatenation of `parts` beside `path`, as gzip if there is a codec.
    fn write(
        path: &Path,
        codec: Option<&mut Codec>,
        parts: &[&[u8]],
        voxel_bytes: usize,
    ) -> Result<Self, ImageError> {
        let folder = folder_of(path);
        let failed = |action| move |error| Cause::writing(action, folder, error).at(path);
        let mut file = PartFile::create(folder).map_err(failed("creating a file"))?;
        let sink = file.file();
        let written = match codec {
            Some(codec) => write_gzip(sink, codec, parts, voxel_bytes),
            None => write_plain(sink, parts),
        }
        .map_err(failed("writing"))?;
        sink.flush().map_err(failed("writing"))?;
        Part::complete(file, path, &written)
    }
}

impl Part {
    /// A file that is written to its end, for this path.
    fn complete(mut file: PartFile, path: &Path, written: &Written) -> Result<Self, ImageError> {
        let metadata = file.file().metadata().map_err(|error| {
            Cause::writing("looking at the file", folder_of(path), error).at(path)
        })?;
        let id = FileId {
            crc32: Some(Crc32(written.crc32)),
            raw_bytes: written.raw_bytes,
            ..FileId::of(path, &metadata)
        };
        Ok(Part { file, id })
    }
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

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Makes a file's new name last.
fn sync_folder(path: &Path) -> Result<(), ImageError> {
    #[cfg(unix)]
    {
        let folder = folder_of(path);
        let opened = File::open(folder);
        let synced = opened.and_then(|folder| unless_unsupported(folder.sync_all()));
        synced.map_err(|error| {
            Cause::writing("bringing the folder to the disk", folder, error).at(path)
        })?;
    }
    Ok(())
}

/// Some network and FUSE file systems cannot sync a folder and say so. There is nothing more to be done then, and the file
/// itself is on the disk; any other error is one.
#[cfg(unix)]
fn unless_unsupported(synced: io::Result<()>) -> io::Result<()> {
    use nix::libc::{EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP};
    match synced {
        Err(error) => match error.raw_os_error() {
            Some(code) if [EINVAL, ENOSYS, ENOTSUP, EOPNOTSUPP].contains(&code) => Ok(()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use nix::libc::{EINVAL, EIO, ENOSPC, ENOSYS, EOPNOTSUPP};

    use super::*;

    #[test]
    fn a_folder_that_cannot_be_synced_is_no_error_but_one_that_fails_is() {
        let said = |code| unless_unsupported(Err(io::Error::from_raw_os_error(code)));
        for code in [EINVAL, ENOSYS, EOPNOTSUPP] {
            assert!(said(code).is_ok(), "{code}");
        }
        for code in [EIO, ENOSPC] {
            assert_eq!(said(code).unwrap_err().raw_os_error(), Some(code));
        }
        let folder = tempfile::tempdir().unwrap();
        sync_folder(&folder.path().join("a.nii")).unwrap();
        assert!(sync_folder(&folder.path().join("gone/a.nii")).is_err());
    }
}
