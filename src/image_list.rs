//! Image list: inputs → an ordered list of images, each with its output's name. Refuses what would lose an image.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use walkdir::WalkDir;

use crate::image_io::file_name::{Role, is_image_name, pair_partner, split};
use crate::report::printable;

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
}

/// Paths as the bytes that they are.
pub mod path_bytes {
    use super::{OsStrExt, OsString, OsStringExt, Path, PathBuf};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a path as its bytes.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(path.as_os_str().as_bytes())
    }

    /// Reads a path from its bytes.
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Ok(PathBuf::from(OsString::from_vec(Vec::<u8>::deserialize(
            deserializer,
        )?)))
    }
}

/// What is to be listed, as the user gave it.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Image files and folders of images.
    pub inputs: Vec<PathBuf>,
    /// A file with one path a line; `-` is standard input.
    pub list_file: Option<PathBuf>,
    /// The folder of the results.
    pub output: PathBuf,
    /// How the results are named; `None` keeps the names.
    pub name: Option<NameTemplate>,
}

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

/// `--name`: the results' names, with `{stem}` (the input's name without its suffix), `{index}` (its place in the list,
/// from 1) and `{dir}` (its folder below the input folder). A suffix of an image decides the result's format; without
/// one the input's is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameTemplate {
    text: String,
}

impl std::fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for NameTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let known = ["{stem}", "{index}", "{dir}"];
            let Some(field) = known.iter().find(|field| rest[open..].starts_with(**field)) else {
                return Err("the fields are {stem}, {index} and {dir}".to_owned());
            };
            rest = &rest[open + field.len()..];
        }
        if text.is_empty() || text.ends_with('/') {
            return Err("a file name is missing".to_owned());
        }
        if !text.contains("{stem}") && !text.contains("{index}") {
            return Err("every image would get one name; use {stem} or {index}".to_owned());
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }
}

impl NameTemplate {
    /// The path below the output folder for the image at `relative` (below its input folder), the `index`-th of the list.
    fn fill(&self, relative: &Path, index: usize) -> PathBuf {
        let file_name = relative.file_name().unwrap_or_default();
        let (stem, suffix) =
            split(file_name).map_or((file_name, ""), |(stem, suffix)| (stem, suffix.as_str()));
        let dir = relative.parent().unwrap_or(Path::new(""));
        let mut filled = Vec::new();
        let mut rest = self.text.as_str();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("{stem}") {
                filled.extend_from_slice(stem.as_bytes());
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{index}") {
                filled.extend_from_slice(index.to_string().as_bytes());
                rest = after;
            } else if let Some(after) = rest.strip_prefix("{dir}") {
                filled.extend_from_slice(dir.as_os_str().as_bytes());
                rest = after;
                if dir.as_os_str().is_empty() {
                    rest = rest.strip_prefix('/').unwrap_or(rest);
                }
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                filled.extend_from_slice(&rest.as_bytes()[..end]);
                rest = &rest[end..];
            }
        }
        let name = PathBuf::from(OsString::from_vec(filled));
        if name.file_name().is_some_and(is_image_name) {
            return name;
        }
        let mut name = name.into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    }
}

/// An input and its path relative to what the user named.
struct Found {
    input: PathBuf,
    relative: PathBuf,
}

