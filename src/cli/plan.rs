//! `niimpi plan`: its arguments, and the plan that they describe.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;

use super::bids::BidsArgs;
use super::filter::AnyFilterArgs;
use super::inputs::InputArgs;
use super::job::JobArgs;
use super::scaling::{mpi_type, positive, say};
use crate::filter::Filter as _;
use crate::images::{ListRequest, NameTemplate};
use crate::report::{self, destination};
use crate::run::{EXIT_DONE, EXIT_SOME_FAILED};
use crate::slurm::accounting::Accounting;
use crate::slurm::batch::BatchScript;
use crate::slurm::limits::PartitionLimits;
use crate::study::plan::document::PlanDocument;
use crate::study::plan::predict::Bounds;
use crate::study::plan::request::remarks;
use crate::study::plan::{Plan, PlanRequest, check, plan, recommend};
use crate::study::scaling::folder::{read_json, write_csv, write_json, write_text};
use crate::text::{counted, parse_bytes, parse_clock_s};
use crate::{console, launch, resources};

/// Predict time and memory from a few images, and write a batch script that requests the right amount
///
/// Reads the headers of all images. Then runs a pilot on this machine, which filters a few of the images, or
/// reads the reports of earlier runs (--from). Prints the expected time with a 90 % interval, the memory and
/// the core hours for each number of nodes, ranks and threads, and recommends one layout. It assumes that
/// one rank processes each image (--split never). After the job, --check compares the plan with the resources
/// that the job used.
///
/// Exit codes: 0 planned, 1 --check found that the run exceeded its request, 2 no plan is possible.
#[derive(Args, Debug)]
#[command(mut_arg("sigma", |arg| arg.required_unless_present("check")))]
#[command(mut_arg("inputs", |arg| arg.required_unless_present("check")))]
#[command(mut_arg("bids", |arg| arg.conflicts_with_all(["list", "base", "name"])))]
pub(super) struct PlanArgs {
    #[command(flatten)]
    inputs: InputArgs,

    #[command(flatten)]
    bids: BidsArgs,

    /// Folder of the job's results; the pilot writes next to it, on the same file system [default: smoothed]
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "smoothed",
        hide_default_value = true
    )]
    output: PathBuf,

    /// Name the results, as with --name of `niimpi smooth`
    #[arg(long, value_name = "TEMPLATE")]
    name: Option<NameTemplate>,

    /// Plan for N images: the first N, or all repeated until there are N [default: all]
    #[arg(long, value_name = "N", value_parser = positive)]
    images: Option<usize>,

    /// Measurements: folders of `niimpi scaling`, or reports of earlier runs (--report)
    #[arg(long, value_name = "STUDY|REPORT.json", num_args = 1.., help_heading = "Measurements")]
    from: Vec<PathBuf>,

    /// Number of images in the pilot, which runs on this machine if --from is not given [default: 20]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "from")]
    #[arg(help_heading = "Measurements")]
    pilot: Option<usize>,

    /// mpirun for the pilot [default: the one on the PATH that belongs to this program's MPI]
    #[arg(long, value_name = "PROGRAM", help_heading = "Measurements")]
    mpirun: Option<PathBuf>,

    /// Numbers of nodes: 4, 1,2,4 or 1-8 [default: 1, or as many as --ranks need]
    #[arg(long, value_name = "N,…|N-M", value_parser = parse_numbers, help_heading = "Cluster")]
    nodes: Option<Numbers>,

    /// Numbers of ranks, on all nodes together [default: 1, 2, 4, … per node]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive, help_heading = "Cluster")]
    ranks: Vec<usize>,

    /// Numbers of workers of each rank
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = positive)]
    #[arg(help_heading = "Cluster")]
    threads: Vec<usize>,

    /// CPUs of a node [default: of the partition, from sinfo; otherwise of this machine]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Cluster")]
    cpus_per_node: Option<usize>,

    /// Memory of a node, such as 180G [default: of the partition, from sinfo]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Cluster")]
    mem_per_node: Option<u64>,

    /// Time limit of the job: [DAYS-]HH:MM:SS, or minutes [default: of the partition, from sinfo]
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Cluster")]
    max_time: Option<f64>,

    /// Partition of the job; its limits are read from sinfo
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    partition: Option<String>,

    /// How srun starts the ranks [default: pmix for Open MPI, pmi2 for MPICH]
    #[arg(long, value_name = "TYPE", help_heading = "Cluster")]
    srun_mpi: Option<String>,

    /// Write a script for sbatch, and the plan next to it (FILE.plan.json); the job will write its report to
    /// FILE.report.json
    #[arg(long, value_name = "FILE.sbatch", help_heading = "Results")]
    write: Option<PathBuf>,

    /// Write the plan as JSON (schema niimpi-plan/1)
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    json: Option<PathBuf>,

    /// Write the table of all layouts as CSV
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    csv: Option<PathBuf>,

    /// Compare the resources that a run used with its plan and its request
    ///
    /// The plan is REPORT with .plan.json in place of .report.json, unless --plan is given. The exit code is
    /// 1 if the run exceeded its request.
    #[arg(long, value_name = "REPORT.json", help_heading = "Results")]
    check: Option<PathBuf>,

    /// The plan that --check compares with
    #[arg(long, value_name = "PLAN.json", requires = "check", help_heading = "Results")]
    plan: Option<PathBuf>,

    /// Report errors only
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    job: JobArgs<AnyFilterArgs>,
}

