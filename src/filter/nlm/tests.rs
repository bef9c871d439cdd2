//! Tests of the non-local means of dipy: every instruction set and number of threads against a plain
//! reference.

use super::super::kernels::exp64::exp64_of_nonpositive;
use super::super::kernels::simd::Isa;
use super::super::tests::{apply_divided, copy};
use super::super::{Division, OutputSpec, Scratch, apply};
use super::*;
use crate::volume::{Scaling, Volume};

/// A 3-D volume, x fastest.
struct Plain {
    shape: [usize; 3],
    values: Vec<f64>,
}

impl Plain {
    fn index(&self, [x, y, z]: [usize; 3]) -> usize {
        (z * self.shape[1] + y) * self.shape[0] + x
    }

    fn mirrored(&self, place: [isize; 3]) -> f64 {
        let at = |axis: usize| mirrored(place[axis], self.shape[axis]);
        self.values[self.index([at(0), at(1), at(2)])]
    }

    /// Places in the order of the voxels.
    fn places(&self) -> Vec<[usize; 3]> {
        let [nx, ny, nz] = self.shape;
        (0..nz)
            .flat_map(|z| (0..ny).flat_map(move |y| (0..nx).map(move |x| [x, y, z])))
            .collect()
    }
}

/// A cube around the middle in the order of the reference: x slowest.
fn cube(radius: usize) -> Vec<[isize; 3]> {
    let range = -(radius as isize)..=radius as isize;
    let along = || range.clone();
    along()
        .flat_map(|x| along().flat_map(move |y| along().map(move |z| [x, y, z])))
        .collect()
}

fn add(a: [isize; 3], b: [isize; 3]) -> [isize; 3] {
    std::array::from_fn(|axis| a[axis] + b[axis])
}

/// What the mean of squares becomes.
fn unbiased(nlm: &Nlm, square: f64, sigma: f64) -> f64 {
    match nlm.noise_model {
        NoiseModel::Rician => (square - 2.0 * (sigma * sigma)).max(0.0).sqrt(),
        NoiseModel::Gaussian => square.sqrt(),
    }
}

fn classic(nlm: &Nlm, image: &Plain, sigma: f64) -> Vec<f64> {
    let (patch, block) = (cube(nlm.patch_radius), cube(nlm.block_radius - nlm.patch_radius));
    let mean = patch.iter().fold(0.0, |sum, _| sum + sigma) / patch.len() as f64;
    let spread = std::f64::consts::SQRT_2 * (mean * mean);
    let mean_of_squares = |place: [usize; 3]| {
        let place = place.map(|at| at as isize);
        let weights: Vec<f64> = block
            .iter()
            .map(|&offset| {
                let squares = patch.iter().map(|&n| {
                    let own = image.mirrored(add(place, n));
                    (own - image.mirrored(add(add(place, offset), n))).powi(2)
                });
                let sum = squares.fold(0.0, |sum, square| sum + square);
                exp64_of_nonpositive(-(sum / patch.len() as f64) / spread)
            })
            .collect();
        let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        block.iter().zip(weights).fold(0.0, |mean, (&offset, weight)| {
            let value = image.mirrored(add(place, offset));
            mean + weight / sum * value * value
        })
    };
    let places = image.places().into_iter();
    places
        .map(|place| unbiased(nlm, mean_of_squares(place), sigma))
        .collect()
}

