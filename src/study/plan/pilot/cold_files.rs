//! Files that were not in memory when the pilot began: its first run alone read them as the job will.

use std::collections::BTreeMap;

use super::super::measured::Source;
use crate::report::{ImageRow, Status};
use crate::study::statistics::median;

/// Reading took as many times as long when the images were not in memory, or it is not taken for a difference.
const COLD_FACTOR: f64 = 1.5;

/// When the very first run read files that were not in memory yet, what reading took longer for it holds for the others, as
/// it will for the job's other images. Returns a sentence on it.
pub(super) fn reckon_with_cold_files(first: &Source, others: &mut [Source]) -> Option<String> {
    // Of each image, what the later runs of one worker took to read it.
    let mut warm: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let of_one_worker = others
        .iter()
        .filter(|other| other.report.launch.ranks * other.report.launch.threads_per_rank == 1);
    for row in of_one_worker.flat_map(|other| &other.report.images) {
        if row.status() == Status::Done {
            warm.entry(&row.input).or_default().push(row.timings.read_s);
        }
    }
    let mut rows: Vec<&ImageRow> = first.report.images.iter().collect();
    rows.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    // The worker's first image pays for more than reading.
    let pairs: Vec<(f64, f64)> = rows
        .iter()
        .filter(|row| row.status() == Status::Done)
        .skip(1)
        .filter_map(|row| Some((row.timings.read_s, median(warm.get(row.input.as_str())?))))
        .collect();
    let cold_s: f64 = pairs.iter().map(|pair| pair.0).sum();
    let warm_s: f64 = pairs.iter().map(|pair| pair.1).sum();
    if warm_s <= 0.0 || cold_s < COLD_FACTOR * warm_s {
        return None;
    }
    let (factor, count) = (cold_s / warm_s, pairs.len() as f64);
    for other in others {
        other.reading_factor = factor;
    }
    Some(format!(
        "the first run read an image in {:.1} ms, the others, whose files were in memory by then, in {:.1} ms; images are \
         expected to be read as in the first",
        cold_s * 1e3 / count,
        warm_s * 1e3 / count
    ))
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn images_that_were_not_in_memory_stand_for_the_jobs() {
        // The later runs go through the images several times.
        let first = source(20, 0.004, 0.0);
        let mut others = vec![source(100, 0.001, 0.0); 2];
        let note = reckon_with_cold_files(&first, &mut others).unwrap();
        assert!(note.contains("4.0 ms") && note.contains("1.0 ms"), "{note}");
        let mut factors = others.iter().map(|source| source.reading_factor);
        assert!(factors.all(|factor| (factor - 4.0).abs() < 1e-9));

        let mut warm = vec![source(20, 0.001, 0.0); 2];
        assert_eq!(
            reckon_with_cold_files(&source(20, 0.0012, 0.0), &mut warm),
            None
        );
        assert!(warm.iter().all(|source| source.reading_factor == 1.0));
        assert_eq!(
            reckon_with_cold_files(&first, &mut []),
            None,
            "nothing to compare with"
        );
    }
}
