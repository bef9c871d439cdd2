//! Passes the commit to the program, for `niimpi --version -v`. A build without git has none.

#![allow(clippy::print_stdout, reason = "this is how a build script speaks to cargo")]

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=NIIMPI_COMMIT");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let known = std::env::var("NIIMPI_COMMIT").ok();
    if let Some(commit) = known.or_else(|| git(&["describe", "--always", "--dirty"])) {
        println!("cargo::rustc-env=NIIMPI_COMMIT={commit}");
    }
}
