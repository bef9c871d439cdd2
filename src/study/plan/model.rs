//! The model: what an image costs, how workers slow each other down, and how uncertain all that is.
//!
//! An image's stage takes c(x) · (1 + κ · (w − 1) + φ · (W − w)) seconds. c is a line through the measured
//! images of a class, x the bytes of the file (read) or its voxels; w counts the workers on the node, W those
//! on all nodes. Reading and publishing alone have a φ, since nodes share nothing but the file system. More
//! workers than CPUs share them.
//!
//! A worker's images take the sum of its reading, filtering and writing, or what its publishers need,
//! whichever is more. What measured workers took beyond that (gaps between images, buffers that fill up, a
//! full queue) is one factor, and how runs differ from it makes the interval, by Student's t. The interval
//! widens the further a prediction lies from the measurements.

use std::collections::BTreeMap;

use super::measured::{
    ImageClass, ImageFeatures, ImageSample, Measurements, PUBLISH, RunSample, WorkerSample,
};
use super::spread::{Expected, RunSpread, image_spread, run_spread, weight, worker_spread};
use crate::run::PUBLISHERS;
use crate::study::statistics::{Line, Summary, median, student_factor};

/// How often the truth is to lie in an interval.
pub(crate) const COVERAGE: f64 = 0.9;
/// How uncertain (standard deviation of the logarithm) each doubling of the workers is if only one number was
/// measured.
const UNMEASURED_DOUBLING: f64 = 0.25;
/// How uncertain the cost of an image is for each doubling of its size beyond those measured.
const UNMEASURED_SIZE: f64 = 0.2;
/// The stages that touch files.
const TOUCHES_FILES: [bool; 4] = [true, false, false, true];

/// Costs of one class of images.
#[derive(Clone, Copy, Debug, Default)]
struct ClassCosts {
    lines: [Line; 4],
    /// Smallest and largest voxels that were measured.
    measured_voxels: (u64, u64),
}

impl ClassCosts {
    fn stages_s(&self, image: &ImageFeatures) -> [f64; 4] {
        [0, 1, 2, 3].map(|stage| self.lines[stage].at(size_of(stage, image)))
    }
}

/// The size that a stage's line is drawn against.
fn size_of(stage: usize, image: &ImageFeatures) -> f64 {
    if stage == 0 {
        image.file_bytes as f64
    } else {
        image.voxels as f64
    }
}

/// How much each further worker slows a stage down.
#[derive(Clone, Copy, Debug, Default)]
struct Contention {
    /// κ: on the same node.
    near: [f64; 4],
    /// φ: on other nodes.
    far: [f64; 4],
}

impl Contention {
    /// How many times as long each stage takes.
    fn factors(&self, at_work: &AtWork) -> [f64; 4] {
        let cpus = at_work.cpus_per_node.max(1.0);
        let on_cpus = at_work.per_node.min(cpus);
        let elsewhere = (at_work.all - at_work.per_node).max(0.0);
        [0, 1, 2, 3].map(|stage| {
            let crowding = if stage == PUBLISH {
                1.0
            } else {
                (at_work.per_node / cpus).max(1.0)
            };
            crowding * (1.0 + self.near[stage] * (on_cpus - 1.0).max(0.0) + self.far[stage] * elsewhere)
        })
    }
}

/// Workers that work at the same time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AtWork {
    pub per_node: f64,
    pub all: f64,
    pub cpus_per_node: f64,
}

impl AtWork {
    fn of(run: &RunSample) -> Self {
        Self {
            per_node: run.workers_per_node(),
            all: run.workers(),
            cpus_per_node: run.cpus_per_node(),
        }
    }
}

/// Seconds that one worker is held by images of these stages: by its own work, or by the disk.
pub(crate) fn held_s(stages_s: &[f64; 4]) -> f64 {
    let own_s: f64 = stages_s[..PUBLISH].iter().sum();
    own_s.max(stages_s[PUBLISH] / PUBLISHERS as f64)
}

