//! Volume: the voxels of an image in the file's own type, with their shape, scaling and voxel size.

mod grid;

use std::fmt;

use bytemuck::Pod;
use ndarray::{ArrayViewD, ArrayViewMutD, IxDyn, ShapeBuilder};
use nifti::NiftiType;
use serde::{Deserialize, Serialize};

pub use grid::{Geometry, Grid};

/// A real NIfTI datatype. Complex, RGB and 128-bit types are refused when an image is read.
///
/// ```
/// use niimpi::volume::Datatype;
///
/// assert_eq!(Datatype::Int16.name(), "int16");
/// assert_eq!(Datatype::Int16.size_bytes(), 2);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datatype {
    /// `DT_UINT8`, code 2
    #[default]
    Uint8,
    /// `DT_INT8`, code 256
    Int8,
    /// `DT_UINT16`, code 512
    Uint16,
    /// `DT_INT16`, code 4
    Int16,
    /// `DT_UINT32`, code 768
    Uint32,
    /// `DT_INT32`, code 8
    Int32,
    /// `DT_UINT64`, code 1280
    Uint64,
    /// `DT_INT64`, code 1024
    Int64,
    /// `DT_FLOAT32`, code 16
    Float32,
    /// `DT_FLOAT64`, code 64
    Float64,
}

impl Datatype {
    /// Every real datatype, narrowest first.
    pub const ALL: [Datatype; 10] = [
        Datatype::Uint8,
        Datatype::Int8,
        Datatype::Uint16,
        Datatype::Int16,
        Datatype::Uint32,
        Datatype::Int32,
        Datatype::Uint64,
        Datatype::Int64,
        Datatype::Float32,
        Datatype::Float64,
    ];

    /// The type's code in a NIfTI header.
    pub fn code(self) -> i16 {
        match self {
            Datatype::Uint8 => 2,
            Datatype::Int8 => 256,
            Datatype::Uint16 => 512,
            Datatype::Int16 => 4,
            Datatype::Uint32 => 768,
            Datatype::Int32 => 8,
            Datatype::Uint64 => 1280,
            Datatype::Int64 => 1024,
            Datatype::Float32 => 16,
            Datatype::Float64 => 64,
        }
    }

    /// The type's name, as numpy spells it.
    pub fn name(self) -> &'static str {
        match self {
            Datatype::Uint8 => "uint8",
            Datatype::Int8 => "int8",
            Datatype::Uint16 => "uint16",
            Datatype::Int16 => "int16",
            Datatype::Uint32 => "uint32",
            Datatype::Int32 => "int32",
            Datatype::Uint64 => "uint64",
            Datatype::Int64 => "int64",
            Datatype::Float32 => "float32",
            Datatype::Float64 => "float64",
        }
    }

    /// Bytes of one voxel.
    pub fn size_bytes(self) -> usize {
        match self {
            Datatype::Uint8 | Datatype::Int8 => 1,
            Datatype::Uint16 | Datatype::Int16 => 2,
            Datatype::Uint32 | Datatype::Int32 | Datatype::Float32 => 4,
            Datatype::Uint64 | Datatype::Int64 | Datatype::Float64 => 8,
        }
    }

    /// Whether voxels are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Datatype::Float32 | Datatype::Float64)
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<NiftiType> for Datatype {
    type Error = NiftiType;

    /// # Errors
    /// The type itself if it is not one real number per voxel.
    fn try_from(nifti_type: NiftiType) -> Result<Self, NiftiType> {
        Ok(match nifti_type {
            NiftiType::Uint8 => Datatype::Uint8,
            NiftiType::Int8 => Datatype::Int8,
            NiftiType::Uint16 => Datatype::Uint16,
            NiftiType::Int16 => Datatype::Int16,
            NiftiType::Uint32 => Datatype::Uint32,
            NiftiType::Int32 => Datatype::Int32,
            NiftiType::Uint64 => Datatype::Uint64,
            NiftiType::Int64 => Datatype::Int64,
            NiftiType::Float32 => Datatype::Float32,
            NiftiType::Float64 => Datatype::Float64,
            other => return Err(other),
        })
    }
}

/// A number type that voxels are stored as.
///
/// ```
/// use niimpi::volume::{Datatype, VoxelType};
///
/// assert_eq!(f32::DATATYPE, Datatype::Float32);
/// ```
pub trait VoxelType: Pod + Send + Sync {
    /// The datatype of a header.
    const DATATYPE: Datatype;
}

