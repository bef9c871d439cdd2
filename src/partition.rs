//! Partition: costs and a number of parts → shares. Pure: no images, no ranks, no clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How the images are distributed among the ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Consecutive images per rank: rank 0 gets the first images of the list, the last rank the last
    Block,
    /// In turn: of R ranks, rank 0 gets images 1, 1 + R, 1 + 2R, …
    Cyclic,
    /// Largest first, each to the rank with the least work so far (estimated from header and file size)
    #[default]
    Size,
    /// No fixed shares: a rank with an idle worker requests the next image from rank 0, largest first
    Dynamic,
}

/// Whether ranks share images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Split {
    /// Images of 16 MiB and more if there are fewer images than ranks and it saves a fifth of the time, and
    /// images that exceed the memory of a rank
    #[default]
    Auto,
    /// All ranks share each image in turn; an image that cannot be split fails
    Always,
    /// Each image is processed by one rank
    Never,
}

impl Split {
    /// The name, as `--split` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Split::Auto => "auto",
            Split::Always => "always",
            Split::Never => "never",
        }
    }
}

impl Strategy {
    /// Whether shares depend on the images' costs, so that these have to be known.
    pub fn needs_costs(self) -> bool {
        matches!(self, Strategy::Size | Strategy::Dynamic)
    }

    /// The strategy's name, as `--strategy` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::Block => "block",
            Strategy::Cyclic => "cyclic",
            Strategy::Size => "size",
            Strategy::Dynamic => "dynamic",
        }
    }
}

/// Divides the items 0 .. `costs.len()` into `parts` parts; each item is in exactly one part. If there are
/// more parts than items, some are empty. `Dynamic` has no fixed shares and is partitioned like `Size`.
///
/// Every part is in processing order: `Size` largest first, the others as listed. `Size` is Graham's
/// longest-processing-time rule ("Bounds on Multiprocessing Timing Anomalies", 1969): its longest part is at
/// most 4/3 − 1/(3·parts) of the best possible. Equal costs keep the order of the list, so the result is the
/// same everywhere. A cost that is not a number counts as 0.
///
/// # Panics
/// If `parts` is 0.
pub fn partition(strategy: Strategy, costs: &[f64], parts: usize) -> Vec<Vec<usize>> {
    assert!(parts > 0, "there is no share without a part");
    partition_rest(strategy, costs, &vec![0.0; parts])
}

/// The same for parts that already have these loads, which only `Size` takes into account.
pub fn partition_rest(strategy: Strategy, costs: &[f64], loads: &[f64]) -> Vec<Vec<usize>> {
    let (count, parts) = (costs.len(), loads.len());
    match strategy {
        Strategy::Block => (0..parts)
            .map(|part| (part * count / parts..(part + 1) * count / parts).collect())
            .collect(),
        Strategy::Cyclic => (0..parts)
            .map(|part| (part..count).step_by(parts).collect())
            .collect(),
        Strategy::Size | Strategy::Dynamic => {
            let mut shares = vec![Vec::new(); parts];
            // The least loaded part first; among equals the one with fewer items, then the lower number.
            let mut loads: BinaryHeap<Reverse<(Cost, usize, usize)>> = (0..parts)
                .map(|part| Reverse((Cost(known(loads[part])), 0, part)))
                .collect();
            for item in largest_first(costs) {
                let Reverse((load, items, part)) = loads.pop().expect("there is a part");
                shares[part].push(item);
                loads.push(Reverse((Cost(load.0 + known(costs[item])), items + 1, part)));
            }
            shares
        }
    }
}

/// The items by decreasing cost; equal ones as listed.
pub fn largest_first(costs: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by(|&a, &b| known(costs[b]).total_cmp(&known(costs[a])));
    order
}

/// Largest over mean: 1 if all are equal, `parts` if one part has everything, 1 if all are 0.
pub fn imbalance(loads: impl IntoIterator<Item = f64>) -> f64 {
    let (mut sum, mut max, mut count) = (0.0, 0.0_f64, 0.0);
    for load in loads {
        sum += load;
        max = max.max(load);
        count += 1.0;
    }
    if sum > 0.0 { max * count / sum } else { 1.0 }
}

fn known(cost: f64) -> f64 {
    if cost.is_nan() { 0.0 } else { cost }
}

