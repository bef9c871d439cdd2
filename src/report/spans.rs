//! Spans: when each worker read, filtered, wrote and published each image, for timelines.

use std::collections::BTreeMap;

use super::{ImageRow, Report, Status};
use crate::job::outcome::Timings;

/// The stages of an image, in order. The worker is free after the third.
pub(crate) const STAGES: [&str; 4] = ["read", "filter", "write", "disk"];

/// An image on its worker.
pub(crate) struct Span<'a> {
    pub(crate) image: &'a ImageRow,
    /// Seconds at which reading, filtering, writing and publishing begin, and at which publishing ends,
    /// ascending. Publishing follows writing directly, so it includes the wait for a publisher. Reports of
    /// earlier versions do not contain the end of an image, but only the length of its stages.
    pub(crate) bounds_s: [f64; 5],
}

/// A worker's images, in order of time.
pub(crate) struct Lane<'a> {
    pub(crate) rank: usize,
    pub(crate) worker: usize,
    pub(crate) spans: Vec<Span<'a>>,
}

/// The work of one worker on an image.
struct Work<'a> {
    image: &'a ImageRow,
    timings: Timings,
}

/// The workers that processed images, by rank and worker. If threads share an image, its stage times are sums
/// over these threads; they are shortened to end before the image's publishing and the worker's next image.
/// An image that ranks share has a span on each of them, from its start on.
pub(crate) fn lanes(report: &Report) -> Vec<Lane<'_>> {
    let mut workers: BTreeMap<(usize, usize), Vec<Work<'_>>> = BTreeMap::new();
    for image in &report.images {
        if image.status() == Status::Skipped {
            continue;
        }
        let mut timings = image.timings;
        for sharer in image.shared.iter().filter(|sharer| sharer.rank != image.rank) {
            let own = Timings {
                read_s: sharer.read_s,
                filter_s: sharer.filter_s,
                write_s: sharer.write_s,
                publish_s: 0.0,
            };
            timings.read_s -= own.read_s;
            timings.filter_s -= own.filter_s;
            timings.write_s -= own.write_s;
            let lane = workers.entry((sharer.rank, 0)).or_default();
            lane.push(Work { image, timings: own });
        }
        let lane = workers.entry((image.rank, image.worker)).or_default();
        lane.push(Work { image, timings });
    }
    let lanes = workers.into_iter().map(|((rank, worker), images)| Lane {
        rank,
        worker,
        spans: spans(images),
    });
    lanes.collect()
}

fn spans(mut images: Vec<Work<'_>>) -> Vec<Span<'_>> {
    images.sort_by(|one, other| one.image.start_s.total_cmp(&other.image.start_s));
    let ends = images.iter().skip(1).map(|next| next.image.start_s);
    let ends: Vec<f64> = ends.chain([f64::INFINITY]).collect();
    let spans = images.into_iter().zip(ends).map(|(work, end_s)| Span {
        image: work.image,
        bounds_s: bounds_s(work.image, work.timings, end_s),
    });
    spans.collect()
}

fn bounds_s(image: &ImageRow, times: Timings, next_s: f64) -> [f64; 5] {
    let length = |seconds: f64| {
        if seconds.is_finite() {
            seconds.max(0.0)
        } else {
            0.0
        }
    };
    let (start_s, used_s) = (length(image.start_s), length(times.worker_s()));
    let publish_s = length(times.publish_s);
    let published_s = image.end_s.filter(|end_s| *end_s >= start_s);
    let publishing_s = published_s.map(|end_s| (end_s - publish_s).max(start_s));
    let part = match publishing_s.map_or(next_s, |at_s| at_s.min(next_s)) - start_s {
        free_s if free_s < used_s => free_s.max(0.0) / used_s,
        _ => 1.0,
    };
    let read_end_s = start_s + part * length(times.read_s);
    let filter_end_s = read_end_s + part * length(times.filter_s);
    let write_end_s = filter_end_s + part * length(times.write_s);
    let publish_end_s = match published_s {
        Some(end_s) if publish_s > 0.0 => end_s,
        _ => write_end_s + publish_s,
    };
    [start_s, read_end_s, filter_end_s, write_end_s, publish_end_s]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::outcome::Sharer;
    use crate::report::sample;

    #[test]
    fn sums_over_threads_end_with_the_image() {
        let mut report = sample::report();
        let image = &mut report.images[1].outcome;
        (image.start_s, image.end_s) = (3.0, Some(5.0));
        let lanes = lanes(&report);
        // Six seconds of work of four threads in a second and a half.
        assert_eq!(lanes[0].spans[1].bounds_s, [3.0, 3.25, 3.75, 4.5, 5.0]);
        assert_eq!(lanes[1].spans[0].bounds_s, [0.0, 1.0, 3.0, 6.0, 6.5]);
        // A result that waited for the disk.
        report.images[1].outcome.end_s = Some(12.0);
        assert_eq!(
            super::lanes(&report)[0].spans[1].bounds_s,
            [3.0, 4.0, 6.0, 9.0, 12.0]
        );
    }

    #[test]
    fn stages_follow_each_other_and_end_before_the_next_image() {
        let mut report = sample::report();
        report.images[1].outcome.start_s = 3.0;
        report.images[1].outcome.timings.read_s = f64::NAN;
        let lanes = lanes(&report);
        let places: Vec<_> = lanes
            .iter()
            .map(|lane| (lane.rank, lane.worker, lane.spans.len()))
            .collect();
        assert_eq!(places, [(0, 0, 2), (1, 0, 1)]);
        // Six seconds of work in three; publishing keeps its length.
        assert_eq!(lanes[0].spans[0].bounds_s, [0.0, 0.5, 1.5, 3.0, 3.5]);
        assert_eq!(lanes[0].spans[1].bounds_s, [3.0, 3.0, 5.0, 8.0, 8.5]);
        assert_eq!(lanes[1].spans[0].bounds_s, [0.0, 1.0, 3.0, 6.0, 6.5]);
    }

    #[test]
    fn each_rank_that_shares_an_image_has_its_own_stages() {
        let mut report = sample::report();
        report.images.truncate(1);
        let image = &mut report.images[0].outcome;
        let sharer = |rank, read_s| Sharer {
            rank,
            read_s,
            ..Sharer::default()
        };
        image.shared = vec![sharer(0, 0.25), sharer(5, 0.75)];
        let lanes = lanes(&report);
        let spans: Vec<_> = lanes
            .iter()
            .map(|lane| (lane.rank, lane.worker, lane.spans[0].bounds_s))
            .collect();
        assert_eq!(
            spans,
            [
                (0, 0, [0.0, 0.25, 2.25, 5.25, 5.75]),
                (5, 0, [0.0, 0.75, 0.75, 0.75, 0.75])
            ]
        );
    }
}
