//! ANLM: adaptive non-local means as ANTs computes it: its options, and the stages of the work.
//!
//! | file | role |
//! |---|---|
//! | `frame` | lengths and places that are the same for all slabs of an image |
//! | `statistics` | mean and variance around each voxel, and what else the patches are compared by |
//! | `similar` | which candidates resemble a centre |
//! | `patches` | the vectorised loop: candidates, distances, weights and weighted patches of a row |
//! | `estimates` | sums of overlapping patches, in the order of the reference |
//! | `rician` | the bias of Rician noise |
//! | `resample` | the removed noise, interpolated at its own voxels, and the result |

mod estimates;
mod frame;
mod patches;
mod resample;
mod rician;
mod similar;
mod statistics;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::interface::{
    Filter, ImageInfo, Prepared, Reach, SharedOptions, Slab, Source, Stage, ThreadScratch,
};
use super::kernels::convert::{Voxel, with_voxel_type};
use super::nonfinite::NonFinite;
use super::output::OutputType;
use super::per_axis::PerAxis;
use crate::volume::{Datatype, Grid};
use frame::Frame;
use resample::Resampling;
use rician::Bias;

/// Largest radius of a patch along an axis.
const MAX_PATCH_RADIUS: usize = 4;

/// Largest radius of the search along an axis.
const MAX_SEARCH_RADIUS: usize = 10;

/// Intensities beyond this would overflow in single precision, in which the reference computes.
const MAX_INTENSITY: f64 = 1e17;

/// Seconds of one CPU core for each voxel, and for each voxel and candidate. Only proportions matter.
const S_PER_VOXEL: f64 = 4e-8;
const S_PER_CANDIDATE: f64 = 1e-9;
const S_PER_CANDIDATE_VOXEL: f64 = 1.2e-10;

/// What the noise of an image is like.
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
/// Each patch becomes a mean of similar patches around it. How similar is decided by the smallest local
/// variance in the search area, so the strength adapts to the noise. All is computed in single precision; the
/// result is `float32` unless the output type says otherwise, whole numbers being rounded once. The spatial
/// axes are filtered, each 3-D volume by itself. Beyond the edge of the image nothing counts. NaN, infinity
/// and intensities beyond 10¹⁷ are refused.
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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anlm {
    /// What the noise is like.
    pub noise_model: NoiseModel,
    /// Voxels from the middle of a patch to its faces.
    pub patch_radius: PerAxis<usize>,
    /// Voxels from the middle of the search area to its faces.
    pub search_radius: PerAxis<usize>,
}

impl Default for Anlm {
    fn default() -> Self {
        Anlm {
            noise_model: NoiseModel::Rician,
            patch_radius: PerAxis::All(1),
            search_radius: PerAxis::All(2),
        }
    }
}

