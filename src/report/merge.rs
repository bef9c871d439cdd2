//! Merging: combines the reports of several runs over one list (tasks of an array, runs of a requeued job)
//! into the report of one run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{ImageRow, Journals, Launch, RankRow, Report, SCHEMA, SCHEMA_1, Shards, State, Status, Totals};
use crate::job::outcome::{End, Reason};
use crate::slurm::Job;
use crate::text::{self, counted};

/// A report and its file.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The file, for messages.
    pub(crate) path: PathBuf,
    pub(crate) report: Report,
}

/// Reads a report, with its file for messages.
pub(crate) fn read(path: &Path) -> Result<Source, String> {
    Ok(Source {
        path: path.to_owned(),
        report: super::read(path)?,
    })
}

/// Joins reports into one.
///
/// - Ranks are numbered consecutively, in the order of shards, then of start times. Their values do not
///   change, except `start_s`, which becomes that of their run.
/// - The merged run starts with the first and ends with the last of the runs; `start_s` of images counts from
///   that start.
/// - An image that occurs in several runs (one interrupted, another resumed) counts once: done before failed
///   before skipped.
/// - Totals are recomputed from ranks and images, as for one run.
/// - The state is "interrupted" if shards are missing, the list has gaps or images were not processed, and
///   "failed" if images failed.
///
/// # Errors
/// If the reports belong to different work or lists or to the same run, or if there is none.
pub(crate) fn merge(mut sources: Vec<Source>) -> Result<Report, String> {
    sources.sort_by_key(|source| {
        let shard = source.report.shard.as_ref();
        let number = shard.and_then(|shards| shards.numbers.first().copied());
        (number.unwrap_or(0), began(&source.report))
    });
    one_work(&sources)?;
    each_run_once(&sources)?;
    let first = &sources.first().ok_or("there is no report to merge")?.report;
    let start = sources.iter().map(|source| began(&source.report)).min();
    let start = start.unwrap_or(SystemTime::UNIX_EPOCH);
    let after_start_s = |report: &Report| {
        let since = began(report).duration_since(start);
        since.unwrap_or(Duration::ZERO).as_secs_f64()
    };
    let ends = sources
        .iter()
        .map(|source| after_start_s(&source.report) + source.report.elapsed_s);
    let elapsed_s = ends.fold(0.0, f64::max);
    let old = sources.iter().any(|source| source.report.schema == SCHEMA_1);
    let mut merged = Report {
        schema: if old { SCHEMA_1 } else { SCHEMA }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: first.command.clone(),
        state: State::Completed,
        started: humantime::format_rfc3339_millis(start).to_string(),
        elapsed_s,
        launch: merged_launch(&sources, first),
        filter: first.filter.clone(),
        options: first.options.clone(),
        strategy: first.strategy,
        shard: merged_shards(&sources),
        resume: None,
        // Shards of one list have the same unreadable folders.
        unreadable_folders: sources
            .iter()
            .map(|source| source.report.unreadable_folders)
            .max()
            .unwrap_or(0),
        journals: joined_journals(&sources),
        totals: Totals::default(),
        ranks: Vec::new(),
        images: Vec::new(),
    };
    let mut images = Images::default();
    for Source { path, report } in sources {
        let (first_rank, offset_s) = (merged.ranks.len(), after_start_s(&report));
        let ranks = report.ranks.into_iter().map(|rank| RankRow {
            rank: first_rank + rank.rank,
            start_s: rank.start_s + offset_s,
            ..rank
        });
        merged.ranks.extend(ranks);
        images.paths.push(path);
        for mut row in report.images {
            row.rank += first_rank;
            row.shared.iter_mut().for_each(|sharer| sharer.rank += first_rank);
            row.start_s += offset_s;
            row.end_s = row.end_s.map(|end_s| end_s + offset_s);
            let settled = match report.state {
                State::Completed => true,
                State::Interrupted => false,
                // Of a run that stopped because of a full disk. Reports of version 1 have no reasons.
                State::Failed => report.schema == SCHEMA_1 || row.end != End::Skipped(Reason::NotStarted),
            };
            images.add(row, settled)?;
        }
    }
    let left_over = images.left_over();
    merged.images = images.found.into_values().map(|found| found.row).collect();
    merged.totals = Totals::new(&merged.ranks, &merged.images, elapsed_s);
    let missing = |shards: &Shards| !shards.missing().is_empty();
    merged.state =
        if left_over || merged.shard.as_ref().is_some_and(missing) || !gaps(&merged.images).is_empty() {
            State::Interrupted
        } else if merged.totals.failed > 0 || merged.unreadable_folders > 0 {
            State::Failed
        } else {
            State::Completed
        };
    Ok(merged)
}

