//! gzip files: members, trailers and checksums around the raw deflate streams of a codec.
//!
//! | file | contents |
//! |---|---|
//! | `codec` | definitions shared by reader, writer and codecs |
//! | `isal`, `portable` | the codecs, ISA-L and flate2; the build chooses one for reading and low levels |
//! | `level` | compression levels |
//! | `reader` | any number of members, checked to the end of the file |
//! | `writer` | one member, made of chunks that threads can compress independently |

mod codec;
#[cfg(any(feature = "isal", feature = "isal-bundled"))]
mod isal;
mod level;
mod portable;
mod reader;
mod writer;

pub(super) use codec::{MAGIC, MAX_RATIO};
pub use level::CompressionLevel;
pub(super) use reader::{Decoder, GzipReader};
pub(super) use writer::GzipMember;
pub(crate) use writer::{Chunk, ChunkEncoder, Written};
