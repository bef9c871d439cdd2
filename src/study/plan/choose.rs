//! Which images of the list the pilot filters.

use std::collections::BTreeSet;

use super::listed::Listed;

/// Chooses `count` images that represent all classes and sizes in proportion. Adds the smallest and the
/// largest of every class and the image that needs the most memory if they are not among them.
pub(crate) fn choose(listed: &Listed, count: usize) -> BTreeSet<usize> {
    let features = |place: usize| listed.found[place].features;
    let mut order: Vec<usize> = (0..listed.found.len()).collect();
    order.sort_by_key(|&place| (features(place).class, features(place).voxels));
    let steps = (count - 1).max(1);
    let step = |step: usize| order[step * (order.len() - 1) / steps];
    let mut chosen: BTreeSet<usize> = (0..count).map(step).collect();
    for class in order.chunk_by(|&a, &b| features(a).class == features(b).class) {
        chosen.extend([class[0], class[class.len() - 1]]);
    }
    chosen.extend(
        order
            .iter()
            .copied()
            .max_by_key(|&place| features(place).memory_bytes),
    );
    chosen
}

#[cfg(test)]
mod tests {
    use super::super::listed::FoundImage;
    use super::super::measured::{ImageClass, ImageFeatures};
    use super::*;
    use crate::volume::Datatype;

    fn listed(images: &[(Datatype, u64, usize)]) -> Listed {
        let image = |&(datatype, voxels, count): &(Datatype, u64, usize)| {
            let scaled = false;
            let features = ImageFeatures {
                class: ImageClass { datatype, scaled },
                voxels,
                file_bytes: voxels,
                memory_bytes: voxels * datatype.size_bytes() as u64,
            };
            vec![FoundImage::from(features); count]
        };
        Listed {
            found: images.iter().flat_map(image).collect(),
            ..Listed::default()
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
        let kind = |&place: &usize| {
            (
                listed.found[place].features.class,
                listed.found[place].features.voxels,
            )
        };
        let kinds: BTreeSet<_> = chosen.iter().map(kind).collect();
        assert!(
            (20..=23).contains(&chosen.len()) && kinds.len() == 4,
            "{chosen:?}"
        );
        assert!(chosen.contains(&399), "the largest");
    }

    #[test]
    fn images_of_one_kind_are_as_many_as_asked_for_or_all() {
        let images = listed(&[(Datatype::Int16, 10, 30)]);
        assert_eq!(choose(&images, 20).len(), 20);
        assert_eq!(choose(&images, 40).len(), 30);
    }
}
