//! Workers: threads that each carry one image after another its whole way.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SendError, Sender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::Clock;
use super::memory::RankMemory;
use super::queue::TaskQueue;
use super::read_ahead::ReadAhead;
use super::stop::Pace;
use crate::fault::Fault;
use crate::image_io::{self, Fetched, NamelessOutput};
use crate::images::ImageEntry;
use crate::job::{self, Failure, FailureKind, Taken};
use crate::journal::{
    self, BeginLine, EndLine, EndState, InputIdentity, Journal, Line, ResultIdentity,
};
use crate::report::{ImageRecord, Status};

/// What a worker tells its rank's main thread.
pub(super) enum Event {
    /// An image is done or given up; a failure's meaning for the others.
    Record(ImageRecord, FailureKind),
    /// An image (its place in the list, from 1) was not begun, since it would not be finished in time.
    Late(usize),
    /// A worker waits for work.
    Idle,
    /// A worker panicked; the run cannot go on.
    Panicked(String),
}

/// What the workers of a rank share.
pub(super) struct WorkerContext<'a> {
    pub(super) memory: &'a RankMemory<'a>,
    pub(super) entries: &'a [ImageEntry],
    /// Estimated seconds of each.
    pub(super) costs_s: &'a [f64],
    pub(super) pace: Pace,
    /// Every image must be finished by then, seconds since the run's start.
    pub(super) finish_by_s: f64,
    pub(super) journal: &'a Journal,
    /// The output folder.
    pub(super) output: &'a Path,
    pub(super) queue: &'a TaskQueue,
    pub(super) ahead: &'a ReadAhead<'a>,
    pub(super) clock: Clock,
    pub(super) rank: usize,
    pub(super) fault: Option<Fault>,
    /// Images that the rank has begun.
    pub(super) begun: AtomicUsize,
    /// Whether the disk is waited for beside the work on the next images.
    pub(super) write_behind: bool,
}

