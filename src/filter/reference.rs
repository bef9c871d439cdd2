//! Reference: a simple implementation of the filter as scipy documents it. Tests compare with it.

use ndarray::{ArrayD, Axis};

use super::boundary::Boundary;
use super::kernels::convert::Voxel;

/// Correlates one axis with a symmetric kernel of weights at 0, 1 … radius.
fn correlate(image: &mut ArrayD<f64>, axis: usize, half_kernel: &[f64], boundary: Boundary, cval: f64) {
    for mut lane in image.lanes_mut(Axis(axis)) {
        let line = lane.to_vec();
        let at = |position: isize| {
            boundary
                .source(position, line.len())
                .map_or(cval, |source| line[source])
        };
        for (i, voxel) in lane.iter_mut().enumerate() {
            let i = i as isize;
            *voxel = at(i) * half_kernel[0];
            for j in (1..half_kernel.len()).rev() {
                *voxel += (at(i - j as isize) + at(i + j as isize)) * half_kernel[j];
            }
        }
    }
}

/// Smooths the first axes of `image` (x is axis 0) with the kernels that are not empty. Converts the result
/// of each axis to `T` with `convert` before the next one.
pub(super) fn smooth<T: Voxel>(
    mut image: ArrayD<f64>,
    kernels: &[Vec<f64>],
    boundary: Boundary,
    cval: f64,
    convert: impl Fn(f64) -> T,
) -> ArrayD<T> {
    let mut stored = image.mapv(&convert);
    for (axis, kernel) in kernels
        .iter()
        .enumerate()
        .filter(|(_, kernel)| !kernel.is_empty())
    {
        correlate(&mut image, axis, kernel, boundary, cval);
        stored = image.mapv(&convert);
        image = stored.mapv(Voxel::to_f64);
    }
    stored
}
