//! Memory: what an image, a worker and a rank need. Used by set-up, dry run, plan and the workers.

use super::ImageJob;
use crate::filter::{Division, Filter, ImageInfo, Layout};
use crate::image_io::Header;
use crate::volume::Datatype;

/// Memory of a worker's thread without images: codec, file buffers, used part of its stack.
pub(crate) const WORKER_BYTES: u64 = 12 << 20;

/// The same for a thread that opens files ahead or publishes results.
const HELPER_BYTES: u64 = 128 << 10;

/// Address space of a thread's stack and guard pages.
const STACK_BYTES: u64 = (2 << 20) + (64 << 10);

/// Address space that the C library's allocator reserves for each thread that processes images. Threads that
/// wait for files share these areas.
const ARENA_BYTES: u64 = 64 << 20;

/// Memory of the program and MPI in a rank without workers.
pub(crate) const PROGRAM_BYTES: u64 = 18 << 20;

/// Bytes of one image while `threads` threads process it together: voxels, result, planes between stages,
/// kernels, and the threads' tiles. If the image cannot be filtered, the bytes of its voxels.
pub(crate) fn image_bytes(job: &ImageJob, image: &ImageInfo, threads: usize) -> u64 {
    let streamed = Division::among(threads, threads > 1);
    least_image_bytes(job, image, threads).max(layout_bytes(job, image, streamed))
}

/// The same if memory is short: the image is then not filtered while it is read.
pub(crate) fn least_image_bytes(job: &ImageJob, image: &ImageInfo, threads: usize) -> u64 {
    layout_bytes(job, image, Division::among(threads, false))
}

fn layout_bytes(job: &ImageJob, image: &ImageInfo, division: Division) -> u64 {
    filter_bytes(job, image, division).saturating_add(job.gauge_bytes(image))
}

fn filter_bytes(job: &ImageJob, image: &ImageInfo, division: Division) -> u64 {
    let image = &job.masked(image);
    let voxels = image.voxels();
    let stored = voxels.saturating_mul(image.datatype.size_bytes() as u64);
    let plain = |image: &ImageInfo, shared| match job.filter.prepare(image, &shared) {
        Ok(prepared) => Layout::of(prepared.as_ref(), image, division).bytes(),
        Err(_) => stored,
    };
    let shared = job.shared();
    let finite = plain(
        &ImageInfo {
            nonfinite_voxels: Some(0),
            ..image.clone()
        },
        shared,
    );
    if job.nan == crate::filter::nonfinite::NonFinite::Zero
        && image.may_be_nonfinite()
        && image.scaling.is_some()
    {
        // Intensities in double replace the voxels; the memory of the voxels is kept for the next image.
        let mut doubles = shared;
        doubles.output.output_type =
            crate::filter::OutputType::As(shared.output.resolve_for(image.datatype, true));
        let image = ImageInfo {
            datatype: Datatype::Float64,
            scaling: None,
            ..image.clone()
        };
        return finite.max(plain(&image, doubles).saturating_add(stored));
    }
    finite.max(plain(image, shared))
}

/// Bytes of a rank's threads without images: `threads` that process images and `helpers` that wait for files.
/// Counts address space if that is limited.
pub(crate) fn threads_bytes(threads: usize, helpers: usize, address_space: bool) -> u64 {
    let (threads, helpers) = (threads as u64, helpers as u64);
    if address_space {
        threads * (WORKER_BYTES + STACK_BYTES + ARENA_BYTES) + helpers * STACK_BYTES
    } else {
        threads * WORKER_BYTES + helpers * HELPER_BYTES
    }
}

/// Bytes of a rank that processes these images (the [`image_bytes`] of each), `workers` at a time: the
/// program and the largest images, which can be in memory together.
pub(crate) fn rank_bytes(images: impl Iterator<Item = u64>, workers: usize) -> u64 {
    let mut images: Vec<u64> = images.collect();
    images.sort_unstable_by(|a, b| b.cmp(a));
    let largest = images.iter().take(workers);
    largest.fold(PROGRAM_BYTES + threads_bytes(workers, 0, false), |all, &bytes| {
        all.saturating_add(bytes)
    })
}

