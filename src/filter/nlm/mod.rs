//! NLM: non-local means as dipy computes them: the options, and the stages of the work.
//!
//! | file | role |
//! |---|---|
//! | `classic` | each voxel becomes a mean of the voxels around it |
//! | `blockwise` | whole patches become means of similar patches |
//! | `moments` | rows as even and odd voxels, mean and variance around each voxel |
//! | `noise` | the standard deviation of the noise, estimated from the image |
//! | `weights` | how much a similar patch counts |

mod blockwise;
mod classic;
mod moments;
mod noise;
#[cfg(test)]
mod tests;
mod weights;

use std::ops::RangeInclusive;

use bytemuck::Pod;
use serde::{Deserialize, Serialize};

use super::FilterError;
pub use super::anlm::NoiseModel;
use super::interface::{
    Filter, ImageInfo, Prepared, Reach, SharedOptions, Slab, Source, Stage, ThreadScratch, only_on_cpu,
};
use super::kernels::simd::Isa;
use super::mask::Outside;
use super::nonfinite::NonFinite;
use super::output::OutputType;
use crate::volume::Datatype;
use blockwise::Blockwise;
use classic::Classic;
use noise::Survey;

/// Radii of a patch that are computed.
pub(super) const PATCH_RADII: RangeInclusive<usize> = 1..=4;

/// Largest radius of a block.
pub(super) const MAX_BLOCK_RADIUS: usize = 12;

/// Standard deviations of the noise that doubles can be computed with.
pub(super) const SIGMAS: RangeInclusive<f64> = 1e-100..=1e100;

/// Seconds of one CPU core for each voxel, and for each voxel that is compared with another. Only proportions
/// matter.
const S_PER_VOXEL: f64 = 2e-8;
const S_PER_COMPARISON: f64 = 4e-11;

/// The weight of a patch costs as much as so many comparisons.
const SHARED: usize = 15;

/// Blockwise, only an eighth of the voxels are centres, but comparing their patches costs so much more.
const BLOCKWISE: f64 = 2.0;

/// Which non-local means of dipy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Classic: a voxel becomes a mean of voxels.
    #[default]
    Nlm,
    /// Blockwise: a patch becomes a mean of similar patches, and a voxel the mean of the patches it is in.
    NlmBlockwise,
}

/// Non-local means (Buades et al., Multiscale Model. Simul. 4 (2005) 490–530; Coupé et al., IEEE Trans. Med.
/// Imaging 27 (2008) 425–441) with the bits of `nlmeans` of dipy 1.12.1.
///
/// Each voxel becomes the mean of the voxels around it, weighted by how similar their patches are and by the
/// noise; for Rician noise the squares are averaged, and twice the noise's variance is taken off. Beyond the
/// edge the image is mirrored. All is computed in double from the intensities as doubles; the result is
/// `float32` unless the output type says otherwise, whole numbers being rounded once. Each 3-D volume is
/// filtered by itself. Every axis has to be longer than the block's radius. NaN and infinity are refused,
/// also outside of a mask. With a mask, the classic method gives voxels inside the same values as without;
/// blockwise, patches around voxels inside are compared with each other only.
///
/// ```
/// use niimpi::filter::nlm::Nlm;
/// use niimpi::filter::{Scratch, SharedOptions, apply};
/// use niimpi::volume::{Datatype, Volume};
///
/// let mut volume = Volume::zeros(&[9, 9, 9], Datatype::Int16);
/// volume.voxels.as_mut_slice::<i16>().fill(5);
/// let nlm = Nlm { sigma_noise: Some(2.0), ..Nlm::default() };
/// apply(&nlm, &SharedOptions::default(), &mut volume, &mut Scratch::default())?;
/// assert!((volume.voxels.as_slice::<f32>()[0] - 17f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), niimpi::filter::FilterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Nlm {
    /// Which variant.
    pub method: Method,
    /// What the noise is like.
    pub noise_model: NoiseModel,
    /// Standard deviation of the noise; `None`: estimated from each 3-D volume, as dipy's `estimate_sigma`
    /// does.
    pub sigma_noise: Option<f64>,
    /// Voxels from the middle of a patch to its faces.
    pub patch_radius: usize,
    /// Voxels from the middle of a block, which holds the patches that a voxel is compared with, to its
    /// faces.
    pub block_radius: usize,
}

impl Default for Nlm {
    fn default() -> Self {
        Nlm::of(Method::default())
    }
}

impl Nlm {
    /// A method with dipy's own radii.
    pub fn of(method: Method) -> Self {
        Nlm {
            method,
            noise_model: NoiseModel::default(),
            sigma_noise: None,
            patch_radius: 1,
            block_radius: match method {
                Method::Nlm => 5,
                Method::NlmBlockwise => 2,
            },
        }
    }
}

