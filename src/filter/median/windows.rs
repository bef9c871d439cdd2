//! Windows: the medians of the windows of a slab, row by row.

use super::super::FilterError;
use super::super::boundary::Boundary;
use super::super::interface::{Prepared, Slab, Stage, ThreadScratch};
use super::super::kernels::convert::{Conversion, Voxel, recast_one, with_voxel_type};
use super::super::kernels::ranks::{Key, Network, Ranked, Select, WIRE_BYTES};
use super::super::kernels::simd::Isa;
use super::super::mask::Outside;
use super::super::output::Types;
use crate::volume::{Datatype, Scaling, VoxelType};

/// Seconds of a CPU core per voxel, per byte of a key and comparator, and per voxel of a partitioned window.
const S_PER_VOXEL: f64 = 3e-9;
const S_PER_COMPARATOR_BYTE: f64 = 2e-11;
const S_PER_PARTITIONED: f64 = 8e-9;

/// The position of the median among `voxels` values in ascending order, or in `descending` order.
pub(super) fn rank(voxels: usize, descending: bool) -> usize {
    if descending {
        voxels - 1 - voxels / 2
    } else {
        voxels / 2
    }
}

/// How windows are searched.
pub(super) enum Way {
    /// Boxes: the voxels at one x are sorted once for all windows that contain them.
    Columns { column: Network, window: Network },
    /// All voxels of a window at once.
    Window(Network),
    /// One window after the other; with `ignore`, only finite voxels.
    Partition { ignore: bool },
}

pub(super) struct PreparedMedian {
    pub(super) shape: [usize; 3],
    pub(super) input: Datatype,
    /// The scaling from the compared numbers to intensities.
    pub(super) scaling: Option<Scaling>,
    /// Whether intensities in double are compared, not the stored numbers.
    pub(super) on_intensities: bool,
    pub(super) descending: bool,
    pub(super) size: [usize; 3],
    pub(super) places: Vec<[usize; 3]>,
    pub(super) boundary: Boundary,
    pub(super) cval: f64,
    pub(super) way: Way,
    /// The result outside the mask, if there is one.
    pub(super) outside: Option<Outside>,
    pub(super) keeps_digits: bool,
    /// Whether the result is NaN where the image is not finite.
    pub(super) keeps_nan: bool,
    pub(super) types: Types,
    pub(super) stages: Vec<Stage>,
}

/// A row of windows.
#[derive(Clone, Copy)]
struct Row<'a> {
    isa: Isa,
    /// The start of each slice of its windows, lowest first.
    slots: &'a [usize],
    y: usize,
    /// Number of keys from one row to the next.
    pitch: usize,
}

impl Row<'_> {
    /// The position of a voxel of the first window, from its place in the window.
    fn at(&self, [x, dy, z]: [usize; 3]) -> usize {
        self.slots[z] + (self.y + dy) * self.pitch + x
    }
}

impl PreparedMedian {
    fn key_bytes(&self) -> usize {
        if self.on_intensities {
            size_of::<f64>()
        } else {
            self.input.size_bytes()
        }
    }

    /// Number of keys of a row with its continuation beyond the ends, in whole wires of `lanes`.
    pub(super) fn pitch(&self, lanes: usize) -> usize {
        (self.shape[0].next_multiple_of(lanes) + self.size[0] - 1).next_multiple_of(lanes)
    }

    /// Number of keys of a slice with its continuation beyond the edges.
    pub(super) fn plane(&self, lanes: usize) -> usize {
        self.pitch(lanes).saturating_mul(self.shape[1] + self.size[1] - 1)
    }

    /// Number of keys of the sorted columns of a row of windows, and of all wires.
    fn work(&self, lanes: usize) -> (usize, usize) {
        match self.way {
            Way::Columns { .. } => {
                let columns = self.size[1] * self.size[2] * self.pitch(lanes);
                (columns, self.places.len() * lanes)
            }
            Way::Window(_) => (0, self.places.len() * lanes),
            Way::Partition { .. } => (0, self.places.len()),
        }
    }

    /// Bytes of the mask's slices, with the same layout as the keys.
    pub(super) fn mask_bytes(&self, lanes: usize) -> usize {
        self.outside
            .map_or(0, |_| self.plane(lanes).saturating_mul(self.size[2]))
    }

