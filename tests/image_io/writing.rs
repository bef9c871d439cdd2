//! Tests of writing: header and extensions are kept, gzip files have one member, files are complete or
//! absent.

use std::fs;
use std::io::Read;

use flate2::read::{GzDecoder, MultiGzDecoder};
use nifti::{NiftiObject, NiftiVolume, ReaderOptions};
use niimpi::image_io::{Cause, CompressionLevel, Crc32, Header, Image, ImageReader, ImageWriter, Version};
use niimpi::volume::{Datatype, Scaling};

use crate::fixture::{Bench, Nifti, noise};

fn at_level(level: u8) -> ImageWriter {
    let level = CompressionLevel::new(level).unwrap();
    ImageWriter::new().compression(level).sync(false)
}

fn content(path: &std::path::Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes;
    }
    let (mut one, mut all) = (Vec::new(), Vec::new());
    GzDecoder::new(&bytes[..]).read_to_end(&mut one).unwrap();
    MultiGzDecoder::new(&bytes[..]).read_to_end(&mut all).unwrap();
    assert!(one == all, "more than one member");
    assert_eq!(bytes[3..8], [0; 5], "a name or a time");
    one
}

#[test]
fn headers_are_kept_byte_for_byte_and_become_little_endian() {
    let mut bench = Bench::new();
    for two in [false, true] {
        for datatype in Datatype::ALL {
            let mut little = Nifti::of(datatype, &[5, 4, 3, 2]);
            if two {
                little = little.two();
            }
            let original = little.file();
            for (nifti, output) in [
                (little.clone(), "o.nii"),
                (little.clone().big(), "o.nii"),
                (little.clone().big(), "o.nii.gz"),
            ] {
                bench.read("a.nii", &nifti.file()).unwrap();
                let path = bench.path(output);
                let files = bench.writer.write(&path, &bench.image).unwrap();
                let mut written = content(&path);
                assert_eq!(files[0].raw_bytes, written.len() as u64);
                assert_eq!(files[0].bytes, fs::metadata(&path).unwrap().len());
                assert_eq!(files[0].crc32, Some(Crc32(crc32fast::hash(&written))));
                // slope 1, intercept 0
                if two {
                    assert_eq!(
                        written[176..192],
                        [1.0_f64.to_le_bytes(), 0.0_f64.to_le_bytes()].concat()
                    );
                } else {
                    assert_eq!(
                        written[112..120],
                        [1.0_f32.to_le_bytes(), 0.0_f32.to_le_bytes()].concat()
                    );
                }
                // Only vox_offset, slope and intercept may have changed.
                let changing = if two { 168..192 } else { 108..120 };
                written[changing.clone()].copy_from_slice(&original[changing]);
                assert!(written == original, "{datatype} {output} {two}");
            }
        }
    }
}

#[test]
fn the_nifti_crate_reads_every_output() {
    let mut bench = Bench::new();
    for datatype in Datatype::ALL {
        let nifti = Nifti::of(datatype, &[5, 4, 3]);
        bench.read("a.nii.gz", &nifti.file()).unwrap();
        for level in 0..=9 {
            bench.writer = at_level(level);
            for name in ["o.nii", "o.nii.gz", "p.hdr", "q.hdr.gz"] {
                let path = bench.path(name);
                bench.writer.write(&path, &bench.image).unwrap();
                let object = ReaderOptions::new().read_file(&path).unwrap();
                assert_eq!(object.header().datatype, datatype.code());
                assert_eq!(object.header().pixdim[1..4], [2.0, 2.5, 3.0]);
                assert_eq!(object.header().sform_code, 2);
                let volume = object.into_volume();
                assert_eq!(volume.dim(), [5, 4, 3]);
                assert_eq!(volume.raw_data(), nifti.voxels, "{datatype} {level} {name}");
            }
        }
    }
}

