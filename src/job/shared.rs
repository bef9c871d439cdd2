//! Shared: one image on several ranks. Each rank computes sections of the result, which are consecutive
//! slices, and one rank writes all sections to the file.
//!
//! A rank reads, besides its own slices, those that the filter reads around them, and computes earlier stages
//! there itself, so that ranks exchange no voxels. Parts are the same as on one rank, and so are their bits.
//! A chunk of the file that spans two sections is compressed by the rank that writes the file.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::ImageJob;
use super::destination::{Destination, OutputFolder, Paths};
use super::failure::{failure, filter_failure, mask_failure};
use super::mask::{MaskReader, ReadMask};
use super::memory;
use super::outcome::{Failure, FailureKind, InputFacts, Outcome, Stage, Timings};
use super::problem::Problem;
use super::steps::record_facts;
use super::team::{self, EndOnDrop, Made, Member, Team, TeamError};
use super::warning::Warning;
use crate::filter::device::Device;
use crate::filter::nonfinite::NonFinite;
use crate::filter::{
    Division, Filter, FilterError, ImageInfo, ImageRun, Layout, Planes, Prepared, ThreadScratch,
};
use crate::image_io::{
    ChunkEncoder, ChunkedWriter, Header, ImageError, ImageReader, InPlace, SliceReader, StagedFile, Written,
};
use crate::images::probe::ImageFacts;
use crate::volume::Volume;

pub(crate) use file::{SharedFile, finish_in_place};
pub(crate) use read::{Feed, Inflated, Inflater, Needs, PIECE_BYTES, PIECES_AHEAD, pieces_of};
pub(crate) use section::{Section, SectionFacts};

use read::{Seen, Source, can_be_fed, read_slices, reading_failure};
use seconds::{Files, Share};

/// Images with fewer bytes of voxels are not split automatically: messages would take longer than they save.
const LEAST_BYTES: u64 = 16 << 20;

/// Whether an image may have as many bytes, as far as the file's size shows it.
pub(crate) fn may_be_large(facts: &ImageFacts) -> bool {
    const MOST_RATIO: u64 = 4;
    let bytes = facts
        .raw_bytes
        .unwrap_or(facts.file_bytes.saturating_mul(MOST_RATIO));
    bytes >= LEAST_BYTES
}

/// The largest fraction of the time of one rank that a split image may take to be split automatically.
const MOST_TIME: f64 = 0.8;

/// Sections of an uncompressed image are no larger than this many bytes, unless their margins then cost too
/// much.
const SECTION_BYTES: u64 = 128 << 20;

/// The largest factor of computing margins twice for smaller sections.
const MOST_MARGINS: f64 = 1.25;

/// The largest number of sections of each rank. Planning takes time for each.
const MOST_SECTIONS: usize = 64;

/// Bytes of memory for messages between ranks.
const MESSAGE_BYTES: u64 = 4 * BATCH_BYTES as u64;

/// Bytes of compressed chunks in a message, about.
pub(crate) const BATCH_BYTES: usize = 2 << 20;

/// The sections of an image.
pub(crate) type Sections = Vec<Range<usize>>;

/// The decision about an image.
#[derive(Debug)]
pub(crate) enum Plan {
    /// It is split.
    Sections {
        /// Slices counted through all volumes.
        sections: Sections,
        /// What each needs if one rank inflates the image for all; otherwise empty.
        needs: Needs,
        /// Bytes in memory of the largest section.
        bytes: u64,
    },
    /// It is not split, for this reason.
    Whole(String),
}

/// What a rank needs for its sections of images. The buffers grow with the first section.
pub(crate) struct SectionWorker<'a> {
    job: &'a ImageJob,
    threads: usize,
    stop: &'a AtomicBool,
    destination: Destination,
    limit_bytes: Option<u64>,
    reader: ImageReader,
    masks: MaskReader,
    volume: Volume,
    planes: Planes,
    device: Option<Arc<Device>>,
}

impl<'a> SectionWorker<'a> {
    /// A worker with so many threads. Sections are left unfinished once `stop` is set.
    pub(crate) fn new(
        job: &'a ImageJob,
        threads: usize,
        output: Option<OutputFolder>,
        limit_bytes: Option<u64>,
        stop: &'a AtomicBool,
    ) -> Self {
        SectionWorker {
            job,
            threads: threads.max(1),
            stop,
            destination: Destination(output),
            limit_bytes,
            reader: ImageReader::new(),
            masks: MaskReader::default(),
            volume: Volume::default(),
            planes: Planes::default(),
            device: None,
        }
    }

