//! Tests of the measurements, and a synthetic machine with known costs.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::*;
use crate::filter::gaussian::Gaussian;
use crate::filter::{Options, OutputSpec, nonfinite::NonFinite};
use crate::image_io::CompressionLevel;
use crate::job::outcome::{End, Failure, FailureKind, InputFacts, Outcome, Stage};
use crate::report::ImageRow;
use crate::run::PUBLISHERS;

/// A synthetic machine with known costs that writes reports.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    /// Slow-down of all stages by each additional worker on the node.
    pub(crate) contention: f64,
    /// Standard deviation of an image's time, as a fraction.
    pub(crate) image_spread: f64,
    /// Standard deviation of a whole run's speed.
    pub(crate) run_spread: f64,
    /// Seconds to publish a result. A worker's publishers work on several results at a time.
    pub(crate) publish_s: f64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            contention: 0.05,
            image_spread: 0.1,
            run_spread: 0.02,
            publish_s: 1e-4,
        }
    }
}

/// Voxels of the images that the machine processes, in turn.
pub(crate) const SIZES: [u64; 3] = [900_000, 450_000, 2_000_000];

pub(crate) fn job() -> ImageJob {
    ImageJob {
        filter: Options::Gaussian(Gaussian::from_sigma_vox(2.0)),
        output: OutputSpec::default(),
        nan: NonFinite::default(),
        mask: None,
        compression: CompressionLevel::default(),
        sync: true,
        qc: false,
    }
}

pub(crate) fn gathered(sources: &[Source]) -> Result<Measurements, String> {
    gather(sources, &job(), &sources[0].report.options, &MemoryByKind::new())
}

/// A measured image that needed `memory_bytes`.
pub(crate) fn sample(memory_bytes: u64) -> ImageSample {
    let (datatype, scaled) = (Datatype::Uint8, false);
    ImageSample {
        features: ImageFeatures {
            class: ImageClass { datatype, scaled },
            voxels: memory_bytes,
            file_bytes: memory_bytes / 2,
            memory_bytes,
        },
        stage_s: [0.0; 4],
    }
}

impl Machine {
    /// Without noise and contention.
    pub(crate) fn exact() -> Self {
        Self {
            contention: 0.0,
            image_spread: 0.0,
            run_spread: 0.0,
            ..Self::default()
        }
    }

    /// Seconds of the stages without noise, for one worker on the node.
    pub(crate) fn stages_s(&self, voxels: u64) -> [f64; 4] {
        let voxels = voxels as f64;
        let (read_s, write_s) = (4e-4 + 2e-9 * voxels, 4e-4 + 6e-9 * voxels);
        [read_s, 5e-9 * voxels, write_s, self.publish_s]
    }

    /// A report of `images` images on `ranks` ranks of one worker.
    pub(crate) fn source(&self, images: usize, ranks: usize, sizes: &[u64], seed: u64) -> Source {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut noise = |spread: f64| f64::exp(Normal::new(0.0, spread).unwrap().sample(&mut random));
        let crowd = 1.0 + self.contention * (ranks.min(images) - 1) as f64;
        let run_factor = crowd * noise(self.run_spread);
        let mut report = crate::report::sample::report();
        let mut free_s: Vec<f64> = vec![0.05; ranks];
        let mut disks_free_s = vec![[0.0_f64; PUBLISHERS]; ranks];
        let mut end_s = 0.0_f64;
        let image = |place: usize| {
            let voxels = sizes[place % sizes.len()];
            let rank = (0..ranks)
                .min_by(|&a, &b| free_s[a].total_cmp(&free_s[b]))
                .unwrap();
            let factor = run_factor * noise(self.image_spread);
            let [read_s, filter_s, write_s, publish_s] =
                self.stages_s(voxels).map(|stage_s| stage_s * factor);
            let start_s = free_s[rank];
            let disks = disks_free_s[rank].iter_mut();
            let disk = disks.min_by(|a, b| a.total_cmp(b)).unwrap();
            // The worker waits until a publisher takes the result.
            let taken_s = disk.max(start_s + read_s + filter_s + write_s);
            *disk = taken_s + publish_s;
            end_s = end_s.max(*disk);
            free_s[rank] = taken_s + 1e-5;
            ImageRow {
                input: format!("in/{place}.nii.gz"),
                output: format!("out/{place}.nii.gz"),
                output_noise: None,
                outcome: Outcome {
                    index: place + 1,
                    rank,
                    start_s,
                    timings: Timings {
                        read_s,
                        filter_s,
                        write_s,
                        publish_s,
                    },
                    input: InputFacts {
                        bytes: voxels / 2,
                        datatype: Some(Datatype::Uint8),
                        voxels,
                        ..InputFacts::default()
                    },
                    end: End::Done(Vec::new()),
                    ..Outcome::default()
                },
            }
        };
        report.images = (0..images).map(image).collect();
        (report.launch.ranks, report.launch.threads_per_rank) = (ranks, 1);
        report.launch.nodes = vec!["node1".to_owned()];
        report.launch.cpus = Some(8);
        report.ranks.iter_mut().for_each(|rank| rank.cpu_model.clear());
        (report.totals.done, report.totals.failed, report.totals.skipped) = (images, 0, 0);
        let timings = report.images.iter().map(|image| image.outcome.timings);
        report.totals.read_s = timings.map(|timings| timings.read_s).sum();
        report.totals.max_rss_bytes = (16 << 20) + sizes.iter().max().unwrap();
        report.elapsed_s = end_s + 0.02;
        Source {
            name: format!("report {seed}"),
            wall_s: Some(report.elapsed_s + 0.5),
            report,
            others_cpus: None,
        }
    }

