//! Workers: threads that process one image after another, from input to result.

#![allow(
    clippy::result_large_err,
    reason = "an image that cannot be sent is published by its worker"
)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendError, Sender};

use super::Clock;
use super::limits::Behind;
use super::memory::RankMemory;
use super::queue::TaskQueue;
use super::read_ahead::ReadAhead;
use super::resume::Stamps;
use super::stop::Pace;
use crate::fault::Fault;
use crate::image_io::file_name::pair_partner;
use crate::image_io::{Existing, OpenedInput, StagedFile};
use crate::images::{self, ImageEntry};
use crate::job;
use crate::job::outcome::{End, Failure, FailureKind, FileId, Outcome, Timings};
use crate::journal::{BeginLine, EndLine, Journal, Line, StagedLine};

/// What a worker reports to its rank's main thread.
#[allow(
    clippy::large_enum_variant,
    reason = "a handful of events per image, each moved once"
)]
pub(super) enum Event {
    /// An image is done or failed.
    Ended(Outcome),
    /// An image (its index in the list, from 1) was not started, because it would not finish in time.
    Late(usize),
    /// An image (its index in the list, from 1) was left unfinished, because the run must end.
    Unfinished(usize),
    /// A worker waits for images.
    Idle,
    /// A worker panicked; the run cannot continue.
    Panicked(String),
}

/// State shared by the workers of a rank.
pub(super) struct WorkerContext<'a> {
    pub(super) memory: &'a RankMemory<'a>,
    pub(super) entries: &'a [ImageEntry],
    /// Estimated seconds of each.
    pub(super) costs_s: &'a [f64],
    pub(super) pace: Pace,
    /// Time by which every image must be finished, seconds since the run's start.
    pub(super) finish_by_s: f64,
    pub(super) journal: &'a Journal,
    /// The output folder.
    pub(super) output: &'a Path,
    pub(super) queue: &'a TaskQueue,
    pub(super) ahead: &'a ReadAhead<'a>,
    pub(super) clock: Clock,
    pub(super) rank: usize,
    pub(super) fault: Option<Fault>,
    /// Images that the rank has started.
    pub(super) started: AtomicUsize,
    /// Limits on results that wait for the disk while workers process the next images; zero without syncing.
    pub(super) behind: Behind,
    /// Sync results to disk before they are recorded.
    pub(super) sync: bool,
    /// Existing files under the results' names, by image index.
    pub(super) replaced: &'a HashMap<usize, Stamps>,
    /// Threads of each worker.
    pub(super) threads: &'a [usize],
    pub(super) idle: IdleTime,
    /// The work on shared images before the workers start.
    pub(super) shared: SharedWork,
}

/// The work of a rank on shared images.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SharedWork {
    /// Seconds without waiting for other ranks.
    pub(super) busy_s: f64,
    /// Seconds of each stage; sums over its threads.
    pub(super) timings: Timings,
}

impl SharedWork {
    pub(super) fn add_writing(&mut self, started: Instant) {
        let spent_s = started.elapsed().as_secs_f64();
        self.busy_s += spent_s;
        self.timings.write_s += spent_s;
    }
}

impl WorkerContext<'_> {
    /// The file that an image's result can replace.
    fn existing(&self, place: usize) -> Existing {
        let Some(stamps) = self.replaced.get(&place) else {
            return Existing::Seen(Vec::new());
        };
        let names = self.entries[place].files();
        let seen = names.into_iter().zip(stamps).filter_map(|(name, stamp)| {
            let name = name?.file_name()?.to_owned();
            Some((name, (*stamp)?))
        });
        Existing::Seen(seen.collect())
    }
}

/// The time that a rank's threads spent waiting: for images, for memory, and for a free place in the
/// write-behind queue.
#[derive(Default)]
pub(super) struct IdleTime(Mutex<Vec<Waited>>);

/// What one worker measured.
#[derive(Default)]
pub(super) struct Waited {
    threads: usize,
    /// Seconds from the run's start until its end.
    idle_s: f64,
    /// Time of its end, seconds since the run's start.
    ended_s: f64,
}

impl IdleTime {
    fn add(&self, waited: Waited) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(waited);
    }

    /// Thread seconds without work from the run's start until `elapsed_s`, when all workers have ended.
    pub(super) fn until(&self, elapsed_s: f64) -> f64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_worker =
            |waited: &Waited| waited.threads as f64 * (waited.idle_s + (elapsed_s - waited.ended_s).max(0.0));
        all.iter().map(of_worker).sum()
    }
}

