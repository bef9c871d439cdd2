//! Memory: what an image, a worker and a rank need. Set-up, dry run, plan and the workers themselves ask here.

use super::ImageJob;
use crate::filter::{Division, Filter, ImageInfo, Layout};
use crate::image_io::{Header, Probe};
use crate::volume::{Datatype, Scaling};

/// What a worker's thread needs besides its images: codec, buffers of files, stack.
pub(crate) const WORKER_BYTES: u64 = 12 << 20;

/// The same in address space, of which the allocator reserves 64 MiB for each thread.
pub(crate) const WORKER_ADDRESS_SPACE_BYTES: u64 = 80 << 20;

/// What the program and MPI take in a rank before there is a worker.
pub(crate) const PROGRAM_BYTES: u64 = 18 << 20;

/// Bytes that one image takes while it is processed by `threads` threads together: voxels, result, planes between stages,
/// kernels, and the tiles of the threads. An image that cannot be filtered takes its voxels.
pub(crate) fn image_bytes(job: &ImageJob, image: &ImageInfo, threads: usize) -> u64 {
    layout_bytes(job, image, Division::among(threads, false))
}

fn layout_bytes(job: &ImageJob, image: &ImageInfo, division: Division) -> u64 {
    let voxels = image.voxels();
    let stored = voxels.saturating_mul(image.datatype.size_bytes() as u64);
    let plain = |image: &ImageInfo, shared| match job.filter.prepare(image, &shared) {
        Ok(prepared) => Layout::of(prepared.as_ref(), image, division).bytes(),
        Err(_) => stored,
    };
    let shared = job.shared();
    let finite = plain(
        &ImageInfo {
            nonfinite_voxels: Some(0),
            ..image.clone()
        },
        shared,
    );
    if job.nan == crate::filter::nonfinite::NonFinite::Zero
        && image.may_be_nonfinite()
        && image.scaling.is_some()
    {
        // Intensities in double take the place of the voxels, whose memory is kept for the next image.
        let mut doubles = shared;
        doubles.output.output_type =
            crate::filter::OutputType::As(shared.output.resolve_for(image.datatype, true));
        let image = ImageInfo {
            datatype: Datatype::Float64,
            scaling: None,
            ..image.clone()
        };
        return finite.max(plain(&image, doubles).saturating_add(stored));
    }
    finite.max(plain(image, shared))
}

/// Bytes that a worker of so many threads needs besides its images; in address space where that is what is limited.
pub(crate) fn worker_bytes(threads: usize, address_space: bool) -> u64 {
    let each = if address_space {
        WORKER_ADDRESS_SPACE_BYTES
    } else {
        WORKER_BYTES
    };
    each.saturating_mul(threads as u64)
}

/// Bytes of a rank that processes these images, each with its [`image_bytes`], `workers` at a time: the program and the
/// largest images, which may meet.
pub(crate) fn rank_bytes(images: impl Iterator<Item = u64>, workers: usize) -> u64 {
    let mut images: Vec<u64> = images.collect();
    images.sort_unstable_by(|a, b| b.cmp(a));
    let largest = images.iter().take(workers);
    largest.fold(
        PROGRAM_BYTES + worker_bytes(workers, false),
        |all, &bytes| all.saturating_add(bytes),
    )
}

/// What a filter knows of an image by its header.
pub(crate) fn image_info(header: &Header) -> ImageInfo {
    ImageInfo {
        shape: header.shape().to_vec(),
        voxel_size_mm: header.voxel_size_mm(),
        datatype: header.datatype(),
        scaling: header.scaling(),
        nonfinite_voxels: None,
    }
}

/// The same of an image whose header was looked at. Which scale it has decides nothing here.
pub(crate) fn probe_info(probe: &Probe) -> ImageInfo {
    const SOME: Scaling = Scaling {
        slope: 1.0,
        intercept: 1.0,
    };
    ImageInfo {
        shape: probe.shape.clone(),
        voxel_size_mm: probe.voxel_size_mm,
        datatype: probe.datatype,
        scaling: probe.scaled.then_some(SOME),
        nonfinite_voxels: None,
    }
}
