//! Checking written files: quickly by size and trailer, or completely by reading them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crc32fast::Hasher;
use nix::fcntl::OFlag;

use super::error::{Cause, ImageError};
use super::file_name::Role;
use super::files::{ImageFiles, OpenFile, identify, suffix_of};
use super::gzip::Decoder;
use super::header::Header;
use super::header_layout::Layout;
use super::identity::{Crc32, FileId, gzip_trailer};
use super::input_stream::InputStream;
use super::probe::probe;
use super::read_header::{read_header, truncated};

/// Whether a file still matches its record, with as little reading as possible. It compares the size and, for
/// a gzip file, the checksum and length in the last eight bytes. Any other file must have the recorded
/// modification time; otherwise all of it is read for its checksum.
///
/// A gzip file with damage in the middle and unchanged size passes; [`Verifier::verify`] detects it.
pub fn seems_intact(recorded: &FileId) -> bool {
    let look = || -> Option<bool> {
        let path = &recorded.path;
        let is_gzip = suffix_of(path).is_ok_and(|suffix| suffix.gzip);
        let (file, found) = match suffix_of(path) {
            Ok(_) => {
                let file = OpenFile::open(path).ok()?.file;
                let found = FileId::of(path, &file.metadata().ok()?);
                (file, found)
            }
            Err(_) => open_sidecar(path).ok()?,
        };
        if found.bytes != recorded.bytes {
            return Some(false);
        }
        if is_gzip {
            let (crc32, len) = gzip_trailer(&file)?;
            return Some(Some(crc32) == recorded.crc32 && len == recorded.raw_bytes as u32);
        }
        if found.mtime_ns == recorded.mtime_ns {
            return Some(true);
        }
        Some(recorded.crc32.is_some() && content_crc32(file).ok() == recorded.crc32)
    };
    look().unwrap_or(false)
}

/// Whether a pair still matches a record of niimpi-journal/1, which has the sums of sizes and lengths, the
/// later time and the checksum of the `.img`.
pub fn pair_seems_intact(path: &Path, recorded: &FileId) -> bool {
    let look = || -> Option<bool> {
        let found = identify(path).ok()?;
        let [header, voxels] = found.as_slice() else {
            return None;
        };
        if header.bytes + voxels.bytes != recorded.bytes {
            return Some(false);
        }
        if !suffix_of(&voxels.path).ok()?.gzip {
            return Some(header.mtime_ns.max(voxels.mtime_ns) == recorded.mtime_ns);
        }
        let trailer = |path: &Path| gzip_trailer(&OpenFile::open(path).ok()?.file);
        let (crc32, len) = trailer(&voxels.path)?;
        // Both halves are compressed, or neither.
        let len = len.wrapping_add(trailer(&header.path)?.1);
        Some(Some(crc32) == recorded.crc32 && len == recorded.raw_bytes as u32)
    };
    look().unwrap_or(false)
}

/// The current checksum of an input: for a gzip file the one in its trailer, otherwise that of all bytes.
/// `None` if the gzip file has several members, because the trailer then describes only the last one.
pub fn input_crc32(path: &Path) -> Option<Crc32> {
    let opened = OpenFile::open(path).ok()?;
    if !opened.gzip {
        return content_crc32(opened.file).ok();
    }
    let (crc32, len) = gzip_trailer(&opened.file)?;
    // Usually the last member is as long as the whole image, so nothing needs to be inflated.
    let has_image = suffix_of(path).is_ok_and(|suffix| suffix.role != Role::Header)
        && probe(path).is_ok_and(|probe| probe.raw_bytes == u64::from(len));
    let mut decoder = Decoder::new(1 << 20);
    let is_single = has_image || InputStream::new(opened, &mut decoder).has_one_member().ok()?;
    is_single.then_some(crc32)
}

/// Reads a file beside an image, such as its metadata, and returns its identity.
///
/// # Errors
/// See [`Cause`].
pub(crate) fn verify_sidecar(path: &Path) -> Result<FileId, ImageError> {
    let (file, id) = open_sidecar(path).map_err(|error| Cause::reading(error).at(path))?;
    Ok(FileId {
        crc32: Some(content_crc32(file).map_err(|error| Cause::reading(error).at(path))?),
        raw_bytes: id.bytes,
        ..id
    })
}

