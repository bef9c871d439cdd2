//! Window: which voxels around a voxel count.

use super::FilterError;
use super::footprint::Footprint;
use super::interface::ImageInfo;
use super::per_axis::PerAxis;

/// Most voxels of a window.
pub const MAX_WINDOW_VOXELS: usize = 1 << 15;

/// The positions of the window's voxels relative to its first corner, x first, and the lengths of the window.
///
/// # Errors
/// [`FilterError`] for a window of too many voxels, and for a sphere if the voxel size is not a number.
pub(super) fn window(
    size: PerAxis<usize>,
    footprint: Footprint,
    image: &ImageInfo,
) -> Result<(Vec<[usize; 3]>, [usize; 3]), FilterError> {
    let axes = image.spatial_axes();
    let mut size = size.xyz();
    if let Footprint::Sphere(radius_mm) = footprint {
        for (axis, name) in ["x", "y", "z"].into_iter().enumerate().take(axes) {
            let size_mm = image.voxel_size_mm[axis];
            if !(size_mm.is_finite() && size_mm > 0.0) {
                return Err(FilterError::VoxelSize { axis: name, size_mm });
            }
            // One more than the radius, because the quotient is rounded. Voxels that are too far away are
            // left out below.
            let reach = (radius_mm / size_mm).min(MAX_WINDOW_VOXELS as f64) as usize + 1;
            size[axis] = 2 * reach + 1;
        }
    }
    size[axes..].fill(1);
    let all = size.iter().try_fold(1usize, |all, &size| all.checked_mul(size));
    if all.is_none_or(|all| all > 8 * MAX_WINDOW_VOXELS) {
        return Err(too_large());
    }
    let counts = |place: [usize; 3]| {
        let from_middle = |axis: usize| place[axis].abs_diff(size[axis] / 2);
        match footprint {
            Footprint::Box => true,
            Footprint::Cross => (0..3).filter(|&axis| from_middle(axis) > 0).count() <= 1,
            Footprint::Sphere(radius_mm) => {
                let square = |axis: usize| (from_middle(axis) as f64 * image.voxel_size_mm[axis]).powi(2);
                (0..axes).map(square).sum::<f64>() <= radius_mm * radius_mm
            }
        }
    };
    let places = (0..size[2])
        .flat_map(|z| (0..size[1]).map(move |y| (y, z)))
        .flat_map(|(y, z)| (0..size[0]).map(move |x| [x, y, z]));
    let places: Vec<_> = places.filter(|&place| counts(place)).collect();
    match places.len() {
        0..=MAX_WINDOW_VOXELS => Ok((places, size)),
        _ => Err(too_large()),
    }
}

/// Whether scipy keeps every digit of an image's integers. It does where it searches an array of one axis for
/// the median of a window of this length. Elsewhere those of 64 bits pass through doubles.
pub(super) fn keeps_digits(image: &ImageInfo, size: usize) -> bool {
    let voxels = image.voxels();
    image.shape.len() == 1 && size > 2 && (voxels == 1 || voxels >= (size as u64 - 1) / 2)
}

fn too_large() -> FilterError {
    FilterError::Parameter {
        name: "size",
        cause: format!("a window may have at most {MAX_WINDOW_VOXELS} voxels: give a smaller size or radius"),
    }
}

/// The size of a window on the command line.
pub(super) fn parse_size(text: &str) -> Result<PerAxis<usize>, String> {
    let size = PerAxis::parse(text, "a whole number from 1")?;
    match size_fault(size) {
        Some(fault) => Err(fault),
        None => Ok(size),
    }
}

/// A message about an invalid window size, with a remedy.
pub(super) fn size_fault(size: PerAxis<usize>) -> Option<String> {
    size.xyz()
        .contains(&0)
        .then(|| "a window has at least one voxel along each axis: give whole numbers from 1".to_owned())
}
