//! Tests of the measurements, and a machine whose costs are known.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::*;
use crate::filter::gaussian::Gaussian;
use crate::filter::{Options, OutputSpec, nonfinite::NonFinite};
use crate::image_io::CompressionLevel;
use crate::job::outcome::{End, Failure, FailureKind, InputFacts, Outcome, Stage, Timings};
use crate::run::PUBLISHERS;

/// A machine whose costs are known and that writes reports.
#[derive(Clone, Copy)]
pub(crate) struct Machine {
    /// How much each further worker on the node slows all stages.
    pub(crate) contention: f64,
    /// Standard deviation of an image's time, as a part of it.
    pub(crate) image_spread: f64,
    /// Standard deviation of a whole run's speed.
    pub(crate) run_spread: f64,
    /// How long a result takes to the disk. A worker's publishers work on several results at a time.
    pub(crate) publish_s: f64,
    pub(crate) cpu_model: &'static str,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            contention: 0.05,
            image_spread: 0.1,
            run_spread: 0.02,
            publish_s: 1e-4,
            cpu_model: "fast",
        }
    }
}

/// Voxels of the images that the machine gets, in turn.
pub(crate) const SIZES: [u64; 3] = [900_000, 450_000, 2_000_000];

pub(crate) fn job() -> ImageJob {
    ImageJob {
        filter: Options::Gaussian(Gaussian::from_sigma_vox(2.0)),
        output: OutputSpec::default(),
        nan: NonFinite::default(),
        mask: None,
        compression: CompressionLevel::default(),
        sync: true,
    }
}