thread_local! {
    /// The image that this thread processes, for the message of a panic.
    static IMAGE_IN_HAND: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// How long a worker waits after a full disk. The disk stays full for more than milliseconds, and the root's
/// order to stop needs time to arrive.
const NO_SPACE_PAUSE: Duration = Duration::from_millis(200);

/// Processes images until none are left, on the worker's thread. Publishers sync the results, which means
/// waiting for the disk.
pub(super) fn work(context: &WorkerContext<'_>, worker: usize, events: &Sender<Event>) {
    let done = catch_unwind(AssertUnwindSafe(|| {
        std::thread::scope(|scope| {
            // Dropping this ends the publishers in every case.
            let (to_publish, made) = crossbeam_channel::bounded::<MadeImage<'_>>(context.behind.queued);
            if context.behind.publishers > 0 {
                let span = tracing::Span::current();
                for _ in 0..context.behind.publishers {
                    let (made, events, span) = (made.clone(), events.clone(), span.clone());
                    // A panic there is resumed in this thread at the end of the scope.
                    let name = std::thread::current().name().unwrap_or_default().to_owned();
                    let publisher = std::thread::Builder::new().name(name);
                    let started = publisher.spawn_scoped(scope, move || {
                        let publish = |image: MadeImage<'_>| {
                            image.publish(context, &events, Publishing::Behind);
                        };
                        span.in_scope(|| made.iter().for_each(publish));
                    });
                    if let Err(error) = started {
                        tracing::debug!("cannot start a publisher thread: {error}");
                        break;
                    }
                }
            }
            drop(made);
            let mut waited = Waited {
                threads: context.threads[worker],
                idle_s: (context.clock.now_s() - context.shared.busy_s).max(0.0),
                ended_s: 0.0,
            };
            let next = || context.queue.next(|| drop(events.send(Event::Idle)));
            while let Some(place) = waiting(&mut waited.idle_s, next) {
                let began = Instant::now();
                let fetched = context.ahead.take(place);
                let entry = &context.entries[place];
                let cost_s = context.costs_s[place];
                if context.clock.now_s() + context.pace.predicted_s(cost_s) > context.finish_by_s {
                    let _ = events.send(Event::Late(entry.index));
                    continue;
                }
                let image = carry(context, worker, place, (fetched, began), &mut waited);
                if matches!(&image.made, Err(failure) if failure.kind == FailureKind::Stopped) {
                    // As after a kill, the journal has a start line but no end line.
                    let _ = events.send(Event::Unfinished(entry.index));
                    continue;
                }
                if context.behind.publishers == 0 || image.made.is_err() {
                    image.publish(context, events, Publishing::Here(&mut waited));
                } else if let Err(SendError(image)) = waiting(&mut waited.idle_s, || to_publish.send(image)) {
                    // No publisher could be started.
                    image.publish(context, events, Publishing::Here(&mut waited));
                }
            }
            waited.ended_s = context.clock.now_s();
            context.idle.add(waited);
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

/// Calls `wait` and adds its duration.
fn waiting<T>(idle_s: &mut f64, wait: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let found = wait();
    *idle_s += started.elapsed().as_secs_f64();
    found
}

/// Who publishes a result.
pub(super) enum Publishing<'a> {
    /// The worker itself; this counts as writing.
    Here(&'a mut Waited),
    /// A publisher, while the worker processes the next images.
    Behind,
}

/// An image that failed, or whose result is complete except for the rename.
pub(super) struct MadeImage<'a> {
    pub(super) place: usize,
    pub(super) entry: &'a ImageEntry,
    pub(super) begin: BeginLine,
    pub(super) cost_s: f64,
    pub(super) outcome: Outcome,
    pub(super) made: Result<StagedFile, Failure>,
}

impl MadeImage<'_> {
    /// Renames the result and passes the outcome to the journal and the main thread. Returns the kind of its
    /// failure, if it failed.
    pub(super) fn publish(
        self,
        context: &WorkerContext<'_>,
        events: &Sender<Event>,
        publishing: Publishing<'_>,
    ) -> Option<FailureKind> {
        let MadeImage {
            place,
            entry,
            begin,
            cost_s,
            mut outcome,
            made,
        } = self;
        if made.is_ok() && !outcome.shared.is_empty() {
            let taken_s = context.clock.now_s() - outcome.start_s;
            context.pace.learn(cost_s, taken_s);
        }
        let existing = context.existing(place);
        let of_pair = entry.input.file_name().and_then(pair_partner).map_or(1, |_| 2);
        name_beside(outcome.input.files.iter_mut().take(of_pair), &entry.input);
        let files_in = outcome.input.files.clone();
        let result = made.and_then(|made| {
            job::publish(made, &existing, &mut outcome, |files| {
                let mut files_out = files.to_vec();
                name_beside(&mut files_out, &entry.output);
                let line = Line::Staged(Box::new(StagedLine {
                    unix_s: context.journal.unix_s(),
                    index: entry.index,
                    input: begin.input.clone(),
                    output: begin.output.clone(),
                    files_in,
                    files_out,
                }));
                context.journal.record(&line, context.sync)
            })
        });
        if let Publishing::Here(_) = publishing {
            let timings = &mut outcome.timings;
            timings.write_s += std::mem::take(&mut timings.publish_s);
        }
        outcome.timings = outcome.timings.rounded();
        outcome.end_s = Some((context.clock.now_s() * 1e6).round() / 1e6);
        let mut kind = None;
        outcome.end = match result {
            Ok(mut files) => {
                name_beside(&mut files, &entry.output);
                End::Done(files)
            }
            Err(failure) => {
                kind = Some(failure.kind);
                End::Failed(failure)
            }
        };
        let line = Line::End(Box::new(EndLine {
            unix_s: context.journal.unix_s(),
            input: begin.input,
            output: begin.output,
            outcome,
        }));
        context.journal.write(&line);
        let Line::End(line) = line else { return kind };
        let mut outcome = line.outcome;
        outcome.forget_files();
        let _ = events.send(Event::Ended(outcome));
        if kind == Some(FailureKind::NoSpace) {
            let pause = || std::thread::sleep(NO_SPACE_PAUSE);
            match publishing {
                Publishing::Here(waited) => waiting(&mut waited.idle_s, pause),
                Publishing::Behind => pause(),
            }
        }
        kind
    }
}

/// Names files of an image's folder as records do: not at all the image's own, others by their names. The
/// files of a mask, which come after an input's, keep their whole paths.
fn name_beside<'a>(files: impl IntoIterator<Item = &'a mut FileId>, image: &Path) {
    for file in files {
        file.path = match file.path.file_name() {
            Some(name) if file.path != image => name.into(),
            _ => PathBuf::new(),
        };
    }
}

/// Makes an image's result. Waits while this process has too many files open, and also returns the seconds of
/// waiting.
fn make_with_files(
    context: &WorkerContext<'_>,
    worker: usize,
    entry: &ImageEntry,
    mut fetched: Option<OpenedInput>,
    outcome: &mut Outcome,
) -> (Result<StagedFile, Failure>, f64) {
    const PAUSE: Duration = Duration::from_millis(100);
    const MOST_PAUSES: usize = 600;
    let fresh = outcome.clone();
    let mut waited_s = 0.0;
    for pause in 0.. {
        let (made, for_memory_s) = context.memory.make(worker, entry, fetched.take(), outcome);
        waited_s += for_memory_s;
        match made {
            Err(failure) if failure.kind == FailureKind::NoFreeFile && pause < MOST_PAUSES => {}
            made => return (made, waited_s),
        }
        // Results that wait for the disk close their files soon.
        outcome.clone_from(&fresh);
        std::thread::sleep(PAUSE);
        waited_s += PAUSE.as_secs_f64();
    }
    unreachable!("the last try returns")
}

/// The journal's line for the start of an image.
pub(super) fn begin_line(context: &WorkerContext<'_>, entry: &ImageEntry, worker: usize) -> BeginLine {
    BeginLine {
        unix_s: context.journal.unix_s(),
        index: entry.index,
        worker,
        input: images::absolute(&entry.input),
        output: entry
            .output
            .strip_prefix(context.output)
            .unwrap_or(&entry.output)
            .to_owned(),
    }
}

fn carry<'a>(
    context: &WorkerContext<'a>,
    worker: usize,
    place: usize,
    (fetched, began): (Option<OpenedInput>, Instant),
    waited: &mut Waited,
) -> MadeImage<'a> {
    let (entry, cost_s) = (&context.entries[place], context.costs_s[place]);
    IMAGE_IN_HAND.set(Some(entry.input.display().to_string()));
    let started = context.started.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(Fault::Slow { rank, wait_ms }) = context.fault
        && context.rank >= rank
    {
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
    }
    if context.fault
        == Some(Fault::Panic {
            rank: context.rank,
            image: started,
        })
    {
        panic!("a panic requested by NIIMPI_TEST_FAULT");
    }
    let begin = begin_line(context, entry, worker);
    context.journal.write(&Line::Begin(begin.clone()));
    let mut outcome = Outcome {
        index: entry.index,
        rank: context.rank,
        worker,
        start_s: context.clock.now_s(),
        ..Outcome::default()
    };
    let made_from = Instant::now();
    let (made, for_memory_s) = make_with_files(context, worker, entry, fetched, &mut outcome);
    waited.idle_s += for_memory_s;
    if made.is_ok() {
        let taken_s = began.elapsed().as_secs_f64() - for_memory_s;
        context.pace.learn(cost_s, taken_s);
    }
    if waited.threads > 1 {
        // Threads that share an image wait for each other; stage times are sums over them.
        let thread_s = waited.threads as f64 * (made_from.elapsed().as_secs_f64() - for_memory_s);
        let each_s = (thread_s - outcome.timings.worker_s()) / waited.threads as f64;
        waited.idle_s += each_s.max(0.0);
    }
    IMAGE_IN_HAND.set(None);
    MadeImage {
        place,
        entry,
        begin,
        cost_s,
        outcome,
        made,
    }
}
