//! The work of a rank: starts its workers and read-ahead threads, and collects their reports. Only the main
//! thread exchanges messages with other ranks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::Scope;

use crossbeam_channel::{Receiver, Sender};

use super::limits::{self, Behind};
use super::memory::RankMemory;
use super::queue::TaskQueue;
use super::rank_loop::{HandBack, ProgressUpdate, RankLoop};
use super::read_ahead::ReadAhead;
use super::root_loop::{self, Work};
use super::sampler::Sampler;
use super::share::Schedule;
use super::stop::{Grace, Pace};
use super::worker::{self, Event, IdleTime, SharedWork, WorkerContext};
use super::{Config, Setup, non_root_loop, split};
use crate::comm::{Communicator, EXIT_PANIC, ROOT, WORKER_THREAD};
use crate::job::OutputFolder;
use crate::job::shared::SectionWorker;
use crate::journal::Journal;
use crate::partition::Strategy;
use crate::resources::{self, CpuMeter, MemoryLimit};

/// Processes the images of the run: this rank's share on its workers. Collective; the root gets the records
/// of all ranks.
pub(super) fn work(
    comm: &impl Communicator,
    config: &Config,
    setup: &Setup,
    schedule: Schedule,
    journal: &Journal,
    stop: &AtomicBool,
    cpu: CpuMeter,
) -> Option<Work> {
    let rank = comm.rank();
    let queue = TaskQueue::default();
    let Schedule {
        costs_s,
        mut shares,
        groups,
    } = schedule;
    let dynamic = config.strategy == Strategy::Dynamic;
    let (pending, images) = if dynamic {
        let pending = VecDeque::from(shares.swap_remove(ROOT));
        let images = pending.len().div_ceil(comm.size());
        (pending, images)
    } else {
        let share = std::mem::take(&mut shares[rank]);
        let images = share.len();
        queue.add(share);
        queue.close();
        (VecDeque::new(), images)
    };
    let images = images + split::led_by(&groups, rank);
    let threads = threads_of_workers(setup.ranks.threads[rank], images);
    let workers = threads.len();
    let limit = memory_limit(setup, rank, &threads);
    let behind = match config.job.sync {
        true => limits::behind_each_of(workers, &setup.entries),
        false => Behind::default(),
    };
    let output = output_folder(config);
    let ahead = ReadAhead::new(&queue, &setup.entries, &costs_s, workers);
    let waiting_threads = workers * behind.publishers + ahead.threads(images);
    let abandon = AtomicBool::new(false);
    let memory = RankMemory::new(&config.job, &output, &threads, waiting_threads, limit, &abandon);
    let memory = memory.on_device(setup.device.as_ref());
    let sharers = groups.iter().map(|group| group.count).min().unwrap_or(1);
    let mut context = WorkerContext {
        memory: &memory,
        entries: &setup.entries,
        costs_s: &costs_s,
        pace: Pace::of_threads(setup.ranks.threads[rank] * sharers),
        finish_by_s: setup.decision.finish_by_s.unwrap_or(f64::INFINITY),
        journal,
        output: &config.list.output,
        queue: &queue,
        ahead: &ahead,
        clock: setup.clock,
        rank,
        fault: config.fault,
        started: AtomicUsize::new(0),
        behind,
        sync: config.job.sync,
        replaced: &setup.decision.replaced,
        threads: &threads,
        idle: IdleTime::default(),
        shared: SharedWork::default(),
    };
    let channel = crossbeam_channel::unbounded();
    let sections = section_worker(config, &context, setup, output, &abandon);
    let groups = (config.split, groups.as_slice());
    let signals = (&abandon, &channel.0);
    let (alone, shared) = split::run(comm, &context, setup, groups, sections, stop, signals);
    // Nobody else may have to process them.
    let returns = dynamic && rank != ROOT && alone.is_empty();
    queue.add(alone);
    context.shared = shared;
    // An image of one worker takes longer than one that ranks share.
    context.pace = Pace::of_threads(threads.iter().copied().min().unwrap_or(1));
    let own = Own {
        comm,
        config,
        setup,
        context: &context,
        cpu,
        stop,
        abandon: &abandon,
        images,
        returns,
    };
    own.process(channel, pending)
}

/// What the loop of a rank needs.
struct Own<'a, 'c, C: Communicator> {
    comm: &'a C,
    config: &'a Config,
    setup: &'a Setup,
    context: &'a WorkerContext<'c>,
    cpu: CpuMeter,
    stop: &'a AtomicBool,
    abandon: &'a AtomicBool,
    /// About the number of images of this rank.
    images: usize,
    /// Whether images that cannot be opened are returned to the root.
    returns: bool,
}

