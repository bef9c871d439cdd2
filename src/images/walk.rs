//! Finds the images below folders. Follows links to files, and links to folders as far as the request allows.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::bids::Dataset;
use super::error::no_access;
use super::found::{Found, push, sort_and_merge_pairs};
use super::output_folder::OutputFolder;
use super::real_path::resolve;
use super::selection::Selection;
use crate::image_io::file_name::is_image_name;
use crate::text::{counted, printable};

/// A search through folders.
pub(super) struct Walk<'a> {
    pub(super) selection: &'a Selection,
    /// Whether links to folders outside the folder that is searched are followed.
    pub(super) follow_links: bool,
    /// The output folder, which must not be searched.
    pub(super) output: Option<OutputFolder>,
    /// The BIDS dataset that is searched, if it is one.
    pub(super) dataset: Option<Dataset<'a>>,
    /// The searched folders by real path, with the path prefix of their results.
    searched: HashMap<PathBuf, PathBuf>,
    pub(super) notes: Notes,
}

/// What a search has left out.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Folders that cannot be read.
    pub(super) unreadable: usize,
    /// Links to folders outside, and the first of them.
    links_outside: (usize, PathBuf),
    /// Links of a BIDS dataset to image files outside, and the first of them.
    files_outside: (usize, PathBuf),
    /// Images and folders that `.bidsignore` names, and the first of them.
    ignored: (usize, PathBuf),
    /// Folders of templates in a BIDS dataset, and the first of them.
    templates: (usize, PathBuf),
    /// Links to folders whose images are already listed, and the first of them.
    links_again: (usize, PathBuf),
    /// Files of formats that niimpi does not read, by their suffix.
    other_formats: BTreeMap<&'static str, usize>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(selection: &'a Selection, follow_links: bool) -> Self {
        Self {
            selection,
            follow_links,
            output: None,
            dataset: None,
            searched: HashMap::new(),
            notes: Notes::default(),
        }
    }

    /// Announces a folder for [`search`](Self::search), so that links to it are not followed again.
    pub(super) fn announce(&mut self, folder: &Path, place: &Path) {
        self.searched.insert(resolve(folder), place.to_owned());
    }

    /// Finds the images below an announced folder. Hidden files and folders (a leading dot) are left out. A
    /// folder with the name of an image is listed as a broken image.
    pub(super) fn search(
        &mut self,
        folder: &Path,
        place: &Path,
        found: &mut Vec<Found>,
    ) -> Result<(), String> {
        let root = resolve(folder);
        let mut links = VecDeque::new();
        self.tree(folder, place, None, found, &mut links)?;
        // Links are searched after folders, so that an image reached by both keeps its real path.
        while let Some((link, place)) = links.pop_front() {
            let real = resolve(&link);
            if self.is_searched(&real) {
                count(&mut self.notes.links_again, link);
            } else if !self.follow_links && !real.starts_with(&root) {
                count(&mut self.notes.links_outside, link);
            } else {
                self.searched.insert(real.clone(), place.clone());
                self.tree(&link, &place, Some(&real), found, &mut links)?;
            }
        }
        Ok(())
    }

    /// Finds the images of one folder and its subfolders, and the links to other folders. `linked` is the
    /// real folder behind a link; its subfolders can have been searched before.
    fn tree(
        &mut self,
        folder: &Path,
        place: &Path,
        linked: Option<&Path>,
        found: &mut Vec<Found>,
        links: &mut VecDeque<(PathBuf, PathBuf)>,
    ) -> Result<(), String> {
        let mut links_here = Vec::new();
        let mut walk = WalkDir::new(folder).sort_by_file_name().into_iter();
        while let Some(item) = walk.next() {
            let item = match item {
                Ok(item) => item,
                Err(error) => {
                    let path = error.path().unwrap_or(folder).to_owned();
                    let source = error.into();
                    if path == folder && linked.is_none() {
                        return Err(format!("{}: cannot be read: {source}", path.display()));
                    }
                    self.notes.cannot_read(&path, &source);
                    continue;
                }
            };
            if item.depth() == 0 {
                self.refuse_output_in(&item, place)?;
                continue;
            }
            let below = item.path().strip_prefix(folder).unwrap_or(item.path());
            let item_place = place.join(below);
            let kind = Kind::of(&item);
            let is_folder = kind == Kind::Folder;
            let skipped = is_hidden(item.file_name())
                || (is_folder && self.leaves_out(&item_place))
                || (is_folder && linked.is_some_and(|real| self.was_searched(&real.join(below))));
            let ignored = !skipped && self.is_ignored(&item, &item_place, kind);
            if is_folder && (skipped || ignored || is_image_name(item.file_name())) {
                walk.skip_current_dir();
            }
            if is_folder && skipped && self.dataset.is_some() && Dataset::is_template(&item_place) {
                count(&mut self.notes.templates, item.into_path());
                continue;
            }
            if skipped || ignored {
                continue;
            }
            if is_folder {
                self.refuse_output_in(&item, &item_place)?;
            }
            if is_image_name(item.file_name()) {
                let is_link = item.path_is_symlink() && !self.follow_links;
                if is_link
                    && self
                        .dataset
                        .as_ref()
                        .is_some_and(|dataset| dataset.is_left_by(item.path()))
                {
                    count(&mut self.notes.files_outside, item.into_path());
                    continue;
                }
                let input = item.into_path();
                let place = item_place;
                let line = None;
                push(found, Found { input, place, line })?;
            } else if kind == Kind::LinkToFolder {
                if !self.leaves_out(&item_place) {
                    links_here.push((item.into_path(), item_place));
                }
            } else if let Some(suffix) = other_format(item.file_name()) {
                *self.notes.other_formats.entry(suffix).or_default() += 1;
            }
        }
        links.extend(links_here);
        Ok(())
    }

    /// Whether a folder is not searched.
    fn leaves_out(&self, place: &Path) -> bool {
        self.selection.excludes(place)
            || self
                .dataset
                .as_ref()
                .is_some_and(|dataset| !dataset.enters(place))
    }

    /// Whether `.bidsignore` of the dataset names this entry. Counts images and folders.
    fn is_ignored(&mut self, item: &DirEntry, place: &Path, kind: Kind) -> bool {
        let is_folder = kind != Kind::File;
        let ignored = self
            .dataset
            .as_ref()
            .is_some_and(|dataset| dataset.ignores(place, is_folder));
        if ignored && (is_folder || is_image_name(item.file_name())) {
            count(&mut self.notes.ignored, item.path().to_owned());
        }
        ignored
    }

    /// Whether the images of a real folder are listed by a search of it or of a folder above it.
    fn is_searched(&self, real: &Path) -> bool {
        real.ancestors().any(|above| {
            self.searched.get(above).is_some_and(|place| {
                let below = real.strip_prefix(above).unwrap_or(Path::new(""));
                !below.components().any(|part| is_hidden(part.as_os_str()))
                    && !self.selection.excludes(&place.join(below))
            })
        })
    }

    fn was_searched(&self, real: &Path) -> bool {
        self.searched.contains_key(real)
    }

    /// Refuses results inside a searched folder, unless the dataset or an `--exclude` pattern leaves them out
    /// of the next run's inputs.
    fn refuse_output_in(&self, folder: &DirEntry, place: &Path) -> Result<(), String> {
        let Some(output) = &self.output else {
            return Ok(());
        };
        let below = folder.path().metadata().ok();
        let below = below.and_then(|metadata| output.below(&metadata));
        let Some(below) = below.map(|below| place.join(below)) else {
            return Ok(());
        };
        match &self.dataset {
            Some(dataset) if dataset.allows_results_in(&below) => Ok(()),
            Some(_) => Err(format!(
                "the output folder {} lies inside the dataset {}; inside of it, results belong below \
                 derivatives, such as derivatives/niimpi",
                output.written.display(),
                folder.path().display()
            )),
            None if !self.selection.excludes(&below) => Err(format!(
                "the output folder {} lies inside the input folder {}, so the next run would take results \
                     for inputs; choose a folder outside of it, or leave the results out with --exclude",
                output.written.display(),
                folder.path().display()
            )),
            None => Ok(()),
        }
    }
}

