//! Playing a list through a strategy: who would do which image when, with the measured spread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::partition::{Strategy, largest_first, partition};
use crate::study::statistics::normal_quantile;

/// How long a worker waits for an answer of the dynamic strategy: both sides look every 0.3 ms.
const REQUEST_WAIT_S: f64 = 6e-4;

/// A list to be played: seconds of each image, and what the partition believes them to cost.
#[derive(Clone, Debug)]
pub struct Score {
    /// Seconds of each image.
    pub seconds: Vec<f64>,
    /// What the partition goes by.
    pub costs: Vec<f64>,
}

/// Who plays it.
#[derive(Clone, Copy, Debug)]
pub struct Players {
    /// Ranks.
    pub ranks: usize,
    /// Workers of each.
    pub threads: usize,
    /// How images are shared out.
    pub strategy: Strategy,
    /// Rank 0's time for a request (dynamic).
    pub request_s: f64,
    /// How much workers differ in speed: the standard deviation of the logarithm of what one takes.
    pub worker_sd: f64,
}

impl Players {
    fn workers(&self) -> usize {
        self.ranks * self.threads
    }

    /// How many times as long as the mean each worker takes: as far apart as so many draws from a normal distribution are
    /// expected to lie (Blom, Statistical Estimates and Transformed Beta-Variables, 1958), in an order that has nothing to do
    /// with the list's and is always the same.
    fn slowness(&self) -> Vec<f64> {
        let count = self.workers();
        let mut slowness: Vec<f64> = (0..count)
            .map(|place| {
                let quantile = (place as f64 + 0.625) / (count as f64 + 0.25);
                (self.worker_sd * normal_quantile(quantile)).exp()
            })
            .collect();
        let mean = slowness.iter().sum::<f64>() / count.max(1) as f64;
        slowness.iter_mut().for_each(|worker| *worker /= mean);
        slowness.shuffle(&mut ChaCha8Rng::seed_from_u64(2));
        slowness
    }
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Played {
    /// Until the last worker was done, seconds.
    pub longest_s: f64,
    /// The mean of the workers, seconds.
    pub mean_s: f64,
}

impl Played {
    /// Longest over mean.
    pub fn imbalance(&self) -> f64 {
        if self.mean_s > 0.0 {
            self.longest_s / self.mean_s
        } else {
            1.0
        }
    }
}

impl Score {
    /// A list whose images differ from their mean by `spread` (standard deviation of the logarithm), always in the same
    /// way for the same list, and together take what their means come to.
    pub fn new(means_s: &[f64], costs: Vec<f64>, spread: f64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        // So that the mean of exp(noise) is 1.
        let noise = Normal::new(-spread * spread / 2.0, spread.max(0.0)).ok();
        let mut seconds: Vec<f64> = means_s
            .iter()
            .map(|mean| mean * noise.map_or(1.0, |noise| noise.sample(&mut random).exp()))
            .collect();
        let whole = means_s.iter().sum::<f64>() / seconds.iter().sum::<f64>();
        if whole.is_finite() {
            seconds.iter_mut().for_each(|image| *image *= whole);
        }
        Self { seconds, costs }
    }

    /// Plays it. `slow_down` makes every image longer, `gap_s` lies between images.
    pub fn play(&self, players: &Players, slow_down: f64, gap_s: f64) -> Played {
        let slowness = players.slowness();
        let image_s = |place: usize, worker: usize| {
            self.seconds[place] * slow_down * slowness[worker] + gap_s
        };
        let mut loads: Vec<f64> = Vec::with_capacity(players.workers());
        if players.strategy == Strategy::Dynamic {
            let mut workers = Workers::new(players.workers());
            let mut root_free_s = 0.0_f64;
            for place in largest_first(&self.costs) {
                let (free_s, worker) = workers.next();
                // Rank 0 answers one request after the other.
                root_free_s = root_free_s.max(free_s) + players.request_s;
                workers.give_back(
                    root_free_s + REQUEST_WAIT_S + image_s(place, worker),
                    worker,
                );
            }
            loads.extend(workers.loads());
        } else {
            let shares = partition(players.strategy, &self.costs, players.ranks);
            for (rank, share) in shares.into_iter().enumerate() {
                let mut workers = Workers::new(players.threads);
                for place in share {
                    let (free_s, worker) = workers.next();
                    let taken_s = image_s(place, rank * players.threads + worker);
                    workers.give_back(free_s + taken_s, worker);
                }
                loads.extend(workers.loads());
            }
        }
        Played {
            longest_s: loads.iter().copied().fold(0.0, f64::max),
            mean_s: loads.iter().sum::<f64>() / loads.len().max(1) as f64,
        }
    }
}

/// Workers by when they are free.
struct Workers(BinaryHeap<Reverse<(Seconds, usize)>>);

impl Workers {
    fn new(count: usize) -> Self {
        Self(
            (0..count)
                .map(|worker| Reverse((Seconds(0.0), worker)))
                .collect(),
        )
    }

