//! Tests of the median: compares every instruction set and number of threads with a reference.

use super::boundary::Boundary;
use super::kernels::convert::{Voxel, with_voxel_type};
use super::kernels::simd::Isa;
use super::median::{Footprint, Median, PerAxis};
use super::nonfinite::NonFinite;
use super::tests::{BOUNDARIES, apply_divided, copy, noise};
use super::window::{keeps_digits, parse_size};
use super::*;
use crate::volume::Scaling;

/// The medians as doubles, from sorted windows. With `ignore`, non-finite voxels are left out.
fn medians(median: &Median, volume: &Volume, ignore: bool) -> Vec<f64> {
    let image = ImageInfo::of(volume);
    let (shape, axes) = (image.spatial_shape(), image.spatial_axes());
    let size = median.size.xyz();
    let reach = |axis: usize| -> Vec<isize> {
        let size = size[axis] as isize;
        match median.footprint {
            _ if axis >= axes => vec![0],
            Footprint::Sphere(_) => (-9..=9).collect(),
            _ => (-(size / 2)..size - size / 2).collect(),
        }
    };
    let mut window = Vec::new();
    for z in reach(2) {
        for y in reach(1) {
            for x in reach(0) {
                let place = [x, y, z];
                let mm = |axis: usize| (place[axis] as f64 * image.voxel_size_mm[axis]).powi(2);
                if match median.footprint {
                    Footprint::Box => true,
                    Footprint::Cross => place.iter().filter(|&&d| d != 0).count() <= 1,
                    Footprint::Sphere(radius) => (0..3).map(mm).sum::<f64>() <= radius * radius,
                } {
                    window.push(place);
                }
            }
        }
    }
    let values: Vec<f64> = with_voxel_type!(volume.datatype, T => {
        let intensity = |v: f64| volume.scaling.map_or(v, |scaling| scaling.intensity(v));
        volume.voxels.as_slice::<T>().iter().map(|voxel| intensity(voxel.to_f64())).collect()
    });
    let digits = keeps_digits(&image, size[0]);
    let beyond = match volume.scaling {
        Some(_) => median.cval,
        None if digits => with_voxel_type!(volume.datatype, T => T::nearest(median.cval.trunc()).to_f64()),
        None => with_voxel_type!(volume.datatype, T => T::cast(median.cval).to_f64()),
    };
    let per_volume: usize = shape.iter().product();
    let at = |of: &[f64], place: [isize; 3]| -> f64 {
        let source = |axis: usize| median.boundary.source(place[axis], shape[axis]);
        match (source(0), source(1), source(2)) {
            (Some(x), Some(y), Some(z)) => of[(z * shape[1] + y) * shape[0] + x],
            _ => beyond,
        }
    };
    let mut found = Vec::new();
    for of in values.chunks_exact(per_volume) {
        for i in 0..per_volume {
            let own = [i % shape[0], i / shape[0] % shape[1], i / shape[0] / shape[1]];
            let place = |d: &[isize; 3]| at(of, std::array::from_fn(|axis| own[axis] as isize + d[axis]));
            let mut all: Vec<f64> = window.iter().map(place).collect();
            all.retain(|value| !ignore || value.is_finite());
            all.sort_by(f64::total_cmp);
            found.push(all.get(all.len() / 2).copied().unwrap_or(f64::NAN));
        }
    }
    found
}

