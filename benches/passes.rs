//! Times the filter alone: shape × sigma × number type, one thread.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use niimpi::filter::gaussian::Gaussian;
use niimpi::filter::{Scratch, SharedOptions, apply};
use niimpi::volume::{Datatype, Volume};

/// A head-like ball of noise in an empty field of view.
fn phantom(shape: [usize; 3], datatype: Datatype) -> Volume {
    let mut volume = Volume::zeros(&shape, datatype);
    let mut state = 1u64;
    let mut intensity = |i: usize| {
        let position = [i % shape[0], i / shape[0] % shape[1], i / shape[0] / shape[1]];
        let radius2: f64 = (0..3)
            .map(|axis| (position[axis] as f64 * 2.0 / shape[axis] as f64 - 1.0).powi(2))
            .sum();
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        if radius2 < 0.7 {
            50.0 + (state >> 57) as f64
        } else {
            0.0
        }
    };
    macro_rules! fill {
        ($type:ty) => {
            volume
                .voxels
                .as_mut_slice::<$type>()
                .iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = intensity(i) as $type)
        };
    }
    match datatype {
        Datatype::Uint8 => fill!(u8),
        Datatype::Int16 => fill!(i16),
        Datatype::Float32 => fill!(f32),
        Datatype::Float64 => fill!(f64),
        other => unreachable!("the types below are the benchmarked ones, not {other}"),
    }
    volume
}

fn passes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("smooth");
    group.sample_size(20);
    for shape in [[91, 109, 91], [197, 233, 189]] {
        for datatype in [
            Datatype::Uint8,
            Datatype::Int16,
            Datatype::Float32,
            Datatype::Float64,
        ] {
            for sigma in [1.0, 2.0, 8.0] {
                let filter = Gaussian::from_sigma_vox(sigma);
                let output = SharedOptions::default();
                let mut scratch = Scratch::default();
                let original = phantom(shape, datatype);
                let mut volume = phantom(shape, datatype);
                group.throughput(Throughput::Elements(volume.len() as u64));
                let name = format!("{}x{}x{}/{datatype}", shape[0], shape[1], shape[2]);
                group.bench_function(BenchmarkId::new(name, sigma), |bencher| {
                    bencher.iter(|| {
                        // The copy takes a few per cent of the time. Without it, repeated smoothing would
                        // flatten the image.
                        volume
                            .voxels
                            .as_bytes_mut()
                            .copy_from_slice(original.voxels.as_bytes());
                        apply(&filter, &output, black_box(&mut volume), &mut scratch)
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, passes);
criterion_main!(benches);
