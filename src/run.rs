//! The run: the work of every rank, written against [`Communicator`].
//!
//! List (root) → probe (all) → partition (root) → work (all; with `dynamic` ranks request images from the
//! root) → report (root).

mod agree;
mod checks;
mod coordinate;
mod device;
mod dry_run;
mod limits;
mod memory;
mod non_root_loop;
mod progress;
mod queue;
mod rank_loop;
mod read_ahead;
mod renamed;
mod request;
mod resume;
mod rivals;
mod root_loop;
mod sampler;
mod shard;
mod share;
mod split;
mod stop;
mod verify;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use agree::{Listed, Ranks};
use share::{Decision, Schedule};

pub(crate) use agree::PROBE_THREADS;
pub(crate) use limits::{PUBLISHERS, prepare_process};
pub use progress::ProgressStyle;
pub use shard::Shard;
pub use share::Existing;
pub(crate) use stop::end_set_up_on_signals;
pub use stop::on_signals;
pub use verify::{VerifyRequest, verify};

use crate::atomic_file;
use crate::columns::write_csv;
use crate::comm::{Communicator, ROOT};
use crate::fault::Fault;
use crate::filter::device::{Device, DeviceChoice};
use crate::images::{self, ImageEntry, ListRequest};
use crate::job::ImageJob;
use crate::job::outcome::{Outcome, Reason, Status};
use crate::job::warning::WarningSummary;
use crate::journal::{self, Journal, RunLine};
use crate::partition::{Split, Strategy};
use crate::process::ProcessId;
use crate::report::{ImageRow, Journals, Launch, Report, SCHEMA, Shards, State, Totals, csv, html, table};
use crate::resources::CpuMeter;
use crate::text::{self, printable};
use crate::{comm, console, resources, slurm};

/// Exit code: every image is done.
pub const EXIT_DONE: u8 = 0;
/// Exit code: some images failed, all others are done.
pub const EXIT_SOME_FAILED: u8 = 1;
/// Exit code: wrong usage or set-up; nothing was written.
pub const EXIT_USAGE: u8 = 2;
/// Exit code: interrupted; finished images are kept, and `--resume` continues (EX_TEMPFAIL of sysexits.h).
pub const EXIT_INTERRUPTED: u8 = 75;
/// Exit code: MPI does not start (EX_SOFTWARE of sysexits.h).
pub const EXIT_NO_MPI: u8 = 70;

/// What to filter, how, and what to report. Every rank parses the same command line, so it is never sent.
#[derive(Clone, Debug)]
pub struct Config {
    pub list: ListRequest,
    /// Only this many of them, from the first.
    pub limit: Option<usize>,
    /// Only this shard of them.
    pub shard: Option<Shard>,
    /// Where the sums of the filter are computed.
    pub device: DeviceChoice,
    /// How existing results are treated.
    pub existing: Existing,
    /// The job for each image.
    pub job: ImageJob,
    pub strategy: Strategy,
    /// Whether ranks share images.
    pub split: Split,
    /// Threads of each rank; `None`: one per CPU that it was allocated.
    pub threads: Option<usize>,
    /// No image is started that would finish later than this, in seconds since the run's start; `None`: the
    /// end of the Slurm job.
    pub stop_before_s: Option<f64>,
    pub report: Option<PathBuf>,
    /// Whether the table is also written to a file next to the report.
    pub report_table: bool,
    /// Whether the rows are also written to CSV files next to the report.
    pub report_csv: bool,
    /// Where the report is written as a page.
    pub report_html: Option<PathBuf>,
    /// Seconds between two samples of each rank's resources; `None` for no samples.
    pub sample_s: Option<f64>,
    /// Only print what would be done.
    pub dry_run: bool,
    /// Print neither table nor progress.
    pub quiet: bool,
    /// How progress is shown.
    pub progress: ProgressStyle,
    /// The command line, for the report.
    pub command: Vec<String>,
    /// A fault injected by a test.
    pub fault: Option<Fault>,
}

