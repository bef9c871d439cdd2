//! Checking files that were written: at a glance by size and trailer, or thoroughly by reading all of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crc32fast::Hasher;

use super::error::{Cause, ImageError};
use super::gzip::Decoder;
use super::header::Header;
use super::header_layout::Layout;
use super::read::{Content, Files, Opened, identify, read_header, truncated};
use super::write::WriteSummary;

/// Bytes of a gzip file's trailer: the checksum of the content and its length modulo 2³².
const TRAILER_LEN: u64 = 8;

/// Whether the file at `path` is what `written` says, as far as a look can tell that reads no more than its last eight
/// bytes: its size, and the checksum and length of a compressed file or, where there are none, the time of its last
/// change. Of a pair the sizes and the lengths count together, and the `.img`'s checksum.
///
/// A file that was damaged in its middle and kept its size passes; [`Verifier::verify`] finds it.
pub fn seems_intact(path: &Path, written: &WriteSummary, mtime_ns: Option<i64>) -> bool {
    let look = || -> Option<bool> {
        let files = Files::of(path).ok()?;
        let identity = identify(path).ok()?;
        if identity.bytes != written.bytes_out {
            return Some(false);
        }
        let Some(voxels) = files.compressed_voxels().ok()? else {
            return Some(mtime_ns == Some(identity.mtime_ns));
        };
        let (crc32, mut len) = trailer(&voxels)?;
        if files.layout() == Layout::Pair {
            // Both halves are compressed, or neither.
            len = len.wrapping_add(trailer(&files.header)?.1);
        }
        Some((crc32, len) == (written.crc32, written.raw_bytes as u32))
    };
    look().unwrap_or(false)
}

/// The checksum and the length modulo 2³² at the end of a gzip file.
fn trailer(path: &Path) -> Option<(u32, u32)> {
    let file = File::open(path).ok()?;
    let at = file.metadata().ok()?.len().checked_sub(TRAILER_LEN)?;
    let mut bytes = [0; TRAILER_LEN as usize];
    file.read_exact_at(&mut bytes, at).ok()?;
    let [crc32, len] = [0, 4]
        .map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    Some((crc32, len))
}

/// Reads files to their ends without keeping them; its buffers are reused from file to file.
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
    /// Reads all of the image at `path` and says what is there, in the words with which [`super::Workspace::write`] said
    /// what it wrote. The header must be valid, the voxels complete, and gzip's checksum and length right.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn verify(&mut self, path: &Path) -> Result<WriteSummary, ImageError> {
        let files = Files::of(path)?;
        let opened = Opened::open(&files.header)?;
        let mut bytes_out = opened.len();
        let at_header = |cause: Cause| cause.at(&files.header);
        let mut content = opened.content(&mut self.decoder);
        let layout = files.layout();
        let header = Some((&mut self.header, layout));
        let (mut raw_bytes, mut crc32) =
            Self::read_all(&mut content, header, &mut self.piece).map_err(at_header)?;
        if layout == Layout::SingleFile {
            self.complete(layout, raw_bytes).map_err(at_header)?;
        } else {
            drop(content);
            let voxels = files.voxels()?;
            let at_voxels = |cause: Cause| cause.at(&voxels);
            let opened = Opened::open(&voxels)?;
            bytes_out += opened.len();
            let mut content = opened.content(&mut self.decoder);
            let (found, voxels_crc32) =
                Self::read_all(&mut content, None, &mut self.piece).map_err(at_voxels)?;
            self.complete(layout, found).map_err(at_voxels)?;
            raw_bytes += found;
            crc32 = voxels_crc32;
        }
        Ok(WriteSummary {
            bytes_out,
            raw_bytes,
            crc32,
        })
    }

    /// The length of a file's content and its checksum; its header is parsed when one is asked for.
    fn read_all(
        content: &mut Content<'_>,
        header: Option<(&mut Header, Layout)>,
        piece: &mut [u8],
    ) -> Result<(u64, u32), Cause> {
        let mut crc = Hasher::new();
        let mut len = 0;
        if let Some((header, layout)) = header {
            let bytes = read_header(content, header, layout)?;
            crc.update(bytes.as_slice());
            len += bytes.as_slice().len() as u64;
        }
        loop {
            let found = content.read(piece)?;
            if found == 0 {
                break;
            }
            crc.update(&piece[..found]);
            len += found as u64;
        }
        content.finish()?;
        Ok((len, crc.finalize()))
    }

    fn complete(&self, layout: Layout, found: u64) -> Result<(), Cause> {
        let header = &self.header;
        let declared =
            u128::from(header.voxel_offset()).saturating_add(header.declared_voxel_bytes());
        match u128::from(found) < declared {
            true => Err(truncated(header, layout, found)),
            false => Ok(()),
        }
    }
}
