//! Resetting the peak of the resident memory. In a separate process, because other tests would allocate
//! memory at the same time.

#![cfg(target_os = "linux")]

use niimpi::resources::{forget_peak_rss, peak_rss_bytes, release_freed_memory, rss_bytes};

#[test]
fn the_peak_restarts_from_the_current_memory() {
    const HELD: usize = 64 << 20;
    // The heap keeps small blocks after they are freed, because the last one is still in use.
    let mut pieces: Vec<Vec<u8>> = (0..HELD / 4096).map(|_| vec![1_u8; 4096]).collect();
    let last = pieces.pop();
    let held = rss_bytes();
    assert!(held > HELD as u64 && peak_rss_bytes() >= held);
    drop(pieces);
    release_freed_memory();
    if cfg!(target_env = "gnu") {
        assert!(
            rss_bytes() < held - HELD as u64 / 2,
            "{} of {held} bytes are still resident",
            rss_bytes()
        );
    }
    // Returns false where a container forbids it.
    if forget_peak_rss() {
        let now = rss_bytes();
        assert!(
            peak_rss_bytes() < now + (16 << 20),
            "peak {}, now {now}",
            peak_rss_bytes()
        );
    }
    drop(last);
}