thread_local! {
    /// The image that this thread is at work on, for the message of a panic.
    static IMAGE_IN_HAND: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Threads of a worker that wait for the disk while it goes on. They hold files, no images.
const PUBLISHERS: usize = 4;

/// Results of a worker that may wait for the disk while it goes on: those that publishers hold, and as many for them to take.
pub const RESULTS_BEHIND_A_WORKER: usize = 2 * PUBLISHERS;

/// How long a worker waits after a full disk: it gets no better within milliseconds, and the root's word to stop needs time.
const NO_SPACE_PAUSE: Duration = Duration::from_millis(200);

/// Does images until there are none; the worker's thread runs this.
///
/// Results that must reach the disk before they are named are left to threads that wait for it (write-behind).
pub(super) fn work(context: &WorkerContext<'_>, worker: usize, events: &Sender<Event>) {
    let done = catch_unwind(AssertUnwindSafe(|| {
        std::thread::scope(|scope| {
            // Ends the publishers when it is dropped, however this ends.
            let (to_publish, made) = sync_channel::<MadeImage<'_>>(PUBLISHERS);
            if context.write_behind {
                let made = Arc::new(Mutex::new(made));
                let span = tracing::Span::current();
                for _ in 0..PUBLISHERS {
                    let (made, events, span) = (Arc::clone(&made), events.clone(), span.clone());
                    // A panic there goes on in this thread, when it waits for the scope's end.
                    let name = std::thread::current().name().unwrap_or_default().to_owned();
                    let publisher = std::thread::Builder::new().name(name);
                    let started = publisher.spawn_scoped(scope, move || {
                        span.in_scope(|| publish_all(context, &made, &events));
                    });
                    if let Err(error) = started {
                        tracing::debug!(
                            "a thread that would wait for the disk cannot be started: {error}"
                        );
                        break;
                    }
                }
            }
            while let Some(place) = context.queue.next(|| drop(events.send(Event::Idle))) {
                let fetched = context.ahead.take(place);
                let entry = &context.entries[place];
                let cost_s = context.costs_s[place];
                if context.clock.now_s() + context.pace.predicted_s(cost_s) > context.finish_by_s {
                    let _ = events.send(Event::Late(entry.index));
                    continue;
                }
                let image = carry(context, worker, entry, fetched, cost_s);
                if !context.write_behind || image.made.is_err() {
                    image.publish(context, events);
                } else if let Err(SendError(image)) = to_publish.send(image) {
                    // No publisher could be started.
                    image.publish(context, events);
                }
            }
        });
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

/// Publishes what the worker has made until it ends.
fn publish_all<'a>(
    context: &WorkerContext<'_>,
    made: &Mutex<Receiver<MadeImage<'a>>>,
    events: &Sender<Event>,
) {
    loop {
        let next = made.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(image) => image.publish(context, events),
            Err(_) => return,
        }
    }
}

/// An image whose result is complete but for its name, or that was given up.
struct MadeImage<'a> {
    entry: &'a ImageEntry,
    worker: usize,
    begin: BeginLine,
    start_s: f64,
    cost_s: f64,
    taken: Taken,
    made: Result<NamelessOutput, Failure>,
}

impl MadeImage<'_> {
    /// Gives the result its name, and tells the journal and the main thread what became of the image.
    fn publish(self, context: &WorkerContext<'_>, events: &Sender<Event>) {
        let MadeImage {
            entry,
            worker,
            begin,
            start_s,
            cost_s,
            mut taken,
            made,
        } = self;
        let result = made.and_then(|made| job::publish(made, &mut taken));
        let end = end_line(begin, &entry.output, &taken, result.as_ref().err());
        context.journal.write(&Line::End(Box::new(end)));
        if result.is_ok() {
            let taken_s = taken.read_s + taken.filter_s + taken.write_s;
            context.pace.learn(cost_s, taken_s);
        }
        let kind = result.as_ref().err().map(|failure| failure.kind);
        let (status, stage, error) = match result {
            Ok(()) => (Status::Done, None, None),
            Err(failure) => (Status::Failed, Some(failure.stage), Some(failure.error)),
        };
        let record = ImageRecord {
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
            nonfinite_voxels: taken.nonfinite_voxels,
            datatype: taken.datatype,
            scaled: taken.scaled,
            bytes_in: taken.bytes_in,
            bytes_out: taken.bytes_out,
        };
        let _ = events.send(Event::Record(record, kind.unwrap_or_default()));
        if kind == Some(FailureKind::NoSpace) {
            std::thread::sleep(NO_SPACE_PAUSE);
        }
    }
}

fn carry<'a>(
    context: &WorkerContext<'a>,
    worker: usize,
    entry: &'a ImageEntry,
    fetched: Option<Fetched>,
    cost_s: f64,
) -> MadeImage<'a> {
    IMAGE_IN_HAND.set(Some(entry.input.display().to_string()));
    let begun = context.begun.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(Fault::Slow { rank, wait_ms }) = context.fault
        && context.rank >= rank
    {
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
    }
    if context.fault
        == Some(Fault::Panic {
            rank: context.rank,
            image: begun,
        })
    {
        panic!("a panic that NIIMPI_TEST_FAULT asks for");
    }
    let begin = BeginLine {
        unix_s: journal::unix_s(SystemTime::now()),
        index: entry.index,
        worker,
        input: std::path::absolute(&entry.input).unwrap_or_else(|_| entry.input.clone()),
        output: entry
            .output
            .strip_prefix(context.output)
            .unwrap_or(&entry.output)
            .to_owned(),
    };
    context.journal.write(&Line::Begin(begin.clone()));
    let mut taken = Taken::default();
    let start_s = context.clock.now_s();
    let made = context.memory.make(worker, entry, fetched, &mut taken);
    IMAGE_IN_HAND.set(None);
    MadeImage {
        entry,
        worker,
        begin,
        start_s,
        cost_s,
        taken,
        made,
    }
}

/// What the journal says when an image is ended.
fn end_line(begin: BeginLine, output: &Path, taken: &Taken, failure: Option<&Failure>) -> EndLine {
    let result = taken.written.map(|written| ResultIdentity {
        output_bytes: written.bytes_out,
        output_mtime_ns: image_io::uncompressed_mtime_ns(output),
        raw_bytes: written.raw_bytes,
        crc32: written.crc32,
    });
    EndLine {
        unix_s: journal::unix_s(SystemTime::now()),
        index: begin.index,
        worker: begin.worker,
        state: match failure {
            None => EndState::Done,
            Some(_) => EndState::Failed,
        },
        stage: failure.map(|failure| failure.stage),
        error: failure.map(|failure| failure.error.clone()),
        input: begin.input,
        input_identity: taken.input_mtime_ns.map(|input_mtime_ns| InputIdentity {
            input_bytes: taken.bytes_in,
            input_mtime_ns,
        }),
        output: begin.output,
        result,
        read_s: journal::short(taken.read_s),
        filter_s: journal::short(taken.filter_s),
        write_s: journal::short(taken.write_s),
        voxels: taken.voxels,
        nonfinite_voxels: taken.nonfinite_voxels,
    }
}
