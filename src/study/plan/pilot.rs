//! The pilot: a few images of the list, smoothed here several times on one and on more workers, to measure.

mod choose;
mod cold_files;
mod rounds;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use self::choose::choose;
use self::cold_files::reckon_with_cold_files;
use self::rounds::{RunList, in_its_real_folder, longer};
use super::listed::Listed;
use super::measured::Source;
use crate::console;
use crate::launch::child::{How, Limits};
use crate::launch::{LocalMachine, LocalRun};
use crate::report::{Report, Stage};
use crate::study::scaling::folder::read_json;

/// How often each configuration is run: what differs between passes is what runs differ by.
const PASSES: usize = 5;
/// Passes are given up after this long, but not before there are so many.
const ENOUGH: Duration = Duration::from_secs(120);
const FEWEST_PASSES: usize = 2;
/// The longest that one run may take.
const LONGEST: Duration = Duration::from_secs(3600);
/// Workers are at most as many as leave each so many images.
const IMAGES_A_WORKER: usize = 5;

/// How the pilot is made.
#[derive(Clone, Copy, Debug)]
pub struct PilotRequest<'a> {
    /// Images.
    pub images: usize,
    /// The options of `niimpi smooth`.
    pub options: &'a [OsString],
    /// Folder beside which results are written, to be removed: on the file system that the job will write to.
    pub beside: &'a Path,
    /// CPUs of this machine.
    pub cpus: usize,
    /// Whether nothing is said.
    pub quiet: bool,
    /// Set when it is to end now.
    pub stop: &'a AtomicBool,
}

/// What a pilot found.
#[derive(Clone, Debug)]
pub struct Pilot {
    /// Its runs in the order in which they were made, without those that were too short.
    pub sources: Vec<Source>,
    /// What the reader should know of them.
    pub notes: Vec<String>,
}

/// Ranks × threads that the pilot runs: one worker; several ranks; several threads. No more workers than CPUs.
fn configurations(images: usize, cpus: usize, has_ranks: bool) -> Vec<(usize, usize)> {
    let workers = cpus.min((images / IMAGES_A_WORKER).max(2));
    let mut configurations = vec![(1, 1)];
    if workers > 1 {
        if has_ranks {
            configurations.push((workers, 1));
        }
        configurations.push((1, workers));
    }
    configurations
}

/// A configuration and how far it is measured.
struct Setting {
    /// Ranks × threads.
    workers: (usize, usize),
    list: RunList,
    /// Runs that were long enough, or as long as can be.
    runs: usize,
}

/// Runs the pilot. Nothing it wrote remains.
///
/// Each configuration goes through its images once. If that is too short, it only tells how often they must be gone through
/// to work for a second, and where results piled up before the disk, until many times as many are made as may wait there. The
/// longer runs are what is measured; of them, too, one that proves too short is left out.
///
/// # Errors
/// A sentence when runs cannot be started or leave results unwritten, or the pilot is told to stop.
pub fn run(
    request: &PilotRequest<'_>,
    machine: &LocalMachine,
    listed: &Listed,
) -> Result<Pilot, String> {
    let chosen = choose(listed, request.images);
    // Without `..` and links on the way: all paths of a list need a folder that holds them.
    let beside = std::fs::create_dir_all(request.beside)
        .and_then(|()| request.beside.canonicalize())
        .map_err(|error| format!("{}: cannot be made: {error}", request.beside.display()))?;
    let folder = tempfile::Builder::new()
        .prefix(".niimpi-pilot-")
        .tempdir_in(&beside)
        .map_err(|error| format!("{}: cannot be written: {error}", beside.display()))?;
    let images: Vec<PathBuf> = chosen
        .iter()
        .map(|&place| in_its_real_folder(&listed.found[place].0))
        .collect::<Result<_, _>>()?;
    let configurations = configurations(images.len(), request.cpus, machine.has_ranks());
    if !request.quiet {
        console::note(format!(
            "pilot: {} images, {} runs of each of {} configurations",
            images.len(),
            PASSES,
            configurations.len()
        ));
    }
    let begun = Instant::now();
    let once = RunList::write(folder.path(), &images, 1)?;
    let mut settings: Vec<Setting> = configurations
        .into_iter()
        .map(|workers| Setting {
            workers,
            list: once.clone(),
            runs: 0,
        })
        .collect();
    let mut sources: Vec<Source> = Vec::new();
    let mut first_trial: Option<Source> = None;
    for pass in 0.. {
        for setting in settings.iter_mut().filter(|setting| setting.runs < PASSES) {
            let Setting { workers, list, .. } = setting;
            let source = one(request, machine, folder.path(), list, *workers, pass)?;
            // The first run may have waited for files that are in memory now, so later ones may still be too short.
            let rounds = longer(
                &source.report,
                images.len(),
                workers.0 * workers.1,
                list.rounds,
            )
            .filter(|_| list.shortened.is_none());
            if let Some(rounds) = rounds {
                let made = list.rounds;
                *list = RunList::write(folder.path(), &images, rounds)?;
                if list.rounds > made {
                    if sources.is_empty() && first_trial.is_none() {
                        first_trial = Some(source);
                    }
                    continue;
                }
            }
            setting.runs += 1;
            sources.push(source);
        }
        let least = settings
            .iter()
            .map(|setting| setting.runs)
            .min()
            .unwrap_or(PASSES);
        if least == PASSES || least >= FEWEST_PASSES && begun.elapsed() > ENOUGH {
            break;
        }
    }
    let of_cold_files = match &first_trial {
        Some(first) => reckon_with_cold_files(first, &mut sources),
        None => sources
            .split_first_mut()
            .and_then(|(first, others)| reckon_with_cold_files(first, others)),
    };
    let mut notes: Vec<String> = of_cold_files.into_iter().collect();
    let shortened = settings.iter().find_map(|setting| {
        let error = setting.list.shortened.as_ref()?;
        Some((setting.list.rounds, error))
    });
    notes.extend(shortened.map(|(rounds, error)| {
        format!(
            "runs of the pilot went through their images no more than {rounds} times, which is short and tells little, since no \
             more symbolic links could be made below {} ({error}); more images with --pilot tell more",
            beside.display()
        )
    }));
    Ok(Pilot { sources, notes })
}

