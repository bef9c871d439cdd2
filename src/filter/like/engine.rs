//! Engine: a separable kernel along one axis after the other, with the edges, order of sums and precision of
//! a preset.
//!
//! The axes of a slice are done together, z by itself. Rows of neighbouring voxels are summed side by side,
//! so x is transposed first.

use std::ops::{Add, AddAssign, Div, Mul, Range};
use std::sync::OnceLock;

use super::super::FilterError;
use super::super::interface::{
    FilterWarning, ImageInfo, Prepared, Reach, Slab, Source, Stage, ThreadScratch, width_warnings,
};
use super::super::kernels::convert::{Voxel, with_voxel_type};
use super::super::presets::{Divide, Edge, Grid, Odd, Preset, SumOrder};
use crate::volume::{Datatype, Scaling};

/// Seconds of one CPU core for each voxel and axis, and for each voxel and tap. Only proportions matter.
const S_PER_VOXEL_AND_AXIS: f64 = 3e-9;
const S_PER_TAP: f64 = 3e-10;

/// Voxels of a row that are summed side by side.
const CHUNK: usize = 512;

/// AFNI sums a kernel up to this radius in another order than a longer one.
const SHORT_RADIUS: usize = 7;

/// MRtrix takes a kernel with this weight inside of the image as whole.
const WHOLE_WEIGHT: f64 = 1.0 - 1e-12;

/// The numbers that sums are made of.
pub(super) trait Real:
    Voxel + Default + Add<Output = Self> + Mul<Output = Self> + Div<Output = Self> + AddAssign
{
}

impl Real for f32 {}
impl Real for f64 {}

/// The kernel along one axis.
pub(super) struct Axis<A> {
    axis: usize,
    len: usize,
    edge: Edge,
    half: Vec<A>,
    /// How sums are divided where the kernel is cut; `None` where it never is.
    divide: Option<Divide>,
    /// The weight inside of the image at each voxel of a line, or what a sum is multiplied by for it.
    /// Computed by the first voxel that needs it, because memory is counted before it is allocated.
    inside: OnceLock<Vec<A>>,
}

impl<A: Real> Axis<A> {
    pub(super) fn new(preset: &Preset, axis: usize, len: usize, half: &[f64]) -> Self {
        let half: Vec<A> = half.iter().map(|&weight| A::cast(weight)).collect();
        let edge = preset.edges[axis];
        let divides = edge == Edge::Cut && preset.divide != Divide::AtTheEnd;
        Axis {
            axis,
            len,
            edge,
            divide: divides.then_some(preset.divide),
            inside: OnceLock::new(),
            half,
        }
    }

    /// The weight inside of the image at a voxel of a line; `None` where sums are not divided.
    fn inside(&self, i: usize) -> Option<A> {
        let divide = self.divide?;
        let radius = self.half.len() - 1;
        let weight_at = |i: usize| {
            let taps = i.saturating_sub(radius)..(i + radius + 1).min(self.len);
            let mut sum = A::default();
            taps.for_each(|tap| sum += self.half[tap.abs_diff(i)]);
            match divide {
                Divide::Factor => A::cast(1.0) / sum,
                _ => sum,
            }
        };
        let inside = self.inside.get_or_init(|| (0..self.len).map(weight_at).collect());
        inside.get(i).copied()
    }

    /// The voxels of a line that the kernel meets around one of them, outside ones left out.
    fn taps(&self, i: usize) -> impl Iterator<Item = (usize, A)> + '_ {
        let radius = self.half.len() as isize - 1;
        (-radius..=radius).filter_map(move |j| {
            let source = self.edge.source(i as isize + j, self.len)?;
            Some((source, self.half[j.unsigned_abs()]))
        })
    }
}

/// Rows of voxels that lie behind each other along an axis.
struct Rows<'a, A> {
    values: &'a [A],
    /// The place of the first of them.
    first: usize,
    /// Voxels of a row.
    len: usize,
    /// Whether there are voxels that are left out.
    has_odd: bool,
}

impl<'a, A> Rows<'a, A> {
    fn row(&self, place: usize) -> &'a [A] {
        &self.values[(place - self.first) * self.len..][..self.len]
    }
}

/// What a stage does.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// Axes of a slice, by their places in the order.
    InPlane(Range<usize>),
    /// z, by its place.
    AlongZ(usize),
}

