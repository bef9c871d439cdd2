//! Console: what a command itself says on standard output and standard error, beside its log.
//!
//! `print!` and `eprintln!` panic where nobody reads any more, and a panic ends every rank: `niimpi smooth … | head` would
//! end the run before its report is written.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Writes text to standard output. A reader that has seen enough (`| head`) is no error.
///
/// # Errors
/// The stream's own, such as a full disk.
pub fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_ref())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Writes a line to standard error, where there is still somebody to read it.
pub fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "niimpi: {line}");
}
