//! The pilot: a few images of the list, smoothed here several times on one and on more workers, to measure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::listed::Listed;
use super::measured::{ImageClass, Source, waiting_for_disk_s};
use crate::console;
use crate::launch::child::{How, Limits};
use crate::launch::{LocalMachine, LocalRun};
use crate::report::{ImageRow, Report, Status};
use crate::run::RESULTS_BEHIND_A_WORKER;
use crate::scaling::study::read_json;
use crate::statistics::median;

/// How often each configuration is run: what differs between passes is what runs differ by.
const PASSES: usize = 5;
/// How long a run takes at least, seconds; the images are smoothed again and again until then. Tenths of a second would tell
/// more of the moment than of the machine.
const LEAST_RUN_S: f64 = 1.0;
/// Results that wait for the disk when their workers have ended are ignored up to this part of a run.
const WAITING_PART: f64 = 0.1;
/// How long a run may take, seconds, for more results to wait for the disk.
const LONG_RUN_S: f64 = 20.0;
/// A run goes through its images at most so many times.
const MOST_ROUNDS: usize = 100;
/// Reading took as many times as long when the images were not in memory, or it is not taken for a difference.
const COLD_FACTOR: f64 = 1.5;
/// Passes are given up after this long, but not before there are two.
const ENOUGH: Duration = Duration::from_secs(120);
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
    /// Its runs, in the order in which they were made.
    pub sources: Vec<Source>,
    /// What the reader should know of them.
    pub note: Option<String>,
}

/// Which images stand for the list: of every class and size some, by their share, the one that takes the most memory always.
/// More than `count` where there are more classes than that.
pub fn choose(listed: &Listed, count: usize) -> Vec<usize> {
    let mut groups: BTreeMap<(ImageClass, u64), Vec<usize>> = BTreeMap::new();
    for (place, (_, features)) in listed.found.iter().enumerate() {
        groups
            .entry((features.class, features.voxels))
            .or_default()
            .push(place);
    }
    let largest = (0..listed.found.len())
        .max_by_key(|&place| (listed.found[place].1.memory_bytes, std::cmp::Reverse(place)));
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    // The classes with most images first; within a group, images from all over the list.
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let total: usize = groups.iter().map(Vec::len).sum();
    let mut chosen: Vec<usize> = largest.into_iter().collect();
    let mut classes_seen: Vec<ImageClass> = Vec::new();
    for group in &groups {
        let class = listed.found[group[0]].1.class;
        let share = (count * group.len()).div_euclid(total);
        let first_of_class = !classes_seen.contains(&class);
        // Two of each group tell its spread; a class without any could not be planned for.
        let wanted = share.max(if first_of_class || chosen.len() + 2 <= count {
            2
        } else {
            0
        });
        classes_seen.push(class);
        let wanted = wanted.min(group.len());
        chosen.extend((0..wanted).map(|step| group[step * group.len() / wanted]));
    }
    let mut spare = groups.iter().flatten().copied();
    chosen.sort_unstable();
    chosen.dedup();
    // The groups with most images give up what the smallest took too much; two of each remain.
    for group in &groups {
        let mut of_group: Vec<usize> = group
            .iter()
            .filter(|place| Some(**place) != largest && chosen.binary_search(place).is_ok())
            .copied()
            .collect();
        while chosen.len() > count && of_group.len() > 2 {
            let dropped = of_group.pop();
            chosen.retain(|place| Some(*place) != dropped);
        }
    }
    while chosen.len() < count.min(listed.found.len()) {
        let Some(place) = spare.find(|place| chosen.binary_search(place).is_err()) else {
            break;
        };
        chosen.insert(chosen.partition_point(|&before| before < place), place);
    }
    chosen
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

/// Runs the pilot. Nothing it wrote remains.
///
/// Each configuration goes through its images once. From then on it goes through them as often as it needs to work for a
/// second, and where results piled up before the disk, until as many wait as would in a long run.
///
/// # Errors
/// A sentence when runs cannot be started, all fail, or the pilot is told to stop.
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
        console::complain(format!(
            "pilot: {} images, {} runs of each of {} configurations",
            images.len(),
            PASSES,
            configurations.len()
        ));
    }
    let begun = Instant::now();
    let mut sources = Vec::new();
    let once = write_list(folder.path(), &images, 1)?;
    let mut lists = vec![(1, once); configurations.len()];
    for pass in 0..PASSES {
        for (&(ranks, threads), (rounds, list)) in configurations.iter().zip(&mut lists) {
            let mut source = one(
                request,
                machine,
                folder.path(),
                list,
                (ranks, threads),
                pass,
            )?;
            // The first run may have waited for files that are in memory now, so later ones may still be too short.
            let needed = rounds_needed(&source.report, images.len(), ranks * threads);
            if needed > *rounds {
                (*rounds, *list) = (needed, write_list(folder.path(), &images, needed)?);
            }
            name_by_image(&mut source.report, &images);
            sources.push(source);
        }
        if pass > 0 && begun.elapsed() > ENOUGH {
            break;
        }
    }
    let note = reckon_with_cold_files(&mut sources);
    Ok(Pilot { sources, note })
}

