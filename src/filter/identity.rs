//! Identity: a filter for tests that leaves every voxel unchanged. It consists of this file and a line in the
//! registry.

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::interface::{
    Filter, ImageInfo, Prepared, Reach, SharedOptions, Slab, Source, Stage, ThreadScratch,
};

/// Options of the identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Slices around a slab that it declares to read.
    pub reach: usize,
}

struct PreparedIdentity(Vec<Stage>);

impl Filter for Identity {
    fn validate(&self) -> Result<(), FilterError> {
        Ok(())
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        let last = shared.output.resolve_for(image.datatype, image.scaling.is_some());
        Ok(Box::new(PreparedIdentity(vec![Stage {
            reads: vec![(Source::Input, Reach::symmetric(self.reach))],
            writes: vec![last],
            in_place: false,
        }])))
    }
}

impl Prepared for PreparedIdentity {
    fn stages(&self) -> &[Stage] {
        &self.0
    }

    fn cost_s(&self, _stage: usize, voxels: u64) -> f64 {
        voxels as f64 * 1e-9
    }

    fn scratch_bytes(&self, _stage: usize, slab_voxels: u64) -> u64 {
        slab_voxels.saturating_mul(size_of::<f64>() as u64)
    }

    fn run(
        &self,
        _stage: usize,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let (around, own) = (slab.readable(0), slab.slices());
        let columns = slab.columns().len();
        let doubles = scratch.doubles(around.len() * columns)?;
        slab.load(0, around.clone(), doubles);
        let first = (own.start - around.start) * columns;
        slab.store(0, &doubles[first..first + own.len() * columns]);
        Ok(())
    }
}
