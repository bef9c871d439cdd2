//! Outputs that would take the place of another output or of an input.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::entry::ImageEntry;
use super::error::ListError;
use super::real_path::resolve;
use crate::image_io::file_name::{Role, pair_partner, split};

pub(super) fn refuse_collisions(entries: &[ImageEntry]) -> Result<(), ListError> {
    let mut places = Places::default();
    let mut by_output: HashMap<PathBuf, &ImageEntry> = HashMap::with_capacity(entries.len());
    for entry in entries {
        if let Some(first) = by_output.insert(places.of(&entry.output), entry) {
            return Err(ListError::Collision {
                first: first.input.clone(),
                second: entry.input.clone(),
                output: entry.output.clone(),
            });
        }
    }
    for entry in entries {
        if let Some(by) = by_output.get(&places.of(&entry.input)) {
            return Err(ListError::InputOverwritten {
                input: entry.input.clone(),
                by: by.input.clone(),
            });
        }
    }
    Ok(())
}

/// Where images lie, however their paths are written: with links, dots, from the root folder or from here.
#[derive(Default)]
struct Places {
    /// Folders without links, each looked at once.
    real: HashMap<PathBuf, PathBuf>,
}

impl Places {
    /// One path for all paths of an image's file; both halves of a pair lie where its header does.
    fn of(&mut self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default();
        let header = split(name)
            .filter(|(_, suffix)| suffix.role == Role::Voxels)
            .and_then(|_| pair_partner(name));
        self.folder(path.parent().unwrap_or(Path::new("")))
            .join(header.as_deref().unwrap_or(name))
    }

    fn folder(&mut self, folder: &Path) -> PathBuf {
        if let Some(real) = self.real.get(folder) {
            return real.clone();
        }
        let real = match (folder.parent(), folder.file_name()) {
            (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
                let path = self.folder(parent).join(name);
                if path.is_symlink() {
                    resolve(&path)
                } else {
                    path
                }
            }
            _ if folder.as_os_str().is_empty() => resolve(Path::new(".")),
            _ => resolve(folder),
        };
        self.real.insert(folder.to_owned(), real.clone());
        real
    }
}
