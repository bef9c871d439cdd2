//! Times an image from file to file: read, smoothed with a sigma of 2 voxels and written, with one and two
//! threads.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use niimpi::filter::OutputSpec;
use niimpi::filter::gaussian::Gaussian;
use niimpi::image_io::{CompressionLevel, Header, Image, ImageWriter, Version};
use niimpi::job::outcome::Outcome;
use niimpi::job::{ImageJob, ImageWorker};
use niimpi::volume::Datatype;

/// A ramp with noise in its low bits.
fn image(shape: &[usize; 3], datatype: Datatype) -> Image {
    let mut image = Image {
        header: Header::new(Version::Nifti1, shape, datatype, [1.0; 3]),
        ..Image::default()
    };
    let voxels: usize = shape.iter().product();
    let volume = &mut image.volume;
    volume.shape = shape.to_vec();
    volume.datatype = datatype;
    volume.voxels.resize_for_overwrite(voxels * datatype.size_bytes());
    let mut state = 1_u32;
    let intensities = (0..voxels).map(|voxel| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (voxel % shape[0]) as u32 / 4 + (state >> 28)
    });
    macro_rules! fill {
        ($type:ty) => {
            volume
                .voxels
                .as_mut_slice::<$type>()
                .iter_mut()
                .zip(intensities)
                .for_each(|(voxel, intensity)| *voxel = intensity as $type)
        };
    }
    match datatype {
        Datatype::Uint8 => fill!(u8),
        Datatype::Int16 => fill!(i16),
        _ => fill!(f32),
    }
    image
}

fn whole_image(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (input, output) = (folder.path().join("in.nii.gz"), folder.path().join("out.nii.gz"));
    let job = ImageJob {
        nan: niimpi::filter::nonfinite::NonFinite::default(),
        mask: None,
        filter: Gaussian::from_sigma_vox(2.0).into(),
        output: OutputSpec::default(),
        compression: CompressionLevel::default(),
        sync: false,
        qc: false,
    };
    let mut group = criterion.benchmark_group("whole image");
    group.sample_size(20);
    for (shape, datatype) in [
        ([91, 109, 91], Datatype::Uint8),
        ([197, 233, 189], Datatype::Int16),
        ([197, 233, 189], Datatype::Float32),
    ] {
        let image = image(&shape, datatype);
        ImageWriter::new()
            .sync(false)
            .write(&input, &image)
            .expect("an image to be written");
        group.throughput(Throughput::Elements(shape.iter().product::<usize>() as u64));
        for threads in [1, 2] {
            let mut worker = ImageWorker::with_threads(&job, threads);
            let name = format!("{}x{}x{} {datatype}", shape[0], shape[1], shape[2]);
            group.bench_function(BenchmarkId::new(name, threads), |bencher| {
                bencher.iter(|| {
                    worker
                        .process(&input, &output, &mut Outcome::default())
                        .expect("an image to be smoothed")
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, whole_image);
criterion_main!(benches);
