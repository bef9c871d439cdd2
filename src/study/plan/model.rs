//! The model: the cost of an image, the slow-down by other workers, and the uncertainty of both.
//!
//! A stage of an image takes c(x) seconds. c is a line through the measured images of a class; x is the bytes
//! of the file (read) or the voxels (other stages). A worker takes the time of reading, filtering and
//! writing, or the time of its publishers, whichever is longer.
//!
//! The slow-down is the measured cost of a run's images over their cost by these lines. It is a level, plus κ
//! for each additional worker on the node, plus φ for each worker on another node. The remaining time of a
//! run (gaps between images, ranks that wait for the last one) is one factor for a single rank and one for
//! several ranks. The differences between runs and this model give the interval, by Student's t. The interval
//! widens with the distance from the measurements.

use std::collections::BTreeMap;

use super::measured::{ImageClass, ImageFeatures, ImageSample, Measurements, PUBLISH, RunSample};
use crate::partition::{Strategy, partition};
use crate::run::PUBLISHERS;
use crate::study::statistics::{Line, Point, Summary, median, moments, student_factor};

/// Probability that a run lies inside its interval.
pub(crate) const COVERAGE: f64 = 0.9;
/// The least spread between runs, standard deviation of the logarithm. Runs that are minutes apart differ by
/// more than those of one pilot.
const LEAST_RUN_SPREAD: f64 = 0.05;
/// The spread between runs if only one was measured.
const UNKNOWN_RUN_SPREAD: f64 = 0.1;
/// Uncertainty (standard deviation of the logarithm) per doubling of the workers, if only one number of
/// workers was measured.
const UNMEASURED_DOUBLING: f64 = 0.25;
/// Uncertainty of an image's cost per doubling of its size beyond the measured sizes.
const UNMEASURED_SIZE: f64 = 0.2;

/// Seconds until the last of all workers has processed these images, and the mean over all workers.
pub(super) fn busy_s(images_s: &[f64], ranks: usize, threads: usize, strategy: Strategy) -> (f64, f64) {
    // With the dynamic strategy all workers take images from one list.
    let (parts, workers) = match strategy {
        Strategy::Dynamic => (ranks * threads, 1),
        _ => (ranks, threads),
    };
    let (mut longest_s, mut sum_s) = (0.0_f64, 0.0);
    for share in partition(strategy, images_s, parts) {
        let share_s: f64 = share.iter().map(|&place| images_s[place]).sum();
        let largest_s = share.iter().map(|&place| images_s[place]).fold(0.0, f64::max);
        longest_s = longest_s.max(share_s / workers as f64).max(largest_s);
        sum_s += share_s;
    }
    (longest_s, sum_s / (parts * workers) as f64)
}

/// Seconds that images occupy their workers: the work itself, or the time of the disk for their results if
/// that is longer.
pub(super) fn held_s(stages_s: &[f64; 4], images: usize, workers: f64) -> f64 {
    // The last results may not occupy all publishers.
    let on_each = (images as f64 / workers).ceil().max(1.0);
    let publishers = PUBLISHERS as f64;
    let rounds = (on_each / publishers).ceil() * publishers / on_each;
    own_s(stages_s).max(stages_s[PUBLISH] * rounds / publishers)
}

/// Seconds of the stages that occupy a worker.
pub(super) fn own_s(stages_s: &[f64; 4]) -> f64 {
    stages_s[..PUBLISH].iter().sum()
}

/// Adds an image's stages to those of others.
pub(super) fn add(sums_s: &mut [f64; 4], stages_s: &[f64; 4]) {
    sums_s
        .iter_mut()
        .zip(stages_s)
        .for_each(|(sum, seconds)| *sum += seconds);
}

