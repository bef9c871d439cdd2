//! An image in memory: header and voxels.

use super::header::Header;
use crate::volume::Volume;

/// An image: its header and its voxels. Reading another image into it reuses its memory.
#[derive(Default)]
pub struct Image {
    /// Everything but the voxels; carried over to the output.
    pub header: Header,
    /// The voxels and what is needed to compute with them.
    pub volume: Volume,
}
