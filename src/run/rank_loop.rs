//! The main thread of a rank while its workers work: handles their events and collects the outcomes.

use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use serde::{Deserialize, Serialize};

use super::Setup;
use super::queue::TaskQueue;
use super::sampler::Sampler;
use super::stop::Grace;
use super::worker::{Event, IdleTime};
use crate::comm::{Communicator, EXIT_PANIC};
use crate::job::outcome::{FailureKind, Outcome, Timings};
use crate::journal::Journal;
use crate::report::{RankRecord, RankRow};
use crate::resources::{self, CpuMeter};
use crate::text::printable;

/// A rank whose images take less than this requests the next ones early, because the reply can take two
/// polls, which must be short compared with an image. Longer images are requested when a worker is free, so
/// that no rank holds one that another could process.
const QUICK_IMAGE: Duration = Duration::from_millis(60);

/// How long the main thread waits for its workers between two polls for messages while requests can arrive.
pub(super) const LOOK_DYNAMIC: Duration = Duration::from_micros(300);
/// The same if only progress, a signal and the end can arrive.
pub(super) const LOOK_FIXED: Duration = Duration::from_millis(20);

/// A rank that cannot open its first images requests no more after this many.
const GIVE_UP_AFTER: usize = 3;

/// The progress that a rank reports to the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ProgressUpdate {
    pub(super) done: usize,
    pub(super) failed: usize,
    /// The failed images for which the disk had no space.
    pub(super) no_space: usize,
    /// It has opened an image, so it can access the inputs.
    pub(super) opens_images: bool,
    /// Its journal cannot be written.
    pub(super) no_journal: bool,
    pub(super) stopping: bool,
}

/// Images that a rank cannot open and returns to the root.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct HandBack {
    /// Their indices in the list.
    pub(super) places: Vec<usize>,
    /// The error of the last one.
    pub(super) error: String,
    /// The rank requests no more images.
    pub(super) gives_up: bool,
}

/// A rank's own work, the same on the root and on the others.
pub(super) struct RankLoop<'a, C: Communicator> {
    pub(super) comm: &'a C,
    pub(super) setup: &'a Setup,
    pub(super) queue: &'a TaskQueue,
    pub(super) journal: &'a Journal,
    pub(super) sampler: Sampler<'a>,
    pub(super) cpu: CpuMeter,
    pub(super) events: Receiver<Event>,
    pub(super) stop: &'a AtomicBool,
    /// Set when images in progress are to be left unfinished.
    pub(super) abandon: &'a AtomicBool,
    pub(super) grace: Grace,
    pub(super) images: Vec<Outcome>,
    pub(super) workers: usize,
    pub(super) idle: &'a IdleTime,
    /// Seconds on images that it shared with other ranks.
    pub(super) shared: Timings,
    pub(super) progress: ProgressUpdate,
    pub(super) late: usize,
    pub(super) working: bool,
    /// The images to return, if the root accepts returned images.
    pub(super) hand_back: Option<HandBack>,
    /// First images that could not be opened.
    pub(super) unopened: usize,
}