/// Everything that a prediction needs besides the list.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    classes: BTreeMap<ImageClass, ClassCosts>,
    contention: Contention,
    /// The upper bound of φ.
    far_high: [f64; 4],
    reading_factor: f64,
    spread: RunSpread,
    /// Standard deviation of the logarithm of one image's time.
    pub image_sd: f64,
    /// The same of a worker's time, beyond what its images explain.
    pub worker_sd: f64,
    /// From the run's start to the first image, without what depends on the list, seconds.
    pub setup_s: f64,
    /// From the last result to the gathered records, without what depends on the list, seconds.
    pub finish_s: f64,
    /// Launcher and start of MPI, seconds; `None` where nobody measured them.
    pub launch_s: Option<f64>,
    /// Standard deviation of set-up and finish together, seconds.
    fixed_sd_s: f64,
}

/// How uncertain a predicted time is, as factors to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Uncertainty {
    pub low: f64,
    pub high: f64,
}

impl Model {
    /// Fits the model.
    ///
    /// # Errors
    /// A sentence when there is nothing to fit to.
    pub fn fit(measured: &Measurements) -> Result<Self, String> {
        let runs = &measured.runs;
        // A run with more workers than CPUs measures the operating system; it counts only where there is no
        // other.
        let has_cpus = |run: &RunSample| run.workers_per_node() <= run.cpus_per_node();
        let any = runs.iter().any(has_cpus);
        let workers: Vec<&WorkerSample> = measured
            .workers
            .iter()
            .filter(|worker| !any || has_cpus(&runs[worker.run]))
            .collect();
        if workers.is_empty() {
            return Err("no image was measured".to_owned());
        }
        let several_nodes = runs.iter().any(|run| run.nodes > 1);
        let mut contention = Contention::default();
        let mut classes = BTreeMap::new();
        // Costs and contention depend on each other; a few turns settle both.
        for _ in 0..6 {
            classes = fit_classes(&workers, runs, &contention);
            contention = fit_contention(&workers, runs, &classes, several_nodes);
        }
        let expected: Vec<Expected<'_>> = workers
            .iter()
            .map(|worker| {
                expect(
                    worker,
                    &classes,
                    &contention.factors(&AtWork::of(&runs[worker.run])),
                )
            })
            .collect();
        let spread = run_spread(&expected, runs);
        let image_sd = image_spread(&expected);
        let of_runs = |value: fn(&RunSample) -> f64| Vec::from_iter(runs.iter().map(value));
        let launches: Vec<f64> = runs.iter().filter_map(|run| run.launch_s).collect();
        Ok(Self {
            far_high: far_high(&contention, &spread, runs, several_nodes),
            classes,
            contention,
            reading_factor: measured.reading_factor,
            spread,
            image_sd,
            worker_sd: worker_spread(&expected, image_sd),
            setup_s: median(&of_runs(|run| run.setup_s)),
            finish_s: median(&of_runs(|run| run.finish_s)),
            launch_s: (!launches.is_empty()).then(|| median(&launches)),
            fixed_sd_s: Summary::of(&of_runs(|run| run.setup_s + run.finish_s)).sd,
        })
    }

    /// Whether a class was measured.
    pub fn knows(&self, class: &ImageClass) -> bool {
        self.classes.contains_key(class)
    }

    /// Seconds of an image's stages, alone on its node; `None` for a class that was not measured.
    pub fn stages_s(&self, image: &ImageFeatures) -> Option<[f64; 4]> {
        let mut stages_s = self.classes.get(&image.class)?.stages_s(image);
        stages_s[0] *= self.reading_factor;
        Some(stages_s)
    }

    /// How many times as long each stage takes with these workers: expected, and at worst as far as other
    /// nodes go.
    pub fn slow_down(&self, at_work: &AtWork) -> ([f64; 4], [f64; 4]) {
        let worst = Contention {
            far: self.far_high,
            ..self.contention
        };
        (self.contention.factors(at_work), worst.factors(at_work))
    }

    /// What workers take over what their images cost.
    pub fn overhead(&self) -> f64 {
        self.spread.mean.exp()
    }

    /// Images per second that the shared file system gives to any number of workers, for images of these
    /// stages: expected where a limit was seen, and at least.
    pub fn ceiling(&self, stages_s: &[f64; 4]) -> (Option<f64>, Option<f64>) {
        let of = |far: &[f64; 4]| {
            let slope_s = held_s(&[0, 1, 2, 3].map(|stage| stages_s[stage] * far[stage]));
            (slope_s > 0.0).then(|| 1.0 / slope_s)
        };
        (of(&self.contention.far), of(&self.far_high))
    }

