//! Cost: the estimated seconds of an image, used to partition and to predict.

use super::{ImageJob, memory};
use crate::filter::{Filter, ImageInfo, Prepared};
use crate::image_io::Probe;
use crate::images::probe::{ImageFacts, Need};

/// Seconds of one core of a current CPU for each byte of voxels: to inflate, to compress, and to read or
/// write it without compression.
pub(super) const INFLATE_S_PER_BYTE: f64 = 2.5e-9;
pub(super) const DEFLATE_S_PER_BYTE: f64 = 1.5e-9;
pub(super) const PLAIN_S_PER_BYTE: f64 = 3e-10;

/// Estimated seconds of an image: inflating and compressing from its bytes, filtering from the filter's own
/// estimate.
///
/// The rates are of one core of a current CPU; only their proportions matter for a balanced partition. For an
/// unknown header, the estimate assumes two bytes per voxel, compression to a third, and `filter_s_per_voxel`
/// for the filter.
pub(crate) fn image_s(facts: &ImageFacts, filter_s_per_voxel: f64) -> f64 {
    const CODEC_S_PER_BYTE: f64 = INFLATE_S_PER_BYTE + DEFLATE_S_PER_BYTE;
    const FILE_S: f64 = 2e-4;
    let raw_bytes = facts.raw_bytes.unwrap_or(facts.file_bytes.saturating_mul(3)) as f64;
    let filter_s = facts.filter_s.unwrap_or_else(|| {
        let voxels = facts.voxels.map_or(raw_bytes / 2.0, |voxels| voxels as f64);
        voxels * filter_s_per_voxel
    });
    FILE_S + CODEC_S_PER_BYTE * raw_bytes + filter_s
}

/// Estimated seconds of a job's filter for an image; 0 if the image cannot be filtered.
pub(crate) fn filter_s(job: &ImageJob, image: &ImageInfo) -> f64 {
    let prepared = job.filter.prepare(&job.masked(image), &job.shared());
    prepared.map_or(0.0, |prepared| seconds(prepared.as_ref(), image))
}

/// What a job needs for an image with a known header.
pub(crate) fn need(job: &ImageJob, probe: &Probe) -> Need {
    let image = memory::image_info(&probe.header);
    let prepared = job.filter.prepare(&job.masked(&image), &job.shared()).ok();
    let prepared = prepared.as_deref();
    Need {
        memory_bytes: memory::image_bytes(job, &image, 1),
        filter_s: prepared.map_or(0.0, |prepared| seconds(prepared, &image)),
        sigma_vox: prepared.and_then(Prepared::sigma_vox),
    }
}

fn seconds(prepared: &dyn Prepared, image: &ImageInfo) -> f64 {
    let stages = 0..prepared.stages().len();
    stages.map(|stage| prepared.cost_s(stage, image.voxels())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_image_and_a_wider_kernel_cost_more() {
        let facts = |raw_bytes, voxels| ImageFacts {
            file_bytes: 1000,
            raw_bytes: Some(raw_bytes),
            voxels: Some(voxels),
            ..ImageFacts::default()
        };
        assert!(image_s(&facts(2000, 1000), 1e-9) > image_s(&facts(1000, 500), 1e-9));
        assert!(image_s(&facts(2000, 1000), 3e-9) > image_s(&facts(2000, 1000), 1e-9));
        let unknown = ImageFacts {
            file_bytes: 1_000_000,
            ..ImageFacts::default()
        };
        assert!(image_s(&unknown, 1e-9) > image_s(&facts(1_000_000, 500_000), 1e-9));
    }
}
