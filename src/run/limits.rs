//! System limits of a process: open files, address space, file size.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::images::{ImageEntry, MOST_FILES};

/// Threads per worker that wait for the disk while it processes the next images. They hold open files, not
/// images.
pub(crate) const PUBLISHERS: usize = 4;

/// Limit on open files if the system sets none.
const MOST_OPEN_FILES: u64 = 1 << 16;

/// Open files of the program, MPI and the journal.
const OWN_FILES: usize = 64;

/// Raises the soft limit on open files to the hard limit, and ignores the signal of `ulimit -f`, so that a
/// file that exceeds it fails its image but does not end the process. Call this first.
pub(crate) fn prepare_process() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(MOST_OPEN_FILES);
        if soft < wanted {
            // If this fails, fewer results can wait for the disk.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
    // SAFETY: no handler is installed; the signal is ignored.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// The number of results per worker that can wait for the disk, and of threads that wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    pub(super) publishers: usize,
    /// Results that wait for a publisher.
    pub(super) queued: usize,
}

/// The maximum that this process's limit on open files allows for this number of workers and these images.
pub(super) fn behind_each_of(workers: usize, entries: &[ImageEntry]) -> Behind {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft.min(MOST_OPEN_FILES));
    let behind = |of_a_result| behind_with(files as usize, workers, of_a_result);
    let least = behind(MOST_FILES);
    if least == behind(1) {
        // A long list need not be looked at.
        return least;
    }
    let of_each = entries.iter().map(|entry| entry.files().iter().flatten().count());
    behind(of_each.max().unwrap_or(1))
}

/// The same for results of this many files.
fn behind_with(files: usize, workers: usize, of_a_result: usize) -> Behind {
    let left = files.saturating_sub(OWN_FILES + files_ahead_with(files));
    let results = (left / workers).saturating_sub(in_progress(of_a_result)) / open_for(of_a_result);
    let publishers = results.min(PUBLISHERS);
    Behind {
        publishers,
        queued: (results - publishers).min(PUBLISHERS),
    }
}

/// Open files of a result of this many files: these and their folder.
fn open_for(of_a_result: usize) -> usize {
    of_a_result + 1
}

/// Open files of an image in progress: both halves of the input, the result, and a second folder while a
/// file is created.
fn in_progress(of_a_result: usize) -> usize {
    2 + open_for(of_a_result) + 1
}

/// The maximum number of open files for images that no worker has started.
pub(super) fn files_ahead() -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft.min(MOST_OPEN_FILES));
    files_ahead_with(files as usize)
}

fn files_ahead_with(files: usize) -> usize {
    const MOST: usize = 64;
    MOST.min(files / 8)
}

/// Limits the allocator to the address space for `threads` threads, which all threads share. Otherwise each
/// thread that waits for a file or the disk can reserve as much as a worker, and `ulimit -v` ends the
/// process.
pub(super) fn share_reserved_address_space(threads: usize) {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let arenas = i32::try_from(threads + 1).unwrap_or(i32::MAX);
        // SAFETY: sets one parameter of the allocator. Existing arenas stay.
        let _ = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, arenas) };
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    let _ = threads;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_results_wait_for_the_disk_where_few_files_may_be_open() {
        let behind = |files, workers| behind_with(files, workers, 1);
        let usual = Behind {
            publishers: PUBLISHERS,
            queued: PUBLISHERS,
        };
        assert_eq!(behind(1 << 16, 128), usual);
        assert_eq!(behind(1024, 4), usual);
        let few = behind(1024, 128);
        assert!(few.publishers + few.queued >= 1, "{few:?}");
        assert_eq!(behind(256, 128).publishers, 0);
        for (files, workers) in [(256, 4), (256, 16), (1024, 64), (1024, 128), (4096, 300)] {
            for of_a_result in [1, 2, 4, MOST_FILES] {
                let Behind { publishers, queued } = behind_with(files, workers, of_a_result);
                let waiting = (publishers + queued) * open_for(of_a_result);
                // The worker itself holds one more result while it waits for a place.
                let each = in_progress(of_a_result) + waiting;
                let held = OWN_FILES + files_ahead_with(files) + workers * each;
                // Results of several files in progress can exceed the limit alone. They are tried again.
                let fits = held <= files || (of_a_result > 1 && waiting == 0);
                assert!(fits, "{workers} workers hold {held} of {files} files");
            }
        }
    }

    #[test]
    fn the_limit_on_open_files_is_raised() {
        prepare_process();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(soft >= hard.min(MOST_OPEN_FILES));
    }
}
