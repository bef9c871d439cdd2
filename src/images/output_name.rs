//! Templates of file names, for results (`--name`) and masks (`--mask`).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use super::bids::{BidsName, is_entity};
use crate::image_io::file_name::{is_image_name, split};

/// A path with `{stem}` (the input's name without its suffix), `{index}` (its place in the list, from 1) and
/// `{dir}` (its folder below the base); for masks also with entities of the input's BIDS name, such as
/// `{sub}`. If it does not end with an image suffix, the input's suffix is added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    text: String,
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::with_fields(text, "{stem}, {index} and {dir}", |_| false)
    }
}

impl Template {
    /// The template of a mask.
    pub(super) fn of_mask(text: &str) -> Result<Self, String> {
        let fields = "{stem}, {index} and {dir}, and entities of BIDS names such as {sub}";
        Self::with_fields(text, fields, is_entity)
    }

    /// A template whose fields are the usual ones and those of `is_field`: `fields` in words.
    fn with_fields(text: &str, fields: &str, is_field: impl Fn(&str) -> bool) -> Result<Self, String> {
        let is_known = |field: &str| ["stem", "index", "dir"].contains(&field) || is_field(field);
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let found = next_field(&rest[open..]);
            let Some((_, _, after)) = found.filter(|(before, field, _)| before.is_empty() && is_known(field))
            else {
                return Err(format!("the fields are {fields}"));
            };
            rest = after;
        }
        if text.is_empty() || text.ends_with('/') {
            return Err("a file name is missing".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// The path for the `index`-th image of the list, whose path below the base is `place`.
    ///
    /// # Errors
    /// Why the name of the image has no value for a field.
    pub(super) fn fill(&self, place: &Path, index: usize) -> Result<PathBuf, String> {
        let file_name = place.file_name().unwrap_or_default();
        let (stem, suffix) =
            split(file_name).map_or((file_name, ""), |(stem, suffix)| (stem, suffix.as_str()));
        let dir = place.parent().unwrap_or(Path::new(""));
        let mut filled = Vec::new();
        let mut rest = self.text.as_str();
        while let Some((before, field, after)) = next_field(rest) {
            filled.extend_from_slice(before.as_bytes());
            rest = after;
            match field {
                "stem" => filled.extend_from_slice(stem.as_bytes()),
                "index" => filled.extend_from_slice(index.to_string().as_bytes()),
                "dir" => {
                    filled.extend_from_slice(dir.as_os_str().as_bytes());
                    if dir.as_os_str().is_empty() {
                        rest = rest.strip_prefix('/').unwrap_or(rest);
                    }
                }
                key => {
                    let name = BidsName::parse(stem.to_str().unwrap_or_default());
                    let name = name.map_err(|error| error.to_string())?;
                    let label = name
                        .get(key)
                        .ok_or_else(|| format!("the name has no entity {key}"))?;
                    filled.extend_from_slice(label.as_bytes());
                }
            }
        }
        filled.extend_from_slice(rest.as_bytes());
        let name = PathBuf::from(OsString::from_vec(filled));
        if name.file_name().is_some_and(is_image_name) {
            return Ok(name);
        }
        let mut name = name.into_os_string();
        name.push(suffix);
        Ok(PathBuf::from(name))
    }
}

/// The text before the next field of a template, the field, and the text after it.
fn next_field(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (field, after) = rest.split_once('}')?;
    Some((before, field, after))
}

/// The results' names below the output folder. A suffix of an image decides the result's format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate(Template);

impl std::fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NameTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let template = text.parse()?;
        if !text.contains("{stem}") && !text.contains("{index}") {
            return Err("all images would get the same name; use {stem} or {index}".to_owned());
        }
        Ok(Self(template))
    }
}

impl NameTemplate {
    /// The path below the output folder for the `index`-th image of the list, whose path below the base is
    /// `place`.
    ///
    /// # Errors
    /// What it gives instead of a file name below the output folder.
    pub(super) fn name(&self, place: &Path, index: usize) -> Result<PathBuf, String> {
        let name = self.0.fill(place, index)?;
        let inside = name
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        match inside && name.file_name().is_some() {
            true => Ok(name),
            false => Err(format!(
                "gives {name:?}, which is not a file name below the output folder"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_from_the_template() {
        let template = |text: &str| NameTemplate::from_str(text).unwrap();
        let name = |text: &str| {
            let name = template(text).name(Path::new("sub-1/T1.nii.gz"), 7);
            name.map(|name| name.display().to_string())
        };
        assert_eq!(name("denoised_{index}.nii.gz").unwrap(), "denoised_7.nii.gz");
        assert_eq!(name("{dir}/{stem}_smooth").unwrap(), "sub-1/T1_smooth.nii.gz");
        assert_eq!(name("{stem}.nii").unwrap(), "T1.nii");
        assert!(name("../{stem}").is_err() && name("/{stem}").is_err());
        let flat = template("{dir}/{stem}").name(Path::new("a.nii"), 1);
        assert_eq!(flat.unwrap(), Path::new("a.nii"));
        for wrong in ["same.nii", "{nme}.nii", "{stem}/", ""] {
            assert!(NameTemplate::from_str(wrong).is_err(), "{wrong}");
        }
    }
}
