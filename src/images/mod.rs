//! The list: inputs → an ordered list of images with their output names. Refuses inputs for which a result
//! would be lost.

pub mod bids;
mod collisions;
mod entry;
mod error;
mod found;
mod list_file;
mod mask_choice;
mod output_folder;
mod output_name;
mod place;
pub(crate) mod probe;
mod real_path;
mod replacing;
mod selection;
mod walk;

use std::path::{Path, PathBuf};

use bids::{BidsRequest, Dataset};
pub use entry::ImageEntry;
pub(crate) use entry::MOST_FILES;
pub(crate) use found::natural_order;
pub use mask_choice::{MaskChoice, MaskTemplate};
pub use output_name::NameTemplate;
pub(crate) use real_path::{absolute, resolve};
pub(crate) use replacing::refuse_replacing_inputs;
pub use selection::PathPattern;
pub(crate) use walk::images_below;

use crate::image_io::file_name::{is_image_name, pair_partner, split};
use collisions::refuse_collisions;
use found::{Found, push, sort_and_merge_pairs};
use output_folder::OutputFolder;
pub use output_folder::RECORDS;
use output_name::Template;
use place::Base;
use real_path::refuse_climbing;
use selection::Selection;
use walk::Walk;

/// The inputs and the outputs' names, as the user gave them.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Image files and folders of images.
    pub inputs: Vec<PathBuf>,
    /// A file with one path per line; `-` is standard input.
    pub list_file: Option<PathBuf>,
    /// The folder of the results.
    pub output: PathBuf,
    /// The template of the results' names; `None` keeps the names.
    pub name: Option<NameTemplate>,
    /// The template of the masks' paths, if each image has its own mask.
    pub mask: Option<MaskTemplate>,
    /// The template of the names of second results, if there are any.
    pub second: Option<String>,
    /// The folder of `--base`.
    pub base: Option<PathBuf>,
    /// Only images that match one of these are processed; all if empty.
    pub include: Vec<PathPattern>,
    /// Images and folders that match one of these are left out.
    pub exclude: Vec<PathPattern>,
    /// Whether links to folders outside the input are followed.
    pub follow_links: bool,
    /// The selection and the names of a BIDS dataset, if the input is one.
    pub bids: Option<BidsRequest>,
    /// How often the whole list is processed, for measurements; 0 means once. Each repeat has its own folder.
    pub repeat: usize,
}

/// The images of a request.
#[derive(Debug)]
pub(crate) struct ImageList {
    /// In natural order.
    pub(crate) entries: Vec<ImageEntry>,
    /// Folders that cannot be read. Their images are missing here, so the run must not end as if all images
    /// were done.
    pub(crate) unreadable_folders: usize,
}

/// Lists every image of the request in natural order (`sample_2` before `sample_10`), with the outputs'
/// names.
///
/// [`place`] defines the paths of results, [`walk`] which files of a folder are images.
///
/// # Errors
/// A message for the user; nothing is written.
pub(crate) fn collect(request: &ListRequest) -> Result<ImageList, String> {
    if request.inputs.is_empty() && request.list_file.is_none() {
        return Err("no input given; pass image files or folders, or a list with --list FILE".to_owned());
    }
    refuse_climbing(&request.output)?;
    let selection = Selection::new(&request.include, &request.exclude)?;
    let mut walk = Walk::new(&selection, request.follow_links);
    walk.output = Some(OutputFolder::new(&request.output));
    if let Some(bids) = &request.bids {
        walk.dataset = Some(Dataset::open(&request.inputs, &bids.labels)?);
    }
    let mut found = find(request, &mut walk)?;
    let unreadable_folders = walk.notes.unreadable;
    walk.notes.log();

    if found.is_empty() {
        if let Some(bids) = &request.bids {
            bids.choose(&mut found)?;
        }
        return Err(format!(
            "no image found in {}; looked for *.nii, *.nii.gz, *.hdr and *.img (hidden files are left out)",
            inputs_in_words(request)
        ));
    }
    sort_and_merge_pairs(&mut found)?;
    let of = found.len();
    select(&mut found, &selection);
    if found.is_empty() {
        return Err(format!("--include and --exclude leave none of {of} images"));
    }
    if let Some(bids) = &request.bids {
        bids.choose(&mut found)?;
        if found.is_empty() {
            return Err(format!("the options of --bids select none of {of} images"));
        }
    }
    let second = request
        .second
        .as_deref()
        .map(|text| SecondName::parse(text, request.bids.is_some()));
    let second = second.transpose()?;
    let entries = found
        .into_iter()
        .zip(1..)
        .map(|(image, index)| entry(image, index, request, second.as_ref()))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_collisions(&entries, || collision_advice(request))?;
    let entries = repeated(entries, request);
    Ok(ImageList {
        entries,
        unreadable_folders,
    })
}

