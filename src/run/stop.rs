//! Stopping early: by signals, and by the time limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::EXIT_INTERRUPTED;
use crate::atomic_file;
use crate::console;

/// Exit code after a second interrupt: 128 + SIGINT, as for a program killed by that signal.
const EXIT_SECOND_INTERRUPT: i32 = 130;

/// Nothing is written yet, so a signal can end the process at once.
static IN_SET_UP: AtomicBool = AtomicBool::new(false);

/// From here until [`set_up_has_ended`], a signal ends the process, because listing and probing a large data
/// set takes minutes.
pub(crate) fn end_set_up_on_signals() {
    IN_SET_UP.store(true, Ordering::Relaxed);
}

pub(super) fn set_up_has_ended() {
    IN_SET_UP.store(false, Ordering::Relaxed);
}

/// Installs the signal handlers of the run. The first SIGTERM, SIGINT, SIGUSR1 or SIGHUP sets the returned
/// flag: images in progress are finished and no others are started. A second SIGINT removes the partial files
/// and ends the process at once. SIGHUP stays ignored if it was, as under nohup.
pub fn on_signals() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let hang_up = (!HANG_UP_IGNORED.load(Ordering::Relaxed)).then_some(SIGHUP);
    let handled = [SIGTERM, SIGINT, SIGUSR1].into_iter().chain(hang_up);
    let listen = Signals::new(handled).and_then(|mut signals| {
        let listen = move || {
            let mut interrupted = false;
            for signal in signals.forever() {
                flag.store(true, Ordering::Relaxed);
                if IN_SET_UP.load(Ordering::Relaxed) {
                    console::note("interrupted during set-up: nothing was written");
                    signal_hook::low_level::exit(EXIT_INTERRUPTED.into());
                }
                if signal == SIGINT && std::mem::replace(&mut interrupted, true) {
                    atomic_file::remove_unfinished();
                    console::note(
                        "interrupted twice: stopping immediately. Finished images are kept; continue with \
                         --resume",
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

/// Whether SIGHUP was ignored when this process started, as under nohup.
static HANG_UP_IGNORED: AtomicBool = AtomicBool::new(false);

/// Checks SIGHUP before any library is initialised, because UCX (used by MPICH) installs its own handler.
#[used]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".preinit_array"))]
static BEFORE_LIBRARIES: extern "C" fn() = look_at_hang_up;

extern "C" fn look_at_hang_up() {
    let mut action = std::mem::MaybeUninit::<nix::libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only reads the current one into `action`. `action` is zeroed,
    // which is a valid value if the call fails.
    let ignored = unsafe {
        nix::libc::sigaction(SIGHUP, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction == nix::libc::SIG_IGN
    };
    HANG_UP_IGNORED.store(ignored, Ordering::Relaxed);
}

/// How long images in progress can take after the run was told to stop.
#[derive(Debug)]
pub(super) struct Grace {
    stopped_at_s: Option<f64>,
    finish_by_s: f64,
}

/// Slurm kills 30 s after its signal; the report needs some of that.
const GRACE_S: f64 = 10.0;

impl Grace {
    /// For a run that must end `finish_by_s` seconds after its start.
    pub(super) fn until(finish_by_s: f64) -> Self {
        Grace {
            stopped_at_s: None,
            finish_by_s,
        }
    }

    /// Whether images in progress must be abandoned now, `now_s` seconds after the run's start. `stopped`: a
    /// signal has arrived.
    pub(super) fn is_over(&mut self, stopped: bool, now_s: f64) -> bool {
        if stopped {
            self.stopped_at_s.get_or_insert(now_s);
        }
        let end_s = self
            .stopped_at_s
            .map_or(self.finish_by_s, |at_s| at_s.min(self.finish_by_s));
        now_s > end_s + GRACE_S
    }
}

/// Ratio of an image's measured time to its estimated time on one thread, learnt from finished images; shared
/// by a rank's workers.
#[derive(Debug)]
pub(super) struct Pace {
    /// The largest ratio so far, as bits.
    worst: AtomicU64,
    /// The assumption before the first image is done.
    unknown: f64,
}

/// The assumption for one thread.
const UNKNOWN_PACE: f64 = 3.0;
/// The same for any number of threads, because some work is not divided.
const LEAST_UNKNOWN_PACE: f64 = 0.25;

impl Pace {
    /// For images that this many threads share, on all ranks.
    pub(super) fn of_threads(threads: usize) -> Self {
        Pace {
            worst: AtomicU64::new(0.0_f64.to_bits()),
            unknown: (UNKNOWN_PACE / threads as f64).max(LEAST_UNKNOWN_PACE),
        }
    }

    /// Learns from an image that was estimated at `cost_s` and took `taken_s`.
    pub(super) fn learn(&self, cost_s: f64, taken_s: f64) {
        let ratio = taken_s / cost_s;
        if ratio.is_finite() {
            // The bits of non-negative numbers have the same order as the numbers.
            self.worst.fetch_max(ratio.to_bits(), Ordering::Relaxed);
        }
    }

    /// Seconds that an image with this estimate can take.
    pub(super) fn predicted_s(&self, cost_s: f64) -> f64 {
        let worst = f64::from_bits(self.worst.load(Ordering::Relaxed));
        cost_s * if worst > 0.0 { worst } else { self.unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_in_progress_have_some_time_after_a_stop() {
        let mut grace = Grace::until(f64::INFINITY);
        assert!(!grace.is_over(false, 1e9));
        assert!(!grace.is_over(true, 100.0));
        assert!(!grace.is_over(true, 100.0 + GRACE_S));
        assert!(grace.is_over(true, 101.0 + GRACE_S));
        let mut timed = Grace::until(50.0);
        assert!(!timed.is_over(false, 50.0 + GRACE_S));
        assert!(timed.is_over(false, 51.0 + GRACE_S));
    }

    #[test]
    fn threads_that_share_an_image_shorten_the_first_guess() {
        let predicted_s = |threads| Pace::of_threads(threads).predicted_s(8.0);
        assert_eq!([1, 2, 6, 64].map(predicted_s), [24.0, 12.0, 4.0, 2.0]);
    }

    #[test]
    fn the_slowest_image_so_far_sets_the_pace() {
        let pace = Pace::of_threads(1);
        assert_eq!(pace.predicted_s(2.0), 6.0);
        pace.learn(1.0, 0.5);
        assert_eq!(pace.predicted_s(2.0), 1.0);
        pace.learn(1.0, 4.0);
        pace.learn(1.0, 0.25);
        pace.learn(0.0, 1.0);
        assert_eq!(pace.predicted_s(2.0), 8.0);
    }
}