/// A preset prepared for one image.
pub(super) struct Engine<A> {
    preset: &'static Preset,
    shape: [usize; 3],
    scaling: Option<Scaling>,
    input: Datatype,
    stored: Datatype,
    sigma_vox: [f64; 3],
    warnings: Vec<FilterWarning>,
    axes: Vec<Axis<A>>,
    roles: Vec<Role>,
    stages: Vec<Stage>,
    /// The weight inside of the image for each voxel of a slice, but for z, where sums are divided in the
    /// end. Computed by the first slice that needs it; `None` if memory did not suffice.
    weights: OnceLock<Option<Vec<A>>>,
}

/// The type of the result; `of_stored` is that of the image between the axes.
pub(super) fn result_type(preset: &Preset, image: &ImageInfo, of_stored: Datatype) -> Datatype {
    let (own, scaled) = (image.datatype, image.scaling.is_some());
    match preset.grid {
        Grid::None => of_stored,
        Grid::Own if own == Datatype::Float32 => own,
        Grid::Own if !scaled && own.size_bytes() <= 2 => Datatype::Float32,
        Grid::Own => Datatype::Float64,
        Grid::Stored if scaled && stays_stored(preset, image) => Datatype::Float64,
        Grid::Stored => Datatype::Float32,
    }
}

/// Whether stored numbers are smoothed instead of intensities.
fn stays_stored(preset: &Preset, image: &ImageInfo) -> bool {
    let whole = matches!(image.datatype, Datatype::Uint8 | Datatype::Int16);
    let no_intercept = image.scaling.is_none_or(|scaling| scaling.intercept == 0.0);
    preset.grid == Grid::Stored && whole && no_intercept
}

impl<A: Real> Engine<A> {
    pub(super) fn new(
        preset: &'static Preset,
        image: &ImageInfo,
        halves: &[(usize, Vec<f64>)],
        [stored, last]: [Datatype; 2],
        sigma_vox: [f64; 3],
        warnings: Vec<FilterWarning>,
    ) -> Self {
        let shape = image.spatial_shape();
        let axes = halves.iter();
        let axes = axes.map(|(axis, half)| Axis::<A>::new(preset, *axis, shape[*axis], half));
        let axes: Vec<_> = axes.collect();
        let mut roles = Vec::new();
        for (place, axis) in axes.iter().enumerate() {
            match roles.last_mut() {
                _ if axis.axis == 2 => roles.push(Role::AlongZ(place)),
                Some(Role::InPlane(places)) => places.end = place + 1,
                _ => roles.push(Role::InPlane(place..place + 1)),
            }
        }
        if roles.is_empty() {
            roles.push(Role::InPlane(0..0));
        }
        let stages = roles.iter().enumerate().map(|(number, role)| {
            let source = match number {
                0 => Source::Input,
                _ => Source::Stage {
                    stage: number - 1,
                    plane: 0,
                },
            };
            let reach = match role {
                Role::InPlane(_) => Reach::SLICE,
                Role::AlongZ(place) => Reach::symmetric(axes[*place].half.len() - 1),
            };
            Stage {
                reads: vec![(source, reach)],
                writes: vec![if number + 1 == roles.len() { last } else { stored }],
                in_place: reach == Reach::SLICE,
            }
        });
        Engine {
            preset,
            shape,
            scaling: image.scaling,
            input: image.datatype,
            stored,
            sigma_vox,
            warnings,
            stages: stages.collect(),
            roles,
            axes,
            weights: OnceLock::new(),
        }
    }

    fn slice_len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// A slice of ones after x and y; empty where sums are not divided in the end.
    fn weights(&self) -> Result<&[A], FilterError> {
        if self.preset.divide != Divide::AtTheEnd {
            return Ok(&[]);
        }
        let ones = || {
            let mut ones = Vec::new();
            ones.try_reserve_exact(self.slice_len()).ok()?;
            ones.resize(self.slice_len(), A::cast(1.0));
            Some(ones)
        };
        let weights = self.weights.get_or_init(|| {
            let (mut slice, mut other) = (ones()?, ones()?);
            for axis in self.axes.iter().filter(|axis| axis.axis < 2) {
                self.along_slice(axis, &mut slice, &mut other);
            }
            Some(slice)
        });
        let bytes = self.weights_bytes();
        weights.as_deref().ok_or(FilterError::Memory { bytes })
    }

