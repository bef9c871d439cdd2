//! The recommendation: which setting to take, and why.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::COVERAGE;
use super::listed::Listed;
use super::model::Model;
use super::predict::{Prediction, Predictor};
use crate::text::{counted, duration};

/// CPUs that do less than this part of their time are not worth asking for.
const WORTH_ASKING: f64 = 0.7;
/// More workers have stopped paying when doubling them brings less than this.
const PAYS: f64 = 1.3;

/// Marks the setting to take: of those that are possible and whose CPUs do at least 70 % of what one alone would (as much
/// as the best if none does), the one that ends first; of those within 3 % of it, the one with the fewest core hours.
///
/// # Errors
/// A sentence when no setting is possible, with what each goes beyond.
pub fn mark(predictions: &mut [Prediction]) -> Result<usize, String> {
    let possible: Vec<usize> = (0..predictions.len())
        .filter(|&place| predictions[place].beyond.is_none())
        .collect();
    if possible.is_empty() {
        let reasons: Vec<String> = predictions
            .iter()
            .filter_map(|prediction| {
                let setting = prediction.setting;
                let beyond = prediction.beyond.as_ref()?;
                Some(format!(
                    "{} nodes, {} ranks × {} threads {beyond}",
                    setting.nodes, setting.ranks, setting.threads
                ))
            })
            .take(3)
            .collect();
        return Err(format!(
            "no setting is possible within what was given: {}; allow more nodes, more time or more memory",
            if reasons.is_empty() {
                "no ranks fit the nodes and their CPUs".to_owned()
            } else {
                reasons.join("; ")
            }
        ));
    }
    let best = possible
        .iter()
        .map(|&place| predictions[place].efficiency)
        .fold(0.0, f64::max);
    let enough = WORTH_ASKING.min(best * 0.999);
    let worth: Vec<usize> = possible
        .into_iter()
        .filter(|&place| predictions[place].efficiency >= enough)
        .collect();
    let fastest = worth
        .iter()
        .map(|&place| predictions[place].elapsed_s)
        .fold(f64::INFINITY, f64::min);
    let chosen = worth
        .into_iter()
        .filter(|&place| predictions[place].elapsed_s <= fastest * 1.03)
        .min_by(|&a, &b| {
            predictions[a]
                .core_hours
                .total_cmp(&predictions[b].core_hours)
        })
        .expect("the fastest is among them");
    predictions[chosen].recommended = true;
    Ok(chosen)
}

