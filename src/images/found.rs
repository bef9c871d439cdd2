//! The images that were found: their order, and pairs as one image each.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::error::ListError;
use crate::image_io::file_name::{Role, pair_partner, split};

/// An input and its path relative to what the user named.
pub(super) struct Found {
    pub(super) input: PathBuf,
    pub(super) relative: PathBuf,
}

/// Natural order of paths, folder by folder: runs of digits compare as numbers.
pub fn natural_order(a: &Path, b: &Path) -> Ordering {
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

/// Makes one image of the two files of a pair, and refuses a path that is there twice. `found` is sorted.
pub(super) fn merge_pairs(found: &mut Vec<Found>) -> Result<(), ListError> {
    if let Some(twice) = found.windows(2).find(|two| two[0].input == two[1].input) {
        return Err(ListError::ListedTwice {
            path: twice[0].input.clone(),
        });
    }
    let inputs: std::collections::HashSet<PathBuf> =
        found.iter().map(|image| image.input.clone()).collect();
    // The header stands for the pair: its image file is dropped when both are there.
    found.retain(
        |image| match split(image.input.file_name().unwrap_or_default()) {
            Some((_, suffix)) if suffix.role == Role::Voxels => {
                let header = image.input.file_name().and_then(pair_partner);
                !header.is_some_and(|header| inputs.contains(&image.input.with_file_name(header)))
            }
            _ => true,
        },
    );
    Ok(())
}
