//! The recommendation: chooses a layout and states the reasons.

use std::collections::BTreeMap;

use super::listed::Listed;
use super::measured::PUBLISH;
use super::model::{COVERAGE, Model};
use super::predict::{Prediction, Predictor};
use crate::columns::{Cell, Column};
use crate::text::{counted, duration};

/// Layouts with a lower parallel efficiency are not worth requesting.
const WORTH_ASKING: f64 = 0.7;
/// More workers are not worth it if doubling them gives a smaller speed-up than this.
const WORTH_DOUBLING: f64 = 1.3;

/// Marks the recommended layout. Among the possible layouts with a parallel efficiency of at least 70 % (or
/// the best efficiency, if none reaches that), it takes those within 3 % of the fastest, and of these the one
/// with the fewest core hours.
///
/// # Errors
/// A message if no layout is possible, with the exceeded limits and `unfit`.
pub(crate) fn mark(predictions: &mut [Prediction], unfit: &[String]) -> Result<usize, String> {
    let possible: Vec<usize> = (0..predictions.len())
        .filter(|&place| predictions[place].beyond.is_none())
        .collect();
    if possible.is_empty() {
        let exceeded = predictions
            .iter()
            .filter_map(|prediction| Some(format!("{}: {}", prediction.layout, prediction.beyond.as_ref()?)));
        let mut reasons: Vec<String> = unfit.iter().cloned().chain(exceeded).take(3).collect();
        if predictions.is_empty() {
            reasons.insert(0, "no ranks fit the nodes and their CPUs".to_owned());
        }
        return Err(format!(
            "no layout is possible within these limits: {}; allow more nodes, more time or more memory",
            reasons.join("; ")
        ));
    }
    let best = possible
        .iter()
        .map(|&place| predictions[place].efficiency)
        .fold(0.0, f64::max);
    let enough = WORTH_ASKING.min(best * 0.999);
    let worth = || {
        possible
            .iter()
            .copied()
            .filter(|&place| predictions[place].efficiency >= enough)
    };
    let fastest_s = worth()
        .map(|place| predictions[place].elapsed_s)
        .fold(f64::INFINITY, f64::min);
    let chosen = worth()
        .filter(|&place| predictions[place].elapsed_s <= fastest_s * 1.03)
        .min_by(|&a, &b| predictions[a].core_hours.total_cmp(&predictions[b].core_hours))
        .ok_or("the measurements give no time for any layout; measure again, or give other reports")?;
    predictions[chosen].recommended = true;
    Ok(chosen)
}

/// The columns of a plan.
pub(crate) const COLUMNS: [Column<Prediction>; 16] = [
    Column::new("recommended", " ", |p| {
        Cell::Text(if p.recommended { "*" } else { "" }.to_owned())
    }),
    Column::both("nodes", |p| Cell::Count(p.layout.nodes as u64)),
    Column::both("ranks", |p| Cell::Count(p.layout.ranks as u64)),
    Column::both("threads", |p| Cell::Count(p.layout.threads as u64)),
    Column::shown("time", |p| Cell::Text(duration(p.job_s()[0]))),
    Column::shown("90 % from", |p| Cell::Text(duration(p.job_s()[1]))),
    Column::shown("to", |p| Cell::Text(duration(p.job_s()[2]))),
    Column::csv("time_s", |p| Cell::Seconds(p.job_s()[0])),
    Column::csv("time_low_s", |p| Cell::Seconds(p.job_s()[1])),
    Column::csv("time_high_s", |p| Cell::Seconds(p.job_s()[2])),
    Column::new("rank_bytes", "MiB per rank", |p| {
        Cell::Bytes(p.rss_per_rank_bytes)
    }),
    Column::new("node_bytes", "MiB per node", |p| {
        Cell::Bytes(p.rss_per_node_bytes)
    }),
    Column::new("core_hours", "core hours", |p| Cell::Number(p.core_hours, 2)),
    Column::new("efficiency", "efficiency %", |p| Cell::Share(p.efficiency)),
    Column::csv("imbalance", |p| Cell::Number(p.imbalance, 2)),
    Column::both("exceeds", |p| Cell::Text(p.beyond.clone().unwrap_or_default())),
];