macro_rules! voxel_types {
    ($($type:ty => $datatype:ident),*) => {
        $(impl VoxelType for $type {
            const DATATYPE: Datatype = Datatype::$datatype;
        })*
    };
}

voxel_types!(
    u8 => Uint8, i8 => Int8, u16 => Uint16, i16 => Int16, u32 => Uint32, i32 => Int32,
    u64 => Uint64, i64 => Int64, f32 => Float32, f64 => Float64
);

/// Why a volume cannot be viewed as an array.
///
/// ```
/// use niimpi::volume::{Datatype, Volume};
///
/// let volume = Volume::zeros(&[4, 3, 2], Datatype::Int16);
/// let error = volume.view::<f32>().unwrap_err();
/// assert_eq!(error.to_string(), "the voxels are int16, not float32");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// Its voxels are of another type.
    #[error("the voxels are {stored}, not {asked}")]
    Datatype {
        /// The volume's.
        stored: Datatype,
        /// The requested one.
        asked: Datatype,
    },
    /// Shape and buffer contradict each other.
    #[error("{voxels} voxels are stored where the shape has {needed}")]
    Length {
        /// Voxels in the buffer.
        voxels: usize,
        /// Voxels by the shape.
        needed: usize,
    },
}

/// How stored numbers become intensities: `slope · stored + intercept`, in double.
///
/// ```
/// use niimpi::volume::Scaling;
///
/// let scaling = Scaling { slope: 0.5, intercept: 10.0 };
/// assert_eq!(scaling.intensity(4.0), 12.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// `scl_slope`: finite and not 0.
    pub slope: f64,
    /// `scl_inter`: finite.
    pub intercept: f64,
}

impl Scaling {
    /// The intensity of a stored number, product and sum each rounded to double. A slope of 1 or an intercept
    /// of 0 skips its operation, so that -0 keeps its sign.
    pub fn intensity(self, stored: f64) -> f64 {
        let product = if self.slope == 1.0 {
            stored
        } else {
            stored * self.slope
        };
        if self.intercept == 0.0 {
            product
        } else {
            product + self.intercept
        }
    }
}

/// Bytes aligned to 64, so that they can be viewed as voxels of any type. The allocation is kept and reused.
///
/// ```
/// use niimpi::volume::VoxelBuffer;
///
/// let mut buffer = VoxelBuffer::default();
/// buffer.resize_for_overwrite(4);
/// buffer.as_mut_slice::<u16>().copy_from_slice(&[1, 2]);
/// assert_eq!(buffer.as_bytes(), [1, 0, 2, 0]);
/// ```
#[derive(Default)]
pub struct VoxelBuffer {
    /// The widest type that the allocator aligns by itself. It would write zeros to memory of a wider
    /// alignment, page by page, although the kernel's pages are zero.
    words: Vec<u128>,
    /// Where the bytes start in it.
    start: usize,
    len_bytes: usize,
}

const ALIGNMENT: usize = 64;

/// The system has too little memory.
///
/// ```
/// use niimpi::volume::VoxelBuffer;
///
/// let error = VoxelBuffer::default().try_resize_for_overwrite(1 << 60).unwrap_err();
/// assert_eq!(error.to_string(), "could not allocate 1099511627776 MiB");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not allocate {} MiB", len_bytes.div_ceil(1 << 20))]
pub struct NoMemory {
    /// The requested size in bytes.
    pub len_bytes: usize,
}

impl VoxelBuffer {
    /// Makes the buffer `len_bytes` long, with unspecified content for the caller to overwrite.
    ///
    /// # Panics
    /// If there is too little memory.
    pub fn resize_for_overwrite(&mut self, len_bytes: usize) {
        self.try_resize_for_overwrite(len_bytes)
            .unwrap_or_else(|error| panic!("{error}"));
    }

    /// [`VoxelBuffer::resize_for_overwrite`] for sizes that come from a file.
    ///
    /// # Errors
    /// [`NoMemory`]; the buffer is then empty.
    pub fn try_resize_for_overwrite(&mut self, len_bytes: usize) -> Result<(), NoMemory> {
        if self.start + len_bytes > size_of_val(&self.words[..]) {
            // The kernel provides the pages of a fresh zeroed allocation when they are first touched, not
            // here.
            *self = VoxelBuffer::default();
            let words = (len_bytes + ALIGNMENT).div_ceil(size_of::<u128>());
            self.words = bytemuck::try_zeroed_vec(words).map_err(|()| NoMemory { len_bytes })?;
            let bytes: &[u8] = bytemuck::cast_slice(&self.words);
            self.start = bytes.as_ptr().align_offset(ALIGNMENT);
        }
        self.len_bytes = len_bytes;
        Ok(())
    }

