//! Compiled: a device with the compiled kernels.

use opencl3::context::Context;
use opencl3::device::{self, cl_device_id};
use opencl3::program::Program;

use super::found::FoundDevice;

/// Bytes of a buffer beyond which transfers do not become faster.
const ENOUGH_BYTES: u64 = 64 << 20;

/// A thread has two buffers for voxels.
const BUFFERS: u64 = 2;

/// A device that a rank uses. Its threads share it.
pub(crate) struct Device {
    pub(super) found: FoundDevice,
    pub(super) id: Handle,
    pub(super) context: Context,
    pub(super) program: Program,
    /// The largest buffer of a thread.
    pub(super) buffer_bytes: u64,
}

/// A device's handle.
#[derive(Clone, Copy)]
pub(super) struct Handle(pub(super) cl_device_id);

// SAFETY: every function of OpenCL that takes a device's handle may be called by any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Device {
    /// Compiles the kernels for a device that so many threads of all ranks share. The driver may take them
    /// from its cache.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn compile(found: FoundDevice, id: Handle, threads: usize) -> Result<Self, String> {
        let context = Context::from_device(&device::Device::new(id.0))
            .map_err(|error| format!("cannot be opened: {error}"))?;
        // One text: cl3 0.13 passes the wrong pointers of several.
        let source = concat!(
            include_str!("gaussian.cl"),
            include_str!("nlm.cl"),
            "#define KEY uchar\n#define MEDIANS medians_1\n",
            include_str!("median.cl"),
            "#define KEY ushort\n#define MEDIANS medians_2\n",
            include_str!("median.cl"),
            "#define KEY uint\n#define MEDIANS medians_4\n",
            include_str!("median.cl"),
            "#define KEY ulong\n#define MEDIANS medians_8\n",
            include_str!("median.cl"),
        );
        let program = Program::create_and_build_from_source(&context, source, "")
            .map_err(|error| format!("cannot compile the kernels: {error}"))?;
        // Half of the memory is left to the driver and to other programs.
        let fair = found.memory_bytes / 2 / threads.max(1) as u64 / BUFFERS;
        Ok(Device {
            buffer_bytes: fair.min(found.buffer_bytes).min(ENOUGH_BYTES),
            found,
            id,
            context,
            program,
        })
    }

    /// Its name in reports.
    pub(crate) fn name(&self) -> &str {
        &self.found.name
    }
}
