//! Tests of one image's steps, without ranks.

use std::sync::atomic::Ordering;

use super::*;
use crate::filter::anlm::Anlm;
use crate::filter::gaussian::Gaussian;
use crate::filter::identity::Identity;
use crate::filter::{Options, OutputSpec};
use crate::image_io::{CompressionLevel, Version};
use crate::volume::Datatype;

/// Writes an image of noise, perhaps with an intensity scale and with a NaN.
pub(in crate::job) fn write_noise(
    path: &Path,
    shape: &[usize],
    datatype: Datatype,
    scaled: bool,
    has_nan: bool,
) {
    let mut image = Image {
        header: Header::new(Version::Nifti1, shape, datatype, [1.0; 3]),
        ..Image::default()
    };
    image.volume.shape = shape.to_vec();
    image.volume.datatype = datatype;
    let bytes = shape.iter().product::<usize>() * datatype.size_bytes();
    image.volume.voxels.resize_for_overwrite(bytes);
    for (place, byte) in image.volume.voxels.as_bytes_mut().iter_mut().enumerate() {
        *byte = (place * place % 61) as u8;
    }
    if has_nan && datatype == Datatype::Float32 {
        image.volume.voxels.as_mut_slice::<f32>()[0] = f32::NAN;
    }
    ImageWriter::new().sync(false).write(path, &image).unwrap();
    if scaled {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[112..116].copy_from_slice(&0.5_f32.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    }
}

fn job(filter: impl Into<Options>) -> ImageJob {
    ImageJob {
        filter: filter.into(),
        output: OutputSpec::default(),
        nan: NonFinite::default(),
        mask: None,
        compression: CompressionLevel::default(),
        sync: false,
        qc: false,
    }
}

/// The size of all buffers after an image.
pub(in crate::job) fn held_bytes(job: &ImageJob, input: &Path, threads: usize) -> u64 {
    let mut worker = ImageWorker::with_threads(job, threads);
    let result = input.with_file_name("r.nii.gz");
    worker.process(input, &result, &mut Outcome::default()).unwrap();
    let scratch = worker.members.iter().map(|member| member.scratch.held_bytes());
    let volume = &worker.image.volume;
    let Buffers {
        intensities, slice, ..
    } = &worker.buffers;
    let buffers = [&volume.voxels, &volume.spare, intensities, slice];
    let buffers = buffers.map(|buffer| buffer.as_bytes().len() as u64);
    let masks = worker.masks.held_bytes();
    buffers.iter().sum::<u64>() + worker.buffers.planes.held_bytes() + scratch.sum::<u64>() + masks
}

#[test]
fn a_filter_of_one_file_goes_all_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    write_noise(&path, &[40, 30, 20, 2], Datatype::Int16, false, false);
    let read = |path: &Path| {
        let mut image = Image::default();
        ImageReader::new().read(path, &mut image).unwrap();
        image.volume.voxels.as_bytes().to_vec()
    };
    let job = job(Identity { reach: 2 });
    for (threads, name) in [(1, "r.nii.gz"), (3, "r.nii.gz"), (2, "r.nii")] {
        let result = folder.path().join(name);
        let mut outcome = Outcome::default();
        ImageWorker::with_threads(&job, threads)
            .process(&path, &result, &mut outcome)
            .unwrap();
        assert!(read(&result) == read(&path));
        assert_eq!(outcome.input.voxels, 48_000);
    }
    assert_eq!(job.options()["filter"]["name"], "identity");
    assert_eq!(job.to_cli_args()[..2], ["identity", "--compression=1"]);
}

#[test]
fn threads_share_series_of_small_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let (path, result) = (folder.path().join("a.nii"), folder.path().join("r.nii.gz"));
    // A filter of no stage, and one whose slabs are thin because its voxels take long.
    let filters: [Options; 2] = [Gaussian::from_sigma_vox(0.0).into(), Anlm::default().into()];
    for filter in filters {
        for shape in [[17, 14, 22, 17], [32, 32, 40, 4]] {
            write_noise(&path, &shape, Datatype::Int16, false, false);
            let job = job(filter.clone());
            let bytes = [1, 2, 3].map(|threads| {
                ImageWorker::with_threads(&job, threads)
                    .process(&path, &result, &mut Outcome::default())
                    .unwrap();
                std::fs::read(&result).unwrap()
            });
            assert!(
                bytes[0] == bytes[1] && bytes[0] == bytes[2],
                "{filter:?} {shape:?}"
            );
        }
    }
}

#[test]
fn an_image_without_memory_fails_and_the_next_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    let result = folder.path().join("r.nii.gz");
    // 30 KB of voxels whose line along y needs a tile of 3.8 MB.
    write_noise(&path, &[1, 30_000], Datatype::Uint8, false, false);
    let job = job(Gaussian::from_sigma_vox(1.0));
    let mut worker = ImageWorker::new(&job);
    worker.set_memory_limit(Some(3 << 20));
    let failure = worker
        .process(&path, &result, &mut Outcome::default())
        .unwrap_err();
    let FailureKind::NeedsMemory { needed_bytes } = failure.kind else {
        panic!("{failure:?}");
    };
    assert!(needed_bytes > 3_840_000);
    assert!(!result.exists());
    write_noise(&path, &[100, 300], Datatype::Uint8, false, false);
    worker.process(&path, &result, &mut Outcome::default()).unwrap();
}

#[test]
fn a_stop_leaves_the_image_unfinished_and_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii.gz");
    write_noise(&path, &[60, 60, 60], Datatype::Int16, false, false);
    let job = job(Gaussian::from_sigma_vox(2.0));
    for threads in [1, 3] {
        let stop = AtomicBool::new(true);
        let mut worker = ImageWorker::with_threads(&job, threads);
        worker.set_stop(&stop);
        let result = folder.path().join("r.nii.gz");
        let mut process = || worker.process(&path, &result, &mut Outcome::default());
        assert_eq!(process().unwrap_err().kind, FailureKind::Stopped);
        let files = std::fs::read_dir(folder.path()).unwrap();
        assert_eq!(files.count(), 1);
        stop.store(false, Ordering::Relaxed);
        process().unwrap();
        std::fs::remove_file(&result).unwrap();
    }
}

#[test]
fn a_kernel_far_longer_than_the_image_is_refused_by_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.nii");
    write_noise(&path, &[64, 64, 64], Datatype::Int16, false, false);
    // Voxels of a millionth of a mm.
    let mut bytes = std::fs::read(&path).unwrap();
    for axis in 1..4 {
        bytes[76 + 4 * axis..80 + 4 * axis].copy_from_slice(&1e-6_f32.to_le_bytes());
    }
    bytes[252..256].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let job = job(Gaussian::from_fwhm_mm(1e-2));
    let result = folder.path().join("r.nii");
    let failure = ImageWorker::new(&job)
        .process(&path, &result, &mut Outcome::default())
        .unwrap_err();
    assert!(
        failure.error.contains("check that the FWHM is in mm"),
        "{}",
        failure.error
    );
}
