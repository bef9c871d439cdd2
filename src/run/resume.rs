//! Resuming: which results of earlier runs are kept, which are made again, and which files niimpi must not
//! replace.
//!
//! A run can replace a file if any record with the same input and options describes it. Any other file with a
//! result's name stops the run before it writes anything, unless `--overwrite` is given.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;
use crate::atomic_file::Stamp;
use crate::image_io::file_name::files_at;
use crate::image_io::{self, FileId, path_text};
use crate::images::bids::Metadata;
use crate::images::{self, ImageEntry};
use crate::job::quality::Quality;
use crate::journal;
use crate::journal::past::{Last, Made, Past};
use crate::report::ResumeCounts;

/// The records of an image's result, before any file is checked. The root collects them, any rank checks
/// them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The last record.
    last: Option<Last>,
    made: Vec<Claim>,
}

/// A file that an earlier run wrote under the result's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Claim {
    same_options: bool,
    /// The image file, if its path differs from now.
    from: Option<Name>,
    files_in: Vec<FileId>,
    /// Empty if niimpi-journal/1 records only that the image was started.
    files_out: Vec<FileId>,
}

/// A path in a message between ranks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Name(#[serde(with = "path_text")] PathBuf);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::text::printable(&self.0.display().to_string()))
    }
}

/// The status of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    /// It, or a part of it, is missing.
    #[default]
    Missing,
    /// It is kept.
    Kept,
    /// It is kept; its input has moved to another path.
    Moved,
    /// It failed the last time.
    FailedBefore,
    /// It was in progress when a run ended.
    Unfinished,
    /// Its input has changed since.
    InputChanged,
    /// The file was made from another input.
    OtherInput,
    /// The file was made with other options.
    OptionsChanged,
    /// The file differs from what niimpi wrote there.
    Mismatched,
    /// No journal records the file.
    Unrecorded,
}

impl Standing {
    /// Whether the result stays as it is.
    pub(super) fn is_kept(self) -> bool {
        matches!(self, Standing::Kept | Standing::Moved)
    }

    /// Why the file must not be replaced without `--overwrite`; `None` if it can be.
    fn refusal(self) -> Option<&'static str> {
        match self {
            Standing::OtherInput => Some("made from another input"),
            Standing::OptionsChanged => Some("made with other options"),
            Standing::Mismatched => Some("changed since niimpi wrote them"),
            Standing::Unrecorded => Some("without a record"),
            _ => None,
        }
    }
}

/// The findings about an image's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) standing: Standing,
    /// The earlier path of its input, if it has moved.
    pub(super) moved_from: Option<Name>,
    /// The files under its names.
    pub(super) seen: Stamps,
}

/// Which of an image's [files](ImageEntry::files) exist, in their order. Empty if none exists.
pub(super) type Stamps = Vec<Option<Stamp>>;

impl Found {
    /// Whether any file exists.
    pub(super) fn exists(&self) -> bool {
        !self.seen.is_empty()
    }
}

/// The claims of all images, in the list's order. Takes them out of the records, so that no record of a long
/// list is in memory twice.
pub(super) fn claims(
    mut past: Past,
    entries: &[ImageEntry],
    output: &Path,
    options: &serde_json::Value,
) -> Vec<Claims> {
    let claims = |entry: &ImageEntry| {
        let below = entry.output.strip_prefix(output).unwrap_or(&entry.output);
        let Some(history) = past.records.remove(below) else {
            return Claims::default();
        };
        let input = images::absolute(&entry.input);
        let claim = |made: Made| Claim {
            same_options: *made.options == *options,
            from: (made.input != input).then_some(Name(made.input)),
            files_in: made.files_in,
            files_out: made.files_out,
        };
        Claims {
            last: Some(history.last),
            made: history.made.into_iter().map(claim).collect(),
        }
    };
    entries.iter().map(claims).collect()
}

/// Checks the files under a result's name and compares them with the claims, if any. Usually reads only
/// sizes, times and the last eight bytes (checksum and length).
pub(super) fn look(
    entry: &ImageEntry,
    mask: Option<&Path>,
    metadata: Option<&Metadata>,
    claims: Option<&Claims>,
) -> Found {
    let names = entry.files();
    // Before anything is compared: a later change makes it another file.
    let stamps = names.clone().map(|name| Stamp::of_path(&name?));
    let mut found = Found::default();
    if stamps.iter().any(Option::is_some) {
        found.seen = stamps.to_vec();
    }
    let Some(claims) = claims else {
        return found;
    };
    let existing: Vec<&Path> = names
        .iter()
        .zip(&found.seen)
        .filter_map(|(name, seen)| seen.and(name.as_deref()))
        .collect();
    let inputs = Inputs {
        image: &entry.input,
        mask,
    };
    let has_same_metadata = |claim: &Claim| {
        metadata.is_none_or(|metadata| {
            let files = claim.files_out.iter();
            let written: Vec<PathBuf> = files.map(|file| at_its_place(&entry.output, file).path).collect();
            metadata.are_unchanged(&entry.input, &entry.output, entry.second.as_deref(), &written)
        })
    };
    (found.standing, found.moved_from) =
        standing(&entry.output, inputs, claims, &existing, has_same_metadata);
    found
}

