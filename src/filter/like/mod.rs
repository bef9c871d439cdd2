//! Like: a Gaussian as another program computes it: its options, and how they fit an image.
//!
//! | file | role |
//! |---|---|
//! | `engine` | axes after each other, with the edges, orders and precisions of a preset |
//! | `weights` | the kernels |

mod engine;
mod weights;

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::gaussian::{
    ALWAYS_COMPUTED_RADIUS_VOX, MAX_PRODUCTS, MAX_RADIUS_LINES, MAX_RADIUS_VOX, PerAxis, width_fault,
};
use super::interface::{Filter, FilterWarning, ImageInfo, Prepared, SharedOptions, only_on_cpu};
use super::nonfinite::NonFinite;
use super::output::{OutputType, Rounding};
pub use super::presets::Tool;
use super::presets::{AxisOrder, Fwhm, Kernel, Preset, RadiusOf, Skip, Stored, VoxelSize, Whole};
use crate::volume::{Datatype, Geometry};
use engine::Engine;

/// Names of the axes.
const AXES: [&str; 3] = ["x", "y", "z"];

/// Columns of an affine that are not orthogonal, by the cosine of their angle, make a sheared grid.
const SHEARED: f64 = 0.001;

/// A Gaussian with the numbers of another program.
///
/// Exactly one of FWHM and sigma is given, in mm. The result is `float32`, or `float64` where the program's
/// values need it, unless the output type says otherwise. Each 3-D volume is smoothed by itself.
///
/// ```
/// use niimpi::filter::like::{Like, Tool};
/// use niimpi::filter::{Scratch, SharedOptions, apply};
/// use niimpi::volume::{Datatype, Volume};
///
/// let mut volume = Volume::zeros(&[9, 9, 9], Datatype::Int16);
/// volume.voxels.as_mut_slice::<i16>().fill(7);
/// let like = Like::from_fwhm_mm(Tool::Nilearn, 6.0);
/// apply(&like, &SharedOptions::default(), &mut volume, &mut Scratch::default())?;
/// assert_eq!(volume.datatype, Datatype::Float32);
/// # Ok::<(), niimpi::filter::FilterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Like {
    /// The program.
    pub like: Tool,
    /// Full width at half maximum in mm.
    pub fwhm: Option<PerAxis>,
    /// Standard deviation in mm.
    pub sigma_mm: Option<PerAxis>,
}

/// The width of a kernel along an axis.
struct Width {
    sigma_mm: f64,
    sigma_vox: f64,
    voxel_mm: f64,
}

impl Like {
    /// A Gaussian of this full width at half maximum along every axis.
    pub fn from_fwhm_mm(like: Tool, fwhm_mm: f64) -> Self {
        Like {
            like,
            fwhm: Some(PerAxis::All(fwhm_mm)),
            sigma_mm: None,
        }
    }

    /// The width as given, and whether it is a FWHM.
    fn given(&self) -> Result<(PerAxis, bool), FilterError> {
        let (name, width, is_fwhm) = match (self.fwhm, self.sigma_mm) {
            (Some(fwhm), None) => ("fwhm", fwhm, true),
            (None, Some(sigma)) => ("sigma-mm", sigma, false),
            _ => {
                return Err(FilterError::Parameter {
                    name: "like",
                    cause: "give exactly one of FWHM and sigma, in mm".to_owned(),
                });
            }
        };
        match width.xyz().into_iter().find_map(width_fault) {
            Some(cause) => Err(FilterError::Parameter { name, cause }),
            None => Ok((width, is_fwhm)),
        }
    }

    fn refused(&self, cause: String) -> FilterError {
        FilterError::Parameter {
            name: "like",
            cause: format!("{}: {cause}", self.like),
        }
    }

