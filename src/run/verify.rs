//! Verifying: all ranks read the results again and compare them with their records.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};

use super::resume::at_its_place;
use super::{EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE};
use crate::comm::{self, Communicator, ROOT};
use crate::console;
use crate::image_io::file_name::{files_at, is_image_name};
use crate::image_io::{FileId, ImageError, Verifier, path_text, verify_sidecar};
use crate::images::{self, natural_order};
use crate::journal::past::{Last, Past};
use crate::parallel::par_map_with;
use crate::resources;
use crate::text::{counted, printable};

/// The options of a verification.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// The folder of the results.
    pub output: PathBuf,
    /// Compare them with the journals below it.
    pub against_journal: bool,
    /// Remove recorded results that are wrong.
    pub remove: bool,
    /// Threads of each rank; `None`: one per CPU that it was allocated.
    pub threads: Option<usize>,
    /// Print only what is wrong.
    pub quiet: bool,
}

impl VerifyRequest {
    /// Values that must be equal on all ranks.
    pub(crate) fn values(&self) -> comm::Request {
        let values = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("the command", "verify".to_owned()),
            ("the folder", self.output.display().to_string()),
            ("--against journal", self.against_journal.to_string()),
            ("--remove", self.remove.to_string()),
        ];
        values.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// What the journals record about a result.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Known {
    /// Only that the file exists.
    File,
    Failed,
    /// It was started but not finished.
    Begun,
    /// It was written and is one of these sets of files, usually the last.
    Written(Vec<Vec<FileId>>),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Item {
    #[serde(with = "path_text")]
    path: PathBuf,
    known: Known,
}

impl Item {
    /// The files of a recorded result: its own, the other half of a pair, a second result and sidecar files.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files: BTreeSet<PathBuf> = files_at(&self.path).into_iter().flatten().collect();
        if let Known::Written(recorded) = &self.known {
            // A second result of an earlier run may be another image's file by now.
            let recorded = recorded.last().into_iter().flatten();
            files.extend(recorded.map(|file| at_its_place(&self.path, file).path));
        }
        files
    }
}

/// What is wrong with an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Fault {
    /// Its files are not what niimpi wrote.
    Content(String),
    /// It is unknown what its files are, because they could not be read.
    Unreadable(String),
}

impl Fault {
    fn of(error: &ImageError, item: &Item) -> Self {
        let text = match error.path == item.path {
            true => error.cause.to_string(),
            false => error.to_string(),
        };
        // The rest of the message is advice for an input.
        let what = text.split("; ").next().unwrap_or_default().to_owned();
        if error.cause.is_of_access() {
            return Fault::Unreadable(what);
        }
        Fault::Content(match item.known {
            Known::Written(_) => format!("{what}; --remove removes it, then --resume makes it again"),
            _ => what,
        })
    }

    fn text(&self) -> &str {
        let (Fault::Content(text) | Fault::Unreadable(text)) = self;
        text
    }
}

/// A finding: the item's index and what is wrong.
type Wrong = (usize, Fault);

/// Reads the results again, divided among all ranks, and prints a table of what is wrong. Collective. Returns
/// the exit code, the same on every rank: 0 if nothing is wrong, 1 if something is, 2 if nothing could be
/// verified.
pub fn verify(comm: &impl Communicator, request: &VerifyRequest) -> u8 {
    let started = Instant::now();
    let is_root = comm.rank() == ROOT;
    let items = match comm::from_root(comm, || list(request)) {
        Ok(items) => items,
        Err(message) => {
            if is_root {
                console::error(&message);
            }
            return EXIT_USAGE;
        }
    };
    let hosts = comm::all_gather(comm, resources::host_name());
    let beside = hosts.iter().filter(|&host| *host == hosts[comm.rank()]).count();
    let threads = request
        .threads
        .unwrap_or_else(|| (resources::available_cpus() / beside).max(1));
    let mine: Vec<usize> = (comm.rank()..items.len()).step_by(comm.size()).collect();
    let checked = check_all(&items, &mine, threads);
    let exit_code = comm::gather(comm, checked).map(|parts| {
        let mut bytes = 0;
        let mut wrong: Vec<Wrong> = Vec::new();
        for (part_bytes, part_wrong) in parts {
            bytes += part_bytes;
            wrong.extend(part_wrong);
        }
        wrong.sort();
        let printed = print_result(&items, &wrong, bytes, started, request);
        if request.remove {
            remove(&items, &wrong);
        }
        if wrong.is_empty() && printed {
            EXIT_DONE
        } else {
            EXIT_SOME_FAILED
        }
    });
    comm::from_root(comm, || exit_code.unwrap_or(EXIT_DONE))
}

