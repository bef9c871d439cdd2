//! One image's way: read → filter → write, each stage timed. Knows nothing of ranks.
//!
//! One thread does one stage after the other. Several threads that share an image are a team (`team`): they smooth and
//! compress its beginning while its end is still being read.

pub(crate) mod cost;
pub mod outcome;
mod team;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::filter::gaussian::PerAxis;
use crate::filter::nonfinite::{self, NonFinite, NonFiniteScratch};
use crate::filter::{self, Filter, OutputSpec, Rounding, Stream};
use crate::image_io::{
    Cause, CompressionLevel, GrowingFile, Header, Image, ImageError, NamelessOutput, OpenedInput,
    ReadSummary, Workspace, WriteOptions,
};
use crate::report::FilterDescription;
use crate::text::printable;
use crate::volume::Volume;

use outcome::{Failure, FailureKind, FileId, Outcome, Stage};
use team::{Board, EndOnDrop, Made, Member};

/// What is done to every image.
#[derive(Clone, Debug)]
pub struct ImageJob {
    /// The filter.
    pub filter: Filter,
    /// The results' type.
    pub output: OutputSpec,
    /// What becomes of voxels that are NaN or infinite.
    pub nan: NonFinite,
    /// How hard results are compressed.
    pub compression: CompressionLevel,
    /// Whether a result is on the disk before its name appears.
    pub sync: bool,
}

impl ImageJob {
    fn write_options(&self) -> WriteOptions {
        WriteOptions { sync: self.sync }
    }

    /// Taps of the kernels along all axes together, for an estimate of an image's cost; of a voxel of 2 mm with `--fwhm`.
    pub fn kernel_width_vox(&self) -> f64 {
        const USUAL_VOXEL_MM: [f64; 3] = [2.0; 3];
        let Filter::Gaussian(gaussian) = &self.filter;
        let radii = gaussian.radius_vox(USUAL_VOXEL_MM).unwrap_or_default();
        radii.iter().map(|&radius| 2.0 * radius as f64 + 1.0).sum()
    }

    /// Everything that shapes a result's bytes besides its input: two jobs with equal options write equal results.
    pub fn options(&self) -> serde_json::Value {
        let mut options = serde_json::json!({
            "filter": self.filter,
            "output": self.output,
            "compression": self.compression.get(),
        });
        if self.nan != NonFinite::default() {
            options["nan"] = self.nan.name().into();
        }
        // A number that was written and read may differ in its last digit from one that was not: all are.
        serde_json::from_str(&options.to_string()).unwrap_or(options)
    }

    /// The filter as it was asked for, for the report.
    pub fn describe(&self) -> FilterDescription {
        let Filter::Gaussian(gaussian) = &self.filter;
        let xyz =
            |values: Option<PerAxis>| values.map_or(Vec::new(), |values| values.xyz().to_vec());
        // Sigma in voxels holds for every image, so the voxel size does not matter.
        let radii = gaussian
            .sigma
            .and_then(|_| gaussian.radius_vox([1.0; 3]).ok());
        FilterDescription {
            name: self.filter.name().to_owned(),
            sigma_vox: xyz(gaussian.sigma),
            fwhm_mm: xyz(gaussian.fwhm),
            boundary: gaussian.boundary.name().to_owned(),
            cval: gaussian.cval,
            truncate: gaussian.truncate,
            radius_vox: radii.map_or(Vec::new(), |radii| radii.to_vec()),
            output_type: self.output.output_type.to_string(),
            round: match self.output.round {
                Rounding::Truncate => "truncate",
                Rounding::Nearest => "nearest",
            }
            .to_owned(),
            nan: self.nan.name().to_owned(),
        }
    }
}

/// Brings a result to the disk, where that was asked for, and gives it its name; notes in `outcome` how long that took and
/// what was written.
///
/// # Errors
/// [`Failure`] with the cause; nothing that looks like a result is left behind.
pub fn publish(made: NamelessOutput, outcome: &mut Outcome) -> Result<Vec<FileId>, Failure> {
    let started = Instant::now();
    let published = made.publish();
    outcome.timings.publish_s = started.elapsed().as_secs_f64();
    let files = published.map_err(|error| failure(Stage::Write, &error))?;
    outcome.bytes_out = files.iter().map(|file| file.bytes).sum();
    Ok(files)
}

