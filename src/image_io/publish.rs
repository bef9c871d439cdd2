//! Publishing: renames complete files, all of them or none.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::error::{Cause, ImageError};
use super::gzip::Written;
use super::identity::{Crc32, FileId};
use crate::atomic_file::{Expected, Folder, Folders, PartFile, Stamp};

/// Which existing files an output can replace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Any file is replaced.
    Any,
    /// Only these files are replaced, by their names in the output's folder. All other names must be free.
    Seen(Vec<(std::ffi::OsString, Stamp)>),
}

impl Existing {
    fn expected(&self, name: &OsStr) -> Expected {
        match self {
            Existing::Any => Expected::Anything,
            Existing::Seen(files) => files
                .iter()
                .find(|(seen, _)| seen == name)
                .map_or(Expected::Nothing, |(_, stamp)| Expected::This(*stamp)),
        }
    }
}

/// A complete file of an output without its final name. Dropping it removes the file.
pub(super) struct Part {
    file: PartFile,
    id: FileId,
}

impl Part {
    /// A completely written file for this path.
    pub fn complete(file: PartFile, path: &Path, written: &Written) -> Self {
        Part {
            file,
            id: FileId {
                path: path.to_owned(),
                crc32: Some(Crc32(written.crc32)),
                raw_bytes: written.raw_bytes,
                ..FileId::default()
            },
        }
    }

    fn name(&self) -> &OsStr {
        self.id.path.file_name().unwrap_or_default()
    }

    /// Syncs the file and stores its size and modification time.
    fn settle(&mut self, sync: bool) -> io::Result<()> {
        let file: &File = self.file.file();
        if sync {
            file.sync_all()?;
        }
        self.file.keep_time();
        let file: &File = self.file.file();
        let now = FileId::of(&self.id.path, &file.metadata()?);
        (self.id.bytes, self.id.mtime_ns) = (now.bytes, now.mtime_ns);
        Ok(())
    }
}

/// A complete output without a final name. Dropping it removes its files.
pub struct StagedFile {
    /// The files in the order of renaming, all of one folder. The voxels of a pair come first, so that they
    /// are complete when the header appears. A second result and sidecar files come before them.
    parts: Vec<Part>,
    sync: bool,
}

impl StagedFile {
    pub(super) fn new(mut parts: Vec<Part>, sync: bool) -> Self {
        if let [first, rest @ ..] = parts.as_mut_slice() {
            let folder = Arc::clone(first.file.folder());
            rest.iter_mut().for_each(|part| part.file.share_folder(&folder));
        }
        StagedFile { parts, sync }
    }

    /// The same output with the files of another one, which get their names first.
    pub(crate) fn with_second(mut self, second: StagedFile) -> Self {
        self.parts.splice(0..0, second.parts);
        Self::new(self.parts, self.sync)
    }

    /// Syncs the output if requested, and renames it. An existing file is replaced. This waits for the disk
    /// and uses little CPU time.
    ///
    /// # Errors
    /// See [`Cause`].
    pub fn publish(self) -> Result<Vec<FileId>, ImageError> {
        self.publish_over(&Existing::Any, |_| Ok(()))
    }

    /// [`StagedFile::publish`], but replaces only expected files, and calls `record` with the files before
    /// any is renamed. If `record` fails, none is renamed.
    ///
    /// # Errors
    /// See [`Cause`].
    pub(crate) fn publish_over(
        self,
        existing: &Existing,
        record: impl FnOnce(&[FileId]) -> io::Result<()>,
    ) -> Result<Vec<FileId>, ImageError> {
        let StagedFile { mut parts, sync } = self;
        for part in &mut parts {
            part.settle(sync)
                .map_err(|error| failed("syncing the file", &part.id.path, error))?;
        }
        let Some(last) = parts.last() else {
            return Ok(Vec::new());
        };
        let (folder, last_name) = (Arc::clone(last.file.folder()), last.name().to_owned());
        let last_path = last.id.path.clone();
        let files: Vec<FileId> = parts.iter().map(|part| part.id.clone()).collect();
        record(&files).map_err(|error| Cause::NotRecorded { error }.at(&last_path))?;
        let mut expected_last = existing.expected(&last_name);
        if parts.len() > 1 {
            // Nothing is removed unless every file may be replaced.
            for part in &parts {
                let checked = folder.check(part.name(), existing.expected(part.name()));
                checked.map_err(|error| failed("renaming the file", &part.id.path, error))?;
            }
            // An old header must never be visible with new voxels, not even after a crash.
            let removed = folder.remove(&last_name, expected_last);
            let removed = removed.map_err(|error| failed("removing the old file", &last_path, error))?;
            if removed && sync {
                sync_folder(&folder, &last_path)?;
            }
            if expected_last != Expected::Anything {
                expected_last = Expected::Nothing;
            }
        }
        let count = parts.len();
        for (place, part) in parts.into_iter().enumerate() {
            let (path, name) = (part.id.path.clone(), part.name().to_owned());
            let expected = match place + 1 == count {
                true => expected_last,
                false => existing.expected(&name),
            };
            if let Err(error) = part.file.publish(&name, expected) {
                for file in &files[..place] {
                    // Without a header it is not an image.
                    let name = file.path.file_name().unwrap_or_default();
                    let _ = folder.remove(name, Expected::Anything);
                }
                return Err(failed("renaming the file", &path, error));
            }
        }
        if sync {
            sync_folder(&folder, &last_path)?;
        }
        Ok(files)
    }
}

