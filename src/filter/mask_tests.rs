//! Tests of masks: compares both filters with references, for every boundary, treatment and division of the
//! work.

use ndarray::{ArrayD, Dimension};

use super::boundary::Boundary;
use super::gaussian::{Gaussian, PerAxis};
use super::kernels::convert::{Voxel, recast_one, with_voxel_type};
use super::kernels::weights::half_kernel;
use super::median::Median;
use super::nonfinite::NonFinite;
use super::tests::{BOUNDARIES, apply_divided_inside, copy, intensities, noise};
use super::*;
use crate::volume::Scaling;

/// A mask of about half of the voxels, in clusters, of the first volume or of all volumes.
fn some_mask(shape: &[usize], each_volume: bool) -> Arc<Mask> {
    let axes = if each_volume {
        shape.len()
    } else {
        shape.len().min(3)
    };
    let mut volume = noise(&shape[..axes], Datatype::Int16, 3, Some(100));
    for voxel in volume.voxels.as_mut_slice::<i16>() {
        *voxel -= 50;
    }
    Arc::new(Mask::above_zero(&volume).unwrap())
}

/// Whether each voxel of the image is inside. x is axis 0.
fn inside(mask: &Mask, volume: &Volume) -> ArrayD<bool> {
    let mut flat = mask.voxels().iter().cycle().map(|&inside| inside != 0);
    let mut array = ArrayD::from_elem(volume.shape.clone(), false);
    array
        .view_mut()
        .reversed_axes()
        .iter_mut()
        .for_each(|inside| *inside = flat.next().unwrap());
    array
}

/// The expected result for a volume. `filtered` contains the results inside as doubles.
fn expected(shared: &SharedOptions, volume: &Volume, mask: &Mask, filtered: &ArrayD<f64>) -> Vec<u8> {
    let inside = inside(mask, volume);
    let inside: Vec<bool> = inside.t().iter().copied().collect();
    let filtered: Vec<f64> = filtered.t().iter().copied().collect();
    with_voxel_type!(volume.datatype, S => with_voxel_type!(shared.output.resolve(volume), T => {
        let stored = volume.voxels.as_slice::<S>();
        let result = |i: usize| -> T {
            let own = stored[i].to_f64();
            let own = volume.scaling.map_or(own, |scaling| scaling.intensity(own));
            match (inside[i], shared.outside.unwrap_or_default()) {
                (true, _) if shared.nan == NonFinite::Keep && !own.is_finite() => T::nearest(f64::NAN),
                (true, _) => T::nearest(filtered[i]),
                (false, Outside::Zero) => T::nearest(0.0),
                (false, Outside::Keep) => {
                    recast_one(stored[i], volume.scaling, kernels::convert::Conversion::Nearest)
                }
                (false, Outside::Nan) => T::nearest(f64::NAN),
            }
        };
        let voxels: Vec<T> = (0..stored.len()).map(result).collect();
        bytemuck::cast_slice(&voxels).to_vec()
    }))
}

/// The smoothed intensities that count, divided by the smoothed weights.
fn quotient(gaussian: &Gaussian, shared: &SharedOptions, volume: &Volume, mask: &Mask) -> ArrayD<f64> {
    let sigma_vox = gaussian.sigma_vox(volume.voxel_size_mm).unwrap();
    let kernel = |sigma: f64| half_kernel(sigma, (4.0 * sigma + 0.5) as usize).unwrap();
    let kernels = sigma_vox.map(|sigma| if sigma > 0.0 { kernel(sigma) } else { Vec::new() });
    let kernels = &kernels[..volume.spatial_axes()];
    let mut values = intensities(volume);
    let mut weights = inside(mask, volume).mapv(|inside| f64::from(u8::from(inside)));
    values.zip_mut_with(&weights.clone(), |value, &weight| {
        *value = if weight > 0.0 { *value } else { 0.0 };
    });
    if shared.nan.leaves_out() {
        ndarray::Zip::from(&mut values)
            .and(&mut weights)
            .for_each(|value, weight| {
                if !value.is_finite() {
                    (*value, *weight) = (0.0, 0.0);
                }
            });
    }
    let smooth = |array| reference::smooth(array, kernels, gaussian.boundary, 0.0, |sum: f64| sum);
    smooth(values) / smooth(weights)
}

