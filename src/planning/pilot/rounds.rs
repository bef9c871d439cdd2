//! How often a run of the pilot goes through its images, and by which paths.

use std::io::Write;
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

/// How many times a run of `workers` needs to go through the pilot's `images`, by the report of one that did so some times.
pub(super) fn rounds_needed(report: &Report, images: usize, workers: usize) -> usize {
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
        let all_waiting = (QUEUES * RESULTS_BEHIND_A_WORKER * workers).div_ceil(images);
        all_waiting.min((LONG_RUN_S / round_s) as usize)
    } else {
        1
    };
    for_time.max(for_disk).clamp(1, MOST_ROUNDS)
}

/// Gives a report's images, of however many rounds, the names of what they are.
pub(super) fn name_by_image(report: &mut Report, images: &[PathBuf]) {
    for row in &mut report.images {
        let image = &images[row.index.saturating_sub(1) % images.len()];
        if image.file_name() == Path::new(&row.input).file_name() {
            row.input = image.display().to_string();
        }
    }
}

/// A list of images on the disk.
#[derive(Clone, Debug)]
pub(super) struct ImageListFile {
    /// Where it is.
    pub path: PathBuf,
    /// How many times it goes through the images.
    pub rounds: usize,
}

/// Writes the list of a run that goes through the images so many times: as they are, then by way of links to their folders,
/// so that results have names of their own. Where there can be no links, it goes through them once.
pub(super) fn write_list(
    folder: &Path,
    images: &[PathBuf],
    rounds: usize,
) -> Result<ImageListFile, String> {
    use std::os::unix::ffi::OsStrExt;
    let told = |path: &Path, error: std::io::Error| {
        format!("{}: cannot be written: {error}", path.display())
    };
    let mut folders: Vec<&Path> = images.iter().filter_map(|image| image.parent()).collect();
    folders.sort_unstable();
    folders.dedup();
    let mut paths = images.to_vec();
    let mut made = 1;
    'rounds: for round in 2..=rounds {
        let links = folder.join(format!("round-{round}"));
        std::fs::create_dir_all(&links).map_err(|error| told(&links, error))?;
        for (number, to) in folders.iter().enumerate() {
            match std::os::unix::fs::symlink(to, links.join(number.to_string())) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    tracing::debug!("{}: no links: {error}", links.display());
                    break 'rounds;
                }
                _ => (),
            }
        }
        paths.extend(images.iter().filter_map(|image| {
            let number = folders.binary_search(&image.parent()?).ok()?;
            Some(links.join(number.to_string()).join(image.file_name()?))
        }));
        made = round;
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
    Ok(ImageListFile { path, rounds: made })
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
