//! Read-ahead: the files of the images that a rank's workers begin next are opened, and fetched by the
//! system.
//!
//! Their content goes into the system's cache, so that this costs no memory of the process and hardly any of
//! its time. It pays where files come over a network or from a busy disk: the waits for a file's opening and
//! for its bytes fall into the work on the images before.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::limits;
use super::queue::TaskQueue;
use crate::image_io::OpenedInput;
use crate::images::ImageEntry;

/// Threads that wait for files, as many as there are workers but within these bounds.
const THREADS: RangeInclusive<usize> = 4..=16;

/// The next image of each worker is always fetched, and so are those that they will begin within so many
/// seconds.
const HORIZON_S: f64 = 0.25;
/// But no more than so many for each worker: each is an open file.
const MOST_IMAGES: usize = 4;

/// The files that are fetched ahead on a rank.
pub(super) struct ReadAhead<'a> {
    queue: &'a TaskQueue,
    entries: &'a [ImageEntry],
    /// Estimated seconds of each image.
    costs_s: &'a [f64],
    workers: usize,
    /// Of images that no worker has started.
    opened: Mutex<HashMap<usize, OpenedInput>>,
}

impl<'a> ReadAhead<'a> {
    /// Read-ahead for a rank's queue of places in `entries`.
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

    /// How many threads are to [run](Self::run) it for so many images.
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
            // A worker leaves the queue first and comes here then: with this lock held it can only be still
            // to come.
            let mut opened = self.opened();
            if self.queue.is_ahead(place) {
                opened.insert(place, fetched);
            }
        }
    }

    /// The opened file of an image that a worker has taken from the queue; `None` where it was not opened
    /// yet, or could not be.
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
                // One of them is not there.
                if place != 7 {
                    std::fs::write(&input, [1; 400]).unwrap();
                }
                ImageEntry {
                    index: place + 1,
                    input,
                    output: PathBuf::from("unused"),
                    mask: None,
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
            // What fails is said at the end: the threads wait for the queue's.
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
