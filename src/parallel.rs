//! A parallel map over a slice, on scoped threads.

use std::sync::{Mutex, PoisonError};

/// The maximum number of items that a thread takes at a time.
const BATCH: usize = 64;

/// Calls `f` for each item on up to `threads` threads, including the calling one. The results are in the
/// order of the items.
pub(crate) fn par_map<T: Sync, R: Send>(items: &[T], threads: usize, f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    par_map_with(items, threads, || (), |(), item| f(item))
}

/// [`par_map`] with a state for each thread, such as a buffer.
pub(crate) fn par_map_with<T: Sync, S, R: Send>(
    items: &[T],
    threads: usize,
    state: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, &T) -> R + Sync,
) -> Vec<R> {
    let threads = threads.clamp(1, items.len().max(1));
    let batch = (items.len() / threads / 16).clamp(1, BATCH);
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(items.len(), || None);
    let batches = Mutex::new(items.chunks(batch).zip(results.chunks_mut(batch)));
    let next = || batches.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut state = state();
        while let Some((items, results)) = next() {
            for (item, result) in items.iter().zip(results) {
                *result = Some(f(&mut state, item));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    // Without reallocation, because a list can have a million images.
    let filled = |result: Option<R>| result.expect("every batch was taken");
    results.into_iter().map(filled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for (count, threads) in [(0, 4), (1, 4), (5, 2), (1000, 3), (7, 0)] {
            let items: Vec<usize> = (0..count).collect();
            let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
            assert_eq!(par_map(&items, threads, |item| item * 2), doubled);
        }
    }

    #[test]
    fn each_thread_has_one_state_and_all_work_at_the_same_time() {
        let states = AtomicUsize::new(0);
        let barrier = std::sync::Barrier::new(3);
        let results = par_map_with(
            &[(); 3],
            3,
            || states.fetch_add(1, Ordering::Relaxed),
            |state, ()| {
                barrier.wait();
                *state
            },
        );
        assert_eq!(states.into_inner(), 3);
        let mut results = results;
        results.sort_unstable();
        assert_eq!(results, [0, 1, 2]);
    }
}
