//! The report as a self-contained HTML page: no network, readable without JavaScript, printable.
//!
//! | file | role |
//! |---|---|
//! | `timeline` | when each worker did what, as an SVG |
//! | `quality` | outliers, figures and pictures of `--qc` |
//! | `methods` | a paragraph for a methods section, and citations |
//! | `page.html`, `style.css`, `sort.js` | the template (askama) and what it includes |

mod methods;
mod quality;
mod timeline;

use askama::Template;

use self::methods::Citation;
use self::timeline::Timeline;
use super::csv::ACCOUNTS;
use super::{ImageRow, RankRow, Report, SCHEMA_1, State, Status, table};
use crate::columns::{Table, short_seconds};
use crate::job::outcome::{Failure, Stage};
use crate::slurm::steps::Account;
use crate::text::{bytes, counted, duration, printable};

/// Rows of each table. The JSON report has all.
const MOST_RANKS: usize = 200;
const MOST_FAILURES: usize = 200;
const SLOWEST: usize = 20;

/// The page. askama escapes every value.
#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    report: &'a Report,
    state: &'static str,
    summary: String,
    facts: Vec<(&'static str, String)>,
    quality: Option<quality::Section>,
    timeline: Option<Timeline>,
    shares: Vec<Share>,
    ranks: Vec<Vec<Value>>,
    rank_heads: Vec<String>,
    ranks_left_out: usize,
    failures: Vec<Failed>,
    failures_left_out: usize,
    slowest: Vec<Slow>,
    resources: Vec<(&'static str, String)>,
    account_heads: Vec<String>,
    accounts: Vec<Vec<String>>,
    command: String,
    methods: String,
    citations: &'static [Citation],
    glossary: Vec<(Vec<Text>, Vec<Text>)>,
}

/// A cell of a sortable table: its text, and the value that it is sorted by.
struct Value {
    text: String,
    key: String,
}

/// A stage's share of the workers' time.
struct Share {
    name: &'static str,
    seconds: String,
    percent: f64,
    /// Where it begins in the bar, in percent.
    from: f64,
}

struct Failed {
    index: usize,
    input: String,
    rank: usize,
    stage: &'static str,
    error: String,
    cure: &'static str,
}

struct Slow {
    index: usize,
    input: String,
    rank: usize,
    stages: [String; 4],
    voxels: u64,
}

/// A part of a text: code or prose.
struct Text {
    code: bool,
    text: &'static str,
}

/// Renders the page. `accounts` are those of Slurm, if they were asked for.
///
/// # Errors
/// askama's own; none is known for this template.
pub(crate) fn render(report: &Report, accounts: Option<&[Account]>) -> std::io::Result<String> {
    let (ranks, ranks_left_out) = ranks(report);
    let (failures, failures_left_out) = failures(report);
    let accounts = accounts.map(|accounts| Table::of(&ACCOUNTS, accounts).texts());
    let (account_heads, accounts) = accounts.unwrap_or_default();
    let words = report.command.iter().map(|word| printable(word));
    let words: Vec<String> = words.collect();
    let page = Page {
        report,
        state: match report.state {
            State::Completed => "completed",
            State::Failed => "failed",
            State::Interrupted => "interrupted",
        },
        summary: table::summary(report),
        facts: facts(report),
        quality: quality::of(report),
        timeline: timeline::of(report),
        shares: shares(report),
        ranks,
        rank_heads: table::columns()
            .map(|column| column.head.replace('\n', " "))
            .collect(),
        ranks_left_out,
        failures,
        failures_left_out,
        slowest: slowest(report),
        resources: resources(report),
        account_heads,
        accounts,
        command: shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" ")),
        methods: methods::text(report),
        citations: methods::citations(report),
        glossary: glossary(),
    };
    let page = page.render().map_err(std::io::Error::other)?;
    // Also what comes from the report without a table: its version, its options.
    let lines: Vec<String> = page.split('\n').map(printable).collect();
    Ok(lines.join("\n"))
}

/// The figures of the first section.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let totals = &report.totals;
    let mut facts = vec![
        ("images done", format!("{} of {}", totals.done, totals.images)),
        ("failed", totals.failed.to_string()),
        ("kept", totals.kept.to_string()),
        ("not started", totals.not_started.to_string()),
        ("elapsed", duration(report.elapsed_s)),
        ("images/s", format!("{:.1}", totals.images_per_s)),
        ("imbalance (max/mean)", format!("{:.2}", totals.imbalance)),
        (
            "CPU efficiency",
            format!("{:.0} %", totals.cpu_efficiency * 100.0),
        ),
    ];
    if let Some(shards) = &report.shard {
        let numbers = crate::text::ranges(&crate::text::runs(&shards.numbers));
        facts.push(("shards", format!("{numbers} of {}", shards.count)));
    }
    facts
}

