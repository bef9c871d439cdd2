//! Tests of the adaptive non-local means: compares every instruction set and number of threads with a
//! reference.

mod masks_and_samples;

use std::sync::Arc;

use super::super::kernels::bessel::{discrete_gaussian, i0, i1};
use super::super::kernels::exp32::exp32_of_nonpositive;
use super::super::kernels::simd::Isa;
use super::super::tests::{apply_divided_inside, copy};
use super::super::{
    Division, FilterError, Mask, OutputSpec, OutputType, Outside, Scratch, apply, apply_inside, apply_masked,
};
use super::*;
use crate::volume::Volume;

/// A 3-D volume, x fastest.
struct Plain {
    shape: [usize; 3],
    values: Vec<f32>,
}

impl Plain {
    fn places(&self) -> impl Iterator<Item = [isize; 3]> + use<> {
        let [nx, ny, nz] = self.shape.map(|len| len as isize);
        (0..nz).flat_map(move |z| (0..ny).flat_map(move |y| (0..nx).map(move |x| [x, y, z])))
    }

    fn index(&self, [x, y, z]: [isize; 3]) -> Option<usize> {
        let at = |at: isize, axis: usize| usize::try_from(at).ok().filter(|&at| at < self.shape[axis]);
        Some((at(z, 2)? * self.shape[1] + at(y, 1)?) * self.shape[0] + at(x, 0)?)
    }

    fn get(&self, place: [isize; 3]) -> Option<f32> {
        self.index(place).map(|index| self.values[index])
    }

    fn repeated(&self, place: [isize; 3]) -> f32 {
        let clamped = std::array::from_fn(|axis| place[axis].clamp(0, self.shape[axis] as isize - 1));
        self.values[self.index(clamped).unwrap()]
    }

    fn like(&self, values: Vec<f32>) -> Plain {
        let shape = self.shape;
        Plain { shape, values }
    }
}

fn cube(radius: [usize; 3]) -> Vec<[isize; 3]> {
    let [rx, ry, rz] = radius.map(|radius| radius as isize);
    (-rz..=rz)
        .flat_map(|z| (-ry..=ry).flat_map(move |y| (-rx..=rx).map(move |x| [x, y, z])))
        .collect()
}

fn add(a: [isize; 3], b: [isize; 3]) -> [isize; 3] {
    std::array::from_fn(|axis| a[axis] + b[axis])
}

/// Means and variances over the window around each voxel.
fn moments(image: &Plain, window: &[[isize; 3]]) -> (Vec<f32>, Vec<f32>) {
    let (mut means, mut variances) = (Vec::new(), Vec::new());
    let count = window.len() as f64;
    for place in image.places() {
        let (mut sum, mut squares) = (0.0f64, 0.0f64);
        for &offset in window {
            let value = f64::from(image.repeated(add(place, offset)));
            sum += value;
            squares += value * value;
        }
        means.push((sum / count) as f32);
        variances.push(((squares - (sum * sum) / count) / (count - 1.0)) as f32);
    }
    (means, variances)
}

/// The mean square of the details in the part of a patch inside the image.
fn energy(details: &Plain, middle: [isize; 3], patch: &[[isize; 3]]) -> f32 {
    let inside: Vec<f32> = patch
        .iter()
        .filter_map(|&n| details.get(add(middle, n)))
        .collect();
    inside.iter().fold(0.0, |sum, detail| sum + detail * detail) / inside.len() as f32
}

/// Intensities less their means.
fn details(image: &Plain, means: &[f32]) -> Plain {
    let values = image.values.iter().zip(means);
    image.like(values.map(|(value, mean)| value - mean).collect())
}

/// The mean squared difference of two patches, as far as both are inside.
fn distance(details: &Plain, [other, own]: [[isize; 3]; 2], patch: &[[isize; 3]]) -> f32 {
    let pairs = patch.iter().filter_map(|&n| {
        let (one, two) = (details.get(add(other, n))?, details.get(add(own, n))?);
        Some((one - two) * (one - two))
    });
    let (sum, inside) = pairs.fold((0.0f32, 0.0f32), |(sum, n), square| (sum + square, n + 1.0));
    sum / inside
}

