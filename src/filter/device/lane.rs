//! Lane: one thread's queue and buffers on a device, and the passes that it runs.
//!
//! A part of a volume is uploaded, correlated along one axis or two, and downloaded. A part that is larger
//! than a buffer is divided: into slices for x and y, into columns for z.

use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use opencl3::command_queue::CommandQueue;
use opencl3::kernel::Kernel;
use opencl3::memory::{Buffer, CL_MEM_READ_WRITE, ClMem};
use opencl3::types::{CL_BLOCKING, cl_int, cl_ulong};

use super::super::FilterError;
use super::super::boundary::Boundary;
use super::super::kernels::convert::Conversion;
use super::super::kernels::correlate::{Pass, VoxelPointer};
use super::compiled::Device;
use crate::volume::{Datatype, Scaling};

/// Work items of a group, which every device has at least.
pub(super) const GROUP: usize = 64;

/// A thread's access to a device.
pub(in crate::filter) struct Lane {
    pub(super) device: Arc<Device>,
    pub(super) queue: CommandQueue,
    kernel: Kernel,
    /// A pass reads one and writes the other.
    pub(super) buffers: [Memory; 2],
    pub(super) weights: Memory,
    /// What a kernel keeps for its own use.
    pub(super) kept: Memory,
}

/// A buffer that grows.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) buffer: Option<Buffer<u8>>,
    bytes: usize,
}

/// A pass over all voxels of a part along one axis.
pub(in crate::filter) struct DevicePass<'a> {
    pub(in crate::filter) axis: usize,
    pub(in crate::filter) pass: Pass<'a>,
    /// The type of the sums.
    pub(in crate::filter) writes: Datatype,
}

/// The work of a stage: some slices of a 3-D volume, or a band of columns through all of them.
pub(in crate::filter) struct Area {
    pub(in crate::filter) shape: [usize; 3],
    pub(in crate::filter) slices: Range<usize>,
    pub(in crate::filter) columns: Range<usize>,
}

/// A part of a volume in the memory of the process.
#[derive(Clone)]
struct Part {
    /// Voxels of a slice.
    plane: usize,
    slices: Range<usize>,
    columns: Range<usize>,
}

impl Part {
    fn voxels(&self) -> usize {
        self.slices.len() * self.columns.len()
    }
}

/// How the lines of a pass lie in the buffers.
struct Extent {
    /// Length of a line of the volume.
    len: usize,
    /// Distance between positions of a line.
    step: usize,
    /// The positions that are in the buffer.
    reads: Range<usize>,
    /// The positions that are computed.
    writes: Range<usize>,
    /// Voxels that are computed.
    count: usize,
}

impl Lane {
    /// A lane on a device, without buffers.
    ///
    /// # Errors
    /// [`FilterError::Device`].
    pub(in crate::filter) fn new(device: Arc<Device>) -> Result<Self, FilterError> {
        let failed = failure_of(&device);
        // SAFETY: the device is the one of the context.
        let queue = unsafe { CommandQueue::create(&device.context, device.id.0, 0) }.map_err(&failed)?;
        let kernel = Kernel::create(&device.program, "correlate").map_err(&failed)?;
        Ok(Lane {
            queue,
            kernel,
            buffers: Default::default(),
            weights: Memory::default(),
            kept: Memory::default(),
            device,
        })
    }

    /// Computes a voxel.
    pub(super) fn try_out(&mut self) -> Result<(), FilterError> {
        let mut voxel = [7u8];
        let at = VoxelPointer::new(Datatype::Uint8, &mut voxel);
        let pass = Pass {
            isa: Default::default(),
            half_kernel: &[1.0],
            boundary: Boundary::Reflect,
            cval: 0.0,
            scaling: None,
            conversion: Conversion::Cast,
            stop: None,
        };
        let pass = DevicePass {
            axis: 0,
            pass,
            writes: Datatype::Uint8,
        };
        // SAFETY: the part is this voxel.
        unsafe { self.slices([at; 2], [1, 1], 0..1, &[pass])? };
        match voxel {
            [7] => Ok(()),
            [wrong] => Err(failure_of(&self.device)(format!(
                "computes {wrong} where 7 is right"
            ))),
        }
    }

