//! On device: the medians of a slab on a device. The CPU makes the keys and converts the results.

use super::super::FilterError;
use super::super::device::{Lane, Windows};
use super::super::interface::{Slab, ThreadScratch};
use super::super::kernels::convert::Voxel;
use super::super::kernels::ranks::Ranked;
use super::windows::{PreparedMedian, Way};

impl PreparedMedian {
    /// Computes a slab. `beyond` is the key of the constant beyond the edge.
    pub(super) fn run_on_device<S: Voxel, R: Ranked>(
        &self,
        slab: &mut Slab<'_>,
        lane: &mut Lane,
        scratch: &mut ThreadScratch,
        beyond: R::Key,
        read: impl Fn(S) -> R,
    ) -> Result<(), FilterError> {
        let [nx, ny, _] = self.shape;
        let (pitch, plane) = (self.pitch(1), self.plane(1));
        let distance = |[x, y, z]: [usize; 3]| z * plane + y * pitch + x;
        let places: Vec<u32> = self.places.iter().map(|&place| distance(place) as u32).collect();
        let mut windows = Windows {
            area: [nx, ny],
            pitch,
            plane,
            depth: self.size[2],
            places: &places,
            middle: distance(self.size.map(|size| size / 2)),
            masked: self.outside.is_some(),
            descending: self.descending,
            only: matches!(self.way, Way::Partition { ignore: true }).then(|| R::FINITE.map(R::key)),
            none: R::nearest(f64::NAN).key(),
            slots: 0,
            stop: slab.stop,
        };
        let own = slab.slices();
        let most = lane.most_windows(&windows, own.len())?;
        windows.slots = most + windows.depth - 1;
        let room = &mut scratch.plane;
        let key_bytes = plane * size_of::<R::Key>();
        room.try_resize_for_overwrite(key_bytes + self.mask_bytes(1) / self.size[2])?;
        let (keys, inside) = room.as_bytes_mut().split_at_mut(key_bytes);
        let keys: &mut [R::Key] = bytemuck::cast_slice_mut(keys);
        for first in own.clone().step_by(most) {
            let slices = first..(first + most).min(own.end);
            for slot in 0..slices.len() + windows.depth - 1 {
                slab.check_stop()?;
                let position = (first + slot) as isize - (windows.depth / 2) as isize;
                self.fill(slab, (0, position), keys, pitch, beyond, |voxel: S| {
                    read(voxel).key()
                });
                if windows.masked {
                    self.fill(slab, (1, position), inside, pitch, 0, |inside: u8| inside);
                }
                lane.put_slice(&windows, slot, keys, inside)?;
            }
            lane.medians(&windows, slices.len())?;
            for (number, slice) in slices.enumerate() {
                let medians = &mut keys[..nx * ny];
                lane.take_medians(number, medians)?;
                for (y, medians) in medians.chunks_exact(nx).enumerate() {
                    self.finish_row::<R>(slab, slice * nx * ny + y * nx, medians);
                }
            }
        }
        Ok(())
    }
}