/// The path of an image with its folder's links and `..` resolved.
fn in_its_real_folder(image: &Path) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(image);
    let resolved = absolute.and_then(|path| match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok(folder.canonicalize()?.join(name)),
        _ => Ok(path),
    });
    resolved.map_err(|error| format!("{}: {error}", image.display()))
}

/// How many times a run of `workers` needs to go through the pilot's `images`, by the report of one that did so some times.
fn rounds_needed(report: &Report, images: usize, workers: usize) -> usize {
    let starts = report
        .images
        .iter()
        .filter(|image| image.status == Status::Done)
        .map(|image| image.start_s);
    let began_s = starts.fold(f64::INFINITY, f64::min);
    if began_s.is_infinite() {
        return 1;
    }
    let worked_s = (report.elapsed_s - began_s).max(1e-3);
    let round_s = worked_s / (report.images.len() as f64 / images as f64);
    let for_time = (LEAST_RUN_S / round_s).ceil() as usize;
    let for_disk = if waiting_for_disk_s(report) > WAITING_PART * worked_s {
        let all_waiting = (3 * RESULTS_BEHIND_A_WORKER * workers).div_ceil(images);
        all_waiting.min((LONG_RUN_S / round_s) as usize)
    } else {
        1
    };
    for_time.max(for_disk).clamp(1, MOST_ROUNDS)
}

/// Gives a report's images, of however many rounds, the names of what they are.
fn name_by_image(report: &mut Report, images: &[PathBuf]) {
    for row in &mut report.images {
        let image = &images[row.index.saturating_sub(1) % images.len()];
        if image.file_name() == Path::new(&row.input).file_name() {
            row.input = image.display().to_string();
        }
    }
}

/// When the very first run read files that were not in memory yet, what reading took longer for it holds for all runs, as it
/// will for the job's other images. Returns a sentence on it.
fn reckon_with_cold_files(sources: &mut [Source]) -> Option<String> {
    let (first, others) = sources.split_first()?;
    // Of each image, what the later runs of one worker took to read it.
    let mut warm: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let of_one_worker = others
        .iter()
        .filter(|other| other.report.launch.ranks * other.report.launch.threads_per_rank == 1);
    for row in of_one_worker.flat_map(|other| &other.report.images) {
        if row.status == Status::Done {
            warm.entry(&row.input).or_default().push(row.read_s);
        }
    }
    let mut rows: Vec<&ImageRow> = first.report.images.iter().collect();
    rows.sort_by(|a, b| a.start_s.total_cmp(&b.start_s));
    // The worker's first image pays for more than reading.
    let pairs: Vec<(f64, f64)> = rows
        .iter()
        .filter(|row| row.status == Status::Done)
        .skip(1)
        .filter_map(|row| Some((row.read_s, median(warm.get(row.input.as_str())?))))
        .collect();
    let cold_s: f64 = pairs.iter().map(|pair| pair.0).sum();
    let warm_s: f64 = pairs.iter().map(|pair| pair.1).sum();
    if warm_s <= 0.0 || cold_s < COLD_FACTOR * warm_s {
        return None;
    }
    let (factor, count) = (cold_s / warm_s, pairs.len() as f64);
    for other in &mut sources[1..] {
        other.reading_factor = factor;
    }
    Some(format!(
        "the first run read an image in {:.1} ms, the others, whose files were in memory by then, in {:.1} ms; images are \
         expected to be read as in the first",
        cold_s * 1e3 / count,
        warm_s * 1e3 / count
    ))
}