/// The kind of a folder entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    LinkToFolder,
    File,
}

impl Kind {
    fn of(item: &DirEntry) -> Self {
        let kind = item.file_type();
        if kind.is_dir() {
            Kind::Folder
        } else if kind.is_symlink() && item.path().is_dir() {
            Kind::LinkToFolder
        } else {
            // Also a dangling link; its image fails when it is processed.
            Kind::File
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

fn count((count, first): &mut (usize, PathBuf), path: PathBuf) {
    if *count == 0 {
        *first = path;
    }
    *count += 1;
}

/// The suffix of an image format that niimpi does not read.
fn other_format(name: &OsStr) -> Option<&'static str> {
    const FORMATS: [&str; 8] = [".mgz", ".mgh", ".mif", ".mif.gz", ".mnc", ".nrrd", ".mha", ".mhd"];
    const COMPRESSED: [&str; 4] = [".bz2", ".zst", ".xz", ".lz4"];
    let name = name.as_bytes();
    let stem = |suffix: &str| {
        let (stem, end) = name.split_at_checked(name.len().checked_sub(suffix.len())?)?;
        end.eq_ignore_ascii_case(suffix.as_bytes()).then_some(stem)
    };
    let format = FORMATS.into_iter().find(|suffix| stem(suffix).is_some());
    format.or_else(|| {
        COMPRESSED
            .into_iter()
            .find(|suffix| stem(suffix).is_some_and(|stem| is_image_name(OsStr::from_bytes(stem))))
    })
}

impl Notes {
    fn cannot_read(&mut self, path: &Path, error: &std::io::Error) {
        self.unreadable += 1;
        tracing::warn!(
            "{}: the folder cannot be read: {error}; its images are not listed (--exclude leaves it out)",
            printable(&path.display().to_string())
        );
    }

    /// Logs what was left out, one line per kind.
    pub(super) fn log(&self) {
        let shown = |path: &Path| printable(&path.display().to_string());
        if let (count @ 1.., first) = &self.links_outside {
            tracing::warn!(
                "did not follow {} to folders outside the input, the first is {} (use --follow-links)",
                counted(*count, "link"),
                shown(first)
            );
        }
        if let (count @ 1.., first) = &self.files_outside {
            tracing::warn!(
                "left out {} to image files outside the dataset, the first is {} (use --follow-links)",
                counted(*count, "link"),
                shown(first)
            );
        }
        if let (count @ 1.., first) = &self.ignored {
            tracing::info!(
                "left out {} that .bidsignore names, the first is {}",
                match count {
                    1 => "1 image or folder".to_owned(),
                    count => format!("{count} images or folders"),
                },
                shown(first)
            );
        }
        if let (count @ 1.., first) = &self.templates {
            tracing::info!(
                "left out {} of templates, which belong to no participant, the first is {} (give that \
                 folder without --bids to process its images)",
                counted(*count, "folder"),
                shown(first)
            );
        }
        if let (count @ 1.., first) = &self.links_again {
            tracing::info!(
                "did not follow {} to folders whose images are already listed, the first is {}",
                counted(*count, "link"),
                shown(first)
            );
        }
        let others: usize = self.other_formats.values().sum();
        if others > 0 {
            let kinds: Vec<String> = self
                .other_formats
                .iter()
                .map(|(suffix, count)| format!("{count} {suffix}"))
                .collect();
            tracing::warn!(
                "ignored {} in formats that niimpi does not read: {}",
                counted(others, "file"),
                kinds.join(", ")
            );
        }
    }
}

/// The images below one folder in natural order; a pair is one image, named by its header. Folder links are
/// followed.
pub(crate) fn images_below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    std::fs::metadata(folder).map_err(|error| no_access(folder, &error))?;
    let mut found = Vec::new();
    let everything = Selection::default();
    let mut walk = Walk::new(&everything, true);
    walk.announce(folder, Path::new(""));
    walk.search(folder, Path::new(""), &mut found)?;
    if walk.notes.unreadable > 0 {
        return Err(format!(
            "{} folders below {} cannot be read",
            walk.notes.unreadable,
            folder.display()
        ));
    }
    sort_and_merge_pairs(&mut found)?;
    Ok(found.into_iter().map(|image| image.input).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }

    /// Searches `root/data` and returns the paths found, sorted.
    fn places(root: &Path, follow_links: bool, exclude: &str) -> (Vec<String>, Notes) {
        let exclude = exclude.split_whitespace().map(|text| text.parse().unwrap());
        let selection = Selection::new(&[], &exclude.collect::<Vec<_>>()).unwrap();
        let mut walk = Walk::new(&selection, follow_links);
        let data = root.join("data");
        walk.announce(&data, Path::new(""));
        let mut found = Vec::new();
        walk.search(&data, Path::new(""), &mut found).unwrap();
        let mut places: Vec<String> = found
            .iter()
            .map(|image| image.place.display().to_string())
            .collect();
        places.sort();
        (places, walk.notes)
    }

    #[test]
    fn folder_links_out_of_the_input_are_followed_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        touch(&data.join("sub/a.nii"));
        touch(&data.join(".store/c.nii"));
        touch(&dir.path().join("other/b.nii"));
        touch(&dir.path().join("file.nii"));
        symlink(dir.path().join("other"), data.join("out")).unwrap();
        symlink(dir.path().join("other"), data.join("out2")).unwrap();
        symlink(dir.path().join("file.nii"), data.join("file.nii")).unwrap();
        symlink("sub", data.join("again")).unwrap();
        symlink(".store", data.join("stored")).unwrap();
        symlink("nowhere", data.join("lost")).unwrap();
        symlink("nowhere.nii", data.join("lost.nii")).unwrap();
        let (found, notes) = places(dir.path(), false, "");
        assert_eq!(found, ["file.nii", "lost.nii", "stored/c.nii", "sub/a.nii"]);
        assert_eq!((notes.links_outside.0, notes.links_again.0), (2, 1));
        let (found, notes) = places(dir.path(), true, "");
        assert_eq!(
            found,
            ["file.nii", "lost.nii", "out/b.nii", "stored/c.nii", "sub/a.nii"]
        );
        assert_eq!((notes.links_outside.0, notes.links_again.0), (0, 2));
        let (found, _) = places(dir.path(), true, "sub out");
        assert_eq!(
            found,
            [
                "again/a.nii",
                "file.nii",
                "lost.nii",
                "out2/b.nii",
                "stored/c.nii"
            ]
        );
    }

