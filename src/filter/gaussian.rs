//! Gaussian: its options, their command-line arguments, and the kernels.

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::boundary::{Boundary, BoundaryArgs};
use super::interface::{Filter, ImageInfo, Prepared, SharedOptions, only_on_cpu};
use super::kernels::convolve::Spectrum;
use super::kernels::weights::half_kernel;
use super::nonfinite::NonFinite;
pub use super::per_axis::PerAxis;
use super::separable::{Kernels, Separable, Weighted};
use crate::units;

/// An axis with a sigma up to this many voxels is not smoothed, as in scipy.
pub const SKIPPED_SIGMA_VOX: f64 = 1e-15;

/// Largest radius in voxels. Beyond it, the buffer of a line would take gigabytes.
pub const MAX_RADIUS_VOX: usize = 1 << 20;

/// Largest ratio of the radius to the length of the axis. Beyond it the voxel size is probably wrong, and
/// smoothing would take hours.
pub const MAX_RADIUS_LINES: usize = 8;

/// A radius up to this is allowed for an axis of any length.
pub const ALWAYS_COMPUTED_RADIUS_VOX: usize = 1024;

/// Largest number of multiplications for an image, voxels × taps of the three kernels: about ten minutes of
/// one CPU core.
pub const MAX_PRODUCTS: f64 = 4e12;

/// How an axis is convolved.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Sums of products, bit for bit as scipy
    #[default]
    Direct,
    /// Fourier transforms along each axis
    Fft,
}

impl Method {
    fn is_direct(&self) -> bool {
        *self == Method::Direct
    }
}

/// Options of the Gaussian filter. It smooths the spatial axes one after the other, as
/// `scipy.ndimage.gaussian_filter` with order 0.
///
/// Sigma is in voxels, FWHM in mm. Exactly one of them must be given. Each volume of a 4-D image is smoothed
/// separately.
///
/// ```
/// use niimpi::filter::Filter;
/// use niimpi::filter::boundary::Boundary;
/// use niimpi::filter::gaussian::Gaussian;
///
/// let gaussian = Gaussian::from_fwhm_mm(6.0).with_boundary(Boundary::Nearest);
/// gaussian.validate()?;
/// assert_eq!(gaussian.radii_vox([2.0, 2.0, 3.0])?, [5, 5, 3]);
/// # Ok::<(), niimpi::filter::FilterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gaussian {
    /// Standard deviation in voxels.
    pub sigma: Option<PerAxis>,
    /// Full width at half maximum in mm.
    pub fwhm: Option<PerAxis>,
    /// How the image continues beyond its edge.
    pub boundary: Boundary,
    /// Intensity beyond the edge with [`Boundary::Constant`].
    #[serde(with = "super::lossless")]
    pub cval: f64,
    /// The kernel is cut off at this many standard deviations.
    pub truncate: f64,
    /// How an axis is convolved. With [`Method::Fft`], the result differs from that of [`Method::Direct`] by
    /// at most 1e-6 of the largest absolute intensity, [`Gaussian::cval`] included. Integers are computed in
    /// double and rounded to nearest once, and images with non-finite voxels are refused unless they are
    /// treated.
    #[serde(default, skip_serializing_if = "Method::is_direct")]
    pub method: Method,
}

/// The command-line options of the Gaussian filter.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub(crate) struct Args {
    /// Standard deviation of the Gaussian in VOXELS: one value, or one each for x, y and z (or give --fwhm)
    ///
    /// The same as sigma of scipy.ndimage.gaussian_filter. 0 leaves an axis unchanged. For a width in mm use
    /// --fwhm: FWHM = 2.3548 × sigma × voxel size.
    #[arg(
        long,
        value_name = "VOX[,Y,Z]",
        value_parser = parse_width,
        allow_negative_numbers = true,
        required_unless_present = "fwhm",
        conflicts_with = "fwhm"
    )]
    sigma: Option<PerAxis>,

    /// Full width at half maximum (FWHM) in MILLIMETRES: one value, or one each for x, y and z (or give
    /// --sigma)
    ///
    /// Converted to sigma with the voxel size of each image, so images of different resolution get the same
    /// smoothness.
    #[arg(long, value_name = "MM[,Y,Z]", value_parser = parse_width, allow_negative_numbers = true)]
    fwhm: Option<PerAxis>,

    #[command(flatten)]
    edge: BoundaryArgs,

    /// Cut the kernel off at this many standard deviations
    ///
    /// The kernel reaches truncate × sigma to each side, rounded to whole voxels.
    #[arg(long, value_name = "SIGMAS", default_value_t = 4.0, value_parser = parse_truncate)]
    #[arg(allow_negative_numbers = true)]
    truncate: f64,

    /// How each axis is convolved with the kernel
    ///
    /// fft takes the same kernel and edges. Results differ from those of direct by at most 1e-6 of the
    /// largest intensity. Integers are computed in double and rounded once, as with --round nearest. An image
    /// with NaN or infinite voxels fails unless --nan zero, ignore or keep is given. fft is faster for very
    /// wide kernels only: docs/performance.md has the widths.
    #[arg(long, value_enum, value_name = "METHOD", default_value_t)]
    method: Method,
}

