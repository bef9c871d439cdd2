//! Oddities of images that niimpi can still read.

use serde::{Deserialize, Serialize};

use crate::volume::Datatype;

/// An oddity of an image file, and how niimpi reads it.
///
/// The text is one sentence about one file, without its path.
///
/// ```
/// use niimpi::image_io::Warning;
///
/// let warning = Warning::ZeroAxis { axis: 4 };
/// assert_eq!(warning.to_string(), "dim[4] is 0 in its header; read as 1");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "each variant's message is its description, and its fields are the figures in it"
)]
pub enum Warning {
    #[error("sizeof_hdr is {found} in its header, where NIfTI has {expected}; ignored")]
    HeaderSize { found: i32, expected: i32 },
    #[error(
        "its header says {bitpix} bits per voxel, but its datatype {datatype} has {expected}; \
         the datatype counts, and the output gets the right number"
    )]
    Bitpix {
        bitpix: i16,
        datatype: Datatype,
        expected: i16,
    },
    #[error("dim[{axis}] is 0 in its header; read as 1")]
    ZeroAxis { axis: usize },
    #[error("vox_offset is 0 in its header; voxels are read from byte {used}, right after it")]
    ZeroOffset { used: u64 },
    #[error("its header extensions overrun the room before the voxels, so none of them is kept")]
    ExtensionsDropped,
    #[error(
        "{bytes} more bytes follow the voxels that its header declares ({volumes} more volumes); \
         they are ignored"
    )]
    SurplusData { bytes: u64, volumes: u64 },
    #[error(
        "its shape {x}×{y}×{z} is one line of voxels, not a grid; filtering is meaningless \
         if these are vertices of a surface or a table"
    )]
    OneLine { x: usize, y: usize, z: usize },
}

impl Warning {
    /// The kind of the warning, one word that is equal for all files.
    pub fn kind(&self) -> &'static str {
        match self {
            Warning::HeaderSize { .. } => "header_size",
            Warning::Bitpix { .. } => "bitpix",
            Warning::ZeroAxis { .. } => "zero_axis",
            Warning::ZeroOffset { .. } => "zero_offset",
            Warning::ExtensionsDropped => "extensions_dropped",
            Warning::SurplusData { .. } => "surplus_data",
            Warning::OneLine { .. } => "one_line",
        }
    }
}
