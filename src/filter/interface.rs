//! Interface: what a filter declares and implements.
//!
//! A [`Filter`] is a set of options. [`Filter::prepare`] turns it into a [`Prepared`] filter for one image: a
//! chain of [`Stage`]s, each of which computes one or more planes from the image or from planes of earlier
//! stages. The caller decides how a stage is divided into [`Slab`]s, where planes lie in memory and which
//! thread computes which slab; the result does not depend on it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::FilterError;
use super::kernels::convert::{Conversion, Voxel, recast_one, with_voxel_type};
use super::kernels::correlate::VoxelPointer;
use super::mask::Outside;
use super::nonfinite::NonFinite;
use super::notes::{Neighbour, Notes};
use super::output::{OutputSpec, Types};
pub use super::scratch::ThreadScratch;
use crate::volume::{Datatype, Geometry, Grid, NoMemory, Scaling, Volume};

/// The facts about an image that a filter gets before the voxels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImageInfo {
    /// Lengths of the 1 to 7 axes, x first.
    pub shape: Vec<usize>,
    /// Distance between voxel centres along x, y and z, in mm.
    pub voxel_size_mm: [f64; 3],
    /// Position of the voxels in space, for filters that use it; `None` without a header.
    pub grid: Option<Grid>,
    /// The fields that the voxel size is from, for filters that take it as another program does; `None`
    /// without a header.
    pub geometry: Option<Geometry>,
    /// The type of the stored voxels.
    pub datatype: Datatype,
    /// The scaling from stored numbers to intensities.
    pub scaling: Option<Scaling>,
    /// Number of voxels that are NaN or infinite. Before they are counted it is `None`, and memory and cost
    /// are those of the worst case.
    pub nonfinite_voxels: Option<u64>,
    /// Voxels of the mask, [`Source::Mask`]: of one 3-D volume, or of all; `None` without a mask. With one,
    /// non-finite voxels are counted inside only, unless the filter [reads others](Filter::reads_outside).
    pub mask_voxels: Option<u64>,
}

impl ImageInfo {
    /// The facts about a volume, without a count of non-finite voxels.
    pub fn of(volume: &Volume) -> Self {
        ImageInfo {
            shape: volume.shape.clone(),
            voxel_size_mm: volume.voxel_size_mm,
            grid: volume.grid,
            geometry: volume.geometry,
            datatype: volume.datatype,
            scaling: volume.scaling,
            nonfinite_voxels: None,
            mask_voxels: None,
        }
    }

    /// Voxels of all 3-D volumes together. Saturates, because a wrong header can contain any lengths.
    pub fn voxels(&self) -> u64 {
        product(&self.shape)
    }

    /// Lengths of x, y and z; 1 for missing axes.
    pub fn spatial_shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shape.get(axis).copied().unwrap_or(1))
    }

    /// Number of spatial axes that the image has: 1, 2 or 3.
    pub fn spatial_axes(&self) -> usize {
        self.shape.len().min(3)
    }

    /// Number of 3-D volumes.
    pub fn volumes(&self) -> u64 {
        product(self.shape.get(3..).unwrap_or_default())
    }

    /// Whether non-finite voxels are, or may be, in the image.
    pub fn may_be_nonfinite(&self) -> bool {
        self.datatype.is_float() && self.nonfinite_voxels != Some(0)
    }
}

fn product(lengths: &[usize]) -> u64 {
    lengths
        .iter()
        .fold(1, |all, &length| all.saturating_mul(length as u64))
}

/// The options that all filters share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SharedOptions {
    /// Number type and rounding of the result.
    pub output: OutputSpec,
    /// Treatment of NaN and infinite voxels.
    pub nan: NonFinite,
    /// What stands outside of the mask, where there is one; `None`: [`Filter::default_outside`].
    pub outside: Option<Outside>,
}

impl SharedOptions {
    /// The types for the computation of an image.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] if the type of the result cannot hold the value outside the mask.
    pub(super) fn types(&self, image: &ImageInfo) -> Result<Types, FilterError> {
        let types = self.output.types(image.datatype, image.scaling.is_some());
        self.check_outside(image, types.last)?;
        Ok(types)
    }

    /// Checks that a result of this type can hold what is to stand outside of the mask.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] where it cannot.
    pub(super) fn check_outside(&self, image: &ImageInfo, last: Datatype) -> Result<(), FilterError> {
        if image.mask_voxels.is_none() || self.outside != Some(Outside::Nan) || last.is_float() {
            return Ok(());
        }
        Err(FilterError::Parameter {
            name: "outside",
            cause: format!("{last} has no NaN: add --output-type float32, or give --outside zero or keep"),
        })
    }
}

/// A filter: a set of options that can be prepared for any image.
pub trait Filter: Send + Sync {
    /// Checks the options, as far as possible without an image.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] for a parameter outside its range.
    fn validate(&self) -> Result<(), FilterError>;

