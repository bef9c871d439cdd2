//! Gaussian: its parameters as the user gives them, and the kernel that they stand for.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::boundary::Boundary;
use super::kernels::exp::exp_of_nonpositive;
use crate::units;

/// An axis whose sigma is not above this many voxels is left as it is, as scipy leaves it.
pub const SKIPPED_SIGMA_VOX: f64 = 1e-15;

/// Longest radius that is computed, in voxels; beyond it a line's buffer would be gigabytes.
pub const MAX_RADIUS_VOX: usize = 1 << 20;

/// One value for all spatial axes, or one each for x, y and z. As text: `2` or `2,2,1.5`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerAxis {
    /// The same value along every axis.
    All(f64),
    /// Values along x, y and z.
    Each([f64; 3]),
}

impl PerAxis {
    /// The values along x, y and z.
    pub fn xyz(self) -> [f64; 3] {
        match self {
            PerAxis::All(value) => [value; 3],
            PerAxis::Each(values) => values,
        }
    }
}

impl FromStr for PerAxis {
    type Err = String;

    /// # Errors
    /// A sentence for the user when the text is not one or three numbers separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split(',')
            .map(|part| {
                part.trim()
                    .parse()
                    .map_err(|_| format!("'{}' is not a number", part.trim()))
            })
            .collect::<Result<Vec<f64>, String>>()?;
        match numbers[..] {
            [value] => Ok(PerAxis::All(value)),
            [x, y, z] => Ok(PerAxis::Each([x, y, z])),
            _ => Err(format!(
                "give one value for all axes or three (x,y,z), not {}",
                numbers.len()
            )),
        }
    }
}

impl std::fmt::Display for PerAxis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PerAxis::All(value) => write!(f, "{value}"),
            PerAxis::Each([x, y, z]) => write!(f, "{x},{y},{z}"),
        }
    }
}

/// Gaussian smoothing of the three spatial axes, one after the other: `scipy.ndimage.gaussian_filter` of order 0.
///
/// Sigma is in voxels, FWHM in mm; exactly one of them is given. A 4-D image is smoothed volume by volume.
#[derive(clap::Args, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gaussian {
    /// Standard deviation of the Gaussian in VOXELS: one value, or one each for x, y and z
    ///
    /// This is what scipy.ndimage.gaussian_filter takes. 0 leaves an axis as it is. For a width in mm use --fwhm:
    /// FWHM = 2.3548 × sigma × voxel size.
    #[arg(
        long,
        value_name = "VOX[,Y,Z]",
        value_parser = parse_width,
        allow_negative_numbers = true,
        required_unless_present = "fwhm",
        conflicts_with = "fwhm"
    )]
    pub sigma: Option<PerAxis>,

    /// Full width of the Gaussian at half its maximum, in MILLIMETRES: one value, or one each for x, y and z
    ///
    /// Turned into sigma with each image's own voxel size, so images of different resolution get the same smoothness.
    #[arg(long, value_name = "MM[,Y,Z]", value_parser = parse_width, allow_negative_numbers = true)]
    pub fwhm: Option<PerAxis>,

    /// What the kernel meets beyond the edge of the image
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub boundary: Boundary,

    /// Intensity beyond the edge of the image with --boundary constant
    #[arg(
        long,
        value_name = "INTENSITY",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub cval: f64,

    /// Cut the kernel off at this many standard deviations
    ///
    /// Its radius is truncate × sigma, rounded to whole voxels.
    #[arg(long, value_name = "SIGMAS", default_value_t = 4.0, value_parser = parse_truncate, allow_negative_numbers = true)]
    pub truncate: f64,
}

fn parse_width(text: &str) -> Result<PerAxis, String> {
    let width: PerAxis = text.parse()?;
    match width.xyz().into_iter().find_map(width_fault) {
        Some(fault) => Err(fault),
        None => Ok(width),
    }
}

fn parse_truncate(text: &str) -> Result<f64, String> {
    let truncate = text
        .trim()
        .parse()
        .map_err(|_| format!("'{}' is not a number", text.trim()))?;
    truncate_fault(truncate).map_or(Ok(truncate), Err)
}

/// What is wrong with a sigma or FWHM, and what to do.
fn width_fault(value: f64) -> Option<String> {
    (!value.is_finite() || value < 0.0)
        .then(|| format!("{value} is no width: give a finite number that is not negative, 0 to leave an axis unsmoothed"))
}

