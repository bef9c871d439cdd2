//! Warnings about processed images whose results may differ from what the user expects.
//!
//! An outcome contains the warnings of its image. A run prints one line per kind, not one per image.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::filter::FilterWarning;
use crate::image_io::{self, Header, LengthUnit};
use crate::text::{counted, printable};

/// A warning about one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The kind, equal for all images with this problem.
    pub kind: Cow<'static, str>,
    /// One sentence, without the path.
    pub text: String,
}

impl Warning {
    pub(crate) fn new(kind: &'static str, text: String) -> Self {
        Warning {
            kind: kind.into(),
            text,
        }
    }
}

impl From<&image_io::Warning> for Warning {
    fn from(warning: &image_io::Warning) -> Self {
        Warning::new(warning.kind(), warning.to_string())
    }
}

impl From<&FilterWarning> for Warning {
    fn from(warning: &FilterWarning) -> Self {
        Warning::new(warning.kind(), warning.to_string())
    }
}

/// The picture of an image could not be written.
pub(super) fn of_picture(error: &std::io::Error) -> Warning {
    Warning::new("picture", format!("its picture cannot be written: {error}"))
}

/// Warnings from the header of an image. If the filter's width is in mm, the voxel size matters: `used` then
/// says which of two the filter uses.
pub(super) fn of_header(header: &Header, used: Option<&str>, sigma_vox: Option<[f64; 3]>) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = header.warnings().iter().map(Warning::from).collect();
    let Some(used) = used else {
        return warnings;
    };
    let unit = header.length_unit();
    if matches!(unit, LengthUnit::Metre | LengthUnit::Micrometre) {
        let size = header.voxel_size_mm();
        let sigma = sigma_vox.map_or(String::new(), |sigma| {
            format!(" and sigma is {} voxels", by_axis(sigma))
        });
        warnings.push(Warning::new(
            "unit",
            format!(
                "its unit of length is the {unit}, so its voxels are {} mm{sigma}; \
                 many programs ignore the unit and assume mm: check xyzt_units",
                by_axis(size)
            ),
        ));
    }
    if let Some(sizes) = header.voxel_size_disagreement() {
        warnings.push(Warning::new(
            "voxel_size",
            format!(
                "its voxels are {} mm by pixdim but {} mm by the affine; {used}",
                by_axis(sizes.pixdim_mm),
                by_axis(sizes.affine_mm)
            ),
        ));
    }
    warnings
}

fn by_axis(values: [f64; 3]) -> String {
    // Four digits are enough to recognise a value.
    let short = |value: f64| match (1e-3..1e6).contains(&value) {
        true => format!("{}", (value * 1e4).round() / 1e4),
        false => format!("{value:.3e}"),
    };
    values.map(short).join("×")
}

/// The warnings of many images, one line per kind.
#[derive(Default)]
pub(crate) struct WarningSummary {
    kinds: BTreeMap<Cow<'static, str>, Found>,
}

struct Found {
    images: usize,
    /// The line of the first image in the list.
    index: usize,
    line: String,
}

impl WarningSummary {
    /// Adds a warning about the image `input`, which is `index` in the list.
    pub(crate) fn add(&mut self, index: usize, input: &Path, warning: &Warning) {
        let line = || {
            let path = input.display().to_string();
            format!("{}: {}", printable(&path), warning.text)
        };
        match self.kinds.get_mut(&warning.kind) {
            Some(found) => {
                found.images += 1;
                if index < found.index {
                    (found.index, found.line) = (index, line());
                }
            }
            None => {
                let found = Found {
                    images: 1,
                    index,
                    line: line(),
                };
                self.kinds.insert(warning.kind.clone(), found);
            }
        }
    }

    /// One line per kind: the first image with it, and how many there are.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        self.kinds.values().map(|found| match found.images {
            1 => found.line.clone(),
            images => format!("{}, first {}", counted(images, "image"), found.line),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_thousand_images_with_one_problem_are_one_line() {
        let mut summary = WarningSummary::default();
        let warning = |text: &str| Warning::new("bitpix", text.to_owned());
        for index in (1..=40_000).rev() {
            let path = format!("{index}.nii");
            summary.add(index, Path::new(&path), &warning(&format!("text {index}")));
        }
        let other = Warning::new("unit", "is odd".to_owned());
        summary.add(7, Path::new("a\nb.nii"), &other);
        let lines: Vec<String> = summary.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("images, first 1.nii: text 1"), "{}", lines[0]);
        assert!(lines[0].starts_with("40"), "{}", lines[0]);
        assert_eq!(lines[1].lines().count(), 1);
        assert!(lines[1].ends_with("b.nii: is odd"), "{}", lines[1]);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(by_axis([2.0, 2.5, 0.333_333_3]), "2×2.5×0.3333");
        assert_eq!(by_axis([2e-6, 2000.0, 1e9]), "2.000e-6×2000×1.000e9");
    }
}