/// Seconds since the run's start, equal on all ranks up to the duration of a broadcast. Monotonic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    base: Instant,
    offset_s: f64,
}

impl Clock {
    fn start_at(offset_s: f64) -> Self {
        Self {
            base: Instant::now(),
            offset_s,
        }
    }

    pub(crate) fn now_s(&self) -> f64 {
        self.offset_s + self.base.elapsed().as_secs_f64()
    }
}

/// State shared by all ranks when the work starts.
struct Setup {
    /// The images of this run, in the list's order.
    entries: Vec<ImageEntry>,
    /// Input folders that cannot be read. The run must not end as if all images were done.
    unreadable_folders: usize,
    /// Digest of the whole list.
    list_digest: String,
    ranks: Ranks,
    decision: Decision,
    clock: Clock,
    /// The device that this rank uses; `None` for the CPU.
    device: Option<Arc<Device>>,
}

/// Smooths the images of `config` on all ranks of `comm` and returns the exit code, the same on every rank.
/// Collective.
///
/// `stop` can be set at any time (by a signal). Images in progress are then finished, and no others are
/// started.
///
/// # Panics
/// When a rank receives a malformed message. A worker's panic ends all ranks through
/// [`Communicator::abort`].
pub fn filter(comm: &impl Communicator, config: &Config, stop: &AtomicBool) -> u8 {
    run(comm, config, stop).unwrap_or_else(|error| {
        // When the first rank exits, a launcher can end the others by a signal; this must not print a
        // message.
        stop::set_up_has_ended();
        if comm.rank() == ROOT {
            console::error(error);
        }
        EXIT_USAGE
    })
}

fn run(comm: &impl Communicator, config: &Config, stop: &AtomicBool) -> Result<u8, String> {
    let started = SystemTime::now();
    let cpu = CpuMeter::start();
    let Some((setup, schedule)) = set_up(comm, config)? else {
        return Ok(EXIT_DONE);
    };
    stop::set_up_has_ended();
    // Free the memory of the set-up, which can be large for a long list. It would add to the memory of the
    // images.
    resources::release_freed_memory();
    let journal = open_journal(comm, config, &setup, &schedule)?;
    if setup.decision.earlier_run {
        remove_stale_parts(comm.rank(), &setup);
    }
    let is_described = comm.rank() != ROOT || describe_results(config);
    let work = coordinate::work(comm, config, &setup, schedule, &journal, stop, cpu);
    // Rank 0 uses most memory when it assembles the report.
    resources::release_freed_memory();
    let least = if is_described { EXIT_DONE } else { EXIT_SOME_FAILED };
    let exit_code = work.map(|work| report(comm, config, setup, work, started).max(least));
    let exit_code = comm::from_root(comm, || exit_code.unwrap_or(EXIT_DONE));
    let state = match exit_code {
        EXIT_DONE => State::Completed,
        EXIT_INTERRUPTED => State::Interrupted,
        _ => State::Failed,
    };
    journal.close(state, config.job.sync);
    Ok(exit_code)
}

