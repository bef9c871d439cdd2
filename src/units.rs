//! Units: converts FWHM in mm to sigma in voxels; no other module does.

/// FWHM of a Gaussian in units of its standard deviation: 2·√(2·ln 2).
pub const FWHM_PER_SIGMA: f64 = 2.354_820_045_030_949_3;

/// Sigma in voxels of a Gaussian whose full width at half maximum is `fwhm_mm`, along an axis of
/// `voxel_size_mm`.
pub fn sigma_vox_from_fwhm_mm(fwhm_mm: f64, voxel_size_mm: f64) -> f64 {
    fwhm_mm / FWHM_PER_SIGMA / voxel_size_mm
}