impl<C: Communicator> RankLoop<'_, C> {
    /// Waits up to `wait` for events of the workers and handles all that have arrived.
    pub(super) fn listen(&mut self, wait: Duration) {
        self.journal.say_alive();
        if self.working {
            self.sampler.look(&self.images);
            self.take_events(wait);
        } else {
            std::thread::sleep(wait);
        }
        if self.stop.load(Ordering::Relaxed) && !self.progress.stopping {
            tracing::warn!("stopping: finishing images in progress, starting no new ones");
            self.stop_early();
        }
        let stopped = self.stop.load(Ordering::Relaxed);
        if self.grace.is_over(stopped, self.setup.clock.now_s()) {
            self.abandon.store(true, Ordering::Relaxed);
        }
    }

    fn take_events(&mut self, wait: Duration) {
        let mut received = self.events.recv_timeout(wait);
        loop {
            match received {
                Ok(event) => self.on_event(event),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    self.working = false;
                    return;
                }
            }
            received = self.events.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            });
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Ended(outcome) => self.on_outcome(outcome),
            Event::Late(index) => {
                if self.late == 0 {
                    tracing::warn!(
                        "the time left is too short for image {index}: neither it nor any other that would \
                         not be finished is started"
                    );
                }
                self.late += 1;
            }
            Event::Unfinished(index) => {
                tracing::warn!("image {index} is left unfinished; --resume starts it again");
                self.late += 1;
            }
            Event::Idle => {}
            Event::Panicked(message) => {
                let message = printable(&message);
                tracing::error!("a worker panicked, which ends the whole run: {message}");
                self.comm.abort(EXIT_PANIC);
            }
        }
    }

    fn on_outcome(&mut self, outcome: Outcome) {
        let index = outcome.index;
        for warning in &outcome.warnings {
            tracing::debug!("image {index}: {}", printable(&warning.text));
        }
        let Some(failure) = outcome.failure() else {
            let timings = outcome.timings;
            tracing::debug!(
                "image {index} done: read {:.3} s, filter {:.3} s, write {:.3} s, publish {:.3} s",
                timings.read_s,
                timings.filter_s,
                timings.write_s,
                timings.publish_s
            );
            self.progress.done += 1;
            self.progress.opens_images = true;
            self.images.push(outcome);
            return;
        };
        let error = printable(&failure.error);
        match failure.kind {
            FailureKind::CannotOpen if self.gives_back(index, &failure.error) => {
                tracing::debug!("image {index} is returned to rank 0: {error}");
                return;
            }
            FailureKind::CannotOpen => {}
            _ => self.progress.opens_images = true,
        }
        self.progress.failed += 1;
        if failure.kind == FailureKind::NoJournal && !self.progress.no_journal {
            tracing::error!(
                "stopping: without a journal no result may get its name; once the output folder can be \
                 written, --resume does the rest"
            );
            self.progress.no_journal = true;
            self.progress.stopping = true;
            self.queue.drain();
        }
        let no_space = failure.kind == FailureKind::NoSpace;
        self.progress.no_space += usize::from(no_space);
        // Log only the first error of a full disk.
        if no_space && self.progress.no_space > 1 {
            tracing::debug!("image {index} failed: {error}");
        } else {
            tracing::error!("image {index} failed ({}): {error}", failure.stage.name());
        }
        self.images.push(outcome);
    }

    /// Returns an image that cannot be opened, if this rank has opened none so far and the root accepts it.
    fn gives_back(&mut self, index: usize, error: &str) -> bool {
        let Some(hand_back) = self.hand_back.as_mut().filter(|_| !self.progress.opens_images) else {
            return false;
        };
        let entries = &self.setup.entries;
        let Ok(place) = entries.binary_search_by_key(&index, |entry| entry.index) else {
            return false;
        };
        self.unopened += 1;
        hand_back.places.push(place);
        error.clone_into(&mut hand_back.error);
        if self.unopened >= GIVE_UP_AFTER {
            hand_back.gives_up = true;
            hand_back.places.extend(self.queue.drain());
        }
        true
    }

    /// How many images to request ahead: one per worker, if the last image was fast.
    pub(super) fn ahead(&self) -> usize {
        let last = self.images.last();
        let quick = last.is_some_and(|image| image.timings.worker_s() < QUICK_IMAGE.as_secs_f64());
        if quick { self.workers } else { 0 }
    }

    pub(super) fn stop_early(&mut self) {
        self.progress.stopping = true;
        self.queue.drain();
    }

    /// This rank's record, when its workers have ended.
    pub(super) fn record(&mut self) -> RankRecord {
        let rank = self.comm.rank();
        self.sampler.finish(&self.images);
        let ranks = &self.setup.ranks;
        let elapsed_s = self.setup.clock.now_s();
        let images = std::mem::take(&mut self.images);
        let row = RankRow {
            rank,
            host: ranks.hosts[rank].clone(),
            threads: ranks.threads[rank],
            cpus: ranks.cpus[rank],
            elapsed_s,
            cpu_s: self.cpu.seconds(),
            max_rss_bytes: resources::peak_rss_bytes(),
            idle_s: self.idle.until(elapsed_s),
            cpu_model: resources::cpu_model(),
            device: self
                .setup
                .device
                .as_ref()
                .map_or(String::new(), |device| device.name().to_owned()),
            ..RankRow::default()
        };
        RankRecord {
            row: row.with_images(&images, self.shared),
            images,
        }
    }
}
