//! Launching: starts runs of this program as child processes and waits for them.

pub mod child;
pub mod mpirun;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use child::{Ended, Limits};
use mpirun::Launcher;

/// A run to start on this machine.
#[derive(Clone, Debug)]
pub struct LocalRun {
    /// Arguments of the program (command, options, inputs, output), except those of the other fields.
    pub words: Vec<OsString>,
    pub ranks: usize,
    /// Workers of each rank.
    pub threads: usize,
    /// Path of its report.
    pub report: PathBuf,
    /// File for its standard output and error.
    pub log: PathBuf,
}

impl LocalRun {
    /// The program and its arguments: a rank's command line.
    pub fn command(&self) -> Result<Vec<OsString>, String> {
        let mut words = vec![program()?];
        words.extend(self.words.iter().cloned());
        words.extend(["--threads".into(), self.threads.to_string().into()]);
        words.extend(["--report".into(), self.report.clone().into()]);
        words.extend(["--progress".into(), "none".into()]);
        Ok(words)
    }
}

/// The file of this program.
pub fn program() -> Result<OsString, String> {
    let program = std::env::current_exe();
    let program = program.map_err(|error| format!("this program's own file cannot be found: {error}"))?;
    Ok(program.into())
}

/// Starts runs on this machine: with the launcher of the MPI that the program was built with, or directly
/// without MPI.
#[derive(Clone, Debug)]
pub struct LocalMachine {
    launcher: Option<Launcher>,
}

impl LocalMachine {
    /// Finds the launcher. `mpirun` is the one given by the user.
    pub fn new(mpirun: Option<&Path>, several_ranks: bool) -> Result<Self, String> {
        let launcher = match (crate::comm::library(), mpirun) {
            (None, _) if several_ranks => {
                return Err(
                    "this niimpi was built without MPI, so there is only one rank; build it with MPI or \
                     use --ranks 1"
                        .to_owned(),
                );
            }
            (None, _) => None,
            (Some(library), named) => match Launcher::find(&library, named) {
                Ok(launcher) => Some(launcher),
                Err(message) if several_ranks || named.is_some() => return Err(message),
                Err(_) => None,
            },
        };
        Ok(Self { launcher })
    }

    /// Whether runs of several ranks can be started.
    pub fn has_ranks(&self) -> bool {
        self.launcher.is_some()
    }

    /// Runs it and waits for its end.
    pub fn run(&self, run: &LocalRun, limits: &Limits<'_>) -> Result<Ended, String> {
        let launcher = self.launcher.as_ref();
        let mut words = launcher.map_or(Vec::new(), |launcher| launcher.words(run.ranks));
        words.extend(run.command()?);
        child::run(&words, &run.log, limits)
    }
}
