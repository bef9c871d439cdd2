//! Rician: computes means from sums, removes the bias of Rician noise, and subtracts the result from the
//! image to get the noise.
//!
//! The bias of a voxel follows from the energies around it, smoothed by a discrete Gaussian (T. Lindeberg,
//! IEEE Trans. Pattern Anal. Mach. Intell. 12 (1990) 234–254), and its signal-to-noise ratio (C. G. Koay and
//! P. J. Basser, J. Magn. Reson. 179 (2006) 317–322).

use std::sync::Arc;

use super::super::FilterError;
use super::super::interface::{Slab, ThreadScratch};
use super::super::kernels::bessel::{discrete_gaussian, i0, i1};
use super::super::kernels::exp32::exp32_of_nonpositive;
use super::super::kernels::simd::{Isa, Job, Vector};
use super::super::notes::Neighbour;
use super::ESTIMATES;
use super::estimates::{complete, split_off};
use super::frame::Frame;
use super::statistics::Statistics;
use crate::volume::Grid;

/// Variance of the smoothing of energies, in mm².
const VARIANCE_MM2: f64 = 2.0;

/// The fraction of the Gaussian that the kernel may leave out, and the largest width of the kernel.
const KERNEL_ERROR: f64 = 0.01;
const KERNEL_WIDTH: usize = 32;

/// From this squared signal-to-noise ratio on, the reference's correction is NaN, which it treats as no bias.
const NO_BIAS_FROM: f32 = 208.0;

/// Room beyond a plane for the last vector.
const BEYOND: usize = 16;

/// The smoothing of energies.
pub(super) struct Bias {
    /// Weights from one end to the other along x, y and z; `[1]` along missing axes.
    kernels: [Vec<f64>; 3],
}

impl Bias {
    pub(super) fn new(grid: &Grid, axes: usize) -> Self {
        let kernel = |axis: usize| {
            let spacing = grid.spacing_mm[axis];
            match axis < axes {
                true => discrete_gaussian(VARIANCE_MM2 / (spacing * spacing), KERNEL_ERROR, KERNEL_WIDTH),
                false => vec![1.0],
            }
        };
        Bias {
            kernels: [kernel(0), kernel(1), kernel(2)],
        }
    }

    /// Reach of the smoothing along an axis.
    pub(super) fn radius(&self, axis: usize) -> usize {
        self.kernels[axis].len() / 2
    }

    /// Number of slices to keep for a slab with this many slices, including those around it.
    pub(super) fn planes(&self, slices: u64) -> u64 {
        slices.saturating_add(4)
    }
}

/// Computes a slab of the noise.
///
/// # Errors
/// [`FilterError::Stopped`], [`FilterError::Memory`].
pub(super) fn run(
    frame: &Frame,
    bias: Option<&Bias>,
    slab: &mut Slab<'_>,
    scratch: &mut ThreadScratch,
) -> Result<(), FilterError> {
    let [nx, ny, _] = frame.shape;
    let isa = scratch.isa;
    let own = frame.sampling.slices(&slab.slices());
    let area = nx * ny + BEYOND;
    let raw = bias.map_or(0..0, |bias| {
        let around = bias.radius(2);
        own.start.saturating_sub(around)..(own.end + around).min(frame.shape[2])
    });
    let smoothing = if bias.is_some() {
        2 * area + nx + 2 * KERNEL_WIDTH + BEYOND
    } else {
        0
    };
    let lengths = [
        frame.plane,
        Statistics::len(frame),
        area,
        2 * frame.pitch,
        raw.len() * area,
        smoothing,
        area,
    ];
    let mut rest = scratch.singles(lengths.iter().sum())?;
    let [sums, intensities, plain, row, energies, smoothing, smoothed] =
        lengths.map(|len| split_off(&mut rest, len));
    let mut statistics = Statistics::new(frame, own.start, intensities);
    if bias.is_some() {
        for (z, to) in raw.clone().zip(energies.chunks_exact_mut(area)) {
            last_energies(frame, slab, z, sums, to);
        }
    }
    let seams = Seams::take(slab);
    let (means, variances) = row.split_at_mut(frame.pitch);
    for z in own {
        slab.check_stop()?;
        seams.sums(frame, slab, z, sums);
        statistics.advance(slab, z, &mut plain[..nx * ny]);
        if let Some(bias) = bias {
            let planes = Energies {
                planes: energies,
                first: raw.start,
                area,
            };
            bias.smooth(frame, isa, &planes, z, smoothing, smoothed);
        }
        let inside = slab.inside(z);
        for y in 0..ny {
            statistics.row(isa, y, z, means, variances);
            let at = frame.sampling.place(z) + y * nx;
            // SAFETY: the volume has this row, and no other thread uses the slab's own voxels.
            let noise = unsafe { slab.targets[0].offset(at).as_mut_slice::<f32>(nx) };
            let sums = &sums[frame.row(y)..][..nx];
            let rows = frame.inside(1, y) * frame.inside(2, z);
            let intensities = statistics.intensities(y, z);
            let inside = inside.map(|inside| &inside[y * nx..][..nx]);
            for x in 0..nx {
                let mut value = sums[x] / (rows * frame.inside(0, x)) as f32;
                if bias.is_some() {
                    let place = y * nx + x;
                    let raw = energies[(z - raw.start) * area + place];
                    let is_inside = inside.is_none_or(|inside| inside[x] != 0);
                    value -= if is_inside {
                        bias_of(means[x], smoothed[place], raw)
                    } else {
                        raw
                    };
                    value = if value < 0.0 { 0.0 } else { value.sqrt() };
                }
                noise[x] = intensities[x] - value;
            }
        }
    }
    Ok(())
}

