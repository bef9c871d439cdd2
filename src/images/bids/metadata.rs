//! What describes a result: its sidecar files, and the file that describes the dataset of all results.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::dataset::{DESCRIPTION, leaves};
use super::name::BidsName;
use crate::atomic_file::{Expected, Folder, Folders, PartFile};
use crate::image_io::file_name::split;
use crate::images::{absolute, resolve};
use crate::text::printable;

/// The name of the source dataset in BIDS URIs.
const SOURCE: &str = "source";

/// Spaces whose meaning the specification defines (BIDS 1.11, standard template identifiers). For any other
/// space it requires `SpatialReference`.
const STANDARD_SPACES: [&str; 22] = [
    "ICBM452AirSpace",
    "ICBM452Warp5Space",
    "IXI549Space",
    "MNI152Lin",
    "MNI152NLin2009aAsym",
    "MNI152NLin2009aSym",
    "MNI152NLin2009bAsym",
    "MNI152NLin2009bSym",
    "MNI152NLin2009cAsym",
    "MNI152NLin2009cSym",
    "MNI152NLin6Asym",
    "MNI152NLin6Sym",
    "MNI305",
    "MNIColin27",
    "NIHPD",
    "OASIS30AntsOASISAnts",
    "OASIS30Atropos",
    "Talairach",
    "UNCInfant",
    "fsLR",
    "fsaverage",
    "fsaverageSym",
];

/// The key of the version of niimpi.
const VERSION: &str = "NiimpiVersion";

/// What a second result is.
const NOISE: &str = "The noise that was removed from the image: the image minus the denoised image.";

/// The suffixes of a result's sidecar files: metadata, and of diffusion images b-values and directions.
const SIDECARS: [&str; 3] = [".json", ".bval", ".bvec"];

/// The paths that the sidecar files of a result can have.
pub(in crate::images) fn sidecars_of(result: &Path) -> [Option<PathBuf>; 3] {
    let name = result.file_name().unwrap_or_default();
    let stem = split(name).map_or(name, |(stem, _)| stem);
    let is_diffusion = stem.as_bytes().ends_with(b"_dwi");
    SIDECARS.map(|suffix| {
        let mut name = stem.to_owned();
        name.push(suffix);
        (suffix == SIDECARS[0] || is_diffusion).then(|| result.with_file_name(name))
    })
}

/// The dataset that results are made from, and what is to be recorded about them.
#[derive(Debug)]
pub(crate) struct Metadata {
    root: PathBuf,
    /// The root without links.
    real_root: PathBuf,
    /// Whether metadata are read through links that lead outside the dataset.
    follow_links: bool,
    /// The description of the dataset.
    description: Value,
    /// The options of the results.
    options: Value,
    /// The names of the files in the root, read once.
    top: OnceLock<Vec<PathBuf>>,
}

/// Why metadata cannot be used.
#[derive(Debug)]
pub(crate) struct MetadataError {
    pub(crate) text: String,
    /// The error of the file system, if it is one.
    pub(crate) source: Option<io::Error>,
}

impl Metadata {
    /// Of a dataset, for results with these options.
    pub(crate) fn new(root: &Path, options: Value) -> Self {
        let text = read(&root.join(DESCRIPTION)).unwrap_or_default();
        Self {
            root: root.to_owned(),
            real_root: resolve(root),
            follow_links: false,
            description: serde_json::from_slice(&text).unwrap_or_default(),
            options,
            top: OnceLock::new(),
        }
    }

    /// The same, which also reads through links that lead outside the dataset if `follow_links` is set.
    pub(crate) fn following_links(self, follow_links: bool) -> Self {
        Self { follow_links, ..self }
    }

