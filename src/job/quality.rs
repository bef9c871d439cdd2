//! Quality: figures of an image before and after filtering, and where its picture is, with `--qc`.

use serde::{Deserialize, Serialize};

/// What was measured about an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The input.
    pub before: Figures,
    /// The result.
    pub after: Figures,
    /// The file of its picture below [`PICTURES`], with `/` between folders; `None` if there is none.
    pub picture: Option<String>,
}

/// The folder of the pictures, below that of the journals.
pub(crate) const PICTURES: &str = "pictures";

/// Figures over all volumes of an image, in intensities. `None`: not defined, or not finite.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Smallest finite voxel.
    pub min: Option<f64>,
    /// Largest finite voxel.
    pub max: Option<f64>,
    /// Mean of the finite voxels.
    pub mean: Option<f64>,
    /// Standard deviation of the finite voxels, with the divisor n − 1.
    pub sd: Option<f64>,
    /// The same of the finite voxels in the eight corners, an eighth of each axis long: usually background.
    pub noise: Option<f64>,
    /// Smoothness along x, y and z in mm, by first differences; the mean over volumes.
    pub fwhm_mm: [Option<f64>; 3],
    /// Number of NaN or infinite voxels.
    pub nonfinite_voxels: u64,
    /// Number of voxels at the largest, or a negative smallest, number of an integer type.
    pub saturated_voxels: u64,
    /// Number of voxels that are 0.
    pub zero_voxels: u64,
}

impl Figures {
    /// The geometric mean of the smoothness along the axes that have one.
    pub(crate) fn mean_fwhm_mm(&self) -> Option<f64> {
        let known: Vec<f64> = self.fwhm_mm.into_iter().flatten().collect();
        let product: f64 = known.iter().product();
        (!known.is_empty()).then(|| product.powf(1.0 / known.len() as f64))
    }
}

/// A figure that is finite, rounded to nine digits to keep records short.
pub(super) fn figure(value: f64) -> Option<f64> {
    let rounded = format!("{value:.8e}").parse();
    rounded.ok().filter(|_| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_nine_digits_and_are_finite() {
        assert_eq!(figure(123_456_789.0), Some(123_456_789.0));
        assert_eq!(figure(f64::from(0.1_f32)), Some(0.100_000_001));
        assert_eq!([f64::NAN, f64::INFINITY].map(figure), [None, None]);
    }
}
