//! Open: from the user's choice to a device that works.

use std::sync::Arc;

use super::choice::DeviceChoice;
use super::compiled::{Device, Handle, Share};
use super::found::{FoundDevice, list, select};
use super::lane::Lane;
use crate::signals::{LAST_STANDARD_SIGNAL, keeping_handlers};

/// Opens the device of a rank, `rank` of `ranks` on its host, for `threads` threads; `None` for the CPU.
///
/// # Errors
/// A message for the user if there is no such device or it does not work.
pub(crate) fn open(
    choice: DeviceChoice,
    rank: usize,
    ranks: usize,
    threads: usize,
) -> Result<Option<Arc<Device>>, String> {
    let number = match choice {
        DeviceChoice::Cpu => return Ok(None),
        DeviceChoice::Auto => None,
        DeviceChoice::OpenCl(number) => number,
    };
    // Drivers with LLVM in them install their own, also for SIGINT and SIGUSR1.
    keeping_handlers(1..=LAST_STANDARD_SIGNAL, || {
        let listed = list()?;
        let all: Vec<FoundDevice> = listed.iter().map(|device| device.found.clone()).collect();
        let (place, sharing) = select(&all, number, rank, ranks)?;
        let found = all[place].clone();
        let failed = |error: String| format!("device {place}, {}, {error}", all[place].name);
        let is_mine = |other| select(&all, number, other, ranks).is_ok_and(|(of_other, _)| of_other == place);
        let share = Share {
            ranks: sharing,
            is_first: !(0..rank).any(is_mine),
        };
        let id = Handle(listed[place].id);
        let mut device = Device::compile(found, id, share, threads).map_err(failed)?;
        device.yields = choice == DeviceChoice::Auto;
        let device = Arc::new(device);
        // Some drivers compile for the processor at hand when the first work comes.
        let tried = Lane::new(Arc::clone(&device)).and_then(|mut lane| lane.try_out());
        tried.map_err(|error| error.to_string())?;
        Ok(Some(device))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console;
    use crate::filter::gaussian::Gaussian;
    use crate::filter::median::{Median, PerAxis};
    use crate::filter::{Filter, FilterError, Scratch, SharedOptions, ThreadScratch, apply};
    use crate::volume::{Datatype, Volume};

    /// Filters an image of 9 × 10 × 11 doubles, with buffers of so many bytes on a device. If it `yields`,
    /// the CPU takes what does not fit.
    fn filtered(
        filter: &dyn Filter,
        device: Option<(&Arc<Device>, u64, bool)>,
    ) -> Result<Vec<u8>, FilterError> {
        let device = device.map(|(device, bytes, yields)| {
            let Device { found, id, share, .. } = device.as_ref();
            let mut small = Device::compile(found.clone(), *id, *share, 1).unwrap();
            (small.buffer_bytes, small.yields) = (bytes, yields);
            Arc::new(small)
        });
        let mut volume = Volume::zeros(&[9, 10, 11], Datatype::Float64);
        for (at, voxel) in volume.voxels.as_mut_slice::<f64>().iter_mut().enumerate() {
            *voxel = ((at * 7919) % 1013) as f64;
        }
        let mut scratch = Scratch {
            thread: ThreadScratch::on(device),
            ..Scratch::default()
        };
        apply(filter, &SharedOptions::default(), &mut volume, &mut scratch)?;
        Ok(volume.voxels.as_bytes().to_vec())
    }

    /// Compares a filter on buffers of so many bytes with the CPU. One piece takes those of the first, so a
    /// byte less is refused.
    fn check_divided(filter: &dyn Filter, buffers: &[u64], piece: &str) {
        let device = match open(DeviceChoice::OpenCl(None), 0, 1, 1) {
            Ok(device) => device.unwrap(),
            Err(error) => {
                // The Python tests require a device in CI.
                console::note(format!("skipped: {error}"));
                return;
            }
        };
        let wanted = filtered(filter, None).unwrap();
        for &bytes in buffers {
            assert!(
                filtered(filter, Some((&device, bytes, false))).unwrap() == wanted,
                "{bytes}"
            );
        }
        assert!(filtered(filter, Some((&device, buffers[0] - 1, true))).unwrap() == wanted);
        let error = filtered(filter, Some((&device, buffers[0] - 1, false))).unwrap_err();
        match &error {
            FilterError::DeviceMemory {
                piece: found, bytes, ..
            } => assert_eq!((*found, *bytes), (piece, buffers[0])),
            other => panic!("{other}"),
        }
        let said = error.to_string();
        assert!(said.contains("use fewer threads or --device cpu"), "{said}");
    }

    #[test]
    fn an_image_larger_than_the_buffers_is_divided() {
        let (slice, column) = (9 * 10 * 8, 11 * 8);
        let buffers = [slice, 2 * slice + 1, 3 * column.max(slice), 1 << 20];
        check_divided(&Gaussian::from_sigma_vox(1.3), &buffers, "slice");
    }

    #[test]
    fn windows_of_an_image_larger_than_the_buffers_are_divided() {
        let median = Median {
            size: PerAxis::Each([5, 2, 4]),
            ..Median::default()
        };
        let slice = (9 + 4) * (10 + 1) * 8;
        let buffers = [4 * slice, 5 * slice + 1, 9 * slice, 1 << 20];
        check_divided(&median, &buffers, "slice with those around it");
    }
}