    /// Five passes over 1 s of images per rank with 1 and with 2 ranks.
    pub(crate) fn pilot(&self, sizes: &[u64], seed: u64) -> Vec<Source> {
        let source = |run: usize| {
            let ranks = 1 + run % 2;
            self.source(80 * ranks, ranks, sizes, seed * 1000 + run as u64)
        };
        (0..10).map(source).collect()
    }
}

#[test]
fn a_run_is_read_with_its_own_costs() {
    let measured = gathered(&[Machine::exact().source(20, 2, &SIZES, 1)]).unwrap();
    let run = &measured.runs[0];
    assert_eq!((run.images.len(), run.ranks, run.per_node()), (20, 2, 2.0));
    assert!((run.setup_s - 0.05).abs() < 1e-9 && (run.finish_s - 0.02).abs() < 1e-9);
    assert!(run.launch_s.is_some_and(|launch_s| (launch_s - 0.5).abs() < 1e-9));
    let busy_s: f64 = run
        .images
        .iter()
        .map(|image| image.stage_s[..PUBLISH].iter().sum::<f64>())
        .sum();
    assert!(
        busy_s / 2.0 < run.working_s && run.working_s < busy_s / 2.0 + 0.02,
        "{busy_s}"
    );
    assert_eq!(run.largest_bytes(), 2_000_000);
}

#[test]
fn a_run_ends_with_its_last_image_not_after_the_sum_over_threads() {
    let mut source = Machine::exact().source(20, 1, &SIZES, 1);
    source.report.elapsed_s = 3.0;
    for row in &mut source.report.images {
        row.outcome.timings.filter_s = 100.0;
        row.outcome.end_s = Some(row.outcome.start_s.min(2.5));
    }
    source.report.images[19].outcome.end_s = Some(2.75);
    let run = &gathered(&[source]).unwrap().runs[0];
    assert!((run.setup_s + run.working_s - 2.75).abs() < 1e-9 && (run.finish_s - 0.25).abs() < 1e-9);
}

#[test]
fn what_cannot_be_fitted_is_refused_with_the_reason() {
    let good = Machine::default().source(20, 1, &SIZES, 1);
    let refusal = |source: Source| gathered(&[source]).unwrap_err();
    let mut unknown = good.clone();
    unknown.report.images[3].outcome.input.datatype = None;
    assert!(refusal(unknown).contains("datatypes"));
    let mut mostly_failed = good.clone();
    mostly_failed.report.totals.failed = 30;
    assert!(refusal(mostly_failed).contains("30 of 50 measured images failed"));

    let options = serde_json::json!({"filter": "gaussian", "sigma_vox": [2.0, 2.0, 2.0], "nan": "propagate"});
    let mut other = good;
    other.report.options =
        serde_json::json!({"filter": "gaussian", "sigma_vox": [3.0, 2.0, 2.0], "compression": 6});
    other.report.launch.sync = Some(!job().sync);
    let against_options = |source: Source| gather(&[source], &job(), &options, &MemoryByKind::new());
    let refused = against_options(other.clone()).unwrap_err();
    for words in [
        "sigma_vox [3.0,2.0,2.0] instead of [2.0,2.0,2.0]",
        "compression 6 instead of none",
        "nan none instead of propagate",
        "--no-sync",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    other.report.options = options.clone();
    other.report.launch.sync = Some(job().sync);
    assert!(against_options(other).is_ok());
}

#[test]
fn failed_images_are_named_and_left_out() {
    let mut source = Machine::default().source(20, 1, &SIZES, 1);
    for (place, image) in source.report.images[..4].iter_mut().enumerate() {
        image.outcome.end = End::Failed(Failure {
            stage: Stage::Read,
            error: format!("in/{place}.nii.gz: cut short"),
            problem: None,
            kind: FailureKind::Own,
        });
    }
    let measured = gathered(&[source]).unwrap();
    assert_eq!((measured.runs[0].images.len(), measured.failed.len()), (16, 4));
    assert!(measured.has_failed(Path::new("in/3.nii.gz")) && !measured.has_failed(Path::new("in/4.nii.gz")));
    assert_eq!(
        measured.notes[0],
        "in/0.nii.gz failed when it was measured: cut short"
    );
    assert_eq!(measured.notes[3], "1 more images failed");
}
