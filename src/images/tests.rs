//! Tests of the list as a whole.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;

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

/// A request for a list with these lines, and the folder that keeps the list.
fn request_of_lines(lines: &[&Path], output: &Path) -> (ListRequest, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("list");
    let text: String = lines.iter().map(|line| format!("{}\n", line.display())).collect();
    std::fs::write(&list, text).unwrap();
    let request = ListRequest {
        list_file: Some(list),
        ..request(&[], output)
    };
    (request, dir)
}

/// The outputs' paths below the output folder.
fn outputs(request: &ListRequest) -> Vec<String> {
    let list = collect(request).unwrap();
    let below = |entry: &ImageEntry| entry.output.strip_prefix(&request.output).unwrap().to_owned();
    list.entries
        .iter()
        .map(|entry| below(entry).display().to_string())
        .collect()
}

#[test]
fn a_folder_is_mirrored_in_natural_order() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let names = [
        "s_10.nii.gz",
        "s_2.nii.gz",
        "sub/a.nii",
        "notes.txt",
        ".hidden.nii",
        ".git/x.nii",
    ];
    touch(&data, &names);
    let request = request(&[data], &dir.path().join("out"));
    assert_eq!(outputs(&request), ["s_2.nii.gz", "s_10.nii.gz", "sub/a.nii"]);
    let indices: Vec<usize> = collect(&request)
        .unwrap()
        .entries
        .iter()
        .map(|entry| entry.index)
        .collect();
    assert_eq!(indices, [1, 2, 3]);
}

#[test]
fn a_pair_is_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(
        &data,
        &[
            "a.hdr", "a.img", "b.hdr.gz", "b.img.gz", "c.img", "d.hdr", "d.img.gz",
        ],
    );
    let request = request(&[data], &dir.path().join("out"));
    assert_eq!(outputs(&request), ["a.hdr", "b.hdr.gz", "c.img", "d.hdr"]);
}

#[test]
fn where_a_result_lands_does_not_depend_on_the_other_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let (study, out) = (dir.path().join("study"), dir.path().join("out"));
    let subjects = ["sub-1/anat/T1.nii", "sub-2/anat/T1.nii", "sub-3/anat/T1.nii"];
    touch(&study, &subjects);
    let whole: Vec<PathBuf> = subjects.iter().map(|name| study.join(name)).collect();
    let dotted: Vec<PathBuf> = subjects.iter().map(|name| study.join(".").join(name)).collect();
    let check = |inputs: &[PathBuf], base: Option<&Path>, expected: &[&str]| {
        let lines: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let (of_lines, _dir) = request_of_lines(&lines, &out);
        for request in [of_lines, request(inputs, &out)] {
            let base = base.map(Path::to_owned);
            assert_eq!(outputs(&ListRequest { base, ..request }), expected);
        }
    };
    for places in [0..3, 2..3] {
        let expected = &subjects[places.clone()];
        check(&whole[places.clone()], Some(&study), expected);
        check(&dotted[places.clone()], None, expected);
        let folders = expected
            .iter()
            .map(|name| study.join(name).parent().unwrap().to_owned());
        let folders = ListRequest {
            base: Some(study.clone()),
            ..request(&folders.collect::<Vec<_>>(), &out)
        };
        assert_eq!(outputs(&folders), expected);
    }
    for places in [0..3, 2..3] {
        let (of_lines, _dir) = request_of_lines(&[], &out);
        std::fs::write(
            of_lines.list_file.as_ref().unwrap(),
            whole[places.clone()]
                .iter()
                .map(|path| format!("{}\n", path.display()))
                .collect::<String>(),
        )
        .unwrap();
        for request in [of_lines, request(&whole[places], &out)] {
            let error = collect(&request).unwrap_err();
            let advice = format!("add --base {}", study.display());
            assert!(error.contains(&advice), "{error}");
        }
    }
    // A relative path of a list is kept as written; the file need not exist.
    let (relative, _dir) = request_of_lines(&["b/x.nii", "./a//y.nii"].map(Path::new), &out);
    assert_eq!(outputs(&relative), ["a/y.nii", "b/x.nii"]);
}

#[test]
fn include_and_exclude_choose_by_the_path_below_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(
        &data,
        &[
            "sub-1/anat/T1.nii",
            "sub-1/func/bold.nii",
            "sub-2/anat/T1.nii",
            "p.hdr",
            "p.img",
        ],
    );
    let chosen = |include: &[&str], exclude: &[&str]| {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let request = ListRequest {
            include: parse(include),
            exclude: parse(exclude),
            ..request(std::slice::from_ref(&data), &dir.path().join("out"))
        };
        collect(&request).map(|_| outputs(&request))
    };
    assert_eq!(
        chosen(&["anat"], &[]).unwrap(),
        ["sub-1/anat/T1.nii", "sub-2/anat/T1.nii"]
    );
    assert_eq!(chosen(&["sub-1"], &["*bold*"]).unwrap(), ["sub-1/anat/T1.nii"]);
    assert_eq!(
        chosen(&[], &["sub-*/anat", "*.img"]).unwrap(),
        ["sub-1/func/bold.nii"]
    );
    assert_eq!(chosen(&["*.img"], &[]).unwrap(), ["p.hdr"]);
    assert!(chosen(&["no"], &[]).unwrap_err().contains("none of 4 images"));
}

