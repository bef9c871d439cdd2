//! Separable: symmetric kernels along x, y and z, one axis after the other, as stages of a filter.
//!
//! x and y of a slice are smoothed together while it is in the cache, z once the slices around it are
//! finished. Voxels outside a mask and non-finite voxels can be left out of the sums: normalised convolution,
//! Knutsson and Westin, "Normalized and differential convolution", CVPR 1993.

use std::ops::Range;

use super::FilterError;
use super::boundary::Boundary;
use super::device::{Area, DevicePass};
use super::interface::{
    FilterWarning, ImageInfo, Prepared, Reach, Slab, Source, Stage, ThreadScratch, width_warnings,
};
use super::kernels::convert::{Conversion, Voxel, with_voxel_type};
use super::kernels::convolve::{Convolution, Spectrum};
use super::kernels::correlate::{Lines, Pass, VoxelPointer};
use super::mask::Outside;
use super::output::Types;
use crate::volume::{Datatype, Scaling};

/// Seconds of one CPU core per voxel and axis, and per tap. Only ratios matter.
const S_PER_VOXEL_AND_AXIS: f64 = 1e-9 / 3.0;
const S_PER_TAP: f64 = 3e-11;

/// The kernels of an image, and the other parameters of the sums.
pub(super) struct Kernels {
    /// Half kernels along x, y and z; empty for an axis that is not smoothed.
    pub(super) half: [Vec<f64>; 3],
    /// Their transforms, for axes that are convolved by them.
    pub(super) spectra: [Option<Spectrum>; 3],
    /// How a line continues beyond its ends.
    pub(super) boundary: Boundary,
    /// Intensity beyond the ends with [`Boundary::Constant`].
    pub(super) cval: f64,
}

impl Kernels {
    /// Taps of the whole kernels along all axes together, or as many as take as long as the transforms.
    pub(super) fn taps(&self) -> f64 {
        (0..3).map(|axis| self.taps_along(axis)).sum()
    }

    fn taps_along(&self, axis: usize) -> f64 {
        match &self.spectra[axis] {
            Some(spectrum) => spectrum.taps(),
            None => (2.0 * self.half[axis].len() as f64 - 1.0).max(0.0),
        }
    }

    fn is_active(&self, axis: usize) -> bool {
        !self.half[axis].is_empty()
    }
}

/// Which voxels count, if not all do.
#[derive(Clone, Copy)]
pub(super) struct Weighted {
    /// The result outside the mask, if there is one.
    pub(super) outside: Option<Outside>,
    /// Whether non-finite voxels are left out.
    pub(super) leaves_out: bool,
    /// Whether the result is NaN where the image is not finite.
    pub(super) keeps_nan: bool,
}

impl Weighted {
    /// Whether the last stage reads the image again.
    fn reads_input_again(self) -> bool {
        self.keeps_nan || self.outside == Some(Outside::Keep)
    }
}

/// A separable filter prepared for one image.
pub(super) struct Separable {
    kernels: Kernels,
    shape: [usize; 3],
    input: Datatype,
    scaling: Option<Scaling>,
    types: Types,
    sigma_vox: [f64; 3],
    roles: Vec<Role>,
    stages: Vec<Stage>,
}

/// The work of a stage.
#[derive(Clone, Copy)]
enum Role {
    /// No axis is smoothed. Voxels are converted to another type.
    Convert,
    /// x and y.
    InPlane,
    /// z.
    AlongZ,
    /// Smooths x and y of the intensities that count (0 elsewhere) and of their weights (1 and 0).
    InPlaneWeighted(Weighted),
    /// Smooths z of both, and computes their quotient.
    AlongZWeighted(Weighted),
}

