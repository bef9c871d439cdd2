//! Notes: the data, other than planes, that slabs store for later stages: a number for the whole 3-D volume,
//! and sums that a neighbour completes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The slab for which sums are stored, or from which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    /// The slab of the same slices.
    Own,
    /// The slab below it.
    Below,
    /// The slab above it.
    Above,
}

/// The notes of one slab.
#[derive(Default)]
struct Note {
    report: AtomicU64,
    for_neighbours: [Mutex<Option<Arc<Vec<f32>>>>; 3],
}

/// The notes of all slabs of an image.
#[derive(Default)]
pub(super) struct Notes {
    slabs: usize,
    stages: Vec<Vec<Note>>,
}

impl Notes {
    /// Bytes of empty notes.
    pub(super) fn bytes(stages: usize, volumes: usize, slabs: usize) -> u64 {
        [stages, volumes, slabs]
            .iter()
            .fold(size_of::<Note>() as u64, |all, &count| {
                all.saturating_mul(count as u64)
            })
    }

    /// Empty notes for this many stages, volumes, and slabs per volume.
    pub(super) fn new(stages: usize, volumes: usize, slabs: usize) -> Self {
        let of_stage = || (0..volumes * slabs).map(|_| Note::default()).collect();
        Notes {
            slabs,
            stages: (0..stages).map(|_| of_stage()).collect(),
        }
    }

    /// Sets the number of a slab.
    pub(super) fn report(&self, stage: usize, volume: usize, slab: usize, number: f64) {
        let note = &self.stages[stage][volume * self.slabs + slab];
        note.report.store(number.to_bits(), Ordering::Relaxed);
    }

    /// The numbers of all slabs of a 3-D volume, lowest first.
    pub(super) fn reports(&self, stage: usize, volume: usize) -> impl Iterator<Item = f64> + '_ {
        let notes = &self.stages[stage][volume * self.slabs..][..self.slabs];
        notes
            .iter()
            .map(|note| f64::from_bits(note.report.load(Ordering::Relaxed)))
    }

    /// Stores sums of a slab for itself or a neighbour.
    pub(super) fn leave(&self, stage: usize, volume: usize, slab: usize, to: Neighbour, sums: Arc<Vec<f32>>) {
        let note = &self.stages[stage][volume * self.slabs + slab];
        *lock(&note.for_neighbours[to as usize]) = Some(sums);
    }

    /// Takes the sums that the slab itself or a neighbour has stored for it; none if there is no such
    /// neighbour.
    pub(super) fn take(&self, stage: usize, volume: usize, slab: usize, from: Neighbour) -> Arc<Vec<f32>> {
        let (slab, to) = match from {
            Neighbour::Own => (Some(slab), Neighbour::Own),
            Neighbour::Below => (slab.checked_sub(1), Neighbour::Above),
            Neighbour::Above => (Some(slab + 1), Neighbour::Below),
        };
        match slab.filter(|&slab| slab < self.slabs) {
            Some(slab) => {
                let note = &self.stages[stage][volume * self.slabs + slab];
                lock(&note.for_neighbours[to as usize]).take().unwrap_or_default()
            }
            None => Arc::default(),
        }
    }
}

fn lock<T>(sums: &Mutex<T>) -> MutexGuard<'_, T> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_reach_their_neighbour_once() {
        let notes = Notes::new(2, 2, 3);
        notes.leave(1, 1, 0, Neighbour::Above, Arc::new(vec![1.0]));
        notes.leave(1, 1, 2, Neighbour::Below, Arc::new(vec![2.0]));
        notes.leave(1, 1, 1, Neighbour::Own, Arc::new(vec![3.0]));
        assert_eq!(*notes.take(1, 1, 1, Neighbour::Below), [1.0]);
        assert_eq!(*notes.take(1, 1, 1, Neighbour::Above), [2.0]);
        assert_eq!(*notes.take(1, 1, 1, Neighbour::Own), [3.0]);
        assert!(notes.take(1, 1, 1, Neighbour::Own).is_empty());
        assert!(notes.take(1, 1, 0, Neighbour::Below).is_empty());
        assert!(notes.take(1, 1, 2, Neighbour::Above).is_empty());
        notes.report(0, 1, 2, 5.0);
        assert_eq!(notes.reports(0, 1).collect::<Vec<_>>(), [0.0, 0.0, 5.0]);
    }
}