    /// Bytes of the weights of a slice while they are computed.
    fn weights_bytes(&self) -> u64 {
        match self.preset.divide {
            Divide::AtTheEnd => 2 * (self.slice_len() * size_of::<A>()) as u64,
            _ => 0,
        }
    }

    /// One axis of a slice, in `slice`; `other` is as long.
    fn along_slice(&self, axis: &Axis<A>, slice: &mut [A], other: &mut [A]) {
        let [nx, ny, _] = self.shape;
        if axis.axis == 0 {
            transpose(slice, other, nx);
            self.along(axis, &self.rows(other, 0, ny), 0..nx, slice);
            transpose(slice, other, ny);
        } else {
            self.along(axis, &self.rows(slice, 0, nx), 0..ny, other);
        }
        slice.copy_from_slice(other);
    }

    /// Computes some rows along an axis.
    fn along(&self, axis: &Axis<A>, from: &Rows<'_, A>, rows: Range<usize>, to: &mut [A]) {
        for (i, to) in rows.zip(to.chunks_exact_mut(from.len)) {
            for (at, to) in (0..from.len).step_by(CHUNK).zip(to.chunks_mut(CHUNK)) {
                let len = to.len();
                let source = |place: usize| &from.row(place)[at..at + len];
                sum(self.preset.sums, axis, i, source, to);
                self.divide(axis, i, to);
                if from.has_odd {
                    refill(axis, i, source, to);
                }
            }
        }
        self.round(to);
    }

