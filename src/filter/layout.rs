//! Layout: the positions of a prepared filter's planes in memory, and the parts into which its stages are
//! divided.
//!
//! Everything is computed from the header, so the memory of an image is known before it is read.

use std::ops::{Add, Range};

use super::interface::{ImageInfo, Prepared, Reach, Source, Stage};
use super::mask::Mask;
use super::notes::Notes;
use super::slabs::{After, Part, Parts};
use crate::volume::Datatype;

/// Smallest size of a slab in bytes. Taking the next slab is then cheap compared with computing it.
const SLAB_BYTES: u64 = 1 << 20;

/// A slab that takes this many seconds is large enough, independent of its bytes.
const SLAB_S: f64 = 0.02;

/// Bands are multiples of this many columns, which are computed together.
const BAND_COLUMNS: usize = 64;

/// A buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The buffer of the volume's voxels, which contains the input.
    Voxels,
    /// The volume's spare buffer.
    Spare,
    /// An additional buffer for one block of volumes, by number.
    Extra(usize),
    /// An own buffer for all volumes, of a second result.
    Second(usize),
}

/// How an image is divided for filtering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Division {
    /// Threads that share the image.
    pub(crate) threads: usize,
    /// Whether slabs are finished in order while later slices are still being read. If the result overwrites
    /// the input, this needs memory for some more slices.
    pub(crate) streamed: bool,
    /// Smallest size of a slab in bytes.
    pub(super) slab_bytes: u64,
    /// Ranks that share the image, each for some slices of the result. They need about as many slabs, and
    /// bands of columns only where a stage reads whole columns.
    pub(super) ranks: usize,
}

impl Division {
    /// The whole image on one thread.
    pub(crate) const WHOLE: Division = Division::among(1, false);

    /// Several threads share the image.
    pub(crate) const fn among(threads: usize, streamed: bool) -> Self {
        Division {
            threads,
            streamed,
            slab_bytes: SLAB_BYTES,
            ranks: 1,
        }
    }

    /// `ranks` ranks of `threads` threads share the image.
    pub(crate) const fn among_ranks(ranks: usize, threads: usize) -> Self {
        Division {
            ranks,
            ..Division::among(threads, true)
        }
    }
}

/// How a stage is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Split {
    /// Into sets of slices.
    Slices,
    /// Into bands of whole columns along z.
    Columns,
}

/// What some slices of the result need. All slices are counted through all volumes, except those of buffers
/// between stages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// Whether each part of each stage is needed.
    pub(super) parts: Vec<Vec<bool>>,
    /// The slices of the buffer of the volume's voxels: those to read, and others that stages write there.
    pub(super) input: Range<usize>,
    /// The slices to read.
    pub(super) read: Range<usize>,
    /// The slices of the volume's spare buffer.
    pub(super) result: Range<usize>,
    /// The slices of each additional buffer.
    pub(super) extra: Vec<Range<usize>>,
}

/// The positions of the planes of one image, and the memory that they need.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(super) shape: [usize; 3],
    pub(super) volumes: usize,
    pub(super) input: Datatype,
    /// The type of the result.
    pub(super) result: Datatype,
    pub(super) result_place: Place,
    /// Number of slices by which the result precedes the input in the same buffer.
    pub(super) lead: usize,
    /// The places of the planes that each stage writes.
    pub(super) planes: Vec<Vec<Place>>,
    /// Bytes of each additional buffer.
    pub(super) extra_bytes: Vec<u64>,
    splits: Vec<Split>,
    /// Number of slabs of a 3-D volume.
    slabs: usize,
    /// Number of small volumes that are computed together; 1 if a volume has several slabs.
    pub(super) block: usize,
    threads: usize,
    scratch_bytes: u64,
    held_bytes: u64,
    pub(super) mask_bytes: u64,
    /// The part of the image that is held; `None` for all of it.
    pub(super) needed: Option<Needed>,
}