pub(super) fn failed(action: &'static str, path: &Path, error: io::Error) -> ImageError {
    Cause::writing(action, folder_of(path), error).at(path)
}

fn sync_folder(folder: &Folder, path: &Path) -> Result<(), ImageError> {
    folder
        .sync()
        .map_err(|error| failed("syncing the folder", path, error))
}

/// Creates an unfinished file in the folder of `path`. With `sync`, the entries of new folders are synced.
pub(super) fn create_part(path: &Path, folders: Folders, sync: bool) -> Result<PartFile, ImageError> {
    let opened = Folder::open_synced(folder_of(path), folders, sync);
    let opened = opened.map_err(|error| match folder_is_link(path, folders) {
        Some(folder) => Cause::FolderIsLink { folder }.at(path),
        None => failed("opening the folder", path, error),
    });
    PartFile::create(&opened?).map_err(|error| failed("creating a file", path, error))
}

/// The first folder below the output folder in a path that is a link.
fn folder_is_link(path: &Path, folders: Folders) -> Option<std::path::PathBuf> {
    let Folders::Own(own) = folders else {
        return None;
    };
    let own: Vec<&Path> = folder_of(path).ancestors().take(own).collect();
    let is_link =
        |folder: &&Path| std::fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_symlink());
    own.into_iter().rev().find(is_link).map(Path::to_owned)
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn output(folder: &Path, content: &str) -> StagedFile {
        let parts = ["a.img", "a.hdr"].map(|name| {
            let path = folder.join(name);
            let mut file = create_part(&path, Folders::Existing, false).unwrap();
            let bytes = format!("{content} {name}");
            file.file().write_all(bytes.as_bytes()).unwrap();
            let written = Written {
                raw_bytes: bytes.len() as u64,
                crc32: crc32fast::hash(bytes.as_bytes()),
            };
            Part::complete(file, &path, &written)
        });
        StagedFile::new(parts.into(), false)
    }

    fn seen(folder: &Path) -> Existing {
        let stamp = |name: &str| Some((name.into(), Stamp::of_path(&folder.join(name))?));
        Existing::Seen(["a.img", "a.hdr"].iter().filter_map(|name| stamp(name)).collect())
    }

    fn content(folder: &Path) -> [String; 2] {
        ["a.img", "a.hdr"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap_or_default())
    }

    #[test]
    fn no_file_has_its_name_before_it_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let mut recorded = Vec::new();
        let record = |files: &[FileId]| {
            assert_eq!(content(dir.path()), ["", ""]);
            recorded = files.to_vec();
            Ok(())
        };
        let files = output(dir.path(), "one").publish_over(&seen(dir.path()), record);
        assert_eq!(files.unwrap(), recorded);
        let now = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap();
        for file in &recorded {
            let found = now(file.path.file_name().unwrap().to_str().unwrap());
            assert!(file.seems_same(&FileId::of(&file.path, &found)));
        }
        let full = |_: &[FileId]| Err(io::Error::other("full"));
        let error = output(dir.path(), "two").publish_over(&seen(dir.path()), full);
        assert!(error.unwrap_err().to_string().contains("journal"), "says why");
        assert_eq!(content(dir.path()), ["one a.img", "one a.hdr"]);
    }

    #[test]
    fn an_old_header_never_stands_with_new_voxels() {
        let dir = tempfile::tempdir().unwrap();
        output(dir.path(), "old").publish().unwrap();
        let before = seen(dir.path());
        // Another file has the header's name after the voxels were renamed.
        let new = output(dir.path(), "new");
        std::fs::remove_file(new.parts[1].file_path()).unwrap();
        new.publish_over(&before, |_| Ok(())).map(drop).unwrap_err();
        assert_eq!(content(dir.path()), ["", ""], "half a pair is not a result");
    }

    #[test]
    fn a_pair_that_another_run_wrote_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = seen(dir.path());
        output(dir.path(), "rival").publish().unwrap();
        let error = output(dir.path(), "late").publish_over(&nothing, |_| Ok(()));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("another run wrote it meanwhile"), "{text}");
        assert_eq!(content(dir.path()), ["rival a.img", "rival a.hdr"]);
        // The same for a pair that was replaced.
        let before = seen(dir.path());
        output(dir.path(), "again").publish().unwrap();
        let late = output(dir.path(), "late").publish_over(&before, |_| Ok(()));
        late.unwrap_err();
        assert_eq!(content(dir.path()), ["again a.img", "again a.hdr"]);
    }

    #[test]
    fn an_old_result_stays_unless_every_file_of_the_new_one_may_be_published() {
        let dir = tempfile::tempdir().unwrap();
        output(dir.path(), "old").publish().unwrap();
        let before = seen(dir.path());
        std::fs::write(dir.path().join("a.img"), "somebody's").unwrap();
        let late = output(dir.path(), "late").publish_over(&before, |_| Ok(()));
        let text = late.unwrap_err().to_string();
        assert!(
            text.contains("a.img") && text.contains("another run wrote it meanwhile"),
            "{text}"
        );
        assert_eq!(content(dir.path()), ["somebody's", "old a.hdr"]);
    }

    impl Part {
        fn file_path(&self) -> std::path::PathBuf {
            self.file.path()
        }
    }
}
