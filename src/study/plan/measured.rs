//! Measurements: turns reports into samples of images and runs. Refuses reports that do not fit together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::job::ImageJob;
use crate::job::outcome::{Status, Timings};
use crate::partition::Strategy;
use crate::report::Report;
use crate::study::statistics::Summary;
use crate::text::counted;
use crate::volume::Datatype;

/// With fewer images the spread between images is unknown.
pub(crate) const FEWEST_IMAGES: usize = 5;

/// A note mentions other programs if they kept more CPUs busy than this.
const BUSY_CPUS: f64 = 0.2;

/// The properties of an image, other than its size, on which its cost depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ImageClass {
    pub datatype: Datatype,
    /// Whether it has an intensity scale and is therefore computed in floating point.
    pub scaled: bool,
}

impl std::fmt::Display for ImageClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scaled {
            true => write!(f, "{} with an intensity scale", self.datatype),
            false => write!(f, "{}", self.datatype),
        }
    }
}

/// The properties of an image that are known before it is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ImageFeatures {
    pub class: ImageClass,
    /// Voxels of all its volumes.
    pub voxels: u64,
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Bytes that a worker needs for it.
    pub memory_bytes: u64,
}

/// Names of the stages. The last one waits for the disk while the worker processes the next images.
pub(crate) const STAGES: [&str; 4] = ["read", "filter", "write", "publish"];
/// The stage that occupies the disk and not the worker.
pub(crate) const PUBLISH: usize = 3;

/// Seconds of each stage.
pub(crate) fn stages_s(timings: &Timings) -> [f64; 4] {
    let [read_s, filter_s] = [timings.read_s, timings.filter_s];
    [read_s, filter_s, timings.write_s, timings.publish_s]
}

/// One measured image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageSample {
    pub features: ImageFeatures,
    /// Seconds of each stage.
    pub stage_s: [f64; 4],
}

/// One measured run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunSample {
    /// The images that were done, in the list's order.
    pub images: Vec<ImageSample>,
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    pub nodes: usize,
    pub strategy: Strategy,
    /// CPUs of a node; infinite if the report does not contain them.
    pub cpus_per_node: f64,
    /// Seconds from the run's start to its first image.
    pub setup_s: f64,
    /// Seconds from the first image's start until the last result had its final name.
    pub working_s: f64,
    /// Seconds from the last result until the records were gathered.
    pub finish_s: f64,
    /// Additional seconds for launching; `None` if not measured.
    pub launch_s: Option<f64>,
    /// Highest memory of a rank, in bytes.
    pub rss_bytes: u64,
    /// Whether `srun` started its ranks.
    pub by_srun: bool,
}

impl RunSample {
    /// Number of workers that are busy at the same time, on all nodes.
    pub fn workers(&self) -> f64 {
        (self.ranks * self.threads).min(self.images.len()).max(1) as f64
    }

    /// Number of such workers per node.
    pub fn per_node(&self) -> f64 {
        (self.workers() / self.nodes as f64).max(1.0)
    }

    /// Largest memory that a worker needed for one image, in bytes.
    pub fn largest_bytes(&self) -> u64 {
        let bytes = self.images.iter().map(|image| image.features.memory_bytes);
        bytes.max().unwrap_or(0)
    }
}

/// The measurements to which a model is fitted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measurements {
    /// Names of the reports, for messages.
    pub names: Vec<String>,
    pub runs: Vec<RunSample>,
    /// Number of different images that were measured.
    pub distinct_images: usize,
    pub hosts: BTreeSet<String>,
    /// Failed inputs and their errors.
    pub failed: BTreeMap<String, String>,
    /// Factor by which reading takes longer if files are not in memory yet.
    pub reading_factor: f64,
    /// Notes for the reader.
    pub notes: Vec<String>,
}

