//! Seconds: the estimated time of an image on one rank, and on ranks that share it.

use std::ops::Range;

use crate::job::cost::{DEFLATE_S_PER_BYTE, INFLATE_S_PER_BYTE, PLAIN_S_PER_BYTE};

/// Sending a byte to another rank and receiving it there.
const MESSAGE_S_PER_BYTE: f64 = 6e-10;

/// How long ranks that share an image wait for each other.
const WAITING_S: f64 = 0.02;

/// The work on an image besides its filter.
#[derive(Clone, Copy)]
pub(super) struct Files {
    /// Whether the input is compressed.
    pub(super) inflated: bool,
    /// Whether the result is compressed. The first rank then receives and writes it.
    pub(super) deflated: bool,
    /// Threads of each rank.
    pub(super) threads: usize,
}

/// A section of an image.
pub(super) struct Share {
    pub(super) filter_s: f64,
    /// The bytes of the input that it needs.
    pub(super) read: Range<u64>,
    pub(super) result_bytes: u64,
}

impl Files {
    /// Estimated seconds of an image whose sections `ranks` ranks make in turn. If it is compressed and `fed`
    /// is set, the last rank inflates it once for all; otherwise each rank inflates it up to the end of each
    /// of its sections.
    ///
    /// One thread of a rank reads, the others begin meanwhile.
    pub(super) fn seconds(self, shares: &[Share], ranks: usize, fed: bool) -> f64 {
        let mut of_rank_s = vec![(0.0, 0.0); ranks];
        let mut sent = 0;
        for (section, share) in shares.iter().enumerate() {
            let rank = section % ranks;
            let (reading_s, all_s) = &mut of_rank_s[rank];
            let read = share.read.end - share.read.start;
            let before_s = *reading_s;
            match self.inflated {
                false => *reading_s += read as f64 * PLAIN_S_PER_BYTE,
                true if fed => *reading_s = share.read.end as f64 * INFLATE_S_PER_BYTE,
                true => *reading_s += share.read.end as f64 * INFLATE_S_PER_BYTE,
            }
            let written_s = match self.deflated {
                true => DEFLATE_S_PER_BYTE,
                false => PLAIN_S_PER_BYTE,
            };
            *all_s += *reading_s - before_s + share.filter_s + share.result_bytes as f64 * written_s;
            sent += if fed && rank + 1 < ranks { read } else { 0 };
            sent += if self.deflated && rank > 0 {
                share.result_bytes
            } else {
                0
            };
        }
        let of_rank = |(reading_s, all_s): (f64, f64)| reading_s.max(all_s / self.threads as f64);
        let longest_s = of_rank_s.into_iter().map(of_rank).fold(0.0, f64::max);
        let waiting_s = if shares.len() > 1 { WAITING_S } else { 0.0 };
        longest_s + sent as f64 * MESSAGE_S_PER_BYTE + waiting_s
    }
}