/// Removes results that differ from what niimpi wrote, so that `--resume` makes them again. Another rank may
/// see other files, so this one reads them again before.
fn remove(items: &[Item], wrong: &[Wrong]) {
    let (mut removed, mut kept) = (0, 0);
    let mut verifier = Verifier::default();
    let recorded = wrong.iter().map(|(place, _)| &items[*place]);
    for item in recorded.filter(|item| matches!(item.known, Known::Written(_))) {
        let is_wrong = matches!(check_one(&mut verifier, item), Err(Fault::Content(_)));
        // A missing file is one that is known not to exist.
        if !is_wrong || item.files().iter().any(|path| path.try_exists().is_err()) {
            kept += 1;
            continue;
        }
        for path in item.files() {
            match std::fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::error!(
                    "{}: cannot be removed: {error}",
                    printable(&path.display().to_string())
                ),
            }
        }
    }
    if removed > 0 {
        tracing::info!("removed {}; --resume makes them again", counted(removed, "file"));
    }
    if kept > 0 {
        tracing::warn!(
            "{} {} kept, because rank 0 found nothing wrong or could not read all files; check that all \
             nodes can read the folder, then verify again",
            counted(kept, "result"),
            if kept == 1 { "is" } else { "are" }
        );
    }
}

fn list(request: &VerifyRequest) -> Result<Vec<Item>, String> {
    let output = &request.output;
    let files = images::images_below(output)?;
    let mut known: BTreeMap<PathBuf, Known> = files.into_iter().map(|file| (file, Known::File)).collect();
    if request.against_journal {
        let past = Past::load(output, resources::available_cpus())
            .map_err(|error| format!("the journals cannot be read: {error}"))?;
        if past.records.is_empty() {
            return Err(format!(
                "{}: there is no journal to compare with; leave --against out, or give the folder that was \
                 --output",
                output.display()
            ));
        }
        let recorded: BTreeSet<PathBuf> = past.records.keys().map(|below| output.join(below)).collect();
        for (below, history) in past.records {
            let is = match history.last {
                Last::Started => Known::Begun,
                Last::Failed => Known::Failed,
                Last::Staged | Last::Done => {
                    let made = history.made.into_iter().map(|made| made.files_out);
                    Known::Written(made.filter(|files| !files.is_empty()).collect())
                }
            };
            let path = output.join(below);
            let item = Item { path, known: is };
            for file in item.files().difference(&recorded) {
                // A second result is part of its image.
                known.remove(file);
            }
            known.insert(item.path, item.known);
        }
    }
    if known.is_empty() {
        return Err(format!("{}: no image is there", output.display()));
    }
    let mut items: Vec<Item> = known
        .into_iter()
        .map(|(path, known)| Item { path, known })
        .collect();
    items.sort_by(|a, b| natural_order(&a.path, &b.path));
    Ok(items)
}

/// Checks these items on several threads. Returns the bytes read and what is wrong.
fn check_all(items: &[Item], mine: &[usize], threads: usize) -> (u64, Vec<Wrong>) {
    let checked = par_map_with(mine, threads, Verifier::default, |verifier, &place| {
        check_one(verifier, &items[place])
    });
    let (mut bytes, mut wrong) = (0, Vec::new());
    for (&place, result) in mine.iter().zip(checked) {
        match result {
            Ok(read) => bytes += read,
            Err(what) => wrong.push((place, what)),
        }
    }
    (bytes, wrong)
}

