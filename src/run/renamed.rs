//! Refuses to repeat results of an earlier run with the same inputs and options under other names.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

use crate::images::{ImageEntry, absolute};
use crate::journal::past::{History, Past};

/// Compares the output paths with those in the journals.
///
/// # Errors
/// A message that names the first such image and proposes a base, if an earlier result of it exists under
/// another name and none under its current name.
pub(super) fn refuse_renamed(
    past: &Past,
    entries: &[ImageEntry],
    output: &Path,
    options: &serde_json::Value,
) -> Result<(), String> {
    let below = |entry: &ImageEntry| -> PathBuf {
        let path = &entry.output;
        path.strip_prefix(output).unwrap_or(path).to_owned()
    };
    let made_from = |history: &History, input: &Path| {
        history
            .made
            .iter()
            .any(|made| *made.options == *options && made.input == input && !made.files_out.is_empty())
    };
    // Hashes, because a list can have a million images.
    let hasher = RandomState::new();
    let places: HashMap<u64, usize> = (entries.iter().enumerate())
        .map(|(place, entry)| (hasher.hash_one(absolute(&entry.input).as_path()), place))
        .collect();
    let outputs: HashSet<u64> = (entries.iter())
        .map(|entry| hasher.hash_one(below(entry).as_path()))
        .collect();
    let mut renamed: Vec<(usize, &Path)> = Vec::new();
    let others =
        (past.records.iter()).filter(|(path, _)| !outputs.contains(&hasher.hash_one(path.as_path())));
    for (earlier, history) in others {
        let inputs = history.made.iter().map(|made| made.input.as_path());
        for place in inputs.filter_map(|input| places.get(&hasher.hash_one(input)).copied()) {
            let entry = &entries[place];
            let (now, input) = (below(entry), absolute(&entry.input));
            let is_known_now = past.records.get(&now).is_some_and(|now| made_from(now, &input));
            if made_from(history, &input) && !is_known_now {
                renamed.push((place, earlier));
            }
        }
    }
    renamed.sort_unstable();
    renamed.dedup_by_key(|(place, _)| *place);
    renamed.retain(|(_, earlier)| output.join(earlier).symlink_metadata().is_ok());
    let Some(&(place, earlier)) = renamed.first() else {
        return Ok(());
    };
    let entry = &entries[place];
    Err(format!(
        "{} of {} results exist under other names: the result of {} is {}, and would now also be {}; {}, or \
         choose another --output",
        renamed.len(),
        entries.len(),
        entry.input.display(),
        output.join(earlier).display(),
        entry.output.display(),
        match base_of(&absolute(&entry.input), earlier) {
            // Another base changes only the folders of a result.
            Some(base) if below(entry).file_name() == earlier.file_name() => {
                format!("add --base {}", base.display())
            }
            _ => "use --base, --name and --desc-out as before".to_owned(),
        }
    ))
}

/// The base folder for which an input has this path.
fn base_of(input: &Path, below: &Path) -> Option<PathBuf> {
    let depth = below.components().count();
    (input.ends_with(below)).then(|| input.ancestors().nth(depth).map(Path::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journal of results made from these inputs.
    fn past(results: &[(&str, &str)]) -> Past {
        let mut text = concat!(
            r#"{"event":"run","format":"niimpi-journal/2","unix_s":1,"run":"r","version":"0","rank":0,"#,
            r#""ranks":1,"host":"h","pid":1,"workers":1,"images":1,"kept":0,"strategy":"size","#,
            r#""options":{"sigma":2}}"#
        )
        .to_owned();
        for (input, output) in results {
            let end = [
                r#"{"event":"end","unix_s":2.0,"index":1,"worker":0,"status":"done","#,
                &format!(r#""input":"{input}","output":"{output}","#),
                r#""files_in":[{"bytes":1,"mtime_ns":2}],"#,
                r#""files_out":[{"bytes":3,"raw_bytes":3,"crc32":"000000ff"}],"#,
                r#""read_s":0.0,"filter_s":0.0,"write_s":0.0,"voxels":1}"#,
            ];
            text += &format!("\n{}", end.concat());
        }
        Past::of_bytes([text.as_bytes()])
    }

    #[test]
    fn a_result_under_another_name_is_refused_with_the_base_that_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        std::fs::create_dir(out.join("sub-1")).unwrap();
        std::fs::write(out.join("sub-1/T1.nii"), b"x").unwrap();
        let earlier = past(&[("/study/sub-1/T1.nii", "sub-1/T1.nii")]);
        let check = |past: &Past, output: &str, sigma: i32| {
            let entry = ImageEntry {
                index: 1,
                input: "/study/sub-1/T1.nii".into(),
                output: out.join(output),
                mask: None,
                second: None,
                bids: false,
            };
            refuse_renamed(past, &[entry], out, &serde_json::json!({"sigma": sigma}))
        };
        let message = check(&earlier, "T1.nii", 2).unwrap_err();
        assert!(message.contains("add --base /study,"), "{message}");
        let message = check(&earlier, "sub-1/T1_x.nii", 2).unwrap_err();
        assert!(
            message.contains("use --base, --name") && !message.contains("add --base"),
            "{message}"
        );
        assert!(check(&earlier, "sub-1/T1.nii", 2).is_ok());
        assert!(
            check(&earlier, "T1.nii", 4).is_ok(),
            "another sigma is another job"
        );
        let both = past(&[
            ("/study/sub-1/T1.nii", "sub-1/T1.nii"),
            ("/study/sub-1/T1.nii", "T1.nii"),
        ]);
        assert!(check(&both, "T1.nii", 2).is_ok());
        std::fs::remove_file(out.join("sub-1/T1.nii")).unwrap();
        assert!(
            check(&earlier, "T1.nii", 2).is_ok(),
            "the earlier result was removed"
        );
    }

    #[test]
    fn a_base_is_proposed_where_there_is_one() {
        let base = |input: &str, below: &str| base_of(Path::new(input), Path::new(below));
        assert_eq!(base("/a/b/c.nii", "b/c.nii"), Some("/a".into()));
        assert_eq!(base("/a/b/c.nii", "c.nii"), Some("/a/b".into()));
        assert_eq!(base("/a/b/c.nii", "d.nii"), None);
        assert_eq!(base("/a/b/c.nii", "b/c_smooth.nii"), None);
    }
}