/// A worker's own buffers, reused from image to image.
pub struct ImageWorker<'a> {
    job: &'a ImageJob,
    /// One for each thread where several share an image, the leader's first; none where one carries it alone.
    members: Vec<Member>,
    workspace: Workspace,
    image: Image,
    scratch: filter::Scratch,
    non_finite: NonFiniteScratch,
    folder_made: PathBuf,
}

impl<'a> ImageWorker<'a> {
    /// A worker with empty buffers; they grow with the first image.
    pub fn new(job: &'a ImageJob) -> Self {
        Self::with_threads(job, 1)
    }

    /// A worker that carries each image with `threads` threads. The results are the same for any number.
    pub fn with_threads(job: &'a ImageJob, threads: usize) -> Self {
        let members = if threads > 1 { threads } else { 0 };
        let mut worker = Self {
            job,
            members: (0..members).map(|_| Member::new(job.compression)).collect(),
            workspace: Workspace::new(job.compression),
            image: Image::default(),
            scratch: filter::Scratch::with_threads(threads),
            non_finite: NonFiniteScratch::default(),
            folder_made: PathBuf::new(),
        };
        worker.need_memory(false);
        worker
    }

    /// Says what an image needs; `twice` where input and result lie in memory at the same time.
    fn need_memory(&mut self, twice: bool) {
        let (output, nan) = (self.job.output, self.job.nan);
        self.workspace.set_memory_need(move |header| {
            let (datatype, scaled) = (header.datatype(), header.scaling().is_some());
            let voxels = header
                .shape()
                .iter()
                .fold(1_u64, |all, &length| all.saturating_mul(length as u64));
            let more = voxels.saturating_mul(nonfinite::memory_bytes_per_voxel(nan, datatype));
            let alone = output
                .memory_bytes(header.shape(), datatype, scaled)
                .saturating_add(more);
            if !twice {
                return alone;
            }
            let result = output.resolve_for(datatype, scaled).size_bytes();
            let both = voxels.saturating_mul((datatype.size_bytes() + result) as u64);
            alone.max(both)
        });
    }

    /// Refuses images that need more memory than this, before it is taken.
    pub fn set_memory_limit(&mut self, limit_bytes: Option<u64>) {
        self.workspace.set_memory_limit(limit_bytes);
    }

    /// Gives the memory of the last images back; the next one takes its own anew.
    pub fn release_memory(&mut self) {
        self.image = Image::default();
        self.scratch = filter::Scratch::with_threads(self.members.len());
        self.non_finite = NonFiniteScratch::default();
    }

    /// Carries one image its whole way. `outcome` is filled stage by stage, also when one fails; where several threads share
    /// the image, a stage's seconds are those of all of them.
    ///
    /// # Errors
    /// [`Failure`] with the stage and the cause; nothing that looks like a result is left behind.
    pub fn process(
        &mut self,
        input: &Path,
        output: &Path,
        outcome: &mut Outcome,
    ) -> Result<Vec<FileId>, Failure> {
        let made = self.make(input, None, output, outcome)?;
        publish(made, outcome)
    }

    /// [`ImageWorker::process`] but for the last step: the result is complete and has no name yet. [`publish`] gives it
    /// one, in another thread perhaps, since that waits for the disk. `fetched` is the input's opened file, where there is one.
    ///
    /// # Errors
    /// Those of [`ImageWorker::process`].
    pub(crate) fn make(
        &mut self,
        input: &Path,
        mut fetched: Option<OpenedInput>,
        output: &Path,
        outcome: &mut Outcome,
    ) -> Result<NamelessOutput, Failure> {
        if !self.members.is_empty() {
            self.need_memory(true);
            let done = self.process_together(input, fetched.take(), output, outcome);
            self.need_memory(false);
            match done {
                // It may still fit when the result takes the input's place.
                Err(Failure {
                    kind: FailureKind::NeedsMemory { .. },
                    ..
                }) => (outcome.timings, outcome.input) = Default::default(),
                Err(failure) => return Err(failure),
                Ok(None) => return self.filter_and_write(input, output, outcome),
                Ok(Some(made)) => return Ok(made),
            }
        }
        let begun = Instant::now();
        let read = self.workspace.read_fetched(input, fetched, &mut self.image);
        outcome.timings.read_s = begun.elapsed().as_secs_f64();
        self.was_read(input, read, outcome)?;
        self.filter_and_write(input, output, outcome)
    }