/// Compares all algorithms with the reference.
fn check(median: &Median, shared: &SharedOptions, volume: &Volume) {
    let expected = medians(median, volume, shared.nan == NonFinite::Ignore);
    let scaled = volume.scaling.is_some();
    let cast = shared.output.types(volume.datatype, scaled).conversion == kernels::convert::Conversion::Cast;
    let check = |filtered: &Volume, how: &str| {
        assert_eq!(filtered.datatype, shared.output.resolve(volume));
        with_voxel_type!(filtered.datatype, T => {
            let voxels = filtered.voxels.as_slice::<T>();
            for (i, (&voxel, &value)) in voxels.iter().zip(&expected).enumerate() {
                let value = if cast { T::cast(value) } else { T::nearest(value) };
                // Compared as doubles, because a window of one voxel keeps bits that doubles lose.
                let (found, value) = (voxel.to_f64(), value.to_f64());
                let equal = found == value || (found.is_nan() && value.is_nan());
                assert!(
                    equal,
                    "{how} {i}: {voxel} for {value}, {median:?} {:?} {} {:?}",
                    volume.shape, volume.datatype, volume.scaling
                );
            }
        });
    };
    for isa in Isa::available() {
        let mut scratch = Scratch::default();
        scratch.thread.isa = isa;
        let mut whole = copy(volume);
        apply(median, shared, &mut whole, &mut scratch).unwrap();
        check(&whole, &format!("{isa:?}"));
        for (threads, streamed) in [(1, true), (1, false), (3, false), (2, true)] {
            let division = Division {
                slab_bytes: 1,
                ..Division::among(threads, streamed)
            };
            let mut divided = copy(volume);
            apply_divided(median, shared, &mut divided, &mut scratch, division);
            check(&divided, &format!("{isa:?} {division:?}"));
        }
    }
}

fn median(size: [usize; 3], boundary: Boundary, cval: f64) -> Median {
    Median {
        size: PerAxis::Each(size),
        boundary,
        cval,
        ..Median::default()
    }
}

#[test]
fn every_type_boundary_and_size() {
    let shapes: [&[usize]; 6] = [&[1], &[70], &[5, 9], &[1, 1, 1], &[17, 6, 5], &[6, 7, 3, 2]];
    let sizes = [[3, 3, 3], [2, 2, 2], [1, 4, 5], [6, 1, 2], [5, 3, 4], [1, 1, 1]];
    for (i, shape) in shapes.into_iter().enumerate() {
        for datatype in Datatype::ALL {
            for (j, boundary) in BOUNDARIES.into_iter().enumerate() {
                for (k, size) in sizes.into_iter().enumerate() {
                    // Numbers inside and outside the range of the type.
                    let cval = [7.0, -3.7, 1e12][(i + j + k) % 3];
                    let small = [None, Some(6), Some(300)][(i + j + k) % 3];
                    let volume = noise(shape, datatype, (i + 7 * k) as u64, small);
                    check(&median(size, boundary, cval), &SharedOptions::default(), &volume);
                }
            }
        }
    }
}

#[test]
fn integers_of_one_axis_keep_every_digit() {
    let large = (1_i64 << 60) + 1;
    for shape in [&[5][..], &[5, 1, 1]] {
        let mut volume = Volume::zeros(shape, Datatype::Int64);
        let voxels = [4, 0, 2, 3, 1].map(|small| large + small);
        volume.voxels.as_mut_slice::<i64>().copy_from_slice(&voxels);
        let filter = median([3, 1, 1], Boundary::Reflect, 0.0);
        apply(
            &filter,
            &SharedOptions::default(),
            &mut volume,
            &mut Scratch::default(),
        )
        .unwrap();
        let found = volume.voxels.as_slice::<i64>();
        match shape.len() {
            1 => assert_eq!(found, [4, 2, 2, 2, 1].map(|small| large + small)),
            _ => assert_eq!(found, [1_i64 << 60; 5]),
        }
    }
}

#[test]
fn windows_larger_than_the_image() {
    for boundary in BOUNDARIES {
        for size in [[7, 9, 8], [13, 14, 13]] {
            check(
                &median(size, boundary, 5.0),
                &SharedOptions::default(),
                &noise(&[4, 3, 5], Datatype::Int16, 2, Some(50)),
            );
        }
    }
}

#[test]
fn crosses_and_spheres() {
    for datatype in Datatype::ALL {
        for (i, boundary) in BOUNDARIES.into_iter().enumerate() {
            let mut volume = noise(&[19, 8, 7], datatype, i as u64, Some(200));
            volume.voxel_size_mm = [1.0, 1.5, 2.0];
            for footprint in [Footprint::Cross, Footprint::Sphere(0.0), Footprint::Sphere(3.0)] {
                let base = median([5, 4, 3], boundary, 9.0);
                check(&Median { footprint, ..base }, &SharedOptions::default(), &volume);
            }
        }
    }
}

