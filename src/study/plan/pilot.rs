//! The pilot: processes a few images of the list several times on this machine, with one and more workers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::choose::choose;
use super::listed::{FoundImage, Listed};
use super::measured::{FEWEST_IMAGES, Source, stages_s};
use super::model::{add, held_s};
use crate::console;
use crate::image_io::file_name::split;
use crate::images::{self, ListRequest, MaskTemplate};
use crate::job::outcome::Stage;
use crate::launch::child::{How, Limits};
use crate::launch::{LocalMachine, LocalRun};
use crate::report::{self, Report};
use crate::study::statistics::median;

/// Runs of each configuration. The differences between passes show the spread between runs.
const PASSES: usize = 5;
/// After this time the pilot starts no other pass, once it has made `FEWEST_PASSES`.
const ENOUGH: Duration = Duration::from_secs(120);
const FEWEST_PASSES: usize = 2;
/// Time limit of one run.
const LONGEST: Duration = Duration::from_secs(3600);
/// Shortest working time of a run, in seconds. A run repeats its images to reach it, because shorter runs
/// vary too much.
const LEAST_RUN_S: f64 = 1.0;
/// A run repeats its images at most this many times.
const MOST_REPEATS: usize = 100;
/// Fewest images per worker if there are more than two workers.
const IMAGES_PER_WORKER: usize = 5;
/// The first run read from the disk if its reading took at least this many times as long as later.
const COLD_FACTOR: f64 = 1.5;

/// Options of a pilot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PilotRequest<'a> {
    pub images: usize,
    /// The filter's command and options.
    pub options: &'a [OsString],
    /// The template in the options by which each image has its own mask.
    pub masks: Option<&'a MaskTemplate>,
    /// The template in the options that names second results.
    pub second: Option<&'a str>,
    /// Folder for the results, which are removed at the end: on the file system to which the job will write.
    pub beside: &'a Path,
    /// CPUs of this machine.
    pub cpus: usize,
    pub quiet: bool,
    /// Set to stop the pilot.
    pub stop: &'a AtomicBool,
}

/// The result of a pilot.
#[derive(Clone, Debug)]
pub(crate) struct Pilot {
    /// Its measured runs.
    pub sources: Vec<Source>,
    /// Factor by which reading takes longer if files are not in memory yet, from the first run.
    pub reading_factor: f64,
    /// Notes for the reader.
    pub notes: Vec<String>,
}

/// The configurations (ranks, threads) of the pilot: one worker, several ranks, several threads. There are
/// never more workers than CPUs.
fn configurations(images: usize, cpus: usize, has_ranks: bool) -> Vec<(usize, usize)> {
    let workers = cpus.min((images / IMAGES_PER_WORKER).max(2));
    let mut configurations = vec![(1, 1)];
    if workers > 1 {
        if has_ranks {
            configurations.push((workers, 1));
        }
        configurations.push((1, workers));
    }
    configurations
}

/// Runs the pilot and removes its files. The first run reads the files as the job will. It, or a second one
/// if it was short, also shows how many repeats the measured runs need.
pub(crate) fn run(
    request: &PilotRequest<'_>,
    machine: &LocalMachine,
    listed: &Listed,
) -> Result<Pilot, String> {
    let images = request.images.min(listed.found.len());
    if images < FEWEST_IMAGES {
        return Err(format!(
            "a pilot of {images} images cannot show how much images differ; it needs at least {FEWEST_IMAGES}"
        ));
    }
    std::fs::create_dir_all(request.beside)
        .map_err(|error| format!("{}: cannot be created: {error}", request.beside.display()))?;
    let folder = tempfile::Builder::new()
        .prefix(".niimpi-pilot-")
        .tempdir_in(request.beside)
        .map_err(|error| format!("{}: cannot be written: {error}", request.beside.display()))?;
    let chosen = choose(listed, request.images);
    let configurations = configurations(chosen.len(), request.cpus, machine.has_ranks());
    if !request.quiet {
        console::note(format!(
            "pilot: {} images, {PASSES} runs of each of {} configurations",
            chosen.len(),
            configurations.len()
        ));
    }
    let started = Instant::now();
    let chosen: Vec<&FoundImage> = chosen.iter().map(|&place| &listed.found[place]).collect();
    write_list(
        &folder.path().join("list"),
        chosen.iter().map(|image| image.input.as_path()),
    )?;
    let mut options = request.options.to_vec();
    if let Some(template) = request.masks {
        let masks = linked_masks(folder.path(), template, &chosen)?;
        replace(&mut options, "--mask=", &masks.to_string());
    }
    if let Some(template) = request.second {
        replace(&mut options, "--output-noise=", &second_of_pilot(template));
    }
    let run = |workers, repeats| one(request, &options, machine, folder.path(), workers, repeats);
    let cold = run((1, 1), 1)?;
    let once_s = match working_s(&cold.report) {
        long if long > 2.0 * LEAST_RUN_S => long,
        _ => working_s(&run((1, 1), 1)?.report),
    };
    let mut sources = Vec::new();
    for pass in 0..PASSES {
        if pass >= FEWEST_PASSES && started.elapsed() > ENOUGH {
            break;
        }
        for &(ranks, threads) in &configurations {
            let repeats = (LEAST_RUN_S * (ranks * threads) as f64 / once_s).ceil() as usize;
            sources.push(run((ranks, threads), repeats.clamp(1, MOST_REPEATS))?);
        }
    }
    let (reading_factor, note) = reading_factor(&cold.report, &sources);
    Ok(Pilot {
        sources,
        reading_factor,
        notes: note.into_iter().collect(),
    })
}