/// The list, repeated as requested. The results of each repeat are in their own folder.
fn repeated(mut entries: Vec<ImageEntry>, request: &ListRequest) -> Vec<ImageEntry> {
    let count = entries.len();
    for repeat in 2..=request.repeat {
        let folder = request.output.join(format!("repeat-{repeat}"));
        for place in 0..count {
            let first = &entries[place];
            let below = first
                .output
                .strip_prefix(&request.output)
                .unwrap_or(&first.output);
            let output = folder.join(below);
            let name = first.second.as_deref().and_then(Path::file_name);
            entries.push(ImageEntry {
                index: entries.len() + 1,
                input: first.input.clone(),
                second: name.map(|name| output.with_file_name(name)),
                output,
                mask: first.mask.clone(),
                bids: first.bids,
            });
        }
    }
    entries
}

/// The images of all arguments and of the list, in any order.
fn find(request: &ListRequest, walk: &mut Walk<'_>) -> Result<Vec<Found>, String> {
    let base = request.base.as_deref().map(Base::new).transpose()?;
    let mut found = Vec::new();
    let mut placeless = Vec::new();
    let mut take = |found: &mut Vec<Found>, input: PathBuf, line| {
        match place::of_file(&input, base.as_ref())? {
            Some(place) => push(found, Found { input, place, line })?,
            None => placeless.push(input),
        }
        Ok(())
    };
    let mut folders = Vec::new();
    for input in &request.inputs {
        let is_image = input.file_name().is_some_and(is_image_name);
        match std::fs::metadata(input) {
            Ok(metadata) if metadata.is_dir() => {
                let place = match request.bids {
                    Some(_) => PathBuf::new(),
                    None => place::of_folder(input, base.as_ref())?,
                };
                walk.announce(input, &place);
                folders.push((input, place));
            }
            Ok(_) if is_image => take(&mut found, input.clone(), None)?,
            Ok(_) => return Err(error::no_image_name(input)),
            // A dangling link: its image fails when it is processed, as in a folder.
            Err(_) if is_image && input.is_symlink() => take(&mut found, input.clone(), None)?,
            Err(error) => return Err(error::no_access(input, &error)),
        }
    }
    for (folder, place) in folders {
        walk.search(folder, &place, &mut found)?;
    }
    if let Some(list) = &request.list_file {
        list_file::read_list(list, |path, line| take(&mut found, path, Some(line)))?;
    }
    if let Some(first) = placeless.first() {
        let others = match placeless.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} more)"),
        };
        return Err(format!(
            "{}: an absolute path, or one with .., does not determine the path of its result{others}; add \
             --base {}: results then keep their paths below that folder",
            first.display(),
            common_base(request, &placeless).display()
        ));
    }
    Ok(found)
}

/// The deepest folder that contains all inputs, including these files.
fn common_base(request: &ListRequest, files: &[PathBuf]) -> PathBuf {
    let arguments = request.inputs.iter().map(|input| match input.is_dir() {
        true => input.join("x"),
        false => input.clone(),
    });
    let all: Vec<PathBuf> = arguments.chain(files.iter().cloned()).collect();
    place::common_folder(all.iter().map(PathBuf::as_path))
}

