//! Tests of resuming: which files are kept, made again, or refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::image_io::Crc32;
use crate::journal::past::History;

/// A folder with inputs, results and their journal records.
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

    /// Changes only a file's modification time.
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
        let history = self.past.records.entry(below.to_owned()).or_insert(History {
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
            mask: None,
            second: None,
            bids: false,
        };
        let entries = [entry];
        let past = Past {
            records: self.past.records.clone(),
            ..Past::default()
        };
        let claims = claims(past, &entries, &self.path("out"), &options(2));
        look(&entries[0], None, None, Some(&claims[0]))
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
    // Modification times alone are not enough.
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
    assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::InputChanged);
    let mut world = done();
    world.record(Last::Started, 2, &["in/a.nii"], &["out/a.nii"]);
    assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Unfinished);
    let mut world = done();
    world.record(Last::Failed, 4, &["in/a.nii"], &["out/a.nii"]);
    assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::FailedBefore);
    fs::remove_file(world.path("out/a.nii")).unwrap();
    assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::FailedBefore);
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
    let file = fs::File::options().append(true).open(world.path("in/b.nii"));
    file.unwrap().set_modified(time.unwrap()).unwrap();
    assert_eq!(refused(&world, "in/b.nii"), Standing::OtherInput);
}

#[test]
fn any_record_of_the_same_work_makes_a_file_this_works() {
    let mut world = done();
    // A later run with other options recorded its file but did not rename it.
    world.put("out/other.nii", "sigma 4");
    let staged = world.ids(&["out/other.nii"]);
    world.record(Last::Staged, 4, &["in/a.nii"], &["out/a.nii"]);
    let history = world.past.records.get_mut(Path::new("a.nii")).unwrap();
    history.made[1].files_out = staged;
    assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Kept);
    // Renamed before the run was killed.
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
    // Equal size and an older time: the sum of sizes and the later time do not change.
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
    assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::InputChanged);
    // Killed between the rename and the record.
    let mut world = done();
    world.put("out/a.nii", "newer");
    let history = world.past.records.get_mut(Path::new("a.nii")).unwrap();
    history.last = Last::Started;
    (history.made[0].files_in, history.made[0].files_out) = Default::default();
    assert_eq!(world.standing("in/a.nii", "out/a.nii"), Standing::Unfinished);
}

#[test]
fn a_refusal_counts_each_kind_and_names_its_first_file() {
    let entry = |index: usize| ImageEntry {
        index,
        input: format!("in/{index}.nii").into(),
        output: format!("out/{index}.nii").into(),
        mask: None,
        second: None,
        bids: false,
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
    assert_eq!(refusal(entries.iter().zip([Standing::InputChanged; 4])), None);
}

#[test]
fn half_a_pair_is_seen() {
    let world = World::new();
    world.put("out/a.img", "x");
    let found = world.found("in/a.hdr", "out/a.hdr");
    assert!(found.exists() && found.seen[0].is_none());
}
