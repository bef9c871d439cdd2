//! Qualities: the figures of results that a resumed run keeps, from the journals of earlier runs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::past::{for_each_line, journal_paths};
use super::{EndLine, Line};
use crate::job::outcome::{End, Outcome};
use crate::job::quality::Quality;

/// The figures of each result below an output folder whose last record has some, by its path.
///
/// # Errors
/// The error of the file system. The content of journals is never an error.
pub fn qualities(output: &Path) -> io::Result<HashMap<PathBuf, Box<Quality>>> {
    let mut last: HashMap<PathBuf, (f64, Option<Box<Quality>>)> = HashMap::new();
    let mut record = |output: PathBuf, unix_s: f64, quality| match last.entry(output) {
        Entry::Occupied(place) if place.get().0 > unix_s => {}
        Entry::Occupied(mut place) => drop(place.insert((unix_s, quality))),
        Entry::Vacant(place) => drop(place.insert((unix_s, quality))),
    };
    for path in journal_paths(output)? {
        let visit = |_run: &_, line| match line {
            Line::Begin(begin) => record(begin.output, begin.unix_s, None),
            Line::End(end) => {
                let EndLine {
                    unix_s,
                    output,
                    outcome: Outcome { end, quality, .. },
                    ..
                } = *end;
                record(output, unix_s, quality.filter(|_| matches!(end, End::Done(_))));
            }
            _ => {}
        };
        match File::open(path) {
            Ok(file) => for_each_line(BufReader::new(file), visit)?,
            // A run that refused to start removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
    }
    let measured = last
        .into_iter()
        .filter_map(|(output, (_, quality))| Some((output, quality?)));
    Ok(measured.collect())
}
