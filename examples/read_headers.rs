//! Prints information from image headers: `cargo run --example read_headers -- IMAGE...`
//!
//! Only a few KiB of each file are read, independent of its size.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example prints what it does"
)]

use std::path::Path;
use std::process::ExitCode;

use niimpi::image_io::{ImageError, probe};

fn main() -> ExitCode {
    let mut exit_code = ExitCode::SUCCESS;
    for path in std::env::args_os().skip(1) {
        match describe(Path::new(&path)) {
            Ok(text) => println!("{text}"),
            Err(error) => {
                eprintln!("{error}");
                exit_code = ExitCode::FAILURE;
            }
        }
    }
    exit_code
}

/// One line about the image at `path`, and one for each oddity of its header.
pub fn describe(path: &Path) -> Result<String, ImageError> {
    let image = probe(path)?;
    let name = path.display();
    let [x, y, z] = image.voxel_size_mm;
    let scaled = if image.scaled { ", scaled" } else { "" };
    let mut text = format!(
        "{name}: {} {:?}{scaled}, {x} × {y} × {z} mm, {} bytes",
        image.datatype, image.shape, image.file_bytes
    );
    for warning in image.warnings {
        text += &format!("\n{name}: {warning}");
    }
    Ok(text)
}
