//! Errors while listing images. All occur before anything is written.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// An error while listing images.
#[derive(Debug, Error)]
pub(crate) enum ListError {
    #[error(
        "{}: no such file or folder; check the path (relative ones start at {})",
        path.display(), cwd.display()
    )]
    NoSuchInput { path: PathBuf, cwd: PathBuf },
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{count} folders below {} cannot be read", path.display())]
    UnreadableBelow { path: PathBuf, count: usize },
    #[error(
        "{}: not an image name; expected .nii, .nii.gz, .hdr or .img (also .hdr.gz, .img.gz)",
        path.display()
    )]
    NotAnImageName { path: PathBuf },
    #[error("{:?}: the path begins or ends with a blank; remove it", path.display().to_string())]
    Blank { path: PathBuf },
    #[error(
        "no image found in {looked_in}; looked for *.nii, *.nii.gz, *.hdr and *.img \
         (hidden files are left out)"
    )]
    Empty { looked_in: String },
    #[error("--include and --exclude leave none of {of} images")]
    NoneSelected { of: usize },
    #[error("{option}: {error}")]
    Patterns {
        option: &'static str,
        error: globset::Error,
    },
    #[error("no input given; pass image files or folders, or a list with --list FILE")]
    NoInput,
    #[error("more than {most} images; split the list, or check what writes it")]
    TooMany { most: usize },
    #[error(
        "two inputs for one output: {} and {} would both be written to {}; {advice}",
        first.display(), second.display(), output.display()
    )]
    Collision {
        first: PathBuf,
        second: PathBuf,
        output: PathBuf,
        advice: String,
    },
    #[error(
        "{}: listed twice{}; each image is processed once, so remove one of the two",
        path.display(), again(*line)
    )]
    ListedTwice { path: PathBuf, line: Option<usize> },
    #[error(
        "the output folder {} lies inside the input folder {}, so the next run would take results for \
         inputs; choose a folder outside of it, or leave the results out with --exclude",
        output.display(), input.display()
    )]
    OutputInsideInput { output: PathBuf, input: PathBuf },
    #[error(
        "{} would be overwritten by the result of {}; choose another --output or --name",
        input.display(), by.display()
    )]
    InputOverwritten { input: PathBuf, by: PathBuf },
    #[error(
        "--output {}: the folder {} before .. does not exist; give the path without it and without ..",
        output.display(), missing.display()
    )]
    OutputClimbs { output: PathBuf, missing: PathBuf },
    #[error("{}: is a folder in the file of --list; give folders as arguments", path.display())]
    FolderInList { path: PathBuf },
    #[error("is not a list of paths, one per line; give images themselves without --list")]
    NoList,
    #[error("the list has more than {most} lines; split it")]
    TooLong { most: usize },
    #[error("{} line {line}: {error}", name_of(list))]
    Line {
        list: PathBuf,
        line: usize,
        error: Box<ListError>,
    },
    #[error("{}: after /./ a path must not contain ..", path.display())]
    Climbs { path: PathBuf },
    #[error("--base {}: no such folder", path.display())]
    NoBase { path: PathBuf },
    #[error("{}: is not below --base {}", path.display(), base.display())]
    NotBelowBase { path: PathBuf, base: PathBuf },
    #[error(
        "{}: an absolute path, or one with .., does not determine the path of its result{}; add --base {}: \
         results then keep their paths below that folder",
        path.display(), and_others(*others), proposal.display()
    )]
    NeedsBase {
        path: PathBuf,
        others: usize,
        proposal: PathBuf,
    },
    #[error(
        "--name {template}: gives {name:?} for {}, which is not a file name below the output folder",
        input.display()
    )]
    BadName {
        template: String,
        name: PathBuf,
        input: PathBuf,
    },
}

fn again(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| {
        format!(", again in line {line} of the list")
    })
}

fn name_of(list: &Path) -> String {
    match list.to_str() {
        Some("-") => "standard input".to_owned(),
        _ => list.display().to_string(),
    }
}

fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(" (and {others} more)"),
    }
}

impl ListError {
    /// The error for an input that cannot be accessed.
    pub(super) fn of_input(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        if source.kind() == std::io::ErrorKind::NotFound {
            let cwd = std::env::current_dir().unwrap_or_default();
            ListError::NoSuchInput { path, cwd }
        } else {
            ListError::Unreadable { path, source }
        }
    }

    /// The error with the line number in the list.
    pub(super) fn in_line(self, list: &Path, line: usize) -> Self {
        ListError::Line {
            list: list.to_owned(),
            line,
            error: Box::new(self),
        }
    }
}
