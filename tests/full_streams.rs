//! A disk that is full behind standard output and standard error, or a reader that went away, costs the text and not the run.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Stdio};

fn niimpi(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_niimpi"));
    command.current_dir(folder).args(words);
    command
}

fn full() -> Stdio {
    Stdio::from(
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap(),
    )
}

#[test]
fn a_run_whose_words_cannot_be_written_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let synth = ["synth", "in", "--count", "2", "--shape", "9,9,9"];
    let status = niimpi(dir.path(), &synth).stdout(full()).status().unwrap();
    assert_eq!(status.code(), Some(0));
    let smooth = ["smooth", "in", "-o", "out", "--sigma", "1", "-vv"];
    let status = niimpi(dir.path(), &smooth)
        .args(["--report", "report.json"])
        .stdout(full())
        .stderr(full())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(dir.path().join("report.json").is_file());
}

#[test]
fn a_reader_that_went_away_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let synth = ["synth", "in", "--count", "1", "--shape", "5,5,5"];
    let mut child = niimpi(dir.path(), &synth)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
}
