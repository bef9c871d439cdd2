//! Resuming: which results of earlier runs are kept, which are made again, and which files are not niimpi's to replace.
//!
//! A file is this run's to replace if any record of the same input and the same options describes it. Whatever else is under a
//! result's name stops the run before it writes anything, unless `--overwrite` was given.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_file::Stamp;
use crate::image_io::file_name::pair_partner;
use crate::image_io::{self, FileId, path_text};
use crate::images::ImageEntry;
use crate::journal::past::{Last, Made, Past};
use crate::report::ResumeCounts;

/// The records of an image's result, before any file is looked at. The root collects them, any rank checks them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// The last record.
    last: Option<Last>,
    made: Vec<Claim>,
}

/// What an earlier run made under the result's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Claim {
    same_options: bool,
    /// The image file, where its path is another than now.
    from: Option<Name>,
    files_in: Vec<FileId>,
    /// Empty where niimpi-journal/1 records no more than that the image was started.
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

/// How a result stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Standing {
    /// It is missing, or a part of it.
    #[default]
    Missing,
    /// It is kept.
    Kept,
    /// It is kept, and its input is at another path now.
    Moved,
    /// It failed the last time.
    FailedBefore,
    /// It was in progress when a run ended.
    Unfinished,
    /// Its input was changed since.
    InputChanged,
    /// The file was made from another input.
    OtherInput,
    /// The file was made with other options.
    OptionsChanged,
    /// The file is not what niimpi wrote there.
    Mismatched,
    /// No journal records the file.
    Unrecorded,
}

impl Standing {
    /// Whether the result stays as it is.
    pub(super) fn is_kept(self) -> bool {
        matches!(self, Standing::Kept | Standing::Moved)
    }

    /// Why the file may not be replaced without `--overwrite`; `None` where it may.
    fn refusal(self) -> Option<&'static str> {
        match self {
            Standing::OtherInput => Some("made from another input"),
            Standing::OptionsChanged => Some("made with other options"),
            Standing::Mismatched => Some("not as niimpi wrote them"),
            Standing::Unrecorded => Some("without a record"),
            _ => None,
        }
    }
}

/// What is found of an image's result.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) standing: Standing,
    /// Where its input was, of one that has moved.
    pub(super) moved_from: Option<Name>,
    /// The files under its name: the named one, and of a pair the other half.
    pub(super) seen: [Option<Stamp>; 2],
}

impl Found {
    /// Whether there is any file.
    pub(super) fn exists(&self) -> bool {
        self.seen != [None; 2]
    }
}

/// The claims of all images, in the list's order.
pub(super) fn claims(
    past: &Past,
    entries: &[ImageEntry],
    output: &Path,
    options: &serde_json::Value,
) -> Vec<Claims> {
    let claims = |entry: &ImageEntry| {
        let below = entry.output.strip_prefix(output).unwrap_or(&entry.output);
        let Some(history) = past.records.get(below) else {
            return Claims::default();
        };
        let input = std::path::absolute(&entry.input).unwrap_or_else(|_| entry.input.clone());
        let claim = |made: &Made| Claim {
            same_options: *made.options == *options,
            from: (made.input != input).then(|| Name(made.input.clone())),
            files_in: made.files_in.clone(),
            files_out: made.files_out.clone(),
        };
        Claims {
            last: Some(history.last),
            made: history.made.iter().map(claim).collect(),
        }
    };
    entries.iter().map(claims).collect()
}

/// The names of a result's files: its own, and of a pair the other half's.
pub(super) fn names(output: &Path) -> [Option<PathBuf>; 2] {
    let other_half = output.file_name().and_then(pair_partner);
    [
        Some(output.to_owned()),
        other_half.map(|name| output.with_file_name(name)),
    ]
}

/// Looks at what is under a result's name and, where there are claims, compares it with them. As a rule only sizes, times and
/// checksums of eight bytes are read.
pub(super) fn look(entry: &ImageEntry, claims: Option<&Claims>) -> Found {
    let names = names(&entry.output);
    let mut found = Found {
        // Before anything is compared: what changes from now on is another file.
        seen: names.clone().map(|name| Stamp::of_path(&name?)),
        ..Found::default()
    };
    let Some(claims) = claims else {
        return found;
    };
    let existing: Vec<&Path> = names
        .iter()
        .zip(&found.seen)
        .filter_map(|(name, seen)| seen.and(name.as_deref()))
        .collect();
    (found.standing, found.moved_from) = standing(entry, claims, &existing);
    found
}

