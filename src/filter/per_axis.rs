//! Option values for the spatial axes: one for all or one each, and their text form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One value for all spatial axes, or one each for x, y and z. As text: `2` or `2,2,1.5`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerAxis<T = f64> {
    /// The same value along every axis.
    All(T),
    /// Values along x, y and z.
    Each([T; 3]),
}

impl<T: Copy> PerAxis<T> {
    /// The values along x, y and z.
    pub fn xyz(self) -> [T; 3] {
        match self {
            PerAxis::All(value) => [value; 3],
            PerAxis::Each(values) => values,
        }
    }
}

impl PerAxis {
    /// The `desc` label of images that were smoothed with this FWHM in mm, if it is the same along all axes:
    /// `sm6`, `sm4p5`. BIDS names use `p` for the decimal point.
    pub(super) fn bids_desc(self) -> Option<String> {
        let [x, y, z] = self.xyz();
        (x == y && y == z).then(|| format!("sm{x}").replace('.', "p"))
    }
}

impl<T: FromStr + Copy> PerAxis<T> {
    /// Reads one value, or three separated by commas; `kind` names what a value is, such as `a number`.
    ///
    /// # Errors
    /// A message for the user.
    pub(super) fn parse(text: &str, kind: &str) -> Result<Self, String> {
        let value = |part: &str| {
            let part = part.trim();
            part.parse().map_err(|_| format!("'{part}' is not {kind}"))
        };
        let values = text.split(',').map(value).collect::<Result<Vec<T>, String>>()?;
        match values[..] {
            [value] => Ok(PerAxis::All(value)),
            [x, y, z] => Ok(PerAxis::Each([x, y, z])),
            _ => Err(format!(
                "give one value for all axes or three (x,y,z), not {}",
                values.len()
            )),
        }
    }
}

impl FromStr for PerAxis {
    type Err = String;

    /// # Errors
    /// A message for the user if the text is not one or three numbers separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        PerAxis::parse(text, "a number")
    }
}

impl<T: fmt::Display> fmt::Display for PerAxis<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PerAxis::All(value) => write!(f, "{value}"),
            PerAxis::Each([x, y, z]) => write!(f, "{x},{y},{z}"),
        }
    }
}
