//! `.bidsignore`: files and folders of a dataset that are not part of it, in the syntax of `.gitignore`.

use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::text::printable;

/// The file in the root of a dataset.
const FILE: &str = ".bidsignore";

/// The rules of a dataset. Without the file there are none.
#[derive(Debug)]
pub(super) struct Ignored {
    rules: Gitignore,
}

impl Ignored {
    /// The rules of the dataset in this folder. Logs a line that is not a pattern.
    ///
    /// # Errors
    /// A message if the file exists and cannot be read.
    pub(super) fn of_dataset(root: &Path) -> Result<Self, String> {
        let path = root.join(FILE);
        let unreadable =
            |error: &dyn std::error::Error| format!("{}: cannot be read: {error}", path.display());
        let mut rules = GitignoreBuilder::new(root);
        if path.is_file() {
            let text = std::fs::read(&path).map_err(|error| unreadable(&error))?;
            for line in String::from_utf8_lossy(&text).lines() {
                if let Err(error) = rules.add_line(None, line) {
                    tracing::warn!(
                        "{}: left out a line that is not a pattern: {}: {error}",
                        printable(&path.display().to_string()),
                        printable(line)
                    );
                }
            }
        }
        let rules = rules.build().map_err(|error| unreadable(&error))?;
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
            if self.rules.matched(&path, is_folder).is_ignore() {
                return true;
            }
        }
        false
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
    }
}
