//! Mask: which voxels of an image are inside, and the value of the result outside.

use serde::{Deserialize, Serialize};

use super::kernels::convert::{Conversion, Voxel, recast_one, with_voxel_type};
use crate::volume::{Datatype, NoMemory, Scaling, Volume, VoxelBuffer};

/// The result outside the mask.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outside {
    /// 0
    #[default]
    Zero,
    /// The image's own voxels
    Keep,
    /// NaN; the result needs a float type
    Nan,
}

impl Outside {
    /// The name, as in `--outside`.
    pub fn name(self) -> &'static str {
        match self {
            Outside::Zero => "zero",
            Outside::Keep => "keep",
            Outside::Nan => "nan",
        }
    }

    /// The result for a voxel outside. A kept voxel is converted once; integers are rounded to nearest.
    pub(super) fn value<S: Voxel, T: Voxel>(self, voxel: S, scaling: Option<Scaling>) -> T {
        match self {
            Outside::Zero => T::nearest(0.0),
            Outside::Keep => recast_one(voxel, scaling, Conversion::Nearest),
            Outside::Nan => T::nearest(f64::NAN),
        }
    }
}

/// A mask: 1 for each voxel inside and 0 for each voxel outside, x first. It has one 3-D volume for all
/// volumes of an image, or one for each.
///
/// ```
/// use niimpi::filter::Mask;
/// use niimpi::volume::{Datatype, Volume};
///
/// let mut volume = Volume::zeros(&[3, 1, 1], Datatype::Float32);
/// volume.voxels.as_mut_slice::<f32>().copy_from_slice(&[0.5, f32::NAN, -1.0]);
/// assert_eq!(Mask::above_zero(&volume)?.voxels(), [1, 0, 0]);
/// assert_eq!(Mask::nonzero(&volume)?.voxels(), [1, 0, 1]);
/// # Ok::<(), niimpi::volume::NoMemory>(())
/// ```
#[derive(Default)]
pub struct Mask {
    voxels: VoxelBuffer,
}

impl Mask {
    /// The type of its voxels.
    pub(super) const DATATYPE: Datatype = Datatype::Uint8;

    /// Voxels with an intensity above 0 are inside. NaN is outside.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn above_zero(volume: &Volume) -> Result<Self, NoMemory> {
        Self::of(volume, |intensity| intensity > 0.0)
    }

    /// Voxels whose intensity is neither 0 nor NaN are inside.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn nonzero(volume: &Volume) -> Result<Self, NoMemory> {
        Self::of(volume, |intensity| intensity != 0.0 && !intensity.is_nan())
    }

    /// Sets the voxels of a mask to 1 where the intensity of stored numbers is above 0, otherwise to 0.
    /// Returns whether all intensities are 0 or 1.
    pub(crate) fn mark_above_zero(
        datatype: Datatype,
        scaling: Option<Scaling>,
        stored: &VoxelBuffer,
        mask: &mut [u8],
    ) -> bool {
        let mut is_binary = true;
        with_voxel_type!(datatype, S => {
            for (inside, &voxel) in mask.iter_mut().zip(stored.as_slice::<S>()) {
                let stored = voxel.to_f64();
                let intensity = scaling.map_or(stored, |scaling| scaling.intensity(stored));
                *inside = u8::from(intensity > 0.0);
                is_binary &= intensity == f64::from(*inside);
            }
        });
        is_binary
    }

    fn of(volume: &Volume, is_inside: impl Fn(f64) -> bool) -> Result<Self, NoMemory> {
        let mut mask = Self::of_len(volume.len())?;
        let to = mask.voxels.as_bytes_mut();
        with_voxel_type!(volume.datatype, S => {
            for (to, &voxel) in to.iter_mut().zip(volume.voxels.as_slice::<S>()) {
                let stored = voxel.to_f64();
                let intensity = volume.scaling.map_or(stored, |scaling| scaling.intensity(stored));
                *to = u8::from(is_inside(intensity));
            }
        });
        Ok(mask)
    }

    /// A mask of `len` voxels.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(crate) fn of_len(len: usize) -> Result<Self, NoMemory> {
        let mut voxels = VoxelBuffer::default();
        voxels.try_resize_for_overwrite(len)?;
        Ok(Mask { voxels })
    }

    /// Its voxels.
    pub fn voxels(&self) -> &[u8] {
        self.voxels.as_bytes()
    }

    /// Its voxels, to be set to 1 or 0.
    pub(crate) fn voxels_mut(&mut self) -> &mut [u8] {
        self.voxels.as_bytes_mut()
    }

    /// Number of voxels of a floating-point volume that are inside and NaN or infinite.
    pub(super) fn count_nonfinite(&self, volume: &Volume) -> u64 {
        if !volume.datatype.is_float() {
            return 0;
        }
        with_voxel_type!(volume.datatype, S => {
            let inside = self.voxels().iter().cycle();
            let odd = volume.voxels.as_slice::<S>().iter().zip(inside).filter(|&(&voxel, &inside)| {
                let stored = voxel.to_f64();
                let intensity = volume.scaling.map_or(stored, |scaling| scaling.intensity(stored));
                inside != 0 && !intensity.is_finite()
            });
            odd.count() as u64
        })
    }
}
