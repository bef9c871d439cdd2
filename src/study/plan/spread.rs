//! How far measured times differ from what is expected of them: from image to image, worker to worker and run to run.

use std::collections::BTreeMap;

use super::measured::{ImageSample, Measurements};
use crate::run::RESULTS_BEHIND_A_WORKER;
use crate::study::statistics::Summary;

/// No machine repeats itself better than this: the least spread between runs that is reckoned with.
const LEAST_RUN_SPREAD: f64 = 0.03;

/// What was learnt of how runs differ, to be extended to other numbers of workers.
#[derive(Clone, Debug)]
pub(super) struct RunSpread {
    /// Standard deviation of the logarithm of a run's time.
    pub run_sd: f64,
    /// Runs beyond those that the fit used up.
    pub degrees: usize,
    /// Sum of the runs' weights.
    pub weight: f64,
    /// Weighted mean of their workers per node.
    pub mean_workers: f64,
    /// Weighted sum of squares of their workers about the mean.
    pub spread_workers: f64,
    /// Most workers per node that were measured, within the CPUs.
    pub most_workers: f64,
}

/// What a run of so many images counts: few images tell little, many do not tell more than one run can.
pub(super) fn weight(images: usize) -> f64 {
    images as f64 / (images as f64 + 10.0)
}

/// What images of one worker took together, and should have taken.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    images: usize,
    taken_s: f64,
    expected_s: f64,
    expected_squares_s2: f64,
}

impl Sums {
    fn add(&mut self, image: &ImageSample, expected_s: f64) {
        self.images += 1;
        self.taken_s += image.taken_s();
        self.expected_s += expected_s;
        self.expected_squares_s2 += expected_s * expected_s;
    }

    /// The logarithm of taken over expected.
    fn over(&self) -> f64 {
        (self.taken_s / self.expected_s).ln()
    }

    /// The variance of the images' noise together, where each has one of 1: large images weigh more.
    fn noise(&self) -> f64 {
        self.expected_squares_s2 / self.expected_s.powi(2)
    }
}

/// The sum of the squared deviations of `groups` from their mean, what it would be if each image had a noise of variance 1,
/// and the degrees of freedom. Nothing for fewer than two.
fn squares_about_mean(groups: &[Sums]) -> (f64, f64, usize) {
    let groups: Vec<&Sums> = groups
        .iter()
        .filter(|group| group.over().is_finite())
        .collect();
    let count = groups.len();
    if count < 2 {
        return (0.0, 0.0, 0);
    }
    let mean = groups.iter().map(|group| group.over()).sum::<f64>() / count as f64;
    let squares = groups.iter().map(|group| (group.over() - mean).powi(2));
    let noise: f64 = groups.iter().map(|group| group.noise()).sum();
    let of_images = noise * (1.0 - 1.0 / count as f64);
    (squares.sum(), of_images, count - 1)
}

/// How much images differ from what is expected of them: the standard deviation of the logarithm, for images with what is
/// expected of them, each worker's in order.
///
/// A worker that the disk holds up (`disk_rules`) waits long for one image and not at all for the next ones. Such noise does not add up over a
/// share of the list as that of independent images would, so there the spread is what batches of a worker's successive images
/// show, if that is less than what single images do (method of batch means; Law, Simulation Modeling and Analysis).
pub(super) fn image_spread(images: &[(&ImageSample, f64)], disk_rules: bool) -> f64 {
    let residuals: Vec<f64> = images
        .iter()
        .map(|(image, expected_s)| (image.taken_s() / expected_s).ln())
        .filter(|residual| residual.is_finite())
        .collect();
    let of_one = Summary::of(&residuals).sd;
    if !disk_rules {
        return of_one;
    }
    batch_spread(images).map_or(of_one, |of_batches| of_batches.min(of_one))
}

