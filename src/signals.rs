//! Signals: keeps this process's handlers where a library installs its own.

use nix::libc;

/// The last signal before the real-time signals.
pub(crate) const LAST_STANDARD_SIGNAL: i32 = 31;

/// Calls `work` and then restores the handlers that these signals had before.
pub(crate) fn keeping_handlers<T>(signals: impl IntoIterator<Item = i32>, work: impl FnOnce() -> T) -> T {
    let mut actions = Vec::new();
    for signal in signals {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: without a new action the call only writes the current one to `action`.
        if unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) } == 0 {
            // SAFETY: the call has succeeded.
            actions.push((signal, unsafe { action.assume_init() }));
        }
    }
    let done = work();
    for (signal, action) in &actions {
        // SAFETY: installs what was installed before. SIGKILL and SIGSTOP are refused, which changes nothing.
        unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_restored() {
        // A real-time signal, because other tests open devices and so restore the standard ones.
        let number = libc::SIGRTMIN();
        // SAFETY: ignoring a signal runs no code.
        let ignore = || unsafe { libc::signal(number, libc::SIG_IGN) };
        keeping_handlers([number], ignore);
        assert_eq!(ignore(), libc::SIG_DFL);
    }
}