fn check_one(verifier: &mut Verifier, item: &Item) -> Result<u64, Fault> {
    let unfinished = match &item.known {
        Known::Failed => Some("failed in the last run; --resume tries it again"),
        Known::Begun => Some("was in progress when a run ended; --resume makes it again"),
        Known::File | Known::Written(..) => None,
    };
    if let Some(what) = unfinished {
        return Err(Fault::Content(what.to_owned()));
    }
    let in_words = |error: ImageError| Fault::of(&error, item);
    let mut found = verifier.verify(&item.path).map_err(in_words)?;
    if let Known::Written(recorded) = &item.known {
        for path in item.files() {
            if path.exists() && !found.iter().any(|file| file.path == path) {
                match path.file_name().is_some_and(is_image_name) {
                    true => found.extend(verifier.verify(&path).map_err(in_words)?),
                    false => found.push(verify_sidecar(&path).map_err(in_words)?),
                }
            }
        }
        let names = |files: &[FileId]| -> BTreeSet<PathBuf> {
            let files = files.iter().map(|file| at_its_place(&item.path, file).path);
            files.collect()
        };
        // A record without the second result says nothing about it.
        let of_last = recorded.last().map(|files| names(files));
        let compared = recorded
            .iter()
            .rev()
            .filter(|files| Some(names(files)) == of_last);
        let mut compared = compared.map(|files| compare(&item.path, files, &found));
        let last = compared.next().unwrap_or(Ok(()));
        if last.is_err() && !compared.any(|earlier| earlier.is_ok()) {
            return last.map(|()| 0).map_err(Fault::Content);
        }
    }
    Ok(found.iter().map(|file| file.bytes).sum())
}

/// Compares the files of a result with their record.
fn compare(result: &Path, recorded: &[FileId], found: &[FileId]) -> Result<(), String> {
    let all = |files: &[FileId], value: fn(&FileId) -> u64| -> u64 { files.iter().map(value).sum() };
    match (recorded, found) {
        // One identity for both halves, of niimpi-journal/1.
        ([both], [_header, voxels]) if files_at(result)[1].is_some() => differs(
            both,
            &FileId {
                bytes: all(found, |file| file.bytes),
                raw_bytes: all(found, |file| file.raw_bytes),
                ..voxels.clone()
            },
        ),
        _ => recorded.iter().try_for_each(|file| {
            let path = at_its_place(result, file).path;
            match found.iter().find(|found| found.path == path) {
                Some(found) => differs(file, found),
                None => Err(format!("{} is missing", path.display())),
            }
        }),
    }
}

/// The first difference between a file and its record.
fn differs(recorded: &FileId, found: &FileId) -> Result<(), String> {
    let text = |file: &FileId| {
        [
            file.crc32.map(|crc32| crc32.to_string()).unwrap_or_default(),
            file.raw_bytes.to_string(),
            file.bytes.to_string(),
        ]
    };
    let names = ["content's checksum", "length before compression", "length"];
    for ((what, recorded), found) in names.iter().zip(text(recorded)).zip(text(found)) {
        if recorded != found {
            return Err(format!("its {what} is {found}, but {recorded} was recorded"));
        }
    }
    Ok(())
}

/// Prints the findings. Returns false if standard output cannot be written.
fn print_result(
    items: &[Item],
    wrong: &[Wrong],
    bytes: u64,
    started: Instant,
    request: &VerifyRequest,
) -> bool {
    let below = |path: &Path| {
        let path = path.strip_prefix(&request.output).unwrap_or(path);
        printable(&path.display().to_string())
    };
    let mut text = String::new();
    if !wrong.is_empty() {
        let mut table = Table::new();
        table.load_style(presets::ASCII_BORDERS_ONLY_CONDENSED);
        table.set_header(["image", "what is wrong"]);
        for (place, what) in wrong {
            table.add_row([below(&items[*place].path), printable(what.text())]);
        }
        let _ = writeln!(text, "{table}");
    }
    if !request.quiet || !wrong.is_empty() {
        let elapsed_s = started.elapsed().as_secs_f64();
        let wrong_places: HashSet<usize> = wrong.iter().map(|(place, _)| *place).collect();
        let unrecorded = items
            .iter()
            .enumerate()
            .filter(|(place, item)| matches!(item.known, Known::File) && !wrong_places.contains(place))
            .count();
        let _ = write!(
            text,
            "{} of {} images are intact",
            items.len() - wrong.len(),
            items.len()
        );
        if request.against_journal {
            let _ = write!(text, " and as recorded");
            if unrecorded > 0 {
                let _ = write!(text, " ({unrecorded} of them without a record)");
            }
        }
        let _ = writeln!(
            text,
            "; {:.1} MiB read in {elapsed_s:.2} s",
            bytes as f64 / f64::from(1 << 20)
        );
    }
    super::print(&text)
}
