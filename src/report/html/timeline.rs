//! The timeline of the page: a lane per worker, or per rank if there are many images, as paths of an SVG.

use std::collections::HashMap;
use std::fmt::Write;

use crate::report::spans::{Lane, STAGES, lanes};
use crate::report::{RankRow, Report};

/// Up to this many images and lanes, each image is drawn.
const MOST_IMAGES: usize = 2000;
const MOST_LANES: usize = 64;
/// Intervals of an aggregated timeline.
const BINS: usize = 120;
/// Width of the time axis, and height of a lane and of its strip for the disk.
const WIDTH: f64 = 860.0;
const LANE: f64 = 16.0;
const STRIP: f64 = 4.0;

/// A row of the chart.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) y: f64,
    /// Where the run of the rank begins, and its length.
    pub(super) run: [f64; 2],
    /// Path data of reading, filtering, writing and the disk, with x from 0 to [`Timeline::width`].
    pub(super) paths: Vec<(&'static str, String)>,
}

pub(super) struct Timeline {
    pub(super) rows: Vec<Row>,
    /// Places and texts of the time axis.
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) width: f64,
    pub(super) height: f64,
    /// Whether images are summed over intervals.
    pub(super) aggregated: bool,
    /// Seconds of an interval.
    pub(super) interval: String,
    /// Number of workers that are not drawn.
    pub(super) left_out: usize,
}

/// The timeline; `None` if no image was processed.
pub(super) fn of(report: &Report) -> Option<Timeline> {
    let lanes = lanes(report);
    let count: usize = lanes.iter().map(|lane| lane.spans.len()).sum();
    let ends = lanes
        .iter()
        .flat_map(|lane| &lane.spans)
        .map(|span| span.bounds_s[4]);
    let end_s = ends.fold(0.0, f64::max);
    if !(end_s > 0.0 && end_s.is_finite()) {
        return None;
    }
    let aggregated = count > MOST_IMAGES || lanes.len() > MOST_LANES;
    let runs = runs(report);
    let all = if aggregated {
        by_rank(&lanes)
    } else {
        lanes.iter().map(|lane| vec![lane]).collect()
    };
    let rows: Vec<Row> = all
        .iter()
        .take(MOST_LANES)
        .enumerate()
        .map(|(place, lanes)| {
            let (rank, worker) = (lanes[0].rank, lanes[0].worker);
            Row {
                label: match aggregated {
                    true => format!("rank {rank}"),
                    false => format!("rank {rank}, worker {worker}"),
                },
                y: place as f64 * (LANE + STRIP + 4.0),
                run: runs.get(&rank).map_or([0.0, WIDTH], |[begin_s, run_s]| {
                    let begin = (begin_s / end_s * WIDTH).clamp(0.0, WIDTH);
                    [begin, (run_s / end_s * WIDTH).clamp(0.0, WIDTH - begin)]
                }),
                paths: match aggregated {
                    true => binned(lanes, end_s),
                    false => exact(lanes[0], end_s),
                },
            }
        })
        .collect();
    Some(Timeline {
        height: rows.len() as f64 * (LANE + STRIP + 4.0),
        ticks: ticks(end_s),
        width: WIDTH,
        aggregated,
        interval: crate::text::duration(end_s / BINS as f64),
        left_out: all.iter().skip(MOST_LANES).map(Vec::len).sum(),
        rows,
    })
}

/// When the run of each rank began, and the seconds until the last of its ranks was done.
fn runs(report: &Report) -> HashMap<usize, [f64; 2]> {
    let mut lengths_s: HashMap<u64, f64> = HashMap::new();
    for rank in &report.ranks {
        let length_s = lengths_s.entry(rank.start_s.to_bits()).or_default();
        *length_s = length_s.max(rank.elapsed_s);
    }
    let run = |rank: &RankRow| (rank.rank, [rank.start_s, lengths_s[&rank.start_s.to_bits()]]);
    report.ranks.iter().map(run).collect()
}

fn by_rank<'a, 'b>(lanes: &'b [Lane<'a>]) -> Vec<Vec<&'b Lane<'a>>> {
    let ranks = lanes.chunk_by(|one, other| one.rank == other.rank);
    ranks.map(|workers| workers.iter().collect()).collect()
}

/// Rectangles of each image.
fn exact(lane: &Lane, end_s: f64) -> Vec<(&'static str, String)> {
    let scale = WIDTH / end_s;
    let path = |stage: usize| {
        let mut path = String::new();
        let (top, height) = if stage == 3 { (LANE, STRIP) } else { (0.0, LANE) };
        for span in &lane.spans {
            let (begin, end) = (span.bounds_s[stage] * scale, span.bounds_s[stage + 1] * scale);
            if end > begin {
                let width = end - begin;
                let _ = write!(path, "M{begin:.2} {top}h{width:.2}v{height}h-{width:.2}z");
            }
        }
        (STAGES[stage], path)
    };
    (0..4).map(path).collect()
}