    fn run_as<S: Voxel, R: Ranked>(
        &self,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
        read: impl Fn(S) -> R,
    ) -> Result<(), FilterError> {
        // scipy converts it to the type of the array first, unless it keeps all digits.
        let digits = self.keeps_digits.then(|| R::nearest(self.cval.trunc()));
        let beyond = digits.unwrap_or_else(|| R::cast(self.cval)).key();
        if let Some(mut lane) = scratch.take_lane()? {
            let done = self.run_on_device(slab, &mut lane, scratch, beyond, read);
            scratch.give_back(Some(lane));
            return done;
        }
        let lanes = WIRE_BYTES / size_of::<R::Key>();
        let (pitch, plane) = (self.pitch(lanes), self.plane(lanes));
        let (columns, wires) = self.work(lanes);
        let ThreadScratch {
            isa,
            tile,
            plane: rings,
            ..
        } = scratch;
        let key_bytes = size_of::<R::Key>();
        let ring_bytes = plane.saturating_mul(self.size[2]).saturating_mul(key_bytes);
        rings.try_resize_for_overwrite(ring_bytes.saturating_add(self.mask_bytes(lanes)))?;
        tile.try_resize_for_overwrite((pitch + columns + wires) * key_bytes)?;
        let (ring, inside) = rings.as_bytes_mut().split_at_mut(ring_bytes);
        let ring: &mut [R::Key] = bytemuck::cast_slice_mut(ring);
        let (results, rest) = tile.as_mut_slice::<R::Key>().split_at_mut(pitch);
        let (columns, wires) = rest.split_at_mut(columns);
        let [nx, ny, _] = self.shape;
        let before = self.size[2] / 2;
        let mut filled = slab.slices().start as isize - before as isize;
        for slice in slab.slices() {
            let first = slice as isize - before as isize;
            while filled < first + self.size[2] as isize {
                let slot = filled.rem_euclid(self.size[2] as isize) as usize * plane;
                let to = &mut ring[slot..][..plane];
                self.fill(slab, (0, filled), to, pitch, beyond, |voxel: S| read(voxel).key());
                if self.outside.is_some() {
                    let to = &mut inside[slot..][..plane];
                    self.fill(slab, (1, filled), to, pitch, 0, |inside: u8| inside);
                }
                filled += 1;
            }
            let slots: Vec<usize> = (0..self.size[2])
                .map(|z| (first + z as isize).rem_euclid(self.size[2] as isize) as usize * plane)
                .collect();
            for y in 0..ny {
                slab.check_stop()?;
                let row = Row {
                    isa: *isa,
                    slots: &slots,
                    y,
                    pitch,
                };
                self.select::<R>(row, ring, inside, columns, wires, results);
                self.finish_row::<R>(slab, slice * nx * ny + y * nx, &results[..nx]);
            }
        }
        Ok(())
    }

    /// The medians of a row of windows.
    fn select<R: Ranked>(
        &self,
        row: Row<'_>,
        ring: &[R::Key],
        inside: &[u8],
        columns: &mut [R::Key],
        wires: &mut [R::Key],
        results: &mut [R::Key],
    ) {
        let nx = self.shape[0];
        let at = |place| row.at(place);
        let whole = self.outside.map(|_| self.whole_windows(row, inside));
        let any_whole = whole.as_ref().is_none_or(|whole| whole.contains(&1));
        let select =
            |network, inputs: &[*const R::Key], outputs: &[*mut R::Key], windows, wires: &mut [R::Key]| {
                let select = Select {
                    network,
                    inputs,
                    outputs,
                    windows,
                    wires,
                };
                // SAFETY: rows are as long as all whole wires of windows and the window beyond them, and
                // none of the buffers overlap.
                unsafe { R::Key::select(row.isa, select) }
            };
        match &self.way {
            Way::Columns { column, window } if any_whole => {
                let height = self.size[1] * self.size[2];
                let base = ring.as_ptr();
                let inputs: Vec<_> = (0..height)
                    .map(|i| base.wrapping_add(at([0, i % self.size[1], i / self.size[1]])))
                    .collect();
                let sorted = columns.as_mut_ptr();
                let rows: Vec<_> = (0..height).map(|i| sorted.wrapping_add(i * row.pitch)).collect();
                select(column, &inputs, &rows, row.pitch, wires);
                let lists =
                    (0..self.size[0]).flat_map(|x| rows.iter().map(move |sorted| sorted.wrapping_add(x)));
                let inputs: Vec<_> = lists.map(<*mut _>::cast_const).collect();
                select(window, &inputs, &[results.as_mut_ptr()], nx, wires);
            }
            Way::Window(window) if any_whole => {
                let base = ring.as_ptr();
                let inputs: Vec<_> = self
                    .places
                    .iter()
                    .map(|&place| base.wrapping_add(at(place)))
                    .collect();
                select(window, &inputs, &[results.as_mut_ptr()], nx, wires);
            }
            _ => {}
        }
        if whole.is_some() || matches!(self.way, Way::Partition { .. }) {
            self.partition::<R>(row, ring, inside, whole.as_deref(), wires, &mut results[..nx]);
        }
    }

