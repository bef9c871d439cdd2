//! Image run: applies a prepared filter to one volume, part by part, with its planes in memory as given by
//! the layout.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::FilterError;
use super::interface::{Prepared, Slab, Source, ThreadScratch};
use super::kernels::correlate::VoxelPointer;
use super::layout::{Layout, Needed, Place};
use super::mask::Mask;
use super::notes::Notes;
use super::slabs::{Parts, Progress, Task};
use crate::volume::{Datatype, Scaling, Volume, VoxelBuffer};

/// A volume that is being filtered. Several threads may compute parts in any order that [`Parts`] allows,
/// also while later slices are still being read.
///
/// It uses the buffers of the volume, which must not be accessed or moved until the last part is computed.
/// [`ImageRun::finish`] or [`ImageRun::abandon`] returns them.
pub(crate) struct ImageRun {
    prepared: Box<dyn Prepared>,
    layout: Layout,
    parts: Parts,
    scaling: Option<Scaling>,
    input: VoxelPointer,
    result: VoxelPointer,
    /// The planes that each stage writes.
    planes: Vec<Vec<VoxelPointer>>,
    mask: Option<Arc<Mask>>,
    notes: Notes,
}

/// Buffers between stages, kept from image to image.
#[derive(Default)]
pub(crate) struct Planes(Vec<VoxelBuffer>);

impl Planes {
    /// A buffer by its number.
    pub(crate) fn buffer(&mut self, number: usize) -> &mut VoxelBuffer {
        &mut self.0[number]
    }
}

impl ImageRun {
    /// Allocates the planes for a volume whose shape, type and scaling are set. If the layout has a lead, the
    /// voxels must not have been read yet.
    ///
    /// # Errors
    /// [`FilterError::Memory`]. The volume then has a buffer for its voxels, or none.
    ///
    /// # Panics
    /// If the filter was prepared for a mask of another size than `mask`.
    pub(crate) fn begin(
        prepared: Box<dyn Prepared>,
        layout: Layout,
        volume: &mut Volume,
        extra: &mut Planes,
        mask: Option<Arc<Mask>>,
    ) -> Result<Self, FilterError> {
        let mask_bytes = mask.as_ref().map_or(0, |mask| mask.voxels().len() as u64);
        assert_eq!(mask_bytes, layout.mask_bytes, "a filter is prepared for its mask");
        if let Err(error) = make_room(&layout, volume, extra) {
            if layout.lead > 0 && layout.needed.is_none() {
                let len = volume.len() * volume.datatype.size_bytes();
                volume.voxels.try_resize_for_overwrite(len)?;
            }
            return Err(error);
        }
        // A buffer that holds only some slices is addressed as if it held all.
        let plane = layout.shape[0] * layout.shape[1];
        let Needed {
            input: held,
            result: held_result,
            extra: held_extra,
            ..
        } = layout.needed.clone().unwrap_or_default();
        let before = |slices: Option<&Range<usize>>| slices.map_or(0, |slices| slices.start * plane);
        let front = VoxelPointer::new(layout.input, volume.voxels.as_bytes_mut());
        let front = front.offset((held.start * plane).wrapping_neg());
        let spare = VoxelPointer::new(layout.result, volume.spare.as_bytes_mut());
        let spare = spare.offset((held_result.start * plane).wrapping_neg());
        let input = front.offset(layout.lead * plane);
        let result = match layout.result_place {
            Place::Spare => spare,
            _ => front.retyped(layout.result),
        };
        let stages = prepared.stages();
        let mut planes: Vec<Vec<VoxelPointer>> = Vec::with_capacity(stages.len());
        for (stage, places) in stages.iter().zip(&layout.planes) {
            let planes_of_stage = stage.writes.iter().zip(places);
            let pointers = planes_of_stage.map(|(&datatype, &place)| match place {
                Place::Voxels => input.retyped(datatype),
                Place::Spare => spare.retyped(datatype),
                Place::Extra(number) | Place::Second(number) => {
                    VoxelPointer::new(datatype, extra.0[number].as_bytes_mut())
                        .offset(before(held_extra.get(number)).wrapping_neg())
                }
            });
            planes.push(pointers.collect());
        }
        if let Some(last) = planes.last_mut() {
            last[0] = result;
        }
        let notes = layout.notes(stages);
        Ok(ImageRun {
            parts: layout.parts(stages),
            scaling: volume.scaling,
            prepared,
            layout,
            input,
            result,
            planes,
            mask,
            notes,
        })
    }

    /// The parts to compute.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Number of slices of all volumes.
    pub(crate) fn slices(&self) -> usize {
        self.layout.slices()
    }

    /// Bytes of the result of all slices.
    pub(crate) fn result_bytes(&self) -> usize {
        self.slices() * self.result_slice_bytes()
    }

    /// The slices to read, counted through all volumes.
    pub(crate) fn read(&self) -> Range<usize> {
        self.layout.read()
    }

    /// The progress before anything is read. Parts that are not needed are finished.
    pub(crate) fn progress(&self) -> Progress {
        let mut progress = Progress::new(&self.parts);
        for (stage, parts) in self.parts.stages.iter().enumerate() {
            let tasks = (0..parts.len()).map(|part| Task { stage, part });
            tasks
                .filter(|&task| !self.layout.is_needed(task))
                .for_each(|task| progress.finish(task));
        }
        progress
    }

    /// Bytes of a slice of the result.
    pub(crate) fn result_slice_bytes(&self) -> usize {
        self.layout.result_slice_bytes() as usize
    }

