//! A BIDS dataset on disk: the folders of its images, and the links that belong to it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::choice::Labels;
use super::ignore::Ignored;
use crate::images::real_path::resolve;

/// The file that every dataset has.
pub(super) const DESCRIPTION: &str = "dataset_description.json";

/// The folder of a dataset for results of programs.
const DERIVATIVES: &str = "derivatives";

/// A dataset whose images are listed. Its images are in `sub-LABEL/[ses-LABEL/]DATATYPE/`; all other folders
/// are left out.
pub(in crate::images) struct Dataset<'a> {
    /// Without links.
    root: PathBuf,
    labels: &'a [Labels],
    ignored: Ignored,
}

impl<'a> Dataset<'a> {
    /// The dataset in one of the inputs' folders.
    ///
    /// # Errors
    /// A message if there is another number of inputs, or if the folder is not a dataset.
    pub(in crate::images) fn open(inputs: &[PathBuf], labels: &'a [Labels]) -> Result<Self, String> {
        let [folder] = inputs else {
            return Err(format!(
                "--bids needs one dataset, and {} inputs are given; start a run for each dataset",
                inputs.len()
            ));
        };
        let shown = folder.display();
        if !folder.is_dir() {
            return Err(format!(
                "--bids: {shown} is not a folder; give the folder of a BIDS dataset"
            ));
        }
        if !folder.join(DESCRIPTION).is_file() {
            let root = folder
                .ancestors()
                .skip(1)
                .find(|above| above.join(DESCRIPTION).is_file());
            let advice = match (root, first_dataset_in(folder)) {
                (_, Some(below)) => format!("; {} is one", below.display()),
                (Some(above), None) if !above.as_os_str().is_empty() => format!(
                    "; give its root {}, and select images with --participant-label, --session, --datatype",
                    above.display()
                ),
                _ => String::new(),
            };
            return Err(format!(
                "--bids: {shown} has no {DESCRIPTION}, so it is not the root of a BIDS dataset{advice}"
            ));
        }
        let root = resolve(folder);
        let ignored = Ignored::of_dataset(&root)?;
        Ok(Self {
            root,
            labels,
            ignored,
        })
    }

    /// Whether the images of a folder are listed. `place` is its path below the root.
    pub(in crate::images) fn enters(&self, place: &Path) -> bool {
        let names: Vec<&OsStr> = place.iter().collect();
        let selected = |key: &str, name: &OsStr| {
            let label = name
                .to_str()
                .and_then(|name| name.strip_prefix(key)?.strip_prefix('-'));
            let of_key = self.labels.iter().filter(|labels| labels.key == key);
            label.is_some_and(|label| of_key.into_iter().all(|labels| labels.take(label)))
        };
        let is_session = |name: &OsStr| name.as_bytes().starts_with(b"ses-");
        // The names of data types have neither dots nor dashes.
        let is_datatype = |name: &OsStr| name.as_bytes().iter().all(u8::is_ascii_alphanumeric);
        match names[..] {
            [subject] => selected("sub", subject),
            [_, name] => is_datatype(name) || (is_session(name) && selected("ses", name)),
            [_, session, datatype] => is_session(session) && is_datatype(datatype),
            _ => false,
        }
    }

    /// Whether `.bidsignore` names a file or folder, or a folder above it.
    pub(in crate::images) fn ignores(&self, place: &Path, is_folder: bool) -> bool {
        self.ignored.covers(place, is_folder)
    }

    /// Whether a folder has the images of a template, which belong to no participant.
    pub(in crate::images) fn is_template(place: &Path) -> bool {
        place.as_os_str().as_bytes().starts_with(b"tpl-") && place.iter().count() == 1
    }

    /// Whether results in this folder, given by its path below the root, are never inputs of the dataset.
    pub(in crate::images) fn allows_results_in(&self, below: &Path) -> bool {
        below.components().next() == Some(Component::Normal(OsStr::new(DERIVATIVES)))
    }

