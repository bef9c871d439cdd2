//! Tests of images in sections, without ranks: the file is that of one thread.

use std::sync::atomic::AtomicBool;

use super::super::ImageWorker;
use super::super::steps::tests::write_noise;
use super::*;
use crate::filter::anlm::Anlm;
use crate::filter::boundary::Boundary;
use crate::filter::gaussian::Gaussian;
use crate::filter::median::Median;
use crate::filter::nlm::Nlm;
use crate::filter::{Options, OutputSpec, OutputType};
use crate::image_io::{CompressionLevel, Version};
use crate::volume::Datatype;

fn job(filter: Options, output_type: OutputType) -> ImageJob {
    ImageJob {
        filter,
        output: OutputSpec {
            output_type,
            ..OutputSpec::default()
        },
        nan: NonFinite::default(),
        mask: None,
        compression: CompressionLevel::default(),
        sync: false,
        qc: false,
    }
}

/// The files of an image in the folder, from one thread.
fn expected(job: &ImageJob, input: &Path, output: &Path) -> (Vec<u8>, Outcome) {
    let mut outcome = Outcome::default();
    ImageWorker::new(job)
        .process(input, output, &mut outcome)
        .unwrap();
    (std::fs::read(output).unwrap(), outcome)
}

/// The file of an image from so many ranks, one after the other, and the number of sections; `None` if it is
/// not split. In place, the last section is written first.
fn in_sections(
    job: &ImageJob,
    paths: Paths<'_>,
    (ranks, threads): (usize, usize),
    limit_bytes: Option<u64>,
    in_place: bool,
) -> Option<(Vec<u8>, usize, Outcome)> {
    let stop = AtomicBool::new(false);
    let mut worker = SectionWorker::new(job, threads, None, limit_bytes, &stop);
    let mut outcome = Outcome::default();
    let Plan::Sections { sections, .. } = worker.plan(paths, ranks, true, &mut outcome).unwrap() else {
        return None;
    };
    let mut worker = SectionWorker::new(job, threads, None, None, &stop);
    worker.record_mask(paths, &mut outcome).unwrap();
    let mut file = worker.begin_file(paths).unwrap();
    let place = file.in_place().unwrap().filter(|_| in_place);
    let other = place.map(|(place, _)| InPlace::open(paths.output, &place).expect("it is there"));
    let make = |slices: &Range<usize>| worker.make(paths, ranks, slices.clone(), (None, other.as_ref()));
    let mut made: Vec<Section> = sections.iter().rev().map(make).map(Result::unwrap).collect();
    made.reverse();
    other.map_or(Ok(()), finish_in_place).unwrap();
    for section in &made {
        is_of(&section.facts, &outcome.input).unwrap();
        outcome.input.nonfinite_voxels += section.facts.nonfinite_voxels;
        file.append(section).unwrap();
    }
    worker.finish_file(file, &mut outcome).unwrap().publish().unwrap();
    let bytes = std::fs::read(paths.output).unwrap();
    Some((bytes, sections.len(), outcome))
}

/// Compares the files of all numbers of ranks, and returns the largest number of sections.
fn check(job: &ImageJob, input: &Path, suffix: &str) -> usize {
    let output = input.with_file_name(format!("r{suffix}"));
    let paths = Paths {
        input,
        output: &output,
        mask: None,
        second: None,
        bids: false,
    };
    let (whole, mut facts) = expected(job, input, &output);
    if input.extension().is_some_and(|suffix| suffix == "nii") {
        // No rank reads all of it.
        facts.input.files[0].crc32 = None;
    }
    let mut most = 0;
    for ranks in [1, 2, 3, 4, 8] {
        for threads in [1, 2] {
            for limit_bytes in [None, Some(0)] {
                for in_place in [false, true] {
                    let ranks = (ranks, threads);
                    let made = in_sections(job, paths, ranks, limit_bytes, in_place);
                    let Some((bytes, sections, outcome)) = made else {
                        continue;
                    };
                    let what = format!("{ranks:?} ranks, {sections} sections of {input:?}, {in_place}");
                    assert!(bytes == whole, "{what}, {:?}", job.filter);
                    assert_eq!(outcome.input, facts.input, "{what}");
                    most = most.max(sections);
                }
            }
        }
    }
    most
}