#[test]
fn scaled_images_and_other_output_types() {
    for datatype in Datatype::ALL {
        for (slope, intercept) in [(0.37, -5.1), (-2.5, 0.0)] {
            for output_type in [
                OutputType::Same,
                OutputType::As(Datatype::Float64),
                OutputType::As(Datatype::Int16),
            ] {
                let mut volume = noise(&[9, 8, 7], datatype, 5, Some(1000));
                let output = OutputSpec {
                    output_type,
                    round: Rounding::Truncate,
                };
                let shared = SharedOptions {
                    output,
                    ..SharedOptions::default()
                };
                check(&median([3, 2, 2], Boundary::Constant, 0.5), &shared, &volume);
                volume.scaling = Some(Scaling { slope, intercept });
                for boundary in [Boundary::Mirror, Boundary::Constant] {
                    check(&median([3, 3, 3], boundary, -3.0), &shared, &volume);
                    check(&median([2, 3, 4], boundary, -3.0), &shared, &volume);
                }
            }
        }
    }
}

#[test]
fn voxels_that_are_not_finite() {
    for datatype in [Datatype::Float32, Datatype::Float64] {
        for scaling in [
            None,
            Some(Scaling {
                slope: -2.0,
                intercept: 1.0,
            }),
        ] {
            let mut volume = noise(&[9, 8, 7, 2], datatype, 1, Some(100));
            volume.scaling = scaling;
            with_voxel_type!(datatype, T => {
                let voxels = volume.voxels.as_mut_slice::<T>();
                voxels.iter_mut().step_by(5).for_each(|voxel| *voxel = T::nearest(f64::NAN));
                voxels.iter_mut().step_by(7).for_each(|voxel| *voxel = T::nearest(f64::NEG_INFINITY));
                voxels[200..300].fill(T::nearest(f64::NAN));
            });
            for boundary in BOUNDARIES {
                let ignore = SharedOptions {
                    nan: NonFinite::Ignore,
                    ..SharedOptions::default()
                };
                check(&median([3, 2, 1], boundary, 4.0), &ignore, &volume);
            }
            let mut scratch = Scratch::default();
            let refused = apply(
                &Median::default(),
                &SharedOptions::default(),
                &mut copy(&volume),
                &mut scratch,
            );
            let refused = refused.unwrap_err().to_string();
            assert!(
                refused.contains("NaN or infinite") && refused.contains("--nan ignore"),
                "{refused}"
            );
            let zero = SharedOptions {
                nan: NonFinite::Zero,
                ..SharedOptions::default()
            };
            assert!(apply(&Median::default(), &zero, &mut volume, &mut scratch).unwrap() > 0);
            assert_eq!(nonfinite::count(&volume), 0);
        }
    }
}

#[test]
fn options_that_make_no_window_are_refused() {
    assert_eq!(parse_size("3"), Ok(PerAxis::All(3)));
    assert_eq!(parse_size("3, 1,2"), Ok(PerAxis::Each([3, 1, 2])));
    for text in ["0", "-1", "2.5", "1,2", "", "1,2,3,4"] {
        assert!(parse_size(text).is_err(), "{text}");
    }
    assert_eq!("sphere:2.5".parse(), Ok(Footprint::Sphere(2.5)));
    for text in ["sphere", "sphere:-1", "sphere:nan", "ball"] {
        assert!(text.parse::<Footprint>().is_err(), "{text}");
    }
    let volume = noise(&[3, 3, 3], Datatype::Uint8, 0, None);
    let shared = SharedOptions::default();
    let default = Median::default();
    let sized = |size| Median {
        size: PerAxis::All(size),
        ..default
    };
    let nan = Median {
        cval: f64::NAN,
        ..default
    };
    let endless = Median {
        footprint: Footprint::Sphere(1e300),
        ..default
    };
    for median in [sized(0), sized(1000), sized(usize::MAX), nan, endless] {
        let mut volume = copy(&volume);
        assert!(apply(&median, &shared, &mut volume, &mut Scratch::default()).is_err());
    }
    let options = Options::from(Median {
        footprint: Footprint::Sphere(2.5),
        ..Median::default()
    });
    let text = serde_json::to_string(&options).unwrap();
    assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
}
