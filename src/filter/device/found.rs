//! Found: the OpenCL devices of this machine, and which one a rank uses.

use std::sync::{Mutex, PoisonError};

use opencl3::device::{self, CL_DEVICE_TYPE_ALL, CL_FP_DENORM, cl_device_id};
use opencl3::error_codes::{CL_PLATFORM_NOT_FOUND_KHR, ClError, DLOPEN_RUNTIME_LOAD_FAILED};
use opencl3::platform::{Platform, get_platforms};
use serde::Serialize;

/// The message where there is no OpenCL.
const NO_OPENCL: &str = "OpenCL's library (libOpenCL.so.1) cannot be loaded: install the driver of the GPU, \
                         or pocl (pocl-opencl-icd), which computes on the CPU";

/// What an OpenCL driver says of a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct FoundDevice {
    /// Its number for `--device opencl:N`.
    pub(crate) number: usize,
    pub(crate) name: String,
    /// `gpu`, `cpu` or `accelerator`.
    pub(crate) kind: String,
    /// The driver.
    pub(crate) platform: String,
    pub(crate) driver_version: String,
    pub(crate) memory_bytes: u64,
    /// The largest buffer.
    pub(crate) buffer_bytes: u64,
    pub(crate) compute_units: u32,
    /// Whether it computes in double precision.
    pub(crate) doubles: bool,
    /// Why niimpi cannot use it.
    pub(crate) unusable: Option<String>,
}

/// A device and its handle.
pub(super) struct Listed {
    pub(super) found: FoundDevice,
    pub(super) id: cl_device_id,
}

/// The devices of all drivers, in the drivers' order.
///
/// # Errors
/// A message for the user if OpenCL's library is missing or fails. Without devices the list is empty.
pub(crate) fn devices() -> Result<Vec<FoundDevice>, String> {
    Ok(list()?.into_iter().map(|device| device.found).collect())
}

/// [`devices`] with their handles.
pub(super) fn list() -> Result<Vec<Listed>, String> {
    /// Some drivers crash if two threads start them at the same time.
    static STARTING: Mutex<()> = Mutex::new(());
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let platforms = match get_platforms() {
        Ok(platforms) => platforms,
        Err(ClError(CL_PLATFORM_NOT_FOUND_KHR)) => Vec::new(),
        Err(ClError(DLOPEN_RUNTIME_LOAD_FAILED)) => return Err(NO_OPENCL.to_owned()),
        Err(error) => return Err(format!("OpenCL cannot list its drivers: {error}")),
    };
    let mut all = Vec::new();
    for platform in platforms {
        // A driver without devices answers with an error.
        for id in platform.get_devices(CL_DEVICE_TYPE_ALL).unwrap_or_default() {
            let found = look(&platform, id, all.len());
            all.push(Listed { found, id });
        }
    }
    Ok(all)
}

/// Reads the properties of a device. What a driver does not answer is empty or 0.
fn look(platform: &Platform, id: cl_device_id, number: usize) -> FoundDevice {
    let device = device::Device::new(id);
    let text = |answer: opencl3::Result<String>| answer.unwrap_or_default().trim().to_owned();
    let kind = device.dev_type().unwrap_or_default();
    let doubles = device.double_fp_config().unwrap_or_default() != 0;
    let singles = device.single_fp_config().unwrap_or_default();
    let unusable = if !device.available().unwrap_or_default() {
        Some("is not available")
    } else if !device.compiler_available().unwrap_or_default() {
        Some("has no compiler")
    } else if !doubles {
        Some("does not compute in double precision")
    } else if singles & CL_FP_DENORM == 0 {
        Some("rounds the smallest float32 numbers to 0")
    } else if !device.endian_little().unwrap_or_default() {
        Some("has another byte order")
    } else {
        None
    };
    FoundDevice {
        number,
        name: text(device.name()),
        kind: match kind {
            kind if kind & device::CL_DEVICE_TYPE_GPU != 0 => "gpu",
            kind if kind & device::CL_DEVICE_TYPE_CPU != 0 => "cpu",
            _ => "accelerator",
        }
        .to_owned(),
        platform: text(platform.name()),
        driver_version: text(device.driver_version()),
        memory_bytes: device.global_mem_size().unwrap_or_default(),
        buffer_bytes: device.max_mem_alloc_size().unwrap_or_default(),
        compute_units: device.max_compute_units().unwrap_or_default(),
        doubles,
        unusable: unusable.map(str::to_owned),
    }
}