    /// Refuses what a preset fixes. The command line has refused it before.
    fn check_shared(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<(), FilterError> {
        let given = [
            ("mask", image.mask_voxels.is_some()),
            ("round", shared.output.round != Rounding::default()),
            (
                "nan",
                shared.nan != NonFinite::default() && image.may_be_nonfinite(),
            ),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(FilterError::Parameter {
                name,
                cause: format!(
                    "--like {} fixes it: {}",
                    self.like,
                    self.like.fixed(name).unwrap_or_default()
                ),
            }),
            None => Ok(()),
        }
    }

    /// The widths along the axes of the image; 0 along an axis of one voxel that the program leaves alone.
    fn widths(&self, geometry: &Geometry, image: &ImageInfo) -> Result<[Width; 3], FilterError> {
        let preset = self.like.preset();
        let (given, is_fwhm) = self.given()?;
        let (axes, shape) = (image.spatial_axes(), image.spatial_shape());
        let sizes = voxel_sizes(preset.voxel_size, geometry);
        let order = axes_in_order(preset.order, geometry);
        let mut widths = sizes.map(|voxel_mm| Width {
            sigma_mm: 0.0,
            sigma_vox: 0.0,
            voxel_mm,
        });
        for (place, &axis) in order.iter().enumerate() {
            let of = if preset.order == AxisOrder::NearRas {
                place
            } else {
                axis
            };
            let value = given.xyz()[of];
            let size_mm = sizes[axis];
            let left_alone = preset.skip != Skip::Never && shape[axis] < 2;
            if value == 0.0 || axis >= axes || left_alone {
                continue;
            }
            if !(size_mm.is_finite() && size_mm > 0.0) {
                return Err(self.refused(format!(
                    "takes the voxel size from {}, where it is {size_mm} mm along {}: repair the header",
                    preset.voxel_size, AXES[axis]
                )));
            }
            widths[axis] = width(preset, value, is_fwhm, size_mm);
        }
        Ok(widths)
    }

    fn radius(&self, axis: usize, width: &Width, len: usize) -> Result<usize, FilterError> {
        let preset = self.like.preset();
        if let Kernel::Bessel(_) = preset.kernel {
            return Ok(weights::BESSEL_MOST);
        }
        let sigmas = preset.radius.sigmas;
        let exact = match preset.radius.of {
            RadiusOf::Voxels => sigmas * width.sigma_vox,
            RadiusOf::Mm => sigmas * width.sigma_mm / width.voxel_mm,
            RadiusOf::MmSingle => f64::from(sigmas as f32 * width.sigma_mm as f32 / width.voxel_mm as f32),
        };
        let radius = match preset.radius.whole {
            Whole::Nearest => (exact + 0.5).floor(),
            Whole::Up => exact.ceil(),
            Whole::Down => exact.floor(),
        };
        let limit = len
            .saturating_mul(MAX_RADIUS_LINES)
            .clamp(ALWAYS_COMPUTED_RADIUS_VOX, MAX_RADIUS_VOX);
        if radius > limit as f64 {
            return Err(FilterError::Radius {
                axis: AXES[axis],
                radius_vox: radius,
                sigma_vox: width.sigma_vox,
                truncate: sigmas,
                limit,
            });
        }
        let radius = (radius as usize).max(preset.radius.least);
        match preset.radius.most {
            Some(most) if radius > most => Err(self.refused(format!(
                "a kernel of {radius} voxels to each side along {}; above {most} the program uses a Fourier \
                 transform, which niimpi does not have: give a smaller width",
                AXES[axis]
            ))),
            _ => Ok(radius),
        }
    }
}

/// Sigma from what was given, in the program's order and precision.
fn width(preset: &Preset, given: f64, is_fwhm: bool, voxel_mm: f64) -> Width {
    let single = |value: f64| f64::from(value as f32);
    let mut sigma_mm = match preset.fwhm {
        _ if !is_fwhm => given,
        Fwhm::Over(factor) | Fwhm::OverVoxel(factor) | Fwhm::OfVoxels(factor) => given / factor,
        Fwhm::OverSingle(factor) => f64::from(given as f32 / factor),
        Fwhm::Times(factor) => factor * single(given),
    };
    if preset.single {
        sigma_mm = single(sigma_mm);
    }
    let sigma_vox = match preset.fwhm {
        Fwhm::OverVoxel(factor) if is_fwhm => given / (factor * voxel_mm),
        Fwhm::OfVoxels(factor) if is_fwhm => given / voxel_mm / factor,
        _ if preset.single => single(sigma_mm / voxel_mm),
        _ => sigma_mm / voxel_mm,
    };
    Width {
        sigma_mm,
        sigma_vox,
        voxel_mm,
    }
}

fn column_lengths(matrix: &[[f64; 3]; 3]) -> [f64; 3] {
    std::array::from_fn(|axis| matrix.iter().map(|row| row[axis] * row[axis]).sum::<f64>().sqrt())
}

/// Voxel sizes as a program takes them from a header.
fn voxel_sizes(field: VoxelSize, geometry: &Geometry) -> [f64; 3] {
    let Geometry {
        pixdim,
        matrix,
        has_sform,
        mm_per_unit,
    } = geometry;
    let single_lengths = || {
        let single = matrix.map(|row| row.map(|value| value as f32));
        let square = |axis: usize| single.iter().map(|row| row[axis] * row[axis]).sum::<f32>();
        std::array::from_fn(|axis| square(axis).sqrt())
    };
    match field {
        VoxelSize::Pixdim => *pixdim,
        VoxelSize::PixdimMm => pixdim.map(|size| size * mm_per_unit),
        VoxelSize::Affine => column_lengths(matrix),
        // AFNI takes the lengths in double and stores them in single precision.
        VoxelSize::AffineSingle => column_lengths(matrix).map(|size| f64::from(size as f32)),
        VoxelSize::AffineSingleMm => single_lengths().map(|size: f32| f64::from(size * *mm_per_unit as f32)),
        VoxelSize::PixdimOrSform => {
            let columns = column_lengths(matrix);
            let differs = |axis: usize| (pixdim[axis] / columns[axis] - 1.0).abs() > 1e-5;
            match *has_sform && (0..3).any(differs) {
                true => columns,
                false => *pixdim,
            }
        }
    }
}

/// The axes of the image in the order in which a program smooths them.
fn axes_in_order(order: AxisOrder, geometry: &Geometry) -> [usize; 3] {
    match order {
        AxisOrder::Xyz => [0, 1, 2],
        AxisOrder::Zyx => [2, 1, 0],
        AxisOrder::NearRas => {
            const ALL: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
            let lengths = column_lengths(&geometry.matrix);
            let along = |row: usize, axis: usize| (geometry.matrix[row][axis] / lengths[axis]).abs();
            let fit = |axes: &[usize; 3]| (0..3).map(|row| along(row, axes[row])).sum::<f64>();
            let better =
                |best: [usize; 3], axes: [usize; 3]| if fit(&axes) > fit(&best) { axes } else { best };
            ALL.into_iter().reduce(better).unwrap_or(ALL[0])
        }
    }
}

/// The largest cosine between two columns.
fn shear(matrix: &[[f64; 3]; 3]) -> f64 {
    let lengths = column_lengths(matrix);
    let product = |a: usize, b: usize| matrix.iter().map(|row| row[a] * row[b]).sum::<f64>();
    let cosines = [(0, 1), (1, 2), (2, 0)].map(|(a, b)| (product(a, b) / (lengths[a] * lengths[b])).abs());
    cosines.into_iter().fold(0.0, f64::max)
}

/// The type of the image between the axes.
fn stored_type(preset: &Preset, image: &ImageInfo) -> Datatype {
    let scaled = image.scaling.is_some();
    let own = image.datatype;
    match preset.stored {
        Stored::Single => Datatype::Float32,
        Stored::Double => Datatype::Float64,
        Stored::Own if scaled => Datatype::Float64,
        Stored::OwnOrSingle if scaled => match own {
            Datatype::Float64 => Datatype::Float64,
            _ => Datatype::Float32,
        },
        Stored::Own | Stored::OwnOrSingle => own,
        Stored::Float if scaled => Datatype::Float64,
        Stored::Float => match own {
            Datatype::Float64 | Datatype::Int64 | Datatype::Uint64 => Datatype::Float64,
            _ => Datatype::Float32,
        },
    }
}

/// The floating-point type that holds all values of a type.
fn float_for(datatype: Datatype) -> Datatype {
    match datatype {
        Datatype::Float64 | Datatype::Int32 | Datatype::Uint32 | Datatype::Int64 | Datatype::Uint64 => {
            Datatype::Float64
        }
        _ => Datatype::Float32,
    }
}

impl Filter for Like {
    fn validate(&self) -> Result<(), FilterError> {
        self.given().map(drop)
    }