const BOUNDARIES: [Boundary; 5] = [
    Boundary::Reflect,
    Boundary::Nearest,
    Boundary::Mirror,
    Boundary::Wrap,
    Boundary::Constant,
];

#[test]
fn gaussians_of_all_boundaries_and_shapes() {
    let folder = tempfile::tempdir().unwrap();
    for boundary in BOUNDARIES {
        for (sigma, shape) in [
            (1.0, vec![13, 11, 17]),
            (3.0, vec![9, 8, 5]),
            (1.0, vec![40, 30, 3]),
            (0.7, vec![7, 5, 6, 9]),
            (2.0, vec![16, 15, 12, 2]),
            (1.0, vec![150, 140, 61]),
        ] {
            let input = folder.path().join("a.nii.gz");
            write_noise(&input, &shape, Datatype::Int16, false, false);
            let gaussian = Gaussian {
                boundary,
                ..Gaussian::from_sigma_vox(sigma)
            };
            let job = job(gaussian.into(), OutputType::Same);
            let most = check(&job, &input, ".nii.gz");
            let volumes = shape.get(3).copied().unwrap_or(1);
            match boundary == Boundary::Wrap {
                true => assert!(most <= volumes.max(1), "{shape:?}"),
                false => assert!(most >= 3.min(shape[2]), "{shape:?}: {most}"),
            }
        }
    }
}

#[test]
fn every_type_in_and_out() {
    let folder = tempfile::tempdir().unwrap();
    for (place, &datatype) in Datatype::ALL.iter().enumerate() {
        for output_type in [
            OutputType::Same,
            OutputType::As(Datatype::Float32),
            OutputType::As(Datatype::Uint8),
        ] {
            let input = folder.path().join("a.nii");
            let shape = [[30, 20, 19, 1], [30, 20, 7, 3]][place % 2];
            write_noise(&input, &shape, datatype, place % 3 == 0, place % 2 == 0);
            let job = job(Gaussian::from_sigma_vox(1.5).into(), output_type);
            for suffix in [".nii", ".nii.gz"] {
                assert!(check(&job, &input, suffix) >= 3);
            }
        }
    }
}

#[test]
fn files_of_many_blocks_written_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("a.nii");
    for (shape, datatype, scaled) in [
        (vec![91, 83, 41], Datatype::Float32, true),
        (vec![61, 53, 12, 5], Datatype::Int16, false),
        // 352 bytes and the voxels end with a block; so do the first two slices.
        (vec![128, 256, 11], Datatype::Int16, false),
        // All of it is less than a block.
        (vec![30, 20, 19], Datatype::Uint8, false),
    ] {
        write_noise(&input, &shape, datatype, scaled, false);
        assert!(
            check(
                &job(Gaussian::from_sigma_vox(1.0).into(), OutputType::Same),
                &input,
                ".nii"
            ) >= 5
        );
    }
}

#[test]
fn only_what_becomes_faster_is_split_unless_asked() {
    let brain = [197, 233, 189];
    let series = [197, 233, 189, 40];
    let smooth: Options = Gaussian::from_sigma_vox(2.0).into();
    let denoise: Options = Anlm::default().into();
    let stop = AtomicBool::new(false);
    let is_split = |filter: &Options, shape: &[usize], compressed: bool, threads| {
        let job = job(filter.clone(), OutputType::Same);
        let worker = SectionWorker::new(&job, threads, None, None, &stop);
        let info = worker.info(&Header::new(Version::Nifti1, shape, Datatype::Float32, [1.0; 3]));
        let (prepared, layout) = worker.prepare(&info, 2).unwrap();
        let work = Files {
            inflated: compressed,
            deflated: compressed,
            threads,
        };
        let planned = |always| worker.divide(prepared.as_ref(), &layout, 2, always, work);
        // As with --split always, and with an image that exceeds a rank's memory.
        assert!(matches!(planned(true), Plan::Sections { .. }));
        matches!(planned(false), Plan::Sections { .. })
    };
    assert!(is_split(&smooth, &series, false, 1));
    assert!(is_split(&denoise, &brain, true, 1));
    assert!(is_split(&denoise, &brain, false, 1));
    // Inflating takes most of the time, and is not divided.
    assert!(!is_split(&smooth, &brain, true, 1));
    assert!(!is_split(&smooth, &series, true, 8));
    // Waiting for each other takes about as long as the filter.
    assert!(!is_split(&smooth, &brain, false, 1));
}