    /// The same for images with a mask.
    ///
    /// # Errors
    /// [`FilterError::Parameter`], also where the filter is not applied inside of a mask.
    fn validate_masked(&self) -> Result<(), FilterError> {
        self.validate()
    }

    /// Checks that the filter can be computed on a device other than the CPU.
    ///
    /// # Errors
    /// [`FilterError::Parameter`] with the reason where it cannot.
    fn validate_on_device(&self) -> Result<(), FilterError> {
        Err(only_on_cpu("this filter"))
    }

    /// Whether the result depends on the voxel size.
    fn uses_voxel_size(&self) -> bool {
        false
    }

    /// Whether [`Filter::prepare`] refuses images with untreated non-finite voxels. These are then counted
    /// before the first slab is computed.
    fn refuses_nonfinite(&self) -> bool {
        false
    }

    /// Whether voxels outside of a mask have a part in the result. Those that are not finite then count, too.
    fn reads_outside(&self) -> bool {
        false
    }

    /// What the result has outside of a mask unless the options say otherwise; `None`: what the filter
    /// computes there.
    fn default_outside(&self) -> Option<Outside> {
        Some(Outside::Zero)
    }

    /// The template of the name of a second result, `float32`: the second plane of the last stage, if there
    /// is one.
    fn second_result(&self) -> Option<&str> {
        None
    }

    /// The `desc` label of results in a BIDS dataset, if the options have a short one: `sm6` for a FWHM of
    /// 6 mm.
    fn bids_desc(&self) -> Option<String> {
        None
    }

    /// Radius of the kernel in voxels along x, y and z, if it is the same for every image.
    fn radius_vox(&self) -> Option<[usize; 3]> {
        None
    }

    /// Prepares the filter for one image.
    ///
    /// For [`NonFinite::Zero`], the caller replaces the voxels and passes [`NonFinite::Propagate`].
    ///
    /// # Errors
    /// [`FilterError`] if the options do not fit the image.
    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError>;
}

/// The error of a filter, or of one of its options, that is not computed on devices.
pub(super) fn only_on_cpu(what: &str) -> FilterError {
    FilterError::Parameter {
        name: "device",
        cause: format!("{what} is computed on the CPU only: give --device cpu"),
    }
}

/// A filter prepared for one image.
pub trait Prepared: Send + Sync {
    /// The stages in processing order. The first plane of the last stage is the result. Without stages, the
    /// result is the input.
    fn stages(&self) -> &[Stage];

    /// Estimated seconds of a stage for this many voxels on one CPU core. Only ratios matter.
    fn cost_s(&self, stage: usize, voxels: u64) -> f64;

    /// Bytes that a thread needs in its [`ThreadScratch`] for a slab of a stage. `slab_voxels` includes the
    /// halo.
    fn scratch_bytes(&self, stage: usize, slab_voxels: u64) -> u64;

    /// Bytes that the prepared filter itself uses.
    fn held_bytes(&self) -> u64 {
        0
    }

    /// Sigma in voxels along x, y and z, if the filter has one.
    fn sigma_vox(&self) -> Option<[f64; 3]> {
        None
    }

    /// Warnings for the user about this filter on this image.
    fn warnings(&self) -> Vec<FilterWarning> {
        Vec::new()
    }

    /// Computes one slab of a stage.
    ///
    /// # Errors
    /// [`FilterError::Stopped`] if the run was stopped, [`FilterError::Memory`] without memory.
    fn run(&self, stage: usize, slab: &mut Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError>;
}

/// Why the result of a filter on an image may not be what the user expects.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterWarning {
    /// The kernel is wider than the image.
    #[error(
        "sigma is {sigma_vox:.4} voxels along {axis}, where the image has {length}; the result is nearly \
         constant"
    )]
    BeyondAxis {
        /// x, y or z.
        axis: char,
        /// Sigma along it.
        sigma_vox: f64,
        /// Its length.
        length: usize,
    },
    /// The kernel is one voxel along every axis.
    #[error(
        "sigma is {sigma_vox:.2e} voxels, less than one voxel's reach along every axis; the image is not \
         smoothed"
    )]
    NoEffect {
        /// The largest sigma.
        sigma_vox: f64,
    },
    /// A preset leaves an axis alone because it is not longer than the kernel's radius.
    #[error(
        "{like} does not smooth along {axis}, where the image has {length} voxels, because its kernel has \
         {radius} to each side"
    )]
    ShortAxis {
        /// The program.
        like: &'static str,
        /// x, y or z.
        axis: char,
        /// Its length.
        length: usize,
        /// Voxels from the centre of the kernel to its end.
        radius: usize,
    },
}