impl Measurements {
    /// Whether this image failed. Reports contain paths as they were given to the run.
    pub fn has_failed(&self, image: &Path) -> bool {
        let absolute = std::path::absolute(image).unwrap_or_default();
        let mut names = [image, &absolute].into_iter().map(Path::to_string_lossy);
        names.any(|name| self.failed.contains_key(&*name))
    }
}

/// A report, and measurements of the same run that it does not contain.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Name in messages.
    pub name: String,
    pub report: Report,
    /// Seconds from the launcher's start to its end, if measured.
    pub wall_s: Option<f64>,
    /// Number of CPUs that other programs kept busy during the run, if measured.
    pub others_cpus: Option<f64>,
}

/// Bytes that a worker needs for an image, by class and voxels.
pub(crate) type MemoryByKind = BTreeMap<(ImageClass, u64), u64>;

/// Reads samples from reports. `options` contains the options of the planned `job` in the form that reports
/// use.
///
/// # Errors
/// A message if there are too few images, or if the reports were measured with other options, with different
/// report versions, or on machines with different CPU models.
pub(crate) fn gather(
    sources: &[Source],
    job: &ImageJob,
    options: &Value,
    memory: &MemoryByKind,
) -> Result<Measurements, String> {
    for source in sources {
        agree(source, job, options)?;
    }
    agree_with_each_other(sources)?;
    let mut measured = Measurements {
        names: sources.iter().map(|source| source.name.clone()).collect(),
        reading_factor: 1.0,
        ..Measurements::default()
    };
    let mut distinct = BTreeSet::new();
    for source in sources {
        measured.hosts.extend(source.report.launch.nodes.iter().cloned());
        let rows = source.report.images.iter();
        let done = rows.filter(|row| row.outcome.status() == Status::Done);
        distinct.extend(done.map(|row| row.input.as_str()));
        take_run(source, memory, &mut measured)?;
    }
    measured.distinct_images = distinct.len();
    enough(&measured, sources)?;
    let notes = &mut measured.notes;
    for (input, error) in measured.failed.iter().take(3) {
        let error = error.strip_prefix(input).unwrap_or(error);
        let error = error.trim_start_matches(": ");
        notes.push(format!("{input} failed when it was measured: {error}"));
    }
    if measured.failed.len() > 3 {
        notes.push(format!("{} more images failed", measured.failed.len() - 3));
    }
    let others: Vec<f64> = sources.iter().filter_map(|source| source.others_cpus).collect();
    let busy = Summary::of(&others).mean;
    if busy > BUSY_CPUS {
        notes.push(format!(
            "other programs kept {busy:.1} CPUs of the machine busy during the measurements, which may have \
            slowed them"
        ));
    }
    Ok(measured)
}

