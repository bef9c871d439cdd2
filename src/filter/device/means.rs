//! Means: classic non-local means on a device, slice by slice.

use std::sync::atomic::{AtomicBool, Ordering};

use opencl3::kernel::{ExecuteKernel, Kernel};
use opencl3::memory::ClMem;
use opencl3::types::{CL_BLOCKING, cl_int, cl_long};

use super::super::FilterError;
use super::super::kernels::powers::TABLE;
use super::lane::{GROUP, Lane, Memory, failure_of};

/// Classic non-local means of some slices of a volume.
pub(in crate::filter) struct Means<'a> {
    /// Lengths along x and y.
    pub(in crate::filter) area: [usize; 2],
    /// Doubles of a row with its margins, and of a slice.
    pub(in crate::filter) pitch: usize,
    pub(in crate::filter) plane: usize,
    /// Voxels of the margin on each side, which the candidates and their patches need.
    pub(in crate::filter) margin: usize,
    /// Radius of a patch.
    pub(in crate::filter) patch: usize,
    /// Voxels of a patch, the spread of the weights, and the largest sum of squares that counts.
    pub(in crate::filter) law: [f64; 3],
    /// If it is set, the work ends.
    pub(in crate::filter) stop: Option<&'a AtomicBool>,
}

impl Lane {
    /// Computes the weighted means of the squares of slices, as many as `squares` has room for. `planes` has
    /// them with their margins along x, y and z.
    ///
    /// # Errors
    /// [`FilterError::Device`], [`FilterError::DeviceMemory`] or [`FilterError::Stopped`].
    pub(in crate::filter) fn nonlocal_means(
        &mut self,
        means: &Means<'_>,
        planes: &[f64],
        squares: &mut [f64],
    ) -> Result<(), FilterError> {
        let slice = means.area[0] * means.area[1];
        let has_bytes = self.device.buffer_bytes;
        // A result takes less than a slice with its margins.
        let fitting = (has_bytes / (means.plane * size_of::<f64>()) as u64) as usize;
        let around = 2 * means.margin;
        if fitting <= around {
            return Err(FilterError::DeviceMemory {
                device: self.device.name().to_owned(),
                piece: "slice with those around it",
                bytes: ((around + 1) * means.plane * size_of::<f64>()) as u64,
                has_bytes,
            });
        }
        let most = fitting - around;
        for (number, squares) in squares.chunks_mut(most * slice).enumerate() {
            let first = number * most * means.plane;
            let len = (squares.len() / slice + around) * means.plane;
            self.slices_of(means, &planes[first..first + len], squares)?;
        }
        Ok(())
    }

    fn slices_of(
        &mut self,
        means: &Means<'_>,
        planes: &[f64],
        squares: &mut [f64],
    ) -> Result<(), FilterError> {
        let failed = failure_of(&self.device);
        let kernel = Kernel::create(&self.device.program, "nonlocal_means").map_err(&failed)?;
        let [from, to] = &mut self.buffers;
        let (table, kept) = (&mut self.weights, &mut self.kept);
        // As many voxels at a time as there is room for their weights.
        let [nx, ny] = means.area;
        let radius = means.margin - means.patch;
        let weights_bytes = (2 * radius + 1).pow(3) * size_of::<f64>();
        let fitting = (self.device.kept_bytes / weights_bytes as u64) as usize;
        let most = fitting
            .next_multiple_of(GROUP)
            .clamp(GROUP, (nx * ny).next_multiple_of(GROUP));
        from.grow(&self.device, size_of_val(planes))?;
        to.grow(&self.device, size_of_val(squares))?;
        table.grow(&self.device, size_of_val(&TABLE))?;
        kept.grow(&self.device, most * weights_bytes)?;
        for (memory, content) in [
            (&mut *from, bytemuck::cast_slice::<f64, u8>(planes)),
            (&mut *table, bytemuck::cast_slice(&TABLE)),
        ] {
            if let Some(buffer) = &mut memory.buffer {
                // SAFETY: the buffer is as long as its content.
                unsafe {
                    self.queue
                        .enqueue_write_buffer(buffer, CL_BLOCKING, 0, content, &[])
                }
                .map_err(&failed)?;
            }
        }
        let handle = |memory: &Memory| memory.buffer.as_ref().map(ClMem::get);
        let (Some(source), Some(target), Some(table), Some(kept)) =
            (handle(from), handle(to), handle(table), handle(kept))
        else {
            return Ok(());
        };
        let slices = 0..squares.len() / (nx * ny);
        let parts = |number| (0..nx * ny).step_by(most).map(move |begin| (number, begin));
        for (number, begin) in slices.flat_map(parts) {
            if means.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(FilterError::Stopped);
            }
            let first = (number + means.margin) * means.plane + means.margin * (means.pitch + 1);
            let count = most.min(nx * ny - begin);
            let numbers = [
                nx,
                means.pitch,
                means.plane,
                first,
                number * nx * ny,
                begin,
                count,
            ];
            // SAFETY: the arguments are those of the kernel, which reads and writes only what the buffers
            // have. A part is finished before the next one starts, so that a stop need not wait for all.
            unsafe {
                let mut run = ExecuteKernel::new(&kernel);
                run.set_arg(&source)
                    .set_arg(&target)
                    .set_arg(&table)
                    .set_arg(&kept);
                run.set_arg(&(means.patch as cl_int)).set_arg(&(radius as cl_int));
                for number in numbers.map(|number| number as cl_long) {
                    run.set_arg(&number);
                }
                for number in means.law {
                    run.set_arg(&number);
                }
                run.set_global_work_size(count.next_multiple_of(GROUP));
                run.set_local_work_size(GROUP);
                run.enqueue_nd_range(&self.queue)
            }
            .and_then(|_| self.queue.finish())
            .map_err(&failed)?;
        }
        if let Some(buffer) = &self.buffers[1].buffer {
            let squares = bytemuck::cast_slice_mut::<f64, u8>(squares);
            // SAFETY: the buffer is as long as the squares.
            unsafe {
                self.queue
                    .enqueue_read_buffer(buffer, CL_BLOCKING, 0, squares, &[])
            }
            .map_err(&failed)?;
        }
        Ok(())
    }
}