    /// Notes what was read.
    fn was_read(
        &self,
        input: &Path,
        read: Result<ReadSummary, ImageError>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let read = read.map_err(|error| failure(Stage::Read, &error))?;
        let header = &self.image.header;
        let facts = &mut outcome.input;
        facts.bytes = read.bytes_in;
        facts.files = read.files;
        facts.voxels = self.image.volume.len() as u64;
        facts.datatype = Some(header.datatype());
        facts.scaled = header.scaling().is_some();
        let voxel_size_mm = header.voxel_size_mm();
        facts.voxel_size_mm = Some(voxel_size_mm);
        let Filter::Gaussian(gaussian) = &self.job.filter;
        facts.sigma_vox = gaussian.sigma_vox(voxel_size_mm).ok();
        self.warn_of_header(input);
        Ok(())
    }

    /// Carries one image with all members, later slices being read while earlier ones are already filtered and written.
    /// `None` where the image cannot be done so: it is then read, and no more.
    fn process_together(
        &mut self,
        input: &Path,
        fetched: Option<OpenedInput>,
        output: &Path,
        outcome: &mut Outcome,
    ) -> Result<Option<NamelessOutput>, Failure> {
        let mut members = std::mem::take(&mut self.members);
        let count = members.len();
        let board = Board::default();
        let begun = Instant::now();
        let mut nonfinite_voxels = 0;
        let read = std::thread::scope(|scope| {
            let _end = EndOnDrop(&board);
            let Some((own, others)) = members.split_first_mut() else {
                return self.workspace.read_fetched(input, fetched, &mut self.image);
            };
            team::start(scope, &board, others);
            let Self {
                workspace,
                image,
                scratch,
                folder_made,
                job,
                ..
            } = self;
            let read = workspace.read_with(input, fetched, image, &mut |header, volume, next| {
                let begun =
                    begin_together(job, header, volume, scratch, count, output, folder_made);
                let Some((stream, file)) = begun else {
                    return next(volume.voxels.as_bytes_mut());
                };
                board.begin_stream(stream, file, count);
                let (slabs, stream) = board.to_read();
                let (datatype, scaling) = (volume.datatype, volume.scaling);
                let mut found = 0;
                for slab in slabs {
                    // SAFETY: nobody uses a slab before `has_read` says that it is there.
                    let bytes = unsafe { stream.unread(slab.clone()) };
                    let len = next(bytes)?;
                    found += len;
                    if len < bytes.len() {
                        break;
                    }
                    nonfinite_voxels += nonfinite::count_stored(datatype, scaling, bytes);
                    board.has_read(slab.end);
                }
                Ok(found)
            });
            outcome.timings.read_s = begun.elapsed().as_secs_f64();
            if read.is_ok() && board.has_begun() {
                board.work(own);
            }
            read
        });
        self.members = members;
        self.was_read(input, read, outcome)?;
        if !board.has_begun() {
            return Ok(None);
        }
        outcome.input.nonfinite_voxels = nonfinite_voxels;
        let Made {
            file,
            stream,
            spent,
        } = board.made();
        if let Some(stream) = stream {
            stream.finish(&mut self.image.volume);
        }
        outcome.timings.filter_s = spent.filter_s;
        outcome.timings.write_s = spent.write_s;
        let made = file.and_then(GrowingFile::finish);
        made.map(Some)
            .map_err(|error| failure(Stage::Write, &error))
    }

    fn filter_and_write(
        &mut self,
        input: &Path,
        output: &Path,
        outcome: &mut Outcome,
    ) -> Result<NamelessOutput, Failure> {
        let begun = Instant::now();
        let filtered = nonfinite::apply_with(
            self.job.nan,
            &self.job.filter,
            &self.job.output,
            &mut self.image.volume,
            &mut self.scratch,
            &mut self.non_finite,
        );
        outcome.timings.filter_s = begun.elapsed().as_secs_f64();
        outcome.input.nonfinite_voxels = filtered.map_err(|error| Failure {
            stage: Stage::Filter,
            error: format!("{}: {error}", input.display()),
            kind: FailureKind::Own,
        })?;

        let begun = Instant::now();
        let made = self.write(output);
        outcome.timings.write_s = begun.elapsed().as_secs_f64();
        made
    }

