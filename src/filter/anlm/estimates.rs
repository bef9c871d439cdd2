//! Estimates: sums of overlapping patches, in the order of the reference.
//!
//! The sum of a voxel adds the centres around it in ascending order: x fastest, then y, then z. Each slab
//! computes its own centres only. Two neighbouring slabs share slices: the lower slab stores partial sums for
//! them, and the upper slab stores each of its estimates. The next stage adds them in order.

use std::sync::Arc;

use super::super::FilterError;
use super::super::interface::{Slab, ThreadScratch};
use super::super::kernels::simd::Isa;
use super::super::kernels::singles::{self, MAX_LANES, Singles, SinglesJob};
use super::super::notes::Neighbour;
use super::SURVEY;
use super::frame::Frame;
use super::patches::{CentreRow, Lists, MAX_ROWS, Target};
use super::statistics::{Frames, Statistics};
use crate::volume::NoMemory;

/// Computes a slab of the sums, and for Rician noise the smallest energy of each centre.
///
/// # Errors
/// [`FilterError::Stopped`], [`FilterError::Memory`].
pub(super) fn run(
    frame: &Frame,
    slab: &mut Slab<'_>,
    scratch: &mut ThreadScratch,
) -> Result<(), FilterError> {
    let own = frame.sampling.slices(&slab.slices());
    let ThreadScratch {
        isa,
        tile: candidates,
        plane: numbers,
        ..
    } = scratch;
    let isa = *isa;
    candidates.try_resize_for_overwrite(frame.candidates.len() * size_of::<u32>())?;
    let lengths = lengths(frame, own.len());
    numbers.try_resize_for_overwrite(lengths.iter().sum::<usize>().saturating_mul(size_of::<f32>()))?;
    let mut rest = numbers.as_mut_slice::<f32>();
    let [
        values,
        details,
        means,
        variances,
        energies,
        sums,
        statistics,
        vectors,
        dense,
        estimates,
        inside,
        masked,
    ] = lengths.map(|len| split_off(&mut rest, len));
    let mut frames = Frames {
        values,
        details,
        means,
        variances,
        energies,
    };
    fill(frame, slab, isa, &mut frames, statistics);
    inside.fill(0.0);
    inside[frame.margin[0]..][..frame.shape[0]].fill(1.0);
    let lists = Lists {
        vectors,
        dense,
        candidates: candidates.as_mut_slice::<u32>(),
        patch: estimates,
        inside,
        masked: if slab.inside(slab.slices().start).is_some() {
            masked
        } else {
            &mut []
        },
    };
    let seam = if own.start > 0 { frame.seam_planes() } else { 0 };
    let mut kept = zeros(seam.saturating_mul(frame.plane))?;
    sums.fill(0.0);
    sum(frame, slab, isa, &frames, lists, sums, &mut kept)?;
    let [nx, ny, _] = frame.shape;
    for z in own.clone() {
        for y in 0..ny {
            let from = (z - own.start + frame.patch[2]) * frame.plane + frame.row(y);
            store_row(frame, slab, 0, [y, z], &sums[from..][..nx]);
        }
    }
    leave(frame, slab, sums, kept)
}

/// Lengths of the buffers for a slab of `slices` slices, in the order of [`run`].
fn lengths(frame: &Frame, slices: usize) -> [usize; 12] {
    let planes = (slices + 2 * frame.slices_around()) * frame.plane;
    let vectors = MAX_LANES * frame.candidates.len();
    [
        planes,
        planes,
        planes,
        planes,
        planes,
        (slices + 2 * frame.patch[2]) * frame.plane,
        Statistics::len(frame) + frame.shape[0] * frame.shape[1] + 2 * frame.pitch,
        vectors,
        2 * (vectors + MAX_LANES),
        MAX_LANES * (frame.patch_rows.len() + MAX_ROWS) * (2 * frame.patch[0] + 1),
        frame.pitch,
        frame.pitch,
    ]
}