    /// The type of the result.
    pub(crate) fn result_type(&self) -> Datatype {
        self.layout.result
    }

    /// The memory for slices that are read, counted through all volumes.
    ///
    /// # Safety
    /// The volume is unchanged since [`ImageRun::begin`], and no other code uses these slices while the bytes
    /// are borrowed.
    pub(crate) unsafe fn unread<'a>(&self, slices: Range<usize>) -> &'a mut [u8] {
        let plane = self.layout.shape[0] * self.layout.shape[1];
        let first = self.input.offset(slices.start * plane);
        let bytes = slices.len() * plane * self.layout.input.size_bytes();
        // SAFETY: the caller's; the input has all slices.
        unsafe { first.as_bytes_mut(bytes) }
    }

    /// Computes a part.
    ///
    /// # Errors
    /// Those of [`Prepared::run`].
    ///
    /// # Safety
    /// The volume is unchanged since [`ImageRun::begin`], and [`super::slabs::Progress`] has started the
    /// part.
    pub(crate) unsafe fn compute(
        &self,
        task: Task,
        stop: Option<&AtomicBool>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let part = &self.parts.stages[task.stage][task.part];
        let stage = &self.prepared.stages()[task.stage];
        let volume: usize = self.layout.shape.iter().product();
        let block = self.layout.block;
        let first_of = |pointer: VoxelPointer, place: Option<Place>, number: usize| {
            let in_buffer = match place {
                Some(Place::Extra(_)) => number % block,
                _ => number,
            };
            pointer.offset(in_buffer * volume)
        };
        for number in part.volumes.clone() {
            let sources = stage.reads.iter().map(|&(source, _)| match source {
                Source::Input | Source::Reports { .. } => first_of(self.input, None, number),
                Source::Mask => self.mask_of(number),
                Source::Stage { stage, plane } => first_of(
                    self.planes[stage][plane],
                    Some(self.layout.planes[stage][plane]),
                    number,
                ),
            });
            let targets = self.planes[task.stage]
                .iter()
                .zip(&self.layout.planes[task.stage])
                .map(|(&pointer, &place)| first_of(pointer, Some(place), number));
            let mut slab = Slab {
                shape: self.layout.shape,
                slices: part.slices.clone(),
                columns: part.columns.clone(),
                reads: &stage.reads,
                sources: sources.collect(),
                targets: targets.collect(),
                scaling: self.scaling,
                stop,
                number: [task.stage, number, task.part % self.layout.slabs()],
                notes: &self.notes,
            };
            scratch.compute(|scratch| self.prepared.run(task.stage, &mut slab, scratch))?;
        }
        Ok(())
    }

    /// The mask of a 3-D volume, which is read-only.
    fn mask_of(&self, number: usize) -> VoxelPointer {
        let voxels = self.mask.as_ref().map_or(&[][..], |mask| mask.voxels());
        let volume: usize = self.layout.shape.iter().product();
        let number = if voxels.len() > volume { number } else { 0 };
        VoxelPointer::read_only(voxels).offset(number * volume)
    }

    /// The number of the buffer in [`Planes`] that holds a second result.
    pub(crate) fn second_result(&self) -> Option<usize> {
        match self.layout.planes.last()?.get(1)? {
            Place::Second(number) => Some(*number),
            _ => None,
        }
    }

    /// A range of bytes of the result.
    ///
    /// # Safety
    /// The volume is unchanged since [`ImageRun::begin`], and the slices of these bytes are complete.
    pub(crate) unsafe fn result<'a>(&self, bytes: Range<usize>) -> &'a [u8] {
        // SAFETY: the caller's.
        unsafe { self.result.as_bytes(bytes) }
    }

    /// Stores the result in the volume. It must hold all slices.
    pub(crate) fn finish(self, volume: &mut Volume) {
        match self.layout.result_place {
            Place::Spare => std::mem::swap(&mut volume.voxels, &mut volume.spare),
            _ => volume.voxels.truncate(self.result_bytes()),
        }
        volume.datatype = self.layout.result;
        if !self.planes.is_empty() {
            volume.scaling = None;
        }
    }

    /// Restores the volume, with unspecified voxels.
    pub(crate) fn abandon(self, volume: &mut Volume) {
        let len = volume.len() * volume.datatype.size_bytes();
        volume.voxels.truncate(len);
    }
}

#[cfg(test)]
impl Planes {
    /// Bytes that they hold.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.0.iter().map(|buffer| buffer.as_bytes().len() as u64).sum()
    }
}

/// Resizes the buffers as the layout requires.
fn make_room(layout: &Layout, volume: &mut Volume, extra: &mut Planes) -> Result<(), FilterError> {
    if layout.lead > 0 || layout.needed.is_some() {
        resize(&mut volume.voxels, layout.voxel_bytes())?;
    }
    if layout.result_place == Place::Spare {
        resize(&mut volume.spare, layout.result_bytes())?;
    }
    let buffers = extra.0.len().max(layout.extra_bytes.len());
    extra.0.resize_with(buffers, VoxelBuffer::default);
    for (buffer, &bytes) in extra.0.iter_mut().zip(&layout.extra_bytes) {
        resize(buffer, bytes)?;
    }
    Ok(())
}

fn resize(buffer: &mut VoxelBuffer, bytes: u64) -> Result<(), FilterError> {
    match isize::try_from(bytes) {
        Ok(len) => Ok(buffer.try_resize_for_overwrite(len.unsigned_abs())?),
        Err(_) => Err(FilterError::Memory { bytes }),
    }
}
