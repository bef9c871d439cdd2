//! Median: its options, their command-line arguments, and the computation.

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::boundary::{Boundary, BoundaryArgs};
pub use super::footprint::Footprint;
use super::interface::{
    Filter, ImageInfo, Prepared, Reach, SharedOptions, Slab, Source, Stage, ThreadScratch,
};
use super::kernels::convert::{Conversion, Voxel, recast_one, with_voxel_type};
use super::kernels::ranks::{Key, Network, Ranked, Select, WIRE_BYTES};
use super::kernels::simd::Isa;
use super::mask::Outside;
use super::nonfinite::NonFinite;
use super::output::Types;
pub use super::per_axis::PerAxis;
pub use super::window::MAX_WINDOW_VOXELS;
use super::window::{keeps_digits, parse_size, size_fault, window};
use crate::volume::{Datatype, Scaling, VoxelType};

/// Larger windows are partitioned one by one.
const MAX_NETWORK_VOXELS: usize = 2048;

/// Seconds of a CPU core per voxel, per byte of a key and comparator, and per voxel of a partitioned window.
const S_PER_VOXEL: f64 = 3e-9;
const S_PER_COMPARATOR_BYTE: f64 = 2e-11;
const S_PER_PARTITIONED: f64 = 8e-9;

/// The median of a window around each voxel: bit for bit the value of `scipy.ndimage.median_filter`.
///
/// Of n voxels in ascending order it is the one with n//2 before it: the upper one of two in the middle. A
/// window of `size` voxels along an axis begins size//2 voxels before its own. The spatial axes are
/// filtered, each 3-D volume by itself. As in scipy, 64-bit integers are rounded to doubles, unless the
/// window is a single voxel or the image has one axis, and zeros of both signs are equal. NaN and infinity
/// are refused, unless [`NonFinite::Ignore`] takes the median of the finite voxels (NaN without any, 0 in
/// integers) or [`NonFinite::Zero`] replaces them. With a mask only voxels inside count; those beyond the
/// edge with [`Boundary::Constant`] are outside.
///
/// ```
/// use niimpi::filter::median::{Median, PerAxis};
/// use niimpi::filter::{Scratch, SharedOptions, apply};
/// use niimpi::volume::{Datatype, Volume};
///
/// let mut volume = Volume::zeros(&[5, 1, 1], Datatype::Uint8);
/// volume.voxels.as_mut_slice::<u8>().copy_from_slice(&[1, 9, 2, 3, 4]);
/// let median = Median { size: PerAxis::Each([3, 1, 1]), ..Median::default() };
/// apply(&median, &SharedOptions::default(), &mut volume, &mut Scratch::default())?;
/// assert_eq!(volume.voxels.as_slice::<u8>(), [1, 2, 3, 3, 4]);
/// # Ok::<(), niimpi::filter::FilterError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Median {
    /// Lengths of the window in voxels.
    pub size: PerAxis<usize>,
    /// Which voxels of the window count.
    pub footprint: Footprint,
    /// How the image continues beyond its edge.
    pub boundary: Boundary,
    /// Intensity beyond the edge with [`Boundary::Constant`]. As in scipy, it is first converted to the type
    /// of an image without intensity scaling, as by a C cast on x86-64: −1 becomes 255 in a `uint8` image.
    #[serde(with = "super::lossless")]
    pub cval: f64,
}

/// The command-line options of the median.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub(crate) struct Args {
    /// Length of the window in VOXELS: one value, or one each for x, y and z
    ///
    /// The same as size of scipy.ndimage.median_filter. A window of even length reaches one voxel further
    /// towards lower indices, and its median is the larger of the two middle values.
    #[arg(
        long,
        value_name = "VOX[,Y,Z]",
        default_value = "3",
        value_parser = parse_size,
        allow_negative_numbers = true
    )]
    size: PerAxis<usize>,

    /// Which voxels of the window count: box, cross, or sphere:MM
    ///
    /// cross: only voxels on the lines along x, y and z through the middle of the window. sphere:MM: all
    /// voxels whose centres are within MM millimetres; --size is then ignored.
    #[arg(long, value_name = "SHAPE", default_value = "box")]
    footprint: Footprint,

    #[command(flatten)]
    edge: BoundaryArgs,
}

impl From<Args> for Median {
    fn from(args: Args) -> Self {
        Median {
            size: args.size,
            footprint: args.footprint,
            boundary: args.edge.boundary,
            cval: args.edge.cval,
        }
    }
}

impl Default for Median {
    fn default() -> Self {
        Median {
            size: PerAxis::All(3),
            footprint: Footprint::Box,
            boundary: Boundary::default(),
            cval: 0.0,
        }
    }
}

impl Filter for Median {
    fn validate(&self) -> Result<(), FilterError> {
        if let Some(cause) = size_fault(self.size) {
            return Err(FilterError::Parameter { name: "size", cause });
        }
        if self.cval.is_nan() {
            let cause = "NaN has no place in an order: give a number".to_owned();
            return Err(FilterError::Parameter { name: "cval", cause });
        }
        match self.footprint {
            Footprint::Sphere(mm) if !(mm.is_finite() && mm >= 0.0) => Err(FilterError::Parameter {
                name: "footprint",
                cause: format!("{mm} mm is not a radius: give a finite number that is not negative"),
            }),
            _ => Ok(()),
        }
    }