/// What batches of each worker's successive images show of the images' noise; `None` where there are too few.
fn batch_spread(images: &[(&ImageSample, f64)]) -> Option<f64> {
    /// Differences between batches that are the least to tell by.
    const FEWEST: usize = 8;
    let mut workers = BTreeMap::<_, Vec<_>>::new();
    for &(image, expected_s) in images {
        let key = (image.run, image.worker);
        workers.entry(key).or_default().push((image, expected_s));
    }
    let (mut squares, mut of_images, mut degrees) = (0.0, 0.0, 0);
    for images in workers.values() {
        let batches: Vec<Sums> = images
            .chunks_exact(RESULTS_BEHIND_A_WORKER)
            .map(|batch| {
                let mut sums = Sums::default();
                for (image, expected_s) in batch {
                    sums.add(image, *expected_s);
                }
                sums
            })
            .collect();
        let found = squares_about_mean(&batches);
        squares += found.0;
        of_images += found.1;
        degrees += found.2;
    }
    (degrees >= FEWEST).then(|| (squares / of_images).sqrt())
}

/// How much the workers of a run differ, over all runs: the standard deviation of the logarithm of what each took over what is
/// expected of its images, less what the images' own noise of `image_sd` makes of it. 0 where too few runs had several.
pub(super) fn worker_spread(images: &[(&ImageSample, f64)], image_sd: f64) -> f64 {
    /// Differences between workers that are the least to tell by.
    const FEWEST: usize = 2;
    let mut runs: BTreeMap<usize, BTreeMap<(usize, usize), Sums>> = BTreeMap::new();
    for (image, expected_s) in images {
        let workers = runs.entry(image.run).or_default();
        let sums = workers.entry(image.worker).or_default();
        sums.add(image, *expected_s);
    }
    let (mut squares, mut degrees) = (0.0, 0);
    for workers in runs.into_values() {
        let workers: Vec<Sums> = workers.into_values().collect();
        let (of_workers, of_images, count) = squares_about_mean(&workers);
        squares += of_workers - image_sd.powi(2) * of_images;
        degrees += count;
    }
    if degrees < FEWEST {
        return 0.0;
    }
    (squares / degrees as f64).max(0.0).sqrt()
}

