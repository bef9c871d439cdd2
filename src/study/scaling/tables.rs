//! Tables of a study: serial, multi-threaded, multi-process and both together, as CSV and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::folder::StudySpec;
use super::record::{Figures, Run};
use crate::study::statistics::Summary;
use crate::text;

/// Which table a run belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One rank with one worker.
    Serial,
    /// One rank with several workers.
    Threads,
    /// Several ranks with one worker each.
    Processes,
    /// Several ranks with several workers each.
    Both,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Serial, Kind::Threads, Kind::Processes, Kind::Both];

    fn file(self) -> &'static str {
        match self {
            Kind::Serial => "serial",
            Kind::Threads => "multi-threaded",
            Kind::Processes => "multi-process",
            Kind::Both => "multi-process-and-threaded",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Serial => "Serial",
            Kind::Threads => "Multi-threaded: one rank, several workers",
            Kind::Processes => "Multi-process: several ranks, one worker each",
            Kind::Both => "Multi-process and multi-threaded",
        }
    }

    fn of(ranks: usize, threads: usize) -> Self {
        match (ranks, threads) {
            (1, 1) => Kind::Serial,
            (1, _) => Kind::Threads,
            (_, 1) => Kind::Processes,
            _ => Kind::Both,
        }
    }
}

/// The repeats of one configuration.
#[derive(Clone, Debug)]
pub struct Row {
    /// Ranks.
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    /// Nodes.
    pub nodes: usize,
    /// Images.
    pub images: usize,
    /// The Slurm jobs, or "local".
    pub jobs: String,
    /// How the repeats ended: one word, or each with its count.
    pub state: String,
    /// The figures of those that did all their images.
    pub figures: Vec<Figures>,
}

impl Row {
    /// Mean and spread of one figure over the repeats.
    pub fn summary(&self, value: fn(&Figures) -> f64) -> Summary {
        Summary::of(&self.figures.iter().map(value).collect::<Vec<_>>())
    }
}

/// A row a configuration, its repeats taken together; ordered by nodes, ranks, threads and images.
pub fn rows(runs: &[Run]) -> Vec<Row> {
    let mut groups: BTreeMap<(usize, usize, usize, usize), Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let c = &run.record.configuration;
        groups
            .entry((c.nodes, c.ranks, c.threads, c.images))
            .or_default()
            .push(run);
    }
    groups
        .into_iter()
        .map(|((nodes, ranks, threads, images), runs)| {
            let mut states: BTreeMap<&str, usize> = BTreeMap::new();
            for run in &runs {
                *states.entry(&run.record.state).or_default() += 1;
            }
            let state = if states.len() == 1 {
                states.into_keys().collect()
            } else {
                let counted: Vec<String> = states
                    .iter()
                    .map(|(state, count)| format!("{count} {state}"))
                    .collect();
                counted.join(", ")
            };
            let jobs: Vec<&str> = runs
                .iter()
                .filter_map(|run| run.record.job_id.as_deref())
                .collect();
            Row {
                ranks,
                threads,
                nodes,
                images,
                jobs: if jobs.is_empty() {
                    "local".to_owned()
                } else {
                    jobs.join(" ")
                },
                state,
                figures: runs.iter().filter_map(|run| run.figures()).collect(),
            }
        })
        .collect()
}

/// Writes each kind's table as CSV, and all of them as `tables.md`; returns the latter's text.
///
/// # Errors
/// A sentence naming the file that cannot be written.
pub fn write(folder: &Path, spec: &StudySpec, runs: &[Run]) -> Result<String, String> {
    let rows = rows(runs);
    let mut page = head(spec, runs);
    for kind in Kind::ALL {
        let of_kind: Vec<&Row> = rows
            .iter()
            .filter(|row| Kind::of(row.ranks, row.threads) == kind)
            .collect();
        if of_kind.is_empty() {
            continue;
        }
        let path = folder.join(format!("{}.csv", kind.file()));
        let csv = csv(kind, &of_kind).map_err(|error| format!("{}: {error}", path.display()))?;
        super::write_text(&path, &csv)?;
        let _ = write!(
            page,
            "\n## {}\n\n{}",
            kind.title(),
            markdown(kind, &of_kind)
        );
    }
    super::write_text(&folder.join("tables.md"), &page)?;
    Ok(page)
}

