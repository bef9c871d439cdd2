//! Measurements: reports → samples of images, workers and runs. Refuses reports that cannot be fitted
//! together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use serde_json::Value;

use crate::filter::ImageInfo;
use crate::job::outcome::{InputFacts, Status, Timings};
use crate::job::{ImageJob, memory};
use crate::report::{ImageRow, Report};
use crate::study::statistics::Summary;
use crate::text::counted;
use crate::volume::{Datatype, Scaling};

/// Fewer images than this do not show how much images differ.
pub(crate) const FEWEST_IMAGES: usize = 5;

/// A note mentions other programs when they kept more CPUs busy than this.
const BUSY_CPUS: f64 = 0.2;

/// What decides an image's cost besides its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ImageClass {
    pub datatype: Datatype,
    /// Whether it has an intensity scale, and so is computed in floating point.
    pub scaled: bool,
}

impl std::fmt::Display for ImageClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scaled = if self.scaled {
            " with an intensity scale"
        } else {
            ""
        };
        write!(f, "{}{scaled}", self.datatype)
    }
}

/// What is known of an image before it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ImageFeatures {
    pub class: ImageClass,
    /// Voxels of all its volumes.
    pub voxels: u64,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Bytes that a worker holds for it.
    pub memory_bytes: u64,
}

/// Names of the stages. The last one is the disk's: it goes on while the worker is at the next images.
pub(crate) const STAGES: [&str; 4] = ["read", "filter", "write", "publish"];
/// The stage that keeps the disk and not the worker.
pub(crate) const PUBLISH: usize = 3;

/// Seconds of each stage.
pub(crate) fn stages_s(timings: &Timings) -> [f64; 4] {
    [
        timings.read_s,
        timings.filter_s,
        timings.write_s,
        timings.publish_s,
    ]
}

/// One measured image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageSample {
    pub features: ImageFeatures,
    /// Seconds of each stage.
    pub stage_s: [f64; 4],
}

impl ImageSample {
    /// Seconds that the image kept its worker.
    pub fn worker_s(&self) -> f64 {
        self.stage_s[..PUBLISH].iter().sum()
    }
}

/// What one worker of a run did.
#[derive(Clone, Debug)]
pub(crate) struct WorkerSample {
    /// The run's place in [`Measurements::runs`].
    pub run: usize,
    pub images: Vec<ImageSample>,
    /// From its first image's start until its last result had its name, seconds.
    pub span_s: f64,
}

/// One measured run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunSample {
    pub images: usize,
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    pub nodes: usize,
    /// CPUs of all nodes together; `None` where the report does not say.
    pub cpus: Option<usize>,
    /// From the run's start to its first image, seconds.
    pub setup_s: f64,
    /// From the last result to the gathered records, seconds.
    pub finish_s: f64,
    /// What launching took in addition, seconds; `None` where nobody measured it.
    pub launch_s: Option<f64>,
    /// The most that one rank held, bytes.
    pub rss_bytes: u64,
    /// The most that one worker held for an image, bytes.
    pub largest_bytes: u64,
    /// Whether `srun` started its ranks.
    pub by_srun: bool,
}

impl RunSample {
    /// Workers that work at the same time on all nodes.
    pub fn workers(&self) -> f64 {
        (self.ranks * self.threads).min(self.images).max(1) as f64
    }

    /// The same per node.
    pub fn workers_per_node(&self) -> f64 {
        self.workers() / self.nodes.max(1) as f64
    }

    /// CPUs of a node.
    pub fn cpus_per_node(&self) -> f64 {
        let per_node = |cpus: usize| cpus as f64 / self.nodes.max(1) as f64;
        self.cpus.map_or(f64::INFINITY, per_node)
    }
}

/// Everything that a model is fitted to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measurements {
    pub runs: Vec<RunSample>,
    pub workers: Vec<WorkerSample>,
    /// How many images were measured, each perhaps several times.
    pub distinct_images: usize,
    pub hosts: Vec<String>,
    /// Inputs that failed, with the error.
    pub failed: BTreeMap<String, String>,
    /// How many times as long reading takes where files are not in memory yet.
    pub reading_factor: f64,
    /// What the reader should know.
    pub notes: Vec<String>,
}

impl Measurements {
    /// All measured images.
    pub fn images(&self) -> impl Iterator<Item = &ImageSample> {
        self.workers.iter().flat_map(|worker| &worker.images)
    }

    /// Whether this image failed. Reports name images as the run got them.
    pub fn has_failed(&self, image: &Path) -> bool {
        let absolute = std::path::absolute(image).unwrap_or_default();
        [image, &absolute]
            .into_iter()
            .any(|path| self.failed.contains_key(&*path.to_string_lossy()))
    }
}