/// What is wrong with a number of standard deviations, and what to do.
fn truncate_fault(value: f64) -> Option<String> {
    (!value.is_finite() || value < 0.0)
        .then(|| format!("{value} is no place to cut a kernel off: give a finite number that is not negative, such as 4"))
}

impl Gaussian {
    /// A Gaussian of `sigma_vox` voxels along every axis, with the defaults of scipy and of the command line.
    pub fn from_sigma_vox(sigma_vox: f64) -> Self {
        Gaussian {
            sigma: Some(PerAxis::All(sigma_vox)),
            fwhm: None,
            boundary: Boundary::default(),
            cval: 0.0,
            truncate: 4.0,
        }
    }

    /// Checks what can be checked without an image.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] for a width or truncation that is negative, infinite or not a number, and when not
    /// exactly one of sigma and FWHM is given.
    pub fn validate(&self) -> Result<(), FilterError> {
        let (name, width) = match (self.sigma, self.fwhm) {
            (Some(sigma), None) => ("sigma", sigma),
            (None, Some(fwhm)) => ("fwhm", fwhm),
            _ => {
                let cause = "give exactly one of sigma (voxels) and FWHM (mm)".to_string();
                return Err(FilterError::Parameter {
                    name: "sigma",
                    cause,
                });
            }
        };
        if let Some(cause) = width.xyz().into_iter().find_map(width_fault) {
            return Err(FilterError::Parameter { name, cause });
        }
        match truncate_fault(self.truncate) {
            Some(cause) => Err(FilterError::Parameter {
                name: "truncate",
                cause,
            }),
            None => Ok(()),
        }
    }

    /// Sigma in voxels along x, y and z for an image of this voxel size.
    ///
    /// # Errors
    /// What [`Gaussian::validate`] finds, and [`FilterError::VoxelSize`] when a FWHM above 0 meets a voxel size that is
    /// not a positive number.
    pub fn sigma_vox(&self, voxel_size_mm: [f64; 3]) -> Result<[f64; 3], FilterError> {
        self.validate()?;
        let Some(fwhm) = self.fwhm else {
            return Ok(self.sigma.map_or([0.0; 3], PerAxis::xyz));
        };
        let mut sigma_vox = [0.0; 3];
        for (axis, fwhm_mm) in fwhm.xyz().into_iter().enumerate() {
            let size_mm = voxel_size_mm[axis];
            if fwhm_mm > 0.0 {
                if !(size_mm.is_finite() && size_mm > 0.0) {
                    return Err(FilterError::VoxelSize {
                        axis: AXES[axis],
                        size_mm,
                    });
                }
                sigma_vox[axis] = units::sigma_vox_from_fwhm_mm(fwhm_mm, size_mm);
            }
        }
        Ok(sigma_vox)
    }

    /// Radius of the kernel in voxels along x, y and z for an image of this voxel size: `int(truncate·sigma + 0.5)`, and 0
    /// along an axis that is not smoothed.
    ///
    /// # Errors
    /// Those of [`Gaussian::sigma_vox`], and [`FilterError::Radius`] beyond [`MAX_RADIUS_VOX`].
    pub fn radius_vox(&self, voxel_size_mm: [f64; 3]) -> Result<[usize; 3], FilterError> {
        let mut radii = [0; 3];
        for (axis, sigma) in self.sigma_vox(voxel_size_mm)?.into_iter().enumerate() {
            if sigma > SKIPPED_SIGMA_VOX {
                radii[axis] = radius_vox(AXES[axis], sigma, self.truncate)?;
            }
        }
        Ok(radii)
    }

    /// Fills `kernels` with the half kernels along x, y and z; an axis that is not smoothed gets an empty one.
    ///
    /// # Errors
    /// Those of [`Gaussian::radius_vox`].
    pub(super) fn kernels(
        &self,
        voxel_size_mm: [f64; 3],
        kernels: &mut [Vec<f64>; 3],
    ) -> Result<(), FilterError> {
        let sigma_vox = self.sigma_vox(voxel_size_mm)?;
        let radius_vox = self.radius_vox(voxel_size_mm)?;
        for axis in 0..3 {
            kernels[axis].clear();
            if sigma_vox[axis] > SKIPPED_SIGMA_VOX {
                half_kernel(sigma_vox[axis], radius_vox[axis], &mut kernels[axis]);
            }
        }
        Ok(())
    }
}

/// Names of the spatial axes, in the order in which they are smoothed.
const AXES: [&str; 3] = ["x", "y", "z"];

