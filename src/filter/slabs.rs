//! Slabs: decides which part of which stage can be computed next, and lets several threads compute them.
//!
//! This module does not access voxels. A part waits until slices are read and until a number of first parts
//! of other stages are finished. This covers halos, reused buffers, and results that overwrite the input. The
//! part nearest to the result comes first.

use std::ops::Range;

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A part of the work of a stage.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Numbers of the 3-D volumes.
    pub(crate) volumes: Range<usize>,
    /// Slices of each of them.
    pub(crate) slices: Range<usize>,
    /// Columns along z of each of them.
    pub(crate) columns: Range<usize>,
    /// Number of slices, counted through all volumes, that are complete once this part and all earlier ones
    /// are finished.
    pub(crate) complete: usize,
    /// The conditions for its start.
    pub(crate) after: Vec<After>,
}

/// A condition for the start of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// This many slices are read, counted through all volumes.
    Read(usize),
    /// The first `count` parts of a stage are finished.
    Parts {
        /// The stage.
        stage: usize,
        /// How many.
        count: usize,
    },
}

impl After {
    /// This many slices of a stage are complete.
    pub(crate) fn complete(parts: &[Vec<Part>], stage: usize, slices: usize) -> Self {
        let count = parts[stage].partition_point(|part| part.complete < slices) + 1;
        After::Parts {
            stage,
            count: count.min(parts[stage].len()),
        }
    }
}

/// All parts of the work on an image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// The parts of each stage, in starting order.
    pub(crate) stages: Vec<Vec<Part>>,
    /// The sets of slices in which the image is read, counted through all volumes.
    pub(crate) to_read: Vec<Range<usize>>,
}

/// One part to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// The stage.
    pub(crate) stage: usize,
    /// The number of its part.
    pub(crate) part: usize,
}

/// The progress of the work on an image.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    read: usize,
    stages: Vec<StageProgress>,
}

/// The state of a stage's parts: which are started and finished. All parts before `until` are finished.
#[derive(Debug, Default)]
struct StageProgress {
    started: usize,
    finished: Vec<bool>,
    until: usize,
}

impl Progress {
    /// The state before any slice is read or part started.
    pub(crate) fn new(parts: &Parts) -> Self {
        let stages = parts.stages.iter().map(|parts| StageProgress {
            finished: vec![false; parts.len()],
            ..StageProgress::default()
        });
        Progress {
            read: 0,
            stages: stages.collect(),
        }
    }

    /// Records that the slices before `until` are read, counted through all volumes.
    pub(crate) fn has_read(&mut self, until: usize) {
        self.read = until;
    }

    /// Starts the part that is nearest to the result. `None` if all remaining parts must wait, or none are
    /// left.
    pub(crate) fn next(&mut self, parts: &Parts) -> Option<Task> {
        for stage in (0..self.stages.len()).rev() {
            let StageProgress {
                started, finished, ..
            } = &mut self.stages[stage];
            // Parts that nobody needs are finished from the beginning.
            *started += finished[*started..]
                .iter()
                .take_while(|finished| **finished)
                .count();
            let part = *started;
            let Some(waiting) = parts.stages[stage].get(part) else {
                continue;
            };
            let is_over = |&after: &After| match after {
                After::Read(slices) => slices <= self.read,
                After::Parts { stage, count } => count <= self.stages[stage].until,
            };
            if waiting.after.iter().all(is_over) {
                self.stages[stage].started += 1;
                return Some(Task { stage, part });
            }
        }
        None
    }

    /// Records that a part is finished.
    pub(crate) fn finish(&mut self, task: Task) {
        let stage = &mut self.stages[task.stage];
        stage.finished[task.part] = true;
        while stage.finished.get(stage.until) == Some(&true) {
            stage.until += 1;
        }
    }

    /// Number of complete slices of the result, counted through all volumes.
    pub(crate) fn complete(&self, parts: &Parts) -> usize {
        match (self.stages.last(), parts.stages.last()) {
            (Some(last), Some(parts)) => last.until.checked_sub(1).map_or(0, |part| parts[part].complete),
            _ => self.read,
        }
    }
}

/// The reply to a thread that asks for work.
pub(crate) enum Next<T> {
    /// Work to do.
    Do(T),
    /// Wait until other work is finished.
    Wait,
    /// No more work will come.
    Over,
}

/// Work of several threads: its state under a lock, and a condition variable for changes.
#[derive(Default)]
pub(crate) struct Board<W> {
    work: Mutex<W>,
    changed: Condvar,
}

impl<W> Board<W> {
    /// Changes the state, and wakes waiting threads.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut W) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Gets work from `next` and does it with `act`, until no more work will come. Waits if necessary.
    pub(crate) fn work<T>(&self, next: impl Fn(&mut W) -> Next<T>, mut act: impl FnMut(T)) {
        loop {
            let mut work = self.lock();
            let task = loop {
                match next(&mut work) {
                    Next::Do(task) => break task,
                    Next::Over => return,
                    Next::Wait => {
                        work = self.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(work);
            act(task);
        }
    }

    /// The state, after all threads have returned.
    pub(crate) fn into_inner(self) -> W {
        self.work.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, W> {
        // If a thread panics, `update` ends the other threads and then the run.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
