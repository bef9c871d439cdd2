//! If the reader of standard output exits early (`| head`), the report and the exit code are unaffected.

use std::process::{Command, Stdio};

fn niimpi(words: &[&std::ffi::OsStr]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_niimpi"));
    command.args(words).stderr(Stdio::null());
    command
}

#[test]
fn commands_complete_without_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // The reader exits before the command prints anything.
    let run = |words: &[&std::ffi::OsStr]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        niimpi(words).stdout(writer).status().unwrap().code()
    };
    let (images, out, report) = (path("in"), path("out"), path("report.json"));
    let (images, out, report) = (images.as_os_str(), out.as_os_str(), report.as_os_str());
    let word = std::ffi::OsStr::new;
    let synth = ["--count=2", "--shape=8,8,8"].map(word);
    assert_eq!(run(&[&[word("synth"), images], &synth[..]].concat()), Some(0));
    let smooth = [word("smooth"), images, word("--output"), out, word("--sigma=1")];
    let reported = [word("--report"), report];
    assert_eq!(run(&[&smooth[..], &reported[..]].concat()), Some(0));
    assert!(path("report.json").is_file());
    let resumed = [word("--resume"), word("--dry-run")];
    assert_eq!(run(&[&smooth[..], &resumed[..]].concat()), Some(0));
    assert_eq!(run(&[word("status"), out]), Some(0));
    assert_eq!(run(&[word("verify"), out]), Some(0));
    assert_eq!(run(&[word("report"), word("show"), report]), Some(0));
}
