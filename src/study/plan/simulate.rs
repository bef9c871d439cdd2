//! The simulation: the list played with 1 to 4,096 ranks; speed-up, imbalance, and where the file system saturates.

use std::fmt::Write;
use std::path::Path;

use super::predict::{Predictor, Setting};
use crate::study::chart::{Chart, Mark, Series};

/// The most ranks that are played.
const MOST_RANKS: usize = 4096;

/// One number of ranks, played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Ranks.
    pub ranks: usize,
    /// Expected seconds, launch excluded.
    pub elapsed_s: f64,
    /// Times faster than one rank.
    pub speed_up: f64,
    /// The same if other nodes cost as much as they may.
    pub speed_up_low: f64,
    /// Longest over mean time of the workers.
    pub imbalance: f64,
    /// Images a second that all ranks ask of the file system.
    pub images_per_s: f64,
    /// Seconds of rank 0's own work.
    pub root_s: f64,
}

/// Plays the list with 1, 2, 4, … 4,096 ranks of `threads` workers, as many to a node as it has CPUs for.
pub fn run(
    predictor: &Predictor<'_>,
    threads: usize,
    cpus_per_node: usize,
    root_s: impl Fn(usize) -> f64,
) -> Vec<Step> {
    let on_a_node = (cpus_per_node / threads).max(1);
    let mut steps: Vec<Step> = Vec::new();
    let mut ranks = 1;
    while ranks <= MOST_RANKS {
        let setting = Setting {
            nodes: ranks.div_ceil(on_a_node),
            ranks,
            threads,
        };
        let prediction = predictor.predict(setting, cpus_per_node);
        let one = steps
            .first()
            .map_or(prediction.elapsed_s, |first: &Step| first.elapsed_s);
        steps.push(Step {
            ranks,
            elapsed_s: prediction.elapsed_s,
            speed_up: one / prediction.elapsed_s,
            speed_up_low: one / prediction.elapsed_high_s.max(prediction.elapsed_s),
            imbalance: prediction.imbalance,
            images_per_s: predictor.images() as f64 / prediction.elapsed_s,
            root_s: root_s(ranks),
        });
        ranks *= 2;
    }
    steps
}

/// Writes `simulation.csv`, `simulated-speed-up.svg`, `simulated-imbalance.svg` and `simulated-throughput.svg`; returns what
/// they say in words.
///
/// # Errors
/// A sentence naming the file that cannot be written.
pub fn write(
    folder: &Path,
    steps: &[Step],
    ceiling: (Option<f64>, Option<f64>),
) -> Result<String, String> {
    std::fs::create_dir_all(folder)
        .map_err(|error| format!("{}: cannot be made: {error}", folder.display()))?;
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        crate::report::write_whole(&path, |file| file.write_all(text.as_bytes()))
            .map_err(|error| format!("{}: cannot be written: {error}", path.display()))
    };
    let mut csv =
        String::from("ranks,elapsed_s,speed_up,speed_up_low,imbalance,images_per_s,root_s\n");
    for step in steps {
        let _ = writeln!(
            csv,
            "{},{:.4},{:.3},{:.3},{:.4},{:.3},{:.4}",
            step.ranks,
            step.elapsed_s,
            step.speed_up,
            step.speed_up_low,
            step.imbalance,
            step.images_per_s,
            step.root_s
        );
    }
    put("simulation.csv", &csv)?;
    let points = |value: &dyn Fn(&Step) -> f64| -> Vec<(f64, f64)> {
        steps
            .iter()
            .map(|step| (step.ranks as f64, value(step)))
            .collect()
    };
    let series = |name: &str, points: Vec<(f64, f64)>, mark| Series {
        name: name.to_owned(),
        points,
        mark,
    };
    let chart = |title: &str, y_label: &str, series: Vec<Series>| Chart {
        title: title.to_owned(),
        x_label: "ranks".to_owned(),
        y_label: y_label.to_owned(),
        logarithmic: true,
        series,
    };
    let speed_up = chart(
        "Simulated speed-up",
        "speed-up",
        vec![
            series("ideal", points(&|step| step.ranks as f64), Mark::Reference),
            series("expected", points(&|step| step.speed_up), Mark::Points),
            series(
                "upper end of the interval",
                points(&|step| step.speed_up_low),
                Mark::Line,
            ),
        ],
    );
    put("simulated-speed-up.svg", &speed_up.to_svg()?)?;
    let imbalance = chart(
        "Simulated imbalance",
        "longest / mean of the workers",
        vec![series(
            "imbalance",
            points(&|step| step.imbalance),
            Mark::Points,
        )],
    );
    put("simulated-imbalance.svg", &imbalance.to_svg()?)?;
    let mut curves = vec![
        series("images/s", points(&|step| step.images_per_s), Mark::Points),
        series(
            "rank 0's own limit",
            points(&|step| step.images_per_s * step.elapsed_s / step.root_s.max(1e-9)),
            Mark::Line,
        ),
    ];
    for (name, limit) in [
        ("file system's ceiling", ceiling.0),
        ("ceiling, lower bound", ceiling.1),
    ] {
        if let Some(limit) = limit {
            curves.push(series(name, points(&|_| limit), Mark::Reference));
        }
    }
    let throughput = chart("Simulated throughput", "images a second", curves);
    put("simulated-throughput.svg", &throughput.to_svg()?)?;
    Ok(in_words(steps, ceiling))
}

