//! The run: what every rank does, written once against [`Communicator`].
//!
//! Plan (together) → work (each for itself, asking the root with `dynamic`) → gather and report (the root).

mod coordinate;
mod dry_run;
mod memory;
mod plan;
mod progress;
mod queue;
mod read_ahead;
mod request;
mod resume;
mod sampler;
mod stop;
mod verify;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use thiserror::Error;

use plan::Plan;

pub use plan::{Existing, Shard};
pub(crate) use plan::{ImageFacts, cost_s, interleave};
pub use progress::ProgressStyle;
pub use stop::on_signals;
pub use verify::{VerifyRequest, verify};
pub use worker::RESULTS_BEHIND_A_WORKER;

use crate::comm::{Communicator, ROOT};
use crate::fault::Fault;
use crate::image_io;
use crate::images::ListRequest;
use crate::job::ImageJob;
use crate::journal::{self, Journal, RunLine};
use crate::partition::Strategy;
use crate::report::{Journals, Report, RunFacts, Shares, State, csv, table};
use crate::resources::CpuMeter;
use crate::text::printable;
use crate::{comm, console, resources, slurm};

/// Exit code: every image is done.
pub const EXIT_DONE: u8 = 0;
/// Exit code: some images failed, the rest is done.
pub const EXIT_SOME_FAILED: u8 = 1;
/// Exit code: wrong usage or set-up; nothing was written.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: told to stop; what is done is done, and `--resume` continues (EX_TEMPFAIL of sysexits.h).
pub const EXIT_INTERRUPTED: u8 = 75;
/// Exit code of a rank that panicked, which ends the whole run.
pub const EXIT_PANIC: u8 = 101;

/// What to smooth, how, and how to tell of it. Every rank parses the same command line, so it is never sent.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which images.
    pub list: ListRequest,
    /// Only the first so many of them.
    pub limit: Option<usize>,
    /// Only this share of them.
    pub shard: Option<Shard>,
    /// What is done when a result is there already.
    pub existing: Existing,
    /// What is done to each image.
    pub job: ImageJob,
    /// How the images are shared out.
    pub strategy: Strategy,
    /// Workers of each rank; `None` for the CPUs that it was given.
    pub threads: Option<usize>,
    /// No image is begun that would not be finished so many seconds after the run's start; `None` for the end of the job.
    pub stop_before_s: Option<f64>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// Whether the table is also written to a file beside the report.
    pub report_table: bool,
    /// Whether the rows are also written to CSV files beside the report.
    pub report_csv: bool,
    /// Each rank notes its use of resources every so many seconds; `None` for never.
    pub sample_s: Option<f64>,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// No table, no progress.
    pub quiet: bool,
    /// How progress is shown.
    pub progress: ProgressStyle,
    /// The command line, for the report.
    pub command: Vec<String>,
    /// A fault that a test asks for.
    pub fault: Option<Fault>,
}

/// Why nothing was begun.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SetupError(pub String);

/// Seconds since the run's start, the same on every rank but for the time that a broadcast takes. Monotonic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: Instant,
    offset_s: f64,
}

impl Clock {
    pub(crate) fn now_s(&self) -> f64 {
        self.offset_s + self.base.elapsed().as_secs_f64()
    }
}

/// Smooths the images of `config` on all ranks of `comm` and returns the exit code, the same on every rank. Collective.
///
/// `stop` may be set at any time (by a signal): images in hand are finished, no other is begun.
///
/// # Panics
/// When ranks run different versions of the program. A worker's panic ends all ranks through [`Communicator::abort`].
pub fn smooth(comm: &impl Communicator, config: &Config, stop: &AtomicBool) -> u8 {
    let started = SystemTime::now();
    let begun = Instant::now();
    let cpu = CpuMeter::start();
    let is_root = comm.rank() == ROOT;

    let mut plan = match plan::agree(comm, config, begun) {
        Ok(plan) => plan,
        Err(error) => {
            if is_root {
                console::error(error);
            }
            return EXIT_USAGE;
        }
    };
    if let (true, Some(counts)) = (is_root, &plan.resume) {
        tracing::info!("{}", counts.sentence());
    }
    if config.dry_run {
        if is_root {
            say(&dry_run::render(&plan, config));
        }
        return EXIT_DONE;
    }
    // Of a long list they take more than half as much memory as the rest of the plan, and nobody asks for them any more.
    plan.facts = Vec::new();
    // What agreeing on a long list took is not needed again; left in the heap, it would come on top of what the images take.
    resources::release_freed_memory();
    let journal = match open_journal(comm, config, &plan) {
        Ok(journal) => journal,
        Err(error) => {
            if is_root {
                console::error(error);
            }
            return EXIT_USAGE;
        }
    };
    if plan.earlier_run {
        remove_stale_parts(comm.rank(), &plan);
    }
    let records = coordinate::work(comm, config, &plan, &journal, stop, cpu);
    // Nobody asks for these any more either, and rank 0 comes to hold the most when it puts the report together.
    plan.costs = Vec::new();
    plan.shares = Vec::new();
    resources::release_freed_memory();
    let exit_code = records.map(|work| {
        let facts = RunFacts {
            command: config.command.clone(),
            interrupted: work.interrupted,
            started,
            elapsed_s: begun.elapsed().as_secs_f64(),
            cpus: plan.distinct_cpus,
            mpi: comm.description(),
            slurm: slurm::Job::from_env(),
            filter: config.job.describe(),
            strategy: config.strategy,
            journals: Some(Journals {
                folder: absolute(&config.list.output.join(journal::FOLDER)),
                runs: vec![plan.run.clone()],
            }),
            shard: config.shard.map(|shard| Shares {
                numbers: vec![shard.number],
                count: shard.count,
            }),
            resume: plan.resume,
        };
        let names = plan.entries.iter().map(|entry| {
            (
                entry.index,
                entry.input.display().to_string(),
                entry.output.display().to_string(),
            )
        });
        let mut report = Report::assemble(facts, names, work.records);
        report.raise_rank_peak(ROOT, resources::peak_rss_bytes());
        tell(&report, config)
    });
    let exit_code = comm::decode(&comm.broadcast(comm::encode(&exit_code.unwrap_or(EXIT_DONE))));
    let state = match exit_code {
        EXIT_DONE => State::Completed,
        EXIT_INTERRUPTED => State::Interrupted,
        _ => State::Failed,
    };
    journal.close(state, config.job.sync);
    exit_code
}

