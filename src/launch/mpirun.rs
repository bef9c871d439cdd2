//! mpirun: finds the launcher of the MPI that this program was built with, and the arguments of each flavour.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::comm::flavour::MpiFlavour;

/// A launcher that fits this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    program: PathBuf,
    flavour: MpiFlavour,
    as_root: bool,
}

/// Names under which launchers are installed. If two MPIs are installed, plain `mpirun` can belong to either.
const NAMES: [&str; 6] = [
    "mpirun",
    "mpiexec",
    "mpirun.openmpi",
    "mpirun.mpich",
    "mpiexec.hydra",
    "orterun",
];

impl Launcher {
    /// The launcher of the MPI with version string `library`: `named` if the user gives one, otherwise the
    /// first of the usual names on the PATH with the same flavour.
    pub fn find(library: &str, named: Option<&Path>) -> Result<Self, String> {
        let flavour = MpiFlavour::of_library(library);
        if flavour == MpiFlavour::Other {
            return Err(format!(
                "it is not known which launcher starts programs of {library}; niimpi knows those of Open \
                 MPI and MPICH"
            ));
        }
        let proves = |program: &Path| {
            let output = Command::new(program).arg("--version").output().ok()?;
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            MpiFlavour::of_launcher(&text)
        };
        let launcher = |program: &Path| Self {
            program: program.to_owned(),
            flavour,
            as_root: nix::unistd::geteuid().is_root(),
        };
        if let Some(named) = named {
            return match proves(named) {
                Some(found) if flavour.is_started_by(found) => Ok(launcher(named)),
                Some(_) => Err(format!(
                    "--mpirun {}: is another MPI's launcher; this niimpi was built with {library}",
                    named.display()
                )),
                None => Err(format!(
                    "--mpirun {}: does not print its version, or is not a launcher that niimpi supports",
                    named.display()
                )),
            };
        }
        NAMES
            .iter()
            .map(Path::new)
            .find(|name| proves(name).is_some_and(|found| flavour.is_started_by(found)))
            .map(launcher)
            .ok_or_else(|| {
                format!(
                    "no launcher of {library} is on the PATH (looked for {}); load its module, or name it \
                     with --mpirun",
                    NAMES.join(", ")
                )
            })
    }

    /// The arguments to start `ranks` ranks on this machine, even if it has fewer CPUs. Ranks are not bound
    /// to cores, so a rank's workers can use all CPUs.
    pub fn words(&self, ranks: usize) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.program.clone().into()];
        words.extend(
            self.flavour
                .placement_args(self.as_root)
                .iter()
                .map(OsString::from),
        );
        words.extend(["-n".into(), ranks.to_string().into()]);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_oversubscription_are_allowed_where_that_has_to_be_said() {
        let words = |flavour, as_root| {
            let launcher = Launcher {
                program: "mpirun".into(),
                flavour,
                as_root,
            };
            launcher
                .words(4)
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            words(MpiFlavour::OpenMpi, true),
            "mpirun --oversubscribe --bind-to none --allow-run-as-root -n 4"
        );
        assert_eq!(
            words(MpiFlavour::OpenMpi, false),
            "mpirun --oversubscribe --bind-to none -n 4"
        );
        assert_eq!(words(MpiFlavour::Mpich, true), "mpirun -n 4");
    }

    #[test]
    fn a_library_without_a_known_launcher_is_named() {
        let error = Launcher::find("SGI MPT 2.1", None).unwrap_err();
        assert!(error.contains("SGI MPT 2.1"), "{error}");
        let error = Launcher::find("Open MPI v4", Some(Path::new("/no/such/mpirun"))).unwrap_err();
        assert!(error.contains("/no/such/mpirun"), "{error}");
    }
}