    /// Keeps the first `len_bytes`, or all if there are fewer.
    pub fn truncate(&mut self, len_bytes: usize) {
        self.len_bytes = self.len_bytes.min(len_bytes);
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        &bytes[self.start..][..self.len_bytes]
    }

    /// The bytes to overwrite.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        &mut bytes[self.start..][..self.len_bytes]
    }

    /// Turns the bytes of each number round, which has so many.
    pub(crate) fn swap_bytes(&mut self, size_bytes: usize) {
        match size_bytes {
            2 => self
                .as_mut_slice::<u16>()
                .iter_mut()
                .for_each(|number| *number = number.swap_bytes()),
            4 => self
                .as_mut_slice::<u32>()
                .iter_mut()
                .for_each(|number| *number = number.swap_bytes()),
            8 => self
                .as_mut_slice::<u64>()
                .iter_mut()
                .for_each(|number| *number = number.swap_bytes()),
            _ => {}
        }
    }

    /// The bytes as native-endian numbers of type `T`, without an incomplete last one.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        let whole = self.len_bytes / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice(&self.as_bytes()[..whole])
    }

    /// The bytes as native-endian numbers of type `T` to overwrite, without an incomplete last one.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        let whole = self.len_bytes / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.as_bytes_mut()[..whole])
    }
}

/// The voxels of one image, of one to seven dimensions, the first index fastest in memory (NIfTI's order).
///
/// Voxels are native-endian numbers of [`Volume::datatype`]. With [`Volume::scaling`] they become
/// intensities; without, they are intensities. Reading or filtering another image reuses the memory.
///
/// ```
/// use niimpi::volume::{Datatype, Volume};
///
/// let mut volume = Volume::zeros(&[4, 3, 2], Datatype::Float32).with_voxel_size_mm([2.0, 2.0, 3.0]);
/// volume.view_mut::<f32>()?[[1, 2, 0]] = 7.5;
/// assert_eq!(volume.view::<f32>()?.sum(), 7.5);
///
/// let copy = Volume::from_array(&volume.view::<f32>()?);
/// assert_eq!(copy.shape, [4, 3, 2]);
/// assert_eq!(copy.voxels.as_bytes(), volume.voxels.as_bytes());
/// # Ok::<(), niimpi::volume::ViewError>(())
/// ```
#[derive(Default)]
pub struct Volume {
    /// Lengths of the axes, x first; 1 to 7 of them, none 0.
    pub shape: Vec<usize>,
    /// Distance between voxel centres along x, y and z, in mm.
    pub voxel_size_mm: [f64; 3],
    /// Where the voxels lie in space, as ITK reads the header; `None` without a header.
    pub grid: Option<Grid>,
    /// The fields of the header that give the voxel size; `None` without a header.
    pub geometry: Option<Geometry>,
    /// The type of a voxel in `voxels`.
    pub datatype: Datatype,
    /// From stored numbers to intensities.
    pub scaling: Option<Scaling>,
    /// The stored numbers.
    pub voxels: VoxelBuffer,
    /// Spare buffer for results of another type; its content is unspecified.
    pub(crate) spare: VoxelBuffer,
}

impl Volume {
    /// A volume of zeros with voxels of 1 mm.
    ///
    /// # Panics
    /// If there is too little memory.
    pub fn zeros(shape: &[usize], datatype: Datatype) -> Self {
        let mut volume = Volume {
            shape: shape.to_vec(),
            voxel_size_mm: [1.0; 3],
            datatype,
            ..Volume::default()
        };
        let len_bytes = volume.len() * datatype.size_bytes();
        volume.voxels.resize_for_overwrite(len_bytes);
        volume.voxels.as_bytes_mut().fill(0);
        volume
    }

    /// A copy of an array whose axes are x, y, z and so on, with voxels of 1 mm.
    ///
    /// # Panics
    /// If there is too little memory.
    pub fn from_array<T: VoxelType>(array: &ArrayViewD<'_, T>) -> Self {
        let mut volume = Volume::zeros(array.shape(), T::DATATYPE);
        // The transpose is iterated with x fastest, as it lies in memory.
        let voxels = volume.voxels.as_mut_slice::<T>();
        for (to, from) in voxels.iter_mut().zip(array.t()) {
            *to = *from;
        }
        volume
    }

    /// The same volume with this voxel size.
    #[must_use]
    pub fn with_voxel_size_mm(mut self, voxel_size_mm: [f64; 3]) -> Self {
        self.voxel_size_mm = voxel_size_mm;
        self
    }

