//! The images below a folder.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::error::{ListError, input_error};
use super::found::{Found, merge_pairs, natural_order};
use crate::image_io::file_name::is_image_name;
use crate::text::printable;

/// The images below one folder, in natural order; a pair is one, named by its header.
///
/// # Errors
/// [`ListError::NoSuchInput`] and [`ListError::Unreadable`].
pub fn images_below(folder: &Path) -> Result<Vec<PathBuf>, ListError> {
    std::fs::metadata(folder).map_err(|error| input_error(folder, error))?;
    let mut found = Vec::new();
    search(folder, &mut found)?;
    found.sort_by(|a, b| natural_order(&a.input, &b.input));
    merge_pairs(&mut found)?;
    Ok(found.into_iter().map(|image| image.input).collect())
}

pub(super) fn search(folder: &Path, found: &mut Vec<Found>) -> Result<(), ListError> {
    let hidden = |name: &OsStr| name.as_bytes().starts_with(b".");
    let mut walk = WalkDir::new(folder).follow_links(true).into_iter();
    while let Some(item) = walk.next() {
        let item = match item {
            Ok(item) => item,
            Err(error) if error.loop_ancestor().is_some() => {
                let path = error.path().unwrap_or(folder);
                tracing::warn!(
                    "{}: a link back to a folder above it; not followed",
                    printable(&path.display().to_string())
                );
                continue;
            }
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                // A link that leads nowhere is an image that cannot be read: it becomes a record when it is its turn.
                if path.file_name().is_some_and(is_image_name) && path.is_symlink() {
                    let relative = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                    found.push(Found {
                        input: path,
                        relative,
                    });
                    continue;
                }
                if path.is_symlink() {
                    continue;
                }
                let source = error.into();
                return Err(ListError::Unreadable { path, source });
            }
        };
        if item.depth() == 0 {
            continue;
        }
        let is_folder = item.file_type().is_dir();
        if hidden(item.file_name()) {
            if is_folder {
                walk.skip_current_dir();
            }
            continue;
        }
        if is_image_name(item.file_name()) {
            if is_folder {
                walk.skip_current_dir();
            }
            let input = item.into_path();
            let relative = input.strip_prefix(folder).unwrap_or(&input).to_owned();
            found.push(Found { input, relative });
        }
    }
    Ok(())
}
