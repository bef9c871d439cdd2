//! Job: one image from input to result, with a time for each stage. Independent of ranks.
//!
//! | file | role |
//! |---|---|
//! | `steps` | read, filter, write |
//! | `team` | threads that share one image |
//! | `shared` | ranks that share one image |
//! | `mask` | reading the mask of an image |
//! | `destination` | where results, sidecar files and pictures are written |
//! | `description` | the filter as reports have it |
//! | `outcome` | what happened to an image |
//! | `failure` | where and why an image failed, and what its error means for others |
//! | `problem` | the kind of its cause, and what to do about it |
//! | `memory` | how much memory an image, a worker and a rank need |
//! | `cost` | how long an image takes |
//! | `warning` | what a user should know about an image |
//! | `survey` | signs that an image is a mask or a label map |
//! | `quality`, `gauge` | figures of an image before and after, and how they are measured |
//! | `picture` | its central slices before and after |

pub(crate) mod cost;
pub mod description;
mod destination;
mod failure;
mod gauge;
pub(crate) mod mask;
pub(crate) mod memory;
pub mod outcome;
mod picture;
pub(crate) mod problem;
pub(crate) mod quality;
pub(crate) mod shared;
mod steps;
mod survey;
mod team;
pub(crate) mod warning;

use serde_json::Value;

use crate::filter::like::Tool;
use crate::filter::nonfinite::NonFinite;
use crate::filter::{Filter, ImageInfo, Options, OutputSpec, Outside, Rounding, SharedOptions};
use crate::image_io::CompressionLevel;
use crate::images::MaskChoice;
use crate::volume::Datatype;
use description::FilterDescription;

pub(crate) use destination::{OutputFolder, Paths, publish};
pub use mask::Masking;
pub use steps::ImageWorker;

/// Changes whenever the same options give different bits than before.
const NUMERICS: u32 = 1;

/// The options of a run of niimpi-journal/1, in the form of [`ImageJob::options`].
pub(crate) fn options_of_version_1(mut options: Value) -> Value {
    if let Some(options) = options.as_object_mut() {
        options.insert("numerics".to_owned(), 1.into());
    }
    options
}

/// The job for every image.
#[derive(Clone, Debug)]
pub struct ImageJob {
    pub filter: Options,
    /// The results' type.
    pub output: OutputSpec,
    /// How NaN and infinite voxels are treated.
    pub nan: NonFinite,
    /// Which voxels are filtered, if not all.
    pub mask: Option<Masking>,
    /// The compression level of results.
    pub compression: CompressionLevel,
    /// Sync a result to disk before it is renamed.
    pub sync: bool,
    /// Measure each image before and after, and draw it.
    pub qc: bool,
}

impl ImageJob {
    /// The options that all filters share.
    pub(crate) fn shared(&self) -> SharedOptions {
        SharedOptions {
            output: self.output,
            nan: self.nan,
            outside: self.outside(),
        }
    }

    /// What results have outside of the mask; `None` without a mask, and if the filter computes it.
    fn outside(&self) -> Option<Outside> {
        let mask = self.mask.as_ref()?;
        mask.outside.or_else(|| self.filter.default_outside())
    }

    /// What the filter knows of an image, with the voxels of its mask.
    pub(crate) fn masked(&self, image: &ImageInfo) -> ImageInfo {
        let mask_voxels = self.mask.as_ref().map(|mask| match mask.choice {
            MaskChoice::Nonzero => image.voxels(),
            MaskChoice::File(_) | MaskChoice::Each(_) => image.voxels() / image.volumes().max(1),
        });
        ImageInfo {
            mask_voxels,
            ..image.clone()
        }
    }

    /// Estimated seconds of the filter per voxel of an image with an unknown header, assumed to have 2 mm
    /// voxels and a common shape.
    pub(crate) fn filter_s_per_voxel(&self) -> f64 {
        let usual = ImageInfo {
            shape: vec![100; 3],
            voxel_size_mm: [2.0; 3],
            datatype: Datatype::Int16,
            ..ImageInfo::default()
        };
        cost::filter_s(self, &usual) / usual.voxels() as f64
    }

    /// Whether sums are truncated to whole numbers after each axis for an image of this type.
    pub(crate) fn truncates(&self, datatype: Datatype, scaled: bool) -> bool {
        match (self.filter.like(), &self.mask) {
            (Some(tool), _) => tool.truncates(datatype, scaled),
            // Inside of a mask integers are rounded once.
            (None, Some(_)) => false,
            (None, None) => !self.filter.rounds_once() && self.output.truncates(datatype, scaled),
        }
    }