    /// 1 for each window of a row whose voxels are all inside the mask, otherwise 0.
    fn whole_windows(&self, row: Row<'_>, inside: &[u8]) -> Vec<u8> {
        let mut whole = vec![1; self.shape[0]];
        for &place in &self.places {
            for (whole, inside) in whole.iter_mut().zip(&inside[row.at(place)..]) {
                *whole &= inside;
            }
        }
        whole
    }

    /// The medians of those windows of a row that the network does not compute: of the voxels inside, and
    /// only of finite ones if others are ignored. If there is a network, `whole` windows are left out.
    fn partition<R: Ranked>(
        &self,
        row: Row<'_>,
        ring: &[R::Key],
        inside: &[u8],
        whole: Option<&[u8]>,
        found: &mut [R::Key],
        results: &mut [R::Key],
    ) {
        let (has_network, ignore) = match self.way {
            Way::Partition { ignore } => (false, ignore),
            _ => (true, false),
        };
        let middle = row.at(self.size.map(|size| size / 2));
        for (x, result) in results.iter_mut().enumerate() {
            if has_network && whole.is_some_and(|whole| whole[x] != 0) {
                continue;
            }
            let counts = |place: usize| whole.is_none() || inside[place] != 0;
            if !counts(middle + x) {
                // It gets the value for voxels outside.
                continue;
            }
            let mut len = 0;
            for place in self.places.iter().map(|&place| row.at(place) + x) {
                if counts(place) && (!ignore || R::of_key(ring[place]).is_finite()) {
                    found[len] = ring[place];
                    len += 1;
                }
            }
            *result = match len {
                0 => R::nearest(f64::NAN).key(),
                _ => *found[..len].select_nth_unstable(rank(len, self.descending)).1,
            };
        }
    }

    /// Fills a slice with the keys of a source, given by its number, at any position along z. `beyond` is the
    /// key of the constant beyond the edge.
    pub(super) fn fill<S: Voxel, K: VoxelType>(
        &self,
        slab: &Slab<'_>,
        (source, position): (usize, isize),
        to: &mut [K],
        pitch: usize,
        beyond: K,
        key: impl Fn(S) -> K,
    ) {
        let [nx, ny, nz] = self.shape;
        let [before_x, before_y, _] = self.size.map(|size| size / 2);
        let slice = self.boundary.source(position, nz);
        for (row, to) in to.chunks_exact_mut(pitch).enumerate() {
            let y = self.boundary.source(row as isize - before_y as isize, ny);
            let (Some(slice), Some(y)) = (slice, y) else {
                to.fill(beyond);
                continue;
            };
            let first = slab.sources[source].offset((slice * ny + y) * nx);
            // SAFETY: the boundary maps to positions within the stage's reach, and no thread writes voxels
            // that a slab may read.
            let voxels = unsafe { first.as_slice::<S>(nx) };
            let (left, rest) = to.split_at_mut(before_x);
            let (own, right) = rest.split_at_mut(nx);
            for (own, &voxel) in own.iter_mut().zip(voxels) {
                *own = key(voxel);
            }
            let edge = |x: isize| self.boundary.source(x, nx).map_or(beyond, |x| key(voxels[x]));
            for (i, left) in left.iter_mut().enumerate() {
                *left = edge(i as isize - before_x as isize);
            }
            for (i, right) in right.iter_mut().enumerate() {
                // The rest of the last wire does not belong to any window that counts.
                *right = match i < self.size[0] {
                    true => edge((nx + i) as isize),
                    false => beyond,
                };
            }
        }
    }

