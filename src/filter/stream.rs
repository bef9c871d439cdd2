//! Stream: a volume smoothed slice by slice, while later slices are still being read and earlier ones already written.
//!
//! Several threads share the work; who calls keeps the order (see [`Stream`]). The bits are those of [`super::apply`].

use std::ops::Range;

use super::boundary::Boundary;
use super::correlate::{Lines, Pass, VoxelPointer};
use super::{Conversion, Filter, FilterError, OutputSpec, Scratch, Smoothing};
use crate::volume::{Datatype, Scaling, Volume, VoxelBuffer};

/// A volume on its way through the filter. Slices are counted from 0 through all 3-D volumes of the image.
///
/// A slice is filled with the file's voxels ([`Stream::unread`]), smoothed along x and y ([`Stream::in_plane`]), then along z
/// into the result ([`Stream::through_planes`]), which can then be read ([`Stream::result`]). The buffers are the volume's
/// own: it must neither be touched nor moved in memory until the last of these calls has returned, and
/// [`Stream::finish`] gives it its result.
pub(crate) struct Stream {
    shape: [usize; 3],
    slices: usize,
    passes: Passes,
    source: VoxelPointer,
    between: VoxelPointer,
    target: VoxelPointer,
    last: Datatype,
}

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
    /// for the result. `None` where slices cannot be done one after the other: without smoothing along z, with the boundary
    /// `wrap`, and where what lies between the axes does not fit into the place of the input.
    ///
    /// # Errors
    /// Those of [`super::apply`].
    pub(crate) fn begin(
        filter: &Filter,
        output: &OutputSpec,
        volume: &mut Volume,
        scratch: &mut Scratch,
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
        volume
            .spare
            .resize_for_overwrite(voxels * types.last.size_bytes());
        let source = VoxelPointer::new(volume.datatype, volume.voxels.as_bytes_mut());
        Ok(Some(Stream {
            shape,
            slices: voxels / (shape[0] * shape[1]),
            source,
            between: source.retyped(types.between),
            target: VoxelPointer::new(types.last, volume.spare.as_bytes_mut()),
            last: types.last,
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

    /// Slices of one 3-D volume.
    pub(crate) fn slices_of_volume(&self) -> usize {
        self.shape[2]
    }

    /// The radius along z, in slices.
    pub(crate) fn radius(&self) -> usize {
        self.passes.kernels[2].len() - 1
    }

    /// Bytes of a slice as it is read.
    pub(crate) fn unread_slice_bytes(&self) -> usize {
        self.shape[0] * self.shape[1] * self.source.datatype.size_bytes()
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
    /// [`Stream::in_plane`], and nobody else uses these slices of the result meanwhile.
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
        // SAFETY: the caller's; source and target are different buffers.
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
        std::mem::swap(&mut volume.voxels, &mut volume.spare);
        volume.datatype = self.last;
        volume.scaling = None;
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
