//! Steps: one image from input to a complete result without a final name, on one or several threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::ImageJob;
use super::destination::{Destination, OutputFolder, Paths, publish};
use super::failure::{failure, filter_failure, mask_failure, may_pass};
use super::gauge::{self, Gauge};
use super::mask::{MaskReader, ReadMask};
use super::memory;
use super::outcome::{Failure, FailureKind, FileId, Outcome, Stage};
use super::problem::Problem;
use super::quality::Quality;
use super::survey::{Found, Survey};
use super::team::{self, EndOnDrop, Made, Member, Team, TeamError};
use super::warning::{self, Warning};
use crate::filter::device::Device;
use crate::filter::nonfinite::{self, NonFinite};
use crate::filter::{self, Division, Filter, FilterError, ImageInfo, ImageRun, Layout, Mask, Planes};
use crate::image_io::{
    Cause, ChunkedWriter, Existing, Header, Image, ImageError, ImageReader, ImageWriter, OpenedInput,
    ReadSummary, StagedFile, WriteOptions,
};
use crate::images::MaskChoice;
use crate::volume::{Datatype, Volume, VoxelBuffer};

/// A worker's own buffers, reused from image to image.
pub struct ImageWorker<'a> {
    job: &'a ImageJob,
    /// One for each thread, the leader's first.
    members: Vec<Member>,
    reader: ImageReader,
    masks: MaskReader,
    writer: ImageWriter,
    image: Image,
    buffers: Buffers,
    memory_limit: Option<u64>,
    stop: Option<&'a AtomicBool>,
    destination: Destination,
    /// Whether reading failed with an error that may be temporary.
    read_error_may_pass: bool,
}

/// Buffers kept from image to image, apart from the image.
#[derive(Default)]
struct Buffers {
    planes: Planes,
    intensities: VoxelBuffer,
    /// The gauge's.
    slice: VoxelBuffer,
}

impl<'a> ImageWorker<'a> {
    /// A worker with empty buffers; they grow with the first image.
    pub fn new(job: &'a ImageJob) -> Self {
        Self::with_threads(job, 1)
    }

    /// A worker that processes each image with `threads` threads. The results do not depend on the number.
    pub fn with_threads(job: &'a ImageJob, threads: usize) -> Self {
        let threads = threads.max(1);
        let mut reader = ImageReader::new();
        let need = job.clone();
        reader.set_memory_need(move |header| {
            memory::least_image_bytes(&need, &memory::image_info(header), threads)
        });
        Self {
            job,
            members: (0..threads).map(|_| Member::new(job.compression)).collect(),
            reader,
            masks: MaskReader::default(),
            writer: ImageWriter::new().compression(job.compression),
            image: Image::default(),
            buffers: Buffers::default(),
            memory_limit: None,
            stop: None,
            destination: Destination::default(),
            read_error_may_pass: false,
        }
    }

    /// Sets the memory limit: images that need more fail before memory is allocated.
    pub fn set_memory_limit(&mut self, limit_bytes: Option<u64>) {
        self.memory_limit = limit_bytes;
        self.reader.set_memory_limit(limit_bytes);
    }

    /// Computes on a device. The results do not depend on it.
    pub(crate) fn set_device(&mut self, device: Option<&Arc<Device>>) {
        for member in &mut self.members {
            member.scratch = filter::ThreadScratch::on(device.cloned());
        }
    }

    /// Creates missing folders of results below this one.
    pub(crate) fn set_output(&mut self, output: OutputFolder) {
        self.destination = Destination(Some(output));
    }

    /// Leaves images unfinished once `stop` is set.
    pub fn set_stop(&mut self, stop: &'a AtomicBool) {
        self.stop = Some(stop);
    }

    /// Frees the buffers; the next image allocates them again.
    pub fn release_memory(&mut self) {
        self.image = Image::default();
        self.buffers = Buffers::default();
        self.masks.release_memory();
        for member in &mut self.members {
            member.scratch.release();
        }
    }

