//! Tests of the phantom: bytes pinned by checksum, tissues, noise.

use ndarray::s;

use super::*;

/// FNV-1a over the voxels' bytes.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

fn filled(phantom: &Phantom, index: u64) -> Volume {
    let mut volume = Volume::default();
    phantom.fill(index, &mut volume);
    volume
}

fn as_f64(phantom: &Phantom, index: u64) -> Vec<f64> {
    let phantom = Phantom {
        datatype: Datatype::Float64,
        ..phantom.clone()
    };
    filled(&phantom, index).voxels.as_slice::<f64>().to_vec()
}

#[test]
fn bytes_are_those_of_every_other_machine() {
    let small = Phantom {
        shape: [31, 37, 29],
        ..Phantom::default()
    };
    let sums: Vec<(Datatype, u64)> = Datatype::ALL
        .map(|datatype| {
            (
                datatype,
                checksum(
                    filled(
                        &Phantom {
                            datatype,
                            ..small.clone()
                        },
                        7,
                    )
                    .voxels
                    .as_bytes(),
                ),
            )
        })
        .to_vec();
    let stored: Vec<(Datatype, u64)> = Datatype::ALL.into_iter().zip(STORED_SUMS).collect();
    assert_eq!(
        sums,
        stored,
        "sums now: {:#x?}",
        sums.iter().map(|(_, sum)| sum).collect::<Vec<_>>()
    );
    assert_eq!(
        checksum(filled(&Phantom::default(), 1).voxels.as_bytes()),
        STORED_DEFAULT_SUM
    );
}

#[test]
fn an_image_does_not_depend_on_what_the_volume_held_before() {
    let phantom = Phantom {
        shape: [20, 22, 18],
        ..Phantom::default()
    };
    let mut volume = filled(
        &Phantom {
            shape: [30, 30, 30],
            datatype: Datatype::Float64,
            ..phantom.clone()
        },
        5,
    );
    phantom.fill(2, &mut volume);
    assert_eq!(volume.voxels.as_bytes(), filled(&phantom, 2).voxels.as_bytes());
    assert_eq!(
        (volume.shape.as_slice(), volume.datatype),
        (&[20, 22, 18][..], Datatype::Uint8)
    );
    assert_eq!(volume.len(), volume.voxels.as_bytes().len());
}

#[test]
fn images_and_seeds_differ_in_noise_and_in_anatomy() {
    for noise in [0.0, 0.05] {
        let phantom = Phantom {
            shape: [45, 54, 45],
            noise,
            ..Phantom::default()
        };
        let first = filled(&phantom, 1);
        let other_index = filled(&phantom, 2);
        let other_seed = filled(
            &Phantom {
                seed: 2,
                ..phantom.clone()
            },
            1,
        );
        assert_ne!(first.voxels.as_bytes(), other_index.voxels.as_bytes());
        assert_ne!(first.voxels.as_bytes(), other_seed.voxels.as_bytes());
    }
}

/// The corner of the field of view lies outside every head: there the magnitude is Rayleigh distributed, with
/// mean σ·√(π/2) and standard deviation σ·√(2 − π/2).
#[test]
fn background_is_rayleigh_noise() {
    let phantom = Phantom {
        datatype: Datatype::Float64,
        ..Phantom::default()
    };
    let mut volume = filled(&phantom, 3);
    let corner: Vec<f64> = array(&mut volume)
        .slice(s![..10, ..10, ..])
        .iter()
        .copied()
        .collect();
    let (mean, deviation) = moments(&corner);
    let sigma = phantom.noise * white_matter(Datatype::Float64);
    let pi = std::f64::consts::PI;
    assert!(
        (mean / (sigma * (pi / 2.0).sqrt()) - 1.0).abs() < 0.02,
        "mean {mean}"
    );
    assert!(
        (deviation / (sigma * (2.0 - pi / 2.0).sqrt()) - 1.0).abs() < 0.02,
        "deviation {deviation}"
    );
}