/// The image description for a filter, from the header.
pub(crate) fn image_info(header: &Header) -> ImageInfo {
    ImageInfo {
        shape: header.shape().to_vec(),
        voxel_size_mm: header.voxel_size_mm(),
        grid: Some(header.itk_grid()),
        geometry: Some(header.geometry()),
        datatype: header.datatype(),
        scaling: header.scaling(),
        nonfinite_voxels: None,
        mask_voxels: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::gaussian::{Gaussian, PerAxis};
    use crate::filter::like::{Like, Tool};
    use crate::filter::nonfinite::NonFinite;
    use crate::filter::{Options, OutputSpec, OutputType, Outside, Rounding};
    use crate::image_io::CompressionLevel;
    use crate::images::MaskChoice;
    use crate::job::Masking;

    fn job(filter: impl Into<Options>, nan: NonFinite, output: OutputSpec) -> ImageJob {
        ImageJob {
            filter: filter.into(),
            output,
            nan,
            mask: None,
            compression: CompressionLevel::default(),
            sync: false,
            qc: false,
        }
    }

    fn info(shape: &[usize], datatype: Datatype) -> ImageInfo {
        ImageInfo {
            shape: shape.to_vec(),
            voxel_size_mm: [1.0; 3],
            datatype,
            ..ImageInfo::default()
        }
    }

    #[test]
    fn tiles_of_a_long_axis_count() {
        let job = job(
            Gaussian::from_sigma_vox(1.0),
            NonFinite::Propagate,
            OutputSpec::default(),
        );
        let long = info(&[1, 50_000_000, 1, 1], Datatype::Float32);
        assert!(image_bytes(&job, &long, 1) > 50_000_000 * (4 + 64));
        let usual = info(&[100, 100, 100], Datatype::Float32);
        let bytes = image_bytes(&job, &usual, 1);
        assert!((4_000_000..4_100_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn the_treatment_of_nan_counts() {
        let shape = [64, 64, 64];
        let voxels = 64 * 64 * 64;
        let bytes = |nan, datatype| {
            let gaussian = Gaussian::from_sigma_vox(1.0);
            let job = job(gaussian, nan, OutputSpec::default());
            image_bytes(&job, &info(&shape, datatype), 1)
        };
        let plain = bytes(NonFinite::Propagate, Datatype::Float32);
        let ignore = bytes(NonFinite::Ignore, Datatype::Float32);
        assert!(ignore >= plain + 16 * voxels, "{ignore} and {plain}");
        assert_eq!(
            bytes(NonFinite::Propagate, Datatype::Int16),
            bytes(NonFinite::Ignore, Datatype::Int16)
        );
    }

    #[test]
    fn a_mask_and_its_weights_count() {
        let folder = tempfile::tempdir().unwrap();
        let (path, mask) = (folder.path().join("a.nii"), folder.path().join("mask.nii"));
        let write = super::super::steps::tests::write_noise;
        write(&path, &[40, 30, 20, 2], Datatype::Int16, false, false);
        write(&mask, &[40, 30, 20], Datatype::Float64, false, false);
        for outside in [Outside::Zero, Outside::Keep] {
            for choice in [MaskChoice::Nonzero, MaskChoice::File(mask.clone())] {
                let mut job = job(
                    Gaussian::from_sigma_vox(1.0),
                    NonFinite::Propagate,
                    OutputSpec::default(),
                );
                job.mask = Some(Masking {
                    choice,
                    outside: Some(outside),
                });
                let probe = crate::image_io::probe(&path).unwrap();
                for threads in [1, 3] {
                    let promised = image_bytes(&job, &image_info(&probe.header), threads);
                    let held = super::super::steps::tests::held_bytes(&job, &path, threads);
                    assert!(
                        held <= promised,
                        "{held} bytes are held, {promised} were promised"
                    );
                    // Two planes of doubles for a volume at least.
                    assert!(promised >= 24_000 * (4 + 16 + 1), "{promised}");
                }
            }
        }
    }

    #[test]
    fn the_scaling_of_a_header_counts() {
        // AFNI's result is double for whole numbers with a slope only, and single with an intercept.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii");
        super::super::steps::tests::write_noise(&path, &[40, 30, 20], Datatype::Int16, true, false);
        let like = Like::from_fwhm_mm(Tool::Afni, 4.0);
        let job = job(like, NonFinite::default(), OutputSpec::default());
        let probe = crate::image_io::probe(&path).unwrap();
        let promised = super::super::cost::need(&job, &probe).memory_bytes;
        let held = super::super::steps::tests::held_bytes(&job, &path, 1);
        assert!(
            held <= promised,
            "{held} bytes are held, {promised} were promised"
        );
    }

    #[test]
    fn absurd_shapes_saturate() {
        let job = job(
            Gaussian::from_sigma_vox(1.0),
            NonFinite::Ignore,
            OutputSpec::default(),
        );
        for shape in [&[32767; 7][..], &[usize::MAX, usize::MAX], &[1, 1, usize::MAX]] {
            assert_eq!(image_bytes(&job, &info(shape, Datatype::Float64), 4), u64::MAX);
        }
    }

    #[test]
    fn a_rank_holds_its_largest_images_at_once() {
        let mib = |mib: u64| mib << 20;
        let images = [mib(1), mib(50), mib(3), mib(20)];
        let alone = rank_bytes(images.into_iter(), 1);
        assert_eq!(alone, PROGRAM_BYTES + WORKER_BYTES + mib(50));
        let two = rank_bytes(images.into_iter(), 2);
        assert_eq!(two, PROGRAM_BYTES + 2 * WORKER_BYTES + mib(70));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 60,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// The estimate from the header is never less than the size of the image's buffers.
        #[test]
        fn no_image_takes_more_than_its_header_promises(
            shape in prop::collection::vec(1usize..24, 1..5),
            datatype in prop::sample::select(&Datatype::ALL[..]),
            scaled in any::<bool>(),
            has_nan in any::<bool>(),
            nan in prop::sample::select(&[NonFinite::Propagate, NonFinite::Zero, NonFinite::Ignore][..]),
            sigma in prop::array::uniform3(prop_oneof![Just(0.0), 0.1f64..6.0]),
            output_type in prop_oneof![
                Just(OutputType::Same),
                prop::sample::select(&Datatype::ALL[..]).prop_map(OutputType::As),
            ],
            round in prop::sample::select(&[Rounding::Truncate, Rounding::Nearest][..]),
            threads in 1usize..4,
            qc in any::<bool>(),
        ) {
            let gaussian = Gaussian {
                sigma: Some(PerAxis::Each(sigma)),
                ..Gaussian::from_sigma_vox(0.0)
            };
            let job = ImageJob { qc, ..job(gaussian, nan, OutputSpec { output_type, round }) };
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.nii");
            super::super::steps::tests::write_noise(&path, &shape, datatype, scaled, has_nan);
            let probe = crate::image_io::probe(&path).unwrap();
            let promised = image_bytes(&job, &image_info(&probe.header), threads);
            let held = super::super::steps::tests::held_bytes(&job, &path, threads);
            prop_assert!(held <= promised, "{held} bytes are used, {promised} were estimated");
        }
    }
}
