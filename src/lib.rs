//! niimpi smooths thousands of NIfTI images over MPI ranks: a map of the modules, in dependency order.
//!
//! | module | what it holds | knows of |
//! |---|---|---|
//! | [`units`] | sigma in voxels and FWHM in mm, one from the other | nothing |
//! | [`partition`] | costs and ranks → shares; pure | nothing |
//! | `text` | figures and names as text, and back | nothing |
//! | `columns` | tables as lists of columns: terminal, Markdown, CSV | `text` |
//! | `parallel` | a parallel map on scoped threads | nothing |
//! | [`console`] | what a command prints to standard output and standard error | `text` |
//! | [`comm`] | what ranks say to each other: serial, threads, MPI | `console` |
//! | [`slurm`] | what a job's environment and its accounts say; results never depend on it | nothing |
//! | `process` | this process's name among all, and whether another lives | nothing |
//! | [`resources`] | what this process was given and has used: CPUs, CPU time, memory | `slurm` |
//! | [`logging`] | where log lines go, with rank and host on each | nothing |
//! | [`fault`] | faults that tests ask for | nothing |
//! | [`volume`] | voxels in the file's own type, shape, voxel size | nothing |
//! | [`filter`] | the separable Gaussian, bit for bit scipy's | `volume`, `units` |
//! | [`image_io`] | NIfTI headers, the gzip codec, reading, atomic writing | `volume`, `resources` |
//! | [`phantom`] | deterministic brain-like test images | `volume` |
//! | [`report`] | records, the merging of reports, and their faces: table, CSV, JSON, Markdown | `partition`, `slurm`, `volume` |
//! | [`images`] | inputs → an ordered list of images with output names | `image_io`, `report` |
//! | [`job`] | one image's way: read → filter → write, each stage timed | `filter`, `image_io`, `report` |
//! | [`journal`] | what each rank did, line by line below the output folder, and what that says later | `partition`, `report`, `resources`, `console` |
//! | [`run`] | what every rank does, written once against [`comm::Communicator`] | all of the above |
//! | [`launch`] | starting runs of this program as children: which mpirun, time limits | `comm` |
//! | [`study`] | scaling studies and plans: measurements → tables, plots, predictions, requests | `launch`, `run`, `report`, `slurm` |
//! | [`cli`] | arguments → a validated configuration → `run` | all of the above |

pub(crate) mod atomic_file;
pub mod cli;
pub(crate) mod columns;
pub mod comm;
pub mod console;
pub mod fault;
pub mod filter;
pub mod image_io;
pub mod images;
pub mod job;
pub mod journal;
pub mod launch;
pub mod logging;
pub(crate) mod parallel;
pub mod partition;
pub mod phantom;
pub(crate) mod process;
pub mod report;
pub mod resources;
pub mod run;
pub mod slurm;
pub mod study;
pub(crate) mod text;
pub mod units;
pub mod volume;
