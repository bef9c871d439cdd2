//! Median: its options and their command-line arguments.
//!
//! | file | role |
//! |---|---|
//! | `windows` | the medians of rows of windows |
//! | `on_device` | the medians of slices on a device |

mod on_device;
mod windows;

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::boundary::{Boundary, BoundaryArgs};
pub use super::footprint::Footprint;
use super::interface::{Filter, ImageInfo, Prepared, Reach, SharedOptions, Source, Stage};
use super::kernels::ranks::Network;
use super::nonfinite::NonFinite;
pub use super::per_axis::PerAxis;
pub use super::window::MAX_WINDOW_VOXELS;
use super::window::{keeps_digits, parse_size, size_fault, window};
use windows::{PreparedMedian, Way, rank};

/// Larger windows are partitioned one by one.
const MAX_NETWORK_VOXELS: usize = 2048;

/// The median of a window around each voxel: bit for bit the value of `scipy.ndimage.median_filter`.
///
/// Of n voxels in ascending order it is the one with n//2 before it: the upper one of two in the middle. A
/// window of `size` voxels along an axis begins size//2 voxels before its own. The spatial axes are
/// filtered, each 3-D volume by itself. As in scipy, 64-bit integers are rounded to doubles, unless the
/// window is a single voxel or the image has one axis, and zeros of both signs are equal. NaN and infinity
/// are refused, unless [`NonFinite::Ignore`] takes the median of the finite voxels (NaN without any, 0 in
/// integers) or [`NonFinite::Zero`] replaces them. With a mask only voxels inside count; those beyond the
/// edge with [`Boundary::Constant`] are outside.
///
/// ```
/// use niimpi::filter::median::{Median, PerAxis};
/// use niimpi::filter::{Scratch, SharedOptions, apply};
/// use niimpi::volume::{Datatype, Volume};
///
/// let mut volume = Volume::zeros(&[5, 1, 1], Datatype::Uint8);
/// volume.voxels.as_mut_slice::<u8>().copy_from_slice(&[1, 9, 2, 3, 4]);
/// let median = Median { size: PerAxis::Each([3, 1, 1]), ..Median::default() };
/// apply(&median, &SharedOptions::default(), &mut volume, &mut Scratch::default())?;
/// assert_eq!(volume.voxels.as_slice::<u8>(), [1, 2, 3, 3, 4]);
/// # Ok::<(), niimpi::filter::FilterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// Lengths of the window in voxels.
    pub size: PerAxis<usize>,
    /// Which voxels of the window count.
    pub footprint: Footprint,
    /// How the image continues beyond its edge.
    pub boundary: Boundary,
    /// Intensity beyond the edge with [`Boundary::Constant`]. As in scipy, it is first converted to the type
    /// of an image without intensity scaling, as by a C cast on x86-64: −1 becomes 255 in a `uint8` image.
    #[serde(with = "super::lossless")]
    pub cval: f64,
}

/// The command-line options of the median.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub(crate) struct Args {
    /// Length of the window in VOXELS: one value, or one each for x, y and z
    ///
    /// The same as size of scipy.ndimage.median_filter. A window of even length reaches one voxel further
    /// towards lower indices, and its median is the larger of the two middle values.
    #[arg(
        long,
        value_name = "VOX[,Y,Z]",
        default_value = "3",
        value_parser = parse_size,
        allow_negative_numbers = true
    )]
    size: PerAxis<usize>,

    /// Which voxels of the window count: box, cross, or sphere:MM
    ///
    /// cross: only voxels on the lines along x, y and z through the middle of the window. sphere:MM: all
    /// voxels whose centres are within MM millimetres; --size is then ignored.
    #[arg(long, value_name = "SHAPE", default_value = "box")]
    footprint: Footprint,

    #[command(flatten)]
    edge: BoundaryArgs,
}

impl From<Args> for Median {
    fn from(args: Args) -> Self {
        Median {
            size: args.size,
            footprint: args.footprint,
            boundary: args.edge.boundary,
            cval: args.edge.cval,
        }
    }
}

