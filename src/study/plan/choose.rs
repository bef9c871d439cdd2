//! Which images of the list the pilot smooths.

use std::collections::BTreeMap;

use super::listed::Listed;
use super::measured::ImageClass;

/// Which images stand for the list: of every class and size some, by their share, the one that takes the most
/// memory always. More than `count` where there are more classes than that.
pub(crate) fn choose(listed: &Listed, count: usize) -> Vec<usize> {
    let mut groups: BTreeMap<(ImageClass, u64), Vec<usize>> = BTreeMap::new();
    for (place, (_, features)) in listed.found.iter().enumerate() {
        groups
            .entry((features.class, features.voxels))
            .or_default()
            .push(place);
    }
    let largest = (0..listed.found.len())
        .max_by_key(|&place| (listed.found[place].1.memory_bytes, std::cmp::Reverse(place)));
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    // The classes with most images first; within a group, images from all over the list.
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let total: usize = groups.iter().map(Vec::len).sum();
    let mut chosen: Vec<usize> = largest.into_iter().collect();
    let mut classes_seen: Vec<ImageClass> = Vec::new();
    for group in &groups {
        let class = listed.found[group[0]].1.class;
        let share = (count * group.len()).div_euclid(total);
        let first_of_class = !classes_seen.contains(&class);
        // Two of each group tell its spread; a class without any could not be planned for.
        let wanted = share.max(if first_of_class || chosen.len() + 2 <= count {
            2
        } else {
            0
        });
        classes_seen.push(class);
        let wanted = wanted.min(group.len());
        chosen.extend((0..wanted).map(|step| group[step * group.len() / wanted]));
    }
    let mut spare = groups.iter().flatten().copied();
    chosen.sort_unstable();
    chosen.dedup();
    // The groups with most images give up what the smallest took too much; two of each remain.
    for group in &groups {
        let mut of_group: Vec<usize> = group
            .iter()
            .filter(|place| Some(**place) != largest && chosen.binary_search(place).is_ok())
            .copied()
            .collect();
        while chosen.len() > count && of_group.len() > 2 {
            let dropped = of_group.pop();
            chosen.retain(|place| Some(*place) != dropped);
        }
    }
    while chosen.len() < count.min(listed.found.len()) {
        let Some(place) = spare.find(|place| chosen.binary_search(place).is_err()) else {
            break;
        };
        chosen.insert(chosen.partition_point(|&before| before < place), place);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::measured::ImageFeatures;
    use super::super::rank0::Rank0;
    use super::*;
    use crate::volume::Datatype;

    fn listed(images: &[(Datatype, u64, usize)]) -> Listed {
        let found: Vec<_> = images
            .iter()
            .flat_map(|&(datatype, voxels, count)| {
                let features = ImageFeatures {
                    class: ImageClass {
                        datatype,
                        scaled: false,
                    },
                    voxels,
                    file_bytes: voxels,
                    memory_bytes: voxels * datatype.size_bytes() as u64,
                };
                (0..count).map(move |place| (PathBuf::from(format!("{datatype}_{voxels}_{place}")), features))
            })
            .collect();
        Listed {
            listed: found.len(),
            planned: found.iter().map(|image| image.1).collect(),
            found,
            rank0: Rank0::default(),
        }
    }

    #[test]
    fn every_class_and_size_and_the_largest_stand_for_the_list() {
        let listed = listed(&[
            (Datatype::Uint8, 1000, 300),
            (Datatype::Uint8, 500, 60),
            (Datatype::Float32, 1000, 39),
            (Datatype::Uint8, 9000, 1),
        ]);
        let chosen = choose(&listed, 20);
        assert_eq!(chosen.len(), 20);
        let mut groups: BTreeMap<(ImageClass, u64), usize> = BTreeMap::new();
        for place in &chosen {
            let features = listed.found[*place].1;
            *groups.entry((features.class, features.voxels)).or_default() += 1;
        }
        assert_eq!(groups.len(), 4, "{groups:?}");
        assert!(chosen.contains(&399), "the largest");
        let mut unique = chosen.clone();
        unique.dedup();
        assert_eq!(unique, chosen);
    }

    #[test]
    fn fewer_images_than_asked_for_are_all_taken() {
        assert_eq!(choose(&listed(&[(Datatype::Int16, 10, 3)]), 20), [0, 1, 2]);
    }
}
