//! The filter as requested, for the report.

use serde::{Deserialize, Serialize};

/// The filter as requested.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterDescription {
    pub name: String,
    /// Sigma along x, y, z in voxels; empty if FWHM was given, because sigma then depends on each image's
    /// voxel size.
    pub sigma_vox: Vec<f64>,
    /// FWHM along x, y, z in mm; empty when sigma was given.
    pub fwhm_mm: Vec<f64>,
    /// How the image continues beyond its edges; with a preset, in its words.
    pub boundary: String,
    /// The value beyond the edge with the boundary `constant`.
    #[serde(with = "crate::filter::lossless")]
    pub cval: f64,
    /// The kernel ends at this many sigmas; 0 if something else decides.
    pub truncate: f64,
    /// Half widths of the kernels; empty when FWHM was given.
    pub radius_vox: Vec<usize>,
    /// `same` or the type of the results.
    pub output_type: String,
    /// How results become integers; with a preset, in its words.
    pub round: String,
    /// How NaN and infinite voxels are treated; with a preset, in its words.
    #[serde(default = "propagate")]
    pub nan: String,
    /// Sigma along x, y, z in mm; absent unless it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sigma_mm: Vec<f64>,
    /// The program whose numbers a preset gives; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// That program, its version, and whether the preset was checked against it; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Where the masks are; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// What results have outside of the mask; absent without one, and if the filter computes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<String>,
}

/// The behaviour of versions without this option.
fn propagate() -> String {
    "propagate".to_owned()
}
