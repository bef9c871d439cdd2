//! The file of `--list`: one path per line.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::{no_access, no_image_name};
use crate::image_io::file_name::is_image_name;

/// Maximum length of a line in bytes, far more than systems allow for a path.
const LONGEST_LINE: u64 = 1 << 16;

/// Maximum number of lines of a list. Longer input is endless, such as a program's output.
const MOST_LINES: usize = if cfg!(test) { 1 << 12 } else { 10_000_000 };

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Calls `take` with each path of a list and its line number, from 1. Empty lines and a byte order mark are
/// skipped; `-` is standard input.
pub(super) fn read_list(
    list: &Path,
    mut take: impl FnMut(PathBuf, usize) -> Result<(), String>,
) -> Result<(), String> {
    let reader: Box<dyn Read> = if list == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(list).map_err(|error| no_access(list, &error))?)
    };
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut limited = (&mut reader).take(LONGEST_LINE);
        let read = limited.read_until(b'\n', &mut line);
        if read.map_err(|error| no_access(list, &error))? == 0 {
            break;
        }
        let is_cut = limited.limit() == 0 && line.last() != Some(&b'\n');
        let path = if number > MOST_LINES {
            Err(format!("the list has more than {MOST_LINES} lines; split it"))
        } else if is_cut || line.contains(&0) {
            Err("is not a list of paths, one per line; give images themselves without --list".to_owned())
        } else {
            path_of(&line, number)
        };
        path.and_then(|path| path.map_or(Ok(()), |path| take(path, number)))
            .map_err(|error| format!("{} line {number}: {error}", name_of(list)))?;
    }
    Ok(())
}

fn name_of(list: &Path) -> String {
    match list.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => list.display().to_string(),
    }
}

/// The path in a line; `None` for an empty line.
fn path_of(line: &[u8], number: usize) -> Result<Option<PathBuf>, String> {
    let mut text = line;
    if number == 1 {
        // Windows editors begin a file with it; no path does.
        text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    }
    text = text.strip_suffix(b"\n").unwrap_or(text);
    text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(OsString::from_vec(text.to_vec()));
    let trimmed = text.trim_ascii();
    if trimmed.is_empty() {
        return Ok(None);
    }
    let is_image = path.file_name().is_some_and(is_image_name);
    if trimmed != text && (!is_image || path.symlink_metadata().is_err()) {
        let path = path.display().to_string();
        return Err(format!(
            "{path:?}: the path begins or ends with a blank; remove it"
        ));
    }
    match is_image {
        true => Ok(Some(path)),
        false if path.is_dir() => Err(format!(
            "{}: is a folder in the file of --list; give folders as arguments",
            path.display()
        )),
        false => Err(no_image_name(&path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<(String, usize)>, String> {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list");
        std::fs::write(&list, bytes).unwrap();
        let mut paths = Vec::new();
        let result = read_list(&list, |path, line| {
            paths.push((path.display().to_string(), line));
            Ok(())
        });
        let message = |error: String| error.replace(list.to_str().unwrap(), "LIST");
        result.map(|()| paths).map_err(message)
    }

    #[test]
    fn paths_come_with_their_lines() {
        let paths = |texts: &[(&str, usize)]| -> Vec<(String, usize)> {
            texts
                .iter()
                .map(|&(text, line)| (text.to_owned(), line))
                .collect()
        };
        assert_eq!(
            read(b"a.nii\r\n\n \nb.nii").unwrap(),
            paths(&[("a.nii", 1), ("b.nii", 4)])
        );
        let marked = read(b"\xef\xbb\xbfa.nii\r\nb c.nii\r\n").unwrap();
        assert_eq!(marked, paths(&[("a.nii", 1), ("b c.nii", 2)]));
    }

    #[test]
    fn an_endless_list_is_refused() {
        let message = read("a.nii\n".repeat(MOST_LINES + 1).as_bytes()).unwrap_err();
        assert!(message.contains("more than 4096 lines"), "{message}");
        assert!(read(&b"\n".repeat(MOST_LINES)).unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_line() {
        for (bytes, message) in [
            (
                &b"a.nii\nb.nii \n"[..],
                "LIST line 2: \"b.nii \": the path begins or ends with a blank",
            ),
            (
                b"\ta.nii\n",
                "LIST line 1: \"\\ta.nii\": the path begins or ends with a blank",
            ),
            (b"a.nii\n\nb.txt\n", "LIST line 3: b.txt: not an image name"),
            (b"a.nii\n/\n", "LIST line 2: /: is a folder"),
            (b"a.nii\n\x5c\x01\0\0.nii", "LIST line 2: is not a list of paths"),
            (&[b'a'; 1 << 17], "LIST line 1: is not a list of paths"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
