//! Scratch: the memory of a thread, and its access to a device.

use std::sync::{Arc, Once};

use super::FilterError;
use super::device::{Device, Lane};
use super::kernels::simd::Isa;
use crate::volume::VoxelBuffer;

/// The memory of a thread. It grows to the largest slab and is reused from image to image.
#[derive(Default)]
pub struct ThreadScratch {
    pub(super) isa: Isa,
    pub(super) tile: VoxelBuffer,
    pub(super) plane: VoxelBuffer,
    /// The device that computes in place of the CPU.
    device: Option<Arc<Device>>,
    lane: Option<Lane>,
}

impl ThreadScratch {
    /// The memory of a thread that computes on a device; `None` for the CPU.
    pub(crate) fn on(device: Option<Arc<Device>>) -> Self {
        ThreadScratch {
            device,
            ..ThreadScratch::default()
        }
    }

    /// Takes [`ThreadScratch::lane`] out, until [`ThreadScratch::give_back`].
    ///
    /// # Errors
    /// [`FilterError::Device`].
    pub(super) fn take_lane(&mut self) -> Result<Option<Lane>, FilterError> {
        self.lane()?;
        Ok(self.lane.take())
    }

    /// Keeps a lane for the next slab.
    pub(super) fn give_back(&mut self, lane: Option<Lane>) {
        self.lane = lane;
    }

    /// Frees the memory, also that on the device.
    pub(crate) fn release(&mut self) {
        *self = ThreadScratch::on(self.device.take());
    }

    /// Whether this thread computes on a device.
    pub(super) fn has_device(&self) -> bool {
        self.device.is_some()
    }

    /// Runs `work` on the device. If its buffers are too small for a piece and the CPU may take over, runs it
    /// again there; nothing was computed before.
    pub(super) fn compute(
        &mut self,
        mut work: impl FnMut(&mut Self) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        /// One message is enough for a rank.
        static SAID: Once = Once::new();
        let done = work(self);
        let Err(FilterError::DeviceMemory { device, .. }) = &done else {
            return done;
        };
        if !self.device.as_ref().is_some_and(|device| device.yields()) {
            return done;
        }
        SAID.call_once(|| {
            tracing::info!("--device auto: the CPU computes images whose slices are too large for {device}");
        });
        let (device, lane) = (self.device.take(), self.lane.take());
        let done = work(self);
        (self.device, self.lane) = (device, lane);
        done
    }

    /// This thread's access to its device; `None` for the CPU.
    ///
    /// # Errors
    /// [`FilterError::Device`].
    pub(super) fn lane(&mut self) -> Result<Option<&mut Lane>, FilterError> {
        if let (Some(device), None) = (&self.device, &self.lane) {
            self.lane = Some(Lane::new(Arc::clone(device))?);
        }
        Ok(self.lane.as_mut())
    }

    /// Bytes in use.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.tile.as_bytes().len() + self.plane.as_bytes().len()) as u64
    }

    /// A buffer of `len` single-precision numbers with unspecified values.
    ///
    /// # Errors
    /// [`FilterError::Memory`].
    pub(super) fn singles(&mut self, len: usize) -> Result<&mut [f32], FilterError> {
        self.plane
            .try_resize_for_overwrite(len.saturating_mul(size_of::<f32>()))?;
        Ok(self.plane.as_mut_slice())
    }

    /// A buffer of `len` doubles with unspecified values.
    ///
    /// # Errors
    /// [`FilterError::Memory`].
    pub fn doubles(&mut self, len: usize) -> Result<&mut [f64], FilterError> {
        let bytes = len.saturating_mul(size_of::<f64>());
        self.plane.try_resize_for_overwrite(bytes)?;
        Ok(self.plane.as_mut_slice())
    }
}
