//! Survey: detects masks and label maps by their voxels. Smoothed integers cannot represent them.
//!
//! It samples pairs of neighbouring voxels, so it costs almost no time.

use serde::{Deserialize, Serialize};

use super::warning::Warning;
use crate::volume::Datatype;

/// Approximate number of sampled pairs per image.
const SAMPLES: usize = 1 << 14;

/// What was found about the voxels of an image with an integer result.
pub(super) struct Survey {
    voxel_bytes: usize,
    /// Distance between samples, in voxels.
    step: usize,
    /// The first voxel of the image, usually background.
    background: Option<u64>,
    nonzero: bool,
    /// Number of sampled pairs of neighbours along x, both different from 0 and from the background.
    pairs: usize,
    /// Number of these pairs with equal values.
    equal: usize,
}

impl Survey {
    /// A survey of an image with this number and type of voxels.
    pub(super) fn new(datatype: Datatype, voxels: usize) -> Self {
        Survey {
            voxel_bytes: datatype.size_bytes(),
            step: voxels.div_ceil(SAMPLES).max(1),
            background: None,
            nonzero: false,
            pairs: 0,
            equal: 0,
        }
    }

    /// Processes the next voxels of the image, in any byte order.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.nonzero = self.nonzero || !is_zero(bytes);
        match self.voxel_bytes {
            1 => self.sample::<1>(bytes),
            2 => self.sample::<2>(bytes),
            4 => self.sample::<4>(bytes),
            _ => self.sample::<8>(bytes),
        }
    }

    fn sample<const BYTES: usize>(&mut self, bytes: &[u8]) {
        let (voxels, _) = bytes.as_chunks::<BYTES>();
        let Some(first) = voxels.first() else {
            return;
        };
        let number = |voxel: &[u8; BYTES]| {
            let mut bytes = [0; 8];
            bytes[..BYTES].copy_from_slice(voxel);
            u64::from_ne_bytes(bytes)
        };
        let background = *self.background.get_or_insert_with(|| number(first));
        let counts = |value: u64| value != 0 && value != background;
        for pair in voxels.windows(2).step_by(self.step) {
            let (one, other) = (number(&pair[0]), number(&pair[1]));
            if counts(one) && counts(other) {
                self.pairs += 1;
                self.equal += usize::from(one == other);
            }
        }
    }

    /// What was found, with these bytes of the result.
    pub(super) fn found(&self, result: &[u8]) -> Found {
        Found {
            nonzero: self.nonzero,
            zero_result: is_zero(result),
            pairs: self.pairs,
            equal: self.equal,
        }
    }
}

/// What a survey has found about an image, or about a section of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    nonzero: bool,
    /// Whether the result is 0 everywhere.
    zero_result: bool,
    pairs: usize,
    equal: usize,
}

impl Found {
    /// Adds what was found about another section.
    pub(super) fn with(self, other: Found) -> Self {
        Found {
            nonzero: self.nonzero || other.nonzero,
            zero_result: self.zero_result && other.zero_result,
            pairs: self.pairs + other.pairs,
            equal: self.equal + other.equal,
        }
    }

    /// Whether most neighbours are equal, unlike measured intensities.
    fn is_labels(&self) -> bool {
        const LEAST: usize = 8;
        self.pairs >= LEAST && self.equal * 4 >= self.pairs * 3
    }

    /// Warnings for the user about a result of this type.
    pub(super) fn warning(&self, datatype: Datatype) -> Option<Warning> {
        if datatype.is_float() {
            return None;
        }
        if self.nonzero && self.zero_result {
            return Some(Warning::new(
                "empty_result",
                format!(
                    "its result is 0 everywhere, because {datatype} cannot hold fractions; \
                     use --output-type float32 for masks and small regions"
                ),
            ));
        }
        self.is_labels().then(|| {
            Warning::new(
                "labels",
                format!(
                    "looks like a mask or a label map; smoothed values in {datatype} are not its labels; \
                     use --output-type float32"
                ),
            )
        })
    }
}

/// Whether all bytes are 0. Stops at the first block with another.
fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | byte);
    blocks.iter().all(|block| any(block) == 0) && any(rest) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(voxels: &[i16], result: &[i16]) -> Option<String> {
        let mut survey = Survey::new(Datatype::Int16, voxels.len());
        for slab in voxels.chunks(100) {
            survey.add(bytemuck::cast_slice(slab));
        }
        let found = survey.found(bytemuck::cast_slice(result));
        found
            .warning(Datatype::Int16)
            .map(|warning| warning.kind.into_owned())
    }

    #[test]
    fn masks_and_label_maps_are_told_from_intensities() {
        let result = [1; 8];
        // Runs of 20 equal labels on a background of 0, and on one of -1000.
        let labels: Vec<i16> = (0..1000).map(|at| at / 20 % 3 * 7).collect();
        assert_eq!(kind(&labels, &result).as_deref(), Some("labels"));
        let shifted: Vec<i16> = labels.iter().map(|label| label - 1000).collect();
        assert_eq!(kind(&shifted, &result).as_deref(), Some("labels"));
        // Noise, alone and surrounded by air of -1000 as in a CT; and a constant.
        let noise: Vec<i16> = (0..1000).map(|at| (at * 7919 % 1009) as i16).collect();
        assert_eq!(kind(&noise, &result), None);
        let air = [vec![-1000; 1000], noise].concat();
        assert_eq!(kind(&air, &result), None);
        assert_eq!(kind(&[5; 1000], &result), None);
    }

    #[test]
    fn a_result_of_zeros_is_reported_unless_the_input_is() {
        let mut one = vec![0; 1000];
        one[500] = 1;
        assert_eq!(kind(&one, &[0; 1000]).as_deref(), Some("empty_result"));
        assert_eq!(kind(&one, &one), None);
        assert_eq!(kind(&[0; 1000], &[0; 1000]), None);
    }

    #[test]
    fn zeros_are_found_whatever_the_length() {
        for len in [0, 1, 63, 64, 65, 200] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            if let Some(last) = bytes.last_mut() {
                *last = 1;
                assert!(!is_zero(&bytes), "{len}");
            }
        }
    }
}
