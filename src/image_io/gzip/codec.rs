//! What the gzip reader and writer and the codecs agree on.

/// The first bytes of a gzip file.
pub(crate) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// One compressed byte holds at most so many bytes of content.
pub(crate) const MAX_RATIO: u128 = 1032;

/// Bytes that a codec may take from its input beyond the end of the stream.
pub(super) const LOOKAHEAD: usize = 8;

/// The result of one call of a codec.
pub(super) struct Step {
    /// Bytes taken from the input.
    pub consumed: usize,
    /// Bytes put into the output.
    pub produced: usize,
    /// The stream is at its end.
    pub finished: bool,
    /// How many of the bytes taken, now or earlier, lie beyond the end of a finished stream; at most
    /// [`LOOKAHEAD`].
    pub returned: usize,
}

/// The input is not a deflate stream.
pub(super) struct Damaged;
