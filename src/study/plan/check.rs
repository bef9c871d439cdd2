//! The check: compares what a run used with its plan and its request, and computes the request that would
//! have fitted.

use super::document::PlanDocument;
use super::predict::Prediction;
use super::request::{TIME_MARGIN, in_words, mib_per_cpu};
use crate::columns::{Cell, Column, Style, Table};
use crate::report::{Report, State};
use crate::slurm::accounting::Accounting;
use crate::slurm::batch::Request;
use crate::text::duration;

/// The check's findings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Check {
    pub text: String,
    /// Whether everything used lies within the request.
    pub inside: bool,
}

/// Compares a run with its plan, if there is one, and with the request of its job.
pub(crate) fn check(report: &Report, plan: Option<&PlanDocument>, accounting: Option<&Accounting>) -> Check {
    let (totals, launch) = (&report.totals, &report.launch);
    let figures = figures(report, plan, accounting);
    let [time, memory, _] = &figures;
    let verdict = match (time.exceeds(), memory.exceeds()) {
        _ if time.requested.is_none() && memory.requested.is_none() => "The request is unknown.",
        (false, false) => "Time and memory are inside the request.",
        (true, false) => "The time exceeded the request.",
        (false, true) => "The memory exceeded the request.",
        (true, true) => "Time and memory exceeded the request.",
    };
    let state = match (accounting, report.state) {
        (Some(job), _) => &job.state,
        (None, State::Completed) => "COMPLETED",
        (None, State::Failed) => "FAILED (some images)",
        (None, State::Interrupted) => "interrupted",
    };
    let job = launch
        .slurm
        .as_ref()
        .map_or(String::new(), |job| format!(", job {}", job.job_id));
    // The margins of a plan, added to the used resources.
    let (threads, nodes) = (launch.threads_per_rank.max(1), launch.nodes.len().max(1));
    let fitting = Request {
        nodes,
        tasks_per_node: launch.ranks.div_ceil(nodes),
        cpus_per_task: threads,
        // What it used includes its largest images.
        mem_per_cpu_mib: Some(mib_per_cpu(memory.used as u64, threads, 0)),
        time_min: Some((time.used * (1.0 + TIME_MARGIN) / 60.0).ceil() as u64),
        partition: None,
    };
    Check {
        text: format!(
            "{}{} of {} images done, state {state}{job}\n{verdict}\nA request that would have fitted: {}\n",
            Table::of(&COLUMNS, &figures).draw(Style::Terminal),
            totals.done,
            totals.images,
            in_words(&fitting),
        ),
        inside: !time.exceeds() && !memory.exceeds(),
    }
}

/// One figure of a run: predicted, requested and used.
struct Figure {
    name: &'static str,
    predicted: Option<f64>,
    interval: Option<[f64; 2]>,
    requested: Option<f64>,
    used: f64,
    show: fn(f64) -> String,
}

impl Figure {
    fn exceeds(&self) -> bool {
        self.requested.is_some_and(|requested| self.used > requested)
    }

    fn shown(&self, value: Option<f64>) -> Cell {
        Cell::of(value, |value| Cell::Figure((self.show)(value)))
    }

    /// The used amount in percent of `of`.
    fn part(&self, of: Option<f64>) -> Cell {
        Cell::of(of, |of| Cell::Figure(format!("{:.0} %", 100.0 * self.used / of)))
    }
}

const COLUMNS: [Column<Figure>; 7] = [
    Column::shown(" ", |figure| Cell::Text(figure.name.to_owned())),
    Column::shown("predicted", |figure| figure.shown(figure.predicted)),
    Column::shown("90 % interval", |figure| {
        let show = figure.show;
        Cell::of(figure.interval, |[low, high]| {
            Cell::Figure(format!("{} to {}", show(low), show(high)))
        })
    }),
    Column::shown("requested", |figure| figure.shown(figure.requested)),
    Column::shown("used", |figure| figure.shown(Some(figure.used))),
    Column::shown("of requested", |figure| figure.part(figure.requested)),
    Column::shown("of predicted", |figure| figure.part(figure.predicted)),
];

