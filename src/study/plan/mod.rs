//! Plans: predict the time and memory of many images from measurements of a few, and write the request.
//!
//! | file | what it holds |
//! |---|---|
//! | `measured` | turns reports into samples of images and runs; refuses reports that do not fit together |
//! | `pilot`, `choose` | chooses a few images of the list and measures them on this machine |
//! | `listed` | the images of the plan, from their headers; rank 0's own work for each |
//! | `model` | cost of an image, slow-down by other workers, uncertainty of both |
//! | `memory` | memory of a rank |
//! | `predict` | time with an interval, memory, core hours and efficiency of a layout |
//! | `recommend` | chooses a layout and states the reasons |
//! | `request` | the request to Slurm and the remarks of the batch script |
//! | `document` | the plan as JSON |
//! | `check` | compares predicted, requested and used resources |
//!
//! ```text
//! measured ← pilot · listed ← model, memory ← predict ← recommend, request ← document ← check
//! ```

pub(crate) mod check;
mod choose;
pub(crate) mod document;
mod listed;
mod measured;
mod memory;
mod model;
mod pilot;
pub(crate) mod predict;
pub(crate) mod recommend;
pub(crate) mod request;

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::document::{PlanDocument, SCHEMA};
use self::listed::Listed;
use self::measured::{Measurements, STAGES, Source};
use self::memory::MemoryModel;
use self::model::Model;
use self::pilot::{Pilot, PilotRequest};
use self::predict::{Bounds, Prediction, Predictor};
use super::scaling::folder::StudyFolder;
use super::scaling::record::Run;
use crate::columns::{Style, Table};
use crate::images::ListRequest;
use crate::job::ImageJob;
use crate::launch::LocalMachine;
use crate::partition::Strategy;
use crate::slurm::limits::PartitionLimits;
use crate::{comm, report, resources, run};

/// A class whose measured images all failed is left out of the plan if it has at most this fraction of the
/// images.
const FEW: f64 = 0.1;

/// What to plan.
#[derive(Clone, Debug)]
pub(crate) struct PlanRequest {
    pub list: ListRequest,
    /// Number of images to plan for; `None`: the existing ones.
    pub images: Option<usize>,
    pub job: ImageJob,
    /// The job's options as command-line arguments.
    pub options: Vec<OsString>,
    pub strategy: Strategy,
    /// Reports and studies to plan from; if empty, a pilot runs.
    pub from: Vec<PathBuf>,
    /// Images of the pilot.
    pub pilot: usize,
    pub mpirun: Option<PathBuf>,
    pub bounds: Bounds,
    /// Limits of the partition.
    pub limits: Option<PartitionLimits>,
    pub partition: Option<String>,
    /// Whether `srun` will start the ranks.
    pub for_srun: bool,
    pub quiet: bool,
}

/// A plan as text and as a document for programs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub text: String,
    pub document: PlanDocument,
    /// Number of existing images, including damaged ones.
    pub listed: usize,
}

/// Measures or reads measurements, fits the model, and predicts every layout.
///
/// # Errors
/// A message if there is nothing to measure, the measurements do not fit together or do not fit the list, or
/// no layout is possible.
pub(crate) fn plan(request: &PlanRequest) -> Result<Plan, String> {
    let mut listed = listed::probe(&request.list, &request.job, request.images)?;
    let mut measured = measure(request, &listed)?;
    let model = Model::fit(&measured)?;
    leave_out_unmeasured(&mut listed, &model, &mut measured)?;
    let images = listed.planned.len();
    let memory = MemoryModel::fit(&measured.runs, listed.bytes_per_image(), images, request.for_srun);
    let predictor = Predictor::new(&listed, &model, &memory, request.strategy);
    let (layouts, unfit) = request.bounds.layouts();
    let ask = |prediction: &Prediction| {
        request::request(prediction, listed.largest_bytes(), request.partition.as_deref())
    };
    let predict = |layout| {
        let mut prediction = predictor.predict(layout);
        let limits = request.limits.as_ref();
        let exceeded = request.bounds.exceeded(&prediction);
        prediction.beyond = exceeded.or_else(|| limits?.refuses(&ask(&prediction)));
        prediction
    };
    let mut predictions: Vec<Prediction> = layouts.into_iter().map(predict).collect();
    let chosen = recommend::mark(&mut predictions, &unfit)?;
    measured.notes.extend(unfit);
    let asked = ask(&predictions[chosen]);
    let mut text = format!(
        "{images} images planned for, {} measured {} times in {} runs on {} (runs differ by {:.0} %)\n{}{}",
        measured.distinct_images,
        measured.runs.iter().map(|run| run.images.len()).sum::<usize>(),
        measured.runs.len(),
        Vec::from_iter(measured.hosts.iter().map(String::as_str)).join(", "),
        model.run_sd() * 100.0,
        Table::of(&recommend::COLUMNS, &predictions).draw(Style::Terminal),
        recommend::reasons(&predictions, chosen, &predictor, &model, &listed)
    );
    for note in &measured.notes {
        let _ = writeln!(text, "Note: {note}.");
    }
    let _ = writeln!(text, "Request: {}", request::in_words(&asked));
    let document = PlanDocument {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        images,
        dominated_by: STAGES[predictor.dominated_by()].to_owned(),
        shares: predictor.shares(),
        measured_on: measured.hosts.into_iter().collect(),
        ceiling_images_per_s: predictor.ceiling(),
        configurations: predictions,
        request: asked,
        report: None,
        notes: measured.notes,
    };
    Ok(Plan {
        text,
        document,
        listed: listed.listed,
    })
}