/// The reasons for the chosen layout, and its limits.
pub(crate) fn reasons(
    predictions: &[Prediction],
    chosen: usize,
    predictor: &Predictor<'_>,
    model: &Model,
    listed: &Listed,
) -> String {
    let choice = &predictions[chosen];
    let [expected, low, high] = choice.job_s().map(duration);
    let [read, filter, write] = predictor.shares().map(|share| share * 100.0);
    let dominant = match predictor.dominated_by() {
        PUBLISH => "the disk, which is slower than the workers",
        stage => ["reading", "filtering", "writing"][stage],
    };
    let mut lines = vec![
        format!(
            "Recommended: {}. It takes {expected} ({low} to {high} with {:.0} % probability, launching \
            included) and {:.2} core hours.",
            choice.layout,
            COVERAGE * 100.0,
            choice.core_hours
        ),
        format!(
            "What dominates: {dominant}. A worker spends {read:.0} % of an image's time on reading, \
            {filter:.0} % on filtering and {write:.0} % on writing (inflating and compressing included)."
        ),
        returns(predictions),
    ];
    if let Some(ceiling) = predictor.ceiling() {
        lines.push(format!(
            "The file system serves at most {ceiling:.0} images/s, however many ranks there are."
        ));
    } else if predictions.iter().any(|p| p.layout.nodes > 1) {
        lines.push(
            "All measurements come from one node, so the limit of the shared file system is unknown. The \
            intervals of several nodes allow for that."
                .to_owned(),
        );
    }
    let per_node = choice.layout.workers() as f64 / choice.layout.nodes as f64;
    if per_node > model.most_workers * 1.5 {
        lines.push(format!(
            "The measurements have at most {} per node, so the intervals of more are wide. Run `niimpi \
            scaling` on a node of the cluster to narrow them.",
            counted(model.most_workers.round() as usize, "worker")
        ));
    }
    let beyond = model.doublings_beyond(&listed.planned);
    if beyond > 0.05 {
        lines.push(format!(
            "The images are on average {beyond:.1} doublings larger or smaller than the measured ones. This \
            widens the intervals, and their memory is extrapolated."
        ));
    }
    lines.join("\n") + "\n"
}

/// States where adding workers stops helping: the first step in the number of workers that is not worth it.
fn returns(predictions: &[Prediction]) -> String {
    let Some((before, after)) = not_worth(predictions) else {
        return "Adding workers still helps over the whole range.".to_owned();
    };
    format!(
        "Diminishing returns beyond {}: {} are only {:.2} times as fast.",
        counted(before.layout.workers(), "worker"),
        after.layout.workers(),
        before.elapsed_s / after.elapsed_s
    )
}

fn not_worth(predictions: &[Prediction]) -> Option<(&Prediction, &Prediction)> {
    let mut fastest: BTreeMap<usize, &Prediction> = BTreeMap::new();
    for prediction in predictions {
        let entry = fastest.entry(prediction.layout.workers()).or_insert(prediction);
        if prediction.elapsed_s < entry.elapsed_s {
            *entry = prediction;
        }
    }
    let fastest: Vec<&Prediction> = fastest.into_values().collect();
    fastest.windows(2).find_map(|two| {
        let more = two[1].layout.workers() as f64 / two[0].layout.workers() as f64;
        let sooner = two[0].elapsed_s / two[1].elapsed_s;
        // The speed-up of the step, converted to that of a doubling.
        (sooner.powf(1.0 / more.log2()) < WORTH_DOUBLING).then_some((two[0], two[1]))
    })
}

#[cfg(test)]
mod tests {
    use super::super::predict::tests::layout;
    use super::*;

    /// Predictions for 1, 2, 4 and 8 workers that slow each other down.
    fn with_contention(contention: f64) -> Vec<Prediction> {
        let prediction = |ranks: usize| {
            let slow_down = 1.0 + contention * (ranks - 1) as f64;
            Prediction {
                layout: layout(1, ranks, 1),
                elapsed_s: 100.0 * slow_down / ranks as f64,
                core_hours: slow_down / 36.0,
                efficiency: 1.0 / slow_down,
                ..Prediction::default()
            }
        };
        [1, 2, 4, 8].map(prediction).to_vec()
    }

    #[test]
    fn the_fastest_efficient_layout_is_recommended() {
        let mut found = with_contention(0.12);
        let chosen = mark(&mut found, &[]).unwrap();
        // The efficiency is 1/(1 + 7 · 0.12) = 54 % with 8 workers and 74 % with 4.
        assert_eq!(found[chosen].layout.ranks, 4);
        assert_eq!(
            found.iter().filter(|prediction| prediction.recommended).count(),
            1
        );
        assert!(returns(&found).contains("still helps"));
        let text = returns(&with_contention(0.5));
        assert_eq!(
            text,
            "Diminishing returns beyond 2 workers: 4 are only 1.20 times as fast."
        );
    }

    #[test]
    fn impossible_layouts_are_not_recommended() {
        let mut found = with_contention(0.1);
        found.truncate(2);
        found[1].beyond = Some("needs too much".to_owned());
        assert_eq!(mark(&mut found, &[]), Ok(0));
        found[0].beyond = Some("may not end within --max-time".to_owned());
        let error = mark(&mut found, &[]).unwrap_err();
        assert!(
            error.contains("--max-time") && error.contains("needs too much"),
            "{error}"
        );
        found[0].beyond = None;
        found[0].efficiency = f64::NAN;
        assert!(
            mark(&mut found, &[])
                .unwrap_err()
                .contains("no time for any layout")
        );
        let error = mark(&mut [], &["9 threads do not fit".to_owned()]).unwrap_err();
        assert!(
            error.contains("no ranks fit") && error.contains("9 threads"),
            "{error}"
        );
    }
}
