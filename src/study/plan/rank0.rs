//! Rank 0's own work, which grows with the list: sharing out, gathering, reporting.
//!
//! The constants were measured on lists of 20,000 to 1,000,000 images. They are small against the work on an
//! image, so a factor of two in the seconds does not matter; tests/planning holds the memory against real
//! runs.

/// Seconds per image for sharing out and sending the list.
const SHARE_S: f64 = 1.5e-6;
/// Seconds per image after the last image, until the records are together.
const GATHER_S: f64 = 0.5e-6;
/// Seconds per image for writing the report.
const REPORT_S: f64 = 3e-6;
/// Seconds for answering one request of the dynamic strategy.
pub(crate) const REQUEST_S: f64 = 2e-7;
/// Bytes that rank 0 holds for an image at most, besides the names of its files.
const IMAGE_BYTES: f64 = 640.0;
/// How often it then holds each name: in the list and in the report.
const NAMES_HELD: f64 = 2.0;

/// What rank 0 does for every image of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rank0 {
    /// Seconds that listing took per image.
    pub list_s: f64,
    /// Seconds that one thread took to read a header.
    pub probe_s: f64,
    /// Bytes of an image's names, its input's and its output's together.
    pub name_bytes: usize,
}

impl Rank0 {
    /// Seconds before the first image. Ranks share the reading of headers.
    pub fn setup_s(&self, images: usize, ranks: usize, threads: usize) -> f64 {
        let probing = (ranks * threads.clamp(1, crate::run::PROBE_THREADS)).max(1) as f64;
        images as f64 * (SHARE_S + self.list_s + self.probe_s / probing)
    }

    /// Seconds after the last image until the records are together.
    pub fn gather_s(&self, images: usize) -> f64 {
        images as f64 * GATHER_S
    }

    /// Seconds for the report.
    pub fn report_s(&self, images: usize) -> f64 {
        images as f64 * REPORT_S
    }

    /// Bytes held for an image.
    pub fn image_bytes(&self) -> f64 {
        IMAGE_BYTES + NAMES_HELD * self.name_bytes as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_share_the_headers_and_nothing_else() {
        let rank0 = Rank0 {
            list_s: 1e-6,
            probe_s: 1e-5,
            name_bytes: 120,
        };
        let saved_s = rank0.setup_s(1000, 1, 1) - rank0.setup_s(1000, 10, 1);
        assert!((saved_s - 1000.0 * 1e-5 * 0.9).abs() < 1e-9);
        assert_eq!(rank0.gather_s(2000), 2.0 * rank0.gather_s(1000));
    }
}
