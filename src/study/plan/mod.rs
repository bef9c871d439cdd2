//! Plans: from measurements on few images to the time and memory of many, and to the request that fits.
//!
//! | file | what it holds |
//! |---|---|
//! | `measured` | reports → samples of images, workers and runs; refuses what cannot be fitted together |
//! | `pilot`, `choose` | a few images of the list, processed here to measure |
//! | `listed` | the images that are planned for, by their headers alone |
//! | `model` | what an image costs, how workers slow each other down, how uncertain all that is |
//! | `spread` | how far measured times differ: images, workers, runs |
//! | `memory` | what a rank holds |
//! | `rank0` | rank 0's own work for every image |
//! | `play` | a run of the list, simulated |
//! | `predict` | nodes × ranks × threads → time with an interval, memory, core hours, efficiency |
//! | `recommend` | which layout to take, and why |
//! | `request` | what to ask of Slurm, and the batch script |
//! | `document` | the plan as JSON |
//! | `check` | predicted against used |
//!
//! ```text
//! measured ← pilot · listed ← model, memory ← play ← predict ← recommend, request ← document ← check
//! ```

pub(crate) mod check;
mod choose;
pub(crate) mod document;
mod listed;
mod measured;
mod memory;
mod model;
mod pilot;
mod play;
pub(crate) mod predict;
mod rank0;
pub(crate) mod recommend;
pub(crate) mod request;
mod spread;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::document::{PlanDocument, SCHEMA};
use self::listed::Listed;
use self::measured::{ImageClass, Measurements, STAGES, Source, Wanted};
use self::memory::MemoryModel;
use self::model::Model;
use self::pilot::{Pilot, PilotRequest};
use self::predict::{Bounds, Prediction, Predictor};
use super::scaling::folder::StudyFolder;
use crate::columns::{Grid, Style};
use crate::images::ListRequest;
use crate::job::ImageJob;
use crate::launch::LocalMachine;
use crate::partition::Strategy;
use crate::slurm::limits::PartitionLimits;
use crate::{comm, report, resources, run};

/// Images that failed when they were measured are left out of the plan if they are fewer than this part of
/// all.
const FEW: f64 = 0.1;

/// What to plan.
#[derive(Clone, Debug)]
pub(crate) struct PlanRequest {
    pub list: ListRequest,
    /// Images to plan for; `None` for those that exist.
    pub images: Option<usize>,
    pub job: ImageJob,
    /// The job's options as words of a command line.
    pub options: Vec<OsString>,
    pub strategy: Strategy,
    /// Reports and studies to plan from; none for a pilot.
    pub from: Vec<PathBuf>,
    /// Images of the pilot.
    pub pilot: usize,
    pub mpirun: Option<PathBuf>,
    pub bounds: Bounds,
    /// What the partition gives.
    pub limits: Option<PartitionLimits>,
    pub partition: Option<String>,
    /// Whether `srun` will start the ranks.
    pub for_srun: bool,
    pub quiet: bool,
}

/// A plan: for people, and for programs.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub text: String,
    pub document: PlanDocument,
    /// Images that exist, damaged ones included.
    pub listed: usize,
}

