//! Faults on request: a test asks a rank to panic or to fail, to show that the other ranks end with it.
//!
//! `NIIMPI_TEST_FAULT=panic@1:2` makes rank 1 panic when it begins its second image; `fail@0:0` makes rank 0 fail in
//! set-up, after MPI has started. Without the variable nothing here does anything.

/// What is to go wrong, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The rank panics when it begins its n-th image.
    Panic {
        /// The rank.
        rank: usize,
        /// Which of its images, from 1.
        image: usize,
    },
    /// The rank meets a fatal error in set-up.
    FailSetup {
        /// The rank.
        rank: usize,
    },
}

impl Fault {
    /// Reads the environment.
    pub fn from_env() -> Option<Self> {
        Self::parse(&std::env::var("NIIMPI_TEST_FAULT").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, place) = text.split_once('@')?;
        let (rank, image) = place.split_once(':')?;
        let (rank, image) = (rank.parse().ok()?, image.parse().ok()?);
        match kind {
            "panic" => Some(Fault::Panic { rank, image }),
            "fail" => Some(Fault::FailSetup { rank }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        assert_eq!(
            Fault::parse("panic@1:2"),
            Some(Fault::Panic { rank: 1, image: 2 })
        );
        assert_eq!(Fault::parse("fail@0:0"), Some(Fault::FailSetup { rank: 0 }));
        assert_eq!(Fault::parse("sleep@0:0"), None);
    }
}