/// What a result is made from now.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    image: &'a Path,
    /// The file of its mask, if it has one.
    mask: Option<&'a Path>,
}

fn standing(
    output: &Path,
    inputs: Inputs<'_>,
    claims: &Claims,
    existing: &[&Path],
    has_same_metadata: impl Fn(&Claim) -> bool,
) -> (Standing, Option<Name>) {
    let undone = match claims.last {
        Some(Last::Started | Last::Staged) => Standing::Unfinished,
        Some(Last::Failed) => Standing::FailedBefore,
        Some(Last::Done) | None => Standing::Missing,
    };
    if existing.is_empty() {
        return (undone, None);
    }
    let own: Vec<(&Claim, Origin)> = claims
        .made
        .iter()
        .rev()
        .filter(|claim| claim.same_options)
        .map(|claim| (claim, Origin::of(inputs, claim)))
        .filter(|(_, origin)| *origin != Origin::Other)
        .collect();
    let whole = own
        .iter()
        .find(|(claim, _)| describes_result(output, &claim.files_out));
    if let Some((claim, origin)) = whole {
        let standing = match (claims.last, origin) {
            // A later attempt at the image was not finished.
            (Some(Last::Started | Last::Failed), _) => undone,
            (_, Origin::Changed) => Standing::InputChanged,
            _ if !has_same_metadata(claim) => Standing::InputChanged,
            (_, Origin::Moved) => Standing::Moved,
            (_, Origin::Same | Origin::Other) => Standing::Kept,
        };
        let from = (standing == Standing::Moved).then(|| claim.from.clone());
        return (standing, from.flatten());
    }
    let is_own = |path: &Path| {
        let describes = |claim: &Claim| describes_file(output, path, &claim.files_out);
        own.iter().any(|(claim, _)| describes(claim))
    };
    if existing.iter().all(|path| is_own(path)) {
        return (undone, None);
    }
    let describes = |claim: &&Claim| describes_result(output, &claim.files_out);
    let standing = match claims.made.iter().rev().find(describes) {
        Some(claim) if !claim.same_options => Standing::OptionsChanged,
        Some(_) => Standing::OtherInput,
        None if claims.made.is_empty() => Standing::Unrecorded,
        None => Standing::Mismatched,
    };
    (standing, None)
}

/// How an image's input compares with that of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The same, unchanged.
    Same,
    /// The same content at another path.
    Moved,
    /// The same path with other content.
    Changed,
    /// Another input.
    Other,
}

impl Origin {
    fn of(inputs: Inputs<'_>, claim: &Claim) -> Self {
        let input = inputs.image;
        let at_same_path = claim.from.as_ref().is_none_or(|from| {
            let real = |path: &Path| std::fs::canonicalize(path).ok();
            real(input).is_some_and(|input| real(&from.0) == Some(input))
        });
        let same_content = inputs.are_those_of(&claim.files_in, at_same_path);
        let same_name = || {
            let from = claim.from.as_ref().and_then(|from| from.0.file_name());
            from == input.file_name()
        };
        match (at_same_path, same_content) {
            (true, true) => Origin::Same,
            (true, false) => Origin::Changed,
            // Records of niimpi-journal/1 have no checksum, so the name must be equal, too.
            (false, true) if claim.files_in.iter().all(|file| file.crc32.is_some()) => Origin::Moved,
            (false, true) if same_name() => Origin::Moved,
            (false, _) => Origin::Other,
        }
    }
}

impl Inputs<'_> {
    /// Whether the files are those of a record, which has the mask's after the image's.
    fn are_those_of(self, recorded: &[FileId], image_at_same_path: bool) -> bool {
        let (Ok(image), Ok(mask)) = (
            image_io::identify(self.image),
            self.mask.map_or(Ok(Vec::new()), image_io::identify),
        ) else {
            return false;
        };
        let of_image = recorded.len().checked_sub(mask.len());
        let Some((of_image, of_mask)) = of_image.map(|of_image| recorded.split_at(of_image)) else {
            return false;
        };
        let absolute = |path: &Path| std::path::absolute(path).ok();
        let mask_at_same_path = of_mask
            .iter()
            .zip(&mask)
            .all(|(recorded, now)| absolute(&now.path).as_ref() == Some(&recorded.path));
        same_content(of_image, &image, image_at_same_path) && same_content(of_mask, &mask, mask_at_same_path)
    }
}

