//! Filters: what can be done to a volume, and how one is applied.
//!
//! | file | role |
//! |---|---|
//! | `gaussian` | the Gaussian's parameters and its kernel |
//! | `boundary` | what lies beyond the ends of a line |
//! | `nonfinite` | NaN and infinity: counted, and kept from spreading |
//! | `output` | the output's number type and rounding |
//! | `stream` | a volume smoothed slice by slice while it is read |
//! | `kernels` | the hot loops: one axis correlated, conversions, vectors |

pub mod boundary;
pub mod gaussian;
mod kernels;
pub mod nonfinite;
mod output;
#[cfg(test)]
mod reference;
mod stream;

pub use output::{OutputSpec, OutputType, Rounding};

use std::ops::Range;

use gaussian::Gaussian;
use kernels::convert::{Voxel, with_voxel_type};
use kernels::correlate::{Conversion, Lines, Pass, VoxelPointer};
use kernels::simd::Isa;
use serde::{Deserialize, Serialize};
pub(crate) use stream::Stream;

use crate::volume::{Datatype, Scaling, Volume, VoxelBuffer};

/// A filter with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Filter {
    /// Separable Gaussian smoothing, bit for bit `scipy.ndimage.gaussian_filter`.
    Gaussian(Gaussian),
}

impl Filter {
    /// The filter's name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Filter::Gaussian(_) => "gaussian",
        }
    }

    /// Checks what can be checked without an image.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] for a parameter outside its range.
    pub fn validate(&self) -> Result<(), FilterError> {
        match self {
            Filter::Gaussian(gaussian) => gaussian.validate(),
        }
    }
}

/// Why a filter cannot be applied. The texts are for users and say what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// A parameter is outside its range.
    #[error("--{name}: {cause}")]
    Parameter {
        /// The option's name.
        name: &'static str,
        /// What is wrong and what to do.
        cause: String,
    },
    /// A FWHM in mm cannot be turned into voxels.
    #[error(
        "the header gives a voxel size of {size_mm} mm along {axis}, so --fwhm cannot be turned into voxels: \
         repair the header (pixdim), or give --sigma in voxels"
    )]
    VoxelSize {
        /// x, y or z.
        axis: &'static str,
        /// What the header says.
        size_mm: f64,
    },
    /// The kernel is too long to be computed.
    #[error(
        "the kernel along {axis} would reach {radius_vox} voxels to each side ({truncate} × a sigma of {sigma_vox} voxels); \
         at most {limit} are computed: give a smaller --sigma, --fwhm or --truncate, and check that --fwhm is in mm and \
         the voxel size in the header is right",
        limit = gaussian::MAX_RADIUS_VOX
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
    },
    /// A volume that contradicts itself: a fault of the program, not of the image.
    #[error("a volume of {voxels} voxels of {datatype} came with {bytes} bytes")]
    Length {
        /// Voxels by the shape.
        voxels: usize,
        /// Their type.
        datatype: Datatype,
        /// Bytes in the buffer.
        bytes: usize,
    },
}

/// Memory that filters reuse from image to image: it grows to the largest image once and is then never allocated again.
#[derive(Default)]
pub struct Scratch {
    isa: Isa,
    /// Half kernels along x, y and z; empty for an axis that is left alone.
    kernels: [Vec<f64>; 3],
    /// One tile for each thread.
    tiles: Vec<VoxelBuffer>,
    /// One volume in double, where an integer output is computed in double.
    doubles: VoxelBuffer,
}

impl Scratch {
    /// Scratch for filters that share each image among `threads` threads. The result is the same for any number.
    pub fn with_threads(threads: usize) -> Self {
        let mut scratch = Scratch::default();
        scratch
            .tiles
            .resize_with(threads.max(1), VoxelBuffer::default);
        scratch
    }
}