/// Lists every image of the request in natural order (`sample_2` before `sample_10`), with the outputs' names.
///
/// Folders are searched recursively, following links; hidden files and folders (a leading dot) are left out. A folder
/// whose name is an image's is listed as the broken image that it is. Images of a folder keep their path below it;
/// images given by name go directly into the output folder; those of a list file keep their path below the deepest
/// folder that holds them all.
///
/// # Errors
/// See [`ListError`]; nothing is written.
pub fn collect(request: &ListRequest) -> Result<Vec<ImageEntry>, ListError> {
    if request.inputs.is_empty() && request.list_file.is_none() {
        return Err(ListError::NoInput);
    }
    refuse_climbing(&request.output)?;
    let output = resolve(&request.output);
    let mut found = Vec::new();
    for input in &request.inputs {
        let metadata = std::fs::metadata(input).map_err(|error| input_error(input, error))?;
        if metadata.is_dir() {
            let folder = resolve(input);
            if output.starts_with(&folder) {
                return Err(ListError::OutputInsideInput {
                    output: request.output.clone(),
                    input: input.clone(),
                });
            }
            search(input, &mut found)?;
        } else {
            found.push(named(input)?);
        }
    }
    if let Some(list_file) = &request.list_file {
        found.extend(read_list(list_file)?);
    }
    if found.is_empty() {
        let mut looked_in: Vec<String> = request
            .inputs
            .iter()
            .map(|input| input.display().to_string())
            .collect();
        looked_in.extend(
            request
                .list_file
                .iter()
                .map(|file| format!("the list {}", file.display())),
        );
        return Err(ListError::Empty {
            looked_in: looked_in.join(", "),
        });
    }
    found.sort_by(|a, b| natural_order(&a.input, &b.input));
    merge_pairs(&mut found)?;
    let entries = found
        .into_iter()
        .enumerate()
        .map(|(place, image)| entry(image, place + 1, request))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_collisions(&entries)?;
    Ok(entries)
}

/// The images below one folder, in natural order; a pair is one, named by its header.
///
/// # Errors
/// [`ListError::NoSuchInput`] and [`ListError::Unreadable`].
pub fn images_below(folder: &Path) -> Result<Vec<PathBuf>, ListError> {
    std::fs::metadata(folder).map_err(|error| input_error(folder, error))?;
    let mut found = Vec::new();
    search(folder, &mut found)?;
    found.sort_by(|a, b| natural_order(&a.input, &b.input));
    merge_pairs(&mut found)?;
    Ok(found.into_iter().map(|image| image.input).collect())
}

/// Natural order of paths, folder by folder: runs of digits compare as numbers.
pub fn natural_order(a: &Path, b: &Path) -> Ordering {
    let mut left = a.components();
    let mut right = b.components();
    loop {
        match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => {
                let (x, y) = (x.as_os_str(), y.as_os_str());
                let order = match (x.to_str(), y.to_str()) {
                    (Some(x), Some(y)) => alphanumeric_sort::compare_str(x, y),
                    _ => x.cmp(y),
                };
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    }
}

fn input_error(path: &Path, error: std::io::Error) -> ListError {
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

/// Refuses an output folder `a/../b` without an `a`: as long as `a` is missing, nothing below `b` can be seen, neither
/// results nor inputs, and all of it would be replaced once `a` is made.
fn refuse_climbing(output: &Path) -> Result<(), ListError> {
    let mut walked = PathBuf::new();
    for part in output.components() {
        if part == Component::ParentDir && !walked.as_os_str().is_empty() && !walked.is_dir() {
            return Err(ListError::OutputClimbs {
                output: output.to_owned(),
                missing: walked,
            });
        }
        walked.push(part);
    }
    Ok(())
}

/// The absolute path without links, also of a path whose last parts do not exist yet.
fn resolve(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        if let Ok(mut real) = existing.canonicalize() {
            real.extend(missing.iter().rev());
            return real;
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                existing = parent;
            }
            _ => return absolute,
        }
    }
}

fn search(folder: &Path, found: &mut Vec<Found>) -> Result<(), ListError> {
    let hidden = |name: &OsStr| name.as_bytes().starts_with(b".");
    let mut walk = WalkDir::new(folder).follow_links(true).into_iter();
    while let Some(item) = walk.next() {
        let item = match item {
            Ok(item) => item,
            Err(error) if error.loop_ancestor().is_some() => {
                let path = error.path().unwrap_or(folder);
                tracing::warn!(
                    "{}: a link back to a folder above it; not followed",
                    printable(&path.display().to_string())
                );
                continue;
            }
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                // A link that leads nowhere is an image that cannot be read: it becomes a record when it is its turn.
                if path.file_name().is_some_and(is_image_name) && path.is_symlink() {
                    let relative = path.strip_prefix(folder).unwrap_or(&path).to_owned();
                    found.push(Found {
                        input: path,
                        relative,
                    });
                    continue;
                }
                if path.is_symlink() {
                    continue;
                }
                let source = error.into();
                return Err(ListError::Unreadable { path, source });
            }
        };
        if item.depth() == 0 {
            continue;
        }
        let is_folder = item.file_type().is_dir();
        if hidden(item.file_name()) {
            if is_folder {
                walk.skip_current_dir();
            }
            continue;
        }
        if is_image_name(item.file_name()) {
            if is_folder {
                walk.skip_current_dir();
            }
            let input = item.into_path();
            let relative = input.strip_prefix(folder).unwrap_or(&input).to_owned();
            found.push(Found { input, relative });
        }
    }
    Ok(())
}

