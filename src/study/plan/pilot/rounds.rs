//! How often a run of the pilot goes through its images, and by which paths.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::measured::waiting_for_disk_s;
use crate::report::{Report, Status};
use crate::run::RESULTS_BEHIND_A_WORKER;

/// How long a run takes at least, seconds; the images are smoothed again and again until then. Tenths of a second would tell
/// more of the moment than of the machine.
const LEAST_RUN_S: f64 = 1.0;
/// Results that wait for the disk when their workers have ended are ignored up to this part of a run.
const WAITING_PART: f64 = 0.1;
/// Where results pile up before the disk, a worker does so many times as many images as may wait there. It waits for several
/// at once and then for none, and where in this a run ends must not weigh.
const QUEUES: usize = 12;
/// How long a run may take, seconds, for more results to wait for the disk.
const LONG_RUN_S: f64 = 20.0;
/// A run goes through its images at most so many times.
const MOST_ROUNDS: usize = 100;

/// The path of an image with its folder's links and `..` resolved.
pub(super) fn in_its_real_folder(image: &Path) -> Result<PathBuf, String> {
    let absolute = std::path::absolute(image);
    let resolved = absolute.and_then(|path| match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => Ok(folder.canonicalize()?.join(name)),
        _ => Ok(path),
    });
    resolved.map_err(|error| format!("{}: {error}", image.display()))
}

/// How many times a run needs to go through the pilot's `images`, where one on so many `workers` that went through them
/// `rounds` times was too short by its report; `None` where that was long enough, or nearly.
pub(super) fn longer(
    report: &Report,
    images: usize,
    workers: usize,
    rounds: usize,
) -> Option<usize> {
    let needed = rounds_needed(report, images, workers);
    (needed > rounds + rounds / 2).then_some(needed)
}

/// How many times a run of `workers` needs to go through the pilot's `images`, by the report of one that did so some times.
fn rounds_needed(report: &Report, images: usize, workers: usize) -> usize {
    let starts = report
        .images
        .iter()
        .filter(|image| image.status() == Status::Done)
        .map(|image| image.start_s);
    let began_s = starts.fold(f64::INFINITY, f64::min);
    if began_s.is_infinite() {
        return 1;
    }
    let worked_s = (report.elapsed_s - began_s).max(1e-3);
    let round_s = worked_s / (report.images.len() as f64 / images as f64);
    let for_time = (LEAST_RUN_S / round_s).ceil() as usize;
    let for_disk = if waiting_for_disk_s(report) > WAITING_PART * worked_s {
        let all_waiting = (QUEUES * RESULTS_BEHIND_A_WORKER * workers).div_ceil(images);
        all_waiting.min((LONG_RUN_S / round_s) as usize)
    } else {
        1
    };
    for_time.max(for_disk).clamp(1, MOST_ROUNDS)
}

/// A list of the pilot's images on the disk, for one run.
#[derive(Clone, Debug)]
pub(super) struct RunList {
    /// Where it is.
    pub path: PathBuf,
    /// How many times it goes through the images.
    pub rounds: usize,
    /// Why it does not do so as often as asked for.
    pub shortened: Option<String>,
    /// Of each path in it, as reports say it, the image.
    images: HashMap<String, PathBuf>,
}

impl RunList {
    /// Writes the list of a run that goes through the images so many times into `folder`: as they are, then by way of links
    /// to their folders, so that results have names of their own. Where links cannot be made, fewer times.
    ///
    /// # Errors
    /// A sentence when the list cannot be written.
    pub fn write(folder: &Path, images: &[PathBuf], rounds: usize) -> Result<Self, String> {
        use std::os::unix::ffi::OsStrExt;
        let mut folders: Vec<&Path> = images.iter().filter_map(|image| image.parent()).collect();
        folders.sort_unstable();
        folders.dedup();
        let mut paths = images.to_vec();
        let (mut made, mut shortened) = (1, None);
        for round in 2..=rounds {
            let links = folder.join(format!("round-{round}"));
            if let Err(error) = link_all(&links, &folders) {
                shortened = Some(error.to_string());
                break;
            }
            paths.extend(images.iter().filter_map(|image| {
                let number = folders.binary_search(&image.parent()?).ok()?;
                Some(links.join(number.to_string()).join(image.file_name()?))
            }));
            made = round;
        }
        let path = folder.join(format!("list-{made}"));
        let mut bytes = Vec::new();
        for image in &paths {
            bytes.extend_from_slice(image.as_os_str().as_bytes());
            bytes.push(b'\n');
        }
        std::fs::write(&path, &bytes)
            .map_err(|error| format!("{}: cannot be written: {error}", path.display()))?;
        let names = paths.iter().map(|path| path.display().to_string());
        Ok(Self {
            path,
            rounds: made,
            shortened,
            images: names.zip(images.iter().cycle().cloned()).collect(),
        })
    }

