//! Outside: where a slab's mask has voxels, and what its result has where mask or image leave one out.

use super::interface::{Slab, Source};
use super::kernels::convert::{Voxel, with_voxel_type};
use super::mask::Outside;

impl Slab<'_> {
    /// The number of this source among the planes that the stage reads.
    fn number_of(&self, source: Source) -> Option<usize> {
        self.reads.iter().position(|&(read, _)| read == source)
    }

    /// Which voxels of a slice are inside of the mask, 1 or 0; `None` where the stage reads no mask.
    ///
    /// # Panics
    /// When the slice is not [readable](Slab::readable).
    pub(super) fn inside(&self, slice: usize) -> Option<&[u8]> {
        let mask = self.number_of(Source::Mask)?;
        assert!(self.readable(mask).contains(&slice));
        let from = self.sources[mask].offset(slice * self.shape[0] * self.shape[1]);
        // SAFETY: the mask has this slice, and nobody writes it.
        Some(unsafe { from.as_slice::<u8>(self.shape[0] * self.shape[1]) })
    }

    /// Writes the values outside the mask to the first target, for `len` voxels from index `first` of the 3-D
    /// volume. The stage must read the mask, and the input if its voxels are kept.
    ///
    /// # Panics
    /// If the stage does not read them.
    pub(super) fn put_outside(&mut self, outside: Outside, first: usize, len: usize) {
        let mask = self.number_of(Source::Mask).expect("the stage reads the mask");
        // If nothing is kept, the values do not matter.
        let input = self.number_of(Source::Input).unwrap_or(mask);
        assert!(
            outside != Outside::Keep || input != mask,
            "the stage reads the input"
        );
        let [mask, input] = [mask, input].map(|number| self.sources[number].offset(first));
        let target = self.targets[0].offset(first);
        with_voxel_type!(input.datatype, S => with_voxel_type!(target.datatype, T => {
            // SAFETY: all areas contain the voxels, the target does not overlap the others, and no other
            // thread uses these voxels of it.
            let (mask, input, to) = unsafe {
                (mask.as_slice::<u8>(len), input.as_slice::<S>(len), target.as_mut_slice::<T>(len))
            };
            for ((to, &voxel), &inside) in to.iter_mut().zip(input).zip(mask) {
                if inside == 0 {
                    *to = outside.value(voxel, self.scaling);
                }
            }
        }));
    }

    /// Writes NaN (0 for integers) to the first target where the input is NaN or infinite, for `len` voxels
    /// from index `first` of the 3-D volume. The stage must read the input.
    ///
    /// # Panics
    /// If the stage does not read it.
    pub(super) fn put_nan(&mut self, first: usize, len: usize) {
        let input = self.number_of(Source::Input).expect("the stage reads the input");
        let (input, target) = (self.sources[input].offset(first), self.targets[0].offset(first));
        with_voxel_type!(input.datatype, S => with_voxel_type!(target.datatype, T => {
            // SAFETY: as above.
            let (input, to) = unsafe { (input.as_slice::<S>(len), target.as_mut_slice::<T>(len)) };
            for (to, &voxel) in to.iter_mut().zip(input) {
                let stored = voxel.to_f64();
                let intensity = self.scaling.map_or(stored, |scaling| scaling.intensity(stored));
                if !intensity.is_finite() {
                    *to = T::nearest(f64::NAN);
                }
            }
        }));
    }
}