/// Everything that a prediction needs, except the list.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// For each class, the line of each stage.
    classes: BTreeMap<ImageClass, [Line; 4]>,
    /// Smallest and largest number of voxels that were measured.
    measured_voxels: (f64, f64),
    /// Measured over expected cost of images with one worker.
    level: f64,
    /// κ: slow-down by each additional worker on the node.
    near: f64,
    /// φ: slow-down by each worker on another node; `None` if only one node was measured.
    far: Option<f64>,
    /// Logarithm of the remaining factor: with one rank (x = 0) and with several (x = 1), where all ranks
    /// wait for the slowest.
    overhead: Line,
    /// Standard deviation of the logarithm of measured over expected time.
    run_sd: f64,
    /// Degrees of freedom: runs minus fitted parameters.
    degrees: usize,
    /// Weight of the runs, weighted mean of their additional workers per node, and the squares about it.
    weight: f64,
    mean_near: f64,
    near_squares: f64,
    /// Largest measured number of workers per node, and of workers on other nodes.
    pub most_workers: f64,
    most_elsewhere: f64,
    /// Seconds from the run's start to the first image, without the part that depends on the list.
    pub setup_s: f64,
    /// Seconds from the last result until the records are gathered, without the part that depends on the
    /// list.
    pub finish_s: f64,
    /// Seconds of the launcher and the start of MPI; `None` if not measured.
    pub launch_s: Option<f64>,
    /// Standard deviation of set-up and finish together, seconds.
    fixed_sd_s: f64,
}

