//! Atomic files: a file gets its final name only when it is complete. Also removes unfinished files of dead
//! processes.
//!
//! A file is written under a hidden name in the same folder,
//! `.niimpi-<boot>-<namespace>-<process>-<start>-<random>.part`. The name identifies the process that writes
//! it, so that a later run can detect abandoned files. Folders are kept open, so a file is renamed in the
//! folder in which it was written even if the path changes meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fstat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::process;

const PREFIX: &str = ".niimpi-";
const SUFFIX: &str = ".part";

/// An unfinished file of another host that was not written to for this time counts as abandoned. If its
/// writer is suspended, its rename later fails with an error.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// After this time the time of an unfinished file is renewed, because a file can wait long for its content.
const RENEW_EVERY: Duration = Duration::from_secs(60);

/// Prefix of the names of this process's unfinished files.
static OWN_PREFIX: LazyLock<String> = LazyLock::new(|| {
    let pid = std::process::id();
    let start = process::start_ticks().unwrap_or_default();
    format!("{PREFIX}{}-{pid}-{start}-", process::space())
});

/// A file without its final name.
struct Unfinished {
    path: PathBuf,
    /// When its time was last renewed; `None` if that must not happen any more.
    renewed: Option<Instant>,
}

/// The unfinished files of this process.
static UNFINISHED: Mutex<Vec<Unfinished>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<Unfinished>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Renews the times of this process's unfinished files, so that they do not count as abandoned. Call it
/// often.
pub(crate) fn renew_unfinished() {
    renew_after(RENEW_EVERY);
}

fn renew_after(age: Duration) {
    let now = TimeSpec::UTIME_NOW;
    for part in unfinished().iter_mut() {
        if part.renewed.is_some_and(|renewed| renewed.elapsed() >= age) {
            // By the clock of the file system.
            let _ = utimensat(AT_FDCWD, &part.path, &now, &now, UtimensatFlags::NoFollowSymlink);
            part.renewed = Some(Instant::now());
        }
    }
}

/// Which folders of a path are followed and created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Folders {
    /// All of them exist. Links are followed.
    #[default]
    Existing,
    /// Missing folders are created. Links are followed.
    Made,
    /// The same, but this many of the last components must not be links.
    Own(usize),
}

