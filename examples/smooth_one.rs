//! Smooths one image: `cargo run --example smooth_one -- INPUT OUTPUT FWHM_MM`

#![allow(clippy::print_stdout, reason = "an example prints what it did")]

use std::error::Error;
use std::path::Path;

use niimpi::filter::gaussian::Gaussian;
use niimpi::filter::{self, Scratch, SharedOptions};
use niimpi::image_io::{Image, ImageReader, ImageWriter};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, input, output, fwhm_mm] = arguments.as_slice() else {
        return Err("usage: smooth_one INPUT OUTPUT FWHM_MM".into());
    };
    smooth(Path::new(input), Path::new(output), fwhm_mm.parse()?)
}

/// Smooths the image at `input` and writes it to `output`.
pub fn smooth(input: &Path, output: &Path, fwhm_mm: f64) -> Result<(), Box<dyn Error>> {
    let mut image = Image::default();
    ImageReader::new().read(input, &mut image)?;
    filter::apply(
        &Gaussian::from_fwhm_mm(fwhm_mm),
        &SharedOptions::default(),
        &mut image.volume,
        &mut Scratch::default(),
    )?;
    for file in ImageWriter::new().write(output, &image)? {
        println!("{}: {} bytes", file.path.display(), file.bytes);
    }
    Ok(())
}
