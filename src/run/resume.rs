//! Resuming: which results of earlier runs still hold, by their journals, their inputs and their files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::image_io::file_name::pair_partner;
use crate::image_io::{self, FileId};
use crate::images::ImageEntry;
use crate::journal::past::{Past, Record};
use crate::report::ResumeCounts;

/// What the journals say of an image's result, before any file is looked at. The root makes it, any rank checks it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum Claim {
    /// Nothing.
    #[default]
    None,
    /// It was begun and not ended.
    Begun,
    /// It was given up.
    Failed,
    /// It was made of another file.
    OtherInput,
    /// It was made with other options.
    OtherOptions,
    /// It was written, of these input files, and is these.
    Done {
        files_in: Vec<FileId>,
        files_out: Vec<FileId>,
    },
}

/// How a result stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// There is none.
    #[default]
    Missing,
    /// It holds.
    Kept,
    /// It failed the last time.
    FailedBefore,
    /// It was in hand when a run broke off.
    Unfinished,
    /// Its input is another, or was changed since.
    InputChanged,
    /// The options that shape it are others now.
    OptionsChanged,
    /// The file is not what its record says.
    Mismatched,
    /// There is a file, and no journal knows of it.
    Unrecorded,
}

/// The claims of all images, in the list's order.
pub(super) fn claims(
    past: &Past,
    entries: &[ImageEntry],
    output: &Path,
    options: &serde_json::Value,
) -> Vec<Claim> {
    let claim = |entry: &ImageEntry| {
        let below = entry.output.strip_prefix(output).unwrap_or(&entry.output);
        match past.records.get(below) {
            None => Claim::None,
            Some(Record::Begun) => Claim::Begun,
            Some(Record::Failed) => Claim::Failed,
            Some(Record::Done(done)) => {
                let input = std::path::absolute(&entry.input);
                if input.map_or(true, |input| input != done.input) {
                    Claim::OtherInput
                } else if *done.options != *options {
                    Claim::OtherOptions
                } else {
                    Claim::Done {
                        files_in: done.files_in.clone(),
                        files_out: done.files_out.clone(),
                    }
                }
            }
        }
    };
    entries.iter().map(claim).collect()
}

/// Compares a claim with what is on the disk: no more than sizes, times and a checksum of eight bytes are read.
pub(super) fn check(entry: &ImageEntry, claim: &Claim) -> Standing {
    if *claim == Claim::Failed {
        return Standing::FailedBefore;
    }
    if std::fs::symlink_metadata(&entry.output).is_err() {
        return Standing::Missing;
    }
    match claim {
        Claim::None => Standing::Unrecorded,
        Claim::Begun => Standing::Unfinished,
        Claim::Failed => Standing::FailedBefore,
        Claim::OtherInput => Standing::InputChanged,
        Claim::OtherOptions => Standing::OptionsChanged,
        Claim::Done {
            files_in,
            files_out,
        } => {
            if !input_is_same(&entry.input, files_in) {
                Standing::InputChanged
            } else if result_is_same(&entry.output, files_out) {
                Standing::Kept
            } else {
                Standing::Mismatched
            }
        }
    }
}

fn input_is_same(input: &Path, recorded: &[FileId]) -> bool {
    let Ok(now) = image_io::identify(input) else {
        return false;
    };
    match recorded {
        // One identity for both halves: a record of niimpi-journal/1.
        [both] if now.len() == 2 => {
            let bytes: u64 = now.iter().map(|file| file.bytes).sum();
            let mtime_ns = now.iter().map(|file| file.mtime_ns).max().flatten();
            (bytes, mtime_ns) == (both.bytes, both.mtime_ns)
        }
        each => {
            each.len() == now.len() && each.iter().zip(&now).all(|(one, now)| one.seems_same(now))
        }
    }
}

fn result_is_same(output: &Path, recorded: &[FileId]) -> bool {
    let is_pair = output.file_name().and_then(pair_partner).is_some();
    match recorded {
        [both] if is_pair => image_io::pair_seems_intact(output, both),
        each => each.iter().all(|file| {
            let path = match file.path.as_os_str().is_empty() {
                true => output.to_owned(),
                false => output.with_file_name(&file.path),
            };
            image_io::seems_intact(&FileId {
                path,
                ..file.clone()
            })
        }),
    }
}

/// How many results stand in which way.
pub(super) fn count(standings: impl IntoIterator<Item = Standing>) -> ResumeCounts {
    let mut counts = ResumeCounts::default();
    for standing in standings {
        *match standing {
            Standing::Missing => &mut counts.missing,
            Standing::Kept => &mut counts.kept,
            Standing::FailedBefore => &mut counts.failed_before,
            Standing::Unfinished => &mut counts.unfinished,
            Standing::InputChanged => &mut counts.input_changed,
            Standing::OptionsChanged => &mut counts.options_changed,
            Standing::Mismatched => &mut counts.mismatched,
            Standing::Unrecorded => &mut counts.unrecorded,
        } += 1;
    }
    counts
}