fn radius_vox(axis: &'static str, sigma_vox: f64, truncate: f64) -> Result<usize, FilterError> {
    let radius = (truncate * sigma_vox + 0.5).trunc();
    if radius <= MAX_RADIUS_VOX as f64 {
        Ok(radius as usize)
    } else {
        Err(FilterError::Radius {
            axis,
            radius_vox: radius,
            sigma_vox,
            truncate,
        })
    }
}

/// Fills `half` with the weights of a sampled Gaussian at 0, 1 … `radius` voxels from its centre; the whole kernel, both
/// sides, sums to 1 but for rounding.
///
/// The steps and their roundings are those of scipy's `_gaussian_kernel1d` on numpy: exp(−0.5/σ² · x²), divided by the sum
/// over the whole kernel, which numpy adds up pairwise. Sampled Gaussian: Getreuer, "A Survey of Gaussian Convolution
/// Algorithms", IPOL 3 (2013), section on FIR filtering.
fn half_kernel(sigma_vox: f64, radius: usize, half: &mut Vec<f64>) {
    let factor = -0.5 / (sigma_vox * sigma_vox);
    half.clear();
    // The whole kernel is needed once, for its sum.
    half.extend(
        (-(radius as i64)..=radius as i64).map(|x| exp_of_nonpositive(factor * (x * x) as f64)),
    );
    let sum = pairwise_sum(half);
    half.drain(..radius);
    half.iter_mut().for_each(|weight| *weight /= sum);
}

