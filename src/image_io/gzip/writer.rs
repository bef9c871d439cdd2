//! Writing gzip files of one member. The content is divided into chunks that are compressed independently and
//! end at whole bytes. Threads can share the work without changing a byte of the result.

use std::io::{self, Write};

use crc32fast::Hasher;
use serde::{Deserialize, Serialize};

use super::codec::MAGIC;
#[cfg(any(feature = "isal", feature = "isal-bundled"))]
use super::isal;
use super::level::CompressionLevel;
use super::portable;

enum Deflater {
    /// The content itself, for a file that is not compressed.
    None,
    Stored,
    #[cfg(any(feature = "isal", feature = "isal-bundled"))]
    Isal(isal::Deflater),
    Flate2(portable::Deflater),
}

impl Deflater {
    fn new(level: CompressionLevel) -> Self {
        match level.get() {
            0 => Deflater::Stored,
            #[cfg(any(feature = "isal", feature = "isal-bundled"))]
            1 => Deflater::Isal(isal::Deflater::new(isal::Level::One)),
            #[cfg(any(feature = "isal", feature = "isal-bundled"))]
            2 | 3 => Deflater::Isal(isal::Deflater::new(isal::Level::Two)),
            level => Deflater::Flate2(portable::Deflater::new(level)),
        }
    }

    /// Appends the deflate blocks of `chunk` to `out`, without a final block. The same chunk gives the same
    /// bytes.
    fn deflate_chunk(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        match self {
            Deflater::None => out.extend_from_slice(chunk),
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

/// A chunk of a file's content, compressed. Its memory is reused.
#[derive(Default)]
pub(crate) struct Chunk {
    compressed: Vec<u8>,
    crc: Hasher,
    raw_bytes: u64,
}

impl Chunk {
    /// The compressed bytes, and checksum and length of the content.
    pub(crate) fn as_parts(&self) -> (&[u8], u32, u64) {
        (&self.compressed, self.crc.clone().finalize(), self.raw_bytes)
    }

    /// Describes content that is written elsewhere.
    pub(crate) fn describe(&mut self, content: &[u8]) {
        self.compressed.clear();
        self.crc.reset();
        self.crc.update(content);
        self.raw_bytes = content.len() as u64;
    }

    /// The chunk of these parts.
    pub(crate) fn from_parts(compressed: Vec<u8>, crc32: u32, raw_bytes: u64) -> Self {
        Chunk {
            compressed,
            crc: Hasher::new_with_initial_len(crc32, raw_bytes),
            raw_bytes,
        }
    }
}

/// One thread's codec for the chunks of a file.
pub(crate) struct ChunkEncoder {
    level: CompressionLevel,
    usual: Deflater,
    /// For 8-bit voxels; made when first needed.
    for_bytes: Option<Deflater>,
}

impl ChunkEncoder {
    /// Bytes of content per chunk; the last one has the rest.
    pub(crate) const CHUNK_BYTES: usize = 1 << 20;

    pub(crate) fn new(level: CompressionLevel) -> Self {
        ChunkEncoder {
            level,
            usual: Deflater::new(level),
            for_bytes: None,
        }
    }

    /// For a file that is not compressed.
    pub(crate) fn plain() -> Self {
        ChunkEncoder {
            level: CompressionLevel::FAST,
            usual: Deflater::None,
            for_bytes: None,
        }
    }

    /// Whether the file is compressed.
    pub(crate) fn compresses(&self) -> bool {
        !matches!(self.usual, Deflater::None)
    }

    /// Compresses `content` of a file with voxels of `voxel_bytes` into `chunk`. The same content gives the
    /// same bytes.
    pub(crate) fn encode(&mut self, content: &[u8], voxel_bytes: usize, chunk: &mut Chunk) {
        chunk.describe(content);
        self.deflater_for(voxel_bytes)
            .deflate_chunk(content, &mut chunk.compressed);
    }

    /// ISA-L's level 1 finds matches in a way that suits wider voxels. For 8-bit voxels, level 2 makes files
    /// four percent smaller in the same time.
    fn deflater_for(&mut self, voxel_bytes: usize) -> &mut Deflater {
        let isal = cfg!(any(feature = "isal", feature = "isal-bundled"));
        if isal && self.compresses() && self.level == CompressionLevel::FAST && voxel_bytes == 1 {
            self.for_bytes
                .get_or_insert_with(|| Deflater::new(CompressionLevel::SMALLER))
        } else {
            &mut self.usual
        }
    }
}

/// Size and checksum of the written content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    /// Bytes of the content.
    pub raw_bytes: u64,
    /// CRC-32 of the content.
    pub crc32: u32,
}

impl Written {
    /// That of these chunks together.
    pub(crate) fn of<'a>(chunks: impl IntoIterator<Item = &'a Chunk>) -> Self {
        let (mut crc, mut raw_bytes) = (Hasher::new(), 0);
        for chunk in chunks {
            crc.combine(&chunk.crc);
            raw_bytes += chunk.raw_bytes;
        }
        Written {
            raw_bytes,
            crc32: crc.finalize(),
        }
    }
}

/// A gzip file of one member, assembled from chunks. Its header has neither a name nor a time. Or a file that
/// is not compressed, from chunks of [`ChunkEncoder::plain`].
pub(crate) struct GzipMember {
    plain: bool,
    crc: Hasher,
    raw_bytes: u64,
}

impl GzipMember {
    /// Starts the file.
    pub fn start(sink: &mut impl Write) -> io::Result<Self> {
        sink.write_all(&HEADER)?;
        Ok(GzipMember {
            plain: false,
            ..GzipMember::plain()
        })
    }

