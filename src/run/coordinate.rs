//! Coordination: a rank's main thread while its workers work. It alone speaks with the other ranks.
//!
//! The root also answers requests for images (`dynamic`), counts everyone's progress and collects the records.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::memory::RankMemory;
use super::progress::{Counts, ProgressDisplay};
use super::queue::TaskQueue;
use super::read_ahead::ReadAhead;
use super::sampler::Sampler;
use super::share::Schedule;
use super::stop::Pace;
use super::worker::{self, Event, IdleTime, WorkerContext};
use super::{Config, EXIT_PANIC, Setup};
use crate::comm::{self, Communicator, ROOT, Tag, WORKER_THREAD};
use crate::job::outcome::{FailureKind, Outcome, Status};
use crate::journal::Journal;
use crate::partition::Strategy;
use crate::report::RankRecord;
use crate::resources::{self, CpuMeter};
use crate::text::printable;

/// How long the main thread waits for its workers between two looks at messages while requests may come.
const LOOK_DYNAMIC: Duration = Duration::from_micros(300);
/// The same when only progress, a signal and the end may come.
const LOOK_FIXED: Duration = Duration::from_millis(20);
/// A rank whose images take less than this asks for the next ones ahead: the answer may take two looks, which should not
/// be seen beside an image. Longer images are asked for when a worker is free, so that no rank keeps one that another has
/// time for.
const QUICK_IMAGE: Duration = Duration::from_millis(60);
/// How often a rank tells the root how far it has come.
const TELL_PROGRESS: Duration = Duration::from_millis(500);

/// What the root has when every rank is done.
pub(super) struct Work {
    pub(super) records: Vec<RankRecord>,
    /// Some images were not begun, since the run was told to stop or its time was up.
    pub(super) interrupted: bool,
}

/// A rank's news for the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct News {
    done: usize,
    failed: usize,
    /// Of these, for want of space for the results.
    no_space: usize,
    stopping: bool,
}

/// Sees when no result can be written any more, on any rank.
#[derive(Default)]
struct SpaceWatch {
    done: usize,
    no_space: usize,
}

impl SpaceWatch {
    /// How many images in a row failed for want of space, all ranks together.
    fn in_a_row(&mut self, news: &[News]) -> usize {
        let done = news.iter().map(|news| news.done).sum();
        let no_space: usize = news.iter().map(|news| news.no_space).sum();
        if done > self.done {
            self.done = done;
            self.no_space = no_space;
        }
        no_space.saturating_sub(self.no_space)
    }
}

