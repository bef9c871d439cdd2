//! `--shard`: one of several shards of a list, each processed by a separate run.

use std::fmt;
use std::str::FromStr;

use crate::partition::{self, Strategy};
use crate::slurm;

/// One of several shards of the list, each processed by a separate run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Number of this shard, from 1.
    pub number: usize,
    /// Number of shards.
    pub count: usize,
}

impl Shard {
    /// Indices of this shard's images, in list order. The strategy is the same as among ranks.
    pub(super) fn places(self, strategy: Strategy, costs_s: &[f64]) -> Vec<usize> {
        let mut places = partition::partition(strategy, costs_s, self.count).swap_remove(self.number - 1);
        places.sort_unstable();
        places
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Far more than the tasks of any array; each shard needs some memory on the root.
        const MOST: usize = 1_000_000;
        if text == "slurm" {
            let (number, count) = slurm::array_shard()?;
            return Ok(Self { number, count });
        }
        let parsed = text.split_once('/').and_then(|(number, count)| {
            Some(Self {
                number: number.parse().ok()?,
                count: count.parse().ok()?,
            })
        });
        parsed
            .filter(|shard| shard.number >= 1 && shard.number <= shard.count && shard.count <= MOST)
            .ok_or_else(|| {
                format!(
                    "give K/N with K from 1 to N and N up to {MOST}, such as 1/4, or slurm inside an array \
                     task"
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read() {
        assert_eq!("2/4".parse(), Ok(Shard { number: 2, count: 4 }));
        for wrong in ["0/4", "5/4", "4", "a/b", "1/0", "1/99999999999999", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
