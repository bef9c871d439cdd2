//! Memory: what a rank holds, fitted to what ranks held, and never predicted below it.
//!
//! A rank's memory is a line in threads × bytes of the largest image, since each worker keeps buffers for the largest image
//! that it has met: the intercept is the program, MPI and a worker's codec.

use super::measured::RunSample;
use crate::study::statistics::Line;

/// Added to every prediction: what runs of the same work differ by.
const MARGIN_PART: f64 = 0.025;
const MARGIN_BYTES: f64 = 256.0 * 1024.0;
/// Added to what the list takes: several ranks hold MPI's buffers besides while it travels, up to so much as measured.
const LIST_MARGIN_PART: f64 = 0.05;

/// How much of what rank 0 holds of an image at the most it surely held beside the images' buffers: entry and record, while the
/// report's row comes when these are free.
const SURELY_HELD: f64 = 0.5;

/// What a rank holds.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryModel {
    line: Line,
    /// By how much the largest measured rank lies above the line.
    above: f64,
    /// Smallest and largest threads × bytes that were measured.
    measured: (f64, f64),
    /// The most that was measured with the smallest.
    at_least: f64,
}

impl MemoryModel {
    /// Fits the line to the runs' largest ranks, without what their lists took: `image_list_bytes` an image up to the `planned`
    /// ones, for which [`Self::rank_bytes`] adds it again, and half of it for those beyond, as a pilot that goes
    /// through small images again and again has them. A run is never taken to have held less than half of what it did.
    pub fn fit(runs: &[RunSample], image_list_bytes: f64, planned: usize) -> Self {
        let without_list = |run: &RunSample| {
            let beyond = run.images.saturating_sub(planned) as f64;
            let listed = run.images.min(planned) as f64 + SURELY_HELD * beyond;
            let rss_bytes = run.rss_bytes as f64;
            (rss_bytes - image_list_bytes * listed).max(0.5 * rss_bytes)
        };
        let points: Vec<(f64, f64, f64)> = runs
            .iter()
            .map(|run| {
                let workers = run.threads.min(run.images.div_ceil(run.ranks)).max(1);
                (
                    workers as f64 * run.largest_bytes as f64,
                    without_list(run),
                    1.0,
                )
            })
            .collect();
        let line = Line::fit_nonnegative(&points);
        let above = points
            .iter()
            .map(|(x, y, _)| y - line.at(*x))
            .fold(0.0, f64::max);
        let low = points
            .iter()
            .map(|point| point.0)
            .fold(f64::INFINITY, f64::min);
        let high = points.iter().map(|point| point.0).fold(0.0, f64::max);
        let at_least = points
            .iter()
            .filter(|point| point.0 <= low * 1.02)
            .map(|point| point.1)
            .fold(0.0, f64::max);
        Self {
            line,
            above,
            measured: (low, high),
            at_least,
        }
    }

    /// Bytes of a rank with `threads` workers whose largest image takes `largest_bytes`, besides `list_bytes` for what it
    /// knows of all images. Never below what was measured with less.
    pub fn rank_bytes(&self, threads: usize, largest_bytes: u64, list_bytes: f64) -> f64 {
        let x = threads as f64 * largest_bytes as f64;
        let mut bytes = self.line.at(x) + self.above;
        if x >= self.measured.0 {
            bytes = bytes.max(self.at_least);
        } else if self.line.intercept == 0.0 {
            // One size alone was measured: what a smaller one would save is not known.
            bytes = self.at_least;
        }
        let list_bytes = list_bytes * (1.0 + LIST_MARGIN_PART);
        (bytes + list_bytes) * (1.0 + MARGIN_PART) + MARGIN_BYTES
    }