    /// The interval of a working time with so many workers per node, which slow each other down by
    /// `slow_down`.
    ///
    /// How uncertain contention is has bounds: workers that do not slow each other at all, and workers that
    /// take turns.
    pub fn uncertainty(&self, per_node: f64, slow_down: f64, images: &[ImageFeatures]) -> Uncertainty {
        let spread = &self.spread;
        let factor = student_factor(COVERAGE, spread.degrees);
        let size_sd = UNMEASURED_SIZE * self.doublings_beyond(images);
        let run_sd = (spread.sd.powi(2) * (1.0 + 1.0 / spread.weight) + size_sd.powi(2)).sqrt();
        let slope_sd = if spread.workers_squares > 0.05 * spread.weight {
            spread.sd * (per_node - spread.mean_workers).abs() / spread.workers_squares.sqrt()
        } else {
            UNMEASURED_DOUBLING * (per_node / spread.mean_workers.max(1.0)).max(1e-3).log2().abs()
        };
        let wider = 1.0 + factor * slope_sd;
        let slope_low = (1.0 / wider).max((1.0 / slow_down).min(1.0));
        let slope_high = wider.min((per_node / slow_down).max(1.0));
        Uncertainty {
            low: (-(factor * run_sd).hypot(slope_low.ln())).exp(),
            high: (factor * run_sd).hypot(slope_high.ln()).exp(),
        }
    }

    /// How uncertain set-up and finish are, seconds to each side.
    pub fn fixed_reach_s(&self) -> f64 {
        student_factor(COVERAGE, self.spread.degrees) * self.fixed_sd_s
    }

    /// How much runs differ, as a part of their time.
    pub fn run_sd(&self) -> f64 {
        self.spread.sd
    }

    /// Most workers per node that were measured with a CPU each.
    pub fn most_workers(&self) -> f64 {
        self.spread.most_workers
    }

    /// How many doublings the images lie beyond the sizes that were measured, on average over their voxels.
    pub fn doublings_beyond(&self, images: &[ImageFeatures]) -> f64 {
        let (mut sum, mut voxels) = (0.0, 0.0);
        for image in images {
            let Some(costs) = self.classes.get(&image.class) else {
                continue;
            };
            let (low, high) = costs.measured_voxels;
            let size = image.voxels.max(1) as f64;
            let beyond = (size / high.max(1) as f64).max(low.max(1) as f64 / size).max(1.0);
            sum += beyond.log2() * size;
            voxels += size;
        }
        if voxels > 0.0 { sum / voxels } else { 0.0 }
    }
}

fn fit_classes(
    workers: &[&WorkerSample],
    runs: &[RunSample],
    contention: &Contention,
) -> BTreeMap<ImageClass, ClassCosts> {
    let mut by_class: BTreeMap<ImageClass, Vec<(&ImageSample, [f64; 4])>> = BTreeMap::new();
    for worker in workers {
        let factors = contention.factors(&AtWork::of(&runs[worker.run]));
        for image in &worker.images {
            by_class
                .entry(image.features.class)
                .or_default()
                .push((image, factors));
        }
    }
    let costs = |images: Vec<(&ImageSample, [f64; 4])>| ClassCosts {
        lines: [0, 1, 2, 3].map(|stage| {
            // Noise grows with the size, so points count by its inverse square.
            let point = |(image, factors): &(&ImageSample, [f64; 4])| {
                let x = size_of(stage, &image.features).max(1.0);
                (x, image.stage_s[stage] / factors[stage], 1.0 / (x * x))
            };
            Line::fit_nonnegative(&Vec::from_iter(images.iter().map(point)))
        }),
        measured_voxels: images.iter().fold((u64::MAX, 0), |(low, high), (image, _)| {
            (low.min(image.features.voxels), high.max(image.features.voxels))
        }),
    };
    by_class
        .into_iter()
        .map(|(class, images)| (class, costs(images)))
        .collect()
}

