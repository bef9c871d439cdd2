//! Status: how far the runs below an output folder have come, by their journals alone, while they go on or afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use comfy_table::{CellAlignment, Table, presets};

use super::past::{JournalFile, Past, Record};
use super::{Line, RunLine, unix_s};
use crate::job::outcome::Status as Ended;
use crate::report::State;
use crate::text::{long_duration, printable};

/// A rank that lives writes a line every half minute; after so long without one it is quiet.
const QUIET_AFTER_S: f64 = 90.0;

/// How a rank stands.
#[derive(Clone, Debug, PartialEq)]
pub enum RankState {
    /// It has written a line lately.
    Running,
    /// It has not, for so many seconds: it was killed, or hangs.
    Quiet(f64),
    /// Its process is gone without a last line.
    Dead,
    /// It ended in an orderly way.
    Closed(State),
}

/// One rank of a run.
#[derive(Clone, Debug)]
pub struct RankStatus {
    /// Its first line.
    pub run: RunLine,
    /// Images that it has done.
    pub done: usize,
    /// Images that it has given up.
    pub failed: usize,
    /// Images in its hands: their names, and when they were begun, seconds since 1970.
    pub running: Vec<(PathBuf, f64)>,
    /// When it wrote its last line, seconds since 1970.
    pub last_unix_s: f64,
    /// How it stands.
    pub state: RankState,
}

impl RankStatus {
    /// What a journal says at the time `now_unix_s`; `None` of one without a first line. `alive` says whether a process of
    /// this host lives, where that can be told.
    pub fn of(
        journal: JournalFile,
        now_unix_s: f64,
        alive: impl Fn(&RunLine) -> Option<bool>,
    ) -> Option<Self> {
        let run = journal.run?;
        let mut status = RankStatus {
            done: 0,
            failed: 0,
            running: Vec::new(),
            last_unix_s: run.unix_s,
            state: RankState::Running,
            run,
        };
        let mut running: HashMap<usize, (PathBuf, f64)> = HashMap::new();
        let mut closed = None;
        for line in journal.lines {
            let unix_s = match line {
                Line::Begin(begin) => {
                    running.insert(begin.index, (begin.output, begin.unix_s));
                    begin.unix_s
                }
                Line::End(end) => {
                    running.remove(&end.outcome.index);
                    match end.outcome.status() {
                        Ended::Done => status.done += 1,
                        Ended::Failed => status.failed += 1,
                        Ended::Skipped => {}
                    }
                    end.unix_s
                }
                Line::Alive { unix_s } => unix_s,
                Line::Sample(sample) => sample.unix_s,
                Line::Close { unix_s, state } => {
                    closed = Some(state);
                    unix_s
                }
                Line::Run(_) | Line::Unknown => continue,
            };
            status.last_unix_s = status.last_unix_s.max(unix_s);
        }
        status.running = running.into_values().collect();
        status.running.sort_by(|a, b| a.1.total_cmp(&b.1));
        let silent_s = now_unix_s - status.last_unix_s;
        status.state = match closed {
            Some(state) => RankState::Closed(state),
            None if alive(&status.run) == Some(false) => RankState::Dead,
            None if silent_s > QUIET_AFTER_S => RankState::Quiet(silent_s),
            None => RankState::Running,
        };
        Some(status)
    }
}

/// Runs and results below an output folder.
#[derive(Debug)]
pub struct Status {
    /// Results that are recorded as written, over all runs.
    pub done: usize,
    /// Images whose last record is a failure.
    pub failed: usize,
    /// Images that were begun and have no later record.
    pub unfinished: usize,
    /// The last run, and earlier ones that still go on; ranks in order.
    pub runs: Vec<Vec<RankStatus>>,
    now_unix_s: f64,
}

impl Status {
    /// Reads the journals below an output folder.
    ///
    /// # Errors
    /// The file system's.
    pub fn load(output: &Path) -> std::io::Result<Self> {
        let threads = crate::resources::available_cpus();
        let journals = super::past::read_all(&super::past::journal_paths(output)?, threads)?;
        let host = crate::resources::host_name();
        let alive = |run: &RunLine| {
            (run.host == host).then(|| crate::resources::process_lives(run.pid as i32))
        };
        Ok(Self::of(journals, unix_s(SystemTime::now()), alive))
    }

