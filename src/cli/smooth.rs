//! `niimpi smooth`: its arguments, and what they mean to the run.

use std::path::PathBuf;

use clap::Args;

use super::inputs::InputArgs;
use super::smoothing::SmoothingArgs;
use crate::comm;
use crate::fault::Fault;
use crate::images::{ListRequest, NameTemplate};
use crate::logging::LogArgs;
use crate::run::{self, Config, Existing, ProgressStyle, Shard};

/// Smooth images with a Gaussian
///
/// Reads .nii, .nii.gz and .hdr/.img images (NIfTI-1 and NIfTI-2, any real datatype), smooths each 3-D volume
/// and writes it with the same name below the output folder. Every image is done or named in the report with
/// the reason.
#[derive(Args, Debug)]
pub(super) struct SmoothArgs {
    #[command(flatten)]
    inputs: InputArgs,

    /// Folder of the results; made if it is missing
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Name the results, for example 'denoised_{index}.nii.gz'; {stem}, {index} and {dir} are filled in
    ///
    /// {stem} is the input's name without its suffix, {index} its place in the list from 1, {dir} its folder
    /// below the base. The suffix decides the format; without one the input's is kept.
    #[arg(long, value_name = "TEMPLATE")]
    name: Option<NameTemplate>,

    #[command(flatten)]
    smoothing: SmoothingArgs,

    /// Workers of each rank [default: the CPUs that the rank was given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096), help_heading = "Distribution")]
    threads: Option<u16>,

    /// Do only the K-th of N shares of the list, for job arrays; 'slurm' takes both from the array task
    #[arg(long, value_name = "K/N", help_heading = "Distribution")]
    shard: Option<Shard>,

    /// Process the whole list N times, for measurements; repeats go into folders of their own
    #[arg(long, value_name = "N", hide = true, default_value_t = 1)]
    repeat: usize,

    /// Do only the first N images
    #[arg(long, value_name = "N", value_parser = parse_limit, help_heading = "Distribution")]
    limit: Option<usize>,

    /// Keep the results of earlier runs and do the rest
    ///
    /// A result is kept if niimpi wrote it from the same input with the same options. It is made again if it
    /// is missing, failed or was left unfinished, or if its input was changed since. Any other file under a
    /// result's name stops the run before it writes anything; add --overwrite to replace such files.
    #[arg(long)]
    resume: bool,

    /// Replace files that exist under the results' names
    ///
    /// With --resume, results that are right are kept and only the others are replaced.
    #[arg(long)]
    overwrite: bool,

    /// Begin no image that would not be finished so many seconds after the start [default: before the Slurm
    /// job's end]
    ///
    /// The run then ends with exit code 75, and --resume continues. How long an image takes is judged by
    /// those that are done.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, allow_negative_numbers = true)]
    stop_before: Option<f64>,

    /// Write the report as JSON (schema niimpi-report/2)
    #[arg(long, value_name = "FILE.json", help_heading = "Messages")]
    report: Option<PathBuf>,

    /// Also write the report's table to FILE.txt
    #[arg(long, requires = "report", help_heading = "Messages")]
    report_table: bool,

    /// Also write the report's rows to FILE.ranks.csv and FILE.images.csv
    #[arg(long, requires = "report", help_heading = "Messages")]
    report_csv: bool,

    /// Every SECONDS each rank notes its CPU time, memory, images and bytes in its journal
    ///
    /// `niimpi report show FILE.json --series` prints them: your own record of how the run used what it was
    /// given.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "Messages")]
    sample: Option<f64>,

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

fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 => Ok(seconds),
        _ => Err("give a number of seconds above 0".to_owned()),
    }
}

/// Starts the ranks and smooths. The exit code is the same on every rank.
pub(super) fn run(args: SmoothArgs) -> u8 {
    let log = args.log.clone();
    let config = config(args);
    // Before the ranks find each other, which may take seconds.
    let stop = run::on_signals();
    run::end_set_up_on_signals();
    let (world, span) = match super::start_ranks(&log, &config.request()) {
        Ok(started) => started,
        Err(exit_code) => return exit_code,
    };
    let exit_code = span.in_scope(|| run::smooth(&world, &config, &stop));
    comm::finish(world, exit_code)
}

fn config(args: SmoothArgs) -> Config {
    Config {
        list: ListRequest {
            repeat: args.repeat,
            ..args.inputs.request(args.output, args.name)
        },
        limit: args.limit,
        shard: args.shard,
        existing: match (args.resume, args.overwrite) {
            (true, true) => Existing::ResumeAndOverwrite,
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        },
        job: args.smoothing.job(),
        strategy: args.smoothing.strategy,
        threads: args.threads.map(usize::from),
        stop_before_s: args.stop_before,
        report: args.report,
        report_table: args.report_table,
        report_csv: args.report_csv,
        sample_s: args.sample,
        dry_run: args.dry_run,
        quiet: args.log.quiet,
        progress: args.progress,
        command: std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect(),
        fault: Fault::from_env(),
    }
}