#[test]
fn what_would_lose_an_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, out) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("out"));
    touch(&a, &["x.nii"]);
    touch(&b, &["x.nii"]);
    let collect = |inputs: &[PathBuf], output: &Path| {
        let base = inputs.iter().any(|input| input.is_file()).then(|| a.clone());
        collect(&ListRequest {
            base,
            ..request(inputs, output)
        })
    };
    let refused = |inputs: &[PathBuf], output: &Path, words: &str| {
        let error = collect(inputs, output).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused(&[a.clone(), b.clone()], &out, "two inputs for one output");
    let advice = format!("--base {}", dir.path().display());
    refused(&[a.clone(), b.clone()], &out, &advice);
    let x = a.join("x.nii");
    refused(&[x.clone(), x.clone()], &out, "listed twice");
    for output in [&a.join("out"), &a] {
        refused(std::slice::from_ref(&a), output, "lies inside the input folder");
    }
    refused(&[x], &a, "would be overwritten");
    refused(&[], &out, "no input given");
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    refused(&[empty], &out, "no image found");
    refused(&[dir.path().join("none")], &out, "no such file or folder");
    assert!(!out.exists());
}

#[test]
fn results_may_lie_in_an_excluded_folder_of_the_input() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["data/a.nii", "data/derivatives/smooth/old.nii"]);
    let data = dir.path().join("data");
    let request = ListRequest {
        exclude: vec!["derivatives".parse().unwrap()],
        ..request(std::slice::from_ref(&data), &data.join("derivatives/smooth"))
    };
    assert_eq!(outputs(&request), ["a.nii"]);
}

#[test]
fn an_input_is_never_overwritten_however_its_path_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii", "sub/b.nii", "p.hdr", "p.img"]);
    symlink(&data, dir.path().join("link")).unwrap();
    for folder in [data.clone(), data.join("sub/.."), dir.path().join("link")] {
        for name in ["a.nii", "p.img"] {
            let request = ListRequest {
                base: Some(folder.clone()),
                ..request(&[folder.join(name)], &data)
            };
            let error = collect(&request).unwrap_err();
            assert!(error.contains("would be overwritten"), "{error}");
        }
    }
}

#[test]
fn a_link_to_nowhere_costs_its_image_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii"]);
    symlink(&data, data.join("again")).unwrap();
    symlink("nowhere.nii", data.join("b.nii")).unwrap();
    let out = dir.path().join("out");
    assert_eq!(
        outputs(&request(std::slice::from_ref(&data), &out)),
        ["a.nii", "b.nii"]
    );
    assert_eq!(outputs(&request(&[data.join("./b.nii")], &out)), ["b.nii"]);
}

#[test]
fn names_that_are_not_utf8_survive_the_wire() {
    let name = OsString::from_vec(b"/data/\xff\xfe.nii".to_vec());
    let entry = ImageEntry {
        index: 1,
        input: name.clone().into(),
        output: name.into(),
        mask: None,
        second: None,
        bids: false,
    };
    let sent = crate::comm::encode(&entry);
    assert_eq!(crate::comm::decode::<ImageEntry>(&sent), entry);
}

#[test]
fn an_output_that_climbs_out_of_a_missing_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    touch(&data, &["a.nii"]);
    let climbing = dir.path().join("missing/../data");
    let error = collect(&request(std::slice::from_ref(&data), &climbing)).unwrap_err();
    let folder = format!("the folder {} before ..", dir.path().join("missing").display());
    assert!(error.contains(&folder), "{error}");
    assert_eq!(
        outputs(&request(std::slice::from_ref(&data), &data.join("../out"))),
        ["a.nii"]
    );
}

#[test]
fn the_halves_of_two_pairs_are_two_inputs_for_one_output() {
    let dir = tempfile::tempdir().unwrap();
    touch(dir.path(), &["1/a.hdr", "1/a.img", "2/a.hdr", "2/a.img"]);
    let halves = [dir.path().join("1/./a.hdr"), dir.path().join("2/./a.img")];
    let error = collect(&request(&halves, &dir.path().join("out"))).unwrap_err();
    assert!(error.contains("two inputs for one output"), "{error}");
}