/// Whether an image's files are those of a record. At the same path, equal size and time are enough;
/// otherwise the checksums decide.
fn same_content(recorded: &[FileId], now: &[FileId], at_same_path: bool) -> bool {
    // One identity for both halves: a record of niimpi-journal/1.
    let both;
    let now = match (recorded, now) {
        ([_], [header, voxels]) => {
            both = [FileId {
                bytes: header.bytes + voxels.bytes,
                mtime_ns: header.mtime_ns.max(voxels.mtime_ns),
                ..voxels.clone()
            }];
            &both
        }
        _ => now,
    };
    if recorded.is_empty() && !now.is_empty() {
        // Version 1 recorded only the start of the image, so its identity is unknown.
        return false;
    }
    let same = |(recorded, now): (&FileId, &FileId)| match recorded.crc32 {
        None => recorded.seems_same(now),
        Some(_) if at_same_path && recorded.seems_same(now) => true,
        Some(crc32) => image_io::input_crc32(&now.path) == Some(crc32),
    };
    recorded.len() == now.len() && recorded.iter().zip(now).all(same)
}

/// Whether the files of a result are those of a record.
fn describes_result(output: &Path, recorded: &[FileId]) -> bool {
    let is_pair = files_at(output)[1].is_some();
    match recorded {
        [] => false,
        // One identity for both halves: a record of niimpi-journal/1.
        [both] if is_pair => image_io::pair_seems_intact(output, both),
        each => each
            .iter()
            .all(|file| image_io::seems_intact(&at_its_place(output, file))),
    }
}

/// Whether a file of a result is that of a record. A record of niimpi-journal/1 does not describe single
/// files; here it is enough that it records the image as started or written.
fn describes_file(output: &Path, path: &Path, recorded: &[FileId]) -> bool {
    let is_pair = files_at(output)[1].is_some();
    match recorded {
        [] => true,
        [_] if is_pair => true,
        each => each
            .iter()
            .map(|file| at_its_place(output, file))
            .any(|file| file.path == path && image_io::seems_intact(&file)),
    }
}

/// A recorded file with its path. Records leave out an image's own name.
pub(super) fn at_its_place(output: &Path, file: &FileId) -> FileId {
    let path = match file.path.as_os_str().is_empty() {
        true => output.to_owned(),
        false => output.with_file_name(&file.path),
    };
    FileId { path, ..file.clone() }
}

/// The number of results with each status.
pub(super) fn count(standings: impl IntoIterator<Item = Standing>) -> ResumeCounts {
    let mut counts = ResumeCounts::default();
    for standing in standings {
        *match standing {
            Standing::Missing => &mut counts.missing,
            Standing::Kept => &mut counts.kept,
            Standing::Moved => {
                counts.moved += 1;
                &mut counts.kept
            }
            Standing::FailedBefore => &mut counts.failed_before,
            Standing::Unfinished => &mut counts.unfinished,
            Standing::InputChanged => &mut counts.input_changed,
            Standing::OtherInput => &mut counts.other_input,
            Standing::OptionsChanged => &mut counts.options_changed,
            Standing::Mismatched => &mut counts.mismatched,
            Standing::Unrecorded => &mut counts.unrecorded,
        } += 1;
    }
    counts
}

/// Why the files under the results' names must not be replaced, with the number and the first of each kind;
/// `None` if all can be.
pub(super) fn refusal<'a>(results: impl IntoIterator<Item = (&'a ImageEntry, Standing)>) -> Option<String> {
    let mut kinds: Vec<(&str, usize, &Path)> = Vec::new();
    let mut all = 0;
    for (entry, standing) in results {
        let Some(kind) = standing.refusal() else {
            continue;
        };
        all += 1;
        match kinds.iter_mut().find(|(known, _, _)| *known == kind) {
            Some((_, count, _)) => *count += 1,
            None => kinds.push((kind, 1, &entry.output)),
        }
    }
    let lines: Vec<String> = kinds
        .iter()
        .map(|(kind, count, first)| format!("\n  {count} {kind}, such as {}", first.display()))
        .collect();
    (all > 0).then(|| {
        format!(
            "{} where results would go {} not an earlier result of the same input with the same options, so \
             nothing is written; choose another --output, or use --resume --overwrite to replace {}{}",
            crate::text::counted(all, "file"),
            if all == 1 { "is" } else { "are" },
            if all == 1 { "it" } else { "them" },
            lines.concat()
        )
    })
}

/// The figures that earlier runs measured, if results of them are kept.
pub(super) fn qualities_of_kept(config: &Config, kept: usize) -> HashMap<PathBuf, Box<Quality>> {
    if !config.job.qc || kept == 0 {
        return HashMap::new();
    }
    journal::qualities(&config.list.output).unwrap_or_else(|error| {
        tracing::error!("kept results have no figures in the report: {error}");
        HashMap::new()
    })
}

#[cfg(test)]
mod tests;