/// Whole numbers from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Numbers(Vec<usize>);

fn parse_numbers(text: &str) -> Result<Numbers, String> {
    if let Some((from, to)) = text.split_once('-') {
        let (from, to) = (positive(from)?, positive(to)?);
        if from > to || to > 100_000 {
            return Err("give a range from the smaller to the larger, such as 1-8".to_owned());
        }
        return Ok(Numbers((from..=to).collect()));
    }
    text.split(',')
        .map(positive)
        .collect::<Result<_, _>>()
        .map(Numbers)
}

fn parse_size(text: &str) -> Result<u64, String> {
    // As in Slurm, a size without a unit is in MiB.
    parse_bytes(text, 1 << 20)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "give a size such as 180G or 4000M".to_owned())
}

fn parse_time(text: &str) -> Result<f64, String> {
    let seconds = if text.contains(':') || text.contains('-') {
        parse_clock_s(text)
    } else {
        text.parse::<f64>().ok().map(|minutes| minutes * 60.0)
    };
    seconds
        .filter(|&seconds| seconds > 0.0)
        .ok_or_else(|| "give a time as HH:MM:SS or DAYS-HH:MM:SS, or minutes".to_owned())
}

/// Plans, or checks a run. Returns the exit code: 0, or 1 if a checked run exceeded its request.
pub(super) fn run(args: &PlanArgs) -> Result<u8, String> {
    match &args.check {
        Some(report) => check_run(report, args.plan.as_deref()),
        None => make_plan(args).map(|()| EXIT_DONE),
    }
}

fn check_run(path: &Path, plan: Option<&Path>) -> Result<u8, String> {
    let report = report::read(path)?;
    let beside = Some(path.with_extension("").with_extension("plan.json"));
    let beside = beside.filter(|beside| beside.is_file());
    let plan: Option<PlanDocument> = plan.or(beside.as_deref()).map(read_json).transpose()?;
    let accounting = report.launch.slurm.as_ref().and_then(|job| {
        Accounting::of_job(&job.job_id).unwrap_or_else(|error| {
            let job = &job.job_id;
            console::note(format!(
                "checking without Slurm's accounting of job {job}: {error}"
            ));
            None
        })
    });
    let found = check::check(&report, plan.as_ref(), accounting.as_ref());
    say(&found.text)?;
    Ok(if found.inside { EXIT_DONE } else { EXIT_SOME_FAILED })
}