/// Means of patches, one centre after the other. The reference calls the radius of the search that of a
/// patch, and the radius of a patch that of a block.
fn blockwise(nlm: &Nlm, image: &Plain, sigma: f64) -> Vec<f64> {
    let (search, patch, three) = (cube(nlm.patch_radius), cube(nlm.block_radius), cube(1));
    let inside = |place: [isize; 3]| {
        let is_inside = (0..3).all(|axis| (0..image.shape[axis] as isize).contains(&place[axis]));
        is_inside.then(|| image.index(place.map(|at| at as usize)))
    };
    let reflected = |place: [isize; 3]| {
        let at = |axis: usize| {
            let (at, len) = (place[axis], image.shape[axis] as isize);
            at.abs().min(2 * len - 1 - at) as usize
        };
        image.values[image.index([at(0), at(1), at(2)])]
    };
    let around = |place: [isize; 3]| three.iter().map(move |&n| reflected(add(place, n)));
    let places = image
        .places()
        .into_iter()
        .map(|place| place.map(|at| at as isize));
    let moments: Vec<[f64; 2]> = places
        .clone()
        .map(|place| {
            let mean = around(place).fold(0.0, |sum, value| sum + value) / 27.0;
            let squares = around(place).map(|value| (value - mean) * (value - mean));
            [mean, squares.fold(0.0, |sum, square| sum + square) / 26.0]
        })
        .collect();
    let has_variance = |[mean, variance]: [f64; 2]| mean > 1e-5 && variance > 1e-5;
    let mut estimates = vec![(0.0, 0.0); image.values.len()];
    for centre in places.filter(|place| place.iter().all(|at| at % 2 == 0)) {
        let own = moments[inside(centre).unwrap()];
        // Innermost is x.
        let candidates = search.iter().map(|&[z, y, x]| [x, y, z]);
        let weights: Vec<([isize; 3], f64)> = match has_variance(own) {
            false => vec![(centre, 1.0)],
            true => candidates
                .filter(|&offset| offset != [0; 3])
                .map(|offset| add(centre, offset))
                .filter(|&other| {
                    inside(other).is_some_and(|index| {
                        let between = |ratio: f64, low: f64| ratio >= low && ratio <= 1.0 / low;
                        has_variance(moments[index])
                            && between(own[0] / moments[index][0], 0.95)
                            && between(own[1] / moments[index][1], 0.5 + 1e-7)
                    })
                })
                .map(|other| {
                    let squares = patch
                        .iter()
                        .map(|&n| (reflected(add(centre, n)) - reflected(add(other, n))).powi(2));
                    let sum = squares.fold(0.0, |sum, square| sum + square);
                    let exponent = -(sum / patch.len() as f64) / (sigma * sigma);
                    (other, exp64_of_nonpositive(exponent))
                })
                .collect(),
        };
        let total = weights.iter().fold(0.0, |sum, (_, weight)| sum + weight);
        if total <= 0.0 {
            continue;
        }
        for &n in &patch {
            if let Some(index) = inside(add(centre, n)) {
                let mean = weights.iter().fold(0.0, |sum, &(other, weight)| {
                    let value = inside(add(other, n))
                        .or(inside(other))
                        .map(|i| image.values[i])
                        .unwrap();
                    sum + weight * (value * value)
                });
                estimates[index].0 += unbiased(nlm, mean / total, sigma);
                estimates[index].1 += 1.0;
            }
        }
    }
    let pairs = estimates.into_iter().zip(&image.values);
    pairs
        .map(|((sum, count), &value)| if count > 0.0 { sum / count } else { value })
        .collect()
}

/// The noise, its squares added in the order of numpy.
fn estimate(image: &Plain) -> f64 {
    fn sum(numbers: &[f64]) -> f64 {
        if numbers.len() > 128 {
            let (low, high) = numbers.split_at(numbers.len() / 2 / 8 * 8);
            return sum(low) + sum(high);
        }
        let whole = numbers.len() / 8 * 8;
        let every_eighth = |i: usize| numbers[..whole].iter().skip(i).step_by(8).fold(0.0, |a, b| a + b);
        let s: [f64; 8] = std::array::from_fn(every_eighth);
        let of_whole = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
        numbers[whole..].iter().fold(of_whole, |a, b| a + b)
    }
    let [nx, ny, nz] = image.shape;
    let mut squares = Vec::new();
    for x in 0..nx {
        for y in 0..ny {
            for z in 0..nz {
                let repeated = |offset: [isize; 3]| {
                    let at = add([x, y, z].map(|at| at as isize), offset);
                    let at = std::array::from_fn(|axis| {
                        at[axis].clamp(0, image.shape[axis] as isize - 1) as usize
                    });
                    image.values[image.index(at)]
                };
                let neighbours = [
                    [-1, 0, 0],
                    [0, -1, 0],
                    [0, 0, -1],
                    [0, 0, 1],
                    [0, 1, 0],
                    [1, 0, 0],
                ];
                let around = neighbours
                    .into_iter()
                    .fold(0.0, |sum, offset| sum + repeated(offset));
                let noise = (6.0f64 / 7.0).sqrt() * (repeated([0; 3]) - 1.0 / 6.0 * around);
                squares.push(noise * noise);
            }
        }
    }
    f64::from((sum(&squares) / squares.len() as f64).sqrt() as f32)
}