fn in_words(steps: &[Step], ceiling: (Option<f64>, Option<f64>)) -> String {
    let mut text = String::new();
    let half = steps
        .iter()
        .find(|step| step.speed_up < step.ranks as f64 / 2.0);
    match half {
        Some(step) => {
            let _ = writeln!(
                text,
                "Simulated: from {} ranks on, less than half of each is of use ({:.0} times faster than one; imbalance {:.2}; \
                 rank 0's own work {:.2} of {:.2} s).",
                step.ranks, step.speed_up, step.imbalance, step.root_s, step.elapsed_s
            );
        }
        None => {
            let _ = writeln!(
                text,
                "Simulated: up to {MOST_RANKS} ranks, at least half of each is of use."
            );
        }
    }
    let saturates = |limit: f64| {
        steps
            .iter()
            .find(|step| step.images_per_s > limit / 2.0)
            .map(|step| step.ranks)
    };
    match ceiling {
        (Some(limit), _) => {
            let from = saturates(limit).map_or("beyond these ranks".to_owned(), |ranks| {
                format!("at {ranks} ranks")
            });
            let _ = writeln!(
                text,
                "The file system's ceiling is {limit:.0} images/s; half of it is reached {from}."
            );
        }
        (None, Some(limit)) => {
            let from = saturates(limit).map_or("not within these ranks".to_owned(), |ranks| {
                format!("perhaps from {ranks} ranks")
            });
            let _ = writeln!(
                text,
                "No ceiling of the file system was seen; it is above {limit:.0} images/s, so it is felt {from}."
            );
        }
        (None, None) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::measured::gather;
    use super::super::measured::tests::{Machine, SIZES, wanted};
    use super::super::memory::MemoryModel;
    use super::super::model::Model;
    use super::super::predict::tests::listed;
    use super::super::root_work::RootWork;
    use super::*;
    use crate::partition::Strategy;

    #[test]
    fn speed_up_ends_where_images_run_out() {
        let measured = gather(&Machine::default().pilot(&SIZES, 1), &wanted()).unwrap();
        let model = Model::fit(&measured).unwrap();
        let memory = MemoryModel::fit(&measured.runs, 0.0, 0);
        let listed = listed(500, &SIZES);
        let root = RootWork::default();
        let predictor =
            Predictor::new(&listed, &model, &memory, &root, Strategy::Size, 51.0).unwrap();
        let steps = run(&predictor, 1, 4, |_| 0.001);
        assert_eq!(steps.len(), 13);
        assert_eq!((steps[0].speed_up, steps[12].ranks), (1.0, 4096));
        assert!(steps[3].speed_up > 5.0, "{:?}", steps[3]);
        // 4,096 ranks have 500 images: no faster than 512, and most of them idle.
        assert!(steps[12].speed_up <= steps[9].speed_up * 1.05 && steps[12].imbalance > 5.0);
        let folder = tempfile::tempdir().unwrap();
        let text = write(folder.path(), &steps, (Some(300.0), Some(200.0))).unwrap();
        assert!(
            text.contains("less than half") && text.contains("ceiling is 300 images/s"),
            "{text}"
        );
        for name in [
            "simulated-speed-up.svg",
            "simulated-imbalance.svg",
            "simulated-throughput.svg",
        ] {
            assert!(
                std::fs::read_to_string(folder.path().join(name))
                    .unwrap()
                    .contains("</svg>")
            );
        }
        let csv = std::fs::read_to_string(folder.path().join("simulation.csv")).unwrap();
        assert_eq!(csv.lines().count(), 14);
    }
}