fn named(path: &Path) -> Result<Found, ListError> {
    match path.file_name() {
        Some(name) if is_image_name(name) => Ok(Found {
            input: path.to_owned(),
            relative: PathBuf::from(name),
        }),
        _ => Err(ListError::NotAnImageName {
            path: path.to_owned(),
        }),
    }
}

/// The bytes of a line, beyond which it is no path: far more than systems allow.
const LONGEST_LINE: u64 = 1 << 16;

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The images of a list file: one path a line, empty lines and a byte order mark left out.
fn read_list(list_file: &Path) -> Result<Vec<Found>, ListError> {
    let unreadable = |source| ListError::Unreadable {
        path: list_file.to_owned(),
        source,
    };
    let reader: Box<dyn Read> = if list_file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(list_file).map_err(|error| input_error(list_file, error))?)
    };
    let mut reader = std::io::BufReader::new(reader);
    let mut paths = Vec::new();
    let mut is_first = true;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(LONGEST_LINE);
        if limited.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        let cut = limited.limit() == 0 && line.last() != Some(&b'\n');
        if cut || line.contains(&0) {
            let path = list_file.to_owned();
            return Err(ListError::NoList { path });
        }
        // Editors of Windows begin a file with it; no path does.
        if std::mem::take(&mut is_first) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        for end in [b'\n', b'\r'] {
            if line.last() == Some(&end) {
                line.pop();
            }
        }
        if line.is_empty() {
            continue;
        }
        let path = PathBuf::from(OsString::from_vec(line));
        if !path.file_name().is_some_and(is_image_name) {
            if path.is_dir() {
                return Err(ListError::FolderInList { path });
            }
            return Err(ListError::NotAnImageName { path });
        }
        paths.push(path);
    }
    let absolute: Vec<PathBuf> = paths
        .iter()
        .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone()))
        .collect();
    let common = common_folder(&absolute);
    paths
        .into_iter()
        .zip(absolute)
        .map(|(input, absolute)| {
            let relative = absolute
                .strip_prefix(&common)
                .unwrap_or(&absolute)
                .to_owned();
            if relative
                .components()
                .any(|part| part == Component::ParentDir)
            {
                return Err(ListError::Climbs { path: input });
            }
            Ok(Found { input, relative })
        })
        .collect()
}

/// The deepest folder that holds every one of these files.
fn common_folder(files: &[PathBuf]) -> PathBuf {
    let mut folders = files
        .iter()
        .map(|file| file.parent().unwrap_or(Path::new("")));
    let Some(first) = folders.next() else {
        return PathBuf::new();
    };
    let mut common = first.to_owned();
    for folder in folders {
        while !folder.starts_with(&common) {
            if !common.pop() {
                return PathBuf::new();
            }
        }
    }
    common
}

/// Makes one image of the two files of a pair, and refuses a path that is there twice. `found` is sorted.
fn merge_pairs(found: &mut Vec<Found>) -> Result<(), ListError> {
    if let Some(twice) = found.windows(2).find(|two| two[0].input == two[1].input) {
        return Err(ListError::ListedTwice {
            path: twice[0].input.clone(),
        });
    }
    let inputs: std::collections::HashSet<PathBuf> =
        found.iter().map(|image| image.input.clone()).collect();
    // The header stands for the pair: its image file is dropped when both are there.
    found.retain(
        |image| match split(image.input.file_name().unwrap_or_default()) {
            Some((_, suffix)) if suffix.role == Role::Voxels => {
                let header = image.input.file_name().and_then(pair_partner);
                !header.is_some_and(|header| inputs.contains(&image.input.with_file_name(header)))
            }
            _ => true,
        },
    );
    Ok(())
}