/// The medians of voxels inside, from sorted windows of 3×2×3 voxels.
fn medians(boundary: Boundary, shared: &SharedOptions, volume: &Volume, mask: &Mask) -> ArrayD<f64> {
    let values = intensities(volume);
    let inside = inside(mask, volume);
    let axes = volume.spatial_axes();
    let size = [3, 2, 3];
    let mut found = values.clone();
    for (at, result) in found.indexed_iter_mut() {
        let at = at.slice().to_vec();
        let mut window = Vec::new();
        for number in 0..size.iter().product::<usize>() {
            let steps = [number % 3, number / 3 % 2, number / 6];
            let mut place = at.clone();
            let mut exists = true;
            for (axis, &step) in steps.iter().enumerate() {
                if axis >= axes {
                    exists &= step == size[axis] / 2;
                    continue;
                }
                let position = (at[axis] + step) as isize - (size[axis] / 2) as isize;
                match boundary.source(position, volume.shape[axis]) {
                    Some(source) => place[axis] = source,
                    None => exists = false,
                }
            }
            if exists && inside[&place[..]] && (!shared.nan.leaves_out() || values[&place[..]].is_finite()) {
                window.push(values[&place[..]]);
            }
        }
        window.sort_by(f64::total_cmp);
        *result = window.get(window.len() / 2).copied().unwrap_or(f64::NAN);
    }
    found
}

/// Compares all divisions of the work with the reference.
fn check(filter: &dyn Filter, shared: &SharedOptions, volume: &Volume, mask: &Arc<Mask>, expected: &[u8]) {
    let mut scratch = Scratch::default();
    let mut whole = copy(volume);
    apply_masked(filter, shared, &mut whole, mask, &mut scratch).unwrap();
    let equal = |filtered: &Volume, how: &str| {
        let same = with_voxel_type!(filtered.datatype, T => {
            let expected: &[T] = bytemuck::cast_slice(expected);
            let is_nan = |voxel: T| voxel.to_f64().is_nan();
            let voxels = filtered.voxels.as_slice::<T>().iter().zip(expected);
            voxels.into_iter().all(|(&a, &b)| a == b || (is_nan(a) && is_nan(b)))
        });
        assert!(
            same,
            "{how} {:?} {} {:?} {shared:?}",
            volume.shape, volume.datatype, volume.scaling
        );
    };
    equal(&whole, "whole");
    for (threads, streamed) in [(1, true), (3, false), (2, true)] {
        let division = Division {
            slab_bytes: 1,
            ..Division::among(threads, streamed)
        };
        let mut divided = copy(volume);
        apply_divided_inside(filter, shared, &mut divided, Some(mask), &mut scratch, division);
        equal(&divided, &format!("{division:?}"));
    }
}

fn options(outside: Outside, nan: NonFinite, output_type: OutputType) -> SharedOptions {
    SharedOptions {
        output: OutputSpec {
            output_type,
            ..OutputSpec::default()
        },
        nan,
        outside: Some(outside),
    }
}

#[test]
fn results_inside_a_mask() {
    let float = OutputType::As(Datatype::Float32);
    for (number, boundary) in BOUNDARIES.into_iter().enumerate() {
        for shape in [&[9, 8, 7][..], &[6, 5, 4, 3], &[7, 1, 9], &[12, 5], &[11]] {
            for (datatype, scaled) in [
                (Datatype::Uint8, false),
                (Datatype::Int16, true),
                (Datatype::Float32, false),
            ] {
                for (outside, output_type) in [
                    (Outside::Zero, OutputType::Same),
                    (Outside::Keep, OutputType::Same),
                    (Outside::Keep, OutputType::As(Datatype::Int32)),
                    (Outside::Nan, float),
                ] {
                    let mut volume = noise(shape, datatype, 7, Some(200));
                    volume.scaling = scaled.then_some(Scaling {
                        slope: -0.37,
                        intercept: 4.0,
                    });
                    let shared = options(outside, NonFinite::Propagate, output_type);
                    let mask = some_mask(shape, number % 2 == 1);
                    let gaussian = Gaussian {
                        sigma: Some(PerAxis::Each([1.3, 0.0, 0.8])),
                        ..Gaussian::from_sigma_vox(0.0)
                            .with_boundary(boundary)
                            .with_cval(9.0)
                    };
                    let smoothed = quotient(&gaussian, &shared, &volume, &mask);
                    check(
                        &gaussian,
                        &shared,
                        &volume,
                        &mask,
                        &expected(&shared, &volume, &mask, &smoothed),
                    );
                    let median = Median {
                        size: PerAxis::Each([3, 2, 3]),
                        boundary,
                        ..Median::default()
                    };
                    let medians = medians(boundary, &shared, &volume, &mask);
                    check(
                        &median,
                        &shared,
                        &volume,
                        &mask,
                        &expected(&shared, &volume, &mask, &medians),
                    );
                }
            }
        }
    }
}

