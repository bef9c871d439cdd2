//! `.bidsignore`: files and folders of a dataset that are not part of it, in the syntax of `.gitignore`.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use crate::text::printable;

/// The file in the root of a dataset.
const FILE: &str = ".bidsignore";

/// The rules of a dataset. Without the file there are none.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    glob: GlobMatcher,
    folders_only: bool,
    /// A leading `!`: what it matches is not ignored.
    is_exception: bool,
}

impl Ignored {
    /// The rules of the dataset in this folder. Logs a line that is not a pattern.
    ///
    /// # Errors
    /// A message if the file exists and cannot be read.
    pub(super) fn of_dataset(root: &Path) -> Result<Self, String> {
        let path = root.join(FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let text =
            std::fs::read(&path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
        let mut rules = Vec::new();
        for line in String::from_utf8_lossy(&text).lines() {
            match Rule::parse(line) {
                Ok(rule) => rules.extend(rule),
                Err(error) => tracing::warn!(
                    "{}: left out a line that is not a pattern: {}: {error}",
                    printable(&path.display().to_string()),
                    printable(line)
                ),
            }
        }
        Ok(Self { rules })
    }

    /// Whether a file or folder, given by its path below the root, or a folder above it is ignored.
    pub(super) fn covers(&self, place: &Path, is_folder: bool) -> bool {
        if self.rules.is_empty() {
            return false;
        }
        let mut path = PathBuf::new();
        let mut names = place.iter().peekable();
        while let Some(name) = names.next() {
            path.push(name);
            let is_folder = is_folder || names.peek().is_some();
            let of_kind = |rule: &&Rule| is_folder || !rule.folders_only;
            // The last rule that matches decides.
            let mut matching = self.rules.iter().rev().filter(of_kind);
            let decides = matching.find(|rule| rule.glob.is_match(&path));
            if decides.is_some_and(|rule| !rule.is_exception) {
                return true;
            }
        }
        false
    }
}

impl Rule {
    /// The rule of a line; `None` if it is empty or a comment.
    fn parse(line: &str) -> Result<Option<Self>, globset::Error> {
        let line = line.trim_end();
        let (is_exception, pattern) = match line.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, line),
        };
        let path = pattern.trim_end_matches('/');
        if path.is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let glob = match path.strip_prefix('/') {
            Some(from_root) => from_root.to_owned(),
            None if path.contains('/') => path.to_owned(),
            None => format!("**/{path}"),
        };
        let glob = GlobBuilder::new(&glob).literal_separator(true).build()?;
        Ok(Some(Self {
            glob: glob.compile_matcher(),
            folders_only: path.len() < pattern.len(),
            is_exception,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_mean_what_they_mean_in_a_gitignore() {
        let dir = tempfile::tempdir().unwrap();
        let covers = |lines: &str, place: &str| {
            std::fs::write(dir.path().join(FILE), lines).unwrap();
            let ignored = Ignored::of_dataset(dir.path()).unwrap();
            ignored.covers(Path::new(place.trim_end_matches('/')), place.ends_with('/'))
        };
        let image = "sub-01/func/sub-01_bold.nii.gz";
        for (lines, ignored) in [
            ("", false),
            ("# *_bold.nii.gz\n\n/\n", false),
            ("*_bold.nii.gz  ", true),
            ("*_bold.*\n!sub-01_bold.nii.gz", false),
            ("!sub-01_bold.nii.gz\n*_bold.*", true),
            ("func/", true),
            ("sub-01/func", true),
            ("/sub-01/\n!*_bold.nii.gz", true),
            ("/func/", false),
            ("sub-01/*_bold.nii.gz", false),
            ("sub-01/**/*_bold.nii.gz", true),
            ("**/func/*", true),
            ("sub-0[2-9]", false),
            ("*_bold.nii.gz/", false),
            ("\\#x\n[a", false),
        ] {
            assert_eq!(covers(lines, image), ignored, "{lines:?}");
        }
        assert!(covers("extra/", "sub-01/extra/") && !covers("extra/", "sub-01/extra"));
        assert!(!Ignored::default().covers(Path::new(image), false));
    }
}