/// Time, memory and CPUs. Slurm's accounting takes precedence over the report, whose time does not include
/// launching.
fn figures(report: &Report, plan: Option<&PlanDocument>, accounting: Option<&Accounting>) -> [Figure; 3] {
    let (totals, launch) = (&report.totals, &report.launch);
    let prediction = plan.and_then(|plan| prediction_for(report, plan));
    let request = plan.map(|plan| &plan.request);
    let elapsed_s = accounting.map_or(report.elapsed_s, |job| job.elapsed_s);
    let time = prediction.map(|p| match accounting {
        Some(_) => p.job_s(),
        None => [p.elapsed_s, p.elapsed_low_s, p.elapsed_high_s],
    });
    let planned_s = request.and_then(|request| Some(request.time_min? as f64 * 60.0));
    let planned_bytes =
        request.and_then(|request| Some((request.mem_per_cpu_mib? * request.cpus_per_task as u64) << 20));
    let asked_bytes = accounting.and_then(|job| job.requested_mem_bytes);
    let rank_bytes = asked_bytes
        .map(|bytes| bytes / launch.ranks.max(1) as u64)
        .or(planned_bytes);
    let used_bytes = accounting.and_then(|job| job.max_rss_bytes).unwrap_or(0);
    let cpus = accounting.map_or(0, |job| job.alloc_cpus);
    let cpu_s = accounting.map_or(0.0, |job| job.total_cpu_s).max(totals.cpu_s);
    [
        Figure {
            name: if accounting.is_some() {
                "time"
            } else {
                "time without launching"
            },
            predicted: time.map(|[expected, ..]| expected),
            interval: time.map(|[_, low, high]| [low, high]),
            requested: accounting.and_then(|job| job.time_limit_s).or(planned_s),
            used: elapsed_s,
            show: duration,
        },
        Figure {
            name: "memory of a rank",
            predicted: prediction.map(|p| p.rss_per_rank_bytes as f64),
            interval: None,
            requested: rank_bytes.map(|bytes| bytes as f64),
            used: used_bytes.max(totals.max_rss_bytes) as f64,
            show: |bytes| format!("{:.1} MiB", bytes / f64::from(1 << 20)),
        },
        Figure {
            name: "busy CPUs",
            predicted: prediction.map(|p| p.efficiency * p.layout.workers() as f64),
            interval: None,
            requested: Some(cpus.max(launch.ranks * launch.threads_per_rank.max(1)) as f64),
            used: cpu_s / elapsed_s.max(1e-9),
            show: |cpus| format!("{cpus:.1}"),
        },
    ]
}

/// The plan's prediction for the run's layout, or for the recommended one.
fn prediction_for<'a>(report: &Report, plan: &'a PlanDocument) -> Option<&'a Prediction> {
    let launch = &report.launch;
    let run = (launch.nodes.len(), launch.ranks, launch.threads_per_rank);
    let is_runs = |p: &&Prediction| (p.layout.nodes, p.layout.ranks, p.layout.threads) == run;
    plan.configurations
        .iter()
        .find(is_runs)
        .or_else(|| plan.recommended())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_compared_with_plan_and_request() {
        let accounting = Accounting {
            state: "COMPLETED".to_owned(),
            elapsed_s: 90.0,
            total_cpu_s: 300.0,
            max_rss_bytes: Some(30 << 20),
            alloc_cpus: 4,
            requested_mem_bytes: Some(80 << 20),
            time_limit_s: Some(300.0),
            ..Accounting::default()
        };
        let plan = PlanDocument {
            configurations: vec![Prediction {
                elapsed_s: 4.0,
                launch_s: 0.6,
                recommended: true,
                ..Prediction::default()
            }],
            ..PlanDocument::default()
        };
        let tight = Accounting {
            time_limit_s: Some(60.0),
            requested_mem_bytes: Some(40 << 20),
            ..accounting.clone()
        };
        let report = crate::report::sample::report();
        let fitting = "--nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --mem-per-cpu=27M --time=00:02:00";
        for (plan, accounting, words) in [
            (
                None,
                Some(&accounting),
                ["Time and memory are inside the request", " 30 % ", fitting],
            ),
            (
                None,
                Some(&tight),
                ["Time and memory exceeded", "1.5 min", fitting],
            ),
            (
                None,
                None,
                ["The request is unknown", "12.0 s", "2 of 4 images done"],
            ),
            // With launching, as in the plan's table.
            (Some(&plan), Some(&accounting), [" 4.6 s ", " 30 % ", fitting]),
            (
                Some(&plan),
                None,
                [" 4.0 s ", "time without launching", "2 of 4 images done"],
            ),
        ] {
            let found = check(&report, plan, accounting);
            for words in words {
                assert!(found.text.contains(words), "{words}\n{}", found.text);
            }
            assert_eq!(found.inside, !found.text.contains("exceeded"));
        }
    }
}
