//! The status as readable text: a table for each run, then the totals of all runs.

use std::fmt::Write;

use super::status::{RankState, RankStatus, Status, shard};
use crate::columns::{Cell, Column, Style, Table};
use crate::report::State;
use crate::text::{counted, gaps, long_duration, printable, ranges};

/// A rank with the times for its rates.
struct Row<'a> {
    rank: &'a RankStatus,
    started_unix_s: f64,
    now_unix_s: f64,
}

fn columns<'a>() -> [Column<Row<'a>>; 8] {
    [
        Column::shown("rank", |row| Cell::Count(row.rank.run.rank as u64)),
        Column::shown("host", |row| Cell::Text(row.rank.run.host.clone())),
        Column::shown("state", |row| Cell::Text(state(&row.rank.state))),
        Column::shown("done", |row| Cell::Count(row.rank.done as u64)),
        Column::shown("failed", |row| Cell::Count(row.rank.failed as u64)),
        Column::shown("running", |row| Cell::Count(row.rank.running.len() as u64)),
        Column::shown("images/s", |row| Cell::Number(row.rate(), 1)),
        Column::shown("in progress", |row| Cell::Text(row.in_progress())),
    ]
}

impl Row<'_> {
    fn rate(&self) -> f64 {
        let until = match self.rank.state {
            RankState::Running => self.now_unix_s,
            _ => self.rank.last_unix_s,
        };
        rate(self.rank.done + self.rank.failed, until - self.started_unix_s)
    }

    fn in_progress(&self) -> String {
        let first = self.rank.running.first();
        first.map_or(String::new(), |(name, started)| {
            format!(
                "{} for {}",
                name.display(),
                long_duration(self.now_unix_s - started)
            )
        })
    }
}

/// Totals of the ranks of one run, or of the shards of one list.
#[derive(Default)]
struct Sum {
    images: usize,
    kept: usize,
    done: usize,
    failed: usize,
}

impl Sum {
    fn of<'a>(runs: impl IntoIterator<Item = &'a Vec<RankStatus>>) -> Self {
        let mut sum = Self::default();
        for ranks in runs {
            sum.images += ranks[0].run.images;
            sum.kept += ranks[0].run.kept;
            sum.done += ranks.iter().map(|rank| rank.done).sum::<usize>();
            sum.failed += ranks.iter().map(|rank| rank.failed).sum::<usize>();
        }
        sum
    }

    fn ended(&self) -> usize {
        self.done + self.failed
    }
}

fn is_running(ranks: &[RankStatus]) -> bool {
    ranks.iter().any(|rank| rank.state == RankState::Running)
}

impl Status {
    /// The status as readable text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for ranks in &self.runs {
            self.render_run(ranks, &mut text);
        }
        self.render_shares(&mut text);
        let _ = write!(text, "all runs: {} results recorded as done", self.done);
        for (count, word) in [(self.failed, "failed"), (self.unfinished, "unfinished")] {
            if count > 0 {
                let _ = write!(text, ", {count} {word}");
            }
        }
        text.push('\n');
        text
    }

    fn render_run(&self, ranks: &Vec<RankStatus>, text: &mut String) {
        let run = &ranks[0].run;
        let rows = ranks.iter().map(|rank| Row {
            rank,
            started_unix_s: run.unix_s,
            now_unix_s: self.now_unix_s,
        });
        let rows: Vec<Row<'_>> = rows.collect();
        let _ = write!(text, "run {}", printable(&run.run));
        if let Some((number, count)) = shard(run) {
            let _ = write!(text, ", shard {number} of {count}");
        }
        if let Some(job) = &run.slurm_job {
            let _ = write!(text, ", job {}", printable(job));
        }
        let _ = write!(text, "\n{}", Table::of(&columns(), &rows).draw(Style::Terminal));
        let sum = Sum::of([ranks]);
        let last = ranks
            .iter()
            .map(|rank| rank.last_unix_s)
            .fold(run.unix_s, f64::max);
        let until = if is_running(ranks) { self.now_unix_s } else { last };
        let elapsed_s = until - run.unix_s;
        let _ = write!(
            text,
            "{} of {} images done, {} failed, {} kept from before, in {}: {:.1} images/s",
            sum.done,
            run.images,
            sum.failed,
            run.kept,
            long_duration(elapsed_s),
            rate(sum.ended(), elapsed_s),
        );
        let left = run.images.saturating_sub(sum.ended());
        if is_running(ranks) && sum.ended() > 0 && left > 0 {
            let left_s = left as f64 * elapsed_s / sum.ended() as f64;
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

    /// Totals of the shards of one list, if the runs have shards.
    fn render_shares(&self, text: &mut String) {
        let shards = || {
            self.runs
                .iter()
                .filter_map(|ranks| Some((shard(&ranks[0].run)?, ranks)))
        };
        let Some(((_, count), _)) = shards().next_back() else {
            return;
        };
        let sum = Sum::of(shards().map(|(_, ranks)| ranks));
        let running = shards().filter(|(_, ranks)| is_running(ranks)).count();
        let _ = write!(
            text,
            "{}: {} running, {} ended; {} of {} images done, {} failed, {} kept from before",
            counted(count, "shard"),
            running,
            shards().count() - running,
            sum.done,
            sum.images,
            sum.failed,
            sum.kept,
        );
        let missing = gaps(shards().map(|((number, _), _)| number), count);
        if !missing.is_empty() {
            let _ = write!(text, "; not started: {}", ranges(&missing));
        }
        text.push('\n');
    }
}

fn state(state: &RankState) -> String {
    match state {
        RankState::Running => "running".to_owned(),
        RankState::Quiet(silent_s) => format!("quiet for {}", long_duration(*silent_s)),
        RankState::Dead => "dead".to_owned(),
        RankState::Closed(State::Completed) => "completed".to_owned(),
        RankState::Closed(State::Failed) => "ended, some failed".to_owned(),
        RankState::Closed(State::Interrupted) => "interrupted".to_owned(),
    }
}

fn rate(count: usize, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-3)
}
