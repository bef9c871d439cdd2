//! Status: the progress of the runs below an output folder, from their journals only, during or after the
//! runs.

use std::collections::{BTreeMap, HashMap};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::past::{self, Chapter, Last, Past};
use super::{Line, RunLine, unix_s};
use crate::job::outcome::Status as Ended;
use crate::process;
use crate::report::State;

/// A live rank writes a line every half minute; after this time without one it counts as quiet.
const QUIET_AFTER_S: f64 = 90.0;

/// The state of a rank.
#[derive(Clone, Debug, PartialEq)]
pub enum RankState {
    /// It has written a line recently.
    Running,
    /// It has not written for this many seconds: it was killed, or hangs.
    Quiet(f64),
    /// Its process has ended without a last line.
    Dead,
    /// It ended normally.
    Closed(State),
}

/// One rank of a run.
#[derive(Clone, Debug)]
pub struct RankStatus {
    /// Its first line.
    pub run: RunLine,
    /// Images that it has done.
    pub done: usize,
    pub failed: usize,
    /// Images in progress: their names, and when they started, seconds since 1970.
    pub running: Vec<(PathBuf, f64)>,
    /// When it wrote its last line, seconds since 1970.
    pub last_unix_s: f64,
    pub state: RankState,
}

/// A rank's status while its journal is read.
#[derive(Default)]
struct Progress {
    done: usize,
    failed: usize,
    /// Images in progress by their index: their names, and when they were started.
    running: HashMap<usize, (PathBuf, f64)>,
    last_unix_s: f64,
    closed: Option<State>,
}

impl Progress {
    fn take(&mut self, line: &Line) {
        let unix_s = match line {
            Line::Begin(begin) => {
                let image = (begin.output.clone(), begin.unix_s);
                self.running.insert(begin.index, image);
                begin.unix_s
            }
            Line::Staged(staged) => staged.unix_s,
            Line::Sharing(sharing) => {
                match sharing.ends {
                    true => self.running.remove(&sharing.index),
                    false => self
                        .running
                        .insert(sharing.index, (sharing.output.clone(), sharing.unix_s)),
                };
                sharing.unix_s
            }
            Line::End(end) => {
                self.running.remove(&end.outcome.index);
                match end.outcome.status() {
                    Ended::Done => self.done += 1,
                    Ended::Failed => self.failed += 1,
                    Ended::Skipped => {}
                }
                end.unix_s
            }
            Line::Alive { unix_s } => *unix_s,
            Line::Sample(sample) => sample.unix_s,
            Line::Close { unix_s, state } => {
                self.closed = Some(*state);
                *unix_s
            }
            Line::Run(_) | Line::Unknown => return,
        };
        self.last_unix_s = self.last_unix_s.max(unix_s);
    }

    /// The status at the time `now_unix_s`. `alive` returns whether a process of this host is alive, if that
    /// can be determined.
    fn status(self, run: RunLine, now_unix_s: f64, alive: impl Fn(&RunLine) -> Option<bool>) -> RankStatus {
        let last_unix_s = self.last_unix_s.max(run.unix_s);
        let silent_s = now_unix_s - last_unix_s;
        let mut running: Vec<_> = self.running.into_values().collect();
        running.sort_by(|a, b| a.1.total_cmp(&b.1));
        RankStatus {
            done: self.done,
            failed: self.failed,
            running,
            last_unix_s,
            state: match self.closed {
                Some(state) => RankState::Closed(state),
                None if alive(&run) == Some(false) => RankState::Dead,
                None if silent_s > QUIET_AFTER_S => RankState::Quiet(silent_s),
                None => RankState::Running,
            },
            run,
        }
    }
}

/// Reads a journal once, for the rank's state and the records of results.
fn read(journal: impl BufRead) -> std::io::Result<(Progress, Chapter)> {
    let mut progress = Progress::default();
    let chapter = Chapter::read(journal, |_run, line| progress.take(line))?;
    Ok((progress, chapter))
}

/// Whether a rank's process is alive, if that can be determined here. Host names alone do not tell, because
/// containers and cloned machines share them; journals of early versions have nothing else.
fn lives(run: &RunLine) -> Option<bool> {
    match &run.process {
        Some(process) => process.lives(run.pid),
        None if run.host == crate::resources::host_name() => Some(process::lives(run.pid as i32)),
        None => None,
    }
}

/// Runs and results below an output folder.
#[derive(Debug)]
pub struct Status {
    /// Results that are recorded as written, over all runs.
    pub done: usize,
    /// Images whose last record is a failure.
    pub failed: usize,
    /// Images that were started but have no later record.
    pub unfinished: usize,
    /// The last run, earlier runs that are still in progress, and the last run of each other shard; ranks in
    /// order.
    pub runs: Vec<Vec<RankStatus>>,
    pub(super) now_unix_s: f64,
}

