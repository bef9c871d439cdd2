//! gzip files: members, trailers and checksums around the raw deflate streams of the codec.
//!
//! Reading follows Python's gzip module, and so nibabel: any number of members, zeros after the last, anything else is an
//! error. The recorded length (`ISIZE`) is checked but never used to size a buffer.
//!
//! Writing makes one member. Its content is cut into chunks of [`CHUNK`] bytes that are compressed each for itself and end
//! at whole bytes, so that threads can share the work without changing a byte of the result.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use crc32fast::Hasher;

use super::error::{Cause, beginning};
use super::gzip_flate2;
#[cfg(any(feature = "isal", feature = "isal-bundled"))]
use super::gzip_isal;
use super::header::Header;

#[cfg(not(any(feature = "isal", feature = "isal-bundled")))]
use gzip_flate2::Inflater;
#[cfg(any(feature = "isal", feature = "isal-bundled"))]
use gzip_isal::Inflater;

/// The first bytes of a gzip file.
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// deflate cannot say more than so many bytes with one.
pub(super) const MAX_RATIO: u128 = 1032;

/// Bytes of content that are compressed as a unit.
const CHUNK: usize = 1 << 20;

/// Compressed bytes that are collected before they are written.
const WRITE_SIZE: usize = 1 << 20;

/// Bytes of content inflated at a time: the checksum is taken while they are in the cache.
const PIECE: usize = 512 << 10;

/// Bytes that a codec may have taken in beyond the end of its stream.
const LOOKAHEAD: usize = 8;

/// How strongly outputs are compressed: 0 (not at all) to 9.
///
/// | level | with ISA-L (default) | without |
/// |---|---|---|
/// | 0 | stored: gzip's framing and checksum, no compression | the same |
/// | 1 (default) | ISA-L level 1, the fastest; 8-bit voxels: level 2, as fast there; about zlib's size at level 1 | flate2 level 1 |
/// | 2, 3 | ISA-L level 2: a little smaller, a little slower | flate2 levels 2 and 3 |
/// | 4 to 9 | flate2 at that level: smaller by a few percent, ten to fifty times slower than 1 | the same |
///
/// ISA-L's level 3 is left out: it finds other matches on processors with AVX-512 than on those without, so that the bytes
/// of an output would depend on the node that wrote it. Levels 1 and 2 give the same bytes on both. Another codec, another
/// release of ISA-L or another family of processors (aarch64) may compress the same content into other bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionLevel(u8);

impl CompressionLevel {
    /// No compression.
    pub const STORED: CompressionLevel = CompressionLevel(0);
    /// The fastest that compresses.
    pub const FAST: CompressionLevel = CompressionLevel(1);

    /// The level of this number, None above 9.
    pub fn new(level: u8) -> Option<Self> {
        (level <= 9).then_some(CompressionLevel(level))
    }

    /// The level's number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for CompressionLevel {
    fn default() -> Self {
        CompressionLevel::FAST
    }
}

impl fmt::Display for CompressionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CompressionLevel {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .ok()
            .and_then(CompressionLevel::new)
            .ok_or("the compression level is a whole number from 0 to 9")
    }
}

/// `--compression`, to be flattened into a subcommand's arguments.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct CompressionArgs {
    /// How strongly .gz outputs are compressed: 0 stores, 1 is the fastest, 2 and 3 are a little smaller, 4 to 9 smaller
    /// by a few percent and ten times slower or more
    #[arg(long = "compression", value_name = "LEVEL", default_value_t)]
    pub level: CompressionLevel,
}

/// What one call of a codec did.
pub(super) struct Step {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
    /// The stream is at its end.
    pub finished: bool,
    /// Of the bytes taken in, now or earlier, so many lie behind the end of a finished stream. At most [`LOOKAHEAD`].
    pub returned: usize,
}

/// The codec says that its input is no deflate stream.
pub(super) struct Damaged;

/// Unused bytes behind the input, for codecs that load whole words.
const SLACK: usize = 64;

/// A codec and an input buffer, reused from file to file.
pub(super) struct Decoder {
    inflater: Inflater,
    /// Compressed bytes; file content begins at [`LOOKAHEAD`], before it lie the last bytes of what was there before.
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
    /// Behind the last member.
    Done,
}