    /// What these journals say at the time `now_unix_s`.
    pub fn of(
        journals: Vec<JournalFile>,
        now_unix_s: f64,
        alive: impl Fn(&RunLine) -> Option<bool>,
    ) -> Self {
        let mut runs: BTreeMap<String, Vec<RankStatus>> = BTreeMap::new();
        for journal in &journals {
            if let Some(rank) = RankStatus::of(journal.clone(), now_unix_s, &alive) {
                runs.entry(rank.run.run.clone()).or_default().push(rank);
            }
        }
        let past = Past::of(journals);
        let count = |wanted: fn(&Record) -> bool| {
            past.records
                .values()
                .filter(|record| wanted(record))
                .count()
        };
        let mut runs: Vec<Vec<RankStatus>> = runs.into_values().collect();
        runs.iter_mut()
            .for_each(|ranks| ranks.sort_by_key(|rank| rank.run.rank));
        runs.sort_by(|a, b| a[0].run.unix_s.total_cmp(&b[0].run.unix_s));
        let last = runs.pop();
        runs.retain(|ranks| ranks.iter().any(|rank| rank.state == RankState::Running));
        runs.extend(last);
        Status {
            done: count(|record| matches!(record, Record::Done(_))),
            failed: count(|record| *record == Record::Failed),
            unfinished: count(|record| *record == Record::Begun),
            runs,
            now_unix_s,
        }
    }

    /// The status as text for people: a table a run, then what all runs together have done.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for ranks in &self.runs {
            self.render_run(ranks, &mut text);
        }
        let _ = write!(text, "all runs: {} results recorded as done", self.done);
        for (count, word) in [(self.failed, "failed"), (self.unfinished, "unfinished")] {
            if count > 0 {
                let _ = write!(text, ", {count} {word}");
            }
        }
        text.push('\n');
        text
    }

    fn render_run(&self, ranks: &[RankStatus], text: &mut String) {
        let run = &ranks[0].run;
        let mut table = Table::new();
        table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
        table.set_header([
            "rank", "host", "state", "done", "failed", "running", "images/s", "in hand",
        ]);
        for rank in ranks {
            let ended = rank.done + rank.failed;
            let until = match rank.state {
                RankState::Running => self.now_unix_s,
                _ => rank.last_unix_s,
            };
            table.add_row([
                rank.run.rank.to_string(),
                printable(&rank.run.host),
                self.state(rank),
                rank.done.to_string(),
                rank.failed.to_string(),
                rank.running.len().to_string(),
                rate_text(ended, until - run.unix_s),
                rank.running.first().map_or(String::new(), |(name, begun)| {
                    format!(
                        "{} for {}",
                        printable(&name.display().to_string()),
                        long_duration(self.now_unix_s - begun)
                    )
                }),
            ]);
        }
        for (place, column) in table.column_iter_mut().enumerate() {
            if ![1, 2, 7].contains(&place) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let done: usize = ranks.iter().map(|rank| rank.done).sum();
        let failed: usize = ranks.iter().map(|rank| rank.failed).sum();
        let ended = done + failed;
        let runs = ranks.iter().any(|rank| rank.state == RankState::Running);
        let last_unix_s = ranks
            .iter()
            .map(|rank| rank.last_unix_s)
            .fold(run.unix_s, f64::max);
        let until = if runs { self.now_unix_s } else { last_unix_s };
        let elapsed_s = until - run.unix_s;
        let _ = writeln!(text, "run {}\n{table}", printable(&run.run));
        let _ = write!(
            text,
            "{done} of {} images done, {failed} failed, {} kept from before, in {}: {} images/s",
            run.images,
            run.kept,
            long_duration(elapsed_s),
            rate_text(ended, elapsed_s),
        );
        let left = run.images.saturating_sub(ended);
        if runs && ended > 0 && left > 0 {
            let left_s = left as f64 * elapsed_s / ended as f64;
            let _ = write!(text, ", {} left", long_duration(left_s.ceil()));
        }
        text.push('\n');
        for rank in ranks {
            let how = match rank.state {
                RankState::Quiet(silent_s) => {
                    format!(
                        "has been quiet for {}: killed, or hanging",
                        long_duration(silent_s)
                    )
                }
                RankState::Dead => "has died".to_owned(),
                _ => continue,
            };
            let _ = writeln!(
                text,
                "rank {} on {} {how}; once the job has ended, --resume does the rest",
                rank.run.rank,
                printable(&rank.run.host)
            );
        }
        if ranks.len() < run.ranks {
            let _ = writeln!(text, "{} ranks have no journal", run.ranks - ranks.len());
        }
        text.push('\n');
    }

    fn state(&self, rank: &RankStatus) -> String {
        match rank.state {
            RankState::Running => "running".to_owned(),
            RankState::Quiet(silent_s) => format!("quiet for {}", long_duration(silent_s)),
            RankState::Dead => "dead".to_owned(),
            RankState::Closed(State::Completed) => "completed".to_owned(),
            RankState::Closed(State::Failed) => "ended, some failed".to_owned(),
            RankState::Closed(State::Interrupted) => "interrupted".to_owned(),
        }
    }
}

