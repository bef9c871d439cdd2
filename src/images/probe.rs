//! Probing: what is known about each image and its result's path before any image is read.

use std::fs::Metadata;

use serde::{Deserialize, Serialize};

use super::entry::ImageEntry;
use super::replacing::FilesOfImage;
use crate::image_io;

/// What is known about an image before it is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageFacts {
    /// Size of its file; 0 if it cannot be accessed.
    pub(crate) file_bytes: u64,
    /// Uncompressed size of its file, from the header; `None` if the header was not read or is broken.
    pub(crate) raw_bytes: Option<u64>,
    /// Voxels of all volumes, from the header.
    pub(crate) voxels: Option<u64>,
    /// Bytes that it needs in memory, from the header.
    pub(crate) memory_bytes: Option<u64>,
    /// Estimated seconds of the filter, from the header.
    pub(crate) filter_s: Option<f64>,
    /// Voxel size and filter width; kept for a dry run only.
    pub(crate) widths: Option<Box<Widths>>,
    pub(crate) output_exists: bool,
    /// Its files and those that its result replaces.
    pub(crate) files: FilesOfImage,
    /// The error of the header.
    pub(crate) error: Option<String>,
}

/// Widths along x, y and z.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Widths {
    pub(crate) voxel_size_mm: [f64; 3],
    /// Sigma of the filter; `None` if it has none.
    pub(crate) sigma_vox: Option<[f64; 3]>,
}

/// What an image needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Need {
    /// Bytes in memory.
    pub(crate) memory_bytes: u64,
    /// Estimated seconds of the filter.
    pub(crate) filter_s: f64,
    /// Sigma of the filter in voxels; `None` if it has none.
    pub(crate) sigma_vox: Option<[f64; 3]>,
}

/// Computes what an image needs from its header.
pub(crate) type NeedOf<'a> = &'a (dyn Fn(&image_io::Probe) -> Need + Sync);

/// Probes one image: its size, existing results, and its header if `need_of` is given.
pub(crate) fn probe(entry: &ImageEntry, need_of: Option<NeedOf<'_>>) -> ImageFacts {
    let input = std::fs::metadata(&entry.input).ok();
    let files = FilesOfImage::of(entry);
    let mut facts = ImageFacts {
        file_bytes: input.as_ref().map_or(0, Metadata::len),
        output_exists: files.output_exists(),
        files,
        ..ImageFacts::default()
    };
    if let Some(need_of) = need_of {
        match image_io::probe(&entry.input) {
            Ok(probe) => {
                facts.raw_bytes = Some(probe.raw_bytes);
                let need = need_of(&probe);
                facts.memory_bytes = Some(need.memory_bytes);
                facts.filter_s = Some(need.filter_s);
                facts.widths = Some(Box::new(Widths {
                    voxel_size_mm: probe.voxel_size_mm,
                    sigma_vox: need.sigma_vox,
                }));
                facts.voxels = Some(probe.shape.iter().map(|&length| length as u64).product());
            }
            Err(error) => facts.error = Some(error.to_string()),
        }
    }
    facts
}

/// Merges the parts of all ranks in list order; rank r had images r, r + ranks, …
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_looks_of_the_ranks_come_back_in_the_lists_order() {
        let looks = interleave(vec![vec![0, 3], vec![1, 4], vec![2]]);
        assert_eq!(looks, [0, 1, 2, 3, 4]);
    }
}