/// The removed noise, computed voxel by voxel as in the filter's description.
fn noise(anlm: &Anlm, image: &Plain, axes: usize, spacing: [f64; 3], mask: Option<&[u8]>) -> Plain {
    let rician = anlm.noise_model == NoiseModel::Rician;
    let on_axes = |radii: [usize; 3]| std::array::from_fn(|axis| if axis < axes { radii[axis] } else { 0 });
    let (patch, search) = (
        cube(on_axes(anlm.patch_radius.xyz())),
        cube(on_axes(anlm.search_radius.xyz())),
    );
    let (means, variances) = moments(image, &cube(on_axes([1; 3])));
    let details = details(image, &means);
    let largest = image.values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sums, mut counts) = (vec![0.0f32; means.len()], vec![0.0f32; means.len()]);
    let mut energies = image.like(vec![0.0; means.len()]);
    let takes_part = |i: usize| image.values[i] > 0.0 && means[i] > 1e-5 && variances[i] > 1e-5;
    let is_inside = |i: usize| mask.is_none_or(|mask| mask[i] != 0);
    let between = |ratio: f32, low: f32| ratio > low && ratio < 1.0 / low;
    for place in image.places() {
        let own = image.index(place).unwrap();
        let is_centre = takes_part(own) && is_inside(own);
        let accepts = |other: usize| {
            let inverted = (largest - means[own]) / (largest - means[other]);
            (between(means[own] / means[other], 0.95) || between(inverted, 0.95))
                && between(variances[own] / variances[other], 0.5)
        };
        let others: Vec<_> = search
            .iter()
            .filter(|&&offset| is_centre && offset != [0; 3])
            .map(|&offset| add(place, offset))
            .filter(|&other| image.index(other).is_some_and(|i| takes_part(i) && accepts(i)))
            .collect();
        let smallest = others
            .iter()
            .map(|&other| energy(&details, other, &patch))
            .fold(f32::MAX, f32::min);
        let smallest = if smallest <= 1.19209e-8 { 1.0 } else { smallest };
        if rician && is_centre {
            for index in patch.iter().filter_map(|&n| image.index(add(place, n))) {
                energies.values[index] = if others.is_empty() { 0.0 } else { smallest };
            }
        }
        let value = |place: [isize; 3]| image.get(place).map(|v| if rician { v * v } else { v });
        let mut weighted = vec![0.0f32; patch.len()];
        let (mut weights, mut heaviest) = (0.0f32, 0.0f32);
        for &other in &others {
            let distance = distance(&details, [other, place], &patch);
            if distance <= 3.0 * smallest {
                let weight = exp32_of_nonpositive(-distance / smallest);
                (weights, heaviest) = (weights + weight, heaviest.max(weight));
                for (sum, &n) in weighted.iter_mut().zip(&patch) {
                    *sum += value(add(other, n)).map_or(0.0, |value| weight * value);
                }
            }
        }
        let own_weight = if heaviest <= 1.19209e-8 { 1.0 } else { heaviest };
        for (sum, &n) in weighted.iter().zip(&patch) {
            if let Some(index) = image.index(add(place, n)) {
                let estimate = (sum + own_weight * value(add(place, n)).unwrap()) / (weights + own_weight);
                sums[index] += estimate;
                counts[index] += 1.0;
            }
        }
    }
    let smoothed = smooth(&energies, axes, spacing);
    let left = (0..means.len()).map(|i| match (sums[i] / counts[i], rician) {
        (value, false) => image.values[i] - value,
        (value, true) => {
            let raw = energies.values[i];
            let bias = if is_inside(i) {
                bias(means[i], smoothed.values[i], raw)
            } else {
                raw
            };
            image.values[i] - (value - bias).max(0.0).sqrt()
        }
    });
    image.like(left.collect())
}

