//! A section of the result of an image that ranks share, as one of them has made it.

use serde::{Deserialize, Serialize};

use crate::image_io::{Chunk, FileId, Written};
use crate::job::outcome::Timings;
use crate::job::survey::Found;
use crate::job::warning::Warning;

/// What a rank reports about a section before its bytes.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct SectionFacts {
    pub(crate) timings: Timings,
    pub(crate) nonfinite_voxels: u64,
    /// The input's file.
    pub(crate) file: FileId,
    /// The files of the mask, if the rank has read one.
    pub(crate) mask: Vec<FileId>,
    /// The rank was asked to stop, so the run has to.
    pub(crate) stopping: bool,
    /// Warnings about what follows its voxels.
    pub(crate) warnings: Vec<Warning>,
    /// What a survey has found, for an integer image with an integer result.
    pub(crate) found: Option<Found>,
}

/// A section of a result: its bytes that are not written yet, and a summary of those that are.
#[derive(Serialize, Deserialize)]
pub(crate) struct Section {
    pub(crate) facts: SectionFacts,
    /// The bytes before the first whole chunk, or before those written in place.
    pub(crate) head: Vec<u8>,
    /// The bytes written in place.
    pub(crate) written: Written,
    /// The whole chunks, compressed. Messages have them apart from the rest.
    #[serde(skip)]
    pub(crate) chunks: Vec<Chunk>,
    /// The bytes after them.
    pub(crate) tail: Vec<u8>,
    /// Seconds of waiting for voxels that another rank inflates.
    #[serde(skip)]
    pub(crate) waited_s: f64,
}