/// The images of the reports so far, by index.
#[derive(Default)]
struct Images {
    found: BTreeMap<usize, Found>,
    /// The files of the reports so far.
    paths: Vec<PathBuf>,
}

struct Found {
    row: ImageRow,
    /// Whether a run that was not stopped has processed it: if such a run skipped it, its result existed.
    settled: bool,
    /// Its report, as an index into `paths`.
    source: usize,
}

impl Images {
    /// Adds an image of the last report. `settled`: see [`Found`].
    fn add(&mut self, row: ImageRow, settled: bool) -> Result<(), String> {
        let source = self.paths.len() - 1;
        let Some(found) = self.found.get_mut(&row.index) else {
            self.found.insert(row.index, Found { row, settled, source });
            return Ok(());
        };
        if found.row.input != row.input {
            return Err(format!(
                "{} and {} are not of one list: its image {} is {} in one and {} in the other",
                self.paths[found.source].display(),
                self.paths[source].display(),
                row.index,
                found.row.input,
                row.input,
            ));
        }
        found.settled |= settled;
        let rank = |end: &End| match end {
            End::Done(_) => 3,
            End::Failed(_) => 2,
            End::Skipped(Reason::Kept) => 1,
            End::Skipped(Reason::NotStarted) => 0,
        };
        if rank(&row.end) >= rank(&found.row.end) {
            found.row = row;
            found.source = source;
        }
        Ok(())
    }

    /// Whether there are images that no run processed and no settled run kept.
    fn left_over(&self) -> bool {
        let mut found = self.found.values();
        found.any(|found| found.row.status() == Status::Skipped && !found.settled)
    }
}

/// Whether a report contains the runs of another, as far as their names are known.
pub(crate) fn contains(report: &Report, other: &Report) -> bool {
    let runs = report.journals.as_ref().zip(other.journals.as_ref());
    runs.is_some_and(|(all, own)| own.runs.iter().all(|run| all.runs.contains(run)))
}

fn began(report: &Report) -> SystemTime {
    humantime::parse_rfc3339(&report.started).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn merged_shards(sources: &[Source]) -> Option<Shards> {
    let shards = || sources.iter().filter_map(|source| source.report.shard.as_ref());
    let numbers: BTreeSet<usize> = shards()
        .flat_map(|shards| shards.numbers.iter().copied())
        .collect();
    Some(Shards {
        count: shards().next()?.count,
        numbers: numbers.into_iter().collect(),
    })
}

fn merged_launch(sources: &[Source], first: &Report) -> Launch {
    let launches = || sources.iter().map(|source| &source.report.launch);
    let mut nodes: Vec<String> = Vec::new();
    for node in launches().flat_map(|launch| &launch.nodes) {
        if !nodes.contains(node) {
            nodes.push(node.clone());
        }
    }
    // Runs on one node can have used the same CPUs. Only CPUs of different nodes are summed.
    let apart = launches().map(|launch| launch.nodes.len()).sum::<usize>() == nodes.len();
    let cpus: Option<Vec<usize>> = launches().map(|launch| launch.cpus).collect();
    Launch {
        ranks: sources.iter().map(|source| source.report.ranks.len()).sum(),
        threads_per_rank: launches()
            .map(|launch| launch.threads_per_rank)
            .max()
            .unwrap_or(0),
        nodes,
        cpus: cpus
            .filter(|_| apart || sources.len() == 1)
            .map(|cpus| cpus.iter().sum()),
        slurm: common_job(sources),
        ..first.launch.clone()
    }
}

/// How two reports of different work differ.
fn difference(one: &Report, other: &Report) -> Option<&'static str> {
    let count = |report: &Report| report.shard.as_ref().map(|shards| shards.count);
    let folder = |report: &Report| report.journals.as_ref().map(|journals| journals.folder.clone());
    let known = !one.options.is_null() && !other.options.is_null();
    if one.filter != other.filter || (known && one.options != other.options) {
        Some("the filter's options differ")
    } else if count(one) != count(other) {
        Some("the number of shards differs")
    } else if count(one).is_some() && one.strategy != other.strategy {
        Some("the strategy differs, and with it the shards")
    } else if folder(one)
        .zip(folder(other))
        .is_some_and(|(one, other)| one != other)
    {
        Some("the output folder differs")
    } else {
        None
    }
}

