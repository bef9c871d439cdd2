//! Detects results that would replace inputs, by file identity: through links, hard links, bind mounts or the
//! case of names.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entry::ImageEntry;
use super::error::overwritten;
use crate::image_io::file_name::{pair_partner, toggle_gzip};

/// A file's device and inode.
type FileId = (u64, u64);

/// The files of an image before it is read, as seen by one rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FilesOfImage {
    input: Option<FileId>,
    /// Other files of the input: the other file of a pair, its own mask, and the links that lead to them.
    more_of_input: Vec<FileId>,
    /// The files that its result replaces.
    replaced: Vec<FileId>,
}

impl FilesOfImage {
    pub(super) fn of(entry: &ImageEntry) -> Self {
        let ids = |paths: Vec<PathBuf>| paths.into_iter().filter_map(|path| Some(id(&lstat(&path)?)));
        let mut input = ids(paths_read(entry));
        Self {
            input: input.next(),
            more_of_input: input.collect(),
            // A link itself is replaced, not its target.
            replaced: ids(entry.files().into_iter().flatten().collect()).collect(),
        }
    }

    /// Whether the result, or half of it, exists.
    pub(super) fn output_exists(&self) -> bool {
        !self.replaced.is_empty()
    }

    fn input(&self) -> impl Iterator<Item = &FileId> {
        self.input.iter().chain(&self.more_of_input)
    }
}

/// Refuses results that would replace inputs, by any name or link. `mask` is the one of all images.
pub(crate) fn refuse_replacing_inputs<'a>(
    entries: &[ImageEntry],
    files: impl Iterator<Item = &'a FilesOfImage> + Clone,
    mask: Option<&Path>,
) -> Result<(), String> {
    let replaced: HashSet<FileId> = files
        .clone()
        .flat_map(|files| files.replaced.iter().copied())
        .collect();
    if replaced.is_empty() {
        return Ok(());
    }
    for path in mask.map_or(Vec::new(), paths_of_input) {
        let Some(mask_id) = lstat(&path).map(|metadata| id(&metadata)) else {
            continue;
        };
        if let Some(by) = files.clone().position(|files| files.replaced.contains(&mask_id)) {
            return Err(overwritten(&path, &entries[by].input));
        }
    }
    // Device numbers differ between nodes, and a hard link has another name than the file. So the root checks
    // possible matches again.
    let inputs: HashSet<FileId> = files.clone().flat_map(|files| files.input().copied()).collect();
    let mut by_name: HashMap<DirectoryEntry, usize> = HashMap::new();
    for (place, files) in files.clone().enumerate() {
        if files.replaced.iter().any(|id| inputs.contains(id)) {
            let paths = entries[place].files().into_iter().flatten();
            let names = paths.filter_map(|path| DirectoryEntry::of(&path));
            by_name.extend(names.map(|name| (name, place)));
        }
    }
    for (place, files) in files.enumerate() {
        if !files.input().any(|id| replaced.contains(id)) {
            continue;
        }
        let paths = paths_read(&entries[place]);
        let mut names = paths.iter().filter_map(|path| DirectoryEntry::of(path));
        if let Some(&by) = names.find_map(|name| by_name.get(&name)) {
            return Err(overwritten(&entries[place].input, &entries[by].input));
        }
    }
    Ok(())
}

/// Identifies one name of a file.
#[derive(PartialEq, Eq, Hash)]
enum DirectoryEntry {
    /// The only name of this file.
    Only(FileId),
    /// A name in this folder, in lower case: some file systems ignore the case.
    Named(FileId, FileId, OsString),
}

