//! The model: what an image costs in each stage, how workers slow each other, and how far all that is uncertain.
//!
//! An image's stage takes c(x) · (1 + κ · (w − 1) + φ · (W − w)) seconds: c is a line through the measured images of its
//! class, x the bytes of its file (read) or its voxels (filter, write); w are the workers on its node, W those on all nodes.
//! Where the disk holds the workers up, who had less to do waits longer, and c of writing goes through the means of each size.
//! κ is what a further worker on the node costs the others, φ what one on another node costs them, which only a shared
//! file system can: reading and writing alone have it. With φ, W workers together come to at most 1/(c · φ) images a second.
//! More workers than CPUs share them, so all stages take w/CPUs times as long.
//!
//! Workers of one run are not equally fast, since nodes and CPUs are not, or not at the same time: by how much is measured, and the
//! slowest one ends the run.
//!
//! What remains after that differs between runs, and its spread is what makes the interval, by Student's t over the runs
//! and wider the further w lies from what was measured, as of any line that is extended beyond its points.

use std::collections::{BTreeMap, BTreeSet};

use super::COVERAGE;
use super::measured::{ImageClass, ImageFeatures, ImageSample, Measurements, RunSample};
use super::spread::{RunSpread, image_spread, run_spread, weight, worker_spread};
use crate::study::statistics::{Line, Summary, median, student_factor};

/// How uncertain (as a standard deviation of the logarithm) each doubling of the workers is where only one number of
/// workers was measured.
const UNMEASURED_DOUBLING: f64 = 0.25;
/// How uncertain the cost of an image is for each doubling of its size beyond those measured.
const UNMEASURED_SIZE: f64 = 0.2;

/// Sizes that differ by less than this factor count as one where means are taken.
const SAME_SIZE: f64 = 1.1;

/// Writing among the stages.
const WRITE: usize = 2;
/// The stages that touch files.
const TOUCHES_FILES: [bool; 3] = [true, false, true];

/// Seconds against size.
#[derive(Clone, Debug)]
enum Cost {
    /// A line that does not fall.
    Line(Line),
    /// Means of images of nearly the same size, by size; straight between them and level beyond.
    Means(Vec<(f64, f64)>),
}

impl Cost {
    /// Means of these points (size, seconds), of which those within `SAME_SIZE` of the smallest make one.
    fn means(points: impl Iterator<Item = (f64, f64)>) -> Self {
        let mut points: Vec<(f64, f64)> = points.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut means = Vec::new();
        let mut rest = points.as_slice();
        while let Some(smallest) = rest.first() {
            let (same, larger) =
                rest.split_at(rest.partition_point(|x| x.0 <= smallest.0 * SAME_SIZE));
            let mean =
                |of: fn(&(f64, f64)) -> f64| same.iter().map(of).sum::<f64>() / same.len() as f64;
            means.push((mean(|point| point.0), mean(|point| point.1)));
            rest = larger;
        }
        Self::Means(means)
    }

    fn at(&self, x: f64) -> f64 {
        match self {
            Self::Line(line) => line.at(x),
            Self::Means(means) => {
                let next = means.partition_point(|mean| mean.0 < x);
                match (
                    next.checked_sub(1).map(|place| means[place]),
                    means.get(next),
                ) {
                    (Some(below), Some(above)) => {
                        below.1 + (above.1 - below.1) * (x - below.0) / (above.0 - below.0)
                    }
                    (Some(end), None) | (None, Some(&end)) => end.1,
                    (None, None) => 0.0,
                }
            }
        }
    }
}

/// Costs of one class of images.
#[derive(Clone, Debug)]
struct ClassCosts {
    /// Of each stage against its measure of size.
    stages: [Cost; 3],
    /// Smallest and largest voxels that were measured.
    measured_voxels: (u64, u64),
}

impl ClassCosts {
    /// Seconds of an image's stage, alone.
    fn stage_s(&self, stage: usize, image: &ImageFeatures) -> f64 {
        self.stages[stage].at(size_of(stage, image))
    }
}