/// Shares of read, filter, write and idle in the time of all workers.
fn shares(report: &Report) -> Vec<Share> {
    let sum = |seconds: fn(&RankRow) -> f64| {
        report
            .ranks
            .iter()
            .map(seconds)
            .fold(0.0, |sum, s| sum + s.max(0.0))
    };
    let parts = [
        ("read", sum(|rank| rank.read_s)),
        ("filter", sum(|rank| rank.filter_s)),
        ("write", sum(|rank| rank.write_s)),
        ("idle", sum(|rank| rank.idle_s + rank.other_s)),
    ];
    let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
    if !(all > 0.0 && all.is_finite()) {
        return Vec::new();
    }
    let mut from = 0.0;
    let share = |(name, seconds): (&'static str, f64)| {
        let percent = 100.0 * seconds / all;
        from += percent;
        Share {
            name,
            seconds: format!("{} s", short_seconds(seconds)).replace(" ms s", " ms"),
            percent,
            from: from - percent,
        }
    };
    parts.into_iter().map(share).collect()
}

/// Rows of the ranks, at most [`MOST_RANKS`]: those with the longest elapsed time. And how many are left out.
fn ranks(report: &Report) -> (Vec<Vec<Value>>, usize) {
    let mut ranks: Vec<&RankRow> = report.ranks.iter().collect();
    let left_out = ranks.len().saturating_sub(MOST_RANKS);
    if left_out > 0 {
        ranks.sort_by(|one, other| other.elapsed_s.total_cmp(&one.elapsed_s));
        ranks.truncate(MOST_RANKS);
        ranks.sort_by_key(|rank| rank.rank);
    }
    let mut ranks: Vec<RankRow> = ranks.into_iter().cloned().collect();
    if report.schema == SCHEMA_1 {
        for rank in &mut ranks {
            rank.threads = report.launch.threads_per_rank;
        }
    }
    let row = |rank: &RankRow| {
        let cells = table::columns().map(|column| (column.value)(rank));
        let value = |cell: crate::columns::Cell| Value {
            text: cell.shown(),
            key: cell.exact(),
        };
        cells.map(value).collect()
    };
    (ranks.iter().map(row).collect(), left_out)
}

fn failures(report: &Report) -> (Vec<Failed>, usize) {
    let mut failed = report.images.iter().filter_map(|image| {
        let failure = image.failure()?;
        Some(Failed {
            index: image.index,
            input: printable(&image.input),
            rank: image.rank,
            stage: failure.stage.name(),
            error: printable(&failure.error),
            cure: cure(failure),
        })
    });
    let shown = failed.by_ref().take(MOST_FAILURES).collect();
    (shown, failed.count())
}

/// What to do about a failure. A report of an earlier version names only the stage.
fn cure(failure: &Failure) -> &'static str {
    if let Some(problem) = failure.problem {
        return problem.cure();
    }
    match failure.stage {
        Stage::Read => "Replace or repair the input (or its mask), then run the same command with --resume.",
        Stage::Filter => {
            "Correct the option or the image that the cause names, then run again with --resume."
        }
        Stage::Write => {
            "Free space or correct the rights of the output folder, then run again with --resume."
        }
    }
}

fn slowest(report: &Report) -> Vec<Slow> {
    let processed = report
        .images
        .iter()
        .filter(|image| image.status() != Status::Skipped);
    let mut images: Vec<&ImageRow> = processed.collect();
    images.sort_by(|one, other| other.timings.worker_s().total_cmp(&one.timings.worker_s()));
    let slow = |image: &ImageRow| {
        let times = &image.timings;
        let stages = [times.read_s, times.filter_s, times.write_s, times.publish_s];
        Slow {
            index: image.index,
            input: printable(&image.input),
            rank: image.rank,
            stages: stages.map(short_seconds),
            voxels: image.outcome.input.voxels,
        }
    };
    images.into_iter().take(SLOWEST).map(slow).collect()
}

