//! Fault injection: a test makes a rank panic or fail, to show that the other ranks end with it.
//!
//! `NIIMPI_TEST_FAULT=panic@1:2` makes rank 1 panic when it starts its second image. `fail@0:0` makes rank 0
//! fail in set-up, after MPI has started. `slow@0:500` makes every image of rank 0 and higher ranks take 500
//! ms longer. `apart@1:0` makes rank 1 find no unfinished file of another rank. Without the variable, nothing
//! is injected.

use std::time::Duration;

/// The kind and time of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The rank panics when it starts its n-th image.
    Panic { rank: usize, image: usize },
    /// The rank has a fatal error in set-up.
    FailSetup { rank: usize },
    /// This rank and higher ranks wait before each image.
    Slow { rank: usize, wait_ms: u64 },
    /// The rank does not find the unfinished files of other ranks, as if its output folder were its own.
    Apart { rank: usize },
}

impl Fault {
    /// Reads the environment.
    pub fn from_env() -> Option<Self> {
        Self::parse(&std::env::var("NIIMPI_TEST_FAULT").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (kind, place) = text.split_once('@')?;
        let (rank, number) = place.split_once(':')?;
        let (rank, number): (usize, u32) = (rank.parse().ok()?, number.parse().ok()?);
        match kind {
            "panic" => Some(Fault::Panic {
                rank,
                image: number as usize,
            }),
            "fail" => Some(Fault::FailSetup { rank }),
            "apart" => Some(Fault::Apart { rank }),
            "slow" => Some(Fault::Slow {
                rank,
                wait_ms: number.into(),
            }),
            _ => None,
        }
    }
}

/// How long niimpi waits for caches and heartbeats: `default`, or the value of `NIIMPI_TEST_WAIT_MS`.
pub(crate) fn wait_limit(default: Duration) -> Duration {
    let asked = std::env::var("NIIMPI_TEST_WAIT_MS").ok();
    let asked_ms = asked.and_then(|text| text.parse().ok());
    asked_ms.map_or(default, Duration::from_millis)
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
        assert_eq!(
            Fault::parse("slow@2:500"),
            Some(Fault::Slow {
                rank: 2,
                wait_ms: 500
            })
        );
        assert_eq!(Fault::parse("apart@3:0"), Some(Fault::Apart { rank: 3 }));
        assert_eq!(Fault::parse("sleep@0:0"), None);
    }
}