    /// Number of voxels of all 3-D volumes together.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there is no voxel.
    pub fn is_empty(&self) -> bool {
        self.shape.is_empty() || self.len() == 0
    }

    /// The stored numbers as an array, without a copy. Axes are in the order of the header: `view[[x, y, z]]`
    /// for a 3-D image, with x fastest in memory. `reversed_axes` turns it into a C-order array of z, y, x.
    ///
    /// # Errors
    /// [`ViewError`] if the voxels are not of type `T`, or more or fewer than the shape has.
    pub fn view<T: VoxelType>(&self) -> Result<ArrayViewD<'_, T>, ViewError> {
        let length = self.check_view::<T>()?;
        let voxels = self.voxels.as_slice();
        ArrayViewD::from_shape(IxDyn(&self.shape).f(), voxels).map_err(|_| length)
    }

    /// [`Volume::view`] for writing.
    ///
    /// # Errors
    /// As [`Volume::view`].
    pub fn view_mut<T: VoxelType>(&mut self) -> Result<ArrayViewMutD<'_, T>, ViewError> {
        let length = self.check_view::<T>()?;
        let voxels = self.voxels.as_mut_slice();
        ArrayViewMutD::from_shape(IxDyn(&self.shape).f(), voxels).map_err(|_| length)
    }

    /// Checks that shape and voxels fit an array of `T`. Returns the error to use if creating the array fails
    /// anyway.
    fn check_view<T: VoxelType>(&self) -> Result<ViewError, ViewError> {
        let voxels = self.voxels.as_slice::<T>().len();
        let length = ViewError::Length {
            voxels,
            needed: self.len(),
        };
        if T::DATATYPE != self.datatype {
            Err(ViewError::Datatype {
                stored: self.datatype,
                asked: T::DATATYPE,
            })
        } else if voxels != self.len() {
            Err(length)
        } else {
            Ok(length)
        }
    }

    /// Lengths of x, y and z, 1 where the image has fewer axes.
    pub fn spatial_shape(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.shape.get(axis).copied().unwrap_or(1))
    }

    /// Number of spatial axes: 1, 2 or 3. Missing axes are not filtered.
    pub fn spatial_axes(&self) -> usize {
        self.shape.len().min(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(shape: &[usize]) -> Volume {
        let mut volume = Volume {
            shape: shape.to_vec(),
            datatype: Datatype::Int16,
            ..Volume::default()
        };
        volume.voxels.resize_for_overwrite(2 * volume.len());
        for (number, voxel) in (0..).zip(volume.voxels.as_mut_slice::<i16>()) {
            *voxel = number;
        }
        volume
    }

    #[test]
    fn too_little_memory_is_an_error_with_figures() {
        let mut buffer = VoxelBuffer::default();
        buffer.resize_for_overwrite(100);
        let result = buffer.try_resize_for_overwrite(1 << 60);
        // The optimizer removes an unused allocation.
        std::hint::black_box(&mut buffer);
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), "could not allocate 1099511627776 MiB");
        assert!(buffer.as_bytes().is_empty());
        buffer.try_resize_for_overwrite(200).unwrap();
        assert_eq!(buffer.as_bytes().len(), 200);
    }

    #[test]
    fn a_view_has_the_headers_axes_and_x_is_fastest() {
        let mut volume = volume(&[4, 3, 2, 2]);
        let view = volume.view::<i16>().unwrap();
        assert_eq!(view.shape(), [4, 3, 2, 2]);
        assert_eq!(view[[1, 0, 0, 0]], 1);
        assert_eq!(view[[3, 2, 1, 1]], 3 + 4 * (2 + 3 * (1 + 2)));
        assert!(view.reversed_axes().is_standard_layout());
        volume.view_mut::<i16>().unwrap()[[0, 1, 0, 0]] = -5;
        assert_eq!(volume.voxels.as_slice::<i16>()[4], -5);
    }

    #[test]
    fn a_view_of_another_type_or_of_too_few_voxels_is_refused() {
        let mut volume = volume(&[4, 3]);
        assert_eq!(
            volume.view::<u16>().unwrap_err().to_string(),
            "the voxels are int16, not uint16"
        );
        volume.shape.push(2);
        let length = ViewError::Length {
            voxels: 12,
            needed: 24,
        };
        assert_eq!(volume.view::<i16>().unwrap_err(), length);
        assert_eq!(volume.view_mut::<i16>().unwrap_err(), length);
    }
}
