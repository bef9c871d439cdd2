//! A custom filter: each voxel becomes the mean of itself and its neighbours along z.
//!
//! ```console
//! $ cargo run --example own_filter
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example prints what it does"
)]

use niimpi::filter::{
    Filter, FilterError, ImageInfo, Prepared, Reach, Scratch, SharedOptions, Slab, Source, Stage,
    ThreadScratch, apply,
};
use niimpi::volume::{Datatype, Volume};

/// The options: how many neighbours to each side.
struct MeanAlongZ {
    radius: usize,
}

impl Filter for MeanAlongZ {
    fn validate(&self) -> Result<(), FilterError> {
        Ok(())
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        let is_scaled = image.scaling.is_some();
        let result = shared.output.resolve_for(image.datatype, is_scaled);
        Ok(Box::new(PreparedMean {
            radius: self.radius,
            stages: vec![Stage {
                reads: vec![(Source::Input, Reach::symmetric(self.radius))],
                writes: vec![result],
                in_place: false,
            }],
        }))
    }
}

struct PreparedMean {
    radius: usize,
    stages: Vec<Stage>,
}

impl Prepared for PreparedMean {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn cost_s(&self, _stage: usize, voxels: u64) -> f64 {
        voxels as f64 * self.radius as f64 * 1e-9
    }

    fn scratch_bytes(&self, _stage: usize, slab_voxels: u64) -> u64 {
        2 * slab_voxels * 8
    }

    fn run(
        &self,
        _stage: usize,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let (around, own, plane) = (slab.readable(0), slab.slices(), slab.columns().len());
        let (read, written) = (around.len() * plane, own.len() * plane);
        let doubles = scratch.doubles(read + written)?;
        let (voxels, means) = doubles.split_at_mut(read);
        slab.load(0, around.clone(), voxels);
        for (slice, means) in own.zip(means.chunks_exact_mut(plane)) {
            let from = slice.saturating_sub(self.radius).max(around.start);
            let to = (slice + self.radius + 1).min(around.end);
            for (column, mean) in means.iter_mut().enumerate() {
                let line = (from..to).map(|z| voxels[(z - around.start) * plane + column]);
                *mean = line.sum::<f64>() / (to - from) as f64;
            }
        }
        slab.store(0, means);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut volume = Volume::zeros(&[2, 2, 5], Datatype::Float32);
    for (place, voxel) in volume.voxels.as_mut_slice::<f32>().iter_mut().enumerate() {
        *voxel = (place / 4) as f32;
    }
    let filter = MeanAlongZ { radius: 1 };
    let shared = SharedOptions::default();
    apply(&filter, &shared, &mut volume, &mut Scratch::default())?;
    let first_column: Vec<f32> = volume.voxels.as_slice().iter().step_by(4).copied().collect();
    assert_eq!(first_column, [0.5, 1.0, 2.0, 3.0, 3.5]);
    println!("{first_column:?}");
    Ok(())
}