    /// Whether a link leads to a file outside the dataset.
    pub(in crate::images) fn is_left_by(&self, link: &Path) -> bool {
        leaves(&self.root, link)
    }
}

/// Whether a link leads to a file outside the dataset in the folder `root`, a path without links. Content of
/// git-annex is part of the dataset, wherever its store is and whether it was fetched or not.
pub(super) fn leaves(root: &Path, link: &Path) -> bool {
    let target = std::fs::read_link(link).unwrap_or_default();
    let is_annexed = target.to_string_lossy().contains("annex/objects/");
    !is_annexed && link.exists() && !resolve(link).starts_with(root)
}

/// A dataset directly below this folder, such as a pipeline's below `derivatives`.
fn first_dataset_in(folder: &Path) -> Option<PathBuf> {
    let items = std::fs::read_dir(folder).ok()?.flatten();
    let paths = items.map(|item| item.path());
    paths.filter(|path| path.join(DESCRIPTION).is_file()).min()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_the_folders_of_images_are_entered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(DESCRIPTION), "{}").unwrap();
        let labels = [Labels::new("participant-label", "sub", &["sub-01".to_owned()])];
        let inputs = [dir.path().to_owned()];
        let dataset = Dataset::open(&inputs, &labels).unwrap();
        for (place, entered) in [
            ("sub-01", true),
            ("sub-01/anat", true),
            ("sub-01/ses-a", true),
            ("sub-01/ses-a/func", true),
            ("sub-02", false),
            ("sub-01/anat/old", false),
            ("sub-01/ses-a/func/old", false),
            ("sub-01/x.bids", false),
            ("derivatives", false),
            ("sourcedata", false),
            ("code", false),
        ] {
            assert_eq!(dataset.enters(Path::new(place)), entered, "{place}");
        }
        assert!(dataset.allows_results_in(Path::new("derivatives/niimpi")));
        assert!(!dataset.allows_results_in(Path::new("sub-01")) && !dataset.allows_results_in(Path::new("")));
    }

    #[test]
    fn annexed_content_belongs_to_the_dataset() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("ds");
        std::fs::create_dir_all(root.join(".git/annex/objects/k")).unwrap();
        std::fs::write(root.join(DESCRIPTION), "{}").unwrap();
        for file in ["ds/.git/annex/objects/k/present", "ds/own.nii", "other.nii"] {
            std::fs::write(dir.path().join(file), "x").unwrap();
        }
        let inputs = [root.clone()];
        let dataset = Dataset::open(&inputs, &[]).unwrap();
        for (target, leaves) in [
            (".git/annex/objects/k/present", false),
            (".git/annex/objects/k/absent", false),
            ("../super/.git/modules/ds/annex/objects/k/absent", false),
            ("own.nii", false),
            ("missing.nii", false),
            ("../other.nii", true),
        ] {
            let link = root.join("link.nii");
            symlink(target, &link).unwrap();
            assert_eq!(dataset.is_left_by(&link), leaves, "{target}");
            std::fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn a_folder_that_is_not_a_dataset_is_refused_with_one_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("ds/sub-01")).unwrap();
        std::fs::create_dir_all(path("ds/derivatives/fmriprep")).unwrap();
        for name in ["ds", "ds/derivatives/fmriprep"] {
            std::fs::write(path(name).join(DESCRIPTION), "{}").unwrap();
        }
        let error = |inputs: &[PathBuf]| Dataset::open(inputs, &[]).err().unwrap_or_default();
        let pipeline = error(&[path("ds/derivatives")]);
        assert!(pipeline.ends_with("derivatives/fmriprep is one"), "{pipeline}");
        let subject = error(&[path("ds/sub-01")]);
        assert!(
            subject.contains(&format!("give its root {},", path("ds").display())),
            "{subject}"
        );
        assert!(error(&[path("ds/dataset_description.json")]).contains("is not a folder"));
        assert!(error(&[path("ds"), path("ds")]).contains("one dataset, and 2 inputs"));
    }
}
