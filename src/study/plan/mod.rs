//! Planning: from measurements on few images to the time and memory of many, and to the request that fits.
//!
//! | file | what it holds |
//! |---|---|
//! | `measured` | reports → samples of images and runs; refuses what cannot be fitted together |
//! | `pilot` | a few images of the list, smoothed here to measure |
//! | `listed` | the images that are planned for, by their headers alone |
//! | `model` | what an image costs, how workers slow each other, how far all that is uncertain |
//! | `spread` | how far measured times differ from what is expected: images, workers, runs |
//! | `memory` | what a rank holds |
//! | `root_work` | what rank 0 does for every image besides its own share, measured |
//! | `play` | the list played through a strategy |
//! | `predict` | nodes × ranks × threads → time with an interval, memory, core hours, efficiency |
//! | `recommend` | which of them, and why |
//! | `request` | what to ask of Slurm, and the batch script |
//! | `simulate` | from 1 to 4,096 ranks: speed-up, imbalance, where the file system saturates |
//! | `check` | predicted against used |
//! | `document` | the plan's JSON form |
//!
//! ```text
//! measured ← pilot · listed ← model, memory, root_work ← play ← predict ← recommend, request, simulate ← document ← check
//! ```

pub mod check;
pub mod document;
pub mod listed;
pub mod measured;
pub mod memory;
pub mod model;
pub mod pilot;
pub mod play;
pub mod predict;
pub mod recommend;
pub mod request;
pub mod root_work;
pub mod simulate;
mod spread;

/// How often the truth is to lie in an interval.
pub const COVERAGE: f64 = 0.9;
