//! Tests of the whole filter: compares every instruction set and number of threads with the reference.

use ndarray::ArrayD;
use proptest::prelude::*;

use super::boundary::Boundary;
use super::gaussian::{Gaussian, PerAxis};
use super::kernels::convert::{Conversion, Voxel, recast_one, with_voxel_type};
use super::kernels::simd::Isa;
use super::kernels::weights::half_kernel;
use super::*;
use crate::volume::{Scaling, VoxelType};

pub(super) const BOUNDARIES: [Boundary; 5] = [
    Boundary::Reflect,
    Boundary::Nearest,
    Boundary::Mirror,
    Boundary::Wrap,
    Boundary::Constant,
];

/// A volume of noise in the type's whole range, or in `0..small` if that is given.
pub(super) fn noise(shape: &[usize], datatype: Datatype, seed: u64, small: Option<u64>) -> Volume {
    let mut volume = Volume {
        shape: shape.to_vec(),
        datatype,
        voxel_size_mm: [1.0; 3],
        ..Volume::default()
    };
    volume
        .voxels
        .resize_for_overwrite(volume.len() * datatype.size_bytes());
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        // Knuth's linear congruential generator. Its upper bits are random enough here.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        small.map_or(state ^ (state >> 33), |small| (state >> 33) % small)
    };
    with_voxel_type!(datatype, T => {
        for voxel in volume.voxels.as_mut_slice::<T>() {
            let whole = i128::from(next()) - if small.is_none() { 1 << 63 } else { 0 };
            let bits = 8 * size_of::<T>() as u32;
            *voxel = if T::DATATYPE.is_float() {
                T::cast(whole as f64 / 1e3)
            } else {
                T::saturated(if small.is_none() { whole >> (64 - bits) } else { whole })
            };
        }
    });
    volume
}

/// The volume's intensities. x is axis 0.
pub(super) fn intensities(volume: &Volume) -> ArrayD<f64> {
    with_voxel_type!(volume.datatype, T => {
        volume.view::<T>().unwrap().mapv(|voxel| recast_one(voxel, volume.scaling, Conversion::Cast))
    })
}

/// The expected result for `volume`, as bytes.
fn expected(gaussian: &Gaussian, output: &OutputSpec, volume: &Volume) -> Vec<u8> {
    let sigma_vox = gaussian.sigma_vox(volume.voxel_size_mm).unwrap();
    let kernel = |sigma: f64| match sigma > gaussian::SKIPPED_SIGMA_VOX {
        true => half_kernel(sigma, (gaussian.truncate * sigma + 0.5) as usize).unwrap(),
        false => Vec::new(),
    };
    let kernels = sigma_vox.map(kernel);
    let kernels = &kernels[..volume.spatial_axes()];
    let types = output.types(volume.datatype, volume.scaling.is_some());
    if kernels.iter().all(Vec::is_empty) && types.last == volume.datatype && volume.scaling.is_none() {
        return volume.voxels.as_bytes().to_vec();
    }
    let (boundary, cval) = (gaussian.boundary, gaussian.cval);
    with_voxel_type!(types.last, T => {
        let image = intensities(volume);
        let smoothed = match types.conversion {
            Conversion::Cast => reference::smooth(image, kernels, boundary, cval, T::cast),
            Conversion::Nearest => {
                reference::smooth(image, kernels, boundary, cval, |sum| sum).mapv(T::nearest)
            }
        };
        // Transposed, because the last axis is the fastest in ndarray and the first one in files.
        let voxels: Vec<T> = smoothed.t().iter().copied().collect();
        bytemuck::cast_slice(&voxels).to_vec()
    })
}

pub(super) fn copy(volume: &Volume) -> Volume {
    let mut copy = Volume {
        shape: volume.shape.clone(),
        ..Volume::default()
    };
    copy.voxel_size_mm = volume.voxel_size_mm;
    copy.datatype = volume.datatype;
    copy.scaling = volume.scaling;
    copy.voxels.resize_for_overwrite(volume.voxels.as_bytes().len());
    copy.voxels
        .as_bytes_mut()
        .copy_from_slice(volume.voxels.as_bytes());
    copy
}

fn shared(output: &OutputSpec) -> SharedOptions {
    SharedOptions {
        output: *output,
        ..SharedOptions::default()
    }
}

