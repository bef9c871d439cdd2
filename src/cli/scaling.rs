//! `niimpi scaling`: its arguments, and the study that they describe.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::bids::BidsArgs;
use super::filter::AnyFilterArgs;
use super::inputs::absolute_input;
use super::job::JobArgs;
use crate::filter::Filter as _;
use crate::images::{self, ListRequest};
use crate::launch::LocalMachine;
use crate::run::{self, EXIT_DONE, EXIT_INTERRUPTED, EXIT_SOME_FAILED};
use crate::slurm::batch::{Request, mpi_type_of};
use crate::study::scaling::folder::{SCHEMA, StudyFolder, StudySpec, Via};
use crate::study::scaling::{self, batch, local};
use crate::text::counted;
use crate::{comm, console, resources};

/// Measure how time and memory grow with images, ranks and threads
///
/// Filters the first 1, 10, … images with every combination of ranks and threads, on this machine or as Slurm
/// jobs, and writes tables (CSV, Markdown) and plots (SVG) into the study's folder. One rank processes each
/// image (--split never). Run it again to do what is missing.
#[derive(Args, Debug)]
#[command(mut_arg("sigma", |arg| arg.required_unless_present("collect")))]
pub(super) struct ScalingArgs {
    /// Image files, or folders that are searched recursively
    #[arg(value_name = "DATA", required_unless_present = "collect")]
    data: Vec<PathBuf>,

    #[command(flatten)]
    bids: BidsArgs,

    /// Folder of the study; created if it is missing, continued if it exists
    #[arg(short, long, value_name = "STUDY", required_unless_present = "collect")]
    output: Option<PathBuf>,

    /// Numbers of images
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive)]
    #[arg(default_value = "1,10,20,40,100,200,400")]
    sizes: Vec<usize>,

    /// Numbers of ranks, on all nodes together
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4", value_parser = positive)]
    ranks: Vec<usize>,

    /// Numbers of workers of each rank
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,2,4", value_parser = positive)]
    threads: Vec<usize>,

    /// Numbers of nodes (--via slurm); ranks that do not divide evenly over them are left out
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = positive)]
    nodes: Vec<usize>,

    /// Number of runs of each configuration; the tables contain their mean and standard deviation
    #[arg(long, value_name = "N", default_value = "3", value_parser = positive)]
    repeat: usize,

    /// Where to run
    #[arg(long, value_enum, value_name = "WHERE", default_value_t)]
    via: Via,

    /// Keep the results (default: remove them after each run)
    #[arg(long)]
    keep: bool,

    /// Stop a run that takes longer, such as 10m (a row with the state TIMEOUT); for a job its --time
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    time_limit: Option<Duration>,

    /// Only collect the results of a study's jobs, then rewrite its tables and plots
    #[arg(long, value_name = "STUDY", conflicts_with_all = ["data", "output"])]
    collect: Option<PathBuf>,

    /// mpirun to use [default: the one on the PATH that belongs to this program's MPI]
    #[arg(long, value_name = "PROGRAM")]
    mpirun: Option<PathBuf>,

    /// Do not wait for the jobs (--via slurm); --collect reads their results later
    #[arg(long, help_heading = "Slurm")]
    no_wait: bool,

    /// The jobs' partition
    #[arg(long, value_name = "NAME", help_heading = "Slurm")]
    partition: Option<String>,

    /// The jobs' memory for each CPU, in MiB
    #[arg(long, value_name = "MIB", help_heading = "Slurm")]
    mem_per_cpu: Option<u64>,

    /// How srun starts the ranks [default: pmix for Open MPI, pmi2 for MPICH]
    #[arg(long, value_name = "TYPE", help_heading = "Slurm")]
    srun_mpi: Option<String>,

    /// Report errors only
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    job: JobArgs<AnyFilterArgs>,
}

/// Parses a whole number from 1.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    // Each requested image, rank or thread needs memory before anything is measured.
    const MOST: usize = 10_000_000;
    match text.trim().parse() {
        Ok(0) | Err(_) => Err("give whole numbers from 1".to_owned()),
        Ok(number) if number > MOST => Err(format!("at most {MOST}")),
        Ok(number) => Ok(number),
    }
}