#[test]
fn every_layout_reads_back() {
    let mut bench = Bench::new();
    let content = vec![5; 20];
    for two in [false, true] {
        let base = Nifti {
            extensions: vec![(4, content.clone())],
            ..Nifti::of(Datatype::Int32, &[7, 5, 3])
        };
        let base = if two {
            Nifti {
                vox_offset: 592.0,
                two,
                ..base
            }
        } else {
            Nifti {
                vox_offset: 400.0,
                ..base
            }
        };
        bench.read("a.nii", &base.file()).unwrap();
        let expected = bench.image.header.extensions().to_vec();
        assert_eq!(expected.len(), 28);
        for name in [
            "o.nii",
            "o.nii.gz",
            "p.hdr",
            "P.IMG",
            "q.img.gz",
            "caf\u{e9}.a.b.nii.gz",
        ] {
            let path = bench.path(name);
            bench.writer.write(&path, &bench.image).unwrap();
            let mut again = Image::default();
            bench.reader.read(&path, &mut again).unwrap();
            assert_eq!(again.volume.voxels.as_bytes(), base.voxels, "{name}");
            assert_eq!(again.header.extensions(), expected);
            assert_eq!(
                again.header.version(),
                if two { Version::Nifti2 } else { Version::Nifti1 }
            );
            if name.starts_with("o.") {
                let written = self::content(&path);
                assert_eq!((written.len() - base.voxels.len()) % 16, 0);
            }
        }
    }
}

#[test]
fn type_scaling_and_shape_follow_the_volume() {
    let mut bench = Bench::new();
    bench
        .read(
            "a.nii",
            &Nifti {
                slope: 2.0,
                inter: 1.0,
                ..Nifti::small()
            }
            .file(),
        )
        .unwrap();
    let volume = &mut bench.image.volume;
    volume.datatype = Datatype::Float32;
    volume.scaling = None;
    volume.voxels.resize_for_overwrite(24 * 4);
    volume.voxels.as_mut_slice::<f32>().fill(1.25);
    let path = bench.path("o.nii.gz");
    bench.writer.write(&path, &bench.image).unwrap();
    bench.read_path(&path).unwrap();
    assert_eq!(bench.image.volume.datatype, Datatype::Float32);
    assert_eq!(bench.image.volume.scaling, None);
    assert_eq!(bench.image.volume.voxels.as_slice::<f32>(), [1.25; 24]);

    bench.image.volume.scaling = Some(Scaling {
        slope: 0.5,
        intercept: 3.0,
    });
    bench.image.volume.shape = vec![6, 4];
    bench.writer.write(&path, &bench.image).unwrap();
    bench.read_path(&path).unwrap();
    assert_eq!(
        bench.image.volume.scaling,
        Some(Scaling {
            slope: 0.5,
            intercept: 3.0
        })
    );
    assert_eq!(bench.image.volume.shape, [6, 4]);
}

#[test]
fn headers_from_nothing() {
    let mut bench = Bench::new();
    for version in [Version::Nifti1, Version::Nifti2] {
        bench.image.header = Header::new(version, &[3, 4, 5], Datatype::Int16, [1.0, 1.5, 2.0]);
        let volume = &mut bench.image.volume;
        (volume.shape, volume.datatype) = (vec![3, 4, 5], Datatype::Int16);
        volume.voxels.resize_for_overwrite(120);
        let path = bench.path("o.nii.gz");
        bench.writer.write(&path, &bench.image).unwrap();
        bench.read_path(&path).unwrap();
        assert_eq!(bench.image.volume.voxel_size_mm, [1.0, 1.5, 2.0]);
        assert_eq!(bench.image.header.voxel_size_disagreement(), None);
        assert_eq!(bench.image.header.shape(), [3, 4, 5]);
        if version == Version::Nifti1 {
            let header = ReaderOptions::new().read_file(&path).unwrap().header().clone();
            assert_eq!(
                (header.sform_code, header.srow_y[1], header.xyzt_units),
                (1, 1.5, 10)
            );
        }
    }
}

/// Noise on a ramp, larger than a chunk: 1.2 MB.
fn noisy(bench: &mut Bench) {
    let mut nifti = Nifti::of(Datatype::Int16, &[96, 96, 64]);
    for (index, voxel) in nifti.voxels.chunks_exact_mut(2).enumerate() {
        voxel.copy_from_slice(&((index / 300) as i16).to_le_bytes());
    }
    noise(&mut nifti.voxels);
    bench.read("noisy.nii", &nifti.file()).unwrap();
}

