//! Groups: which ranks share which images.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::partition::Split;

/// Consecutive ranks that share an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::run) struct Group {
    /// The image's index in the run.
    pub(in crate::run) place: usize,
    /// The leader.
    pub(in crate::run) first: usize,
    pub(in crate::run) count: usize,
    /// Whether one rank cannot process it: it has to be split even if that is not faster.
    pub(in crate::run) always: bool,
}

impl Group {
    /// The ranks.
    pub(in crate::run) fn ranks(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    /// All but the leader.
    pub(in crate::run) fn others(&self) -> Range<usize> {
        self.first + 1..self.first + self.count
    }

    /// The rank that makes the last section of each round. It inflates a compressed image for all.
    pub(in crate::run) fn last(&self) -> usize {
        self.first + self.count - 1
    }

    /// The rank that makes the section with this number.
    pub(in crate::run) fn rank_of(&self, section: usize) -> usize {
        self.first + section % self.count
    }

    /// The sections that a rank makes.
    pub(in crate::run) fn sections_of<'a, T>(
        &self,
        rank: usize,
        sections: &'a [T],
    ) -> impl Iterator<Item = &'a T> {
        sections.iter().skip(rank - self.first).step_by(self.count)
    }
}

/// Number of shared images that a rank records.
pub(in crate::run) fn led_by(groups: &[Group], rank: usize) -> usize {
    groups.iter().filter(|group| group.first == rank).count()
}

/// The groups of a run. With `always`, and for an image that does not fit into one rank, all ranks are a
/// group. If there are fewer other images than ranks, each large one has its own ranks.
pub(in crate::run) fn groups(
    split: Split,
    todo: &[usize],
    ranks: usize,
    is_large: impl Fn(usize) -> bool,
    exceeds_a_rank: impl Fn(usize) -> bool,
) -> Vec<Group> {
    if ranks < 2 || split == Split::Never {
        return Vec::new();
    }
    let of_all = |place: &usize| split == Split::Always || exceeds_a_rank(*place);
    let (of_all, others): (Vec<usize>, Vec<usize>) = todo.iter().partition(|place| of_all(place));
    let images = others.len();
    let own_ranks = others.into_iter().enumerate().map(|(nth, place)| Group {
        place,
        first: ranks * nth / images,
        count: ranks * (nth + 1) / images - ranks * nth / images,
        always: false,
    });
    let own_ranks = own_ranks.filter(|group| group.count > 1 && is_large(group.place));
    let of_all = of_all.into_iter().map(|place| Group {
        place,
        first: 0,
        count: ranks,
        always: true,
    });
    of_all.chain(own_ranks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_divided_evenly_among_fewer_images() {
        let of = |split, todo: &[usize], ranks| {
            let groups = groups(split, todo, ranks, |place| place > 3, |place| place > 8).into_iter();
            groups
                .map(|group| (group.place, group.first, group.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(Split::Auto, &[4, 7], 5), [(4, 0, 2), (7, 2, 3)]);
        assert_eq!(of(Split::Auto, &[4, 7], 2), []);
        assert_eq!(of(Split::Auto, &[2, 7], 5), [(7, 2, 3)]);
        assert_eq!(of(Split::Auto, &[4, 7], 3), [(7, 1, 2)]);
        assert_eq!(of(Split::Always, &[4, 7], 2), [(4, 0, 2), (7, 0, 2)]);
        assert_eq!(of(Split::Always, &[4], 1), []);
        assert_eq!(of(Split::Never, &[4], 3), []);
        assert_eq!(of(Split::Auto, &[], 3), []);
        // Place 9 does not fit into one rank.
        assert_eq!(of(Split::Auto, &[4, 5, 9], 2), [(9, 0, 2)]);
        assert_eq!(of(Split::Auto, &[4, 9], 2), [(9, 0, 2), (4, 0, 2)]);
        assert_eq!(of(Split::Auto, &[9], 1), []);
        assert_eq!(of(Split::Never, &[9], 2), []);
    }
}
