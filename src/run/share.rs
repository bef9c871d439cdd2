//! Partitioning: the root assigns images to ranks, using what all ranks probed.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::agree::{Look, Ranks};
use super::memory::bytes_for_images;
use super::resume::{self, Stamps};
use super::split::{self, Group};
use super::{Clock, Config, request};
use crate::atomic_file::make_folders;
use crate::images::{self, ImageEntry};
use crate::job::outcome::Outcome;
use crate::job::shared::{Plan, SectionWorker};
use crate::job::{cost, shared};
use crate::journal::past;
use crate::partition::{self, Split, Strategy};
use crate::report::ResumeCounts;
use crate::text::printable;
use crate::{journal, resources, slurm};

/// How existing results are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// An error before anything is written.
    #[default]
    Refuse,
    /// A result is kept if it was made from the same input with the same options. It is made again if it
    /// failed, was left unfinished or its input has changed. Any other file is an error before anything is
    /// written.
    Resume,
    /// It is replaced.
    Overwrite,
    /// It is kept as with `Resume`, otherwise replaced.
    ResumeAndOverwrite,
}

impl Existing {
    /// Whether results of earlier runs can be kept.
    pub(super) fn resumes(self) -> bool {
        matches!(self, Existing::Resume | Existing::ResumeAndOverwrite)
    }
}

/// What the root decides after all images are probed. It is small, because every rank already has the list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Decision {
    /// Indices in the whole list of this run's images; `None` for all. All other indices refer to this
    /// selection.
    pub(super) shard: Option<Vec<usize>>,
    /// Indices of images whose results are kept.
    pub(super) skipped: Vec<usize>,
    /// Files to replace: the index of their image, and their identity when they were checked.
    pub(super) replaced: HashMap<usize, Stamps>,
    /// Counts of the results of earlier runs, with `--resume`.
    pub(super) resume: Option<ResumeCounts>,
    /// Whether an earlier run wrote to the same output folder.
    pub(super) earlier_run: bool,
    /// The run's name, part of its journals' file names.
    pub(super) run: String,
    /// Time of the run's start, seconds since 1970.
    pub(super) run_unix_s: f64,
    /// Time by which every image must be finished, seconds since the run's start.
    pub(super) finish_by_s: Option<f64>,
    /// The root's seconds since the run's start when it sent this.
    pub(super) sent_s: f64,
}

impl Decision {
    /// The values of this run's images, of the values of the whole list.
    pub(super) fn of_shard<T>(&self, all: Vec<T>) -> Vec<T> {
        let Some(places) = &self.shard else {
            return all;
        };
        let mut places = places.iter().peekable();
        all.into_iter()
            .enumerate()
            .filter(|(place, _)| places.next_if_eq(&place).is_some())
            .map(|(_, value)| value)
            .collect()
    }
}

/// The assignment of images to ranks.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Schedule {
    /// Estimated seconds of each image.
    pub(super) costs_s: Vec<f64>,
    /// One share per rank: indices in processing order. With `dynamic`, one list of all images, held by the
    /// root.
    pub(super) shares: Vec<Vec<usize>>,
    /// Images that ranks share. They are in no rank's share.
    pub(super) groups: Vec<Group>,
}

