//! The check: what was predicted and requested against what a run used, and the request that would have
//! fitted.

use super::document::PlanDocument;
use super::predict::Prediction;
use super::request::{MEMORY_MARGIN, TIME_MARGIN, in_words};
use crate::columns::{Cell, Column, Grid, Style};
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

/// Compares a run with the plan that it was made by, if there is one, and with what the job requested.
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
    // The plan's own margins, on what was used.
    let (threads, nodes) = (launch.threads_per_rank.max(1), launch.nodes.len().max(1));
    let mib_per_cpu = memory.used * (1.0 + MEMORY_MARGIN) / threads as f64 / f64::from(1 << 20);
    let fitting = Request {
        nodes,
        tasks_per_node: launch.ranks.div_ceil(nodes),
        cpus_per_task: threads,
        mem_per_cpu_mib: Some(mib_per_cpu.ceil() as u64),
        time_min: Some((time.used * (1.0 + TIME_MARGIN) / 60.0).ceil() as u64),
        partition: None,
    };
    Check {
        text: format!(
            "{}{} of {} images done, state {state}{job}\n{verdict}\nA request that would have fitted: {}\n",
            Grid::of(&COLUMNS, &figures).draw(Style::Terminal),
            totals.done,
            totals.images,
            in_words(&fitting),
        ),
        inside: !time.exceeds() && !memory.exceeds(),
    }
}

/// One figure of a run: what was predicted, requested and used of it.
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

    /// What was used as a part of `of`.
    fn part(&self, of: Option<f64>) -> Cell {
        Cell::of(of, |of| Cell::Figure(format!("{:.0} %", 100.0 * self.used / of)))
    }
}

const fn column(head: &'static str, value: fn(&Figure) -> Cell) -> Column<Figure> {
    Column {
        name: "",
        head,
        value,
    }
}

const COLUMNS: [Column<Figure>; 7] = [
    column(" ", |figure| Cell::Text(figure.name.to_owned())),
    column("predicted", |figure| figure.shown(figure.predicted)),
    column("90 % interval", |figure| {
        let show = figure.show;
        Cell::of(figure.interval, |[low, high]| {
            Cell::Figure(format!("{} to {}", show(low), show(high)))
        })
    }),
    column("requested", |figure| figure.shown(figure.requested)),
    column("used", |figure| figure.shown(Some(figure.used))),
    column("of requested", |figure| figure.part(figure.requested)),
    column("of predicted", |figure| figure.part(figure.predicted)),
];

/// Time, memory and CPUs: by accounting where it is known, else by the report, which does not know of launching,
/// and by the plan.
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
    use super::super::measured::tests::Machine;
    use super::super::predict::tests::{layout, predictions};
    use super::*;

    fn accounting() -> Accounting {
        Accounting {
            job_id: "7".to_owned(),
            state: "COMPLETED".to_owned(),
            elapsed_s: 90.0,
            total_cpu_s: 300.0,
            max_rss_bytes: Some(30 << 20),
            alloc_cpus: 4,
            nodes: 2,
            requested_mem_bytes: Some(80 << 20),
            time_limit_s: Some(300.0),
            ..Accounting::default()
        }
    }

    #[test]
    fn what_was_used_is_compared_with_the_request() {
        let report = crate::report::sample::report();
        let found = check(&report, None, Some(&accounting()));
        assert!(found.inside, "{}", found.text);
        for words in [
            "30 %",
            "inside the request",
            "--nodes=2 --ntasks-per-node=1 --cpus-per-task=2 --mem-per-cpu=18M --time=00:02:00",
        ] {
            assert!(found.text.contains(words), "{words}\n{}", found.text);
        }
        let tight = Accounting {
            time_limit_s: Some(60.0),
            requested_mem_bytes: Some(40 << 20),
            ..accounting()
        };
        let found = check(&report, None, Some(&tight));
        assert!(
            !found.inside && found.text.contains("Time and memory exceeded"),
            "{}",
            found.text
        );
    }

    #[test]
    fn without_slurm_the_report_counts() {
        let found = check(&crate::report::sample::report(), None, None);
        for words in ["The request is unknown", "12.0 s", "2 of 4 images done"] {
            assert!(found.text.contains(words), "{words}\n{}", found.text);
        }
    }

    #[test]
    fn the_prediction_is_the_figure_that_the_plan_showed() {
        let mut prediction = predictions(&Machine::default(), 1, 40, &[layout(1, 1, 1)]).remove(0);
        (prediction.elapsed_s, prediction.launch_s, prediction.recommended) = (4.0, 0.6, true);
        let plan = PlanDocument {
            configurations: vec![prediction],
            ..PlanDocument::default()
        };
        let report = crate::report::sample::report();
        let by_slurm = check(&report, Some(&plan), Some(&accounting()));
        assert!(
            by_slurm.text.contains(" 4.6 s "),
            "as in the plan's table: {}",
            by_slurm.text
        );
        let by_report = check(&report, Some(&plan), None);
        assert!(
            by_report.text.contains("time without launching"),
            "{}",
            by_report.text
        );
        assert!(by_report.text.contains(" 4.0 s "), "{}", by_report.text);
    }
}