impl Status {
    /// Reads the journals below an output folder.
    pub fn load(output: &Path) -> std::io::Result<Self> {
        let threads = crate::resources::available_cpus();
        let journals = past::read_each(&past::journal_paths(output)?, threads, read)?;
        Ok(Self::of(journals, unix_s(SystemTime::now()), lives))
    }

    /// The status from journals with these bytes at the time `now_unix_s`.
    pub fn of_bytes<'a>(
        journals: impl IntoIterator<Item = &'a [u8]>,
        now_unix_s: f64,
        alive: impl Fn(&RunLine) -> Option<bool>,
    ) -> Self {
        let read = |bytes| read(bytes).unwrap_or_default();
        Self::of(journals.into_iter().map(read).collect(), now_unix_s, alive)
    }

    fn of(
        journals: Vec<(Progress, Chapter)>,
        now_unix_s: f64,
        alive: impl Fn(&RunLine) -> Option<bool>,
    ) -> Self {
        let mut runs: BTreeMap<String, Vec<RankStatus>> = BTreeMap::new();
        let mut chapters = Vec::new();
        for (progress, chapter) in journals {
            if let Some(run) = &chapter.head.run {
                let rank = progress.status(run.clone(), now_unix_s, &alive);
                runs.entry(rank.run.run.clone()).or_default().push(rank);
            }
            chapters.push(chapter);
        }
        let past = Past::of(chapters);
        let count = |wanted: &[Last]| {
            let all = past.records.values();
            all.filter(|history| wanted.contains(&history.last)).count()
        };
        let mut runs: Vec<Vec<RankStatus>> = runs.into_values().collect();
        runs.iter_mut()
            .for_each(|ranks| ranks.sort_by_key(|rank| rank.run.rank));
        runs.sort_by(|a, b| a[0].run.unix_s.total_cmp(&b[0].run.unix_s));
        let runs = to_show(runs);
        Status {
            done: count(&[Last::Done]),
            failed: count(&[Last::Failed]),
            unfinished: count(&[Last::Started, Last::Staged]),
            runs,
            now_unix_s,
        }
    }
}

