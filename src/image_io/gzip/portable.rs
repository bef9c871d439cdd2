//! Raw deflate streams through flate2: levels 4 to 9, and everything in builds without ISA-L.

use flate2::{Compress, Compression, FlushCompress};

/// The compressing half, one level.
pub(super) struct Deflater {
    stream: Compress,
}

impl Deflater {
    /// `level`: flate2's, 1 to 9.
    pub fn new(level: u8) -> Self {
        Deflater {
            stream: Compress::new(Compression::new(u32::from(level)), false),
        }
    }

    /// Appends to `out` the deflate blocks of `chunk`, which refer to nothing before it and end at a whole
    /// byte.
    pub fn deflate_chunk(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        self.stream.reset();
        let mut rest = chunk;
        loop {
            out.reserve(rest.len() + rest.len() / 8 + 1024);
            let before = self.stream.total_in();
            self.stream
                .compress_vec(rest, out, FlushCompress::Full)
                .expect("deflating into a growing buffer fails only on misuse");
            rest = &rest[(self.stream.total_in() - before) as usize..];
            if rest.is_empty() && out.len() < out.capacity() {
                return;
            }
        }
    }
}

#[cfg(not(any(feature = "isal", feature = "isal-bundled")))]
pub(super) use inflate::Inflater;

#[cfg(not(any(feature = "isal", feature = "isal-bundled")))]
mod inflate {
    use flate2::{Decompress, FlushDecompress, Status};

    use crate::image_io::gzip::codec::{Damaged, Step};

    /// The decompressing half.
    pub(crate) struct Inflater {
        stream: Decompress,
    }

    impl Inflater {
        pub fn new() -> Self {
            Inflater {
                stream: Decompress::new(false),
            }
        }

        /// Starts a new stream.
        pub fn reset(&mut self) {
            self.stream.reset(false);
        }

        /// Inflates from `input` into `output` until one of them is used up or the stream ends.
        pub fn inflate(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Damaged> {
            let (before_in, before_out) = (self.stream.total_in(), self.stream.total_out());
            let status = self
                .stream
                .decompress(input, output, FlushDecompress::None)
                .map_err(|_| Damaged)?;
            Ok(Step {
                consumed: (self.stream.total_in() - before_in) as usize,
                produced: (self.stream.total_out() - before_out) as usize,
                finished: status == Status::StreamEnd,
                returned: 0,
            })
        }
    }
}
