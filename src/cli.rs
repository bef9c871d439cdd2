//! The command line: arguments → a validated configuration → the command. One file a subcommand.

mod plan;
mod report;
mod scaling;
mod smooth;
mod smoothing;
mod status;
mod synth;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::comm::launcher::Launch;
use crate::comm::{self, Communicator, ROOT};
use crate::console;
use crate::logging::{self, LogArgs};
use crate::resources;
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
    Plan(Box<plan::PlanArgs>),
    Scaling(Box<scaling::ScalingArgs>),
    Synth(synth::SynthArgs),
    Report(report::ReportArgs),
    Status(status::StatusArgs),
    Verify(verify::VerifyArgs),
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
            Launch::say_error(|| match error.use_stderr() {
                true => console::write_error(&format!("niimpi: {}", error.render())),
                false => drop(error.print()),
            });
            ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 })
        })
    }

    /// Does what the arguments say and returns the exit code.
    pub fn run(self) -> ExitCode {
        ExitCode::from(match self.command {
            Command::Smooth(args) => smooth::run(*args),
            Command::Plan(args) => plan::run(&args),
            Command::Scaling(args) => scaling::run(&args),
            Command::Synth(args) => synth::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Verify(args) => verify::run(args),
        })
    }

    /// The whole command line's definition, for documentation.
    pub fn definition() -> clap::Command {
        Self::command()
    }
}

/// Starts the ranks and their logging. Collective.
///
/// # Errors
/// The exit code with which every rank ends, when MPI or one rank's log file cannot be had; the cause is told.
fn start_ranks(log: &LogArgs) -> Result<(comm::World, tracing::Span), u8> {
    let (world, warning) = comm::start().map_err(|message| {
        Launch::say_error(|| console::error(&message));
        EXIT_USAGE
    })?;
    let started = logging::start(log, world.rank(), &resources::host_name());
    // One rank's trouble with its log file is everyone's: all end before anything is written.
    match comm::agree(&world, started) {
        Ok(span) => {
            if let Some(warning) = warning {
                span.in_scope(|| tracing::warn!("{warning}"));
            }
            Ok((world, span))
        }
        Err(error) => {
            if world.rank() == ROOT {
                console::error(error);
            }
            Err(EXIT_USAGE)
        }
    }
}