/// Measures or reads measurements, fits, and predicts every layout.
///
/// # Errors
/// A sentence when there is nothing to measure, measurements do not fit together or the list, or no layout is
/// possible.
pub(crate) fn plan(request: &PlanRequest) -> Result<Plan, String> {
    let mut listed = listed::probe(&request.list, &request.job, request.images)?;
    let mut measured = measure(request, &listed)?;
    let model = Model::fit(&measured)?;
    leave_out_unmeasured(&mut listed, &model, &mut measured)?;
    let images = listed.planned.len();
    let memory = MemoryModel::fit(
        &measured.runs,
        listed.rank0.image_bytes(),
        images,
        request.for_srun,
    );
    let predictor = Predictor::new(
        &listed,
        &model,
        &memory,
        request.strategy,
        request.job.filter_s_per_voxel(),
    );
    let (layouts, unfit) = request.bounds.layouts();
    let ask = |prediction: &Prediction| {
        request::request(prediction, listed.largest_bytes(), request.partition.as_deref())
    };
    let mut predictions: Vec<Prediction> = Vec::with_capacity(layouts.len());
    for layout in layouts {
        let mut prediction = predictor.predict(layout, request.bounds.cpus_per_node);
        let refused = |limits: &PartitionLimits| limits.refuses(&ask(&prediction));
        prediction.beyond = request
            .bounds
            .exceeded(&prediction)
            .or_else(|| request.limits.as_ref().and_then(refused));
        predictions.push(prediction);
    }
    let chosen = recommend::mark(&mut predictions, &unfit)?;
    if memory.is_beyond(predictions[chosen].layout.threads, listed.largest_bytes()) {
        measured.notes.push(
            "the largest images were not measured: their memory is extrapolated from smaller ones".to_owned(),
        );
    }
    measured.notes.extend(unfit);
    let asked = ask(&predictions[chosen]);
    let mut text = format!(
        "{images} images planned for, {} measured {} times in {} runs on {} (runs differ by {:.0} %)\n{}{}",
        measured.distinct_images,
        measured.images().count(),
        measured.runs.len(),
        measured.hosts.join(", "),
        model.run_sd() * 100.0,
        Grid::of(&recommend::COLUMNS, &predictions).draw(Style::Terminal),
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
        measured_on: measured.hosts,
        ceiling_images_per_s: predictor.ceiling().0,
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
    let wanted = Wanted {
        job: &request.job,
        options: &request.job.options(),
        memory_bytes: &listed.memory_by_path(),
    };
    let mut measured = measured::gather(&pilot.sources, &wanted)?;
    measured.reading_factor = pilot.reading_factor;
    measured.notes.extend(pilot.notes);
    Ok(measured)
}

/// Leaves images out whose headers cannot be read, that failed when they were measured, or of whose class
/// none was measured because all of them failed, and names them in notes.
///
/// # Errors
/// A sentence when more than a few images would be left out.
fn leave_out_unmeasured(
    listed: &mut Listed,
    model: &Model,
    measured: &mut Measurements,
) -> Result<(), String> {
    let unreadable = listed.unreadable();
    if unreadable > 0 {
        measured.notes.push(format!(
            "{unreadable} of {} images have headers that cannot be read; they will fail and are not planned \
            for",
            listed.listed
        ));
    }
    let unknown: BTreeMap<ImageClass, usize> = listed
        .classes()
        .into_iter()
        .filter(|(class, _)| !model.knows(class))
        .collect();
    let failed_classes: Vec<ImageClass> = listed
        .found
        .iter()
        .filter(|(path, _)| measured.has_failed(path))
        .map(|(_, features)| features.class)
        .collect();
    for (class, count) in &unknown {
        let failed = failed_classes.iter().filter(|failed| *failed == class).count();
        if failed == 0 {
            return Err(format!(
                "{count} of the images are {class}, but none of that kind was measured, so their cost is \
                unknown; measure some \
                 of each kind (--pilot 20 does)"
            ));
        }
        if *count as f64 > FEW * listed.planned.len() as f64 {
            return Err(format!(
                "{count} of the images are {class}, and all of that kind that were measured failed, so their \
                cost is unknown; \
                 {}",
                measured.notes.first().map_or("", String::as_str)
            ));
        }
        measured.notes.push(format!(
            "{count} of the images are {class}; all of that kind that were measured failed, so they are not \
            planned for"
        ));
    }
    listed.planned.retain(|image| !unknown.contains_key(&image.class));
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

/// Reads reports, and those of studies with what their records know.
fn read_sources(paths: &[PathBuf]) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for path in paths {
        if StudyFolder::is_study(path) {
            let folder = StudyFolder::at(path);
            let runs = folder.read_runs(&folder.read_spec()?)?;
            sources.extend(runs.into_iter().filter_map(|run| {
                Some(Source {
                    name: run.record.configuration.id(),
                    report: run.report?,
                    wall_s: run.record.wall_s,
                    others_cpus: run.record.others_cpus,
                })
            }));
        } else if path.is_dir() {
            return Err(format!(
                "--from {}: is a folder without a study (study.json)",
                path.display()
            ));
        } else {
            sources.push(Source {
                name: path.display().to_string(),
                report: report::read(path).map_err(|error| error.to_string())?,
                wall_s: None,
                others_cpus: None,
            });
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::measured::tests::{Machine, SIZES, gathered};
    use super::predict::tests::listed;
    use super::*;
    use crate::volume::Datatype;

    /// A list of 400 images of which one is float32, and what remains of it after a measurement in which
    /// `failed` failed.
    fn left_of(rare: usize, failed: &[&str]) -> Result<(usize, Vec<String>), String> {
        let mut listed = listed(400, &SIZES);
        for place in 0..rare {
            listed.found[place].0 = format!("rare-{place}.nii").into();
            listed.found[place].1.class.datatype = Datatype::Float32;
            listed.planned[place].class.datatype = Datatype::Float32;
        }
        let mut measured = gathered(&Machine::default().pilot(&SIZES, 1)).unwrap();
        measured.failed = failed
            .iter()
            .map(|name| ((*name).to_owned(), "cut short".to_owned()))
            .collect();
        let model = Model::fit(&measured).unwrap();
        leave_out_unmeasured(&mut listed, &model, &mut measured)?;
        Ok((listed.planned.len(), measured.notes))
    }

    #[test]
    fn a_damaged_image_of_a_rare_kind_does_not_prevent_the_plan() {
        let (planned, notes) = left_of(1, &["rare-0.nii"]).unwrap();
        assert_eq!(planned, 399);
        assert!(
            notes
                .iter()
                .any(|note| note.starts_with("1 of the images are float32; all")),
            "{notes:?}"
        );
        let refused = left_of(100, &["rare-0.nii", "rare-1.nii"]).unwrap_err();
        assert!(
            refused.contains("100 of the images are float32, and all of that kind"),
            "{refused}"
        );
        let refused = left_of(1, &[]).unwrap_err();
        assert!(refused.contains("none of that kind was measured"), "{refused}");
        assert_eq!(left_of(0, &["other.nii"]).unwrap().0, 400);
    }
}