    /// Gives a report's images, of however many rounds, the names of what they are.
    pub fn name_by_image(&self, report: &mut Report) {
        for row in &mut report.images {
            if let Some(image) = self.images.get(&row.input) {
                row.input = image.display().to_string();
            }
        }
    }
}

/// Makes a folder of links to these folders, called by their places.
fn link_all(links: &Path, folders: &[&Path]) -> std::io::Result<()> {
    std::fs::create_dir_all(links)?;
    for (number, to) in folders.iter().enumerate() {
        match std::os::unix::fs::symlink(to, links.join(number.to_string())) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
            _ => (),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::source;
    use super::*;

    #[test]
    fn runs_last_a_second_and_until_results_pile_up() {
        let of = |report: &Report, images, workers| rounds_needed(report, images, workers);
        let run = |images, wait_s| source(images, 0.001, wait_s).report;
        assert_eq!(of(&run(24, 0.0), 24, 1), 5, "0.24 s each");
        assert_eq!(of(&run(48, 0.0), 24, 1), 5, "after two rounds too");
        assert_eq!(of(&run(200, 0.0), 200, 1), 1);
        // 96 images are twelve times what may wait; 20 images took 0.2 s while their results took two more to the disk.
        assert_eq!(of(&run(20, 2.0), 20, 1), 5);
        assert_eq!(of(&run(20, 2.0), 20, 4), 9, "2.2 s a round");
        assert_eq!(of(&run(20, 20.0), 20, 4), 1, "that would take too long");
        let mut failed = run(20, 0.0);
        failed
            .images
            .iter_mut()
            .for_each(|image| image.end = crate::study::plan::measured::tests::failed_end());
        assert_eq!(of(&failed, 20, 1), 1);
        failed.images.clear();
        assert_eq!(of(&failed, 20, 1), 1);
    }

    #[test]
    fn a_run_that_is_nearly_long_enough_is_kept() {
        let run = |images| source(images, 0.001, 0.0).report;
        assert_eq!(longer(&run(24), 24, 1, 1), Some(5));
        assert_eq!(longer(&run(96), 24, 1, 4), None);
        assert_eq!(longer(&run(48), 24, 1, 2), Some(5));
        assert_eq!(longer(&run(240), 24, 1, 10), None);
    }

    #[test]
    fn images_of_all_rounds_have_one_name() {
        // Reports have the images in the order of their names, in which 2 is before 10; folders are linked in another.
        let folder = tempfile::tempdir().unwrap();
        let images: Vec<PathBuf> = [1, 2, 10]
            .map(|number| folder.path().join(format!("sub-{number}/T1.nii")))
            .to_vec();
        for image in &images {
            std::fs::create_dir_all(image.parent().unwrap()).unwrap();
        }
        let list = RunList::write(folder.path(), &images, 3).unwrap();
        let text = std::fs::read_to_string(&list.path).unwrap();
        let mut paths: Vec<&str> = text.lines().collect();
        paths.reverse();
        let mut report = source(paths.len(), 0.001, 0.0).report;
        for (row, path) in report.images.iter_mut().zip(&paths) {
            row.input = (*path).to_owned();
        }
        list.name_by_image(&mut report);
        for (row, path) in report.images.iter().zip(&paths) {
            let folder = Path::new(path).parent().unwrap().canonicalize().unwrap();
            assert_eq!(Path::new(&row.input).parent().unwrap(), folder);
        }
    }

    #[test]
    fn without_links_there_are_fewer_rounds() {
        let folder = tempfile::tempdir().unwrap();
        let images = [folder.path().join("a.nii"), folder.path().join("b.nii")];
        // A file has the name that the third round's folder would have.
        std::fs::write(folder.path().join("round-3"), "").unwrap();
        let list = RunList::write(folder.path(), &images, 9).unwrap();
        assert_eq!(list.rounds, 2);
        assert!(list.shortened.is_some());
        let text = std::fs::read_to_string(&list.path).unwrap();
        assert_eq!(text.lines().count(), 4);
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
            let list = RunList::write(folder.path(), &images, rounds).unwrap();
            assert_eq!(list.rounds, rounds);
            let text = std::fs::read_to_string(list.path).unwrap();
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
}
