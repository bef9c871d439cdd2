//! Messages while listing images that several files give. All occur before anything is written.

use std::path::Path;

/// The message for an input that cannot be accessed.
pub(super) fn no_access(path: &Path, error: &std::io::Error) -> String {
    let path = path.display();
    if error.kind() != std::io::ErrorKind::NotFound {
        return format!("{path}: cannot be read: {error}");
    }
    let folder = std::env::current_dir().unwrap_or_default();
    let folder = folder.display();
    format!("{path}: no such file or folder; check the path (relative ones start at {folder})")
}

/// `line`: the line of the list that repeats it.
pub(super) fn listed_twice(path: &Path, line: Option<usize>) -> String {
    let again = line.map_or(String::new(), |line| {
        format!(", again in line {line} of the list")
    });
    let path = path.display();
    format!("{path}: listed twice{again}; each image is processed once, so remove one of the two")
}

pub(super) fn no_image_name(path: &Path) -> String {
    format!(
        "{}: not an image name; expected .nii, .nii.gz, .hdr or .img (also .hdr.gz, .img.gz)",
        path.display()
    )
}

/// `by`: the image whose result would replace the input.
pub(super) fn overwritten(input: &Path, by: &Path) -> String {
    format!(
        "{} would be overwritten by the result of {}; choose another --output or --name",
        input.display(),
        by.display()
    )
}
