//! Merging: the reports of several runs over one list (the tasks of an array, the runs of a requeued job) become one, as
//! if one run had done it all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::{
    ImageRow, Journals, Launch, RankRow, Report, SCHEMA, SCHEMA_1, Shares, State, Status, Totals,
};
use crate::job::outcome::{End, Reason};
use crate::slurm::Job;
use crate::text::counted;

/// Why reports cannot be read or do not belong together.
#[derive(Debug, Error)]
pub(crate) enum MergeError {
    /// No report was given.
    #[error("there is no report to merge")]
    Nothing,
    /// A file that is not a report.
    #[error(transparent)]
    Unreadable(#[from] super::ReadError),
    /// Reports of runs that did not do the same thing.
    #[error("the reports belong to different work ({what}):{groups}\n  merge each group alone")]
    Different {
        /// What tells the groups apart.
        what: &'static str,
        /// A line for each group.
        groups: String,
    },
    /// Two reports of the same run.
    #[error(
        "{first} and {second} hold the same run, whose ranks would be counted twice; leave one of them out"
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
pub(crate) struct Source {
    /// The file, for messages.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) report: Report,
}

/// Reads a report, with its file for messages.
///
/// # Errors
/// When the file cannot be read or is not a report.
pub(crate) fn read(path: &Path) -> Result<Source, MergeError> {
    Ok(Source {
        path: path.to_owned(),
        report: super::read(path)?,
    })
}

/// Joins reports into one.
///
/// - Ranks are numbered through, in the order of shares and then of starting times. Their figures stay as they are.
/// - The run began with the first and ended with the last of the runs; `start_s` of images counts from that beginning.
/// - An image that several runs had (one was interrupted, another resumed) counts once: done before failed before skipped.
/// - Totals are computed again from ranks and images, as for one run.
/// - The state is "interrupted" when shares are missing, the list has gaps or images are left over, "failed" when images
///   failed.
///
/// # Errors
/// When the reports are of different work or lists or of the same run, or there is none.
pub(crate) fn merge(mut sources: Vec<Source>) -> Result<Report, MergeError> {
    sources.sort_by_key(|source| {
        let share = source.report.shard.as_ref();
        let number = share.and_then(|shares| shares.numbers.first().copied());
        (number.unwrap_or(0), began(&source.report))
    });
    one_work(&sources)?;
    each_run_once(&sources)?;
    let first = &sources.first().ok_or(MergeError::Nothing)?.report;
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
    let old = sources
        .iter()
        .any(|source| source.report.schema == SCHEMA_1);
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
        shard: merged_shares(&sources),
        resume: None,
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
            ..rank
        });
        merged.ranks.extend(ranks);
        images.paths.push(path);
        for mut row in report.images {
            row.rank += first_rank;
            row.start_s += offset_s;
            images.add(row, report.state != State::Interrupted)?;
        }
    }
    let left_over = images.left_over();
    merged.images = images.found.into_values().map(|found| found.row).collect();
    merged.totals = Totals::new(&merged.ranks, &merged.images, elapsed_s);
    let missing = |shares: &Shares| !shares.missing().is_empty();
    merged.state = if left_over
        || merged.shard.as_ref().is_some_and(missing)
        || !gaps(&merged.images).is_empty()
    {
        State::Interrupted
    } else if merged.totals.failed > 0 {
        State::Failed
    } else {
        State::Completed
    };
    Ok(merged)
}

/// The images that the reports so far know, by their place in the list.
#[derive(Default)]
struct Images {
    found: BTreeMap<usize, Found>,
    /// The files of the reports so far.
    paths: Vec<PathBuf>,
}

struct Found {
    row: ImageRow,
    /// Whether a run that came to its end has looked at it: if that run skipped it, its result existed.
    settled: bool,
    /// The report that it came from, by its place in `paths`.
    source: usize,
}