    fn rows<'a>(&self, values: &'a [A], first: usize, len: usize) -> Rows<'a, A> {
        let is_odd = |value: &A| !value.to_f64().is_finite();
        Rows {
            values,
            first,
            len,
            has_odd: self.preset.odd == Odd::LeftOut && values.iter().any(is_odd),
        }
    }

    fn divide(&self, axis: &Axis<A>, i: usize, to: &mut [A]) {
        let Some(inside) = axis.inside(i) else {
            return;
        };
        match self.preset.divide {
            Divide::Factor => to.iter_mut().for_each(|value| *value = *value * inside),
            Divide::WhereCut => {
                self.round(to);
                if inside.to_f64() <= WHOLE_WEIGHT {
                    to.iter_mut().for_each(|value| *value = *value / inside);
                }
            }
            Divide::Quotient | Divide::AtTheEnd => {
                to.iter_mut().for_each(|value| *value = *value / inside);
            }
        }
    }

    /// Rounds to the type between the axes.
    fn round(&self, values: &mut [A]) {
        if self.stored != A::DATATYPE {
            with_voxel_type!(self.stored, T => {
                for value in values {
                    *value = A::cast(T::cast(value.to_f64()).to_f64());
                }
            });
        }
    }

    /// Reads slices from the source of a stage; from the image as the program reads it.
    fn load(&self, slab: &Slab<'_>, slices: Range<usize>, to: &mut [A]) {
        let from = slab.sources[0];
        let is_image = slab.reads[0].0 == Source::Input;
        let scaling = self.scaling.filter(|_| is_image && !self.stays_stored());
        let single = self.stored == Datatype::Float32;
        let zeroes = is_image && self.preset.odd == Odd::Zero;
        let first = slices.start * self.slice_len();
        with_voxel_type!(from.datatype, S => {
            // SAFETY: the volume has these slices, the slab may read them, and nobody writes what it may
            // read.
            let voxels = unsafe { from.offset(first).as_slice::<S>(to.len()) };
            for (to, &voxel) in to.iter_mut().zip(voxels) {
                let stored = voxel.to_f64();
                let value = scaling.map_or(stored, |scaling| scaling.intensity(stored));
                let value = if single { f64::from(value as f32) } else { value };
                *to = A::cast(if zeroes && !value.is_finite() { 0.0 } else { value });
            }
        });
    }

    fn stays_stored(&self) -> bool {
        let image = ImageInfo {
            datatype: self.input,
            scaling: self.scaling,
            ..ImageInfo::default()
        };
        stays_stored(self.preset, &image)
    }

    /// Writes a slice: the last stage the result, the others what is between the axes.
    fn store(&self, stage: usize, slab: &Slab<'_>, slice: usize, from: &[A]) {
        let target = slab.targets[0].offset(slice * self.slice_len());
        let grid = match stage + 1 == self.stages.len() {
            true => self.grid(),
            false => Rounding::None,
        };
        with_voxel_type!(target.datatype, T => {
            // SAFETY: the volume has this slice, and a slab's own voxels are nobody else's.
            let voxels = unsafe { target.as_mut_slice::<T>(from.len()) };
            for (voxel, &value) in voxels.iter_mut().zip(from) {
                *voxel = T::nearest(grid.apply(value.to_f64()));
            }
        });
    }

    fn grid(&self) -> Rounding {
        let scaling = self.scaling.unwrap_or(Scaling {
            slope: 1.0,
            intercept: 0.0,
        });
        match self.preset.grid {
            Grid::Own if !self.input.is_float() => Rounding::Own(self.input, scaling),
            Grid::Stored if self.stays_stored() => Rounding::Stored(f64::from(scaling.slope as f32)),
            _ => Rounding::None,
        }
    }

    fn in_plane(
        &self,
        stage: usize,
        places: Range<usize>,
        slab: &Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let len = self.slice_len();
        scratch.plane.try_resize_for_overwrite(2 * len * size_of::<A>())?;
        let (values, other) = scratch.plane.as_mut_slice::<A>().split_at_mut(len);
        let weights = match stage + 1 == self.stages.len() {
            true => self.weights()?,
            false => &[],
        };
        for slice in slab.slices() {
            slab.check_stop()?;
            self.load(slab, slice..slice + 1, values);
            for axis in &self.axes[places.clone()] {
                self.along_slice(axis, values, other);
            }
            if !weights.is_empty() {
                quotient(values, weights);
            }
            self.store(stage, slab, slice, values);
        }
        Ok(())
    }

    fn along_z(
        &self,
        stage: usize,
        place: usize,
        slab: &Slab<'_>,
        scratch: &mut ThreadScratch,
    ) -> Result<(), FilterError> {
        let (axis, len) = (&self.axes[place], self.slice_len());
        let readable = slab.readable(0);
        let bytes = (readable.len() + 2) * len * size_of::<A>();
        scratch.plane.try_resize_for_overwrite(bytes)?;
        let (from, rest) = scratch
            .plane
            .as_mut_slice::<A>()
            .split_at_mut(readable.len() * len);
        let (to, weights) = rest.split_at_mut(len);
        let of_slice = self.weights()?;
        self.load(slab, readable.clone(), from);
        let from = self.rows(from, readable.start, len);
        for slice in slab.slices() {
            slab.check_stop()?;
            self.along(axis, &from, slice..slice + 1, to);
            if !of_slice.is_empty() {
                // Each slice of weights is the same before z.
                sum(self.preset.sums, axis, slice, |_| of_slice, weights);
                quotient(to, weights);
            }
            self.store(stage, slab, slice, to);
        }
        Ok(())
    }
}

/// How a result is rounded in the end.
enum Rounding {
    None,
    /// To what a type holds with a scaling.
    Own(Datatype, Scaling),
    /// To a whole number, halves away from 0, then times this.
    Stored(f64),
}

impl Rounding {
    fn apply(&self, value: f64) -> f64 {
        match *self {
            Rounding::None => value,
            Rounding::Own(datatype, Scaling { slope, intercept }) => {
                let stored = (value - intercept) / slope;
                let whole = with_voxel_type!(datatype, T => T::nearest(stored).to_f64());
                whole * slope + intercept
            }
            Rounding::Stored(factor) => value.round() * factor,
        }
    }
}

/// `from` has rows of `row` values; `to` gets columns.
fn transpose<A: Copy>(from: &[A], to: &mut [A], row: usize) {
    let rows = from.len() / row.max(1);
    for (i, values) in from.chunks_exact(row.max(1)).enumerate() {
        for (j, &value) in values.iter().enumerate() {
            to[j * rows + i] = value;
        }
    }
}

fn quotient<A: Real>(values: &mut [A], weights: &[A]) {
    for (value, &weight) in values.iter_mut().zip(weights) {
        *value = if weight.to_f64() == 0.0 {
            A::default()
        } else {
            *value / weight
        };
    }
}