/// Assigns images to ranks. Local to the root.
pub(super) fn decide(
    config: &Config,
    entries: &[ImageEntry],
    looks: &[Look],
    ranks: &Ranks,
    clock: Clock,
) -> Result<(Decision, Schedule), String> {
    refuse_unmasked(looks)?;
    let filter_s_per_voxel = config.job.filter_s_per_voxel();
    let all_facts: Vec<_> = looks.iter().map(|look| &look.facts).collect();
    let files = all_facts.iter().map(|facts| &facts.files);
    let mask_of_all = config.job.mask.as_ref().and_then(|mask| mask.choice.file(None));
    images::refuse_replacing_inputs(entries, files, mask_of_all)?;
    let costs_s: Vec<f64> = all_facts
        .iter()
        .map(|facts| cost::image_s(facts, filter_s_per_voxel))
        .collect();
    let shard = config.shard.map(|shard| shard.places(config.strategy, &costs_s));
    let in_run = |place: usize| shard.as_ref().map_or(place, |shard| shard[place]);
    let images = shard.as_ref().map_or(entries.len(), Vec::len);
    let costs_s: Vec<f64> = (0..images).map(|place| costs_s[in_run(place)]).collect();
    let looks: Vec<&Look> = (0..images).map(|place| &looks[in_run(place)]).collect();
    let entries: Vec<&ImageEntry> = (0..images).map(|place| &entries[in_run(place)]).collect();

    refuse_existing(config, &entries, &looks)?;
    let resume = config
        .existing
        .resumes()
        .then(|| resume::count(looks.iter().map(|look| look.found.standing)));
    report_moved(&entries, &looks);
    let (skipped, todo): (Vec<usize>, Vec<usize>) =
        (0..images).partition(|&place| looks[place].found.standing.is_kept());
    let replaced = todo
        .iter()
        .filter(|&&place| looks[place].found.exists())
        .map(|&place| (place, looks[place].found.seen.clone()))
        .collect();
    let exceeding = exceeding_a_rank(config, &entries, &looks, &todo, ranks);
    // No rank holds an image that all share.
    let held = |place: &&usize| config.split != Split::Always && !exceeding.contains(*place);
    let in_memory = todo.iter().filter(held).filter_map(|&place| {
        let bytes = looks[place].facts.memory_bytes?;
        Some((entries[place].input.as_path(), bytes))
    });
    let threads = ranks.threads[0].min(todo.len());
    request::check(in_memory, ranks.on_host_of(0), threads)?;
    let is_large = |place: usize| shared::may_be_large(&looks[place].facts);
    let how = (config.strategy, config.split);
    let schedule = share_out(how, todo, costs_s, ranks.hosts.len(), is_large, &exceeding);
    let now = SystemTime::now();
    let run_time = time_after_all_runs(&config.list.output, now)?;
    let earlier_run = config.list.output.join(journal::FOLDER).exists();
    if !config.dry_run {
        let output = &config.list.output;
        make_folders(output, config.job.sync).map_err(|error| {
            format!(
                "--output {}: the folder cannot be created: {error}",
                output.display()
            )
        })?;
    }
    let decision = Decision {
        shard,
        skipped,
        replaced,
        resume,
        earlier_run,
        run: journal::new_run_name(run_time),
        run_unix_s: journal::unix_s(run_time),
        finish_by_s: finish_by_s(config.stop_before_s, slurm::job_end_unix_s(), now, clock),
        sent_s: clock.now_s(),
    };
    Ok((decision, schedule))
}

/// The images that need more memory than rank 0 can use, but not if all ranks share them.
fn exceeding_a_rank(
    config: &Config,
    entries: &[&ImageEntry],
    looks: &[&Look],
    todo: &[usize],
    ranks: &Ranks,
) -> HashSet<usize> {
    let count = ranks.hosts.len();
    if config.split != Split::Auto || count < 2 {
        return HashSet::new();
    }
    let Some(limit) = resources::memory_limit(ranks.on_host_of(0)) else {
        return HashSet::new();
    };
    let bytes = bytes_for_images(&limit, ranks.threads[0], 0);
    let exceeds = |place: &&usize| looks[**place].facts.memory_bytes.is_some_and(|need| need > bytes);
    let never = AtomicBool::new(false);
    let mut worker = SectionWorker::new(&config.job, ranks.threads[0], None, Some(bytes), &never);
    let mut fits_in_sections = |place: &&usize| {
        let planned = worker.plan(
            split::paths(entries[**place]),
            count,
            true,
            &mut Outcome::default(),
        );
        matches!(planned, Ok(Plan::Sections { bytes: need, .. }) if need <= bytes)
    };
    let exceeding = todo.iter().filter(exceeds);
    exceeding
        .filter(|place| fits_in_sections(place))
        .copied()
        .collect()
}

/// Refuses a run in which no image has a mask that can be used.
fn refuse_unmasked(looks: &[Look]) -> Result<(), String> {
    let faults: Vec<&String> = looks.iter().filter_map(|look| look.mask_fault.as_ref()).collect();
    match faults.first() {
        Some(first) if faults.len() == looks.len() => Err(format!(
            "--mask: no image has a mask that can be used, the first is {first}"
        )),
        _ => Ok(()),
    }
}

