//! One image on several threads: the same file as with one thread, and no file if the image fails.

use std::fs;
use std::path::{Path, PathBuf};

use niimpi::filter::gaussian::Gaussian;
use niimpi::filter::{OutputSpec, OutputType, Rounding};
use niimpi::image_io::{CompressionLevel, Header, Image, ImageWriter, Version};
use niimpi::job::outcome::{FailureKind, Outcome};
use niimpi::job::{ImageJob, ImageWorker};
use niimpi::report::Stage;
use niimpi::volume::{Datatype, Scaling};

fn job(sigma_vox: f64, output: OutputSpec) -> ImageJob {
    ImageJob {
        nan: niimpi::filter::nonfinite::NonFinite::default(),
        mask: None,
        filter: Gaussian::from_sigma_vox(sigma_vox).into(),
        output,
        compression: CompressionLevel::default(),
        sync: false,
        qc: false,
    }
}

/// Writes an image of noise.
fn input(folder: &Path, name: &str, shape: &[usize], datatype: Datatype) -> PathBuf {
    let mut image = Image {
        header: Header::new(Version::Nifti1, shape, datatype, [1.0; 3]),
        ..Image::default()
    };
    image.volume.shape = shape.to_vec();
    image.volume.datatype = datatype;
    let bytes = shape.iter().product::<usize>() * datatype.size_bytes();
    image.volume.voxels.resize_for_overwrite(bytes);
    let mut state = 7_u32;
    for byte in image.volume.voxels.as_bytes_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 27) as u8;
    }
    let path = folder.join(name);
    ImageWriter::new().sync(false).write(&path, &image).unwrap();
    path
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_file_is_the_same_for_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let same = OutputSpec::default();
    let as_float = OutputSpec {
        output_type: OutputType::As(Datatype::Float32),
        round: Rounding::Truncate,
    };
    let nearest = OutputSpec {
        output_type: OutputType::Same,
        round: Rounding::Nearest,
    };
    let shapes: [&[usize]; 4] = [&[97, 101, 120], &[64, 60, 30, 5], &[300, 200], &[5, 4, 3]];
    for shape in shapes {
        for datatype in [Datatype::Uint8, Datatype::Int16, Datatype::Float32] {
            for (sigma_vox, output) in [(2.0, same), (6.0, same), (1.0, as_float), (1.0, nearest)] {
                for (name, result) in [
                    ("a.nii.gz", "r.nii.gz"),
                    ("a.nii", "r.nii.gz"),
                    ("a.nii.gz", "r.img.gz"),
                ] {
                    let path = input(folder.path(), name, shape, datatype);
                    let result = folder.path().join(result);
                    let job = job(sigma_vox, output);
                    let mut expected = None;
                    for threads in [1, 2, 5] {
                        let mut outcome = Outcome::default();
                        let mut worker = ImageWorker::with_threads(&job, threads);
                        // Twice, to test that buffers can be reused.
                        let mut process = || worker.process(&path, &result, &mut outcome).unwrap();
                        let [_, mut written] = [0, 1].map(|_| process());
                        written.iter_mut().for_each(|file| file.mtime_ns = None);
                        let bytes = fs::read(&result).unwrap();
                        assert_eq!(outcome.input.bytes, fs::metadata(&path).unwrap().len());
                        assert_eq!(outcome.input.datatype, Some(datatype));
                        let expected = expected.get_or_insert_with(|| (bytes.clone(), written.clone()));
                        assert_eq!(written, expected.1);
                        assert!(
                            bytes == expected.0,
                            "{threads} threads, {shape:?} {datatype}, sigma {sigma_vox}, {output:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn scaled_and_big_images_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = input(folder.path(), "a.nii", &[70, 60, 80], Datatype::Float32);
    let mut bytes = fs::read(&path).unwrap();
    // A slope in the header: the result is float32 and as wide as the input.
    let slope = Scaling {
        slope: 0.5,
        intercept: 0.0,
    };
    bytes[112..116].copy_from_slice(&(slope.slope as f32).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let job = job(1.5, OutputSpec::default());
    let results = [1, 4].map(|threads| {
        let result = folder.path().join("r.nii.gz");
        ImageWorker::with_threads(&job, threads)
            .process(&path, &result, &mut Outcome::default())
            .unwrap();
        fs::read(result).unwrap()
    });
    assert!(results[0] == results[1]);
}

#[test]
fn a_truncated_or_damaged_input_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = input(folder.path(), "a.nii.gz", &[97, 101, 160], Datatype::Int16);
    let whole = fs::read(&path).unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    let job = job(2.0, OutputSpec::default());
    let mut worker = ImageWorker::with_threads(&job, 3);
    for cut in [whole.len() - 1, whole.len() - 9, whole.len() / 2, 400] {
        fs::write(&path, &whole[..cut]).unwrap();
        let failure = worker
            .process(&path, &out.join("r.nii.gz"), &mut Outcome::default())
            .unwrap_err();
        assert_eq!(failure.stage, Stage::Read);
        assert!(failure.error.contains("cut short"), "{}", failure.error);
        assert_eq!(files(&out), Vec::<String>::new());
    }
    let mut damaged = whole.clone();
    let crc = whole.len() - 8;
    damaged[crc] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let failure = worker
        .process(&path, &out.join("r.nii.gz"), &mut Outcome::default())
        .unwrap_err();
    assert!(failure.error.contains("checksum"), "{}", failure.error);
    assert_eq!(files(&out), Vec::<String>::new());
    // The worker still works.
    fs::write(&path, &whole).unwrap();
    worker
        .process(&path, &out.join("r.nii.gz"), &mut Outcome::default())
        .unwrap();
    assert_eq!(files(&out), ["r.nii.gz"]);
}

#[test]
fn the_memory_limit_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let path = input(folder.path(), "a.nii.gz", &[97, 101, 160], Datatype::Int16);
    let voxel_bytes = 2 * 97 * 101 * 160;
    let job = job(2.0, OutputSpec::default());
    let mut worker = ImageWorker::with_threads(&job, 2);
    let mut process = |limit_bytes| {
        worker.set_memory_limit(Some(limit_bytes));
        let result = folder.path().join("r.nii.gz");
        worker.process(&path, &result, &mut Outcome::default())
    };
    // Kernels and tiles need memory in addition to the voxels.
    let FailureKind::NeedsMemory { needed_bytes } = process(voxel_bytes).unwrap_err().kind else {
        panic!("the voxels alone cannot be enough");
    };
    assert!(needed_bytes > voxel_bytes && needed_bytes < voxel_bytes + voxel_bytes / 8);
    process(needed_bytes).unwrap();
    assert!(process(needed_bytes - 1).is_err());
}
