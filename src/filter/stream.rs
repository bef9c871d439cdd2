//! Stream: a volume smoothed slice by slice, while later slices are still being read and earlier ones already written.
//!
//! Several threads share the work; who calls keeps the order (see [`Stream`]). The bits are those of [`super::apply`].

use std::ops::Range;

use super::boundary::Boundary;
use super::kernels::correlate::{Lines, Pass, VoxelPointer};
use super::{Conversion, Filter, FilterError, OutputSpec, Scratch, Smoothing};
use crate::volume::{Datatype, Scaling, Volume, VoxelBuffer};

/// A volume on its way through the filter. Slices are counted from 0 through all 3-D volumes of the image.
///
/// A slice is filled with the file's voxels ([`Stream::unread`]), smoothed along x and y ([`Stream::in_plane`]), then along z
/// into the result ([`Stream::through_planes`]), which can then be read ([`Stream::result`]). The buffers are the volume's
/// own: it must neither be touched nor moved in memory until the last of these calls has returned, and
/// [`Stream::finish`] or [`Stream::abandon`] gives it back.
///
/// Where voxels of the result are as long as those of the input, the result takes the input's place, a few slices further to
/// the front: a slice is written where one lies that is no longer needed. The memory of a second volume would cost more page
/// faults than some of the passes cost time.
pub(crate) struct Stream {
    shape: [usize; 3],
    slices: usize,
    passes: Passes,
    source: VoxelPointer,
    between: VoxelPointer,
    target: VoxelPointer,
    last: Datatype,
    slabs: Vec<Range<usize>>,
    /// By how many slices the result lies before the input in the same buffer; `None` where it has a buffer of its own.
    lead: Option<usize>,
}

/// A slab has at least about so many bytes, so that taking the next one costs little beside doing it.
const SLAB_BYTES: usize = 1 << 20;

/// What the passes are made of; a [`Pass`] borrows its kernel, so that it is made where it is used.
struct Passes {
    kernels: [Vec<f64>; 3],
    isa: super::Isa,
    boundary: Boundary,
    cval: f64,
    scaling: Option<Scaling>,
    conversion: Conversion,
}

impl Stream {
    /// Prepares `volume`, whose shape, type, scaling and buffer are set while its voxels are still to come, and makes room
    /// for the result, on which so many `threads` work. `None` where slices cannot be done one after the other: without
    /// smoothing along z, with the boundary `wrap`, where what lies between the axes does not fit into the place of the
    /// input, and without memory for the result.
    ///
    /// # Errors
    /// Those of [`super::apply`].
    pub(crate) fn begin(
        filter: &Filter,
        output: &OutputSpec,
        volume: &mut Volume,
        scratch: &mut Scratch,
        threads: usize,
    ) -> Result<Option<Self>, FilterError> {
        Self::begin_with_slabs_of(SLAB_BYTES, filter, output, volume, scratch, threads)
    }

    /// [`Stream::begin`] with slabs of at least about so many bytes.
    pub(super) fn begin_with_slabs_of(
        slab_bytes: usize,
        filter: &Filter,
        output: &OutputSpec,
        volume: &mut Volume,
        scratch: &mut Scratch,
        threads: usize,
    ) -> Result<Option<Self>, FilterError> {
        let Filter::Gaussian(gaussian) = filter;
        gaussian.kernels(volume.voxel_size_mm, &mut scratch.kernels)?;
        let types = output.types(volume.datatype, volume.scaling.is_some());
        let fits = types.between.size_bytes() == volume.datatype.size_bytes();
        if volume.spatial_axes() < 3
            || scratch.kernels[2].is_empty()
            || gaussian.boundary == Boundary::Wrap
            || !fits
        {
            return Ok(None);
        }
        let voxels = volume.len();
        let shape = volume.spatial_shape();
        let plane = shape[0] * shape[1];
        let slices = voxels / plane;
        let radius = scratch.kernels[2].len() - 1;
        let least_thick = slab_bytes.div_ceil(plane * volume.datatype.size_bytes());
        let slabs = slabs(slices, shape[2], least_thick.max(2 * radius));
        let thickest = slabs.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        // As many slabs as there are threads can be on their way at once.
        let lead = Some(radius + threads * thickest).filter(|&lead| {
            types.last.size_bytes() == volume.datatype.size_bytes() && lead < slices
        });
        let (source, target) = match lead {
            Some(lead) => {
                let len = (lead * plane + voxels) * types.last.size_bytes();
                if volume.voxels.try_resize_for_overwrite(len).is_err() {
                    let alone = voxels * volume.datatype.size_bytes();
                    volume.voxels.resize_for_overwrite(alone);
                    return Ok(None);
                }
                let target = VoxelPointer::new(types.last, volume.voxels.as_bytes_mut());
                let source = target.retyped(volume.datatype).offset(lead * plane);
                (source, target)
            }
            None => {
                let len = voxels * types.last.size_bytes();
                if volume.spare.try_resize_for_overwrite(len).is_err() {
                    return Ok(None);
                }
                let target = VoxelPointer::new(types.last, volume.spare.as_bytes_mut());
                let source = VoxelPointer::new(volume.datatype, volume.voxels.as_bytes_mut());
                (source, target)
            }
        };
        Ok(Some(Stream {
            shape,
            slices,
            source,
            between: source.retyped(types.between),
            target,
            last: types.last,
            slabs,
            lead,
            passes: Passes {
                kernels: scratch.kernels.clone(),
                isa: scratch.isa,
                boundary: gaussian.boundary,
                cval: gaussian.cval,
                scaling: volume.scaling,
                conversion: types.conversion,
            },
        }))
    }