impl Separable {
    /// With `weighted`, each voxel becomes G(a₀) / G(m). m is 1 where a voxel counts and 0 elsewhere, a₀ are
    /// the intensities with 0 where m is 0, and G is the smoothing. Both are computed in double and the
    /// quotient is converted once, to the nearest integer if the type is one. If no voxel under the kernel
    /// counts, the result is NaN, or 0 for integers. Both continue in the same way beyond the edge. With
    /// [`Boundary::Constant`], m is 1 there, so that the constant counts; with a mask, it is 0.
    pub(super) fn new(
        kernels: Kernels,
        image: &ImageInfo,
        types: Types,
        sigma_vox: [f64; 3],
        weighted: Option<Weighted>,
    ) -> Self {
        let in_plane = kernels.is_active(0) || kernels.is_active(1);
        let unchanged = types.last == image.datatype && image.scaling.is_none();
        let roles = match (weighted, in_plane, kernels.is_active(2)) {
            (Some(weighted), ..) => vec![Role::InPlaneWeighted(weighted), Role::AlongZWeighted(weighted)],
            (None, true, true) => vec![Role::InPlane, Role::AlongZ],
            (None, true, false) => vec![Role::InPlane],
            (None, false, true) => vec![Role::AlongZ],
            (None, false, false) if unchanged => Vec::new(),
            (None, false, false) => vec![Role::Convert],
        };
        let stages = roles
            .iter()
            .map(|&role| stage(role, &kernels, types, in_plane))
            .collect();
        Separable {
            shape: image.spatial_shape(),
            input: image.datatype,
            scaling: image.scaling,
            types,
            sigma_vox,
            roles,
            stages,
            kernels,
        }
    }

    fn pass<'a>(&'a self, axis: usize, slab: &Slab<'a>, scratch: &ThreadScratch) -> Pass<'a> {
        let is_first = !(0..axis).any(|earlier| self.kernels.is_active(earlier));
        let is_last = !(axis + 1..3).any(|later| self.kernels.is_active(later));
        Pass {
            isa: scratch.isa,
            half_kernel: &self.kernels.half[axis],
            boundary: self.kernels.boundary,
            cval: self.kernels.cval,
            scaling: self.scaling.filter(|_| is_first),
            conversion: if is_last {
                self.types.conversion
            } else {
                Conversion::Cast
            },
            stop: slab.stop,
        }
    }

    /// Smooths `part` of lines along an axis.
    ///
    /// # Safety
    /// That of [`Pass::run_part`]. `part` is the whole line where there is a spectrum.
    unsafe fn smooth(
        &self,
        axis: usize,
        [source, target]: [VoxelPointer; 2],
        (lines, part): (Lines, Range<usize>),
        slab: &Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let pass = self.pass(axis, slab, scratch);
        // SAFETY: the caller's.
        unsafe {
            match &self.kernels.spectra[axis] {
                Some(spectrum) => {
                    Convolution { pass, spectrum }.run(source, target, lines, &mut scratch.tile)
                }
                None => Ok(pass.run_part(source, target, lines, part, &mut scratch.tile)?),
            }
        }
    }

    /// Smooths lines of the intensities that count and of their weights along an axis, in place.
    ///
    /// # Safety
    /// That of [`Pass::run`], for both planes.
    unsafe fn smooth_weighted(
        &self,
        axis: usize,
        weighted: Weighted,
        planes: [VoxelPointer; 2],
        lines: Lines,
        slab: &Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let beyond = self.beyond_the_edge(weighted);
        let pass = Pass {
            scaling: None,
            conversion: Conversion::Cast,
            ..self.pass(axis, slab, scratch)
        };
        if let Some(spectrum) = &self.kernels.spectra[axis] {
            let convolution = Convolution { pass, spectrum };
            // SAFETY: the caller's.
            return unsafe { convolution.run_weighted(planes, beyond, lines, &mut scratch.tile) };
        }
        for (of, cval) in planes.into_iter().zip(beyond) {
            // SAFETY: the caller's.
            unsafe { Pass { cval, ..pass }.run(of, of, lines, &mut scratch.tile)? };
        }
        Ok(())
    }

    /// The values beyond the edge, of the intensities that count and of their weights.
    fn beyond_the_edge(&self, weighted: Weighted) -> [f64; 2] {
        let cval = self.kernels.cval;
        match cval.is_finite() && weighted.outside.is_none() {
            true => [cval, 1.0],
            false => [0.0, 0.0],
        }
    }

    /// The lines of a slice along x or y.
    fn lines(&self, axis: usize) -> Lines {
        let [nx, ny, _] = self.shape;
        match axis {
            0 => Lines {
                len: nx,
                step: 1,
                count: ny,
                apart: nx,
            },
            _ => Lines {
                len: ny,
                step: nx,
                count: nx,
                apart: 1,
            },
        }
    }

