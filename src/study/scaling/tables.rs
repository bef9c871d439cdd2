//! Tables of a study as CSV and Markdown: serial, multi-threaded, multi-process, and multi-process with
//! threads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use super::folder::{StudySpec, write_csv, write_text};
use super::record::{Configuration, Figures, Run};
use crate::columns::{Cell, Column, Style, Table};
use crate::study::statistics::Summary;
use crate::text;

/// One table of the study.
struct Kind {
    file: &'static str,
    title: &'static str,
    /// Whether it contains a row. The tables of threads and of processes begin with the rows for one.
    has: fn(&Row) -> bool,
    /// The table is written only if this holds for one of its rows.
    needs: fn(&Row) -> bool,
    /// The column that is left out, because all rows have 1 there.
    lacks: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        file: "serial",
        title: "Serial",
        has: |row| row.run.ranks == 1 && row.run.threads == 1,
        needs: |_| true,
        lacks: "procs",
    },
    Kind {
        file: "multi-threaded",
        title: "Multi-threaded: one rank, several workers",
        has: |row| row.run.ranks == 1,
        needs: |row| row.run.threads > 1,
        lacks: "procs",
    },
    Kind {
        file: "multi-process",
        title: "Multi-process: several ranks, one worker each",
        has: |row| row.run.threads == 1,
        needs: |row| row.run.ranks > 1,
        lacks: "threads",
    },
    Kind {
        file: "multi-process-and-threaded",
        title: "Multi-process and multi-threaded",
        has: |row| row.run.ranks > 1 && row.run.threads > 1,
        needs: |_| true,
        lacks: "",
    },
];

/// The repeats of one configuration.
#[derive(Clone, Debug)]
pub struct Row {
    /// The configuration, with repeat 0.
    pub run: Configuration,
    /// The Slurm jobs, or "local".
    pub jobs: String,
    /// The state of the repeats; if they differ, each state with its count.
    pub state: String,
    /// Why repeats did not complete.
    message: String,
    /// The figures of the repeats that processed all their images.
    pub figures: Vec<Figures>,
}

impl Row {
    /// Mean and spread of one figure over the repeats.
    pub fn summary(&self, value: fn(&Figures) -> f64) -> Summary {
        Summary::of(&self.figures.iter().map(value).collect::<Vec<_>>())
    }

    fn images(&self) -> f64 {
        self.run.images as f64
    }

    fn ranks(&self) -> f64 {
        self.run.ranks as f64
    }

    /// A cell for a figure; unknown if no run has figures.
    fn cell(&self, value: fn(&Figures) -> f64, cell: impl FnOnce(Summary) -> Cell) -> Cell {
        match self.figures.is_empty() {
            true => Cell::Unknown,
            false => cell(self.summary(value)),
        }
    }

    /// The mean divided by `by`, rounded to six decimals.
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

/// One row per configuration with all its repeats, ordered by nodes, ranks, threads and images.
pub fn rows(runs: &[Run]) -> Vec<Row> {
    let mut groups: BTreeMap<Configuration, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        let mut group = run.record.configuration;
        group.repeat = 0;
        groups.entry(group).or_default().push(run);
    }
    let row = |(run, runs): (Configuration, Vec<&Run>)| {
        let mut states: BTreeMap<&str, usize> = BTreeMap::new();
        for run in &runs {
            *states.entry(&run.record.state).or_default() += 1;
        }
        let counted = states.iter().map(|(state, count)| match states.len() {
            1 => (*state).to_owned(),
            _ => format!("{count} {state}"),
        });
        let text = |of: fn(&Run) -> Option<&str>, between| {
            let mut texts: Vec<&str> = runs.iter().filter_map(|run| of(run)).collect();
            texts.dedup();
            texts.join(between)
        };
        let jobs = text(|run| run.record.job_id.as_deref(), " ");
        Row {
            run,
            jobs: if jobs.is_empty() { "local".to_owned() } else { jobs },
            state: Vec::from_iter(counted).join(", "),
            message: text(|run| run.record.message.as_deref(), "; "),
            figures: runs.iter().filter_map(|run| run.figures()).collect(),
        }
    };
    groups.into_iter().map(row).collect()
}

/// Writes each table as CSV, and all of them as `tables.md`. Returns the text of `tables.md`.
pub fn write(folder: &Path, spec: &StudySpec, runs: &[Run]) -> Result<String, String> {
    let rows = rows(runs);
    let mut page = head(spec, runs);
    for kind in KINDS {
        let of_kind: Vec<&Row> = rows.iter().filter(|row| (kind.has)(row)).collect();
        if !of_kind.iter().any(|row| (kind.needs)(row)) {
            continue;
        }
        let all = || COLUMNS.iter().copied().flatten();
        let columns = || all().filter(|column| column.name.is_empty() || column.name != kind.lacks);
        let path = folder.join(format!("{}.csv", kind.file));
        write_csv(&path, columns(), of_kind.iter().copied())?;
        let table = Table::of(columns(), of_kind).draw(Style::Markdown);
        let _ = write!(page, "\n## {}\n\n{table}", kind.title);
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
        let message = text::printable(&row.message);
        let _ = writeln!(text, "- {}: {}: {message}", row.run, row.state);
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
         mem: highest memory of a rank; mem-total: the sum over all ranks. time: from launch to end, which \
         is setup (the launcher and the start of MPI) plus execution. rtime, ptime, wtime: seconds of \
         reading, filtering and writing in the workers, summed over the images; publish: seconds of waiting \
         for the disk in the background. CPUeff: CPU seconds / (CPUs × time). /task: per image; /proc: per \
         rank. Values are means over the repeats that completed, ± their standard deviation.\n{}",
        spec.version,
        spec.mpi,
        spec.options.join(" "),
        others(runs),
    )
}

