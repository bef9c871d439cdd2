//! Writing a rank's journal: whole lines, appended one by one, seen by others at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::{FOLDER, Line, RunLine, file_of, unix_s};
use crate::report::State;
use crate::text::is_plain;

/// After so long without a line a rank says that it lives.
const SAY_ALIVE: Duration = Duration::from_secs(30);

/// A rank's open journal, shared by its threads.
///
/// A line is one write to a file that is open for appending: nothing is held back, so that `kill -9` costs no line that
/// was written. Lines are not brought to the disk one by one, which would cost more than an image; a power failure may
/// cost the last of them, and their images are then done again.
#[derive(Debug)]
pub struct Journal {
    sink: Mutex<Sink>,
}

#[derive(Debug)]
struct Sink {
    file: File,
    path: PathBuf,
    line: Vec<u8>,
    /// The last write failed, perhaps in the middle of a line.
    torn: bool,
    complained: bool,
    written: Instant,
}

impl Journal {
    /// Makes this rank's journal below the output folder, which exists, and writes its first line. Local.
    ///
    /// # Errors
    /// The file system's. Nothing but the journals' folder is left behind.
    pub fn create(output: &Path, run: RunLine) -> io::Result<Self> {
        let folder = output.join(FOLDER);
        if let Err(error) = std::fs::create_dir(&folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        let path = file_of(output, &run.run, run.rank);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)?;
        let mut sink = Sink {
            file,
            path: path.clone(),
            line: Vec::new(),
            torn: false,
            complained: false,
            written: Instant::now(),
        };
        if let Err(error) = sink.write(&Line::Run(run)) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self {
            sink: Mutex::new(sink),
        })
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A thread that panicked here left at most a torn line, which the next one ends.
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line. What cannot be written is told once and costs no more than time: an image without a record is
    /// done again.
    pub fn write(&self, line: &Line) {
        let mut sink = self.sink();
        if let Err(error) = sink.write(line)
            && !sink.complained
        {
            sink.complained = true;
            tracing::warn!(
                "the journal cannot be written: {error}; --resume will do images without a record again"
            );
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
        let unix_s = unix_s(SystemTime::now());
        self.write(&Line::Alive { unix_s });
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
        let unix_s = unix_s(SystemTime::now());
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
        let result = self.file.write_all(&self.line);
        self.torn = result.is_err();
        self.written = Instant::now();
        result
    }
}

/// Adds JSON to a line, with every character escaped that does not show as itself: line breaks beyond ASCII, too, are
/// taken for such by what reads a journal line by line.
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