impl Default for Median {
    fn default() -> Self {
        Median {
            size: PerAxis::All(3),
            footprint: Footprint::Box,
            boundary: Boundary::default(),
            cval: 0.0,
        }
    }
}

impl Filter for Median {
    fn validate(&self) -> Result<(), FilterError> {
        if let Some(cause) = size_fault(self.size) {
            return Err(FilterError::Parameter { name: "size", cause });
        }
        if self.cval.is_nan() {
            let cause = "NaN has no place in an order: give a number".to_owned();
            return Err(FilterError::Parameter { name: "cval", cause });
        }
        match self.footprint {
            Footprint::Sphere(mm) if !(mm.is_finite() && mm >= 0.0) => Err(FilterError::Parameter {
                name: "footprint",
                cause: format!("{mm} mm is not a radius: give a finite number that is not negative"),
            }),
            _ => Ok(()),
        }
    }

    fn validate_on_device(&self) -> Result<(), FilterError> {
        Ok(())
    }

    fn uses_voxel_size(&self) -> bool {
        matches!(self.footprint, Footprint::Sphere(_))
    }

    fn refuses_nonfinite(&self) -> bool {
        true
    }

    fn bids_desc(&self) -> Option<String> {
        Some("median".to_owned())
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        self.validate()?;
        if shared.nan == NonFinite::Propagate && image.nonfinite_voxels.is_some_and(|found| found > 0) {
            return Err(FilterError::Parameter {
                name: "nan",
                cause: "the image has voxels that are NaN or infinite, which have no median: give --nan \
                        ignore or keep for the median of the others, or --nan zero"
                    .to_owned(),
            });
        }
        let (places, size) = window(self.size, self.footprint, image)?;
        let ignore = shared.nan.leaves_out() && image.may_be_nonfinite();
        let outside = image.mask_voxels.map(|_| shared.outside.unwrap_or_default());
        let constant = self.boundary == Boundary::Constant;
        // Intensities have the order of the stored numbers, or the reverse order.
        let on_intensities = image.scaling.is_some() && (constant || ignore);
        let descending = !on_intensities && image.scaling.is_some_and(|scaling| scaling.slope < 0.0);
        let voxels = places.len();
        let rank = rank(voxels, descending);
        let way = if ignore || voxels > MAX_NETWORK_VOXELS {
            Way::Partition { ignore }
        } else if voxels == size.iter().product::<usize>() {
            let column = size[1] * size[2];
            Way::Columns {
                column: Network::new(column, 1, 0..column),
                window: Network::new(size[0], column, rank..rank + 1),
            }
        } else {
            Way::Window(Network::new(voxels, 1, rank..rank + 1))
        };
        let types = shared.types(image)?;
        let before = size[2] / 2;
        // With mirroring, a window needs as many slices on one side as it reaches on the other.
        let reach = Reach::Slices {
            below: before,
            above: before,
            wrap: before > 0 && self.boundary == Boundary::Wrap,
        };
        let mut reads = vec![(Source::Input, reach)];
        reads.extend(outside.map(|_| (Source::Mask, reach)));
        let stage = Stage {
            reads,
            writes: vec![types.last],
            in_place: false,
        };
        // scipy copies the image in this case, which keeps 64-bit integers that a double cannot hold.
        let same = image.scaling.is_none() && types.last == image.datatype;
        let copies = voxels == 1 && same && outside.is_none();
        Ok(Box::new(PreparedMedian {
            shape: image.spatial_shape(),
            input: image.datatype,
            scaling: image.scaling.filter(|_| !on_intensities),
            on_intensities,
            descending,
            size,
            places,
            boundary: self.boundary,
            cval: self.cval,
            way,
            outside,
            keeps_digits: same && outside.is_none() && keeps_digits(image, size[0]),
            keeps_nan: ignore && shared.nan == NonFinite::Keep,
            types,
            stages: if copies { Vec::new() } else { vec![stage] },
        }))
    }
}
