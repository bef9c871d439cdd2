//! Medians: the medians of windows on a device, some slices at a time.

use std::sync::atomic::{AtomicBool, Ordering};

use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::ClMem;
use opencl3::types::{CL_BLOCKING, cl_int, cl_ulong};

use super::super::FilterError;
use super::super::kernels::ranks::Key;
use super::lane::{GROUP, Lane, Memory, failure_of};
use crate::volume::Datatype;

/// Voxels of windows that are searched before the run may stop.
const VOXELS_OF_A_LAUNCH: usize = if cfg!(test) { 1 << 12 } else { 1 << 28 };

/// The windows of slices, and what counts in them. A slice of keys has margins, and so has one of the mask.
pub(in crate::filter) struct Windows<'a, K> {
    /// Lengths of the image along x and y.
    pub(in crate::filter) area: [usize; 2],
    /// Keys of a row with its margins, and of a slice.
    pub(in crate::filter) pitch: usize,
    pub(in crate::filter) plane: usize,
    /// Slices of a window.
    pub(in crate::filter) depth: usize,
    /// The distances of a window's voxels from its first corner, and that of its own voxel.
    pub(in crate::filter) places: &'a [u32],
    pub(in crate::filter) middle: usize,
    /// Whether there is a mask.
    pub(in crate::filter) masked: bool,
    /// Whether the keys are in the reverse order of the intensities.
    pub(in crate::filter) descending: bool,
    /// The least and the largest key that counts; `None`: all count.
    pub(in crate::filter) only: Option<[K; 2]>,
    /// The result where nothing counts.
    pub(in crate::filter) none: K,
    /// Slices of keys that are on the device at a time. See [`Lane::most_windows`].
    pub(in crate::filter) slots: usize,
    /// If it is set, the work ends.
    pub(in crate::filter) stop: Option<&'a AtomicBool>,
}

impl<K> Windows<'_, K> {
    /// Bytes of a slice of keys, and of the mask.
    fn slice_bytes(&self) -> [usize; 2] {
        [self.plane * size_of::<K>(), usize::from(self.masked) * self.plane]
    }
}

impl Lane {
    /// How many of `wanted` slices of windows are searched at a time. Their keys take `depth` − 1 slots more.
    ///
    /// # Errors
    /// [`FilterError::DeviceMemory`] if a buffer is too small for one.
    pub(in crate::filter) fn most_windows<K: Key>(
        &self,
        windows: &Windows<'_, K>,
        wanted: usize,
    ) -> Result<usize, FilterError> {
        let bytes = windows.slice_bytes().iter().sum::<usize>();
        let fitting = (self.device.buffer_bytes / bytes.max(1) as u64) as usize;
        match fitting.checked_sub(windows.depth - 1) {
            None | Some(0) => Err(FilterError::DeviceMemory {
                device: self.device.name().to_owned(),
                piece: "slice with those around it",
                bytes: (bytes * windows.depth) as u64,
                has_bytes: self.device.buffer_bytes,
            }),
            Some(most) => Ok(most.min(wanted)),
        }
    }

    /// Uploads a slice of keys to a slot, and the same slice of the mask if there is one.
    ///
    /// # Errors
    /// [`FilterError::Device`].
    pub(in crate::filter) fn put_slice<K: Key>(
        &mut self,
        windows: &Windows<'_, K>,
        slot: usize,
        keys: &[K],
        inside: &[u8],
    ) -> Result<(), FilterError> {
        let failed = failure_of(&self.device);
        let [of_keys, of_mask] = windows.slice_bytes();
        let memory = &mut self.buffers[0];
        memory.grow(&self.device, windows.slots * (of_keys + of_mask))?;
        let mask_at = windows.slots * of_keys + slot * of_mask;
        for (at, content) in [
            (slot * of_keys, bytemuck::cast_slice(keys)),
            (mask_at, &inside[..of_mask]),
        ] {
            if let (Some(buffer), false) = (&mut memory.buffer, content.is_empty()) {
                // SAFETY: the buffer has the slot. The call returns when the content is copied.
                unsafe {
                    self.queue
                        .enqueue_write_buffer::<u8>(buffer, CL_BLOCKING, at, content, &[])
                }
                .map_err(&failed)?;
            }
        }
        Ok(())
    }

