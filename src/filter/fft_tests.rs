//! Tests of the convolution through Fourier transforms: compares it with the direct sums.

use super::boundary::Boundary;
use super::gaussian::{Gaussian, Method, PerAxis};
use super::kernels::simd::Isa;
use super::nonfinite::NonFinite;
use super::tests::{BOUNDARIES, apply_divided_inside, copy, intensities, noise};
use super::*;
use crate::volume::Scaling;

fn doubles(output_type: OutputType) -> SharedOptions {
    SharedOptions {
        output: OutputSpec {
            output_type,
            ..OutputSpec::default()
        },
        ..SharedOptions::default()
    }
}

fn filtered(
    gaussian: &Gaussian,
    shared: &SharedOptions,
    volume: &Volume,
    mask: Option<&Arc<Mask>>,
) -> Volume {
    let mut volume = copy(volume);
    let mut scratch = Scratch::default();
    apply_inside(gaussian, shared, &mut volume, mask, &mut scratch).unwrap();
    volume
}

fn largest(volume: &Volume, gaussian: &Gaussian) -> f64 {
    let beyond = match gaussian.boundary {
        Boundary::Constant => gaussian.cval.abs(),
        _ => 0.0,
    };
    let voxels = intensities(volume);
    let finite = voxels.iter().filter(|voxel| voxel.is_finite());
    finite.fold(beyond, |largest, voxel| largest.max(voxel.abs()))
}

/// Compares with the direct sums in double. Every instruction set, undivided and divided, has the same bits.
fn check(direct: &Gaussian, shared: &SharedOptions, volume: &Volume, mask: Option<&Arc<Mask>>) {
    let in_double = SharedOptions {
        output: doubles(OutputType::As(Datatype::Float64)).output,
        ..*shared
    };
    let exact = intensities(&filtered(direct, &in_double, volume, mask));
    let fft = direct.clone().with_method(Method::Fft);
    let result = filtered(&fft, shared, volume, mask);
    let case = format!("{:?} {} {fft:?}", volume.shape, volume.datatype);
    let largest = largest(volume, &fft);
    let last = result.datatype;
    // Halves of one integer may become another one. Single precision is rounded after each axis.
    let bound = match last {
        Datatype::Float64 => 1e-9,
        Datatype::Float32 => 3e-7,
        _ => 1e-12,
    } * largest;
    for (&found, &exact) in intensities(&result).iter().zip(&exact) {
        if exact.is_nan() {
            assert!(
                found.is_nan() || found == 0.0 && !last.is_float(),
                "{case}: {found}"
            );
        } else if last.is_float() {
            assert!((found - exact).abs() <= bound, "{case}: {found}, not {exact}");
        } else {
            let rounds = 0.5 + bound;
            let saturated = |at: f64| intensities(&recast(at, last)).iter().next().copied().unwrap();
            let between = saturated(exact - rounds)..=saturated(exact + rounds);
            assert!(between.contains(&found), "{case}: {found}, not {exact}");
        }
    }
    let image = ImageInfo {
        nonfinite_voxels: Some(nonfinite::count(volume)),
        mask_voxels: mask.map(|mask| mask.voxels().len() as u64),
        ..ImageInfo::of(volume)
    };
    let prepared = fft.prepare(&image, shared).unwrap();
    let stages = 0..prepared.stages().len();
    let promised: u64 = stages.map(|stage| prepared.scratch_bytes(stage, 0)).sum();
    for isa in Isa::available() {
        let mut scratch = Scratch::default();
        scratch.thread.isa = isa;
        for threads in [1, 2, 3] {
            let division = Division {
                slab_bytes: 1,
                ..Division::among(threads, false)
            };
            let mut divided = copy(volume);
            apply_divided_inside(&fft, shared, &mut divided, mask, &mut scratch, division);
            let same = divided.voxels.as_bytes() == result.voxels.as_bytes();
            assert!(same, "{isa:?}, {division:?}, {case}");
            assert!(scratch.thread.held_bytes() <= promised, "{case}");
        }
    }
}

/// A number, converted to a type.
fn recast(number: f64, datatype: Datatype) -> Volume {
    let mut volume = Volume::zeros(&[1], Datatype::Float64);
    volume.voxels.as_mut_slice::<f64>()[0] = number;
    filtered(
        &Gaussian::from_sigma_vox(0.0),
        &doubles(OutputType::As(datatype)),
        &volume,
        None,
    )
}

