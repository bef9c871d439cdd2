//! Logging: where `tracing` events go, with rank and host on each line.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use clap::ValueEnum;
use indicatif::MultiProgress;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Time, level, rank, host and message
    #[default]
    Text,
    /// One JSON object per line
    Json,
}

/// Logging options.
#[derive(clap::Args, Clone, Debug)]
pub struct LogArgs {
    /// Print errors only: no table, no progress
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Messages")]
    pub quiet: bool,
    /// Increase verbosity (-v: every image, -vv: everything)
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Messages")]
    pub verbose: u8,
    /// Also log into DIR, one file per rank (rank-0000.log, …)
    #[arg(long, value_name = "DIR", help_heading = "Messages")]
    pub log_dir: Option<PathBuf>,
    /// Log line format
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Messages"
    )]
    pub log_format: LogFormat,
}

static TERMINAL: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The progress bars on standard error. They are hidden while a log line is written.
pub fn terminal() -> &'static MultiProgress {
    &TERMINAL
}

/// Standard error; the progress bar is hidden while a line is written.
struct AroundBars;

impl Write for AroundBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A closed pipe or a full disk behind standard error must not end the run.
        let _ = TERMINAL.suspend(|| io::stderr().write_all(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for AroundBars {
    type Writer = AroundBars;

    fn make_writer(&'a self) -> AroundBars {
        AroundBars
    }
}

/// Starts logging for this rank and returns a span with rank and host for every line. The caller must enter
/// it.
pub fn start(args: &LogArgs, rank: usize, host: &str) -> Result<tracing::Span, String> {
    let level = match (args.quiet, args.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::INFO,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let stderr = layer(args.log_format, BoxMakeWriter::new(AroundBars)).with_filter(level);
    let file = match &args.log_dir {
        None => None,
        Some(folder) => {
            let file = open(folder, rank).map_err(|error| {
                format!(
                    "--log-dir {}: {error}; choose a folder that can be written to",
                    folder.display()
                )
            })?;
            let level = level.max(LevelFilter::DEBUG);
            Some(layer(args.log_format, BoxMakeWriter::new(Arc::new(file))).with_filter(level))
        }
    };
    // A second run in one process (tests) keeps the first one's subscriber.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(stderr).with(file));
    Ok(tracing::error_span!("rank", rank, host))
}

fn open(folder: &Path, rank: usize) -> io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("rank-{rank:04}.log"));
    // Opening a pipe blocks until it has a reader, and writing to a full one blocks too.
    let file = File::options()
        .create(true)
        .append(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(&path)?;
    if !file.metadata()?.is_file() {
        let name = path.display();
        return Err(io::Error::other(format!(
            "{name} exists and is not a regular file"
        )));
    }
    Ok(file)
}

fn layer<S>(format: LogFormat, writer: BoxMakeWriter) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let plain = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_target(false)
        .log_internal_errors(false)
        .with_ansi(false);
    match format {
        LogFormat::Text => plain.boxed(),
        LogFormat::Json => plain.json().flatten_event(true).with_span_list(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_a_regular_file_and_a_pipe_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(open(folder.path(), 0).is_ok());
        nix::unistd::mkfifo(
            &folder.path().join("rank-0001.log"),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        assert!(open(folder.path(), 1).is_err());
        std::os::unix::fs::symlink("/dev/null", folder.path().join("rank-0002.log")).unwrap();
        let error = open(folder.path(), 2).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }
}
