//! Slabs: which part of which stage may be computed next, and threads that compute them together.
//!
//! Knows nothing of voxels. A part waits until slices are read and until so many first parts of other stages
//! are finished; that covers halos, buffers that are used again, and results that take the place of the
//! input. What is nearest to the result goes first.

use std::ops::Range;

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A part of a stage's work.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// The 3-D volumes, by number.
    pub(crate) volumes: Range<usize>,
    /// Slices of each of them.
    pub(crate) slices: Range<usize>,
    /// Columns along z of each of them.
    pub(crate) columns: Range<usize>,
    /// So many slices, counted through all volumes, are complete once this part and those before it are
    /// finished.
    pub(crate) complete: usize,
    /// What it waits for.
    pub(crate) after: Vec<After>,
}

/// What a part waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// So many slices are read, counted through all volumes.
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
    /// So many slices of a stage are complete.
    pub(crate) fn complete(parts: &[Vec<Part>], stage: usize, slices: usize) -> Self {
        let count = parts[stage].partition_point(|part| part.complete < slices) + 1;
        After::Parts {
            stage,
            count: count.min(parts[stage].len()),
        }
    }
}

/// All parts of an image's work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// Those of each stage, in the order in which they are started.
    pub(crate) stages: Vec<Vec<Part>>,
    /// Sets of slices in which the image is read, counted through all volumes.
    pub(crate) to_read: Vec<Range<usize>>,
}

/// One part to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    /// The stage.
    pub(crate) stage: usize,
    /// Which of its parts.
    pub(crate) part: usize,
}

/// How far the work on an image is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    read: usize,
    stages: Vec<StageProgress>,
}

/// Parts of a stage: some are started, some finished, those before `until` all finished.
#[derive(Debug, Default)]
struct StageProgress {
    started: usize,
    finished: Vec<bool>,
    until: usize,
}

impl Progress {
    /// No slice is read, no part started.
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

    /// The slices before `until` are read, counted through all volumes.
    pub(crate) fn has_read(&mut self, until: usize) {
        self.read = until;
    }

    /// Starts the part that is nearest to the result; `None` where all that is left waits for something, or
    /// nothing is left.
    pub(crate) fn next(&mut self, parts: &Parts) -> Option<Task> {
        for stage in (0..self.stages.len()).rev() {
            let part = self.stages[stage].started;
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

    /// A part is finished.
    pub(crate) fn finish(&mut self, task: Task) {
        let stage = &mut self.stages[task.stage];
        stage.finished[task.part] = true;
        while stage.finished.get(stage.until) == Some(&true) {
            stage.until += 1;
        }
    }

    /// So many slices of the result are complete, counted through all volumes.
    pub(crate) fn complete(&self, parts: &Parts) -> usize {
        match (self.stages.last(), parts.stages.last()) {
            (Some(last), Some(parts)) => last.until.checked_sub(1).map_or(0, |part| parts[part].complete),
            _ => self.read,
        }
    }
}

/// What a thread finds when it asks for work.
pub(crate) enum Next<T> {
    /// This is to be done.
    Do(T),
    /// Something else has to be finished first.
    Wait,
    /// There will be nothing more to do.
    Over,
}

/// Work that several threads share: its state under a lock, and a bell that rings when it changes.
#[derive(Default)]
pub(crate) struct Board<W> {
    work: Mutex<W>,
    changed: Condvar,
}

impl<W> Board<W> {
    /// Changes the state, and wakes those who wait for that.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut W) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Does what `next` finds until it is over, waiting where it must.
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

    /// The state, once nobody works on it any more.
    pub(crate) fn into_inner(self) -> W {
        self.work.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, W> {
        // A panic of one thread ends the others through `update`, and then the run.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