impl Model {
    /// Fits the model.
    pub fn fit(measured: &Measurements) -> Result<Self, String> {
        // Runs with more workers than CPUs measure the operating system. They count only if there are no
        // others.
        let has_cpus = |run: &&RunSample| run.per_node() <= run.cpus_per_node;
        let any = measured.runs.iter().any(|run| has_cpus(&run));
        let runs: Vec<&RunSample> = measured.runs.iter().filter(|run| !any || has_cpus(run)).collect();
        if runs.is_empty() {
            return Err("no image was measured".to_owned());
        }
        let images = || runs.iter().flat_map(|run| &run.images);
        let mut classes = fit_classes(images());
        let several_nodes = runs.iter().any(|run| run.nodes > 1);
        let samples: Vec<Compared> = runs.iter().map(|run| Compared::of(run, &classes)).collect();
        let on_one_node = samples
            .iter()
            .filter(|run| run.elsewhere == 0.0 || !several_nodes);
        let on_one_node = Vec::from_iter(on_one_node.map(|run| (run.near, run.cost, run.weight)));
        let near = contention(&on_one_node);
        let other = |run: &Compared| (run.elsewhere, run.cost - near.slope * run.near, run.weight);
        let far = several_nodes.then(|| contention(&Vec::from_iter(samples.iter().map(other))));
        let level = far.map_or(near.intercept, |far| far.intercept);
        if !(level > 0.0 && level.is_finite()) {
            return Err(format!(
                "{}: these reports do not give the time of an image with one worker: by a line through them \
                 it is {level:.2} times the mean; also give a report of one rank with one thread, or leave \
                 out one that is much slower or faster than the others",
                measured.names.join(", ")
            ));
        }
        let far = far.map(|far| far.slope);
        let beyond = |run: &Compared| {
            let expected = level + near.slope * run.near + far.unwrap_or(0.0) * run.elsewhere;
            (run.several_ranks, (run.time / expected).ln(), run.weight)
        };
        let beyond: Vec<Point> = samples.iter().map(beyond).collect();
        let overhead = Line::fit_rising(&beyond);
        let square = |(x, y, weight): &Point| weight * (y - overhead.at(*x)).powi(2);
        let variance = beyond.iter().map(square).sum::<f64>() / moments(&beyond)[0];
        let near_of_all = |run: &Compared| (run.near, 0.0, run.weight);
        let [weight, mean_near, _, near_squares] = moments(&Vec::from_iter(samples.iter().map(near_of_all)));
        let compares_ranks = moments(&beyond)[3] > 0.0;
        let fitted = 1 + [near_squares > 0.0, several_nodes, compares_ranks]
            .map(usize::from)
            .iter()
            .sum::<usize>();
        let degrees = runs.len().saturating_sub(fitted);
        let run_sd = match degrees {
            0 => UNKNOWN_RUN_SPREAD,
            _ => (variance * runs.len() as f64 / degrees as f64).sqrt(),
        };
        for lines in classes.values_mut() {
            lines[0].intercept *= measured.reading_factor;
            lines[0].slope *= measured.reading_factor;
        }
        let of_runs = |value: fn(&RunSample) -> f64| Vec::from_iter(measured.runs.iter().map(value));
        let voxels = || images().map(|image| image.features.voxels.max(1) as f64);
        let launches: Vec<f64> = measured.runs.iter().filter_map(|run| run.launch_s).collect();
        let most = |workers: fn(&Compared) -> f64| samples.iter().map(workers).fold(0.0, f64::max);
        Ok(Self {
            classes,
            measured_voxels: (
                voxels().fold(f64::INFINITY, f64::min),
                voxels().fold(0.0, f64::max),
            ),
            level,
            near: near.slope,
            far,
            overhead,
            run_sd: run_sd.max(LEAST_RUN_SPREAD),
            degrees,
            weight,
            mean_near,
            near_squares,
            most_workers: most(|run| run.near) + 1.0,
            most_elsewhere: most(|run| run.elsewhere),
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

    /// Seconds of an image's stages before [`Self::slow_down`]; `None` for a class that was not measured.
    pub fn stages_s(&self, image: &ImageFeatures) -> Option<[f64; 4]> {
        self.classes.get(&image.class).map(|lines| stages_s(lines, image))
    }

    /// Factor by which images take longer with this many workers per node and on all nodes.
    pub fn slow_down(&self, per_node: f64, all: f64) -> f64 {
        self.level + self.near * (per_node - 1.0) + self.far.unwrap_or(0.0) * (all - per_node)
    }

    /// Time of a run over the time of its images after slow-down.
    pub fn overhead(&self, ranks: usize) -> f64 {
        self.overhead.at(f64::from(ranks > 1)).exp()
    }

    /// Upper bound of the slow-down by each worker on another node. If no other nodes were measured, the
    /// worst case is that they slow down reading, which takes the fraction `reading` of the time, as much as
    /// workers of one node slow down all stages.
    fn far_high(&self, reading: f64) -> f64 {
        let reach = self.reach() * self.run_sd;
        match self.far {
            Some(far) => far + reach / self.most_elsewhere.max(1.0),
            None => reading * self.near.max(reach / self.most_workers.max(2.0)),
        }
    }

    /// The lower and the upper end of the interval of a working time, as factors of that time.
    ///
    /// Contention is between two bounds: workers that do not slow each other down, and workers that take
    /// turns.
    pub fn interval(&self, per_node: f64, all: f64, images: &[ImageFeatures], reading: f64) -> (f64, f64) {
        let factor = self.reach();
        let size_sd = UNMEASURED_SIZE * self.doublings_beyond(images);
        let run_sd = (self.run_sd.powi(2) * (1.0 + 1.0 / self.weight) + size_sd.powi(2)).sqrt();
        let slope_sd = if self.near_squares > 0.0 {
            self.run_sd * (per_node - 1.0 - self.mean_near).abs() / self.near_squares.sqrt()
        } else {
            UNMEASURED_DOUBLING * (per_node / (1.0 + self.mean_near)).log2().abs()
        };
        let on_node = 1.0 + self.near / self.level * (per_node - 1.0);
        let wider = 1.0 + factor * slope_sd;
        let slope_low = (1.0 / wider).max(1.0 / on_node);
        let slope_high = wider.min((per_node / on_node).max(1.0));
        let slow_down = self.slow_down(per_node, all);
        let far = (self.far_high(reading) - self.far.unwrap_or(0.0)).max(0.0) * (all - per_node);
        (
            (-(factor * run_sd).hypot(slope_low.ln())).exp(),
            (factor * run_sd).hypot(slope_high.ln()).exp() * (1.0 + far / slow_down),
        )
    }

    /// Half the width of the interval of set-up and finish, in seconds.
    pub fn fixed_reach_s(&self) -> f64 {
        self.reach() * self.fixed_sd_s
    }

    fn reach(&self) -> f64 {
        student_factor(COVERAGE, self.degrees)
    }

    /// Spread between runs as a fraction of their time.
    pub fn run_sd(&self) -> f64 {
        self.run_sd
    }

    /// Highest number of images per second that the shared file system serves, for images that occupy their
    /// worker for `image_s`; `None` if no limit was measured.
    pub fn ceiling(&self, image_s: f64) -> Option<f64> {
        let far = self.far.filter(|&far| far > 0.0);
        far.map(|far| 1.0 / (far * self.overhead(2) * image_s))
    }

    /// Number of doublings by which the images lie beyond the measured sizes, averaged over their voxels.
    pub fn doublings_beyond(&self, images: &[ImageFeatures]) -> f64 {
        let (low, high) = self.measured_voxels;
        let (mut sum, mut all) = (0.0, 0.0);
        for voxels in images.iter().map(|image| image.voxels.max(1) as f64) {
            sum += (voxels / high).max(low / voxels).max(1.0).log2() * voxels;
            all += voxels;
        }
        sum / f64::max(all, 1.0)
    }
}

/// The slow-down by the number of additional workers. If only similar numbers were measured, the line through
/// them can have any value for one worker. Workers that take turns are then the limit.
fn contention(points: &[Point]) -> Line {
    let line = Line::fit_rising(points);
    let taking_turns = points.iter().map(|(others, cost, _)| cost / (1.0 + others));
    if line.intercept >= taking_turns.fold(f64::INFINITY, f64::min) || line.slope == 0.0 {
        return line;
    }
    let sum = |value: &dyn Fn(&Point) -> f64| points.iter().map(value).sum::<f64>();
    let products = sum(&|(others, cost, weight)| weight * cost * (1.0 + others));
    let level = products / sum(&|(others, _, weight)| weight * (1.0 + others).powi(2));
    Line {
        intercept: level,
        slope: level.max(0.0),
    }
}

fn stages_s(lines: &[Line; 4], image: &ImageFeatures) -> [f64; 4] {
    std::array::from_fn(|stage| lines[stage].at(size_of(stage, image)))
}

/// The variable of a stage's line.
fn size_of(stage: usize, image: &ImageFeatures) -> f64 {
    if stage == 0 {
        image.file_bytes as f64
    } else {
        image.voxels as f64
    }
}

fn fit_classes<'a>(images: impl Iterator<Item = &'a ImageSample>) -> BTreeMap<ImageClass, [Line; 4]> {
    let mut classes: BTreeMap<ImageClass, Vec<&ImageSample>> = BTreeMap::new();
    for image in images {
        classes.entry(image.features.class).or_default().push(image);
    }
    let line = |images: &[&ImageSample], stage: usize| {
        // Noise grows with the size, so points are weighted by its inverse square.
        let point = |image: &&ImageSample| {
            let x = size_of(stage, &image.features).max(1.0);
            (x, image.stage_s[stage], 1.0 / (x * x))
        };
        Line::fit_nonnegative(&Vec::from_iter(images.iter().map(point)))
    };
    let lines = |images: Vec<&ImageSample>| std::array::from_fn(|stage| line(&images, stage));
    classes
        .into_iter()
        .map(|(class, images)| (class, lines(images)))
        .collect()
}

/// A run compared with the expected cost of its images.
struct Compared {
    /// Additional workers on its node, and workers on other nodes.
    near: f64,
    elsewhere: f64,
    /// 1 if it had several ranks, else 0.
    several_ranks: f64,
    /// Measured over expected cost of its images.
    cost: f64,
    /// Measured over expected time.
    time: f64,
    /// Lower for few images; at most 1, because many images are still one run.
    weight: f64,
}

impl Compared {
    fn of(run: &RunSample, classes: &BTreeMap<ImageClass, [Line; 4]>) -> Self {
        let (mut measured_s, mut expected_s) = ([0.0; 4], [0.0; 4]);
        let mut images_s = Vec::with_capacity(run.images.len());
        for image in &run.images {
            let stages_s = stages_s(&classes[&image.features.class], &image.features);
            add(&mut measured_s, &image.stage_s);
            add(&mut expected_s, &stages_s);
            images_s.push(own_s(&stages_s));
        }
        let (images, workers, per_node) = (images_s.len(), run.workers(), run.per_node());
        let held_s = |stages_s| held_s(stages_s, images, workers);
        let (longest_s, _) = busy_s(&images_s, run.ranks, run.threads, run.strategy);
        let expected_time_s = longest_s * held_s(&expected_s) / own_s(&expected_s);
        Self {
            near: per_node - 1.0,
            elsewhere: workers - per_node,
            several_ranks: f64::from(run.ranks > 1),
            cost: held_s(&measured_s) / held_s(&expected_s),
            time: (run.working_s / expected_time_s).max(f64::MIN_POSITIVE),
            weight: images as f64 / (images as f64 + 10.0),
        }
    }
}

#[cfg(test)]
mod tests;