impl Layout {
    /// The layout for a prepared filter on an image.
    pub(crate) fn of(prepared: &dyn Prepared, image: &ImageInfo, division: Division) -> Self {
        let stages = prepared.stages();
        let shape = image.spatial_shape();
        let reach = stages.iter().map(furthest).max().unwrap_or(0);
        let slice_bytes = product([shape[0], shape[1], image.datatype.size_bytes()]).max(1);
        let slice_s: f64 = (0..stages.len())
            .map(|stage| prepared.cost_s(stage, product([shape[0], shape[1], 1])))
            .fold(0.0, f64::add);
        let thick = usize::try_from(division.slab_bytes.div_ceil(slice_bytes))
            .unwrap_or(usize::MAX)
            .min((SLAB_S / slice_s).ceil() as usize);
        let volumes = usize::try_from(image.volumes()).unwrap_or(usize::MAX).max(1);
        let thick = match division.ranks {
            1 => thick.max(2 * reach),
            ranks => {
                let pieces = ranks.saturating_mul(division.threads).max(1);
                let slices = shape[2].saturating_mul(volumes).div_ceil(pieces);
                // Stages with notes pass sums to the adjacent slab only. Without them, thin slabs keep the
                // slices around a section few.
                match has_notes(stages) {
                    true => thick.min(slices).max(2 * reach),
                    false => thick.max(reach).min(slices.max(1)),
                }
            }
        };
        let slabs = shape[2].div_ceil(thick.clamp(1, shape[2].max(1))).max(1);
        let block = match slabs {
            1 => division.slab_bytes / product(shape).saturating_mul(8).max(1),
            _ => 1,
        };
        let mut layout = Layout {
            shape,
            volumes,
            input: image.datatype,
            result: stages.last().map_or(image.datatype, |stage| stage.writes[0]),
            result_place: Place::Voxels,
            lead: 0,
            planes: Vec::new(),
            extra_bytes: Vec::new(),
            splits: Vec::new(),
            slabs,
            block: usize::try_from(block)
                .unwrap_or(usize::MAX)
                .clamp(1, volumes.div_ceil(division.ranks)),
            threads: division.threads.max(1),
            scratch_bytes: 0,
            held_bytes: match has_notes(stages) {
                true => Notes::bytes(stages.len(), volumes, slabs).saturating_add(prepared.held_bytes()),
                false => prepared.held_bytes(),
            },
            mask_bytes: image.mask_voxels.unwrap_or(0),
            needed: None,
        };
        layout.splits = (0..stages.len())
            .map(|stage| layout.split(stages, stage, division))
            .collect();
        layout.place(stages, division.streamed);
        let scratch =
            (0..stages.len()).map(|stage| prepared.scratch_bytes(stage, layout.slab_voxels(stages, stage)));
        layout.scratch_bytes = scratch.max().unwrap_or(0);
        layout
    }

    /// Bytes for the image: its voxels, the result if it has a separate buffer, planes between stages, the
    /// mask, and the buffers of threads.
    pub(crate) fn bytes(&self) -> u64 {
        let mut bytes = self.voxel_bytes();
        if self.result_place == Place::Spare {
            bytes = bytes.saturating_add(self.result_bytes());
        }
        let extra = self.extra_bytes.iter().copied();
        let threads = self.scratch_bytes.saturating_mul(self.threads as u64);
        extra
            .chain([threads, self.held_bytes, self.mask_bytes])
            .fold(bytes, u64::saturating_add)
    }

    /// Voxels of the largest slab of a stage, including its halo.
    fn slab_voxels(&self, stages: &[Stage], at: usize) -> u64 {
        let [nx, ny, nz] = self.shape;
        match self.splits[at] {
            Split::Columns => product([self.band(), 1, nz]),
            Split::Slices => {
                let thickest = nz.div_ceil(self.slabs);
                let around = thickest.saturating_add(furthest(&stages[at]).saturating_mul(2));
                product([nx, ny, around.min(nz)])
            }
        }
    }

    /// Columns of a band.
    fn band(&self) -> usize {
        let columns = self.shape[0].saturating_mul(self.shape[1]);
        let band = columns.div_ceil(self.threads).max(1);
        band.checked_next_multiple_of(BAND_COLUMNS)
            .unwrap_or(band)
            .min(columns)
    }

    /// Bytes of the buffer for the input.
    pub(super) fn voxel_bytes(&self) -> u64 {
        let held = self
            .needed
            .as_ref()
            .map_or(self.slices(), |needed| needed.input.len());
        let slices = (held as u64).saturating_add(self.lead as u64);
        let slice = product([self.shape[0], self.shape[1], self.input.size_bytes()]);
        slices.saturating_mul(slice)
    }