impl Filter for Nlm {
    fn validate(&self) -> Result<(), FilterError> {
        let refused = |name, cause| Err(FilterError::Parameter { name, cause });
        if !PATCH_RADII.contains(&self.patch_radius) {
            let cause = format!("give a whole number from 1 to {}", PATCH_RADII.end());
            return refused("patch-radius", cause);
        }
        let (least, cause) = match self.method {
            Method::Nlm => (self.patch_radius + 1, ", more than --patch-radius,"),
            Method::NlmBlockwise => (1, ""),
        };
        if !(least..=MAX_BLOCK_RADIUS).contains(&self.block_radius) {
            let cause = format!("give a whole number from {least}{cause} to {MAX_BLOCK_RADIUS}");
            return refused("block-radius", cause);
        }
        match self.sigma_noise {
            Some(sigma) if !SIGMAS.contains(&sigma) => refused(
                "sigma-noise",
                format!(
                    "give a number from {:e} to {:e}, or estimate",
                    SIGMAS.start(),
                    SIGMAS.end()
                ),
            ),
            _ => Ok(()),
        }
    }

    fn validate_on_device(&self) -> Result<(), FilterError> {
        match self.method {
            Method::Nlm => Ok(()),
            Method::NlmBlockwise => Err(only_on_cpu("--method nlm-blockwise")),
        }
    }

    fn refuses_nonfinite(&self) -> bool {
        true
    }

    fn reads_outside(&self) -> bool {
        true
    }

    fn bids_desc(&self) -> Option<String> {
        Some("denoised".to_owned())
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        self.validate()?;
        let refused = |name, cause| Err(FilterError::Parameter { name, cause });
        if shared.nan != NonFinite::Zero && image.nonfinite_voxels.is_some_and(|found| found > 0) {
            let cause =
                "the image has voxels that are NaN or infinite, which cannot be denoised: give --nan zero";
            return refused("nan", cause.to_owned());
        }
        let shape = image.spatial_shape();
        if shape.iter().any(|&len| len <= self.block_radius) {
            let [nx, ny, nz] = shape;
            let cause = format!(
                "the image has {nx} × {ny} × {nz} voxels, and a block radius of {} needs more than {0} along \
                 each axis: give a smaller radius, or use --method anlm",
                self.block_radius
            );
            return refused("block-radius", cause);
        }
        let last = match shared.output.output_type {
            OutputType::Same => Datatype::Float32,
            OutputType::As(datatype) => datatype,
        };
        shared.check_outside(image, last)?;
        let outside = image.mask_voxels.map(|_| shared.outside.unwrap_or_default());
        let survey = match self.sigma_noise {
            Some(_) => None,
            None => Some(Survey::new(shape, image.volumes())),
        };
        let is_rician = self.noise_model == NoiseModel::Rician;
        let core = match self.method {
            Method::Nlm => Core::Classic(Classic {
                shape,
                patch: self.patch_radius,
                block: self.block_radius,
                is_rician,
            }),
            // The reference's radii change places: blocks are its patches, which are searched so far.
            Method::NlmBlockwise => Core::Blockwise(Blockwise::new(
                shape,
                self.patch_radius,
                self.block_radius,
                is_rician,
            )),
        };
        Ok(Box::new(PreparedNlm {
            stages: stages(survey.is_some(), &core, outside.is_some(), last),
            shape,
            outside,
            sigma: self.sigma_noise,
            survey,
            core,
        }))
    }
}

/// The work on a slab once the noise is known.
enum Core {
    Classic(Classic),
    Blockwise(Blockwise),
}

impl Core {
    fn slices_around(&self) -> usize {
        match self {
            Core::Classic(classic) => classic.slices_around(),
            Core::Blockwise(blockwise) => blockwise.slices_around(),
        }
    }

    /// How far around a slab the mask is read.
    fn mask_around(&self) -> usize {
        match self {
            Core::Classic(_) => 0,
            Core::Blockwise(blockwise) => blockwise.mask_around(),
        }
    }

    /// Voxels that are compared for each one.
    fn comparisons(&self) -> f64 {
        match self {
            Core::Classic(classic) => (classic.candidates() * (SHARED + classic.patch_voxels())) as f64,
            Core::Blockwise(blockwise) => {
                (blockwise.candidates() * blockwise.patch_voxels()) as f64 * BLOCKWISE
            }
        }
    }

    fn scratch_bytes(&self, own: usize) -> u64 {
        match self {
            Core::Classic(classic) => classic.scratch_bytes(own),
            Core::Blockwise(blockwise) => blockwise.scratch_bytes(own),
        }
    }

    fn run(&self, slab: &mut Slab<'_>, scratch: &mut ThreadScratch, sigma: f64) -> Result<(), FilterError> {
        match self {
            Core::Classic(classic) => classic.run(slab, scratch, sigma),
            Core::Blockwise(blockwise) => blockwise.run(slab, scratch, sigma),
        }
    }
}