/// What is wrong with a radius, and what to do.
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
        Ok(())
    }

    fn uses_voxel_size(&self) -> bool {
        self.noise_model == NoiseModel::Rician
    }

    fn refuses_nonfinite(&self) -> bool {
        true
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        self.validate()?;
        if shared.nan != NonFinite::Zero && image.nonfinite_voxels.is_some_and(|found| found > 0) {
            return Err(FilterError::Parameter {
                name: "nan",
                cause: "the image has voxels that are NaN or infinite, which cannot be denoised: give --nan \
                        zero"
                    .to_owned(),
            });
        }
        if image.mask_voxels.is_some() {
            return Err(FilterError::Parameter {
                name: "mask",
                cause: "non-local means are computed without a mask: leave --mask out".to_owned(),
            });
        }
        let frame = Frame::new(
            image.spatial_shape(),
            image.spatial_axes(),
            self.patch_radius.xyz(),
            self.search_radius.xyz(),
        );
        let grid = image.grid.unwrap_or(Grid::of_spacing(image.voxel_size_mm));
        let bias = match self.noise_model {
            NoiseModel::Rician => Some(Bias::new(&grid, image.spatial_axes())),
            NoiseModel::Gaussian => None,
        };
        let resampling = Resampling::new(&grid, frame.shape);
        let last = match shared.output.output_type {
            OutputType::Same => Datatype::Float32,
            OutputType::As(datatype) => datatype,
        };
        Ok(Box::new(PreparedAnlm {
            stages: stages(&frame, bias.as_ref(), &resampling, last),
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
    let patch = frame.patch[2];
    let mut estimates = vec![SINGLE];
    let mut noise = vec![
        (Source::Input, Reach::symmetric(frame.statistics[2])),
        // The sums of a slab's first and last slices are completed by its neighbours.
        (plane(ESTIMATES, 0), Reach::symmetric(patch)),
    ];
    if let Some(bias) = bias {
        estimates.push(SINGLE);
        noise.push((plane(ESTIMATES, 1), Reach::symmetric(patch + bias.radius(2))));
    }
    let around = frame.slices_around() + frame.statistics[2];
    let survey = Source::Reports { stage: SURVEY };
    vec![
        stage(vec![(Source::Input, Reach::SLICE)], Vec::new()),
        stage(
            vec![
                // A slab is thick enough not to share a slice's sums with more than one neighbour.
                (Source::Input, Reach::symmetric(around.max(2 * patch))),
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
    stages: Vec<Stage>,
}

impl PreparedAnlm {
    /// Reports the largest intensity, in single precision.
    fn survey(&self, slab: &Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        let row = self.frame.shape[0] * self.frame.shape[1];
        let intensities = scratch.singles(row)?;
        let mut largest = f32::NEG_INFINITY;
        let mut furthest = 0.0f32;
        for slice in slab.slices() {
            load_singles(slab, 0, slice, intensities);
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

/// Reads the intensities of a slice from the image, each as the nearest single-precision number of its
/// double.
///
/// # Panics
/// When the slice is not readable, or `to` has another length than a slice.
fn load_singles(slab: &Slab<'_>, source: usize, slice: usize, to: &mut [f32]) {
    let readable = slab.readable(source);
    assert!(readable.contains(&slice));
    let from = slab.sources[source].offset(slab.first(slice));
    let scaling = slab.scaling.filter(|_| slab.reads[source].0 == Source::Input);
    with_voxel_type!(from.datatype, S => {
        // SAFETY: the volume has this slice, and nobody writes what a slab may read.
        let voxels = unsafe { from.as_slice::<S>(to.len()) };
        match scaling {
            None => to.iter_mut().zip(voxels).for_each(|(to, voxel)| *to = voxel.to_f64() as f32),
            Some(scaling) => to
                .iter_mut()
                .zip(voxels)
                .for_each(|(to, voxel)| *to = scaling.intensity(voxel.to_f64()) as f32),
        }
    });
}

impl Prepared for PreparedAnlm {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn cost_s(&self, stage: usize, voxels: u64) -> f64 {
        let candidates = self.frame.candidates.len() as f64;
        let patch = self.frame.patch_voxels() as f64;
        voxels as f64
            * match stage {
                ESTIMATES => candidates * (S_PER_CANDIDATE + patch * S_PER_CANDIDATE_VOXEL),
                _ => S_PER_VOXEL / 2.0,
            }
    }

    fn scratch_bytes(&self, stage: usize, slab_voxels: u64) -> u64 {
        let [nx, ny, _] = self.frame.shape;
        let slices = slab_voxels.div_ceil((nx as u64).saturating_mul(ny as u64).max(1));
        match stage {
            SURVEY => slab_voxels.saturating_mul(4),
            ESTIMATES => self.frame.scratch_bytes(slices),
            NOISE => {
                let planes = self.bias.as_ref().map_or(0, |bias| bias.planes(slices));
                let plane = (nx as u64 + 64).saturating_mul(ny as u64 + 8).saturating_mul(4);
                (planes + 8).saturating_mul(plane)
            }
            _ => (nx as u64).saturating_mul(ny as u64 + 1).saturating_mul(4),
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
            RESULT => self.resampling.run(slab, scratch),
            _ => unreachable!("there are four stages"),
        }
    }
}