    /// The same, computing on the device if there is one.
    pub(crate) fn on_device(self, device: Option<&Arc<Device>>) -> Self {
        SectionWorker {
            device: device.cloned(),
            ..self
        }
    }

    /// Divides an image into sections for `ranks` ranks, section `n` for rank `n` modulo `ranks`. With
    /// `always`, also if that is not faster. Stores the facts about the image in `outcome`.
    ///
    /// # Errors
    /// The reason why the image cannot be read.
    pub(crate) fn plan(
        &mut self,
        paths: Paths<'_>,
        ranks: usize,
        always: bool,
        outcome: &mut Outcome,
    ) -> Result<Plan, Failure> {
        let whole = |reason: &str| Ok(Plan::Whole(reason.to_owned()));
        let at = |error: ImageError| failure(Stage::Read, &error);
        let encoder = ChunkedWriter::encoder(paths.output, self.job.compression);
        let Some(encoder) = encoder.map_err(|error| failure(Stage::Write, &error))? else {
            return whole("its result is a pair of files");
        };
        let Some(reader) = self.reader.open_slices(paths.input).map_err(at)? else {
            return whole("it is a pair of files");
        };
        let header = reader.header.clone();
        let work = Files {
            inflated: reader.is_gzip(),
            deflated: encoder.compresses(),
            threads: self.threads,
        };
        let files = vec![reader.finish().map_err(at)?];
        if let Some(reason) = self.hindrance(&header, paths) {
            return whole(&reason);
        }
        let image = self.info(&header);
        if !always && header.voxel_bytes().is_none_or(|bytes| bytes < LEAST_BYTES) {
            return whole("it is small");
        }
        if !always && self.job.qc {
            return whole("--qc measures whole images, and one rank can hold it");
        }
        let (prepared, layout) = self
            .prepare(&image, ranks)
            .map_err(|error| filter_failure(paths.input, &error))?;
        record_facts(self.job, &header, files, outcome);
        if self.job.qc {
            let text = "has no figures and no picture of --qc, because ranks share it";
            outcome.warnings.push(Warning::new("unmeasured", text.to_owned()));
        }
        Ok(self.divide(prepared.as_ref(), &layout, ranks, always, work))
    }

    /// Why an image cannot be split.
    fn hindrance(&self, header: &Header, paths: Paths<'_>) -> Option<String> {
        let job = self.job;
        let counts = job.nan != NonFinite::Propagate || (self.refuses() && job.mask.is_some());
        if paths.second.is_some() {
            return Some("it has a second result".to_owned());
        }
        if job.has_own_mask() {
            return Some("its mask consists of its own voxels".to_owned());
        }
        (counts && header.datatype().is_float()).then(|| {
            "its NaN and infinite voxels have to be counted first, because of --nan or --mask".to_owned()
        })
    }

    /// Whether the filter refuses images with NaN or infinite voxels.
    fn refuses(&self) -> bool {
        self.job.filter.refuses_nonfinite()
    }

    /// The image with this header for the filter. Sections in which a refused voxel is found fail.
    fn info(&self, header: &Header) -> ImageInfo {
        let info = memory::image_info(header);
        let nonfinite_voxels = self.refuses().then_some(0);
        self.job.masked(&ImageInfo {
            nonfinite_voxels,
            ..info
        })
    }

    /// Why the filter refuses the image.
    fn refusal(&self, input: &Path, header: &Header) -> Failure {
        let image = ImageInfo {
            nonfinite_voxels: Some(1),
            ..self.info(header)
        };
        match self.job.filter.prepare(&image, &self.job.shared()) {
            Err(error) => filter_failure(input, &error),
            Ok(_) => changed(input),
        }
    }

    fn prepare(&self, image: &ImageInfo, ranks: usize) -> Result<(Box<dyn Prepared>, Layout), FilterError> {
        let prepared = self.job.filter.prepare(image, &self.job.shared())?;
        let division = Division::among_ranks(ranks, self.threads);
        let layout = Layout::of(prepared.as_ref(), image, division);
        Ok((prepared, layout))
    }

