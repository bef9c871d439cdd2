//! The sampler: writes a rank's resource use and progress to its journal at intervals.

use std::time::{Duration, Instant};

use crate::job::outcome::{Outcome, Status};
use crate::journal::{Journal, Line, SampleLine, short};
use crate::resources::{self, CpuMeter};

/// A rank's sampler. It has no thread; the main thread calls it in its loop.
pub(super) struct Sampler<'a> {
    journal: &'a Journal,
    cpu: CpuMeter,
    every: Option<Duration>,
    next: Instant,
}

impl<'a> Sampler<'a> {
    /// A sampler that samples at once and then every `every_s` seconds, or never with `None`. `cpu` counts
    /// from the run's start.
    pub(super) fn new(journal: &'a Journal, cpu: CpuMeter, every_s: Option<f64>) -> Self {
        Self {
            journal,
            cpu,
            // An interval that exceeds a duration never elapses.
            every: every_s.map(|s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX)),
            next: Instant::now(),
        }
    }

    /// Writes a sample if one is due. `images` are the rank's records so far.
    pub(super) fn look(&mut self, images: &[Outcome]) {
        let Some(every) = self.every else { return };
        let now = Instant::now();
        if now < self.next {
            return;
        }
        // Keep the rhythm, but do not catch up on missed samples.
        let following = self.next.checked_add(every);
        self.next = match following {
            Some(next) if next > now => next,
            _ => now
                .checked_add(every)
                .unwrap_or_else(|| now + Duration::from_secs(u32::MAX.into())),
        };
        self.note(images);
    }

    /// Writes the last sample, when the rank has finished its work.
    pub(super) fn finish(&self, images: &[Outcome]) {
        if self.every.is_some() {
            self.note(images);
        }
    }

    fn note(&self, images: &[Outcome]) {
        let count = |status| images.iter().filter(|image| image.status() == status).count();
        self.journal.write(&Line::Sample(SampleLine {
            unix_s: self.journal.unix_s(),
            cpu_s: short(self.cpu.seconds()),
            rss_bytes: resources::rss_bytes(),
            done: count(Status::Done),
            failed: count(Status::Failed),
            bytes_in: images.iter().map(|image| image.input.bytes).sum(),
            bytes_out: images.iter().map(|image| image.bytes_out).sum(),
        }));
    }
}
