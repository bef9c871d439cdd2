//! Times reading and writing of images, and the codec at each level, on MRI-like voxels of 4 MB.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use niimpi::image_io::{CompressionLevel, Header, Image, ImageReader, ImageWriter, Version};
use niimpi::volume::Datatype;

const SHAPE: [usize; 3] = [128, 128, 128];

/// A bright ball on a dark background, with noise like a scanner's.
fn ball(datatype: Datatype) -> Image {
    let mut image = Image {
        header: Header::new(Version::Nifti1, &SHAPE, datatype, [1.0; 3]),
        ..Image::default()
    };
    image.volume.shape = SHAPE.to_vec();
    image.volume.datatype = datatype;
    image
        .volume
        .voxels
        .resize_for_overwrite(SHAPE.iter().product::<usize>() * datatype.size_bytes());
    let mut state = 1_u32;
    let intensities = (0..SHAPE.iter().product::<usize>()).map(|index| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 27) as f32;
        let at = [index % 128, index / 128 % 128, index / 16384].map(|x| x as f32 / 64.0 - 1.0);
        let radius = at.iter().map(|x| x * x).sum::<f32>().sqrt();
        if radius < 0.8 {
            400.0 + 100.0 * (9.0 * at[0]).sin() * (7.0 * at[1]).cos() + noise
        } else {
            noise / 4.0
        }
    });
    match datatype {
        Datatype::Int16 => {
            let voxels = image.volume.voxels.as_mut_slice::<i16>();
            voxels
                .iter_mut()
                .zip(intensities)
                .for_each(|(voxel, intensity)| *voxel = intensity as i16);
        }
        Datatype::Float32 => {
            let voxels = image.volume.voxels.as_mut_slice::<f32>();
            voxels
                .iter_mut()
                .zip(intensities)
                .for_each(|(voxel, intensity)| *voxel = intensity);
        }
        other => unreachable!("{other} is not benchmarked"),
    }
    image
}

fn codec(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for datatype in [Datatype::Int16, Datatype::Float32] {
        let image = ball(datatype);
        let bytes = image.volume.voxels.as_bytes().len() as u64;
        let mut group = criterion.benchmark_group(format!("{datatype}"));
        group.throughput(Throughput::Bytes(bytes)).sample_size(20);
        for level in [0, 1, 2, 3, 6] {
            let level_given = CompressionLevel::new(level).expect("0 to 9");
            let mut writer = ImageWriter::new().compression(level_given).sync(false);
            let path = folder.path().join(format!("{datatype}_{level}.nii.gz"));
            group.bench_function(BenchmarkId::new("write", level), |bencher| {
                bencher.iter(|| writer.write(&path, &image).expect("an image to be written"));
            });
        }
        let (mut reader, mut writer) = (ImageReader::new(), ImageWriter::new().sync(false));
        let mut target = Image::default();
        for (name, path) in [("gzip", "_1.nii.gz"), ("plain", ".nii")] {
            let path = folder.path().join(format!("{datatype}{path}"));
            writer.write(&path, &image).expect("an image to be written");
            group.bench_function(BenchmarkId::new("read", name), |bencher| {
                bencher.iter(|| reader.read(&path, &mut target).expect("an image to be read"));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
