//! `niimpi status`: how far a run has come, from its journals.

use std::path::PathBuf;

use clap::Args;

use crate::console;
use crate::journal::status::Status;
use crate::run::{EXIT_DONE, EXIT_USAGE};
use crate::text::printable;

/// Show how far a run has come, also while it goes on
///
/// Reads the journals below the output folder; it needs no MPI and disturbs nobody, so it may run on a login node. For each
/// rank: images done, failed and in hand, images a second, and whether it has died or gone quiet; for the whole run also the
/// time left.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The output folder of the run
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

/// Prints the status; exit code 2 when there is no journal to read.
pub(super) fn run(args: &StatusArgs) -> u8 {
    let folder = printable(&args.output.display().to_string());
    match Status::load(&args.output) {
        Ok(status) if status.runs.is_empty() => {
            console::error(format_args!(
                "{folder}: contains no journal of a run; give the --output folder of a run"
            ));
            EXIT_USAGE
        }
        Ok(status) => match console::print(status.render()) {
            Ok(()) => EXIT_DONE,
            Err(error) => {
                console::error(format_args!("cannot write to standard output: {error}"));
                EXIT_USAGE
            }
        },
        Err(error) => {
            console::error(format_args!("{folder}: cannot read the journals: {error}"));
            EXIT_USAGE
        }
    }
}
