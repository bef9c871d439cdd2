//! Templates of file names, for results (`--name`) and masks (`--mask`).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use crate::image_io::file_name::{is_image_name, split};

/// A path with `{stem}` (the input's name without its suffix), `{index}` (its place in the list, from 1) and
/// `{dir}` (its folder below the base). If it does not end with an image suffix, the input's suffix is added.
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
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let known = ["{stem}", "{index}", "{dir}"];
            let Some(field) = known.iter().find(|field| rest[open..].starts_with(**field)) else {
                return Err("the fields are {stem}, {index} and {dir}".to_owned());
            };
            rest = &rest[open + field.len()..];
        }
        if text.is_empty() || text.ends_with('/') {
            return Err("a file name is missing".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }
}

impl Template {
    /// The path for the `index`-th image of the list, whose path below the base is `place`.
    pub(super) fn fill(&self, place: &Path, index: usize) -> PathBuf {
        let file_name = place.file_name().unwrap_or_default();
        let (stem, suffix) =
            split(file_name).map_or((file_name, ""), |(stem, suffix)| (stem, suffix.as_str()));
        let dir = place.parent().unwrap_or(Path::new(""));
        let mut filled = Vec::new();
        let mut rest = self.text.as_str();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("{stem}") {
                filled.extend_from_slice(stem.as_bytes());
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{index}") {
                filled.extend_from_slice(index.to_string().as_bytes());
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{dir}") {
                filled.extend_from_slice(dir.as_os_str().as_bytes());
                rest = after;
                if dir.as_os_str().is_empty() {
                    rest = rest.strip_prefix('/').unwrap_or(rest);
                }
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                filled.extend_from_slice(&rest.as_bytes()[..end]);
                rest = &rest[end..];
            }
        }
        let name = PathBuf::from(OsString::from_vec(filled));
        if name.file_name().is_some_and(is_image_name) {
            return name;
        }
        let mut name = name.into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }
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
    /// A path that is not a file name below the output folder.
    pub(super) fn name(&self, place: &Path, index: usize) -> Result<PathBuf, PathBuf> {
        let name = self.0.fill(place, index);
        let inside = name
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        match inside && name.file_name().is_some() {
            true => Ok(name),
            false => Err(name),
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