/// Weighted rows around row `i` of an axis.
fn sum<'a, A: Real>(
    order: SumOrder,
    axis: &Axis<A>,
    i: usize,
    source: impl Fn(usize) -> &'a [A],
    to: &mut [A],
) {
    let radius = axis.half.len() - 1;
    let row = |j: isize| axis.edge.source(i as isize + j, axis.len).map(&source);
    let centre_first = match order {
        SumOrder::Ascending => {
            to.fill(A::default());
            for (place, weight) in axis.taps(i) {
                for (to, &value) in to.iter_mut().zip(source(place)) {
                    *to += value * weight;
                }
            }
            return;
        }
        SumOrder::Scipy => true,
        SumOrder::Afni => radius > SHORT_RADIUS,
    };
    let outwards = order == SumOrder::Afni && centre_first;
    to.fill(A::default());
    if centre_first {
        for (to, &value) in to.iter_mut().zip(source(i)) {
            *to = value * axis.half[0];
        }
    }
    for step in 1..=radius {
        let j = if outwards { step } else { radius + 1 - step };
        let weight = axis.half[j];
        // These edges continue the line: there is a row on both sides.
        if let (Some(before), Some(after)) = (row(-(j as isize)), row(j as isize)) {
            for ((to, &before), &after) in to.iter_mut().zip(before).zip(after) {
                *to += (before + after) * weight;
            }
        }
    }
    if !centre_first {
        for (to, &value) in to.iter_mut().zip(source(i)) {
            *to += value * axis.half[0];
        }
    }
}

/// Where the kernel meets numbers that are not finite, the weighted mean of the others, in running sums of
/// single precision as MRtrix has them; NaN without any.
fn refill<'a, A: Real>(axis: &Axis<A>, i: usize, source: impl Fn(usize) -> &'a [A], to: &mut [A]) {
    for (at, to) in to.iter_mut().enumerate() {
        let (mut all_finite, mut sum, mut weights) = (true, 0.0f32, 0.0f32);
        for (place, weight) in axis.taps(i) {
            let (value, weight) = (source(place)[at].to_f64(), weight.to_f64());
            if value.is_finite() {
                sum = (f64::from(sum) + value * weight) as f32;
                weights = (f64::from(weights) + weight) as f32;
            } else {
                all_finite = false;
            }
        }
        if !all_finite {
            *to = A::cast(f64::from(sum / weights));
        }
    }
}

impl<A: Real> Prepared for Engine<A> {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn cost_s(&self, stage: usize, voxels: u64) -> f64 {
        let axes = match &self.roles[stage] {
            Role::InPlane(places) => &self.axes[places.clone()],
            Role::AlongZ(place) => &self.axes[*place..place + 1],
        };
        let taps = axes.iter().map(|axis| 2.0 * axis.half.len() as f64 - 1.0);
        voxels as f64 * (S_PER_VOXEL_AND_AXIS * axes.len() as f64 + S_PER_TAP * taps.sum::<f64>())
    }

    fn scratch_bytes(&self, stage: usize, slab_voxels: u64) -> u64 {
        let slices = (self.slice_len() as u64).saturating_mul(2);
        let voxels = match self.roles[stage] {
            Role::InPlane(_) => slices,
            Role::AlongZ(_) => slices.saturating_add(slab_voxels),
        };
        voxels.saturating_mul(size_of::<A>() as u64)
    }

    fn held_bytes(&self) -> u64 {
        let inside = |axis: &Axis<A>| axis.divide.map_or(0, |_| axis.len);
        let numbers = self.axes.iter().map(|axis| axis.half.len() + inside(axis));
        (numbers.sum::<usize>() * size_of::<A>()) as u64 + self.weights_bytes()
    }

    fn sigma_vox(&self) -> Option<[f64; 3]> {
        Some(self.sigma_vox)
    }

    fn warnings(&self) -> Vec<FilterWarning> {
        let mut half_lens = [0; 3];
        for axis in &self.axes {
            half_lens[axis.axis] = axis.half.len();
        }
        let mut warnings = self.warnings.clone();
        warnings.extend(width_warnings(self.sigma_vox, half_lens, self.shape));
        warnings
    }

    fn run(&self, stage: usize, slab: &mut Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        match &self.roles[stage] {
            Role::InPlane(places) => self.in_plane(stage, places.clone(), slab, scratch),
            Role::AlongZ(place) => self.along_z(stage, *place, slab, scratch),
        }
    }
}
