//! The report as a readable table: one row per rank, totals below, then failures by name.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{RankRow, Report, SCHEMA_1, Shards, State};
use crate::columns::{Cell, Column, Style, Table};
use crate::console;
use crate::job::outcome::{End, Reason};
use crate::text::{counted, printable, ranges, runs};

/// Maximum number of failures listed below the table; the report file contains all.
const FAILURES_SHOWN: usize = 20;

const CPU: &str = "CPU\n%";
const DISK: &str = "disk\ns";
const ELAPSED: &str = "elapsed\ns";

/// Seconds per worker: read + filter + write + idle = elapsed. Time that no measurement covers counts as
/// idle.
const STAGES: [Column<RankRow>; 6] = [
    Column::shown("read\ns", |rank| per_worker(rank, rank.read_s)),
    Column::shown("filter\ns", |rank| per_worker(rank, rank.filter_s)),
    Column::shown("write\ns", |rank| per_worker(rank, rank.write_s)),
    Column::shown("idle\ns", |rank| per_worker(rank, rank.idle_s + rank.other_s)),
    Column::shown(ELAPSED, |rank| Cell::Seconds(rank.elapsed_s)),
    Column::shown(DISK, |rank| per_worker(rank, rank.publish_s)),
];

const BEFORE: [Column<RankRow>; 4] = [
    Column::shown("rank", |rank| Cell::Count(rank.rank as u64)),
    Column::shown("host", |rank| Cell::Text(rank.host.clone())),
    Column::shown("images", |rank| Cell::Count(rank.images as u64)),
    Column::shown("failed", |rank| Cell::Count(rank.failed as u64)),
];

const AFTER: [Column<RankRow>; 2] = [
    Column::shown(CPU, |rank| Cell::Share(rank.cpu_efficiency)),
    Column::shown("peak\nMiB", |rank| Cell::Bytes(rank.max_rss_bytes)),
];

/// The columns of the table, in order.
pub(crate) fn columns<'a>() -> impl Iterator<Item = &'a Column<RankRow>> {
    BEFORE.iter().chain(&STAGES).chain(&AFTER)
}

fn per_worker(rank: &RankRow, seconds: f64) -> Cell {
    match rank.threads {
        0 => Cell::Unknown,
        threads => Cell::Seconds(seconds / threads as f64),
    }
}

/// The whole table, as wide as the terminal allows, ending with a line break.
pub(crate) fn render(report: &Report) -> String {
    render_as(report, Style::Fitted(console::width()))
}

/// The same for any output. Seconds per worker, memory in MiB (2²⁰ bytes).
pub(crate) fn render_as(report: &Report, style: Style) -> String {
    let of_version_1 = report.schema == SCHEMA_1;
    let mut ranks = report.ranks.clone();
    // Version 1 has the number of workers only for the whole run.
    for rank in ranks.iter_mut().filter(|_| of_version_1) {
        rank.threads = report.launch.threads_per_rank;
    }
    let mut table = Table::of(columns(), &ranks);
    table.add_summary();
    table.set("total", CPU, Cell::Share(report.totals.cpu_efficiency));
    // Ranks run at the same time, so a sum of their times is no time of the run.
    for column in &STAGES {
        table.clear("total", column.head);
    }
    if of_version_1 {
        table.hide(DISK);
    }
    let mut text = table.draw(style);
    let summary = summary(report);
    match style {
        Style::Terminal | Style::Fitted(_) => text.push_str(&summary),
        Style::Markdown => {
            for line in summary.lines() {
                let _ = writeln!(text, "\n{line}");
            }
        }
    }
    text
}

/// A summary of the run in a few lines.
pub(super) fn summary(report: &Report) -> String {
    let mut text = done_line(report);
    text.push_str(&incomplete_lines(report));
    if let Some(reference) = &report.filter.reference {
        let _ = writeln!(text, "smoothed like {reference}");
    }
    text.push_str(&device_lines(report));
    if let Some(line) = nonfinite_line(report) {
        let _ = writeln!(text, "{line}");
    }
    write_failures(&mut text, report);
    text
}