/// The content of a gzip file, checked as it goes by.
pub(super) struct GzipReader<'a, R> {
    source: R,
    decoder: &'a mut Decoder,
    state: State,
    /// The unread part of the decoder's input.
    start: usize,
    end: usize,
    crc: Hasher,
    member_len: u64,
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
            inflated: 0,
        }
    }

    /// What is read from.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// Fills `out` with content and returns how much there was: less than asked for only at the end of the file, when
    /// every member's checksum and length have been found right.
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

    /// Reads and checks `bytes` of content, or what there is of them, without keeping them.
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

    /// Reads and checks all that is left, and returns how much that was.
    pub fn finish(&mut self) -> Result<u64, Cause> {
        self.skip(u64::MAX)
    }

    /// One step within a member's stream; more input is fetched when the codec asks for it.
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
                return Err(damaged); // a codec that neither takes nor gives would go on for ever
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
        // What a codec may give back has to stay in front of what comes.
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
            while byte == Some(0) {
                byte = self.byte()?;
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
        let (stored, computed) = (
            u32::from_le_bytes([a, b, c, d]),
            self.crc.clone().finalize(),
        );
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

enum Deflater {
    Stored,
    #[cfg(any(feature = "isal", feature = "isal-bundled"))]
    Isal(gzip_isal::Deflater),
    Flate2(gzip_flate2::Deflater),
}

impl Deflater {
    fn new(level: CompressionLevel) -> Self {
        match level.get() {
            0 => Deflater::Stored,
            #[cfg(any(feature = "isal", feature = "isal-bundled"))]
            1 => Deflater::Isal(gzip_isal::Deflater::new(gzip_isal::Level::One)),
            #[cfg(any(feature = "isal", feature = "isal-bundled"))]
            2 | 3 => Deflater::Isal(gzip_isal::Deflater::new(gzip_isal::Level::Two)),
            level => Deflater::Flate2(gzip_flate2::Deflater::new(level)),
        }
    }

    /// Appends to `out` the deflate blocks of `chunk`, none of them the stream's last. The same chunk gives the same bytes.
    fn deflate_chunk(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match self {
            Deflater::Stored => {
                for block in chunk.chunks(usize::from(u16::MAX)) {
                    let len = block.len() as u16;
                    out.push(0);
                    out.extend_from_slice(&len.to_le_bytes());
                    out.extend_from_slice(&(!len).to_le_bytes());
                    out.extend_from_slice(block);
                }
            }
            #[cfg(any(feature = "isal", feature = "isal-bundled"))]
            Deflater::Isal(deflater) => deflater.deflate_chunk(chunk, out),
            Deflater::Flate2(deflater) => deflater.deflate_chunk(chunk, out),
        }
    }
}

/// The codec of one level, or two where that depends on the voxels.
struct Deflaters {
    level: CompressionLevel,
    usual: Deflater,
    /// Of 8-bit voxels; made when it is first needed.
    of_bytes: Option<Deflater>,
}

impl Deflaters {
    fn new(level: CompressionLevel) -> Self {
        Deflaters {
            level,
            usual: Deflater::new(level),
            of_bytes: None,
        }
    }

    /// ISA-L's level 1 looks for matches in a way that suits wider voxels; on 8-bit ones level 2 makes files smaller by four
    /// percent in the same time.
    fn of_voxels(&mut self, voxel_bytes: usize) -> &mut Deflater {
        let isal = cfg!(any(feature = "isal", feature = "isal-bundled"));
        if isal && self.level == CompressionLevel::FAST && voxel_bytes == 1 {
            self.of_bytes
                .get_or_insert_with(|| Deflater::new(CompressionLevel(2)))
        } else {
            &mut self.usual
        }
    }
}

/// What was written.
#[derive(Clone, Copy)]
pub(super) struct Written {
    /// Bytes of the file.
    pub bytes_out: u64,
    /// Bytes of its content.
    pub raw_bytes: u64,
    /// CRC-32 of its content.
    pub crc32: u32,
}

/// A piece of a file's content, compressed.
#[derive(Default)]
pub struct Chunk {
    compressed: Vec<u8>,
    crc: Hasher,
    raw_bytes: u64,
}

/// One thread's codec for the chunks of a file that several threads compress.
pub struct ChunkEncoder {
    deflaters: Deflaters,
}

impl ChunkEncoder {
    /// Bytes of content that make a chunk; the last one has what is left.
    pub const CHUNK_BYTES: usize = CHUNK;

    /// A codec of one level.
    pub fn new(level: CompressionLevel) -> Self {
        ChunkEncoder {
            deflaters: Deflaters::new(level),
        }
    }

    /// Compresses `content` of a file with voxels of `voxel_bytes` into `chunk`, whose memory is reused. The same content gives
    /// the same bytes.
    pub fn encode(&mut self, content: &[u8], voxel_bytes: usize, chunk: &mut Chunk) {
        chunk.compressed.clear();
        chunk.crc.reset();
        chunk.crc.update(content);
        chunk.raw_bytes = content.len() as u64;
        self.deflaters
            .of_voxels(voxel_bytes)
            .deflate_chunk(content, &mut chunk.compressed);
    }
}

/// A gzip file of one member, without name and time, put together of chunks.
pub(super) struct Member {
    crc: Hasher,
    raw_bytes: u64,
    bytes_out: u64,
}

impl Member {
    /// Begins the file.
    pub fn begin(sink: &mut impl Write) -> io::Result<Self> {
        sink.write_all(&HEADER)?;
        Ok(Member {
            crc: Hasher::new(),
            raw_bytes: 0,
            bytes_out: HEADER.len() as u64,
        })
    }

    /// Writes the next chunk.
    pub fn append(&mut self, sink: &mut impl Write, chunk: &Chunk) -> io::Result<()> {
        sink.write_all(&chunk.compressed)?;
        self.crc.combine(&chunk.crc);
        self.raw_bytes += chunk.raw_bytes;
        self.bytes_out += chunk.compressed.len() as u64;
        Ok(())
    }

    /// Ends the file.
    pub fn end(self, sink: &mut impl Write) -> io::Result<Written> {
        let crc32 = self.crc.finalize();
        let end = ending(crc32, self.raw_bytes);
        sink.write_all(&end)?;
        Ok(Written {
            bytes_out: self.bytes_out + end.len() as u64,
            raw_bytes: self.raw_bytes,
            crc32,
        })
    }
}

/// How a member begins: no time, no name, no system.
const HEADER: [u8; 10] = [MAGIC[0], MAGIC[1], 8, 0, 0, 0, 0, 0, 0, 255];

/// How a member ends: a last block that is empty, checksum and length.
fn ending(crc32: u32, raw_bytes: u64) -> [u8; 10] {
    let mut end = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    end[2..6].copy_from_slice(&crc32.to_le_bytes());
    end[6..].copy_from_slice(&(raw_bytes as u32).to_le_bytes());
    end
}

/// A codec and an output buffer, reused from file to file.
pub(super) struct Encoder {
    deflaters: Deflaters,
    output: Vec<u8>,
}

impl Encoder {
    /// An encoder of one level.
    pub fn new(level: CompressionLevel) -> Self {
        Encoder {
            deflaters: Deflaters::new(level),
            output: Vec::new(),
        }
    }

    /// Writes the concatenation of `parts` to `sink` as a gzip file of one member, without name and time; voxels
    /// have `voxel_bytes`.
    pub fn write(
        &mut self,
        sink: &mut impl Write,
        parts: &[&[u8]],
        voxel_bytes: usize,
    ) -> io::Result<Written> {
        let deflater = self.deflaters.of_voxels(voxel_bytes);
        let mut crc = Hasher::new();
        let mut written = Written {
            bytes_out: 0,
            raw_bytes: 0,
            crc32: 0,
        };
        let output = &mut self.output;
        output.clear();
        output.extend_from_slice(&HEADER);
        for chunk in parts.iter().flat_map(|part| part.chunks(CHUNK)) {
            crc.update(chunk);
            written.raw_bytes += chunk.len() as u64;
            deflater.deflate_chunk(chunk, output);
            if output.len() >= WRITE_SIZE {
                sink.write_all(output)?;
                written.bytes_out += output.len() as u64;
                output.clear();
            }
        }
        written.crc32 = crc.finalize();
        output.extend_from_slice(&ending(written.crc32, written.raw_bytes));
        sink.write_all(output)?;
        written.bytes_out += output.len() as u64;
        Ok(written)
    }
}