/// With an estimate of the noise, its stage and then that of the result; else only the latter.
fn stages(has_survey: bool, core: &Core, is_masked: bool, last: Datatype) -> Vec<Stage> {
    let mut stages = Vec::new();
    let mut reads = vec![(Source::Input, Reach::symmetric(core.slices_around()))];
    reads.extend(is_masked.then(|| (Source::Mask, Reach::symmetric(core.mask_around()))));
    if has_survey {
        stages.push(Stage {
            reads: vec![(Source::Input, Reach::SLICE)],
            writes: Vec::new(),
            in_place: false,
        });
        reads.push((Source::Reports { stage: SURVEY }, Reach::SLICE));
    }
    stages.push(Stage {
        reads,
        writes: vec![last],
        in_place: false,
    });
    stages
}

const SURVEY: usize = 0;

struct PreparedNlm {
    stages: Vec<Stage>,
    shape: [usize; 3],
    /// What the result has outside of the mask; `None` without one.
    outside: Option<Outside>,
    sigma: Option<f64>,
    survey: Option<Survey>,
    core: Core,
}

impl PreparedNlm {
    /// The survey, if this is its stage.
    fn survey_at(&self, stage: usize) -> Option<&Survey> {
        self.survey.as_ref().filter(|_| stage == SURVEY)
    }
}

impl Prepared for PreparedNlm {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn cost_s(&self, stage: usize, voxels: u64) -> f64 {
        voxels as f64
            * match self.survey_at(stage) {
                Some(_) => S_PER_VOXEL,
                None => S_PER_VOXEL + S_PER_COMPARISON * self.core.comparisons(),
            }
    }

    fn scratch_bytes(&self, stage: usize, slab_voxels: u64) -> u64 {
        match self.survey_at(stage) {
            Some(survey) => survey.scratch_bytes(),
            None => {
                let [nx, ny, nz] = self.shape;
                let slice = (nx as u64).saturating_mul(ny as u64).max(1);
                // Of a slab that reads all slices nothing else is known.
                let own = match usize::try_from(slab_voxels.div_ceil(slice)) {
                    Ok(slices) if slices < nz => slices.saturating_sub(2 * self.core.slices_around()),
                    _ => nz,
                };
                self.core.scratch_bytes(own)
            }
        }
    }

    fn held_bytes(&self) -> u64 {
        self.survey.as_ref().map_or(0, Survey::held_bytes)
    }

    fn run(&self, stage: usize, slab: &mut Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        if let Some(survey) = self.survey_at(stage) {
            return survey.run(slab, scratch);
        }
        let sigma = self
            .sigma
            .unwrap_or_else(|| slab.reports(SURVEY).fold(0.0, f64::max));
        self.core.run(slab, scratch, sigma)?;
        if let Some(outside) = self.outside {
            let slices = slab.slices();
            let area = self.shape[0] * self.shape[1];
            slab.put_outside(outside, slices.start * area, slices.len() * area);
        }
        Ok(())
    }
}

/// What Rician noise adds to squares.
fn bias(is_rician: bool, sigma: f64) -> f64 {
    if is_rician { 2.0 * (sigma * sigma) } else { 0.0 }
}

/// A place that may be up to `len − 1` beyond the ends of a line, mirrored without repeating the edge.
fn mirrored(at: isize, len: usize) -> usize {
    match at < len as isize {
        true => at.unsigned_abs(),
        false => 2 * (len - 1) - at.unsigned_abs(),
    }
}

/// The buffers of a thread: `places`, which are overwritten, and doubles of several kinds.
struct Buffers<'a, P, const KINDS: usize> {
    isa: Isa,
    places: &'a mut [P],
    doubles: [&'a mut [f64]; KINDS],
}

impl<'a, P: Pod, const KINDS: usize> Buffers<'a, P, KINDS> {
    /// Their bytes.
    fn bytes(places: usize, doubles: [usize; KINDS]) -> u64 {
        let doubles = doubles.into_iter().fold(0, usize::saturating_add) as u64;
        let places = places.saturating_mul(size_of::<P>()) as u64;
        doubles
            .saturating_mul(size_of::<f64>() as u64)
            .saturating_add(places)
    }

    /// # Errors
    /// [`FilterError::Memory`].
    fn of(
        scratch: &'a mut ThreadScratch,
        places: usize,
        lengths: [usize; KINDS],
    ) -> Result<Self, FilterError> {
        let ThreadScratch { isa, tile, plane, .. } = scratch;
        let doubles = lengths.into_iter().fold(0, usize::saturating_add);
        tile.try_resize_for_overwrite(places.saturating_mul(size_of::<P>()))?;
        plane.try_resize_for_overwrite(doubles.saturating_mul(size_of::<f64>()))?;
        let mut rest = plane.as_mut_slice::<f64>();
        Ok(Buffers {
            isa: *isa,
            places: tile.as_mut_slice(),
            doubles: lengths.map(|len| {
                let (part, others) = std::mem::take(&mut rest).split_at_mut(len);
                rest = others;
                part
            }),
        })
    }
}