    fn in_plane(&self, slab: &Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        let [nx, ny, _] = self.shape;
        let both = self.kernels.is_active(0) && self.kernels.is_active(1);
        let target_type = slab.targets[0].datatype;
        let passes = self.in_plane_passes(slab, scratch);
        if let Some(lane) = scratch.lane()? {
            // SAFETY: the planes contain the slices, they are equal or do not overlap, and no other thread
            // uses the slices.
            return unsafe { lane.in_plane(&area(slab), [slab.sources[0], slab.targets[0]], &passes) };
        }
        let between = (both && self.types.between != target_type).then_some(self.types.between);
        if let Some(between) = between {
            let bytes = nx * ny * between.size_bytes();
            scratch.plane.try_resize_for_overwrite(bytes)?;
        }
        for slice in slab.slices() {
            slab.check_stop()?;
            let source = slab.sources[0].offset(slice * nx * ny);
            let target = slab.targets[0].offset(slice * nx * ny);
            let middle = between.map_or(target, |between| {
                VoxelPointer::new(between, scratch.plane.as_bytes_mut())
            });
            let mut from = source;
            for axis in 0..2 {
                if self.kernels.is_active(axis) {
                    let to = if axis == 0 && both { middle } else { target };
                    let lines = self.lines(axis);
                    // SAFETY: the areas contain the slice, they are equal or do not overlap, and no other
                    // thread uses the slice.
                    unsafe { self.smooth(axis, [from, to], (lines, 0..lines.len), slab, scratch)? };
                    from = to;
                }
            }
        }
        Ok(())
    }

    /// The passes along x and y for a device.
    fn in_plane_passes<'a>(&'a self, slab: &Slab<'a>, scratch: &ThreadScratch) -> Vec<DevicePass<'a>> {
        let axes = (0..2).filter(|&axis| self.kernels.is_active(axis));
        let mut passes: Vec<_> = axes
            .map(|axis| DevicePass {
                axis,
                pass: self.pass(axis, slab, scratch),
                writes: self.types.between,
            })
            .collect();
        if let Some(last) = passes.last_mut() {
            last.writes = slab.targets[0].datatype;
        }
        passes
    }

    fn in_plane_weighted(
        &self,
        weighted: Weighted,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let plane = self.shape[0] * self.shape[1];
        for slice in slab.slices() {
            slab.check_stop()?;
            let [values, weights] = [0, 1].map(|i| slab.targets[i].offset(slice * plane));
            {
                // SAFETY: both planes contain the slice, which no other thread uses.
                let (values, weights) = unsafe {
                    (
                        values.as_mut_slice::<f64>(plane),
                        weights.as_mut_slice::<f64>(plane),
                    )
                };
                slab.load(0, slice..slice + 1, values);
                match weighted.outside {
                    // The mask is the second source.
                    Some(_) => slab.load(1, slice..slice + 1, weights),
                    None => weights.fill(1.0),
                }
                for (value, weight) in values.iter_mut().zip(weights) {
                    let counts = *weight != 0.0 && (!weighted.leaves_out || value.is_finite());
                    *weight = f64::from(u8::from(counts));
                    *value = if counts { *value } else { 0.0 };
                }
            }
            for axis in 0..2 {
                if self.kernels.is_active(axis) && !scratch.has_device() {
                    let (planes, lines) = ([values, weights], self.lines(axis));
                    // SAFETY: as above.
                    unsafe { self.smooth_weighted(axis, weighted, planes, lines, slab, scratch)? };
                }
            }
        }
        if scratch.has_device() && (self.kernels.is_active(0) || self.kernels.is_active(1)) {
            let passes = self.in_plane_passes(slab, scratch);
            self.weighted_on_device(
                weighted,
                [slab.targets[0], slab.targets[1]],
                slab,
                passes,
                scratch,
            )?;
        }
        Ok(())
    }

