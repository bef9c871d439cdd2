//! The voxel size of a header: its unit, and the two places that give it.

use std::fmt;

/// The voxel sizes of a header whose pixdim and affine disagree.
///
/// ```
/// use niimpi::image_io::Header;
///
/// assert!(Header::default().voxel_size_disagreement().is_none());
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VoxelSizeDisagreement {
    /// By pixdim, in mm.
    pub pixdim_mm: [f64; 3],
    /// By the columns of the affine, in mm. `Header::voxel_size_mm` returns this one.
    pub affine_mm: [f64; 3],
}

/// The unit of length of a header, by its `xyzt_units`.
///
/// ```
/// use niimpi::image_io::{Header, LengthUnit};
///
/// assert_eq!(Header::default().length_unit(), LengthUnit::Millimetre);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LengthUnit {
    /// None is given, which means mm.
    #[default]
    Unknown,
    /// Metre.
    Metre,
    /// Millimetre.
    Millimetre,
    /// Micrometre.
    Micrometre,
}

impl LengthUnit {
    pub(super) fn from_code(xyzt_units: u8) -> Self {
        match xyzt_units & 7 {
            1 => LengthUnit::Metre,
            2 => LengthUnit::Millimetre,
            3 => LengthUnit::Micrometre,
            _ => LengthUnit::Unknown,
        }
    }

    pub(super) fn mm(self) -> f64 {
        match self {
            LengthUnit::Metre => 1e3,
            LengthUnit::Micrometre => 1e-3,
            LengthUnit::Unknown | LengthUnit::Millimetre => 1.0,
        }
    }
}

impl fmt::Display for LengthUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LengthUnit::Unknown => "unknown",
            LengthUnit::Metre => "metre",
            LengthUnit::Millimetre => "millimetre",
            LengthUnit::Micrometre => "micrometre",
        })
    }
}
