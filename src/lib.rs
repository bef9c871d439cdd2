//! niimpi smooths thousands of NIfTI images over MPI ranks: a map of the modules, in dependency order.
//!
//! | module | what it holds | knows of |
//! |---|---|---|
//! | [`units`] | sigma in voxels, FWHM in mm, seconds and bytes for people | nothing |
//! | [`partition`] | costs and ranks → shares; pure | nothing |
//! | [`comm`] | what ranks say to each other: serial, threads, MPI | nothing |
//! | [`slurm`] | what a job's environment says; results never depend on it | nothing |
//! | [`volume`] | voxels in the file's own type, shape, voxel size | nothing |
//! | [`filter`] | the separable Gaussian, bit for bit scipy's | `volume`, `units` |
//! | [`image_io`] | NIfTI headers, the gzip codec, reading, atomic writing | `volume` |
//! | [`phantom`] | deterministic brain-like test images | `volume` |
//! | [`image_list`] | inputs → an ordered list of images with output names | `image_io` |
//! | [`image_job`] | one image's way: read → filter → write, each stage timed | `filter`, `image_io` |
//! | [`report`] | records, their merging, and their faces: table, JSON | nothing |
//! | [`run`] | what every rank does, written once against [`comm::Communicator`] | all of the above |
//! | [`cli`] | arguments → a validated configuration → `run` | all of the above |

pub mod filter;
pub mod image_io;
pub mod phantom;
pub mod units;
pub mod volume;