/// The table of all settings, the recommended one with a star.
pub fn table(predictions: &[Prediction]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
    table.set_header([
        "",
        "nodes",
        "ranks",
        "threads",
        "time",
        "90 % from",
        "to",
        "MiB a rank",
        "MiB a node",
        "core hours",
        "efficiency %",
        "",
    ]);
    for prediction in predictions {
        let setting = prediction.setting;
        let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
        table.add_row([
            if prediction.recommended { "*" } else { "" }.to_owned(),
            setting.nodes.to_string(),
            setting.ranks.to_string(),
            setting.threads.to_string(),
            duration(prediction.elapsed_s),
            duration(prediction.elapsed_low_s),
            duration(prediction.elapsed_high_s),
            mib(prediction.rss_per_rank_bytes),
            mib(prediction.rss_per_node_bytes),
            format!("{:.2}", prediction.core_hours),
            format!("{:.0}", prediction.efficiency * 100.0),
            prediction.beyond.clone().unwrap_or_default(),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// Why the chosen setting, and what limits.
pub fn reasons(
    predictions: &[Prediction],
    chosen: usize,
    predictor: &Predictor<'_>,
    model: &Model,
    listed: &Listed,
) -> String {
    let mut text = String::new();
    let choice = &predictions[chosen];
    let setting = choice.setting;
    let _ = writeln!(
        text,
        "Recommended: {} of {} × {}, {} ({} to {} with {:.0} % probability), {:.2} core hours.",
        counted(setting.nodes, "node"),
        counted(setting.ranks, "rank"),
        counted(setting.threads, "thread"),
        duration(choice.elapsed_s),
        duration(choice.elapsed_low_s),
        duration(choice.elapsed_high_s),
        COVERAGE * 100.0,
        choice.core_hours
    );
    let [read, filter, write] = predictor.shares().map(|share| share * 100.0);
    let _ = writeln!(
        text,
        "What dominates: {}. Of an image's time, reading takes {read:.0} %, filtering {filter:.0} %, writing {write:.0} % \
         (inflating and compressing included).",
        predictor.dominated_by()
    );
    match stops_paying(predictions) {
        Some((before, after)) => {
            let _ = writeln!(
                text,
                "More ranks stop paying beyond {} workers: {} of them end only {:.2} times sooner.",
                before.setting.workers(),
                after.setting.workers(),
                before.elapsed_s / after.elapsed_s
            );
        }
        None => {
            let _ = writeln!(text, "Within these settings more workers go on paying.");
        }
    }
    match predictor.ceiling() {
        (Some(ceiling), _) => {
            let _ = writeln!(
                text,
                "The file system gives at most {ceiling:.0} images/s to any number of ranks."
            );
        }
        (None, low) if setting.nodes > 1 || predictions.iter().any(|p| p.setting.nodes > 1) => {
            let at_least = low.map_or("an unknown rate".to_owned(), |low| {
                format!("{low:.0} images/s")
            });
            let _ = writeln!(
                text,
                "Measured on one node: what several cost the shared file system is not known. It carries {at_least} at \
                 least; the intervals of several nodes allow for that."
            );
        }
        _ => {}
    }
    if choice.setting.workers() as f64 / setting.nodes as f64 > model.most_workers() * 1.5 {
        let _ = writeln!(
            text,
            "Measured were {:.0} workers on a node at most; the intervals beyond are wide for that. A run of `niimpi scaling` \
             on a node of the cluster narrows them.",
            model.most_workers()
        );
    }
    let beyond = model.doublings_beyond(&listed.planned);
    if beyond > 0.05 {
        let _ = writeln!(
            text,
            "The images lie {beyond:.1} doublings beyond the sizes that were measured, on the average; the intervals are wider \
             for it."
        );
    }
    if listed.unreadable() > 0 {
        let _ = writeln!(
            text,
            "{} of {} images have headers that cannot be read; they will fail and are not planned for.",
            listed.unreadable(),
            listed.listed
        );
    }
    text
}

/// Where more workers stop paying: of the fastest settings for each number of workers, the first that is not worth its
/// doubling. The setting before it and itself.
fn stops_paying(predictions: &[Prediction]) -> Option<(&Prediction, &Prediction)> {
    let mut fastest: std::collections::BTreeMap<usize, &Prediction> =
        std::collections::BTreeMap::new();
    for prediction in predictions {
        let entry = fastest
            .entry(prediction.setting.workers())
            .or_insert(prediction);
        if prediction.elapsed_s < entry.elapsed_s {
            *entry = prediction;
        }
    }
    let fastest: Vec<&Prediction> = fastest.into_values().collect();
    fastest.windows(2).find_map(|two| {
        let more = two[1].setting.workers() as f64 / two[0].setting.workers() as f64;
        let sooner = two[0].elapsed_s / two[1].elapsed_s;
        // What a step of any size is worth, as if it were a doubling.
        let paid = sooner.powf(1.0 / more.log2());
        (paid < PAYS).then_some((two[0], two[1]))
    })
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::Machine;
    use super::super::predict::tests::{predictions, setting};
    use super::*;

    #[test]
    fn the_fastest_that_is_worth_its_cpus_is_taken() {
        let settings = [
            setting(1, 1, 1),
            setting(1, 2, 1),
            setting(1, 4, 1),
            setting(1, 8, 1),
        ];
        let crowded = Machine {
            contention: 0.12,
            ..Machine::default()
        };
        let mut found = predictions(&crowded, 1, 4000, &settings);
        let chosen = mark(&mut found).unwrap();
        // 8 workers do 1/(1 + 7 · 0.12) = 54 % each, 4 do 74 %.
        assert_eq!(found[chosen].setting, settings[2]);
        assert_eq!(
            found
                .iter()
                .filter(|prediction| prediction.recommended)
                .count(),
            1
        );
        assert_eq!(
            stops_paying(&found).map(|(before, _)| before.setting.ranks),
            None
        );
        let text = table(&found);
        assert!(
            text.lines()
                .any(|line| line.contains("*") && line.contains(" 4 ")),
            "{text}"
        );
    }

    #[test]
    fn doubling_that_does_not_pay_is_found() {
        let settings = [
            setting(1, 1, 1),
            setting(1, 2, 1),
            setting(1, 4, 1),
            setting(1, 8, 1),
        ];
        let jammed = Machine {
            contention: 0.5,
            ..Machine::default()
        };
        let found = predictions(&jammed, 1, 4000, &settings);
        let (before, after) = stops_paying(&found).unwrap();
        assert_eq!((before.setting.ranks, after.setting.ranks), (2, 4));
    }

    #[test]
    fn impossible_settings_are_not_taken() {
        let settings = [setting(1, 1, 1), setting(1, 2, 1)];
        let mut found = predictions(&Machine::default(), 1, 400, &settings);
        found[1].beyond = Some("needs too much".to_owned());
        assert_eq!(mark(&mut found).unwrap(), 0);
        found[0].beyond = Some("may not end within --max-time".to_owned());
        let error = mark(&mut found).unwrap_err();
        assert!(
            error.contains("--max-time") && error.contains("needs too much"),
            "{error}"
        );
    }
}
