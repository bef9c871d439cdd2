//! One image of the list.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
}