fn standing(entry: &ImageEntry, claims: &Claims, existing: &[&Path]) -> (Standing, Option<Name>) {
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
        .map(|claim| (claim, Origin::of(&entry.input, claim)))
        .filter(|(_, origin)| *origin != Origin::Other)
        .collect();
    let whole = own
        .iter()
        .find(|(claim, _)| describes_result(&entry.output, &claim.files_out));
    if let Some((claim, origin)) = whole {
        let standing = match (claims.last, origin) {
            // A later attempt at the image did not come to its end.
            (Some(Last::Started | Last::Failed), _) => undone,
            (_, Origin::Changed) => Standing::InputChanged,
            (_, Origin::Moved) => Standing::Moved,
            (_, Origin::Same | Origin::Other) => Standing::Kept,
        };
        let from = (standing == Standing::Moved).then(|| claim.from.clone());
        return (standing, from.flatten());
    }
    let is_own = |path: &Path| {
        let describes = |claim: &Claim| describes_file(&entry.output, path, &claim.files_out);
        own.iter().any(|(claim, _)| describes(claim))
    };
    if existing.iter().all(|path| is_own(path)) {
        return (undone, None);
    }
    let describes = |claim: &&Claim| describes_result(&entry.output, &claim.files_out);
    let standing = match claims.made.iter().rev().find(describes) {
        Some(claim) if !claim.same_options => Standing::OptionsChanged,
        Some(_) => Standing::OtherInput,
        None if claims.made.is_empty() => Standing::Unrecorded,
        None => Standing::Mismatched,
    };
    (standing, None)
}

/// What an image's input is to that of a claim.
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
    fn of(input: &Path, claim: &Claim) -> Self {
        let at_same_path = claim.from.as_ref().is_none_or(|from| {
            let real = |path: &Path| std::fs::canonicalize(path).ok();
            real(input).is_some_and(|input| real(&from.0) == Some(input))
        });
        let same_content = match image_io::identify(input) {
            Ok(now) => same_content(&claim.files_in, &now, at_same_path),
            Err(_) => false,
        };
        let same_name = || {
            let from = claim.from.as_ref().and_then(|from| from.0.file_name());
            from == input.file_name()
        };
        match (at_same_path, same_content) {
            (true, true) => Origin::Same,
            (true, false) => Origin::Changed,
            // Records of niimpi-journal/1 have no checksum, so that the name must be the same, too.
            (false, true) if claim.files_in.iter().all(|file| file.crc32.is_some()) => {
                Origin::Moved
            }
            (false, true) if same_name() => Origin::Moved,
            (false, _) => Origin::Other,
        }
    }
}

/// Whether an image's files are those of a record. At the same path they are when size and time are the same; else their
/// checksums decide.
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
    if recorded.is_empty() {
        // Version 1 started the image, and what it was is not known.
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
    let is_pair = names(output)[1].is_some();
    match recorded {
        [] => false,
        // One identity for both halves: a record of niimpi-journal/1.
        [both] if is_pair => image_io::pair_seems_intact(output, both),
        each => each
            .iter()
            .all(|file| image_io::seems_intact(&at_its_place(output, file))),
    }
}