    /// The contents of the sidecar files of an image's result and of its second result, by path. Metadata of
    /// the image is inherited: files in deeper folders, and those with more entities, override others.
    /// b-values and directions are copied.
    ///
    /// # Errors
    /// A message about a file that cannot be read, is not JSON, or lies outside the dataset behind a link.
    pub(crate) fn sidecars(
        &self,
        input: &Path,
        result: &Path,
        second: Option<&Path>,
    ) -> Result<Vec<(PathBuf, Vec<u8>)>, MetadataError> {
        let [mut of_result, mut of_second] = [Vec::new(), Vec::new()];
        let paths = second.map_or([None, None, None], sidecars_of);
        for ((suffix, path), second) in SIDECARS.iter().zip(sidecars_of(result)).zip(paths) {
            let Some(path) = path else { continue };
            let sources = self.applicable(input, suffix)?;
            if *suffix == SIDECARS[0] {
                let mut metadata = self.json(input, &sources)?;
                of_result.push((path, text(&Value::from(metadata.clone()))));
                metadata.insert("Description".to_owned(), NOISE.into());
                of_second.extend(second.map(|second| (second, text(&metadata.into()))));
            } else if let Some(source) = sources.last() {
                let content = read(source)?;
                of_second.extend(second.map(|second| (second, content.clone())));
                of_result.push((path, content));
            }
        }
        of_result.extend(of_second);
        Ok(of_result)
    }

    /// Whether the sidecar files of a result are those that would be written now, by any version of niimpi.
    /// `written` are the files that were written with it. Metadata that cannot be read now are no difference.
    pub(crate) fn are_unchanged(
        &self,
        input: &Path,
        result: &Path,
        second: Option<&Path>,
        written: &[PathBuf],
    ) -> bool {
        let Ok(now) = self.sidecars(input, result, second) else {
            return true;
        };
        let is_sidecar = |path: &Path| {
            let name = path.as_os_str().as_bytes();
            SIDECARS.iter().any(|suffix| name.ends_with(suffix.as_bytes()))
        };
        let then = written.iter().filter(|path| is_sidecar(path)).count();
        let is_same = |path: &Path, now: &[u8]| {
            std::fs::read(path).is_ok_and(|then| then == now || same_metadata(&then, now))
        };
        now.len() == then && now.iter().all(|(path, content)| is_same(path, content))
    }

    /// The metadata of a result, from those of its image.
    fn json(&self, input: &Path, sources: &[PathBuf]) -> Result<Map<String, Value>, MetadataError> {
        let mut metadata = Map::new();
        for source in sources {
            let found: Map<String, Value> =
                serde_json::from_slice(&read(source)?).map_err(|error| MetadataError {
                    text: format!(
                        "{}: metadata that is not JSON: {error}; correct the file",
                        source.display()
                    ),
                    source: None,
                })?;
            metadata.extend(found);
        }
        let place = input.strip_prefix(&self.root).unwrap_or(input);
        let uri = format!("bids:{SOURCE}:{}", encoded(place));
        let stem = input
            .file_name()
            .and_then(split)
            .map_or(OsStr::new(""), |(stem, _)| stem);
        let stem = stem.to_string_lossy();
        let space = BidsName::parse(&stem).ok().and_then(|name| name.get("space"));
        if space.is_some_and(|space| !STANDARD_SPACES.contains(&space)) {
            metadata
                .entry("SpatialReference")
                .or_insert_with(|| uri.clone().into());
        }
        if self.description["DatasetType"] != "derivative" {
            metadata.entry("SkullStripped").or_insert(false.into());
        }
        metadata.insert("Sources".to_owned(), json!([uri]));
        metadata.insert(VERSION.to_owned(), env!("CARGO_PKG_VERSION").into());
        metadata.insert("NiimpiOptions".to_owned(), self.options.clone());
        Ok(metadata)
    }

    /// The files of an image with this suffix that the inheritance principle gives it, the closest last.
    fn applicable(&self, input: &Path, suffix: &str) -> Result<Vec<PathBuf>, MetadataError> {
        let stem = input
            .file_name()
            .and_then(split)
            .map_or(OsStr::new(""), |(stem, _)| stem);
        let stem = stem.to_string_lossy();
        let Ok(image) = BidsName::parse(&stem) else {
            return Ok(Vec::new());
        };
        let folders = input
            .ancestors()
            .skip(1)
            .take_while(|folder| folder.starts_with(&self.root));
        let mut folders: Vec<&Path> = folders.collect();
        folders.reverse();
        let mut all = Vec::new();
        for folder in folders {
            let listed;
            let files = match folder == self.root {
                true => self.top()?,
                false => {
                    listed = files_in(folder)?;
                    listed.as_slice()
                }
            };
            let mut found: Vec<(usize, &PathBuf)> = Vec::new();
            for file in files {
                let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
                let Some(stem) = name.strip_suffix(suffix) else {
                    continue;
                };
                let entities = match BidsName::parse(stem) {
                    Ok(name) => name.applies_to(&image),
                    Err(_) => (stem == image.suffix()).then_some(0),
                };
                if let Some(entities) = entities {
                    self.refuse_outside(file)?;
                    found.push((entities, file));
                }
            }
            found.sort();
            all.extend(found.into_iter().map(|(_, file)| file.clone()));
        }
        Ok(all)
    }