/// A cost with a total order.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Cost(pub f64);

impl Eq for Cost {}

impl PartialOrd for Cost {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cost {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    const ALL: [Strategy; 4] = [
        Strategy::Block,
        Strategy::Cyclic,
        Strategy::Size,
        Strategy::Dynamic,
    ];

    fn longest(shares: &[Vec<usize>], costs: &[f64]) -> f64 {
        let sum = |share: &Vec<usize>| share.iter().map(|&item| costs[item]).sum::<f64>();
        shares.iter().map(sum).fold(0.0, f64::max)
    }

    /// The minimum of the longest part over all ways to divide a few items.
    fn optimum(costs: &[f64], parts: usize) -> f64 {
        let ways = parts.pow(costs.len() as u32);
        let longest = |way: usize| {
            let mut loads = vec![0.0; parts];
            let mut way = way;
            for cost in costs {
                loads[way % parts] += cost;
                way /= parts;
            }
            loads.into_iter().fold(0.0, f64::max)
        };
        (0..ways).map(longest).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn grahams_own_example_meets_the_bound_exactly() {
        let costs = [5.0, 5.0, 4.0, 4.0, 3.0, 3.0, 3.0];
        let found = longest(&partition(Strategy::Size, &costs, 3), &costs);
        assert_eq!((found, optimum(&costs, 3)), (11.0, 9.0));
    }

    proptest! {
        #[test]
        fn every_item_is_in_exactly_one_share(
            costs in prop::collection::vec(0.0..1e6_f64, 0..200),
            parts in 1_usize..40,
        ) {
            for strategy in ALL {
                let shares = partition(strategy, &costs, parts);
                prop_assert_eq!(shares.len(), parts);
                let mut items: Vec<usize> = shares.concat();
                items.sort_unstable();
                prop_assert_eq!(items, (0..costs.len()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn size_keeps_grahams_bound(
            costs in prop::collection::vec(0.1..100.0_f64, 1..8),
            parts in 2_usize..5,
        ) {
            let ratio = longest(&partition(Strategy::Size, &costs, parts), &costs) / optimum(&costs, parts);
            prop_assert!(ratio <= 4.0 / 3.0 - 1.0 / (3.0 * parts as f64) + 1e-9, "{ratio}");
        }

        #[test]
        fn block_and_cyclic_counts_differ_by_one_at_most(count in 0_usize..500, parts in 1_usize..40) {
            for strategy in [Strategy::Block, Strategy::Cyclic] {
                let lengths: Vec<usize> =
                    partition(strategy, &vec![1.0; count], parts).iter().map(Vec::len).collect();
                let least = *lengths.iter().min().unwrap();
                prop_assert!(lengths.iter().all(|&length| length - least <= 1));
            }
        }
    }

    #[test]
    fn shares_are_what_their_names_say() {
        let costs = [1.0, 5.0, 1.0, 1.0, 4.0, 1.0];
        assert_eq!(
            partition(Strategy::Block, &costs, 2),
            [vec![0, 1, 2], vec![3, 4, 5]]
        );
        assert_eq!(
            partition(Strategy::Cyclic, &costs, 2),
            [vec![0, 2, 4], vec![1, 3, 5]]
        );
        assert_eq!(
            partition(Strategy::Size, &costs, 2),
            [vec![1, 2, 5], vec![4, 0, 3]]
        );
        assert_eq!(
            partition(Strategy::Size, &costs, 8)
                .iter()
                .filter(|share| share.is_empty())
                .count(),
            2
        );
    }

    #[test]
    fn equal_costs_are_shared_evenly_even_when_they_are_zero_or_unknown() {
        for cost in [0.0, 1.0, f64::NAN] {
            let lengths: Vec<usize> = partition(Strategy::Size, &[cost; 10], 4)
                .iter()
                .map(Vec::len)
                .collect();
            assert_eq!(lengths, [3, 3, 2, 2]);
        }
    }

    #[test]
    fn imbalance_is_max_over_mean() {
        assert_eq!(imbalance([2.0, 2.0]), 1.0);
        assert_eq!(imbalance([3.0, 1.0]), 1.5);
        assert_eq!(imbalance([4.0, 0.0, 0.0, 0.0]), 4.0);
        assert_eq!(imbalance([]), 1.0);
    }
}
