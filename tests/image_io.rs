//! Tests of image files: reading, writing, refusals and hostile files.

#[path = "image_io/fixture.rs"]
mod fixture;
#[path = "image_io/hostile.rs"]
mod hostile;
#[path = "image_io/reading.rs"]
mod reading;
#[path = "image_io/refusals.rs"]
mod refusals;
#[path = "image_io/writing.rs"]
mod writing;