fn done_line(report: &Report) -> String {
    let totals = &report.totals;
    let mut line = String::new();
    if let Some(shards) = &report.shard {
        let noun = if shards.numbers.len() == 1 {
            "shard"
        } else {
            "shards"
        };
        let _ = write!(
            line,
            "{noun} {} of {}: ",
            ranges(&runs(&shards.numbers)),
            shards.count
        );
    }
    let _ = write!(line, "{} of {} images done", totals.done, totals.images);
    let left = if report.schema == SCHEMA_1 {
        "skipped"
    } else {
        "not started"
    };
    let counts = [
        (totals.failed, "failed"),
        (totals.kept, "kept"),
        (totals.not_started, left),
        (totals.retried, "read again after an error"),
    ];
    for (count, word) in counts.into_iter().filter(|(count, _)| *count > 0) {
        let _ = write!(line, ", {count} {word}");
    }
    let _ = writeln!(
        line,
        " in {:.2} s: {:.1} images/s, imbalance {:.2} (max/mean), {} on {} ({})",
        report.elapsed_s,
        totals.images_per_s,
        totals.imbalance,
        counted(report.launch.ranks, "rank"),
        counted(report.launch.nodes.len(), "node"),
        report.launch.mpi,
    );
    line
}

/// What is missing from an interrupted run or from merged shards.
fn incomplete_lines(report: &Report) -> String {
    let mut text = String::new();
    if report.state != State::Interrupted {
        return text;
    }
    let mut ends = report.images.iter().map(|image| &image.end);
    let left = ends.any(|end| *end == End::Skipped(Reason::NotStarted));
    // The report of a single shard does not list the others as missing, because they belong to other runs.
    let merged = |shards: &&Shards| shards.numbers.len() > 1 || !left;
    if let Some(shards) = report.shard.as_ref().filter(merged)
        && !shards.missing().is_empty()
    {
        let _ = writeln!(text, "incomplete: {}", missing_text(shards));
    }
    if left || text.is_empty() {
        text.push_str("interrupted: finished images are kept; the same command with --resume continues\n");
    }
    text
}

/// `shard 2 of 3 has no report`, `shards 2, 5-9 of 9 have no report`.
pub(crate) fn missing_text(shards: &Shards) -> String {
    let missing = shards.missing();
    let (named, count) = (ranges(&missing), shards.count);
    match missing[..] {
        [(first, last)] if first == last => format!("shard {named} of {count} has no report"),
        _ => format!("shards {named} of {count} have no report"),
    }
}

/// A line for each device, with its ranks.
fn device_lines(report: &Report) -> String {
    let mut ranks_of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for rank in report.ranks.iter().filter(|rank| !rank.device.is_empty()) {
        ranks_of.entry(&rank.device).or_default().push(rank.rank);
    }
    let lines = ranks_of.into_iter().map(|(device, ranks)| {
        let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
        format!(
            "{noun} {} used the device {}\n",
            ranges(&runs(&ranks)),
            printable(device)
        )
    });
    lines.collect()
}

fn nonfinite_line(report: &Report) -> Option<String> {
    let counts = report
        .images
        .iter()
        .map(|image| image.outcome.input.nonfinite_voxels);
    let images = counts.clone().filter(|&count| count > 0).count();
    (images > 0).then(|| {
        let voxels: u64 = counts.sum();
        let images = counted(images, "image");
        let how = match &report.filter.like {
            Some(tool) => format!("--like {tool}"),
            None => format!("--nan {}", report.filter.nan),
        };
        format!("{images} with {voxels} voxels that are NaN or infinite ({how})")
    })
}

