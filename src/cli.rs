//! The command line: arguments → a validated configuration → the command. One file per subcommand.

mod bids;
mod bids_app;
mod devices;
mod filter;
mod inputs;
mod job;
mod plan;
mod report;
mod scaling;
mod status;
mod synth;
mod verify;
mod version;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::comm::launcher::Launch;
use crate::comm::{self, Communicator, ROOT, StartError};
use crate::console;
use crate::logging::{self, LogArgs};
use crate::resources;
use crate::run::{self, EXIT_NO_MPI, EXIT_USAGE};

/// Filter thousands of NIfTI brain images on many CPUs or nodes, with the results of the programs you know
///
/// Start niimpi with srun or mpirun for many ranks, or alone for one. Exit codes, the same from every rank: 0
/// every image is done; 1 some images failed, the others are done; 2 wrong usage or set-up, nothing was
/// written; 70 MPI does not start; 75 interrupted, --resume continues. Any other code: a rank crashed,
/// --resume continues. The call of a BIDS App, niimpi BIDS_DIR OUTPUT_DIR participant [OPTIONS], is the same
/// as niimpi smooth BIDS_DIR --bids --output OUTPUT_DIR [OPTIONS].
// The help prints this text as it is: [OPTIONS] is no link.
#[allow(rustdoc::broken_intra_doc_links)]
#[derive(Debug, Parser)]
#[command(name = "niimpi", version, disable_version_flag = true, max_term_width = 100)]
#[command(after_help = "Example: mpirun -n 2 niimpi smooth images --output smoothed --fwhm 6")]
pub struct Cli {
    /// Print the version; with -v also MPI, gzip codec, devices, CPU features and commit
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Filter(filter::FilterCommand),
    #[command(after_help = "Example: niimpi plan images --output smoothed --fwhm 6 --write job.sbatch")]
    Plan(Box<plan::PlanArgs>),
    #[command(
        after_help = "Example: niimpi scaling images --sigma 2 --sizes 10,100 --ranks 1,2 --output study"
    )]
    Scaling(Box<scaling::ScalingArgs>),
    #[command(after_help = "Example: niimpi synth images --count 20 --datatype int16")]
    Synth(synth::SynthArgs),
    #[command(after_help = "Example: niimpi report show run.json --format markdown")]
    Report(report::ReportArgs),
    #[command(after_help = "Example: niimpi status smoothed")]
    Status(status::StatusArgs),
    #[command(after_help = "Example: niimpi devices")]
    Devices(devices::DevicesArgs),
    #[command(after_help = "Example: mpirun -n 4 niimpi verify smoothed --against journal")]
    Verify(verify::VerifyArgs),
}

impl Cli {
    /// Parses the process's arguments. Prints usage errors, `--help` and `--version` before MPI starts. Only
    /// the first process of a launch prints them.
    ///
    /// # Errors
    /// The exit code if the process should end now.
    pub fn parse_or_exit_code() -> Result<Self, ExitCode> {
        let args: Vec<String> = std::env::args_os()
            .skip(1)
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        if version::details_wanted(&args) {
            let _ = console::print(version::details());
            return Err(ExitCode::SUCCESS);
        }
        let words = bids_app::as_filter(&Self::command(), std::env::args_os().collect());
        let matches = words.and_then(|words| Self::command().try_get_matches_from(words));
        let parsed = matches.and_then(|matches| {
            filter::refuse_fixed(&matches)?;
            Self::from_arg_matches(&matches)
        });
        parsed.map_err(|mut error| {
            let takes_filter = matches!(args.first().map(String::as_str), Some("plan" | "scaling"));
            name_all_widths(&mut error, takes_filter);
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
        run::prepare_process();
        let exit_code = match self.command {
            Command::Filter(command) => Ok(command.run()),
            Command::Plan(args) => plan::run(&args),
            Command::Scaling(args) => scaling::run(&args),
            Command::Synth(args) => synth::run(&args),
            Command::Report(args) => report::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Devices(args) => devices::run(&args),
            Command::Verify(args) => Ok(verify::run(args)),
        };
        ExitCode::from(exit_code.unwrap_or_else(|message| {
            console::error(message);
            EXIT_USAGE
        }))
    }
}

/// Adds the alternatives of `--sigma` to an error about a missing width, because clap names `--sigma` only.
/// `takes_filter`: whether the command has `--filter`.
fn name_all_widths(error: &mut clap::Error, takes_filter: bool) {
    const IN_MM: &str = "--fwhm <MM[,Y,Z]>, with --like also --sigma-mm <MM[,Y,Z]>";
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
        return;
    };
    let named = missing.iter().map(|arg| match arg.starts_with("--sigma ") {
        true if takes_filter => {
            format!("{arg} (in voxels), {IN_MM} or --filter <'COMMAND OPTIONS'>")
        }
        true => format!("{arg} (in voxels), {IN_MM}"),
        false => arg.clone(),
    });
    let named = ContextValue::Strings(named.collect());
    error.insert(ContextKind::InvalidArg, named);
}

/// Starts the ranks and their logging, and compares what they were asked to do. Collective.
///
/// # Errors
/// The exit code with which every rank ends, when MPI does not start, when the requests differ, or when a
/// rank cannot write its log file. The cause is printed.
fn start_ranks(log: &LogArgs, request: &comm::Request) -> Result<(comm::World, tracing::Span), u8> {
    let (world, warning) = comm::start().map_err(|error| {
        let (message, exit_code) = match error {
            StartError::Launch(message) => (message, EXIT_USAGE),
            StartError::Mpi(message) => (message, EXIT_NO_MPI),
        };
        Launch::say_error(|| console::error(&message));
        exit_code
    })?;
    let started = comm::refuse_differences(&world, request).and_then(|()| {
        // One rank's trouble with its log file is everyone's: all end before anything is written.
        comm::agree(&world, logging::start(log, world.rank(), &resources::host_name()))
    });
    match started {
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
            Err(comm::finish(world, EXIT_USAGE))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_help_ends_with_an_example_that_parses() {
        let mut left = vec![Cli::command()];
        left[0].build();
        while let Some(command) = left.pop() {
            let name = command.get_name().to_owned();
            if name == "help" {
                continue;
            }
            let example = command
                .get_after_help()
                .unwrap_or_else(|| panic!("{name} has no example"));
            let example = example.to_string();
            let line = example
                .strip_prefix("Example: ")
                .expect("an example begins with its name");
            let words = line.split_whitespace().skip_while(|word| *word != "niimpi");
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
            left.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
