//! Tables of a study: serial, multi-threaded, multi-process and both together, as CSV and as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::folder::{StudySpec, write_csv, write_text};
use super::record::{Figures, Run};
use crate::columns::{Cell, Column, Grid, Style};
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

    /// Whether a table of this kind has a row. Those of threads and of processes begin with one of them.
    fn has(self, row: &Row) -> bool {
        match self {
            Kind::Serial => row.ranks == 1 && row.threads == 1,
            Kind::Threads => row.ranks == 1,
            Kind::Processes => row.threads == 1,
            Kind::Both => row.ranks > 1 && row.threads > 1,
        }
    }

    /// Whether there is anything to compare in such a table.
    fn is_needed(self, rows: &[&Row]) -> bool {
        match self {
            Kind::Serial | Kind::Both => !rows.is_empty(),
            Kind::Threads => rows.iter().any(|row| row.threads > 1),
            Kind::Processes => rows.iter().any(|row| row.ranks > 1),
        }
    }

    /// Whether a table of this kind has a column.
    fn has_column(self, column: &RowColumn) -> bool {
        match column.name {
            "procs" => matches!(self, Kind::Processes | Kind::Both),
            "threads" => self != Kind::Processes,
            _ => true,
        }
    }
}

/// The repeats of one configuration.
#[derive(Clone, Debug)]
pub struct Row {
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    pub nodes: usize,
    pub images: usize,
    /// The Slurm jobs, or "local".
    pub jobs: String,
    /// How the repeats ended: one word, or each with its count.
    pub state: String,
    /// Why repeats did not complete.
    message: String,
    /// The figures of those that did all their images.
    pub figures: Vec<Figures>,
}

impl Row {
    /// Mean and spread of one figure over the repeats.
    pub fn summary(&self, value: fn(&Figures) -> f64) -> Summary {
        Summary::of(&self.figures.iter().map(value).collect::<Vec<_>>())
    }

    fn images(&self) -> f64 {
        self.images as f64
    }

    fn ranks(&self) -> f64 {
        self.ranks as f64
    }

    /// A figure for a cell; nothing where no run has figures.
    fn cell(&self, value: fn(&Figures) -> f64, cell: impl FnOnce(Summary) -> Cell) -> Cell {
        match self.figures.is_empty() {
            true => Cell::Unknown,
            false => cell(self.summary(value)),
        }
    }

    /// The mean divided by `by`, with six digits at most.
    fn mean(&self, digits: usize, by: f64, value: fn(&Figures) -> f64) -> Cell {
        self.cell(value, |summary| Cell::Number(rounded(summary.mean / by), digits))
    }

    fn sd(&self, value: fn(&Figures) -> f64) -> Cell {
        self.cell(value, |summary| Cell::Number(rounded(summary.sd), 6))
    }

    fn spread(&self, digits: usize, value: fn(&Figures) -> f64) -> Cell {
        self.cell(value, |Summary { count, mean, sd, .. }| match count {
            1 => Cell::Number(mean, digits),
            _ => Cell::Figure(format!("{mean:.digits$} ± {sd:.digits$}")),
        })
    }

    /// Bytes as `sacct` shows them.
    fn kib(&self, value: fn(&Figures) -> f64) -> Cell {
        self.cell(value, |summary| {
            Cell::Figure(format!("{:.0}K", summary.mean / 1024.0))
        })
    }

    /// Bytes divided by `by`, with a unit.
    fn human(&self, by: f64, value: fn(&Figures) -> f64) -> Cell {
        self.cell(value, |summary| Cell::Figure(text::bytes(summary.mean / by)))
    }

    fn write_to_filter(&self) -> Cell {
        let filter = self.summary(|run| run.filter_s).mean;
        let ratio = |summary: Summary| Cell::Number(rounded(summary.mean / filter), 2);
        self.cell(|run| run.write_s, ratio)
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
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
            let mut messages: Vec<&str> = runs
                .iter()
                .filter_map(|run| run.record.message.as_deref())
                .collect();
            messages.dedup();
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
                message: messages.join("; "),
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
        let of_kind: Vec<&Row> = rows.iter().filter(|row| kind.has(row)).collect();
        if !kind.is_needed(&of_kind) {
            continue;
        }
        let columns = || COLUMNS.iter().filter(|column| kind.has_column(column));
        let path = folder.join(format!("{}.csv", kind.file()));
        write_csv(&path, columns(), of_kind.iter().copied())?;
        let table = Grid::of(columns(), of_kind).draw(Style::Markdown);
        let _ = write!(page, "\n## {}\n\n{table}", kind.title());
    }
    page.push_str(&failures(&rows));
    write_text(&folder.join("tables.md"), &page)?;
    Ok(page)
}

