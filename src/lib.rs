//! niimpi filters thousands of NIfTI images over MPI ranks. As a library it offers three modules, which need
//! no MPI:
//!
//! - [`volume`]: voxels in the type of their file, shape, voxel size
//! - [`image_io`]: NIfTI headers, reading, and writing complete files or none
//! - [`filter`]: the filters, bit for bit SciPy's
//!
//! The other modules are the program's own and may change at any time. In the order of dependency:
//!
//! | module | what it holds |
//! |---|---|
//! | `text`, `columns`, `console`, `parallel`, `atomic_file`, `process` | shared by all modules, independent of images |
//! | `units`, `partition` | sigma in voxels and FWHM in mm; costs and ranks → shares |
//! | `slurm`, `resources`, `logging`, `fault` | the job's environment and accounts; CPUs and memory; log lines; faults for tests |
//! | [`volume`], [`image_io`], [`filter`], `phantom` | voxels, files, filters, deterministic test images |
//! | `images` | inputs → an ordered list of images with output names |
//! | `job` | one image from start to end: steps, outcome, memory, cost, threads |
//! | `comm` | messages between ranks: serial, threads, MPI |
//! | `report`, `journal` | what listens to outcomes: the report at the end, the journal while it happens |
//! | `run` | what every rank does, written once against `comm::Communicator` |
//! | `launch`, `study` | runs as children of this program; scaling studies and plans |
//! | `cli` | arguments → validated options → one call |

#[cfg(not(unix))]
compile_error!("niimpi runs on Unix only");

pub mod filter;
pub mod image_io;
pub mod volume;

// The program, its tests and its benchmarks are crates of their own: they need these, nobody else should.
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
pub(crate) mod slurm;
pub(crate) mod study;
pub(crate) mod text;
pub(crate) mod units;
