//! ANLM: adaptive non-local means as ANTs computes it: its options, and the stages of the work.
//!
//! | file | role |
//! |---|---|
//! | `sampling` | which voxels of the image are denoised |
//! | `space` | matrices between voxels and points |
//! | `frame` | lengths and places that are the same for all slabs of an image |
//! | `statistics` | mean and variance around each voxel, and what else the patches are compared by |
//! | `similar` | which candidates resemble a centre |
//! | `patches` | the vectorised loop: candidates, distances, weights and weighted patches of a row |
//! | `estimates` | sums of overlapping patches, in the order of the reference |
//! | `rician` | the bias of Rician noise |
//! | `resample` | the removed noise, interpolated at all voxels, and the result |

mod estimates;
mod frame;
mod patches;
mod resample;
mod rician;
mod sampling;
mod similar;
mod space;
mod statistics;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::interface::{
    Filter, ImageInfo, Prepared, Reach, SharedOptions, Slab, Source, Stage, ThreadScratch,
};
use super::mask::Outside;
use super::nonfinite::NonFinite;
use super::output::OutputType;
use super::per_axis::PerAxis;
use crate::volume::{Datatype, Grid};
use frame::Frame;
use resample::Resampling;
use rician::Bias;
use sampling::Sampling;

/// Largest radius of a patch along an axis.
const MAX_PATCH_RADIUS: usize = 4;

/// Most voxels from one sample to the next.
const MAX_SHRINK: usize = 8;

/// Largest radius of the search along an axis.
const MAX_SEARCH_RADIUS: usize = 10;

/// Intensities beyond this would overflow in single precision, in which the reference computes.
const MAX_INTENSITY: f64 = 1e17;

/// Seconds of one CPU core for each voxel, and for each voxel and candidate. Only proportions matter.
const S_PER_VOXEL: f64 = 4e-8;
const S_PER_CANDIDATE: f64 = 1e-9;
const S_PER_CANDIDATE_VOXEL: f64 = 1.2e-10;

/// The noise model of an image.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoiseModel {
    /// That of magnitude images, with a bias that depends on the signal
    #[default]
    Rician,
    /// The same everywhere, without a bias
    Gaussian,
}

/// Adaptive non-local means (Manjón et al., J. Magn. Reson. Imaging 31 (2010) 192–203) with the bits of
/// `ants.denoise_image` of ANTsPy 0.6.3 on one thread.
///
/// Each patch becomes a weighted mean of similar patches around it. The smallest local variance in the search
/// area determines how similar they must be, so the strength adapts to the noise. Everything is computed in
/// single precision. The result is `float32` unless another output type is given; integers are rounded once.
/// Each 3-D volume is filtered separately. Voxels beyond the edge of the image do not count. NaN, infinity
/// and intensities beyond 10¹⁷ are refused.
///
/// With a mask only patches around voxels inside become means, and only there the bias of Rician noise is
/// removed. Similar patches are found outside, too. Unless [`SharedOptions::outside`] says otherwise, voxels
/// outside keep what the patches leave there.
///
/// ```
/// use niimpi::filter::anlm::Anlm;
/// use niimpi::filter::{Scratch, SharedOptions, apply};
/// use niimpi::volume::{Datatype, Volume};
///
/// let mut volume = Volume::zeros(&[9, 9, 9], Datatype::Int16);
/// volume.voxels.as_mut_slice::<i16>().fill(7);
/// apply(&Anlm::default(), &SharedOptions::default(), &mut volume, &mut Scratch::default())?;
/// assert_eq!(volume.voxels.as_slice::<f32>()[0], 7.0);
/// # Ok::<(), niimpi::filter::FilterError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anlm {
    /// The noise model.
    pub noise_model: NoiseModel,
    /// Voxels from the centre of a patch to its faces.
    pub patch_radius: PerAxis<usize>,
    /// Voxels from the centre of the search area to its faces.
    pub search_radius: PerAxis<usize>,
    /// The noise is found in every so many-th voxel along each axis, and interpolated between them. Other
    /// than 1 it needs an image whose axes are parallel to those of space, and no mask.
    pub shrink: usize,
    /// The template of the name of a second result, with the noise that was removed; `None` without one.
    pub output_noise: Option<String>,
}

impl Default for Anlm {
    fn default() -> Self {
        Anlm {
            noise_model: NoiseModel::Rician,
            patch_radius: PerAxis::All(1),
            search_radius: PerAxis::All(2),
            shrink: 1,
            output_noise: None,
        }
    }
}

/// A message about an invalid radius, with a remedy.
pub(super) fn radius_fault(radius: PerAxis<usize>, limit: usize) -> Option<String> {
    let fault = format!("give whole numbers from 1 to {limit}");
    (!radius.xyz().iter().all(|radius| (1..=limit).contains(radius))).then_some(fault)
}

