//! Output of commands to standard output and standard error; log lines go through `logging`.
//!
//! `print!` and `eprintln!` panic if the pipe is closed, and a panic ends every rank: `niimpi smooth … |
//! head` would end the run before its report is written.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

use crate::text::printable_lines;

/// Writes text to standard output. A closed pipe (`| head`) is not an error.
///
/// # Errors
/// The stream's own, such as a full disk.
pub(crate) fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Columns of the terminal that standard output goes to; 80 if it goes elsewhere.
pub(crate) fn width() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(80, |(columns, _)| usize::from(columns.0).max(80))
}

/// Prints `niimpi: error: MESSAGE` to standard error, control characters escaped.
pub(crate) fn error(message: impl Display) {
    note(format_args!("error: {message}"));
}

/// Prints `niimpi: MESSAGE` to standard error, control characters escaped. A stream that cannot be written is
/// ignored.
pub(crate) fn note(message: impl Display) {
    write_error(&format!("niimpi: {}\n", printable_lines(&message.to_string())));
}

/// Writes text to standard error as it is. A stream that cannot be written is ignored.
pub(crate) fn write_error(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
