//! Part files: an image on its way to the disk, before it has its name; and what dead processes left of theirs.
//!
//! A part lies beside its image, hidden, and is called `.niimpi-<host>-<process>-<random>.part`. Its name says who writes it,
//! so that a later run can tell one that nobody will finish.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tempfile::NamedTempFile;

use crate::resources;

const PREFIX: &str = ".niimpi-";
const SUFFIX: &str = ".part";

/// A part of another host that was not written to for so long belongs to nobody. Should its writer live after all, it
/// fails to give the file its name and says so.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Eight digits that stand for this host's name.
static HOST: LazyLock<String> =
    LazyLock::new(|| format!("{:08x}", crc32fast::hash(resources::host_name().as_bytes())));

/// The parts that this process is writing.
static IN_HAND: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn in_hand() -> MutexGuard<'static, Vec<PathBuf>> {
    IN_HAND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A part file. Dropped, it is removed.
pub(super) struct PartFile {
    file: NamedTempFile,
    listed: Listed,
}

/// A place among the parts in hand, given up on drop.
struct Listed(PathBuf);

impl Drop for Listed {
    fn drop(&mut self) {
        in_hand().retain(|path| *path != self.0);
    }
}

impl PartFile {
    /// Makes an empty part in `folder`.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let prefix = format!("{PREFIX}{}-{}-", *HOST, std::process::id());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX);
        #[cfg(unix)]
        {
            // What the user's umask leaves of this, as for any other new file; tempfile's own choice is private.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder)?;
        let path = file.path().to_owned();
        in_hand().push(path.clone());
        Ok(PartFile {
            file,
            listed: Listed(path),
        })
    }

    /// The file, to be written.
    pub fn file(&mut self) -> &mut std::fs::File {
        self.file.as_file_mut()
    }

    /// Gives the file its name, in place of what has it.
    pub fn publish(self, path: &Path) -> io::Result<()> {
        let result = self.file.persist(path);
        drop(self.listed);
        result.map(drop).map_err(|failure| failure.error)
    }
}

/// Removes the parts that this process is writing, for one that is about to end in the middle of them.
pub fn remove_parts_in_hand() {
    for path in in_hand().drain(..) {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes the parts in `folder` that nobody will finish: those of dead processes of this host, and those of other hosts
/// that were not written to for ten minutes. Returns how many there were; what cannot be seen or removed is left.
pub fn remove_stale_parts(folder: &Path) -> usize {
    let Ok(items) = std::fs::read_dir(folder) else {
        return 0;
    };
    items
        .flatten()
        .filter(|item| is_part(&item.file_name()))
        .filter(|item| is_stale(&item.path(), &item.file_name()))
        .filter(|item| std::fs::remove_file(item.path()).is_ok())
        .count()
}

fn is_part(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
}

fn is_stale(path: &Path, name: &OsStr) -> bool {
    let fields = name
        .to_str()
        .and_then(|name| name.strip_prefix(PREFIX))
        .and_then(|rest| rest.split_once('-'));
    if let Some((host, rest)) = fields
        && host == HOST.as_str()
        && let Some(pid) = rest.split('-').next().and_then(|pid| pid.parse().ok())
        && pid > 0
    {
        return !resources::process_lives(pid);
    }
    let modified = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| {
        SystemTime::now()
            .duration_since(modified)
            .is_ok_and(|age| age > ABANDONED_AFTER)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_dead_are_removed_and_others_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let touch = |name: &str, age_s: u64| {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age_s);
            file.set_modified(then).unwrap();
        };
        touch(&format!(".niimpi-{}-{dead}-a.part", *HOST), 0);
        touch(".niimpi-elsewhere-1-b.part", 700);
        touch(".niimpi-Xyz.part", 700);
        let kept = [
            format!(".niimpi-{}-{}-c.part", *HOST, std::process::id()),
            ".niimpi-elsewhere-1-d.part".to_owned(),
            "a.nii.gz".to_owned(),
            ".niimpi-note".to_owned(),
        ];
        touch(&kept[0], 7000);
        touch(&kept[1], 500);
        touch(&kept[2], 7000);
        touch(&kept[3], 7000);
        assert_eq!(remove_stale_parts(folder.path()), 3);
        let mut left: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = kept;
        expected.sort();
        assert_eq!(left, expected);
        assert_eq!(remove_stale_parts(&folder.path().join("none")), 0);
    }

    #[test]
    fn a_part_in_hand_is_removed_on_drop_and_published_once() {
        let folder = tempfile::tempdir().unwrap();
        let part = PartFile::create(folder.path()).unwrap();
        assert_eq!(remove_stale_parts(folder.path()), 0);
        drop(part);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let part = PartFile::create(folder.path()).unwrap();
        let target = folder.path().join("a.nii");
        part.publish(&target).unwrap();
        assert!(target.exists());
        assert!(
            in_hand()
                .iter()
                .all(|path| !path.starts_with(folder.path()))
        );
    }
}