    fn validate_on_device(&self) -> Result<(), FilterError> {
        Err(only_on_cpu(&format!("--like {}", self.like)))
    }

    fn uses_voxel_size(&self) -> bool {
        true
    }

    fn bids_desc(&self) -> Option<String> {
        self.fwhm?.bids_desc()
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        self.check_shared(image, shared)?;
        let preset = self.like.preset();
        let geometry = image.geometry.unwrap_or(Geometry::of_size(image.voxel_size_mm));
        let axes = image.spatial_axes();
        let mut widths = self.widths(&geometry, image)?;
        let cosine = shear(&geometry.matrix);
        if self.like == Tool::Wb && cosine >= SHEARED {
            return Err(self.refused(format!(
                "the axes of the image are not at right angles (cosine {cosine:.4}); for such a grid the \
                 program has another kernel, which niimpi does not have: resample the image, or leave --like \
                 out"
            )));
        }
        let shape = image.spatial_shape();
        let (mut active, mut short) = (Vec::new(), Vec::new());
        let mut products = 0.0;
        for axis in axes_in_order(preset.order, &geometry) {
            let (width, len) = (&widths[axis], shape[axis]);
            if axis >= axes || width.sigma_vox <= super::gaussian::SKIPPED_SIGMA_VOX {
                continue;
            }
            let radius = self.radius(axis, width, len)?;
            if preset.skip == Skip::Short && len <= radius {
                short.push(FilterWarning::ShortAxis {
                    like: self.like.name(),
                    axis: ['x', 'y', 'z'][axis],
                    length: len,
                    radius,
                });
                widths[axis].sigma_vox = 0.0;
                continue;
            }
            let half = weights::half(preset, width, radius)?;
            if !half.iter().all(|weight| weight.is_finite()) {
                return Err(self.refused(format!(
                    "its kernel has no values for a sigma of {} voxels along {}: give a smaller width",
                    width.sigma_vox, AXES[axis]
                )));
            }
            products += image.voxels() as f64 * 2.0 * half.len() as f64;
            active.push((axis, half));
        }
        if products > MAX_PRODUCTS {
            return Err(FilterError::Work {
                products,
                limit: MAX_PRODUCTS,
            });
        }
        let stored = stored_type(preset, image);
        let last = match shared.output.output_type {
            OutputType::As(datatype) => datatype,
            OutputType::Same => engine::result_type(preset, image, float_for(stored)),
        };
        let sigma_vox = widths.map(|width| width.sigma_vox);
        let types = [stored, last];
        Ok(match preset.single {
            true => Box::new(Engine::<f32>::new(
                preset, image, &active, types, sigma_vox, short,
            )),
            false => Box::new(Engine::<f64>::new(
                preset, image, &active, types, sigma_vox, short,
            )),
        })
    }
}