/// Fills the frames for the slices of a slab and for those around it.
fn fill(frame: &Frame, slab: &Slab<'_>, isa: Isa, frames: &mut Frames<'_>, room: &mut [f32]) {
    let [nx, ny, nz] = frame.shape;
    let own = frame.sampling.slices(&slab.slices());
    let around = frame.slices_around();
    let (moments, rest) = room.split_at_mut(2 * frame.pitch);
    let (plain, intensities) = rest.split_at_mut(nx * ny);
    let (means, variances) = moments.split_at_mut(frame.pitch);
    // The slice of the first frame, which can be below the image.
    let first = own.start as isize - around as isize;
    let mut statistics = Statistics::new(frame, first.max(0).unsigned_abs(), intensities);
    let count = own.len() + 2 * around;
    for slice in 0..count {
        frames.clear(frame, slice);
        let Some(z) = slice.checked_add_signed(first).filter(|&z| z < nz) else {
            continue;
        };
        statistics.advance(slab, z, plain);
        for y in 0..ny {
            statistics.row(isa, y, z, means, variances);
            let moments = (&means[..nx], &variances[..nx]);
            frames.fill(
                frame,
                [slice, y],
                statistics.intensities(y, z),
                moments,
                is_squared(slab),
            );
        }
    }
    // The outermost slices that patches reach need no energy.
    for slice in frame.patch[2]..count - frame.patch[2] {
        if let Some(z) = slice.checked_add_signed(first).filter(|&z| z < nz) {
            energies_of(frame, frames, isa, slice, z);
        }
    }
}

/// Sums the estimates of a slab's centres. Estimates that come after sums of the slab below are kept.
fn sum(
    frame: &Frame,
    slab: &mut Slab<'_>,
    isa: Isa,
    frames: &Frames<'_>,
    mut lists: Lists<'_>,
    sums: &mut [f32],
    kept: &mut [f32],
) -> Result<(), FilterError> {
    let own = frame.sampling.slices(&slab.slices());
    let [nx, ny, _] = frame.shape;
    let largest = slab.reports(SURVEY).fold(f64::NEG_INFINITY, f64::max) as f32;
    let mut smallest = vec![0.0; if is_squared(slab) { nx } else { 0 }];
    for z in own.clone() {
        let targets = targets(frame, z - own.start, sums, kept);
        for y in 0..ny {
            slab.check_stop()?;
            if let Some(inside) = slab.inside(z) {
                let inside = &inside[y * nx..][..nx];
                let masked = lists.masked.iter_mut().zip(inside);
                masked.for_each(|(to, &inside)| *to = f32::from(inside));
            }
            let row = CentreRow {
                frame,
                frames,
                at: [z - own.start + frame.slices_around(), y, z],
                largest,
                targets: &targets,
                smallest: is_squared(slab).then_some(&mut smallest[..]),
                lists: lists.again(),
            };
            singles::run(isa, row);
            if is_squared(slab) {
                store_row(frame, slab, 1, [y, z], &smallest);
            }
        }
    }
    Ok(())
}

/// Whether the weights apply to squares: for Rician noise there is a second plane.
fn is_squared(slab: &Slab<'_>) -> bool {
    slab.targets.len() > 1
}

pub(super) fn split_off<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (part, others) = std::mem::take(rest).split_at_mut(len);
    *rest = others;
    part
}

fn zeros(len: usize) -> Result<Vec<f32>, FilterError> {
    let mut numbers = Vec::new();
    let bytes = len.saturating_mul(size_of::<f32>());
    numbers
        .try_reserve_exact(len)
        .map_err(|_| NoMemory { len_bytes: bytes })?;
    numbers.resize(len, 0.0);
    Ok(numbers)
}

/// Where the estimates of centre slice `number` of a slab go. Estimates for slices that the slab shares with
/// the slab below are kept one by one; all others are added to the sums.
fn targets(frame: &Frame, number: usize, sums: &mut [f32], kept: &mut [f32]) -> Vec<Target> {
    let patch = frame.patch[2];
    let planes_of_slice = (2 * frame.patch[1] + 1) * (2 * frame.patch[0] + 1);
    (0..=2 * patch)
        .map(|dz| {
            // Number dz is a distance of dz − patch, and the sums begin `patch` slices below the slab.
            if !kept.is_empty() && number + dz < 2 * patch {
                let place = (kept_before(patch, number) + dz) * planes_of_slice * frame.plane;
                Target::Kept(kept[place..][..planes_of_slice * frame.plane].as_mut_ptr())
            } else {
                Target::Sums(sums[(number + dz) * frame.plane..][..frame.plane].as_mut_ptr())
            }
        })
        .collect()
}

/// Number of patch slices that are kept for the centre slices before `number`.
fn kept_before(patch: usize, number: usize) -> usize {
    (0..number).map(|before| 2 * patch - before).sum()
}