fn smooth(energies: &Plain, axes: usize, spacing: [f64; 3]) -> Plain {
    let mut smoothed = energies.like(energies.values.clone());
    for axis in (0..axes).rev() {
        let kernel = discrete_gaussian(2.0 / (spacing[axis] * spacing[axis]), 0.01, 32);
        let radius = (kernel.len() / 2) as isize;
        let values = smoothed.places().map(|place| {
            let around = (-radius..=radius).map(|step| {
                let mut other = place;
                other[axis] += step;
                f64::from(smoothed.repeated(other))
            });
            around
                .zip(&kernel)
                .fold(0.0, |sum, (value, weight)| sum + weight * value) as f32
        });
        smoothed = smoothed.like(values.collect());
    }
    smoothed
}

fn bias(mean: f32, smoothed: f32, raw: f32) -> f32 {
    if smoothed <= 0.0 {
        return raw;
    }
    let ratio = mean / smoothed.sqrt();
    let square = ratio * ratio;
    let decay = exp32_of_nonpositive(-0.5 * square);
    let argument = f64::from(0.25 * square).min(650.0);
    let sum = (2.0 + square) * i0(argument) as f32 + square * i1(argument) as f32;
    let factor = 2.0 + square - 0.125 * std::f32::consts::PI * decay * (sum * sum);
    let factor = if !(0.001..=10.0).contains(&factor) && !factor.is_nan() {
        1.0
    } else {
        factor
    };
    let bias = 2.0 * smoothed / factor;
    if bias.is_finite() { bias } else { 0.0 }
}

/// An image with edges, a gradient, noise, and a background of noise, zeros and a few negative voxels.
fn image(shape: &[usize], seed: u64, scale: f32) -> Volume {
    let mut volume = Volume::zeros(shape, Datatype::Float32);
    let [nx, ny, _] = volume.spatial_shape();
    let mut state = seed.wrapping_mul(2) + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    for (i, voxel) in volume.voxels.as_mut_slice::<f32>().iter_mut().enumerate() {
        let (x, y, z) = (i % nx, i / nx % ny, i / nx / ny);
        let signal = 100.0 + 3.0 * x as f32 + if (y + z) % 9 > 4 { 60.0 } else { 0.0 };
        let noise = 12.0 * (next() + next() + next() - 1.5);
        *voxel = match (x + 2 * y + z) % 23 {
            0 => 0.0,
            1 => -noise.abs(),
            2..5 => noise.abs(),
            _ => signal + noise,
        } * scale;
    }
    volume
}

/// The bits of floats.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn check(anlm: &Anlm, volume: &Volume) {
    check_inside(anlm, volume, None);
}

/// Compares what is left of a volume inside of a mask, and what the patches leave outside, with the
/// reference.
fn check_inside(anlm: &Anlm, volume: &Volume, mask: Option<&Arc<Mask>>) {
    let axes = volume.spatial_axes();
    let shape = volume.spatial_shape();
    let expected: Vec<f32> = volume
        .voxels
        .as_slice::<f32>()
        .chunks_exact(shape.iter().product())
        .flat_map(|values| {
            let values = values.to_vec();
            let image = Plain { shape, values };
            let mask = mask.map(|mask| mask.voxels());
            let noise = noise(anlm, &image, axes, volume.voxel_size_mm, mask);
            let left = image
                .values
                .iter()
                .zip(&noise.values)
                .map(|(value, noise)| value - noise);
            left.collect::<Vec<f32>>()
        })
        .collect();
    for isa in Isa::available() {
        let mut scratch = Scratch::default();
        scratch.thread.isa = isa;
        let check = |filtered: &Volume, how: &str| {
            assert_eq!(filtered.datatype, Datatype::Float32);
            let same = bits(filtered.voxels.as_slice()) == bits(&expected);
            assert!(same, "{isa:?}, {how}, {:?}, {anlm:?}", volume.shape);
        };
        let shared = SharedOptions::default();
        let mut filtered = copy(volume);
        apply_inside(anlm, &shared, &mut filtered, mask, &mut scratch).unwrap();
        check(&filtered, "whole");
        for threads in [1, 2, 3] {
            let mut divided = copy(volume);
            let division = Division {
                slab_bytes: 1,
                ..Division::among(threads, threads == 2)
            };
            apply_divided_inside(anlm, &shared, &mut divided, mask, &mut scratch, division);
            check(&divided, &format!("{threads} threads"));
        }
    }
}