/// Refuses reports of different work and lists which belong together.
fn one_work(sources: &[Source]) -> Result<(), String> {
    let mut groups: Vec<Vec<&Source>> = Vec::new();
    let mut what = None;
    for source in sources {
        let differs = |group: &Vec<&Source>| difference(&group[0].report, &source.report);
        match groups.iter().position(|group| differs(group).is_none()) {
            Some(place) => groups[place].push(source),
            None => {
                what = what.or(groups.first().and_then(differs));
                groups.push(vec![source]);
            }
        }
    }
    what.map_or(Ok(()), |what| {
        let groups: String = groups.iter().map(|group| group_line(group)).collect();
        Err(format!(
            "the reports belong to different work ({what}):{groups}\n  merge each group separately"
        ))
    })
}

fn group_line(group: &[&Source]) -> String {
    let report = &group[0].report;
    let mut line = format!(
        "\n  {}, such as {}",
        counted(group.len(), "report"),
        group[0].path.display()
    );
    if let Some(job) = &report.launch.slurm {
        line += &match &job.array_job_id {
            Some(array) => format!(", of array job {array}"),
            None => format!(", of job {}", job.job_id),
        };
    }
    if let Some(journals) = &report.journals {
        let folder = Path::new(&journals.folder);
        line += &format!(
            ", with results in {}",
            folder.parent().unwrap_or(folder).display()
        );
    }
    line
}

/// Refuses reports of the same run, identified by the run's name or, if a report has none, by its whole
/// content.
fn each_run_once(sources: &[Source]) -> Result<(), String> {
    let twice = |first: &Source, second: &Source| {
        format!(
            "{} and {} hold the same run, whose ranks would be counted twice; leave one of them out",
            first.path.display(),
            second.path.display()
        )
    };
    let mut by_name: HashMap<&str, &Source> = HashMap::new();
    let mut by_start: HashMap<&str, Vec<&Source>> = HashMap::new();
    for source in sources {
        let report = &source.report;
        let runs = report.journals.as_ref().map_or(&[][..], |all| &all.runs);
        for run in runs {
            if let Some(first) = by_name.insert(run, source) {
                return Err(twice(first, source));
            }
        }
        let others = by_start.entry(&report.started).or_default();
        let same = others.iter().find(|other| {
            let other = &other.report;
            other.command == report.command
                && other.shard == report.shard
                && other.ranks == report.ranks
                && other.images == report.images
        });
        if let Some(first) = same {
            return Err(twice(first, source));
        }
        others.push(source);
    }
    Ok(())
}

/// The indices from 1 to the last known one without an image in a report, as ranges of first and last. A run
/// over the whole list, or all its shards together, has none.
pub(crate) fn gaps(images: &[ImageRow]) -> Vec<(usize, usize)> {
    text::gaps(images.iter().map(|image| image.index), 0)
}

/// The journals of all runs, which are in one folder.
fn joined_journals(sources: &[Source]) -> Option<Journals> {
    let all = || {
        sources
            .iter()
            .filter_map(|source| source.report.journals.as_ref())
    };
    Some(Journals {
        folder: all().next()?.folder.clone(),
        runs: all().flat_map(|journals| journals.runs.iter().cloned()).collect(),
    })
}

/// The job that all runs belong to: the same job, or the same array. `None` if there is no common job.
fn common_job(sources: &[Source]) -> Option<Job> {
    let whole = |job: &Job| job.array_job_id.clone().unwrap_or_else(|| job.job_id.clone());
    let first = sources.first()?.report.launch.slurm.as_ref()?;
    let common = sources.iter().all(|source| {
        let job = source.report.launch.slurm.as_ref();
        job.is_some_and(|job| whole(job) == whole(first))
    });
    common.then(|| Job {
        job_id: whole(first),
        array_task_id: None,
        step_id: None,
        ..first.clone()
    })
}

#[cfg(test)]
mod tests;
