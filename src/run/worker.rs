//! Workers: threads that each carry one image after another its whole way.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::Clock;
use crate::fault::Fault;
use crate::image_job::{ImageJob, ImageWorker, Taken};
use crate::image_list::ImageEntry;
use crate::report::{ImageRecord, Status};

/// What a worker tells its rank's main thread.
pub(super) enum Event {
    /// An image is done or given up.
    Record(ImageRecord),
    /// A worker waits for work.
    Idle,
    /// A worker panicked; the run cannot go on.
    Panicked(String),
}

/// The images that a rank still has to begin: places in the plan's list, in the order in which they are done.
#[derive(Default)]
pub(super) struct TaskQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Default)]
struct QueueState {
    places: VecDeque<usize>,
    waiting: usize,
    closed: bool,
}

impl TaskQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        // A panic never happens with the lock held: no code that can panic runs there.
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds images.
    pub(super) fn add(&self, places: impl IntoIterator<Item = usize>) {
        self.state().places.extend(places);
        self.changed.notify_all();
    }

    /// Says that no image will be added.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// Takes back what was not begun, and closes.
    pub(super) fn drain(&self) {
        let mut state = self.state();
        state.places.clear();
        state.closed = true;
        drop(state);
        self.changed.notify_all();
    }

    /// How many workers wait for images beyond those that are queued; 0 once it is closed.
    pub(super) fn wanted(&self) -> usize {
        let state = self.state();
        if state.closed {
            0
        } else {
            state.waiting.saturating_sub(state.places.len())
        }
    }

    /// The next image, waiting for one; `None` when there will be none.
    fn next(&self, events: &Sender<Event>) -> Option<usize> {
        let mut state = self.state();
        loop {
            if let Some(place) = state.places.pop_front() {
                return Some(place);
            }
            if state.closed {
                return None;
            }
            state.waiting += 1;
            // The main thread may be gone only after it has closed the queue.
            let _ = events.send(Event::Idle);
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            state.waiting -= 1;
        }
    }
}

/// What the workers of a rank share.
pub(super) struct WorkerContext<'a> {
    pub(super) job: &'a ImageJob,
    pub(super) entries: &'a [ImageEntry],
    pub(super) queue: &'a TaskQueue,
    pub(super) clock: Clock,
    pub(super) rank: usize,
    pub(super) fault: Option<Fault>,
    /// Images that the rank has begun.
    pub(super) begun: AtomicUsize,
}

thread_local! {
    /// The image that this thread is at work on, for the message of a panic.
    static IMAGE_IN_HAND: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Does images until there are none; the worker's thread runs this.
pub(super) fn work(context: &WorkerContext<'_>, worker: usize, events: &Sender<Event>) {
    let done = catch_unwind(AssertUnwindSafe(|| {
        let mut buffers = ImageWorker::new(context.job);
        while let Some(place) = context.queue.next(events) {
            let record = carry(context, worker, &mut buffers, &context.entries[place]);
            let _ = events.send(Event::Record(record));
        }
    }));
    if let Err(panic) = done {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_default();
        let image = IMAGE_IN_HAND.take().unwrap_or_default();
        let _ = events.send(Event::Panicked(format!("{image}: {message}")));
    }
}

fn carry(
    context: &WorkerContext<'_>,
    worker: usize,
    buffers: &mut ImageWorker<'_>,
    entry: &ImageEntry,
) -> ImageRecord {
    IMAGE_IN_HAND.set(Some(entry.input.display().to_string()));
    let begun = context.begun.fetch_add(1, Ordering::Relaxed) + 1;
    if context.fault
        == Some(Fault::Panic {
            rank: context.rank,
            image: begun,
        })
    {
        panic!("a panic that NIIMPI_TEST_FAULT asks for");
    }
    let mut taken = Taken::default();
    let start_s = context.clock.now_s();
    let result = buffers.process(&entry.input, &entry.output, &mut taken);
    IMAGE_IN_HAND.set(None);
    let (status, stage, error) = match result {
        Ok(()) => (Status::Done, None, None),
        Err(failure) => (Status::Failed, Some(failure.stage), Some(failure.error)),
    };
    ImageRecord {
        index: entry.index,
        rank: context.rank,
        worker,
        status,
        stage,
        error,
        start_s,
        read_s: taken.read_s,
        filter_s: taken.filter_s,
        write_s: taken.write_s,
        voxels: taken.voxels,
        datatype: taken.datatype,
        scaled: taken.scaled,
        bytes_in: taken.bytes_in,
        bytes_out: taken.bytes_out,
    }
}