fn each_model(check: impl Fn(NoiseModel)) {
    check(NoiseModel::Rician);
    check(NoiseModel::Gaussian);
}

#[test]
fn shapes_and_radii() {
    let cases: [(&[usize], PerAxis<usize>, PerAxis<usize>); 8] = [
        (&[12, 11, 10], PerAxis::All(1), PerAxis::All(2)),
        (&[37, 9, 5], PerAxis::All(1), PerAxis::All(3)),
        (&[5, 7, 6], PerAxis::All(2), PerAxis::All(2)),
        (&[3, 4, 5], PerAxis::All(2), PerAxis::All(3)),
        (&[16, 16, 1], PerAxis::All(1), PerAxis::All(2)),
        (&[21, 14], PerAxis::All(1), PerAxis::All(2)),
        (&[30, 8, 7], PerAxis::Each([1, 2, 1]), PerAxis::Each([2, 3, 1])),
        (&[10, 9, 4, 3], PerAxis::All(1), PerAxis::All(1)),
    ];
    for (seed, (shape, patch_radius, search_radius)) in (0..).zip(cases) {
        each_model(|noise_model| {
            let anlm = Anlm {
                noise_model,
                patch_radius,
                search_radius,
                ..Anlm::default()
            };
            check(&anlm, &image(shape, seed, 1.0));
        });
    }
}

#[test]
fn slabs_share_their_borders() {
    // Thick enough for several slabs of the smallest thickness.
    let cases = [
        ([19, 6, 61], 1, 1, 4.0),
        ([18, 5, 50], 2, 1, 2.0),
        ([6, 5, 70], 1, 2, 1.0),
    ];
    for (shape, patch, search, size_mm) in cases {
        each_model(|noise_model| {
            let anlm = Anlm {
                noise_model,
                patch_radius: PerAxis::All(patch),
                search_radius: PerAxis::All(search),
                ..Anlm::default()
            };
            check(&anlm, &image(&shape, 7, 1.0).with_voxel_size_mm([size_mm; 3]));
        });
    }
}

/// A mask of lumps, about half of a 3-D volume.
fn lumps(volume: &Volume) -> Arc<Mask> {
    let [nx, ny, nz] = volume.spatial_shape();
    let mut values = Volume::zeros(&[nx, ny, nz], Datatype::Float32);
    for (i, value) in values.voxels.as_mut_slice::<f32>().iter_mut().enumerate() {
        let (x, y, z) = (i % nx, i / nx % ny, i / nx / ny);
        *value = (x as f32 * 0.7).sin() + (y as f32 * 0.9).cos() * ((z + x) as f32 * 0.5).sin();
    }
    Arc::new(Mask::above_zero(&values).unwrap())
}

#[test]
fn scales_and_constants() {
    for scale in [1e6, 1e-4, 1e-7, 0.0] {
        each_model(|noise_model| {
            let anlm = Anlm {
                noise_model,
                ..Anlm::default()
            };
            check(&anlm, &image(&[17, 9, 8], 3, scale));
        });
    }
    let mut constant = image(&[17, 9, 8], 3, 1.0);
    constant.voxels.as_mut_slice::<f32>().fill(5.0);
    check(&Anlm::default(), &constant);
}