/// The notes of neighbouring slabs for this one.
struct Seams {
    /// Frames of sums for the first slices.
    partial: Arc<Vec<f32>>,
    /// Estimates for the first slices, and for the last ones.
    first: Arc<Vec<f32>>,
    last: Arc<Vec<f32>>,
}

impl Seams {
    fn take(slab: &Slab<'_>) -> Self {
        Seams {
            partial: slab.take(ESTIMATES, Neighbour::Below),
            first: slab.take(ESTIMATES, Neighbour::Own),
            last: slab.take(ESTIMATES, Neighbour::Above),
        }
    }

    /// The complete sums of a slice, as a frame.
    fn sums(&self, frame: &Frame, slab: &Slab<'_>, z: usize, to: &mut [f32]) {
        let (own, patch) = (frame.sampling.slices(&slab.slices()), frame.patch[2]);
        let [nx, ny, _] = frame.shape;
        let from_start = z - own.start;
        if from_start < patch && !self.first.is_empty() {
            to.copy_from_slice(&self.partial[from_start * frame.plane..][..frame.plane]);
            complete(frame, to, &self.first, patch + from_start);
            return;
        }
        let from = slab.sources[1].offset(frame.sampling.place(z));
        // SAFETY: the volume has this slice, and no thread writes voxels that a slab may read.
        let sums = unsafe { from.as_slice::<f32>(nx * ny) };
        for (y, sums) in sums.chunks_exact(nx).enumerate() {
            to[frame.row(y)..][..nx].copy_from_slice(sums);
        }
        let to_end = own.end - z;
        if to_end <= patch && !self.last.is_empty() {
            complete(frame, to, &self.last, patch - to_end);
        }
    }
}

/// The energy that is written last to each voxel of a slice. In ascending order, every centre that takes part
/// writes its smallest energy to its whole patch. 0 if no centre writes.
fn last_energies(frame: &Frame, slab: &Slab<'_>, z: usize, room: &mut [f32], to: &mut [f32]) {
    let [nx, ny, nz] = frame.shape;
    to.fill(0.0);
    let patch = frame.patch[2];
    for slice in z.saturating_sub(patch)..(z + patch + 1).min(nz) {
        room.fill(-1.0);
        let from = slab.sources[2].offset(frame.sampling.place(slice));
        // SAFETY: the volume has this slice, and no thread writes voxels that a slab may read.
        let energies = unsafe { from.as_slice::<f32>(nx * ny) };
        for (y, energies) in energies.chunks_exact(nx).enumerate() {
            room[frame.row(y)..][..nx].copy_from_slice(energies);
        }
        for (y, to) in to.chunks_exact_mut(nx).take(ny).enumerate() {
            let first = frame.row(y) - frame.patch[1] * frame.pitch - frame.patch[0];
            for dy in 0..=2 * frame.patch[1] {
                for dx in 0..=2 * frame.patch[0] {
                    let energies = &room[first + dy * frame.pitch + dx..][..nx];
                    for (to, &energy) in to.iter_mut().zip(energies) {
                        *to = if energy >= 0.0 { energy } else { *to };
                    }
                }
            }
        }
    }
}