/// Lists the images, probes them on all ranks, and partitions them. Collective; `None` after a dry run.
///
/// # Errors
/// The same error on every rank: a problem with the inputs, the output folder or the request. Nothing was
/// written.
fn set_up(comm: &impl Communicator, config: &Config) -> Result<Option<(Setup, Schedule)>, String> {
    let clock = Clock::start_at(0.0);
    let ranks = agree::meet(comm, config);
    let opened = device::open(comm, config, &ranks)?;
    let listed = agree::list(comm, config)?;
    let device = device::choose(comm, config, &ranks, opened, listed.entries.first());
    let listed_s = clock.now_s();
    let looks = agree::look_at_images(comm, config, &listed);
    let looked_s = clock.now_s();
    let Listed {
        entries,
        unreadable_folders,
        ..
    } = listed;
    let decided = comm::from_root(comm, || {
        let looks = looks.as_deref().unwrap_or_default();
        share::decide(config, &entries, looks, &ranks, clock)
    });
    let (decision, schedule) = decided?;
    let setup = Setup {
        entries: decision.of_shard(entries),
        unreadable_folders,
        clock: match comm.rank() {
            ROOT => clock,
            _ => Clock::start_at(decision.sent_s),
        },
        list_digest: listed.digest,
        ranks,
        decision,
        device,
    };
    let Some(looks) = looks else {
        return Ok((!config.dry_run).then_some((setup, schedule)));
    };
    tracing::debug!(
        "{} images: listed after {listed_s:.3} s, probed after {looked_s:.3} s, distributed after {:.3} s",
        setup.entries.len(),
        clock.now_s()
    );
    if let Some(counts) = &setup.decision.resume {
        tracing::info!("{}", counts.sentence());
    }
    if config.dry_run {
        let looks = setup.decision.of_shard(looks);
        print(&dry_run::render(&setup, &schedule, &looks, config));
        return Ok(None);
    }
    Ok(Some((setup, schedule)))
}

/// Describes the dataset of the results, if they are one. Returns false if that failed.
fn describe_results(config: &Config) -> bool {
    let output = &config.list.output;
    let described = config
        .metadata()
        .map(|metadata| metadata.describe_results(output, &config.command));
    if let Some(Err(error)) = described {
        tracing::error!(
            "--output {}: dataset_description.json cannot be written or read: {error}; correct this, then \
             --resume writes it",
            printable(&output.display().to_string())
        );
        return false;
    }
    true
}

/// Removes unfinished files of killed ranks. The first rank of each host does this, because it can see which
/// processes of its host are alive. Local.
fn remove_stale_parts(rank: usize, setup: &Setup) {
    let hosts = &setup.ranks.hosts;
    if hosts.iter().position(|host| *host == hosts[rank]) != Some(rank) {
        return;
    }
    let folders: std::collections::BTreeSet<&Path> = setup
        .entries
        .iter()
        .filter_map(|entry| entry.output.parent())
        .collect();
    let removed: usize = folders.into_iter().map(atomic_file::remove_stale).sum();
    if removed > 0 {
        tracing::info!("removed {removed} unfinished files of a killed run");
    }
}

/// Starts every rank's journal. The root's comes first, and all other ranks must see it. Collective.
///
/// # Errors
/// The same error on every rank if one of them cannot write there or sees another folder there. No image was
/// started.
fn open_journal(
    comm: &impl Communicator,
    config: &Config,
    setup: &Setup,
    schedule: &Schedule,
) -> Result<Journal, String> {
    let rank = comm.rank();
    let output = &config.list.output;
    let create = || {
        let run = run_line(rank, config, setup, schedule);
        let now_unix_s = run.unix_s + setup.clock.now_s() - setup.decision.sent_s;
        Journal::create(output, run, now_unix_s, config.job.sync).map_err(|error| {
            format!(
                "{}: rank {rank} cannot write its journal: {error}; choose an --output that every node can \
                 write to",
                output.join(journal::FOLDER).display()
            )
        })
    };
    let roots = match rank {
        ROOT => create().and_then(|journal| {
            let work = rivals::Work {
                list_digest: &setup.list_digest,
                shard: config.shard,
            };
            let show_life = || journal.touch();
            match rivals::refuse_after(output, &work, &setup.decision.run, &show_life) {
                Ok(()) => {
                    journal.write_alive();
                    Ok(Some(journal))
                }
                Err(error) => {
                    journal.discard();
                    Err(error)
                }
            }
        }),
        _ => Ok(None),
    };
    let roots = comm::agree(comm, roots)?;
    let opened = match roots {
        Some(journal) => Ok(journal),
        None => {
            let host = &setup.ranks.hosts[rank];
            checks::see_roots_journal(output, &setup.decision.run, rank, host).and_then(|()| create())
        }
    };
    let all = opened.as_ref().map(|_| ()).map_err(String::clone);
    let agreed = comm::agree(comm, all);
    match (opened, agreed) {
        (opened, Ok(())) => opened,
        (opened, Err(error)) => {
            opened.into_iter().for_each(Journal::discard);
            Err(error)
        }
    }
}