/// The runs that did not complete, with their reasons.
fn failures(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| !row.message.is_empty()) {
        if text.is_empty() {
            text.push_str("\n## Runs that did not complete\n\n");
        }
        let counts = [
            (row.images, "image"),
            (row.ranks, "rank"),
            (row.threads, "thread"),
            (row.nodes, "node"),
        ];
        let [images, ranks, threads, nodes] = counts.map(|(count, noun)| text::counted(count, noun));
        let message = text::printable(&row.message);
        let _ = writeln!(
            text,
            "- {images}, {ranks} × {threads}, {nodes}: {}: {message}",
            row.state
        );
    }
    text
}

fn head(spec: &StudySpec, runs: &[Run]) -> String {
    let via = match spec.via {
        super::folder::Via::Local => format!("{}, {} CPUs", spec.host, spec.cpus),
        super::folder::Via::Slurm => "Slurm jobs".to_owned(),
    };
    format!(
        "# Scaling study\n\nniimpi {} on {via}; {}; options: `{}`.\n\n\
         mem: the most that one rank held; mem-total: all ranks together. time: from launch to end, which is \
         setup (the launcher \
         and the start of MPI) and execution. rtime, ptime, wtime: read, filter and write seconds of the \
         workers, summed over \
         the images; publish: the wait for the disk behind them. CPUeff: CPU seconds over CPUs × time. /task \
         is an image's \
         share, /proc a rank's. Values are means over the repeats that completed, ± their standard \
         deviation.\n{}",
        spec.version,
        spec.mpi,
        spec.options.join(" "),
        others(spec, runs),
    )
}

/// What else ran on the machine, which decides what the figures are worth.
fn others(spec: &StudySpec, runs: &[Run]) -> String {
    let others: Vec<f64> = runs.iter().filter_map(|run| run.record.others_cpus).collect();
    if others.is_empty() {
        return String::new();
    }
    let busy = Summary::of(&others).mean;
    let verdict = if busy > 0.1 * spec.cpus as f64 {
        " This affects the measurements."
    } else {
        ""
    };
    format!(
        "\nMeanwhile other programs kept {busy:.2} of the machine's {} CPUs busy, on the mean of the \
        runs.{verdict}\n",
        spec.cpus
    )
}

type RowColumn = Column<Row>;

const fn csv_only(name: &'static str, value: fn(&Row) -> Cell) -> RowColumn {
    Column {
        name,
        head: "",
        value,
    }
}

const fn shown(head: &'static str, value: fn(&Row) -> Cell) -> RowColumn {
    Column {
        name: "",
        head,
        value,
    }
}

const fn both(name: &'static str, value: fn(&Row) -> Cell) -> RowColumn {
    Column {
        name,
        head: name,
        value,
    }
}