#[test]
fn voxels_that_are_not_finite() {
    let gaussian = Gaussian::from_sigma_vox(0.4);
    let mut volume = noise(&[9, 8, 7, 2], Datatype::Float32, 1, Some(100));
    let mask = some_mask(&volume.shape, false);
    let voxels = volume.voxels.as_mut_slice::<f32>();
    voxels.iter_mut().step_by(17).for_each(|voxel| *voxel = f32::NAN);
    voxels
        .iter_mut()
        .step_by(29)
        .for_each(|voxel| *voxel = f32::INFINITY);
    for nan in [NonFinite::Propagate, NonFinite::Ignore, NonFinite::Keep] {
        for outside in [Outside::Zero, Outside::Keep, Outside::Nan] {
            let shared = options(outside, nan, OutputType::Same);
            let smoothed = quotient(&gaussian, &shared, &volume, &mask);
            check(
                &gaussian,
                &shared,
                &volume,
                &mask,
                &expected(&shared, &volume, &mask, &smoothed),
            );
            if nan == NonFinite::Propagate {
                continue;
            }
            let median = Median {
                size: PerAxis::Each([3, 2, 3]),
                ..Median::default()
            };
            let medians = medians(median.boundary, &shared, &volume, &mask);
            check(
                &median,
                &shared,
                &volume,
                &mask,
                &expected(&shared, &volume, &mask, &medians),
            );
        }
    }
    // Outside the mask they have no effect.
    let outside = mask.voxels().iter().position(|&inside| inside == 0).unwrap();
    let voxels = volume.voxels.as_mut_slice::<f32>();
    voxels
        .iter_mut()
        .for_each(|voxel| *voxel = if voxel.is_finite() { *voxel } else { 1.0 });
    voxels[outside] = f32::NAN;
    let mut scratch = Scratch::default();
    let shared = SharedOptions::default();
    let found = apply_masked(
        &Median::default(),
        &shared,
        &mut copy(&volume),
        &mask,
        &mut scratch,
    );
    assert_eq!(found, Ok(1));
    apply_masked(&gaussian, &shared, &mut volume, &mask, &mut scratch).unwrap();
    assert_eq!(nonfinite::count(&volume), 0);
}

#[test]
fn without_a_mask_a_kept_nan_is_put_back() {
    let gaussian = Gaussian::from_sigma_vox(1.0);
    let mut kept = noise(&[9, 8, 7], Datatype::Float32, 1, Some(100));
    kept.voxels.as_mut_slice::<f32>()[100] = f32::NAN;
    let mut ignored = copy(&kept);
    let mut scratch = Scratch::default();
    let shared = |nan| options(Outside::Zero, nan, OutputType::Same);
    apply(&gaussian, &shared(NonFinite::Keep), &mut kept, &mut scratch).unwrap();
    apply(&gaussian, &shared(NonFinite::Ignore), &mut ignored, &mut scratch).unwrap();
    assert!(kept.voxels.as_slice::<f32>()[100].is_nan());
    ignored.voxels.as_mut_slice::<f32>()[100] = f32::NAN;
    let bits = |volume: &Volume| {
        let bits = volume
            .voxels
            .as_slice::<f32>()
            .iter()
            .map(|voxel| voxel.to_bits() & 0x7fff_ffff);
        bits.collect::<Vec<_>>()
    };
    assert_eq!(bits(&kept), bits(&ignored));
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut volume = noise(&[9, 8, 7], Datatype::Int16, 1, Some(100));
    let mut scratch = Scratch::default();
    let mask = some_mask(&[9, 8, 6], false);
    let shared = SharedOptions::default();
    let refused = apply_masked(&Median::default(), &shared, &mut volume, &mask, &mut scratch);
    assert!(refused.unwrap_err().to_string().contains("same shape"));
    let mask = some_mask(&[9, 8, 7], false);
    let shared = options(Outside::Nan, NonFinite::Propagate, OutputType::Same);
    for filter in [&Median::default() as &dyn Filter, &Gaussian::from_sigma_vox(1.0)] {
        let refused = apply_masked(filter, &shared, &mut volume, &mask, &mut scratch);
        assert!(refused.unwrap_err().to_string().contains("--output-type float32"));
    }
}
