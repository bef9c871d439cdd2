//! Memory: what a rank holds, fitted to what ranks held, and never predicted below it.
//!
//! A rank's memory is a line in threads × bytes of the largest image, since each worker keeps buffers for the
//! largest image that it has met. The intercept is the program, MPI and a worker's codec. What a rank knows
//! of the list comes on top.

use super::measured::RunSample;
use crate::study::statistics::Line;

/// Added to every prediction: what runs of the same work differ by.
const MARGIN_PART: f64 = 0.025;
const MARGIN_BYTES: f64 = 256.0 * 1024.0;
/// Added to what the list takes: several ranks also hold MPI's buffers while the list travels.
const LIST_MARGIN_PART: f64 = 0.05;
/// How much of what rank 0 holds of an image at most it surely held together with the images' buffers.
const SURELY_HELD: f64 = 0.5;
/// What a rank holds more when `srun` starts it than when `mpirun` does, by PMIx and Slurm's libraries.
const SRUN_BYTES: f64 = 3.5 * 1024.0 * 1024.0;
/// Ranks differ by less than this in threads × bytes of the largest image if they count as the same.
const SAME: f64 = 1.02;

/// What a rank holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MemoryModel {
    /// Of each measured run: threads × bytes of the largest image, and what a rank held without its list.
    points: Vec<(f64, f64)>,
    line: Line,
    /// By how much the largest measured rank lies above the line.
    above: f64,
    /// Added for every rank.
    launcher_bytes: f64,
}

impl MemoryModel {
    /// Fits the line to the runs' largest ranks, without what their lists took: `image_list_bytes` per image
    /// up to the `planned` ones, for which [`Self::rank_bytes`] adds it again, and half of it for those
    /// beyond, which a pilot has that repeats small images. A run is never taken to have held less than half
    /// of what it did. `for_srun`: whether `srun` will start the ranks.
    pub fn fit(runs: &[RunSample], image_list_bytes: f64, planned: usize, for_srun: bool) -> Self {
        let points: Vec<(f64, f64)> = runs
            .iter()
            .map(|run| {
                let workers = run.threads.min(run.images.div_ceil(run.ranks)).max(1);
                let beyond = run.images.saturating_sub(planned) as f64;
                let listed = run.images.min(planned) as f64 + SURELY_HELD * beyond;
                let rss_bytes = run.rss_bytes as f64;
                let held = (rss_bytes - image_list_bytes * listed).max(0.5 * rss_bytes);
                (workers as f64 * run.largest_bytes as f64, held)
            })
            .collect();
        let line = Line::fit_nonnegative(&Vec::from_iter(points.iter().map(|&(x, y)| (x, y, 1.0))));
        let above = points.iter().map(|(x, y)| y - line.at(*x)).fold(0.0, f64::max);
        let measured_by_srun = runs.iter().any(|run| run.by_srun);
        Self {
            points,
            line,
            above,
            launcher_bytes: if for_srun && !measured_by_srun {
                SRUN_BYTES
            } else {
                0.0
            },
        }
    }

    /// Bytes of a rank with `threads` workers whose largest image takes `largest_bytes`, and `list_bytes` for
    /// what it knows of all images: the most that any such rank held, or, where none was measured, what the
    /// line says, and never less than what was measured with less.
    pub fn rank_bytes(&self, threads: usize, largest_bytes: u64, list_bytes: f64) -> f64 {
        let x = threads as f64 * largest_bytes as f64;
        let most = |of: &dyn Fn(f64) -> bool| {
            self.points
                .iter()
                .filter(|point| of(point.0))
                .map(|point| point.1)
                .fold(0.0, f64::max)
        };
        let same = most(&|measured| measured <= x * SAME && x <= measured * SAME);
        let held = if same > 0.0 {
            same
        } else {
            self.line.at(x) + self.above
        };
        // From one size alone it is not known what a smaller one saves.
        let at_least = if self.line.intercept == 0.0 {
            self.points
                .iter()
                .map(|point| point.1)
                .fold(f64::INFINITY, f64::min)
        } else {
            most(&|measured| measured <= x * SAME)
        };
        let list_bytes = list_bytes * (1.0 + LIST_MARGIN_PART);
        (held.max(at_least) + list_bytes) * (1.0 + MARGIN_PART) + MARGIN_BYTES + self.launcher_bytes
    }

