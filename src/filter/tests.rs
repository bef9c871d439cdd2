//! Tests of the whole filter: every instruction set and number of threads against the plain reference.

use ndarray::ArrayD;
use proptest::prelude::*;

use super::boundary::Boundary;
use super::gaussian::{Gaussian, PerAxis};
use super::kernels::convert::{Voxel, with_voxel_type};
use super::kernels::simd::Isa;
use super::*;
use crate::volume::VoxelType;

const BOUNDARIES: [Boundary; 5] = [
    Boundary::Reflect,
    Boundary::Nearest,
    Boundary::Mirror,
    Boundary::Wrap,
    Boundary::Constant,
];

/// A volume of noise in the type's whole range, or in `0..small` where that is given.
fn noise(shape: &[usize], datatype: Datatype, seed: u64, small: Option<u64>) -> Volume {
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
        // Knuth's linear congruential generator: the upper bits are noise enough here.
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

/// The volume's intensities, x being axis 0.
fn intensities(volume: &Volume) -> ArrayD<f64> {
    with_voxel_type!(volume.datatype, T => {
        volume.view::<T>().unwrap().mapv(|voxel| recast_one(voxel, volume.scaling, Conversion::Cast))
    })
}

/// What the filter should make of `volume`, as bytes.
fn expected(gaussian: &Gaussian, output: &OutputSpec, volume: &Volume) -> Vec<u8> {
    let mut kernels = Default::default();
    gaussian
        .kernels(volume.voxel_size_mm, &mut kernels)
        .unwrap();
    let kernels = &kernels[..volume.spatial_axes()];
    let types = output.types(volume.datatype, volume.scaling.is_some());
    if kernels.iter().all(Vec::is_empty)
        && types.last == volume.datatype
        && volume.scaling.is_none()
    {
        return volume.voxels.as_bytes().to_vec();
    }
    let (boundary, cval) = (gaussian.boundary, gaussian.cval);
    with_voxel_type!(types.last, T => {
        let image = intensities(volume);
        let smoothed = match types.conversion {
            Conversion::Cast => reference::smooth(image, kernels, boundary, cval, T::cast),
            Conversion::Nearest => reference::smooth(image, kernels, boundary, cval, |sum| sum).mapv(T::nearest),
        };
        // Transposed, because ndarray walks the last axis fastest and files the first.
        let voxels: Vec<T> = smoothed.t().iter().copied().collect();
        bytemuck::cast_slice(&voxels).to_vec()
    })
}

fn copy(volume: &Volume) -> Volume {
    let mut copy = Volume {
        shape: volume.shape.clone(),
        ..Volume::default()
    };
    copy.voxel_size_mm = volume.voxel_size_mm;
    copy.datatype = volume.datatype;
    copy.scaling = volume.scaling;
    copy.voxels
        .resize_for_overwrite(volume.voxels.as_bytes().len());
    copy.voxels
        .as_bytes_mut()
        .copy_from_slice(volume.voxels.as_bytes());
    copy
}

/// Filters with every instruction set of this machine, with one thread and with three, and compares all with the reference.
fn check(gaussian: &Gaussian, output: &OutputSpec, volume: &Volume) {
    let expected = expected(gaussian, output, volume);
    for isa in Isa::available() {
        for threads in [1, 3] {
            let mut scratch = Scratch::with_threads(threads);
            scratch.isa = isa;
            let mut filtered = copy(volume);
            apply(
                &Filter::Gaussian(gaussian.clone()),
                output,
                &mut filtered,
                &mut scratch,
            )
            .unwrap();
            assert_eq!(filtered.datatype, output.resolve(volume));
            assert_eq!(filtered.scaling, None);
            assert!(
                filtered.voxels.as_bytes() == expected,
                "{isa:?}, {threads} threads, {:?} {} {:?}, {output:?}, {gaussian:?}",
                volume.shape,
                volume.datatype,
                volume.scaling,
            );
        }
        for threads in [1, 2, 3] {
            let mut scratch = Scratch {
                isa,
                ..Scratch::default()
            };
            let mut streamed = copy(volume);
            if stream(gaussian, output, &mut streamed, &mut scratch, threads) {
                assert_eq!(streamed.datatype, output.resolve(volume));
                assert!(
                    streamed.voxels.as_bytes() == expected,
                    "{isa:?}, slabs for {threads} threads, {:?} {} {:?}, {output:?}, {gaussian:?}",
                    volume.shape,
                    volume.datatype,
                    volume.scaling,
                );
            }
        }
    }
}

/// Filters in slabs as thin as they may be, as so many threads would: all is read first, and of the slabs whose result has
/// room the last one goes first. False where that is not offered.
fn stream(
    gaussian: &Gaussian,
    output: &OutputSpec,
    volume: &mut Volume,
    scratch: &mut Scratch,
    threads: usize,
) -> bool {
    let filter = Filter::Gaussian(gaussian.clone());
    let stored = volume.voxels.as_bytes().to_vec();
    let begun = Stream::begin_with_slabs_of(1, &filter, output, volume, scratch, threads);
    let Some(stream) = begun.unwrap() else {
        return false;
    };
    // SAFETY: one thread, and the volume stays as it is; so too below.
    unsafe { stream.unread(0..stream.slices()) }.copy_from_slice(&stored);
    let mut tile = VoxelBuffer::default();
    let slabs = stream.slabs();
    let (mut flat, mut unfinished) = (0, 0);
    while unfinished < slabs.len() {
        let have_room = slabs[unfinished..]
            .iter()
            .take_while(|slab| stream.has_room(slab, unfinished))
            .count();
        assert!(have_room >= threads.min(slabs.len() - unfinished));
        let now = unfinished..unfinished + have_room;
        let needed = stream.needed_for(&slabs[now.end - 1]);
        while flat < slabs.len() && slabs[flat].start < needed {
            // SAFETY: as above, all slices are read.
            unsafe { stream.in_plane(slabs[flat].clone(), &mut tile) };
            flat += 1;
        }
        for slab in slabs[now.clone()].iter().rev() {
            // SAFETY: as above, what it needs is flat, and it has room.
            unsafe { stream.through_planes(slab.clone(), &mut tile) };
        }
        unfinished = now.end;
    }
    stream.finish(volume);
    true
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
            with_voxel_type!(datatype, T => volume.voxels.as_mut_slice::<T>().fill(T::saturated(value.into())));
            check(
                &Gaussian::from_sigma_vox(2.0),
                &OutputSpec::default(),
                &volume,
            );
            // A plateau beside noise, so that sums are near whole numbers now and then.
            with_voxel_type!(datatype, T => {
                volume.voxels.as_mut_slice::<T>().iter_mut().step_by(7).for_each(|voxel| *voxel = T::saturated(5));
            });
            check(
                &Gaussian::from_sigma_vox(0.7),
                &OutputSpec::default(),
                &volume,
            );
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
            check(
                &gaussian,
                &output,
                &noise(&[9, 8, 7, 2], datatype, 6, Some(300)),
            );
            let one_axis = Gaussian {
                sigma: Some(PerAxis::Each([0.0, 1.0, 0.0])),
                ..gaussian.clone()
            };
            check(
                &one_axis,
                &output,
                &noise(&[9, 8, 7, 2], datatype, 7, Some(300)),
            );
        }
        let nearest = OutputSpec {
            output_type: OutputType::Same,
            round: Rounding::Nearest,
        };
        check(
            &gaussian,
            &nearest,
            &noise(&[9, 8, 7], datatype, 5, Some(100)),
        );
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
    let nothing = Filter::Gaussian(Gaussian::from_sigma_vox(0.0));
    let mut scratch = Scratch::default();
    let mut volume = noise(&[3, 1, 1], Datatype::Int64, 0, None);
    let numbers = [i64::MAX, -3, (1 << 53) + 1];
    volume
        .voxels
        .as_mut_slice::<i64>()
        .copy_from_slice(&numbers);
    apply(&nothing, &OutputSpec::default(), &mut volume, &mut scratch).unwrap();
    assert_eq!(volume.voxels.as_slice::<i64>(), numbers);
    let output = OutputSpec {
        output_type: OutputType::As(Datatype::Uint64),
        round: Rounding::Truncate,
    };
    apply(&nothing, &output, &mut volume, &mut scratch).unwrap();
    assert_eq!(
        volume.voxels.as_slice::<u64>(),
        [i64::MAX as u64, 0, (1 << 53) + 1]
    );
    volume.scaling = Some(Scaling {
        slope: 0.5,
        intercept: 1.0,
    });
    apply(&nothing, &OutputSpec::default(), &mut volume, &mut scratch).unwrap();
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
    let filter = Filter::Gaussian(Gaussian {
        sigma: Some(PerAxis::Each([1.0, 0.0, 0.0])),
        ..Gaussian::from_sigma_vox(0.0)
    });
    let mut scratch = Scratch::default();
    apply(&filter, &output, &mut rounded, &mut scratch).unwrap();
    assert_eq!(rounded.voxels.as_slice::<i16>(), [0; 21]);
    apply(&filter, &OutputSpec::default(), &mut volume, &mut scratch).unwrap();
    let spread: Vec<bool> = volume
        .voxels
        .as_slice::<f32>()
        .iter()
        .map(|voxel| voxel.is_nan())
        .collect();
    assert!(
        (0..21).all(|x| spread[x] == (6..=14).contains(&x)),
        "{spread:?}"
    );
}

#[test]
fn a_volume_that_contradicts_itself_is_refused() {
    let mut volume = noise(&[3, 3, 3], Datatype::Int16, 0, None);
    volume.shape = vec![4, 3, 3];
    let filter = Filter::Gaussian(Gaussian::from_sigma_vox(1.0));
    let error = apply(
        &filter,
        &OutputSpec::default(),
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
        let gaussian = Gaussian { sigma: Some(PerAxis::Each(sigma)), fwhm: None, boundary, cval, truncate };
        check(&gaussian, &OutputSpec::default(), &noise(&shape, datatype, seed, small));
    }
}