fn entry(image: Found, index: usize, request: &ListRequest) -> Result<ImageEntry, ListError> {
    let name = match &request.name {
        None => image.relative,
        Some(template) => {
            let name = template.fill(&image.relative, index);
            let inside = name
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !inside || name.file_name().is_none() {
                let template = template.text.clone();
                return Err(ListError::BadName {
                    template,
                    name,
                    input: image.input,
                });
            }
            name
        }
    };
    // Every rank holds the whole list: copies take as much room as they need, where joining leaves up to as much again.
    Ok(ImageEntry {
        index,
        input: image.input.as_path().to_owned(),
        output: request.output.join(name).as_path().to_owned(),
    })
}

fn refuse_collisions(entries: &[ImageEntry]) -> Result<(), ListError> {
    let mut places = Places::default();
    let mut by_output: HashMap<PathBuf, &ImageEntry> = HashMap::with_capacity(entries.len());
    for entry in entries {
        if let Some(first) = by_output.insert(places.of(&entry.output), entry) {
            return Err(ListError::Collision {
                first: first.input.clone(),
                second: entry.input.clone(),
                output: entry.output.clone(),
            });
        }
    }
    for entry in entries {
        if let Some(by) = by_output.get(&places.of(&entry.input)) {
            return Err(ListError::InputOverwritten {
                input: entry.input.clone(),
                by: by.input.clone(),
            });
        }
    }
    Ok(())
}

/// Where images lie, however their paths are written: with links, dots, from the root folder or from here.
#[derive(Default)]
struct Places {
    /// Folders without links, each looked at once.
    real: HashMap<PathBuf, PathBuf>,
}

impl Places {
    /// One path for all paths of an image's file; both halves of a pair lie where its header does.
    fn of(&mut self, path: &Path) -> PathBuf {
        let name = path.file_name().unwrap_or_default();
        let header = split(name)
            .filter(|(_, suffix)| suffix.role == Role::Voxels)
            .and_then(|_| pair_partner(name));
        self.folder(path.parent().unwrap_or(Path::new("")))
            .join(header.as_deref().unwrap_or(name))
    }