/// Filters with every instruction set of this machine, undivided and divided among threads, and compares all
/// results with the reference.
fn check(gaussian: &Gaussian, output: &OutputSpec, volume: &Volume) {
    let expected = expected(gaussian, output, volume);
    for isa in Isa::available() {
        let mut scratch = Scratch::default();
        scratch.thread.isa = isa;
        let check = |filtered: &Volume, how: &str| {
            assert_eq!(filtered.datatype, output.resolve(volume));
            assert_eq!(filtered.scaling, None);
            assert!(
                filtered.voxels.as_bytes() == expected,
                "{isa:?}, {how}, {:?} {} {:?}, {output:?}, {gaussian:?}",
                volume.shape,
                volume.datatype,
                volume.scaling,
            );
        };
        let mut filtered = copy(volume);
        apply(gaussian, &shared(output), &mut filtered, &mut scratch).unwrap();
        check(&filtered, "whole");
        for threads in [1, 2, 3] {
            for streamed in [false, true] {
                let division = Division {
                    slab_bytes: 1,
                    ..Division::among(threads, streamed)
                };
                let mut divided = copy(volume);
                apply_divided(gaussian, &shared(output), &mut divided, &mut scratch, division);
                check(&divided, &format!("{division:?}"));
            }
        }
    }
}

/// Filters like this many threads that always start as many parts as possible. Of the parts that are started
/// together, the last one is computed first. A streamed image is read slab by slab during this, other images
/// before.
pub(super) fn apply_divided(
    filter: &dyn Filter,
    shared: &SharedOptions,
    volume: &mut Volume,
    scratch: &mut Scratch,
    division: Division,
) {
    apply_divided_inside(filter, shared, volume, None, scratch, division);
}

/// The same inside a mask.
pub(super) fn apply_divided_inside(
    filter: &dyn Filter,
    shared: &SharedOptions,
    volume: &mut Volume,
    mask: Option<&Arc<Mask>>,
    scratch: &mut Scratch,
    division: Division,
) {
    let stored = volume.voxels.as_bytes().to_vec();
    let image = ImageInfo {
        nonfinite_voxels: Some(nonfinite::count(volume)),
        mask_voxels: mask.map(|mask| mask.voxels().len() as u64),
        ..ImageInfo::of(volume)
    };
    let prepared = filter.prepare(&image, shared).unwrap();
    let layout = Layout::of(prepared.as_ref(), &image, division);
    let run = ImageRun::begin(prepared, layout, volume, &mut scratch.planes, mask.cloned()).unwrap();
    let mut progress = Progress::new(run.parts());
    let slice_bytes = stored.len() / run.slices();
    let mut to_read = run.parts().to_read.iter();
    loop {
        if let Some(slab) = to_read.next() {
            let bytes = slab.start * slice_bytes..slab.end * slice_bytes;
            if division.streamed {
                // SAFETY: one thread, and the slab is not announced yet.
                unsafe { run.unread(slab.clone()) }.copy_from_slice(&stored[bytes]);
            }
            progress.has_read(slab.end);
        }
        let next = |_| progress.next(run.parts());
        let started: Vec<Task> = (0..division.threads).map_while(next).collect();
        for &task in started.iter().rev() {
            // SAFETY: one thread, the volume does not change, and the part is started.
            unsafe { run.compute(task, None, &mut scratch.thread) }.unwrap();
        }
        started.iter().for_each(|&task| progress.finish(task));
        if started.is_empty() && to_read.len() == 0 {
            break;
        }
    }
    assert_eq!(progress.complete(run.parts()), run.slices());
    run.finish(volume);
}

#[test]
fn every_type_and_boundary_on_odd_shapes() {
    let shapes: [&[usize]; 7] = [
        &[1],
        &[37],
        &[5, 9],
        &[1, 1, 1],
        &[17, 13, 11],
        &[33, 2, 1],
        &[6, 7, 3, 2],
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        for datatype in Datatype::ALL {
            for boundary in BOUNDARIES {
                let cval = if i % 2 == 0 { -3.7 } else { 1e12 };
                let gaussian = Gaussian {
                    boundary,
                    cval,
                    ..Gaussian::from_sigma_vox(1.3)
                };
                check(
                    &gaussian,
                    &OutputSpec::default(),
                    &noise(shape, datatype, i as u64, None),
                );
            }
        }
    }
}

#[test]
fn kernels_many_times_longer_than_the_line() {
    for boundary in BOUNDARIES {
        let gaussian = Gaussian {
            boundary,
            cval: 9.0,
            ..Gaussian::from_sigma_vox(11.0)
        };
        check(
            &gaussian,
            &OutputSpec::default(),
            &noise(&[1, 2, 3], Datatype::Int16, 3, None),
        );
        check(
            &gaussian,
            &OutputSpec::default(),
            &noise(&[4, 1, 9], Datatype::Float64, 3, None),
        );
    }
}

