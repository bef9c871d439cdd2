//! Memory: which images fit into the memory of this rank, several at a time or one at a time.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use crate::filter::device::Device;
use crate::image_io::{OpenedInput, StagedFile};
use crate::images::ImageEntry;
use crate::job::outcome::{Failure, FailureKind, Outcome, Stage};
use crate::job::problem::Problem;
use crate::job::{ImageJob, ImageWorker, OutputFolder, Paths, memory};
use crate::resources::{self, MemoryLimit};

/// The memory that a rank's images can use, and the workers' buffers that use it.
///
/// Each worker can use an equal share at any time. An image that needs more but fits into the rank's memory
/// is processed alone, after the other workers have freed their buffers. An image that does not fit at all
/// fails.
pub(super) struct RankMemory<'a> {
    buffers: Vec<Mutex<ImageWorker<'a>>>,
    limit: Option<Limit>,
    /// Workers within an equal share hold it shared; a worker that needs more holds it exclusively.
    turn: RwLock<()>,
}

/// The bytes that this process can use for images if `threads` process images and `waiting_threads` wait for
/// files and the disk.
pub(super) fn bytes_for_images(limit: &MemoryLimit, threads: usize, waiting_threads: usize) -> u64 {
    let used = if limit.address_space {
        resources::address_space_bytes()
    } else {
        resources::rss_bytes()
    };
    let own = memory::threads_bytes(threads, waiting_threads, limit.address_space);
    limit.bytes.saturating_sub(used).saturating_sub(own)
}

struct Limit {
    /// For all images at a time.
    bytes: u64,
    source: String,
}

impl<'a> RankMemory<'a> {
    /// Memory for the workers of a rank with this `limit`. The memory already used and the stacks of threads
    /// that wait for files and the disk are subtracted. Images are left unfinished once `abandon` is set.
    pub(super) fn new(
        job: &'a ImageJob,
        output: &OutputFolder,
        threads: &[usize],
        waiting_threads: usize,
        limit: Option<MemoryLimit>,
        abandon: &'a AtomicBool,
    ) -> Self {
        let workers = threads.len();
        let limit = limit.map(|limit| Limit {
            bytes: bytes_for_images(&limit, threads.iter().sum(), waiting_threads),
            source: limit.source,
        });
        let fair = limit.as_ref().map(|limit| limit.bytes / workers as u64);
        let buffers = threads
            .iter()
            .map(|&threads| {
                let mut buffers = ImageWorker::with_threads(job, threads);
                buffers.set_memory_limit(fair);
                buffers.set_stop(abandon);
                buffers.set_output(output.clone());
                Mutex::new(buffers)
            })
            .collect();
        Self {
            buffers,
            limit,
            turn: RwLock::new(()),
        }
    }

    /// The same with workers that compute on the device if there is one.
    pub(super) fn on_device(mut self, device: Option<&Arc<Device>>) -> Self {
        for buffers in &mut self.buffers {
            let buffers = buffers.get_mut().unwrap_or_else(PoisonError::into_inner);
            buffers.set_device(device);
        }
        self
    }

    /// The bytes for all images at a time.
    pub(super) fn limit_bytes(&self) -> Option<u64> {
        self.limit.as_ref().map(|limit| limit.bytes)
    }

    fn buffers(&self, worker: usize) -> MutexGuard<'_, ImageWorker<'a>> {
        // A panic ends the run, so a poisoned state is never used.
        self.buffers[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Processes an image completely in this worker's buffers, from its opened file if there is one. Waits
    /// for the other workers if it needs their memory.
    ///
    /// Also returns the seconds of waiting.
    ///
    /// # Errors
    /// The image's [`Failure`]; if it does not fit, the message contains the numbers.
    pub(super) fn make(
        &self,
        worker: usize,
        entry: &ImageEntry,
        fetched: Option<OpenedInput>,
        outcome: &mut Outcome,
    ) -> (Result<StagedFile, Failure>, f64) {
        let started = Instant::now();
        let turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
        let mut waited_s = started.elapsed().as_secs_f64();
        let mut buffers = self.buffers(worker);
        let paths = Paths {
            input: &entry.input,
            output: &entry.output,
            mask: entry.mask.as_deref(),
            second: entry.second.as_deref(),
            bids: entry.bids,
        };
        let first = buffers.make(paths, fetched, outcome);
        drop((buffers, turn));
        let (Some(limit), Err(failure)) = (&self.limit, &first) else {
            return (first, waited_s);
        };
        let FailureKind::NeedsMemory { needed_bytes } = failure.kind else {
            return (first, waited_s);
        };
        if needed_bytes > limit.bytes {
            let refused = Err(Failure {
                stage: Stage::Read,
                problem: Some(Problem::Memory),
                kind: failure.kind,
                error: format!(
                    "{}: needs {} MiB of memory, and this rank has {} MiB for images ({}); give the job \
                     more memory, or start fewer ranks on a node",
                    entry.input.display(),
                    needed_bytes.div_ceil(1 << 20),
                    limit.bytes >> 20,
                    limit.source,
                ),
            });
            return (refused, waited_s);
        }
        let started = Instant::now();
        let _alone = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        waited_s += started.elapsed().as_secs_f64();
        for other in 0..self.buffers.len() {
            self.buffers(other).release_memory();
        }
        let mut buffers = self.buffers(worker);
        buffers.set_memory_limit(Some(limit.bytes));
        (outcome.timings, outcome.input) = Default::default();
        let result = buffers.make(paths, None, outcome);
        buffers.release_memory();
        buffers.set_memory_limit(Some(limit.bytes / self.buffers.len() as u64));
        (result, waited_s)
    }
}