    /// Bytes of the buffer for the result.
    pub(super) fn result_bytes(&self) -> u64 {
        let held = self
            .needed
            .as_ref()
            .map_or(self.slices(), |needed| needed.result.len());
        (held as u64).saturating_mul(self.result_slice_bytes())
    }

    pub(crate) fn result_slice_bytes(&self) -> u64 {
        product([self.shape[0], self.shape[1], self.result.size_bytes()])
    }

    /// Number of slabs of a 3-D volume, for stages that are divided into slices.
    pub(super) fn slabs(&self) -> usize {
        self.slabs
    }

    /// Storage for the notes of all slabs, if a stage needs it.
    pub(super) fn notes(&self, stages: &[Stage]) -> Notes {
        match has_notes(stages) {
            true => Notes::new(stages.len(), self.volumes, self.slabs),
            false => Notes::default(),
        }
    }

    /// Number of slices of all 3-D volumes.
    pub(crate) fn slices(&self) -> usize {
        self.shape[2].saturating_mul(self.volumes)
    }

    fn split(&self, stages: &[Stage], at: usize, division: Division) -> Split {
        let stage = &stages[at];
        if stage.reads.iter().any(|&(_, reach)| reach == Reach::WholeZ) {
            return Split::Columns;
        }
        if !stage.in_place || furthest(stage) == 0 {
            return Split::Slices;
        }
        // Divided into slabs, the stage needs a separate plane for the result; divided into columns, it does
        // not.
        let source_fits = source_types(stages, stage, self.input)
            .all(|datatype| datatype.size_bytes() == self.input.size_bytes());
        let result_fits = stage.writes[0].size_bytes() == self.input.size_bytes();
        let fits = source_fits || result_fits || division.ranks > 1;
        match division.streamed && !wraps(stage) && fits {
            true => Split::Slices,
            false => Split::Columns,
        }
    }

    /// Assigns a place to each plane.
    fn place(&mut self, stages: &[Stage], streamed: bool) {
        self.planes = stages
            .iter()
            .map(|stage| vec![Place::Extra(usize::MAX); stage.writes.len()])
            .collect();
        let Some(last) = stages.len().checked_sub(1) else {
            return;
        };
        let mut placed = vec![false; last];
        let slides = self.splits[last] == Split::Slices && furthest(&stages[last]) > 0;
        let fits = self.result.size_bytes() == self.input.size_bytes();
        if !slides {
            let free = self.input_is_free(stages);
            self.result_place = if fits && free { Place::Voxels } else { Place::Spare };
            if stages[last].in_place
                && let Some(&(Source::Stage { stage, plane: 0 }, _)) = stages[last].reads.first()
                && stages[stage].writes[0].size_bytes() == self.result.size_bytes()
                && (self.result_place == Place::Spare || self.replaces_input(stages, stage))
            {
                self.planes[stage][0] = self.result_place;
                placed[stage] = true;
            }
        }
        let voxels_taken = !slides && self.result_place == Place::Voxels;
        for at in 0..last {
            if !placed[at] && !voxels_taken && self.replaces_input(stages, at) {
                self.planes[at][0] = Place::Voxels;
                placed[at] = true;
            }
            for plane in usize::from(placed[at])..stages[at].writes.len() {
                self.planes[at][plane] = Place::Extra(self.extra_bytes.len());
                self.add_extra(stages[at].writes[plane], self.block);
            }
        }
        if slides {
            self.place_sliding(stages, last, fits, streamed);
        }
        self.planes[last][0] = self.result_place;
        for plane in 1..stages[last].writes.len() {
            self.planes[last][plane] = Place::Second(self.extra_bytes.len());
            self.add_extra(stages[last].writes[plane], self.volumes);
        }
    }

    /// Adds a buffer for so many volumes.
    fn add_extra(&mut self, datatype: Datatype, volumes: usize) {
        let voxels = product(self.shape).saturating_mul(volumes as u64);
        let bytes = voxels.saturating_mul(datatype.size_bytes() as u64);
        self.extra_bytes.push(bytes);
    }