/// An image with a step and noise.
fn image(shape: &[usize], datatype: Datatype, seed: u64) -> Volume {
    let mut volume = super::super::tests::noise(shape, datatype, seed, Some(40));
    super::super::kernels::convert::with_voxel_type!(datatype, T => {
        let nx = shape[0];
        for (i, voxel) in volume.voxels.as_mut_slice::<T>().iter_mut().enumerate() {
            if i % nx > nx / 3 {
                *voxel += 90u8 as T;
            }
        }
    });
    volume
}

/// Filters with every instruction set, whole and divided among threads, and compares with the reference.
fn check(nlm: &Nlm, volume: &Volume) {
    let shape = [volume.shape[0], volume.shape[1], volume.shape[2]];
    let values: Vec<f64> = super::super::tests::intensities(volume)
        .t()
        .iter()
        .copied()
        .collect();
    let expected: Vec<f64> = values
        .chunks_exact(shape.iter().product())
        .flat_map(|values| {
            let plain = Plain {
                shape,
                values: values.to_vec(),
            };
            let sigma = nlm.sigma_noise.unwrap_or_else(|| estimate(&plain));
            match nlm.method {
                Method::Nlm => classic(nlm, &plain, sigma),
                Method::NlmBlockwise => blockwise(nlm, &plain, sigma),
            }
        })
        .collect();
    let shared = SharedOptions {
        output: OutputSpec {
            output_type: OutputType::As(Datatype::Float64),
            ..OutputSpec::default()
        },
        ..SharedOptions::default()
    };
    for isa in Isa::available() {
        let mut scratch = Scratch::default();
        scratch.thread.isa = isa;
        let check = |filtered: &Volume, how: &str| {
            let found = filtered.voxels.as_slice::<f64>();
            let pairs = found.iter().zip(&expected);
            let differing = pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            assert_eq!(differing, 0, "{isa:?}, {how}, {:?}, {nlm:?}", volume.shape);
        };
        let mut filtered = copy(volume);
        apply(nlm, &shared, &mut filtered, &mut scratch).unwrap();
        check(&filtered, "whole");
        for threads in [1, 2, 3] {
            let mut divided = copy(volume);
            let division = Division {
                slab_bytes: 1,
                ..Division::among(threads, threads == 2)
            };
            apply_divided(nlm, &shared, &mut divided, &mut scratch, division);
            check(&divided, &format!("{threads} threads"));
        }
    }
}

#[test]
fn classic_shapes_and_radii() {
    let cases: [(&[usize], usize, usize); 6] = [
        (&[8, 7, 6], 1, 5),
        (&[19, 11, 13], 1, 3),
        (&[5, 17, 9], 1, 2),
        (&[9, 8, 7], 2, 4),
        (&[7, 6, 8], 3, 5),
        (&[7, 6, 5, 3], 1, 2),
    ];
    for (seed, (shape, patch_radius, block_radius)) in (0..).zip(cases) {
        for sigma_noise in [Some(11.3), None] {
            for noise_model in [NoiseModel::Rician, NoiseModel::Gaussian] {
                let nlm = Nlm {
                    noise_model,
                    sigma_noise,
                    patch_radius,
                    block_radius,
                    ..Nlm::default()
                };
                check(&nlm, &image(shape, Datatype::Float32, seed));
            }
        }
    }
}

#[test]
fn blockwise_shapes_and_radii() {
    let cases: [(&[usize], usize, usize); 7] = [
        (&[8, 7, 6], 1, 2),
        (&[37, 11, 13], 1, 2),
        (&[33, 8, 9], 1, 4),
        (&[5, 17, 9], 2, 1),
        (&[9, 8, 7], 3, 2),
        (&[2, 3, 4], 1, 1),
        (&[7, 6, 5, 3], 1, 2),
    ];
    for (seed, (shape, patch_radius, block_radius)) in (0..).zip(cases) {
        for sigma_noise in [Some(11.3), None] {
            for noise_model in [NoiseModel::Rician, NoiseModel::Gaussian] {
                let nlm = Nlm {
                    method: Method::NlmBlockwise,
                    noise_model,
                    sigma_noise,
                    patch_radius,
                    block_radius,
                };
                check(&nlm, &image(shape, Datatype::Float32, seed));
            }
        }
    }
}