    fn uses_voxel_size(&self) -> bool {
        matches!(self.footprint, Footprint::Sphere(_))
    }

    fn refuses_nonfinite(&self) -> bool {
        true
    }

    fn bids_desc(&self) -> Option<String> {
        Some("median".to_owned())
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        self.validate()?;
        if shared.nan == NonFinite::Propagate && image.nonfinite_voxels.is_some_and(|found| found > 0) {
            return Err(FilterError::Parameter {
                name: "nan",
                cause: "the image has voxels that are NaN or infinite, which have no median: give --nan \
                        ignore or keep for the median of the others, or --nan zero"
                    .to_owned(),
            });
        }
        let (places, size) = window(self.size, self.footprint, image)?;
        let ignore = shared.nan.leaves_out() && image.may_be_nonfinite();
        let outside = image.mask_voxels.map(|_| shared.outside.unwrap_or_default());
        let constant = self.boundary == Boundary::Constant;
        // Intensities have the order of the stored numbers, or the reverse order.
        let on_intensities = image.scaling.is_some() && (constant || ignore);
        let descending = !on_intensities && image.scaling.is_some_and(|scaling| scaling.slope < 0.0);
        let voxels = places.len();
        let rank = rank(voxels, descending);
        let way = if ignore || voxels > MAX_NETWORK_VOXELS {
            Way::Partition { ignore }
        } else if voxels == size.iter().product::<usize>() {
            let column = size[1] * size[2];
            Way::Columns {
                column: Network::new(column, 1, 0..column),
                window: Network::new(size[0], column, rank..rank + 1),
            }
        } else {
            Way::Window(Network::new(voxels, 1, rank..rank + 1))
        };
        let types = shared.types(image)?;
        let before = size[2] / 2;
        // With mirroring, a window needs as many slices on one side as it reaches on the other.
        let reach = Reach::Slices {
            below: before,
            above: before,
            wrap: before > 0 && self.boundary == Boundary::Wrap,
        };
        let mut reads = vec![(Source::Input, reach)];
        reads.extend(outside.map(|_| (Source::Mask, reach)));
        let stage = Stage {
            reads,
            writes: vec![types.last],
            in_place: false,
        };
        // scipy copies the image in this case, which keeps 64-bit integers that a double cannot hold.
        let same = image.scaling.is_none() && types.last == image.datatype;
        let copies = voxels == 1 && same && outside.is_none();
        Ok(Box::new(PreparedMedian {
            shape: image.spatial_shape(),
            input: image.datatype,
            scaling: image.scaling.filter(|_| !on_intensities),
            on_intensities,
            descending,
            size,
            places,
            boundary: self.boundary,
            cval: self.cval,
            way,
            outside,
            keeps_digits: same && outside.is_none() && keeps_digits(image, size[0]),
            keeps_nan: ignore && shared.nan == NonFinite::Keep,
            types,
            stages: if copies { Vec::new() } else { vec![stage] },
        }))
    }
}

/// The position of the median among `voxels` values in ascending order, or in `descending` order.
fn rank(voxels: usize, descending: bool) -> usize {
    if descending {
        voxels - 1 - voxels / 2
    } else {
        voxels / 2
    }
}

/// How windows are searched.
enum Way {
    /// Boxes: the voxels at one x are sorted once for all windows that contain them.
    Columns { column: Network, window: Network },
    /// All voxels of a window at once.
    Window(Network),
    /// One window after the other; with `ignore`, only finite voxels.
    Partition { ignore: bool },
}

struct PreparedMedian {
    shape: [usize; 3],
    input: Datatype,
    /// The scaling from the compared numbers to intensities.
    scaling: Option<Scaling>,
    /// Whether intensities in double are compared, not the stored numbers.
    on_intensities: bool,
    descending: bool,
    size: [usize; 3],
    places: Vec<[usize; 3]>,
    boundary: Boundary,
    cval: f64,
    way: Way,
    /// The result outside the mask, if there is one.
    outside: Option<Outside>,
    keeps_digits: bool,
    /// Whether the result is NaN where the image is not finite.
    keeps_nan: bool,
    types: Types,
    stages: Vec<Stage>,
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
    fn pitch(&self, lanes: usize) -> usize {
        (self.shape[0].next_multiple_of(lanes) + self.size[0] - 1).next_multiple_of(lanes)
    }

    /// Number of keys of a slice with its continuation beyond the edges.
    fn plane(&self, lanes: usize) -> usize {
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
    fn mask_bytes(&self, lanes: usize) -> usize {
        self.outside
            .map_or(0, |_| self.plane(lanes).saturating_mul(self.size[2]))
    }

    fn run_as<S: Voxel, R: Ranked>(
        &self,
        slab: &mut Slab<'_>,
        scratch: &mut ThreadScratch,
        read: impl Fn(S) -> R,
    ) -> Result<(), FilterError> {
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
        // scipy converts it to the type of the array first, unless it keeps all digits.
        let digits = self.keeps_digits.then(|| R::nearest(self.cval.trunc()));
        let beyond = digits.unwrap_or_else(|| R::cast(self.cval)).key();
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
                let first = slice * nx * ny + y * nx;
                self.write::<R>(slab, first, &results[..nx]);
                if self.keeps_nan {
                    slab.put_nan(first, nx);
                }
                if let Some(outside) = self.outside {
                    slab.put_outside(outside, first, nx);
                }
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
    fn fill<S: Voxel, K: VoxelType>(
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
