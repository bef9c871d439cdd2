//! Merging: the reports of several runs over one list (the tasks of an array, the runs of a requeued job) become one, as
//! if one run had done it all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::{ImageRow, Journals, RankRow, Report, SCHEMA, Shares, State, Status, Totals};
use crate::slurm::Job;

/// Why reports cannot be read or do not belong together.
#[derive(Debug, Error)]
pub enum MergeError {
    /// There is none.
    #[error("there is no report to merge")]
    Nothing,
    /// A file that is no report.
    #[error(transparent)]
    Unreadable(#[from] super::ReadError),
    /// Two reports of runs that did not do the same thing.
    #[error(
        "{first} and {second} are not of one piece of work: {what} differs; merge reports of the same command alone"
    )]
    Different {
        /// A report.
        first: PathBuf,
        /// The one that disagrees with it.
        second: PathBuf,
        /// In what.
        what: &'static str,
    },
    /// Two reports of the same run.
    #[error(
        "{first} and {second} hold the same run, whose ranks would be counted twice; leave one of the two out"
    )]
    Twice {
        /// A report.
        first: PathBuf,
        /// The one that holds the same run.
        second: PathBuf,
    },
    /// Two reports that have another image in the same place.
    #[error(
        "{first} and {second} are not of one list: its image {index} is {first_input} in one and {second_input} in the other"
    )]
    OtherList {
        /// A report.
        first: PathBuf,
        /// The one that disagrees with it.
        second: PathBuf,
        /// The image's place in the list.
        index: usize,
        /// The image there according to the first.
        first_input: String,
        /// The image there according to the second.
        second_input: String,
    },
}

/// A report and the file that it came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file, for messages.
    pub path: PathBuf,
    /// What it says.
    pub report: Report,
}

/// Reads a report, with its file for messages.
///
/// # Errors
/// When the file cannot be read or is no report.
pub fn read(path: &Path) -> Result<Source, MergeError> {
    Ok(Source {
        path: path.to_owned(),
        report: super::read(path)?,
    })
}

/// Joins reports into one.
///
/// - Ranks are numbered through, in the order of shares and then of starting times. A rank's own figures stay as they are.
/// - The run began with the first and ended with the last of the runs; `start_s` of images counts from that beginning.
/// - An image that several runs had (one was interrupted, another resumed) counts once: done before failed before skipped.
/// - Totals are computed anew from ranks and images, as for one run.
/// - The state is "interrupted" when shares are missing, the list has gaps or images are left over, "failed" when images
///   failed.
///
/// # Errors
/// When the reports are of different work or lists or of the same run, or there is none.
pub fn merge(mut sources: Vec<Source>) -> Result<Report, MergeError> {
    let began = |source: &Source| began(&source.report);
    sources.sort_by_key(|source| {
        let share = source.report.shard.as_ref();
        let number = share.and_then(|shares| shares.numbers.first().copied());
        (number.unwrap_or(0), began(source))
    });
    let first = sources.first().ok_or(MergeError::Nothing)?;
    for other in &sources[1..] {
        same_work(first, other)?;
    }
    each_run_once(&sources)?;
    let shard = first.report.shard.as_ref().map(|shares| {
        let numbers: BTreeSet<usize> = sources
            .iter()
            .filter_map(|source| source.report.shard.as_ref())
            .flat_map(|shares| shares.numbers.iter().copied())
            .collect();
        Shares {
            numbers: numbers.into_iter().collect(),
            count: shares.count,
        }
    });
    let start = sources
        .iter()
        .map(began)
        .min()
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let after_start_s = |source: &Source| {
        let since = began(source).duration_since(start);
        since.unwrap_or(Duration::ZERO).as_secs_f64()
    };
    let elapsed_s = sources
        .iter()
        .map(|source| after_start_s(source) + source.report.elapsed_s)
        .fold(0.0, f64::max);

    let mut ranks: Vec<RankRow> = Vec::new();
    let mut images: BTreeMap<usize, Found> = BTreeMap::new();
    for source in &sources {
        let (first_rank, offset_s) = (ranks.len(), after_start_s(source));
        ranks.extend(source.report.ranks.iter().map(|rank| RankRow {
            rank: first_rank + rank.rank,
            ..rank.clone()
        }));
        let whole = source.report.state != State::Interrupted;
        for image in &source.report.images {
            let mut row = image.clone();
            row.rank += first_rank;
            row.start_s += offset_s;
            add_image(&mut images, row, whole, source)?;
        }
    }
    let left_over = images
        .values()
        .any(|found| found.row.status() == Status::Skipped && !found.settled);
    let images: Vec<ImageRow> = images.into_values().map(|found| found.row).collect();
    let totals = Totals::new(&ranks, &images, elapsed_s);
    let missing = shard
        .as_ref()
        .is_some_and(|shares| !shares.missing().is_empty());
    let state = if missing || left_over || !gaps(&images).is_empty() {
        State::Interrupted
    } else if totals.failed > 0 {
        State::Failed
    } else {
        State::Completed
    };
    let mut launch = first.report.launch.clone();
    launch.ranks = ranks.len();
    launch.threads_per_rank = sources
        .iter()
        .map(|source| source.report.launch.threads_per_rank)
        .max()
        .unwrap_or(0);
    launch.nodes.clear();
    for node in sources
        .iter()
        .flat_map(|source| &source.report.launch.nodes)
    {
        if !launch.nodes.contains(node) {
            launch.nodes.push(node.clone());
        }
    }
    launch.slurm = common_job(&sources);
    Ok(Report {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: first.report.command.clone(),
        state,
        started: humantime::format_rfc3339_millis(start).to_string(),
        elapsed_s,
        launch,
        filter: first.report.filter.clone(),
        options: first.report.options.clone(),
        strategy: first.report.strategy,
        shard,
        resume: None,
        journals: joined_journals(&sources),
        totals,
        ranks,
        images,
    })
}