/// Applies `filter` to `volume` in place: afterwards `volume.datatype` is the output type, `volume.scaling` is `None` and
/// `volume.voxels` holds the result.
///
/// The spatial axes that the image has (up to three) are filtered, x first; of an image of more dimensions each 3-D volume
/// by itself. The result equals scipy's bit for bit (see the README's numerical contract) on every processor and for any
/// number of threads. NaN and infinities spread as far as the kernel reaches; the sign of a NaN that an image of infinities
/// makes is the processor's. No allocation takes place once `scratch` and the volume have seen an image as large. Local:
/// no rank waits for another.
///
/// # Errors
/// [`FilterError`] for parameters that make no kernel for this image; the volume is then unchanged.
pub fn apply(
    filter: &Filter,
    output: &OutputSpec,
    volume: &mut Volume,
    scratch: &mut Scratch,
) -> Result<(), FilterError> {
    let Filter::Gaussian(gaussian) = filter;
    let voxels = volume.len();
    let bytes = volume.voxels.as_bytes().len();
    if bytes != voxels * volume.datatype.size_bytes() {
        return Err(FilterError::Length {
            voxels,
            datatype: volume.datatype,
            bytes,
        });
    }
    gaussian.kernels(volume.voxel_size_mm, &mut scratch.kernels)?;
    scratch.kernels[volume.spatial_axes()..]
        .iter_mut()
        .for_each(Vec::clear);
    if scratch.tiles.is_empty() {
        scratch.tiles.push(VoxelBuffer::default());
    }
    let types = output.types(volume.datatype, volume.scaling.is_some());
    let skipped = scratch.kernels.iter().all(Vec::is_empty);
    if skipped && types.last == volume.datatype && volume.scaling.is_none() {
        return Ok(());
    }

    // The result replaces the input where a voxel keeps its place in memory; otherwise it goes to the spare buffer.
    let Volume {
        voxels: stored,
        spare,
        ..
    } = volume;
    let in_place = types.last.size_bytes() == volume.datatype.size_bytes() && !skipped;
    let source = VoxelPointer::new(volume.datatype, stored.as_bytes_mut());
    let target = if in_place {
        source.retyped(types.last)
    } else {
        spare.resize_for_overwrite(voxels * types.last.size_bytes());
        VoxelPointer::new(types.last, spare.as_bytes_mut())
    };
    if skipped {
        recast(source, target, voxels, volume.scaling, types.conversion);
    } else {
        let shape = volume.spatial_shape();
        let volume_len: usize = shape.iter().product();
        let between = (types.between != types.last).then(|| {
            scratch
                .doubles
                .resize_for_overwrite(volume_len * types.between.size_bytes());
            VoxelPointer::new(types.between, scratch.doubles.as_bytes_mut())
        });
        let passes = scratch.kernels.each_ref().map(|half_kernel| Pass {
            isa: scratch.isa,
            half_kernel,
            boundary: gaussian.boundary,
            cval: gaussian.cval,
            scaling: None,
            conversion: Conversion::Cast,
        });
        let mut smoothing = Smoothing {
            shape,
            passes,
            source,
            between: target,
            target,
        };
        let mut active = smoothing
            .passes
            .iter_mut()
            .filter(|pass| !pass.half_kernel.is_empty());
        if let Some(first) = active.next() {
            first.scaling = volume.scaling;
            active.next_back().unwrap_or(first).conversion = types.conversion;
        }
        for first in (0..voxels).step_by(volume_len) {
            smoothing.source = source.offset(first);
            smoothing.target = target.offset(first);
            smoothing.between = between.unwrap_or(smoothing.target);
            smoothing.run(&mut scratch.tiles);
        }
    }
    if !in_place {
        std::mem::swap(&mut volume.voxels, &mut volume.spare);
    }
    volume.datatype = types.last;
    volume.scaling = None;
    Ok(())
}

/// The separable smoothing of one 3-D volume.
struct Smoothing<'a> {
    shape: [usize; 3],
    /// Along x, y and z; a pass with an empty kernel is left out, not all are.
    passes: [Pass<'a>; 3],
    /// What the first axis reads.
    source: VoxelPointer,
    /// What each axis but the last writes and the next one reads.
    between: VoxelPointer,
    /// What the last axis writes.
    target: VoxelPointer,
}