/// The load by other programs, which affects the figures.
fn others(runs: &[Run]) -> String {
    let others: Vec<f64> = runs.iter().filter_map(|run| run.record.others_cpus).collect();
    if others.is_empty() {
        return String::new();
    }
    let busy = Summary::of(&others).mean;
    format!("\nOther programs kept {busy:.2} CPUs busy during the runs (mean).\n")
}

/// A figure in seconds: mean and standard deviation, in two columns in CSV, in one cell in Markdown.
macro_rules! seconds {
    ($name:literal, $value:expr) => {
        &[
            Column::csv(concat!($name, "_s"), |row| row.mean(6, 1.0, $value)),
            Column::csv(concat!($name, "_sd_s"), |row| row.sd($value)),
            Column::shown(concat!($name, " s"), |row| row.spread(2, $value)),
        ]
    };
}

/// A figure in seconds per image; in milliseconds in Markdown.
macro_rules! per_task {
    ($name:literal, $value:expr) => {
        &[
            Column::csv(concat!($name, "/task_s"), |row| row.mean(6, row.images(), $value)),
            Column::shown(concat!($name, "/task ms"), |row| {
                row.mean(2, row.images() / 1e3, $value)
            }),
        ]
    };
}

/// A figure in seconds per rank.
macro_rules! per_proc {
    ($name:literal, $value:expr) => {
        &[
            Column::csv(concat!($name, "/proc_s"), |row| row.mean(6, row.ranks(), $value)),
            Column::shown(concat!($name, "/proc s"), |row| row.mean(2, row.ranks(), $value)),
        ]
    };
}

/// Every column of the tables.
const COLUMNS: &[&[Column<Row>]] = &[
    &[
        Column::both("procs", |row| Cell::Count(row.run.ranks as u64)),
        Column::both("threads", |row| Cell::Count(row.run.threads as u64)),
        Column::both("tasks", |row| Cell::Count(row.run.images as u64)),
        Column::both("nodes", |row| Cell::Count(row.run.nodes as u64)),
        Column::csv("repeats", |row| Cell::Count(row.figures.len() as u64)),
        Column::both("jobID", |row| Cell::Text(row.jobs.clone())),
        Column::csv("mem_bytes", |row| row.mean(6, 1.0, |run| run.memory_bytes)),
        Column::csv("mem_sd_bytes", |row| row.sd(|run| run.memory_bytes)),
        Column::shown("mem", |row| row.kib(|run| run.memory_bytes)),
        Column::both("mem-h", |row| row.human(1.0, |run| run.memory_bytes)),
        Column::csv("mem-total_bytes", |row| {
            row.mean(6, 1.0, |run| run.memory_total_bytes)
        }),
        Column::shown("mem-total", |row| row.human(1.0, |run| run.memory_total_bytes)),
    ],
    seconds!("time", |run| run.time_s),
    seconds!("setup", |run| run.setup_s()),
    seconds!("execution", |run| run.elapsed_s),
    seconds!("rtime", |run| run.read_s),
    seconds!("ptime", |run| run.filter_s),
    seconds!("wtime", |run| run.write_s),
    seconds!("publish", |run| run.publish_s),
    &[
        Column::csv("CPUeff", |row| row.mean(6, 1.0, |run| run.cpu_efficiency)),
        Column::csv("CPUeff_sd", |row| row.sd(|run| run.cpu_efficiency)),
        Column::shown("CPUeff %", |row| row.spread(0, |run| run.cpu_efficiency * 100.0)),
    ],
    per_task!("time", |run| run.time_s),
    per_task!("rtime", |run| run.read_s),
    per_task!("ptime", |run| run.filter_s),
    per_task!("wtime", |run| run.write_s),
    &[
        Column::csv("mem/task_bytes", |row| {
            row.mean(6, row.images(), |run| run.memory_total_bytes)
        }),
        Column::shown("mem/task", |row| {
            row.human(row.images(), |run| run.memory_total_bytes)
        }),
    ],
    per_proc!("rtime", |run| run.read_s),
    per_proc!("ptime", |run| run.filter_s),
    per_proc!("wtime", |run| run.write_s),
    &[
        Column::csv("mem/proc_bytes", |row| {
            row.mean(6, row.ranks(), |run| run.memory_total_bytes)
        }),
        Column::csv("tasks/proc", |row| Cell::Number(row.images() / row.ranks(), 2)),
        Column::shown("mem/proc", |row| {
            row.human(row.ranks(), |run| run.memory_total_bytes)
        }),
        Column::both("wtime/ptime", |row| row.write_to_filter()),
        Column::both("state", |row| Cell::Text(row.state.clone())),
        Column::csv("message", |row| Cell::Text(row.message.clone())),
    ],
];

#[cfg(test)]
pub(crate) mod tests {
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
        let busy = Run {
            record: RunRecord {
                others_cpus: Some(1.25),
                ..runs[0].record.clone()
            },
            report: None,
        };
        assert!(others(&[busy]).contains("kept 1.25 CPUs busy"));
        let folder = tempfile::tempdir().unwrap();
        let page = write(folder.path(), &spec(), &runs).unwrap();
        insta::assert_snapshot!(page);
    }
}
