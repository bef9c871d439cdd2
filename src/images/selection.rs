//! `--include` and `--exclude`: patterns on the path below the base.

use std::path::Path;
use std::str::FromStr;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// A pattern such as `*_bold.nii.gz` or `sub-*/anat`.
///
/// Without `/` it matches a file or folder name at any depth, with `/` the whole path below the base. `*` and
/// `?` do not match `/`, `**` does. A pattern that matches a folder matches everything below it.
#[derive(Clone, Debug)]
pub struct PathPattern {
    text: String,
    glob: Glob,
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for PathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim_end_matches('/');
        if trimmed.is_empty() {
            return Err("an empty pattern; give one such as '*_bold.nii.gz' or 'sub-01'".to_owned());
        }
        let pattern = match trimmed.strip_prefix('/') {
            Some(from_base) => from_base.to_owned(),
            None if trimmed.contains('/') => trimmed.to_owned(),
            None => format!("**/{trimmed}"),
        };
        let glob = GlobBuilder::new(&pattern).literal_separator(true).build();
        Ok(Self {
            text: text.to_owned(),
            glob: glob.map_err(|error| error.kind().to_string())?,
        })
    }
}

/// The selection of images.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Without patterns every image is included.
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Selection {
    pub(super) fn new(include: &[PathPattern], exclude: &[PathPattern]) -> Result<Self, String> {
        let set = |option: &'static str, patterns: &[PathPattern]| {
            let mut builder = GlobSetBuilder::new();
            for pattern in patterns {
                builder.add(pattern.glob.clone());
            }
            builder.build().map_err(|error| format!("{option}: {error}"))
        };
        Ok(Self {
            include: match include {
                [] => None,
                patterns => Some(set("--include", patterns)?),
            },
            exclude: set("--exclude", exclude)?,
        })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Whether an image with files at these paths is selected.
    pub(super) fn takes(&self, places: &[&Path]) -> bool {
        let any = |set: &GlobSet| places.iter().any(|place| covers(set, place));
        self.include.as_ref().is_none_or(any) && !any(&self.exclude)
    }

    /// Whether a folder is left out with everything below it.
    pub(super) fn excludes(&self, folder: &Path) -> bool {
        covers(&self.exclude, folder)
    }
}

/// Whether a pattern matches the path or a folder above it.
fn covers(set: &GlobSet, path: &Path) -> bool {
    !set.is_empty()
        && path
            .ancestors()
            .any(|above| !above.as_os_str().is_empty() && set.is_match(above))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let parse =
            |texts: &[&str]| -> Vec<PathPattern> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        Selection::new(&parse(include), &parse(exclude)).unwrap()
    }

    #[test]
    fn patterns_match_names_paths_and_folders() {
        let bold = "sub-01/func/sub-01_bold.nii.gz";
        for (pattern, matches) in [
            ("*_bold.nii.gz", true),
            ("func", true),
            ("sub-*", true),
            ("sub-01/func", true),
            ("sub-01/", true),
            ("/sub-01", true),
            ("**/func/*.nii.gz", true),
            ("*/func", true),
            ("sub-{01,02}", true),
            ("*/*_bold.nii.gz", false),
            ("/func", false),
            ("*.nii", false),
            ("sub-0", false),
            ("SUB-01", false),
        ] {
            let path = [Path::new(bold)];
            assert_eq!(selection(&[pattern], &[]).takes(&path), matches, "{pattern}");
            assert_eq!(selection(&[], &[pattern]).takes(&path), !matches, "{pattern}");
        }
        assert!(selection(&[], &["lost+found"]).excludes(Path::new("a/lost+found")));
        assert!(!selection(&["a"], &[]).takes(&[Path::new("b/x.nii")]));
        assert!(!selection(&["a"], &["x.nii"]).takes(&[Path::new("a/x.nii")]));
        assert!(selection(&[], &[]).takes(&[Path::new("x.nii")]));
        for wrong in ["", "/", "[a", "{a"] {
            assert!(wrong.parse::<PathPattern>().is_err(), "{wrong}");
        }
    }
}
