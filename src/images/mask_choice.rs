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
/// directory and not restricted to a folder. Several images can have the same mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskTemplate(Template);

impl FromStr for MaskChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("give a file, a template, or nonzero".to_owned()),
            "nonzero" => Ok(MaskChoice::Nonzero),
            _ if text.contains(['{', '}']) => Ok(MaskChoice::Each(MaskTemplate(text.parse()?))),
            _ => Ok(MaskChoice::File(text.into())),
        }
    }
}

impl fmt::Display for MaskChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaskChoice::Nonzero => f.write_str("nonzero"),
            MaskChoice::File(path) => path.display().fmt(f),
            MaskChoice::Each(template) => template.0.fmt(f),
        }
    }
}

impl MaskChoice {
    /// The same choice, independent of the working directory.
    ///
    /// # Errors
    /// A message if the working directory is unknown.
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
    pub(super) fn path(&self, place: &Path, index: usize) -> PathBuf {
        self.0.fill(place, index)
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
            choice.template().unwrap().path(Path::new("sub-1/T1.nii.gz"), 7)
        };
        assert_eq!(path("/m/{dir}/{stem}_mask"), Path::new("/m/sub-1/T1_mask.nii.gz"));
        assert_eq!(path("{dir}/mask.nii"), Path::new("sub-1/mask.nii"));
        assert_eq!(choice("../{dir}/m.nii").unwrap().to_string(), "../{dir}/m.nii");
    }
}
