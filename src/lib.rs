//! niimpi filters thousands of NIfTI images over MPI ranks. The library exports three modules, which need no
//! MPI:
//!
//! - [`volume`]: voxels in the type of their file, shape, voxel size
//! - [`image_io`]: NIfTI headers, reading, and atomic writing of files
//! - [`filter`]: the filters, bit-identical to SciPy
//!
//! The other modules are internal and can change at any time. In order of dependency:
//!
//! | module | contents |
//! |---|---|
//! | `text`, `columns`, `console`, `parallel`, `process`, `atomic_file` | shared by all modules, independent of images |
//! | `units`, `partition` | sigma in voxels and FWHM in mm; costs and ranks → shares |
//! | `comm` | messages between ranks: serial, threads, MPI |
//! | `slurm`, `resources`, `logging`, `fault` | the job's environment and accounting; CPUs and memory; log lines; faults for tests |
//! | [`volume`], [`image_io`], [`filter`], `phantom` | voxels, files, filters, deterministic test images |
//! | `images` | inputs → an ordered list of images with output names |
//! | `job` | one image from start to end: steps, outcome, memory, cost, threads |
//! | `report`, `journal` | records of outcomes: the report at the end, the journal during the run |
//! | `run` | the work of every rank, written against `comm::Communicator` |
//! | `launch`, `study` | runs as child processes; scaling studies and plans |
//! | `cli` | arguments → validated options → one call |

#[cfg(not(unix))]
compile_error!("niimpi runs on Unix only");

pub mod filter;
pub mod image_io;
pub mod volume;

// The program, its tests and its benchmarks are separate crates and need these modules. Other crates must not
// use them.
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod comm;
#[doc(hidden)]
pub mod images;
#[doc(hidden)]
pub mod job;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod partition;
#[doc(hidden)]
pub mod phantom;
#[doc(hidden)]
pub mod report;
#[doc(hidden)]
pub mod resources;
#[doc(hidden)]
pub mod run;

pub(crate) mod atomic_file;
pub(crate) mod columns;
pub(crate) mod console;
pub(crate) mod fault;
pub(crate) mod launch;
pub(crate) mod logging;
pub(crate) mod parallel;
pub(crate) mod process;
pub(crate) mod signals;
pub(crate) mod slurm;
pub(crate) mod study;
pub(crate) mod text;
pub(crate) mod units;
