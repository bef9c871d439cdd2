//! The check: what was predicted and asked for against what a run has used, and the request that would have fitted.

use comfy_table::{CellAlignment, Table, presets};

use super::document::PlanDocument;
use super::request::{MEMORY_MARGIN, TIME_MARGIN};
use crate::report::Report;
use crate::slurm::accounting::Accounting;
use crate::slurm::batch::Request;
use crate::text::duration;

/// What a run has used.
#[derive(Clone, Debug, PartialEq)]
pub struct Used {
    /// From start to end: by accounting where it is known, else by the report.
    pub elapsed_s: f64,
    /// The most that one rank held.
    pub rss_bytes: u64,
    /// CPU seconds.
    pub cpu_s: f64,
    /// CPUs that the run had.
    pub cpus: usize,
    /// How it ended.
    pub state: String,
}

impl Used {
    /// By the report, and by Slurm's accounting where that knows more.
    pub fn of(report: &Report, accounting: Option<&Accounting>) -> Self {
        let threads = report.launch.threads_per_rank.max(1);
        let by_report = Self {
            elapsed_s: report.elapsed_s,
            rss_bytes: report.totals.max_rss_bytes,
            cpu_s: report.totals.cpu_s,
            cpus: report.launch.ranks * threads,
            state: match report.state {
                crate::report::State::Completed => "COMPLETED",
                crate::report::State::Failed => "FAILED (some images)",
                crate::report::State::Interrupted => "interrupted",
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

/// The check's findings.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// As text.
    pub text: String,
    /// Whether everything used lies inside the request.
    pub inside: bool,
}

/// Compares. `plan` is the one that the run was made by, if there is one; `asked` what the job asked for by other ways.
pub fn check(
    report: &Report,
    plan: Option<&PlanDocument>,
    accounting: Option<&Accounting>,
) -> Check {
    let used = Used::of(report, accounting);
    let prediction = plan.and_then(|plan| {
        let launch = &report.launch;
        plan.configurations
            .iter()
            .find(|p| {
                (p.setting.nodes, p.setting.ranks, p.setting.threads)
                    == (launch.nodes.len(), launch.ranks, launch.threads_per_rank)
            })
            .or_else(|| plan.recommended())
    });
    let ranks = report.launch.ranks.max(1);
    let asked_time_s = accounting
        .and_then(|job| job.time_limit_s)
        .or_else(|| plan.and_then(|plan| Some(plan.request.time_min? as f64 * 60.0)));
    let asked_rank_bytes = accounting
        .and_then(|job| job.requested_mem_bytes)
        .map(|bytes| bytes / ranks as u64)
        .or_else(|| {
            let request = &plan?.request;
            Some((request.mem_per_cpu_mib? * request.cpus_per_task as u64) << 20)
        });
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    let part = |used: f64, of: f64| format!("{:.0} %", 100.0 * used / of);
    let mut table = Table::new();
    table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
    table.set_header([
        "",
        "predicted",
        "90 % interval",
        "asked for",
        "used",
        "used of asked",
        "used of predicted",
    ]);
    let dash = || "-".to_owned();
    table.add_row([
        "time".to_owned(),
        prediction.map_or_else(dash, |p| duration(p.elapsed_s + p.launch_s)),
        prediction.map_or_else(dash, |p| {
            format!(
                "{} to {}",
                duration(p.elapsed_low_s + p.launch_s),
                duration(p.elapsed_high_s + p.launch_s)
            )
        }),
        asked_time_s.map_or_else(dash, duration),
        duration(used.elapsed_s),
        asked_time_s.map_or_else(dash, |asked| part(used.elapsed_s, asked)),
        prediction.map_or_else(dash, |p| part(used.elapsed_s, p.elapsed_s + p.launch_s)),
    ]);
    table.add_row([
        "memory of a rank".to_owned(),
        prediction.map_or_else(dash, |p| mib(p.rss_per_rank_bytes as f64)),
        dash(),
        asked_rank_bytes.map_or_else(dash, |bytes| mib(bytes as f64)),
        mib(used.rss_bytes as f64),
        asked_rank_bytes.map_or_else(dash, |asked| part(used.rss_bytes as f64, asked as f64)),
        prediction.map_or_else(dash, |p| {
            part(used.rss_bytes as f64, p.rss_per_rank_bytes as f64)
        }),
    ]);
    let busy = used.cpu_s / used.elapsed_s.max(1e-9);
    table.add_row([
        "CPUs".to_owned(),
        prediction.map_or_else(dash, |p| {
            format!("{:.1}", p.efficiency * p.setting.workers() as f64)
        }),
        dash(),
        used.cpus.to_string(),
        format!("{busy:.1}"),
        part(busy, used.cpus as f64),
        prediction.map_or_else(dash, |p| {
            part(busy, p.efficiency * p.setting.workers() as f64)
        }),
    ]);
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if place == 0 {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        });
    }
    let time_inside = asked_time_s.is_none_or(|asked| used.elapsed_s <= asked);
    let memory_inside = asked_rank_bytes.is_none_or(|asked| used.rss_bytes <= asked);
    let inside = time_inside && memory_inside;
    let fitting = fitting_request(report, &used);
    let mut text = format!("{table}\n");
    let id = report
        .launch
        .slurm
        .as_ref()
        .map_or(String::new(), |job| format!(", job {}", job.job_id));
    text.push_str(&format!(
        "{} of {} images done, state {}{id}\n",
        report.totals.done, report.totals.images, used.state
    ));
    text.push_str(
        match (
            asked_time_s.is_some() || asked_rank_bytes.is_some(),
            time_inside,
            memory_inside,
        ) {
            (false, ..) => "Nothing is known of what was asked for.\n",
            (true, true, true) => "Time and memory are inside the request.\n",
            (true, false, true) => "The time went beyond the request.\n",
            (true, true, false) => "The memory went beyond the request.\n",
            (true, false, false) => "Time and memory went beyond the request.\n",
        },
    );
    text.push_str(&format!(
        "A request that would have fitted: --nodes={} --ntasks-per-node={} --cpus-per-task={} --mem-per-cpu={}M \
         --time={:02}:{:02}:00\n",
        fitting.nodes,
        fitting.tasks_per_node,
        fitting.cpus_per_task,
        fitting.mem_per_cpu_mib.unwrap_or(0),
        fitting.time_min.unwrap_or(0) / 60,
        fitting.time_min.unwrap_or(0) % 60
    ));
    Check { text, inside }
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
    fn what_was_used_is_held_against_what_was_asked() {
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
            !found.inside && found.text.contains("Time and memory went beyond"),
            "{}",
            found.text
        );
    }

    #[test]
    fn without_slurm_the_report_speaks() {
        let found = check(&crate::report::sample::report(), None, None);
        assert!(
            found
                .text
                .contains("Nothing is known of what was asked for"),
            "{}",
            found.text
        );
        assert!(
            found.text.contains("12.0 s") && found.text.contains("2 of 4 images done"),
            "{}",
            found.text
        );
    }
}
