//! The series: samples that ranks recorded while they ran (`--sample`), read from their journals.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Serialize;

use super::Line;
use super::past;
use crate::columns::{Cell, Column};
use crate::report::Journals;

/// One sample of one rank. Counts and bytes are since the start of the rank; `cpus` is the mean since its
/// previous sample.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    pub run: String,
    /// The rank within that run.
    pub rank: usize,
    pub host: String,
    /// Seconds since that run's start.
    pub t_s: f64,
    pub cpu_s: f64,
    /// Mean number of busy CPUs.
    pub cpus: f64,
    pub rss_bytes: u64,
    pub done: usize,
    pub failed: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Reads the samples of a report's runs, run by run, in order of time.
pub fn read(journals: Option<&Journals>) -> Result<Vec<Sample>, String> {
    let journals = journals.ok_or("the report names no journals: it was written by an earlier version")?;
    let mut samples: Vec<Sample> = Vec::new();
    let unreadable = |path: &Path, error| format!("{}: {error}", path.display());
    let folder = Path::new(&journals.folder);
    let paths = past::journals_in(folder).map_err(|error| unreadable(folder, error))?;
    for run in &journals.runs {
        let mut of_run = Vec::new();
        let prefix = format!("journal-{run}-");
        for path in &paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&prefix) {
                let read = File::open(path).and_then(|file| of_journal(BufReader::new(file)));
                of_run.extend(read.map_err(|error| unreadable(path, error))?);
            }
        }
        of_run.sort_by(|one, other| one.t_s.total_cmp(&other.t_s).then(one.rank.cmp(&other.rank)));
        samples.extend(of_run);
    }
    if samples.is_empty() {
        return Err(format!(
            "the journals in {} contain no samples; start the run with --sample SECONDS",
            journals.folder
        ));
    }
    Ok(samples)
}

/// The samples of one rank's journal. Other lines, such as an incomplete last line, are skipped.
fn of_journal(journal: impl BufRead) -> std::io::Result<Vec<Sample>> {
    let mut samples: Vec<Sample> = Vec::new();
    past::for_each_line(journal, |run, line| {
        let Line::Sample(line) = line else { return };
        let t_s = line.unix_s - run.unix_s;
        // Before its first sample a rank has loaded the program and started MPI.
        let (last_t_s, last_cpu_s) = samples.last().map_or((0.0, 0.0), |last| (last.t_s, last.cpu_s));
        let since = t_s - last_t_s;
        samples.push(Sample {
            run: run.run.clone(),
            rank: run.rank,
            host: run.host.clone(),
            t_s,
            cpu_s: line.cpu_s,
            cpus: if since > 0.0 {
                (line.cpu_s - last_cpu_s) / since
            } else {
                0.0
            },
            rss_bytes: line.rss_bytes,
            done: line.done,
            failed: line.failed,
            bytes_in: line.bytes_in,
            bytes_out: line.bytes_out,
        });
    })?;
    Ok(samples)
}

/// Columns of a sample's row.
pub(crate) const COLUMNS: [Column<Sample>; 11] = [
    Column::csv("run", |sample| Cell::Text(sample.run.clone())),
    Column::both("rank", |sample| Cell::Count(sample.rank as u64)),
    Column::both("host", |sample| Cell::Text(sample.host.clone())),
    Column::new("t_s", "s", |sample| Cell::Number(sample.t_s, 1)),
    Column::new("cpu_s", "CPU s", |sample| Cell::Number(sample.cpu_s, 1)),
    Column::new("cpus", "CPUs", |sample| Cell::Number(sample.cpus, 2)),
    Column::new("rss_bytes", "MiB", |sample| Cell::Bytes(sample.rss_bytes)),
    Column::both("done", |sample| Cell::Count(sample.done as u64)),
    Column::both("failed", |sample| Cell::Count(sample.failed as u64)),
    Column::new("bytes_in", "in MiB", |sample| Cell::Bytes(sample.bytes_in)),
    Column::new("bytes_out", "out MiB", |sample| Cell::Bytes(sample.bytes_out)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{Style, Table, write_csv};

    const RUN: &str = concat!(
        r#"{"event":"run","format":"niimpi-journal/1","unix_s":1000.0,"run":"R","version":"0","rank":3,"#,
        r#""ranks":4,"host":"n2","pid":1,"workers":1,"images":9,"kept":0,"strategy":"size","#,
        r#""options":{}}"#
    );

    fn sample(unix_s: f64, cpu_s: f64, done: usize) -> String {
        format!(
            r#"{{"event":"sample","unix_s":{unix_s},"cpu_s":{cpu_s},"rss_bytes":1048576,"done":{done},
"failed":0,"bytes_in":2097152,"bytes_out":0}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn samples_are_rates_and_sums() {
        let text = [RUN, &sample(1002.0, 1.0, 1), "torn", &sample(1004.0, 4.0, 7)].join("\n");
        let samples = of_journal(text.as_bytes()).unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!((samples[0].t_s, samples[0].cpus), (2.0, 0.5));
        assert_eq!((samples[1].t_s, samples[1].cpus, samples[1].done), (4.0, 1.5, 7));
        assert_eq!((samples[1].rank, samples[1].host.as_str()), (3, "n2"));
        let table = Table::of(&COLUMNS, &samples).draw(Style::Terminal);
        let row: Vec<&str> = table
            .lines()
            .nth(4)
            .unwrap()
            .trim_matches('|')
            .split_whitespace()
            .collect();
        assert_eq!(row, ["3", "n2", "4.0", "4.0", "1.50", "1", "7", "0", "2", "0"]);
        let mut csv = Vec::new();
        write_csv(&COLUMNS, &samples, &mut csv).unwrap();
        assert!(
            String::from_utf8(csv)
                .unwrap()
                .starts_with("run,rank,host,t_s,cpu_s,cpus,rss_bytes,done")
        );
    }

    #[test]
    fn only_the_reports_own_runs_are_read_and_silence_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let journals = |run: &str| Journals {
            folder: folder.path().display().to_string(),
            runs: vec![run.to_owned()],
        };
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "journal-R-00003.jsonl",
            format!("{RUN}\n{}\n", sample(1001.0, 0.5, 1)),
        );
        write("journal-S-00000.jsonl", format!("{RUN}\n"));
        assert_eq!(read(Some(&journals("R"))).unwrap().len(), 1);
        assert!(
            read(Some(&journals("S")))
                .unwrap_err()
                .to_string()
                .contains("--sample SECONDS")
        );
        assert!(read(None).unwrap_err().contains("names no journals"));
        let gone = Journals {
            folder: "/nowhere".to_owned(),
            ..journals("R")
        };
        assert!(
            read(Some(&gone))
                .unwrap_err()
                .to_string()
                .starts_with("/nowhere: ")
        );
    }
}