#[test]
fn datatypes_and_slabs() {
    for method in [Method::Nlm, Method::NlmBlockwise] {
        let nlm = Nlm {
            block_radius: 2,
            ..Nlm::of(method)
        };
        for datatype in [Datatype::Uint8, Datatype::Int16, Datatype::Float64] {
            check(&nlm, &image(&[9, 10, 43], datatype, 5));
        }
        let mut scaled = image(&[9, 10, 11], Datatype::Int16, 5);
        scaled.scaling = Some(Scaling {
            slope: 0.37,
            intercept: -4.5,
        });
        check(&nlm, &scaled);
    }
}

/// From an image that is all equal to the noise, to weights that are subnormal or 0.
#[test]
fn every_size_of_noise() {
    for sigma in [1e-90, 0.3, 1.7, 2.1, 3.9, 5.0, 1e3, 1e60] {
        let nlm = Nlm {
            sigma_noise: Some(sigma),
            noise_model: NoiseModel::Gaussian,
            block_radius: 3,
            ..Nlm::default()
        };
        let mut volume = image(&[8, 9, 7], Datatype::Float32, 4);
        // Beside a voxel of 0 the smallest weights count.
        volume.voxels.as_mut_slice::<f32>()[..252].fill(0.0);
        check(&nlm, &volume);
        let method = Method::NlmBlockwise;
        check(&Nlm { method, ..nlm }, &volume);
    }
}

#[test]
fn what_cannot_be_denoised_is_refused() {
    let refusal = |nlm: Nlm, shape: &[usize], fill: Option<f32>| {
        let mut volume = image(shape, Datatype::Float32, 1);
        if let Some(value) = fill {
            volume.voxels.as_mut_slice::<f32>().fill(value);
        }
        match apply(
            &nlm,
            &SharedOptions::default(),
            &mut volume,
            &mut Scratch::default(),
        ) {
            Err(error @ FilterError::Parameter { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let default = Nlm::default();
    assert!(refusal(default, &[9, 5, 9], None).contains("9 × 5 × 9 voxels"));
    assert!(refusal(default, &[9, 9], None).contains("9 × 9 × 1 voxels"));
    assert!(refusal(default, &[9, 9, 9], Some(f32::NAN)).contains("--nan zero"));
    assert!(refusal(default, &[9, 9, 9, 2], Some(7.0)).contains("estimated as 0"));
    let faulty = [
        Nlm {
            patch_radius: 0,
            ..default
        },
        Nlm {
            patch_radius: 5,
            block_radius: 6,
            ..default
        },
        Nlm {
            patch_radius: 3,
            block_radius: 3,
            ..default
        },
        Nlm {
            block_radius: MAX_BLOCK_RADIUS + 1,
            ..default
        },
        Nlm {
            sigma_noise: Some(0.0),
            ..default
        },
        Nlm {
            sigma_noise: Some(f64::NAN),
            ..default
        },
    ];
    for nlm in faulty {
        assert!(
            nlm.validate().unwrap_err().to_string().contains("give a"),
            "{nlm:?}"
        );
    }
}

#[test]
fn promised_memory_is_enough() {
    for (shape, slab_bytes) in [([20, 13, 40], 1), ([15, 14, 12], 1 << 20), ([9, 6, 7], 1)] {
        for (sigma_noise, method) in [(None, Method::Nlm), (Some(3.0), Method::NlmBlockwise)] {
            let nlm = Nlm {
                method,
                sigma_noise,
                block_radius: 3,
                ..Nlm::default()
            };
            let mut volume = image(&shape, Datatype::Uint8, 2);
            let info = ImageInfo::of(&volume);
            let shared = SharedOptions::default();
            let prepared = nlm.prepare(&info, &shared).unwrap();
            let division = Division {
                slab_bytes,
                ..Division::WHOLE
            };
            let layout = super::super::Layout::of(prepared.as_ref(), &info, division);
            let mut scratch = Scratch::default();
            apply_divided(&nlm, &shared, &mut volume, &mut scratch, division);
            let held = volume.voxels.as_bytes().len() as u64
                + volume.spare.as_bytes().len() as u64
                + scratch.planes.held_bytes()
                + scratch.thread.held_bytes();
            assert!(held <= layout.bytes(), "{shape:?}: {held} of {}", layout.bytes());
        }
    }
}
