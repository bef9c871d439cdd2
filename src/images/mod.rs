//! The list: inputs → an ordered list of images, each with its output's name. Refuses what would lose an image.

mod collisions;
mod entry;
mod error;
mod found;
mod list_file;
mod output_name;
pub(crate) mod probe;
mod real_path;
mod walk;

use std::path::{Component, Path, PathBuf};

pub use entry::ImageEntry;
pub use error::ListError;
pub use found::natural_order;
pub use output_name::NameTemplate;
pub use walk::images_below;

use crate::image_io::file_name::is_image_name;
use collisions::refuse_collisions;
use error::input_error;
use found::{Found, merge_pairs};
use list_file::read_list;
use real_path::{refuse_climbing, resolve};
use walk::search;

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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::str::FromStr;

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