    /// Smooths the slab's voxels of the intensities that count and of their weights on a device, in place.
    fn weighted_on_device(
        &self,
        weighted: Weighted,
        planes: [VoxelPointer; 2],
        slab: &Slab<'_>,
        mut passes: Vec<DevicePass<'_>>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let Some(lane) = scratch.lane()? else {
            return Ok(());
        };
        for (of, cval) in planes.into_iter().zip(self.beyond_the_edge(weighted)) {
            for DevicePass { pass, writes, .. } in &mut passes {
                (pass.cval, pass.scaling, pass.conversion) = (cval, None, Conversion::Cast);
                *writes = Datatype::Float64;
            }
            // SAFETY: these are the slab's own voxels, which no other thread uses.
            unsafe {
                match passes.as_slice() {
                    [pass] if pass.axis == 2 => {
                        lane.along_z(&area(slab), [of; 2], 0..self.shape[2], pass)?;
                    }
                    passes => lane.in_plane(&area(slab), [of; 2], passes)?,
                }
            }
        }
        Ok(())
    }

    /// The slab's lines along z.
    fn columns(&self, slab: &Slab<'_>) -> Lines {
        Lines {
            len: self.shape[2],
            step: self.shape[0] * self.shape[1],
            count: slab.columns().len(),
            apart: 1,
        }
    }

    /// The pass along z for a device.
    fn along_z_pass<'a>(&'a self, slab: &Slab<'a>, scratch: &ThreadScratch) -> DevicePass<'a> {
        DevicePass {
            axis: 2,
            pass: self.pass(2, slab, scratch),
            writes: slab.targets[0].datatype,
        }
    }

    fn along_z(&self, slab: &Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        let pass = self.along_z_pass(slab, scratch);
        if let Some(lane) = scratch.lane()? {
            let planes = [slab.sources[0], slab.targets[0]];
            // SAFETY: both areas contain the volume. They are equal only if the slab has whole columns. No
            // thread writes voxels that the slab may read.
            return unsafe { lane.along_z(&area(slab), planes, slab.readable(0), &pass) };
        }
        let first = slab.columns().start;
        let planes = [slab.sources[0].offset(first), slab.targets[0].offset(first)];
        // SAFETY: both areas contain the volume. They are equal only if the slab has whole columns. No thread
        // writes voxels that the slab may read.
        unsafe { self.smooth(2, planes, (self.columns(slab), slab.slices()), slab, scratch)? };
        slab.check_stop()
    }

    fn along_z_weighted(
        &self,
        weighted: Weighted,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let [nx, ny, nz] = self.shape;
        let columns = slab.columns();
        let [values, weights] = [0, 1].map(|i| slab.sources[i].offset(columns.start));
        if self.kernels.is_active(2) && scratch.has_device() {
            let pass = self.along_z_pass(slab, scratch);
            let planes = [slab.sources[0], slab.sources[1]];
            self.weighted_on_device(weighted, planes, slab, vec![pass], scratch)?;
        } else if self.kernels.is_active(2) {
            let (planes, lines) = ([values, weights], self.columns(slab));
            // SAFETY: these are whole columns of this filter's own planes, which no other thread reads.
            unsafe { self.smooth_weighted(2, weighted, planes, lines, slab, scratch)? };
            slab.check_stop()?;
        }
        let target = slab.targets[0].offset(columns.start);
        with_voxel_type!(target.datatype, T => {
            for slice in 0..nz {
                let start = slice * nx * ny;
                // SAFETY: as above, and the target is another area.
                let (values, weights, to) = unsafe {
                    (
                        values.offset(start).as_slice::<f64>(columns.len()),
                        weights.offset(start).as_slice::<f64>(columns.len()),
                        target.offset(start).as_mut_slice::<T>(columns.len()),
                    )
                };
                for ((to, value), &weight) in to.iter_mut().zip(values).zip(weights) {
                    *to = T::nearest(if weight > 0.0 { value / weight } else { f64::NAN });
                }
            }
        });
        for slice in 0..nz {
            let first = slice * nx * ny + columns.start;
            if weighted.keeps_nan {
                slab.put_nan(first, columns.len());
            }
            if let Some(outside) = weighted.outside {
                slab.put_outside(outside, first, columns.len());
            }
        }
        Ok(())
    }
}

/// The voxels of a slab, for a device.
fn area(slab: &Slab<'_>) -> Area {
    Area {
        shape: slab.shape(),
        slices: slab.slices(),
        columns: slab.columns(),
    }
}

