//! The images of a dataset that are selected by their names, and the names of their results.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::BidsRequest;
use super::name::{BidsName, NotBids};
use crate::image_io::file_name::split;
use crate::images::found::Found;
use crate::text::{counted, printable};

/// Suffixes of images whose values are labels. They are left out unless `--suffix` is given.
const LABEL_IMAGES: [&str; 3] = ["mask", "dseg", "defacemask"];

/// The most labels that a message lists.
const MOST_SHOWN: usize = 10;

/// The `desc` label of results of images without one, or with `desc-preproc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desc {
    /// The user's label, which replaces any other.
    Given(String),
    /// The label of the filter; `None` if its options have no short name.
    OfFilter(Option<String>),
}

/// An option that selects images, and its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    option: &'static str,
    /// The key of an entity, `suffix` or `datatype`.
    pub(super) key: &'static str,
    labels: Vec<String>,
}

impl Labels {
    /// The labels of `--option`, with or without their key: `sub-01` is `01`.
    pub fn new(option: &'static str, key: &'static str, labels: &[String]) -> Self {
        let bare = |text: &String| {
            let label = text.strip_prefix(key).and_then(|rest| rest.strip_prefix('-'));
            label.unwrap_or(text).to_owned()
        };
        let labels = labels.iter().map(bare).collect();
        Self { option, key, labels }
    }

    /// Whether an image with this label is selected.
    pub(super) fn take(&self, label: &str) -> bool {
        self.labels
            .iter()
            .any(|own| BidsName::same_label(self.key, own, label))
    }

    /// Refuses a label that selects no image. `images`: their labels, and whether they are selected.
    fn refuse_unused(&self, images: &[(Option<&str>, bool)]) -> Result<(), String> {
        for label in &self.labels {
            let has_it =
                |found: Option<&str>| found.is_some_and(|found| BidsName::same_label(self.key, label, found));
            let mut of_label = images.iter().filter(|(found, _)| has_it(*found)).peekable();
            let exists = of_label.peek().is_some();
            if of_label.any(|(_, selected)| *selected) {
                continue;
            }
            let reason = match exists {
                true => "the other options select none of its images".to_owned(),
                false => {
                    let there: BTreeSet<&str> = images.iter().filter_map(|(found, _)| *found).collect();
                    let shown: Vec<&str> = there.iter().copied().take(MOST_SHOWN).collect();
                    let shown = match (shown.len(), there.len()) {
                        (0, _) => String::new(),
                        (MOST_SHOWN, all) if all > MOST_SHOWN => {
                            format!("; there are {} and {} more", shown.join(", "), all - MOST_SHOWN)
                        }
                        _ => format!("; there are {}", shown.join(", ")),
                    };
                    format!("no image has this label{shown}")
                }
            };
            return Err(format!("--{} {label}: {reason}", self.option));
        }
        Ok(())
    }
}

/// The name of an image and the folders it is in.
struct Parsed<'a> {
    name: BidsName<'a>,
    datatype: &'a str,
}

impl<'a> Parsed<'a> {
    /// Parses a path below the root of the dataset.
    ///
    /// # Errors
    /// The reason. `Err(NotBids::Twice)` and other contradictions are errors for the user.
    fn of(place: &'a Path) -> Result<Self, Fault> {
        let stem = stem_and_suffix(place)
            .0
            .to_str()
            .ok_or(Fault::Other("the name is not UTF-8".to_owned()))?;
        let folders: Vec<&str> = place.iter().filter_map(|part| part.to_str()).collect();
        let (subject, session, datatype) = match folders[..] {
            [subject, datatype, _] => (subject, None, datatype),
            [subject, session, datatype, _] => (subject, Some(session), datatype),
            _ => {
                return Err(Fault::Other(
                    "it is not in sub-LABEL/[ses-LABEL/]DATATYPE/".to_owned(),
                ));
            }
        };
        let name = BidsName::parse(stem).map_err(|reason| match reason {
            NotBids::Twice(_) => Fault::Ambiguous(reason.to_string()),
            _ => Fault::Other(reason.to_string()),
        })?;
        for (key, folder) in [("sub", Some(subject)), ("ses", session)] {
            let named = name.get(key).map(|label| format!("{key}-{label}"));
            if named.as_deref() != folder {
                let shown = |text: Option<&str>| text.map_or(format!("no {key}-"), str::to_owned);
                let (named, folder) = (shown(named.as_deref()), shown(folder));
                return Err(Fault::Ambiguous(format!(
                    "the name has {named}, the folders have {folder}"
                )));
            }
        }
        Ok(Self { name, datatype })
    }