    fn next(&mut self) -> (f64, usize) {
        let Reverse((Seconds(free_s), worker)) = self.0.pop().expect("there is a worker");
        (free_s, worker)
    }

    fn give_back(&mut self, free_s: f64, worker: usize) {
        self.0.push(Reverse((Seconds(free_s), worker)));
    }

    fn loads(&self) -> impl Iterator<Item = f64> + '_ {
        self.0.iter().map(|Reverse((Seconds(free_s), _))| *free_s)
    }
}

/// Seconds with a total order.
#[derive(Clone, Copy, PartialEq)]
struct Seconds(f64);

impl Eq for Seconds {}

impl PartialOrd for Seconds {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Seconds {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(seconds: &[f64]) -> Score {
        Score::new(seconds, seconds.to_vec(), 0.0)
    }

    fn players(ranks: usize, threads: usize, strategy: Strategy) -> Players {
        Players {
            ranks,
            threads,
            strategy,
            request_s: 0.0,
            worker_sd: 0.0,
        }
    }

    #[test]
    fn strategies_differ_as_they_should() {
        let list = score(&[8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]);
        let longest = |strategy| list.play(&players(2, 1, strategy), 1.0, 0.0).longest_s;
        assert_eq!(longest(Strategy::Block), 11.0);
        assert_eq!(longest(Strategy::Cyclic), 11.0);
        assert_eq!(longest(Strategy::Size), 8.0);
        assert!((longest(Strategy::Dynamic) - 8.0).abs() < 0.01);
    }

    #[test]
    fn threads_take_the_ranks_share_in_turn() {
        let played = score(&[3.0, 3.0, 3.0, 3.0]).play(&players(1, 2, Strategy::Size), 2.0, 0.5);
        assert_eq!((played.longest_s, played.mean_s), (13.0, 13.0));
        assert_eq!(played.imbalance(), 1.0);
    }

    #[test]
    fn a_busy_root_keeps_workers_waiting() {
        let list = score(&[0.001; 1000]);
        let busy = Players {
            request_s: 0.01,
            ..players(100, 1, Strategy::Dynamic)
        };
        assert!(list.play(&busy, 1.0, 0.0).longest_s >= 10.0);
    }

    #[test]
    fn the_slowest_worker_ends_the_run_unless_the_others_take_its_work() {
        let list = score(&[0.01; 4000]);
        let ratio = |ranks, strategy| {
            let even = players(ranks, 1, strategy);
            let uneven = Players {
                worker_sd: 0.1,
                ..even
            };
            list.play(&uneven, 1.0, 0.0).longest_s / list.play(&even, 1.0, 0.0).longest_s
        };
        // The expected largest of 2 and of 10 draws lies 0.56 and 1.54 standard deviations above the mean.
        assert!((ratio(2, Strategy::Size) - 1.056).abs() < 0.01);
        assert!((ratio(10, Strategy::Size) - 1.16).abs() < 0.02);
        assert!((ratio(10, Strategy::Dynamic) - 1.0).abs() < 0.02);
        assert_eq!(ratio(1, Strategy::Size), 1.0);
    }

    #[test]
    fn noise_keeps_the_mean_and_its_own_ways() {
        let means = vec![1.0; 20_000];
        let noisy = Score::new(&means, means.clone(), 0.5);
        let mean = noisy.seconds.iter().sum::<f64>() / 20_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(
            noisy.seconds,
            Score::new(&means, means.clone(), 0.5).seconds
        );
        // Of few images, too, nothing is lost or gained by the noise.
        let few = Score::new(&[1.0, 2.0, 4.0], vec![1.0; 3], 0.5);
        assert!((few.seconds.iter().sum::<f64>() - 7.0).abs() < 1e-9);
        assert_ne!(few.seconds, [1.0, 2.0, 4.0]);
    }
}
