//! Differences between MPI libraries: launchers, Slurm's interface, and finalisation.

/// A kind of MPI library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MpiFlavour {
    OpenMpi,
    /// MPICH and MVAPICH.
    Mpich,
    /// Intel MPI, which is based on MPICH and uses the same launcher.
    Intel,
    Other,
}

impl MpiFlavour {
    /// The flavour of a library, from its version string.
    pub(crate) fn of_library(description: &str) -> Self {
        let description = description.to_lowercase();
        let is = |name: &str| description.contains(name);
        match () {
            () if is("open mpi") => Self::OpenMpi,
            () if is("intel") => Self::Intel,
            () if is("mpich") || is("mvapich") => Self::Mpich,
            () => Self::Other,
        }
    }

    /// The flavour of a launcher, from its `--version` output. Intel's counts as MPICH's, on which it is
    /// based.
    pub(crate) fn of_launcher(version: &str) -> Option<Self> {
        let version = version.to_lowercase();
        let is_one_of = |names: &[&str]| names.iter().any(|name| version.contains(name));
        match () {
            () if is_one_of(&["open mpi", "open-mpi", "openrte"]) => Some(Self::OpenMpi),
            () if is_one_of(&["hydra", "mpich", "intel(r) mpi"]) => Some(Self::Mpich),
            () => None,
        }
    }

    /// Whether a launcher of this flavour can start programs of this library's flavour.
    pub(crate) fn is_started_by(self, launcher: Self) -> bool {
        match self {
            Self::OpenMpi => launcher == Self::OpenMpi,
            Self::Mpich | Self::Intel => launcher == Self::Mpich,
            Self::Other => false,
        }
    }

    /// The value of `srun --mpi=` for this library.
    pub(crate) fn srun_interface(self) -> &'static str {
        match self {
            Self::OpenMpi | Self::Other => "pmix",
            Self::Mpich | Self::Intel => "pmi2",
        }
    }

    /// Options of its launcher to start any number of ranks on this machine without binding them to cores.
    pub(crate) fn placement_args(self, as_root: bool) -> &'static [&'static str] {
        match (self, as_root) {
            (Self::OpenMpi, false) => &["--oversubscribe", "--bind-to", "none"],
            (Self::OpenMpi, true) => &["--oversubscribe", "--bind-to", "none", "--allow-run-as-root"],
            _ => &[],
        }
    }

    /// Whether finalisation can hang: MPICH over UCX flushes connections to ranks that no longer process
    /// messages.
    #[cfg(any(feature = "mpi", test))]
    pub(crate) fn broken_finalize(self) -> bool {
        self == Self::Mpich
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_launchers_belong_together() {
        let cases = [
            (
                "Open MPI v4.1.4",
                "mpirun (Open MPI) 4.1.4\n\nReport bugs to…",
                "pmix",
            ),
            (
                "MPICH Version: 4.0.2",
                "HYDRA build details:\n    Version: 4.0.2",
                "pmi2",
            ),
            (
                "Intel(R) MPI Library 2021.10 for Linux* OS",
                "Intel(R) MPI Library for Linux* OS, Version 2021.10",
                "pmi2",
            ),
            ("MVAPICH2 Version      : 2.3.7", "HYDRA build details:", "pmi2"),
        ];
        for (library, launcher, interface) in cases {
            let flavour = MpiFlavour::of_library(library);
            let launcher = MpiFlavour::of_launcher(launcher).unwrap();
            assert!(flavour.is_started_by(launcher), "{library}");
            assert_eq!(flavour.srun_interface(), interface, "{library}");
        }
        let other = MpiFlavour::of_library("SGI MPT 2.1");
        assert_eq!(other, MpiFlavour::Other);
        assert!(!other.is_started_by(MpiFlavour::Mpich));
        assert_eq!(MpiFlavour::of_launcher("mpirun: unknown option"), None);
    }

    #[test]
    fn only_mpich_hangs_at_the_end() {
        let hangs = |library| MpiFlavour::of_library(library).broken_finalize();
        assert!(hangs("MPICH Version: 4.0.2"));
        assert!(!hangs("Open MPI v4.1.4") && !hangs("Intel(R) MPI Library 2021.10"));
    }
}