    /// The label that an option selects by.
    fn label(&self, key: &str) -> Option<&'a str> {
        match key {
            "suffix" => Some(self.name.suffix()),
            "datatype" => Some(self.datatype),
            key => self.name.get(key),
        }
    }
}

/// Why an image cannot be processed as part of a dataset.
enum Fault {
    /// Its name contradicts itself or its folders. This stops the run.
    Ambiguous(String),
    /// It is not an image of the dataset. It is left out.
    Other(String),
}

impl BidsRequest {
    /// Keeps the selected images. Logs how many images without BIDS names are left out.
    ///
    /// # Errors
    /// A message about an ambiguous name, a label that no image has, or two images with one name.
    pub(in crate::images) fn choose(&self, found: &mut Vec<Found>) -> Result<(), String> {
        let mut others: Vec<(&Path, String)> = Vec::new();
        let mut parsed: Vec<Option<Parsed<'_>>> = Vec::with_capacity(found.len());
        for image in found.iter() {
            parsed.push(match Parsed::of(&image.place) {
                Ok(parsed) => Some(parsed),
                Err(Fault::Other(reason)) => {
                    others.push((&image.input, reason));
                    None
                }
                Err(Fault::Ambiguous(reason)) => {
                    return Err(format!(
                        "{}: ambiguous: {reason}; rename it, or leave it out with --exclude",
                        image.input.display()
                    ));
                }
            });
        }
        if let Some((first, reason)) = others.first() {
            tracing::warn!(
                "left out {} without a BIDS name, the first is {}: {reason} (without --bids any name can be \
                 processed)",
                counted(others.len(), "image"),
                printable(&first.display().to_string())
            );
        }
        let takes = |image: &Parsed<'_>, labels: &Labels| {
            image.label(labels.key).is_some_and(|label| labels.take(label))
        };
        let by_suffix = self.labels.iter().any(|labels| labels.key == "suffix");
        let mut label_images = 0;
        let selected: Vec<bool> = parsed
            .iter()
            .map(|image| {
                let Some(image) = image else { return false };
                let selected = self.labels.iter().all(|labels| takes(image, labels));
                let is_left_out = selected && !by_suffix && LABEL_IMAGES.contains(&image.name.suffix());
                label_images += usize::from(is_left_out);
                selected && !is_left_out
            })
            .collect();
        if label_images > 0 {
            tracing::info!(
                "left out {} of labels ({}); --suffix selects them",
                counted(label_images, "image"),
                LABEL_IMAGES.join(", ")
            );
        }
        let images = || {
            parsed
                .iter()
                .zip(&selected)
                .filter_map(|(image, &taken)| Some((image.as_ref()?, taken)))
        };
        for labels in &self.labels {
            let labelled = images().map(|(image, taken)| (image.label(labels.key), taken));
            labels.refuse_unused(&labelled.collect::<Vec<_>>())?;
        }
        drop(others);
        drop(parsed);
        let mut selected = selected.into_iter();
        found.retain(|_| selected.next().unwrap_or(false));
        self.refuse_equal_names(found)
    }

    /// Refuses two images whose results would have the same name apart from the format, because they share
    /// their metadata.
    fn refuse_equal_names(&self, found: &[Found]) -> Result<(), String> {
        let mut by_name: HashMap<PathBuf, &Path> = HashMap::with_capacity(found.len());
        for image in found {
            let result = self.result(&image.place)?;
            let name = result.with_file_name(stem_and_suffix(&result).0);
            if let Some(first) = by_name.insert(name, &image.input) {
                return Err(format!(
                    "two inputs for one output: {} and {} would both be written to {}; select one of them, \
                     for example with --desc, --space or --exclude",
                    first.display(),
                    image.input.display(),
                    result.display()
                ));
            }
        }
        Ok(())
    }

    /// The path of a result below the output folder.
    ///
    /// # Errors
    /// A message if the image has a `desc` label that the filter's label must not replace.
    pub(in crate::images) fn result(&self, place: &Path) -> Result<PathBuf, String> {
        let stem = stem_and_suffix(place).0.to_string_lossy();
        let desc = BidsName::parse(&stem).ok().and_then(|name| name.get("desc"));
        match (&self.desc, desc) {
            (Desc::Given(label), _) | (Desc::OfFilter(Some(label)), None | Some("preproc")) => {
                Ok(described(place, label))
            }
            (Desc::OfFilter(Some(_)), Some(desc)) => Err(format!(
                "{}: its name already has desc-{desc}; give the results another label with --desc-out, or \
                 select other images with --desc",
                place.display()
            )),
            (Desc::OfFilter(None), _) => Err(
                "--bids: only results of one --fwhm have a name of their own, such as desc-sm6; give these a \
                 label with --desc-out"
                    .to_owned(),
            ),
        }
    }
}

