//! Probing: what is known of each image and of its result's place before any image is read.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{ImageEntry, ListError};
use crate::image_io;
use crate::image_io::file_name::pair_partner;

/// A file's device and its number there.
pub(crate) type FileId = (u64, u64);

/// What is known of an image before it is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageFacts {
    /// Size of its file; 0 when it cannot be seen.
    pub(crate) file_bytes: u64,
    /// Size of its file without compression, as the header gives it; `None` when the header was not read or is broken.
    pub(crate) raw_bytes: Option<u64>,
    /// Voxels of all volumes, as the header gives them.
    pub(crate) voxels: Option<u64>,
    /// Bytes that it takes in memory, as the header gives them.
    pub(crate) memory_bytes: Option<u64>,
    /// Whether its result exists.
    pub(crate) output_exists: bool,
    /// What names its file among all: device and number.
    pub(crate) input_id: Option<FileId>,
    /// The same of the files that its result would replace, as far as each has one name only.
    pub(crate) replaces: Vec<FileId>,
    /// What is wrong with the header.
    pub(crate) error: Option<String>,
}

/// The bytes that an image takes in memory, by its header.
pub(crate) type MemoryOf<'a> = &'a (dyn Fn(&image_io::Probe) -> u64 + Sync);

/// Looks at one image: its size, results that exist, and its header where `memory_of` asks for it.
pub(crate) fn probe(entry: &ImageEntry, memory_of: Option<MemoryOf<'_>>) -> ImageFacts {
    let input = std::fs::metadata(&entry.input).ok();
    let replaced = existing_files(&entry.output);
    let mut facts = ImageFacts {
        file_bytes: input.as_ref().map_or(0, Metadata::len),
        output_exists: !replaced.is_empty(),
        input_id: input.as_ref().map(file_id),
        replaces: only_names(&replaced),
        ..ImageFacts::default()
    };
    if let Some(memory_of) = memory_of {
        match image_io::probe(&entry.input) {
            Ok(probe) => {
                facts.raw_bytes = Some(probe.raw_bytes);
                facts.memory_bytes = Some(memory_of(&probe));
                facts.voxels = Some(probe.shape.iter().map(|&length| length as u64).product());
            }
            Err(error) => facts.error = Some(error.to_string()),
        }
    }
    facts
}

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The files of a result that exist: one, or both halves of a pair. Of a link it is the link itself, because that is
/// what a result replaces.
fn existing_files(output: &Path) -> Vec<Metadata> {
    let other_half = output.file_name().and_then(pair_partner);
    let other_half = other_half.map(|name| output.with_file_name(name));
    [Some(output), other_half.as_deref()]
        .into_iter()
        .flatten()
        .filter_map(|path| std::fs::symlink_metadata(path).ok())
        .collect()
}

/// The files among these that have no second name under which they would stay.
fn only_names(files: &[Metadata]) -> Vec<FileId> {
    files
        .iter()
        .filter(|metadata| metadata.nlink() == 1)
        .map(file_id)
        .collect()
}

/// The parts of all ranks in the list's order, where rank r had images r, r + ranks, …
pub(crate) fn interleave<T>(mut parts: Vec<Vec<T>>) -> Vec<T> {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut all = Vec::with_capacity(parts.iter().map(Vec::len).sum());
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    let ranks = parts.len();
    while let Some(next) = parts[all.len() % ranks].next() {
        all.push(next);
    }
    all
}

/// Refuses results that would take the place of inputs, whatever names and links these are reached by.
pub(crate) fn refuse_replacing_inputs(
    entries: &[ImageEntry],
    facts: &[&ImageFacts],
) -> Result<(), ListError> {
    let replaced: HashMap<FileId, usize> = facts
        .iter()
        .enumerate()
        .flat_map(|(place, facts)| facts.replaces.iter().map(move |&id| (id, place)))
        .collect();
    if replaced.is_empty() {
        return Ok(());
    }
    let clash = facts
        .iter()
        .enumerate()
        .filter_map(|(place, facts)| Some((place, *replaced.get(&facts.input_id?)?)))
        // Device numbers are each node's own, so what other ranks saw is looked at again.
        .find(|&(input, by)| {
            std::fs::metadata(&entries[input].input).is_ok_and(|metadata| {
                only_names(&existing_files(&entries[by].output)).contains(&file_id(&metadata))
            })
        });
    match clash {
        Some((input, by)) => Err(ListError::InputOverwritten {
            input: entries[input].input.clone(),
            by: entries[by].input.clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_looks_of_the_ranks_come_back_in_the_lists_order() {
        let looks = interleave(vec![vec![0, 3], vec![1, 4], vec![2]]);
        assert_eq!(looks, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn an_input_is_not_replaced_by_whatever_name_it_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("out")).unwrap();
        for name in ["a.nii", "b.hdr", "b.img", "out/old.nii"] {
            std::fs::write(path(name), b"x").unwrap();
        }
        std::os::unix::fs::symlink(path("a.nii"), path("link.nii")).unwrap();
        std::os::unix::fs::symlink(path("a.nii"), path("out/link.nii")).unwrap();
        let refused = |input: &str, output: &str| {
            let entries = [ImageEntry {
                index: 1,
                input: path(input),
                output: path(output),
            }];
            let facts = probe(&entries[0], None);
            refuse_replacing_inputs(&entries, &[&facts]).is_err()
        };
        assert!(refused("a.nii", "./a.nii"));
        assert!(refused("link.nii", "a.nii"));
        assert!(refused("b.hdr", "out/../b.img"));
        assert!(!refused("a.nii", "out/old.nii"));
        assert!(!refused("a.nii", "out/link.nii"));
        assert!(!refused("a.nii", "out/new.nii"));
    }

    #[test]
    fn half_a_pair_is_a_result_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.img"), b"x").unwrap();
        let entry = ImageEntry {
            index: 1,
            input: dir.path().join("in.hdr"),
            output: dir.path().join("a.hdr"),
        };
        assert!(probe(&entry, None).output_exists);
    }
}