fn head(spec: &StudySpec, runs: &[Run]) -> String {
    let via = match spec.via {
        super::folder::Via::Local => format!("{}, {} CPUs", spec.host, spec.cpus),
        super::folder::Via::Slurm => "Slurm jobs".to_owned(),
    };
    format!(
        "# Scaling study\n\nniimpi {} on {via}; {}; options: `{}`.\n\n\
         mem: the most that one rank held. time: from launch to end. rtime, ptime, wtime: read, filter and write seconds, \
         summed over the images. CPUeff: CPU seconds over CPUs × time. /task is an image's share, /proc a rank's. Values are \
         means over the repeats that completed, ± their standard deviation.\n{}",
        spec.version,
        spec.mpi,
        spec.options.join(" "),
        others(spec, runs),
    )
}

/// What else ran on the machine, which decides what the figures are worth.
fn others(spec: &StudySpec, runs: &[Run]) -> String {
    let others: Vec<f64> = runs
        .iter()
        .filter_map(|run| run.record.others_cpus)
        .collect();
    if others.is_empty() {
        return String::new();
    }
    let busy = Summary::of(&others).mean;
    let verdict = if busy > 0.1 * spec.cpus as f64 {
        " The figures tell of that, too."
    } else {
        ""
    };
    format!(
        "\nMeanwhile other programs kept {busy:.2} of the machine's {} CPUs busy, on the mean of the runs.{verdict}\n",
        spec.cpus
    )
}

/// The columns after the first, which counts threads or processes.
const CSV_COLUMNS: [&str; 30] = [
    "tasks",
    "nodes",
    "repeats",
    "jobID",
    "mem_bytes",
    "mem_sd_bytes",
    "mem-h",
    "time_s",
    "time_sd_s",
    "rtime_s",
    "rtime_sd_s",
    "ptime_s",
    "ptime_sd_s",
    "wtime_s",
    "wtime_sd_s",
    "CPUeff",
    "CPUeff_sd",
    "time/task_s",
    "rtime/task_s",
    "ptime/task_s",
    "wtime/task_s",
    "mem/task_bytes",
    "time/proc_s",
    "rtime/proc_s",
    "ptime/proc_s",
    "wtime/proc_s",
    "mem/proc_bytes",
    "tasks/proc",
    "wtime/ptime",
    "state",
];

/// The first columns of a kind and their values for a row.
fn counts(kind: Kind, row: &Row) -> Vec<(&'static str, usize)> {
    match kind {
        Kind::Serial | Kind::Threads => vec![("threads", row.threads)],
        Kind::Processes => vec![("procs", row.ranks)],
        Kind::Both => vec![("procs", row.ranks), ("threads", row.threads)],
    }
}

