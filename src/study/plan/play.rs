//! Simulating a run of a list: which worker would process which image when, with the measured spread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use crate::partition::{Cost, Strategy, largest_first, partition};
use crate::study::statistics::normal_quantile;

/// How long a worker waits for rank 0 with the dynamic strategy: both sides look every 0.3 ms.
const REQUEST_WAIT_S: f64 = 6e-4;

/// The images of a list: seconds of each, and the costs that the partition goes by.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    seconds: Vec<f64>,
    costs: Vec<f64>,
}

/// The ranks that process it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    pub strategy: Strategy,
    /// Rank 0's time for a request (dynamic).
    pub request_s: f64,
    /// How much workers differ in speed: the standard deviation of the logarithm of what one takes.
    pub worker_sd: f64,
}

impl Machine {
    /// How many times as long as the mean each worker takes: as far apart as so many draws from a normal
    /// distribution are expected to lie (Blom, Statistical Estimates and Transformed Beta-Variables, 1958),
    /// always in the same order, which has nothing to do with the list's.
    fn slowness(&self) -> Vec<f64> {
        let count = self.ranks * self.threads;
        let slowness_of = |place: usize| {
            let quantile = (place as f64 + 0.625) / (count as f64 + 0.25);
            (self.worker_sd * normal_quantile(quantile)).exp()
        };
        let mut slowness: Vec<f64> = (0..count).map(slowness_of).collect();
        let mean = slowness.iter().sum::<f64>() / count.max(1) as f64;
        slowness.iter_mut().for_each(|worker| *worker /= mean);
        slowness.shuffle(&mut ChaCha8Rng::seed_from_u64(2));
        slowness
    }
}

/// How long the workers are busy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Played {
    /// The last one, seconds.
    pub longest_s: f64,
    /// All, on average, seconds.
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

impl Workload {
    /// Images that differ from their means by `spread` (standard deviation of the logarithm), always in the
    /// same way for the same list, and that together take what their means add up to.
    pub fn new(means_s: &[f64], costs: Vec<f64>, spread: f64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let noise = Normal::new(0.0, spread.max(0.0)).ok();
        let mut noisy = |mean: &f64| mean * noise.map_or(1.0, |noise| noise.sample(&mut random).exp());
        let mut seconds: Vec<f64> = means_s.iter().map(&mut noisy).collect();
        let whole = means_s.iter().sum::<f64>() / seconds.iter().sum::<f64>();
        if whole.is_finite() {
            seconds.iter_mut().for_each(|image| *image *= whole);
        }
        Self { seconds, costs }
    }

    /// Processes it; every image takes `slow_down` times as long.
    pub fn play(&self, machine: &Machine, slow_down: f64) -> Played {
        let slowness = machine.slowness();
        let image_s = |place: usize, worker: usize| self.seconds[place] * slow_down * slowness[worker];
        let mut loads: Vec<f64> = Vec::with_capacity(slowness.len());
        if machine.strategy == Strategy::Dynamic {
            let mut workers = Workers::new(slowness.len());
            let mut root_free_s = 0.0_f64;
            for place in largest_first(&self.costs) {
                let (free_s, worker) = workers.next();
                // Rank 0 answers one request after the other.
                root_free_s = root_free_s.max(free_s) + machine.request_s;
                workers.give_back(root_free_s + REQUEST_WAIT_S + image_s(place, worker), worker);
            }
            loads.extend(workers.loads());
        } else {
            let shares = partition(machine.strategy, &self.costs, machine.ranks);
            for (rank, share) in shares.into_iter().enumerate() {
                let mut workers = Workers::new(machine.threads);
                for place in share {
                    let (free_s, worker) = workers.next();
                    let taken_s = image_s(place, rank * machine.threads + worker);
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
struct Workers(BinaryHeap<Reverse<(Cost, usize)>>);

impl Workers {
    fn new(count: usize) -> Self {
        Self((0..count).map(|worker| Reverse((Cost(0.0), worker))).collect())
    }

    fn next(&mut self) -> (f64, usize) {
        let Reverse((Cost(free_s), worker)) = self.0.pop().expect("there is a worker");
        (free_s, worker)
    }

    fn give_back(&mut self, free_s: f64, worker: usize) {
        self.0.push(Reverse((Cost(free_s), worker)));
    }

    fn loads(&self) -> impl Iterator<Item = f64> + '_ {
        self.0.iter().map(|Reverse((Cost(free_s), _))| *free_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(seconds: &[f64]) -> Workload {
        Workload::new(seconds, seconds.to_vec(), 0.0)
    }

    fn machine(ranks: usize, threads: usize, strategy: Strategy) -> Machine {
        Machine {
            ranks,
            threads,
            strategy,
            request_s: 0.0,
            worker_sd: 0.0,
        }
    }

    #[test]
    fn strategies_differ_as_they_should() {
        let list = workload(&[8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]);
        let longest = |strategy| list.play(&machine(2, 1, strategy), 1.0).longest_s;
        assert_eq!(longest(Strategy::Block), 11.0);
        assert_eq!(longest(Strategy::Cyclic), 11.0);
        assert_eq!(longest(Strategy::Size), 8.0);
        assert!((longest(Strategy::Dynamic) - 8.0).abs() < 0.01);
    }

    #[test]
    fn threads_take_the_ranks_share_in_turn() {
        let played = workload(&[3.0, 3.0, 3.0, 3.0]).play(&machine(1, 2, Strategy::Size), 2.0);
        assert_eq!((played.longest_s, played.mean_s), (12.0, 12.0));
        assert_eq!(played.imbalance(), 1.0);
    }

    #[test]
    fn a_busy_root_keeps_workers_waiting() {
        let list = workload(&[0.001; 1000]);
        let busy = Machine {
            request_s: 0.01,
            ..machine(100, 1, Strategy::Dynamic)
        };
        assert!(list.play(&busy, 1.0).longest_s >= 10.0);
    }

    #[test]
    fn the_slowest_worker_ends_the_run_unless_the_others_take_its_work() {
        let list = workload(&[0.01; 4000]);
        let ratio = |ranks, strategy| {
            let even = machine(ranks, 1, strategy);
            let uneven = Machine {
                worker_sd: 0.1,
                ..even
            };
            list.play(&uneven, 1.0).longest_s / list.play(&even, 1.0).longest_s
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
        let noisy = Workload::new(&means, means.clone(), 0.5);
        let mean = noisy.seconds.iter().sum::<f64>() / 20_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(noisy.seconds, Workload::new(&means, means.clone(), 0.5).seconds);
        // Of few images, too, nothing is lost or gained by the noise.
        let few = Workload::new(&[1.0, 2.0, 4.0], vec![1.0; 3], 0.5);
        assert!((few.seconds.iter().sum::<f64>() - 7.0).abs() < 1e-9);
        assert_ne!(few.seconds, [1.0, 2.0, 4.0]);
    }
}
