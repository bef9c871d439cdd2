//! Tests of the programs in `examples/`.

use std::path::{Path, PathBuf};

use niimpi::image_io::{Image, ImageReader, ImageWriter};
use niimpi::volume::{Datatype, Volume};

#[allow(dead_code, reason = "the test calls the same function as main")]
#[path = "../examples/read_headers.rs"]
mod read_headers;
#[allow(dead_code, reason = "the test calls the same function as main")]
#[path = "../examples/smooth_one.rs"]
mod smooth_one;

/// An image with one bright voxel.
fn image(folder: &Path) -> PathBuf {
    let mut volume = Volume::zeros(&[21, 21, 21], Datatype::Float32).with_voxel_size_mm([2.0; 3]);
    volume.view_mut::<f32>().unwrap()[[10, 10, 10]] = 1000.0;
    let path = folder.join("point.nii.gz");
    ImageWriter::new()
        .sync(false)
        .write(&path, &Image::new(volume))
        .unwrap();
    path
}

#[test]
fn smooth_one_spreads_a_point() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (image(folder.path()), folder.path().join("smooth.nii.gz"));
    smooth_one::smooth(&input, &output, 6.0).unwrap();
    let mut image = Image::default();
    ImageReader::new().read(&output, &mut image).unwrap();
    let view = image.volume.view::<f32>().unwrap();
    assert!(view[[10, 10, 10]] < 100.0 && view[[9, 10, 10]] > 10.0);
    assert!((view.sum() - 1000.0).abs() < 0.1);
}

#[test]
fn read_headers_describes_images_and_fails_for_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let input = image(folder.path());
    let text = read_headers::describe(&input).unwrap();
    assert!(
        text.contains("point.nii.gz: float32 [21, 21, 21], 2 × 2 × 2 mm"),
        "{text}"
    );
    let error = read_headers::describe(&folder.path().join("missing.nii")).unwrap_err();
    assert!(error.to_string().contains("no such file"));
}
