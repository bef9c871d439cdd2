//! Destination: where results, their sidecar files and pictures are written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::ImageJob;
use super::failure::{failure, is_out_of_files};
use super::outcome::{Failure, FailureKind, FileId, Outcome, Stage};
use super::picture::{self, Views};
use super::problem::Problem;
use crate::image_io::{Existing, Folders, ImageError, StagedFile, WriteOptions, stage_sidecar};
use crate::images::bids::Metadata;

/// Syncs a result if the job requires it, and renames it. Stores the duration and the bytes written in
/// `outcome`. `record` is called with the files before they are renamed.
///
/// # Errors
/// [`Failure`] with the cause; nothing that looks like a result is left behind.
pub(crate) fn publish(
    made: StagedFile,
    existing: &Existing,
    outcome: &mut Outcome,
    record: impl FnOnce(&[FileId]) -> std::io::Result<()>,
) -> Result<Vec<FileId>, Failure> {
    let started = Instant::now();
    let published = made.publish_over(existing, record);
    outcome.timings.publish_s = started.elapsed().as_secs_f64();
    let files = published.map_err(|error| failure(Stage::Write, &error))?;
    outcome.bytes_out = files.iter().map(|file| file.bytes).sum();
    Ok(files)
}

/// The paths of an image, its result and its mask.
#[derive(Clone, Copy)]
pub(crate) struct Paths<'a> {
    pub(crate) input: &'a Path,
    pub(crate) output: &'a Path,
    /// The mask, if each image has its own.
    pub(crate) mask: Option<&'a Path>,
    /// The second result, if there is one.
    pub(crate) second: Option<&'a Path>,
    /// Whether the result has sidecar files.
    pub(crate) bids: bool,
}

/// The output folder of a run.
#[derive(Clone, Debug)]
pub(crate) struct OutputFolder {
    pub(crate) path: PathBuf,
    /// Whether links to folders below it are followed.
    pub(crate) follow_links: bool,
    /// The metadata of the images, if they are those of a BIDS dataset.
    pub(crate) metadata: Option<Arc<Metadata>>,
}

/// The sidecar files of a result: paths and contents.
pub(super) type Sidecars = Vec<(PathBuf, Vec<u8>)>;

/// Where results are written: in existing folders, or below an output folder, whose folders are created.
#[derive(Clone, Debug, Default)]
pub(super) struct Destination(pub(super) Option<OutputFolder>);

impl Destination {
    pub(super) fn write_options(&self, job: &ImageJob, result: &Path) -> WriteOptions {
        let folders = match &self.0 {
            None => Folders::Existing,
            Some(output) if output.follow_links => Folders::Made,
            Some(output) => {
                let folder = result.parent();
                let below = folder.and_then(|folder| folder.strip_prefix(&output.path).ok());
                Folders::Own(below.map_or(0, |below| below.components().count()))
            }
        };
        WriteOptions {
            sync: job.sync,
            folders,
        }
    }

    /// The sidecar files of a result.
    ///
    /// # Errors
    /// The reason why the metadata of the image cannot be read.
    pub(super) fn sidecars(&self, paths: Paths<'_>) -> Result<Sidecars, Failure> {
        let metadata = self.0.as_ref().and_then(|output| output.metadata.as_ref());
        let Some(metadata) = metadata.filter(|_| paths.bids) else {
            return Ok(Vec::new());
        };
        metadata
            .sidecars(paths.input, paths.output, paths.second)
            .map_err(|error| Failure {
                stage: Stage::Read,
                error: format!("{}: {}", paths.input.display(), error.text),
                problem: Some(Problem::Metadata),
                kind: match error.source {
                    Some(error) if is_out_of_files(&error) => FailureKind::NoFreeFile,
                    _ => FailureKind::Own,
                },
            })
    }

    /// Writes the sidecar files of a result, to be published with it.
    ///
    /// # Errors
    /// See [`Cause`](crate::image_io::Cause).
    pub(super) fn stage_sidecars(
        &self,
        job: &ImageJob,
        made: StagedFile,
        sidecars: &[(PathBuf, Vec<u8>)],
    ) -> Result<StagedFile, ImageError> {
        sidecars.iter().try_fold(made, |made, (path, content)| {
            let options = self.write_options(job, path);
            Ok(made.with_second(stage_sidecar(path, content, &options)?))
        })
    }

    /// Writes the picture of a result and returns its name; `None` without an output folder.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn picture(
        &self,
        result: &Path,
        before: &Views,
        after: &Views,
    ) -> std::io::Result<Option<String>> {
        let output = self.0.as_ref().map(|output| output.path.as_path());
        let below = output.and_then(|output| Some((output, result.strip_prefix(output).ok()?)));
        below
            .map(|(output, below)| picture::write(output, below, before, after))
            .transpose()
    }
}
