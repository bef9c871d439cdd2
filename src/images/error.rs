//! Why there is no list of images.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no list. Nothing was written when one of these is met.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the texts say what each is")]
pub enum ListError {
    #[error("{}: no such file or folder; check the path (relative ones start at {})", path.display(), cwd.display())]
    NoSuchInput { path: PathBuf, cwd: PathBuf },
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: not an image name; expected .nii, .nii.gz, .hdr or .img (also .hdr.gz, .img.gz)", path.display())]
    NotAnImageName { path: PathBuf },
    #[error(
        "no image found in {looked_in}; looked for *.nii, *.nii.gz, *.hdr and *.img (hidden files are left out)"
    )]
    Empty { looked_in: String },
    #[error("no input was given; name image files or folders, or a list with --list FILE")]
    NoInput,
    #[error(
        "two inputs for one output: {} and {} would both be written to {}; give their common folder as the input, or \
         set them apart with --name, for example --name '{{dir}}/{{stem}}_{{index}}'",
        first.display(), second.display(), output.display()
    )]
    Collision {
        first: PathBuf,
        second: PathBuf,
        output: PathBuf,
    },
    #[error("{}: listed twice; each image is done once, so take one of the two out", path.display())]
    ListedTwice { path: PathBuf },
    #[error(
        "the output folder {} lies inside the input folder {}, so the next run would take results for inputs; choose \
         a folder beside it",
        output.display(), input.display()
    )]
    OutputInsideInput { output: PathBuf, input: PathBuf },
    #[error("{} would be overwritten by the result of {}; choose another --output or --name", input.display(), by.display())]
    InputOverwritten { input: PathBuf, by: PathBuf },
    #[error(
        "--output {}: there is no folder {} to go up from; give the path without it and the .. that follows",
        output.display(), missing.display()
    )]
    OutputClimbs { output: PathBuf, missing: PathBuf },
    #[error("{}: is a folder in the file of --list; folders are given as arguments", path.display())]
    FolderInList { path: PathBuf },
    #[error("{}: is no list of paths, one a line; images themselves are given without --list", path.display())]
    NoList { path: PathBuf },
    #[error("{}: a path with .. cannot be mirrored below the output folder", path.display())]
    Climbs { path: PathBuf },
    #[error("--name {template}: gives {name:?} for {}, which is not a file name below the output folder", input.display())]
    BadName {
        template: String,
        name: PathBuf,
        input: PathBuf,
    },
}

pub(super) fn input_error(path: &Path, error: std::io::Error) -> ListError {
    if error.kind() == std::io::ErrorKind::NotFound {
        let cwd = std::env::current_dir().unwrap_or_default();
        ListError::NoSuchInput {
            path: path.to_owned(),
            cwd,
        }
    } else {
        ListError::Unreadable {
            path: path.to_owned(),
            source: error,
        }
    }
}
