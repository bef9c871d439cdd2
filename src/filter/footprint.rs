//! Footprint: size and shape of a window, and how they are written.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Lengths of a window in voxels: one for all spatial axes, or one each for x, y and z. As text: `3` or
/// `3,3,1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WindowSize {
    /// The same along every axis.
    All(usize),
    /// Along x, y and z.
    Each([usize; 3]),
}

impl WindowSize {
    /// The lengths along x, y and z.
    pub fn xyz(self) -> [usize; 3] {
        match self {
            WindowSize::All(size) => [size; 3],
            WindowSize::Each(sizes) => sizes,
        }
    }
}

impl FromStr for WindowSize {
    type Err = String;

    /// # Errors
    /// A sentence for the user when the text is not one or three whole numbers from 1, separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.trim().parse() {
            Ok(0) | Err(_) => Err(format!("'{}' is no number of voxels from 1", part.trim())),
            Ok(size) => Ok(size),
        };
        let sizes = text
            .split(',')
            .map(number)
            .collect::<Result<Vec<usize>, String>>()?;
        match sizes[..] {
            [size] => Ok(WindowSize::All(size)),
            [x, y, z] => Ok(WindowSize::Each([x, y, z])),
            _ => Err(format!(
                "give one size for all axes or three (x,y,z), not {}",
                sizes.len()
            )),
        }
    }
}

/// The shape of a window. As text: `box`, `cross` or `sphere:MM`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Footprint {
    /// All voxels of the size.
    #[default]
    Box,
    /// Those of the size that differ from the middle along one axis at most.
    Cross,
    /// All voxels whose centres are at most so many mm away; the size plays no part.
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
    /// A sentence for the user when the text is none of the three.
    fn from_str(text: &str) -> Result<Self, String> {
        let radius = text.strip_prefix("sphere:").map(|mm| mm.trim().parse::<f64>());
        match (text, radius) {
            ("box", _) => Ok(Footprint::Box),
            ("cross", _) => Ok(Footprint::Cross),
            (_, Some(Ok(mm))) if mm.is_finite() && mm >= 0.0 => Ok(Footprint::Sphere(mm)),
            _ => Err(format!(
                "'{text}' is no footprint: give box, cross, or sphere: and a radius in mm"
            )),
        }
    }
}