impl Images {
    /// Adds an image of the last report, whose run came to its end or not.
    fn add(&mut self, row: ImageRow, settled: bool) -> Result<(), MergeError> {
        let source = self.paths.len() - 1;
        let Some(found) = self.found.get_mut(&row.index) else {
            self.found.insert(
                row.index,
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
                first: self.paths[found.source].clone(),
                second: self.paths[source].clone(),
                index: row.index,
                first_input: found.row.input.clone(),
                second_input: row.input,
            });
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

    /// Whether there are images that no run did and no run that came to its end found done.
    fn left_over(&self) -> bool {
        let mut found = self.found.values();
        found.any(|found| found.row.status() == Status::Skipped && !found.settled)
    }
}

fn began(report: &Report) -> SystemTime {
    humantime::parse_rfc3339(&report.started).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn merged_shares(sources: &[Source]) -> Option<Shares> {
    let shares = || {
        sources
            .iter()
            .filter_map(|source| source.report.shard.as_ref())
    };
    let numbers: BTreeSet<usize> = shares()
        .flat_map(|shares| shares.numbers.iter().copied())
        .collect();
    Some(Shares {
        count: shares().next()?.count,
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
    // Runs on one node may have had the same CPUs or others. Only those of different nodes add up.
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

/// What two reports of different work differ in.
fn difference(one: &Report, other: &Report) -> Option<&'static str> {
    let count = |report: &Report| report.shard.as_ref().map(|shares| shares.count);
    let folder = |report: &Report| {
        report
            .journals
            .as_ref()
            .map(|journals| journals.folder.clone())
    };
    let known = !one.options.is_null() && !other.options.is_null();
    if one.filter != other.filter || (known && one.options != other.options) {
        Some("the filter's options differ")
    } else if count(one) != count(other) {
        Some("the number of shares differs")
    } else if count(one).is_some() && one.strategy != other.strategy {
        Some("the strategy differs, and with it the shares")
    } else if folder(one)
        .zip(folder(other))
        .is_some_and(|(one, other)| one != other)
    {
        Some("the output folder differs")
    } else {
        None
    }
}

/// Refuses reports of different work, and says which belong together.
fn one_work(sources: &[Source]) -> Result<(), MergeError> {
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
        Err(MergeError::Different {
            what,
            groups: groups.iter().map(|group| group_line(group)).collect(),
        })
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
pub(crate) fn gaps(images: &[ImageRow]) -> Vec<(usize, usize)> {
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

/// The journals of all runs, which lie in one folder.
fn joined_journals(sources: &[Source]) -> Option<Journals> {
    let all = || {
        sources
            .iter()
            .filter_map(|source| source.report.journals.as_ref())
    };
    Some(Journals {
        folder: all().next()?.folder.clone(),
        runs: all()
            .flat_map(|journals| journals.runs.iter().cloned())
            .collect(),
    })
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
        assert_eq!(merged.shard.unwrap().missing(), []);
    }

    #[test]
    fn a_missing_share_is_named_and_the_work_is_not_done() {
        let merged = merge(vec![share(2, 0)]).unwrap();
        assert_eq!(merged.state, State::Interrupted);
        assert_eq!(merged.shard.unwrap().missing(), [(1, 1)]);
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
        let said = "1.json and copy.json hold the same run, whose ranks would be counted twice; leave one of them out";
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
        wider.report.launch.slurm = Some(job("42", "2"));
        wider.report.journals = Some(Journals {
            folder: "/data/out/.niimpi".to_owned(),
            runs: Vec::new(),
        });
        let expected = "the reports belong to different work (the filter's options differ):\n  1 report, such as 1.json\n  \
                        1 report, such as 2.json, of array job 40, with results in /data/out\n  merge each group alone";
        assert_eq!(message(share(1, 0), wider), expected);
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
    fn reports_of_two_output_folders_are_refused() {
        let into = |number, folder: &str| {
            let mut source = share(number, 0);
            source.report.journals = Some(Journals {
                folder: folder.to_owned(),
                runs: vec![number.to_string()],
            });
            source
        };
        assert!(merge(vec![into(1, "/a/.niimpi"), into(2, "/a/.niimpi")]).is_ok());
        let error = merge(vec![into(1, "/a/.niimpi"), into(2, "/b/.niimpi")])
            .unwrap_err()
            .to_string();
        for part in [
            "the output folder differs",
            "with results in /a\n",
            "with results in /b\n",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn reports_of_two_arrays_are_named_by_their_jobs() {
        let of = |number, array: &str, sigma: f64| {
            let mut source = share(number, 0);
            source.path = format!("{array}-{number}.json").into();
            source.report.filter.sigma_vox = vec![sigma; 3];
            source.report.launch.slurm = Some(Job {
                array_job_id: Some(array.to_owned()),
                ..job("1", "1")
            });
            source
        };
        let sources = vec![
            of(1, "100", 2.0),
            of(2, "100", 2.0),
            of(1, "200", 4.0),
            of(2, "200", 4.0),
        ];
        let error = merge(sources).unwrap_err().to_string();
        for array in ["100", "200"] {
            let line = format!("2 reports, such as {array}-1.json, of array job {array}");
            assert!(error.contains(&line), "{error}");
        }
    }

    #[test]
    fn cpus_of_different_nodes_add_up_and_those_of_one_node_are_not_known() {
        let on = |number, node: &str| {
            let mut source = share(number, 0);
            source.report.launch.nodes = vec![node.to_owned()];
            source.report.launch.cpus = Some(4);
            source
        };
        let cpus = |sources| merge(sources).unwrap().launch.cpus;
        assert_eq!(cpus(vec![on(1, "a"), on(2, "b")]), Some(8));
        assert_eq!(cpus(vec![on(1, "a"), on(2, "a")]), None);
        assert_eq!(cpus(vec![on(1, "a")]), Some(4));
    }

    #[test]
    fn any_number_of_shares_is_merged_at_once() {
        let mut one = share(1, 0);
        one.report.shard.as_mut().unwrap().count = usize::MAX;
        let merged = merge(vec![one]).unwrap();
        assert_eq!(merged.shard.as_ref().unwrap().missing(), [(2, usize::MAX)]);
        let text = crate::report::table::render(&merged);
        assert!(
            text.contains("incomplete: shares 2-18446744073709551615 of"),
            "{text}"
        );
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

    fn job(id: &str, task: &str) -> Job {
        Job {
            job_id: id.to_owned(),
            array_job_id: Some("40".to_owned()),
            array_task_id: Some(task.to_owned()),
            ..Job::default()
        }
    }

    #[test]
    fn tasks_of_an_array_have_the_array_in_common() {
        let (mut one, mut two) = (share(1, 0), share(2, 0));
        one.report.launch.slurm = Some(job("41", "1"));
        two.report.launch.slurm = Some(job("42", "2"));
        let merged = merge(vec![one.clone(), two]).unwrap().launch.slurm.unwrap();
        assert_eq!((merged.job_id.as_str(), merged.array_task_id), ("40", None));
        assert_eq!(merge(vec![one, share(2, 0)]).unwrap().launch.slurm, None);
    }
}