fn collision_advice(request: &ListRequest) -> String {
    let rename = "use distinct names with --name, for example --name '{dir}/{stem}_{index}'";
    match request.base {
        None if request.list_file.is_none() => {
            let base = common_base(request, &[]);
            format!(
                "add --base {} to keep the paths below that folder, or {rename}",
                base.display()
            )
        }
        _ => rename.to_owned(),
    }
}

fn inputs_in_words(request: &ListRequest) -> String {
    let arguments = request.inputs.iter().map(|input| input.display().to_string());
    let list = request
        .list_file
        .iter()
        .map(|file| format!("the list {}", file.display()));
    arguments.chain(list).collect::<Vec<_>>().join(", ")
}

/// Drops images that are not selected. A pattern that matches either file of a pair applies to the pair.
fn select(found: &mut Vec<Found>, selection: &Selection) {
    if selection.is_everything() {
        return;
    }
    found.retain(|image| {
        let partner = image.place.file_name().and_then(pair_partner);
        let partner = partner.map(|name| image.place.with_file_name(name));
        let places: Vec<&Path> = [Some(image.place.as_path()), partner.as_deref()]
            .into_iter()
            .flatten()
            .collect();
        selection.takes(&places)
    });
}

fn entry(
    image: Found,
    index: usize,
    request: &ListRequest,
    second: Option<&SecondName>,
) -> Result<ImageEntry, String> {
    let Found { input, place, .. } = image;
    let of_image = |option: &str, template: &dyn std::fmt::Display, reason: String| {
        format!("{option} {template}: {}: {reason}", input.display())
    };
    let mask = request.mask.as_ref().map(|mask| {
        let path = mask.path(&place, index);
        path.map_err(|reason| of_image("--mask", mask, reason))
    });
    let mask = mask.transpose()?;
    let second = second.map(|second| second.path(&place, index)).transpose()?;
    let name = match (&request.bids, &request.name) {
        (Some(bids), _) => bids.result(&place)?,
        (None, None) => place,
        (None, Some(template)) => template
            .name(&place, index)
            .map_err(|reason| of_image("--name", template, reason))?,
    };
    let output = request.output.join(name);
    let second = second.map(|name| request.output.join(name));
    if let Some(second) = &second
        && (second.parent() != output.parent() || *second == output || !is_single_file(second))
    {
        return Err(format!(
            "--output-noise {}: gives {} for {}, whose result is {}; give another .nii or .nii.gz file in \
             the same folder, for example '{{dir}}/{{stem}}_noise.nii.gz'",
            request.second.as_deref().unwrap_or_default(),
            second.display(),
            input.display(),
            output.display()
        ));
    }
    // Every rank keeps the whole list. Copies use only the memory they need; joined paths reserve up to twice
    // as much.
    Ok(ImageEntry {
        index,
        input: input.as_path().to_owned(),
        output: output.as_path().to_owned(),
        mask: mask.as_deref().map(Path::to_owned),
        second: second.as_deref().map(Path::to_owned),
        bids: request.bids.is_some(),
    })
}

/// The name of the second result of an image.
enum SecondName {
    Template(Template),
    /// The label of `desc`, for an image of a BIDS dataset.
    Desc(String),
}

impl SecondName {
    fn parse(text: &str, bids: bool) -> Result<Self, String> {
        let parsed = match bids {
            true => {
                let label = text.strip_prefix("desc-").filter(|label| bids::is_label(label));
                let label =
                    label.ok_or("with --bids give the label of the file, such as desc-noise".to_owned());
                label.map(|label| SecondName::Desc(label.to_owned()))
            }
            false => text.parse().map(SecondName::Template),
        };
        parsed.map_err(|error| format!("--output-noise {text}: {error}"))
    }

    fn path(&self, place: &Path, index: usize) -> Result<PathBuf, String> {
        match self {
            SecondName::Template(template) => template.fill(place, index),
            SecondName::Desc(label) => Ok(bids::described(place, label)),
        }
    }
}

/// Whether an image of this name is one file.
fn is_single_file(path: &Path) -> bool {
    let suffix = path.file_name().and_then(split).map(|(_, suffix)| suffix);
    suffix.is_some_and(|suffix| !suffix.is_pair())
}

#[cfg(test)]
mod tests;
