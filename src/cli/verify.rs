//! `niimpi verify`: its arguments.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::comm;
use crate::logging::LogArgs;
use crate::run::{self, VerifyRequest};

/// What results are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Against {
    /// The journals below the folder
    Journal,
}

/// Read results again and say which are damaged
///
/// Every image below the folder is read to its end: its header must be valid, its voxels complete, and gzip's
/// checksum and length right. Start it with srun or mpirun to share the reading among ranks. The exit code is
/// 1 if anything is wrong.
#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// The folder of the results
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// Compare with what was recorded when the results were written, so that missing and exchanged ones are
    /// found as well
    ///
    /// Images that failed or were left unfinished count as wrong too.
    #[arg(long, value_enum, value_name = "WHAT")]
    against: Option<Against>,

    /// Remove results that are not what was recorded, so that --resume makes them again
    #[arg(long, requires = "against")]
    remove: bool,

    /// Workers of each rank [default: the CPUs that the rank was given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,

    #[command(flatten)]
    log: LogArgs,
}

/// Verifies on all ranks. The exit code is the same on every rank.
pub(super) fn run(args: VerifyArgs) -> u8 {
    let log = args.log;
    let request = VerifyRequest {
        output: args.output,
        against_journal: args.against == Some(Against::Journal),
        remove: args.remove,
        threads: args.threads.map(usize::from),
        quiet: log.quiet,
    };
    let (world, span) = match super::start_ranks(&log, &request.values()) {
        Ok(started) => started,
        Err(exit_code) => return exit_code,
    };
    let exit_code = span.in_scope(|| run::verify(&world, &request));
    comm::finish(world, exit_code)
}