    fn divide(
        &self,
        prepared: &dyn Prepared,
        layout: &Layout,
        ranks: usize,
        always: bool,
        work: Files,
    ) -> Plan {
        let stages = prepared.stages();
        let cuts = match stages.is_empty() {
            true => Vec::new(),
            false => layout.cuts(stages, ranks),
        };
        if cuts.len() < 2 {
            return Plan::Whole("its volumes cannot be divided into slabs with this filter".to_owned());
        }
        let messages = MESSAGE_BYTES + if work.inflated { 8 * PIECE_BYTES } else { 0 };
        let share = |held: &Layout, slices: usize| Share {
            filter_s: held.cost_s(prepared),
            read: held.read_bytes(),
            result_bytes: slices as u64 * held.result_slice_bytes(),
        };
        let whole_s = work.seconds(&[share(layout, layout.slices())], 1, false);
        let mut best = None;
        let mut count = ranks.min(cuts.len());
        loop {
            let ends = (0..=count).map(|section| match cuts.len() * section / count {
                0 => 0,
                cut => cuts[cut - 1],
            });
            let ends: Vec<usize> = ends.collect();
            let sections: Sections = ends.windows(2).map(|ends| ends[0]..ends[1]).collect();
            let (mut shares, mut bytes, mut largest) = (Vec::new(), 0, 0);
            for slices in &sections {
                let mut held = layout.clone();
                held.restrict(stages, slices.clone());
                let share = share(&held, slices.len());
                // The compressed chunks are held until they are written.
                let with_chunks = held.bytes().saturating_add(share.result_bytes);
                bytes = bytes.max(with_chunks.saturating_add(messages));
                largest = largest.max(share.result_bytes);
                shares.push(share);
            }
            let mut needs: Needs = shares.iter().map(|share| share.read.clone()).collect();
            if !work.inflated || !can_be_fed(&needs, ranks) {
                needs.clear();
            }
            let inflated_each_time = work.inflated && needs.is_empty();
            let longest_s = work.seconds(&shares, ranks, !needs.is_empty());
            let fits = self.limit_bytes.is_none_or(|limit| bytes <= limit);
            let first = || (longest_s, sections.clone(), needs.clone(), bytes);
            let &mut (least_s, ..) = best.get_or_insert_with(first);
            let cheap = longest_s <= least_s * MOST_MARGINS;
            if !fits || cheap {
                best = Some((least_s.min(longest_s), sections, needs, bytes));
            }
            let small = inflated_each_time || largest <= SECTION_BYTES || !cheap;
            if (fits && small) || count == cuts.len() || count >= MOST_SECTIONS * ranks {
                break;
            }
            count = (2 * count).min(cuts.len());
        }
        match best {
            Some((longest_s, sections, needs, bytes)) if always || longest_s <= MOST_TIME * whole_s => {
                Plan::Sections {
                    sections,
                    needs,
                    bytes,
                }
            }
            _ => Plan::Whole("its ranks together would hardly be faster than one".to_owned()),
        }
    }

    /// Starts the file of an image's result.
    ///
    /// # Errors
    /// The reason why it cannot be written.
    pub(crate) fn begin_file(&mut self, paths: Paths<'_>) -> Result<SharedFile, Failure> {
        let at = |error: ImageError| failure(Stage::Write, &error);
        let sidecars = self.destination.sidecars(paths)?;
        let opened = self.reader.open_slices(paths.input);
        let Some(reader) = opened.map_err(|error| failure(Stage::Read, &error))? else {
            return Err(changed(paths.input));
        };
        let header = reader.header;
        let image = self.info(&header);
        let prepared = self.job.filter.prepare(&image, &self.job.shared());
        let prepared = prepared.map_err(|error| filter_failure(paths.input, &error))?;
        describe(&header, &mut self.volume);
        if let Some(last) = prepared.stages().last() {
            self.volume.datatype = last.writes[0];
        }
        self.volume.scaling = None;
        let options = self.destination.write_options(self.job, paths.output);
        let level = self.job.compression;
        let file = ChunkedWriter::begin_any(paths.output, &header, &self.volume, level, &options);
        let encoder = ChunkedWriter::encoder(paths.output, level).map_err(at)?;
        let (Some(file), Some(encoder)) = (file.map_err(at)?, encoder) else {
            return Err(changed(paths.input));
        };
        Ok(SharedFile::new(file, encoder, self.volume.datatype, sidecars))
    }

    /// Completes the file.
    ///
    /// # Errors
    /// The reason why it cannot be written.
    pub(crate) fn finish_file(&self, file: SharedFile, outcome: &mut Outcome) -> Result<StagedFile, Failure> {
        if let Some(found) = file.found {
            outcome.add_survey(found, file.datatype);
        }
        let made = file.finish(|made, sidecars| self.destination.stage_sidecars(self.job, made, sidecars));
        made.map_err(|error| failure(Stage::Write, &error))
    }