    /// Whether a rank of this kind lies beyond those that were measured.
    pub fn is_beyond(&self, threads: usize, largest_bytes: u64) -> bool {
        threads as f64 * largest_bytes as f64 > self.measured.1 * 1.05
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(threads: usize, largest_bytes: u64, rss_bytes: u64) -> RunSample {
        RunSample {
            images: 20,
            ranks: 1,
            threads,
            nodes: 1,
            cpus: Some(4),
            results_behind: 0.0,
            setup_s: 0.0,
            gap_s: 0.0,
            finish_s: 0.0,
            launch_s: None,
            rss_bytes,
            largest_bytes,
        }
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn program_and_images_are_told_apart() {
        // 15 MiB of program and three times the image for each worker.
        let truth = |threads: u64, image: u64| 15 * MIB + 3 * threads * image;
        let model = MemoryModel::fit(
            &[
                run(1, 2 * MIB, truth(1, 2 * MIB)),
                run(2, 2 * MIB, truth(2, 2 * MIB)),
                run(1, 2 * MIB, truth(1, 2 * MIB)),
            ],
            0.0,
            0,
        );
        for (threads, image) in [(1, 2 * MIB), (8, 2 * MIB), (4, 20 * MIB)] {
            let found = model.rank_bytes(threads as usize, image, 0.0);
            let truth = truth(threads, image) as f64;
            assert!(
                found >= truth && found <= truth * 1.1,
                "{threads} {image}: {found} {truth}"
            );
        }
        assert!(model.is_beyond(8, 2 * MIB) && !model.is_beyond(2, 2 * MIB));
    }

    #[test]
    fn never_below_what_was_measured() {
        let model = MemoryModel::fit(
            &[
                run(1, MIB, 20 * MIB),
                run(1, MIB, 24 * MIB),
                run(2, MIB, 23 * MIB),
            ],
            0.0,
            0,
        );
        assert!(model.rank_bytes(1, MIB, 0.0) >= (24 * MIB) as f64);
        assert!(model.rank_bytes(2, MIB, 0.0) >= (24 * MIB) as f64);
    }

    /// What is promised for `planned` images after a run of 10,000, whose list took 1000 bytes an image beside the images'
    /// buffers, or as much less as it found room in these.
    fn after_a_long_run(planned: usize, room_in_buffers: u64) -> f64 {
        let long = RunSample {
            images: 10_000,
            ..run(1, MIB, 30 * MIB + 10_000_000 - room_in_buffers)
        };
        let model = MemoryModel::fit(std::slice::from_ref(&long), 1000.0, planned);
        model.rank_bytes(1, MIB, planned as f64 * 1000.0)
    }

    #[test]
    fn a_long_list_is_not_counted_twice() {
        for planned in [10_000, 1_000_000] {
            let truth = (30 * MIB) as f64 + planned as f64 * 1000.0;
            let found = after_a_long_run(planned, 0);
            assert!(
                found >= truth && found <= truth * 1.09,
                "{planned}: {found} {truth}"
            );
        }
    }

    #[test]
    fn a_short_list_takes_less_than_the_long_one_that_was_measured_and_never_too_little() {
        let truth = (30 * MIB) as f64 + 100_000.0;
        for room_in_buffers in [0, 3_000_000, 5_000_000] {
            let found = after_a_long_run(100, room_in_buffers);
            assert!(found >= truth, "{room_in_buffers}: {found} {truth}");
            assert!(
                found <= truth + 7_000_000.0,
                "{room_in_buffers}: {found} {truth}"
            );
        }
    }

    #[test]
    fn an_absurd_measure_of_the_list_leaves_the_program() {
        let long = RunSample {
            images: 10_000,
            ..run(1, MIB, 30 * MIB)
        };
        let model = MemoryModel::fit(&[long], 1e6, 100);
        assert!(model.rank_bytes(1, MIB, 0.0) >= (15 * MIB) as f64);
    }

    #[test]
    fn from_one_size_a_larger_image_takes_in_proportion_and_a_smaller_one_no_less() {
        let model = MemoryModel::fit(&[run(1, 10 * MIB, 40 * MIB)], 0.0, 0);
        assert!(model.rank_bytes(1, 20 * MIB, 0.0) >= (80 * MIB) as f64);
        assert!(model.rank_bytes(1, MIB, 0.0) >= (40 * MIB) as f64);
    }
}