fn refuse_existing(config: &Config, entries: &[&ImageEntry], looks: &[&Look]) -> Result<(), String> {
    if config.existing == Existing::Resume {
        let standings = looks.iter().map(|look| look.found.standing);
        let refusal = resume::refusal(entries.iter().copied().zip(standings));
        return refusal.map_or(Ok(()), Err);
    }
    let exists = |place: &usize| looks[*place].found.exists();
    let mut existing = (0..entries.len()).filter(exists);
    match (config.existing, existing.next()) {
        (Existing::Refuse, Some(first)) => Err(format!(
            "{} of {} results already exist, the first is {}; choose another --output, or use --resume to \
             keep them and process the rest, or --overwrite to replace them",
            1 + existing.count(),
            entries.len(),
            entries[first].output.display()
        )),
        _ => Ok(()),
    }
}

/// Logs that results are kept although their inputs have moved.
fn report_moved(entries: &[&ImageEntry], looks: &[&Look]) {
    let mut moved = entries.iter().zip(looks).filter_map(|(entry, look)| {
        let from = look.found.moved_from.as_ref()?;
        Some((entry, from))
    });
    if let Some((entry, from)) = moved.next() {
        tracing::info!(
            "results of inputs that have moved are kept, such as {}, moved from {from}",
            printable(&entry.input.display().to_string())
        );
    }
}

/// Assigns the images with these indices to ranks, alone or together.
fn share_out(
    (strategy, split): (Strategy, Split),
    mut todo: Vec<usize>,
    costs_s: Vec<f64>,
    ranks: usize,
    is_large: impl Fn(usize) -> bool,
    exceeding: &HashSet<usize>,
) -> Schedule {
    let groups = split::groups(split, &todo, ranks, is_large, |place| exceeding.contains(&place));
    let in_groups: HashSet<usize> = groups.iter().map(|group| group.place).collect();
    todo.retain(|place| !in_groups.contains(place));
    let todo_costs_s: Vec<f64> = todo.iter().map(|&place| costs_s[place]).collect();
    let places = |items: Vec<usize>| items.into_iter().map(|item| todo[item]).collect();
    let mut loads_s = vec![0.0; ranks];
    for group in &groups {
        let part_s = costs_s[group.place] / group.count as f64;
        group.ranks().for_each(|rank| loads_s[rank] += part_s);
    }
    let shares = match strategy {
        Strategy::Dynamic => vec![places(partition::largest_first(&todo_costs_s))],
        fixed => partition::partition_rest(fixed, &todo_costs_s, &loads_s)
            .into_iter()
            .map(places)
            .collect(),
    };
    Schedule {
        costs_s,
        shares,
        groups,
    }
}

/// The time of a run that starts now: later than all lines of earlier runs, even if their clocks were ahead.
fn time_after_all_runs(output: &Path, now: SystemTime) -> Result<SystemTime, String> {
    const STEP: Duration = Duration::from_millis(1);
    let newest = past::newest_unix_s(output, resources::available_cpus())
        .map_err(|error| format!("the journals of earlier runs cannot be read: {error}"))?;
    let after = newest.map(|unix_s| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(unix_s) + STEP);
    Ok(after.map_or(now, |after| after.max(now)))
}

/// Time by which every image must be finished, in seconds since the run's start: the requested limit, or else
/// the end of the job minus time for the report.
fn finish_by_s(
    asked_s: Option<f64>,
    job_end_unix_s: Option<f64>,
    now: SystemTime,
    clock: Clock,
) -> Option<f64> {
    const REPORT_S: f64 = 5.0;
    asked_s.or_else(|| {
        let left_s = job_end_unix_s? - journal::unix_s(now) - REPORT_S;
        Some(clock.now_s() + left_s)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_that_share_an_image_get_other_images_last() {
        let share = |costs_s: &[f64], ranks, split| {
            let todo = (0..costs_s.len()).collect();
            let how = (Strategy::Size, split);
            share_out(how, todo, costs_s.to_vec(), ranks, |_| true, &HashSet::new())
        };
        let Schedule { shares, groups, .. } = share(&[4.0; 5], 8, Split::Auto);
        let in_groups: Vec<_> = groups.iter().map(|group| (group.place, group.ranks())).collect();
        assert_eq!(in_groups, [(1, 1..3), (3, 4..6), (4, 6..8)]);
        assert_eq!((&shares[0], &shares[3]), (&vec![0], &vec![2]));
        assert_eq!(shares.iter().map(Vec::len).sum::<usize>(), 2);
        let never = share(&[3.0, 2.0, 1.0], 2, Split::Never);
        assert_eq!(never.shares, [vec![0], vec![1, 2]]);
    }
}
