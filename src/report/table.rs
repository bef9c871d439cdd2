//! The report as a table for people: a row a rank, sums below, failures named.

use std::fmt::Write;
use std::ops::Add;

use comfy_table::{CellAlignment, Table, presets};

use super::{RankRow, Report, State};
use crate::text::{counted, printable};

/// Failures that are named below the table; the report's file has them all.
const FAILURES_SHOWN: usize = 20;

/// Where a table is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// On a terminal.
    Terminal,
    /// In a Markdown page.
    Markdown,
}

impl Style {
    /// Draws the table's lines so.
    pub(crate) fn apply(self, table: &mut Table) {
        table.load_style(match self {
            Style::Terminal => presets::ASCII_BORDERS_ONLY_CONDENSED,
            Style::Markdown => presets::ASCII_MARKDOWN,
        });
    }
}

/// The whole table for a terminal, ending with a line break. Seconds with two digits, memory in MiB (2²⁰ bytes).
pub fn render(report: &Report) -> String {
    render_as(report, Style::Terminal)
}

/// The same for wherever it is read.
pub fn render_as(report: &Report, style: Style) -> String {
    let mut table = Table::new();
    style.apply(&mut table);
    table.set_header([
        "rank",
        "host",
        "images",
        "failed",
        "read s",
        "filter s",
        "write s",
        "idle s",
        "elapsed s",
        "CPU %",
        "peak MiB",
    ]);
    for rank in &report.ranks {
        let mut cells = vec![rank.rank.to_string(), printable(&rank.host)];
        cells.extend(figures(
            &[rank.images as f64, rank.failed as f64],
            &seconds(rank),
            rank.cpu_efficiency,
            rank.max_rss_bytes as f64,
        ));
        table.add_row(cells);
    }
    let count = report.ranks.len().max(1) as f64;
    let column = |value: fn(&RankRow) -> f64| -> (f64, f64) {
        let values = report.ranks.iter().map(value);
        (
            values.clone().fold(0.0, f64::add),
            values.fold(0.0, f64::max),
        )
    };
    let columns: [(f64, f64); 9] = [
        column(|rank| rank.images as f64),
        column(|rank| rank.failed as f64),
        column(|rank| rank.read_s),
        column(|rank| rank.filter_s),
        column(|rank| rank.write_s),
        column(|rank| rank.idle_s),
        column(|rank| rank.elapsed_s),
        column(|rank| rank.cpu_efficiency),
        column(|rank| rank.max_rss_bytes as f64),
    ];
    let mut summary =
        |name: &str, value: &dyn Fn((f64, f64)) -> f64, whole_efficiency: Option<f64>| {
            let [
                images,
                failed,
                read,
                filter,
                write,
                idle,
                elapsed,
                efficiency,
                rss,
            ] = columns.map(value);
            let mut cells = vec![String::new(), name.to_owned()];
            cells.extend(figures(
                &[images, failed],
                &[read, filter, write, idle, elapsed],
                whole_efficiency.unwrap_or(efficiency),
                rss,
            ));
            table.add_row(cells);
        };
    summary("total", &|(sum, _)| sum, Some(report.totals.cpu_efficiency));
    summary("mean", &|(sum, _)| sum / count, None);
    summary("max", &|(_, max)| max, None);
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_cell_alignment(if place == 1 {
            CellAlignment::Left
        } else {
            CellAlignment::Right
        });
    }
    let mut text = format!("{table}\n");
    match style {
        Style::Terminal => write_summary(&mut text, report),
        Style::Markdown => {
            let mut summary = String::new();
            write_summary(&mut summary, report);
            for line in summary.lines() {
                let _ = writeln!(text, "\n{line}");
            }
        }
    }
    text
}

fn seconds(rank: &RankRow) -> [f64; 5] {
    [
        rank.read_s,
        rank.filter_s,
        rank.write_s,
        rank.idle_s,
        rank.elapsed_s,
    ]
}

fn figures(counts: &[f64], seconds: &[f64], efficiency: f64, rss_bytes: f64) -> Vec<String> {
    let count = |value: f64| {
        if value.fract() == 0.0 {
            format!("{value:.0}")
        } else {
            format!("{value:.1}")
        }
    };
    let mut cells: Vec<String> = counts.iter().map(|&value| count(value)).collect();
    cells.extend(seconds.iter().map(|value| format!("{value:.2}")));
    cells.push(format!("{:.0}", efficiency * 100.0));
    cells.push(format!("{:.0}", rss_bytes / f64::from(1 << 20)));
    cells
}