    #[test]
    fn trees_of_links_are_walked_once() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        // 2^24 paths lead to the image; one link leads back to the topmost folder.
        for level in 0..24 {
            let folder = dir.path().join(format!("other/{level}"));
            touch(&folder.join("x.nii"));
            for name in ["left", "right"] {
                symlink(format!("../{}", level + 1), folder.join(name)).unwrap();
            }
        }
        std::fs::create_dir(&data).unwrap();
        symlink("../other/0", data.join("start")).unwrap();
        symlink("..", data.join("up")).unwrap();
        let (found, _) = places(dir.path(), true, "");
        assert_eq!(found.len(), 24);
        assert!(places(dir.path(), false, "").0.is_empty());
    }

    #[test]
    fn other_formats_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.mgz", "b.MGZ", "c.nii.bz2", "d.tar.bz2", "e.nii", "f.img.zst"] {
            touch(&dir.path().join("data").join(name));
        }
        let (found, notes) = places(dir.path(), false, "");
        assert_eq!(found, ["e.nii"]);
        let counts: Vec<_> = notes.other_formats.into_iter().collect();
        assert_eq!(counts, [(".bz2", 1), (".mgz", 2), (".zst", 1)]);
    }

    #[test]
    fn an_excluded_folder_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        touch(&dir.path().join("data/a.nii"));
        touch(&dir.path().join("data/lost+found/b.nii"));
        assert_eq!(places(dir.path(), false, "lost+found").0, ["a.nii"]);
    }
}