fn csv(kind: Kind, rows: &[&Row]) -> Result<String, ::csv::Error> {
    let mut csv = ::csv::Writer::from_writer(Vec::new());
    let mut header: Vec<&str> = counts(kind, rows[0]).iter().map(|count| count.0).collect();
    header.extend(CSV_COLUMNS);
    csv.write_record(&header)?;
    for row in rows {
        let mut fields: Vec<String> = counts(kind, row)
            .iter()
            .map(|count| count.1.to_string())
            .collect();
        fields.extend([
            row.images.to_string(),
            row.nodes.to_string(),
            row.figures.len().to_string(),
            row.jobs.clone(),
        ]);
        if row.figures.is_empty() {
            fields.extend((0..25).map(|_| String::new()));
        } else {
            let seconds = |value: f64| format!("{value:.6}");
            let memory = row.summary(|figures| figures.memory_bytes);
            let time = row.summary(|figures| figures.time_s);
            let read = row.summary(|figures| figures.read_s);
            let filter = row.summary(|figures| figures.filter_s);
            let write = row.summary(|figures| figures.write_s);
            let efficiency = row.summary(|figures| figures.cpu_efficiency);
            let (images, ranks) = (row.images as f64, row.ranks as f64);
            fields.extend([
                format!("{:.0}", memory.mean),
                format!("{:.0}", memory.sd),
                text::bytes(memory.mean),
            ]);
            for summary in [time, read, filter, write] {
                fields.extend([seconds(summary.mean), seconds(summary.sd)]);
            }
            fields.extend([
                format!("{:.4}", efficiency.mean),
                format!("{:.4}", efficiency.sd),
            ]);
            fields
                .extend([time, read, filter, write].map(|summary| seconds(summary.mean / images)));
            fields.push(format!("{:.0}", memory.mean / images));
            // Every rank takes the whole time; the stages' sums are shared among them.
            fields.push(seconds(time.mean));
            fields.extend([read, filter, write].map(|summary| seconds(summary.mean / ranks)));
            fields.push(format!("{:.0}", memory.mean));
            fields.push(format!("{:.2}", images / ranks));
            fields.push(format!("{:.4}", write.mean / filter.mean));
        }
        fields.push(row.state.clone());
        csv.write_record(&fields)?;
    }
    let bytes = csv
        .into_inner()
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn markdown(kind: Kind, rows: &[&Row]) -> String {
    let mut text = String::from("|");
    for (name, _) in counts(kind, rows[0]) {
        let _ = write!(text, " {name} |");
    }
    let several_nodes = rows.iter().any(|row| row.nodes > 1);
    if several_nodes {
        text.push_str(" nodes |");
    }
    let columns = [
        "tasks",
        "jobID",
        "mem",
        "mem-h",
        "time s",
        "rtime s",
        "ptime s",
        "wtime s",
        "CPUeff %",
        "time/task ms",
        "rtime/task ms",
        "ptime/task ms",
        "wtime/task ms",
        "ptime/proc s",
        "wtime/proc s",
        "wtime/ptime",
        "state",
    ];
    let _ = writeln!(text, " {} |", columns.join(" | "));
    let all = columns.len() + counts(kind, rows[0]).len() + usize::from(several_nodes);
    let _ = writeln!(text, "|{}", "--:|".repeat(all));
    for row in rows {
        text.push('|');
        for (_, count) in counts(kind, row) {
            let _ = write!(text, " {count} |");
        }
        if several_nodes {
            let _ = write!(text, " {} |", row.nodes);
        }
        let _ = write!(text, " {} | {} |", row.images, row.jobs);
        if row.figures.is_empty() {
            let _ = writeln!(text, "{} {} |", " |".repeat(14), row.state);
            continue;
        }
        let spread = |summary: Summary, digits: usize| {
            if summary.count > 1 {
                format!("{:.digits$} ± {:.digits$}", summary.mean, summary.sd)
            } else {
                format!("{:.digits$}", summary.mean)
            }
        };
        let memory = row.summary(|figures| figures.memory_bytes);
        let time = row.summary(|figures| figures.time_s);
        let read = row.summary(|figures| figures.read_s);
        let filter = row.summary(|figures| figures.filter_s);
        let write = row.summary(|figures| figures.write_s);
        let efficiency = row.summary(|figures| figures.cpu_efficiency * 100.0);
        let _ = write!(
            text,
            " {:.0}K | {} |",
            memory.mean / 1024.0,
            text::bytes(memory.mean)
        );
        let _ = write!(text, " {} |", spread(time, 2));
        for summary in [read, filter, write] {
            let _ = write!(text, " {} |", spread(summary, 2));
        }
        let _ = write!(text, " {} |", spread(efficiency, 0));
        for summary in [time, read, filter, write] {
            let _ = write!(text, " {:.2} |", summary.mean / row.images as f64 * 1000.0);
        }
        for summary in [filter, write] {
            let _ = write!(text, " {:.2} |", summary.mean / row.ranks as f64);
        }
        let _ = writeln!(text, " {:.2} | {} |", write.mean / filter.mean, row.state);
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::folder::Configuration;
    use super::super::folder::tests::spec;
    use super::super::record::{COMPLETED, RunRecord};
    use super::*;
    use crate::report::sample::report;

    pub(crate) fn run(
        ranks: usize,
        threads: usize,
        images: usize,
        repeat: usize,
        wall_s: f64,
    ) -> Run {
        let mut report = report();
        report.elapsed_s = wall_s - 0.5;
        report.totals.read_s = 0.1 * images as f64;
        report.totals.filter_s = 0.2 * images as f64;
        report.totals.write_s = 0.4 * images as f64;
        report.totals.max_rss_bytes = 20 << 20;
        report.totals.cpu_efficiency = 0.9;
        Run {
            record: RunRecord {
                configuration: Configuration {
                    ranks,
                    threads,
                    nodes: 1,
                    images,
                    repeat,
                },
                state: COMPLETED.to_owned(),
                wall_s: Some(wall_s),
                ..RunRecord::default()
            },
            report: Some(report),
        }
    }

    #[test]
    fn repeats_become_one_row_with_their_spread() {
        let rows = rows(&[run(1, 1, 10, 1, 8.0), run(1, 1, 10, 2, 10.0)]);
        assert_eq!(rows.len(), 1);
        let time = rows[0].summary(|figures| figures.time_s);
        assert_eq!((time.count, time.mean, time.sd), (2, 9.0, 2.0_f64.sqrt()));
    }

    #[test]
    fn each_kind_has_its_table_and_a_failed_run_is_a_row() {
        let mut failed = run(1, 1, 400, 1, 1.0);
        failed.record.state = "OUT_OF_MEMORY".to_owned();
        failed.report = None;
        let runs = [
            run(1, 1, 10, 1, 8.0),
            failed,
            run(1, 2, 10, 1, 5.0),
            run(2, 1, 10, 1, 4.0),
            run(2, 2, 10, 1, 4.0),
        ];
        let folder = tempfile::tempdir().unwrap();
        let page = write(folder.path(), &spec(), &runs).unwrap();
        for kind in Kind::ALL {
            let csv = std::fs::read_to_string(folder.path().join(format!("{}.csv", kind.file())))
                .unwrap();
            let mut reader = ::csv::Reader::from_reader(csv.as_bytes());
            let headers = reader.headers().unwrap().clone();
            let first = if matches!(kind, Kind::Serial | Kind::Threads) {
                "threads"
            } else {
                "procs"
            };
            assert_eq!(&headers[0], first);
            let records: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
            let column = |name: &str| headers.iter().position(|header| header == name).unwrap();
            assert_eq!(&records[0][column("mem-h")], "20.0M");
            assert_eq!(&records[0][column("wtime/ptime")], "2.0000");
            assert_eq!(&records[0][column("wtime/task_s")], "0.400000");
            assert_eq!(&records[0][column("state")], "COMPLETED");
        }
        assert!(page.contains("OUT_OF_MEMORY"), "{page}");
        assert!(
            !page.contains("other programs"),
            "nothing is known of others"
        );
        let widths: Vec<usize> = page
            .lines()
            .skip_while(|line| !line.starts_with("## Serial"))
            .filter(|line| line.starts_with('|'))
            .take(4)
            .map(|line| line.matches('|').count())
            .collect();
        assert!(
            widths.iter().all(|width| *width == widths[0]),
            "{widths:?}\n{page}"
        );
    }

    #[test]
    fn what_else_ran_is_told() {
        let mut busy = run(1, 1, 10, 1, 8.0);
        busy.record.others_cpus = Some(1.25);
        let text = others(&spec(), &[busy.clone()]);
        assert!(
            text.contains("1.25 of the machine's 2 CPUs") && text.contains("tell of that"),
            "{text}"
        );
        busy.record.others_cpus = Some(0.01);
        assert!(!others(&spec(), &[busy]).contains("tell of that"));
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(text::bytes(20.0 * 1024.0 * 1024.0), "20.0M");
        assert_eq!(text::bytes(1.5 * 1024.0_f64.powi(3)), "1.5G");
        assert_eq!(text::bytes(12.0), "12B");
    }
}