/// Opens a file that is not an image. Its identity has no checksum.
fn open_sidecar(path: &Path) -> io::Result<(File, FileId)> {
    // Opening a pipe would wait for its writer.
    let flags = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, FileId::of(path, &metadata))),
        false => Err(io::Error::other("it is not a file")),
    }
}

fn content_crc32(mut file: File) -> io::Result<Crc32> {
    let mut crc = Hasher::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(Crc32(crc.finalize())),
            Ok(found) => crc.update(&piece[..found]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads images completely and checks them, without keeping them. It keeps its buffers.
///
/// ```
/// use niimpi::image_io::{Image, ImageWriter, Verifier};
/// use niimpi::volume::{Datatype, Volume};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("image.nii.gz");
/// let image = Image::new(Volume::zeros(&[1], Datatype::Uint8));
/// let written = ImageWriter::new().write(&path, &image)?;
/// assert_eq!(Verifier::default().verify(&path)?, written);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Verifier {
    decoder: Decoder,
    header: Header,
    piece: Vec<u8>,
}

impl Default for Verifier {
    fn default() -> Self {
        const INPUT_LEN: usize = 1 << 20;
        const PIECE_LEN: usize = 512 << 10;
        Verifier {
            decoder: Decoder::new(INPUT_LEN),
            header: Header::default(),
            piece: vec![0; PIECE_LEN],
        }
    }
}

impl Verifier {
    /// Reads all of the image at `path` and returns the identity of its file, or of both halves of a pair,
    /// the header first. The header must be valid, the voxels complete, and the checksum and length of gzip
    /// right.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn verify(&mut self, path: &Path) -> Result<Vec<FileId>, ImageError> {
        let files = ImageFiles::of(path)?;
        let layout = files.layout();
        let single = layout == Layout::SingleFile;
        let mut all = vec![self.verify_file(&files.header, layout, true, single)?];
        if !single {
            all.push(self.verify_file(&files.voxels()?, layout, false, true)?);
        }
        Ok(all)
    }

    /// Reads a file with a header, voxels, or both.
    fn verify_file(
        &mut self,
        path: &Path,
        layout: Layout,
        has_header: bool,
        has_voxels: bool,
    ) -> Result<FileId, ImageError> {
        let opened = OpenFile::open(path)?;
        let mut id = opened.id.clone();
        let mut stream = InputStream::new(opened, &mut self.decoder);
        let header = has_header.then_some((&mut self.header, layout));
        let read = Self::read_all(&mut stream, header, &mut self.piece);
        let (raw_bytes, crc32) = read.map_err(|cause| cause.at(path))?;
        if has_voxels {
            self.complete(layout, raw_bytes).map_err(|cause| cause.at(path))?;
        }
        id.raw_bytes = raw_bytes;
        id.crc32 = Some(Crc32(crc32));
        Ok(id)
    }

    /// Length and checksum of the content of a file. Parses its header if one is requested.
    fn read_all(
        stream: &mut InputStream<'_>,
        header: Option<(&mut Header, Layout)>,
        piece: &mut [u8],
    ) -> Result<(u64, u32), Cause> {
        let mut crc = Hasher::new();
        let mut len = 0;
        if let Some((header, layout)) = header {
            let bytes = read_header(stream, header, layout)?;
            crc.update(bytes.as_slice());
            len += bytes.as_slice().len() as u64;
        }
        loop {
            let found = stream.read(piece)?;
            if found == 0 {
                break;
            }
            crc.update(&piece[..found]);
            len += found as u64;
        }
        stream.finish()?;
        Ok((len, crc.finalize()))
    }

    fn complete(&self, layout: Layout, found: u64) -> Result<(), Cause> {
        let header = &self.header;
        let declared = u128::from(header.voxel_offset()).saturating_add(header.declared_voxel_bytes());
        match u128::from(found) < declared {
            true => Err(truncated(header, layout, found)),
            false => Ok(()),
        }
    }
}