#[test]
fn only_the_leaders_file_is_written_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("a.nii"), folder.path().join("b.nii"));
    write_noise(&input, &[9, 8, 7], Datatype::Int16, false, false);
    let job = job(Gaussian::from_sigma_vox(1.0).into(), OutputType::Same);
    let stop = AtomicBool::new(false);
    let mut worker = SectionWorker::new(&job, 1, None, None, &stop);
    let paths = Paths {
        input: &input,
        output: &output,
        mask: None,
        second: None,
        bids: false,
    };
    let mut file = worker.begin_file(paths).unwrap();
    let (place, _) = file.in_place().unwrap().expect("a plain file");
    assert!(InPlace::open(&output, &place).is_some());
    let part = folder
        .path()
        .read_dir()
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    let part = part
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(".part"))
        .unwrap();
    let moved = folder.path().join("moved");
    std::fs::rename(&part, &moved).unwrap();
    assert!(InPlace::open(&output, &place).is_none(), "no file");
    std::os::unix::fs::symlink(&moved, &part).unwrap();
    assert!(InPlace::open(&output, &place).is_none(), "a link");
    std::fs::remove_file(&part).unwrap();
    std::fs::copy(&moved, &part).unwrap();
    assert!(InPlace::open(&output, &place).is_none(), "another file");
}

#[test]
fn medians_and_means_of_patches() {
    let folder = tempfile::tempdir().unwrap();
    let filters: [Options; 4] = [
        Median::default().into(),
        Median {
            boundary: Boundary::Wrap,
            ..Median::default()
        }
        .into(),
        Anlm::default().into(),
        Nlm::default().into(),
    ];
    for filter in filters {
        for shape in [vec![14, 13, 40], vec![9, 8, 11, 5]] {
            let input = folder.path().join("a.nii");
            write_noise(&input, &shape, Datatype::Int16, false, false);
            let most = check(&job(filter.clone(), OutputType::Same), &input, ".nii");
            assert!(shape.len() == 3 || most >= 5, "{filter:?}: {most}");
        }
    }
}

#[test]
fn inside_of_a_mask() {
    let folder = tempfile::tempdir().unwrap();
    let (input, mask) = (folder.path().join("a.nii"), folder.path().join("mask.nii"));
    write_noise(&input, &[20, 17, 16, 3], Datatype::Float32, false, true);
    write_noise(&mask, &[20, 17, 16], Datatype::Uint8, false, false);
    let mut job = job(Gaussian::from_sigma_vox(1.0).into(), OutputType::Same);
    job.mask = Some(super::super::Masking {
        choice: crate::images::MaskChoice::File(mask),
        outside: None,
    });
    assert!(check(&job, &input, ".nii.gz") >= 3);
}

#[test]
fn a_section_of_another_mask_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_noise(&path("a.nii"), &[20, 17, 16, 3], Datatype::Int16, false, false);
    write_noise(&path("mask.nii"), &[20, 17, 16], Datatype::Uint8, false, false);
    let mut job = job(Gaussian::from_sigma_vox(1.0).into(), OutputType::Same);
    job.mask = Some(super::super::Masking {
        choice: crate::images::MaskChoice::File(path("mask.nii")),
        outside: None,
    });
    let (input, output) = (path("a.nii"), path("r.nii"));
    let paths = Paths {
        input: &input,
        output: &output,
        mask: None,
        second: None,
        bids: false,
    };
    let stop = AtomicBool::new(false);
    let mut worker = SectionWorker::new(&job, 1, None, None, &stop);
    let mut outcome = Outcome::default();
    worker.plan(paths, 2, true, &mut outcome).unwrap();
    worker.record_mask(paths, &mut outcome).unwrap();
    let mut section = worker.make(paths, 2, 0..16, (None, None)).unwrap();
    is_of(&section.facts, &outcome.input).unwrap();
    section.facts.mask[0].mtime_ns = None;
    let failure = is_of(&section.facts, &outcome.input).unwrap_err();
    assert!(
        failure.error.contains("mask.nii: the mask is not the same file"),
        "{failure:?}"
    );
}
