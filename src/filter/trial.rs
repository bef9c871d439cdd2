//! Trial: how long a filter takes on a device and on the CPU, measured on a small volume.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::device::Device;
use super::interface::{Filter, ImageInfo, SharedOptions};
use super::kernels::convert::{Voxel, with_voxel_type};
use super::{FilterError, Scratch, ThreadScratch, apply_until};
use crate::volume::Volume;

/// Lengths of the volume's axes, the longest first.
const SIDES: [usize; 11] = [96, 64, 48, 32, 24, 16, 12, 8, 4, 2, 1];

/// Estimated seconds on the CPU that the volume may take.
const CPU_S: f64 = 0.02;

/// The work is measured again, up to three times, unless so many seconds passed.
const ENOUGH_S: f64 = 0.05;

/// After so many seconds the first work on a device is stopped. It makes the driver compile.
const WARM_UP_S: f64 = 0.02;

/// Seconds for one volume on one thread of the CPU and, with its transfers, on a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Costs {
    pub(crate) cpu_s: f64,
    /// `None`: it was stopped, because it took longer than the CPU.
    pub(crate) device_s: Option<f64>,
}

impl Costs {
    /// Measures a filter on a volume of the type and voxel size of an image.
    ///
    /// # Errors
    /// [`FilterError`] if the filter does not fit the image, or if the device fails.
    pub(crate) fn measure(
        filter: &dyn Filter,
        shared: &SharedOptions,
        image: &ImageInfo,
        device: &Arc<Device>,
    ) -> Result<Self, FilterError> {
        let trial = Trial {
            filter,
            shared,
            image,
            shape: shape(filter, shared, image)?,
        };
        let cpu_s = trial.least_s(&mut Scratch::default(), f64::INFINITY)?;
        let mut scratch = Scratch {
            thread: ThreadScratch::on(Some(Arc::clone(device))),
            ..Scratch::default()
        };
        trial.within_s(&mut scratch, WARM_UP_S)?;
        let least_s = trial.least_s(&mut scratch, cpu_s)?;
        Ok(Costs {
            cpu_s,
            device_s: least_s.is_finite().then_some(least_s),
        })
    }

    /// Seconds for a volume on a device that so many ranks share, and on so many threads.
    pub(crate) fn of_rank(self, sharing: usize, threads: usize) -> Self {
        Costs {
            cpu_s: self.cpu_s / threads.max(1) as f64,
            device_s: self.device_s.map(|device_s| device_s * sharing.max(1) as f64),
        }
    }

    /// Whether the device is faster.
    pub(crate) fn device_pays(self) -> bool {
        self.device_s.is_some_and(|device_s| device_s < self.cpu_s)
    }
}

/// A filter on a small volume.
struct Trial<'a> {
    filter: &'a dyn Filter,
    shared: &'a SharedOptions,
    image: &'a ImageInfo,
    shape: Vec<usize>,
}

impl Trial<'_> {
    /// Seconds of the work, if it does not take more than `limit_s` by far; otherwise infinity.
    fn within_s(&self, scratch: &mut Scratch, limit_s: f64) -> Result<f64, FilterError> {
        let mut volume = volume(&self.shape, self.image);
        let stop = &AtomicBool::new(false);
        let (done, is_done) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            if limit_s.is_finite() {
                scope.spawn(move || {
                    // It ends early once the work is done.
                    let waited = is_done.recv_timeout(Duration::from_secs_f64(limit_s));
                    stop.store(waited == Err(RecvTimeoutError::Timeout), Ordering::Relaxed);
                });
            }
            let started = Instant::now();
            let applied = apply_until(self.filter, self.shared, &mut volume, None, scratch, Some(stop));
            let elapsed_s = started.elapsed().as_secs_f64();
            drop(done);
            match applied {
                Err(FilterError::Stopped) => Ok(f64::INFINITY),
                applied => applied.map(|_| elapsed_s),
            }
        })
    }

    /// The least of some measurements.
    fn least_s(&self, scratch: &mut Scratch, limit_s: f64) -> Result<f64, FilterError> {
        let (started, mut least_s) = (Instant::now(), f64::INFINITY);
        for _ in 0..3 {
            least_s = least_s.min(self.within_s(scratch, limit_s)?);
            if started.elapsed().as_secs_f64() >= ENOUGH_S {
                break;
            }
        }
        Ok(least_s)
    }
}

