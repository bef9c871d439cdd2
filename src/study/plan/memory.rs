//! Memory of a rank: a line that lies above all measured ranks.
//!
//! Its variable is threads × bytes of the largest image, because each worker keeps buffers for the largest
//! image that it has processed. The intercept contains the program, MPI and the codec. The memory of the list
//! is added.

use std::collections::BTreeMap;

use super::measured::RunSample;
use crate::study::statistics::Line;

/// Added to every prediction, because runs of the same work differ.
const MARGIN_PART: f64 = 0.025;
const MARGIN_BYTES: f64 = 256.0 * 1024.0;
/// Added to the memory of the list, for MPI's buffers while the list is sent.
const LIST_MARGIN_PART: f64 = 0.05;
/// The fraction of the list's memory that rank 0 certainly held at the same time as the buffers of the
/// images.
const SURELY_HELD: f64 = 0.5;
/// Additional memory of a rank that `srun` instead of `mpirun` starts, for PMIx and Slurm's libraries.
const SRUN_BYTES: f64 = 3.5 * 1024.0 * 1024.0;

/// Predicts the memory of a rank.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MemoryModel {
    /// Threads × bytes of the largest image → bytes of a rank without its list.
    line: Line,
    /// The smallest measured threads × bytes of the largest image.
    least: f64,
    /// Added for every rank.
    launcher_bytes: f64,
}

impl MemoryModel {
    /// Fits the line to the largest rank of each run.
    ///
    /// First subtracts the memory of the run's list, which [`Self::rank_bytes`] adds again:
    /// `image_list_bytes` for each image up to `planned`, and half of it for each image beyond (a pilot that
    /// repeats small images has such images). At most half of a run's memory is subtracted. `for_srun`:
    /// whether `srun` will start the ranks.
    pub fn fit(runs: &[RunSample], image_list_bytes: f64, planned: usize, for_srun: bool) -> Self {
        // The highest memory among ranks of equal work.
        let mut most: BTreeMap<u64, f64> = BTreeMap::new();
        for run in runs {
            let images = run.images.len();
            let workers = run.threads.min(images.div_ceil(run.ranks)).max(1);
            let beyond = images.saturating_sub(planned) as f64;
            let listed = images.min(planned) as f64 + SURELY_HELD * beyond;
            let rss_bytes = run.rss_bytes as f64;
            let held = (rss_bytes - image_list_bytes * listed).max(0.5 * rss_bytes);
            let same = most.entry(workers as u64 * run.largest_bytes()).or_default();
            *same = same.max(held);
        }
        let points: Vec<_> = most.iter().map(|(&x, &held)| (x as f64, held, 1.0)).collect();
        let mut line = Line::fit_nonnegative(&points);
        line.intercept += points.iter().map(|&(x, y, _)| y - line.at(x)).fold(0.0, f64::max);
        let measured_by_srun = runs.iter().any(|run| run.by_srun);
        Self {
            line,
            least: points.iter().map(|point| point.0).fold(f64::INFINITY, f64::min),
            launcher_bytes: if for_srun && !measured_by_srun {
                SRUN_BYTES
            } else {
                0.0
            },
        }
    }

    /// Bytes of a rank with `threads` workers whose largest image needs `largest_bytes` and whose list needs
    /// `list_bytes`. Images smaller than the measured ones count as the smallest measured.
    pub fn rank_bytes(&self, threads: usize, largest_bytes: u64, list_bytes: f64) -> f64 {
        let held = self
            .line
            .at((threads as f64 * largest_bytes as f64).max(self.least));
        (held + list_bytes * (1.0 + LIST_MARGIN_PART)) * (1.0 + MARGIN_PART)
            + MARGIN_BYTES
            + self.launcher_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::sample;
    use super::*;

    const MIB: u64 = 1 << 20;

    fn run(images: usize, threads: usize, largest_bytes: u64, rss_bytes: u64) -> RunSample {
        RunSample {
            images: vec![sample(largest_bytes); images],
            ranks: 1,
            threads,
            nodes: 1,
            rss_bytes,
            ..RunSample::default()
        }
    }

    #[test]
    fn program_and_images_are_separated() {
        // 15 MiB of program and three times the image for each worker.
        let truth = |threads: u64, image: u64| 15 * MIB + 3 * threads * image;
        let measured = |threads: u64| run(20, threads as usize, 2 * MIB, truth(threads, 2 * MIB));
        let model = MemoryModel::fit(&[measured(1), measured(2), measured(1)], 0.0, 0, false);
        for (threads, image) in [(1, 2 * MIB), (8, 2 * MIB), (4, 20 * MIB)] {
            let found = model.rank_bytes(threads as usize, image, 0.0) / truth(threads, image) as f64;
            assert!((1.0..1.1).contains(&found), "{threads} {image}: {found}");
        }
    }

    #[test]
    fn predictions_are_at_least_the_measured_memory_even_from_one_size() {
        let runs = [
            run(20, 1, MIB, 20 * MIB),
            run(20, 1, MIB, 24 * MIB),
            run(20, 2, MIB, 23 * MIB),
        ];
        let model = MemoryModel::fit(&runs, 0.0, 0, false);
        for threads in [1, 2] {
            assert!(model.rank_bytes(threads, MIB, 0.0) >= (24 * MIB) as f64);
        }
        let one_size = MemoryModel::fit(&[run(20, 1, 10 * MIB, 40 * MIB)], 0.0, 0, false);
        assert!(one_size.rank_bytes(1, 20 * MIB, 0.0) >= (80 * MIB) as f64);
        assert!(one_size.rank_bytes(1, MIB, 0.0) >= (40 * MIB) as f64);
    }

    #[test]
    fn ranks_of_srun_hold_more_than_those_of_mpirun() {
        let promised = |run: &RunSample, for_srun| {
            MemoryModel::fit(std::slice::from_ref(run), 0.0, 0, for_srun).rank_bytes(1, MIB, 0.0)
        };
        let by_mpirun = run(20, 1, MIB, 24 * MIB);
        assert!(promised(&by_mpirun, true) >= (27 * MIB) as f64);
        assert!(promised(&by_mpirun, false) < (27 * MIB) as f64);
        let by_srun = RunSample {
            by_srun: true,
            ..by_mpirun.clone()
        };
        assert_eq!(promised(&by_srun, true), promised(&by_mpirun, false));
    }

    /// The run has 10,000 images. Its list takes 1000 bytes per image in addition to the images' buffers, or
    /// less if it fits into them.
    #[test]
    fn a_long_list_is_not_counted_twice_and_a_short_one_takes_less() {
        for (planned, room_in_buffers, over) in [
            (10_000, 0, 5e6),
            (1_000_000, 0, 1e8),
            (100, 0, 7e6),
            (100, 5_000_000, 7e6),
        ] {
            let long = run(10_000, 1, MIB, 30 * MIB + 10_000_000 - room_in_buffers);
            let found =
                MemoryModel::fit(&[long], 1000.0, planned, false).rank_bytes(1, MIB, planned as f64 * 1000.0);
            let truth = (30 * MIB) as f64 + planned as f64 * 1000.0;
            assert!(
                found >= truth && found <= truth + over,
                "{planned}: {found} {truth}"
            );
        }
    }
}