#[test]
fn images_with_plateaus() {
    for datatype in Datatype::ALL {
        for value in [0u8, 1, 2, 100] {
            let mut volume = noise(&[19, 18, 17], datatype, 0, Some(1));
            with_voxel_type!(datatype, T => {
                volume.voxels.as_mut_slice::<T>().fill(T::saturated(value.into()))
            });
            check(&Gaussian::from_sigma_vox(2.0), &OutputSpec::default(), &volume);
            // A plateau next to noise, so that some sums are close to whole numbers.
            with_voxel_type!(datatype, T => {
                let voxels = volume.voxels.as_mut_slice::<T>().iter_mut();
                voxels.step_by(7).for_each(|voxel| *voxel = T::saturated(5));
            });
            check(&Gaussian::from_sigma_vox(0.7), &OutputSpec::default(), &volume);
        }
    }
}

#[test]
fn integers_of_another_type_are_rounded_once() {
    let gaussian = Gaussian::from_sigma_vox(1.0);
    for datatype in Datatype::ALL {
        for last in Datatype::ALL {
            let output = OutputSpec {
                output_type: OutputType::As(last),
                round: Rounding::Truncate,
            };
            check(&gaussian, &output, &noise(&[9, 8, 7], datatype, 5, None));
            check(&gaussian, &output, &noise(&[9, 8, 7, 2], datatype, 6, Some(300)));
            let one_axis = Gaussian {
                sigma: Some(PerAxis::Each([0.0, 1.0, 0.0])),
                ..gaussian.clone()
            };
            check(&one_axis, &output, &noise(&[9, 8, 7, 2], datatype, 7, Some(300)));
        }
        let nearest = OutputSpec {
            output_type: OutputType::Same,
            round: Rounding::Nearest,
        };
        check(&gaussian, &nearest, &noise(&[9, 8, 7], datatype, 5, Some(100)));
    }
}

#[test]
fn scaled_images_become_intensities_first() {
    for datatype in Datatype::ALL {
        for (slope, intercept) in [(0.37, -5.1), (1.0, 0.1), (-2.5, 0.0)] {
            for output_type in [
                OutputType::Same,
                OutputType::As(Datatype::Float64),
                OutputType::As(Datatype::Int16),
            ] {
                let mut volume = noise(&[9, 8, 7], datatype, 5, Some(1000));
                volume.scaling = Some(Scaling { slope, intercept });
                let output = OutputSpec {
                    output_type,
                    round: Rounding::Truncate,
                };
                check(&Gaussian::from_sigma_vox(1.0), &output, &volume);
                let z_only = Gaussian {
                    sigma: Some(PerAxis::Each([0.0, 0.0, 2.0])),
                    ..Gaussian::from_sigma_vox(0.0)
                };
                check(&z_only, &output, &volume);
            }
        }
    }
}

#[test]
fn nothing_smoothed_is_a_plain_conversion() {
    let nothing = Gaussian::from_sigma_vox(0.0);
    let mut scratch = Scratch::default();
    let mut volume = noise(&[3, 1, 1], Datatype::Int64, 0, None);
    let numbers = [i64::MAX, -3, (1 << 53) + 1];
    volume.voxels.as_mut_slice::<i64>().copy_from_slice(&numbers);
    apply(&nothing, &SharedOptions::default(), &mut volume, &mut scratch).unwrap();
    assert_eq!(volume.voxels.as_slice::<i64>(), numbers);
    let output = OutputSpec {
        output_type: OutputType::As(Datatype::Uint64),
        round: Rounding::Truncate,
    };
    apply(&nothing, &shared(&output), &mut volume, &mut scratch).unwrap();
    assert_eq!(
        volume.voxels.as_slice::<u64>(),
        [i64::MAX as u64, 0, (1 << 53) + 1]
    );
    volume.scaling = Some(Scaling {
        slope: 0.5,
        intercept: 1.0,
    });
    apply(&nothing, &SharedOptions::default(), &mut volume, &mut scratch).unwrap();
    assert_eq!((volume.datatype, volume.scaling), (Datatype::Float32, None));
    assert_eq!(volume.voxels.as_slice::<f32>()[1], 1.0);
}