pub(super) fn parse_patch_radius(text: &str) -> Result<PerAxis<usize>, String> {
    parse_radius(text, MAX_PATCH_RADIUS)
}

pub(super) fn parse_search_radius(text: &str) -> Result<PerAxis<usize>, String> {
    parse_radius(text, MAX_SEARCH_RADIUS)
}

pub(super) fn parse_shrink(text: &str) -> Result<usize, String> {
    let shrink = text
        .parse()
        .ok()
        .filter(|shrink| (1..=MAX_SHRINK).contains(shrink));
    shrink.ok_or_else(shrink_fault)
}

fn shrink_fault() -> String {
    format!("give a whole number from 1 to {MAX_SHRINK}")
}

fn parse_radius(text: &str, limit: usize) -> Result<PerAxis<usize>, String> {
    let radius = PerAxis::parse(text, "a whole number from 1")?;
    match radius_fault(radius, limit) {
        Some(fault) => Err(fault),
        None => Ok(radius),
    }
}

impl Filter for Anlm {
    fn validate(&self) -> Result<(), FilterError> {
        let radii = [
            ("patch-radius", self.patch_radius, MAX_PATCH_RADIUS),
            ("search-radius", self.search_radius, MAX_SEARCH_RADIUS),
        ];
        for (name, radius, limit) in radii {
            if let Some(cause) = radius_fault(radius, limit) {
                return Err(FilterError::Parameter { name, cause });
            }
        }
        if !(1..=MAX_SHRINK).contains(&self.shrink) {
            return Err(FilterError::Parameter {
                name: "shrink",
                cause: shrink_fault(),
            });
        }
        // --resume would take another image's noise for its own.
        if self
            .output_noise
            .as_deref()
            .is_some_and(|template| template.contains("{index}"))
        {
            return Err(FilterError::Parameter {
                name: "output-noise",
                cause: "an image's {index} changes with the list: use {dir} and {stem}".to_owned(),
            });
        }
        Ok(())
    }

    fn validate_masked(&self) -> Result<(), FilterError> {
        if self.shrink == 1 {
            return self.validate();
        }
        Err(FilterError::Parameter {
            name: "mask",
            cause:
                "is not used together with --shrink, because ANTs then returns the image unchanged: leave \
                    out one of them"
                    .to_owned(),
        })
    }

    fn uses_voxel_size(&self) -> bool {
        self.noise_model == NoiseModel::Rician
    }

    fn refuses_nonfinite(&self) -> bool {
        true
    }

    fn reads_outside(&self) -> bool {
        true
    }

    fn default_outside(&self) -> Option<Outside> {
        None
    }

    fn second_result(&self) -> Option<&str> {
        self.output_noise.as_deref()
    }

    fn bids_desc(&self) -> Option<String> {
        Some("denoised".to_owned())
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        match image.mask_voxels {
            Some(_) => self.validate_masked()?,
            None => self.validate()?,
        }
        if shared.nan != NonFinite::Zero && image.nonfinite_voxels.is_some_and(|found| found > 0) {
            return Err(FilterError::Parameter {
                name: "nan",
                cause: "the image has voxels that are NaN or infinite, which cannot be denoised: give --nan \
                        zero"
                    .to_owned(),
            });
        }
        let (shape, axes) = (image.spatial_shape(), image.spatial_axes());
        let grid = image.grid.unwrap_or(Grid::of_spacing(image.voxel_size_mm));
        let (sampling, of_samples) = Sampling::new(shape, axes, self.shrink, &grid)?;
        let frame = Frame::new(sampling, axes, self.patch_radius.xyz(), self.search_radius.xyz());
        let bias = match self.noise_model {
            NoiseModel::Rician => Some(Bias::new(&of_samples, axes)),
            NoiseModel::Gaussian => None,
        };
        let resampling = Resampling::new(&grid, shape, sampling, &of_samples);
        let last = match shared.output.output_type {
            OutputType::Same => Datatype::Float32,
            OutputType::As(datatype) => datatype,
        };
        shared.check_outside(image, last)?;
        let mut stages = stages(&frame, bias.as_ref(), &resampling, last);
        if self.output_noise.is_some() {
            stages[RESULT].writes.push(Datatype::Float32);
        }
        if image.mask_voxels.is_some() {
            for stage in &mut stages[ESTIMATES..] {
                stage.reads.push((Source::Mask, Reach::SLICE));
            }
        }
        Ok(Box::new(PreparedAnlm {
            stages,
            outside: image.mask_voxels.and(shared.outside),
            resampling,
            frame,
            bias,
        }))
    }
}

const SURVEY: usize = 0;
const ESTIMATES: usize = 1;
const NOISE: usize = 2;
const RESULT: usize = 3;