    /// Reads, filters and compresses a section of an image that `ranks` ranks share. With a file, writes all
    /// but its ends there. Its voxels come from the feed if there is one.
    ///
    /// # Errors
    /// [`Failure`] with the stage and the cause.
    pub(crate) fn make(
        &mut self,
        paths: Paths<'_>,
        ranks: usize,
        slices: Range<usize>,
        (feed, in_place): (Option<Feed>, Option<&InPlace>),
    ) -> Result<Section, Failure> {
        let started = Instant::now();
        let mask = self.read_mask(paths)?;
        let mut reader = std::mem::take(&mut self.reader);
        let at = |error: ImageError| reading_failure(&error);
        let Some(mut image) = reader.open_slices(paths.input).map_err(at)? else {
            return Err(changed(paths.input));
        };
        describe(&image.header, &mut self.volume);
        let info = self.info(&image.header);
        if let Some(fault) = mask.as_ref().and_then(|mask| mask.fault(&image.header)) {
            return Err(Failure {
                stage: Stage::Read,
                error: format!("{}: {fault}", paths.input.display()),
                problem: Some(Problem::Mask),
                kind: FailureKind::Own,
            });
        }
        let (mask, mask_files) = mask.map_or((None, Vec::new()), |read| {
            (Some(Arc::clone(&read.mask)), read.files.clone())
        });
        let run = self.prepare(&info, ranks).and_then(|(prepared, mut layout)| {
            let total = layout.cuts(prepared.stages(), 1).last().copied().unwrap_or(0);
            if slices.end > total {
                return Ok(None);
            }
            layout.restrict(prepared.stages(), slices.clone());
            let bytes = layout.bytes();
            if self.limit_bytes.is_some_and(|limit| bytes > limit) {
                return Err(FilterError::Memory { bytes });
            }
            ImageRun::begin(prepared, layout, &mut self.volume, &mut self.planes, mask).map(Some)
        });
        let run = run.map_err(|error| filter_failure(paths.input, &error))?;
        let Some(run) = run else {
            return Err(changed(paths.input));
        };
        let mut source = feed.map_or(Source::File, Source::Feed);
        let known = image.header.warnings().len();
        let mut made = self.compute(paths, run, (&mut image, &mut source), (slices, in_place), started)?;
        let found = image.header.warnings()[known..].iter();
        made.facts.warnings = found.map(Warning::from).collect();
        made.facts.file = image.finish().map_err(at)?;
        made.facts.mask = mask_files;
        self.reader = reader;
        Ok(made)
    }