    /// All slices.
    pub(crate) fn slices(&self) -> usize {
        self.slices
    }

    /// The parts that threads take one at a time, in the order of the slices; each lies in one 3-D volume.
    pub(crate) fn slabs(&self) -> &[Range<usize>] {
        &self.slabs
    }

    /// Bytes of a slice as it is read.
    fn unread_slice_bytes(&self) -> usize {
        self.plane() * self.source.datatype.size_bytes()
    }

    /// Bytes of a slice of the result.
    pub(crate) fn result_slice_bytes(&self) -> usize {
        self.shape[0] * self.shape[1] * self.last.size_bytes()
    }

    /// The type of the result.
    pub(crate) fn result_type(&self) -> Datatype {
        self.last
    }

    /// How many slices must be through [`Stream::in_plane`] before [`Stream::through_planes`] may take `slices`, which lie in
    /// one 3-D volume.
    pub(crate) fn needed_for(&self, slices: &Range<usize>) -> usize {
        let nz = self.shape[2];
        let first = slices.start / nz * nz;
        (slices.end + self.radius()).min(first + nz)
    }

    /// Whether the result of `slab` has a place when all slabs before the one at `unfinished` are through
    /// [`Stream::through_planes`]: it must not fall on slices that those from there on still need. There is room for as many
    /// slabs as there are threads, from `unfinished` on.
    ///
    /// # Panics
    /// If there is no slab at `unfinished`.
    pub(crate) fn has_room(&self, slab: &Range<usize>, unfinished: usize) -> bool {
        let start = self.slabs[unfinished].start;
        // The pass along z reads a radius further back, but not beyond its own 3-D volume.
        let needed_from = start
            .saturating_sub(self.radius())
            .max(start / self.shape[2] * self.shape[2]);
        self.lead.is_none_or(|lead| slab.end <= needed_from + lead)
    }

    /// The place of `slices` as they are read.
    ///
    /// # Safety
    /// The volume is as [`Stream::begin`] left it, and nobody uses these slices while the bytes are borrowed.
    pub(crate) unsafe fn unread<'a>(&self, slices: Range<usize>) -> &'a mut [u8] {
        let bytes = self.unread_slice_bytes();
        let first = self.source.offset(slices.start * self.plane());
        // SAFETY: the caller's; the source has all slices.
        unsafe { first.as_bytes_mut(slices.len() * bytes) }
    }

    /// Smooths `slices` along x and y, in place.
    ///
    /// # Safety
    /// The volume is as [`Stream::begin`] left it, these slices are read, and nobody else uses them meanwhile.
    pub(crate) unsafe fn in_plane(&self, slices: Range<usize>, tile: &mut VoxelBuffer) {
        let smoothing = self.smoothing();
        for slice in slices {
            smoothing.plane(slice, tile);
        }
    }

    /// Smooths `slices`, which lie in one 3-D volume, along z into the result.
    ///
    /// # Safety
    /// The volume is as [`Stream::begin`] left it, the first [`Stream::needed_for`] slices are through
    /// [`Stream::in_plane`], the result [has room](Stream::has_room), and nobody else uses these slices of it meanwhile.
    pub(crate) unsafe fn through_planes(&self, slices: Range<usize>, tile: &mut VoxelBuffer) {
        let nz = self.shape[2];
        let first = slices.start / nz * nz;
        let plane = self.plane();
        let pass = self.passes.pass(2);
        let is_first = self.passes.kernels[..2].iter().all(Vec::is_empty);
        let source = if is_first { self.source } else { self.between };
        let lines = Lines {
            len: nz,
            step: plane,
            count: plane,
            apart: 1,
        };
        // SAFETY: the caller's; source and target are different buffers, or so far apart that these slices do not overlap.
        unsafe {
            pass.run_part(
                source.offset(first * plane),
                self.target.offset(first * plane),
                lines,
                slices.start - first..slices.end - first,
                tile,
            );
        }
    }

    /// Bytes of the result.
    ///
    /// # Safety
    /// The volume is as [`Stream::begin`] left it, and the slices that hold these bytes are through
    /// [`Stream::through_planes`].
    pub(crate) unsafe fn result<'a>(&self, bytes: Range<usize>) -> &'a [u8] {
        // SAFETY: the caller's.
        unsafe { self.target.as_bytes(bytes) }
    }