    /// Starts a file that is not compressed.
    pub fn plain() -> Self {
        GzipMember {
            plain: true,
            crc: Hasher::new(),
            raw_bytes: 0,
        }
    }

    /// Compresses and writes `content`, whole chunks of it; voxels have `voxel_bytes`.
    pub fn append_content(
        &mut self,
        sink: &mut impl Write,
        content: &[u8],
        voxel_bytes: usize,
        encoder: &mut ChunkEncoder,
        chunk: &mut Chunk,
    ) -> io::Result<()> {
        for content in content.chunks(ChunkEncoder::CHUNK_BYTES) {
            encoder.encode(content, voxel_bytes, chunk);
            self.append(sink, chunk)?;
        }
        Ok(())
    }

    /// Writes the next chunk.
    pub fn append(&mut self, sink: &mut impl Write, chunk: &Chunk) -> io::Result<()> {
        sink.write_all(&chunk.compressed)?;
        self.crc.combine(&chunk.crc);
        self.raw_bytes += chunk.raw_bytes;
        Ok(())
    }

    /// Counts content that was written elsewhere.
    pub fn skip(&mut self, written: &Written) {
        let Written { raw_bytes, crc32 } = *written;
        self.crc.combine(&Hasher::new_with_initial_len(crc32, raw_bytes));
        self.raw_bytes += raw_bytes;
    }

    /// Whether the file is not compressed, so that its bytes are the content.
    pub fn is_plain(&self) -> bool {
        self.plain
    }

    /// Bytes of the content so far.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Writes the end of the file.
    pub fn finish(self, sink: &mut impl Write) -> io::Result<Written> {
        let crc32 = self.crc.finalize();
        if !self.plain {
            sink.write_all(&ending(crc32, self.raw_bytes))?;
        }
        Ok(Written {
            raw_bytes: self.raw_bytes,
            crc32,
        })
    }
}

/// The start of a member: no time, no name, unknown system.
const HEADER: [u8; 10] = [MAGIC[0], MAGIC[1], 8, 0, 0, 0, 0, 0, 0, 255];

/// The end of a member: an empty final block, checksum and length.
fn ending(crc32: u32, raw_bytes: u64) -> [u8; 10] {
    let mut end = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    end[2..6].copy_from_slice(&crc32.to_le_bytes());
    end[6..].copy_from_slice(&(raw_bytes as u32).to_le_bytes());
    end
}