    /// Whether such a rank lies beyond those that were measured.
    pub fn is_beyond(&self, threads: usize, largest_bytes: u64) -> bool {
        let most = self.points.iter().map(|point| point.0).fold(0.0, f64::max);
        threads as f64 * largest_bytes as f64 > most * 1.05
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn run(threads: usize, largest_bytes: u64, rss_bytes: u64) -> RunSample {
        RunSample {
            images: 20,
            ranks: 1,
            threads,
            nodes: 1,
            rss_bytes,
            largest_bytes,
            ..RunSample::default()
        }
    }

    fn fit(runs: &[RunSample]) -> MemoryModel {
        MemoryModel::fit(runs, 0.0, 0, false)
    }

    #[test]
    fn program_and_images_are_separated() {
        // 15 MiB of program and three times the image for each worker.
        let truth = |threads: u64, image: u64| 15 * MIB + 3 * threads * image;
        let measured = |threads: u64| run(threads as usize, 2 * MIB, truth(threads, 2 * MIB));
        let model = fit(&[measured(1), measured(2), measured(1)]);
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
        let model = fit(&[
            run(1, MIB, 20 * MIB),
            run(1, MIB, 24 * MIB),
            run(2, MIB, 23 * MIB),
        ]);
        assert!(model.rank_bytes(1, MIB, 0.0) >= (24 * MIB) as f64);
        assert!(model.rank_bytes(2, MIB, 0.0) >= (24 * MIB) as f64);
    }

    #[test]
    fn ranks_like_those_measured_are_promised_what_those_held() {
        // Two workers of a list with a few large images seldom hold two of them, so the line does not fit.
        let model = fit(&[
            run(1, 30 * MIB, 80 * MIB),
            run(1, 30 * MIB, 81 * MIB),
            run(2, 30 * MIB, 100 * MIB),
        ]);
        let found = model.rank_bytes(1, 30 * MIB, 0.0) / (81 * MIB) as f64;
        assert!((1.0..1.05).contains(&found), "{found}");
    }

    #[test]
    fn ranks_of_srun_hold_more_than_those_of_mpirun() {
        let by_mpirun = [run(1, MIB, 24 * MIB)];
        let promised =
            |runs: &[RunSample], for_srun| MemoryModel::fit(runs, 0.0, 0, for_srun).rank_bytes(1, MIB, 0.0);
        assert!(
            promised(&by_mpirun, true) >= (27 * MIB) as f64
                && promised(&by_mpirun, false) < (27 * MIB) as f64
        );
        let by_srun = [RunSample {
            by_srun: true,
            ..by_mpirun[0].clone()
        }];
        assert_eq!(promised(&by_srun, true), promised(&by_mpirun, false));
    }

    /// What is promised for `planned` images after a run of 10,000, whose list took 1000 bytes per image in
    /// addition to the images' buffers, or as much less as it found room in these.
    fn after_a_long_run(planned: usize, room_in_buffers: u64) -> f64 {
        let long = RunSample {
            images: 10_000,
            ..run(1, MIB, 30 * MIB + 10_000_000 - room_in_buffers)
        };
        let model = MemoryModel::fit(&[long], 1000.0, planned, false);
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
            assert!(
                found >= truth && found <= truth + 7_000_000.0,
                "{room_in_buffers}: {found} {truth}"
            );
        }
    }

    #[test]
    fn from_one_size_a_larger_image_takes_in_proportion_and_a_smaller_one_no_less() {
        let model = fit(&[run(1, 10 * MIB, 40 * MIB)]);
        assert!(model.rank_bytes(1, 20 * MIB, 0.0) >= (80 * MIB) as f64);
        assert!(model.rank_bytes(1, MIB, 0.0) >= (40 * MIB) as f64);
    }
}
