//! Picture: the three central slices of an image before and after filtering, as one small PNG file.

use std::io::{self, Write};
use std::path::Path;

use super::quality::PICTURES;
use crate::atomic_file::{Expected, Folder, Folders, PartFile};
use crate::filter::StoredSlice;
use crate::images::RECORDS;

/// Pixels of the longest axis.
const LONGEST: usize = 96;
/// Pixels between two slices.
const GAP: usize = 2;
/// Bytes of the views before and after, of the picture and of its file.
pub(super) const BYTES: u64 = ((6 * 4 + 4 * 6) * LONGEST * LONGEST) as u64 + (64 << 10);

/// Three slices through the centre of a volume, each sampled at the nearest voxels, with square pixels.
pub(super) struct Views {
    shape: [usize; 3],
    /// Pixels along x, y and z.
    pixels: [usize; 3],
    /// Sagittal, coronal and axial, rows upwards.
    slices: [Vec<f32>; 3],
}

impl Views {
    /// Views of a volume, of which no slice is known.
    pub(super) fn new(shape: [usize; 3], voxel_size_mm: [f64; 3]) -> Self {
        let length_mm: [f64; 3] = std::array::from_fn(|axis| shape[axis] as f64 * voxel_size_mm[axis].abs());
        let longest_mm = length_mm.into_iter().fold(0.0, f64::max);
        let pixels = length_mm.map(|length_mm| {
            let pixels = (LONGEST as f64 * length_mm / longest_mm).round();
            // A size of 0 or NaN becomes one pixel.
            (pixels as usize).clamp(1, LONGEST)
        });
        let [x, y, z] = pixels;
        Views {
            shape,
            pixels,
            slices: [(y, z), (x, z), (x, y)].map(|(width, height)| vec![f32::NAN; width * height]),
        }
    }

    /// Adds the slice at `z`. `row` is memory for a row.
    pub(super) fn add(&mut self, z: usize, slice: StoredSlice<'_>, row: &mut [f64]) {
        let [nx, ny, nz] = self.shape;
        let [px, py, pz] = self.pixels;
        let place = |pixel: usize, pixels: usize, length: usize| (2 * pixel + 1) * length / (2 * pixels);
        let [sagittal, coronal, axial] = &mut self.slices;
        let sample = |row: &[f64], pixels: &mut [f32]| {
            for (column, pixel) in pixels.iter_mut().enumerate() {
                *pixel = row[place(column, px, nx)] as f32;
            }
        };
        for k in (0..pz).filter(|&k| place(k, pz, nz) == z) {
            slice.load(ny / 2 * nx, row);
            sample(row, &mut coronal[k * px..][..px]);
            for (column, pixel) in sagittal[k * py..][..py].iter_mut().enumerate() {
                let mut voxel = [0.0];
                slice.load(place(column, py, ny) * nx + nx / 2, &mut voxel);
                *pixel = voxel[0] as f32;
            }
        }
        if z == nz / 2 {
            for (column, pixels) in axial.chunks_exact_mut(px).enumerate() {
                slice.load(place(column, py, ny) * nx, row);
                sample(row, pixels);
            }
        }
    }

    /// The intensities that are shown black and white: the 1st and 99th percentile of the finite pixels.
    fn window(&self) -> (f32, f32) {
        let mut pixels: Vec<f32> = self.slices.iter().flatten().copied().collect();
        pixels.retain(|pixel| pixel.is_finite());
        if pixels.is_empty() {
            return (0.0, 1.0);
        }
        let last = pixels.len() - 1;
        let mut at = |place: usize| *pixels.select_nth_unstable_by(place, f32::total_cmp).1;
        (at(last / 100), at(last - last / 100))
    }
}

/// The picture as PNG: above the slices before, below those after, both in the grey levels of those before.
fn png(before: &Views, after: &Views) -> io::Result<Vec<u8>> {
    let [x, y, z] = before.pixels;
    let height = y.max(z);
    let size = [y + 2 * x + 2 * GAP, 2 * height + GAP];
    let mut grey = vec![0; size[0] * size[1]];
    let (black, white) = before.window();
    let scale = 255.0 / (white - black).max(f32::MIN_POSITIVE);
    for (top, views) in [(0, before), (height + GAP, after)] {
        let mut left = 0;
        for (slice, width) in views.slices.iter().zip([y, x, x]) {
            let rows = slice.len() / width;
            let down = top + (height - rows) / 2;
            for (row, pixels) in slice.chunks_exact(width).rev().enumerate() {
                let to = &mut grey[(down + row) * size[0] + left..][..width];
                for (grey, pixel) in to.iter_mut().zip(pixels) {
                    // Rounded; NaN becomes 0.
                    *grey = ((pixel - black) * scale + 0.5) as u8;
                }
            }
            left += width + GAP;
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, size[0] as u32, size[1] as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Up);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&grey)?;
    writer.finish()?;
    Ok(file)
}

/// Writes the picture of a result, whose path `below` the output folder names it. Returns its name.
///
/// # Errors
/// The file system's.
pub(super) fn write(output: &Path, below: &Path, before: &Views, after: &Views) -> io::Result<String> {
    let name = name(below);
    let path = Path::new(RECORDS).join(PICTURES).join(&name);
    let own = path.components().count() - 1;
    let path = output.join(path);
    let folder = Folder::open(path.parent().unwrap_or(output), Folders::Own(own))?;
    let mut part = PartFile::create(&folder)?;
    part.file().write_all(&png(before, after)?)?;
    part.publish(path.file_name().unwrap_or_default(), Expected::Anything)?;
    Ok(name)
}

/// The name of a result's picture, below the folder of pictures.
fn name(below: &Path) -> String {
    format!("{}.png", below.to_string_lossy())
}
