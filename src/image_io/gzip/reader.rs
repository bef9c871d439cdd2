//! Reading gzip files like Python's gzip module (and therefore nibabel): any number of members and zeros
//! after the last; anything else is an error. The recorded length (`ISIZE`) is checked but never used to size
//! a buffer.

use std::io::{self, Read};

use crc32fast::Hasher;

use super::codec::{LOOKAHEAD, MAGIC};
#[cfg(any(feature = "isal", feature = "isal-bundled"))]
use super::isal::Inflater;
#[cfg(not(any(feature = "isal", feature = "isal-bundled")))]
use super::portable::Inflater;
use crate::image_io::error::{Cause, beginning};
use crate::image_io::header::Header;

/// Bytes of content inflated at a time; the checksum is computed while they are in the cache.
const PIECE: usize = 512 << 10;

/// More zeros than this after a member are refused: a sparse file could have terabytes of them.
const PADDING_LIMIT: u64 = 64 << 20;

/// Unused bytes behind the input, for codecs that load whole words.
const SLACK: usize = 64;

/// A codec and an input buffer, reused from file to file.
pub(crate) struct Decoder {
    inflater: Inflater,
    /// Compressed bytes. The latest read starts at [`LOOKAHEAD`], after the last bytes of the previous read.
    input: Vec<u8>,
    sink: Vec<u8>,
}

impl Decoder {
    /// A decoder that reads `input_len` bytes of a file at a time.
    pub fn new(input_len: usize) -> Self {
        Decoder {
            inflater: Inflater::new(),
            input: vec![0; LOOKAHEAD + input_len + SLACK],
            sink: Vec::new(),
        }
    }
}

enum State {
    /// Before a member's header.
    Between { first: bool },
    /// Within a member's deflate stream.
    Within,
    /// After the last member.
    Done,
}

/// The content of a gzip file, checked while it is read.
pub(crate) struct GzipReader<'a, R> {
    source: R,
    decoder: &'a mut Decoder,
    state: State,
    /// The unread part of the decoder's input.
    start: usize,
    end: usize,
    crc: Hasher,
    member_len: u64,
    members: u64,
    inflated: u64,
}

impl<'a, R: Read> GzipReader<'a, R> {
    /// Reads from the beginning of `source`.
    pub fn new(source: R, decoder: &'a mut Decoder) -> Self {
        GzipReader {
            source,
            decoder,
            state: State::Between { first: true },
            start: LOOKAHEAD,
            end: LOOKAHEAD,
            crc: Hasher::new(),
            member_len: 0,
            members: 0,
            inflated: 0,
        }
    }

    /// What is read from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The members that were read or are being read.
    pub fn members(&self) -> u64 {
        self.members
    }