    /// The paths in the root. An error is not kept, because it can be temporary.
    fn top(&self) -> Result<&[PathBuf], MetadataError> {
        if let Some(top) = self.top.get() {
            return Ok(top);
        }
        let top = files_in(&self.root)?;
        Ok(self.top.get_or_init(|| top))
    }

    fn refuse_outside(&self, file: &Path) -> Result<(), MetadataError> {
        if self.follow_links || !file.is_symlink() || !leaves(&self.real_root, file) {
            return Ok(());
        }
        Err(MetadataError {
            text: format!(
                "{}: metadata behind a link that leads outside the dataset; use --follow-links, or replace \
                 the link by the file",
                file.display()
            ),
            source: None,
        })
    }

    /// Describes the dataset of the results in their folder, unless a file does already. `command` is the
    /// command line. Logs if another program's file is there.
    ///
    /// # Errors
    /// The error of the file system.
    pub(crate) fn describe_results(&self, output: &Path, command: &[String]) -> io::Result<()> {
        let path = output.join(DESCRIPTION);
        let mut file = PartFile::create(&Folder::open(output, Folders::Made)?)?;
        let described = self.description_of_results(command);
        io::Write::write_all(file.file(), &text(&described))?;
        match file.publish(OsStr::new(DESCRIPTION), Expected::Nothing) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            published => return published,
        }
        let there: Value = serde_json::from_slice(&std::fs::read(&path)?).unwrap_or_default();
        if there["DatasetLinks"][SOURCE] != described["DatasetLinks"][SOURCE] {
            tracing::warn!(
                "{}: kept; its DatasetLinks do not lead to this dataset, which {SOURCE} means in Sources of \
                 the results",
                printable(&path.display().to_string())
            );
        }
        Ok(())
    }

    fn description_of_results(&self, command: &[String]) -> Value {
        let url = format!("file://{}", encoded(&absolute(&self.root)));
        let mut source = json!({ "URL": url });
        if let Value::String(doi) = &self.description["DatasetDOI"] {
            source["DOI"] = doi.as_str().into();
        }
        let mut program = json!({
            "Name": "niimpi",
            "Version": env!("CARGO_PKG_VERSION"),
            "Command": command.join(" "),
        });
        let container = ["APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"].map(std::env::var);
        if let Some(Ok(image)) = container.into_iter().find(Result::is_ok) {
            let image = format!("file://{}", encoded(Path::new(&image)));
            program["Container"] = json!({ "Type": "apptainer", "URI": image });
        }
        let name = self.description["Name"]
            .as_str()
            .unwrap_or("a dataset without a name");
        json!({
            "Name": format!("{name}, filtered by niimpi"),
            "BIDSVersion": "1.11.1",
            "DatasetType": "derivative",
            "GeneratedBy": [program],
            "SourceDatasets": [source],
            "DatasetLinks": { SOURCE: url },
        })
    }
}

/// Whether two JSON texts have the same values, apart from the version of niimpi.
fn same_metadata(one: &[u8], other: &[u8]) -> bool {
    let values = |text: &[u8]| {
        let mut values: Map<String, Value> = serde_json::from_slice(text).ok()?;
        values.remove(VERSION);
        Some(values)
    };
    let one = values(one);
    one.is_some() && one == values(other)
}

fn read(path: &Path) -> Result<Vec<u8>, MetadataError> {
    // Opening a pipe would wait for its writer.
    let content = match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err(io::Error::other("it is not a file")),
        _ => std::fs::read(path),
    };
    content.map_err(|error| {
        let advice = match path.is_symlink() && !path.exists() {
            true => "; if it is annexed, fetch it with `datalad get`",
            false => "",
        };
        let path = path.display();
        MetadataError {
            text: format!("{path}: metadata that cannot be read: {error}{advice}"),
            source: Some(error),
        }
    })
}