/// The first line of a rank's journal.
fn run_line(rank: usize, config: &Config, setup: &Setup, schedule: &Schedule) -> RunLine {
    let Setup { ranks, decision, .. } = setup;
    let fixed = config.strategy != Strategy::Dynamic;
    let job = slurm::Job::from_env();
    let restarts = job.as_ref().and_then(|job| job.restart_count.as_deref());
    RunLine {
        format: journal::FORMAT.to_owned(),
        unix_s: decision.run_unix_s,
        run: decision.run.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rank,
        ranks: ranks.hosts.len(),
        host: ranks.hosts[rank].clone(),
        pid: std::process::id(),
        workers: ranks.threads[rank],
        images: setup.entries.len() - decision.skipped.len(),
        kept: decision.skipped.len(),
        share: fixed.then(|| schedule.shares[rank].len() + split::led_by(&schedule.groups, rank)),
        strategy: config.strategy,
        slurm_restarts: restarts.and_then(|count| count.parse().ok()),
        slurm_step: job.as_ref().and_then(|job| job.step_id.clone()),
        slurm_job: job.map(|job| job.job_id),
        process: ProcessId::current(),
        list_digest: Some(setup.list_digest.clone()),
        shard: config.shard.map(|shard| shard.to_string()),
        device: setup.device.as_ref().map(|device| device.name().to_owned()),
        options: config.job.options(),
    }
}

/// Assembles, writes and prints the report on the root; returns the exit code.
fn report(
    comm: &impl Communicator,
    config: &Config,
    setup: Setup,
    work: root_loop::Work,
    started: SystemTime,
) -> u8 {
    let mut qualities = resume::qualities_of_kept(config, setup.decision.skipped.len());
    let report = Report {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        command: config.command.clone(),
        state: match work.interrupted {
            true => State::Interrupted,
            false => State::Completed,
        },
        started: humantime::format_rfc3339_millis(started).to_string(),
        elapsed_s: setup.clock.now_s(),
        launch: Launch {
            cpus: setup.ranks.distinct_cpus,
            mpi: comm.description(),
            slurm: slurm::Job::from_env(),
            sync: Some(config.job.sync),
            ..Launch::default()
        },
        filter: config.job.describe(),
        options: config.job.options(),
        strategy: config.strategy,
        journals: Some(Journals {
            folder: images::absolute(&config.list.output.join(journal::FOLDER))
                .display()
                .to_string(),
            runs: vec![setup.decision.run],
        }),
        shard: config.shard.map(|shard| Shards {
            numbers: vec![shard.number],
            count: shard.count,
        }),
        resume: setup.decision.resume,
        unreadable_folders: setup.unreadable_folders,
        totals: Totals::default(),
        ranks: Vec::new(),
        images: Vec::new(),
    };
    let mut kept = setup.decision.skipped.iter().peekable();
    let images = setup.entries.iter().enumerate().map(|(place, entry)| {
        let without_record = match kept.next_if_eq(&&place) {
            Some(_) => Reason::Kept,
            None => Reason::NotStarted,
        };
        let below = entry.output.strip_prefix(&config.list.output);
        let quality = below.ok().and_then(|below| qualities.remove(below));
        ImageRow {
            input: entry.input.display().to_string(),
            output: entry.output.display().to_string(),
            output_noise: entry.second.as_ref().map(|noise| noise.display().to_string()),
            outcome: Outcome {
                quality: quality.filter(|_| without_record == Reason::Kept),
                ..Outcome::skipped(entry.index, without_record)
            },
        }
    });
    let mut report = report.with_records(images, work.records);
    report.raise_rank_peak(ROOT, resources::peak_rss_bytes());
    if setup.unreadable_folders > 0 {
        tracing::error!(
            "the images of {} that cannot be read are missing",
            text::counted(setup.unreadable_folders, "folder")
        );
    }
    print_warnings(&report, &config.job);
    write_report(&report, config)
}

