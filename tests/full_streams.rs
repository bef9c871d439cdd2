//! If standard output or standard error cannot be written (full disk, no reader), only the text is lost.

#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Stdio};

fn niimpi(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_niimpi"));
    command.current_dir(folder).args(words);
    command
}

fn full() -> Stdio {
    Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap())
}

#[test]
fn a_run_whose_output_cannot_be_printed_continues() {
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
fn a_closed_pipe_is_not_an_error() {
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

/// Commands that fail, each with a file name that contains the control sequence to clear the screen.
fn failing_commands() -> Vec<Vec<&'static str>> {
    const NAME: &str = "no\u{1b}[2J\nsuch";
    vec![
        vec!["status", NAME],
        vec!["report", "show", NAME],
        vec!["report", "merge", NAME, "-o", "all.json"],
        vec!["plan", NAME, "--sigma", "1"],
        vec!["plan", "--check", NAME],
        vec!["scaling", NAME, "--sigma", "1", "-o", "study"],
        vec!["smooth", NAME, "-o", "out", "--sigma", "1"],
        vec![
            "smooth",
            NAME,
            "-o",
            "out",
            "--sigma",
            "1",
            "--log-dir",
            "/dev/null/a\u{1b}[2J",
        ],
        vec!["verify", NAME],
        vec!["synth", "/dev/null/a\u{1b}[2J", "--count", "1"],
    ]
}

#[test]
fn an_error_that_cannot_be_written_is_still_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    for words in failing_commands() {
        let status = niimpi(dir.path(), &words)
            .stdout(full())
            .stderr(full())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(2), "{words:?}");
    }
}

#[test]
fn names_in_errors_cannot_drive_the_terminal() {
    let dir = tempfile::tempdir().unwrap();
    for words in failing_commands() {
        let output = niimpi(dir.path(), &words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("niimpi: error: "), "{words:?}: {text}");
        assert!(!text.contains('\u{1b}'), "{words:?}: {text}");
        assert!(!text.contains("J\nsuch"), "{words:?}: {text}");
    }
}