    /// Gives the volume its result.
    pub(crate) fn finish(self, volume: &mut Volume) {
        match self.lead {
            Some(_) => volume
                .voxels
                .truncate(volume.len() * self.last.size_bytes()),
            None => std::mem::swap(&mut volume.voxels, &mut volume.spare),
        }
        volume.datatype = self.last;
        volume.scaling = None;
    }

    /// Leaves the volume as it was before [`Stream::begin`], its voxels still to come.
    pub(crate) fn abandon(self, volume: &mut Volume) {
        let len = volume.len() * volume.datatype.size_bytes();
        volume.voxels.truncate(len);
    }

    /// The radius along z, in slices.
    fn radius(&self) -> usize {
        self.passes.kernels[2].len() - 1
    }

    fn plane(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    fn smoothing(&self) -> Smoothing<'_> {
        Smoothing {
            shape: self.shape,
            passes: [0, 1, 2].map(|axis| self.passes.pass(axis)),
            source: self.source,
            between: self.between,
            target: self.target,
        }
    }
}

/// Nearly equal parts of each 3-D volume of `nz` slices, about `thick` where the volume is; several radii, since a slab's pass
/// along z reads a radius beyond both its sides.
fn slabs(slices: usize, nz: usize, thick: usize) -> Vec<Range<usize>> {
    let count = nz.div_ceil(thick.clamp(1, nz));
    (0..slices)
        .step_by(nz)
        .flat_map(|first| {
            (0..count).map(move |slab| first + nz * slab / count..first + nz * (slab + 1) / count)
        })
        .collect()
}

impl Passes {
    /// The pass along an axis: the first one that is smoothed makes intensities, the last, along z, the result's type.
    fn pass(&self, axis: usize) -> Pass<'_> {
        let is_first = self.kernels[..axis].iter().all(Vec::is_empty);
        Pass {
            isa: self.isa,
            half_kernel: &self.kernels[axis],
            boundary: self.boundary,
            cval: self.cval,
            scaling: self.scaling.filter(|_| is_first),
            conversion: if axis == 2 {
                self.conversion
            } else {
                Conversion::Cast
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::gaussian::Gaussian;

    /// Checks, for every slab that is the first unfinished one, that it has room itself, that as many slabs as there are
    /// threads have room at once, and that a slab has room exactly if its result lies on no slice that is still read.
    /// Returns whether the result takes the input's place at all.
    fn places_are_free(shape: &[usize], sigma: f64, threads: usize) -> bool {
        let mut volume = Volume {
            shape: shape.to_vec(),
            voxel_size_mm: [1.0; 3],
            datatype: Datatype::Int16,
            ..Volume::default()
        };
        let bytes = volume.len() * volume.datatype.size_bytes();
        volume.voxels.resize_for_overwrite(bytes);
        let filter = Filter::Gaussian(Gaussian::from_sigma_vox(sigma));
        let output = OutputSpec::default();
        let mut scratch = Scratch::default();
        let stream = Stream::begin(&filter, &output, &mut volume, &mut scratch, threads)
            .unwrap()
            .unwrap();
        let slabs = stream.slabs();
        assert!(slabs.iter().flat_map(Clone::clone).eq(0..stream.slices()));
        let Some(lead) = stream.lead else {
            return false;
        };
        let read_by = |slab: &Range<usize>| {
            let volume_start = slab.start / shape[2] * shape[2];
            let from = slab.start.saturating_sub(stream.radius());
            from.max(volume_start)..stream.needed_for(slab)
        };
        for unfinished in 0..slabs.len() {
            let rest = &slabs[unfinished..];
            let still_read: Vec<usize> = rest.iter().flat_map(read_by).map(|k| lead + k).collect();
            let room: Vec<bool> = rest
                .iter()
                .map(|slab| stream.has_room(slab, unfinished))
                .collect();
            for (slab, &has_room) in rest.iter().zip(&room) {
                let before_all = still_read.iter().all(|&place| slab.end <= place);
                assert_eq!(has_room, before_all, "{slab:?} of {slabs:?}");
                assert!(!has_room || !still_read.iter().any(|place| slab.contains(place)));
            }
            let at_once = room.iter().take_while(|&&has_room| has_room).count();
            assert!(at_once >= threads.min(rest.len()), "{at_once} at once");
        }
        stream.finish(&mut volume);
        assert_eq!(volume.voxels.as_bytes().len(), bytes);
        true
    }

    #[test]
    fn a_result_in_the_inputs_place_falls_on_nothing_that_is_still_read() {
        for (shape, sigma) in [
            (&[128, 128, 200][..], 2.0),
            (&[64, 64, 100, 5], 2.0),
            (&[300, 200, 90, 2], 0.5),
            (&[512, 512, 150], 4.0),
        ] {
            for threads in 1..4 {
                assert!(
                    places_are_free(shape, sigma, threads),
                    "{shape:?} {threads}"
                );
            }
        }
        // So thin that the result would lie a whole volume ahead.
        assert!(!places_are_free(&[512, 512, 20], 2.0, 2));
    }
}
