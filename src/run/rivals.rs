//! Rivals: refuses to start while another run of the same images in the same output folder is alive.

use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::shard::Shard;
use crate::images::{self, ImageEntry};
use crate::journal::RunLine;
use crate::journal::living::{self, Life, RunJournal};
use crate::slurm;
use crate::slurm::running::Queue;
use crate::text::{counted, long_duration};

/// What other runs must know about a run.
pub(super) struct Work<'a> {
    pub(super) list_digest: &'a str,
    pub(super) shard: Option<Shard>,
}

/// A hash of the list: equal inputs and outputs give equal hashes. FNV-1a, because it is the same on every
/// machine.
pub(super) fn digest(entries: &[ImageEntry], output: &Path) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |path: &Path| {
        for &byte in path.as_os_str().as_encoded_bytes().iter().chain(&[0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for entry in entries {
        take(&images::absolute(&entry.input));
        take(entry.output.strip_prefix(output).unwrap_or(&entry.output));
    }
    format!("{hash:016x}")
}

/// Refuses to start while a run of the same images is alive, before anything is written. Local to the root.
pub(super) fn refuse_before(output: &Path, work: &Work<'_>) -> Result<(), String> {
    let open = open_runs(output, None)?;
    let queue = living::queue(&open);
    let (overlapping, others): (Vec<_>, Vec<_>) =
        open.into_iter().partition(|journal| overlaps(&journal.run, work));
    let rivals = living_of(overlapping, &queue, &|| {});
    if let Some(rival) = rivals.first() {
        return Err(message(&rival.run, output));
    }
    let lives = |journal: &RunJournal| journal.life_in(&queue) == Life::Living;
    let others: Vec<_> = others.into_iter().filter(lives).collect();
    if let Some(other) = others.first() {
        tracing::info!(
            "{} in this output folder, of other images: {}",
            match others.len() {
                1 => "another run is in progress".to_owned(),
                more => format!("{} are in progress", counted(more, "other run")),
            },
            description(&other.run)
        );
    }
    Ok(())
}

/// Refuses an array's shard if earlier runs divided the same list into another number of shards, for example
/// because an array repeats only some tasks of another. Warns if an array has one task, which then processes
/// the whole list. Local to the root.
pub(super) fn refuse_other_division(output: &Path, work: &Work<'_>) -> Result<(), String> {
    let Some(own) = work
        .shard
        .filter(|own| slurm::array_shard() == Ok((own.number, own.count)))
    else {
        return Ok(());
    };
    let runs = living::runs(output).unwrap_or_default();
    let other = runs
        .iter()
        .filter(|journal| journal.run.list_digest.as_deref() == Some(work.list_digest))
        .filter_map(|journal| journal.run.shard.as_deref()?.parse::<Shard>().ok())
        .find(|shard| shard.count != own.count);
    if let Some(other) = other {
        let count = other.count;
        return Err(format!(
            "--shard slurm: this array makes it shard {own}, but earlier runs divided the same list into \
             {count} shards. Nothing was written.\n  Use --shard K/{count}; with array.sbatch, sbatch \
             --array=K --export=ALL,SHARDS={count} array.sbatch"
        ));
    }
    if own.count == 1 {
        tracing::warn!(
            "--shard slurm: this array has one task, which processes the whole list; if it repeats one \
             shard of many, use --shard K/N (with array.sbatch: SHARDS=N, such as SHARDS=40)"
        );
    }
    Ok(())
}

/// Repeats the check after this run's journal exists, for runs that start at the same time. Local to the
/// root.
///
/// Among such runs, all except the one whose name sorts first refuse at once. The first waits until each of
/// the others has refused or works. While it waits it calls `show_life`, so that runs on other machines see
/// that it is alive.
pub(super) fn refuse_after(
    output: &Path,
    work: &Work<'_>,
    own: &str,
    show_life: &dyn Fn(),
) -> Result<(), String> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let mut open = open_runs(output, Some(own))?;
    open.retain(|journal| overlaps(&journal.run, work));
    let queue = living::queue(&open);
    for rival in living_of(open, &queue, show_life) {
        let mut now = Some(rival);
        while let Some(rival) = now {
            if rival.works || rival.run.run.as_str() < own {
                return Err(message(&rival.run, output));
            }
            show_life();
            std::thread::sleep(LOOK_EVERY);
            now = rival.again().filter(|rival| rival.life() != Life::Dead);
        }
    }
    Ok(())
}

/// The journals of runs below this folder that have not ended, without the run `own`.
fn open_runs(output: &Path, own: Option<&str>) -> Result<Vec<RunJournal>, String> {
    let mut runs = living::runs(output).map_err(|error| {
        format!(
            "--output {}: its journals cannot be listed: {error}",
            output.display()
        )
    })?;
    runs.retain(|journal| !journal.closed && Some(journal.run.run.as_str()) != own);
    Ok(runs)
}

/// Those of the runs that are alive. Waits for runs that can only be judged by their heartbeat.
fn living_of(runs: Vec<RunJournal>, queue: &Queue, show_life: &dyn Fn()) -> Vec<RunJournal> {
    let (mut living, mut doubtful) = (Vec::new(), Vec::new());
    for journal in runs {
        match journal.life_in(queue) {
            Life::Living => living.push(journal),
            Life::DeadAfter(left) => doubtful.push((journal, left)),
            Life::Dead => {}
        }
    }
    living.extend(wait_for_heartbeats(doubtful, show_life));
    living
}

/// The runs that write something within their time.
fn wait_for_heartbeats(mut doubtful: Vec<(RunJournal, Duration)>, show_life: &dyn Fn()) -> Vec<RunJournal> {
    const LOOK_EVERY: Duration = Duration::from_millis(200);
    let Some((first, _)) = doubtful.first() else {
        return Vec::new();
    };
    let longest = doubtful.iter().map(|(_, left)| *left).max().unwrap_or_default();
    tracing::info!(
        "waiting up to {} to check if an earlier run still works in this output folder: {}",
        long_duration(longest.as_secs_f64().ceil()),
        description(&first.run)
    );
    let started = Instant::now();
    let mut living = Vec::new();
    while !doubtful.is_empty() {
        show_life();
        std::thread::sleep(LOOK_EVERY);
        doubtful.retain(|(before, left)| match before.again() {
            None => false,
            Some(now) if now.has_grown_since(before) => {
                living.push(now);
                false
            }
            Some(_) => started.elapsed() < *left,
        });
    }
    living
}

/// Whether two runs would process some of the same images.
fn overlaps(other: &RunLine, work: &Work<'_>) -> bool {
    let shard = other.shard.as_deref().and_then(|text| text.parse::<Shard>().ok());
    let disjoint = match (shard, work.shard) {
        (Some(other), Some(own)) => other.count == own.count && other.number != own.number,
        _ => false,
    };
    other.list_digest.as_deref() == Some(work.list_digest) && !disjoint
}

fn message(rival: &RunLine, output: &Path) -> String {
    format!(
        "--output {}: another run of the same images is in progress there: {}. Nothing was written.\n  \
         Wait for it to end, stop it, or choose another --output. To use several processes for one run, \
         start niimpi with mpirun or srun",
        output.display(),
        description(rival)
    )
}

/// `process 17 on n1, Slurm job 4, shard 1/2, since 2026-11-28T10:00:00Z`
fn description(run: &RunLine) -> String {
    let since = UNIX_EPOCH + Duration::try_from_secs_f64(run.unix_s).unwrap_or_default();
    let job = run.slurm_job.as_ref().map(|job| format!(", Slurm job {job}"));
    let shard = run.shard.as_ref().map(|shard| format!(", shard {shard}"));
    format!(
        "process {} on {}{}{}, since {}",
        run.pid,
        run.host,
        job.unwrap_or_default(),
        shard.unwrap_or_default(),
        humantime::format_rfc3339_seconds(since)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_known_by_its_inputs_and_outputs() {
        let list = |input: &str, output: &str| {
            let entries = [ImageEntry {
                index: 1,
                input: input.into(),
                output: output.into(),
                mask: None,
                second: None,
                bids: false,
            }];
            digest(&entries, Path::new("/out"))
        };
        assert_eq!(list("/in/a.nii", "/out/a.nii"), list("/in/a.nii", "a.nii"));
        assert_ne!(list("/in/a.nii", "/out/a.nii"), list("/in/a.nii", "/out/b.nii"));
        assert_ne!(list("/in/a.nii", "/out/a.nii"), list("/in/aa.nii", "/out/.nii"));
    }

    #[test]
    fn only_disjoint_shares_of_a_list_go_together() {
        let run = |digest: &str, shard: Option<&str>| -> RunLine {
            serde_json::from_value(serde_json::json!({
                "format": "niimpi-journal/2", "unix_s": 1.0, "run": "r", "version": "1", "rank": 0,
                "ranks": 1, "host": "n",
                "pid": 1, "workers": 1, "images": 1, "kept": 0, "strategy": "size", "options": {},
                "list_digest": digest, "shard": shard,
            }))
            .unwrap()
        };
        let overlaps = |other: Option<&str>, own: Option<&str>| {
            let work = Work {
                list_digest: "a",
                shard: own.map(|text| text.parse().unwrap()),
            };
            assert!(!super::overlaps(&run("b", other), &work));
            super::overlaps(&run("a", other), &work)
        };
        assert!(overlaps(None, None));
        assert!(overlaps(Some("1/2"), None) && overlaps(None, Some("1/2")));
        assert!(overlaps(Some("1/2"), Some("1/2")) && overlaps(Some("1/2"), Some("2/3")));
        assert!(!overlaps(Some("1/2"), Some("2/2")));
    }
}
