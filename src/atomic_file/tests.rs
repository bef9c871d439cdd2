//! Tests of atomic files.

use super::*;
use std::io::Write;

fn folder(path: &Path) -> Arc<Folder> {
    Folder::open(path, Folders::Existing).unwrap()
}

fn part(path: &Path, text: &str) -> PartFile {
    let mut part = PartFile::create(&folder(path)).unwrap();
    part.file().write_all(text.as_bytes()).unwrap();
    part
}

fn names(path: &Path) -> Vec<String> {
    let items = std::fs::read_dir(path).unwrap();
    let mut names: Vec<String> = items
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_name_that_is_taken_is_not_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a.nii");
    part(dir.path(), "one")
        .publish("a.nii".as_ref(), Expected::Nothing)
        .unwrap();
    let error = part(dir.path(), "two")
        .publish("a.nii".as_ref(), Expected::Nothing)
        .unwrap_err();
    assert_eq!(error.to_string(), "another run wrote it meanwhile");
    assert_eq!(std::fs::read_to_string(&at).unwrap(), "one");
    assert_eq!(names(dir.path()), ["a.nii"]);
}

#[test]
fn a_file_is_replaced_only_if_it_is_the_one_that_was_seen() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().join("a.nii");
    std::fs::write(&at, "seen").unwrap();
    let seen = Expected::This(Stamp::of_path(&at).unwrap());
    part(dir.path(), "new").publish("a.nii".as_ref(), seen).unwrap();
    assert_eq!(std::fs::read_to_string(&at).unwrap(), "new");
    // Another file has the name now; then none.
    for _ in 0..2 {
        let error = part(dir.path(), "late")
            .publish("a.nii".as_ref(), seen)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(!at.exists() || std::fs::read_to_string(&at).unwrap() == "new");
        let _ = std::fs::remove_file(&at);
    }
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn own_folders_are_made_and_are_no_links() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir_all(&out).unwrap();
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, out.join("link")).unwrap();
    assert!(Folder::open(&out.join("a/b"), Folders::Own(2)).is_ok());
    assert!(out.join("a/b").is_dir());
    assert!(Folder::open(&out.join("link"), Folders::Own(1)).is_err());
    assert!(Folder::open(&out.join("link/c"), Folders::Own(2)).is_err());
    assert_eq!(names(&elsewhere), Vec::<String>::new());
    assert!(Folder::open(&out.join("link/c"), Folders::Made).is_ok());
}

#[test]
fn a_file_gets_its_name_where_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (sub, victim) = (dir.path().join("sub"), dir.path().join("victim"));
    std::fs::create_dir(&sub).unwrap();
    std::fs::create_dir(&victim).unwrap();
    std::fs::write(victim.join("a.nii"), "raw").unwrap();
    let part = part(&sub, "result");
    std::fs::rename(&sub, dir.path().join("moved")).unwrap();
    std::os::unix::fs::symlink(&victim, &sub).unwrap();
    part.publish("a.nii".as_ref(), Expected::Anything).unwrap();
    assert_eq!(std::fs::read_to_string(victim.join("a.nii")).unwrap(), "raw");
    let written = dir.path().join("moved/a.nii");
    assert_eq!(std::fs::read_to_string(written).unwrap(), "result");
}

#[test]
fn a_vanished_unfinished_file_has_words_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let part = part(dir.path(), "x");
    std::fs::remove_file(dir.path().join(&part.name)).unwrap();
    let error = part.publish("a.nii".as_ref(), Expected::Nothing).unwrap_err();
    assert!(error.to_string().contains("was removed by another process"));
}

#[test]
fn unfinished_files_of_the_dead_are_removed_and_others_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    let touch = |name: &str, age_s: u64| {
        let file = File::create(dir.path().join(name)).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age_s);
        file.set_modified(then).unwrap();
    };
    let (space, own) = (process::space(), std::process::id());
    let start = process::start_ticks().unwrap();
    touch(&format!(".niimpi-{space}-{dead}-7-a.part"), 0);
    // Another process had this PID before.
    touch(&format!(".niimpi-{space}-{own}-{}-a.part", start + 1), 0);
    touch(".niimpi-elsewhere-1-1-b.part", 700);
    touch(".niimpi-0123abcd-1-Xyz.part", 700);
    let kept = [
        format!(".niimpi-{space}-{own}-{start}-c.part"),
        ".niimpi-elsewhere-1-1-d.part".to_owned(),
        "a.nii.gz".to_owned(),
        ".niimpi-note".to_owned(),
    ];
    touch(&kept[0], 7000);
    touch(&kept[1], 500);
    touch(&kept[2], 7000);
    touch(&kept[3], 7000);
    assert_eq!(remove_stale(dir.path()), 4);
    let mut expected = kept.to_vec();
    expected.sort();
    assert_eq!(names(dir.path()), expected);
    assert_eq!(remove_stale(&dir.path().join("none")), 0);
}

#[test]
fn the_time_of_an_unfinished_file_is_renewed_until_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = part(dir.path(), "x");
    let age = |part: &mut PartFile| {
        let old = SystemTime::now() - Duration::from_secs(700);
        part.file().set_modified(old).unwrap();
        old
    };
    let modified = |part: &mut PartFile| part.file().metadata().unwrap().modified().unwrap();
    let old = age(&mut part);
    renew_unfinished();
    assert_eq!(modified(&mut part), old, "it was created a moment ago");
    renew_after(Duration::ZERO);
    assert!(modified(&mut part) > old + Duration::from_secs(600));
    let old = age(&mut part);
    part.keep_time();
    renew_after(Duration::ZERO);
    assert_eq!(modified(&mut part), old, "its time is recorded");
}

#[test]
fn an_unfinished_file_is_removed_on_drop() {
    let dir = tempfile::tempdir().unwrap();
    let part = part(dir.path(), "x");
    assert_eq!(remove_stale(dir.path()), 0);
    drop(part);
    assert_eq!(names(dir.path()), Vec::<String>::new());
    let inside = |part: &Unfinished| part.path.starts_with(dir.path());
    assert!(!unfinished().iter().any(inside));
}

#[test]
fn a_folder_that_cannot_be_synced_is_no_error_but_one_that_fails_is() {
    for code in [Errno::EINVAL, Errno::ENOSYS, Errno::EOPNOTSUPP] {
        assert!(unless_unsupported(Err(code)).is_ok(), "{code}");
    }
    for code in [Errno::EIO, Errno::ENOSPC] {
        let error = unless_unsupported(Err(code)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(code as i32));
    }
    let dir = tempfile::tempdir().unwrap();
    folder(dir.path()).sync().unwrap();
}

#[test]
fn a_pipe_without_a_reader_is_an_error_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("report.json");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = write_whole(&pipe, |file| file.write_all(b"x")).unwrap_err();
    assert!(error.to_string().contains("no program reads"), "{error}");
}

#[test]
fn a_pipe_is_written_to_and_stays_a_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("report.json");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let reader = {
        let pipe = pipe.clone();
        std::thread::spawn(move || std::fs::read_to_string(pipe).unwrap())
    };
    write_whole(&pipe, |file| file.write_all(b"whole")).unwrap();
    assert!(is_device(&pipe));
    assert_eq!(reader.join().unwrap(), "whole");
}