    fn write(&mut self, output: &Path) -> Result<NamelessOutput, Failure> {
        make_folder(output, &mut self.folder_made)?;
        let options = self.job.write_options();
        let written = if self.members.is_empty() {
            self.workspace.write_nameless(output, &self.image, &options)
        } else {
            self.write_together(output, &options)
        };
        written.map_err(|error| failure(Stage::Write, &error))
    }

    /// Compresses a finished image with all members.
    fn write_together(
        &mut self,
        output: &Path,
        options: &WriteOptions,
    ) -> Result<NamelessOutput, ImageError> {
        let Image { header, volume } = &self.image;
        let level = self.job.compression;
        let Some(file) = GrowingFile::begin(output, header, volume, level, options)? else {
            return self.workspace.write_nameless(output, &self.image, options);
        };
        let board = Board::default();
        let voxel_bytes = volume.datatype.size_bytes();
        board.begin_ready(
            volume.voxels.as_bytes(),
            voxel_bytes,
            file,
            self.members.len(),
        );
        std::thread::scope(|scope| {
            let _end = EndOnDrop(&board);
            if let Some((own, others)) = self.members.split_first_mut() {
                team::start(scope, &board, others);
                board.work(own);
            }
        });
        board.made().file.and_then(GrowingFile::finish)
    }

    /// Says what is odd in a header and was decided one way. Two voxel sizes matter only where one of them is used.
    fn warn_of_header(&self, input: &Path) {
        for warning in self.image.header.warnings() {
            let path = input.display().to_string();
            tracing::warn!("{}: {warning}", printable(&path));
        }
        let Filter::Gaussian(gaussian) = &self.job.filter;
        if gaussian.fwhm.is_none() {
            return;
        }
        if let Some(sizes) = self.image.header.voxel_size_disagreement() {
            tracing::warn!(
                "{}: voxels are {:?} mm by pixdim but {:?} mm by the affine; --fwhm goes by the affine",
                printable(&input.display().to_string()),
                sizes.pixdim_mm,
                sizes.affine_mm
            );
        }
    }
}

/// Prepares filter and output of an image that is about to be read. `None` where its slices cannot go through one after the
/// other, or where something is wrong that is better said at its own stage.
fn begin_together(
    job: &ImageJob,
    header: &Header,
    volume: &mut Volume,
    scratch: &mut filter::Scratch,
    threads: usize,
    output: &Path,
    folder_made: &mut PathBuf,
) -> Option<(Stream, GrowingFile)> {
    // What is not finite is treated before the first axis, on the whole volume.
    let treated = job.nan != NonFinite::Propagate && volume.datatype.is_float();
    if header.is_big_endian() || treated {
        return None;
    }
    let stream = Stream::begin(&job.filter, &job.output, volume, scratch, threads).ok()??;
    let stored = (volume.datatype, volume.scaling);
    (volume.datatype, volume.scaling) = (stream.result_type(), None);
    let options = job.write_options();
    let file = make_folder(output, folder_made)
        .ok()
        .and_then(|()| GrowingFile::begin(output, header, volume, job.compression, &options).ok())
        .flatten();
    (volume.datatype, volume.scaling) = stored;
    let Some(file) = file else {
        stream.abandon(volume);
        return None;
    };
    Some((stream, file))
}

/// Makes the folder of an output, unless it is the one that was made last.
fn make_folder(output: &Path, made: &mut PathBuf) -> Result<(), Failure> {
    let folder = output.parent().unwrap_or(Path::new(""));
    if made != folder {
        std::fs::create_dir_all(folder).map_err(|error| Failure {
            stage: Stage::Write,
            error: format!("{}: the folder cannot be made: {error}", folder.display()),
            kind: match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureKind::NoSpace,
                _ => FailureKind::Own,
            },
        })?;
        folder.clone_into(made);
    }
    Ok(())
}

fn failure(stage: Stage, error: &ImageError) -> Failure {
    Failure {
        stage,
        error: error.to_string(),
        kind: match error.cause {
            Cause::NoSpace { .. } => FailureKind::NoSpace,
            Cause::OverMemoryLimit { needed, .. } => FailureKind::NeedsMemory {
                needed_bytes: needed,
            },
            _ => FailureKind::Own,
        },
    }
}
