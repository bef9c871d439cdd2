//! The work of a rank: starts its workers and the threads that read ahead, and takes what they report.
//! Only the main thread exchanges messages with other ranks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use super::limits::{self, Behind};
use super::memory::RankMemory;
use super::queue::TaskQueue;
use super::rank_loop::{HandBack, ProgressUpdate, RankLoop};
use super::read_ahead::ReadAhead;
use super::sampler::Sampler;
use super::share::Schedule;
use super::stop::{Grace, Pace};
use super::worker::{self, IdleTime, WorkerContext};
use super::{Config, Setup, root_loop, worker_loop};
use crate::comm::{Communicator, EXIT_PANIC, ROOT, WORKER_THREAD};
use crate::job::OutputFolder;
use crate::journal::Journal;
use crate::partition::Strategy;
use crate::report::RankRecord;
use crate::resources::{self, CpuMeter};

/// How long the main thread waits for its workers between two looks at messages while requests may come.
pub(super) const LOOK_DYNAMIC: Duration = Duration::from_micros(300);
/// The same when only progress, a signal and the end may come.
pub(super) const LOOK_FIXED: Duration = Duration::from_millis(20);
/// What the root has when every rank is done.
pub(super) struct Work {
    pub(super) records: Vec<RankRecord>,
    /// Some images were not started, because the run was stopped or its time was up.
    pub(super) interrupted: bool,
}

/// Does the images of the run: this rank's share on its workers. Collective; the root gets the records of all
/// ranks.
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
    let Schedule { costs_s, mut shares } = schedule;
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
    let threads = threads_of_workers(setup.ranks.threads[rank], images);
    let workers = threads.len();
    let limit = resources::memory_limit(setup.ranks.on_host_of(rank));
    if let Some(limit) = &limit {
        let mib = limit.bytes >> 20;
        tracing::debug!("this rank may use {mib} MiB of memory: {}", limit.source);
    }
    let behind = match config.job.sync {
        true => limits::behind_each_of(workers),
        false => Behind::default(),
    };
    if limit.as_ref().is_some_and(|limit| limit.address_space) {
        limits::share_reserved_address_space(threads.iter().sum());
    }
    let output = OutputFolder {
        path: config.list.output.clone(),
        follow_links: config.list.follow_links,
    };
    let ahead = ReadAhead::new(&queue, &setup.entries, &costs_s, workers);
    let waiting_threads = workers * behind.publishers + ahead.threads(images);
    let abandon = AtomicBool::new(false);
    let memory = RankMemory::new(&config.job, &output, &threads, waiting_threads, limit, &abandon);
    let context = WorkerContext {
        memory: &memory,
        entries: &setup.entries,
        costs_s: &costs_s,
        pace: Pace::default(),
        finish_by_s: setup.decision.finish_by_s.unwrap_or(f64::INFINITY),
        journal,
        output: &config.list.output,
        queue: &queue,
        ahead: &ahead,
        clock: setup.clock,
        rank,
        fault: config.fault,
        begun: AtomicUsize::new(0),
        behind,
        sync: config.job.sync,
        replaced: &setup.decision.replaced,
        threads: &threads,
        idle: IdleTime::default(),
    };
    std::thread::scope(|scope| {
        let (sender, events) = crossbeam_channel::unbounded();
        let span = tracing::Span::current();
        for worker in 0..workers {
            let (sender, context, span) = (sender.clone(), &context, span.clone());
            std::thread::Builder::new()
                .name(format!("worker-{worker}"))
                .spawn_scoped(scope, move || {
                    span.in_scope(|| worker::work(context, worker, &sender))
                })
                .unwrap_or_else(|error| {
                    tracing::error!(
                        "worker {worker} of {workers} cannot be started: {error}; ask for \
                                     fewer --threads"
                    );
                    comm.abort(EXIT_PANIC)
                });
        }
        drop(sender);
        for _ in 0..ahead.threads(images) {
            let thread = std::thread::Builder::new().name(format!("{WORKER_THREAD}ahead"));
            if let Err(error) = thread.spawn_scoped(scope, || ahead.run()) {
                tracing::debug!("a thread that would read ahead cannot be started: {error}");
                break;
            }
        }
        let mut own = RankLoop {
            comm,
            setup,
            queue: &queue,
            journal,
            sampler: Sampler::new(journal, cpu, config.sample_s),
            cpu,
            events,
            stop,
            abandon: &abandon,
            grace: Grace::until(context.finish_by_s),
            images: Vec::with_capacity(images),
            workers,
            idle: &context.idle,
            progress: ProgressUpdate::default(),
            late: 0,
            working: true,
            hand_back: (dynamic && rank != ROOT).then(HandBack::default),
            unopened: 0,
        };
        if rank == ROOT {
            Some(root_loop::run(&mut own, config, pending, &costs_s, dynamic))
        } else {
            worker_loop::run(&mut own, dynamic, &costs_s);
            None
        }
    })
}

/// The threads of each worker of a rank that has `threads` and so many images: one each. Where there are
/// fewer images than threads, each image has a worker, and the other threads help them.
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
