//! Progress: a bar on a terminal, otherwise a log line every few seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle as BarStyle};

use crate::logging;

/// Interval between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
    /// A bar when standard error is a terminal, lines otherwise
    #[default]
    Auto,
    /// A bar
    Bar,
    /// A log line every five seconds: done, failed, images/s, time left
    Lines,
    /// Nothing
    None,
}

/// Progress of all ranks together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) done: usize,
    pub(super) failed: usize,
}

/// The progress display of the root.
pub(super) struct ProgressDisplay {
    total: usize,
    counts: Counts,
    started: Instant,
    shown: Instant,
    bar: Option<ProgressBar>,
    lines: bool,
}

impl ProgressDisplay {
    pub(super) fn new(style: ProgressStyle, total: usize) -> Self {
        let (bar, lines) = match style {
            ProgressStyle::Auto => {
                let terminal = std::io::stderr().is_terminal();
                (terminal, !terminal)
            }
            ProgressStyle::Bar => (true, false),
            ProgressStyle::Lines => (false, true),
            ProgressStyle::None => (false, false),
        };
        let bar = bar.then(|| {
            let bar = logging::terminal().add(ProgressBar::new(total as u64));
            let template = "{bar:40} {pos}/{len} images, {msg}{per_sec}, {eta} left";
            bar.set_style(BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar()));
            bar
        });
        let now = Instant::now();
        Self {
            total,
            counts: Counts::default(),
            started: now,
            shown: now,
            bar,
            lines,
        }
    }

    pub(super) fn update(&mut self, counts: Counts) {
        self.counts = counts;
        if let Some(bar) = &self.bar {
            if counts.failed > 0 {
                bar.set_message(format!("{} failed, ", counts.failed));
            }
            bar.set_position((counts.done + counts.failed) as u64);
        }
        if self.lines && self.shown.elapsed() >= LINE_EVERY {
            self.shown = Instant::now();
            tracing::info!("{}", line(self.total, counts, self.started.elapsed()));
        }
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(total: usize, counts: Counts, elapsed: Duration) -> String {
    let ended = counts.done + counts.failed;
    let rate = ended as f64 / elapsed.as_secs_f64().max(1e-9);
    let left = if ended == 0 {
        "time left unknown".to_owned()
    } else {
        let seconds = ((total.saturating_sub(ended)) as f64 / rate).ceil() as u64;
        format!(
            "{} left",
            humantime::format_duration(Duration::from_secs(seconds))
        )
    };
    format!(
        "{} of {total} done, {} failed, {rate:.1} images/s, {left}",
        counts.done, counts.failed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let counts = Counts { done: 90, failed: 10 };
        assert_eq!(
            line(400, counts, Duration::from_secs(50)),
            "90 of 400 done, 10 failed, 2.0 images/s, 2m 30s left"
        );
        assert!(line(400, Counts::default(), Duration::from_secs(5)).contains("unknown"));
    }
}