/// The list of a run that goes through the images so many times: as they are, then by way of links to their folders, so that
/// results have names of their own. Where there can be no links, once must do.
fn write_list(folder: &Path, images: &[PathBuf], rounds: usize) -> Result<PathBuf, String> {
    use std::os::unix::ffi::OsStrExt;
    let told = |path: &Path, error: std::io::Error| {
        format!("{}: cannot be written: {error}", path.display())
    };
    let mut folders: Vec<&Path> = images.iter().filter_map(|image| image.parent()).collect();
    folders.sort_unstable();
    folders.dedup();
    let mut paths = images.to_vec();
    'rounds: for round in 2..=rounds {
        let links = folder.join(format!("round-{round}"));
        std::fs::create_dir_all(&links).map_err(|error| told(&links, error))?;
        for (number, to) in folders.iter().enumerate() {
            match std::os::unix::fs::symlink(to, links.join(number.to_string())) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    tracing::debug!("the pilot's images are taken once only: {error}");
                    break 'rounds;
                }
                _ => (),
            }
        }
        paths.extend(images.iter().filter_map(|image| {
            let number = folders.binary_search(&image.parent()?).ok()?;
            Some(links.join(number.to_string()).join(image.file_name()?))
        }));
    }
    let path = folder.join(format!("list-{rounds}"));
    let mut bytes = Vec::new();
    for image in &paths {
        bytes.extend_from_slice(image.as_os_str().as_bytes());
        bytes.push(b'\n');
    }
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|error| told(&path, error))?;
    Ok(path)
}

