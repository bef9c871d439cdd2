//! Resuming: which results of earlier runs still hold, by their journals, their inputs and their files.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::image_io::{self, WriteSummary};
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
    /// It was written, of an input of this size and time, and is this.
    Done {
        input_bytes: u64,
        input_mtime_ns: i64,
        output_bytes: u64,
        output_mtime_ns: Option<i64>,
        raw_bytes: u64,
        crc32: u32,
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
                        input_bytes: done.input_identity.input_bytes,
                        input_mtime_ns: done.input_identity.input_mtime_ns,
                        output_bytes: done.result.output_bytes,
                        output_mtime_ns: done.result.output_mtime_ns,
                        raw_bytes: done.result.raw_bytes,
                        crc32: done.result.crc32,
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
    match *claim {
        Claim::None => Standing::Unrecorded,
        Claim::Begun => Standing::Unfinished,
        Claim::Failed => Standing::FailedBefore,
        Claim::OtherInput => Standing::InputChanged,
        Claim::OtherOptions => Standing::OptionsChanged,
        Claim::Done {
            input_bytes,
            input_mtime_ns,
            output_bytes,
            output_mtime_ns,
            raw_bytes,
            crc32,
        } => {
            let same = |now: image_io::FileIdentity| {
                (now.bytes, now.mtime_ns) == (input_bytes, input_mtime_ns)
            };
            let written = WriteSummary {
                bytes_out: output_bytes,
                raw_bytes,
                crc32,
            };
            if !image_io::identify(&entry.input).is_ok_and(same) {
                Standing::InputChanged
            } else if image_io::seems_intact(&entry.output, &written, output_mtime_ns) {
                Standing::Kept
            } else {
                Standing::Mismatched
            }
        }
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
