//! Cost: the estimated seconds of an image, by which images are shared out and predicted.

use crate::images::probe::ImageFacts;

/// Estimated seconds of an image: inflating and compressing by its bytes, filtering by its voxels and the kernel's width.
///
/// The rates are of one core of a current CPU; only their proportions matter for a balanced partition. An image whose
/// header is unknown is taken for one that was compressed to a third, with two bytes a voxel.
pub(crate) fn cost_s(facts: &ImageFacts, kernel_width_vox: f64) -> f64 {
    const CODEC_S_PER_BYTE: f64 = 4e-9;
    const FILTER_S_PER_VOXEL: f64 = 1e-9;
    const FILTER_S_PER_VOXEL_AND_TAP: f64 = 3e-11;
    const FILE_S: f64 = 2e-4;
    let raw_bytes = facts
        .raw_bytes
        .unwrap_or(facts.file_bytes.saturating_mul(3)) as f64;
    let voxels = facts.voxels.map_or(raw_bytes / 2.0, |voxels| voxels as f64);
    FILE_S
        + CODEC_S_PER_BYTE * raw_bytes
        + voxels * (FILTER_S_PER_VOXEL + FILTER_S_PER_VOXEL_AND_TAP * kernel_width_vox)
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
        assert!(cost_s(&facts(2000, 1000), 51.0) > cost_s(&facts(1000, 500), 51.0));
        assert!(cost_s(&facts(2000, 1000), 195.0) > cost_s(&facts(2000, 1000), 51.0));
        let unknown = ImageFacts {
            file_bytes: 1_000_000,
            ..ImageFacts::default()
        };
        assert!(cost_s(&unknown, 51.0) > cost_s(&facts(1_000_000, 500_000), 51.0));
    }
}