    /// Which of two voxel sizes of a header is used, as a sentence.
    fn voxel_size_used(&self) -> String {
        match self.filter.like() {
            Some(tool) => format!("--like {tool} uses {}", tool.voxel_size_field()),
            None => "the affine is used".to_owned(),
        }
    }

    /// All options that affect a result's bytes: jobs with equal options write equal results for the same
    /// input.
    pub fn options(&self) -> Value {
        let mut options = serde_json::json!({
            "filter": self.filter,
            "output": self.output,
            "compression": self.compression.get(),
            "numerics": NUMERICS,
        });
        if self.nan != NonFinite::default() {
            options["nan"] = self.nan.name().into();
        }
        if let Some(Masking { choice, .. }) = &self.mask {
            // What a mask's file has inside is recorded as part of the input, wherever the file is.
            options["mask"] = match choice {
                MaskChoice::Nonzero => "nonzero",
                MaskChoice::File(_) | MaskChoice::Each(_) => "file",
            }
            .into();
        }
        if let Some(outside) = self.outside() {
            options["outside"] = outside.name().into();
        }
        // Writing and reading a number can change its last digit, so every number is written and read once.
        serde_json::from_str(&options.to_string()).unwrap_or(options)
    }

    /// The subcommand and arguments that produce the same job.
    pub(crate) fn to_cli_args(&self) -> Vec<String> {
        let output = serde_json::to_value(self.output).unwrap_or_default();
        let mut options = self.filter.as_json();
        options.remove("name");
        let output = output.as_object().cloned().unwrap_or_default();
        if self.filter.like().is_some() {
            // A preset fixes all but the type, so other options are refused with it.
            options.extend(output.into_iter().filter(|(name, _)| name == "output_type"));
        } else {
            options.extend(output);
            options.insert("nan".to_owned(), self.nan.name().into());
        }
        options.insert("compression".to_owned(), self.compression.get().into());
        if let Some(Masking { choice, outside }) = &self.mask {
            let mask = choice.absolute().unwrap_or_else(|_| choice.to_string());
            options.insert("mask".to_owned(), mask.into());
            options.insert("outside".to_owned(), outside.map(Outside::name).into());
        }
        let given = options.iter().filter(|(_, value)| !value.is_null());
        let given = given.map(|(name, value)| format!("--{}={}", name.replace('_', "-"), cli_value(value)));
        let command = self.filter.command().iter().map(ToString::to_string);
        let mut arguments: Vec<String> = command.chain(given).collect();
        if !self.sync {
            arguments.push("--no-sync".to_owned());
        }
        if self.qc {
            arguments.push("--qc".to_owned());
        }
        arguments
    }

    /// The filter as requested, for the report.
    pub fn describe(&self) -> FilterDescription {
        let options = self.filter.as_json();
        let numbers = |name: &str| match options.get(name) {
            Some(Value::Array(numbers)) => numbers.iter().filter_map(Value::as_f64).collect(),
            Some(Value::Number(number)) => vec![number.as_f64().unwrap_or_default(); 3],
            _ => Vec::new(),
        };
        let text = |name: &str| options.get(name).and_then(Value::as_str).unwrap_or("");
        let number = |name: &str| match options.get(name) {
            Some(Value::String(text)) => text.parse().unwrap_or_default(),
            value => value.and_then(Value::as_f64).unwrap_or_default(),
        };
        let radii = self.filter.radius_vox();
        let like = self.filter.like();
        // A preset has its own values for these options.
        let fixed = |name: &str| like.and_then(|tool| tool.fixed(name));
        FilterDescription {
            name: self.filter.name(),
            sigma_vox: numbers("sigma"),
            sigma_mm: numbers("sigma_mm"),
            fwhm_mm: numbers("fwhm"),
            boundary: fixed("boundary").unwrap_or_else(|| text("boundary").to_owned()),
            cval: number("cval"),
            truncate: like
                .and_then(Tool::truncate)
                .unwrap_or_else(|| number("truncate")),
            radius_vox: radii.map_or(Vec::new(), |radii| radii.to_vec()),
            output_type: self.output.output_type.to_string(),
            round: fixed("round").unwrap_or_else(|| {
                match self.output.round {
                    Rounding::Truncate if !self.filter.rounds_once() => "truncate",
                    _ => "nearest",
                }
                .to_owned()
            }),
            nan: fixed("nan").unwrap_or_else(|| self.nan.name().to_owned()),
            mask: self.mask.as_ref().map(|mask| mask.choice.to_string()),
            outside: self.outside().map(|outside| outside.name().to_owned()),
            like: like.map(|tool| tool.name().to_owned()),
            reference: like.map(Tool::reference),
        }
    }
}

/// A value in command line form; lists are separated by commas.
fn cli_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cli_value).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}
