//! Stopping before the end: by signals, and by the time that is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::atomic_file;
use crate::console;

/// Exit code after a second interrupt: 128 + the number of SIGINT, as of a program that it kills.
const EXIT_SECOND_INTERRUPT: i32 = 130;

/// Lets signals stop this process's run. The first SIGTERM, SIGINT or SIGUSR1 sets the flag that is returned: the images
/// in hand are finished and no other is begun. A second SIGINT ends the process at once, without its part files.
pub fn on_signals() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let listen = Signals::new([SIGTERM, SIGINT, SIGUSR1]).and_then(|mut signals| {
        let listen = move || {
            let mut interrupted = false;
            for signal in signals.forever() {
                flag.store(true, Ordering::Relaxed);
                if signal == SIGINT && std::mem::replace(&mut interrupted, true) {
                    atomic_file::remove_unfinished();
                    console::note(
                        "interrupted twice: stopping immediately. Finished images are kept; continue with --resume",
                    );
                    signal_hook::low_level::exit(EXIT_SECOND_INTERRUPT);
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(listen).map(drop)
    });
    if let Err(error) = listen {
        tracing::warn!("signals cannot be handled, so they end the run at once: {error}");
    }
    stop
}

/// How long images take beside their estimated costs, learnt from those that are done; shared by a rank's workers.
#[derive(Debug)]
pub(super) struct Pace {
    /// The most seconds of an image for each second of its estimate, as bits.
    worst: AtomicU64,
}

/// What is assumed before the first image is done.
const UNKNOWN_PACE: f64 = 3.0;

impl Default for Pace {
    fn default() -> Self {
        Pace {
            worst: AtomicU64::new(0.0_f64.to_bits()),
        }
    }
}

impl Pace {
    /// Learns from an image that was estimated at `cost_s` and took `taken_s`.
    pub(super) fn learn(&self, cost_s: f64, taken_s: f64) {
        let ratio = taken_s / cost_s;
        if ratio.is_finite() {
            // The bits of numbers that are not negative are in the numbers' order.
            self.worst.fetch_max(ratio.to_bits(), Ordering::Relaxed);
        }
    }

    /// Seconds that an image of this estimate may take.
    pub(super) fn predicted_s(&self, cost_s: f64) -> f64 {
        let worst = f64::from_bits(self.worst.load(Ordering::Relaxed));
        cost_s * if worst > 0.0 { worst } else { UNKNOWN_PACE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_image_so_far_sets_the_pace() {
        let pace = Pace::default();
        assert_eq!(pace.predicted_s(2.0), 6.0);
        pace.learn(1.0, 0.5);
        assert_eq!(pace.predicted_s(2.0), 1.0);
        pace.learn(1.0, 4.0);
        pace.learn(1.0, 0.25);
        pace.learn(0.0, 1.0);
        assert_eq!(pace.predicted_s(2.0), 8.0);
    }
}