impl DirectoryEntry {
    fn of(path: &Path) -> Option<Self> {
        let metadata = lstat(path)?;
        if metadata.nlink() == 1 {
            return Some(Self::Only(id(&metadata)));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = std::fs::metadata(folder.unwrap_or(Path::new("."))).ok()?;
        let name = path.file_name()?.to_ascii_lowercase();
        Some(Self::Named(id(&metadata), id(&folder), name))
    }
}

fn lstat(path: &Path) -> Option<Metadata> {
    std::fs::symlink_metadata(path).ok()
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The files that an image is made from.
fn paths_read(entry: &ImageEntry) -> Vec<PathBuf> {
    let mut paths = paths_of_input(&entry.input);
    paths.extend(entry.mask.as_deref().map_or(Vec::new(), paths_of_input));
    paths
}

/// The files of an input: both files of a pair, and each link on the way to a file.
fn paths_of_input(input: &Path) -> Vec<PathBuf> {
    const MOST_LINKS: usize = 40;
    let partner = input.file_name().and_then(pair_partner);
    let names = [partner.as_deref().and_then(toggle_gzip), partner];
    let halves = names.into_iter().flatten().map(|name| input.with_file_name(name));
    let mut paths = Vec::new();
    for half in std::iter::once(input.to_owned()).chain(halves) {
        let mut next = Some(half);
        for _ in 0..MOST_LINKS {
            let Some(path) = next.take() else { break };
            if let Ok(target) = std::fs::read_link(&path) {
                next = Some(path.parent().unwrap_or(Path::new("")).join(target));
            }
            paths.push(path);
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Whether the results of these inputs are refused, below a folder with these files.
    fn refused(dir: &Path, pairs: &[(&str, &str)]) -> bool {
        let entries: Vec<ImageEntry> = (1..)
            .zip(pairs)
            .map(|(index, (input, output))| ImageEntry {
                index,
                input: dir.join(input),
                output: dir.join(output),
                mask: None,
                second: None,
                bids: false,
            })
            .collect();
        let files: Vec<FilesOfImage> = entries.iter().map(FilesOfImage::of).collect();
        refuse_replacing_inputs(&entries, files.iter(), None).is_err()
    }

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["in", "out"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for name in ["a.nii", "in/b.hdr", "in/b.img.gz", "out/old.nii"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        dir
    }

    #[test]
    fn an_input_is_not_replaced_by_whatever_name_it_is_reached() {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        symlink(path("a.nii"), path("link.nii")).unwrap();
        symlink(path("a.nii"), path("out/link.nii")).unwrap();
        symlink("link.nii", path("second.nii")).unwrap();
        for (input, output) in [
            ("a.nii", "./a.nii"),
            ("link.nii", "a.nii"),
            ("second.nii", "a.nii"),
            ("second.nii", "link.nii"),
            ("in/b.hdr", "in/b.img.gz"),
            ("in/b.hdr", "out/../in/b.hdr"),
        ] {
            assert!(refused(dir.path(), &[(input, output)]), "{output}");
        }
        for output in ["out/old.nii", "out/link.nii", "out/new.nii"] {
            assert!(!refused(dir.path(), &[("a.nii", output)]), "{output}");
        }
        assert!(refused(
            dir.path(),
            &[("out/old.nii", "out/new.nii"), ("a.nii", "out/old.nii")]
        ));
    }

    #[test]
    fn a_hard_link_is_another_name_and_may_be_replaced() {
        let dir = folder();
        let path = |name: &str| dir.path().join(name);
        std::fs::hard_link(path("a.nii"), path("out/a.nii")).unwrap();
        symlink(path("out"), path("mirror")).unwrap();
        assert!(!refused(dir.path(), &[("a.nii", "out/a.nii")]));
        // The same name in the same folder, by any path.
        assert!(refused(dir.path(), &[("out/a.nii", "mirror/a.nii")]));
        assert!(refused(dir.path(), &[("mirror/a.nii", "in/../out/a.nii")]));
        symlink(path("out/a.nii"), path("in/link.nii")).unwrap();
        assert!(refused(dir.path(), &[("in/link.nii", "out/a.nii")]));
    }

    #[test]
    fn half_a_pair_is_a_result_that_exists() {
        let dir = folder();
        let entry = ImageEntry {
            index: 1,
            input: dir.path().join("a.nii"),
            output: dir.path().join("in/b.hdr"),
            mask: None,
            second: None,
            bids: false,
        };
        std::fs::rename(dir.path().join("in/b.hdr"), dir.path().join("in/b.img")).unwrap();
        assert!(FilesOfImage::of(&entry).output_exists());
    }
}