/// Where the signal is strong the noise is normal with the σ asked for, so SNR in white matter is 1 / noise.
#[test]
fn white_matter_has_the_signal_to_noise_ratio_asked_for() {
    for noise in [0.02, 0.05] {
        let phantom = Phantom {
            noise,
            ..Phantom::default()
        };
        let clean = as_f64(
            &Phantom {
                noise: 0.0,
                ..phantom.clone()
            },
            4,
        );
        let noisy = as_f64(&phantom, 4);
        let scale = white_matter(Datatype::Float64);
        let difference: Vec<f64> = clean
            .iter()
            .zip(&noisy)
            .filter(|(s, _)| **s > 0.85 * scale)
            .map(|(s, v)| v - s)
            .collect();
        assert!(difference.len() > 50_000, "{} voxels", difference.len());
        let (mean, deviation) = moments(&difference);
        assert!(
            (scale / deviation * noise - 1.0).abs() < 0.02,
            "SNR {} at noise {noise}",
            scale / deviation
        );
        // A magnitude is biased upwards by about σ²/(2s).
        assert!(mean > 0.0 && mean < noise * noise * scale, "bias {mean}");
    }
}

#[test]
fn a_clean_head_has_every_tissue_within_the_type_range() {
    for datatype in [Datatype::Uint8, Datatype::Int8] {
        let volume = filled(
            &Phantom {
                datatype,
                noise: 0.0,
                ..Phantom::default()
            },
            1,
        );
        let highest = *volume.voxels.as_bytes().iter().max().unwrap();
        let limit = if datatype == Datatype::Int8 { 127 } else { 255 };
        assert!(f64::from(highest) < 0.9 * f64::from(limit), "{highest}");
    }
    let clean = as_f64(
        &Phantom {
            noise: 0.0,
            ..Phantom::default()
        },
        1,
    );
    let share = |from: f64, to: f64| {
        clean
            .iter()
            .filter(|&&v| v > from * 1000.0 && v < to * 1000.0)
            .count() as f64
            / clean.len() as f64
    };
    let background = clean.iter().filter(|&&v| v == 0.0).count() as f64 / clean.len() as f64;
    assert!((0.55..0.75).contains(&background), "background {background}");
    assert!(
        (0.05..0.20).contains(&share(0.85, 1.06)),
        "white and some fat {}",
        share(0.85, 1.06)
    );
    assert!(
        (0.03..0.15).contains(&share(0.6, 0.76)),
        "grey {}",
        share(0.6, 0.76)
    );
}

#[test]
fn axes_of_one_voxel_are_drawn() {
    for shape in [[1, 1, 1], [1, 40, 40], [40, 1, 40], [40, 40, 1], [3, 2, 1]] {
        let volume = filled(
            &Phantom {
                shape,
                ..Phantom::default()
            },
            1,
        );
        assert_eq!(volume.len(), shape.iter().product::<usize>());
    }
}

#[test]
fn a_wave_is_like_a_sine() {
    for i in -40..40 {
        let x = f64::from(i) / 8.0;
        assert!((wave(x) - (std::f64::consts::PI * x).sin()).abs() < 0.07, "{x}");
    }
}

fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum::<f64>()
        / n;
    (mean, variance.sqrt())
}

const STORED_DEFAULT_SUM: u64 = 0x3d4a_e30d_942a_da08;
const STORED_SUMS: [u64; 10] = [
    0xf8c6_676f_b4fb_1859,
    0x65ef_6161_887c_c54d,
    0x2240_39ae_8789_ff1a,
    0x2240_39ae_8789_ff1a,
    0x4624_4df8_34f5_ed0a,
    0x4624_4df8_34f5_ed0a,
    0x396f_f61d_f0d3_f8ea,
    0x396f_f61d_f0d3_f8ea,
    0xd8f6_fb27_a372_4b4c,
    0x5473_fd3b_decf_f8f6,
];
