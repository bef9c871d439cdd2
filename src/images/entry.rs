//! One image of the list.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::comm::path_bytes;

/// One image to do. On the wire between ranks, paths are bytes, since file names need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageEntry {
    /// Place in the whole list, from 1; the same whatever share or limit is taken of it.
    pub index: usize,
    /// The image file; of a pair, the header.
    #[serde(with = "path_bytes")]
    pub input: PathBuf,
    /// Where its result goes.
    #[serde(with = "path_bytes")]
    pub output: PathBuf,
    /// Its mask, if each image has its own.
    #[serde(with = "path_bytes::optional")]
    pub mask: Option<PathBuf>,
}