fn one(
    request: &PilotRequest<'_>,
    machine: &LocalMachine,
    folder: &Path,
    list: &Path,
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
        list.into(),
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
    let report: Report = read_json(&run.report)?;
    let _ = std::fs::remove_file(&run.report);
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
    use super::super::measured::ImageFeatures;
    use super::*;
    use crate::volume::Datatype;

    fn listed(images: &[(Datatype, u64, usize)]) -> Listed {
        let found: Vec<_> = images
            .iter()
            .flat_map(|&(datatype, voxels, count)| {
                let features = ImageFeatures {
                    class: ImageClass {
                        datatype,
                        scaled: false,
                    },
                    voxels,
                    file_bytes: voxels,
                    memory_bytes: voxels * datatype.size_bytes() as u64,
                };
                (0..count).map(move |place| {
                    (
                        PathBuf::from(format!("{datatype}_{voxels}_{place}")),
                        features,
                    )
                })
            })
            .collect();
        Listed {
            listed: found.len(),
            planned: found.iter().map(|image| image.1).collect(),
            found,
            list_s: 0.0,
            look_s: 0.0,
        }
    }

    #[test]
    fn every_class_and_size_and_the_largest_stand_for_the_list() {
        let listed = listed(&[
            (Datatype::Uint8, 1000, 300),
            (Datatype::Uint8, 500, 60),
            (Datatype::Float32, 1000, 39),
            (Datatype::Uint8, 9000, 1),
        ]);
        let chosen = choose(&listed, 20);
        assert_eq!(chosen.len(), 20);
        let mut groups: BTreeMap<(ImageClass, u64), usize> = BTreeMap::new();
        for place in &chosen {
            let features = listed.found[*place].1;
            *groups.entry((features.class, features.voxels)).or_default() += 1;
        }
        assert_eq!(groups.len(), 4, "{groups:?}");
        assert!(chosen.contains(&399), "the largest");
        let mut unique = chosen.clone();
        unique.dedup();
        assert_eq!(unique, chosen);
    }

    #[test]
    fn fewer_images_than_asked_for_are_all_taken() {
        assert_eq!(choose(&listed(&[(Datatype::Int16, 10, 3)]), 20), [0, 1, 2]);
    }

    /// A run of `images` images of 10 ms each on one worker, whose results reach the disk so many seconds later.
    fn source(images: usize, read_s: f64, wait_s: f64) -> Source {
        let mut report = crate::report::tests::report();
        let template = report.images[0].clone();
        report.images = (0..images)
            .map(|place| ImageRow {
                index: place + 1,
                input: format!("in/{}.nii", place % 20),
                status: Status::Done,
                start_s: 0.5 + 0.01 * place as f64,
                read_s,
                filter_s: 0.004,
                write_s: 0.006 - read_s + wait_s,
                ..template.clone()
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

    #[test]
    fn runs_last_a_second_and_until_results_pile_up() {
        let of = |report: &Report, images, workers| rounds_needed(report, images, workers);
        let run = |images, wait_s| source(images, 0.001, wait_s).report;
        assert_eq!(of(&run(24, 0.0), 24, 1), 5, "0.24 s each");
        assert_eq!(of(&run(48, 0.0), 24, 1), 5, "after two rounds too");
        assert_eq!(of(&run(200, 0.0), 200, 1), 1);
        // 24 images are three times what may wait; 20 images took 0.2 s while their results took two more to the disk.
        assert_eq!(of(&run(20, 2.0), 20, 1), 2);
        assert_eq!(of(&run(20, 2.0), 20, 4), 5, "four workers");
        assert_eq!(of(&run(20, 20.0), 20, 4), 1, "that would take too long");
        let mut failed = run(20, 0.0);
        failed
            .images
            .iter_mut()
            .for_each(|image| image.status = Status::Failed);
        assert_eq!(of(&failed, 20, 1), 1);
        failed.images.clear();
        assert_eq!(of(&failed, 20, 1), 1);
    }

    #[test]
    fn images_of_all_rounds_have_one_name() {
        let images = [PathBuf::from("/a/0.nii"), PathBuf::from("/a/1.nii")];
        let mut report = source(4, 0.001, 0.0).report;
        for (row, name) in
            report
                .images
                .iter_mut()
                .zip(["/a/0.nii", "/a/1.nii", "/l/0/0.nii", "/l/0/1.nii"])
        {
            row.input = name.to_owned();
        }
        name_by_image(&mut report, &images);
        let names: Vec<&str> = report.images.iter().map(|row| row.input.as_str()).collect();
        assert_eq!(names, ["/a/0.nii", "/a/1.nii", "/a/0.nii", "/a/1.nii"]);
    }

    #[test]
    fn images_that_were_not_in_memory_stand_for_the_jobs() {
        // The later runs go through the images several times.
        let mut cold: Vec<Source> = [(20, 0.004), (100, 0.001), (100, 0.001)]
            .map(|(images, read_s)| source(images, read_s, 0.0))
            .to_vec();
        let note = reckon_with_cold_files(&mut cold).unwrap();
        assert!(note.contains("4.0 ms") && note.contains("1.0 ms"), "{note}");
        let factors: Vec<f64> = cold.iter().map(|source| source.reading_factor).collect();
        assert_eq!(factors[0], 1.0);
        assert!(
            factors[1..]
                .iter()
                .all(|factor| (factor - 4.0).abs() < 1e-9)
        );

        let mut warm = [0.0012, 0.001, 0.001].map(|read_s| source(20, read_s, 0.0));
        assert_eq!(reckon_with_cold_files(&mut warm), None);
        assert!(warm.iter().all(|source| source.reading_factor == 1.0));
        assert_eq!(reckon_with_cold_files(&mut []), None);
        assert_eq!(
            reckon_with_cold_files(&mut cold[..1]),
            None,
            "nothing to compare with"
        );
    }

    #[test]
    fn each_round_has_paths_of_its_own_to_the_same_images() {
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<PathBuf> = ["a/x.nii", "b/x.nii", "a/y.nii"]
            .map(|name| folder.path().join(name))
            .to_vec();
        for image in &images {
            std::fs::create_dir_all(image.parent().unwrap()).unwrap();
            std::fs::write(image, image.as_os_str().as_encoded_bytes()).unwrap();
        }
        for rounds in [1, 3, 4] {
            let list = write_list(folder.path(), &images, rounds).unwrap();
            let text = std::fs::read_to_string(list).unwrap();
            let paths: Vec<&str> = text.lines().collect();
            assert_eq!(paths.len(), 3 * rounds);
            let distinct: std::collections::BTreeSet<&&str> = paths.iter().collect();
            assert_eq!(distinct.len(), paths.len());
            for (place, path) in paths.iter().enumerate() {
                let image = &images[place % 3];
                assert_eq!(std::fs::read(path).unwrap(), std::fs::read(image).unwrap());
                assert_eq!(Path::new(path).file_name(), image.file_name());
            }
        }
    }

    #[test]
    fn workers_never_outnumber_cpus() {
        assert_eq!(configurations(20, 1, true), [(1, 1)]);
        assert_eq!(configurations(20, 2, true), [(1, 1), (2, 1), (1, 2)]);
        assert_eq!(configurations(20, 64, true), [(1, 1), (4, 1), (1, 4)]);
        assert_eq!(configurations(20, 64, false), [(1, 1), (1, 4)]);
    }
}
