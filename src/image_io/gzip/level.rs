//! The compression level of outputs.

use std::fmt;
use std::str::FromStr;

/// How strongly outputs are compressed: 0 (not at all) to 9.
///
/// ```
/// use niimpi::image_io::CompressionLevel;
///
/// assert_eq!(CompressionLevel::default(), CompressionLevel::FAST);
/// assert_eq!("6".parse(), Ok(CompressionLevel::new(6).unwrap()));
/// assert!(CompressionLevel::new(10).is_none());
/// ```
///
/// | level | with ISA-L (default) | without |
/// |---|---|---|
/// | 0 | stored: gzip's framing and checksum, no compression | the same |
/// | 1 (default) | ISA-L level 1, the fastest; level 2 for 8-bit voxels, as fast there | flate2 level 1 |
/// | 2, 3 | ISA-L level 2: a little smaller, a little slower | flate2 levels 2 and 3 |
/// | 4 to 9 | flate2 at that level: smaller by a few percent, ten to fifty times slower than 1 | the same |
///
/// ISA-L's level 3 is not used: it finds different matches on processors with AVX-512, so the bytes of an
/// output would depend on the node that wrote it. Levels 1 and 2 give the same bytes everywhere on x86-64.
/// Another codec, another release of ISA-L or another processor family (aarch64) can compress the same
/// content into different bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionLevel(u8);

impl CompressionLevel {
    /// The fastest level that compresses.
    pub const FAST: CompressionLevel = CompressionLevel(1);
    pub(super) const SMALLER: CompressionLevel = CompressionLevel(2);

    /// The level with this number; `None` above 9.
    pub fn new(level: u8) -> Option<Self> {
        (level <= 9).then_some(CompressionLevel(level))
    }

    /// The number of the level.
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