    /// Places a result that is computed slab by slab with a halo. If possible, it is written to the front of
    /// the input's buffer, some slices before those that are still read.
    fn place_sliding(&mut self, stages: &[Stage], last: usize, fits: bool, streamed: bool) {
        let reads_voxels = stages[last].reads.iter().any(|&(source, _)| match source {
            Source::Input => true,
            Source::Mask => false,
            Source::Reports { .. } => false,
            Source::Stage { stage, plane } => self.planes[stage][plane] == Place::Voxels,
        });
        self.result_place = Place::Spare;
        if !fits {
            return;
        }
        if !reads_voxels {
            if self.input_is_free(stages) {
                self.result_place = Place::Voxels;
            }
            return;
        }
        let below = stages[last]
            .reads
            .iter()
            .map(|&(_, reach)| match reach {
                Reach::Slices { below, .. } => below,
                Reach::WholeZ => usize::MAX,
            })
            .max()
            .unwrap_or(0);
        let thickest = self.shape[2].div_ceil(self.slabs).saturating_mul(self.block);
        // Each thread can compute a slab at the same time.
        let lead = below.saturating_add(self.threads.saturating_mul(thickest));
        // There is no room at the front if the voxels were read before, or if the last slice reads the first
        // one.
        let has_room = streamed && !wraps(&stages[last]) && lead < self.slices();
        if has_room && self.input_is_read_slice_by_slice(stages, last) {
            self.lead = lead;
            self.result_place = Place::Voxels;
        }
    }

    /// Whether the result may overwrite the input of finished slices.
    fn input_is_free(&self, stages: &[Stage]) -> bool {
        let last = stages.len() - 1;
        let reads_input = stages[last]
            .reads
            .iter()
            .any(|&(source, _)| source == Source::Input);
        if reads_input {
            let only = stages[last].reads.len() == 1 && stages[last].in_place;
            return only && (self.splits[last] == Split::Columns || furthest(&stages[last]) == 0);
        }
        self.splits[last] == Split::Columns || self.input_is_read_slice_by_slice(stages, last)
    }

    fn input_is_read_slice_by_slice(&self, stages: &[Stage], before: usize) -> bool {
        let reads = stages[..before].iter().flat_map(|stage| &stage.reads);
        reads
            .filter(|&&(source, _)| source == Source::Input)
            .all(|&(_, reach)| reach == Reach::SLICE)
    }

    /// Whether the first plane of a stage may overwrite the input.
    fn replaces_input(&self, stages: &[Stage], at: usize) -> bool {
        let stage = &stages[at];
        let is_first = stage.reads.first().map(|&(source, _)| source) == Some(Source::Input);
        let in_itself = self.splits[at] == Split::Columns || furthest(stage) == 0;
        let needed_later = stages[at + 1..]
            .iter()
            .flat_map(|stage| &stage.reads)
            .any(|&(source, _)| source == Source::Input);
        stage.in_place
            && is_first
            && in_itself
            && !needed_later
            && stage.writes[0].size_bytes() == self.input.size_bytes()
    }

    /// The parts of all stages and their dependencies.
    pub(super) fn parts(&self, stages: &[Stage]) -> Parts {
        let mut all: Vec<Vec<Part>> = self.splits.iter().map(|&split| self.parts_of(split)).collect();
        for at in 0..stages.len() {
            for place in 0..all[at].len() {
                let after = self.waits_of(stages, &all, at, place);
                all[at][place].after = after;
            }
        }
        let to_read = self.parts_of(Split::Slices);
        Parts {
            stages: all,
            to_read: to_read.iter().map(|part| self.slices_of(part)).collect(),
        }
    }