/// Runs, continues or collects the study. Returns the exit code: 0 if every run completed, 1 if some did not,
/// 75 if the study was stopped or jobs are still in progress.
pub(super) fn run(args: &ScalingArgs) -> Result<u8, String> {
    if let Some(path) = &args.collect {
        let folder = StudyFolder::at(path);
        let spec = folder.read_spec()?;
        let left = batch::collect(&folder, &spec, args.keep)?;
        if left > 0 && !args.quiet {
            console::note(format!("{} pending or running", counted(left, "job")));
        }
        return finish(&folder, left == 0, args.quiet);
    }
    let Some(output) = &args.output else {
        return Err("--output is missing".to_owned());
    };
    let spec = spec(args)?;
    let stop = run::on_signals();
    let ended = match args.via {
        Via::Local => {
            if args.nodes.iter().any(|&nodes| nodes > 1) {
                return Err("--nodes: this machine is one node; several need --via slurm".to_owned());
            }
            check_workers(args, resources::available_cpus())?;
            let machine =
                LocalMachine::new(args.mpirun.as_deref(), args.ranks.iter().any(|&ranks| ranks > 1))?;
            let folder = StudyFolder::begin(output, &spec)?;
            let options = local::RunOptions {
                keep: args.keep,
                time_limit: args.time_limit,
                stop: &stop,
                quiet: args.quiet,
            };
            let ended = local::run(&folder, &folder.read_spec()?, &machine, &options)?;
            (folder, ended)
        }
        Via::Slurm => {
            let folder = StudyFolder::begin(output, &spec)?;
            let spec = folder.read_spec()?;
            let asked = Request {
                mem_per_cpu_mib: args.mem_per_cpu,
                time_min: args.time_limit.map(|time| time.as_secs().div_ceil(60).max(1)),
                partition: args.partition.clone(),
                ..Request::default()
            };
            batch::submit(
                &folder,
                &spec,
                &asked,
                &mpi_type(args.srun_mpi.as_deref()),
                args.quiet,
            )?;
            if args.no_wait {
                say(&format!(
                    "The jobs are submitted; niimpi scaling --collect {} reads their results.\n",
                    output.display()
                ))?;
                return Ok(EXIT_DONE);
            }
            let ended = batch::wait(&folder, &spec, args.keep, args.quiet, &stop)?;
            (folder, ended)
        }
    };
    finish(&ended.0, ended.1, args.quiet)
}

/// Refuses far more workers than CPUs, because thousands of them would only measure an overloaded machine.
fn check_workers(args: &ScalingArgs, cpus: usize) -> Result<(), String> {
    const WORKERS_PER_CPU: usize = 16;
    let most = |numbers: &[usize]| numbers.iter().copied().max().unwrap_or(1);
    let (ranks, threads) = (most(&args.ranks), most(&args.threads));
    let workers = ranks.saturating_mul(threads);
    if workers <= cpus.saturating_mul(WORKERS_PER_CPU) {
        return Ok(());
    }
    Err(format!(
        "--ranks {ranks} with --threads {threads} are {workers} workers, but this machine has {cpus} CPUs; \
         at most {} workers are measured ({WORKERS_PER_CPU} per CPU); give smaller --ranks or --threads, or \
         measure on a cluster with --via slurm",
        cpus * WORKERS_PER_CPU
    ))
}

/// The value of `srun --mpi`: the requested one, or the one for this program's MPI.
pub(super) fn mpi_type(asked: Option<&str>) -> String {
    let usual = || mpi_type_of(comm::library().as_deref());
    asked.unwrap_or_else(usual).to_owned()
}

/// Writes to standard output.
pub(super) fn say(text: &str) -> Result<(), String> {
    console::print(text).map_err(|error| format!("standard output cannot be written: {error}"))
}

fn finish(folder: &StudyFolder, ended: bool, quiet: bool) -> Result<u8, String> {
    let (text, completed) = scaling::write_results(folder)?;
    if !quiet {
        let folder = folder.path().display();
        say(&format!("{text}\nTables and plots are in {folder}\n"))?;
    }
    Ok(match (ended, completed) {
        (false, _) => EXIT_INTERRUPTED,
        (true, true) => EXIT_DONE,
        (true, false) => EXIT_SOME_FAILED,
    })
}

fn spec(args: &ScalingArgs) -> Result<StudySpec, String> {
    let inputs = args.data.iter().map(|path| absolute_input(path, false));
    let inputs: Vec<PathBuf> = inputs.collect::<Result<_, _>>()?;
    let listed = images::collect(&args.job.list(ListRequest {
        inputs: inputs.clone(),
        output: args.output.clone().unwrap_or_default().join("outputs"),
        bids: args.bids.request(args.job.job().filter.bids_desc()),
        ..ListRequest::default()
    }));
    let images = listed?.entries.len();
    let most = args.sizes.iter().copied().max().unwrap_or(0);
    if most > images {
        return Err(format!(
            "--sizes {most}: there are only {images} images; give more images (`niimpi synth` makes some) or \
            smaller --sizes"
        ));
    }
    let options = [args.job.words(), args.bids.words()].concat();
    let varied = |numbers: &[usize]| numbers.iter().copied().collect();
    Ok(StudySpec {
        schema: SCHEMA.to_owned(),
        inputs,
        options: options
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        sizes: varied(&args.sizes),
        ranks: varied(&args.ranks),
        threads: varied(&args.threads),
        nodes: varied(&args.nodes),
        repeats: args.repeat,
        via: args.via,
        host: resources::host_name(),
        cpus: resources::available_cpus(),
        mpi: comm::library().unwrap_or_else(|| "without MPI".to_owned()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
