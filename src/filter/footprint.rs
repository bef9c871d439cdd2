//! Footprint: the shape of a window, and its text form.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shape of a window. As text: `box`, `cross` or `sphere:MM`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Footprint {
    /// All voxels of the window.
    #[default]
    Box,
    /// Voxels that differ from the centre along at most one axis.
    Cross,
    /// All voxels whose centres are at most this many mm away. The size is ignored.
    Sphere(f64),
}

impl From<Footprint> for String {
    fn from(footprint: Footprint) -> String {
        match footprint {
            Footprint::Box => "box".to_owned(),
            Footprint::Cross => "cross".to_owned(),
            Footprint::Sphere(radius_mm) => format!("sphere:{radius_mm}"),
        }
    }
}

impl TryFrom<String> for Footprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Footprint {
    type Err = String;

    /// # Errors
    /// A message for the user if the text is not one of the three.
    fn from_str(text: &str) -> Result<Self, String> {
        let radius = text.strip_prefix("sphere:").map(|mm| mm.trim().parse::<f64>());
        match (text, radius) {
            ("box", _) => Ok(Footprint::Box),
            ("cross", _) => Ok(Footprint::Cross),
            (_, Some(Ok(mm))) if mm.is_finite() && mm >= 0.0 => Ok(Footprint::Sphere(mm)),
            _ => Err(format!(
                "'{text}' is not a footprint: give box, cross, or sphere: and a radius in mm"
            )),
        }
    }
}