    /// Volumes that are computed together.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = (0..self.volumes).step_by(self.block);
        starts.map(|first| first..(first + self.block).min(self.volumes))
    }

    fn parts_of(&self, split: Split) -> Vec<Part> {
        let (nz, columns) = (self.shape[2], self.shape[0] * self.shape[1]);
        let band = self.band();
        let mut parts = Vec::new();
        for volumes in self.blocks() {
            match split {
                Split::Slices => parts.extend((0..self.slabs).map(|slab| {
                    let slices = nz * slab / self.slabs..nz * (slab + 1) / self.slabs;
                    Part {
                        complete: (volumes.end - 1) * nz + slices.end,
                        volumes: volumes.clone(),
                        slices,
                        columns: 0..columns,
                        after: Vec::new(),
                    }
                })),
                Split::Columns => parts.extend((0..columns).step_by(band).map(|first| {
                    let end = (first + band).min(columns);
                    let done = if end == columns {
                        volumes.end
                    } else {
                        volumes.start
                    };
                    Part {
                        complete: done * nz,
                        volumes: volumes.clone(),
                        slices: 0..nz,
                        columns: first..end,
                        after: Vec::new(),
                    }
                })),
            }
        }
        parts
    }

    /// The slices of a part, counted through all volumes.
    pub(super) fn slices_of(&self, part: &Part) -> Range<usize> {
        let nz = self.shape[2];
        let last = (part.volumes.end - 1) * nz;
        part.volumes.start * nz + part.slices.start..last + part.slices.end
    }

    /// The slices that a part reads with this reach, counted through all volumes.
    pub(super) fn read_by(&self, part: &Part, reach: Reach) -> Range<usize> {
        let nz = self.shape[2];
        let around = reach.around(&part.slices, nz);
        let last = (part.volumes.end - 1) * nz;
        part.volumes.start * nz + around.start..last + around.end
    }

    /// The dependencies of a part: its sources must be computed, and no part may still read what it
    /// overwrites.
    fn waits_of(&self, stages: &[Stage], parts: &[Vec<Part>], at: usize, place: usize) -> Vec<After> {
        let part = &parts[at][place];
        let mut after = Vec::new();
        for &(source, reach) in &stages[at].reads {
            let needed = self.read_by(part, reach).end;
            after.push(match source {
                Source::Input => After::Read(needed),
                Source::Mask => continue,
                Source::Reports { stage } => After::complete(parts, stage, part.volumes.end * self.shape[2]),
                Source::Stage { stage, .. } => After::complete(parts, stage, needed),
            });
        }
        // The buffer for a block is free once all readers of the previous block have finished.
        let reuses = |place: &Place| matches!(place, Place::Extra(_));
        if part.volumes.start > 0 && self.planes[at].iter().any(reuses) {
            let before = part.volumes.start * self.shape[2];
            let reads =
                |&(source, _): &(Source, Reach)| matches!(source, Source::Stage { stage, .. } if stage == at);
            let readers = (0..stages.len()).filter(|&other| stages[other].reads.iter().any(reads));
            after.extend(readers.map(|reader| After::complete(parts, reader, before)));
        }
        if at + 1 == stages.len() && self.lead > 0 {
            after.push(self.room_for(&stages[at], parts, at, place));
        }
        after
    }

    /// The result must not overwrite slices that earlier parts still read.
    fn room_for(&self, stage: &Stage, parts: &[Vec<Part>], at: usize, place: usize) -> After {
        let reads_from = |part: &Part| {
            let starts = stage.reads.iter();
            let starts = starts.map(|&(_, reach)| self.read_by(part, reach).start);
            starts.min().unwrap_or(usize::MAX)
        };
        let end = self.slices_of(&parts[at][place]).end;
        let before = parts[at][..place].iter();
        let count = before
            .take_while(|&part| reads_from(part).saturating_add(self.lead) < end)
            .count();
        After::Parts { stage: at, count }
    }
}

/// Whether slabs store numbers for later stages.
fn has_notes(stages: &[Stage]) -> bool {
    let mut reads = stages.iter().flat_map(|stage| &stage.reads);
    reads.any(|(source, _)| matches!(source, Source::Reports { .. }))
}

/// The longest reach of a stage; 0 if slices are independent.
fn furthest(stage: &Stage) -> usize {
    let reaches = stage.reads.iter().map(|&(_, reach)| match reach {
        Reach::Slices { below, above, .. } => below.max(above),
        Reach::WholeZ => 0,
    });
    reaches.max().unwrap_or(0)
}

fn wraps(stage: &Stage) -> bool {
    stage
        .reads
        .iter()
        .any(|&(_, reach)| matches!(reach, Reach::Slices { wrap: true, .. }))
}

fn source_types<'a>(
    stages: &'a [Stage],
    stage: &'a Stage,
    input: Datatype,
) -> impl Iterator<Item = Datatype> + 'a {
    stage.reads.iter().map(move |&(source, _)| match source {
        Source::Input | Source::Reports { .. } => input,
        Source::Mask => Mask::DATATYPE,
        Source::Stage { stage, plane } => stages[stage].writes[plane],
    })
}

fn product(lengths: [usize; 3]) -> u64 {
    lengths
        .iter()
        .fold(1, |all, &length| all.saturating_mul(length as u64))
}
