//! Compiled: a device with the compiled kernels.

use opencl3::context::Context;
use opencl3::device::{self, cl_device_id};
use opencl3::program::Program;

use super::found::FoundDevice;

/// Bytes of a buffer beyond which transfers do not become faster.
const ENOUGH_BYTES: u64 = 64 << 20;

/// Bytes for what a kernel keeps on a GPU, so that a whole slice is computed at a time.
const ENOUGH_KEPT_BYTES: u64 = 512 << 20;

/// A thread has two buffers for voxels, and one that a kernel uses.
const BUFFERS: u64 = 3;

/// A device that a rank uses. Its threads share it.
pub(crate) struct Device {
    pub(super) found: FoundDevice,
    pub(super) id: Handle,
    pub(super) context: Context,
    pub(super) program: Program,
    pub(super) share: Share,
    /// Whether the CPU computes what does not fit into the buffers.
    pub(super) yields: bool,
    /// The largest buffer of a thread for voxels, and for what a kernel keeps.
    pub(super) buffer_bytes: u64,
    pub(super) kept_bytes: u64,
}

/// A rank among those of its host that share a device.
#[derive(Clone, Copy)]
pub(crate) struct Share {
    pub(crate) ranks: usize,
    /// Whether it is the first of them.
    pub(crate) is_first: bool,
}

/// A device's handle.
#[derive(Clone, Copy)]
pub(super) struct Handle(pub(super) cl_device_id);

// SAFETY: every function of OpenCL that takes a device's handle may be called by any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Device {
    /// Compiles the kernels for a device that ranks share, each with so many threads. The driver may take
    /// them from its cache.
    ///
    /// # Errors
    /// What the driver says.
    pub(super) fn compile(
        found: FoundDevice,
        id: Handle,
        share: Share,
        threads: usize,
    ) -> Result<Self, String> {
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
        let threads = share.ranks.saturating_mul(threads).max(1) as u64;
        let fair = found.memory_bytes / 2 / threads / BUFFERS;
        Ok(Device {
            buffer_bytes: fair.min(found.buffer_bytes).min(ENOUGH_BYTES),
            // The memory of a CPU is that of the process.
            kept_bytes: fair.min(found.buffer_bytes).min(match found.kind.as_str() {
                "cpu" => ENOUGH_BYTES,
                _ => ENOUGH_KEPT_BYTES,
            }),
            found,
            id,
            context,
            program,
            share,
            yields: false,
        })
    }

    /// Its number on this host.
    pub(crate) fn number(&self) -> usize {
        self.found.number
    }

    /// Which ranks share it.
    pub(crate) fn share(&self) -> Share {
        self.share
    }

    /// Whether the CPU computes what does not fit into its buffers.
    pub(crate) fn yields(&self) -> bool {
        self.yields
    }

    /// Its name in reports.
    pub(crate) fn name(&self) -> &str {
        &self.found.name
    }
}