fn write_summary(text: &mut String, report: &Report) {
    let totals = &report.totals;
    let mut line = format!("{} of {} images done", totals.done, totals.images);
    for (count, word) in [(totals.failed, "failed"), (totals.skipped, "skipped")] {
        if count > 0 {
            let _ = write!(line, ", {count} {word}");
        }
    }
    let _ = writeln!(
        text,
        "{line} in {:.2} s: {:.1} images/s, imbalance {:.2} (max/mean), {} on {} ({})",
        report.elapsed_s,
        totals.images_per_s,
        totals.imbalance,
        counted(report.launch.ranks, "rank"),
        counted(report.launch.nodes.len(), "node"),
        report.launch.mpi,
    );
    if report.state == State::Interrupted {
        let _ = writeln!(
            text,
            "interrupted: what is done is done; the same command with --resume continues"
        );
    }
    let with_nonfinite = report
        .images
        .iter()
        .filter(|image| image.outcome.input.nonfinite_voxels > 0)
        .count();
    if with_nonfinite > 0 {
        let voxels: u64 = report
            .images
            .iter()
            .map(|image| image.outcome.input.nonfinite_voxels)
            .sum();
        let _ = writeln!(
            text,
            "{} with {voxels} voxels that are NaN or infinite (--nan {})",
            counted(with_nonfinite, "image"),
            report.filter.nan,
        );
    }
    let failures: Vec<_> = report
        .images
        .iter()
        .filter_map(|image| Some((image.rank, image.failure()?)))
        .collect();
    for (rank, failure) in failures.iter().take(FAILURES_SHOWN) {
        let _ = writeln!(
            text,
            "failed ({}, rank {rank}): {}",
            failure.stage.name(),
            printable(&failure.error)
        );
    }
    if failures.len() > FAILURES_SHOWN {
        let _ = writeln!(
            text,
            "… and {} more failures; --report FILE.json lists all of them",
            failures.len() - FAILURES_SHOWN
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voxels_that_are_not_finite_are_told() {
        let mut report = crate::report::sample::report();
        assert!(!render(&report).contains("NaN"));
        report.images[0].outcome.input.nonfinite_voxels = 7;
        report.images[2].outcome.input.nonfinite_voxels = 5;
        let text = render(&report);
        let line = "2 images with 12 voxels that are NaN or infinite (--nan propagate)\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn the_table_has_a_row_a_rank_sums_and_the_failures() {
        let text = render(&crate::report::sample::report());
        let lines: Vec<&str> = text.lines().collect();
        let row = |name: &str| {
            let line = lines
                .iter()
                .find(|line| line.contains(name))
                .unwrap_or_else(|| panic!("{name} in\n{text}"));
            line.trim_matches('|')
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        assert_eq!(
            row("n1"),
            [
                "0", "n1", "2", "1", "2.00", "4.00", "6.00", "12.00", "12.00", "50", "10"
            ]
        );
        assert_eq!(
            row("total"),
            [
                "total", "3", "1", "3.00", "6.00", "9.00", "30.00", "18.00", "50", "20"
            ]
        );
        assert_eq!(
            row("mean"),
            [
                "mean", "1.5", "0.5", "1.50", "3.00", "4.50", "15.00", "9.00", "50", "10"
            ]
        );
        assert!(
            text.contains("2 of 4 images done, 1 failed, 1 skipped in 12.00 s"),
            "{text}"
        );
        assert!(text.contains("imbalance 1.33"), "{text}");
        assert!(
            text.contains("failed (read, rank 0): the file is empty"),
            "{text}"
        );
    }

    #[test]
    fn markdown_has_a_head_rule_and_paragraphs() {
        let text = render_as(&crate::report::sample::report(), Style::Markdown);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("| rank | host"), "{text}");
        assert!(lines[1].chars().all(|c| "|-:".contains(c)), "{text}");
        assert_eq!(lines[2].matches('|').count(), 12, "{text}");
        assert!(text.contains("\n\n2 of 4 images done"), "{text}");
    }
}