/// An open folder.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// The error of the file system; `NotADirectory` or `FilesystemLoop` if one of the checked folders is a
    /// link.
    pub(crate) fn open(path: &Path, folders: Folders) -> io::Result<Arc<Self>> {
        Self::open_synced(path, folders, false)
    }

    /// The same. With `sync`, the entries of the folders that it creates are synced.
    pub(crate) fn open_synced(path: &Path, folders: Folders, sync: bool) -> io::Result<Arc<Self>> {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let own = match folders {
            Folders::Existing => 0,
            Folders::Made => {
                make_folders(path, sync)?;
                0
            }
            Folders::Own(count) => count,
        };
        let names: Vec<&OsStr> = path.iter().collect();
        let (above, below) = names.split_at(names.len().saturating_sub(own));
        let above = match above.is_empty() {
            true => PathBuf::from("."),
            false => above.iter().collect(),
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut fd = nix::fcntl::open(&above, flags, Mode::empty())?;
        for &name in below {
            let flags = flags | OFlag::O_NOFOLLOW;
            fd = match openat(&fd, name, flags, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&fd, name, Mode::from_bits_truncate(0o777)) {
                        Ok(()) if sync => sync_entries(&fd)?,
                        Ok(()) | Err(Errno::EEXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    openat(&fd, name, flags, Mode::empty())?
                }
                opened => opened?,
            };
        }
        Ok(Arc::new(Folder {
            fd,
            path: path.to_owned(),
        }))
    }

    /// Syncs the folder's entries.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_entries(&self.fd)
    }

    /// Whether both are the same folder.
    fn is(&self, other: &Self) -> bool {
        let id = |folder: &Self| fstat(&folder.fd).map(|stat| (stat.st_dev, stat.st_ino));
        id(self).is_ok_and(|own| id(other) == Ok(own))
    }

    /// Checks that the file with this name is still the one that was seen. Returns whether it exists.
    ///
    /// # Errors
    /// [`changed`], or the file system's.
    pub(crate) fn check(&self, name: &OsStr, expected: Expected) -> io::Result<bool> {
        match (self.stamp(name)?, expected) {
            (now, Expected::Anything) => Ok(now.is_some()),
            (None, Expected::Nothing) => Ok(false),
            (Some(now), Expected::This(seen)) if now == seen => Ok(true),
            _ => Err(changed()),
        }
    }

    /// Removes the file with this name after [`Folder::check`]. Returns whether it existed.
    ///
    /// # Errors
    /// [`changed`], or the file system's.
    pub(crate) fn remove(&self, name: &OsStr, expected: Expected) -> io::Result<bool> {
        let exists = self.check(name, expected)?;
        if exists {
            unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?;
        }
        Ok(exists)
    }

    fn stamp(&self, name: &OsStr) -> io::Result<Option<Stamp>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stamp::of(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Creates a folder and those above it that are missing. With `sync`, their entries are synced.
pub(crate) fn make_folders(path: &Path, sync: bool) -> io::Result<()> {
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    std::fs::create_dir_all(path)?;
    let above = missing.iter().filter(|_| sync).filter_map(|made| made.parent());
    for folder in above {
        Folder::open(folder, Folders::Existing)?.sync()?;
    }
    Ok(())
}

fn sync_entries(folder: &OwnedFd) -> io::Result<()> {
    unless_unsupported(nix::unistd::fsync(folder))
}

/// Some network and FUSE file systems report that they cannot sync a folder. This is ignored, because the
/// file itself is synced. Any other error is returned.
fn unless_unsupported(synced: nix::Result<()>) -> io::Result<()> {
    match synced {
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::ENOTSUP) => Ok(()),
        other => Ok(other?),
    }
}

/// The identity of a file, to detect that it was replaced or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    mtime_ns: i64,
}

impl Stamp {
    #[allow(clippy::unnecessary_cast, reason = "the types differ among systems")]
    fn of(stat: &FileStat) -> Self {
        Self {
            inode: stat.st_ino as u64,
            bytes: stat.st_size as u64,
            mtime_ns: (stat.st_mtime as i64)
                .saturating_mul(1_000_000_000)
                .saturating_add(stat.st_mtime_nsec as i64),
        }
    }

    /// The file or link under this path, if there is one.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            mtime_ns: metadata
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(metadata.mtime_nsec()),
        })
    }
}

/// What can exist under the final name of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Anything,
    Nothing,
    /// This file, which is replaced.
    This(Stamp),
}

/// The error if the name belongs to an unexpected file.
fn changed() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "another run wrote it meanwhile")
}

/// A file without its final name. Dropping it removes the file.
#[derive(Debug)]
pub(crate) struct PartFile {
    file: File,
    folder: Arc<Folder>,
    name: OsString,
    /// Whether the file has its final name, so that `name` no longer exists.
    is_named: bool,
}

impl PartFile {
    pub(crate) fn create(folder: &Arc<Folder>) -> io::Result<Self> {
        loop {
            let name = OsString::from(format!("{}{:016x}{SUFFIX}", *OWN_PREFIX, random()));
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            // Restricted by the user's umask, as for any other new file.
            let mode = Mode::from_bits_truncate(0o666);
            let fd = match openat(&folder.fd, name.as_os_str(), flags, mode) {
                Err(Errno::EEXIST) => continue,
                opened => opened?,
            };
            unfinished().push(Unfinished {
                path: folder.path.join(&name),
                renewed: Some(Instant::now()),
            });
            return Ok(PartFile {
                file: File::from(fd),
                folder: Arc::clone(folder),
                name,
                is_named: false,
            });
        }
    }

