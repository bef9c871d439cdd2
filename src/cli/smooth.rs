//! `niimpi smooth`: its arguments, and what they mean to the run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::comm::{self, Communicator, ROOT};
use crate::fault::Fault;
use crate::filter::gaussian::Gaussian;
use crate::filter::{Filter, OutputSpec};
use crate::image_io::CompressionArgs;
use crate::image_job::ImageJob;
use crate::image_list::{ListRequest, NameTemplate};
use crate::logging::{self, LogArgs};
use crate::partition::Strategy;
use crate::resources;
use crate::run::{self, Config, EXIT_USAGE, Existing, ProgressStyle, Shard};

/// Smooth images with a Gaussian
///
/// Reads .nii, .nii.gz and .hdr/.img images (NIfTI-1 and NIfTI-2, any real datatype), smooths each 3-D volume and writes
/// it with the same name below the output folder. Every image is done or named in the report with the reason.
#[derive(Args, Debug)]
pub(super) struct SmoothArgs {
    /// Image files, or folders that are searched for images
    #[arg(value_name = "INPUT", required_unless_present = "list")]
    inputs: Vec<PathBuf>,

    /// Read further image paths from FILE, one a line; - is standard input
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,

    /// Folder of the results; made if it is missing
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Name the results, for example 'denoised_{index}.nii.gz'; {stem}, {index} and {dir} are filled in
    ///
    /// {stem} is the input's name without its suffix, {index} its place in the list from 1, {dir} its folder below the
    /// input folder. The suffix decides the format; without one the input's is kept.
    #[arg(long, value_name = "TEMPLATE")]
    name: Option<NameTemplate>,

    #[command(flatten)]
    gaussian: Gaussian,

    #[command(flatten)]
    output_spec: OutputSpec,

    /// How images are shared out among the ranks
    #[arg(
        long,
        value_enum,
        value_name = "STRATEGY",
        default_value_t,
        help_heading = "Distribution"
    )]
    strategy: Strategy,

    /// Workers of each rank [default: the CPUs that the rank was given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096), help_heading = "Distribution")]
    threads: Option<u16>,

    /// Do only the K-th of N shares of the list, for job arrays; 'slurm' takes both from the array task
    #[arg(long, value_name = "K/N", help_heading = "Distribution")]
    shard: Option<Shard>,

    /// Do only the first N images
    #[arg(long, value_name = "N", value_parser = parse_limit, help_heading = "Distribution")]
    limit: Option<usize>,

    /// Keep results that are there already and do the rest
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,

    /// Replace results that are there already
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    compression: CompressionArgs,

    /// Do not wait until each result is on the disk: faster, but a power failure may leave one incomplete
    #[arg(long)]
    no_sync: bool,

    /// Write the report as JSON (schema niimpi-report/1)
    #[arg(long, value_name = "FILE.json", help_heading = "Messages")]
    report: Option<PathBuf>,

    /// Also write the report's table to FILE.txt
    #[arg(long, requires = "report", help_heading = "Messages")]
    report_table: bool,

    /// Also write the report's rows to FILE.ranks.csv and FILE.images.csv
    #[arg(long, requires = "report", help_heading = "Messages")]
    report_csv: bool,

    /// Tell what would be done, from headers and sizes alone, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// How progress is shown
    #[arg(
        long,
        value_enum,
        value_name = "STYLE",
        default_value_t,
        help_heading = "Messages"
    )]
    progress: ProgressStyle,

    #[command(flatten)]
    log: LogArgs,
}

fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("give a number of images from 1".to_owned()),
        Ok(limit) => Ok(limit),
    }
}

/// Starts the ranks and smooths. The exit code is the same on every rank.
pub(super) fn run(args: SmoothArgs) -> u8 {
    let log = args.log.clone();
    let config = config(args);
    let world = match comm::start() {
        Ok(world) => world,
        Err(message) => {
            comm::launcher::Launch::say_error(|| eprintln!("niimpi: error: {message}"));
            return EXIT_USAGE;
        }
    };
    let started = logging::start(&log, world.rank(), &resources::host_name());
    // One rank's trouble with its log file is everyone's: all end before anything is written.
    let troubles = world.gather(comm::encode(&started.as_ref().err()));
    let trouble = troubles.and_then(|all| {
        all.iter()
            .find_map(|bytes| comm::decode::<Option<String>>(bytes))
    });
    let trouble: Option<String> = comm::decode(&world.broadcast(comm::encode(&trouble)));
    let (Ok(span), None) = (started, &trouble) else {
        if world.rank() == ROOT {
            eprintln!("niimpi: error: {}", trouble.unwrap_or_default());
        }
        return EXIT_USAGE;
    };
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGUSR1] {
        // A second signal of the kind ends the process at once; no result is left half written in any case.
        let again =
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop));
        let first = signal_hook::flag::register(signal, Arc::clone(&stop));
        if let Err(error) = again.and(first) {
            tracing::warn!("signal {signal} cannot be handled: {error}");
        }
    }
    span.in_scope(|| run::smooth(&world, &config, &stop))
}

fn config(args: SmoothArgs) -> Config {
    Config {
        list: ListRequest {
            inputs: args.inputs,
            list_file: args.list,
            output: args.output,
            name: args.name,
        },
        limit: args.limit,
        shard: args.shard,
        existing: match (args.resume, args.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        },
        job: ImageJob {
            filter: Filter::Gaussian(args.gaussian),
            output: args.output_spec,
            compression: args.compression.level,
            sync: !args.no_sync,
        },
        strategy: args.strategy,
        threads: args.threads.map(usize::from),
        report: args.report,
        report_table: args.report_table,
        report_csv: args.report_csv,
        dry_run: args.dry_run,
        quiet: args.log.quiet,
        progress: args.progress,
        command: std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect(),
        fault: Fault::from_env(),
    }
}