/// What was asked for and what was used.
fn resources(report: &Report) -> Vec<(&'static str, String)> {
    let (launch, totals) = (&report.launch, &report.totals);
    let (ranks, nodes) = (counted(launch.ranks, "rank"), counted(launch.nodes.len(), "node"));
    let mut rows = vec![
        (
            "ranks × threads",
            format!("{ranks} × {} on {nodes}", launch.threads_per_rank),
        ),
        ("MPI", printable(&launch.mpi)),
    ];
    if let Some(cpus) = launch.cpus {
        rows.push(("CPUs available", cpus.to_string()));
    }
    rows.push(("CPU time used", duration(totals.cpu_s)));
    rows.push((
        "largest memory of a rank",
        format!("{}iB", bytes(totals.max_rss_bytes as f64)),
    ));
    let sizes = [totals.bytes_in, totals.bytes_out].map(|size| bytes(size as f64));
    rows.push(("read and written", format!("{} and {}", sizes[0], sizes[1])));
    let Some(job) = &launch.slurm else {
        return rows;
    };
    rows.push(("Slurm job", printable(&job.job_id)));
    let asked = [
        ("tasks asked for", &job.ntasks, ""),
        ("CPUs per task asked for", &job.cpus_per_task, ""),
        ("memory per CPU asked for", &job.mem_per_cpu_mib, " MiB"),
        ("memory per node asked for", &job.mem_per_node_mib, " MiB"),
        ("nodes", &job.node_list, ""),
        ("restarts", &job.restart_count, ""),
    ];
    for (name, value, unit) in asked {
        if let Some(value) = value {
            rows.push((name, format!("{}{unit}", printable(value))));
        }
    }
    rows
}

/// The definitions of docs/report.md: rows of its tables that begin with a name in backticks.
fn glossary() -> Vec<(Vec<Text>, Vec<Text>)> {
    let rows = include_str!("../../../docs/report.md").lines();
    let cells = rows.filter(|row| row.starts_with("| `")).filter_map(|row| {
        let row = row.strip_prefix("| ")?.strip_suffix(" |")?;
        row.split_once(" | ")
    });
    cells
        .map(|(name, meaning)| (parts(name), parts(meaning)))
        .collect()
}

/// Prose and code, which backticks separate.
fn parts(text: &'static str) -> Vec<Text> {
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(place, text)| Text {
        code: place % 2 == 1,
        text: text.trim_matches('*'),
    });
    parts.filter(|part| !part.text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn hostile_names_are_text() {
        const HOSTILE: &str =
            "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\u{202e}\n";
        let mut report = sample::report();
        report.command.push(HOSTILE.to_owned());
        report.launch.mpi = HOSTILE.to_owned();
        report.version = HOSTILE.to_owned();
        report.started = HOSTILE.to_owned();
        report.filter.mask = Some(HOSTILE.to_owned());
        report.ranks[0].host = HOSTILE.to_owned();
        for image in &mut report.images {
            image.input = HOSTILE.to_owned();
            image.output = HOSTILE.to_owned();
            image.outcome.quality = Some(Box::new(crate::job::quality::Quality {
                picture: Some(HOSTILE.to_owned()),
                ..Default::default()
            }));
            if let crate::job::outcome::End::Failed(failure) = &mut image.outcome.end {
                failure.error = HOSTILE.to_owned();
            }
        }
        report.launch.slurm = Some(crate::slurm::Job {
            job_id: HOSTILE.to_owned(),
            ..crate::slurm::Job::default()
        });
        let page = render(&report, None).unwrap();
        assert_eq!(page.matches("<script").count(), 1, "only niimpi's own");
        assert_eq!(page.matches("</script").count(), 1);
        assert!(!page.contains("<img"));
        assert!(page.contains("&#60;img src=x onerror=alert(2)&#62;"));
        assert!(!page.contains('\u{202e}'));
        for line in page.lines().filter(|line| line.contains("alert(1)")) {
            assert!(!line.contains("\"'>"), "{line}");
        }
    }

    #[test]
    fn the_page_has_the_figures_of_the_report() {
        let page = render(&sample::report(), None).unwrap();
        for text in [
            "2 of 4",
            "1.33",
            "the file is empty",
            "in/2.nii",
            "rank 1, worker 0",
            "imbalance",
            "niimpi smooth",
            "10.1038/s41592-019-0686-2",
            "read again after an error",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("http://") && !page.contains(" src="));
    }

    #[test]
    fn the_page_stays_small() {
        let mut report = sample::report();
        let (image, rank) = (report.images[1].clone(), report.ranks[0].clone());
        report.images = vec![image; 40_000];
        report.ranks = vec![rank; 1000];
        let page = render(&report, None).unwrap();
        assert!(page.len() < 400_000, "{}", page.len());
        assert!(page.contains("39800 more failures"));
        assert!(page.contains("elapsed time; 800 more"));
    }

    #[test]
    fn shares_add_up() {
        let shares = shares(&sample::report());
        let sum: f64 = shares.iter().map(|share| share.percent).sum();
        assert!((sum - 100.0).abs() < 1e-9);
        assert_eq!(shares[1].name, "filter");
        assert!((shares[1].from - shares[0].percent).abs() < 1e-9);
        assert_eq!(shares[0].seconds, "3.00 s");
    }
}
