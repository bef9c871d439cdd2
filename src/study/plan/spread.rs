//! How far measured times differ from what is expected: from image to image, worker to worker and run to run.

use std::collections::BTreeMap;

use super::measured::{RunSample, WorkerSample};
use crate::study::statistics::Summary;

/// The least spread between runs: no machine repeats itself better.
const LEAST_RUN_SPREAD: f64 = 0.03;
/// The spread between runs if only one was measured.
const UNKNOWN_RUN_SPREAD: f64 = 0.1;

/// How runs differ.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunSpread {
    /// Mean and standard deviation of the logarithm of what a run took over what its images cost.
    pub mean: f64,
    pub sd: f64,
    /// Runs beyond those that the fit used up.
    pub degrees: usize,
    /// Sum of the runs' weights.
    pub weight: f64,
    /// Weighted mean of their workers per node, and the sum of squares about it.
    pub mean_workers: f64,
    pub workers_squares: f64,
    pub most_workers: f64,
}

/// A worker with what its images should have taken.
pub(super) struct Expected<'a> {
    pub worker: &'a WorkerSample,
    /// Of each image, without publishing.
    pub images_s: Vec<f64>,
    pub held_s: f64,
}

impl Expected<'_> {
    /// The logarithm of what the worker took over what is expected.
    fn over(&self) -> f64 {
        (self.worker.span_s / self.held_s).ln()
    }
}

/// What a run of so many images counts: few images show little, and many no more than one run can.
pub(super) fn weight(images: usize) -> f64 {
    images as f64 / (images as f64 + 10.0)
}

/// How much single images differ from what is expected of them.
pub(super) fn image_spread(expected: &[Expected<'_>]) -> f64 {
    let residuals: Vec<f64> = expected
        .iter()
        .flat_map(|expected| expected.worker.images.iter().zip(&expected.images_s))
        .map(|(image, expected_s)| (image.worker_s() / expected_s).ln())
        .filter(|residual| residual.is_finite())
        .collect();
    Summary::of(&residuals).sd
}

/// How much the workers of a run differ beyond what the noise of their images explains; 0 where too few runs
/// had several.
pub(super) fn worker_spread(expected: &[Expected<'_>], image_sd: f64) -> f64 {
    /// Differences between workers that are the fewest to judge by.
    const FEWEST: usize = 2;
    let mut runs: BTreeMap<usize, Vec<&Expected<'_>>> = BTreeMap::new();
    for worker in expected.iter().filter(|worker| worker.over().is_finite()) {
        runs.entry(worker.worker.run).or_default().push(worker);
    }
    let (mut squares, mut degrees) = (0.0, 0);
    for workers in runs.values().filter(|workers| workers.len() > 1) {
        let overs: Vec<f64> = workers.iter().map(|worker| worker.over()).collect();
        let freedom = workers.len() - 1;
        // The noise of a sum of images, in which large ones weigh more.
        let noise = |worker: &&Expected<'_>| {
            let squares: f64 = worker.images_s.iter().map(|image_s| image_s * image_s).sum();
            squares / worker.images_s.iter().sum::<f64>().powi(2)
        };
        let of_images = workers.iter().map(noise).sum::<f64>() / workers.len() as f64;
        squares += freedom as f64 * (Summary::of(&overs).sd.powi(2) - image_sd.powi(2) * of_images);
        degrees += freedom;
    }
    if degrees < FEWEST {
        0.0
    } else {
        (squares / degrees as f64).max(0.0).sqrt()
    }
}

pub(super) fn run_spread(expected: &[Expected<'_>], runs: &[RunSample]) -> RunSpread {
    let mut sums = vec![(0.0, 0.0, 0_usize); runs.len()];
    for worker in expected {
        let sum = &mut sums[worker.worker.run];
        sum.0 += worker.worker.span_s;
        sum.1 += worker.held_s;
        sum.2 += worker.images_s.len();
    }
    // Workers per node, the logarithm of taken over expected, weight.
    let points: Vec<(f64, f64, f64)> = sums
        .iter()
        .zip(runs)
        .filter(|((taken_s, held_s, _), _)| *taken_s > 0.0 && *held_s > 0.0)
        .map(|((taken_s, held_s, images), run)| {
            (run.workers_per_node(), (taken_s / held_s).ln(), weight(*images))
        })
        .collect();
    let weight = points
        .iter()
        .map(|point| point.2)
        .sum::<f64>()
        .max(f64::MIN_POSITIVE);
    let moments = |value: fn(&(f64, f64, f64)) -> f64| {
        let mean = points.iter().map(|point| point.2 * value(point)).sum::<f64>() / weight;
        let squares = |point: &(f64, f64, f64)| point.2 * (value(point) - mean).powi(2);
        (mean, points.iter().map(squares).sum::<f64>())
    };
    let (mean_workers, workers_squares) = moments(|point| point.0);
    let (mean, squares) = moments(|point| point.1);
    let fitted = if workers_squares > 0.05 * weight { 2 } else { 1 };
    let degrees = points.len().saturating_sub(fitted);
    let sd = if degrees > 0 {
        (squares / weight * points.len() as f64 / degrees as f64).sqrt()
    } else {
        UNKNOWN_RUN_SPREAD
    };
    RunSpread {
        mean,
        sd: sd.max(LEAST_RUN_SPREAD),
        degrees,
        weight,
        mean_workers,
        workers_squares,
        most_workers: points.iter().map(|point| point.0).fold(1.0, f64::max),
    }
}
