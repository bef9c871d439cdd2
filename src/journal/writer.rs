//! Writing a rank's journal: whole lines, appended one by one, seen by others at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::{FOLDER, Line, RunLine, file_of};
use crate::atomic_file::{Folder, Folders};
use crate::report::State;
use crate::text::is_plain;

/// After so long without a line a rank says that it lives.
const SAY_ALIVE: Duration = Duration::from_secs(30);

/// A rank's open journal, shared by its threads.
///
/// A line is one write to a file that is open for appending. Nothing is held back, so that `kill -9` costs no
/// line that was written. Only lines that must be there after a power failure are brought to the disk one by
/// one: see [`Journal::record`].
#[derive(Debug)]
pub struct Journal {
    sink: Mutex<Sink>,
    /// How many lines are on the disk; locked while others are brought there.
    synced: Mutex<u64>,
    /// The time of the run when the journal was created.
    created_unix_s: f64,
    created: Instant,
}

#[derive(Debug)]
struct Sink {
    path: PathBuf,
    file: Arc<File>,
    /// Lines that were written.
    lines: u64,
    line: Vec<u8>,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
    complained: bool,
    written: Instant,
}

impl Journal {
    /// Makes this rank's journal below the output folder, which exists, and writes its first line;
    /// `now_unix_s` is the run's time. With `sync` the journal and its name are on the disk then. Local.
    ///
    /// # Errors
    /// The file system's. Nothing but the journals' folder is left behind.
    pub fn create(output: &Path, run: RunLine, now_unix_s: f64, sync: bool) -> io::Result<Self> {
        let folder = output.join(FOLDER);
        if let Err(error) = std::fs::create_dir(&folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let path = file_of(output, &run.run, run.rank);
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        let mut sink = Sink {
            file: Arc::new(file),
            lines: 0,
            path: path.clone(),
            line: Vec::new(),
            torn: false,
            complained: false,
            written: Instant::now(),
        };
        let mut started = sink.write(&Line::Run(run));
        if sync && started.is_ok() {
            started = sink.file.sync_all();
            for folder in [folder.as_path(), output] {
                started = started.and_then(|()| Folder::open(folder, Folders::Existing)?.sync());
            }
        }
        if let Err(error) = started {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self {
            sink: Mutex::new(sink),
            synced: Mutex::new(0),
            created_unix_s: now_unix_s,
            created: Instant::now(),
        })
    }

    /// The run's time, seconds since 1970 to the millisecond. All ranks and later runs agree on it, whatever
    /// their clocks.
    pub fn unix_s(&self) -> f64 {
        let now = self.created_unix_s + self.created.elapsed().as_secs_f64();
        (now * 1e3).round() / 1e3
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A thread that panicked here left at most a torn line, which the next one ends.
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line that must not be missing; with `sync` it is on the disk then. Threads that wait for the
    /// disk at the same time wait for one write.
    ///
    /// # Errors
    /// The file system's.
    pub fn record(&self, line: &Line, sync: bool) -> io::Result<()> {
        let (file, place) = {
            let mut sink = self.sink();
            sink.write(line)?;
            (Arc::clone(&sink.file), sink.lines)
        };
        if !sync {
            return Ok(());
        }
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced < place {
            let written = self.sink().lines;
            file.sync_data()?;
            *synced = written;
        }
        Ok(())
    }

    /// Appends a line. What cannot be written is reported once and costs no more than time.
    pub fn write(&self, line: &Line) {
        let mut sink = self.sink();
        if let Err(error) = sink.write(line)
            && !sink.complained
        {
            sink.complained = true;
            tracing::warn!("the journal cannot be written: {error}");
        }
    }

    /// Says that the rank lives, if no line did for a while.
    pub fn say_alive(&self) {
        if self.sink().written.elapsed() >= SAY_ALIVE {
            self.write_alive();
        }
    }

    /// Writes that the rank lives.
    pub(crate) fn write_alive(&self) {
        let unix_s = self.unix_s();
        self.write(&Line::Alive { unix_s });
    }

    /// Shows that the rank lives before it writes a second line: the journal becomes as new as a line would
    /// make it, by the file system's clock.
    pub(crate) fn touch(&self) {
        let now = TimeSpec::UTIME_NOW;
        if let Err(error) = futimens(self.sink().file.as_fd(), &now, &now) {
            tracing::debug!("the journal's time cannot be set: {error}");
        }
    }

    /// Removes the journal of a run that is refused before its first image.
    pub(crate) fn discard(self) {
        let path = &self.sink().path;
        if let Err(error) = std::fs::remove_file(path) {
            tracing::debug!("{}: cannot be removed: {error}", path.display());
        }
    }

    /// Writes the last line and, if `sync`, brings the journal to the disk.
    pub fn close(&self, state: State, sync: bool) {
        let unix_s = self.unix_s();
        self.write(&Line::Close { unix_s, state });
        if sync && let Err(error) = self.sink().file.sync_data() {
            tracing::warn!("the journal cannot be brought to the disk: {error}");
        }
    }
}

impl Sink {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        self.line.clear();
        if self.torn {
            self.line.push(b'\n');
        }
        let text = serde_json::to_string(line)?;
        push_plain(&text, &mut self.line);
        self.line.push(b'\n');
        let result = (&*self.file).write_all(&self.line);
        self.torn = result.is_err();
        self.lines += u64::from(result.is_ok());
        self.written = Instant::now();
        result
    }
}

/// Adds JSON to a line, with every character escaped that does not show as itself: line breaks beyond ASCII,
/// too, are taken for such by what reads a journal line by line.
fn push_plain(json: &str, line: &mut Vec<u8>) {
    let mut units = [0; 2];
    for c in json.chars() {
        if is_plain(c) {
            line.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            for unit in c.encode_utf16(&mut units) {
                line.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_do_not_show_are_escaped_and_read_back() {
        let name = "a\u{2028}b\u{7f}\u{85}\u{202e}\u{e0041}é\n.nii";
        let json = serde_json::to_string(name).unwrap();
        let mut line = Vec::new();
        push_plain(&json, &mut line);
        let text = String::from_utf8(line).unwrap();
        assert_eq!(text, r#""a\u2028b\u007f\u0085\u202e\udb40\udc41é\n.nii""#);
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), name);
    }
}