/// A report with what else is known of the run.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its name for messages.
    pub name: String,
    pub report: Report,
    /// Seconds from the launcher's start to its end, where they were measured.
    pub wall_s: Option<f64>,
    /// CPUs of the machine that other programs kept busy meanwhile, where they were measured.
    pub others_cpus: Option<f64>,
}

/// What measurements must agree with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub job: &'a ImageJob,
    /// The job's identity, as reports have it.
    pub options: &'a Value,
    /// Bytes that a worker holds for images whose headers were read, by their paths.
    pub memory_bytes: &'a HashMap<String, u64>,
}

/// Reads samples from reports.
///
/// # Errors
/// A sentence when there is too little, or when the reports were measured with other options, by versions
/// that measured other things, or on machines with different CPUs.
pub(crate) fn gather(sources: &[Source], wanted: &Wanted<'_>) -> Result<Measurements, String> {
    if sources.is_empty() {
        return Err(
            "there is no measurement; give reports with --from, or measure here with --pilot 20".to_owned(),
        );
    }
    for source in sources {
        agree(source, wanted)?;
    }
    agree_with_each_other(sources)?;
    let mut measured = Measurements {
        reading_factor: 1.0,
        ..Measurements::default()
    };
    let (mut hosts, mut distinct) = (BTreeSet::new(), BTreeSet::new());
    let (mut done, mut failed) = (0, 0);
    for source in sources {
        let totals = &source.report.totals;
        (done, failed) = (done + totals.done, failed + totals.failed);
        hosts.extend(source.report.launch.nodes.iter().cloned());
        for row in &source.report.images {
            if row.outcome.status() == Status::Done {
                distinct.insert(row.input.as_str());
            }
            if let Some(failure) = row.outcome.failure() {
                measured.failed.insert(row.input.clone(), failure.error.clone());
            }
        }
        take_run(source, wanted, &mut measured)?;
    }
    measured.hosts = hosts.into_iter().collect();
    measured.distinct_images = distinct.len();
    enough(&measured, done, failed)?;
    for (input, error) in measured.failed.iter().take(3) {
        let error = error
            .strip_prefix(input)
            .unwrap_or(error)
            .trim_start_matches(": ");
        measured
            .notes
            .push(format!("{input} failed when it was measured: {error}"));
    }
    if measured.failed.len() > 3 {
        measured
            .notes
            .push(format!("{} more images failed", measured.failed.len() - 3));
    }
    let others: Vec<f64> = sources.iter().filter_map(|source| source.others_cpus).collect();
    let busy = Summary::of(&others).mean;
    if busy > BUSY_CPUS {
        measured.notes.push(format!(
            "other programs kept {busy:.1} CPUs of the machine busy during the measurements, which may have \
            slowed them"
        ));
    }
    Ok(measured)
}

fn enough(measured: &Measurements, done: usize, failed: usize) -> Result<(), String> {
    if done == 0 {
        let first = measured.failed.values().next().map_or("", String::as_str);
        return Err(format!(
            "all {failed} measured images failed, so the cost of an image is unknown; the first: {first}"
        ));
    }
    if failed > done {
        return Err(format!(
            "{failed} measured images failed and only {done} were done, which may not be representative"
        ));
    }
    if measured.distinct_images < FEWEST_IMAGES {
        return Err(format!(
            "{} cannot show how much images differ; measure {FEWEST_IMAGES} or more (--pilot 20)",
            counted(measured.distinct_images, "measured image")
        ));
    }
    Ok(())
}

/// Whether the report was measured with the options that are planned for.
fn agree(source: &Source, wanted: &Wanted<'_>) -> Result<(), String> {
    let (name, report) = (&source.name, &source.report);
    let mut differences = differences(&report.options, wanted.options);
    let sync = |sync: bool| if sync { "synced results" } else { "--no-sync" };
    if let Some(measured) = report.launch.sync
        && measured != wanted.job.sync
    {
        differences.push(format!("{} instead of {}", sync(measured), sync(wanted.job.sync)));
    }
    if report.options.is_null() && report.filter != wanted.job.describe() {
        differences.push("another filter".to_owned());
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{name}: was measured with other options than those planned for ({}); plan with the same options, or \
        measure again",
        differences.join(", ")
    ))
}

/// The options in which a report differs; nothing where it names none.
fn differences(measured: &Value, wanted: &Value) -> Vec<String> {
    let (Value::Object(measured), Value::Object(wanted)) = (measured, wanted) else {
        return Vec::new();
    };
    let names: BTreeSet<&String> = measured.keys().chain(wanted.keys()).collect();
    let shown = |value: Option<&Value>| match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "none".to_owned(),
    };
    names
        .into_iter()
        .map(|name| (name, measured.get(name), wanted.get(name)))
        .filter(|(_, measured, wanted)| measured != wanted)
        .map(|(name, measured, wanted)| format!("{name} {} instead of {}", shown(measured), shown(wanted)))
        .collect()
}

