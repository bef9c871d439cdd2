//! Image files: what is read and written, what is refused and why, and what hostile files do.

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
