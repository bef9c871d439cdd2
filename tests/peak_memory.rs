//! The peak of the memory held, counted anew, and what is measured by it. A process of its own: other tests
//! would take memory meanwhile.

#![cfg(target_os = "linux")]

use niimpi::resources::{forget_peak_rss, peak_rss_bytes, release_freed_memory, rss_bytes};

#[test]
fn the_peak_is_counted_anew_once_memory_was_given_back() {
    const HELD: usize = 64 << 20;
    // In small pieces, which the heap keeps when they are freed, all but the last one.
    let mut pieces: Vec<Vec<u8>> = (0..HELD / 4096).map(|_| vec![1_u8; 4096]).collect();
    let last = pieces.pop();
    let held = rss_bytes();
    assert!(held > HELD as u64 && peak_rss_bytes() >= held);
    drop(pieces);
    release_freed_memory();
    if cfg!(target_env = "gnu") {
        assert!(
            rss_bytes() < held - HELD as u64 / 2,
            "{} of {held} are held",
            rss_bytes()
        );
    }
    // A container may forbid it, and says so.
    if forget_peak_rss() {
        let now = rss_bytes();
        assert!(
            peak_rss_bytes() < now + (16 << 20),
            "{} against {now}",
            peak_rss_bytes()
        );
    }
    drop(last);
}
