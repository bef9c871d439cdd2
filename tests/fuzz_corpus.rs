//! Runs the fuzz targets, without a fuzzer, on all files of the corpora and all files that once crashed them.

#[path = "fuzz/targets.rs"]
mod targets;

use std::path::Path;

#[allow(clippy::print_stdout, reason = "a failing test shows the last name")]
/// Runs a target on the files of both folders. There must be at least `least` files.
fn replay(name: &str, target: fn(&[u8]), least: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let mut tried = 0;
    for folder in ["corpus", "crashers"] {
        let Ok(files) = std::fs::read_dir(root.join(folder).join(name)) else {
            continue;
        };
        for file in files {
            let path = file.unwrap().path();
            println!("{}", path.display());
            target(&std::fs::read(path).unwrap());
            tried += 1;
        }
    }
    assert!(tried >= least, "{tried} files of {name}");
}

#[test]
fn headers() {
    replay("header", targets::header, 10);
}

#[test]
fn gzip_streams() {
    replay("gzip", targets::gzip, 10);
}

#[test]
fn extensions() {
    replay("extension", targets::extension, 5);
}

#[test]
fn journals() {
    replay("journal", targets::journal, 4);
}
