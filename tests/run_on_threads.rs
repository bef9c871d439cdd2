//! Whole runs on ranks that are threads: the outputs are the same for any number of ranks and any strategy.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use niimpi::comm::Communicator;
use niimpi::comm::serial::Serial;
use niimpi::comm::threads::run_on_threads;
use niimpi::filter::OutputSpec;
use niimpi::filter::gaussian::Gaussian;
use niimpi::image_io::{CompressionLevel, Header, Image, ImageWriter, Version};
use niimpi::images::ListRequest;
use niimpi::job::ImageJob;
use niimpi::partition::{Split, Strategy};
use niimpi::phantom::Phantom;
use niimpi::report::{Report, State};
use niimpi::run::{self, Config, Existing, ProgressStyle};
use niimpi::volume::Datatype;

const STRATEGIES: [Strategy; 4] = [
    Strategy::Block,
    Strategy::Cyclic,
    Strategy::Size,
    Strategy::Dynamic,
];

/// Small images of different sizes and types, and a broken one if `broken` is true.
fn write_images(folder: &Path, count: u64, broken: bool) {
    std::fs::create_dir_all(folder).unwrap();
    let mut writer = ImageWriter::new().sync(false);
    for index in 1..=count {
        let phantom = Phantom {
            shape: [10 + index as usize, 12, 9],
            datatype: Datatype::ALL[index as usize % Datatype::ALL.len()],
            ..Phantom::default()
        };
        let header = Header::new(
            Version::Nifti1,
            &phantom.shape,
            phantom.datatype,
            phantom.voxel_size_mm,
        );
        let mut image = Image {
            header,
            ..Image::default()
        };
        phantom.fill(index, &mut image.volume);
        let path = folder.join(format!("image_{index}.nii.gz"));
        writer.write(&path, &image).unwrap();
    }
    if broken {
        std::fs::write(folder.join("image_0.nii.gz"), b"no image").unwrap();
    }
}

fn config(data: &Path, output: PathBuf, strategy: Strategy, threads: usize) -> Config {
    Config {
        report: Some(output.with_extension("json")),
        list: ListRequest {
            inputs: vec![data.to_owned()],
            output,
            ..ListRequest::default()
        },
        limit: None,
        shard: None,
        existing: Existing::Refuse,
        job: ImageJob {
            filter: Gaussian::from_sigma_vox(1.5).into(),
            output: OutputSpec::default(),
            nan: Default::default(),
            mask: None,
            compression: CompressionLevel::default(),
            sync: false,
            qc: false,
        },
        strategy,
        device: Default::default(),
        split: Split::Auto,
        threads: Some(threads),
        stop_before_s: None,
        sample_s: None,
        report_table: true,
        report_csv: true,
        report_html: None,
        dry_run: false,
        quiet: true,
        progress: ProgressStyle::None,
        command: vec!["test".to_owned()],
        fault: None,
    }
}

fn run_on(ranks: usize, config: &Config) -> Vec<u8> {
    run_on_threads(ranks, |comm| run::filter(comm, config, &AtomicBool::new(false)))
}