    /// The file, to be written.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Its temporary path.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    pub(crate) fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Uses another file's open folder if it is the same, so that fewer files are open.
    pub(crate) fn share_folder(&mut self, other: &Arc<Folder>) {
        if self.folder.path == other.path && self.folder.is(other) {
            self.folder = Arc::clone(other);
        }
    }

    /// From now on the time of the file is no longer renewed.
    pub(crate) fn keep_time(&self) {
        let path = self.folder.path.join(&self.name);
        for part in unfinished().iter_mut().filter(|part| part.path == path) {
            part.renewed = None;
        }
    }

    /// Renames the file to its final name.
    ///
    /// # Errors
    /// `AlreadyExists` if the name belongs to an unexpected file, which is kept; otherwise the error of the
    /// file system.
    pub(crate) fn publish(mut self, name: &OsStr, expected: Expected) -> io::Result<()> {
        // Its name can be another file's during the exchange.
        self.keep_time();
        let named = match expected {
            Expected::Anything => self.rename(name),
            Expected::Nothing => self.name_new(name),
            Expected::This(seen) => self.replace(name, seen),
        };
        match named {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let gone = self.folder.stamp(&self.name).is_ok_and(|part| part.is_none());
                match gone {
                    true => Err(io::Error::other(
                        "its unfinished file was removed by another process; --resume makes the result again",
                    )),
                    false => Err(error),
                }
            }
            named => named,
        }
    }

    fn rename(&mut self, name: &OsStr) -> io::Result<()> {
        let fd = &self.folder.fd;
        renameat(fd, self.name.as_os_str(), fd, name)?;
        self.is_named = true;
        Ok(())
    }

    fn name_new(&mut self, name: &OsStr) -> io::Result<()> {
        match self.rename_with(name, How::NoReplace) {
            Ok(()) => {
                self.is_named = true;
                return Ok(());
            }
            Err(Errno::EEXIST) => return Err(changed()),
            Err(error) if !is_unsupported(error) => return Err(error.into()),
            Err(_) => {}
        }
        let fd = &self.folder.fd;
        let linked = linkat(fd, self.name.as_os_str(), fd, name, AtFlags::empty());
        match linked {
            // Dropping the part removes the other name.
            Ok(()) => Ok(()),
            Err(Errno::EEXIST) => Err(changed()),
            // A file system without hard links.
            Err(error) if is_unsupported(error) || error == Errno::EPERM => match self.folder.stamp(name)? {
                None => self.rename(name),
                Some(_) => Err(changed()),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn replace(&mut self, name: &OsStr, seen: Stamp) -> io::Result<()> {
        if self.folder.stamp(name)? != Some(seen) {
            return Err(changed());
        }
        match self.rename_with(name, How::Exchange) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Err(changed()),
            Err(error) if is_unsupported(error) => return self.rename(name),
            Err(error) => return Err(error.into()),
        }
        // After the exchange, the old file has the part's name and is removed with it. If it was created in
        // between, it gets its name back.
        if self.folder.stamp(&self.name)? == Some(seen) {
            return Ok(());
        }
        self.rename_with(name, How::Exchange)?;
        Err(changed())
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn rename_with(&self, name: &OsStr, how: How) -> nix::Result<()> {
        use nix::fcntl::{RenameFlags, renameat2};
        let flags = match how {
            How::NoReplace => RenameFlags::RENAME_NOREPLACE,
            How::Exchange => RenameFlags::RENAME_EXCHANGE,
        };
        let fd = &self.folder.fd;
        renameat2(fd, self.name.as_os_str(), fd, name, flags)
    }

    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    fn rename_with(&self, _name: &OsStr, _how: How) -> nix::Result<()> {
        Err(Errno::ENOSYS)
    }
}

#[derive(Clone, Copy)]
enum How {
    NoReplace,
    Exchange,
}

fn is_unsupported(error: Errno) -> bool {
    [Errno::EINVAL, Errno::ENOSYS, Errno::ENOTSUP].contains(&error)
}

fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.is_named {
            let name = self.name.as_os_str();
            let _ = unlinkat(self.folder.fd.as_fd(), name, UnlinkatFlags::NoRemoveDir);
        }
        let path = self.folder.path.join(&self.name);
        unfinished().retain(|listed| listed.path != path);
    }
}