/// The sum in numpy's order: eight interleaved partial sums over blocks of up to 128 numbers, halves above.
fn pairwise_sum(numbers: &[f64]) -> f64 {
    const BLOCK: usize = 128;
    let n = numbers.len();
    if n < 8 {
        numbers.iter().sum()
    } else if n <= BLOCK {
        let mut eights = numbers.chunks_exact(8);
        let mut partial = [0.0; 8];
        for eight in &mut eights {
            partial
                .iter_mut()
                .zip(eight)
                .for_each(|(sum, number)| *sum += number);
        }
        let [a, b, c, d, e, f, g, h] = partial;
        let whole = ((a + b) + (c + d)) + ((e + f) + (g + h));
        eights
            .remainder()
            .iter()
            .fold(whole, |sum, number| sum + number)
    } else {
        let (left, right) = numbers.split_at(n / 2 / 8 * 8);
        pairwise_sum(left) + pairwise_sum(right)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        gaussian: Gaussian,
    }

    fn parse(arguments: &[&str]) -> Result<Gaussian, String> {
        let line = ["niimpi"].iter().chain(arguments);
        Line::try_parse_from(line)
            .map(|line| line.gaussian)
            .map_err(|error| error.to_string())
    }

    fn kernel(sigma: f64, truncate: f64) -> Vec<u64> {
        let mut half = Vec::new();
        half_kernel(sigma, radius_vox("x", sigma, truncate).unwrap(), &mut half);
        half.into_iter().map(f64::to_bits).collect()
    }

    /// Weights from scipy 1.17.1 on numpy 2.4.6 with AVX-512.
    #[test]
    fn kernels_equal_scipys_to_the_bit() {
        assert_eq!(
            kernel(0.5, 4.0),
            [0x3fe92b965ef5aaee, 0x3fbb405b9842b206, 0x3f314aebe6a24088]
        );
        assert_eq!(
            kernel(2.0, 4.0),
            [
                0x3fc98862a07ae7b4,
                0x3fc68856f9ab1982,
                0x3fbef9093fc46e5a,
                0x3fb0941b71ceef37,
                0x3f9ba4d4125ffd2a,
                0x3f81f30504e20207,
                0x3f6227362b5fc92d,
                0x3f3c98b8c5d0dda5,
                0x3f118aad19e4159b,
            ]
        );
        let fwhm_2 = kernel(2.0 / units::FWHM_PER_SIGMA, 3.0);
        assert_eq!(
            fwhm_2,
            [
                0x3fde0ff87c01e100,
                0x3fce0ff87c01e100,
                0x3f9e0ff87c01e100,
                0x3f4e0ff87c01e100
            ]
        );
        // Long enough for every branch of the pairwise sum.
        let long = kernel(40.0, 2.0);
        assert_eq!(long.len(), 81);
        assert_eq!(
            [long[0], long[1], long[40], long[80]],
            [
                0x3f855e9b99186e11,
                0x3f855ce6048d3cc8,
                0x3f79ec2ec6da4416,
                0x3f5722ee180364ae
            ]
        );
    }

    #[test]
    fn a_radius_is_rounded_to_whole_voxels() {
        let mut gaussian = Gaussian {
            sigma: Some(PerAxis::Each([0.1, 1.1, 2.0])),
            ..Gaussian::from_sigma_vox(0.0)
        };
        assert_eq!(gaussian.radius_vox([1.0; 3]), Ok([0, 4, 8]));
        gaussian.truncate = 0.0;
        assert_eq!(gaussian.radius_vox([1.0; 3]), Ok([0, 0, 0]));
        assert_eq!(kernel(0.1, 4.0), [1f64.to_bits()]);
    }

    #[test]
    fn fwhm_is_in_mm_of_each_image() {
        let gaussian = parse(&["--fwhm", "6,6,0"]).unwrap();
        let sigma_vox = gaussian.sigma_vox([2.0, 3.0, f64::NAN]).unwrap();
        assert_eq!(
            sigma_vox,
            [
                3.0 / units::FWHM_PER_SIGMA,
                6.0 / units::FWHM_PER_SIGMA / 3.0,
                0.0
            ]
        );
        let error = gaussian.sigma_vox([2.0, 0.0, 1.0]).unwrap_err().to_string();
        assert!(
            error.contains("voxel size of 0 mm along y") && error.contains("--sigma in voxels"),
            "{error}"
        );
    }

    #[test]
    fn the_command_line_takes_one_width_of_one_or_three_values() {
        assert_eq!(parse(&["--sigma", "2"]), Ok(Gaussian::from_sigma_vox(2.0)));
        assert_eq!(
            parse(&["--sigma", "1, 2,3.5"]).unwrap().sigma,
            Some(PerAxis::Each([1.0, 2.0, 3.5]))
        );
        let constant = parse(&[
            "--sigma=1",
            "--boundary=constant",
            "--cval",
            "-1000",
            "--truncate",
            "3",
        ])
        .unwrap();
        assert_eq!(
            (constant.boundary, constant.cval, constant.truncate),
            (Boundary::Constant, -1000.0, 3.0)
        );
        assert!(parse(&[]).unwrap_err().contains("--sigma"));
        assert!(
            parse(&["--sigma", "1", "--fwhm", "2"])
                .unwrap_err()
                .contains("cannot be used with")
        );
        assert!(
            parse(&["--sigma", "1,2"])
                .unwrap_err()
                .contains("one value for all axes or three (x,y,z), not 2")
        );
        assert!(
            parse(&["--sigma", "two"])
                .unwrap_err()
                .contains("'two' is not a number")
        );
    }

    #[test]
    fn values_that_are_no_widths_are_refused_by_the_option_that_has_them() {
        for width in ["-1", "nan", "inf", "1,2,-3"] {
            for option in ["--sigma", "--fwhm"] {
                let error = parse(&[&format!("{option}={width}")]).unwrap_err();
                assert!(
                    error.contains(option) && error.contains("is no width: give a finite number"),
                    "{error}"
                );
            }
        }
        for truncate in ["-1", "nan", "inf"] {
            let error = parse(&["--sigma=1", &format!("--truncate={truncate}")]).unwrap_err();
            assert!(
                error.contains("--truncate") && error.contains("such as 4"),
                "{error}"
            );
        }
        assert!(
            parse(&["--sigma", "-1"])
                .unwrap_err()
                .contains("-1 is no width")
        );
        let mut gaussian = Gaussian::from_sigma_vox(f64::NAN);
        assert_eq!(
            gaussian.validate().unwrap_err().to_string(),
            "--sigma: NaN is no width: give a finite number that is not negative, 0 to leave an axis unsmoothed"
        );
        gaussian.sigma = None;
        assert!(
            gaussian
                .validate()
                .unwrap_err()
                .to_string()
                .contains("exactly one of sigma (voxels) and FWHM (mm)")
        );
    }

    #[test]
    fn a_kernel_longer_than_any_image_is_refused_with_figures() {
        let error = Gaussian::from_sigma_vox(1e6)
            .radius_vox([1.0; 3])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("4000000 voxels") && error.contains("at most 1048576"),
            "{error}"
        );
        let endless = Gaussian {
            truncate: f64::MAX,
            ..Gaussian::from_sigma_vox(1e10)
        };
        assert!(matches!(
            endless.radius_vox([1.0; 3]),
            Err(FilterError::Radius { .. })
        ));
    }

    #[test]
    fn parameters_survive_a_report() {
        let gaussian = parse(&["--sigma", "1,2,3", "--boundary", "wrap"]).unwrap();
        let text = serde_json::to_string(&gaussian).unwrap();
        assert_eq!(serde_json::from_str::<Gaussian>(&text).unwrap(), gaussian);
    }
}
