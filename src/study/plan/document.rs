//! The plan as JSON, schema `niimpi-plan/1`.

use serde::{Deserialize, Serialize};

use super::predict::Prediction;
use crate::slurm::batch::Request;

/// Name and version of the plan's JSON form.
pub(crate) const SCHEMA: &str = "niimpi-plan/1";

/// The plan as JSON, for scripts and for the check after the run. Times in seconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PlanDocument {
    pub schema: String,
    /// The program's version.
    pub version: String,
    /// Images planned for.
    pub images: usize,
    /// The stage that takes most of the time.
    pub dominated_by: String,
    /// Fractions of the time that a worker spends on an image: read, filter, write.
    pub shares: [f64; 3],
    /// Hosts on which the measurements were made.
    pub measured_on: Vec<String>,
    /// Highest number of images per second that the file system serves; `None` if no limit was measured.
    pub ceiling_images_per_s: Option<f64>,
    /// Every layout.
    pub configurations: Vec<Prediction>,
    /// The request to Slurm for the recommended layout.
    pub request: Request,
    /// Path of the job's report, if a script was written.
    pub report: Option<String>,
    /// Notes for the reader.
    pub notes: Vec<String>,
}

impl PlanDocument {
    /// The recommended layout.
    pub fn recommended(&self) -> Option<&Prediction> {
        self.configurations
            .iter()
            .find(|prediction| prediction.recommended)
    }
}