fn make_plan(args: &PlanArgs) -> Result<(), String> {
    check_destinations(args)?;
    let limits = partition_limits(args)?;
    let of_partition = limits.as_ref();
    let cpus_per_node = args
        .cpus_per_node
        .or(of_partition.map(|limits| limits.cpus_per_node));
    let job = args.job.job();
    let list = args.inputs.request(args.output.clone(), args.name.clone());
    let request = PlanRequest {
        list: ListRequest {
            bids: args.bids.request(job.filter.bids_desc()),
            ..args.job.list(list)
        },
        images: args.images,
        job,
        options: args.job.words(),
        strategy: args.job.strategy,
        from: args.from.clone(),
        pilot: args.pilot.unwrap_or(20),
        mpirun: args.mpirun.clone(),
        bounds: Bounds {
            nodes: args.nodes.clone().unwrap_or_default().0,
            ranks: args.ranks.clone(),
            threads: args.threads.clone(),
            cpus_per_node: cpus_per_node.unwrap_or_else(resources::available_cpus),
            mem_per_node_bytes: args
                .mem_per_node
                .or(of_partition.map(|limits| limits.mem_per_node_bytes)),
            max_time_s: args.max_time.or(of_partition.and_then(|limits| limits.time_s)),
        },
        for_srun: limits.is_some() || args.write.is_some(),
        limits,
        partition: args.partition.clone(),
        quiet: args.quiet,
    };
    let mut made = plan(&request)?;
    if let Some(path) = &args.write {
        let written = write_script(args, path, &mut made, &request.options)?;
        made.text.push_str(&written);
    }
    if let Some(path) = &args.json {
        write_json(path, &made.document)?;
    }
    if let Some(path) = &args.csv {
        write_csv(path, &recommend::COLUMNS, &made.document.configurations)?;
    }
    if args.quiet { Ok(()) } else { say(&made.text) }
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Refuses to replace files that are not from an earlier plan, before anything is measured.
fn check_destinations(args: &PlanArgs) -> Result<(), String> {
    if let Some(script) = &args.write {
        destination::check("--write", script, destination::SCRIPT)?;
        destination::check("--write", &script.with_extension("plan.json"), destination::PLAN)?;
    }
    if let Some(path) = &args.json {
        destination::check("--json", path, destination::PLAN)?;
    }
    match &args.csv {
        Some(path) => destination::check("--csv", path, destination::PLAN_CSV),
        None => Ok(()),
    }
}

/// Writes the script, and next to it the plan for the check after the run. Returns a message about them.
fn write_script(
    args: &PlanArgs,
    path: &Path,
    made: &mut Plan,
    options: &[OsString],
) -> Result<String, String> {
    if args.inputs.list.as_deref() == Some(Path::new("-")) {
        return Err("--write: the job cannot read a list on standard input; give it as a file".to_owned());
    }
    let document = &mut made.document;
    let mut words = options.to_vec();
    words.extend(args.inputs.words()?);
    words.extend(args.bids.words());
    if let Some(name) = &args.name {
        words.extend(["--name".into(), name.to_string().into()]);
    }
    words.extend(["--output".into(), absolute(&args.output)?.into()]);
    if let Some(images) = args.images.filter(|&images| images < made.listed) {
        words.extend(["--limit".into(), images.to_string().into()]);
    }
    let report = absolute(path)?.with_extension("report.json");
    let chosen = document.recommended().expect("a plan recommends a layout");
    let mut command = vec![launch::program()?];
    command.extend(words);
    command.extend(["--threads".into(), chosen.layout.threads.to_string().into()]);
    command.extend(["--resume".into(), "--report".into(), report.clone().into()]);
    let script = BatchScript {
        name: "niimpi".to_owned(),
        request: document.request.clone(),
        log: "niimpi-%j.log".into(),
        remarks: remarks(chosen, &document.request, document.images),
        mpi_type: mpi_type(args.srun_mpi.as_deref()),
        command,
    };
    let text = script.render()?;
    write_text(path, &text)?;
    document.report = Some(report.display().to_string());
    write_json(&path.with_extension("plan.json"), document)?;
    let mut text = format!(
        "The script is {}. After the job: niimpi plan --check {}\n",
        path.display(),
        report.display()
    );
    if document.images > made.listed {
        text.push_str(&format!(
            "It requests resources for {}; {} exist now.\n",
            counted(document.images, "image"),
            made.listed
        ));
    }
    Ok(text)
}

/// The limits of the partition; `None` without Slurm, or if Slurm does not reply and no partition was
/// requested.
fn partition_limits(args: &PlanArgs) -> Result<Option<PartitionLimits>, String> {
    match PartitionLimits::of(args.partition.as_deref()) {
        Err(message) if args.partition.is_none() => {
            if !args.quiet {
                console::note(format!("planning without the limits of the partition: {message}"));
            }
            Ok(None)
        }
        limits => limits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sizes_and_times_are_read() {
        assert_eq!(parse_numbers("1-4"), Ok(Numbers(vec![1, 2, 3, 4])));
        assert_eq!(parse_numbers("1,8"), Ok(Numbers(vec![1, 8])));
        for wrong in ["0", "4-1", "a", ""] {
            assert!(parse_numbers(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_size("180G"), Ok(180 << 30));
        assert_eq!(parse_size("4000"), Ok(4000 << 20));
        assert_eq!(parse_size("1GiB"), Ok(1 << 30));
        assert!(parse_size("much").is_err());
        assert_eq!(parse_time("24:00:00"), Ok(86_400.0));
        assert_eq!(parse_time("1-00:00:00"), Ok(86_400.0));
        assert_eq!(parse_time("90"), Ok(5400.0));
        assert!(parse_time("soon").is_err());
    }
}