/// The number and the count of a run's shard of the list.
pub(super) fn shard(run: &RunLine) -> Option<(usize, usize)> {
    let (number, count) = run.shard.as_ref()?.split_once('/')?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

/// The runs to show, from all runs in order of their start: the last one, those in progress, and, if the last
/// one has a shard of the list, the last run of each other shard.
fn to_show(mut runs: Vec<Vec<RankStatus>>) -> Vec<Vec<RankStatus>> {
    let last = runs
        .last()
        .map(|ranks| (ranks[0].run.run.clone(), shard(&ranks[0].run)));
    let Some((last, last_share)) = last else {
        return runs;
    };
    let mut latest = BTreeMap::new();
    for ranks in &runs {
        if let Some((number, count)) = shard(&ranks[0].run)
            && last_share.is_some_and(|(_, wanted)| wanted == count)
        {
            latest.insert(number, ranks[0].run.run.clone());
        }
    }
    runs.retain(|ranks| {
        let name = &ranks[0].run.run;
        let runs = ranks.iter().any(|rank| rank.state == RankState::Running);
        runs || *name == last || latest.values().any(|latest| latest == name)
    });
    runs.sort_by_key(|ranks| shard(&ranks[0].run).map_or(0, |(number, _)| number));
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(rank: usize, lines: &str) -> String {
        let first = format!(
            r#"{{"event":"run","format":"niimpi-journal/1","unix_s":100.0,"run":"r","version":"0",
"rank":{rank},"ranks":3,"host":"n{rank}","pid":1,"workers":1,"images":10,"kept":5,
"strategy":"size","options":{{}}}}"#
        )
        .replace('\n', "");
        format!("{first}\n{lines}")
    }

    fn status(journals: &[String], now_unix_s: f64, alive: impl Fn(&RunLine) -> Option<bool>) -> Status {
        Status::of_bytes(journals.iter().map(String::as_bytes), now_unix_s, alive)
    }

    fn begin(name: &str, unix_s: f64) -> String {
        format!(
            r#"{{"event":"begin","unix_s":{unix_s},"index":1,"worker":0,"input":"/in/{name}",
"output":"{name}"}}"#
        )
        .replace('\n', "")
            + "\n"
    }

    fn failed(name: &str, unix_s: f64) -> String {
        format!(
            r#"{{"event":"end","unix_s":{unix_s},"index":1,"worker":0,"state":"failed",
"input":"/in/{name}","output":"{name}","read_s":0.0,"filter_s":0.0,"write_s":0.0,
"voxels":0}}"#
        )
        .replace('\n', "")
            + "\n"
    }

    fn done(name: &str, unix_s: f64) -> String {
        failed(name, unix_s).replace(
            r#""state":"failed""#,
            concat!(
                r#""state":"done","input_bytes":1,"input_mtime_ns":1,"output_bytes":1,"raw_bytes":1,"#,
                r#""crc32":"00000000""#
            ),
        )
    }

    #[test]
    fn ranks_that_run_are_quiet_or_have_died_are_told_apart() {
        let journals = vec![
            journal(0, &(begin("a", 100.0) + &done("a", 110.0) + &begin("b", 110.0))),
            journal(1, &(begin("c", 100.0) + &failed("c", 105.0) + &begin("d", 105.0))),
            journal(2, &begin("e", 119.0)),
        ];
        let alive = |run: &RunLine| (run.rank == 2).then_some(false);
        let status = status(&journals, 199.0, alive);
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
    fn a_process_of_another_namespace_has_not_died_here() {
        let own = process::ProcessId::current().unwrap();
        let mut first = journal(0, "").replace("journal/1", "journal/2");
        let host = crate::resources::host_name();
        first = first.replace("\"n0\"", &serde_json::to_string(&host).unwrap());
        let state = |process: &str| {
            let with = format!("\"pid\":4194305,{process}");
            let status = status(&[first.replace("\"pid\":1,", &with)], 101.0, lives);
            status.runs[0][0].state.clone()
        };
        assert_eq!(state(""), RankState::Dead, "this host has no such process");
        let recorded = |process| format!("\"process\":{},", serde_json::to_string(&process).unwrap());
        assert_eq!(state(&recorded(own.clone())), RankState::Dead);
        let pid_namespace = own.pid_namespace + 1;
        let contained = process::ProcessId { pid_namespace, ..own };
        assert_eq!(state(&recorded(contained)), RankState::Running);
    }

    #[test]
    fn the_shares_of_an_array_have_their_jobs_and_a_sum() {
        let task = |run: &str, number: usize, lines: &str| {
            let first = format!(
                r#"{{"event":"run","format":"niimpi-journal/2","unix_s":100.0,"run":"{run}","version":"0",
"rank":0,"ranks":1,"host":"n","pid":1,"workers":1,"images":10,"kept":5,"strategy":"size",
"slurm_job":"471{number}","shard":"{number}/5","options":{{}}}}"#
            )
            .replace('\n', "");
            format!("{first}\n{lines}")
        };
        let close = "{\"event\":\"close\",\"unix_s\":150.0,\"state\":\"completed\"}\n";
        let journals = vec![
            task("r1", 1, &(done("a", 110.0) + close)),
            task("r2", 2, &begin("b", 180.0)),
            task("r3", 2, &begin("b", 190.0)),
            task("r4", 4, &(failed("c", 110.0) + close)),
        ];
        let text = status(&journals, 199.0, |_| None).render();
        assert!(text.contains("run r1, shard 1 of 5, job 4711"), "{text}");
        assert!(text.contains("run r4, shard 4 of 5, job 4714"), "{text}");
        let sum = "5 shards: 2 running, 2 ended; 1 of 40 images done, 1 failed, 20 kept from before; \
                   not started: 3, 5\n";
        assert!(text.contains(sum), "{text}");
    }

    #[test]
    fn a_rank_that_only_says_that_it_lives_is_not_quiet() {
        let lines = begin("a", 100.0) + "{\"event\":\"alive\",\"unix_s\":190.0}\n";
        let status = status(&[journal(0, &lines)], 250.0, |_| None);
        assert_eq!(status.runs[0][0].state, RankState::Running);
    }

    #[test]
    fn a_rank_that_shares_an_image_has_it_in_progress() {
        let sharing = |index: usize, ends: bool| {
            let image = format!(r#""index":{index},"output":"{index}.nii","ends":{ends}"#);
            format!("{{\"event\":\"sharing\",\"unix_s\":120.0,{image}}}\n")
        };
        let journals = vec![
            journal(0, &begin("1.nii", 120.0)),
            journal(1, &(sharing(2, false) + &sharing(2, true) + &sharing(1, false))),
        ];
        let status = status(&journals, 130.0, |_| None);
        for rank in &status.runs[0] {
            assert_eq!(rank.running, [(PathBuf::from("1.nii"), 120.0)]);
        }
        assert_eq!((status.done, status.failed, status.unfinished), (0, 0, 1));
    }

    #[test]
    fn a_closed_run_has_no_time_left() {
        let lines = done("a", 110.0) + "{\"event\":\"close\",\"unix_s\":110.5,\"state\":\"interrupted\"}\n";
        let text = status(&[journal(0, &lines)], 999.0, |_| Some(false)).render();
        assert!(text.contains("interrupted") && !text.contains("left"), "{text}");
        assert!(!text.contains("died"), "{text}");
    }

    #[test]
    fn names_are_escaped() {
        let lines = begin("a\\n\\u001b[31m", 100.0);
        let text = status(&[journal(0, &lines)], 101.0, |_| None).render();
        assert!(text.contains("a\\n\\u{1b}[31m for 1s"), "{text}");
    }
}