fn stages(frame: &Frame, bias: Option<&Bias>, resampling: &Resampling, last: Datatype) -> Vec<Stage> {
    const SINGLE: Datatype = Datatype::Float32;
    let stage = |reads, writes| Stage {
        reads,
        writes,
        in_place: false,
    };
    let plane = |stage, plane| Source::Stage { stage, plane };
    let reach = |samples| Reach::symmetric(frame.sampling.reach(samples));
    let patch = frame.patch[2];
    let mut estimates = vec![SINGLE];
    let mut noise = vec![
        (Source::Input, reach(frame.statistics[2])),
        // The sums of a slab's first and last slices are completed by its neighbours.
        (plane(ESTIMATES, 0), reach(patch)),
    ];
    if let Some(bias) = bias {
        estimates.push(SINGLE);
        noise.push((plane(ESTIMATES, 1), reach(patch + bias.radius(2))));
    }
    let around = frame.slices_around() + frame.statistics[2];
    let survey = Source::Reports { stage: SURVEY };
    vec![
        stage(vec![(Source::Input, Reach::SLICE)], Vec::new()),
        stage(
            vec![
                // Slabs are so thick that a slice's sums are shared by at most two slabs.
                (Source::Input, reach(around.max(2 * patch))),
                (survey, Reach::SLICE),
            ],
            estimates,
        ),
        stage(noise, vec![SINGLE]),
        stage(
            vec![
                (plane(NOISE, 0), Reach::symmetric(resampling.reach())),
                (Source::Input, Reach::SLICE),
            ],
            vec![last],
        ),
    ]
}

struct PreparedAnlm {
    frame: Frame,
    bias: Option<Bias>,
    resampling: Resampling,
    /// What the result has outside of the mask, where it is not what was computed there.
    outside: Option<Outside>,
    stages: Vec<Stage>,
}

impl PreparedAnlm {
    /// Reports the largest intensity, in single precision.
    fn survey(&self, slab: &Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        let sampling = &self.frame.sampling;
        let intensities = scratch.singles(self.frame.shape[0] * self.frame.shape[1])?;
        let mut largest = f32::NEG_INFINITY;
        let mut furthest = 0.0f32;
        for z in sampling.slices(&slab.slices()) {
            sampling.load(slab, 0, z, intensities);
            for &intensity in &*intensities {
                largest = if intensity > largest { intensity } else { largest };
                furthest = if intensity.abs() > furthest {
                    intensity.abs()
                } else {
                    furthest
                };
            }
        }
        if f64::from(furthest) > MAX_INTENSITY {
            return Err(FilterError::Parameter {
                name: "method",
                cause: format!(
                    "the image has intensities up to {furthest:e}, whose squares single precision cannot \
                     hold: scale it first"
                ),
            });
        }
        slab.report(f64::from(largest));
        Ok(())
    }
}

impl Prepared for PreparedAnlm {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn cost_s(&self, stage: usize, voxels: u64) -> f64 {
        let candidates = self.frame.candidates.len() as f64;
        let patch = self.frame.patch_voxels() as f64;
        let samples = self.frame.sampling.voxels() as f64;
        voxels as f64
            * match stage {
                ESTIMATES => candidates * (S_PER_CANDIDATE + patch * S_PER_CANDIDATE_VOXEL) / samples,
                _ => S_PER_VOXEL / 2.0,
            }
    }

    fn scratch_bytes(&self, stage: usize, slab_voxels: u64) -> u64 {
        let area = |[nx, ny, _]: [usize; 3]| (nx as u64).saturating_mul(ny as u64);
        let [nx, ny, _] = self.frame.shape;
        let image = self.resampling.shape;
        let slices = self.frame.sampling.most(slab_voxels.div_ceil(area(image).max(1)));
        match stage {
            SURVEY => slab_voxels.saturating_mul(4),
            ESTIMATES => self.frame.scratch_bytes(slices),
            NOISE => {
                let planes = self.bias.as_ref().map_or(0, |bias| bias.planes(slices));
                let plane = (nx as u64 + 64).saturating_mul(ny as u64 + 8).saturating_mul(4);
                (planes + 8).saturating_mul(plane)
            }
            _ => (area(image).saturating_add(image[0] as u64)).saturating_mul(4),
        }
    }

    fn held_bytes(&self) -> u64 {
        self.frame.held_bytes()
    }

    fn run(&self, stage: usize, slab: &mut Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        match stage {
            SURVEY => self.survey(slab, scratch),
            ESTIMATES => estimates::run(&self.frame, slab, scratch),
            NOISE => rician::run(&self.frame, self.bias.as_ref(), slab, scratch),
            RESULT => self.resampling.run(self.outside, slab, scratch),
            _ => unreachable!("there are four stages"),
        }
    }
}