pub(crate) fn gathered(sources: &[Source]) -> Result<Measurements, String> {
    let job = job();
    let options = sources
        .first()
        .map_or(Value::Null, |source| source.report.options.clone());
    gather(
        sources,
        &Wanted {
            job: &job,
            options: &options,
            memory_bytes: &HashMap::new(),
        },
    )
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

    /// Seconds of the stages without noise, alone on the node.
    pub(crate) fn stages_s(&self, voxels: u64) -> [f64; 4] {
        let voxels = voxels as f64;
        [
            4e-4 + 2e-9 * voxels,
            5e-9 * voxels,
            4e-4 + 6e-9 * voxels,
            self.publish_s,
        ]
    }

    /// A report of `images` images on `ranks` ranks of one worker.
    pub(crate) fn source(&self, images: usize, ranks: usize, sizes: &[u64], seed: u64) -> Source {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let image_noise = Normal::new(0.0, self.image_spread).unwrap();
        let run_noise = Normal::new(0.0, self.run_spread).unwrap();
        let run_factor = run_noise.sample(&mut random).exp();
        let crowd = 1.0 + self.contention * (ranks.min(images) - 1) as f64;
        let mut report = crate::report::sample::report();
        let mut ranks_free_s: Vec<f64> = vec![0.05; ranks];
        let mut disks_free_s = vec![[0.0_f64; PUBLISHERS]; ranks];
        let mut end_s = 0.0_f64;
        report.images = (0..images)
            .map(|place| {
                let voxels = sizes[place % sizes.len()];
                let earliest = |a: &usize, b: &usize| ranks_free_s[*a].total_cmp(&ranks_free_s[*b]);
                let rank = (0..ranks).min_by(earliest).unwrap();
                let noise = image_noise.sample(&mut random).exp();
                let [read_s, filter_s, write_s, publish_s] = self
                    .stages_s(voxels)
                    .map(|seconds| seconds * crowd * run_factor * noise);
                let start_s = ranks_free_s[rank];
                let made_s = start_s + read_s + filter_s + write_s;
                let disk = disks_free_s[rank]
                    .iter_mut()
                    .min_by(|a, b| a.total_cmp(b))
                    .unwrap();
                // The worker waits until a publisher takes the result.
                let taken_s = made_s.max(*disk);
                *disk = taken_s + publish_s;
                end_s = end_s.max(*disk);
                ranks_free_s[rank] = taken_s + 1e-5;
                ImageRow {
                    input: format!("in/{place}.nii.gz"),
                    output: format!("out/{place}.nii.gz"),
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
            })
            .collect();
        report.launch.ranks = ranks;
        report.launch.threads_per_rank = 1;
        report.launch.nodes = vec!["node1".to_owned()];
        report.launch.cpus = Some(8);
        report
            .ranks
            .iter_mut()
            .for_each(|rank| rank.cpu_model = self.cpu_model.to_owned());
        (report.totals.done, report.totals.failed, report.totals.skipped) = (images, 0, 0);
        report.totals.max_rss_bytes = (16 << 20) + sizes.iter().max().unwrap();
        report.elapsed_s = end_s + 0.02;
        Source {
            name: format!("report {seed}"),
            wall_s: Some(report.elapsed_s + 0.5),
            report,
            others_cpus: None,
        }
    }

    /// Five passes over 40 images with 1 and with 2 ranks.
    pub(crate) fn pilot(&self, sizes: &[u64], seed: u64) -> Vec<Source> {
        (0..10)
            .map(|run| self.source(40, 1 + run % 2, sizes, seed * 1000 + run as u64))
            .collect()
    }
}

pub(crate) fn fail(source: &mut Source, place: usize, error: &str) {
    source.report.images[place].outcome.end = End::Failed(Failure {
        stage: Stage::Read,
        error: error.to_owned(),
        kind: FailureKind::Own,
    });
    source.report.totals.done -= 1;
    source.report.totals.failed += 1;
}

#[test]
fn a_run_is_read_with_its_own_costs() {
    let measured = gathered(&[Machine::exact().source(20, 2, &SIZES, 1)]).unwrap();
    let run = &measured.runs[0];
    assert_eq!((run.images, run.ranks, run.workers_per_node()), (20, 2, 2.0));
    assert!((run.setup_s - 0.05).abs() < 1e-9 && (run.finish_s - 0.02).abs() < 1e-9);
    assert!(run.launch_s.is_some_and(|launch_s| (launch_s - 0.5).abs() < 1e-9));
    assert_eq!((measured.workers.len(), measured.images().count()), (2, 20));
    let worker = &measured.workers[0];
    let busy_s: f64 = worker.images.iter().map(ImageSample::worker_s).sum();
    assert!(
        busy_s < worker.span_s && worker.span_s < busy_s + 1e-3,
        "{busy_s} {}",
        worker.span_s
    );
}

#[test]
fn what_cannot_be_fitted_is_refused_with_the_reason() {
    let good = Machine::default().source(20, 1, &SIZES, 1);
    let refusal = |sources: &[Source]| gathered(sources).unwrap_err();
    let mut unknown = good.clone();
    unknown.report.images[3].outcome.input.datatype = None;
    assert!(refusal(&[unknown]).contains("datatypes"));

    let mut mostly_failed = good;
    mostly_failed.report.totals.failed = 30;
    assert!(refusal(&[mostly_failed]).contains("only 20 were done"));
}

#[test]
fn other_options_are_named() {
    let mut source = Machine::default().source(20, 1, &SIZES, 1);
    let options = serde_json::json!({"filter": "gaussian", "sigma_vox": [2.0, 2.0, 2.0], "nan": "propagate"});
    source.report.options =
        serde_json::json!({"filter": "gaussian", "sigma_vox": [3.0, 2.0, 2.0], "compression": 6});
    source.report.launch.sync = Some(!job().sync);
    let job = job();
    let refused = gather(
        &[source.clone()],
        &Wanted {
            job: &job,
            options: &options,
            memory_bytes: &HashMap::new(),
        },
    )
    .unwrap_err();
    for words in [
        "sigma_vox [3.0,2.0,2.0] instead of [2.0,2.0,2.0]",
        "compression 6 instead of none",
        "nan none instead of propagate",
        "--no-sync",
    ] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    source.report.options = options.clone();
    source.report.launch.sync = Some(job.sync);
    assert!(
        gather(
            &[source],
            &Wanted {
                job: &job,
                options: &options,
                memory_bytes: &HashMap::new()
            }
        )
        .is_ok()
    );
}

#[test]
fn failed_images_are_named_and_left_out() {
    let mut source = Machine::default().source(20, 1, &SIZES, 1);
    for place in 0..4 {
        fail(&mut source, place, &format!("in/{place}.nii.gz: cut short"));
    }
    let measured = gathered(&[source]).unwrap();
    assert_eq!((measured.images().count(), measured.failed.len()), (16, 4));
    assert_eq!(
        measured.notes[0],
        "in/0.nii.gz failed when it was measured: cut short"
    );
    assert_eq!(measured.notes[3], "1 more images failed");
}