    /// Searches the windows of so many slices, whose keys are in the slots.
    ///
    /// # Errors
    /// [`FilterError::Device`] or [`FilterError::Stopped`].
    pub(in crate::filter) fn medians<K: Key>(
        &mut self,
        windows: &Windows<'_, K>,
        slices: usize,
    ) -> Result<(), FilterError> {
        let failed = failure_of(&self.device);
        let name = format!("medians_{}", size_of::<K>());
        let kernel = Kernel::create(&self.device.program, &name).map_err(&failed)?;
        let area = windows.area[0] * windows.area[1];
        let [keys, medians] = &mut self.buffers;
        medians.grow(&self.device, slices * area * size_of::<K>())?;
        self.weights.grow(&self.device, size_of_val(windows.places))?;
        if let Some(buffer) = &mut self.weights.buffer {
            let places = bytemuck::cast_slice(windows.places);
            // SAFETY: the buffer is as long as the places.
            unsafe {
                self.queue
                    .enqueue_write_buffer::<u8>(buffer, CL_BLOCKING, 0, places, &[])
            }
            .map_err(&failed)?;
        }
        let handle = |memory: &Memory| memory.buffer.as_ref().map(ClMem::get);
        let (Some(keys), Some(medians), Some(places)) =
            (handle(keys), handle(medians), handle(&self.weights))
        else {
            return Ok(());
        };
        let whole = |number: usize| number as cl_ulong;
        let most = (VOXELS_OF_A_LAUNCH / windows.places.len() / area).max(1) * area;
        let [least, largest] = windows.only.unwrap_or([windows.none; 2]);
        let is_signed = matches!(
            K::DATATYPE,
            Datatype::Int8 | Datatype::Int16 | Datatype::Int32 | Datatype::Int64
        );
        let flags = [
            windows.masked,
            is_signed,
            windows.descending,
            windows.only.is_some(),
        ];
        for first in (0..slices * area).step_by(most) {
            if windows.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(FilterError::Stopped);
            }
            let count = most.min(slices * area - first);
            let [nx, ny] = windows.area;
            let inside = windows.slots * windows.slice_bytes()[0];
            // SAFETY: the arguments are those of the kernel, which reads and writes only what the buffers
            // have. One launch is finished before the next one starts, so that a stop need not wait for all.
            unsafe {
                let mut run = ExecuteKernel::new(&kernel);
                run.set_arg(&keys).set_arg(&medians).set_arg(&places);
                let shape = [windows.places.len(), nx, ny, windows.pitch, windows.plane];
                for number in shape.into_iter().chain([first, count, inside, windows.middle]) {
                    run.set_arg(&whole(number));
                }
                for flag in flags {
                    run.set_arg(&cl_int::from(flag));
                }
                run.set_arg(&least).set_arg(&largest).set_arg(&windows.none);
                run.set_global_work_size(count.next_multiple_of(GROUP));
                run.set_local_work_size(GROUP);
                run.enqueue_nd_range(&self.queue)
            }
            .and_then(|_| self.queue.finish())
            .map_err(&failed)?;
        }
        Ok(())
    }

    /// Downloads the medians of one of the slices that were searched.
    ///
    /// # Errors
    /// [`FilterError::Device`].
    pub(in crate::filter) fn take_medians<K: Key>(
        &mut self,
        number: usize,
        medians: &mut [K],
    ) -> Result<(), FilterError> {
        let failed = failure_of(&self.device);
        let at = number * size_of_val(medians);
        if let Some(buffer) = &self.buffers[1].buffer {
            let bytes = bytemuck::cast_slice_mut(medians);
            // SAFETY: the buffer has the slice. The call returns when it is copied.
            unsafe {
                self.queue
                    .enqueue_read_buffer::<u8>(buffer, CL_BLOCKING, at, bytes, &[])
            }
            .map_err(&failed)?;
        }
        Ok(())
    }
}