    /// Correlates the slices of an area along x, y or both.
    ///
    /// # Errors
    /// [`FilterError::Device`], [`FilterError::DeviceMemory`] or [`FilterError::Stopped`].
    ///
    /// # Safety
    /// The pointers are those of the volume's first voxel. They are equal, or the planes do not overlap. No
    /// other code uses the area's slices.
    pub(in crate::filter) unsafe fn in_plane(
        &mut self,
        area: &Area,
        pointers: [VoxelPointer; 2],
        passes: &[DevicePass<'_>],
    ) -> Result<(), FilterError> {
        let [nx, ny, _] = area.shape;
        let most = self.fitting(pointers, passes, nx * ny, "slice")?;
        for first in area.slices.clone().step_by(most) {
            check_stop(passes)?;
            let slices = first..(first + most).min(area.slices.end);
            // SAFETY: the caller's.
            unsafe { self.slices(pointers, [nx, ny], slices, passes)? };
        }
        Ok(())
    }

    /// Correlates the columns of an area along z.
    ///
    /// # Errors
    /// Those of [`Lane::in_plane`].
    ///
    /// # Safety
    /// The pointers are those of the volume's first voxel. They are equal and the area has whole columns, or
    /// the voxels that are read and written do not overlap. No other code writes voxels that are read, or
    /// uses those that are written.
    pub(in crate::filter) unsafe fn along_z(
        &mut self,
        area: &Area,
        pointers: [VoxelPointer; 2],
        reads: Range<usize>,
        pass: &DevicePass<'_>,
    ) -> Result<(), FilterError> {
        let [nx, ny, nz] = area.shape;
        let plane = nx * ny;
        let pass = std::slice::from_ref(pass);
        let most = self.fitting(pointers, pass, reads.len(), "column")?;
        for first in area.columns.clone().step_by(most) {
            check_stop(pass)?;
            let columns = first..(first + most).min(area.columns.end);
            let of = |slices: &Range<usize>| Part {
                plane,
                slices: slices.clone(),
                columns: columns.clone(),
            };
            let (from, to) = (of(&reads), of(&area.slices));
            let extent = Extent {
                len: nz,
                step: columns.len(),
                reads: reads.clone(),
                writes: area.slices.clone(),
                count: to.voxels(),
            };
            // SAFETY: the caller's.
            unsafe {
                self.upload(pointers[0], &from)?;
                self.run(0, &pass[0], pointers[0].datatype, &extent)?;
                self.download(1, pointers[1], &to)?;
            }
        }
        Ok(())
    }

    /// # Safety
    /// That of [`Lane::in_plane`].
    unsafe fn slices(
        &mut self,
        [source, target]: [VoxelPointer; 2],
        [nx, ny]: [usize; 2],
        slices: Range<usize>,
        passes: &[DevicePass<'_>],
    ) -> Result<(), FilterError> {
        let part = Part {
            plane: nx * ny,
            slices,
            columns: 0..nx * ny,
        };
        // SAFETY: the caller's.
        unsafe { self.upload(source, &part)? };
        let mut datatype = source.datatype;
        for (number, pass) in passes.iter().enumerate() {
            let (len, step) = if pass.axis == 0 { (nx, 1) } else { (ny, nx) };
            let extent = Extent {
                len,
                step,
                reads: 0..len,
                writes: 0..len,
                count: part.voxels(),
            };
            self.run(number % 2, pass, datatype, &extent)?;
            datatype = pass.writes;
        }
        // SAFETY: the caller's.
        unsafe { self.download(passes.len() % 2, target, &part) }
    }

    /// How many pieces of so many voxels fit into a buffer with each of the types.
    fn fitting(
        &self,
        pointers: [VoxelPointer; 2],
        passes: &[DevicePass<'_>],
        voxels: usize,
        piece: &'static str,
    ) -> Result<usize, FilterError> {
        let written = passes.iter().map(|pass| pass.writes);
        let types = pointers
            .map(|pointer| pointer.datatype)
            .into_iter()
            .chain(written);
        let widest = types.map(Datatype::size_bytes).max().unwrap_or(1);
        let bytes = (voxels * widest) as u64;
        match (self.device.buffer_bytes / bytes.max(1)) as usize {
            0 => Err(FilterError::DeviceMemory {
                device: self.device.name().to_owned(),
                piece,
                bytes,
                has_bytes: self.device.buffer_bytes,
            }),
            most => Ok(most),
        }
    }

    /// # Safety
    /// The pointer is that of the first voxel of a volume that has the part, and nobody writes it.
    unsafe fn upload(&mut self, from: VoxelPointer, part: &Part) -> Result<(), FilterError> {
        let failed = failure_of(&self.device);
        let size = from.datatype.size_bytes();
        self.buffers[0].grow(&self.device, part.voxels() * size)?;
        let Some(buffer) = &mut self.buffers[0].buffer else {
            return Ok(());
        };
        let rect = Rect::of(part, size);
        // SAFETY: the caller's. The call returns when the voxels are copied.
        unsafe {
            self.queue.enqueue_write_buffer_rect(
                buffer,
                CL_BLOCKING,
                [0; 3].as_ptr(),
                rect.host_origin.as_ptr(),
                rect.region.as_ptr(),
                rect.region[0],
                0,
                rect.host_pitch,
                0,
                from.address.cast(),
                &[],
            )
        }
        .map_err(&failed)?;
        Ok(())
    }

    /// # Safety
    /// The pointer is that of the first voxel of a volume that has the part, and nobody else uses it.
    unsafe fn download(&mut self, from: usize, to: VoxelPointer, part: &Part) -> Result<(), FilterError> {
        let failed = failure_of(&self.device);
        let Some(buffer) = &self.buffers[from].buffer else {
            return Ok(());
        };
        let rect = Rect::of(part, to.datatype.size_bytes());
        // SAFETY: the caller's. The call returns when the voxels are copied.
        unsafe {
            self.queue.enqueue_read_buffer_rect(
                buffer,
                CL_BLOCKING,
                [0; 3].as_ptr(),
                rect.host_origin.as_ptr(),
                rect.region.as_ptr(),
                rect.region[0],
                0,
                rect.host_pitch,
                0,
                to.address.cast(),
                &[],
            )
        }
        .map_err(&failed)?;
        Ok(())
    }

    /// Starts a pass from the buffer `from` to the other one.
    fn run(
        &mut self,
        from: usize,
        DevicePass { pass, writes, .. }: &DevicePass<'_>,
        source: Datatype,
        extent: &Extent,
    ) -> Result<(), FilterError> {
        let failed = failure_of(&self.device);
        self.buffers[1 - from].grow(&self.device, extent.count * writes.size_bytes())?;
        self.weights.grow(&self.device, size_of_val(pass.half_kernel))?;
        let (source_buffer, target_buffer) = (self.buffers[from].handle(), self.buffers[1 - from].handle());
        if let Some(weights) = &mut self.weights.buffer {
            let bytes: &[u8] = bytemuck::cast_slice(pass.half_kernel);
            // SAFETY: the buffer is as long as the weights. Commands of a queue run one after the other.
            unsafe {
                self.queue
                    .enqueue_write_buffer(weights, CL_BLOCKING, 0, bytes, &[])
            }
            .map_err(&failed)?;
        }
        let Scaling { slope, intercept } = pass.scaling.unwrap_or(Scaling {
            slope: 1.0,
            intercept: 0.0,
        });
        let kernel = &self.kernel;
        let whole = |number: usize| number as cl_ulong;
        let wholes = [
            extent.len,
            extent.step,
            extent.reads.start,
            extent.reads.len(),
            extent.writes.start,
            extent.writes.len(),
            extent.count,
        ];
        let global = [extent.count.next_multiple_of(GROUP)];
        // SAFETY: the numbers and types of the arguments are those of the kernel. It reads and writes only
        // the voxels of the extent, which are in the buffers.
        unsafe {
            (|| {
                kernel.set_arg(0, &source_buffer)?;
                kernel.set_arg(1, &code_of(source))?;
                kernel.set_arg(2, &target_buffer)?;
                kernel.set_arg(3, &code_of(*writes))?;
                kernel.set_arg(4, &cl_int::from(pass.conversion == Conversion::Nearest))?;
                kernel.set_arg(5, &self.weights.handle())?;
                kernel.set_arg(6, &whole(pass.half_kernel.len() - 1))?;
                kernel.set_arg(7, &code_of_boundary(pass.boundary))?;
                kernel.set_arg(8, &pass.cval)?;
                kernel.set_arg(9, &slope)?;
                kernel.set_arg(10, &intercept)?;
                for (argument, number) in (11..).zip(wholes.map(whole)) {
                    kernel.set_arg(argument, &number)?;
                }
                self.queue.enqueue_nd_range_kernel(
                    kernel.get(),
                    1,
                    ptr::null(),
                    global.as_ptr(),
                    [GROUP].as_ptr(),
                    &[],
                )
            })()
        }
        .map_err(&failed)?;
        Ok(())
    }
}

impl Memory {
    pub(super) fn grow(&mut self, device: &Device, bytes: usize) -> Result<(), FilterError> {
        if self.buffer.is_none() || self.bytes < bytes {
            self.buffer = None;
            // SAFETY: no memory of the process is passed.
            let buffer =
                unsafe { Buffer::create(&device.context, CL_MEM_READ_WRITE, bytes.max(1), ptr::null_mut()) };
            self.buffer = Some(buffer.map_err(failure_of(device))?);
            self.bytes = bytes;
        }
        Ok(())
    }

    fn handle(&self) -> opencl3::memory::cl_mem {
        self.buffer.as_ref().map_or(ptr::null_mut(), ClMem::get)
    }
}

/// A part as a rectangle of bytes.
struct Rect {
    host_origin: [usize; 3],
    /// Bytes of a row, rows, 1.
    region: [usize; 3],
    /// Bytes between rows in the memory of the process. In the buffer they are adjacent.
    host_pitch: usize,
}

impl Rect {
    fn of(part: &Part, size: usize) -> Self {
        Rect {
            host_origin: [part.columns.start * size, part.slices.start, 0],
            region: [part.columns.len() * size, part.slices.len(), 1],
            host_pitch: part.plane * size,
        }
    }
}

/// The error for what a device or its driver says.
pub(super) fn failure_of<E: ToString>(device: &Device) -> impl Fn(E) -> FilterError + use<E> {
    let device = device.name().to_owned();
    move |error| FilterError::Device {
        device: device.clone(),
        cause: error.to_string(),
    }
}

/// Fails once the run must stop.
fn check_stop(passes: &[DevicePass<'_>]) -> Result<(), FilterError> {
    let mut stops = passes.iter().filter_map(|pass| pass.pass.stop);
    match stops.any(|stop| stop.load(Ordering::Relaxed)) {
        true => Err(FilterError::Stopped),
        false => Ok(()),
    }
}

/// The number of a type in the kernel.
fn code_of(datatype: Datatype) -> cl_int {
    match datatype {
        Datatype::Uint8 => 0,
        Datatype::Int8 => 1,
        Datatype::Uint16 => 2,
        Datatype::Int16 => 3,
        Datatype::Uint32 => 4,
        Datatype::Int32 => 5,
        Datatype::Uint64 => 6,
        Datatype::Int64 => 7,
        Datatype::Float32 => 8,
        Datatype::Float64 => 9,
    }
}

/// The number of a boundary in the kernel.
fn code_of_boundary(boundary: Boundary) -> cl_int {
    match boundary {
        Boundary::Reflect => 0,
        Boundary::Nearest => 1,
        Boundary::Mirror => 2,
        Boundary::Wrap => 3,
        Boundary::Constant => 4,
    }
}
