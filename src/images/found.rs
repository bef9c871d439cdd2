//! The images found: sorts them and merges the two files of each pair.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::listed_twice;
use crate::image_io::file_name::{Role, pair_partner, split, toggle_gzip};

/// The maximum number of images in a list. More is a mistake such as an endless pipe, and would need
/// gigabytes of memory.
const MOST_IMAGES: usize = 10_000_000;

/// An image and the path of its result.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) input: PathBuf,
    /// Its path below the base.
    pub(super) place: PathBuf,
    /// Its line in the file of `--list`, from 1.
    pub(super) line: Option<usize>,
}

/// Adds an image.
pub(super) fn push(found: &mut Vec<Found>, image: Found) -> Result<(), String> {
    if found.len() == MOST_IMAGES {
        return Err(format!(
            "more than {MOST_IMAGES} images; split the list, or check what writes it"
        ));
    }
    found.push(image);
    Ok(())
}

/// Natural order of paths, folder by folder: runs of digits compare as numbers.
pub(crate) fn natural_order(a: &Path, b: &Path) -> Ordering {
    let mut left = a.components();
    let mut right = b.components();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => {
                let (x, y) = (x.as_os_str(), y.as_os_str());
                let order = match (x.to_str(), y.to_str()) {
                    (Some(x), Some(y)) => alphanumeric_sort::compare_str(x, y),
                    _ => x.cmp(y),
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    }
}

/// Sorts the images, merges the two files of each pair, and refuses a path that is listed twice.
pub(super) fn sort_and_merge_pairs(found: &mut Vec<Found>) -> Result<(), String> {
    found.sort_by(|a, b| natural_order(&a.input, &b.input));
    if let Some(twice) = found.windows(2).find(|two| two[0].input == two[1].input) {
        return Err(listed_twice(&twice[0].input, twice[1].line));
    }
    let stands_for_a_pair: Vec<bool> = found
        .iter()
        .map(|image| !is_half_of_another(image, found))
        .collect();
    let mut keep = stands_for_a_pair.into_iter();
    found.retain(|_| keep.next().unwrap_or(true));
    Ok(())
}

/// Whether these are the voxels of a header that is also listed. Only one of the two files can be compressed,
/// unless other voxels fit the header better.
fn is_half_of_another(image: &Found, found: &[Found]) -> bool {
    let name = image.input.file_name().unwrap_or_default();
    if !split(name).is_some_and(|(_, suffix)| suffix.role == Role::Voxels) {
        return false;
    }
    let listed = |name: OsString| {
        let path = image.input.with_file_name(name);
        found
            .binary_search_by(|other| natural_order(&other.input, &path))
            .is_ok()
    };
    let other_header = || pair_partner(name).as_deref().and_then(toggle_gzip);
    pair_partner(name).is_some_and(listed)
        || (other_header().is_some_and(listed) && !toggle_gzip(name).is_some_and(listed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(names: &[&str]) -> Result<Vec<String>, String> {
        let mut found = names
            .iter()
            .map(|name| Found {
                input: name.into(),
                place: name.into(),
                line: None,
            })
            .collect();
        sort_and_merge_pairs(&mut found)?;
        let names = found.iter().map(|image| image.input.display().to_string());
        Ok(names.collect())
    }

    #[test]
    fn a_pair_is_one_image_whichever_half_is_compressed() {
        for (names, images) in [
            (&["a.hdr", "a.img"][..], &["a.hdr"][..]),
            (&["a.hdr", "a.img.gz"], &["a.hdr"]),
            (&["a.hdr.gz", "a.img"], &["a.hdr.gz"]),
            (&["A.HDR", "A.IMG.GZ"], &["A.HDR"]),
            (
                &["a.hdr", "a.img", "a.hdr.gz", "a.img.gz"],
                &["a.hdr", "a.hdr.gz"],
            ),
            (&["a.hdr", "a.img", "a.img.gz"], &["a.hdr", "a.img.gz"]),
            (&["1/a.hdr", "2/a.img.gz"], &["1/a.hdr", "2/a.img.gz"]),
            (&["a.img", "a.nii"], &["a.img", "a.nii"]),
        ] {
            assert_eq!(merged(names).unwrap(), images, "{names:?}");
        }
        let twice = merged(&["b.nii", "a.nii", "b.nii"]).unwrap_err();
        assert!(twice.starts_with("b.nii: listed twice"), "{twice}");
    }

    #[test]
    fn digits_compare_as_numbers() {
        let names = merged(&["a/s_10.nii", "a/s_9.nii", "a.nii", "a/b/s_1.nii"]).unwrap();
        assert_eq!(names, ["a/b/s_1.nii", "a/s_9.nii", "a/s_10.nii", "a.nii"]);
    }
}
