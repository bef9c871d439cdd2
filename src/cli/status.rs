//! `niimpi status`: how far a run has come, from its journals.

use std::path::PathBuf;

use clap::Args;

use crate::console;
use crate::journal::status::Status;
use crate::run::EXIT_DONE;
use crate::text::printable;

/// Show the progress of a run, during the run or afterwards
///
/// Reads the journals in the output folder. It needs no MPI and does not disturb the run, so you can use it
/// on a login node. It prints for each rank the images done, failed and in progress, the images per second,
/// and whether the rank ended early or writes no more records. It prints for each run its shard of the list,
/// its Slurm job and the time left, and the totals over all shards.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The output folder of the run
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

/// Prints the status; exit code 2 when there is no journal to read.
pub(super) fn run(args: &StatusArgs) -> Result<u8, String> {
    let folder = printable(&args.output.display().to_string());
    let status =
        Status::load(&args.output).map_err(|error| format!("{folder}: cannot read the journals: {error}"))?;
    if status.runs.is_empty() {
        return Err(format!(
            "{folder}: contains no journal of a run; give the --output folder of a run"
        ));
    }
    console::print(status.render()).map_err(|error| format!("cannot write to standard output: {error}"))?;
    Ok(EXIT_DONE)
}