fn agree_with_each_other(sources: &[Source]) -> Result<(), String> {
    let schemas: BTreeSet<&str> = sources
        .iter()
        .map(|source| source.report.schema.as_str())
        .collect();
    if schemas.len() > 1 {
        return Err(format!(
            "the reports are of different versions ({}): in older ones writing includes the wait for the \
            disk; give \
             reports of one version",
            Vec::from_iter(schemas).join(" and ")
        ));
    }
    let models: BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| &source.report.ranks)
        .map(|rank| rank.cpu_model.as_str())
        .filter(|model| !model.is_empty())
        .collect();
    if models.len() > 1 {
        return Err(format!(
            "the measurements come from machines with different CPUs ({}), which are not equally fast; give \
            those of one \
             kind",
            Vec::from_iter(models).join("; ")
        ));
    }
    Ok(())
}

fn take_run(source: &Source, wanted: &Wanted<'_>, into: &mut Measurements) -> Result<(), String> {
    let report = &source.report;
    let run = into.runs.len();
    let (mut images, mut largest_bytes) = (0, 0);
    let (mut first_start_s, mut last_end_s) = (f64::INFINITY, 0.0_f64);
    for rows in done_by_worker(report).into_values() {
        let (mut start_s, mut end_s) = (f64::INFINITY, 0.0_f64);
        let mut samples = Vec::with_capacity(rows.len());
        for row in rows {
            let (outcome, timings) = (&row.outcome, &row.outcome.timings);
            let Some(datatype) = outcome.input.datatype else {
                return Err(format!(
                    "{}: does not name the datatypes of its images, as reports of older versions do not; \
                    measure again",
                    source.name
                ));
            };
            let class = ImageClass {
                datatype,
                scaled: outcome.input.scaled,
            };
            let voxels = outcome.input.voxels;
            let features =
                ImageFeatures {
                    class,
                    voxels,
                    file_bytes: outcome.input.bytes,
                    memory_bytes: wanted.memory_bytes.get(&row.input).copied().unwrap_or_else(|| {
                        memory::image_bytes(wanted.job, &info(&outcome.input, datatype), 1)
                    }),
                };
            samples.push(ImageSample {
                features,
                stage_s: stages_s(timings),
            });
            largest_bytes = largest_bytes.max(features.memory_bytes);
            start_s = start_s.min(outcome.start_s);
            end_s = end_s.max(outcome.start_s + timings.worker_s() + timings.publish_s);
        }
        images += samples.len();
        first_start_s = first_start_s.min(start_s);
        last_end_s = last_end_s.max(end_s);
        into.workers.push(WorkerSample {
            run,
            images: samples,
            span_s: end_s - start_s,
        });
    }
    if images == 0 {
        return Ok(());
    }
    let launch = &report.launch;
    into.runs.push(RunSample {
        images,
        ranks: launch.ranks,
        threads: launch.threads_per_rank,
        nodes: launch.nodes.len().max(1),
        cpus: launch.cpus,
        setup_s: first_start_s,
        finish_s: (report.elapsed_s - last_end_s).max(0.0),
        launch_s: source.wall_s.map(|wall_s| (wall_s - report.elapsed_s).max(0.0)),
        rss_bytes: report.totals.max_rss_bytes,
        largest_bytes,
        by_srun: source.wall_s.is_none() && launch.slurm.as_ref().is_some_and(|job| job.step_id.is_some()),
    });
    Ok(())
}

/// About the image of a report's row, which has the number of voxels and not the shape.
fn info(input: &InputFacts, datatype: Datatype) -> ImageInfo {
    let side = (input.voxels as f64).cbrt().round().max(1.0) as usize;
    let slices = (input.voxels as usize).div_ceil(side * side);
    ImageInfo {
        shape: vec![side, side, slices],
        voxel_size_mm: input.voxel_size_mm.unwrap_or([2.0; 3]),
        datatype,
        scaling: input.scaled.then_some(Scaling {
            slope: 1.0,
            intercept: 1.0,
        }),
        nonfinite_voxels: None,
        mask_voxels: None,
    }
}

/// The images that were done, by rank and worker.
fn done_by_worker(report: &Report) -> BTreeMap<(usize, usize), Vec<&ImageRow>> {
    let mut by_worker: BTreeMap<(usize, usize), Vec<&ImageRow>> = BTreeMap::new();
    for row in &report.images {
        if row.outcome.status() == Status::Done {
            by_worker
                .entry((row.outcome.rank, row.outcome.worker))
                .or_default()
                .push(row);
        }
    }
    by_worker
}

#[cfg(test)]
pub(crate) mod tests;