/// Removes what ranks that were killed left unfinished; the first rank of each host looks, since it can tell which of its
/// host's processes live. Local.
fn remove_stale_parts(rank: usize, plan: &Plan) {
    if plan.hosts.iter().position(|host| *host == plan.hosts[rank]) != Some(rank) {
        return;
    }
    let folders: std::collections::BTreeSet<&Path> = plan
        .entries
        .iter()
        .filter_map(|entry| entry.output.parent())
        .collect();
    let removed: usize = folders.into_iter().map(image_io::remove_stale_parts).sum();
    if removed > 0 {
        tracing::info!("{removed} unfinished files of a run that was killed are removed");
    }
}

/// Begins every rank's journal. Collective.
///
/// # Errors
/// The same on every rank, when one of them cannot write there. No image was begun then.
fn open_journal(
    comm: &impl Communicator,
    config: &Config,
    plan: &Plan,
) -> Result<Journal, SetupError> {
    let rank = comm.rank();
    let fixed = config.strategy != Strategy::Dynamic;
    let opened = Journal::create(
        &config.list.output,
        RunLine {
            format: journal::FORMAT.to_owned(),
            unix_s: plan.run_unix_s,
            run: plan.run.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rank,
            ranks: comm.size(),
            host: plan.hosts[rank].clone(),
            pid: std::process::id(),
            workers: plan.threads[rank],
            images: plan.entries.len() - plan.skipped.len(),
            kept: plan.skipped.len(),
            share: fixed.then(|| plan.shares[rank].len()),
            strategy: config.strategy,
            slurm_job: slurm::Job::from_env().map(|job| job.job_id),
            options: config.job.options(),
        },
    );
    let trouble = opened.as_ref().err().map(|error| {
        format!(
            "{}: rank {rank} cannot write its journal: {error}; choose an --output that every node can write to",
            config.list.output.join(journal::FOLDER).display()
        )
    });
    let troubles = comm.gather(comm::encode(&trouble));
    let first = troubles.and_then(|all| {
        all.iter()
            .find_map(|bytes| comm::decode::<Option<String>>(bytes))
    });
    let first: Option<String> = comm::decode(&comm.broadcast(comm::encode(&first)));
    match (opened, first) {
        (Ok(journal), None) => Ok(journal),
        (_, trouble) => Err(SetupError(trouble.unwrap_or_default())),
    }
}

/// The path from the root folder; as it is where that cannot be told.
fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

/// The exit code of a run that ended so.
pub fn exit_code_of(state: State) -> u8 {
    match state {
        State::Completed => EXIT_DONE,
        State::Failed => EXIT_SOME_FAILED,
        State::Interrupted => EXIT_INTERRUPTED,
    }
}

/// Prints a text of the root's; whether that could be done.
fn say(text: &str) -> bool {
    let result = console::print(text);
    if let Err(error) = &result {
        tracing::error!("standard output cannot be written: {error}");
    }
    result.is_ok()
}

/// Writes and prints the report; returns the exit code.
fn tell(report: &Report, config: &Config) -> u8 {
    let text = table::render(report);
    let mut exit_code = exit_code_of(report.state);
    if let Some(path) = &config.report {
        let mut write = |path: PathBuf, result: std::io::Result<()>| {
            if let Err(error) = result {
                tracing::error!(
                    "{}: the report cannot be written: {error}",
                    printable(&path.display().to_string())
                );
                exit_code = exit_code.max(EXIT_SOME_FAILED);
            }
        };
        write(path.clone(), report.write_json(path));
        if config.report_table {
            let path = path.with_extension("txt");
            let result = crate::report::write_whole(&path, |file| file.write_all(text.as_bytes()));
            write(path, result);
        }
        if config.report_csv {
            let path_of = |part: &str| path.with_extension(format!("{part}.csv"));
            let ranks = crate::report::write_whole(&path_of("ranks"), |file| {
                csv::write_ranks(report, file).map_err(std::io::Error::other)
            });
            write(path_of("ranks"), ranks);
            let images = crate::report::write_whole(&path_of("images"), |file| {
                csv::write_images(report, file).map_err(std::io::Error::other)
            });
            write(path_of("images"), images);
        }
    }
    // Last, since a reader that is slow or gone must not cost the files; nor does it make images fail.
    if !config.quiet {
        say(&text);
    }
    exit_code
}
