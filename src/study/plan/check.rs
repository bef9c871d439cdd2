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

/// What a run used.
#[derive(Clone, Debug, PartialEq)]
struct Used {
    /// From start to end: by accounting where it is known, else by the report, which does not know of
    /// launching.
    elapsed_s: f64,
    /// The most that one rank held.
    rss_bytes: u64,
    cpu_s: f64,
    /// CPUs that the run had.
    cpus: usize,
    state: String,
}

impl Used {
    fn of(report: &Report, accounting: Option<&Accounting>) -> Self {
        let (totals, launch) = (&report.totals, &report.launch);
        let by_report = Self {
            elapsed_s: report.elapsed_s,
            rss_bytes: totals.max_rss_bytes,
            cpu_s: totals.cpu_s,
            cpus: launch.ranks * launch.threads_per_rank.max(1),
            state: match report.state {
                State::Completed => "COMPLETED",
                State::Failed => "FAILED (some images)",
                State::Interrupted => "interrupted",
            }
            .to_owned(),
        };
        match accounting {
            None => by_report,
            Some(job) => Self {
                elapsed_s: job.elapsed_s,
                rss_bytes: job.max_rss_bytes.unwrap_or(0).max(by_report.rss_bytes),
                cpu_s: job.total_cpu_s.max(by_report.cpu_s),
                cpus: job.alloc_cpus.max(by_report.cpus),
                state: job.state.clone(),
            },
        }
    }
}

/// What was requested: by accounting where it is known, else by the plan.
#[derive(Clone, Copy, Debug, Default)]
struct Requested {
    time_s: Option<f64>,
    rank_bytes: Option<u64>,
}

impl Requested {
    fn of(report: &Report, plan: Option<&PlanDocument>, accounting: Option<&Accounting>) -> Self {
        let ranks = report.launch.ranks.max(1) as u64;
        let planned = plan.map(|plan| &plan.request);
        let planned_bytes =
            planned.and_then(|request| Some((request.mem_per_cpu_mib? * request.cpus_per_task as u64) << 20));
        let asked_bytes = accounting
            .and_then(|job| job.requested_mem_bytes)
            .map(|bytes| bytes / ranks);
        let planned_s = planned.and_then(|request| Some(request.time_min? as f64 * 60.0));
        Self {
            time_s: accounting.and_then(|job| job.time_limit_s).or(planned_s),
            rank_bytes: asked_bytes.or(planned_bytes),
        }
    }
}

/// The check's findings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Check {
    pub text: String,
    /// Whether everything used lies within the request.
    pub inside: bool,
}

/// Compares a run with the plan that it was made by, if there is one, and with what the job requested.
pub(crate) fn check(report: &Report, plan: Option<&PlanDocument>, accounting: Option<&Accounting>) -> Check {
    let used = Used::of(report, accounting);
    let requested = Requested::of(report, plan, accounting);
    let prediction = plan.and_then(|plan| prediction_for(report, plan));
    let time_inside = requested.time_s.is_none_or(|limit_s| used.elapsed_s <= limit_s);
    let memory_inside = requested.rank_bytes.is_none_or(|limit| used.rss_bytes <= limit);
    let verdict = match (
        requested.time_s.is_some() || requested.rank_bytes.is_some(),
        time_inside,
        memory_inside,
    ) {
        (false, ..) => "The request is unknown.",
        (true, true, true) => "Time and memory are inside the request.",
        (true, false, true) => "The time exceeded the request.",
        (true, true, false) => "The memory exceeded the request.",
        (true, false, false) => "Time and memory exceeded the request.",
    };
    let totals = &report.totals;
    let job = report
        .launch
        .slurm
        .as_ref()
        .map_or(String::new(), |job| format!(", job {}", job.job_id));
    Check {
        text: format!(
            "{}{} of {} images done, state {}{job}\n{verdict}\nA request that would have fitted: {}\n",
            table(&used, &requested, prediction, accounting.is_some()),
            totals.done,
            totals.images,
            used.state,
            in_words(&fitting_request(report, &used)),
        ),
        inside: time_inside && memory_inside,
    }
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

/// What was predicted, requested and used; `with_launch`: whether the time used includes launching.
fn table(used: &Used, requested: &Requested, prediction: Option<&Prediction>, with_launch: bool) -> String {
    let time = prediction.map(|p| {
        if with_launch {
            p.job_s()
        } else {
            [p.elapsed_s, p.elapsed_low_s, p.elapsed_high_s]
        }
    });
    let figures = [
        Figure {
            name: if with_launch {
                "time"
            } else {
                "time without launching"
            },
            predicted: time.map(|[expected, ..]| expected),
            interval: time.map(|[_, low, high]| [low, high]),
            requested: requested.time_s,
            used: used.elapsed_s,
            show: duration,
        },
        Figure {
            name: "memory of a rank",
            predicted: prediction.map(|p| p.rss_per_rank_bytes as f64),
            interval: None,
            requested: requested.rank_bytes.map(|bytes| bytes as f64),
            used: used.rss_bytes as f64,
            show: |bytes| format!("{:.1} MiB", bytes / f64::from(1 << 20)),
        },
        Figure {
            name: "busy CPUs",
            predicted: prediction.map(|p| p.efficiency * p.layout.workers() as f64),
            interval: None,
            requested: Some(used.cpus as f64),
            used: used.cpu_s / used.elapsed_s.max(1e-9),
            show: |cpus| format!("{cpus:.1}"),
        },
    ];
    Grid::of(&COLUMNS, &figures).draw(Style::Terminal)
}

/// What would have held the run with the plan's own margins.
fn fitting_request(report: &Report, used: &Used) -> Request {
    let threads = report.launch.threads_per_rank.max(1);
    let nodes = report.launch.nodes.len().max(1);
    let memory = used.rss_bytes as f64 * (1.0 + MEMORY_MARGIN) / threads as f64;
    Request {
        nodes,
        tasks_per_node: report.launch.ranks.div_ceil(nodes),
        cpus_per_task: threads,
        mem_per_cpu_mib: Some((memory / f64::from(1 << 20)).ceil() as u64),
        time_min: Some((used.elapsed_s * (1.0 + TIME_MARGIN) / 60.0).ceil() as u64),
        partition: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::tests::document;
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
        let plan = document(vec![prediction]);
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
