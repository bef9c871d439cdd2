//! Which images: the input options that every command with a list takes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::images::{ListRequest, NameTemplate, PathPattern};

/// The images and where their results land.
#[derive(Args, Clone, Debug)]
#[command(about = None, long_about = None)]
pub(super) struct InputArgs {
    /// Image files, or folders that are searched recursively
    #[arg(value_name = "INPUT", required_unless_present = "list")]
    pub(super) inputs: Vec<PathBuf>,

    /// Read more image paths from FILE, one per line; - is standard input
    #[arg(long, value_name = "FILE")]
    pub(super) list: Option<PathBuf>,

    /// Mirror the folders below DIR in the output folder
    ///
    /// Results keep the path that their input has below DIR. Without --base, images of an input folder keep
    /// their path below it, a file given by a relative path keeps that path, and a file given by an absolute
    /// path is refused. Instead of --base, /./ may mark the place inside a path: /study/./sub-01/T1w.nii.gz
    /// becomes OUTPUT/sub-01/T1w.nii.gz.
    #[arg(long, value_name = "DIR", help_heading = "Selection")]
    base: Option<PathBuf>,

    /// Take only images that match PATTERN, such as '*_bold.nii.gz' or 'sub-*/anat'; repeatable
    ///
    /// A pattern without / matches a file or folder name at any depth, one with / the path below the base.
    /// A leading / means directly below the base. * and ? do not match /, ** does. What matches a folder
    /// matches everything below it.
    #[arg(long, value_name = "PATTERN", help_heading = "Selection")]
    include: Vec<PathPattern>,

    /// Leave out images and folders that match PATTERN; repeatable, and stronger than --include
    #[arg(long, value_name = "PATTERN", help_heading = "Selection")]
    exclude: Vec<PathPattern>,

    /// Also search folders outside the input folder that links lead to, and write into folders below the
    /// output that are links
    ///
    /// Links to image files are always followed. A folder that several links lead to is searched once.
    #[arg(long, help_heading = "Selection")]
    follow_links: bool,
}

impl InputArgs {
    /// The request for the list.
    pub(super) fn request(&self, output: PathBuf, name: Option<NameTemplate>) -> ListRequest {
        ListRequest {
            inputs: self.inputs.clone(),
            list_file: self.list.clone(),
            output,
            name,
            base: self.base.clone(),
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            follow_links: self.follow_links,
            ..ListRequest::default()
        }
    }

    /// The command line that means the same in any working directory.
    pub(super) fn words(&self) -> Result<Vec<OsString>, String> {
        let mut words: Vec<OsString> = Vec::new();
        for input in &self.inputs {
            words.push(absolute_input(input, self.base.is_some())?.into());
        }
        for (option, path) in [("--list", &self.list), ("--base", &self.base)] {
            if let Some(path) = path {
                words.extend([option.into(), absolute(path)?.into()]);
            }
        }
        let include = self.include.iter().map(|pattern| format!("--include={pattern}"));
        let exclude = self.exclude.iter().map(|pattern| format!("--exclude={pattern}"));
        words.extend(include.chain(exclude).map(OsString::from));
        if self.follow_links {
            words.push("--follow-links".into());
        }
        Ok(words)
    }
}

/// An input's absolute path whose result lands at the same place: a relative path of a file begins behind
/// `/./`.
pub(super) fn absolute_input(input: &Path, has_base: bool) -> Result<PathBuf, String> {
    if input.is_absolute() {
        return Ok(input.to_owned());
    }
    let folder = absolute(Path::new(""))?;
    // A leading `./` would become a `/./`.
    let below = input.strip_prefix(".").unwrap_or(input);
    let has_dot = below.to_string_lossy().contains("/./");
    Ok(match has_base || has_dot || input.is_dir() {
        true => folder.join(below),
        false => folder.join(".").join(below),
    })
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    let folder = std::env::current_dir().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_inputs_keep_their_place() {
        let here = std::env::current_dir().unwrap();
        let here = here.to_str().unwrap();
        for (input, has_base, words) in [
            ("src", false, format!("{here}/src")),
            ("./src", false, format!("{here}/src")),
            ("x/a.nii", false, format!("{here}/./x/a.nii")),
            ("./a.nii", false, format!("{here}/./a.nii")),
            ("x/./a.nii", false, format!("{here}/x/./a.nii")),
            ("x/a.nii", true, format!("{here}/x/a.nii")),
            ("/x/a.nii", false, "/x/a.nii".to_owned()),
        ] {
            let path = absolute_input(Path::new(input), has_base).unwrap();
            assert_eq!(path.to_str(), Some(words.as_str()), "{input}");
        }
    }
}