fn enough(measured: &Measurements, sources: &[Source]) -> Result<(), String> {
    let sum = |count: fn(&Source) -> usize| sources.iter().map(count).sum::<usize>();
    let done = sum(|source| source.report.totals.done);
    let failed = sum(|source| source.report.totals.failed);
    if failed > done {
        let first = measured.failed.values().next().map_or("", String::as_str);
        return Err(format!(
            "{failed} of {} measured images failed, so the cost of an image is unknown; the first: {first}",
            failed + done
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

/// Refuses a report that was measured with other options than the planned ones.
fn agree(source: &Source, job: &ImageJob, options: &Value) -> Result<(), String> {
    let (name, report) = (&source.name, &source.report);
    if report.images.iter().any(|image| !image.shared.is_empty()) {
        return Err(format!(
            "{name}: ranks shared images in this run, and a plan is for images that one rank processes; \
            measure with --split never"
        ));
    }
    let mut differences = differences(&costing(&report.options), &costing(options));
    if report.launch.sync.is_some_and(|sync| sync != job.sync) {
        let instead = if job.sync { "with" } else { "without" };
        differences.push(format!("{instead} --no-sync"));
    }
    if report.options.is_null() && report.filter != job.describe() {
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

/// The options without names of files, which do not affect the cost of an image.
fn costing(options: &Value) -> Value {
    let mut options = options.clone();
    if let Some(name @ Value::String(_)) = options.pointer_mut("/filter/output_noise") {
        *name = "a file".into();
    }
    options
}

/// The options in which a report differs; none if it contains no options.
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
    let different = |values: BTreeSet<&str>| {
        let values = Vec::from_iter(values);
        (values.len() > 1).then(|| values.join("; "))
    };
    let reports = || sources.iter().map(|source| &source.report);
    if let Some(schemas) = different(reports().map(|report| report.schema.as_str()).collect()) {
        return Err(format!(
            "the reports are of different versions ({schemas}): in older ones writing includes the wait for \
            the disk; give reports of one version"
        ));
    }
    let models = reports()
        .flat_map(|report| &report.ranks)
        .map(|rank| rank.cpu_model.as_str());
    if let Some(models) = different(models.filter(|model| !model.is_empty()).collect()) {
        return Err(format!(
            "the measurements come from machines with different CPUs ({models}), which are not equally fast; \
            give those of one kind"
        ));
    }
    Ok(())
}

fn take_run(source: &Source, memory: &MemoryByKind, into: &mut Measurements) -> Result<(), String> {
    let report = &source.report;
    let mut images = Vec::with_capacity(report.images.len());
    let (mut first_start_s, mut last_end_s) = (f64::INFINITY, 0.0_f64);
    // The memory of an image that is not in the list is estimated from its voxels.
    let most = memory
        .iter()
        .map(|((_, voxels), &bytes)| bytes as f64 / (*voxels).max(1) as f64);
    let bytes_per_voxel = most.fold(1.0, f64::max);
    for row in &report.images {
        let (outcome, input) = (&row.outcome, &row.outcome.input);
        if let Some(failure) = outcome.failure() {
            into.failed.insert(row.input.clone(), failure.error.clone());
        }
        if outcome.status() != Status::Done {
            continue;
        }
        let Some(datatype) = input.datatype else {
            return Err(format!(
                "{}: does not name the datatypes of its images, as reports of older versions do not; measure \
                again",
                source.name
            ));
        };
        let (voxels, scaled) = (input.voxels, input.scaled);
        let class = ImageClass { datatype, scaled };
        let memory_bytes = memory.get(&(class, voxels)).copied();
        let features = ImageFeatures {
            class,
            voxels,
            file_bytes: input.bytes,
            memory_bytes: memory_bytes.unwrap_or((voxels as f64 * bytes_per_voxel) as u64),
        };
        let timings = &outcome.timings;
        first_start_s = first_start_s.min(outcome.start_s);
        // Without an end, as in reports of earlier versions: as if one thread had done the work.
        let after_stages_s = outcome.start_s + timings.worker_s() + timings.publish_s;
        last_end_s = last_end_s.max(outcome.end_s.unwrap_or(after_stages_s));
        images.push(ImageSample {
            features,
            stage_s: stages_s(timings),
        });
    }
    if images.is_empty() {
        return Ok(());
    }
    let launch = &report.launch;
    let nodes = launch.nodes.len().max(1);
    into.runs.push(RunSample {
        images,
        ranks: launch.ranks,
        threads: launch.threads_per_rank,
        nodes,
        strategy: report.strategy,
        cpus_per_node: launch
            .cpus
            .map_or(f64::INFINITY, |cpus| cpus as f64 / nodes as f64),
        setup_s: first_start_s,
        working_s: last_end_s - first_start_s,
        finish_s: (report.elapsed_s - last_end_s).max(0.0),
        launch_s: source.wall_s.map(|wall_s| (wall_s - report.elapsed_s).max(0.0)),
        rss_bytes: report.totals.max_rss_bytes,
        by_srun: source.wall_s.is_none() && launch.slurm.as_ref().is_some_and(|job| job.step_id.is_some()),
    });
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
