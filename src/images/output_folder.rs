//! Detects results that would be written into a folder that is searched for inputs, also through links and
//! mounts.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::real_path::resolve;

/// The folder of the journals and pictures, below the output folder. Hidden, so that it is never searched for
/// images.
pub const RECORDS: &str = ".niimpi";

/// The folder of the results and the folders above it, as far as they exist.
pub(super) struct OutputFolder {
    pub(super) written: PathBuf,
    /// Device and inode of each, and the path from there to the results.
    above: HashMap<(u64, u64), PathBuf>,
}

impl OutputFolder {
    pub(super) fn new(output: &Path) -> Self {
        let real = resolve(output);
        let above = real.ancestors().filter_map(|folder| {
            let metadata = std::fs::metadata(folder).ok()?;
            let below = real.strip_prefix(folder).ok()?;
            Some((id(&metadata), below.to_owned()))
        });
        Self {
            written: output.to_owned(),
            above: above.collect(),
        }
    }

    /// The path of the results below a folder; `None` if they are elsewhere.
    pub(super) fn below(&self, folder: &Metadata) -> Option<&Path> {
        self.above.get(&id(folder)).map(PathBuf::as_path)
    }
}

fn id(folder: &Metadata) -> (u64, u64) {
    (folder.dev(), folder.ino())
}
