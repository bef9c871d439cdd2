//! Read-ahead: opens the files of the images that a rank's workers process next, and lets the system fetch
//! them.
//!
//! Their content goes into the page cache, so this needs no memory of the process and little time. It helps
//! if files come over a network or from a busy disk, because the workers process earlier images during the
//! waits.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::limits;
use super::queue::TaskQueue;
use crate::image_io::OpenedInput;
use crate::images::ImageEntry;

/// Bounds of the number of threads that wait for files; within them, one per worker.
const THREADS: RangeInclusive<usize> = 4..=16;

/// The next image of each worker is always fetched, and so are images that the workers will start within this
/// many seconds.
const HORIZON_S: f64 = 0.25;
/// At most this many images per worker, because each is an open file.
const MOST_IMAGES: usize = 4;

/// The files fetched ahead on a rank.
pub(super) struct ReadAhead<'a> {
    queue: &'a TaskQueue,
    entries: &'a [ImageEntry],
    /// Estimated seconds of each image.
    costs_s: &'a [f64],
    workers: usize,
    /// Opened files of images that no worker has started.
    opened: Mutex<HashMap<usize, OpenedInput>>,
}

impl<'a> ReadAhead<'a> {
    /// Read-ahead for a rank's queue of indices in `entries`.
    pub(super) fn new(
        queue: &'a TaskQueue,
        entries: &'a [ImageEntry],
        costs_s: &'a [f64],
        workers: usize,
    ) -> Self {
        Self {
            queue,
            entries,
            costs_s,
            workers,
            opened: Mutex::default(),
        }
    }

    /// How many threads should [run](Self::run) it for this number of images.
    pub(super) fn threads(&self, images: usize) -> usize {
        self.workers.clamp(*THREADS.start(), *THREADS.end()).min(images)
    }

    /// Fetches until the queue is empty and closed.
    pub(super) fn run(&self) {
        let most = (MOST_IMAGES * self.workers).min(limits::files_ahead());
        let is_near = |before: usize, before_s: f64| {
            before < most && (before < self.workers || before_s < HORIZON_S * self.workers as f64)
        };
        while let Some(place) = self.queue.upcoming(self.costs_s, is_near) {
            let Some(fetched) = OpenedInput::open_ahead(&self.entries[place].input) else {
                continue;
            };
            // A worker leaves the queue before it comes here. While this lock is held, it cannot have been
            // here yet.
            let mut opened = self.opened();
            if self.queue.is_ahead(place) {
                opened.insert(place, fetched);
            }
        }
    }

    /// The opened file of an image that a worker has taken from the queue; `None` if it is not open yet or
    /// cannot be opened.
    pub(super) fn take(&self, place: usize) -> Option<OpenedInput> {
        self.opened().remove(&place)
    }

    fn opened(&self) -> MutexGuard<'_, HashMap<usize, OpenedInput>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn each_image_is_opened_once_and_nothing_stays_open() {
        let folder = tempfile::tempdir().unwrap();
        let entries: Vec<ImageEntry> = (0..40)
            .map(|place| {
                let input = folder.path().join(format!("{place}.nii"));
                // One of the files does not exist.
                if place != 7 {
                    std::fs::write(&input, [1; 400]).unwrap();
                }
                ImageEntry {
                    index: place + 1,
                    input,
                    output: PathBuf::from("unused"),
                    mask: None,
                    second: None,
                    bids: false,
                }
            })
            .collect();
        let costs_s = vec![0.001; entries.len()];
        let queue = TaskQueue::default();
        queue.add(0..entries.len());
        queue.close();
        let ahead = ReadAhead::new(&queue, &entries, &costs_s, 2);
        let (mut found, mut most, mut missing_opened) = (0, 0, false);
        std::thread::scope(|scope| {
            for _ in 0..ahead.threads(entries.len()) {
                scope.spawn(|| ahead.run());
            }
            // Assert only at the end, because the threads wait for the end of the queue.
            while let Some(place) = queue.next(|| ()) {
                let fetched = ahead.take(place);
                most = most.max(ahead.opened().len());
                missing_opened |= fetched.is_some() && place == 7;
                found += usize::from(fetched.is_some());
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        assert!(ahead.opened().is_empty());
        assert!(found > 0 && most <= 2 * MOST_IMAGES && !missing_opened);
    }

    #[test]
    fn there_are_no_more_threads_than_images() {
        let queue = TaskQueue::default();
        let threads = |workers, images| ReadAhead::new(&queue, &[], &[], workers).threads(images);
        assert_eq!((threads(1, 1), threads(1, 100)), (1, 4));
        assert_eq!((threads(8, 100), threads(64, 100)), (8, 16));
    }
}
