//! mpirun: which one belongs to the MPI that this program was built with, and the words that each flavour wants.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whose launcher it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// Open MPI's mpirun.
    OpenMpi,
    /// MPICH's Hydra, and those made from it (Intel MPI).
    Hydra,
}

impl Flavour {
    /// The launcher that starts programs of this MPI library, by the library's own description of itself.
    fn of_library(description: &str) -> Option<Self> {
        let description = description.to_lowercase();
        if description.contains("open mpi") {
            Some(Flavour::OpenMpi)
        } else if ["mpich", "intel", "mvapich"]
            .iter()
            .any(|name| description.contains(name))
        {
            Some(Flavour::Hydra)
        } else {
            None
        }
    }

    /// Whose launcher says this when asked for its `--version`.
    fn of_launcher(version: &str) -> Option<Self> {
        let version = version.to_lowercase();
        if ["open mpi", "open-mpi", "openrte"]
            .iter()
            .any(|name| version.contains(name))
        {
            Some(Flavour::OpenMpi)
        } else if ["hydra", "mpich", "intel(r) mpi"]
            .iter()
            .any(|name| version.contains(name))
        {
            Some(Flavour::Hydra)
        } else {
            None
        }
    }
}

/// A launcher that fits this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launcher {
    program: PathBuf,
    flavour: Flavour,
    as_root: bool,
}

/// Names under which launchers are installed. Where two MPIs live side by side, plain `mpirun` may be either's.
const NAMES: [&str; 6] = [
    "mpirun",
    "mpiexec",
    "mpirun.openmpi",
    "mpirun.mpich",
    "mpiexec.hydra",
    "orterun",
];

impl Launcher {
    /// The launcher of the MPI that describes itself as `library`: `named` if the user names one, else the first of the
    /// usual names on the PATH that proves to be of the same flavour.
    ///
    /// # Errors
    /// A sentence saying what was looked for.
    pub fn find(library: &str, named: Option<&Path>) -> Result<Self, String> {
        let Some(flavour) = Flavour::of_library(library) else {
            return Err(format!(
                "it is not known which launcher starts programs of {library}; niimpi knows those of Open MPI and MPICH"
            ));
        };
        let proves = |program: &Path| {
            let output = Command::new(program).arg("--version").output().ok()?;
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            Flavour::of_launcher(&text)
        };
        let launcher = |program: &Path| Self {
            program: program.to_owned(),
            flavour,
            as_root: nix::unistd::geteuid().is_root(),
        };
        if let Some(named) = named {
            return match proves(named) {
                Some(found) if found == flavour => Ok(launcher(named)),
                Some(_) => Err(format!(
                    "--mpirun {}: is another MPI's launcher; this niimpi was built with {library}",
                    named.display()
                )),
                None => Err(format!(
                    "--mpirun {}: cannot be asked for its version, or is no launcher that niimpi knows",
                    named.display()
                )),
            };
        }
        NAMES
            .iter()
            .map(Path::new)
            .find(|name| proves(name) == Some(flavour))
            .map(launcher)
            .ok_or_else(|| {
                format!(
                    "no launcher of {library} is on the PATH (looked for {}); load its module, or name it with --mpirun",
                    NAMES.join(", ")
                )
            })
    }

    /// The words that put `ranks` ranks on this machine, however few CPUs it has. Ranks are not bound to cores, so that a
    /// rank's workers may use all CPUs.
    pub fn words(&self, ranks: usize) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.program.clone().into()];
        if self.flavour == Flavour::OpenMpi {
            words.extend(["--oversubscribe", "--bind-to", "none"].map(OsString::from));
            if self.as_root {
                words.push("--allow-run-as-root".into());
            }
        }
        words.extend(["-n".into(), ranks.to_string().into()]);
        words
    }

    /// Its name and flavour.
    pub fn description(&self) -> String {
        let flavour = match self.flavour {
            Flavour::OpenMpi => "Open MPI",
            Flavour::Hydra => "MPICH",
        };
        format!("{} ({flavour})", self.program.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flavours_are_told_by_what_they_say() {
        let cases = [
            (
                "Open MPI v4.1.4",
                "mpirun (Open MPI) 4.1.4\n\nReport bugs to…",
                Flavour::OpenMpi,
            ),
            (
                "MPICH Version: 4.0.2",
                "HYDRA build details:\n    Version: 4.0.2",
                Flavour::Hydra,
            ),
            (
                "Intel(R) MPI Library 2021.10",
                "Intel(R) MPI Library for Linux* OS, Version 2021.10",
                Flavour::Hydra,
            ),
        ];
        for (library, launcher, flavour) in cases {
            assert_eq!(Flavour::of_library(library), Some(flavour), "{library}");
            assert_eq!(Flavour::of_launcher(launcher), Some(flavour), "{launcher}");
        }
        assert_eq!(Flavour::of_library("SGI MPT 2.1"), None);
        assert_eq!(Flavour::of_launcher("mpirun: unknown option"), None);
    }

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
            words(Flavour::OpenMpi, true),
            "mpirun --oversubscribe --bind-to none --allow-run-as-root -n 4"
        );
        assert_eq!(
            words(Flavour::OpenMpi, false),
            "mpirun --oversubscribe --bind-to none -n 4"
        );
        assert_eq!(words(Flavour::Hydra, true), "mpirun -n 4");
    }

    #[test]
    fn a_library_without_a_known_launcher_is_named() {
        let error = Launcher::find("SGI MPT 2.1", None).unwrap_err();
        assert!(error.contains("SGI MPT 2.1"), "{error}");
        let error = Launcher::find("Open MPI v4", Some(Path::new("/no/such/mpirun"))).unwrap_err();
        assert!(error.contains("/no/such/mpirun"), "{error}");
    }
}