    fn compute(
        &mut self,
        paths: Paths<'_>,
        run: ImageRun,
        (image, source): (&mut SliceReader<'_>, &mut Source),
        (slices, in_place): (Range<usize>, Option<&InPlace>),
        started: Instant,
    ) -> Result<Section, Failure> {
        let encoder = || {
            ChunkedWriter::encoder(paths.output, self.job.compression)
                .ok()
                .flatten()
        };
        let scratch = || ThreadScratch::on(self.device.clone());
        let member = |encoder| Member::with(encoder, scratch());
        let members = (0..self.threads).map(|_| encoder().map(member));
        let mut members: Vec<Member> = members.flatten().collect();
        let slice_bytes = run.result_slice_bytes();
        let bytes = slices.start * slice_bytes..slices.end * slice_bytes;
        let area = match in_place {
            Some(file) => file.range(bytes.clone()),
            None => whole_chunks(&bytes),
        };
        let team = Team::new(Some(self.stop));
        team.begin_part(run, area.clone(), in_place);
        let mut seen = Seen {
            refused: self.refuses(),
            nonfinite_voxels: 0,
            survey: self.job.survey(&self.volume),
            read_s: 0.0,
        };
        let read = std::thread::scope(|scope| {
            let _end = EndOnDrop(&team);
            let Some((own, others)) = members.split_first_mut() else {
                return Ok(true);
            };
            team::start(scope, &team, others);
            let accepted = read_slices(&team, &self.volume, (image, source), &slices, &mut seen)?;
            seen.read_s = (started.elapsed() - source.waited()).as_secs_f64();
            if accepted {
                team.work(own);
            }
            Ok(accepted)
        });
        let made = team.into_made();
        if !read.map_err(|error| reading_failure(&error))? {
            return Err(self.refusal(paths.input, &image.header));
        }
        let Some(Made {
            run,
            chunks: compressed,
            error,
            spent,
            ..
        }) = made
        else {
            return Err(filter_failure(paths.input, &FilterError::Stopped));
        };
        match error {
            None => {}
            Some(TeamError::Filter(error)) => return Err(filter_failure(paths.input, &error)),
            Some(TeamError::Write(error)) => return Err(failure(Stage::Write, &error)),
        }
        let ends = [bytes.start..area.start, area.end..bytes.end];
        // SAFETY: the buffers are unchanged, and all slices of the section are complete.
        let [head, tail] = ends.map(|bytes| unsafe { run.result(bytes) }.to_vec());
        // SAFETY: as above.
        let found = seen
            .survey
            .map(|survey| survey.found(unsafe { run.result(bytes) }));
        let timings = Timings {
            read_s: seen.read_s,
            filter_s: spent.filter_s,
            write_s: spent.write_s,
            publish_s: 0.0,
        };
        Ok(Section {
            facts: SectionFacts {
                timings,
                nonfinite_voxels: seen.nonfinite_voxels,
                found,
                ..SectionFacts::default()
            },
            head,
            written: in_place.map_or_else(Written::default, |_| Written::of(&compressed)),
            chunks: in_place.map_or(compressed, |_| Vec::new()),
            tail,
            waited_s: source.waited().as_secs_f64(),
        })
    }

    /// The mask of an image, if it has one.
    fn read_mask(&mut self, paths: Paths<'_>) -> Result<Option<Arc<ReadMask>>, Failure> {
        let choice = self.job.mask.as_ref().map(|mask| &mask.choice);
        let Some(file) = choice.and_then(|choice| choice.file(paths.mask)) else {
            return Ok(None);
        };
        let read = self.masks.read(file, self.limit_bytes);
        read.map(Some).map_err(|error| mask_failure(paths.input, &error))
    }

    /// Adds what is recorded about the mask of an image.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    pub(crate) fn record_mask(&mut self, paths: Paths<'_>, outcome: &mut Outcome) -> Result<(), Failure> {
        if let Some(mask) = self.read_mask(paths)? {
            outcome.input.files.extend(mask.files.iter().cloned());
            outcome.warnings.extend(mask.warnings.iter().cloned());
        }
        Ok(())
    }
}

/// The bytes of whole chunks among these bytes of the result.
fn whole_chunks(bytes: &Range<usize>) -> Range<usize> {
    const CHUNK: usize = ChunkEncoder::CHUNK_BYTES;
    let start = bytes.start.next_multiple_of(CHUNK);
    let end = bytes.end - bytes.end % CHUNK;
    match start < end {
        true => start..end,
        false => bytes.end..bytes.end,
    }
}

/// Refuses a section that was not made from the files that the outcome names.
///
/// # Errors
/// The file that differs.
pub(crate) fn is_of(section: &SectionFacts, facts: &InputFacts) -> Result<(), Failure> {
    let Some((input, mask)) = facts.files.split_first() else {
        return Err(changed(&section.file.path));
    };
    if !input.seems_same(&section.file) {
        return Err(changed(&input.path));
    }
    // A rank that only inflates the image has read no mask.
    let differs = section
        .mask
        .iter()
        .zip(mask)
        .find(|(of_section, known)| !known.seems_same(of_section) || known.crc32 != of_section.crc32);
    differs.map_or(Ok(()), |(_, known)| {
        Err(Failure {
            problem: Some(Problem::Mask),
            error: format!(
                "{}: the mask is not the same file on all ranks, or was changed meanwhile; put it on a file \
                 system that all nodes share",
                known.path.display()
            ),
            ..changed(&known.path)
        })
    })
}

/// The failure of an image whose file is another one than before.
pub(crate) fn changed(input: &Path) -> Failure {
    Failure {
        stage: Stage::Read,
        error: format!("{}: was changed while it was read", input.display()),
        problem: Some(Problem::ChangedWhileRead),
        kind: FailureKind::Own,
    }
}

/// Sets the fields of a volume from its header.
fn describe(header: &Header, volume: &mut Volume) {
    volume.shape.clear();
    volume.shape.extend_from_slice(header.shape());
    volume.voxel_size_mm = header.voxel_size_mm();
    volume.grid = Some(header.itk_grid());
    volume.geometry = Some(header.geometry());
    volume.datatype = header.datatype();
    volume.scaling = header.scaling();
}

mod file;
mod read;
mod seconds;
mod section;
#[cfg(test)]
mod tests;