#[test]
fn not_a_number_spreads_in_floats_and_is_zero_in_rounded_integers() {
    let mut volume = noise(&[21, 1, 1], Datatype::Float32, 0, Some(1));
    volume.voxels.as_mut_slice::<f32>()[10] = f32::NAN;
    let output = OutputSpec {
        output_type: OutputType::As(Datatype::Int16),
        round: Rounding::Truncate,
    };
    let mut rounded = copy(&volume);
    let filter = Gaussian {
        sigma: Some(PerAxis::Each([1.0, 0.0, 0.0])),
        ..Gaussian::from_sigma_vox(0.0)
    };
    let mut scratch = Scratch::default();
    apply(&filter, &shared(&output), &mut rounded, &mut scratch).unwrap();
    assert_eq!(rounded.voxels.as_slice::<i16>(), [0; 21]);
    apply(&filter, &SharedOptions::default(), &mut volume, &mut scratch).unwrap();
    let spread: Vec<bool> = volume
        .voxels
        .as_slice::<f32>()
        .iter()
        .map(|voxel| voxel.is_nan())
        .collect();
    assert!((0..21).all(|x| spread[x] == (6..=14).contains(&x)), "{spread:?}");
}

#[test]
fn a_volume_that_contradicts_itself_is_refused() {
    let mut volume = noise(&[3, 3, 3], Datatype::Int16, 0, None);
    volume.shape = vec![4, 3, 3];
    let filter = Gaussian::from_sigma_vox(1.0);
    let error = apply(
        &filter,
        &SharedOptions::default(),
        &mut volume,
        &mut Scratch::default(),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a volume of 36 voxels of int16 came with 54 bytes"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fast_equals_plain(
        shape in prop::collection::vec(1usize..20, 1..5),
        datatype in prop::sample::select(&Datatype::ALL[..]),
        boundary in prop::sample::select(&BOUNDARIES[..]),
        sigma in prop::array::uniform3(prop_oneof![Just(0.0), 0.05f64..4.0]),
        truncate in 0.0f64..5.0,
        cval in -1e5f64..1e5,
        seed in 0u64..1000,
        small in prop_oneof![Just(None), (1u64..2000).prop_map(Some)],
    ) {
        let sigma = Some(PerAxis::Each(sigma));
        let gaussian = Gaussian { sigma, boundary, cval, truncate, ..Gaussian::from_sigma_vox(0.0) };
        check(&gaussian, &OutputSpec::default(), &noise(&shape, datatype, seed, small));
    }
}

#[test]
fn non_finite_voxels_are_treated_alike_however_the_work_is_divided() {
    for boundary in BOUNDARIES {
        for shape in [&[9, 8, 7][..], &[9, 8, 7, 3], &[40], &[5, 6]] {
            let mut volume = noise(shape, Datatype::Float32, 1, Some(100));
            for voxel in volume.voxels.as_mut_slice::<f32>().iter_mut().step_by(13) {
                *voxel = f32::NAN;
            }
            let gaussian = Gaussian::from_sigma_vox(1.0).with_boundary(boundary);
            let options = SharedOptions {
                nan: nonfinite::NonFinite::Ignore,
                ..SharedOptions::default()
            };
            let mut scratch = Scratch::default();
            let mut whole = copy(&volume);
            let found = apply(&gaussian, &options, &mut whole, &mut scratch).unwrap();
            assert_eq!(found, volume.len().div_ceil(13) as u64);
            for threads in [1, 3] {
                let division = Division {
                    slab_bytes: 1,
                    ..Division::among(threads, true)
                };
                let mut divided = copy(&volume);
                apply_divided(&gaussian, &options, &mut divided, &mut scratch, division);
                assert!(divided.voxels.as_bytes() == whole.voxels.as_bytes());
            }
        }
    }
}

#[test]
fn a_filter_of_one_file_runs_however_the_work_is_divided() {
    for datatype in Datatype::ALL {
        for reach in [0, 1, 5] {
            let volume = noise(&[7, 6, 9, 2], datatype, 3, Some(100));
            let filter = Options::from(identity::Identity { reach });
            let mut scratch = Scratch::default();
            for (threads, streamed) in [(1, false), (2, true), (3, true)] {
                let division = Division {
                    slab_bytes: 1,
                    ..Division::among(threads, streamed)
                };
                let mut same = copy(&volume);
                let options = SharedOptions::default();
                apply_divided(&filter, &options, &mut same, &mut scratch, division);
                assert!(
                    same.voxels.as_bytes() == volume.voxels.as_bytes(),
                    "{datatype} {reach}"
                );
            }
        }
    }
}
