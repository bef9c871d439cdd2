//! The path of a result below the output folder: the path of its input below a base.
//!
//! `/./` in a path ends its base. Otherwise `--base` is the base. Otherwise a folder is its own base, and a
//! relative path of a file is used as written. An absolute path of a file needs a base.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::real_path::{absolute, resolve};

/// The folder of `--base`.
pub(super) struct Base {
    written: PathBuf,
    absolute: PathBuf,
    real: PathBuf,
}

impl Base {
    pub(super) fn new(folder: &Path) -> Result<Self, String> {
        if !folder.is_dir() {
            return Err(format!("--base {}: no such folder", folder.display()));
        }
        Ok(Self {
            written: folder.to_owned(),
            absolute: absolute(folder),
            real: resolve(folder),
        })
    }

    /// The path below the base, by its text or else by its real folder.
    fn strip(&self, path: &Path) -> Result<PathBuf, String> {
        let by_text = absolute(path);
        let by_text = by_text.strip_prefix(&self.absolute).ok().and_then(plain);
        by_text
            .or_else(|| {
                let real = real_folder_of(path);
                real.strip_prefix(&self.real).ok().and_then(plain)
            })
            .ok_or_else(|| {
                format!(
                    "{}: is not below --base {}",
                    path.display(),
                    self.written.display()
                )
            })
    }
}

/// The path prefix of a folder's images.
pub(super) fn of_folder(folder: &Path, base: Option<&Base>) -> Result<PathBuf, String> {
    match (behind_dot(folder), base) {
        (Some(below), _) => plain(below).ok_or_else(|| climbs(folder)),
        (None, Some(base)) => base.strip(folder),
        (None, None) => Ok(PathBuf::new()),
    }
}

/// The path of a file's result; `None` if it needs a base.
pub(super) fn of_file(file: &Path, base: Option<&Base>) -> Result<Option<PathBuf>, String> {
    match (behind_dot(file), base) {
        (Some(below), _) => plain(below).ok_or_else(|| climbs(file)).map(Some),
        (None, Some(base)) => base.strip(file).map(Some),
        (None, None) => Ok(Some(file).filter(|file| !file.is_absolute()).and_then(plain)),
    }
}

/// The deepest folder that contains all these files.
pub(super) fn common_folder<'a>(files: impl IntoIterator<Item = &'a Path>) -> PathBuf {
    let mut folders = files.into_iter().map(|file| {
        let mut file = match plain(&absolute(file)) {
            Some(_) => absolute(file),
            None => real_folder_of(file),
        };
        file.pop();
        file
    });
    let mut common = folders.next().unwrap_or_default();
    for folder in folders {
        while !folder.starts_with(&common) {
            common.pop();
        }
    }
    common
}

fn climbs(path: &Path) -> String {
    format!("{}: after /./ a path must not contain ..", path.display())
}

/// What follows the first `/./` of a path.
fn behind_dot(path: &Path) -> Option<&Path> {
    let bytes = path.as_os_str().as_bytes();
    let at = bytes.windows(3).position(|three| three == b"/./")?;
    let below = Path::new(std::ffi::OsStr::from_bytes(&bytes[at + 3..]));
    // `folder/./` is the folder; another slash must not make the rest absolute.
    let below = below.strip_prefix("/").unwrap_or(below);
    (!below.as_os_str().is_empty()).then_some(below)
}

/// The path without `.`; `None` if it contains `..`, which can lead anywhere.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut parts = path.components();
    parts.all(|part| part != Component::ParentDir).then(|| {
        let named = |part: &Component<'_>| *part != Component::CurDir;
        path.components().filter(named).collect()
    })
}

/// The path with links of its folder resolved, but not the last component.
fn real_folder_of(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(name) if !path.is_dir() => resolve(path.parent().unwrap_or(Path::new(""))).join(name),
        _ => resolve(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_depends_on_the_path_and_the_base_alone() {
        let dir = tempfile::tempdir().unwrap();
        let study = dir.path().join("study");
        std::fs::create_dir_all(study.join("sub-1/anat")).unwrap();
        std::os::unix::fs::symlink(&study, dir.path().join("link")).unwrap();
        let base = Base::new(&study).unwrap();
        let file = |path: &Path, base: Option<&Base>| {
            of_file(path, base).map(|place| place.map(|place| place.display().to_string()))
        };
        let below = Some("sub-1/anat/T1.nii".to_owned());
        for path in [
            study.join("sub-1/anat/T1.nii"),
            study.join("./sub-1/anat/T1.nii"),
            study.join("sub-1/../sub-1/anat/T1.nii"),
            dir.path().join("link/sub-1/anat/T1.nii"),
        ] {
            assert_eq!(file(&path, Some(&base)).unwrap(), below, "{}", path.display());
        }
        for (path, place) in [
            ("sub-1/anat/T1.nii", below.clone()),
            ("./sub-1//anat/T1.nii", below.clone()),
            ("/elsewhere/./sub-1/anat/T1.nii", below.clone()),
            ("../x/.//sub-1/anat/T1.nii", below.clone()),
            ("/study/sub-1/anat/T1.nii", None),
            ("../study/sub-1/anat/T1.nii", None),
            ("a/../T1.nii", None),
        ] {
            assert_eq!(file(Path::new(path), None).unwrap(), place, "{path}");
        }
        assert!(file(&dir.path().join("T1.nii"), Some(&base)).is_err());
        assert!(file(Path::new("/a/./../T1.nii"), None).is_err());
    }

    #[test]
    fn a_folder_is_its_own_base() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("study/sub-1");
        std::fs::create_dir_all(&sub).unwrap();
        let base = Base::new(&dir.path().join("study")).unwrap();
        let place = |folder: &Path, base| of_folder(folder, base).unwrap();
        assert_eq!(place(&sub, None), Path::new(""));
        assert_eq!(place(&sub, Some(&base)), Path::new("sub-1"));
        assert_eq!(place(&sub.join(".."), Some(&base)), Path::new(""));
        let dotted = dir.path().join("study/./sub-1/");
        assert_eq!(place(&dotted, None), Path::new("sub-1"));
        assert_eq!(place(&dir.path().join("study/./"), None), Path::new(""));
        assert!(of_folder(dir.path(), Some(&base)).is_err());
        assert!(Base::new(&dir.path().join("none")).is_err());
    }

    #[test]
    fn the_common_folder_is_the_deepest() {
        let common = |files: &[&str]| common_folder(files.iter().map(Path::new));
        assert_eq!(common(&["/a/b/x.nii", "/a/b/c/y.nii"]), Path::new("/a/b"));
        assert_eq!(common(&["/a/x.nii"]), Path::new("/a"));
        assert_eq!(common(&["/a/x.nii", "/b/y.nii"]), Path::new("/"));
    }
}