    /// Processes one image completely. `outcome` is filled stage by stage, also if one fails. If several
    /// threads share the image, stage times are sums over them.
    ///
    /// # Errors
    /// [`Failure`] with the stage and the cause; nothing that looks like a result is left behind.
    pub fn process(
        &mut self,
        input: &Path,
        output: &Path,
        outcome: &mut Outcome,
    ) -> Result<Vec<FileId>, Failure> {
        let paths = Paths {
            input,
            output,
            mask: None,
            second: None,
            bids: false,
        };
        let made = self.make(paths, None, outcome)?;
        publish(made, &Existing::Any, outcome, |_| Ok(()))
    }

    /// [`ImageWorker::process`] without the last step: the result is complete but has no final name yet.
    /// [`publish`] renames it, perhaps in another thread, because that waits for the disk. `fetched` is the
    /// input's file if it is already open.
    pub(crate) fn make(
        &mut self,
        paths: Paths<'_>,
        fetched: Option<OpenedInput>,
        outcome: &mut Outcome,
    ) -> Result<StagedFile, Failure> {
        self.read_error_may_pass = false;
        let made = self.make_once(paths, fetched, outcome);
        if made.is_ok() || !self.read_error_may_pass {
            return made;
        }
        // Network file systems and disks can have temporary errors.
        let spent_s = outcome.timings.worker_s();
        (outcome.timings, outcome.input) = Default::default();
        outcome.warnings.clear();
        outcome.retries = 1;
        let made = self.make_once(paths, None, outcome);
        outcome.timings.read_s += spent_s;
        made
    }

    fn make_once(
        &mut self,
        paths: Paths<'_>,
        fetched: Option<OpenedInput>,
        outcome: &mut Outcome,
    ) -> Result<StagedFile, Failure> {
        let Paths { input, output, .. } = paths;
        let sidecars = self.destination.sidecars(paths)?;
        let mut members = std::mem::take(&mut self.members);
        let team = Team::new(self.stop);
        let mut seen = Seen::default();
        let filtered = self.read_and_filter(&team, &mut members, (paths, fetched), &mut seen, outcome);
        self.members = members;
        let made = team.into_made();
        filtered?;
        let Some(Made {
            run,
            file,
            error,
            spent,
            ..
        }) = made
        else {
            return Err(filter_failure(input, &FilterError::Stopped));
        };
        outcome.timings.filter_s += spent.filter_s;
        outcome.timings.write_s = spent.write_s;
        let second = run.second_result();
        match error {
            None => run.finish(&mut self.image.volume),
            Some(TeamError::Filter(error)) => return Err(filter_failure(input, &error)),
            Some(TeamError::Write(error)) => return Err(failure(Stage::Write, &error)),
        }
        if let Some(survey) = seen.survey {
            let Volume { voxels, datatype, .. } = &self.image.volume;
            outcome.add_survey(survey.found(voxels.as_bytes()), *datatype);
        }
        if let Some(before) = seen.gauge {
            self.measure_result(before, paths, outcome)?;
        }
        let started = Instant::now();
        let made = match file {
            Some(file) => file.finish(),
            None => {
                let options = self.destination.write_options(self.job, output);
                self.writer.stage(output, &self.image, &options)
            }
        };
        let made = made.and_then(|made| match (paths.second, second) {
            (Some(path), Some(number)) => Ok(made.with_second(self.stage_second(path, number)?)),
            _ => Ok(made),
        });
        let made = made.and_then(|made| self.destination.stage_sidecars(self.job, made, &sidecars));
        outcome.timings.write_s += started.elapsed().as_secs_f64();
        made.map_err(|error| failure(Stage::Write, &error))
    }

    /// Writes the second result of an image whose first one is written. It is in the plane of this number.
    fn stage_second(&mut self, path: &Path, number: usize) -> Result<StagedFile, ImageError> {
        let options = self.destination.write_options(self.job, path);
        let volume = &mut self.image.volume;
        volume.datatype = Datatype::Float32;
        std::mem::swap(&mut volume.voxels, self.buffers.planes.buffer(number));
        let staged = self.writer.stage(path, &self.image, &options);
        std::mem::swap(&mut self.image.volume.voxels, self.buffers.planes.buffer(number));
        staged
    }

