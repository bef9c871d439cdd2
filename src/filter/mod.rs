//! Filters: the operations on a volume, and how to apply them.
//!
//! A filter is one file with three parts: its options, their command-line arguments, and an implementation of
//! [`Filter`]. [`Options`] lists all filters of the program. Other programs can implement [`Filter`] for
//! their own types and use them with [`apply`].
//!
//! ```
//! use niimpi::filter::gaussian::Gaussian;
//! use niimpi::filter::{Scratch, SharedOptions, apply};
//! use niimpi::volume::{Datatype, Volume};
//!
//! let mut volume = Volume::zeros(&[9, 9, 9], Datatype::Float32);
//! volume.voxels.as_mut_slice::<f32>()[364] = 1.0;
//!
//! let gaussian = Gaussian::from_sigma_vox(1.0);
//! apply(&gaussian, &SharedOptions::default(), &mut volume, &mut Scratch::default())?;
//! assert!(volume.voxels.as_slice::<f32>()[364] < 0.07);
//! # Ok::<(), niimpi::filter::FilterError>(())
//! ```
//!
//! | file | role |
//! |---|---|
//! | `interface` | what a filter declares and does |
//! | `registry` | all filters of the program |
//! | `gaussian` | the Gaussian: options and kernels |
//! | `smooth`, `presets` | its command line; how other programs smooth |
//! | `like` | the Gaussian as other programs compute it |
//! | `denoise` | the command line of the non-local means |
//! | `anlm` | adaptive non-local means, as ANTs computes it |
//! | `nlm` | non-local means, as dipy computes them |
//! | `median` | the median: options, windows and how they are searched |
//! | `footprint`, `window` | the shape of a window, and which voxels it has |
//! | `per_axis` | one value for all axes, or one each |
//! | `separable` | kernels along x, y and z as stages |
//! | `boundary` | what lies beyond the ends of a line |
//! | `mask`, `outside` | which voxels are inside, and what the result has outside |
//! | `nonfinite` | NaN and infinity: counted, and kept from spreading |
//! | `output` | the output's number type and rounding |
//! | `layout` | where planes lie in memory, and into which parts stages are divided |
//! | `trial` | how long a filter takes on a device and on the CPU |
//! | `notes` | what slabs leave for later stages besides planes |
//! | `needed` | which parts and slices some slices of the result need |
//! | `slabs` | which part may be computed next, by how many threads |
//! | `image_run` | a volume on its way through the stages |
//! | `scratch` | the memory of a thread |
//! | `device` | OpenCL devices that compute in place of the CPU |
//! | `kernels` | the hot loops: one axis correlated, conversions, vectors |

pub mod anlm;
pub mod boundary;
pub(crate) mod denoise;
pub(crate) mod device;
#[cfg(test)]
mod fft_tests;
mod footprint;
pub mod gaussian;
mod image_run;
mod interface;
mod kernels;
mod layout;
pub mod like;
pub(crate) mod lossless;
mod mask;
#[cfg(test)]
mod mask_tests;
pub mod median;
#[cfg(test)]
mod median_tests;
mod needed;
pub mod nlm;
pub mod nonfinite;
mod notes;
mod output;
mod outside;
mod per_axis;
mod presets;
#[cfg(test)]
mod reference;
mod registry;
mod scratch;
mod separable;
mod slabs;
pub(crate) mod smooth;
mod trial;
mod window;

/// The synchronisation of `slabs`. A test replaces it by a model that explores interleavings.
mod sync {
    pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
}

pub use device::DeviceChoice;
pub(crate) use image_run::{ImageRun, Planes};
pub use interface::{
    Filter, FilterWarning, ImageInfo, Prepared, Reach, SharedOptions, Slab, Source, Stage, ThreadScratch,
};
pub(crate) use kernels::sums::{Counts, Moments, Smoothness, StoredSlice, Sums};
pub(crate) use layout::{Division, Layout};
pub use mask::{Mask, Outside};
pub use output::{OutputSpec, OutputType, Rounding};
pub use registry::Options;
pub(crate) use slabs::{Board, Next, Progress, Task};
pub(crate) use trial::Costs;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::volume::{Datatype, Volume, VoxelBuffer};

