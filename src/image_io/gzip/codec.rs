//! Definitions shared by the gzip reader, the writer and the codecs.

/// The first bytes of a gzip file.
pub(crate) const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Maximum number of content bytes per compressed byte.
pub(crate) const MAX_RATIO: u128 = 1032;

/// Bytes that a codec can read beyond the end of the stream.
pub(super) const LOOKAHEAD: usize = 8;

/// The result of one call of a codec.
pub(super) struct Step {
    /// Bytes consumed from the input.
    pub consumed: usize,
    /// Bytes written to the output.
    pub produced: usize,
    /// The stream is at its end.
    pub finished: bool,
    /// How many of the consumed bytes, now or earlier, lie beyond the end of a finished stream; at most
    /// [`LOOKAHEAD`].
    pub returned: usize,
}

/// The input is not a deflate stream.
pub(super) struct Damaged;
