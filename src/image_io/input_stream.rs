//! The content of an input file, inflated if it is compressed, and checked while it is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use crc32fast::Hasher;

use super::error::Cause;
use super::files::OpenFile;
use super::gzip::{Decoder, GzipReader, MAX_RATIO};
use super::identity::{Crc32, gzip_trailer};

/// Up to this many bytes outside the image are read for the checksum; more are skipped.
const SKIP_THRESHOLD: u64 = 64 << 20;

/// The content of one file.
pub(super) struct InputStream<'a> {
    source: Source<'a>,
    file_bytes: u64,
    position: u64,
}

enum Source<'a> {
    Plain {
        file: File,
        /// Checksum of all content so far; `None` after a skip.
        crc: Option<Hasher>,
    },
    Gzip(GzipReader<'a, File>),
}

impl<'a> InputStream<'a> {
    pub fn new(opened: OpenFile, decoder: &'a mut Decoder) -> Self {
        let OpenFile { file, id, gzip, .. } = opened;
        let source = match gzip {
            true => Source::Gzip(GzipReader::new(file, decoder)),
            false => Source::Plain {
                file,
                crc: Some(Hasher::new()),
            },
        };
        InputStream {
            source,
            file_bytes: id.bytes,
            position: 0,
        }
    }

    /// Bytes of content that were read or skipped.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn is_gzip(&self) -> bool {
        matches!(self.source, Source::Gzip(_))
    }

    /// Bytes of the file, compressed.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The maximum content of a file of this size.
    pub fn most_bytes(&self) -> u128 {
        let ratio = if self.is_gzip() { MAX_RATIO } else { 1 };
        u128::from(self.file_bytes) * ratio
    }

    pub fn file(&self) -> &File {
        match &self.source {
            Source::Plain { file, .. } => file,
            Source::Gzip(reader) => reader.source(),
        }
    }

    /// Fills `out` and returns the number of bytes, less than requested only at the end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Cause> {
        let filled = match &mut self.source {
            Source::Gzip(reader) => reader.read(out)?,
            Source::Plain { file, crc } => {
                let filled = read_full(file, out)?;
                if let Some(crc) = crc {
                    crc.update(&out[..filled]);
                }
                filled
            }
        };
        self.position += filled as u64;
        Ok(filled)
    }

    /// Skips to `position`, or to the end of the file if that comes first.
    pub fn skip_to(&mut self, position: u64) -> Result<(), Cause> {
        let bytes = position.saturating_sub(self.position);
        if let Source::Gzip(reader) = &mut self.source {
            self.position += reader.skip(bytes)?;
        } else if bytes <= SKIP_THRESHOLD {
            // They are part of the checksum.
            self.read_away(bytes)?;
        } else if let Source::Plain { file, crc } = &mut self.source {
            *crc = None;
            let start = SeekFrom::Start(position);
            self.position = file.seek(start).map_err(Cause::reading)?;
        }
        Ok(())
    }

    /// Skips to `position` without reading what is before, where the file is not compressed. Its checksum is
    /// then unknown.
    pub fn seek_to(&mut self, position: u64) -> Result<(), Cause> {
        let Source::Plain { file, crc } = &mut self.source else {
            return self.skip_to(position);
        };
        *crc = None;
        self.position = file.seek(SeekFrom::Start(position)).map_err(Cause::reading)?;
        Ok(())
    }

    /// Reads `bytes`, or as many as there are, without keeping them. Returns how many there were.
    fn read_away(&mut self, bytes: u64) -> Result<u64, Cause> {
        let mut piece = [0; 4096];
        let mut left = bytes;
        while left > 0 {
            let step = left.min(piece.len() as u64) as usize;
            let found = self.read(&mut piece[..step])?;
            left -= found as u64;
            if found < step {
                break;
            }
        }
        Ok(bytes - left)
    }

    /// Checks the rest of a compressed file. Returns the number of remaining bytes of content, 0 for an
    /// uncompressed file.
    pub fn finish(&mut self) -> Result<u64, Cause> {
        match &mut self.source {
            Source::Gzip(reader) => reader.finish(),
            Source::Plain { .. } => Ok(0),
        }
    }

    /// Reads the rest. Whether the file is a gzip file of one member.
    pub fn has_one_member(&mut self) -> Result<bool, Cause> {
        self.finish()?;
        Ok(matches!(&self.source, Source::Gzip(reader) if reader.members() == 1))
    }

    /// The checksum of the file, after the image was read. A gzip file has it in its trailer. Of other files
    /// the rest is read unless it is long.
    pub fn crc32(&mut self) -> Result<Option<Crc32>, Cause> {
        if let Source::Gzip(reader) = &self.source {
            return Ok(gzip_trailer(reader.source()).map(|(crc32, _)| crc32));
        }
        let ended = self.read_away(SKIP_THRESHOLD)? < SKIP_THRESHOLD;
        match &mut self.source {
            Source::Plain { crc, .. } if ended => Ok(crc.take().map(|crc| Crc32(crc.finalize()))),
            _ => Ok(None),
        }
    }
}

fn read_full(file: &mut File, out: &mut [u8]) -> Result<usize, Cause> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Cause::reading(error)),
        }
    }
    Ok(filled)
}