/// Stores the partial sums of the shared slices for the slab above. Stores the kept estimates for the slab
/// below and for this slab's own first slices.
fn leave(frame: &Frame, slab: &Slab<'_>, sums: &[f32], kept: Vec<f32>) -> Result<(), FilterError> {
    let patch = frame.patch[2];
    let own = frame.sampling.slices(&slab.slices());
    if patch == 0 {
        return Ok(());
    }
    if own.end < frame.shape[2] {
        let partial = &sums[(own.len() + patch) * frame.plane..][..patch * frame.plane];
        let mut copy = zeros(partial.len())?;
        copy.copy_from_slice(partial);
        slab.leave(Neighbour::Above, Arc::new(copy));
    }
    if !kept.is_empty() {
        let kept = Arc::new(kept);
        slab.leave(Neighbour::Below, Arc::clone(&kept));
        slab.leave(Neighbour::Own, kept);
    }
    Ok(())
}

/// Completes the sums of a slice that two slabs share. `sums` has the partial sums of the lower slab, `kept`
/// the estimates of the upper slab. `slice` counts from `patch` slices below the upper slab.
pub(super) fn complete(frame: &Frame, sums: &mut [f32], kept: &[f32], slice: usize) {
    let patch = frame.patch[2];
    let [width, height] = [2 * frame.patch[0] + 1, 2 * frame.patch[1] + 1];
    let planes_of_slice = height * width;
    let [nx, ny, _] = frame.shape;
    // In ascending order of centres: an estimate that lies above its centre comes from a centre below.
    for number in 0..=slice.min(2 * patch - 1) {
        let dz = slice - number;
        let first = (kept_before(patch, number) + dz) * planes_of_slice;
        for plane in (0..planes_of_slice).rev() {
            let (dy, dx) = (plane / width, plane % width);
            let kept = &kept[(first + plane) * frame.plane..][..frame.plane];
            for y in 0..ny {
                let to = frame.row(y);
                let from = to + frame.patch[1] * frame.pitch + frame.patch[0] - dy * frame.pitch - dx;
                let sums = &mut sums[to..][..nx];
                sums.iter_mut()
                    .zip(&kept[from..][..nx])
                    .for_each(|(sum, &kept)| *sum += kept);
            }
        }
    }
}

fn store_row(frame: &Frame, slab: &mut Slab<'_>, target: usize, [y, z]: [usize; 2], from: &[f32]) {
    let to = slab.targets[target].offset(frame.sampling.place(z) + y * frame.shape[0]);
    // SAFETY: the volume has this row, and no other thread uses the slab's own voxels.
    unsafe { to.as_mut_slice::<f32>(from.len()) }.copy_from_slice(from);
}

/// Computes the energies of a slice: mean squares of the details over the part of the patch inside the image.
fn energies_of(frame: &Frame, frames: &mut Frames<'_>, isa: Isa, slice: usize, z: usize) {
    let [nx, ny, _] = frame.shape;
    let in_row: Vec<f32> = (0..nx.next_multiple_of(MAX_LANES))
        .map(|x| if x < nx { frame.inside(0, x) as f32 } else { 1.0 })
        .collect();
    for y in 0..ny {
        singles::run(
            isa,
            Energies {
                frame,
                details: &*frames.details,
                energies: &mut *frames.energies,
                row: slice * frame.plane + frame.row(y),
                in_row: &in_row,
                rows: (frame.inside(1, y) * frame.inside(2, z)) as f32,
            },
        );
    }
}

/// The energies of a row.
struct Energies<'a> {
    frame: &'a Frame,
    details: &'a [f32],
    energies: &'a mut [f32],
    /// The row's place in the frames.
    row: usize,
    /// Number of voxels of a patch row inside the image, in whole vectors.
    in_row: &'a [f32],
    /// Number of patch rows inside the image.
    rows: f32,
}

impl SinglesJob for Energies<'_> {
    #[inline(always)]
    unsafe fn run<V: Singles<LANES>, const LANES: usize>(self) {
        let radius = self.frame.patch[0] as isize;
        for x in (0..self.frame.shape[0]).step_by(LANES) {
            // SAFETY: frames have margins for the patch, and their rows are whole vectors long.
            unsafe {
                let middle = self.details.as_ptr().add(self.row + x);
                let mut sum = V::splat(0.0);
                for &[dy, dz] in &self.frame.patch_rows {
                    let row = self.frame.pitch as isize * dy + self.frame.plane as isize * dz;
                    for dx in -radius..=radius {
                        let detail = V::load(middle.offset(row + dx));
                        sum = sum.add(detail.mul(detail));
                    }
                }
                let count = V::load(self.in_row.as_ptr().add(x)).mul(V::splat(self.rows));
                sum.div(count).store(self.energies.as_mut_ptr().add(self.row + x));
            }
        }
    }
}
