//! The command line: arguments → a validated configuration → the command. One file a subcommand.

mod smooth;
mod synth;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::comm::launcher::Launch;
use crate::run::EXIT_USAGE;

/// Smooths thousands of NIfTI brain images over MPI ranks, bit for bit as scipy.ndimage.gaussian_filter does
///
/// Start it with srun or mpirun for many ranks, or by itself for one. Exit codes, the same from every rank: 0 every image
/// is done, 1 some images failed and the rest is done, 2 wrong usage or set-up and nothing written, 75 interrupted
/// (--resume continues).
#[derive(Debug, Parser)]
#[command(name = "niimpi", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Smooth(Box<smooth::SmoothArgs>),
    Synth(synth::SynthArgs),
}

impl Cli {
    /// Parses the process's arguments. Usage errors, `--help` and `--version` are answered here, before MPI is started,
    /// by the first process of a launch alone.
    ///
    /// # Errors
    /// The exit code with which to end at once.
    pub fn parse_or_exit_code() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            // clap's own code for a usage error is 2 as well, and 0 for --help and --version.
            Launch::say_error(|| drop(error.print()));
            ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 })
        })
    }

    /// Does what the arguments say and returns the exit code.
    pub fn run(self) -> ExitCode {
        ExitCode::from(match self.command {
            Command::Smooth(args) => smooth::run(*args),
            Command::Synth(args) => synth::run(&args),
        })
    }

    /// The whole command line's definition, for documentation.
    pub fn definition() -> clap::Command {
        Self::command()
    }
}