/// Everything that a prediction needs besides the list.
#[derive(Clone, Debug)]
pub struct Model {
    classes: BTreeMap<ImageClass, ClassCosts>,
    /// κ of each stage.
    contention: [f64; 3],
    /// φ of each stage, and its upper bound.
    far_contention: [f64; 3],
    far_contention_high: [f64; 3],
    /// Whether runs on several nodes were measured.
    pub several_nodes_measured: bool,
    spread: RunSpread,
    /// Standard deviation of the logarithm of one image's time, as far as it does not even out among a worker's next ones.
    pub image_sd: f64,
    /// Standard deviation of the logarithm of a worker's time among those of its run, beyond what their images explain.
    pub worker_sd: f64,
    /// Seconds between two images of a worker.
    pub gap_s: f64,
    /// Seconds that a worker's first image takes longer, since its buffers are still to be made.
    pub warm_up_s: f64,
    /// Seconds from MPI's start to the first image, without what depends on the list.
    pub setup_s: f64,
    /// Seconds from the last image to the gathered records, without what depends on the list.
    pub finish_s: f64,
    /// Seconds of launcher and MPI; `None` where they were not measured.
    pub launch_s: Option<f64>,
    /// Standard deviation of set-up and finish together, seconds.
    fixed_sd_s: f64,
}

/// How uncertain a predicted working time is, as factors to it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uncertainty {
    /// Lower end of the interval over the prediction.
    pub low: f64,
    /// Upper end of the interval over the prediction.
    pub high: f64,
}

/// What a stage's line is drawn against.
fn size_of(stage: usize, image: &ImageFeatures) -> f64 {
    if stage == 0 {
        image.file_bytes as f64
    } else {
        image.voxels as f64
    }
}

impl Model {
    /// Fits the model.
    ///
    /// # Errors
    /// A sentence when nothing is left to fit to.
    pub fn fit(measured: &Measurements) -> Result<Self, String> {
        // Runs with a worker too many for the CPUs measure the scheduler; they count only where there are no others.
        let within: Vec<bool> = measured
            .runs
            .iter()
            .map(|run| run.crowding() <= 1.0)
            .collect();
        let any_within = within.contains(&true);
        let is_used = |run: usize| within[run] || !any_within;
        let samples: Vec<&ImageSample> = measured
            .images
            .iter()
            .filter(|image| is_used(image.run))
            .collect();
        if samples.is_empty() {
            return Err("no image was measured".to_owned());
        }
        let mut contention = [0.0; 3];
        let mut far_contention = [0.0; 3];
        let mut far_contention_high = [0.0; 3];
        let mut classes = BTreeMap::new();
        let several_nodes_measured = measured.runs.iter().any(|run| run.nodes > 1);
        let disk_rules = measured.disk_rules();
        // Costs and contention depend on each other; a few turns settle both.
        for _ in 0..6 {
            classes = fit_classes(
                &samples,
                &measured.runs,
                &contention,
                &far_contention,
                disk_rules,
            );
            for stage in 0..3 {
                let ratios = stage_ratios(&samples, &measured.runs, &classes, stage);
                let near: Vec<(f64, f64, f64)> = ratios
                    .iter()
                    .filter(|ratio| ratio.far == 0.0 || !several_nodes_measured)
                    .map(|ratio| (ratio.workers - 1.0, ratio.ratio, ratio.weight))
                    .collect();
                contention[stage] = relative_slope(&near);
                if TOUCHES_FILES[stage] && several_nodes_measured {
                    let near_part = contention[stage];
                    let far: Vec<(f64, f64, f64)> = ratios
                        .iter()
                        .map(|ratio| {
                            (
                                ratio.far,
                                ratio.ratio - near_part * (ratio.workers - 1.0),
                                ratio.weight,
                            )
                        })
                        .collect();
                    far_contention[stage] = relative_slope(&far);
                }
            }
        }
        let expected: Vec<(&ImageSample, f64)> = samples
            .iter()
            .filter_map(|image| {
                let (run, features) = (&measured.runs[image.run], &image.features);
                let expected = expected_s(&classes, &contention, &far_contention, features, run);
                Some((*image, expected?))
            })
            .collect();
        let settled: Vec<(&ImageSample, f64)> = expected
            .iter()
            .filter(|(image, _)| image.is_settled)
            .copied()
            .collect();
        let spread = run_spread(&expected, measured);
        let factor = student_factor(COVERAGE, spread.degrees);
        for stage in (0..3).filter(|&stage| TOUCHES_FILES[stage]) {
            far_contention_high[stage] = if several_nodes_measured {
                let most = measured
                    .runs
                    .iter()
                    .map(|run| run.workers() - run.workers_per_node())
                    .fold(1.0, f64::max);
                far_contention[stage] + factor * spread.run_sd / most
            } else {
                // Nothing is known of other nodes: at worst they slow each other's files as workers of one node do.
                contention[stage].max(factor * spread.run_sd / spread.most_workers.max(2.0))
            };
        }
        let first: Vec<f64> = expected
            .iter()
            .filter(|(image, _)| image.is_first)
            .map(|(image, expected_s)| image.taken_s() - expected_s)
            .collect();
        let of_runs = |value: fn(&RunSample) -> f64| -> Vec<f64> {
            measured.runs.iter().map(value).collect()
        };
        let image_sd = image_spread(&settled, disk_rules);
        let worker_sd = worker_spread(&settled, image_sd);
        let launches: Vec<f64> = measured
            .runs
            .iter()
            .filter_map(|run| run.launch_s)
            .collect();
        let fixed = Summary::of(&of_runs(|run| run.setup_s + run.finish_s));
        Ok(Self {
            classes,
            contention,
            far_contention,
            far_contention_high,
            several_nodes_measured,
            spread,
            image_sd,
            worker_sd,
            gap_s: median(&of_runs(|run| run.gap_s)),
            warm_up_s: median(&first).max(0.0),
            setup_s: median(&of_runs(|run| run.setup_s)),
            finish_s: median(&of_runs(|run| run.finish_s)),
            launch_s: (!launches.is_empty()).then(|| median(&launches)),
            fixed_sd_s: fixed.sd,
        })
    }

