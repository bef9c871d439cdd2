//! `--name`: how results are named.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::image_io::file_name::{is_image_name, split};

/// `--name`: the results' names, with `{stem}` (the input's name without its suffix), `{index}` (its place in the list,
/// from 1) and `{dir}` (its folder below the input folder). A suffix of an image decides the result's format; without
/// one the input's is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate {
    pub(super) text: String,
}

impl std::fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for NameTemplate {
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
        if !text.contains("{stem}") && !text.contains("{index}") {
            return Err("every image would get one name; use {stem} or {index}".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }
}

impl NameTemplate {
    /// The path below the output folder for the image at `relative` (below its input folder), the `index`-th of the list.
    pub(super) fn fill(&self, relative: &Path, index: usize) -> PathBuf {
        let file_name = relative.file_name().unwrap_or_default();
        let (stem, suffix) =
            split(file_name).map_or((file_name, ""), |(stem, suffix)| (stem, suffix.as_str()));
        let dir = relative.parent().unwrap_or(Path::new(""));
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