fn write_list<'a>(path: &Path, images: impl Iterator<Item = &'a Path>) -> Result<(), String> {
    let mut bytes = Vec::new();
    for image in images {
        let image = std::path::absolute(image).map_err(|error| format!("{}: {error}", image.display()))?;
        bytes.extend_from_slice(image.as_os_str().as_encoded_bytes());
        bytes.push(b'\n');
    }
    std::fs::write(path, &bytes).map_err(|error| format!("{}: cannot be written: {error}", path.display()))
}

/// The template by which the pilot finds the masks of its images: its list is another one, so each image has
/// a folder that is a link to the folder of its mask.
///
/// # Errors
/// A sentence when a mask's file name depends on the image's place in the list.
fn linked_masks(
    folder: &Path,
    template: &MaskTemplate,
    chosen: &[&FoundImage],
) -> Result<MaskTemplate, String> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let links = folder.join("masks");
    let template = template.in_numbered_folders(&links).ok_or_else(|| {
        format!(
            "--mask {template}: a pilot finds masks only if {{index}} and {{dir}} are not in their file \
            names; run some images with --report, and plan with --from"
        )
    })?;
    let request = ListRequest {
        list_file: Some(folder.join("list")),
        base: Some("/".into()),
        output: folder.join("out"),
        ..ListRequest::default()
    };
    let entries = images::collect(&request)
        .map_err(|error| error.to_string())?
        .entries;
    let inputs = chosen
        .iter()
        .map(|image| Ok((absolute(&image.input)?, image.mask.as_deref())));
    let masks: BTreeMap<PathBuf, Option<&Path>> = inputs.collect::<Result<_, String>>()?;
    let failed = |error| format!("{}: cannot be written: {error}", links.display());
    std::fs::create_dir(&links).map_err(failed)?;
    for entry in entries {
        let link = links.join(entry.index.to_string());
        if let Some(mask) = masks.get(&entry.input).copied().flatten() {
            let mask = absolute(mask)?;
            let of_mask = mask.parent().unwrap_or(Path::new("/"));
            std::os::unix::fs::symlink(of_mask, link).map_err(failed)?;
        }
    }
    Ok(template)
}

/// The names of the pilot's second results. Its results keep the whole paths of their images, so a name
/// that fits the job's list may not fit here. The suffix stays, because compressing takes time.
fn second_of_pilot(template: &str) -> String {
    let suffix = split(OsStr::new(template)).map_or("", |(_, suffix)| suffix.as_str());
    format!("{{dir}}/{{stem}}.niimpi-pilot{suffix}")
}

/// Gives an option another value. `option` ends with an equals sign.
fn replace(words: &mut Vec<OsString>, option: &str, value: &str) {
    words.retain(|word| !word.as_encoded_bytes().starts_with(option.as_bytes()));
    words.push(format!("{option}{value}").into());
}

/// Seconds for which the images occupied the worker of a run.
fn working_s(report: &Report) -> f64 {
    let mut sums_s = [0.0; 4];
    for row in &report.images {
        add(&mut sums_s, &stages_s(&row.outcome.timings));
    }
    held_s(&sums_s, report.images.len(), 1.0).max(1e-3)
}