#[test]
fn bytes_do_not_depend_on_what_came_before() {
    let mut bench = Bench::new();
    noisy(&mut bench);
    for level in 0..=9 {
        let (fresh, used) = (bench.path("fresh.nii.gz"), bench.path("used.nii.gz"));
        at_level(level).write(&fresh, &bench.image).unwrap();
        let mut writer = at_level(level);
        let mut other = Image::default();
        let small = bench.put("small.nii", &Nifti::small().file());
        bench.reader.read(&small, &mut other).unwrap();
        writer.write(&used, &other).unwrap();
        for _ in 0..2 {
            writer.write(&used, &bench.image).unwrap();
            assert!(
                fs::read(&fresh).unwrap() == fs::read(&used).unwrap(),
                "level {level}"
            );
        }
        assert!(
            content(&fresh)[352..] == *bench.image.volume.voxels.as_bytes(),
            "level {level}"
        );
        bench.reader.read(&fresh, &mut other).unwrap();
        assert!(
            other.volume.voxels.as_bytes() == bench.image.volume.voxels.as_bytes(),
            "level {level}"
        );
    }
}

#[test]
fn sizes_by_level() {
    let mut bench = Bench::new();
    noisy(&mut bench);
    let raw = fs::read(bench.path("noisy.nii")).unwrap();
    let size = |bench: &Bench, level: u8| {
        let path = bench.path("sized.nii.gz");
        at_level(level).write(&path, &bench.image).unwrap()[0].bytes as f64
    };
    let stored = size(&bench, 0);
    assert!(stored >= raw.len() as f64 && stored < raw.len() as f64 * 1.001);
    assert!(size(&bench, 1) < 0.6 * stored);
    assert!(size(&bench, 9) <= size(&bench, 1) * 1.001);
}

#[test]
fn nothing_remains_of_a_failed_write() {
    let mut bench = Bench::new();
    bench.read("a.nii", &Nifti::small().file()).unwrap();
    let path = bench.path("none/o.nii.gz");
    let error = bench.writer.write(&path, &bench.image).unwrap_err();
    assert!(matches!(error.cause, Cause::FolderMissing { .. }));
    assert!(
        error
            .to_string()
            .ends_with("none does not exist; create it first"),
        "{error}"
    );

    // A folder has the name of the file.
    let path = bench.path("taken.nii");
    fs::create_dir(&path).unwrap();
    assert!(bench.writer.write(&path, &bench.image).is_err());

    // A pair: the header is written last, so a failure of the .img leaves no header.
    let path = bench.path("half.hdr");
    fs::create_dir(bench.path("half.img")).unwrap();
    assert!(bench.writer.write(&path, &bench.image).is_err());

    let error = bench
        .writer
        .write(&bench.path("o.mgz"), &bench.image)
        .unwrap_err();
    assert!(matches!(error.cause, Cause::UnknownSuffix));
    assert_eq!(bench.names(), ["a.nii", "half.img", "taken.nii"]);

    bench.image.volume.shape = vec![5, 5, 5];
    let error = bench
        .writer
        .write(&bench.path("o.nii"), &bench.image)
        .unwrap_err();
    assert!(
        matches!(
            error.cause,
            Cause::Inconsistent {
                found: 24,
                needed: 125
            }
        ),
        "{error}"
    );
}

#[test]
fn axes_too_long_for_nifti_1() {
    let mut bench = Bench::new();
    bench.read("a.nii", &Nifti::small().file()).unwrap();
    bench.image.volume.shape = vec![2, 40_000];
    bench.image.volume.voxels.resize_for_overwrite(80_000);
    let error = bench
        .writer
        .write(&bench.path("o.nii"), &bench.image)
        .unwrap_err();
    assert!(matches!(
        error.cause,
        Cause::TooLongForNifti1 {
            axis: 2,
            length: 40_000
        }
    ));
    bench.image.header = Header::new(Version::Nifti2, &[2, 40_000], Datatype::Uint8, [1.0; 3]);
    let path = bench.path("o.nii");
    bench.writer.write(&path, &bench.image).unwrap();
    bench.read_path(&path).unwrap();
    assert_eq!(bench.image.volume.shape, [2, 40_000]);
}

#[cfg(unix)]
#[test]
fn files_get_the_usual_permissions_and_replace_others() {
    use std::os::unix::fs::PermissionsExt;
    let mut bench = Bench::new();
    bench.read("a.nii", &Nifti::small().file()).unwrap();
    let usual = fs::metadata(bench.path("a.nii")).unwrap().permissions().mode();
    let path = bench.put("o.nii", b"old");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    bench.writer.write(&path, &bench.image).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode(), usual);
    assert_eq!(bench.names(), ["a.nii", "o.nii"]);
}

/// A worker moves its reader, writer and image into its thread.
#[test]
fn readers_and_writers_move_to_their_threads() {
    fn movable<T: Send>() {}
    movable::<ImageReader>();
    movable::<ImageWriter>();
    movable::<Image>();
}