    /// Reads and filters an image with all members. If possible, slices are filtered and compressed while
    /// later ones are still being read.
    fn read_and_filter(
        &mut self,
        team: &Team<'_>,
        members: &mut [Member],
        (paths, opened): (Paths<'_>, Option<OpenedInput>),
        seen: &mut Seen,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let Paths { input, output, .. } = paths;
        let count = members.len();
        let started = Instant::now();
        let mask = self.read_mask(paths)?;
        let mask = mask.as_deref();
        std::thread::scope(|scope| {
            let _end = EndOnDrop(team);
            let Some((own, others)) = members.split_first_mut() else {
                return Ok(());
            };
            team::start(scope, team, others);
            let Self {
                job,
                reader,
                image,
                buffers,
                memory_limit,
                destination,
                ..
            } = self;
            let streaming = Streaming {
                job,
                threads: count,
                limit_bytes: *memory_limit,
                output,
                mask: mask.map(|mask| &mask.mask),
                options: destination.write_options(job, output),
            };
            let read = reader.read_with(input, opened, image, &mut |header, volume, next| {
                seen.survey = job.survey(volume);
                let fits = mask.is_none_or(|mask| mask.fault(header).is_none());
                match fits.then(|| streaming.begin(header, volume, buffers)).flatten() {
                    None => {
                        let found = next(volume.voxels.as_bytes_mut())?;
                        seen.add(volume.voxels.as_bytes());
                        Ok(found)
                    }
                    Some((run, file)) => {
                        seen.gauge = job.gauge(volume, &mut buffers.slice).ok().flatten();
                        team.begin(run, Some(file), count);
                        let nonfinite_voxels = &mut outcome.input.nonfinite_voxels;
                        read_slabs(team, volume, next, nonfinite_voxels, seen)
                    }
                }
            });
            outcome.timings.read_s = started.elapsed().as_secs_f64();
            self.was_read(read, outcome)?;
            if let Some(mask) = mask {
                self.mask_was_read(input, mask, outcome)?;
            }
            if team.run().is_none() {
                seen.gauge = self.measure().map_err(|error| filter_failure(input, &error))?;
                outcome.timings.read_s = started.elapsed().as_secs_f64();
                let mask = mask.map(|mask| Arc::clone(&mask.mask));
                self.begin_whole(team, count, (input, output), mask, outcome)?;
            }
            team.work(own);
            Ok(())
        })
    }

    /// Reads the file of an image's mask, if it has one.
    fn read_mask(&mut self, paths: Paths<'_>) -> Result<Option<Arc<ReadMask>>, Failure> {
        let choice = self.job.mask.as_ref().map(|mask| &mask.choice);
        let Some(file) = choice.and_then(|choice| choice.file(paths.mask)) else {
            return Ok(None);
        };
        self.masks
            .read(file, self.memory_limit)
            .map(Some)
            .map_err(|error| {
                self.read_error_may_pass = may_pass(&error.cause);
                mask_failure(paths.input, &error)
            })
    }

    /// Records the mask of an image after reading.
    fn mask_was_read(&self, input: &Path, mask: &ReadMask, outcome: &mut Outcome) -> Result<(), Failure> {
        if let Some(fault) = mask.fault(&self.image.header) {
            return Err(Failure {
                stage: Stage::Read,
                error: format!("{}: {fault}", input.display()),
                problem: Some(Problem::Mask),
                kind: FailureKind::Own,
            });
        }
        outcome.input.files.extend(mask.files.iter().cloned());
        outcome.warnings.extend(mask.warnings.iter().cloned());
        Ok(())
    }

    /// Measures an image that was read and is not filtered yet, with `--qc`.
    fn measure(&mut self) -> Result<Option<Gauge>, FilterError> {
        let volume = &self.image.volume;
        let mut gauge = self.job.gauge(volume, &mut self.buffers.slice)?;
        if let Some(gauge) = &mut gauge {
            gauge.add(volume.voxels.as_bytes());
        }
        Ok(gauge)
    }

    /// Measures the result, and draws it and the image before.
    fn measure_result(
        &mut self,
        before: Gauge,
        paths: Paths<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let (before, views_before, slice) = before.finish();
        self.buffers.slice = slice;
        let after = self.measure();
        let after = after.map_err(|error| filter_failure(paths.input, &error))?;
        let Some((after, views_after, slice)) = after.map(Gauge::finish) else {
            return Ok(());
        };
        self.buffers.slice = slice;
        let picture = self
            .destination
            .picture(paths.output, &views_before, &views_after)
            .unwrap_or_else(|error| {
                outcome.warnings.push(warning::of_picture(&error));
                None
            });
        outcome.quality = Some(Box::new(Quality {
            before,
            after,
            picture,
        }));
        outcome.timings.filter_s += started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Starts the work on an image that was read.
    fn begin_whole(
        &mut self,
        team: &Team<'_>,
        threads: usize,
        (input, output): (&Path, &Path),
        mask: Option<Arc<Mask>>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let Buffers {
            planes, intensities, ..
        } = &mut self.buffers;
        let volume = &mut self.image.volume;
        let division = Division::among(threads, false);
        let shared = self.job.shared();
        let mask = match self.job.has_own_mask() {
            true => Mask::nonzero(volume).map(|mask| Some(Arc::new(mask))),
            false => Ok(mask),
        };
        let filtering = mask.map_err(FilterError::from).and_then(|mask| {
            let of_mask = mask.as_deref();
            let (found, prepared, layout) =
                filter::prepare(&self.job.filter, &shared, volume, of_mask, intensities, division)?;
            outcome.input.nonfinite_voxels = found;
            ImageRun::begin(prepared, layout, volume, planes, mask)
        });
        outcome.timings.filter_s = started.elapsed().as_secs_f64();
        let run = filtering.map_err(|error| filter_failure(input, &error))?;
        // A single thread compresses the result after filtering.
        let mut file = None;
        if threads > 1 {
            let header = &self.image.header;
            let options = self.destination.write_options(self.job, output);
            file = begin_file(self.job, header, volume, &run, output, &options)
                .map_err(|error| failure(Stage::Write, &error))?;
        }
        let slices = run.slices();
        team.begin(run, file, threads);
        team.has_read(slices);
        Ok(())
    }

    /// Records what was read.
    fn was_read(
        &mut self,
        read: Result<ReadSummary, ImageError>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        if let Err(error) = &read {
            self.read_error_may_pass = may_pass(&error.cause);
        }
        let read = read.map_err(|error| failure(Stage::Read, &error))?;
        record_facts(self.job, &self.image.header, read.files, outcome);
        Ok(())
    }
}

/// Records the facts about an image with this header, read from these files.
pub(super) fn record_facts(job: &ImageJob, header: &Header, files: Vec<FileId>, outcome: &mut Outcome) {
    let image = ImageInfo {
        nonfinite_voxels: Some(0),
        ..memory::image_info(header)
    };
    let facts = &mut outcome.input;
    facts.bytes = files.iter().map(|file| file.bytes).sum();
    facts.files = files;
    facts.voxels = image.voxels();
    facts.datatype = Some(header.datatype());
    facts.scaled = header.scaling().is_some();
    facts.voxel_size_mm = Some(header.voxel_size_mm());
    let prepared = job.filter.prepare(&job.masked(&image), &job.shared()).ok();
    facts.sigma_vox = prepared.as_ref().and_then(|prepared| prepared.sigma_vox());
    let in_mm = job.filter.uses_voxel_size();
    let used = job.voxel_size_used();
    outcome.warnings = warning::of_header(header, in_mm.then_some(used.as_str()), facts.sigma_vox);
    let of_filter = prepared.map_or(Vec::new(), |prepared| prepared.warnings());
    outcome.warnings.extend(of_filter.iter().map(Warning::from));
}

impl Outcome {
    /// Adds the warning about an image and its result of this type, if it was smoothed.
    pub(super) fn add_survey(&mut self, found: Found, datatype: Datatype) {
        let smoothed = |sigma: [f64; 3]| sigma.iter().any(|&sigma| sigma > 0.0);
        if self.input.sigma_vox.is_some_and(smoothed) {
            self.warnings.extend(found.warning(datatype));
        }
    }
}

impl ImageJob {
    /// Whether the mask of an image consists of its own voxels, so that the image has to be read first.
    pub(super) fn has_own_mask(&self) -> bool {
        self.mask
            .as_ref()
            .is_some_and(|mask| mask.choice == MaskChoice::Nonzero)
    }

    /// A survey of an image with integer input and integer result.
    pub(super) fn survey(&self, volume: &Volume) -> Option<Survey> {
        let integers = !self.output.resolve(volume).is_float() && !volume.datatype.is_float();
        integers.then(|| Survey::new(volume.datatype, volume.len()))
    }
}

/// What is learned from the voxels of an image before they are filtered.
#[derive(Default)]
struct Seen {
    survey: Option<Survey>,
    gauge: Option<Gauge>,
}

impl Seen {
    /// Takes note of the next voxels.
    fn add(&mut self, stored: &[u8]) {
        if let Some(survey) = &mut self.survey {
            survey.add(stored);
        }
        if let Some(gauge) = &mut self.gauge {
            gauge.add(stored);
        }
    }
}

/// How an image is filtered while it is read.
struct Streaming<'a> {
    job: &'a ImageJob,
    threads: usize,
    limit_bytes: Option<u64>,
    output: &'a Path,
    mask: Option<&'a Arc<Mask>>,
    options: WriteOptions,
}

impl Streaming<'_> {
    /// Prepares filter and file for an image before it is read. `None` if it has to be read first, or if
    /// there is an error that a later stage reports.
    fn begin(
        &self,
        header: &Header,
        volume: &mut Volume,
        buffers: &mut Buffers,
    ) -> Option<(ImageRun, ChunkedWriter)> {
        let job = self.job;
        // Non-finite voxels are counted, and perhaps replaced, in the whole volume.
        let treated =
            (job.nan != NonFinite::Propagate || job.filter.refuses_nonfinite()) && volume.datatype.is_float();
        if self.threads < 2 || header.is_big_endian() || treated || job.has_own_mask() {
            return None;
        }
        let image = job.masked(&ImageInfo::of(volume));
        let prepared = job.filter.prepare(&image, &job.shared()).ok()?;
        let division = Division::among(self.threads, true);
        let layout = Layout::of(prepared.as_ref(), &image, division);
        let bytes = layout.bytes().saturating_add(job.gauge_bytes(&image));
        if self.limit_bytes.is_some_and(|limit| bytes > limit) {
            return None;
        }
        if job.qc {
            // The gauge then finds its memory.
            gauge::reserve(volume, &mut buffers.slice).ok()?;
        }
        let run = ImageRun::begin(prepared, layout, volume, &mut buffers.planes, self.mask.cloned()).ok()?;
        let file = begin_file(job, header, volume, &run, self.output, &self.options);
        let file = file.ok().flatten();
        match file {
            Some(file) => Some((run, file)),
            None => {
                run.abandon(volume);
                None
            }
        }
    }
}