fn rate_text(count: usize, seconds: f64) -> String {
    format!("{:.1}", count as f64 / seconds.max(1e-3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(rank: usize, lines: &str) -> JournalFile {
        let first = format!(
            r#"{{"event":"run","format":"niimpi-journal/1","unix_s":100.0,"run":"r","version":"0","rank":{rank},"ranks":3,"host":"n{rank}","pid":1,"workers":1,"images":10,"kept":5,"strategy":"size","options":{{}}}}"#
        );
        JournalFile::parse(format!("{first}\n{lines}").as_bytes())
    }

    fn begin(name: &str, unix_s: f64) -> String {
        format!(
            r#"{{"event":"begin","unix_s":{unix_s},"index":1,"worker":0,"input":"/in/{name}","output":"{name}"}}"#
        ) + "\n"
    }

    fn failed(name: &str, unix_s: f64) -> String {
        format!(
            r#"{{"event":"end","unix_s":{unix_s},"index":1,"worker":0,"state":"failed","input":"/in/{name}","output":"{name}","read_s":0.0,"filter_s":0.0,"write_s":0.0,"voxels":0}}"#
        ) + "\n"
    }

    fn done(name: &str, unix_s: f64) -> String {
        failed(name, unix_s).replace(
            r#""state":"failed""#,
            r#""state":"done","input_bytes":1,"input_mtime_ns":1,"output_bytes":1,"raw_bytes":1,"crc32":"00000000""#,
        )
    }

    #[test]
    fn ranks_that_run_are_quiet_or_have_died_are_told_apart() {
        let journals = vec![
            journal(
                0,
                &(begin("a", 100.0) + &done("a", 110.0) + &begin("b", 110.0)),
            ),
            journal(
                1,
                &(begin("c", 100.0) + &failed("c", 105.0) + &begin("d", 105.0)),
            ),
            journal(2, &begin("e", 119.0)),
        ];
        let alive = |run: &RunLine| (run.rank == 2).then_some(false);
        let status = Status::of(journals, 199.0, alive);
        let ranks = &status.runs[0];
        assert_eq!(ranks[0].state, RankState::Running);
        assert_eq!(ranks[0].running, [(PathBuf::from("b"), 110.0)]);
        assert_eq!(ranks[1].state, RankState::Quiet(94.0));
        assert_eq!(ranks[2].state, RankState::Dead);
        assert_eq!((status.done, status.failed, status.unfinished), (1, 1, 3));
        let text = status.render();
        for part in [
            "1 of 10 images done, 1 failed, 5 kept from before, in 1m 39s: 0.0 images/s, 6m 36s left",
            "rank 1 on n1 has been quiet for 1m 34s",
            "rank 2 on n2 has died",
            "b for 1m 29s",
            "all runs: 1 results recorded as done, 1 failed, 3 unfinished",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }

    #[test]
    fn a_rank_that_only_says_that_it_lives_is_not_quiet() {
        let lines = begin("a", 100.0) + "{\"event\":\"alive\",\"unix_s\":190.0}\n";
        let status = Status::of(vec![journal(0, &lines)], 250.0, |_| None);
        assert_eq!(status.runs[0][0].state, RankState::Running);
    }

    #[test]
    fn a_closed_run_has_no_time_left() {
        let lines =
            done("a", 110.0) + "{\"event\":\"close\",\"unix_s\":110.5,\"state\":\"interrupted\"}\n";
        let text = Status::of(vec![journal(0, &lines)], 999.0, |_| Some(false)).render();
        assert!(
            text.contains("interrupted") && !text.contains("left"),
            "{text}"
        );
        assert!(!text.contains("died"), "{text}");
    }

    #[test]
    fn names_are_escaped() {
        let lines = begin("a\\n\\u001b[31m", 100.0);
        let text = Status::of(vec![journal(0, &lines)], 101.0, |_| None).render();
        assert!(text.contains("a\\n\\u{1b}[31m for 1s"), "{text}");
    }
}
