//! Output: the number type of the result, and the conversion of sums to it.

use serde::{Deserialize, Serialize};

use super::kernels::convert::Conversion;
use crate::volume::{Datatype, Volume};

/// The voxel type of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum OutputType {
    /// The input's own type; float32 for an intensity-scaled image, because its own type cannot hold the
    /// intensities.
    #[default]
    Same,
    /// This type.
    As(Datatype),
}

impl OutputType {
    /// The name on the command line: `same` or that of a NIfTI type.
    pub fn name(self) -> &'static str {
        match self {
            OutputType::Same => "same",
            OutputType::As(datatype) => datatype.name(),
        }
    }
}

impl std::fmt::Display for OutputType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl From<OutputType> for String {
    fn from(output_type: OutputType) -> String {
        output_type.name().to_string()
    }
}

impl TryFrom<String> for OutputType {
    type Error = String;

    /// # Errors
    /// A message that names the unknown type.
    fn try_from(name: String) -> Result<Self, String> {
        <Self as clap::ValueEnum>::from_str(&name, false)
            .map_err(|_| format!("'{name}' is not an output type"))
    }
}

impl clap::ValueEnum for OutputType {
    fn value_variants<'a>() -> &'a [Self] {
        const VARIANTS: [OutputType; Datatype::ALL.len() + 1] = {
            let mut variants = [OutputType::Same; Datatype::ALL.len() + 1];
            let mut i = 0;
            while i < Datatype::ALL.len() {
                variants[i + 1] = OutputType::As(Datatype::ALL[i]);
                i += 1;
            }
            variants
        };
        &VARIANTS
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}

/// Rounding of sums to whole numbers.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Towards zero after each axis, as scipy does
    #[default]
    Truncate,
    /// To the nearest whole number, once, at the end
    Nearest,
}

/// The type of the output and its rounding, as given by the user.
#[derive(clap::Args, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Number type of the result
    ///
    /// same: the input's own type (float32 if scl_slope and scl_inter scale its intensities). As in scipy,
    /// smooth then truncates an integer image to whole numbers after each axis, which lowers its mean by one
    /// to two grey levels. To avoid that, write float32, or keep the integer type and round with --round
    /// nearest. An integer type other than the input's own is always rounded to nearest and limited to the
    /// type's range. With --like, same is float32, or float64 where the values of the program need it.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
    pub output_type: OutputType,

    /// How whole-number output is rounded
    ///
    /// truncate: towards zero after each axis, bit for bit as scipy. nearest: computed in double, rounded to
    /// nearest (halves to even) and limited to the type's range once at the end, so the mean is kept; NaN
    /// becomes 0. A median is one of the image's values, so it is the same with both.
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub round: Rounding,
}

/// The types in which a filter computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Types {
    /// The type after each axis except the last.
    pub(super) between: Datatype,
    /// The type of the result.
    pub(super) last: Datatype,
    /// The conversion of the last axis's sums to `last`.
    pub(super) conversion: Conversion,
}

impl Types {
    /// The same with integers that are computed in double and rounded to nearest once.
    pub(super) fn rounded_once(self) -> Self {
        match self.last.is_float() {
            true => self,
            false => Types {
                between: Datatype::Float64,
                conversion: Conversion::Nearest,
                ..self
            },
        }
    }
}

impl OutputSpec {
    /// The output type for this volume.
    pub fn resolve(&self, volume: &Volume) -> Datatype {
        self.resolve_for(volume.datatype, volume.scaling.is_some())
    }

    /// The output type for an image of this type. `scaled`: the image has a slope other than 0 and 1, or an
    /// intercept.
    pub fn resolve_for(&self, datatype: Datatype, scaled: bool) -> Datatype {
        match self.output_type {
            OutputType::As(chosen) => chosen,
            OutputType::Same if scaled => Datatype::Float32,
            OutputType::Same => datatype,
        }
    }

    /// Whether sums are truncated to whole numbers for an image of this type.
    pub fn truncates(&self, datatype: Datatype, scaled: bool) -> bool {
        let own = self.resolve_for(datatype, scaled) == datatype && !scaled;
        own && !datatype.is_float() && self.round == Rounding::Truncate
    }

    /// The types in which an image of this type is computed.
    pub(super) fn types(&self, datatype: Datatype, scaled: bool) -> Types {
        let last = self.resolve_for(datatype, scaled);
        let types = Types {
            between: last,
            last,
            conversion: Conversion::Cast,
        };
        match self.truncates(datatype, scaled) {
            true => types,
            false => types.rounded_once(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn spec(output_type: OutputType, round: Rounding) -> OutputSpec {
        OutputSpec { output_type, round }
    }

    #[test]
    fn same_means_own_type_unless_scaled() {
        let same = OutputSpec::default();
        for datatype in Datatype::ALL {
            assert_eq!(same.resolve_for(datatype, false), datatype);
            assert_eq!(same.resolve_for(datatype, true), Datatype::Float32);
        }
        let named = spec(OutputType::As(Datatype::Float64), Rounding::Truncate);
        assert_eq!(named.resolve_for(Datatype::Int16, true), Datatype::Float64);
    }

    #[test]
    fn integers_not_scipys_own_are_computed_in_double() {
        let own = spec(OutputType::As(Datatype::Int16), Rounding::Truncate);
        assert_eq!(own.types(Datatype::Int16, false).between, Datatype::Int16);
        assert_eq!(own.types(Datatype::Int16, true).between, Datatype::Float64);
        assert_eq!(own.types(Datatype::Uint8, false).between, Datatype::Float64);
        let nearest = spec(OutputType::Same, Rounding::Nearest);
        assert_eq!(nearest.types(Datatype::Int16, false).between, Datatype::Float64);
        assert_eq!(nearest.types(Datatype::Float32, false).between, Datatype::Float32);
        assert_eq!(nearest.types(Datatype::Int16, true).between, Datatype::Float32);
    }

    #[test]
    fn names_go_there_and_back() {
        for &output_type in OutputType::value_variants() {
            assert_eq!(OutputType::try_from(String::from(output_type)), Ok(output_type));
        }
        assert!(OutputType::try_from("complex64".to_string()).is_err());
    }
}