#[test]
fn every_type_boundary_and_odd_shape() {
    let shapes: [&[usize]; 6] = [
        &[1],
        &[5, 9],
        &[1, 1, 3],
        &[17, 13, 11],
        &[33, 2, 1],
        &[6, 7, 3, 2],
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        for datatype in Datatype::ALL {
            for boundary in BOUNDARIES {
                let gaussian = Gaussian::from_sigma_vox(1.3)
                    .with_boundary(boundary)
                    .with_cval(-3.7);
                let volume = noise(shape, datatype, i as u64, Some(250));
                check(&gaussian, &SharedOptions::default(), &volume, None);
            }
        }
    }
}

#[test]
fn kernels_wider_than_the_image_scaled_images_and_single_axes() {
    for boundary in BOUNDARIES {
        let wide = Gaussian::from_sigma_vox(11.0)
            .with_boundary(boundary)
            .with_cval(9.0);
        let z_only = Gaussian {
            sigma: Some(PerAxis::Each([0.0, 0.1, 5.0])),
            ..wide.clone()
        };
        for datatype in [Datatype::Uint8, Datatype::Float32, Datatype::Float64] {
            let mut volume = noise(&[4, 1, 9], datatype, 3, Some(100));
            check(&wide, &SharedOptions::default(), &volume, None);
            volume.scaling = Some(Scaling {
                slope: 0.37,
                intercept: -5.1,
            });
            check(&z_only, &SharedOptions::default(), &volume, None);
            check(&wide, &doubles(OutputType::As(Datatype::Int16)), &volume, None);
        }
    }
}

#[test]
fn only_voxels_that_count_have_a_part() {
    for (i, shape) in [&[30][..], &[21, 18], &[9, 8, 20], &[9, 8, 7, 2]]
        .into_iter()
        .enumerate()
    {
        for boundary in BOUNDARIES {
            let mut volume = noise(shape, Datatype::Float32, i as u64, Some(1000));
            let voxels = volume.voxels.as_mut_slice::<f32>();
            let len = voxels.len();
            // A block, so that no voxel counts within reach of some.
            voxels[len / 4..len - 3].fill(f32::NAN);
            voxels[0] = f32::INFINITY;
            for sigma in [1.0, 2.5] {
                // With six sigmas, weights become very small.
                let gaussian = Gaussian::from_sigma_vox(sigma)
                    .with_boundary(boundary)
                    .with_truncate(6.0);
                for nan in [NonFinite::Ignore, NonFinite::Keep] {
                    let shared = SharedOptions {
                        nan,
                        ..doubles(OutputType::As(Datatype::Float64))
                    };
                    check(&gaussian, &shared, &volume, None);
                }
            }
            let whole = noise(shape, Datatype::Int16, 7, Some(1000));
            let inside = noise(shape, Datatype::Uint8, 5, Some(2));
            let mask = Mask::above_zero(&inside).unwrap();
            let gaussian = Gaussian::from_sigma_vox(0.8).with_boundary(boundary);
            check(
                &gaussian,
                &SharedOptions::default(),
                &whole,
                Some(&Arc::new(mask)),
            );
        }
    }
}

#[test]
fn intensities_near_the_largest_number_do_not_overflow() {
    let mut volume = noise(&[9, 8, 40], Datatype::Float64, 1, Some(1000));
    for voxel in volume.voxels.as_mut_slice::<f64>() {
        *voxel *= 1e305;
    }
    check(
        &Gaussian::from_sigma_vox(3.0),
        &SharedOptions::default(),
        &volume,
        None,
    );
}

#[test]
fn what_a_transform_would_spread_is_refused() {
    let fft = Gaussian::from_sigma_vox(1.0).with_method(Method::Fft);
    let refused = |gaussian: &Gaussian, volume: &Volume| {
        let shared = SharedOptions::default();
        let error = apply(gaussian, &shared, &mut copy(volume), &mut Scratch::default());
        error.unwrap_err().to_string()
    };
    let mut volume = noise(&[9, 8, 7], Datatype::Float32, 1, Some(9));
    let constant = fft.clone().with_boundary(Boundary::Constant).with_cval(f64::NAN);
    assert!(
        constant
            .validate()
            .unwrap_err()
            .to_string()
            .contains("--method direct")
    );
    volume.voxels.as_mut_slice::<f32>()[3] = f32::NAN;
    assert!(refused(&fft, &volume).contains("give --nan ignore, keep or zero"));
    let mut overflows = noise(&[9, 8, 7], Datatype::Int16, 1, None);
    overflows.scaling = Some(Scaling {
        slope: 1e306,
        intercept: 0.0,
    });
    assert!(refused(&fft, &overflows).contains("check the scaling in the header"));
}