/// The paths in a folder.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, MetadataError> {
    let list = || -> io::Result<_> { std::fs::read_dir(folder)?.map(|item| Ok(item?.path())).collect() };
    list().map_err(|error| MetadataError {
        text: format!("{}: the folder cannot be read: {error}", folder.display()),
        source: Some(error),
    })
}

fn text(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The path as part of a URI.
fn encoded(path: &Path) -> String {
    let mut uri = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' | b'+' => uri.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(byte)),
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = root.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    fn json_of(root: &Path, image: &str) -> Value {
        let metadata = Metadata::new(root, json!({ "fwhm": 6 }));
        let files = metadata.sidecars(
            &root.join(image),
            Path::new("out/sub-1_desc-sm6_bold.nii.gz"),
            None,
        );
        let files = files.unwrap();
        assert_eq!(files[0].0, Path::new("out/sub-1_desc-sm6_bold.json"));
        serde_json::from_slice(&files[0].1).unwrap()
    }

    #[test]
    fn metadata_is_inherited_from_the_root_to_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(
            root,
            &[
                (
                    "dataset_description.json",
                    r#"{"Name": "n", "DatasetType": "raw"}"#,
                ),
                ("bold.json", r#"{"A": 0, "B": 0, "C": 0, "D": 0, "Top": 1}"#),
                ("task-rest_bold.json", r#"{"A": 1, "B": 1, "C": 1}"#),
                ("task-other_bold.json", r#"{"Wrong": 1}"#),
                ("sub-1/sub-1_bold.json", r#"{"B": 2, "C": 2}"#),
                ("sub-1/sub-1_T1w.json", r#"{"Wrong": 1}"#),
                ("sub-1/func/sub-1_task-rest_run-2_bold.json", r#"{"Wrong": 1}"#),
                (
                    "sub-1/func/sub-1_task-rest_run-1_bold.json",
                    r#"{"C": 3, "Sources": ["x"]}"#,
                ),
            ],
        );
        let found = json_of(root, "sub-1/func/sub-1_task-rest_run-1_bold.nii.gz");
        let expected = json!({
            "A": 1, "B": 2, "C": 3, "D": 0, "Top": 1, "SkullStripped": false,
            "Sources": ["bids:source:sub-1/func/sub-1_task-rest_run-1_bold.nii.gz"],
            "NiimpiVersion": env!("CARGO_PKG_VERSION"), "NiimpiOptions": {"fwhm": 6},
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn a_space_without_a_meaning_of_its_own_gets_a_reference() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(
            root,
            &[
                ("dataset_description.json", r#"{"DatasetType": "derivative"}"#),
                (
                    "sub-1/anat/sub-1_space-T1w_bold.json",
                    r#"{"SkullStripped": true}"#,
                ),
                (
                    "sub-1/anat/sub-1_space-own_bold.json",
                    r#"{"SpatialReference": "x"}"#,
                ),
            ],
        );
        let of = |space: &str| json_of(root, &format!("sub-1/anat/sub-1_space-{space}_bold.nii.gz"));
        let uri = "bids:source:sub-1/anat/sub-1_space-T1w_bold.nii.gz";
        assert_eq!(of("T1w")["SpatialReference"], uri);
        assert_eq!(of("T1w")["SkullStripped"], true);
        assert_eq!(of("own")["SpatialReference"], "x");
        let standard = of("MNI152NLin6Asym");
        assert_eq!(standard["SpatialReference"], Value::Null);
        assert_eq!(standard["SkullStripped"], Value::Null);
    }

    #[test]
    fn directions_of_diffusion_are_copied_and_bad_metadata_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(
            root,
            &[
                ("dwi.bval", "0 1000"),
                ("sub-1/dwi/sub-1_dwi.bvec", "0 1\n0 0\n0 0"),
                ("sub-2/dwi/sub-2_dwi.json", "{]"),
            ],
        );
        let metadata = Metadata::new(root, Value::Null);
        let of = |n: u32| {
            let input = root.join(format!("sub-{n}/dwi/sub-{n}_dwi.nii.gz"));
            let second = Some(Path::new("o/sub-1_desc-noise_dwi.nii.gz"));
            metadata.sidecars(&input, Path::new("o/sub-1_desc-x_dwi.nii.gz"), second)
        };
        let files = of(1).unwrap();
        let names: Vec<&str> = files.iter().filter_map(|(path, _)| path.to_str()).collect();
        let stems = ["o/sub-1_desc-x_dwi", "o/sub-1_desc-noise_dwi"];
        let all = stems.map(|stem| [".json", ".bval", ".bvec"].map(|suffix| format!("{stem}{suffix}")));
        assert_eq!(names, all.concat());
        let [own, noise] = [0, 3].map(|at| serde_json::from_slice::<Value>(&files[at].1).unwrap());
        assert!(own["Description"].is_null() && noise["Description"] == NOISE);
        assert_eq!(own["Sources"], noise["Sources"]);
        assert_eq!(
            (&files[1].1[..], &files[2].1[..]),
            (&b"0 1000"[..], &b"0 1\n0 0\n0 0"[..])
        );
        let error = of(2).unwrap_err().text;
        assert!(
            error.contains("sub-2_dwi.json: metadata that is not JSON"),
            "{error}"
        );
        let of_bold = sidecars_of(Path::new("o/sub-1_bold.nii"));
        assert_eq!(of_bold, [Some("o/sub-1_bold.json".into()), None, None]);
    }

    #[test]
    fn an_error_of_the_root_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("later");
        let metadata = Metadata::new(&root, Value::Null);
        let find = || metadata.sidecars(&root.join("sub-1_bold.nii"), Path::new("o/sub-1_bold.nii"), None);
        let error = find().unwrap_err();
        assert_eq!(error.source.unwrap().kind(), io::ErrorKind::NotFound);
        write(&root, &[("bold.json", r#"{"A": 1}"#)]);
        let found: Value = serde_json::from_slice(&find().unwrap()[0].1).unwrap();
        assert_eq!(found["A"], 1);
    }

    #[test]
    fn metadata_outside_the_dataset_are_not_read_unless_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("study");
        write(
            &root,
            &[(".git/annex/a", "{\"Inside\": 1}"), ("../b", "{\"Outside\": 1}")],
        );
        let func = root.join("sub-1/func");
        std::fs::create_dir_all(&func).unwrap();
        let link = func.join("sub-1_bold.json");
        std::os::unix::fs::symlink("../../.git/annex/a", &link).unwrap();
        let image = "sub-1/func/sub-1_bold.nii.gz";
        assert_eq!(json_of(&root, image)["Inside"], 1);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink("../../../b", &link).unwrap();
        let of = |follow_links| {
            let metadata = Metadata::new(&root, Value::Null).following_links(follow_links);
            metadata.sidecars(&root.join(image), Path::new("o/sub-1_bold.nii.gz"), None)
        };
        let error = of(false).unwrap_err().text;
        assert!(
            error.contains("sub-1_bold.json") && error.contains("--follow-links"),
            "{error}"
        );
        let found = of(true).unwrap();
        assert_eq!(
            serde_json::from_slice::<Value>(&found[0].1).unwrap()["Outside"],
            1
        );
    }

    #[test]
    fn results_are_described_once() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a b");
        write(
            &root,
            &[(
                "dataset_description.json",
                r#"{"Name": "Study", "DatasetDOI": "doi:10.1/x"}"#,
            )],
        );
        let metadata = Metadata::new(&root, Value::Null);
        let out = root.join("derivatives/niimpi");
        for command in ["first", "second"] {
            metadata.describe_results(&out, &[command.to_owned()]).unwrap();
            let text = std::fs::read(out.join(DESCRIPTION)).unwrap();
            let found: Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(found["GeneratedBy"][0]["Command"], "first");
            assert_eq!(found["SourceDatasets"][0]["DOI"], "doi:10.1/x");
            let url = found["DatasetLinks"]["source"].as_str().unwrap();
            assert!(url.starts_with("file:///") && url.ends_with("/a%20b"), "{url}");
        }
        assert_eq!(
            std::fs::read_dir(&out).unwrap().count(),
            1,
            "no unfinished file is left"
        );
    }
}
