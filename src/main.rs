//! The program: parse, run the command, return its exit code.

use std::process::ExitCode;

use niimpi::cli::Cli;

fn main() -> ExitCode {
    match Cli::parse_or_exit_code() {
        Ok(cli) => cli.run(),
        Err(exit_code) => exit_code,
    }
}
