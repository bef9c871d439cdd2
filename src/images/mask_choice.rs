//! `--mask`: which voxels of an image are filtered.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::output_name::Template;

/// The source of an image's mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskChoice {
    /// The image's own voxels other than 0 and NaN.
    Nonzero,
    /// One file for all images.
    File(PathBuf),
    /// A file for each image.
    Each(MaskTemplate),
}

/// The path of each image's mask: as [`NameTemplate`](super::NameTemplate), but relative to the working
/// directory, not restricted to a folder, and with entities of the image's BIDS name such as `{sub}`. Several
/// images can have the same mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskTemplate(Template);

impl FromStr for MaskChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give a file, a template, or nonzero".to_owned()),
            "nonzero" => Ok(MaskChoice::Nonzero),
            _ if text.contains(['{', '}']) => Ok(MaskChoice::Each(MaskTemplate(Template::of_mask(text)?))),
            _ => Ok(MaskChoice::File(text.into())),
        }
    }
}

impl fmt::Display for MaskChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaskChoice::Nonzero => f.write_str("nonzero"),
            MaskChoice::File(path) => path.display().fmt(f),
            MaskChoice::Each(template) => template.fmt(f),
        }
    }
}

impl MaskChoice {
    /// The same choice, independent of the working directory.
    pub(crate) fn absolute(&self) -> Result<String, String> {
        let text = self.to_string();
        match self {
            MaskChoice::Nonzero => Ok(text),
            _ => match std::env::current_dir() {
                Ok(folder) => Ok(folder.join(text).display().to_string()),
                Err(error) => Err(format!("{text}: {error}")),
            },
        }
    }

    /// The template, if each image has its own mask.
    pub(crate) fn template(&self) -> Option<&MaskTemplate> {
        match self {
            MaskChoice::Each(template) => Some(template),
            _ => None,
        }
    }

    /// The mask file of an image: `own` if each image has its own; `None` if the image itself is the mask.
    pub(crate) fn file<'a>(&'a self, own: Option<&'a Path>) -> Option<&'a Path> {
        match self {
            MaskChoice::Nonzero => None,
            MaskChoice::File(path) => Some(path),
            MaskChoice::Each(_) => own,
        }
    }
}

impl MaskTemplate {
    /// The mask of the `index`-th image of the list, whose path below the base is `place`.
    ///
    /// # Errors
    /// Why the name of the image has no value for a field.
    pub(super) fn path(&self, place: &Path, index: usize) -> Result<PathBuf, String> {
        self.0.fill(place, index)
    }

    /// The template for masks with the same file names in the folders `folder`/1, `folder`/2, …, one for each
    /// image of a list; `None` if the names depend on more than the images' names.
    pub(crate) fn in_numbered_folders(&self, folder: &Path) -> Option<Self> {
        let text = self.0.to_string();
        let name = text.rsplit('/').next()?;
        let elsewhere = format!("{}/{{index}}/{name}", folder.display());
        let has_stem_only = !name.contains("{index}") && !name.contains("{dir}");
        has_stem_only.then(|| Template::of_mask(&elsewhere).ok().map(Self))?
    }
}

impl fmt::Display for MaskTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_chosen_by_a_word_a_file_or_a_template() {
        let choice = |text: &str| MaskChoice::from_str(text);
        assert_eq!(choice("nonzero"), Ok(MaskChoice::Nonzero));
        assert_eq!(choice("./nonzero"), Ok(MaskChoice::File("./nonzero".into())));
        assert!(choice("").is_err() && choice("{nme}.nii").is_err() && choice("{dir}/").is_err());
        let path = |text: &str| {
            let choice = choice(text).unwrap();
            choice
                .template()
                .unwrap()
                .path(Path::new("sub-1/T1.nii.gz"), 7)
                .unwrap()
        };
        assert_eq!(path("/m/{dir}/{stem}_mask"), Path::new("/m/sub-1/T1_mask.nii.gz"));
        assert_eq!(path("{dir}/mask.nii"), Path::new("sub-1/mask.nii"));
        let of_bids = |text: &str, name: &str| {
            let choice = choice(text).unwrap();
            choice.template().unwrap().path(&Path::new("func").join(name), 7)
        };
        let brain = "{dir}/sub-{sub}_task-{task}_space-{space}_desc-brain_mask";
        let name = "sub-01_task-rest_run-2_space-T1w_desc-preproc_bold.nii.gz";
        assert_eq!(
            of_bids(brain, name).unwrap(),
            Path::new("func/sub-01_task-rest_space-T1w_desc-brain_mask.nii.gz")
        );
        // {dir} is the folder, although BIDS has an entity of that name.
        assert_eq!(of_bids("{dir}/{run}.nii", name).unwrap(), Path::new("func/2.nii"));
        assert_eq!(
            of_bids("{ses}.nii", name).unwrap_err(),
            "the name has no entity ses"
        );
        assert!(
            of_bids("{sub}.nii", "brain.nii")
                .unwrap_err()
                .contains("no entity such as")
        );
        assert!(choice("{desk}.nii").unwrap_err().contains("such as {sub}"));
        assert_eq!(choice("../{dir}/m.nii").unwrap().to_string(), "../{dir}/m.nii");
        let moved = |text: &str| {
            let choice = choice(text).unwrap();
            let moved = choice.template().unwrap().in_numbered_folders(Path::new("/tmp"));
            moved.map(|template| template.to_string())
        };
        assert_eq!(
            moved("m/{dir}/{stem}_mask").as_deref(),
            Some("/tmp/{index}/{stem}_mask")
        );
        assert_eq!(
            moved("{dir}/brain.nii").as_deref(),
            Some("/tmp/{index}/brain.nii")
        );
        assert_eq!(
            moved("m/sub-{sub}/ses-{ses}/sub-{sub}_mask").as_deref(),
            Some("/tmp/{index}/sub-{sub}_mask")
        );
        assert_eq!((moved("m/{index}.nii"), moved("m/{dir}_mask")), (None, None));
    }
}
