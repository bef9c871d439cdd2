//! Needed: the parts of each stage and the slices of each plane that some slices of the result need. A rank
//! that computes only these slices holds only those.

use std::ops::Range;

use super::interface::{Prepared, Source, Stage};
use super::layout::{Layout, Needed, Place};
use super::slabs::{Part, Parts, Task};

impl Layout {
    /// The numbers of slices after which the result can be cut without computing a part of the last stage
    /// twice: ascending, the last is the number of all slices. They are ends of volumes if `ranks` or more
    /// volumes exist.
    pub(crate) fn cuts(&self, stages: &[Stage], ranks: usize) -> Vec<usize> {
        let parts = self.parts(stages);
        let (nz, by_volumes) = (self.shape[2], self.volumes >= ranks);
        let last = parts.stages.last().map_or(&[][..], Vec::as_slice);
        let whole = |part: &&Part| self.slices_of(part).end == part.complete;
        let ends = last.iter().filter(whole).map(|part| part.complete);
        ends.filter(|end| !by_volumes || end % nz == 0).collect()
    }

    /// Holds only what these slices of the result need.
    ///
    /// # Panics
    /// If there are no stages.
    pub(crate) fn restrict(&mut self, stages: &[Stage], slices: Range<usize>) {
        let Parts { stages: parts, .. } = self.parts(stages);
        let mut needed = Needed {
            parts: parts.iter().map(|parts| vec![false; parts.len()]).collect(),
            ..Needed::default()
        };
        let last = stages.len() - 1;
        self.need(&mut needed, &parts, last, &slices);
        for at in (0..stages.len()).rev() {
            for (place, part) in parts[at].iter().enumerate() {
                if !needed.parts[at][place] {
                    continue;
                }
                for &(source, reach) in &stages[at].reads {
                    let reads = self.read_by(part, reach);
                    match source {
                        Source::Input => join(&mut needed.read, &reads),
                        Source::Mask => {}
                        Source::Stage { stage, .. } => self.need(&mut needed, &parts, stage, &reads),
                        Source::Reports { stage } => {
                            let nz = self.shape[2];
                            let volumes = part.volumes.start * nz..part.volumes.end * nz;
                            self.need(&mut needed, &parts, stage, &volumes);
                        }
                    }
                }
            }
        }
        self.hold(stages, needed, &parts);
    }

    /// Marks the parts of a stage that contain some of these slices.
    fn need(&self, needed: &mut Needed, parts: &[Vec<Part>], stage: usize, slices: &Range<usize>) {
        for (part, is_needed) in parts[stage].iter().zip(&mut needed.parts[stage]) {
            let own = self.slices_of(part);
            *is_needed |= own.start < slices.end && slices.start < own.end;
        }
    }

    /// Reduces each buffer to the slices that the needed parts use.
    fn hold(&mut self, stages: &[Stage], mut needed: Needed, parts: &[Vec<Part>]) {
        let [nx, ny, nz] = self.shape;
        needed.input = needed.read.clone();
        needed.extra = vec![0..0; self.extra_bytes.len()];
        for (at, stage) in stages.iter().enumerate() {
            let computed = parts[at].iter().zip(&needed.parts[at]);
            for (part, _) in computed.filter(|(_, is_needed)| **is_needed) {
                let slices = self.slices_of(part);
                for (plane, datatype) in stage.writes.iter().enumerate() {
                    match self.planes[at][plane] {
                        Place::Voxels => join(&mut needed.input, &slices),
                        Place::Spare => join(&mut needed.result, &slices),
                        Place::Second(number) => join(&mut needed.extra[number], &slices),
                        Place::Extra(number) if self.block == 1 => {
                            join(&mut needed.extra[number], &part.slices);
                        }
                        Place::Extra(number) => needed.extra[number] = 0..nz * self.block,
                    }
                    if let Place::Extra(number) | Place::Second(number) = self.planes[at][plane] {
                        let voxels = needed.extra[number].len() * nx * ny;
                        self.extra_bytes[number] = (voxels * datatype.size_bytes()) as u64;
                    }
                }
            }
        }
        self.needed = Some(needed);
    }

    /// Estimated seconds of the needed parts, or of all.
    pub(crate) fn cost_s(&self, prepared: &dyn Prepared) -> f64 {
        let parts = self.parts(prepared.stages());
        let mut all_s = 0.0;
        for (stage, parts) in parts.stages.iter().enumerate() {
            for (place, part) in parts.iter().enumerate() {
                if self.is_needed(Task { stage, part: place }) {
                    let voxels = part.volumes.len() * part.slices.len() * part.columns.len();
                    all_s += prepared.cost_s(stage, voxels as u64);
                }
            }
        }
        all_s
    }

    /// Whether a part is to be computed.
    pub(super) fn is_needed(&self, task: Task) -> bool {
        self.needed
            .as_ref()
            .is_none_or(|needed| needed.parts[task.stage][task.part])
    }

    /// The slices of the input that are needed, counted through all volumes.
    pub(crate) fn read(&self) -> Range<usize> {
        self.needed
            .as_ref()
            .map_or(0..self.slices(), |needed| needed.read.clone())
    }

    /// The same in bytes of all voxels.
    pub(crate) fn read_bytes(&self) -> Range<u64> {
        let slice = (self.shape[0] * self.shape[1] * self.input.size_bytes()) as u64;
        let slices = self.read();
        slices.start as u64 * slice..slices.end as u64 * slice
    }
}

/// Extends a range so that it contains another one.
fn join(all: &mut Range<usize>, other: &Range<usize>) {
    *all = match all.start == all.end {
        true => other.clone(),
        false => all.start.min(other.start)..all.end.max(other.end),
    };
}