    fn folder(&mut self, folder: &Path) -> PathBuf {
        if let Some(real) = self.real.get(folder) {
            return real.clone();
        }
        let real = match (folder.parent(), folder.file_name()) {
            (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
                let path = self.folder(parent).join(name);
                if path.is_symlink() {
                    resolve(&path)
                } else {
                    path
                }
            }
            _ if folder.as_os_str().is_empty() => resolve(Path::new(".")),
            _ => resolve(folder),
        };
        self.real.insert(folder.to_owned(), real.clone());
        real
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap();
        }
    }

    fn request(inputs: &[PathBuf], output: &Path) -> ListRequest {
        ListRequest {
            inputs: inputs.to_vec(),
            output: output.to_owned(),
            ..ListRequest::default()
        }
    }

    fn outputs(entries: &[ImageEntry], folder: &Path) -> Vec<String> {
        entries
            .iter()
            .map(|entry| {
                entry
                    .output
                    .strip_prefix(folder)
                    .unwrap()
                    .display()
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn a_folder_is_mirrored_in_natural_order() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        touch(
            &data,
            &[
                "sample_10.nii.gz",
                "sample_2.nii.gz",
                "sub/a.nii",
                "notes.txt",
                ".hidden.nii",
                ".git/x.nii",
            ],
        );
        let out = dir.path().join("out");
        let entries = collect(&request(&[data], &out)).unwrap();
        assert_eq!(
            outputs(&entries, &out),
            ["sample_2.nii.gz", "sample_10.nii.gz", "sub/a.nii"]
        );
        assert_eq!(
            entries.iter().map(|entry| entry.index).collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }

    #[test]
    fn a_pair_is_one_image() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        touch(&data, &["a.hdr", "a.img", "b.hdr.gz", "b.img.gz", "c.img"]);
        let out = dir.path().join("out");
        let entries = collect(&request(&[data], &out)).unwrap();
        assert_eq!(outputs(&entries, &out), ["a.hdr", "b.hdr.gz", "c.img"]);
    }

    #[test]
    fn names_are_filled_from_the_template() {
        let fill = |text: &str| {
            NameTemplate::from_str(text)
                .unwrap()
                .fill(Path::new("sub-1/T1.nii.gz"), 7)
                .display()
                .to_string()
        };
        assert_eq!(fill("denoised_{index}.nii.gz"), "denoised_7.nii.gz");
        assert_eq!(fill("{dir}/{stem}_smooth"), "sub-1/T1_smooth.nii.gz");
        assert_eq!(fill("{stem}.nii"), "T1.nii");
        let flat = NameTemplate::from_str("{dir}/{stem}").unwrap();
        assert_eq!(flat.fill(Path::new("a.nii"), 1), Path::new("a.nii"));
        assert!(NameTemplate::from_str("same.nii").is_err());
        assert!(NameTemplate::from_str("{nme}.nii").is_err());
        assert!(NameTemplate::from_str("{stem}/").is_err());
    }

    #[test]
    fn what_would_lose_an_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, out) = (
            dir.path().join("a"),
            dir.path().join("b"),
            dir.path().join("out"),
        );
        touch(&a, &["x.nii"]);
        touch(&b, &["x.nii"]);
        assert!(matches!(
            collect(&request(&[a.clone(), b.clone()], &out)),
            Err(ListError::Collision { .. })
        ));
        assert!(matches!(
            collect(&request(&[a.join("x.nii"), a.join("x.nii")], &out)),
            Err(ListError::ListedTwice { .. })
        ));
        assert!(matches!(
            collect(&request(std::slice::from_ref(&a), &a.join("out"))),
            Err(ListError::OutputInsideInput { .. })
        ));
        assert!(matches!(
            collect(&request(std::slice::from_ref(&a), &a)),
            Err(ListError::OutputInsideInput { .. })
        ));
        assert!(matches!(
            collect(&request(&[a.join("x.nii")], &a)),
            Err(ListError::InputOverwritten { .. })
        ));
        assert!(matches!(
            collect(&request(&[], &out)),
            Err(ListError::NoInput)
        ));
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert!(matches!(
            collect(&request(&[empty], &out)),
            Err(ListError::Empty { .. })
        ));
        assert!(matches!(
            collect(&request(&[dir.path().join("none")], &out)),
            Err(ListError::NoSuchInput { .. })
        ));
        assert!(!out.exists());
    }

    #[test]
    fn a_list_keeps_the_paths_below_the_common_folder() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list.txt");
        std::fs::write(
            &list,
            "/study/sub-1/T1.nii.gz\n\n/study/sub-2/T1.nii.gz\r\n",
        )
        .unwrap();
        let out = dir.path().join("out");
        let request = ListRequest {
            list_file: Some(list),
            ..request(&[], &out)
        };
        let entries = collect(&request).unwrap();
        assert_eq!(
            outputs(&entries, &out),
            ["sub-1/T1.nii.gz", "sub-2/T1.nii.gz"]
        );
    }

    #[test]
    fn an_input_is_never_overwritten_however_its_path_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        touch(&data, &["a.nii", "sub/b.nii", "p.hdr", "p.img"]);
        std::os::unix::fs::symlink(&data, dir.path().join("link")).unwrap();
        let dots = dir.path().join("data/sub/..");
        let link = dir.path().join("link");
        for folder in [&data, &dots, &link] {
            for name in ["a.nii", "p.img"] {
                let request = request(&[folder.join(name)], &data);
                assert!(
                    matches!(collect(&request), Err(ListError::InputOverwritten { .. })),
                    "{}",
                    folder.join(name).display()
                );
            }
        }
        // From here, as in `cd data; niimpi smooth a.nii --output .`
        let here = |input: &str, output: &str| ImageEntry {
            index: 1,
            input: input.into(),
            output: output.into(),
        };
        assert!(refuse_collisions(&[here("a.nii", "./a.nii")]).is_err());
        assert!(refuse_collisions(&[here("a.nii", "out/a.nii")]).is_ok());
        let absolute = std::path::absolute("a.nii").unwrap();
        let absolute = absolute.to_str().unwrap();
        assert!(refuse_collisions(&[here(absolute, "a.nii")]).is_err());
    }

    #[test]
    fn the_halves_of_two_pairs_do_not_take_one_name() {
        let entry = |index, input: &str, output: &str| ImageEntry {
            index,
            input: input.into(),
            output: output.into(),
        };
        let two = [
            entry(1, "one/a.hdr", "out/a.hdr"),
            entry(2, "two/a.img", "out/a.img"),
        ];
        assert!(matches!(
            refuse_collisions(&two),
            Err(ListError::Collision { .. })
        ));
    }

    #[test]
    fn links_in_a_circle_end_and_links_to_nowhere_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        touch(&data, &["a.nii"]);
        std::os::unix::fs::symlink(&data, data.join("again")).unwrap();
        std::os::unix::fs::symlink("nowhere.nii", data.join("b.nii")).unwrap();
        let out = dir.path().join("out");
        let entries = collect(&request(&[data], &out)).unwrap();
        assert_eq!(outputs(&entries, &out), ["a.nii", "b.nii"]);
    }

    #[test]
    fn names_that_are_not_utf8_survive_the_wire() {
        let name = OsString::from_vec(b"/data/\xff\xfe.nii".to_vec());
        let entry = ImageEntry {
            index: 1,
            input: name.clone().into(),
            output: name.into(),
        };
        assert_eq!(
            crate::comm::decode::<ImageEntry>(&crate::comm::encode(&entry)),
            entry
        );
    }

    #[test]
    fn an_output_that_climbs_out_of_a_missing_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        touch(&data, &["a.nii"]);
        let climbing = dir.path().join("missing/../data");
        assert!(matches!(
            collect(&request(std::slice::from_ref(&data), &climbing)),
            Err(ListError::OutputClimbs { missing, .. }) if missing == dir.path().join("missing")
        ));
        let there = dir.path().join("data/../out");
        assert_eq!(collect(&request(&[data], &there)).unwrap().len(), 1);
    }

    #[test]
    fn the_halves_of_two_pairs_are_two_inputs_for_one_output() {
        let dir = tempfile::tempdir().unwrap();
        touch(dir.path(), &["1/a.hdr", "1/a.img", "2/a.hdr", "2/a.img"]);
        let halves = [dir.path().join("1/a.hdr"), dir.path().join("2/a.img")];
        assert!(matches!(
            collect(&request(&halves, &dir.path().join("out"))),
            Err(ListError::Collision { .. })
        ));
    }

    #[test]
    fn an_image_or_an_endless_line_is_no_list() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("list");
        let listed = || {
            collect(&ListRequest {
                list_file: Some(list.clone()),
                ..request(&[], &dir.path().join("out"))
            })
        };
        for bytes in [vec![b'a'; 1 << 17], b"\x5c\x01\0\0.nii".to_vec()] {
            std::fs::write(&list, bytes).unwrap();
            assert!(matches!(listed(), Err(ListError::NoList { .. })));
        }
        std::fs::write(&list, b"a.nii\r\n\nb.nii").unwrap();
        assert_eq!(listed().unwrap().len(), 2);
        std::fs::write(&list, b"\xef\xbb\xbfa.nii\r\nb.nii\r\n").unwrap();
        let inputs: Vec<PathBuf> = listed().unwrap().into_iter().map(|e| e.input).collect();
        assert_eq!(inputs, ["a.nii", "b.nii"].map(PathBuf::from));
    }
}