/// Whether a file of a result is that of a record. A record of niimpi-journal/1 does not describe a file on its own; its word
/// that the image was started or written is taken.
fn describes_file(output: &Path, path: &Path, recorded: &[FileId]) -> bool {
    let is_pair = names(output)[1].is_some();
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
fn at_its_place(output: &Path, file: &FileId) -> FileId {
    let path = match file.path.as_os_str().is_empty() {
        true => output.to_owned(),
        false => output.with_file_name(&file.path),
    };
    FileId {
        path,
        ..file.clone()
    }
}

/// How many results stand in which way.
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

/// Why the files under the results' names may not be replaced, with how many there are of each kind and the first of each;
/// `None` where all may be.
pub(super) fn refusal<'a>(
    results: impl IntoIterator<Item = (&'a ImageEntry, Standing)>,
) -> Option<String> {
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
            "{} where results would go {} not an earlier result of the same input with the same options, so nothing is \
             written; choose another --output, or say --resume --overwrite to replace {}{}",
            crate::text::counted(all, "file"),
            if all == 1 { "is" } else { "are" },
            if all == 1 { "it" } else { "them" },
            lines.concat()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::image_io::Crc32;
    use crate::journal::past::History;

    /// A folder with inputs and results, and what journals say of them.
    struct World {
        dir: tempfile::TempDir,
        past: Past,
    }

    fn options(sigma: u32) -> serde_json::Value {
        serde_json::json!({ "sigma": sigma })
    }

    impl World {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("in")).unwrap();
            fs::create_dir(dir.path().join("out")).unwrap();
            World {
                dir,
                past: Past::default(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn put(&self, name: &str, content: &str) {
            fs::write(self.path(name), content).unwrap();
        }

        /// Changes the time of a file's last change, and nothing else.
        fn age(&self, name: &str, seconds: u64) {
            let file = fs::File::options().append(true).open(self.path(name));
            let then = SystemTime::now() - Duration::from_secs(seconds);
            file.unwrap().set_modified(then).unwrap();
        }

        /// The identities of these files as a journal records them, the first as the image's own.
        fn ids(&self, names: &[&str]) -> Vec<FileId> {
            let id = |(place, name): (usize, &&str)| {
                let path = self.path(name);
                let metadata = fs::metadata(&path).unwrap();
                FileId {
                    path: match place {
                        0 => PathBuf::new(),
                        _ => path.file_name().unwrap().into(),
                    },
                    bytes: metadata.len(),
                    mtime_ns: Some(metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()),
                    crc32: Some(Crc32(crc32fast::hash(&fs::read(&path).unwrap()))),
                    raw_bytes: metadata.len(),
                }
            };
            names.iter().enumerate().map(id).collect()
        }

        /// Records that the files of a result were made from those of an input.
        fn record(&mut self, last: Last, sigma: u32, inputs: &[&str], results: &[&str]) {
            let made = Made {
                input: self.path(inputs[0]),
                files_in: self.ids(inputs),
                files_out: self.ids(results),
                options: Arc::new(options(sigma)),
            };
            let below = Path::new(results[0]).strip_prefix("out").unwrap();
            let history = self
                .past
                .records
                .entry(below.to_owned())
                .or_insert(History {
                    last,
                    unix_s: 0.0,
                    made: Vec::new(),
                });
            history.last = last;
            history.made.push(made);
        }

        fn found(&self, input: &str, result: &str) -> Found {
            let entry = ImageEntry {
                index: 1,
                input: self.path(input),
                output: self.path(result),
            };
            let entries = [entry];
            let claims = claims(&self.past, &entries, &self.path("out"), &options(2));
            look(&entries[0], Some(&claims[0]))
        }

        fn standing(&self, input: &str, result: &str) -> Standing {
            self.found(input, result).standing
        }
    }

    /// One image that was smoothed with sigma 2.
    fn done() -> World {
        let mut world = World::new();
        world.put("in/a.nii", "input");
        world.put("out/a.nii", "result");
        world.record(Last::Done, 2, &["in/a.nii"], &["out/a.nii"]);
        world
    }

    #[test]
    fn a_result_of_the_same_content_and_options_is_kept() {
        let world = done();
        assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Kept);
        // Times alone prove nothing.
        world.age("in/a.nii", 500);
        world.age("out/a.nii", 500);
        assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Kept);
        // A link to the data, or the data moved.
        std::os::unix::fs::symlink(world.path("in"), world.path("link")).unwrap();
        assert_eq!(world.standing("link/a.nii", "out/a.nii"), Standing::Kept);
        fs::rename(world.path("in"), world.path("moved")).unwrap();
        let found = world.found("moved/a.nii", "out/a.nii");
        assert_eq!(found.standing, Standing::Moved);
        assert_eq!(found.moved_from, Some(Name(world.path("in/a.nii"))));
    }

    #[test]
    fn only_what_is_missing_failed_unfinished_or_changed_is_made_again() {
        let world = done();
        world.put("in/a.nii", "INPUT");
        assert_eq!(
            world.standing("in/a.nii", "out/a.nii"),
            Standing::InputChanged
        );
        let mut world = done();
        world.record(Last::Started, 2, &["in/a.nii"], &["out/a.nii"]);
        assert_eq!(
            world.standing("in/a.nii", "out/a.nii"),
            Standing::Unfinished
        );
        let mut world = done();
        world.record(Last::Failed, 4, &["in/a.nii"], &["out/a.nii"]);
        assert_eq!(
            world.standing("in/a.nii", "out/a.nii"),
            Standing::FailedBefore
        );
        fs::remove_file(world.path("out/a.nii")).unwrap();
        assert_eq!(
            world.standing("in/a.nii", "out/a.nii"),
            Standing::FailedBefore
        );
        let world = done();
        fs::remove_file(world.path("out/a.nii")).unwrap();
        assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Missing);
    }

    #[test]
    fn what_is_not_this_works_is_refused_with_its_kind() {
        let refused = |world: &World, input: &str| {
            let standing = world.standing(input, "out/a.nii");
            assert!(standing.refusal().is_some(), "{standing:?}");
            standing
        };
        let mut world = World::new();
        world.put("in/a.nii", "input");
        world.put("out/a.nii", "raw data of somebody else");
        assert_eq!(refused(&world, "in/a.nii"), Standing::Unrecorded);
        world.record(Last::Done, 4, &["in/a.nii"], &["out/a.nii"]);
        assert_eq!(refused(&world, "in/a.nii"), Standing::OptionsChanged);

        let world = done();
        world.put("out/a.nii", "edited by the user");
        assert_eq!(refused(&world, "in/a.nii"), Standing::Mismatched);

        let world = done();
        world.put("in/b.nii", "another subject");
        assert_eq!(refused(&world, "in/b.nii"), Standing::OtherInput);
        // Of the same size and time, too.
        world.put("in/b.nii", "INPUT");
        let time = fs::metadata(world.path("in/a.nii")).unwrap().modified();
        let file = fs::File::options()
            .append(true)
            .open(world.path("in/b.nii"));
        file.unwrap().set_modified(time.unwrap()).unwrap();
        assert_eq!(refused(&world, "in/b.nii"), Standing::OtherInput);
    }

    #[test]
    fn any_record_of_the_same_work_makes_a_file_this_works() {
        let mut world = done();
        // A later run with other options recorded its file, and never named it.
        world.put("out/other.nii", "sigma 4");
        let staged = world.ids(&["out/other.nii"]);
        world.record(Last::Staged, 4, &["in/a.nii"], &["out/a.nii"]);
        let history = world.past.records.get_mut(Path::new("a.nii")).unwrap();
        history.made[1].files_out = staged;
        assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Kept);
        // Named before the run was killed.
        let mut world = done();
        world.put("out/a.nii", "new result");
        world.record(Last::Staged, 2, &["in/a.nii"], &["out/a.nii"]);
        assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Kept);
    }

    #[test]
    fn both_halves_of_a_pair_count() {
        let mut world = World::new();
        for (name, content) in [
            ("in/a.hdr", "header"),
            ("in/a.img", "voxels"),
            ("out/a.hdr", "HEADER"),
            ("out/a.img", "VOXELS"),
        ] {
            world.put(name, content);
        }
        let results = ["out/a.hdr", "out/a.img"];
        world.record(Last::Done, 2, &["in/a.hdr", "in/a.img"], &results);
        let standing = |world: &World| world.standing("in/a.hdr", "out/a.hdr");
        assert_eq!(standing(&world), Standing::Kept);
        // Equal size and an older time: the sum of sizes and the later time are as before.
        world.put("in/a.img", "VOXELS");
        world.age("in/a.img", 500);
        assert_eq!(standing(&world), Standing::InputChanged);
        world.put("in/a.img", "voxels");
        // One half is missing, and the other is this work's.
        fs::remove_file(world.path("out/a.hdr")).unwrap();
        assert_eq!(standing(&world), Standing::Missing);
        // The header of another image.
        world.put("out/a.hdr", "flip it");
        assert_eq!(standing(&world), Standing::Mismatched);
    }

    #[test]
    fn records_of_version_1_are_taken_for_what_they_are() {
        let mut world = done();
        let weaken = |world: &mut World| {
            let history = world.past.records.get_mut(Path::new("a.nii")).unwrap();
            history.made[0].files_in[0].crc32 = None;
        };
        weaken(&mut world);
        assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Kept);
        // Without a checksum a changed time is a changed input.
        world.age("in/a.nii", 500);
        assert_eq!(
            world.standing("in/a.nii", "out/a.nii"),
            Standing::InputChanged
        );
        // Killed between the name and the record.
        let mut world = done();
        world.put("out/a.nii", "newer");
        let history = world.past.records.get_mut(Path::new("a.nii")).unwrap();
        history.last = Last::Started;
        (history.made[0].files_in, history.made[0].files_out) = Default::default();
        assert_eq!(
            world.standing("in/a.nii", "out/a.nii"),
            Standing::Unfinished
        );
    }

    #[test]
    fn a_refusal_counts_each_kind_and_names_its_first_file() {
        let entry = |index: usize| ImageEntry {
            index,
            input: format!("in/{index}.nii").into(),
            output: format!("out/{index}.nii").into(),
        };
        let entries = [1, 2, 3, 4].map(entry);
        let standings = [
            Standing::Kept,
            Standing::OtherInput,
            Standing::Unrecorded,
            Standing::OtherInput,
        ];
        let text = refusal(entries.iter().zip(standings)).unwrap();
        assert!(
            text.starts_with("3 files where results would go are not"),
            "{text}"
        );
        assert!(text.contains("--resume --overwrite"), "{text}");
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "  2 made from another input, such as out/2.nii",
                "  1 without a record, such as out/3.nii"
            ]
        );
        assert_eq!(
            refusal(entries.iter().zip([Standing::InputChanged; 4])),
            None
        );
    }

    #[test]
    fn half_a_pair_is_seen() {
        let world = World::new();
        world.put("out/a.img", "x");
        let found = world.found("in/a.hdr", "out/a.hdr");
        assert!(found.exists() && found.seen[0].is_none());
    }
}