fn one(
    request: &PilotRequest<'_>,
    machine: &LocalMachine,
    folder: &Path,
    list: &RunList,
    (ranks, threads): (usize, usize),
    pass: usize,
) -> Result<Source, String> {
    let name = format!(
        "pilot of {ranks} ranks × {threads} threads, pass {}",
        pass + 1
    );
    let output = folder.join("out");
    let mut words = request.options.to_vec();
    words.extend([
        "--list".into(),
        list.path.clone().into(),
        "--base".into(),
        "/".into(),
        "--overwrite".into(),
        "--output".into(),
    ]);
    words.push(output.clone().into());
    let run = LocalRun {
        words,
        ranks,
        threads,
        report: folder.join("report.json"),
        log: folder.join("log"),
    };
    let limits = Limits {
        time: Some(LONGEST),
        stop: request.stop,
    };
    let ended = machine.run(&run, &limits)?;
    let _ = std::fs::remove_dir_all(&output);
    if ended.how == How::Stopped {
        return Err("the pilot was told to stop".to_owned());
    }
    // Exit code 1: some images failed, which the measurements say themselves.
    if !matches!(ended.how, How::Exited(0 | 1)) || !run.report.is_file() {
        let words = std::fs::read_to_string(&run.log).unwrap_or_default();
        let last: Vec<&str> = words.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(format!(
            "the {name} ended {:?}: {}",
            ended.how,
            last.join("\n  ")
        ));
    }
    let mut report: Report = read_json(&run.report)?;
    let _ = std::fs::remove_file(&run.report);
    // Without the room for its results a run measures nothing; images that cannot be read are no reason for that.
    let not_written = report
        .images
        .iter()
        .filter_map(|image| image.failure())
        .find(|failure| failure.stage == Stage::Write);
    if report.totals.skipped > 0 || not_written.is_some() {
        return Err(format!(
            "the {name} made {} of {} results ({}); it needs room for all of them below {}",
            report.totals.done,
            report.images.len(),
            not_written.map_or("its report does not say why", |failure| &failure.error),
            folder.display()
        ));
    }
    list.name_by_image(&mut report);
    Ok(Source {
        name,
        report,
        wall_s: Some(ended.wall_s),
        others_cpus: ended.others_cpus,
        reading_factor: 1.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::outcome::Timings;

    #[test]
    fn workers_never_outnumber_cpus() {
        assert_eq!(configurations(20, 1, true), [(1, 1)]);
        assert_eq!(configurations(20, 2, true), [(1, 1), (2, 1), (1, 2)]);
        assert_eq!(configurations(20, 64, true), [(1, 1), (4, 1), (1, 4)]);
        assert_eq!(configurations(20, 64, false), [(1, 1), (1, 4)]);
    }

    /// A run of `images` images of 10 ms each on one worker, whose results reach the disk so many seconds later.
    pub(super) fn source(images: usize, read_s: f64, wait_s: f64) -> Source {
        let mut report = crate::report::sample::report();
        let template = report.images[0].clone();
        report.images = (0..images)
            .map(|place| {
                let mut row = template.clone();
                row.input = format!("in/{}.nii", place % 20);
                row.index = place + 1;
                row.start_s = 0.5 + 0.01 * place as f64;
                row.timings = Timings {
                    read_s,
                    filter_s: 0.004,
                    write_s: 0.006 - read_s + wait_s,
                    publish_s: 0.0,
                };
                row
            })
            .collect();
        (report.launch.ranks, report.launch.threads_per_rank) = (1, 1);
        // Half a second of setting up is no work.
        report.elapsed_s = 0.5 + 0.01 * images as f64 + wait_s;
        Source {
            name: String::new(),
            report,
            wall_s: None,
            others_cpus: None,
            reading_factor: 1.0,
        }
    }
}
