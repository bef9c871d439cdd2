//! The file of `--list`: one path per line.

use std::ffi::OsString;
use std::io::{BufRead, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::error::{ListError, input_error};
use super::found::Found;
use crate::image_io::file_name::is_image_name;

/// The bytes of a line, beyond which it is no path: far more than systems allow.
const LONGEST_LINE: u64 = 1 << 16;

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The images of a list file: one path a line, empty lines and a byte order mark left out.
pub(super) fn read_list(list_file: &Path) -> Result<Vec<Found>, ListError> {
    let unreadable = |source| ListError::Unreadable {
        path: list_file.to_owned(),
        source,
    };
    let reader: Box<dyn Read> = if list_file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(list_file).map_err(|error| input_error(list_file, error))?)
    };
    let mut reader = std::io::BufReader::new(reader);
    let mut paths = Vec::new();
    let mut is_first = true;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(LONGEST_LINE);
        if limited.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        let cut = limited.limit() == 0 && line.last() != Some(&b'\n');
        if cut || line.contains(&0) {
            let path = list_file.to_owned();
            return Err(ListError::NoList { path });
        }
        // Editors of Windows begin a file with it; no path does.
        if std::mem::take(&mut is_first) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        for end in [b'\n', b'\r'] {
            if line.last() == Some(&end) {
                line.pop();
            }
        }
        if line.is_empty() {
            continue;
        }
        let path = PathBuf::from(OsString::from_vec(line));
        if !path.file_name().is_some_and(is_image_name) {
            if path.is_dir() {
                return Err(ListError::FolderInList { path });
            }
            return Err(ListError::NotAnImageName { path });
        }
        paths.push(path);
    }
    let absolute: Vec<PathBuf> = paths
        .iter()
        .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
        .collect();
    let common = common_folder(&absolute);
    paths
        .into_iter()
        .zip(absolute)
        .map(|(input, absolute)| {
            let relative = absolute
                .strip_prefix(&common)
                .unwrap_or(&absolute)
                .to_owned();
            if relative
                .components()
                .any(|part| part == Component::ParentDir)
            {
                return Err(ListError::Climbs { path: input });
            }
            Ok(Found { input, relative })
        })
        .collect()
}

/// The deepest folder that holds every one of these files.
fn common_folder(files: &[PathBuf]) -> PathBuf {
    let mut folders = files
        .iter()
        .map(|file| file.parent().unwrap_or(Path::new("")));
    let Some(first) = folders.next() else {
        return PathBuf::new();
    };
    let mut common = first.to_owned();
    for folder in folders {
        while !folder.starts_with(&common) {
            if !common.pop() {
                return PathBuf::new();
            }
        }
    }
    common
}