/// The same path with another `desc` label.
pub(in crate::images) fn described(place: &Path, label: &str) -> PathBuf {
    let (stem, suffix) = stem_and_suffix(place);
    let stem = stem.to_string_lossy();
    match BidsName::parse(&stem) {
        Ok(name) => place.with_file_name(format!("{}{suffix}", name.with("desc", label))),
        Err(_) => place.to_owned(),
    }
}

fn stem_and_suffix(place: &Path) -> (&OsStr, &'static str) {
    let name = place.file_name().unwrap_or_default();
    split(name).map_or((name, ""), |(stem, suffix)| (stem, suffix.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(desc: Desc, labels: &[(&'static str, &'static str, &str)]) -> BidsRequest {
        let labels = labels.iter().map(|(option, key, labels)| {
            let labels: Vec<String> = labels.split(' ').map(str::to_owned).collect();
            Labels::new(option, key, &labels)
        });
        let labels = labels.collect();
        BidsRequest { labels, desc }
    }

    /// The results of images at these places below the root.
    fn results(request: &BidsRequest, places: &[&str]) -> Result<Vec<String>, String> {
        let image = |place: &&str| Found {
            input: place.into(),
            place: place.into(),
            line: None,
        };
        let mut found: Vec<Found> = places.iter().map(image).collect();
        request.choose(&mut found)?;
        let result = |image: &Found| {
            request
                .result(&image.place)
                .map(|path| path.display().to_string())
        };
        found.iter().map(result).collect()
    }

    const FILES: [&str; 6] = [
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_run-01_bold.nii.gz",
        "sub-01/ses-a/func/sub-01_ses-a_task-nback_bold.nii.gz",
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_space-T1w_desc-brain_mask.nii.gz",
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_space-T1w_desc-preproc_bold.nii",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/backup.nii.gz",
    ];

    fn sm6() -> Desc {
        Desc::OfFilter(Some("sm6".to_owned()))
    }

    #[test]
    fn images_are_selected_by_all_options() {
        let chosen = |labels: &[(&'static str, &'static str, &str)]| {
            let names = results(&request(sm6(), labels), &FILES).unwrap();
            let name = |path: &String| path.rsplit('/').next().unwrap().to_owned();
            names.iter().map(name).collect::<Vec<_>>()
        };
        let rest = "sub-01_ses-a_task-rest_run-01_desc-sm6_bold.nii.gz";
        let native = "sub-01_ses-a_task-rest_space-T1w_desc-sm6_bold.nii";
        assert_eq!(chosen(&[("run", "run", "1")]), [rest]);
        assert_eq!(chosen(&[("task", "task", "task-rest")]), [rest, native]);
        assert_eq!(chosen(&[("desc", "desc", "preproc")]), [native]);
        assert_eq!(
            chosen(&[("suffix", "suffix", "T1w")]),
            ["sub-02_desc-sm6_T1w.nii.gz"]
        );
        assert_eq!(
            chosen(&[("datatype", "datatype", "anat")]),
            ["sub-02_desc-sm6_T1w.nii.gz"]
        );
        let all = chosen(&[]);
        assert_eq!(all.len(), 4, "neither the mask nor the backup: {all:?}");
    }

    #[test]
    fn a_label_that_selects_nothing_is_refused() {
        let error = |labels: &[(&'static str, &'static str, &str)]| {
            results(&request(sm6(), labels), &FILES).unwrap_err()
        };
        assert_eq!(
            error(&[("task", "task", "rest resting")]),
            "--task resting: no image has this label; there are nback, rest"
        );
        assert_eq!(
            error(&[("task", "task", "nback"), ("space", "space", "T1w")]),
            "--task nback: the other options select none of its images"
        );
        assert_eq!(
            error(&[("session", "ses", "b")]),
            "--session b: no image has this label; there are a"
        );
        assert!(error(&[("task", "task", "a_b")]).starts_with("--task a_b: no image"));
    }

    #[test]
    fn ambiguous_names_are_refused() {
        for (place, reason) in [
            (
                "sub-01/anat/sub-02_T1w.nii",
                "the name has sub-02, the folders have sub-01",
            ),
            (
                "sub-01/anat/sub-01_ses-a_T1w.nii",
                "the name has ses-a, the folders have no ses-",
            ),
            (
                "sub-01/ses-a/anat/sub-01_T1w.nii",
                "the name has no ses-, the folders have ses-a",
            ),
            (
                "sub-01/anat/sub-01_run-1_run-2_T1w.nii",
                "the name has both run-1 and run-2",
            ),
        ] {
            let error = results(&request(sm6(), &[]), &[place]).unwrap_err();
            assert!(error.contains(reason), "{place}: {error}");
        }
    }

    #[test]
    fn two_images_of_one_name_are_refused() {
        for names in [
            ["sub-01_T1w.nii", "sub-01_T1w.nii.gz"],
            ["sub-01_bold.nii.gz", "sub-01_desc-preproc_bold.nii.gz"],
            [
                "sub-01_task-a_run-1_bold.nii.gz",
                "sub-01_run-1_task-a_bold.nii.gz",
            ],
        ] {
            let places = names.map(|name| format!("sub-01/func/{name}"));
            let places = [places[0].as_str(), places[1].as_str()];
            let error = results(&request(sm6(), &[]), &places).unwrap_err();
            assert!(error.starts_with("two inputs for one output: "), "{error}");
        }
    }

    #[test]
    fn a_described_image_needs_a_label_of_its_own() {
        let place = ["sub-01/anat/sub-01_desc-smoothed_T1w.nii.gz"];
        let error = results(&request(sm6(), &[]), &place).unwrap_err();
        assert!(error.contains("already has desc-smoothed"), "{error}");
        let given = request(Desc::Given("x6".to_owned()), &[]);
        assert_eq!(
            results(&given, &place).unwrap(),
            ["sub-01/anat/sub-01_desc-x6_T1w.nii.gz"]
        );
        let error = results(&request(Desc::OfFilter(None), &[]), &FILES).unwrap_err();
        assert!(error.contains("--desc-out"), "{error}");
    }
}