/// The place of a rank's device in the list, and how many ranks of its host share it. `number`: the device
/// that the user chose for all ranks. Otherwise the ranks of a host take its GPUs and accelerators in turn,
/// or its CPUs where it has no others. `rank` of `ranks` counts the ranks of the host.
///
/// # Errors
/// A message for the user if there is no such device, or if niimpi cannot use it.
pub(super) fn select(
    all: &[FoundDevice],
    number: Option<usize>,
    rank: usize,
    ranks: usize,
) -> Result<(usize, usize), String> {
    if all.is_empty() {
        return Err("OpenCL's library is there, but no driver has a device".to_owned());
    }
    if let Some(number) = number {
        return match all.get(number) {
            None => Err(format!(
                "there is no device {number}: `niimpi devices` lists {} from 0 to {}",
                all.len(),
                all.len() - 1
            )),
            Some(FoundDevice {
                name,
                unusable: Some(why),
                ..
            }) => Err(format!("device {number}, {name}, {why}")),
            Some(_) => Ok((number, ranks)),
        };
    }
    let usable: Vec<&FoundDevice> = all.iter().filter(|device| device.unusable.is_none()).collect();
    let is_cpu = |device: &FoundDevice| device.kind == "cpu";
    let has_others = usable.iter().any(|device| !is_cpu(device));
    let in_turn = usable.iter().filter(|device| !(has_others && is_cpu(device)));
    let in_turn: Vec<usize> = in_turn.map(|device| device.number).collect();
    if in_turn.is_empty() {
        let whys = all.iter().map(|device| {
            let why = device.unusable.as_deref().unwrap_or_default();
            format!("device {}, {}, {why}", device.number, device.name)
        });
        return Err(Vec::from_iter(whys).join("; "));
    }
    let turn = rank % in_turn.len();
    let sharing = (ranks + in_turn.len() - 1 - turn) / in_turn.len();
    Ok((in_turn[turn], sharing))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: usize, kind: &str, unusable: Option<&str>) -> FoundDevice {
        FoundDevice {
            number,
            name: format!("{kind} of a test"),
            kind: kind.to_owned(),
            unusable: unusable.map(str::to_owned),
            ..FoundDevice::default()
        }
    }

    #[test]
    fn ranks_take_the_gpus_of_a_host_in_turn() {
        let all = [
            device(0, "cpu", None),
            device(1, "gpu", None),
            device(2, "gpu", Some("does not compute in double precision")),
            device(3, "accelerator", None),
        ];
        let of_ranks =
            |all: &[FoundDevice]| Vec::from_iter((0..5).map(|rank| select(all, None, rank, 5).unwrap()));
        assert_eq!(of_ranks(&all), [(1, 3), (3, 2), (1, 3), (3, 2), (1, 3)]);
        assert_eq!(of_ranks(&all[..1]), [(0, 5); 5]);
        assert_eq!(select(&all, Some(3), 1, 2), Ok((3, 2)));
        assert_eq!(select(&all, Some(0), 1, 2), Ok((0, 2)));
    }

    #[test]
    fn a_device_that_is_missing_or_unusable_is_named() {
        let all = [device(0, "gpu", Some("does not compute in double precision"))];
        let error = |number| select(&all, number, 0, 1).unwrap_err();
        assert_eq!(
            error(Some(7)),
            "there is no device 7: `niimpi devices` lists 1 from 0 to 0"
        );
        let unusable = "device 0, gpu of a test, does not compute in double precision";
        assert_eq!(
            (error(Some(0)), error(None)),
            (unusable.to_owned(), unusable.to_owned())
        );
        assert!(
            select(&[], None, 0, 1)
                .unwrap_err()
                .contains("no driver has a device")
        );
    }
}