/// An image as the reports so far know it.
struct Found<'a> {
    row: ImageRow,
    /// Whether a run that came to its end has looked at it: if that run skipped it, its result was there.
    settled: bool,
    source: &'a Source,
}

fn add_image<'a>(
    images: &mut BTreeMap<usize, Found<'a>>,
    row: ImageRow,
    settled: bool,
    source: &'a Source,
) -> Result<(), MergeError> {
    let Some(found) = images.get_mut(&row.index) else {
        let index = row.index;
        images.insert(
            index,
            Found {
                row,
                settled,
                source,
            },
        );
        return Ok(());
    };
    if found.row.input != row.input {
        return Err(MergeError::OtherList {
            first: found.source.path.clone(),
            second: source.path.clone(),
            index: row.index,
            first_input: found.row.input.clone(),
            second_input: row.input,
        });
    }
    found.settled |= settled;
    let rank = |status| match status {
        Status::Done => 2,
        Status::Failed => 1,
        Status::Skipped => 0,
    };
    if rank(row.status()) >= rank(found.row.status()) {
        found.row = row;
        found.source = source;
    }
    Ok(())
}

fn began(report: &Report) -> SystemTime {
    humantime::parse_rfc3339(&report.started).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn same_work(first: &Source, second: &Source) -> Result<(), MergeError> {
    let (one, other) = (&first.report, &second.report);
    let counts = |report: &Report| report.shard.as_ref().map(|shares| shares.count);
    let what = if one.filter != other.filter {
        "the filter"
    } else if counts(one) != counts(other) {
        "the number of shares"
    } else if counts(one).is_some() && one.strategy != other.strategy {
        "the strategy, by which shares are made,"
    } else {
        return Ok(());
    };
    Err(MergeError::Different {
        first: first.path.clone(),
        second: second.path.clone(),
        what,
    })
}

/// Refuses reports that hold the same run, by the run's own name and, where a report has none, by all that it says.
fn each_run_once(sources: &[Source]) -> Result<(), MergeError> {
    let twice = |first: &Source, second: &Source| MergeError::Twice {
        first: first.path.clone(),
        second: second.path.clone(),
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

/// The places of the list, from 1 to the last that is known, of which a report has no image: ranges of first and last. A run
/// over the list as it was, or all its shares together, leave none.
pub fn gaps(images: &[ImageRow]) -> Vec<(usize, usize)> {
    let mut next = 1;
    let mut gaps = Vec::new();
    for image in images {
        if image.index > next {
            gaps.push((next, image.index - 1));
        }
        next = next.max(image.index.saturating_add(1));
    }
    gaps
}

/// The journals of all runs. Those of one list lie in one folder; of another folder's, none are known.
fn joined_journals(sources: &[Source]) -> Option<Journals> {
    let mut all = sources
        .iter()
        .filter_map(|source| source.report.journals.as_ref());
    let mut joined = all.next()?.clone();
    for journals in all
        .filter(|journals| journals.folder == joined.folder)
        .collect::<Vec<_>>()
    {
        joined.runs.extend(journals.runs.iter().cloned());
    }
    Some(joined)
}

/// The job that all runs belong to: the same job, or the same array. `None` when they have none in common.
fn common_job(sources: &[Source]) -> Option<Job> {
    let whole = |job: &Job| {
        job.array_job_id
            .clone()
            .unwrap_or_else(|| job.job_id.clone())
    };
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
mod tests {
    use super::*;
    use crate::report::sample::report;

    /// Share `number` of two: the fixture's report with every second image, begun `after_s` seconds later.
    fn share(number: usize, after_s: u64) -> Source {
        let mut report = report();
        report.shard = Some(Shares {
            numbers: vec![number],
            count: 2,
        });
        report.images.retain(|image| image.index % 2 == number % 2);
        report.started =
            humantime::format_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(after_s))
                .to_string();
        Source {
            path: format!("{number}.json").into(),
            report,
        }
    }

    #[test]
    fn shares_become_one_run() {
        let merged = merge(vec![share(2, 100), share(1, 40)]).unwrap();
        assert_eq!(merged.started, "1970-01-01T00:00:40.000Z");
        assert_eq!(merged.elapsed_s, 60.0 + 12.0);
        assert_eq!(merged.launch.ranks, 4);
        assert_eq!(merged.launch.nodes, ["n1", "n2"]);
        let ranks: Vec<usize> = merged.ranks.iter().map(|rank| rank.rank).collect();
        assert_eq!(ranks, [0, 1, 2, 3]);
        let indices: Vec<usize> = merged.images.iter().map(|image| image.index).collect();
        assert_eq!(indices, [1, 2, 3, 4]);
        // Share 2 began a minute later, and its ranks follow those of share 1.
        assert_eq!((merged.images[1].start_s, merged.images[1].rank), (60.0, 2));
        assert_eq!(merged.images[2].rank, 1);
        let totals = &merged.totals;
        assert_eq!((totals.images, totals.done, totals.failed), (4, 2, 1));
        assert_eq!(totals.cpu_efficiency, 36.0 / 72.0);
        assert_eq!(totals.images_per_s, 2.0 / 72.0);
        assert_eq!(merged.shard.unwrap().missing(), Vec::<usize>::new());
    }

    #[test]
    fn a_missing_share_is_named_and_the_work_is_not_done() {
        let merged = merge(vec![share(2, 0)]).unwrap();
        assert_eq!(merged.state, State::Interrupted);
        assert_eq!(merged.shard.unwrap().missing(), [1]);
    }

    /// A run with these statuses of images 1, 2, …
    fn run(after_s: u64, state: State, statuses: &[Status]) -> Source {
        let mut source = share(1, after_s);
        let report = &mut source.report;
        report.shard = None;
        report.state = state;
        let row = report.images[0].clone();
        report.images = (1..)
            .zip(statuses)
            .map(|(index, &status)| ImageRow {
                input: format!("in/{index}.nii"),
                outcome: crate::report::sample::image(index, 0, status),
                ..row.clone()
            })
            .collect();
        source
    }

    #[test]
    fn an_interrupted_run_and_the_one_that_resumed_it_make_a_whole() {
        use Status::{Done, Failed, Skipped};
        let first = run(0, State::Interrupted, &[Done, Failed, Skipped, Skipped]);
        let second = run(50, State::Completed, &[Skipped, Done, Done, Done]);
        let merged = merge(vec![second, first.clone()]).unwrap();
        assert_eq!((merged.totals.done, merged.state), (4, State::Completed));
        assert_eq!(merged.images[0].start_s, 0.0);
        assert_eq!(merged.images[2].start_s, 50.0);

        let still_running = run(50, State::Interrupted, &[Skipped, Failed, Done, Skipped]);
        let merged = merge(vec![first.clone(), still_running]).unwrap();
        assert_eq!((merged.totals.done, merged.totals.skipped), (2, 1));
        assert_eq!(merged.state, State::Interrupted);

        // A result that was there before the first run ever began.
        let there = run(0, State::Completed, &[Skipped, Done]);
        assert_eq!(merge(vec![there]).unwrap().state, State::Completed);
    }

    #[test]
    fn a_list_with_gaps_is_not_done() {
        use Status::Done;
        let mut source = run(0, State::Completed, &[Done; 9]);
        let images = &mut source.report.images;
        images.retain(|image| ![1, 4, 5, 8].contains(&image.index));
        let merged = merge(vec![source]).unwrap();
        assert_eq!(gaps(&merged.images), [(1, 1), (4, 5), (8, 8)]);
        assert_eq!(merged.state, State::Interrupted);
    }

    #[test]
    fn a_run_is_not_counted_twice() {
        let copy = |mut source: Source| {
            source.path = "copy.json".into();
            source
        };
        let message = |sources| merge(sources).unwrap_err().to_string();
        let said = "1.json and copy.json hold the same run, whose ranks would be counted twice; leave one of the two out";
        assert_eq!(
            message(vec![share(1, 0), share(2, 0), copy(share(1, 0))]),
            said
        );
        // A merged report holds its runs, too.
        let named = |number, run: &str| {
            let mut source = share(number, 0);
            source.report.journals = Some(Journals {
                folder: "/out/.niimpi".to_owned(),
                runs: vec![run.to_owned()],
            });
            source
        };
        let mut whole = copy(share(1, 0));
        whole.report = merge(vec![named(1, "a"), named(2, "b")]).unwrap();
        assert_eq!(message(vec![named(1, "a"), whole]), said);
        // The same share done again, and another share that began at the same time, are runs of their own.
        assert!(merge(vec![share(1, 0), share(1, 5), share(2, 0)]).is_ok());
    }

    #[test]
    fn reports_of_other_work_are_refused_by_name() {
        let message = |one: Source, other: Source| merge(vec![one, other]).unwrap_err().to_string();
        let mut wider = share(2, 0);
        wider.report.filter.sigma_vox = vec![3.0; 3];
        assert_eq!(
            message(share(1, 0), wider),
            "1.json and 2.json are not of one piece of work: the filter differs; merge reports of the same command alone"
        );
        let mut of_three = share(2, 0);
        of_three.report.shard.as_mut().unwrap().count = 3;
        assert!(message(share(1, 0), of_three).contains("the number of shares differs"));
        let mut other_list = share(1, 5);
        other_list.path = "other.json".into();
        other_list.report.images[1].input = "in/x.nii".to_owned();
        assert_eq!(
            message(share(1, 0), other_list),
            "1.json and other.json are not of one list: its image 3 is in/3.nii in one and in/x.nii in the other"
        );
        assert!(matches!(merge(vec![]), Err(MergeError::Nothing)));
    }

    #[test]
    fn what_is_no_report_is_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        let message = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&path).unwrap_err().to_string()
        };
        assert!(message("{}").ends_with(
            "is not a report of niimpi (niimpi-report/2 or niimpi-report/1): it has no schema"
        ));
        assert!(
            message("{\"schema\":\"niimpi-report/9\"}").ends_with("its schema is niimpi-report/9")
        );
        assert!(message("{\"schema\":\"niimpi-report/1\"}").contains("missing field"));
        assert!(message("nothing").contains("not a report"));
        std::fs::remove_file(&path).unwrap();
        assert!(
            read(&path)
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
    }

    #[test]
    fn tasks_of_an_array_have_the_array_in_common() {
        let job = |id: &str, task: &str| Job {
            job_id: id.to_owned(),
            array_job_id: Some("40".to_owned()),
            array_task_id: Some(task.to_owned()),
            ..Job::default()
        };
        let (mut one, mut two) = (share(1, 0), share(2, 0));
        one.report.launch.slurm = Some(job("41", "1"));
        two.report.launch.slurm = Some(job("42", "2"));
        let merged = merge(vec![one.clone(), two]).unwrap().launch.slurm.unwrap();
        assert_eq!((merged.job_id.as_str(), merged.array_task_id), ("40", None));
        assert_eq!(merge(vec![one, share(2, 0)]).unwrap().launch.slurm, None);
    }
}