    /// Fills `out` with content and returns the number of bytes. It is less than requested only at the end of
    /// the file, after the checksum and length of every member have been verified.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, Cause> {
        let mut filled = 0;
        while filled < out.len() {
            match self.state {
                State::Done => break,
                State::Between { first } => {
                    if !self.begin_member(first)? {
                        self.state = State::Done;
                        break;
                    }
                    self.state = State::Within;
                }
                State::Within => {
                    let piece_end = out.len().min(filled + PIECE);
                    filled += self.inflate(&mut out[filled..piece_end])?;
                }
            }
        }
        Ok(filled)
    }

    /// Reads and checks `bytes` of content, or as many as there are, without keeping them. Returns how many
    /// there were.
    pub fn skip(&mut self, bytes: u64) -> Result<u64, Cause> {
        const SINK_LEN: usize = 128 << 10;
        let mut sink = std::mem::take(&mut self.decoder.sink);
        sink.resize(SINK_LEN, 0);
        let mut skipped = 0;
        let result = loop {
            let wanted = (bytes - skipped).min(SINK_LEN as u64) as usize;
            match self.read(&mut sink[..wanted]) {
                Ok(len) => skipped += len as u64,
                Err(cause) => break Err(cause),
            }
            if skipped == bytes || matches!(self.state, State::Done) {
                break Ok(skipped);
            }
        };
        self.decoder.sink = sink;
        result
    }

    /// Reads and checks the rest and returns its length.
    pub fn finish(&mut self) -> Result<u64, Cause> {
        self.skip(u64::MAX)
    }

    /// One step within a member's stream. Reads more input when the codec needs it.
    fn inflate(&mut self, out: &mut [u8]) -> Result<usize, Cause> {
        let damaged = Cause::GzipDamaged {
            inflated: self.inflated,
        };
        let Ok(step) = self
            .decoder
            .inflater
            .inflate(&self.decoder.input[self.start..self.end], out)
        else {
            return Err(damaged);
        };
        self.start += step.consumed;
        self.crc.update(&out[..step.produced]);
        self.member_len += step.produced as u64;
        self.inflated += step.produced as u64;
        if step.finished {
            self.start -= step.returned;
            self.end_member()?;
            self.state = State::Between { first: false };
        } else if step.produced < out.len() {
            if self.start < self.end && step.consumed == 0 && step.produced == 0 {
                return Err(damaged); // a codec that makes no progress would loop forever
            }
            if self.start == self.end && !self.fill()? {
                return Err(Cause::GzipTruncated {
                    inflated: self.inflated,
                });
            }
        }
        Ok(step.produced)
    }

    /// Fetches more of the file; false at its end.
    fn fill(&mut self) -> Result<bool, Cause> {
        let input = &mut self.decoder.input;
        // Bytes that a codec can return stay in front of the new ones.
        input.copy_within(self.end - LOOKAHEAD..self.end, 0);
        self.start = LOOKAHEAD;
        self.end = LOOKAHEAD;
        let room = LOOKAHEAD..input.len() - SLACK;
        loop {
            match self.source.read(&mut input[room.clone()]) {
                Ok(len) => {
                    self.end += len;
                    return Ok(len > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Cause::reading(error)),
            }
        }
    }

    fn byte(&mut self) -> Result<Option<u8>, Cause> {
        if self.start == self.end && !self.fill()? {
            return Ok(None);
        }
        self.start += 1;
        Ok(Some(self.decoder.input[self.start - 1]))
    }

    /// Skips zeros, as tapes and block devices pad files with, and returns the byte after them.
    fn skip_zeros(&mut self) -> Result<Option<u8>, Cause> {
        let mut skipped = 0;
        loop {
            let rest = &self.decoder.input[self.start..self.end];
            let zeros = rest.iter().position(|&byte| byte != 0);
            let step = zeros.unwrap_or(rest.len());
            self.start += step;
            skipped += step as u64;
            if skipped > PADDING_LIMIT {
                return Err(Cause::PaddingTooLong { limit: PADDING_LIMIT });
            }
            if zeros.is_some() || !self.fill()? {
                return self.byte();
            }
        }
    }

    fn header_byte(&mut self) -> Result<u8, Cause> {
        self.byte()?.ok_or(Cause::GzipTruncated {
            inflated: self.inflated,
        })
    }

    /// Reads a member's header. False at the end of the file.
    fn begin_member(&mut self, first: bool) -> Result<bool, Cause> {
        const HEADER_CRC: u8 = 2;
        const EXTRA: u8 = 4;
        const NAME: u8 = 8;
        const COMMENT: u8 = 16;
        const RESERVED: u8 = 0xe0;
        const DEFLATE: u8 = 8;
        let mut byte = self.byte()?;
        if first {
            if byte.is_none() {
                return Err(Cause::Empty);
            }
            let begins = &self.decoder.input[self.start - 1..self.end];
            if !begins.starts_with(&MAGIC) && begins.len() >= MAGIC.len() {
                return Err(match Header::recognise(begins) {
                    Ok(_) | Err(Cause::Analyze) => Cause::PlainInGzipName,
                    Err(_) => Cause::NotGzip {
                        begins: beginning(begins),
                    },
                });
            }
        } else {
            if byte == Some(0) {
                byte = self.skip_zeros()?;
            }
            if byte.is_none() {
                return Ok(false);
            }
        }
        for expected in MAGIC {
            if byte != Some(expected) {
                return Err(match first {
                    true => Cause::GzipTruncated { inflated: 0 },
                    false => Cause::TrailingGarbage,
                });
            }
            byte = self.byte()?;
        }
        let flags = match byte {
            Some(DEFLATE) => self.header_byte()?,
            Some(_) => return Err(Cause::GzipHeaderDamaged),
            None => {
                return Err(Cause::GzipTruncated {
                    inflated: self.inflated,
                });
            }
        };
        if flags & RESERVED != 0 {
            return Err(Cause::GzipHeaderDamaged);
        }
        for _time_and_system in 0..6 {
            self.header_byte()?;
        }
        if flags & EXTRA != 0 {
            let len = u16::from_le_bytes([self.header_byte()?, self.header_byte()?]);
            for _ in 0..len {
                self.header_byte()?;
            }
        }
        for text in [NAME, COMMENT] {
            if flags & text != 0 {
                while self.header_byte()? != 0 {}
            }
        }
        if flags & HEADER_CRC != 0 {
            self.header_byte()?;
            self.header_byte()?;
        }
        self.decoder.inflater.reset();
        self.crc = Hasher::new();
        self.member_len = 0;
        self.members += 1;
        Ok(true)
    }

    /// Checks a member's trailer.
    fn end_member(&mut self) -> Result<(), Cause> {
        let mut trailer = [0; 8];
        for index in 0..trailer.len() {
            match self.byte()? {
                Some(byte) => trailer[index] = byte,
                None => {
                    return Err(Cause::GzipTrailerCut {
                        missing: trailer.len() - index,
                    });
                }
            }
        }
        let [a, b, c, d, rest @ ..] = trailer;
        let (stored, computed) = (u32::from_le_bytes([a, b, c, d]), self.crc.clone().finalize());
        if stored != computed {
            return Err(Cause::CrcMismatch { stored, computed });
        }
        let (stored, found) = (u32::from_le_bytes(rest), self.member_len as u32);
        if stored != found {
            return Err(Cause::LengthMismatch { stored, found });
        }
        Ok(())
    }
}
