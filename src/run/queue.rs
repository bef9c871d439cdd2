//! Queue: the images that a rank has not started. Workers take them one by one; read-ahead opens those near
//! the front.

use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Indices in the list, in the order of processing.
#[derive(Default)]
pub(super) struct TaskQueue {
    state: Mutex<State>,
    /// For workers: images were added, or the queue was closed.
    changed: Condvar,
    /// For read-ahead: other images are now near the front.
    moved: Condvar,
}

#[derive(Default)]
struct State {
    places: VecDeque<usize>,
    /// The queued images that were given to read-ahead.
    given_ahead: HashSet<usize>,
    waiting: usize,
    closed: bool,
}

impl TaskQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic never happens with the lock held: no code that can panic runs there.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds images.
    pub(super) fn add(&self, places: impl IntoIterator<Item = usize>) {
        self.state().places.extend(places);
        self.changed.notify_all();
        self.moved.notify_one();
    }

    /// Closes the queue: no images will be added.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
        self.moved.notify_all();
    }

    /// Closes the queue and returns the images that were not started.
    pub(super) fn drain(&self) -> VecDeque<usize> {
        let mut state = self.state();
        let places = std::mem::take(&mut state.places);
        state.given_ahead.clear();
        drop(state);
        self.close();
        places
    }

    /// Moves the cheapest images to the front.
    pub(super) fn put_smallest_first(&self, costs_s: &[f64]) {
        let mut state = self.state();
        let by_cost = |a: &usize, b: &usize| costs_s[*a].total_cmp(&costs_s[*b]);
        state.places.make_contiguous().sort_by(by_cost);
        drop(state);
        self.moved.notify_one();
    }

    /// How many images are needed so that each waiting worker gets one and `ahead` more are queued; 0 after
    /// closing.
    pub(super) fn wanted(&self, ahead: usize) -> usize {
        let state = self.state();
        if state.closed {
            0
        } else {
            (state.waiting + ahead).saturating_sub(state.places.len())
        }
    }

    /// The next image. If there is none yet, calls `on_wait` and waits; `None` if the queue is closed and
    /// empty.
    pub(super) fn next(&self, on_wait: impl Fn()) -> Option<usize> {
        let mut state = self.state();
        loop {
            if let Some(place) = state.places.pop_front() {
                state.given_ahead.remove(&place);
                let is_last = state.closed && state.places.is_empty();
                drop(state);
                if is_last {
                    self.moved.notify_all();
                } else {
                    self.moved.notify_one();
                }
                return Some(place);
            }
            if state.closed {
                return None;
            }
            state.waiting += 1;
            on_wait();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// The first queued image that is near the front and was not returned here before. Waits for one; `None`
    /// if the queue is closed and empty. `is_near` is called for each image with the number and the total
    /// cost of the images before it.
    pub(super) fn upcoming(&self, costs_s: &[f64], is_near: impl Fn(usize, f64) -> bool) -> Option<usize> {
        let mut state = self.state();
        loop {
            let mut before_s = 0.0;
            let mut found = None;
            for (before, &place) in state.places.iter().enumerate() {
                if !is_near(before, before_s) {
                    break;
                }
                if !state.given_ahead.contains(&place) {
                    found = Some(place);
                    break;
                }
                before_s += costs_s[place];
            }
            if let Some(place) = found {
                state.given_ahead.insert(place);
                drop(state);
                // There can be another one for another thread; if not, that thread sleeps again.
                self.moved.notify_one();
                return Some(place);
            }
            if state.closed && state.places.is_empty() {
                return None;
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether an image returned by [`TaskQueue::upcoming`] is still queued.
    pub(super) fn is_ahead(&self, place: usize) -> bool {
        self.state().given_ahead.contains(&place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_come_in_order_and_those_near_the_front_are_given_ahead_once() {
        let queue = TaskQueue::default();
        queue.add([4, 2, 7, 1]);
        let costs_s = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        // The first image, and those that start within a second and a half.
        let near = |before: usize, before_s: f64| before < 1 || before_s < 1.5;
        assert_eq!(queue.upcoming(&costs_s, near), Some(4));
        assert_eq!(queue.upcoming(&costs_s, near), Some(2));
        assert!(queue.is_ahead(4));
        assert_eq!(queue.next(|| panic!("there is one")), Some(4));
        assert!(!queue.is_ahead(4) && queue.is_ahead(2));
        assert_eq!(queue.upcoming(&costs_s, near), Some(7));
        queue.close();
        for expected in [2, 7, 1] {
            assert_eq!(queue.next(|| panic!("there is one")), Some(expected));
        }
        assert_eq!(queue.next(|| panic!("none will come")), None);
        assert_eq!(queue.upcoming(&costs_s, near), None);
    }

    #[test]
    fn what_waits_is_told_and_ends_when_the_queue_is_closed() {
        let queue = TaskQueue::default();
        let waits = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                queue.next(|| {
                    waits.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                })
            });
            let ahead: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| queue.upcoming(&[1.0], |_, _| true)))
                .collect();
            while queue.wanted(0) == 0 {
                std::thread::yield_now();
            }
            assert_eq!(queue.wanted(2), 3);
            queue.drain();
            assert_eq!(next.join().unwrap(), None);
            for ahead in ahead {
                assert_eq!(ahead.join().unwrap(), None);
            }
        });
        assert!(waits.into_inner() >= 1);
        assert_eq!(queue.wanted(5), 0);
    }
}