#[test]
fn whole_numbers_are_rounded_once() {
    let source = image(&[12, 11, 10], 9, 1.0);
    let run = |output_type| {
        let mut volume = copy(&source);
        let shared = SharedOptions {
            output: OutputSpec {
                output_type,
                ..OutputSpec::default()
            },
            ..SharedOptions::default()
        };
        apply(&Anlm::default(), &shared, &mut volume, &mut Scratch::default()).unwrap();
        volume
    };
    let (single, short) = (run(OutputType::Same), run(OutputType::As(Datatype::Int16)));
    let single = single.voxels.as_slice::<f32>();
    for (one, &other) in single.iter().zip(short.voxels.as_slice::<i16>()) {
        assert_eq!(one.round_ties_even() as i16, other);
    }
}

#[test]
fn what_cannot_be_denoised_is_refused() {
    let refusal = |value: f32, nan: NonFinite| {
        let mut volume = image(&[8, 7, 6], 1, 1.0);
        volume.voxels.as_mut_slice::<f32>()[99] = value;
        let shared = SharedOptions {
            nan,
            ..SharedOptions::default()
        };
        match apply(&Anlm::default(), &shared, &mut volume, &mut Scratch::default()) {
            Err(FilterError::Parameter { cause, .. }) => cause,
            other => panic!("{other:?}"),
        }
    };
    assert!(refusal(f32::NAN, NonFinite::Propagate).contains("--nan zero"));
    assert!(refusal(f32::INFINITY, NonFinite::Ignore).contains("--nan zero"));
    assert!(refusal(1e18, NonFinite::Propagate).contains("1e18"));
    // Patches of voxels inside reach those outside.
    let mut volume = image(&[8, 7, 6], 1, 1.0);
    let mask = lumps(&volume);
    let outside = mask.voxels().iter().position(|&inside| inside == 0).unwrap();
    volume.voxels.as_mut_slice::<f32>()[outside] = f32::NAN;
    let shared = SharedOptions::default();
    let refused = apply_masked(
        &Anlm::default(),
        &shared,
        &mut volume,
        &mask,
        &mut Scratch::default(),
    );
    assert!(refused.unwrap_err().to_string().contains("--nan zero"));
    for radius in [0, MAX_PATCH_RADIUS + 1] {
        let anlm = Anlm {
            patch_radius: PerAxis::Each([1, radius, 1]),
            ..Anlm::default()
        };
        assert!(anlm.validate().unwrap_err().to_string().contains("from 1 to 4"));
    }
}

#[test]
fn promised_memory_is_enough() {
    for (shape, slab_bytes) in [([40, 30, 60], 1), ([50, 40, 12], 1 << 20), ([5, 4, 3], 1)] {
        for (patch, search) in [(1, 2), (2, 1)] {
            let anlm = Anlm {
                patch_radius: PerAxis::All(patch),
                search_radius: PerAxis::All(search),
                ..Anlm::default()
            };
            let mut volume = image(&shape, 2, 1.0);
            let mask = lumps(&volume);
            let info = ImageInfo {
                mask_voxels: Some(volume.len() as u64),
                ..ImageInfo::of(&volume)
            };
            let prepared = anlm.prepare(&info, &SharedOptions::default()).unwrap();
            let division = Division {
                slab_bytes,
                ..Division::WHOLE
            };
            let layout = super::super::Layout::of(prepared.as_ref(), &info, division);
            let mut scratch = Scratch::default();
            let shared = SharedOptions::default();
            apply_divided_inside(&anlm, &shared, &mut volume, Some(&mask), &mut scratch, division);
            let held = volume.voxels.as_bytes().len() as u64
                + volume.spare.as_bytes().len() as u64
                + mask.voxels().len() as u64
                + scratch.planes.held_bytes()
                + scratch.thread.held_bytes();
            assert!(held <= layout.bytes(), "{shape:?}: {held} of {}", layout.bytes());
        }
    }
}