/// Runs the pilot or reads reports.
fn measure(request: &PlanRequest, listed: &Listed) -> Result<Measurements, String> {
    let pilot = if request.from.is_empty() {
        run_pilot(request, listed)?
    } else {
        Pilot {
            sources: read_sources(&request.from)?,
            reading_factor: 1.0,
            notes: Vec::new(),
        }
    };
    let job = &request.job;
    let mut measured = measured::gather(&pilot.sources, job, &job.options(), &listed.memory_by_kind())?;
    measured.reading_factor = pilot.reading_factor;
    measured.notes.extend(pilot.notes);
    Ok(measured)
}

/// Leaves images out whose headers or masks cannot be used, or of whose class none was measured because all
/// of them failed, and names them in notes.
///
/// # Errors
/// A message if a class was not measured, or if it is too large to be left out.
fn leave_out_unmeasured(
    listed: &mut Listed,
    model: &Model,
    measured: &mut Measurements,
) -> Result<(), String> {
    let unusable = listed.unusable();
    if unusable > 0 {
        measured.notes.push(format!(
            "{unusable} of {} images have a header or a mask that cannot be used; they will fail and are not \
            planned for",
            listed.listed
        ));
    }
    for (class, count) in listed.classes() {
        if model.knows(&class) {
            continue;
        }
        let mut of_class = listed.found.iter().filter(|image| image.features.class == class);
        if !of_class.any(|image| measured.has_failed(&image.input)) {
            return Err(format!(
                "{count} of the images are {class}, but none of that kind was measured, so their cost is \
                unknown; measure some of each kind (--pilot 20 does)"
            ));
        }
        let failed = format!("{count} of the images are {class}; all of that kind that were measured failed");
        if count as f64 > FEW * listed.planned.len() as f64 {
            return Err(format!(
                "{failed}, so their cost is unknown; {}",
                measured.notes.join("; ")
            ));
        }
        measured
            .notes
            .push(format!("{failed}, so they are not planned for"));
        listed.planned.retain(|image| image.class != class);
    }
    Ok(())
}

fn run_pilot(request: &PlanRequest, listed: &Listed) -> Result<Pilot, String> {
    let output = &request.list.output;
    let output = std::path::absolute(output).map_err(|error| format!("{}: {error}", output.display()))?;
    let mpirun = request.mpirun.as_deref();
    let (machine, without_ranks) = match LocalMachine::new(mpirun, comm::library().is_some()) {
        Ok(machine) => (machine, None),
        Err(reason) if mpirun.is_none() => (LocalMachine::new(None, false)?, Some(reason)),
        Err(reason) => return Err(reason),
    };
    let stop = run::on_signals();
    let pilot = PilotRequest {
        images: request.pilot,
        options: &request.options,
        masks: request.list.mask.as_ref(),
        second: request.list.second.as_deref(),
        beside: output.parent().unwrap_or(Path::new("/")),
        cpus: resources::available_cpus(),
        quiet: request.quiet,
        stop: &stop,
    };
    let mut pilot = pilot::run(&pilot, &machine, listed)?;
    pilot
        .notes
        .extend(without_ranks.map(|reason| format!("the pilot ran one rank only: {reason}")));
    Ok(pilot)
}

/// Reads reports. For studies, also reads the times and the load in the records of the runs.
fn read_sources(paths: &[PathBuf]) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for path in paths {
        if StudyFolder::is_study(path) {
            let folder = StudyFolder::at(path);
            let source = |run: Run| {
                Some(Source {
                    name: run.record.configuration.id(),
                    report: run.report?,
                    wall_s: run.record.wall_s,
                    others_cpus: run.record.others_cpus,
                })
            };
            sources.extend(
                folder
                    .read_runs(&folder.read_spec()?)?
                    .into_iter()
                    .filter_map(source),
            );
        } else if path.is_dir() {
            let path = path.display();
            return Err(format!("--from {path}: is a folder without a study (study.json)"));
        } else {
            sources.push(Source {
                name: path.display().to_string(),
                report: report::read(path)?,
                wall_s: None,
                others_cpus: None,
            });
        }
    }
    Ok(sources)
}