/// Planes of energies from a slice on.
struct Energies<'a> {
    planes: &'a [f32],
    first: usize,
    area: usize,
}

impl Bias {
    /// Smooths the energies of slice `z`, along z first and along x last. Sums are in double; between the
    /// axes they are in single precision. The edge repeats.
    fn smooth(
        &self,
        frame: &Frame,
        isa: Isa,
        energies: &Energies<'_>,
        z: usize,
        room: &mut [f32],
        smoothed: &mut [f32],
    ) {
        let [nx, ny, nz] = frame.shape;
        let (along_z, rest) = room.split_at_mut(energies.area);
        let (along_y, line) = rest.split_at_mut(energies.area);
        let around = |axis: usize, at: usize, len: usize| {
            let radius = self.radius(axis);
            (0..=2 * radius).map(move |step| (at + step).saturating_sub(radius).min(len - 1))
        };
        let sum = |axis: usize, rows: Vec<&[f32]>, to: &mut [f32]| {
            let kernel = &self.kernels[axis];
            isa.run(Weighted {
                kernel,
                rows,
                len: nx,
                to,
            });
        };
        for y in 0..ny {
            let row = |slice: usize| &energies.planes[(slice - energies.first) * energies.area + y * nx..];
            sum(2, around(2, z, nz).map(row).collect(), &mut along_z[y * nx..]);
        }
        for y in 0..ny {
            let row = |y: usize| &along_z[y * nx..];
            sum(1, around(1, y, ny).map(row).collect(), &mut along_y[y * nx..]);
        }
        let radius = self.radius(0);
        for y in 0..ny {
            let from = &along_y[y * nx..][..nx];
            line[..radius].fill(from[0]);
            line[radius..][..nx].copy_from_slice(from);
            line[radius + nx..].fill(from[nx - 1]);
            sum(
                0,
                (0..=2 * radius).map(|step| &line[step..]).collect(),
                &mut smoothed[y * nx..],
            );
        }
    }
}

/// A weighted sum of rows.
struct Weighted<'a> {
    kernel: &'a [f64],
    /// Each is as long as whole vectors.
    rows: Vec<&'a [f32]>,
    len: usize,
    to: &'a mut [f32],
}

impl Job for Weighted<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector<LANES>, const LANES: usize>(self) {
        let whole = self.len.next_multiple_of(LANES);
        assert!(self.rows.iter().all(|row| row.len() >= whole) && self.to.len() >= whole);
        for x in (0..self.len).step_by(LANES) {
            // SAFETY: rows are whole vectors long, as asserted above.
            unsafe {
                let mut sum = V::splat(0.0);
                for (&weight, row) in self.kernel.iter().zip(&self.rows) {
                    sum = sum.add(V::splat(weight).mul(V::load_f32(row.as_ptr().add(x))));
                }
                self.to[x..][..LANES].copy_from_slice(&sum.cast_f32());
            }
        }
    }
}

/// The bias of the squared intensity. `smoothed` is the smoothed energy, `raw` the original energy.
fn bias_of(mean: f32, smoothed: f32, raw: f32) -> f32 {
    if smoothed > 0.0 {
        let ratio = mean / smoothed.sqrt();
        let bias = match ratio * ratio {
            square if square >= NO_BIAS_FROM => 0.0,
            square => 2.0 * smoothed / correction(square),
        };
        if bias.is_finite() { bias } else { 0.0 }
    } else {
        raw
    }
}

/// The factor between the variances of noise and of Rician magnitudes, by the squared signal-to-noise ratio.
fn correction(square: f32) -> f32 {
    let decay = exp32_of_nonpositive(-0.5 * square);
    let argument = f64::from(0.25 * square);
    let sum = (2.0 + square) * i0(argument) as f32 + square * i1(argument) as f32;
    let factor = 2.0 + square - 0.125 * std::f32::consts::PI * decay * (sum * sum);
    if !(0.001..=10.0).contains(&factor) && !factor.is_nan() {
        1.0
    } else {
        factor
    }
}
