//! Detects outputs that would replace another output or an input, by their paths.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::entry::ImageEntry;
use super::error::{listed_twice, overwritten};
use super::real_path::resolve;
use crate::image_io::file_name::{Role, pair_partner, split};

/// Refuses two inputs for one output, and an output that is an input. `advice` is printed for the former.
pub(super) fn refuse_collisions(entries: &[ImageEntry], advice: impl Fn() -> String) -> Result<(), String> {
    let mut places = Places::default();
    let mut by_output: HashMap<PathBuf, &ImageEntry> = HashMap::with_capacity(entries.len());
    for entry in entries {
        let Some(first) = by_output.insert(places.of(&entry.output), entry) else {
            continue;
        };
        if places.of(&first.input) == places.of(&entry.input) {
            return Err(listed_twice(&entry.input, None));
        }
        return Err(collision(first, entry, &entry.output, advice()));
    }
    for entry in entries {
        let Some(second) = &entry.second else { continue };
        if let Some(first) = by_output.insert(places.of(second), entry) {
            return Err(collision(first, entry, second, advice()));
        }
    }
    for entry in entries {
        if let Some(by) = by_output.get(&places.of(&entry.input)) {
            return Err(overwritten(&entry.input, &by.input));
        }
    }
    Ok(())
}

fn collision(first: &ImageEntry, second: &ImageEntry, output: &Path, advice: String) -> String {
    format!(
        "two inputs for one output: {} and {} would both be written to {}; {advice}",
        first.input.display(),
        second.input.display(),
        output.display()
    )
}

/// Canonical locations of images, independent of links, dots and absolute or relative paths.
#[derive(Default)]
struct Places {
    /// Folders with links resolved, each resolved once.
    real: HashMap<PathBuf, PathBuf>,
}

impl Places {
    /// One path for all spellings of an image's path; both files of a pair have the path of the header.
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
                if path.is_symlink() { resolve(&path) } else { path }
            }
            _ if folder.as_os_str().is_empty() => resolve(Path::new(".")),
            _ => resolve(folder),
        };
        self.real.insert(folder.to_owned(), real.clone());
        real
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[(&str, &str)]) -> Result<(), String> {
        let entries: Vec<ImageEntry> = (1..)
            .zip(pairs)
            .map(|(index, (input, output))| ImageEntry {
                index,
                input: input.into(),
                output: output.into(),
                mask: None,
                second: None,
                bids: false,
            })
            .collect();
        refuse_collisions(&entries, String::new)
    }

    #[test]
    fn one_file_under_two_names_is_listed_twice() {
        let error = check(&[("a.nii", "out/a.nii"), ("./a.nii", "out/a.nii")]).unwrap_err();
        assert!(error.contains("listed twice"), "{error}");
    }

    #[test]
    fn an_input_is_not_an_output_however_its_path_is_written() {
        let absolute = std::path::absolute("a.nii").unwrap();
        for (input, output) in [
            ("a.nii", "./a.nii"),
            (absolute.to_str().unwrap(), "a.nii"),
            ("a.img", "./a.hdr"),
        ] {
            let error = check(&[(input, output)]).unwrap_err();
            assert!(error.contains("would be overwritten"), "{error}");
        }
        assert!(check(&[("a.nii", "out/a.nii")]).is_ok());
    }
}
