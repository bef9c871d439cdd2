//! The report as a readable table: one row per rank, totals below, then failures by name.

use std::fmt::Write;

use super::csv::RANKS;
use super::{Report, SCHEMA_1, Shards, State};
use crate::columns::{Cell, Style, Table};
use crate::job::outcome::{End, Reason};
use crate::text::{counted, printable, ranges, runs};

/// Maximum number of failures listed below the table; the report file contains all.
const FAILURES_SHOWN: usize = 20;

/// The whole table for a terminal, ending with a line break.
pub(crate) fn render(report: &Report) -> String {
    render_as(report, Style::Terminal)
}

/// The same for any output. Seconds with two decimals, memory in MiB (2²⁰ bytes).
pub(crate) fn render_as(report: &Report, style: Style) -> String {
    let mut table = Table::of(&RANKS, &report.ranks);
    table.add_summary();
    table.set("total", "CPU %", Cell::Share(report.totals.cpu_efficiency));
    if report.schema == SCHEMA_1 {
        table.hide("other s");
        table.hide("publish s");
    }
    let mut text = table.draw(style);
    let summary = summary(report);
    match style {
        Style::Terminal => text.push_str(&summary),
        Style::Markdown => {
            for line in summary.lines() {
                let _ = writeln!(text, "\n{line}");
            }
        }
    }
    text
}

/// A summary of the run in a few lines.
fn summary(report: &Report) -> String {
    let mut text = done_line(report);
    text.push_str(&incomplete_lines(report));
    if let Some(reference) = &report.filter.reference {
        let _ = writeln!(text, "smoothed like {reference}");
    }
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
        insta::assert_snapshot!(render(&crate::report::sample::report()));
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