fn write_failures(text: &mut String, report: &Report) {
    let mut failures = report
        .images
        .iter()
        .filter_map(|image| Some((image.rank, image.failure()?)));
    for (rank, failure) in failures.by_ref().take(FAILURES_SHOWN) {
        let (stage, error) = (failure.stage.name(), printable(&failure.error));
        let _ = writeln!(text, "failed ({stage}, rank {rank}): {error}");
    }
    let more = failures.count();
    if more > 0 {
        let _ = writeln!(
            text,
            "… and {more} more failures; --report FILE.json lists all of them"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::csv::ACCOUNTS;
    use crate::slurm::steps::Account;

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
    fn the_table_has_ranks_sums_and_failures() {
        insta::assert_snapshot!(render_as(&crate::report::sample::report(), Style::Fitted(80)));
        insta::assert_snapshot!(
            "wide",
            render_as(&crate::report::sample::report(), Style::Fitted(200))
        );
    }

    #[test]
    fn the_table_fits_80_columns_and_its_stages_add_up() {
        let mut report = crate::report::sample::report();
        let rank = &mut report.ranks[0];
        *rank = RankRow {
            rank: 1023,
            host: "node0123.cluster.example".to_owned(),
            images: 123_456,
            threads: 128,
            read_s: 128.0 * 12_345.6,
            filter_s: 128.0 * 23_456.7,
            write_s: 0.3,
            idle_s: 128.0 * 64_197.7,
            other_s: 128.0 * 0.002,
            elapsed_s: 100_000.0,
            max_rss_bytes: 99_999 << 20,
            ..rank.clone()
        };
        let text = render_as(&report, Style::Fitted(80));
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with(['|', '+'])).collect();
        assert!(rows.iter().all(|row| row.chars().count() <= 80), "{text}");
        assert!(
            rows.iter()
                .any(|row| row.contains("1023 node") && row.contains("2 ms")),
            "{text}"
        );
        for rank in &report.ranks {
            let value = |column: &Column<RankRow>| match (column.value)(rank) {
                Cell::Seconds(seconds) => seconds,
                other => panic!("{other:?}"),
            };
            let sum: f64 = STAGES[..4].iter().map(value).sum();
            assert!((sum - rank.elapsed_s).abs() < 0.01 * rank.elapsed_s, "{sum}");
        }
    }

    #[test]
    fn markdown_has_the_same_rows_and_paragraphs() {
        let mut report = crate::report::sample::report();
        report.schema = SCHEMA_1.to_owned();
        insta::assert_snapshot!(render_as(&report, Style::Markdown));
    }

    #[test]
    fn merged_shares_say_what_is_missing_and_a_run_which_share_it_was() {
        let mut report = crate::report::sample::report();
        report.state = State::Interrupted;
        report
            .images
            .retain(|image| !matches!(image.end, End::Skipped(_)));
        report.shard = Some(Shards {
            numbers: vec![1, 3, 4],
            count: 6,
        });
        let text = render(&report);
        assert!(text.contains("shards 1, 3-4 of 6: 2 of 4 images done"), "{text}");
        assert!(
            text.contains("incomplete: shards 2, 5-6 of 6 have no report"),
            "{text}"
        );
        assert!(!text.contains("interrupted"), "{text}");
        let mut report = crate::report::sample::report();
        report.shard = Some(Shards {
            numbers: vec![2],
            count: 6,
        });
        let text = render(&report);
        assert!(text.contains("shard 2 of 6: 2 of 4 images done"), "{text}");
        assert!(!text.contains("incomplete"), "{text}");
    }

    #[test]
    fn many_failures_are_counted() {
        let mut report = crate::report::sample::report();
        let failed = report
            .images
            .iter()
            .find(|image| image.failure().is_some())
            .unwrap()
            .clone();
        report.images.extend(vec![failed; 30]);
        assert!(render(&report).contains("… and 11 more failures"));
    }

    #[test]
    fn accounts_have_a_row_for_each_step() {
        let account = |job_id: &str, max_rss_bytes| Account {
            job_id: job_id.to_owned(),
            state: "OUT_OF_MEMORY".to_owned(),
            exit_code: "0:125".to_owned(),
            elapsed_s: 3725.0,
            cpu_s: 12.34,
            cpu_efficiency: Some(0.5),
            cpus: 4,
            max_rss_bytes,
            requested_memory: "2G".to_owned(),
            node_list: "n[1-3]".to_owned(),
            nodes: 3,
            time_limit_s: None,
            name: "a\nb".to_owned(),
        };
        let accounts = [account("7", None), account("7.0", Some(3 << 20))];
        insta::assert_snapshot!(Table::of(&ACCOUNTS, &accounts).draw(Style::Terminal));
    }
}