impl FilterWarning {
    /// The kind of the warning, the same word for all images.
    pub fn kind(&self) -> &'static str {
        match self {
            FilterWarning::BeyondAxis { .. } => "beyond_axis",
            FilterWarning::NoEffect { .. } => "no_effect",
            FilterWarning::ShortAxis { .. } => "short_axis",
        }
    }
}

/// What is odd about these widths: half kernels of so many weights, 0 where an axis is left alone.
pub(super) fn width_warnings(
    sigma_vox: [f64; 3],
    half_lens: [usize; 3],
    shape: [usize; 3],
) -> Vec<FilterWarning> {
    let mut warnings = Vec::new();
    for (axis, name) in ['x', 'y', 'z'].into_iter().enumerate() {
        let (sigma_vox, length) = (sigma_vox[axis], shape[axis]);
        if half_lens[axis] > 0 && length > 1 && sigma_vox > length as f64 {
            warnings.push(FilterWarning::BeyondAxis {
                axis: name,
                sigma_vox,
                length,
            });
        }
    }
    let sigma_vox = sigma_vox.into_iter().fold(0.0, f64::max);
    if sigma_vox > 0.0 && half_lens.iter().all(|&len| len <= 1) {
        warnings.push(FilterWarning::NoEffect { sigma_vox });
    }
    warnings
}

/// The planes that a stage reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The planes that it reads, and the reach around a slab.
    pub reads: Vec<(Source, Reach)>,
    /// The types of the planes that it writes. The last stage writes at least one.
    pub writes: Vec<Datatype>,
    /// Whether the first written plane may overwrite the first read plane: slice by slice, or in whole
    /// columns along z if a slice depends on others.
    pub in_place: bool,
}

/// A plane that a stage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The image's stored voxels.
    Input,
    /// The mask as `uint8`, 1 inside and 0 outside, if [`ImageInfo::mask_voxels`] is set.
    Mask,
    /// A plane of an earlier stage.
    Stage {
        /// The stage.
        stage: usize,
        /// Which of its planes.
        plane: usize,
    },
    /// Not a plane: the numbers that all slabs of an earlier stage report for the same 3-D volume.
    Reports {
        /// The stage.
        stage: usize,
    },
}

/// How far around the slices of a slab a stage reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Slices below and above, in the same 3-D volume.
    Slices {
        /// Slices below the slab.
        below: usize,
        /// Slices above it.
        above: usize,
        /// Whether the volume continues at its opposite end.
        wrap: bool,
    },
    /// Whole columns along z. The stage is divided into bands of columns. No other slab reads the voxels of a
    /// band, so planes of earlier stages may be overwritten there.
    WholeZ,
}

impl Reach {
    /// A slice depends only on the same slice.
    pub const SLICE: Reach = Reach::symmetric(0);

    /// `radius` slices to both sides.
    pub const fn symmetric(radius: usize) -> Reach {
        Reach::Slices {
            below: radius,
            above: radius,
            wrap: false,
        }
    }

    /// The slices that are read for `slices`, in a volume of `len` slices.
    pub(super) fn around(self, slices: &Range<usize>, len: usize) -> Range<usize> {
        match self {
            Reach::Slices {
                below,
                above,
                wrap: false,
            } => slices.start.saturating_sub(below)..slices.end.saturating_add(above).min(len),
            // A slab in the middle may need less, but that would gain nothing.
            Reach::Slices { wrap: true, .. } | Reach::WholeZ => 0..len,
        }
    }
}

/// A part of a stage's work: some slices of a 3-D volume, or a band of columns through all of them.
pub struct Slab<'a> {
    pub(super) shape: [usize; 3],
    pub(super) slices: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) reads: &'a [(Source, Reach)],
    /// The first voxel of the 3-D volume in each plane that is read.
    pub(super) sources: Vec<VoxelPointer>,
    /// The first voxel of the 3-D volume in each plane that is written.
    pub(super) targets: Vec<VoxelPointer>,
    /// The intensity scaling of [`Source::Input`].
    pub(super) scaling: Option<Scaling>,
    pub(super) stop: Option<&'a AtomicBool>,
    /// The stage, the 3-D volume and the number of this slab.
    pub(super) number: [usize; 3],
    pub(super) notes: &'a Notes,
}

