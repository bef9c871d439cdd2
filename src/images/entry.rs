//! One image of the list.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::bids::sidecars_of;
use crate::image_io::file_name::files_at;
use crate::image_io::path_text;

/// The most files of an image's results.
pub(crate) const MOST_FILES: usize = 9;

/// One image to process. In messages between ranks, paths are bytes, because file names need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Index in the whole list, from 1; independent of shard and limit.
    pub index: usize,
    /// The image file; of a pair, the header.
    #[serde(with = "path_text")]
    pub input: PathBuf,
    /// The path of its result.
    #[serde(with = "path_text")]
    pub output: PathBuf,
    /// The path of its mask, if each image has its own.
    #[serde(with = "path_text::optional")]
    pub mask: Option<PathBuf>,
    /// The path of its second result, in the folder of the first.
    #[serde(with = "path_text::optional")]
    pub second: Option<PathBuf>,
    /// Whether its result has the sidecar files of a BIDS dataset.
    pub bids: bool,
}

impl ImageEntry {
    /// The names that its results' files can have: the result itself, of a pair the other half, the second
    /// result, and the sidecar files of both.
    pub(crate) fn files(&self) -> [Option<PathBuf>; MOST_FILES] {
        let [own, other_half] = files_at(&self.output);
        let second = self.second.as_deref().filter(|_| self.bids);
        let [json, bval, bvec] = match self.bids {
            true => sidecars_of(&self.output),
            false => [None, None, None],
        };
        let [second_json, second_bval, second_bvec] = second.map_or([None, None, None], sidecars_of);
        [
            own,
            other_half,
            self.second.clone(),
            json,
            bval,
            bvec,
            second_json,
            second_bval,
            second_bvec,
        ]
    }
}