/// The reason why a filter cannot be applied. The messages are for users and contain a remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// A parameter is outside its range.
    #[error("{name}: {cause}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// The problem and the remedy.
        cause: String,
    },
    /// A FWHM in mm cannot be converted to voxels.
    #[error(
        "the header gives a voxel size of {size_mm} mm along {axis}, so a FWHM in mm cannot be converted to \
         voxels: \
         repair the header (pixdim), or give sigma in voxels"
    )]
    VoxelSize {
        /// x, y or z.
        axis: &'static str,
        /// The voxel size in the header.
        size_mm: f64,
    },
    /// The kernel is too long to be computed.
    #[error(
        "the kernel along {axis} would reach {radius_vox} voxels to each side ({truncate} × a sigma of \
         {sigma_vox} voxels); at most {limit} are computed: give a smaller sigma, FWHM or truncate, and \
         check that the FWHM is in mm and the voxel size in the header is right"
    )]
    Radius {
        /// x, y or z.
        axis: &'static str,
        /// The radius, in voxels.
        radius_vox: f64,
        /// Sigma, in voxels.
        sigma_vox: f64,
        /// Standard deviations to each side.
        truncate: f64,
        /// Longest radius that is computed for this image.
        limit: usize,
    },
    /// The image would take too long.
    #[error(
        "the image would take {products:.1e} multiplications; at most {limit:.1e} are done: give a smaller \
         sigma, FWHM or \
         truncate, and check that the FWHM is in mm and the voxel size in the header is right"
    )]
    Work {
        /// Voxels × taps.
        products: f64,
        /// The largest allowed number.
        limit: f64,
    },
    /// There is not enough memory.
    #[error("{} MiB of memory are not available", bytes.div_ceil(1 << 20))]
    Memory {
        /// The requested bytes.
        bytes: u64,
    },
    /// A device or its driver failed.
    #[error("the device {device} failed: {cause}; resume the run, with --device cpu if it fails again")]
    Device {
        /// Its name.
        device: String,
        /// What the driver says.
        cause: String,
    },
    /// A device has too little memory.
    #[error(
        "one {piece} takes {} MiB, and each thread has buffers of {} MiB on the device {device}: use fewer \
         threads or --device cpu",
        bytes.div_ceil(1 << 20),
        has_bytes >> 20
    )]
    DeviceMemory {
        /// Its name.
        device: String,
        /// The smallest piece of an image that is computed at once.
        piece: &'static str,
        /// Its bytes.
        bytes: u64,
        /// Bytes of a thread's buffer.
        has_bytes: u64,
    },
    /// The run was stopped before the image was finished.
    #[error("stopped before the image was finished")]
    Stopped,
    /// A volume whose size does not match its shape. This is a bug in the program, not a fault of the image.
    #[error("a volume of {voxels} voxels of {datatype} came with {bytes} bytes")]
    Length {
        /// Number of voxels from the shape.
        voxels: usize,
        /// Their type.
        datatype: Datatype,
        /// Bytes in the buffer.
        bytes: usize,
    },
}

/// Memory that [`apply`] reuses from image to image. It grows to the size for the largest image.
#[derive(Default)]
pub struct Scratch {
    pub(crate) thread: ThreadScratch,
    pub(crate) planes: Planes,
    pub(crate) intensities: VoxelBuffer,
}

/// Applies `filter` to `volume` in place and returns how many of its voxels were NaN or infinite. Afterwards
/// `volume.datatype` is the output type, `volume.scaling` is `None` and `volume.voxels` holds the result.
///
/// Filters the spatial axes (up to three) of each 3-D volume separately. The result has the same bits on
/// every processor, except the sign of a NaN that results from infinities.
///
/// # Errors
/// [`FilterError`] if the options do not fit this image, or without memory.
pub fn apply(
    filter: &dyn Filter,
    shared: &SharedOptions,
    volume: &mut Volume,
    scratch: &mut Scratch,
) -> Result<u64, FilterError> {
    apply_inside(filter, shared, volume, None, scratch)
}