/// The largest shape that takes the CPU little time, or the smallest that the filter takes.
fn shape(filter: &dyn Filter, shared: &SharedOptions, image: &ImageInfo) -> Result<Vec<usize>, FilterError> {
    let mut smallest = None;
    for side in SIDES {
        let shape: Vec<usize> = image.shape.iter().take(3).map(|&len| len.min(side)).collect();
        let sample = ImageInfo {
            shape: shape.clone(),
            nonfinite_voxels: Some(0),
            mask_voxels: None,
            ..image.clone()
        };
        let prepared = match (filter.prepare(&sample, shared), smallest) {
            (Ok(prepared), _) => prepared,
            (Err(_), Some(smallest)) => return Ok(smallest),
            (Err(error), None) => return Err(error),
        };
        let stages = 0..prepared.stages().len();
        let cost_s: f64 = stages.map(|stage| prepared.cost_s(stage, sample.voxels())).sum();
        if cost_s <= CPU_S {
            return Ok(shape);
        }
        smallest = Some(shape);
    }
    Ok(smallest.unwrap_or_default())
}

/// A volume of numbers that every type has, without order.
fn volume(shape: &[usize], image: &ImageInfo) -> Volume {
    let mut volume = Volume::zeros(shape, image.datatype);
    (volume.voxel_size_mm, volume.scaling) = (image.voxel_size_mm, image.scaling);
    (volume.grid, volume.geometry) = (image.grid, image.geometry);
    with_voxel_type!(volume.datatype, T => {
        for (at, voxel) in volume.voxels.as_mut_slice::<T>().iter_mut().enumerate() {
            *voxel = T::cast(((at * 7919) % 1013 % 101) as f64);
        }
    });
    volume
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::gaussian::Gaussian;
    use crate::filter::median::{Median, PerAxis};
    use crate::filter::nlm::Nlm;
    use crate::volume::Datatype;

    fn image(shape: &[usize]) -> ImageInfo {
        ImageInfo {
            shape: shape.to_vec(),
            voxel_size_mm: [1.0; 3],
            datatype: Datatype::Int16,
            ..ImageInfo::default()
        }
    }

    #[test]
    fn a_device_pays_if_it_is_faster_than_the_threads_of_a_rank() {
        let costs = Costs {
            cpu_s: 0.08,
            device_s: Some(0.01),
        };
        for (sharing, threads, pays) in [(1, 7, true), (1, 8, false), (4, 2, false), (3, 2, true)] {
            assert_eq!(
                costs.of_rank(sharing, threads).device_pays(),
                pays,
                "{sharing} {threads}"
            );
        }
    }

    #[test]
    fn work_is_stopped_at_the_limit() {
        let (shared, image) = (SharedOptions::default(), image(&[96, 96, 96]));
        let trial = Trial {
            filter: &Gaussian::from_sigma_vox(8.0),
            shared: &shared,
            image: &image,
            shape: vec![96; 3],
        };
        let mut scratch = Scratch::default();
        assert_eq!(trial.least_s(&mut scratch, 0.0), Ok(f64::INFINITY));
        assert!(trial.least_s(&mut scratch, 60.0).unwrap() < 60.0);
    }

    #[test]
    fn the_volume_is_small_where_the_filter_is_slow() {
        let shared = SharedOptions::default();
        let shape = |filter: &dyn Filter, of: &[usize]| shape(filter, &shared, &image(of)).unwrap();
        let large = [200, 220, 80, 40];
        assert_eq!(shape(&Gaussian::from_sigma_vox(1.0), &large), [96, 96, 80]);
        assert_eq!(shape(&Gaussian::from_sigma_vox(1.0), &[7]), [7]);
        let median = Median {
            size: PerAxis::All(31),
            ..Median::default()
        };
        assert!(shape(&median, &large)[0] <= 8);
        // Its block is longer than the next smaller volume.
        assert_eq!(
            shape(
                &Nlm {
                    block_radius: 12,
                    ..Nlm::default()
                },
                &large
            ),
            [16, 16, 16]
        );
        let refused = super::shape(&Nlm::default(), &shared, &image(&[3, 3, 3]));
        assert!(refused.is_err(), "{refused:?}");
    }
}
