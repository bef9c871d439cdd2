//! The plan's JSON form, schema `niimpi-plan/1`: for scripts, and for the check after the run.

use serde::{Deserialize, Serialize};

use super::predict::Prediction;
use crate::slurm::batch::Request;

/// Name and version of the JSON form.
pub const SCHEMA: &str = "niimpi-plan/1";

/// The whole plan. Times in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanDocument {
    /// [`SCHEMA`].
    pub schema: String,
    /// The program's version.
    pub version: String,
    /// Images planned for.
    pub images: usize,
    /// The stage that takes most of an image's time.
    pub dominated_by: String,
    /// Each stage's part of an image's time: read, filter, write.
    pub shares: [f64; 3],
    /// The hosts that were measured on.
    pub measured_on: Vec<String>,
    /// Images a second that the file system gives at most, where a ceiling was seen.
    pub ceiling_images_per_s: Option<f64>,
    /// Every setting.
    pub configurations: Vec<Prediction>,
    /// What is asked of Slurm for the recommended one.
    pub request: Request,
    /// Where the job's report goes, when a script was written.
    pub report: Option<String>,
    /// What the reader should know.
    pub notes: Vec<String>,
}

impl PlanDocument {
    /// The recommended setting.
    pub fn recommended(&self) -> Option<&Prediction> {
        self.configurations
            .iter()
            .find(|prediction| prediction.recommended)
    }
}