impl<C: Communicator> Own<'_, '_, C> {
    /// Runs the workers and the loop of this rank.
    fn process(self, channel: (Sender<Event>, Receiver<Event>), pending: VecDeque<usize>) -> Option<Work> {
        let Own { comm, context, .. } = self;
        let dynamic = self.config.strategy == Strategy::Dynamic;
        std::thread::scope(|scope| {
            let events = start_workers(scope, context, comm, channel);
            start_readers(scope, context.ahead, self.images);
            let mut own = RankLoop {
                comm,
                setup: self.setup,
                queue: context.queue,
                journal: context.journal,
                sampler: Sampler::new(context.journal, self.cpu, self.config.sample_s),
                cpu: self.cpu,
                events,
                stop: self.stop,
                abandon: self.abandon,
                grace: Grace::until(context.finish_by_s),
                images: Vec::with_capacity(self.images),
                workers: context.threads.len(),
                idle: &context.idle,
                shared: context.shared.timings,
                progress: ProgressUpdate::default(),
                late: 0,
                working: true,
                hand_back: self.returns.then(HandBack::default),
                unopened: 0,
            };
            if context.rank == ROOT {
                Some(root_loop::run(
                    &mut own,
                    self.config,
                    pending,
                    context.costs_s,
                    dynamic,
                ))
            } else {
                non_root_loop::run(&mut own, dynamic, context.costs_s);
                None
            }
        })
    }
}

/// The buffers and the device for sections of images that ranks share.
fn section_worker<'a>(
    config: &'a Config,
    context: &WorkerContext<'_>,
    setup: &Setup,
    output: OutputFolder,
    abandon: &'a AtomicBool,
) -> SectionWorker<'a> {
    let (threads, limit_bytes) = (setup.ranks.threads[context.rank], context.memory.limit_bytes());
    SectionWorker::new(&config.job, threads, Some(output), limit_bytes, abandon)
        .on_device(setup.device.as_ref())
}

fn output_folder(config: &Config) -> OutputFolder {
    OutputFolder {
        path: config.list.output.clone(),
        follow_links: config.list.follow_links,
        metadata: config.metadata().map(Arc::new),
    }
}

/// The memory that this rank can use. If the limit is on address space, its threads share the allocator's
/// reserved areas.
fn memory_limit(setup: &Setup, rank: usize, threads: &[usize]) -> Option<MemoryLimit> {
    let limit = resources::memory_limit(setup.ranks.on_host_of(rank))?;
    let mib = limit.bytes >> 20;
    tracing::debug!("this rank can use {mib} MiB of memory: {}", limit.source);
    if limit.address_space {
        limits::share_reserved_address_space(threads.iter().sum());
    }
    Some(limit)
}

/// Starts the workers of this rank and returns their reports.
fn start_workers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    context: &'scope WorkerContext<'_>,
    comm: &impl Communicator,
    (sender, events): (Sender<Event>, Receiver<Event>),
) -> Receiver<Event> {
    let span = tracing::Span::current();
    let workers = context.threads.len();
    for worker in 0..workers {
        let (sender, span) = (sender.clone(), span.clone());
        std::thread::Builder::new()
            .name(format!("worker-{worker}"))
            .spawn_scoped(scope, move || {
                span.in_scope(|| worker::work(context, worker, &sender))
            })
            .unwrap_or_else(|error| {
                tracing::error!(
                    "worker {worker} of {workers} cannot be started: {error}; use fewer --threads"
                );
                comm.abort(EXIT_PANIC)
            });
    }
    events
}

/// Starts the read-ahead threads. Without them the workers open their files themselves.
fn start_readers<'scope>(scope: &'scope Scope<'scope, '_>, ahead: &'scope ReadAhead<'_>, images: usize) {
    for _ in 0..ahead.threads(images) {
        let thread = std::thread::Builder::new().name(format!("{WORKER_THREAD}ahead"));
        if let Err(error) = thread.spawn_scoped(scope, || ahead.run()) {
            tracing::debug!("cannot start a read-ahead thread: {error}");
            break;
        }
    }
}

/// The number of threads of each worker, for a rank with `threads` threads and this many images: one each. If
/// there are fewer images than threads, each image has a worker, and the other threads help.
fn threads_of_workers(threads: usize, images: usize) -> Vec<usize> {
    let workers = threads.min(images).max(1);
    (0..workers)
        .map(|worker| threads * (worker + 1) / workers - threads * worker / workers)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_beyond_the_images_help_the_workers() {
        assert_eq!(threads_of_workers(4, 100), [1, 1, 1, 1]);
        assert_eq!(threads_of_workers(5, 2), [2, 3]);
        assert_eq!(threads_of_workers(8, 1), [8]);
        assert_eq!(threads_of_workers(3, 0), [3]);
    }
}
