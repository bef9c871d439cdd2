//! The pilot: a few images of the list, smoothed here several times on one and on more workers, to measure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::listed::Listed;
use super::measured::{ImageClass, Source};
use crate::console;
use crate::launch::child::{How, Limits};
use crate::launch::{LocalMachine, LocalRun};
use crate::report::Report;
use crate::scaling::study::read_json;

/// How often each configuration is run: what differs between passes is what runs differ by.
const PASSES: usize = 5;
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

/// Runs the pilot; its reports in the order in which they were made. Nothing it wrote remains.
///
/// # Errors
/// A sentence when runs cannot be started, all fail, or the pilot is told to stop.
pub fn run(
    request: &PilotRequest<'_>,
    machine: &LocalMachine,
    listed: &Listed,
) -> Result<Vec<Source>, String> {
    let chosen = choose(listed, request.images);
    std::fs::create_dir_all(request.beside)
        .map_err(|error| format!("{}: cannot be made: {error}", request.beside.display()))?;
    let folder = tempfile::Builder::new()
        .prefix(".niimpi-pilot-")
        .tempdir_in(request.beside)
        .map_err(|error| format!("{}: cannot be written: {error}", request.beside.display()))?;
    let list = write_list(folder.path(), listed, &chosen)?;
    let configurations = configurations(chosen.len(), request.cpus, machine.has_ranks());
    if !request.quiet {
        console::complain(format!(
            "pilot: {} images, {} runs of each of {} configurations",
            chosen.len(),
            PASSES,
            configurations.len()
        ));
    }
    let begun = Instant::now();
    let mut sources = Vec::new();
    for pass in 0..PASSES {
        for &(ranks, threads) in &configurations {
            if let Some(source) = one(
                request,
                machine,
                folder.path(),
                &list,
                (ranks, threads),
                pass,
            )? {
                sources.push(source);
            }
        }
        if pass > 0 && begun.elapsed() > ENOUGH {
            break;
        }
    }
    Ok(sources)
}

fn write_list(folder: &Path, listed: &Listed, chosen: &[usize]) -> Result<PathBuf, String> {
    use std::os::unix::ffi::OsStrExt;
    let path = folder.join("list");
    let mut bytes = Vec::new();
    for &place in chosen {
        let input = std::path::absolute(&listed.found[place].0)
            .map_err(|error| format!("{}: {error}", listed.found[place].0.display()))?;
        bytes.extend_from_slice(input.as_os_str().as_bytes());
        bytes.push(b'\n');
    }
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|error| format!("{}: cannot be written: {error}", path.display()))?;
    Ok(path)
}

fn one(
    request: &PilotRequest<'_>,
    machine: &LocalMachine,
    folder: &Path,
    list: &Path,
    (ranks, threads): (usize, usize),
    pass: usize,
) -> Result<Option<Source>, String> {
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
    Ok(Some(Source {
        name,
        report,
        wall_s: Some(ended.wall_s),
        others_cpus: ended.others_cpus,
    }))
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

    #[test]
    fn workers_never_outnumber_cpus() {
        assert_eq!(configurations(20, 1, true), [(1, 1)]);
        assert_eq!(configurations(20, 2, true), [(1, 1), (2, 1), (1, 2)]);
        assert_eq!(configurations(20, 64, true), [(1, 1), (4, 1), (1, 4)]);
        assert_eq!(configurations(20, 64, false), [(1, 1), (1, 4)]);
    }
}
