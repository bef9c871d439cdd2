//! One image of the list.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image_io::file_name::files_at;
use crate::image_io::path_text;

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
}

impl ImageEntry {
    /// The names of its results' files: the result itself, of a pair the other half, and the second result.
    pub(crate) fn files(&self) -> [Option<PathBuf>; 3] {
        let [own, other_half] = files_at(&self.output);
        [own, other_half, self.second.clone()]
    }
}