fn report(config: &Config) -> Report {
    let path = config.report.as_ref().unwrap();
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The results in a folder by name, without the journals.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|item| item.unwrap())
        .filter(|item| item.file_type().unwrap().is_file())
        .map(|item| {
            (
                item.file_name().into_string().unwrap(),
                std::fs::read(item.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn outputs_are_the_same_for_any_ranks_workers_and_strategy() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_images(&data, 12, false);
    let alone = config(&data, folder.path().join("alone"), Strategy::Size, 1);
    assert_eq!(
        run::filter(&Serial, &alone, &AtomicBool::new(false)),
        run::EXIT_DONE
    );
    let expected = contents(&alone.list.output);
    assert_eq!(expected.len(), 12);
    for ranks in [1, 2, 3, 5, 16] {
        for threads in [1, 3] {
            for strategy in STRATEGIES {
                let name = format!("{}-{ranks}-{threads}", strategy.name());
                let config = config(&data, folder.path().join(&name), strategy, threads);
                assert_eq!(run_on(ranks, &config), vec![run::EXIT_DONE; ranks], "{name}");
                assert!(contents(&config.list.output) == expected, "{name} differs");
                let report = report(&config);
                assert_eq!(report.state, State::Completed);
                assert_eq!(report.totals.done, 12);
                assert_eq!(report.ranks.iter().map(|rank| rank.done).sum::<usize>(), 12);
                assert_eq!(report.ranks.len(), ranks);
            }
        }
    }
}

#[test]
fn a_broken_image_is_recorded_and_the_others_are_done() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_images(&data, 5, true);
    for strategy in STRATEGIES {
        let config = config(&data, folder.path().join(strategy.name()), strategy, 2);
        assert_eq!(run_on(2, &config), [run::EXIT_SOME_FAILED; 2]);
        let report = report(&config);
        assert_eq!((report.totals.done, report.totals.failed), (5, 1));
        let failed = &report.images[0];
        let failure = failed.failure().unwrap();
        assert!(failure.error.contains("image_0.nii.gz"), "{failure:?}");
        assert_eq!(contents(&config.list.output).len(), 5);
    }
}

#[test]
fn set_up_errors_reach_every_rank_and_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_images(&data, 2, false);
    let missing = config(
        &folder.path().join("none"),
        folder.path().join("out"),
        Strategy::Size,
        1,
    );
    assert_eq!(run_on(3, &missing), [run::EXIT_USAGE; 3]);
    assert!(!missing.list.output.exists());

    let first = config(&data, folder.path().join("out"), Strategy::Size, 1);
    assert_eq!(run_on(2, &first), [run::EXIT_DONE; 2]);
    let before = contents(&first.list.output);
    assert_eq!(run_on(2, &first), [run::EXIT_USAGE; 2], "results exist");
    assert!(contents(&first.list.output) == before);
}

#[test]
fn resume_keeps_results_and_overwrite_replaces_altered_ones() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_images(&data, 4, false);
    let out = folder.path().join("out");
    let mut config = config(&data, out.clone(), Strategy::Dynamic, 1);
    assert_eq!(run_on(2, &config), [run::EXIT_DONE; 2]);
    let complete = contents(&out);

    std::fs::write(out.join("image_1.nii.gz"), b"altered").unwrap();
    std::fs::remove_file(out.join("image_2.nii.gz")).unwrap();
    config.existing = Existing::Resume;
    assert_eq!(run_on(2, &config), [run::EXIT_USAGE; 2]);
    assert_eq!(std::fs::read(out.join("image_1.nii.gz")).unwrap(), b"altered");
    config.existing = Existing::ResumeAndOverwrite;
    assert_eq!(run_on(2, &config), [run::EXIT_DONE; 2]);
    let totals = report(&config).totals;
    assert_eq!((totals.images, totals.done, totals.skipped), (4, 2, 2));
    assert!(contents(&out) == complete);

    config.existing = Existing::Overwrite;
    assert_eq!(run_on(2, &config), [run::EXIT_DONE; 2]);
    assert_eq!(report(&config).totals.done, 4);
    assert!(contents(&out) == complete);
}

#[test]
fn shards_are_disjoint_and_complete() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_images(&data, 9, false);
    for strategy in STRATEGIES {
        let out = folder.path().join(strategy.name());
        let mut done = 0;
        for number in 1..=4 {
            let mut config = config(&data, out.clone(), strategy, 1);
            config.shard = Some(run::Shard { number, count: 4 });
            assert_eq!(run_on(2, &config), [run::EXIT_DONE; 2]);
            done += report(&config).totals.done;
        }
        assert_eq!(
            done, 9,
            "no image may be in two shards, because the second run would find an existing result"
        );
        assert_eq!(contents(&out).len(), 9);
    }
}

#[test]
fn a_stopped_run_reports_what_it_has_done() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_images(&data, 12, false);
    for strategy in STRATEGIES {
        let config = config(&data, folder.path().join(strategy.name()), strategy, 1);
        let codes = run_on_threads(3, |comm| {
            // Only one rank gets the signal. The root informs the others.
            let stop = AtomicBool::new(comm.rank() == 1);
            run::filter(comm, &config, &stop)
        });
        let report = report(&config);
        let left = report.totals.images - report.totals.done;
        assert_eq!(report.totals.skipped, left);
        let expected = if left == 0 {
            run::EXIT_DONE
        } else {
            run::EXIT_INTERRUPTED
        };
        assert_eq!(codes, [expected; 3]);
        assert_eq!(contents(&config.list.output).len(), report.totals.done);
    }
}