/// Writes a file atomically. A device or pipe is written to directly.
pub(crate) fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    use io::Write;
    if is_device(path) {
        let mut writer = io::BufWriter::new(open_device(path)?);
        fill(&mut writer)?;
        return writer.flush();
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = Folder::open(path.parent().unwrap_or(Path::new("")), Folders::Existing)?;
    let mut part = PartFile::create(&folder)?;
    let mut writer = io::BufWriter::new(part.file());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    part.file().sync_all()?;
    part.publish(name, Expected::Anything)
}

/// Whether the path leads to something that is neither a file nor a folder, such as /dev/null or a pipe.
pub(crate) fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

/// How long to wait for a reader of a pipe.
const READER_WITHIN: Duration = Duration::from_millis(if cfg!(test) { 300 } else { 10_000 });

/// Opens a device or pipe for writing. A plain `open` would wait for a pipe's reader forever.
fn open_device(path: &Path) -> io::Result<File> {
    use nix::fcntl::{FcntlArg, fcntl};
    let started = Instant::now();
    loop {
        let flags = OFlag::O_NONBLOCK.bits();
        match File::options().write(true).custom_flags(flags).open(path) {
            Ok(file) => {
                fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
                return Ok(file);
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
                if started.elapsed() > READER_WITHIN {
                    return Err(io::Error::other("no program reads from this pipe"));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Removes this process's unfinished files before it exits early.
pub fn remove_unfinished() {
    for part in unfinished().drain(..) {
        let _ = std::fs::remove_file(part.path);
    }
}

/// Removes abandoned unfinished files in a folder: those of dead processes of this host, and those of other
/// hosts that were not written to for ten minutes. Returns their number. Files that cannot be accessed or
/// removed are left.
pub fn remove_stale(folder: &Path) -> usize {
    let Ok(items) = std::fs::read_dir(folder) else {
        return 0;
    };
    items
        .flatten()
        .filter(|item| is_stale(&item.path(), &item.file_name()))
        .filter(|item| std::fs::remove_file(item.path()).is_ok())
        .count()
}

/// Whether a name belongs to an abandoned unfinished file.
fn is_stale(path: &Path, name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    if !(bytes.starts_with(PREFIX.as_bytes()) && bytes.ends_with(SUFFIX.as_bytes())) {
        return false;
    }
    let own_space = format!("{PREFIX}{}-", process::space());
    let writer = name.to_str().and_then(|name| {
        let (pid, rest) = name.strip_prefix(&own_space)?.split_once('-')?;
        let (start, _random) = rest.split_once('-')?;
        Some((pid.parse::<i32>().ok()?, start.parse::<u64>().ok()?))
    });
    if let Some((pid, start)) = writer
        && pid > 0
    {
        return !process::lives_since(pid, start);
    }
    let modified = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|modified| {
        let now = file_system_now(path.parent()?)?;
        now.duration_since(modified).ok()
    });
    age.is_some_and(|age| age > ABANDONED_AFTER)
}

/// The time by the clock of a folder's file system: that of a file created in it now.
pub(crate) fn file_system_now(folder: &Path) -> Option<SystemTime> {
    let probe = tempfile::Builder::new().prefix(".clock-").tempfile_in(folder);
    probe.ok()?.as_file().metadata().ok()?.modified().ok()
}

#[cfg(test)]
mod tests;
