//! Paths without links and dots, also of files and folders that do not exist yet.

use std::path::{Component, Path, PathBuf};

/// Refuses an output folder `a/../b` if `a` does not exist: until `a` is created, files below `b` cannot be
/// seen, and they would be replaced afterwards.
pub(super) fn refuse_climbing(output: &Path) -> Result<(), String> {
    let mut walked = PathBuf::new();
    for part in output.components() {
        if part == Component::ParentDir && !walked.as_os_str().is_empty() && !walked.is_dir() {
            return Err(format!(
                "--output {}: the folder {} before .. does not exist; \
                 give the path without it and without ..",
                output.display(),
                walked.display()
            ));
        }
        walked.push(part);
    }
    Ok(())
}

/// The absolute path; unchanged if the current folder is unknown.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The absolute path without links. The last components need not exist yet.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    let absolute = absolute(path);
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        if let Ok(mut real) = existing.canonicalize() {
            real.extend(missing.iter().rev());
            return real;
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                existing = parent;
            }
            _ => return absolute,
        }
    }
}