/// How the runs of these images differ; with each image comes what is expected of it.
pub(super) fn run_spread(images: &[(&ImageSample, f64)], measured: &Measurements) -> RunSpread {
    let mut has_settled = vec![false; measured.runs.len()];
    for (image, _) in images {
        has_settled[image.run] |= image.is_settled;
    }
    let mut sums = vec![Sums::default(); measured.runs.len()];
    for (image, expected_s) in images {
        // A worker's first images meet an empty queue before the disk, which is no difference between runs.
        if image.is_settled || !has_settled[image.run] {
            sums[image.run].add(image, *expected_s);
        }
    }
    let runs: Vec<(f64, f64, f64)> = sums
        .iter()
        .zip(&measured.runs)
        .filter(|(sums, _)| sums.taken_s > 0.0 && sums.expected_s > 0.0)
        .map(|(sums, run)| (run.workers_per_node(), sums.over(), weight(sums.images)))
        .collect();
    let all: f64 = runs
        .iter()
        .map(|run| run.2)
        .sum::<f64>()
        .max(f64::MIN_POSITIVE);
    let mean_workers = runs.iter().map(|(workers, _, w)| w * workers).sum::<f64>() / all;
    let mean = runs
        .iter()
        .map(|(_, residual, w)| w * residual)
        .sum::<f64>()
        / all;
    let spread_workers: f64 = runs
        .iter()
        .map(|(workers, _, w)| w * (workers - mean_workers).powi(2))
        .sum();
    let fitted = if spread_workers > 0.05 * all { 2 } else { 1 };
    let squares: f64 = runs
        .iter()
        .map(|(_, residual, w)| w * (residual - mean).powi(2))
        .sum();
    let degrees = runs.len().saturating_sub(fitted);
    let run_sd = if degrees > 0 {
        (squares / all * runs.len() as f64 / degrees as f64).sqrt()
    } else {
        // One run says nothing of how runs differ. Its images do, a little.
        0.1
    };
    RunSpread {
        run_sd: run_sd.max(LEAST_RUN_SPREAD),
        degrees,
        weight: all,
        mean_workers,
        spread_workers,
        most_workers: runs.iter().map(|run| run.0).fold(1.0, f64::max),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use rand_distr::{Distribution, Normal};

    use super::super::measured::tests::{Machine, SIZES, wanted};
    use super::super::measured::{ImageClass, ImageFeatures, gather};
    use super::*;
    use crate::volume::Datatype;

    /// Images of 10 ms by expectation that took so many times as long, of two workers of one run in turn.
    fn images(over: impl Iterator<Item = f64>) -> Vec<ImageSample> {
        let image = |(place, over): (usize, f64)| ImageSample {
            features: ImageFeatures {
                class: ImageClass {
                    datatype: Datatype::Uint8,
                    scaled: false,
                },
                voxels: 1000,
                file_bytes: 1000,
                memory_bytes: 1000,
            },
            stage_s: [0.0, 0.0, 0.01 * over],
            run: 0,
            worker: (place % 2, 0),
            is_first: false,
            is_settled: true,
        };
        over.enumerate().map(image).collect()
    }

    fn spread_of(images: &[ImageSample], disk_rules: bool) -> f64 {
        let expected: Vec<(&ImageSample, f64)> = images.iter().map(|image| (image, 0.01)).collect();
        image_spread(&expected, disk_rules)
    }

    #[test]
    fn independent_noise_is_found_again() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let noise = Normal::new(0.0_f64, 0.2).unwrap();
        let noisy = images((0..800).map(|_| noise.sample(&mut random).exp()));
        for (disk_rules, least) in [(false, 0.19), (true, 0.16)] {
            let found = spread_of(&noisy, disk_rules);
            assert!((least..0.21).contains(&found), "{found}");
        }
    }

    #[test]
    fn waits_that_even_out_are_no_noise_of_a_share() {
        // Of each worker, every fourth image waits for the disk.
        let waits = |place: usize| if place / 2 % 4 == 3 { 3.4 } else { 0.2 };
        let found = spread_of(&images((0..400).map(waits)), true);
        assert!(found < 0.01, "{found}");
        // Too few to tell: what single images show stands.
        let found = spread_of(&images((0..40).map(waits)), true);
        assert!(found > 1.0, "{found}");
        // Without a disk that holds the worker up, it is the images that differ, and the same ones come again and again.
        let found = spread_of(&images((0..400).map(waits)), false);
        assert!(found > 1.0, "{found}");
    }

    #[test]
    fn a_slow_worker_is_not_taken_for_noise_of_its_images() {
        let slow = images((0..400).map(|place| if place % 2 == 0 { 1.0 } else { 1.2 }));
        assert!(spread_of(&slow, true) < 1e-6);
        let expected: Vec<(&ImageSample, f64)> = slow.iter().map(|image| (image, 0.01)).collect();
        // One difference alone is too little to tell by; two runs have two.
        assert_eq!(worker_spread(&expected, 0.0), 0.0);
        let mut again = slow.clone();
        again.iter_mut().for_each(|image| image.run = 1);
        let both: Vec<(&ImageSample, f64)> = slow
            .iter()
            .chain(&again)
            .map(|image| (image, 0.01))
            .collect();
        let sd = worker_spread(&both, 0.0);
        assert!((sd - 1.2_f64.ln() / 2.0_f64.sqrt()).abs() < 1e-6, "{sd}");
    }

    #[test]
    fn runs_are_compared_without_the_first_images_of_their_workers() {
        let machine = Machine::default();
        let sources = [40, 80].map(|count| machine.source(count, 1, &SIZES, 1));
        let as_expected = gather(&sources, &wanted()).unwrap();
        // One of two runs has images that took another time than is expected.
        let spread = |settled: bool, over: f64| {
            let mut measured = as_expected.clone();
            for image in &mut measured.images {
                if image.run == 0 && image.is_settled == settled {
                    image.stage_s = image.stage_s.map(|stage_s| stage_s * over);
                }
            }
            let expected = as_expected.images.iter().map(ImageSample::taken_s);
            let images: Vec<(&ImageSample, f64)> = measured.images.iter().zip(expected).collect();
            run_spread(&images, &measured).run_sd
        };
        assert_eq!(spread(true, 1.0), LEAST_RUN_SPREAD);
        assert_eq!(spread(false, 0.1), LEAST_RUN_SPREAD);
        assert!(spread(true, 1.5) > 0.15);
    }
}