    /// Classes of a list that were not measured.
    pub fn unmeasured<'a>(
        &'a self,
        classes: impl Iterator<Item = &'a ImageClass> + 'a,
    ) -> Vec<ImageClass> {
        classes
            .filter(|class| !self.classes.contains_key(class))
            .copied()
            .collect()
    }

    /// Seconds of an image's stages, alone on its node. `None` for a class that was not measured.
    pub fn stages_s(&self, image: &ImageFeatures) -> Option<[f64; 3]> {
        let costs = self.classes.get(&image.class)?;
        Some([0, 1, 2].map(|stage| costs.stage_s(stage, image)))
    }

    /// By how much each stage is slower with so many workers on a node and on all nodes, and on so many CPUs a node.
    pub fn slow_down(&self, per_node: f64, all: f64, cpus_per_node: f64) -> [f64; 3] {
        factors(
            &self.contention,
            &self.far_contention,
            per_node,
            all,
            cpus_per_node,
        )
    }

    /// The same at worst, as far as other nodes go.
    pub fn slow_down_high(&self, per_node: f64, all: f64, cpus_per_node: f64) -> [f64; 3] {
        factors(
            &self.contention,
            &self.far_contention_high,
            per_node,
            all,
            cpus_per_node,
        )
    }

    /// Images a second that the file system gives to any number of workers, for images of these stages; `None` where no
    /// ceiling was seen. The second is the lower bound.
    pub fn ceiling(&self, stages_s: &[f64; 3]) -> (Option<f64>, Option<f64>) {
        let of = |far: &[f64; 3]| {
            let slope: f64 = (0..3).map(|stage| stages_s[stage] * far[stage]).sum();
            (slope > 0.0).then(|| 1.0 / slope)
        };
        (of(&self.far_contention), of(&self.far_contention_high))
    }

    /// The interval of a working time with so many workers on a node, which slow each other by `slow_down`, for images of
    /// these sizes.
    ///
    /// How far contention is uncertain is bounded by what is possible: workers that do not slow each other at all, and
    /// workers that take turns.
    pub fn uncertainty(
        &self,
        per_node: f64,
        slow_down: f64,
        images: &[ImageFeatures],
    ) -> Uncertainty {
        let spread = &self.spread;
        let factor = student_factor(COVERAGE, spread.degrees);
        let size_sd = UNMEASURED_SIZE * self.doublings_beyond(images);
        let run_sd = (spread.run_sd.powi(2) * (1.0 + 1.0 / spread.weight) + size_sd.powi(2)).sqrt();
        let slope_sd = if spread.spread_workers > 0.05 * spread.weight {
            spread.run_sd * (per_node - spread.mean_workers).abs() / spread.spread_workers.sqrt()
        } else {
            let doublings = (per_node / spread.mean_workers.max(1.0)).max(1e-3).log2();
            UNMEASURED_DOUBLING * doublings.abs()
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

    /// The spread between runs that was measured, as a part of their time.
    pub fn run_spread(&self) -> f64 {
        self.spread.run_sd
    }

    /// Most workers on a node that were measured with a CPU each.
    pub fn most_workers(&self) -> f64 {
        self.spread.most_workers
    }

    /// How many doublings the images lie beyond the sizes that were measured, on the average of their voxels.
    pub fn doublings_beyond(&self, images: &[ImageFeatures]) -> f64 {
        let (mut sum, mut voxels) = (0.0, 0.0);
        for image in images {
            if let Some(costs) = self.classes.get(&image.class) {
                let (low, high) = costs.measured_voxels;
                let size = image.voxels.max(1) as f64;
                let beyond = (size / high.max(1) as f64)
                    .max(low.max(1) as f64 / size)
                    .max(1.0);
                sum += beyond.log2() * size;
                voxels += size;
            }
        }
        if voxels > 0.0 { sum / voxels } else { 0.0 }
    }
}

fn factors(
    near: &[f64; 3],
    far: &[f64; 3],
    per_node: f64,
    all: f64,
    cpus_per_node: f64,
) -> [f64; 3] {
    let on_cpus = per_node.min(cpus_per_node.max(1.0));
    let crowding = (per_node / cpus_per_node.max(1.0)).max(1.0);
    let others = (all - per_node).max(0.0);
    [0, 1, 2].map(|stage| {
        crowding * (1.0 + near[stage] * (on_cpus - 1.0).max(0.0) + far[stage] * others)
    })
}

fn factors_of_run(near: &[f64; 3], far: &[f64; 3], run: &RunSample) -> [f64; 3] {
    let cpus = run
        .cpus
        .map_or(f64::INFINITY, |cpus| cpus as f64 / run.nodes as f64);
    factors(near, far, run.workers_per_node(), run.workers(), cpus)
}

fn fit_classes(
    samples: &[&ImageSample],
    runs: &[RunSample],
    near: &[f64; 3],
    far: &[f64; 3],
    disk_rules: bool,
) -> BTreeMap<ImageClass, ClassCosts> {
    let mut by_class: BTreeMap<ImageClass, Vec<&ImageSample>> = BTreeMap::new();
    for sample in samples {
        by_class
            .entry(sample.features.class)
            .or_default()
            .push(sample);
    }
    by_class
        .into_iter()
        .map(|(class, samples)| {
            // What a worker's first images take counts only where there is no other of the size: with the largest first,
            // those of a rare size may all be among them.
            let sizes_settled: BTreeSet<u64> = samples
                .iter()
                .filter(|sample| sample.is_settled)
                .map(|sample| sample.features.voxels)
                .collect();
            let counted = |sample: &&&ImageSample| {
                sample.is_settled
                    || !sample.is_first && !sizes_settled.contains(&sample.features.voxels)
            };
            let settled: Vec<&&ImageSample> = samples.iter().filter(counted).collect();
            let settled = if settled.is_empty() {
                samples.iter().collect()
            } else {
                settled
            };
            let stages = [0, 1, 2].map(|stage| {
                let points = settled.iter().map(|sample| {
                    let x = size_of(stage, &sample.features).max(1.0);
                    let factor = factors_of_run(near, far, &runs[sample.run])[stage];
                    (x, sample.stage_s[stage] / factor)
                });
                if stage == WRITE && disk_rules {
                    // Small images wait for the disk while large ones are worked on, which is no line.
                    return Cost::means(points);
                }
                // Noise grows with the size, so points count by its inverse square.
                let points: Vec<_> = points.map(|(x, y)| (x, y, 1.0 / (x * x))).collect();
                Cost::Line(Line::fit_nonnegative(&points))
            });
            let voxels = samples.iter().map(|sample| sample.features.voxels);
            let measured_voxels = (voxels.clone().min().unwrap_or(0), voxels.max().unwrap_or(0));
            (
                class,
                ClassCosts {
                    stages,
                    measured_voxels,
                },
            )
        })
        .collect()
}

/// A run's time in a stage over what its images cost alone.
struct Ratio {
    workers: f64,
    far: f64,
    ratio: f64,
    weight: f64,
}

fn stage_ratios(
    samples: &[&ImageSample],
    runs: &[RunSample],
    classes: &BTreeMap<ImageClass, ClassCosts>,
    stage: usize,
) -> Vec<Ratio> {
    let mut sums = vec![(0.0, 0.0, 0_usize); runs.len()];
    for sample in samples
        .iter()
        .filter(|sample| sample.is_settled || runs[sample.run].images <= 2)
    {
        let costs = &classes[&sample.features.class];
        let sum = &mut sums[sample.run];
        sum.0 += sample.stage_s[stage];
        sum.1 += costs.stage_s(stage, &sample.features);
        sum.2 += 1;
    }
    sums.iter()
        .zip(runs)
        .filter(|((taken, alone, _), _)| *taken > 0.0 && *alone > 0.0)
        .map(|((taken, alone, count), run)| Ratio {
            workers: run.workers_per_node(),
            far: run.workers() - run.workers_per_node(),
            ratio: taken / alone / run.crowding(),
            weight: weight(*count),
        })
        .collect()
}

/// The slope of a line over its intercept, not negative: how much each step of x adds to what there is at x = 0. 0 where all
/// x are the same.
fn relative_slope(points: &[(f64, f64, f64)]) -> f64 {
    let weight: f64 = points.iter().map(|point| point.2).sum();
    if weight <= 0.0 {
        return 0.0;
    }
    let mean_x = points.iter().map(|(x, _, w)| w * x).sum::<f64>() / weight;
    let mean_y = points.iter().map(|(_, y, w)| w * y).sum::<f64>() / weight;
    let spread: f64 = points
        .iter()
        .map(|(x, _, w)| w * (x - mean_x).powi(2))
        .sum();
    if spread <= 0.02 * weight {
        return 0.0;
    }
    let slope = points
        .iter()
        .map(|(x, y, w)| w * (x - mean_x) * (y - mean_y))
        .sum::<f64>()
        / spread;
    let intercept = mean_y - slope * mean_x;
    if intercept > 0.0 {
        (slope / intercept).max(0.0)
    } else {
        0.0
    }
}

fn expected_s(
    classes: &BTreeMap<ImageClass, ClassCosts>,
    near: &[f64; 3],
    far: &[f64; 3],
    image: &ImageFeatures,
    run: &RunSample,
) -> Option<f64> {
    let costs = classes.get(&image.class)?;
    let factors = factors_of_run(near, far, run);
    let sum: f64 = (0..3)
        .map(|stage| costs.stage_s(stage, image) * factors[stage])
        .sum();
    (sum > 0.0).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::{Machine, SIZES, wanted};
    use super::super::measured::{ImageClass, gather};
    use super::*;
    use crate::volume::Datatype;

    fn features(voxels: u64) -> ImageFeatures {
        ImageFeatures {
            class: ImageClass {
                datatype: Datatype::Uint8,
                scaled: false,
            },
            voxels,
            file_bytes: voxels / 2,
            memory_bytes: voxels,
        }
    }

    fn fitted(machine: &Machine, sizes: &[u64], seed: u64) -> Model {
        Model::fit(&gather(&machine.pilot(sizes, seed), &wanted()).unwrap()).unwrap()
    }

    #[test]
    fn costs_and_contention_are_recovered_exactly_without_noise() {
        let machine = Machine {
            image_spread: 0.0,
            run_spread: 0.0,
            contention: 0.2,
            ..Machine::default()
        };
        let model = fitted(&machine, &SIZES, 1);
        for voxels in [300_000, 1_000_000, 3_000_000] {
            let found = model.stages_s(&features(voxels)).unwrap();
            for (found, truth) in found.iter().zip(machine.stages_s(voxels)) {
                assert!(
                    (found / truth - 1.0).abs() < 1e-3,
                    "{voxels}: {found} {truth}"
                );
            }
        }
        for factor in model.slow_down(3.0, 3.0, 8.0) {
            assert!((factor - 1.4).abs() < 1e-2, "{factor}");
        }
        // Six workers on two CPUs share them, and two at a time get in each other's way.
        assert!((model.slow_down(6.0, 6.0, 2.0)[1] - 3.0 * 1.2).abs() < 0.02);
        assert!(!model.several_nodes_measured);
        assert_eq!(model.ceiling(&[1.0; 3]).0, None);
    }

    #[test]
    fn noise_is_averaged_out() {
        let machine = Machine::default();
        let model = fitted(&machine, &SIZES, 2);
        let found: f64 = model.stages_s(&features(900_000)).unwrap().iter().sum();
        let truth: f64 = machine.stages_s(900_000).iter().sum();
        assert!((found / truth - 1.0).abs() < 0.05, "{found} {truth}");
        assert!(
            (model.image_sd - machine.image_spread).abs() < 0.03,
            "{}",
            model.image_sd
        );
        assert_eq!(model.unmeasured([features(1).class].iter()), []);
        let other = ImageClass {
            datatype: Datatype::Float64,
            scaled: false,
        };
        assert_eq!(model.unmeasured([other].iter()), [other]);
    }

    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says() {
        let machine = Machine {
            run_spread: 0.06,
            ..Machine::default()
        };
        let truth: f64 = machine.stages_s(900_000).iter().sum();
        let mut held = 0;
        const TIMES: u64 = 200;
        for seed in 0..TIMES {
            let model = fitted(&machine, &SIZES, seed);
            let alone: f64 = model.stages_s(&features(900_000)).unwrap().iter().sum();
            let range = model.uncertainty(1.0, 1.0, &[features(900_000)]);
            // Another run, with its own luck.
            let run = machine.source(400, 1, &[900_000], 1_000_000 + seed);
            let taken = run
                .report
                .images
                .iter()
                .map(|image| image.timings.worker_s());
            let actual = taken.sum::<f64>() / 400.0;
            assert!((actual / truth - 1.0).abs() < 0.4);
            if (alone * range.low..=alone * range.high).contains(&actual) {
                held += 1;
            }
        }
        assert!((165..=198).contains(&held), "{held} of {TIMES}");
    }

    #[test]
    fn what_was_not_measured_makes_the_interval_wide() {
        let machine = Machine::default();
        let model = fitted(&machine, &[900_000], 3);
        let width = |range: Uncertainty| range.high / range.low;
        let same = width(model.uncertainty(1.0, 1.0, &[features(900_000)]));
        assert!(same < 1.3, "{same}");
        assert!(width(model.uncertainty(24.0, 2.0, &[features(900_000)])) > 2.0 * same);
        assert!(width(model.uncertainty(1.0, 1.0, &[features(9_000_000)])) > 2.0 * same);
        // Five images in one run: no repeats to judge by.
        let thin = gather(&[machine.source(5, 1, &[900_000], 4)], &wanted()).unwrap();
        let thin = Model::fit(&thin).unwrap();
        assert!(width(thin.uncertainty(1.0, 1.0, &[features(900_000)])) > 2.0 * same);
        assert!(
            width(thin.uncertainty(4.0, 1.0, &[features(900_000)]))
                > width(thin.uncertainty(1.0, 1.0, &[features(900_000)]))
        );
    }

    #[test]
    fn workers_that_are_not_equally_fast_are_seen() {
        let with_factors = |image_spread: f64, factors: [f64; 4]| {
            let machine = Machine {
                image_spread,
                run_spread: 0.0,
                contention: 0.0,
                ..Machine::default()
            };
            let mut sources = Vec::new();
            for seed in 0..8 {
                // 44 of each worker count.
                let mut source = machine.source(208, 4, &SIZES, seed);
                let mut later_s = [0.0; 4];
                for image in &mut source.report.images {
                    let factor = factors[image.rank];
                    image.start_s += later_s[image.rank];
                    later_s[image.rank] += image.timings.worker_s() * (factor - 1.0);
                    image.timings.read_s *= factor;
                    image.timings.filter_s *= factor;
                    image.timings.write_s *= factor;
                }
                sources.push(source);
            }
            Model::fit(&gather(&sources, &wanted()).unwrap())
                .unwrap()
                .worker_sd
        };
        // The standard deviation of these logarithms.
        let apart = with_factors(0.05, [0.9, 1.0, 1.0, 1.1]);
        assert!((apart - 0.082).abs() < 0.015, "{apart}");
        let alike = with_factors(0.1, [1.0; 4]);
        assert!(alike < 0.02, "{alike}");
    }

    #[test]
    fn a_file_system_that_several_nodes_share_is_seen() {
        let machine = Machine {
            image_spread: 0.0,
            run_spread: 0.0,
            contention: 0.0,
            ..Machine::default()
        };
        let mut sources = Vec::new();
        for nodes in [1_usize, 2, 4] {
            let mut source = machine.source(40, nodes * 2, &SIZES, 1);
            let slower = 1.0 + 0.1 * (nodes * 2 - 2) as f64;
            // Each image still begins where its worker's last one ended.
            let mut later_s = vec![0.0; nodes * 2];
            for image in &mut source.report.images {
                let files_s = image.timings.read_s + image.timings.write_s;
                image.start_s += later_s[image.rank];
                later_s[image.rank] += files_s * (slower - 1.0);
                image.timings.read_s *= slower;
                image.timings.write_s *= slower;
            }
            source.report.launch.nodes = (1..=nodes).map(|node| format!("node{node}")).collect();
            source.report.launch.cpus = Some(8 * nodes);
            sources.push(source);
        }
        let model = Model::fit(&gather(&sources, &wanted()).unwrap()).unwrap();
        assert!(model.several_nodes_measured);
        let slow = model.slow_down(2.0, 8.0, 8.0);
        assert!(
            (slow[0] - 1.6).abs() < 0.05 && (slow[1] - 1.0).abs() < 0.01,
            "{slow:?}"
        );
        let ceiling = model.ceiling(&[0.1, 5.0, 0.1]).0.unwrap();
        assert!((ceiling - 1.0 / (0.2 * 0.1)).abs() < 2.0, "{ceiling}");
    }

    #[test]
    fn where_the_disk_rules_small_images_wait_and_large_ones_do_not() {
        // Of these a worker brings one in 25 ms to the disk; the largest is 39 ms of work.
        const DISK_S: f64 = 0.025;
        let machine = Machine {
            image_spread: 0.0,
            run_spread: 0.0,
            contention: 0.0,
            ..Machine::default()
        };
        let sizes = [SIZES[0], SIZES[1], 3_000_000];
        let true_s = |voxels: u64| machine.stages_s(voxels).iter().sum::<f64>().max(DISK_S);
        let sources = [1, 2].map(|ranks| machine.source(80, ranks, &sizes, 1));
        let total_s = |results_behind: f64, voxels: u64| {
            let mut measured = gather(&sources, &wanted()).unwrap();
            for image in &mut measured.images {
                let [read_s, filter_s, _] = image.stage_s;
                image.stage_s[WRITE] = true_s(image.features.voxels) - read_s - filter_s;
            }
            for run in &mut measured.runs {
                run.results_behind = results_behind;
            }
            let model = Model::fit(&measured).unwrap();
            let image = ImageFeatures {
                voxels,
                file_bytes: voxels / 2,
                ..measured.images[0].features
            };
            model.stages_s(&image).unwrap().iter().sum::<f64>()
        };
        for voxels in sizes {
            let (found_s, true_s) = (total_s(4.0, voxels), true_s(voxels));
            assert!(
                (found_s - true_s).abs() < 1e-3,
                "{voxels}: {found_s}, {true_s}"
            );
        }
        // A line alone would not do.
        assert!((total_s(0.5, SIZES[0]) - DISK_S).abs() > 1e-3);
        // Of a larger one, reading and filtering take longer and writing no less.
        assert!(total_s(4.0, 6_000_000) > 1.1 * true_s(3_000_000));
    }
}