/// Reads the image slab by slab and counts its non-finite voxels.
fn read_slabs(
    team: &Team<'_>,
    volume: &Volume,
    next: &mut dyn FnMut(&mut [u8]) -> Result<usize, Cause>,
    nonfinite_voxels: &mut u64,
    seen: &mut Seen,
) -> Result<usize, Cause> {
    let Some(run) = team.run() else {
        return Ok(0);
    };
    let mut found = 0;
    for slab in &run.parts().to_read {
        // SAFETY: no thread uses a slab before `has_read` announces it.
        let bytes = unsafe { run.unread(slab.clone()) };
        let len = next(bytes)?;
        found += len;
        if len < bytes.len() {
            break;
        }
        seen.add(bytes);
        *nonfinite_voxels += nonfinite::count_stored(volume.datatype, volume.scaling, bytes);
        team.has_read(slab.end);
    }
    Ok(found)
}

/// Starts the file of a result; `None` if the result is not a single compressed file.
fn begin_file(
    job: &ImageJob,
    header: &Header,
    volume: &mut Volume,
    run: &ImageRun,
    output: &Path,
    options: &WriteOptions,
) -> Result<Option<ChunkedWriter>, ImageError> {
    let stored = (volume.datatype, volume.scaling);
    (volume.datatype, volume.scaling) = (run.result_type(), None);
    let file = ChunkedWriter::begin(output, header, volume, job.compression, options);
    (volume.datatype, volume.scaling) = stored;
    file
}

#[cfg(test)]
pub(super) mod tests;