/// How the runs' stages grow with the workers.
fn fit_contention(
    workers: &[&WorkerSample],
    runs: &[RunSample],
    classes: &BTreeMap<ImageClass, ClassCosts>,
    several_nodes: bool,
) -> Contention {
    let mut sums = vec![([0.0; 4], [0.0; 4]); runs.len()];
    for worker in workers {
        let (taken, alone) = &mut sums[worker.run];
        for image in &worker.images {
            let alone_s = classes[&image.features.class].stages_s(&image.features);
            for stage in 0..4 {
                taken[stage] += image.stage_s[stage];
                alone[stage] += alone_s[stage];
            }
        }
    }
    let mut contention = Contention::default();
    for stage in 0..4 {
        // Workers on the node, workers elsewhere, time over time alone, weight.
        let ratios: Vec<[f64; 4]> = sums
            .iter()
            .zip(runs)
            .filter(|((taken, alone), _)| taken[stage] > 0.0 && alone[stage] > 0.0)
            .map(|((taken, alone), run)| {
                let per_node = run.workers_per_node();
                let crowding = if stage == PUBLISH {
                    1.0
                } else {
                    (per_node / run.cpus_per_node()).max(1.0)
                };
                let ratio = taken[stage] / alone[stage] / crowding;
                [
                    per_node - 1.0,
                    run.workers() - per_node,
                    ratio,
                    weight(run.images),
                ]
            })
            .collect();
        let near: Vec<_> = ratios
            .iter()
            .filter(|ratio| ratio[1] == 0.0 || !several_nodes)
            .map(|&[near, _, ratio, weight]| (near, ratio, weight))
            .collect();
        contention.near[stage] = relative_slope(&near);
        if TOUCHES_FILES[stage] && several_nodes {
            let far: Vec<_> = ratios
                .iter()
                .map(|&[near, far, ratio, weight]| (far, ratio - contention.near[stage] * near, weight))
                .collect();
            contention.far[stage] = relative_slope(&far);
        }
    }
    contention
}

/// The slope of a line over its intercept, at least 0: how much each step of x adds to what there is at x =
/// 0. 0 where all x are the same.
fn relative_slope(points: &[(f64, f64, f64)]) -> f64 {
    let weight: f64 = points.iter().map(|point| point.2).sum();
    let mean =
        |value: fn(&(f64, f64, f64)) -> f64| points.iter().map(|p| p.2 * value(p)).sum::<f64>() / weight;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let squares: f64 = points.iter().map(|(x, _, w)| w * (x - mean_x).powi(2)).sum();
    if weight <= 0.0 || squares <= 0.02 * weight {
        return 0.0;
    }
    let slope = points
        .iter()
        .map(|(x, y, w)| w * (x - mean_x) * (y - mean_y))
        .sum::<f64>()
        / squares;
    let intercept = mean_y - slope * mean_x;
    if intercept > 0.0 {
        (slope / intercept).max(0.0)
    } else {
        0.0
    }
}

/// The upper bound of φ. Where no other nodes were measured, at worst they slow files down as workers of one
/// node do.
fn far_high(
    contention: &Contention,
    spread: &RunSpread,
    runs: &[RunSample],
    several_nodes: bool,
) -> [f64; 4] {
    let reach = student_factor(COVERAGE, spread.degrees) * spread.sd;
    let elsewhere = runs
        .iter()
        .map(|run| run.workers() - run.workers_per_node())
        .fold(1.0, f64::max);
    [0, 1, 2, 3].map(|stage| match (TOUCHES_FILES[stage], several_nodes) {
        (false, _) => 0.0,
        (true, true) => contention.far[stage] + reach / elsewhere,
        (true, false) => contention.near[stage].max(reach / spread.most_workers.max(2.0)),
    })
}

fn expect<'a>(
    worker: &'a WorkerSample,
    classes: &BTreeMap<ImageClass, ClassCosts>,
    factors: &[f64; 4],
) -> Expected<'a> {
    let mut sums_s = [0.0; 4];
    let mut images_s = Vec::with_capacity(worker.images.len());
    for image in &worker.images {
        let alone_s = classes[&image.features.class].stages_s(&image.features);
        let slowed_s = [0, 1, 2, 3].map(|stage| alone_s[stage] * factors[stage]);
        (0..4).for_each(|stage| sums_s[stage] += slowed_s[stage]);
        images_s.push(slowed_s[..PUBLISH].iter().sum());
    }
    // The last results may not keep all publishers.
    let rounds = images_s.len().div_ceil(PUBLISHERS) * PUBLISHERS;
    sums_s[PUBLISH] *= rounds as f64 / images_s.len().max(1) as f64;
    Expected {
        worker,
        images_s,
        held_s: held_s(&sums_s),
    }
}

#[cfg(test)]
mod tests;
