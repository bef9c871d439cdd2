//! Files whose content git-annex, DataLad or git-lfs has not fetched: a dangling link, or a short pointer
//! file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The command that fetches the content of a file; `None` if it is another kind of file. Looks at the file
/// again.
pub(super) fn command_for(path: &Path) -> Option<&'static str> {
    const ANNEX: &str = "datalad get` or `git annex get";
    const LONGEST_POINTER: u64 = 32 << 10;
    if !path.exists() {
        let target = std::fs::read_link(path).ok()?;
        let is_annexed = target.to_string_lossy().contains("annex/objects/");
        return is_annexed.then_some(ANNEX);
    }
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > LONGEST_POINTER {
        return None;
    }
    let mut beginning = Vec::new();
    let file = File::open(path).ok()?;
    file.take(64).read_to_end(&mut beginning).ok()?;
    if beginning.starts_with(b"version https://git-lfs.github.com/") {
        Some("git lfs pull")
    } else {
        beginning.starts_with(b"/annex/objects/").then_some(ANNEX)
    }
}
