//! Writing a rank's journal: complete lines, appended one by one, immediately visible to other processes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;

use super::{FOLDER, Line, RunLine, file_of};
use crate::atomic_file::{Folder, Folders, renew_unfinished};
use crate::report::State;
use crate::text::is_plain;

/// After this time without a line, a rank writes a heartbeat.
const SAY_ALIVE: Duration = Duration::from_secs(30);

/// A rank's open journal, shared by its threads.
///
/// Each line is one write to a file opened for appending. There is no buffer, so `kill -9` loses no written
/// line. Only lines that must survive a power failure are synced: see [`Journal::record`].
#[derive(Debug)]
pub struct Journal {
    sink: Mutex<Sink>,
    /// Number of synced lines; locked during a sync.
    synced: Mutex<u64>,
    /// The time of the run when the journal was created.
    created_unix_s: f64,
    created: Instant,
}

#[derive(Debug)]
struct Sink {
    path: PathBuf,
    file: Arc<File>,
    /// Number of written lines.
    lines: u64,
    line: Vec<u8>,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
    complained: bool,
    written: Instant,
}

impl Journal {
    /// Creates this rank's journal below the existing output folder and writes its first line. `now_unix_s`
    /// is the run's time. With `sync`, the journal and its folder entry are synced. Local.
    ///
    /// # Errors
    /// The error of the file system. Only the journals' folder is left behind.
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

    /// The run's time, seconds since 1970 to the millisecond, consistent with all ranks and later runs even
    /// if clocks differ.
    pub fn unix_s(&self) -> f64 {
        let now = self.created_unix_s + self.created.elapsed().as_secs_f64();
        (now * 1e3).round() / 1e3
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A thread that panicked here left at most an incomplete line; the next write ends it.
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line that must not be lost; with `sync` it is synced to disk. Concurrent threads share one
    /// sync.
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

    /// Appends a line. A write error is reported once and has no other effect.
    pub fn write(&self, line: &Line) {
        let mut sink = self.sink();
        if let Err(error) = sink.write(line)
            && !sink.complained
        {
            sink.complained = true;
            tracing::warn!("the journal cannot be written: {error}");
        }
    }

    /// Writes a heartbeat if no line was written for a while, and renews unfinished files.
    pub fn say_alive(&self) {
        renew_unfinished();
        if self.sink().written.elapsed() >= SAY_ALIVE {
            self.write_alive();
        }
    }

    pub(crate) fn write_alive(&self) {
        let unix_s = self.unix_s();
        self.write(&Line::Alive { unix_s });
    }

    /// Shows that the rank is alive before its second line: sets the journal's modification time to now, by
    /// the file system's clock.
    pub(crate) fn touch(&self) {
        let now = TimeSpec::UTIME_NOW;
        if let Err(error) = futimens(self.sink().file.as_fd(), &now, &now) {
            tracing::debug!("the journal's time cannot be set: {error}");
        }
    }

    /// Removes the journal of a run that refuses to start.
    pub(crate) fn discard(self) {
        let path = &self.sink().path;
        if let Err(error) = std::fs::remove_file(path) {
            tracing::debug!("{}: cannot be removed: {error}", path.display());
        }
    }

    /// Writes the last line and, with `sync`, syncs the journal.
    pub fn close(&self, state: State, sync: bool) {
        let unix_s = self.unix_s();
        self.write(&Line::Close { unix_s, state });
        if sync && let Err(error) = self.sink().file.sync_data() {
            tracing::warn!("the journal cannot be synced to disk: {error}");
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

/// Adds JSON to a line and escapes all non-printable characters, because line-based readers also split at
/// non-ASCII line breaks.
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