fn stage(role: Role, kernels: &Kernels, types: Types, in_plane: bool) -> Stage {
    let plane = |plane| Source::Stage { stage: 0, plane };
    let is_last_in_plane = !kernels.is_active(2);
    match role {
        Role::Convert => Stage {
            reads: vec![(Source::Input, Reach::SLICE)],
            writes: vec![types.last],
            in_place: false,
        },
        Role::InPlane => Stage {
            reads: vec![(Source::Input, Reach::SLICE)],
            writes: vec![if is_last_in_plane {
                types.last
            } else {
                types.between
            }],
            in_place: true,
        },
        Role::AlongZ => {
            let radius = kernels.half[2].len() - 1;
            let reach = match kernels.spectra[2] {
                Some(_) => Reach::WholeZ,
                None => Reach::Slices {
                    below: radius,
                    above: radius,
                    wrap: radius > 0 && kernels.boundary == Boundary::Wrap,
                },
            };
            let source = if in_plane { plane(0) } else { Source::Input };
            Stage {
                reads: vec![(source, reach)],
                writes: vec![types.last],
                in_place: true,
            }
        }
        Role::InPlaneWeighted(weighted) => {
            let mut reads = vec![(Source::Input, Reach::SLICE)];
            reads.extend(weighted.outside.map(|_| (Source::Mask, Reach::SLICE)));
            Stage {
                reads,
                writes: vec![Datatype::Float64; 2],
                in_place: false,
            }
        }
        Role::AlongZWeighted(weighted) => {
            let mut reads = vec![plane(0), plane(1)];
            reads.extend(weighted.outside.map(|_| Source::Mask));
            reads.extend(weighted.reads_input_again().then_some(Source::Input));
            Stage {
                reads: reads.into_iter().map(|source| (source, Reach::WholeZ)).collect(),
                writes: vec![types.last],
                in_place: false,
            }
        }
    }
}

impl Prepared for Separable {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn cost_s(&self, stage: usize, voxels: u64) -> f64 {
        let in_plane = self.kernels.taps_along(0) + self.kernels.taps_along(1);
        let along_z = self.kernels.taps_along(2);
        let voxels = voxels as f64;
        match self.roles[stage] {
            Role::Convert => voxels * S_PER_VOXEL_AND_AXIS,
            Role::InPlane => voxels * (2.0 * S_PER_VOXEL_AND_AXIS + in_plane * S_PER_TAP),
            Role::AlongZ => voxels * (S_PER_VOXEL_AND_AXIS + along_z * S_PER_TAP),
            Role::InPlaneWeighted(_) => 2.0 * voxels * (3.0 * S_PER_VOXEL_AND_AXIS + in_plane * S_PER_TAP),
            Role::AlongZWeighted(_) => 2.0 * voxels * (2.0 * S_PER_VOXEL_AND_AXIS + along_z * S_PER_TAP),
        }
    }

    fn scratch_bytes(&self, stage: usize, _slab_voxels: u64) -> u64 {
        let weighted = matches!(
            self.roles[stage],
            Role::InPlaneWeighted(_) | Role::AlongZWeighted(_)
        );
        let tile = |axis: usize, source: Datatype| match &self.kernels.spectra[axis] {
            Some(spectrum) => spectrum.tile_bytes(weighted),
            None => Pass::tile_bytes(&self.kernels.half[axis], self.shape[axis], source),
        };
        let first = self.input;
        // The narrowest voxels need the widest tile. Passes after the first read `between`.
        let tiles = |axes: std::ops::Range<usize>| {
            axes.map(|axis| tile(axis, first).max(tile(axis, self.types.between)))
                .max()
                .unwrap_or(0)
        };
        let slice = self.shape[0] as u64 * self.shape[1] as u64;
        match self.roles[stage] {
            Role::Convert => 0,
            Role::InPlane if self.types.between != self.stages[stage].writes[0] => {
                tiles(0..2) + slice * self.types.between.size_bytes() as u64
            }
            Role::InPlane | Role::InPlaneWeighted(_) => tiles(0..2),
            Role::AlongZ | Role::AlongZWeighted(_) => tiles(2..3),
        }
    }

    fn held_bytes(&self) -> u64 {
        // The whole kernel is in memory while it is computed.
        let weights: usize = self.kernels.half.iter().map(|half| 2 * half.len()).sum();
        let spectra = self.kernels.spectra.iter().flatten();
        (weights * size_of::<f64>()) as u64 + spectra.map(Spectrum::held_bytes).sum::<u64>()
    }

    fn sigma_vox(&self) -> Option<[f64; 3]> {
        Some(self.sigma_vox)
    }

    fn warnings(&self) -> Vec<FilterWarning> {
        let half_lens = [0, 1, 2].map(|axis| self.kernels.half[axis].len());
        width_warnings(self.sigma_vox, half_lens, self.shape)
    }

    fn run(&self, stage: usize, slab: &mut Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        match self.roles[stage] {
            Role::Convert => {
                slab.convert(self.types.conversion);
                Ok(())
            }
            Role::InPlane => self.in_plane(slab, scratch),
            Role::AlongZ => self.along_z(slab, scratch),
            Role::InPlaneWeighted(weighted) => self.in_plane_weighted(weighted, slab, scratch),
            Role::AlongZWeighted(weighted) => self.along_z_weighted(weighted, slab, scratch),
        }
    }
}