/// Stacked bars: the share of each interval that the workers spent in each stage. Publishing is the number of
/// results at a time per worker, at most one.
fn binned(lanes: &[&Lane], end_s: f64) -> Vec<(&'static str, String)> {
    let mut shares = [[0.0; BINS]; 4];
    for span in lanes.iter().flat_map(|lane| &lane.spans) {
        for (stage, bins) in shares.iter_mut().enumerate() {
            let place = |seconds: f64| (seconds / end_s * BINS as f64).clamp(0.0, BINS as f64);
            let (begin, end) = (place(span.bounds_s[stage]), place(span.bounds_s[stage + 1]));
            let mut at = begin;
            while at < end {
                let bin = (at as usize).min(BINS - 1);
                let next = end.min(bin as f64 + 1.0);
                bins[bin] += (next - at) / lanes.len() as f64;
                at = next;
            }
        }
    }
    let mut below = [0.0; BINS];
    let step = WIDTH / BINS as f64;
    let path = |stage: usize| {
        let mut path = String::new();
        for bin in 0..BINS {
            let share = f64::min(
                shares[stage][bin],
                1.0 - if stage == 3 { 0.0 } else { below[bin] },
            );
            let full = if stage == 3 { STRIP } else { LANE };
            let height = share.max(0.0) * full;
            let top = match stage {
                3 => LANE + STRIP - height,
                _ => LANE * (1.0 - below[bin]) - height,
            };
            if stage < 3 {
                below[bin] += share.max(0.0);
            }
            if height >= 0.05 {
                let x = bin as f64 * step;
                let _ = write!(path, "M{x:.1} {top:.1}h{step:.1}v{height:.1}h-{step:.1}z");
            }
        }
        (STAGES[stage], path)
    };
    (0..4).map(path).collect()
}

/// About five round times from 0.
fn ticks(end_s: f64) -> Vec<(f64, String)> {
    let raw = end_s / 5.0;
    let power = 10.0_f64.powf(raw.log10().floor());
    let nice = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power);
    let step = nice.clone().find(|&step| step >= raw).unwrap_or(raw);
    let times = (0..=5).map(|count| f64::from(count) * step);
    let shown = times.take_while(|&time_s| time_s <= end_s);
    let text = |time_s: f64| match step {
        step if step < 1.0 => format!("{} ms", (time_s * 1e3).round()),
        _ => format!("{time_s:.0} s"),
    };
    shown
        .map(|time_s| (time_s / end_s * WIDTH, text(time_s)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn each_image_is_drawn_where_it_was() {
        let mut report = sample::report();
        report.images[1].outcome.start_s = 6.5;
        let timeline = of(&report).unwrap();
        let labels: Vec<&str> = timeline.rows.iter().map(|row| row.label.as_str()).collect();
        assert_eq!(labels, ["rank 0, worker 0", "rank 1, worker 0"]);
        // The run is 13 s long: 6.5 s + 6 s of work + 0.5 s on the disk.
        let (stage, path) = &timeline.rows[0].paths[0];
        assert_eq!(*stage, "read");
        let second = 860.0 / 13.0;
        let expected = format!("M0.00 0h{second:.2}v16h-{second:.2}zM430.00 0h{second:.2}v16h-{second:.2}z");
        assert_eq!(*path, expected);
        let (at, text) = &timeline.ticks[1];
        assert!((at - 5.0 * second).abs() < 1e-9 && text == "5 s", "{at} {text}");
    }

    #[test]
    fn a_rank_is_idle_only_while_its_run_lasts() {
        let mut report = sample::report();
        let second = (sample::report().ranks, sample::report().images);
        for mut rank in second.0 {
            rank.rank += 2;
            rank.start_s = 20.0;
            report.ranks.push(rank);
        }
        for mut image in second.1 {
            image.outcome.rank += 2;
            image.outcome.start_s += 20.0;
            report.images.push(image);
        }
        let elapsed_s = report.ranks.iter().map(|rank| rank.elapsed_s).fold(0.0, f64::max);
        let timeline = of(&report).unwrap();
        let begins: Vec<f64> = timeline.rows.iter().map(|row| row.run[0]).collect();
        let second = 20.0 * WIDTH / 26.5;
        assert_eq!(begins.len(), 4);
        for (begin, expected) in begins.iter().zip([0.0, 0.0, second, second]) {
            assert!((begin - expected).abs() < 1e-9, "{begins:?}");
        }
        assert!((timeline.rows[0].run[1] - elapsed_s * WIDTH / 26.5).abs() < 1e-9);
    }

    #[test]
    fn many_images_are_shares_of_intervals() {
        let mut report = sample::report();
        let row = report.images[0].clone();
        report.images.clear();
        // Two workers of one rank; the second one is idle half of the time.
        for index in 1..=3000 {
            let mut row = row.clone();
            row.outcome.index = index;
            row.outcome.worker = usize::from(index > 2000);
            row.outcome.start_s = 6.0 * (index % 2000) as f64;
            report.images.push(row);
        }
        let timeline = of(&report).unwrap();
        assert!(timeline.aggregated && timeline.rows.len() == 1);
        let heights = |stage: usize| -> f64 {
            let (_, path) = &timeline.rows[0].paths[stage];
            let heights = path
                .split('v')
                .skip(1)
                .map(|part| part.split('h').next().unwrap());
            heights.map(|height| height.parse::<f64>().unwrap()).sum()
        };
        // Of 24,000 worker seconds 3,000 are reading, 6,000 filtering, 9,000 writing.
        let all = LANE * BINS as f64;
        for (stage, share) in [(0, 0.125), (1, 0.25), (2, 0.375)] {
            let found = heights(stage) / all;
            assert!((found - share).abs() < 0.01, "{found} {share}");
        }
    }

    #[test]
    fn a_run_without_images_has_no_timeline() {
        let mut report = sample::report();
        report.images.clear();
        assert!(of(&report).is_none());
        let mut report = sample::report();
        for image in &mut report.images {
            image.outcome.start_s = f64::INFINITY;
            image.outcome.timings = crate::job::outcome::Timings::default();
        }
        assert!(of(&report).is_none());
    }
}