/// Every column of the tables: mean and spread in CSV, both in one cell on the page.
const COLUMNS: &[RowColumn] = &[
    both("procs", |row| Cell::Count(row.ranks as u64)),
    both("threads", |row| Cell::Count(row.threads as u64)),
    both("tasks", |row| Cell::Count(row.images as u64)),
    both("nodes", |row| Cell::Count(row.nodes as u64)),
    csv_only("repeats", |row| Cell::Count(row.figures.len() as u64)),
    both("jobID", |row| Cell::Text(row.jobs.clone())),
    csv_only("mem_bytes", |row| row.mean(6, 1.0, |run| run.memory_bytes)),
    csv_only("mem_sd_bytes", |row| row.sd(|run| run.memory_bytes)),
    shown("mem", |row| row.kib(|run| run.memory_bytes)),
    both("mem-h", |row| row.human(1.0, |run| run.memory_bytes)),
    csv_only("mem-total_bytes", |row| {
        row.mean(6, 1.0, |run| run.memory_total_bytes)
    }),
    shown("mem-total", |row| row.human(1.0, |run| run.memory_total_bytes)),
    csv_only("time_s", |row| row.mean(6, 1.0, |run| run.time_s)),
    csv_only("time_sd_s", |row| row.sd(|run| run.time_s)),
    shown("time s", |row| row.spread(2, |run| run.time_s)),
    csv_only("setup_s", |row| row.mean(6, 1.0, |run| run.setup_s())),
    csv_only("setup_sd_s", |row| row.sd(|run| run.setup_s())),
    shown("setup s", |row| row.spread(2, |run| run.setup_s())),
    csv_only("execution_s", |row| row.mean(6, 1.0, |run| run.elapsed_s)),
    csv_only("execution_sd_s", |row| row.sd(|run| run.elapsed_s)),
    shown("execution s", |row| row.spread(2, |run| run.elapsed_s)),
    csv_only("rtime_s", |row| row.mean(6, 1.0, |run| run.read_s)),
    csv_only("rtime_sd_s", |row| row.sd(|run| run.read_s)),
    shown("rtime s", |row| row.spread(2, |run| run.read_s)),
    csv_only("ptime_s", |row| row.mean(6, 1.0, |run| run.filter_s)),
    csv_only("ptime_sd_s", |row| row.sd(|run| run.filter_s)),
    shown("ptime s", |row| row.spread(2, |run| run.filter_s)),
    csv_only("wtime_s", |row| row.mean(6, 1.0, |run| run.write_s)),
    csv_only("wtime_sd_s", |row| row.sd(|run| run.write_s)),
    shown("wtime s", |row| row.spread(2, |run| run.write_s)),
    csv_only("publish_s", |row| row.mean(6, 1.0, |run| run.publish_s)),
    csv_only("publish_sd_s", |row| row.sd(|run| run.publish_s)),
    shown("publish s", |row| row.spread(2, |run| run.publish_s)),
    csv_only("CPUeff", |row| row.mean(6, 1.0, |run| run.cpu_efficiency)),
    csv_only("CPUeff_sd", |row| row.sd(|run| run.cpu_efficiency)),
    shown("CPUeff %", |row| row.spread(0, |run| run.cpu_efficiency * 100.0)),
    csv_only("time/task_s", |row| row.mean(6, row.images(), |run| run.time_s)),
    csv_only("rtime/task_s", |row| row.mean(6, row.images(), |run| run.read_s)),
    csv_only("ptime/task_s", |row| {
        row.mean(6, row.images(), |run| run.filter_s)
    }),
    csv_only("wtime/task_s", |row| row.mean(6, row.images(), |run| run.write_s)),
    csv_only("mem/task_bytes", |row| {
        row.mean(6, row.images(), |run| run.memory_total_bytes)
    }),
    shown("time/task ms", |row| {
        row.mean(2, row.images(), |run| run.time_s * 1e3)
    }),
    shown("rtime/task ms", |row| {
        row.mean(2, row.images(), |run| run.read_s * 1e3)
    }),
    shown("ptime/task ms", |row| {
        row.mean(2, row.images(), |run| run.filter_s * 1e3)
    }),
    shown("wtime/task ms", |row| {
        row.mean(2, row.images(), |run| run.write_s * 1e3)
    }),
    shown("mem/task", |row| {
        row.human(row.images(), |run| run.memory_total_bytes)
    }),
    // Every rank takes the whole time; the sums of the stages are shared among them.
    csv_only("time/proc_s", |row| row.mean(6, 1.0, |run| run.time_s)),
    csv_only("rtime/proc_s", |row| row.mean(6, row.ranks(), |run| run.read_s)),
    csv_only("ptime/proc_s", |row| row.mean(6, row.ranks(), |run| run.filter_s)),
    csv_only("wtime/proc_s", |row| row.mean(6, row.ranks(), |run| run.write_s)),
    csv_only("mem/proc_bytes", |row| {
        row.mean(6, row.ranks(), |run| run.memory_total_bytes)
    }),
    csv_only("tasks/proc", |row| Cell::Number(row.images() / row.ranks(), 2)),
    shown("rtime/proc s", |row| row.mean(2, row.ranks(), |run| run.read_s)),
    shown("ptime/proc s", |row| row.mean(2, row.ranks(), |run| run.filter_s)),
    shown("wtime/proc s", |row| row.mean(2, row.ranks(), |run| run.write_s)),
    shown("mem/proc", |row| {
        row.human(row.ranks(), |run| run.memory_total_bytes)
    }),
    both("wtime/ptime", |row| row.write_to_filter()),
    both("state", |row| Cell::Text(row.state.clone())),
    csv_only("message", |row| Cell::Text(row.message.clone())),
];

#[cfg(test)]
pub(crate) mod tests {
    use super::super::configuration::Configuration;
    use super::super::folder::tests::spec;
    use super::super::record::{COMPLETED, RunRecord};
    use super::*;
    use crate::report::sample::report;

    pub(crate) fn run(ranks: usize, threads: usize, images: usize, repeat: usize, wall_s: f64) -> Run {
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
        failed.record.message = Some("sbatch: error: too many nodes".to_owned());
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
        assert!(
            page.contains("OUT_OF_MEMORY: sbatch: error: too many nodes"),
            "{page}"
        );
        assert!(!page.contains("other programs"), "nothing is known of others");
        insta::assert_snapshot!(page);
    }

    #[test]
    fn what_else_ran_is_told() {
        let mut busy = run(1, 1, 10, 1, 8.0);
        busy.record.others_cpus = Some(1.25);
        let text = others(&spec(), &[busy.clone()]);
        assert!(
            text.contains("1.25 of the machine's 2 CPUs") && text.contains("affects"),
            "{text}"
        );
        busy.record.others_cpus = Some(0.01);
        assert!(!others(&spec(), &[busy]).contains("affects"));
    }
}