impl From<Args> for Gaussian {
    fn from(args: Args) -> Self {
        Gaussian {
            sigma: args.sigma,
            fwhm: args.fwhm,
            boundary: args.edge.boundary,
            cval: args.edge.cval,
            truncate: args.truncate,
            method: args.method,
        }
    }
}

pub(super) fn parse_width(text: &str) -> Result<PerAxis, String> {
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

/// A message about an invalid sigma or FWHM, with a remedy.
pub(super) fn width_fault(value: f64) -> Option<String> {
    (!value.is_finite() || value < 0.0).then(|| {
        format!(
            "{value} is not a valid width: give a finite number that is not negative, 0 to leave an \
                          axis unsmoothed"
        )
    })
}

/// A message about an invalid number of standard deviations, with a remedy.
fn truncate_fault(value: f64) -> Option<String> {
    (!value.is_finite() || value < 0.0).then(|| {
        format!(
            "{value} is not a valid place to cut a kernel off: give a finite number that is not \
                          negative, such as 4"
        )
    })
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
            method: Method::Direct,
        }
    }

    /// A Gaussian with a full width at half maximum of `fwhm_mm` along every axis and the same defaults.
    pub fn from_fwhm_mm(fwhm_mm: f64) -> Self {
        Gaussian {
            sigma: None,
            fwhm: Some(PerAxis::All(fwhm_mm)),
            ..Self::from_sigma_vox(0.0)
        }
    }

    /// The same with another boundary.
    #[must_use]
    pub fn with_boundary(self, boundary: Boundary) -> Self {
        Gaussian { boundary, ..self }
    }

    /// The same with another intensity beyond the edge, for [`Boundary::Constant`].
    #[must_use]
    pub fn with_cval(self, cval: f64) -> Self {
        Gaussian { cval, ..self }
    }

    /// The same with a kernel that ends at `truncate` standard deviations.
    #[must_use]
    pub fn with_truncate(self, truncate: f64) -> Self {
        Gaussian { truncate, ..self }
    }

    /// The same with another method.
    #[must_use]
    pub fn with_method(self, method: Method) -> Self {
        Gaussian { method, ..self }
    }

    fn check(&self) -> Result<(), FilterError> {
        if self.method == Method::Fft && self.boundary == Boundary::Constant && !self.cval.is_finite() {
            return Err(FilterError::Parameter {
                name: "cval",
                cause: format!(
                    "{} with --method fft, which would spread it over whole lines: give a finite number, or \
                     --method direct",
                    self.cval
                ),
            });
        }
        let (name, width) = match (self.sigma, self.fwhm) {
            (Some(sigma), None) => ("sigma", sigma),
            (None, Some(fwhm)) => ("fwhm", fwhm),
            _ => {
                let cause = "give exactly one of sigma (voxels) and FWHM (mm)".to_string();
                return Err(FilterError::Parameter { name: "sigma", cause });
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
    /// Those of [`Filter::validate`], and [`FilterError::VoxelSize`] if the FWHM is above 0 and the voxel
    /// size is not a positive number.
    pub fn sigma_vox(&self, voxel_size_mm: [f64; 3]) -> Result<[f64; 3], FilterError> {
        self.check()?;
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

    /// Radius of the kernel in voxels along x, y and z for an image with this voxel size: `int(truncate·sigma
    /// + 0.5)`, and 0 along an axis that is not smoothed.
    ///
    /// # Errors
    /// Those of [`Gaussian::sigma_vox`], and [`FilterError::Radius`] beyond [`MAX_RADIUS_VOX`].
    pub fn radii_vox(&self, voxel_size_mm: [f64; 3]) -> Result<[usize; 3], FilterError> {
        let mut radii = [0; 3];
        for (axis, sigma) in self.sigma_vox(voxel_size_mm)?.into_iter().enumerate() {
            if sigma > SKIPPED_SIGMA_VOX {
                radii[axis] = radius_vox(AXES[axis], sigma, self.truncate, MAX_RADIUS_VOX)?;
            }
        }
        Ok(radii)
    }
}

/// Names of the spatial axes, in smoothing order.
const AXES: [&str; 3] = ["x", "y", "z"];

fn radius_vox(axis: &'static str, sigma_vox: f64, truncate: f64, limit: usize) -> Result<usize, FilterError> {
    let radius = (truncate * sigma_vox + 0.5).trunc();
    if radius <= limit as f64 {
        Ok(radius as usize)
    } else {
        Err(FilterError::Radius {
            axis,
            radius_vox: radius,
            sigma_vox,
            truncate,
            limit,
        })
    }
}

impl Filter for Gaussian {
    fn validate(&self) -> Result<(), FilterError> {
        self.check()
    }

    fn validate_on_device(&self) -> Result<(), FilterError> {
        match self.method {
            Method::Direct => Ok(()),
            Method::Fft => Err(only_on_cpu("--method fft")),
        }
    }

    fn uses_voxel_size(&self) -> bool {
        self.fwhm.is_some()
    }

    fn refuses_nonfinite(&self) -> bool {
        self.method == Method::Fft
    }

    fn radius_vox(&self) -> Option<[usize; 3]> {
        // Sigma in voxels is the same for every image, so the voxel size does not matter.
        self.sigma.and_then(|_| self.radii_vox([1.0; 3]).ok())
    }

    fn bids_desc(&self) -> Option<String> {
        self.fwhm?.bids_desc()
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        let sigma_vox = self.sigma_vox(image.voxel_size_mm)?;
        let shape = image.spatial_shape();
        let by_fft = self.method == Method::Fft;
        if by_fft
            && shared.nan == NonFinite::Propagate
            && image.nonfinite_voxels.is_some_and(|found| found > 0)
        {
            return Err(FilterError::Parameter {
                name: "nan",
                cause:
                    "the image has voxels that are NaN or infinite, which a Fourier transform spreads over \
                        whole lines: give --nan ignore, keep or zero, or --method direct"
                        .to_owned(),
            });
        }
        let mut half: [Vec<f64>; 3] = Default::default();
        let mut spectra: [Option<Spectrum>; 3] = Default::default();
        for axis in 0..image.spatial_axes() {
            let sigma = sigma_vox[axis];
            if sigma > SKIPPED_SIGMA_VOX {
                let limit = shape[axis]
                    .saturating_mul(MAX_RADIUS_LINES)
                    .clamp(ALWAYS_COMPUTED_RADIUS_VOX, MAX_RADIUS_VOX);
                let radius = radius_vox(AXES[axis], sigma, self.truncate, limit)?;
                half[axis] = half_kernel(sigma, radius)?;
                if by_fft && radius > 0 {
                    spectra[axis] = Some(Spectrum::new(&half[axis], shape[axis])?);
                }
            }
        }
        let kernels = Kernels {
            half,
            spectra,
            boundary: self.boundary,
            cval: self.cval,
        };
        let products = image.voxels() as f64 * kernels.taps();
        if products > MAX_PRODUCTS {
            return Err(FilterError::Work {
                products,
                limit: MAX_PRODUCTS,
            });
        }
        let types = shared.types(image)?;
        let types = if by_fft { types.rounded_once() } else { types };
        let leaves_out = shared.nan.leaves_out() && image.may_be_nonfinite();
        let masked = image.mask_voxels.is_some();
        let weighted = (masked || leaves_out).then_some(Weighted {
            outside: masked.then_some(shared.outside.unwrap_or_default()),
            leaves_out,
            keeps_nan: leaves_out && shared.nan == NonFinite::Keep,
        });
        Ok(Box::new(Separable::new(
            kernels, image, types, sigma_vox, weighted,
        )))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        gaussian: Args,
    }

    fn parse(arguments: &[&str]) -> Result<Gaussian, String> {
        let line = ["niimpi"].iter().chain(arguments);
        Line::try_parse_from(line)
            .map(|line| Gaussian::from(line.gaussian))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_radius_is_rounded_to_whole_voxels() {
        let mut gaussian = Gaussian {
            sigma: Some(PerAxis::Each([0.1, 1.1, 2.0])),
            ..Gaussian::from_sigma_vox(0.0)
        };
        assert_eq!(gaussian.radii_vox([1.0; 3]), Ok([0, 4, 8]));
        gaussian.truncate = 0.0;
        assert_eq!(gaussian.radii_vox([1.0; 3]), Ok([0, 0, 0]));
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
            error.contains("voxel size of 0 mm along y") && error.contains("sigma in voxels"),
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
                    error.contains(option) && error.contains("is not a valid width: give a finite number"),
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
                .contains("-1 is not a valid width")
        );
        let mut gaussian = Gaussian::from_sigma_vox(f64::NAN);
        assert_eq!(
            gaussian.validate().unwrap_err().to_string(),
            "sigma: NaN is not a valid width: give a finite number that is not negative, 0 to leave an axis \
             unsmoothed"
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
            .radii_vox([1.0; 3])
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
            endless.radii_vox([1.0; 3]),
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