/// Logs what the user should know about the images, one line per kind.
fn print_warnings(report: &Report, job: &ImageJob) {
    let mut summary = WarningSummary::default();
    for row in &report.images {
        for warning in &row.outcome.warnings {
            summary.add(row.outcome.index, Path::new(&row.input), warning);
        }
    }
    for line in summary.lines() {
        tracing::warn!("{line}");
    }
    let smoothed = |sigma: [f64; 3]| sigma.iter().any(|&sigma| sigma > 0.0);
    let truncated = report.images.iter().filter(|row| {
        let input = &row.outcome.input;
        let truncates = |datatype| job.truncates(datatype, input.scaled);
        row.outcome.status() == Status::Done
            && input.datatype.is_some_and(truncates)
            && input.sigma_vox.is_some_and(smoothed)
    });
    let truncated = truncated.count();
    if truncated > 0 {
        let (program, advice) = match job.filter.like() {
            None => ("scipy", "--round nearest or --output-type float32 avoids this"),
            Some(tool) => (
                tool.name(),
                "to avoid this, convert the images to float32 first, or leave --like out",
            ),
        };
        tracing::warn!(
            "{} cut to whole numbers after each axis, as {program} does, which lowers means by 1–2 grey \
             levels; {advice}",
            match truncated {
                1 => "1 integer image was".to_owned(),
                images => format!("{images} integer images were"),
            }
        );
    }
}

/// The exit code of a run that ended in this state.
pub fn exit_code_of(state: State) -> u8 {
    match state {
        State::Completed => EXIT_DONE,
        State::Failed => EXIT_SOME_FAILED,
        State::Interrupted => EXIT_INTERRUPTED,
    }
}

/// Prints a text on the root. Returns false if standard output cannot be written.
fn print(text: &str) -> bool {
    let result = console::print(text);
    if let Err(error) = &result {
        tracing::error!("standard output cannot be written: {error}");
    }
    result.is_ok()
}

/// Writes and prints the report; returns the exit code.
fn write_report(report: &Report, config: &Config) -> u8 {
    let text = table::render(report);
    let mut exit_code = exit_code_of(report.state);
    let mut write = |path: PathBuf, result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::error!(
                "{}: the report cannot be written: {error}",
                printable(&path.display().to_string())
            );
            exit_code = exit_code.max(EXIT_SOME_FAILED);
        }
    };
    if let Some(path) = &config.report {
        write(path.clone(), report.write_json(path));
        if config.report_table {
            let path = path.with_extension("txt");
            let result = crate::report::write_whole(&path, |file| file.write_all(text.as_bytes()));
            write(path, result);
        }
        if config.report_csv {
            let path_of = |part: &str| path.with_extension(format!("{part}.csv"));
            let ranks = crate::report::write_whole(&path_of("ranks"), |file| {
                write_csv(&csv::RANKS, &report.ranks, file).map_err(std::io::Error::other)
            });
            write(path_of("ranks"), ranks);
            let images = crate::report::write_whole(&path_of("images"), |file| {
                csv::write_images(&report.images, file).map_err(std::io::Error::other)
            });
            write(path_of("images"), images);
        }
    }
    if let Some(path) = &config.report_html {
        let page = html::render(report, None);
        let result =
            page.and_then(|page| crate::report::write_whole(path, |file| file.write_all(page.as_bytes())));
        write(path.clone(), result);
    }
    // Print last, so that a slow or closed standard output does not prevent the files from being written.
    if !config.quiet {
        print(&text);
    }
    exit_code
}