impl Smoothing<'_> {
    /// Smooths the volume, one thread for each tile buffer.
    fn run(&self, tiles: &mut [VoxelBuffer]) {
        let [nx, ny, nz] = self.shape;
        // x and y of a slice together, while it is in the cache; slices are independent of each other.
        if self.active(0) || self.active(1) {
            self.share(nz, tiles, |slices, tile| {
                for z in slices {
                    self.plane(z, tile);
                }
            });
        }
        // z wants every slice finished; columns are independent of each other.
        if self.active(2) {
            self.share(nx * ny, tiles, |columns, tile| {
                let lines = Lines {
                    len: nz,
                    step: nx * ny,
                    count: columns.len(),
                    apart: 1,
                };
                self.axis(2, columns.start, lines, tile);
            });
        }
    }

    /// Smooths one slice along x and y.
    fn plane(&self, z: usize, tile: &mut VoxelBuffer) {
        let [nx, ny, _] = self.shape;
        let rows = Lines {
            len: nx,
            step: 1,
            count: ny,
            apart: nx,
        };
        let columns = Lines {
            len: ny,
            step: nx,
            count: nx,
            apart: 1,
        };
        self.axis(0, z * nx * ny, rows, tile);
        self.axis(1, z * nx * ny, columns, tile);
    }

    fn active(&self, axis: usize) -> bool {
        !self.passes[axis].half_kernel.is_empty()
    }

    /// Correlates `lines`, the first of which starts at voxel `first`, along `axis`, if that is to be smoothed.
    fn axis(&self, axis: usize, first: usize, lines: Lines, tile: &mut VoxelBuffer) {
        if !self.active(axis) {
            return;
        }
        let is_first = !(0..axis).any(|earlier| self.active(earlier));
        let is_last = !(axis + 1..3).any(|later| self.active(later));
        let source = if is_first { self.source } else { self.between };
        let target = if is_last { self.target } else { self.between };
        // SAFETY: `apply` made the three areas as large as the volume, which holds all lines; they are the same area or
        // do not overlap; and `run` gives each voxel of a pass to one thread.
        unsafe { self.passes[axis].run(source.offset(first), target.offset(first), lines, tile) }
    }

    /// Does `work` on `0..count` in as many nearly equal ranges as there are tiles, each in a thread of its own.
    fn share(
        &self,
        count: usize,
        tiles: &mut [VoxelBuffer],
        work: impl Fn(Range<usize>, &mut VoxelBuffer) + Sync,
    ) {
        let threads = tiles.len();
        let range = |thread: usize| count * thread / threads..count * (thread + 1) / threads;
        let Some((first, others)) = tiles.split_first_mut() else {
            return;
        };
        if others.is_empty() {
            return work(range(0), first);
        }
        std::thread::scope(|scope| {
            for (i, tile) in others.iter_mut().enumerate() {
                let work = &work;
                scope.spawn(move || work(range(i + 1), tile));
            }
            work(range(0), first);
        });
    }
}

/// Gives `voxels` numbers another type where no axis is smoothed: intensities, converted once.
fn recast(
    source: VoxelPointer,
    target: VoxelPointer,
    voxels: usize,
    scaling: Option<Scaling>,
    conversion: Conversion,
) {
    with_voxel_type!(source.datatype, S => with_voxel_type!(target.datatype, T => {
        // SAFETY: `apply` made both areas `voxels` long and apart from each other.
        let (from, to) = unsafe { (source.as_slice::<S>(voxels), target.as_mut_slice::<T>(voxels)) };
        for (to, &from) in to.iter_mut().zip(from) {
            *to = recast_one(from, scaling, conversion);
        }
    }));
}

fn recast_one<S: Voxel, T: Voxel>(voxel: S, scaling: Option<Scaling>, conversion: Conversion) -> T {
    match scaling {
        Some(scaling) if conversion == Conversion::Nearest => {
            T::nearest(scaling.intensity(voxel.to_f64()))
        }
        Some(scaling) => T::cast(scaling.intensity(voxel.to_f64())),
        None if !S::DATATYPE.is_float() && !T::DATATYPE.is_float() => T::saturated(voxel.to_i128()),
        None if T::DATATYPE == Datatype::Float32 => T::cast(f64::from(voxel.to_f32())),
        None => T::nearest(voxel.to_f64()),
    }
}

#[cfg(test)]
mod tests;