    /// Writes a row of medians, and what the result has elsewhere.
    pub(super) fn finish_row<R: Ranked>(&self, slab: &mut Slab<'_>, first: usize, medians: &[R::Key]) {
        self.write::<R>(slab, first, medians);
        if self.keeps_nan {
            slab.put_nan(first, medians.len());
        }
        if let Some(outside) = self.outside {
            slab.put_outside(outside, first, medians.len());
        }
    }

    /// Writes a row of medians to the result.
    fn write<R: Ranked>(&self, slab: &Slab<'_>, first: usize, medians: &[R::Key]) {
        let target = slab.targets[0].offset(first);
        if self.keeps_digits {
            // SAFETY: the row is this slab's alone, and has the type of the image.
            let to = unsafe { target.as_mut_slice::<R>(medians.len()) };
            for (to, &key) in to.iter_mut().zip(medians) {
                *to = R::of_key(key);
            }
            return;
        }
        with_voxel_type!(target.datatype, T => {
            // SAFETY: no other thread uses the row.
            let to = unsafe { target.as_mut_slice::<T>(medians.len()) };
            let own = T::DATATYPE == R::DATATYPE && self.scaling.is_none();
            for (to, &key) in to.iter_mut().zip(medians) {
                let voxel = R::of_key(key);
                *to = match self.types.conversion {
                    Conversion::Nearest if self.on_intensities => T::nearest(voxel.to_f64()),
                    _ if own || self.on_intensities => T::cast(voxel.to_f64()),
                    _ => recast_one(voxel, self.scaling, self.types.conversion),
                };
            }
        });
    }
}

impl Prepared for PreparedMedian {
    fn stages(&self) -> &[Stage] {
        &self.stages
    }

    fn cost_s(&self, _stage: usize, voxels: u64) -> f64 {
        let comparators = match &self.way {
            Way::Columns { column, window } => column.comparators() + window.comparators(),
            Way::Window(window) => window.comparators(),
            Way::Partition { .. } => 0,
        };
        let partitioned = match self.way {
            Way::Partition { .. } => 1.0,
            // Windows at the edge of a mask are partitioned one by one.
            _ => self.outside.map_or(0.0, |_| 0.2),
        };
        let partitioned = partitioned * self.places.len() as f64 * S_PER_PARTITIONED;
        let compared = (comparators * self.key_bytes()) as f64 * S_PER_COMPARATOR_BYTE;
        voxels as f64 * (S_PER_VOXEL + compared + partitioned)
    }

    fn scratch_bytes(&self, _stage: usize, _slab_voxels: u64) -> u64 {
        let lanes = WIRE_BYTES / self.key_bytes();
        let (columns, wires) = self.work(lanes);
        let keys = self.plane(lanes).saturating_mul(self.size[2]);
        let keys = keys.saturating_add(self.pitch(lanes) + columns + wires);
        let keys = (keys as u64).saturating_mul(self.key_bytes() as u64);
        keys.saturating_add(self.mask_bytes(lanes) as u64)
    }

    fn held_bytes(&self) -> u64 {
        let networks = match &self.way {
            Way::Columns { column, window } => column.held_bytes() + window.held_bytes(),
            Way::Window(window) => window.held_bytes(),
            Way::Partition { .. } => 0,
        };
        networks + (self.places.capacity() * size_of::<[usize; 3]>()) as u64
    }

    fn run(&self, _: usize, slab: &mut Slab<'_>, scratch: &mut ThreadScratch) -> Result<(), FilterError> {
        let scaling = slab.scaling.filter(|_| self.on_intensities);
        with_voxel_type!(self.input, S => match scaling {
            None => self.run_as::<S, S>(slab, scratch, |voxel| voxel),
            Some(scaling) => self.run_as::<S, f64>(slab, scratch, |voxel| scaling.intensity(voxel.to_f64())),
        })
    }
}