/// [`apply`] inside of a mask, which has the voxels of a 3-D volume or of all volumes. Only voxels inside
/// count, unless the filter [reads others](Filter::reads_outside). [`SharedOptions::outside`] says what the
/// result has elsewhere.
///
/// # Errors
/// Those of [`apply`], and [`FilterError::Parameter`] for a mask of another size.
pub fn apply_masked(
    filter: &dyn Filter,
    shared: &SharedOptions,
    volume: &mut Volume,
    mask: &Arc<Mask>,
    scratch: &mut Scratch,
) -> Result<u64, FilterError> {
    apply_inside(filter, shared, volume, Some(mask), scratch)
}

fn apply_inside(
    filter: &dyn Filter,
    shared: &SharedOptions,
    volume: &mut Volume,
    mask: Option<&Arc<Mask>>,
    scratch: &mut Scratch,
) -> Result<u64, FilterError> {
    apply_until(filter, shared, volume, mask, scratch, None)
}

/// The same. Fails with [`FilterError::Stopped`] once `stop` is set.
fn apply_until(
    filter: &dyn Filter,
    shared: &SharedOptions,
    volume: &mut Volume,
    mask: Option<&Arc<Mask>>,
    scratch: &mut Scratch,
    stop: Option<&AtomicBool>,
) -> Result<u64, FilterError> {
    let Scratch { intensities, .. } = scratch;
    let whole = Division::WHOLE;
    let (found, prepared, layout) =
        prepare(filter, shared, volume, mask.map(Arc::as_ref), intensities, whole)?;
    let run = ImageRun::begin(prepared, layout, volume, &mut scratch.planes, mask.cloned())?;
    let mut progress = Progress::new(run.parts());
    progress.has_read(usize::MAX);
    while let Some(task) = progress.next(run.parts()) {
        // SAFETY: the volume does not change, and `progress` has started the part.
        unsafe { run.compute(task, stop, &mut scratch.thread)? };
        progress.finish(task);
    }
    run.finish(volume);
    Ok(found)
}

/// Prepares a filter for a volume that was read. Counts its non-finite voxels, and replaces them if the
/// options require it.
///
/// # Errors
/// [`FilterError`] if the options do not fit this image, or without memory.
pub(crate) fn prepare(
    filter: &dyn Filter,
    shared: &SharedOptions,
    volume: &mut Volume,
    mask: Option<&Mask>,
    intensities: &mut VoxelBuffer,
    division: Division,
) -> Result<(u64, Box<dyn Prepared>, Layout), FilterError> {
    let voxels = volume.len();
    let bytes = volume.voxels.as_bytes().len();
    if bytes != voxels * volume.datatype.size_bytes() {
        return Err(FilterError::Length {
            voxels,
            datatype: volume.datatype,
            bytes,
        });
    }
    let mask_voxels = mask.map(|mask| mask.voxels().len());
    let of_one = volume.shape.iter().take(3).product::<usize>();
    if mask_voxels.is_some_and(|len| len != of_one && len != voxels) {
        return Err(FilterError::Parameter {
            name: "mask",
            cause: "has another number of voxels than the image: give one of the same shape".to_owned(),
        });
    }
    let mask_voxels = mask_voxels.map(|len| len as u64);
    let found = nonfinite::count(volume);
    let mut left = match mask {
        Some(mask) if found > 0 && !filter.reads_outside() => mask.count_nonfinite(volume),
        _ => found,
    };
    let mut shared = *shared;
    if found > 0 && shared.nan == nonfinite::NonFinite::Zero {
        // Invalid options are found before the voxels are changed.
        let image = ImageInfo {
            mask_voxels,
            ..ImageInfo::of(volume)
        };
        filter.prepare(&image, &shared)?;
        nonfinite::replace_by_zero(volume, &mut shared.output, intensities)?;
        left = 0;
    }
    if left == 0 {
        shared.nan = nonfinite::NonFinite::Propagate;
    }
    let image = ImageInfo {
        nonfinite_voxels: Some(left),
        mask_voxels,
        ..ImageInfo::of(volume)
    };
    let prepared = filter.prepare(&image, &shared)?;
    let layout = Layout::of(prepared.as_ref(), &image, division);
    Ok((found, prepared, layout))
}

#[cfg(test)]
pub(crate) mod identity;
#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;