/// Does the plan's images, this rank's share on its workers. Collective. The root gets everyone's records.
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
    } = schedule;
    let (pending, images) = if config.strategy == Strategy::Dynamic {
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
    let memory = RankMemory::new(&config.job, &threads, limit);
    let ahead = ReadAhead::new(&queue, &setup.entries, &costs_s, workers);
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
        write_behind: config.job.sync,
        threads: &threads,
        idle: IdleTime::default(),
    };
    std::thread::scope(|scope| {
        let (sender, events) = channel();
        let span = tracing::Span::current();
        for worker in 0..workers {
            let (sender, context, span) = (sender.clone(), &context, span.clone());
            std::thread::Builder::new()
                .name(format!("worker-{worker}"))
                .spawn_scoped(scope, move || span.in_scope(|| worker::work(context, worker, &sender)))
                .unwrap_or_else(|error| {
                    tracing::error!("worker {worker} of {workers} cannot be started: {error}; ask for fewer --threads");
                    comm.abort(i32::from(EXIT_PANIC))
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
        let mut own = Own {
            comm,
            queue: &queue,
            journal,
            sampler: Sampler::new(journal, cpu, config.sample_s),
            cpu,
            events,
            stop,
            images: Vec::with_capacity(images),
            workers,
            idle: &context.idle,
            news: News::default(),
            late: 0,
            working: true,
        };
        if rank == ROOT {
            Some(lead(&mut own, config, setup, pending))
        } else {
            follow(&mut own, config, setup);
            None
        }
    })
}

/// The threads of each worker of a rank that has `threads` and so many images: one each, and where there are fewer images than
/// threads, a worker for each image and the other threads to help them.
fn threads_of_workers(threads: usize, images: usize) -> Vec<usize> {
    let workers = threads.min(images).max(1);
    (0..workers)
        .map(|worker| threads * (worker + 1) / workers - threads * worker / workers)
        .collect()
}

/// A rank's own side, the same on the root and on the others.
struct Own<'a, C: Communicator> {
    comm: &'a C,
    queue: &'a TaskQueue,
    journal: &'a Journal,
    sampler: Sampler<'a>,
    cpu: CpuMeter,
    events: Receiver<Event>,
    stop: &'a AtomicBool,
    images: Vec<Outcome>,
    workers: usize,
    idle: &'a IdleTime,
    news: News,
    late: usize,
    working: bool,
}

impl<C: Communicator> Own<'_, C> {
    /// Waits up to `wait` for news of the workers and takes all there is.
    fn listen(&mut self, wait: Duration) {
        self.journal.say_alive();
        if self.working {
            self.sampler.look(&self.images);
        }
        if self.working {
            self.hear(wait);
        } else {
            std::thread::sleep(wait);
        }
        if self.stop.load(Ordering::Relaxed) && !self.news.stopping {
            tracing::warn!("told to stop: the images in hand are finished, no other is begun");
            self.stop_early();
        }
    }

    /// Waits up to `wait` for news of the workers that still work.
    fn hear(&mut self, wait: Duration) {
        let mut received = self.events.recv_timeout(wait);
        loop {
            match received {
                Ok(Event::Ended(outcome)) => self.take(outcome),
                Ok(Event::Late(index)) => {
                    if self.late == 0 {
                        tracing::warn!(
                            "the time left is too short for image {index}: it is not begun, nor is any other that would \
                             not be finished"
                        );
                    }
                    self.late += 1;
                }
                Ok(Event::Idle) => {}
                Ok(Event::Panicked(message)) => {
                    tracing::error!(
                        "a worker panicked, so the whole run is ended; {}",
                        printable(&message)
                    );
                    self.comm.abort(i32::from(EXIT_PANIC));
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    self.working = false;
                    break;
                }
            }
            received = self.events.try_recv().map_err(|error| match error {
                std::sync::mpsc::TryRecvError::Empty => RecvTimeoutError::Timeout,
                std::sync::mpsc::TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
    }

    /// How many images to ask for before they are needed: one a worker, if the last image was quick.
    fn ahead(&self) -> usize {
        let quick = self
            .images
            .last()
            .is_some_and(|image| image.timings.worker_s() < QUICK_IMAGE.as_secs_f64());
        if quick { self.workers } else { 0 }
    }

    fn stop_early(&mut self) {
        self.news.stopping = true;
        self.queue.drain();
    }

    fn take(&mut self, outcome: Outcome) {
        let index = outcome.index;
        for warning in &outcome.warnings {
            tracing::debug!("image {index}: {}", printable(&warning.text));
        }
        if let Some(failure) = outcome.failure() {
            let error = printable(&failure.error);
            self.news.failed += 1;
            if failure.kind == FailureKind::NoSpace {
                self.news.no_space += 1;
            }
            // The first one says it for all.
            if self.news.no_space > 1 && failure.kind == FailureKind::NoSpace {
                tracing::debug!("image {index} failed: {error}");
            } else {
                tracing::error!("image {index} failed ({}): {error}", failure.stage.name());
            }
        } else {
            let timings = outcome.timings;
            tracing::debug!(
                "image {index} done: read {:.3} s, filter {:.3} s, write {:.3} s, publish {:.3} s",
                timings.read_s,
                timings.filter_s,
                timings.write_s,
                timings.publish_s
            );
            self.news.done += 1;
        }
        self.images.push(outcome);
    }

    /// This rank's record, when its workers have ended.
    fn record(&mut self, setup: &Setup) -> RankRecord {
        let rank = self.comm.rank();
        self.sampler.finish(&self.images);
        let elapsed_s = setup.clock.now_s();
        RankRecord {
            rank,
            host: setup.ranks.hosts[rank].clone(),
            threads: setup.ranks.threads[rank],
            cpus: setup.ranks.cpus[rank],
            elapsed_s,
            cpu_s: self.cpu.seconds(),
            max_rss_bytes: resources::peak_rss_bytes(),
            idle_s: Some(self.idle.until(elapsed_s)),
            cpu_model: resources::cpu_model(),
            images: std::mem::take(&mut self.images),
        }
    }
}

/// A rank that is not the root: works, asks for images with `dynamic`, tells of its progress, sends its records.
fn follow<C: Communicator>(own: &mut Own<'_, C>, config: &Config, setup: &Setup) {
    let dynamic = config.strategy == Strategy::Dynamic;
    let mut asked = 0_usize;
    let mut told = News::default();
    let mut told_at = Instant::now();
    while own.working {
        own.listen(if asked > 0 { LOOK_DYNAMIC } else { LOOK_FIXED });
        if dynamic {
            while let Some((_root, assignment)) = own.comm.try_receive(Tag::Assignment) {
                let (answered, places): (usize, Vec<usize>) = comm::decode(&assignment);
                asked -= answered;
                if own.news.stopping {
                    continue;
                }
                let last = places.len() < answered;
                own.queue.add(places);
                if last {
                    own.queue.close();
                }
            }
            let wanted = own.queue.wanted(own.ahead()).saturating_sub(asked);
            if wanted > 0 {
                asked += wanted;
                own.comm.send(ROOT, Tag::Request, &comm::encode(&wanted));
            }
        }
        if own.comm.try_receive(Tag::Stop).is_some() {
            own.stop_early();
        }
        let stops = own.news.stopping != told.stopping;
        if stops || (own.news != told && told_at.elapsed() >= TELL_PROGRESS) {
            told = own.news;
            told_at = Instant::now();
            own.comm.send(ROOT, Tag::Progress, &comm::encode(&told));
        }
    }
    // An answer that is still under way would be taken for one of another run; there is none, but none is left either.
    while asked > 0 {
        let (_root, assignment) = own.comm.receive(Tag::Assignment);
        let (answered, _places): (usize, Vec<usize>) = comm::decode(&assignment);
        asked -= answered;
    }
    let record = own.record(setup);
    own.comm
        .send(ROOT, Tag::Records, &comm::encode(&(own.news, record)));
}

/// The root: works, answers requests, shows progress, and waits for everyone's records.
fn lead<C: Communicator>(
    own: &mut Own<'_, C>,
    config: &Config,
    setup: &Setup,
    mut pending: VecDeque<usize>,
) -> Work {
    let dynamic = config.strategy == Strategy::Dynamic;
    let ranks = own.comm.size();
    let mut news = vec![News::default(); ranks];
    let mut records: Vec<Option<RankRecord>> = (0..ranks).map(|_| None).collect();
    let mut display = ProgressDisplay::new(
        if config.quiet {
            super::ProgressStyle::None
        } else {
            config.progress
        },
        setup.entries.len() - setup.decision.skipped.len(),
    );
    let mut stop_sent = false;
    let mut space = SpaceWatch::default();
    let mut no_space = false;
    // Each worker may have met the full disk with one image while another was still written.
    let enough = (2 * setup.ranks.threads.iter().sum::<usize>()).max(3);
    while records.iter().any(Option::is_none) {
        let others_work = records.iter().skip(1).any(Option::is_none);
        own.listen(if dynamic && others_work {
            LOOK_DYNAMIC
        } else {
            LOOK_FIXED
        });
        news[ROOT] = own.news;
        if own.news.stopping {
            pending.clear();
        }
        if dynamic {
            let wanted = own.queue.wanted(0).min(pending.len());
            own.queue.add(pending.drain(..wanted));
            while let Some((from, request)) = own.comm.try_receive(Tag::Request) {
                let wanted: usize = comm::decode(&request);
                let places: Vec<usize> = pending.drain(..wanted.min(pending.len())).collect();
                own.comm
                    .send(from, Tag::Assignment, &comm::encode(&(wanted, places)));
            }
            if pending.is_empty() {
                own.queue.close();
            }
        }
        while let Some((from, message)) = own.comm.try_receive(Tag::Progress) {
            // News of one kind may be overtaken by another: a rank's records are its last word.
            if records[from].is_none() {
                news[from] = comm::decode(&message);
            }
        }
        while let Some((from, message)) = own.comm.try_receive(Tag::Records) {
            let (
                News {
                    stopping, no_space, ..
                },
                mut record,
            ): (News, RankRecord) = comm::decode(&message);
            // It was decoded into up to twice the room, and a list may be long.
            record.images.shrink_to_fit();
            let count = |status| {
                record
                    .images
                    .iter()
                    .filter(|image| image.status() == status)
                    .count()
            };
            news[from] = News {
                done: count(Status::Done),
                failed: count(Status::Failed),
                no_space,
                stopping,
            };
            records[from] = Some(record);
        }
        let in_a_row = space.in_a_row(&news);
        if !no_space && in_a_row >= enough {
            no_space = true;
            tracing::error!(
                "stopped early: the last {in_a_row} images all failed because the disk is full or the quota is used up; \
                 free space or choose another --output, then --resume does the rest"
            );
            own.stop_early();
        }
        if !stop_sent && (no_space || news.iter().any(|news| news.stopping)) {
            stop_sent = true;
            own.stop_early();
            for to in (0..ranks).filter(|&to| to != ROOT && records[to].is_none()) {
                own.comm.send(to, Tag::Stop, &[]);
            }
        }
        display.update(Counts {
            done: news.iter().map(|news| news.done).sum(),
            failed: news.iter().map(|news| news.failed).sum(),
        });
        if !own.working && records[ROOT].is_none() {
            records[ROOT] = Some(own.record(setup));
        }
    }
    display.finish();
    // MPI wants every message taken before it is finalised.
    while own.comm.try_receive(Tag::Progress).is_some() {}
    let records: Vec<RankRecord> = records.into_iter().flatten().collect();
    let begun: usize = records.iter().map(|record| record.images.len()).sum();
    // Told to stop when the last image was in hand: nothing was left out, so the run is complete. A full disk is no
    // interruption after which the same command may go on by itself: somebody has to make room first.
    let interrupted = begun + setup.decision.skipped.len() < setup.entries.len() && !no_space;
    Work {
        records,
        interrupted,
    }
}