impl Slab<'_> {
    /// Lengths of the 3-D volume.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The slices of the 3-D volume to compute.
    pub fn slices(&self) -> Range<usize> {
        self.slices.clone()
    }

    /// The columns along z to compute, as positions in a slice, x fastest.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// The slices of a source, given by its number, that may be read.
    pub fn readable(&self, source: usize) -> Range<usize> {
        self.reads[source].1.around(&self.slices, self.shape[2])
    }

    /// Fails once the run must stop. Call it regularly during long work.
    ///
    /// # Errors
    /// [`FilterError::Stopped`].
    pub fn check_stop(&self) -> Result<(), FilterError> {
        match self.stop {
            Some(stop) if stop.load(Ordering::Relaxed) => Err(FilterError::Stopped),
            _ => Ok(()),
        }
    }

    /// Stores a number for later stages that read [`Source::Reports`] of this one.
    pub(super) fn report(&self, number: f64) {
        let [stage, volume, slab] = self.number;
        self.notes.report(stage, volume, slab, number);
    }

    /// The numbers that the slabs of a stage have reported for this 3-D volume, lowest slices first. This
    /// stage must read [`Source::Reports`] of that stage.
    pub(super) fn reports(&self, stage: usize) -> impl Iterator<Item = f64> + '_ {
        self.notes.reports(stage, self.number[1])
    }

    /// Stores sums for a slab of a later stage with the same or adjacent slices.
    pub(super) fn leave(&self, to: Neighbour, sums: Arc<Vec<f32>>) {
        let [stage, volume, slab] = self.number;
        self.notes.leave(stage, volume, slab, to, sums);
    }

    /// Takes the sums that a slab of an earlier stage has stored for this one. This stage must read the
    /// slices of that slab.
    pub(super) fn take(&self, stage: usize, from: Neighbour) -> Arc<Vec<f32>> {
        let [_, volume, slab] = self.number;
        self.notes.take(stage, volume, slab, from)
    }

    /// Reads the slab's columns of `slices` from a source as intensities, slice after slice.
    ///
    /// # Panics
    /// If the slices are not [readable](Slab::readable), or `to` has another length.
    pub fn load(&self, source: usize, slices: Range<usize>, to: &mut [f64]) {
        let readable = self.readable(source);
        assert!(readable.start <= slices.start && slices.end <= readable.end);
        assert_eq!(to.len(), slices.len() * self.columns.len());
        for (slice, to) in slices.zip(to.chunks_exact_mut(self.columns.len().max(1))) {
            // SAFETY: the volume has this slice, and no thread writes voxels that a slab may read.
            unsafe { self.load_from(source, self.first(slice), to) };
        }
    }

    /// Reads voxels from the `first` of the 3-D volume on as intensities.
    ///
    /// # Safety
    /// The source has these voxels, they were computed or read, and nobody writes them meanwhile.
    pub(super) unsafe fn load_from(&self, source: usize, first: usize, to: &mut [f64]) {
        let from = self.sources[source].offset(first);
        let scaling = self.scaling.filter(|_| self.reads[source].0 == Source::Input);
        with_voxel_type!(from.datatype, S => {
            // SAFETY: the caller's.
            let voxels = unsafe { from.as_slice::<S>(to.len()) };
            for (to, &voxel) in to.iter_mut().zip(voxels) {
                let stored = voxel.to_f64();
                *to = scaling.map_or(stored, |scaling| scaling.intensity(stored));
            }
        });
    }

    /// Writes the slab's columns of all its slices to a target, slice after slice. Values for an integer type
    /// are rounded to nearest and saturated.
    ///
    /// # Panics
    /// If `from` has another length.
    pub fn store(&mut self, target: usize, from: &[f64]) {
        assert_eq!(from.len(), self.slices.len() * self.columns.len());
        let to = self.targets[target];
        with_voxel_type!(to.datatype, T => {
            for (slice, from) in self.slices().zip(from.chunks_exact(self.columns.len().max(1))) {
                // SAFETY: the volume has this slice, and no other thread uses the slab's own voxels.
                let voxels = unsafe { to.offset(self.first(slice)).as_mut_slice::<T>(from.len()) };
                for (voxel, &value) in voxels.iter_mut().zip(from) {
                    *voxel = T::nearest(value);
                }
            }
        });
    }

    /// Converts all voxels of the first source to the type of the first target.
    pub(super) fn convert(&mut self, conversion: Conversion) {
        let (from, to) = (self.sources[0], self.targets[0]);
        let columns = self.columns.len();
        with_voxel_type!(from.datatype, S => with_voxel_type!(to.datatype, T => {
            for slice in self.slices() {
                let first = self.first(slice);
                // SAFETY: both areas contain the slice and do not overlap, and no other thread uses this
                // slice.
                let (from, to) = unsafe {
                    (
                        from.offset(first).as_slice::<S>(columns),
                        to.offset(first).as_mut_slice::<T>(columns),
                    )
                };
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = recast_one(from, self.scaling, conversion);
                }
            }
        }));
    }

    /// The position in the 3-D volume of the slab's first column in a slice.
    pub(super) fn first(&self, slice: usize) -> usize {
        slice * self.shape[0] * self.shape[1] + self.columns.start
    }
}

impl From<NoMemory> for FilterError {
    fn from(error: NoMemory) -> Self {
        FilterError::Memory {
            bytes: error.len_bytes as u64,
        }
    }
}