/// Reading time of the first run over that of later runs with one worker, and a note about it.
fn reading_factor(cold: &Report, sources: &[Source]) -> (f64, Option<String>) {
    let mean_s = |report: &Report| report.totals.read_s / report.totals.done.max(1) as f64;
    let of_one_worker = |report: &&Report| report.launch.ranks * report.launch.threads_per_rank == 1;
    let later = sources.iter().map(|source| &source.report).filter(of_one_worker);
    let (cold_s, warm_s) = (mean_s(cold), median(&Vec::from_iter(later.map(mean_s))));
    if warm_s <= 0.0 || cold_s < COLD_FACTOR * warm_s {
        return (1.0, None);
    }
    let note = format!(
        "the first run read an image in {:.1} ms, the later ones, whose files were in memory by then, in \
        {:.1} ms; the plan expects images to be read as in the first",
        cold_s * 1e3,
        warm_s * 1e3
    );
    (cold_s / warm_s, Some(note))
}

fn one(
    request: &PilotRequest<'_>,
    options: &[OsString],
    machine: &LocalMachine,
    folder: &Path,
    (ranks, threads): (usize, usize),
    repeats: usize,
) -> Result<Source, String> {
    let name = format!("pilot of {ranks} ranks × {threads} threads");
    let output = folder.join("out");
    let mut words = options.to_vec();
    words.extend([
        "--list".into(),
        folder.join("list").into(),
        "--base".into(),
        "/".into(),
    ]);
    words.extend(["--repeat".into(), repeats.to_string().into()]);
    // A plan is for images that one rank processes.
    words.push("--split=never".into());
    words.extend(["--output".into(), output.clone().into()]);
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
        return Err("the pilot was interrupted".to_owned());
    }
    // Exit code 1: some images failed. The measurements contain their errors.
    if !matches!(ended.how, How::Exited(0 | 1)) || !run.report.is_file() {
        let log = std::fs::read_to_string(&run.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        return Err(format!("the {name} ended {:?}: {last}", ended.how));
    }
    let report = report::read(&run.report)?;
    let _ = std::fs::remove_file(&run.report);
    all_written(&report, &name, folder)?;
    Ok(Source {
        name,
        report,
        wall_s: Some(ended.wall_s),
        others_cpus: ended.others_cpus,
    })
}

/// Refuses a run that could not write its results, for example on a full disk, because it measures nothing.
/// Images that cannot be read do not matter here.
fn all_written(report: &Report, name: &str, folder: &Path) -> Result<(), String> {
    let failures = report.images.iter().filter_map(|row| row.outcome.failure());
    let not_written = failures.clone().find(|failure| failure.stage == Stage::Write);
    if report.totals.skipped == 0 && not_written.is_none() {
        return Ok(());
    }
    Err(format!(
        "the {name} wrote {} of {} results ({}); it needs room for all of them below {}",
        report.totals.done,
        report.images.len(),
        not_written.map_or("its report does not say why", |failure| failure.error.as_str()),
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::Machine;
    use super::*;

    #[test]
    fn workers_never_outnumber_cpus() {
        assert_eq!(configurations(20, 1, true), [(1, 1)]);
        assert_eq!(configurations(20, 2, true), [(1, 1), (2, 1), (1, 2)]);
        assert_eq!(configurations(20, 64, true), [(1, 1), (4, 1), (1, 4)]);
        assert_eq!(configurations(20, 64, false), [(1, 1), (1, 4)]);
    }

    #[test]
    fn a_slow_first_reading_gives_a_factor_and_a_note() {
        let warm = Machine::exact().source(20, 1, &[1_000_000], 1);
        let reading = |factor: f64| {
            let mut cold = warm.report.clone();
            cold.totals.read_s *= factor;
            reading_factor(&cold, &[warm.clone(), warm.clone()])
        };
        let (factor, note) = reading(4.0);
        assert!((factor - 4.0).abs() < 1e-9);
        let note = note.unwrap();
        assert!(note.contains("in 9.6 ms") && note.contains("in 2.4 ms"), "{note}");
        assert_eq!(reading(1.2), (1.0, None));
        assert_eq!(
            reading_factor(&warm.report, &[]),
            (1.0, None),
            "nothing to compare with"
        );
    }

    #[test]
    fn working_time_is_that_of_the_images_or_of_the_disk() {
        // 2.4 + 5 + 6.4 ms per image, or the time of the disk divided among four publishers.
        for (publish_s, image_s) in [(1e-4, 0.0138), (0.4, 0.1)] {
            let machine = Machine {
                publish_s,
                ..Machine::exact()
            };
            let found_s = working_s(&machine.source(20, 1, &[1_000_000], 1).report);
            assert!((found_s - 20.0 * image_s).abs() < 1e-6, "{found_s}");
        }
    }
}
