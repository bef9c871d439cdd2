//! `niimpi plan`: its arguments, and what they mean to the planning.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::inputs::InputArgs;
use super::scaling::positive;
use super::smoothing::SmoothingArgs;
use crate::images::NameTemplate;
use crate::launch::LocalMachine;
use crate::report::{Report, write_whole};
use crate::run::{self, EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE};
use crate::slurm::accounting::Accounting;
use crate::slurm::batch::mpi_type_of;
use crate::slurm::limits::PartitionLimits;
use crate::study::plan::document::{PlanDocument, SCHEMA};
use crate::study::plan::listed::{self, Listed};
use crate::study::plan::measured::{self, Source, Wanted};
use crate::study::plan::memory::MemoryModel;
use crate::study::plan::model::Model;
use crate::study::plan::pilot::{self, Pilot, PilotRequest};
use crate::study::plan::predict::{Bounds, Prediction, Predictor};
use crate::study::plan::{check, recommend, request, root_work, simulate};
use crate::study::scaling::folder::{StudyFolder, read_json};
use crate::text::{parse_bytes, parse_clock_s};
use crate::{comm, console, resources};

/// Predict time and memory from a few images, and write the batch script that asks for the right amount
///
/// Reads the headers of all images and measurements on some: a pilot that it runs here, or the reports of earlier runs.
/// Prints what each number of nodes, ranks and threads would take, with a 90 % interval, and recommends one.
#[derive(Args, Debug)]
#[command(mut_arg("sigma", |arg| arg.required_unless_present("check")))]
#[command(mut_arg("inputs", |arg| arg.required_unless_present("check")))]
pub(super) struct PlanArgs {
    #[command(flatten)]
    inputs: InputArgs,

    /// Folder of the job's results; a pilot writes beside it, on the same file system [default: smoothed]
    #[arg(
        short,
        long,
        value_name = "DIR",
        default_value = "smoothed",
        hide_default_value = true
    )]
    output: PathBuf,

    /// Name the results, as niimpi smooth does
    #[arg(long, value_name = "TEMPLATE")]
    name: Option<NameTemplate>,

    /// Plan for N images: the first N, or more of the same mixture [default: those that there are]
    #[arg(long, value_name = "N", value_parser = positive)]
    images: Option<usize>,

    /// Measurements: folders of `niimpi scaling`, or reports of `niimpi smooth` (--report)
    #[arg(long, value_name = "STUDY|REPORT.json", num_args = 1.., help_heading = "Measurements")]
    from: Vec<PathBuf>,

    /// Measure on N images of the list, here, several times [default: 20, without --from]
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "from", help_heading = "Measurements")]
    pilot: Option<usize>,

    /// The mpirun for the pilot [default: the one on the PATH that belongs to this program's MPI]
    #[arg(long, value_name = "PROGRAM", help_heading = "Measurements")]
    mpirun: Option<PathBuf>,

    /// Numbers of nodes: 4, 1,2,4 or 1-8
    #[arg(long, value_name = "N,…|N-M", default_value = "1", value_parser = parse_numbers, help_heading = "Cluster")]
    nodes: Numbers,

    /// Numbers of ranks, on all nodes together [default: 1, 2, 4, … to a node]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive, help_heading = "Cluster")]
    ranks: Vec<usize>,

    /// Numbers of workers of each rank
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = positive, help_heading = "Cluster")]
    threads: Vec<usize>,

    /// CPUs of a node [default: the partition's where there is sinfo, else this machine's]
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Cluster")]
    cpus_per_node: Option<usize>,

    /// Memory of a node, such as 180G [default: the partition's where there is sinfo]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Cluster")]
    mem_per_node: Option<u64>,

    /// The longest that the job may take: [DAYS-]HH:MM:SS [default: the partition's where there is sinfo]
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Cluster")]
    max_time: Option<f64>,

    /// The job's partition; its limits are taken from sinfo
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    partition: Option<String>,

    /// How srun starts the ranks [default: pmix for Open MPI, pmi2 for MPICH]
    #[arg(long, value_name = "TYPE", help_heading = "Cluster")]
    srun_mpi: Option<String>,

    /// Write a script for sbatch; the plan goes beside it (FILE.plan.json), the job's report too (FILE.report.json)
    #[arg(long, value_name = "FILE.sbatch", help_heading = "Results")]
    write: Option<PathBuf>,

    /// Write the plan as JSON (schema niimpi-plan/1)
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    json: Option<PathBuf>,

    /// Play the list with 1 to 4,096 ranks, and plot speed-up, imbalance and throughput into DIR
    #[arg(
        long,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "niimpi-simulation",
        help_heading = "Results"
    )]
    simulate: Option<PathBuf>,

    /// Compare a run with its plan and its request: what was predicted, asked for and used
    ///
    /// The plan is REPORT's own name with .plan.json in place of .report.json, unless --plan names another. Ends with exit
    /// code 1 when the run went beyond what was asked for.
    #[arg(long, value_name = "REPORT.json", help_heading = "Results")]
    check: Option<PathBuf>,

    /// The plan that --check compares with
    #[arg(
        long,
        value_name = "PLAN.json",
        requires = "check",
        help_heading = "Results"
    )]
    plan: Option<PathBuf>,

    /// Tell of errors only
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    smoothing: SmoothingArgs,
}

/// Several whole numbers from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    // As Slurm: MiB where no unit is given.
    parse_bytes(text, 1 << 20)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| "give a size such as 180G or 4000M".to_owned())
}

fn parse_time(text: &str) -> Result<f64, String> {
    let say = || "give a time as HH:MM:SS or DAYS-HH:MM:SS, or minutes".to_owned();
    let seconds = if text.contains(':') || text.contains('-') {
        parse_clock_s(text).ok_or_else(say)?
    } else {
        text.parse::<f64>().map_err(|_| say())? * 60.0
    };
    if seconds > 0.0 {
        Ok(seconds)
    } else {
        Err(say())
    }
}

/// Plans, or checks a run. Exit code 0; 1 when a checked run went beyond its request; 2 when there is no plan.
pub(super) fn run(args: &PlanArgs) -> u8 {
    let done = match &args.check {
        Some(report) => check_run(report, args.plan.as_deref()),
        None => plan(args).map(|()| EXIT_DONE),
    };
    done.unwrap_or_else(|message| {
        console::error(message);
        EXIT_USAGE
    })
}

fn check_run(path: &Path, plan: Option<&Path>) -> Result<u8, String> {
    let report: Report = read_json(path)?;
    let beside = sibling(path, ".report.json", ".plan.json");
    let plan: Option<PlanDocument> = match (plan, beside) {
        (Some(plan), _) => Some(read_json(plan)?),
        (None, Some(beside)) if beside.is_file() => Some(read_json(&beside)?),
        _ => None,
    };
    let accounting = match &report.launch.slurm {
        None => None,
        Some(job) => Accounting::of_job(&job.job_id).unwrap_or_else(|error| {
            console::note(format!(
                "what Slurm knows of job {} is left out: {error}",
                job.job_id
            ));
            None
        }),
    };
    let found = check::check(&report, plan.as_ref(), accounting.as_ref());
    say(&found.text)?;
    Ok(if found.inside {
        EXIT_DONE
    } else {
        EXIT_SOME_FAILED
    })
}

/// Writes to standard output.
fn say(text: &str) -> Result<(), String> {
    console::print(text).map_err(|error| format!("standard output cannot be written: {error}"))
}

/// The file beside `path` whose name has another end.
fn sibling(path: &Path, end: &str, other: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    Some(path.with_file_name(format!("{}{other}", name.strip_suffix(end)?)))
}

fn plan(args: &PlanArgs) -> Result<(), String> {
    let limits = partition_limits(args)?;
    let job = args.smoothing.job();
    let request = args.inputs.request(args.output.clone(), args.name.clone());
    let listed = listed::look(&request, &job, args.images)?;
    let options = args.smoothing.words();
    let wanted = Wanted {
        filter: job.describe(),
        compression: job.compression.to_string(),
        sync: job.sync,
    };
    let Pilot {
        sources,
        notes: notes_of_pilot,
    } = if args.from.is_empty() {
        run_pilot(args, &options, &listed)?
    } else {
        Pilot {
            sources: read_sources(&args.from)?,
            notes: Vec::new(),
        }
    };
    let measured = measured::gather(&sources, &wanted)?;
    let model = Model::fit(&measured)?;
    let root = root_work::measure(
        listed.planned.len(),
        listed.name_bytes,
        listed.list_s,
        listed.look_s,
    );
    let memory = MemoryModel::fit(&measured.runs, root.bytes, listed.planned.len());
    let strategy = args.smoothing.strategy;
    let predictor = Predictor::new(
        &listed,
        &model,
        &memory,
        &root,
        strategy,
        job.filter_s_per_voxel(),
    )?;
    let bounds = bounds(args, limits.as_ref());
    let largest_bytes = listed.largest_bytes();
    let partition = args.partition.as_deref();
    let mut predictions: Vec<Prediction> = bounds
        .settings()
        .into_iter()
        .map(|setting| {
            let mut prediction = predictor.predict(setting, bounds.cpus_per_node);
            let asked = request::request(&prediction, largest_bytes, partition);
            prediction.beyond = bounds
                .judge(&prediction)
                .or_else(|| limits.as_ref().and_then(|limits| limits.refuses(&asked)));
            prediction
        })
        .collect();
    let chosen = recommend::mark(&mut predictions)?;
    let asked = request::request(&predictions[chosen], largest_bytes, partition);
    let mut notes = measured.notes.clone();
    notes.extend(notes_of_pilot);
    if memory.is_beyond(predictions[chosen].setting.threads, largest_bytes) {
        notes.push(
            "the largest images were not measured: their memory is extended from smaller ones"
                .to_owned(),
        );
    }
    let mut text = format!(
        "{} images planned for, {} measured {} times in {} runs on {} (runs differ by {:.0} %)\n{}\n{}",
        listed.planned.len(),
        measured.distinct_images,
        measured.images.len(),
        measured.runs.len(),
        measured.hosts.join(", "),
        model.run_spread() * 100.0,
        recommend::table(&predictions),
        recommend::reasons(&predictions, chosen, &predictor, &model, &listed)
    );
    for note in &notes {
        let _ = writeln!(text, "Note: {note}.");
    }
    let _ = writeln!(text, "Ask for: {}", in_words(&asked));
    if let Some(folder) = &args.simulate {
        let threads = predictions[chosen].setting.threads;
        let images = listed.planned.len();
        let root_s = |ranks| root.setup_s(images, ranks, threads) + root.finish_s(images);
        let steps = simulate::run(&predictor, threads, bounds.cpus_per_node, root_s);
        text.push_str(&simulate::write(folder, &steps, predictor.ceiling())?);
        let _ = writeln!(text, "Plots are in {}", folder.display());
    }
    let mut document = PlanDocument {
        schema: SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        images: listed.planned.len(),
        dominated_by: predictor.dominated_by().to_owned(),
        shares: predictor.shares(),
        measured_on: measured.hosts.clone(),
        ceiling_images_per_s: predictor.ceiling().0,
        configurations: predictions.clone(),
        request: asked.clone(),
        report: None,
        notes,
    };
    if let Some(path) = &args.write {
        let setting = &predictions[chosen];
        text.push_str(&write_script(
            args,
            path,
            setting,
            &mut document,
            &listed,
            &options,
        )?);
    }
    if let Some(path) = &args.json {
        write_json(path, &document)?;
    }
    if args.quiet { Ok(()) } else { say(&text) }
}

fn in_words(asked: &crate::slurm::batch::Request) -> String {
    let minutes = asked.time_min.unwrap_or(0);
    format!(
        "--nodes={} --ntasks-per-node={} --cpus-per-task={} --mem-per-cpu={}M --time={:02}:{:02}:00",
        asked.nodes,
        asked.tasks_per_node,
        asked.cpus_per_task,
        asked.mem_per_cpu_mib.unwrap_or(0),
        minutes / 60,
        minutes % 60
    )
}

fn write_json(path: &Path, document: &PlanDocument) -> Result<(), String> {
    write_whole(path, |file| {
        serde_json::to_writer_pretty(&mut *file, document)?;
        writeln!(file)
    })
    .map_err(|error| format!("{}: the plan cannot be written: {error}", path.display()))
}

/// Writes the script, and the plan beside it for the check after the run; returns what to tell of it.
fn write_script(
    args: &PlanArgs,
    path: &Path,
    prediction: &Prediction,
    document: &mut PlanDocument,
    listed: &Listed,
    options: &[OsString],
) -> Result<String, String> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let stem = absolute(path)?.with_extension("");
    let beside = |end: &str| {
        let mut name = stem.clone().into_os_string();
        name.push(end);
        PathBuf::from(name)
    };
    if args.inputs.list.as_deref() == Some(Path::new("-")) {
        return Err(
            "--write: a list on standard input is not there for the job; give it as a file"
                .to_owned(),
        );
    }
    let mut words = args.inputs.words()?;
    words.extend(options.iter().cloned());
    if let Some(name) = &args.name {
        words.extend(["--name".into(), name.to_string().into()]);
    }
    words.extend(["--output".into(), absolute(&args.output)?.into()]);
    if document.images < listed.listed {
        words.extend(["--limit".into(), document.images.to_string().into()]);
    }
    let report = beside(".report.json");
    let job = request::Job {
        program: std::env::current_exe()
            .map_err(|error| format!("this program's own file cannot be found: {error}"))?
            .into(),
        words,
        report: report.clone().into(),
        mpi_type: args
            .srun_mpi
            .clone()
            .unwrap_or_else(|| mpi_type_of(comm::library().as_deref()).to_owned()),
        images: document.images,
    };
    let text = request::script(prediction, &document.request, &job).render()?;
    write_whole(path, |file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("--write {}: {error}", path.display()))?;
    document.report = Some(report.display().to_string());
    write_json(&beside(".plan.json"), document)?;
    let mut text = format!(
        "The script is {}; after the job: niimpi plan --check {}\n",
        path.display(),
        report.display()
    );
    if document.images > listed.listed {
        let _ = writeln!(
            text,
            "It asks for what {} images take; {} are there now.",
            document.images, listed.listed
        );
    }
    Ok(text)
}

/// What the partition gives; `None` where there is no Slurm, or none that answers and none was asked for.
fn partition_limits(args: &PlanArgs) -> Result<Option<PartitionLimits>, String> {
    match PartitionLimits::of(args.partition.as_deref()) {
        Err(message) if args.partition.is_none() => {
            if !args.quiet {
                console::note(format!("no partition's limits are known: {message}"));
            }
            Ok(None)
        }
        limits => limits,
    }
}

fn bounds(args: &PlanArgs, limits: Option<&PartitionLimits>) -> Bounds {
    Bounds {
        nodes: args.nodes.0.clone(),
        ranks: args.ranks.clone(),
        threads: args.threads.clone(),
        cpus_per_node: args
            .cpus_per_node
            .or(limits.map(|limits| limits.cpus_per_node))
            .unwrap_or_else(resources::available_cpus),
        mem_per_node_bytes: args
            .mem_per_node
            .or(limits.map(|limits| limits.mem_per_node_bytes)),
        max_time_s: args.max_time.or(limits.and_then(|limits| limits.time_s)),
    }
}

fn run_pilot(args: &PlanArgs, options: &[OsString], listed: &Listed) -> Result<Pilot, String> {
    let images = args.pilot.unwrap_or(20);
    if images.min(listed.found.len()) < measured::FEWEST_IMAGES {
        return Err(format!(
            "a pilot of {} images cannot tell how much images differ; it needs {} or more",
            images.min(listed.found.len()),
            measured::FEWEST_IMAGES
        ));
    }
    let output = std::path::absolute(&args.output)
        .map_err(|error| format!("{}: {error}", args.output.display()))?;
    let beside = output.parent().unwrap_or(Path::new("/"));
    let machine = LocalMachine::new(args.mpirun.as_deref(), false)?;
    let stop = run::on_signals();
    pilot::run(
        &PilotRequest {
            images,
            options,
            beside,
            cpus: resources::available_cpus(),
            quiet: args.quiet,
            stop: &stop,
        },
        &machine,
        listed,
    )
}

/// Reads reports, and those of studies with what their records know.
fn read_sources(paths: &[PathBuf]) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for path in paths {
        if StudyFolder::is_study(path) {
            let folder = StudyFolder::at(path);
            let runs = folder.read_runs(&folder.read_spec()?)?;
            sources.extend(runs.into_iter().filter_map(|run| {
                Some(Source {
                    name: run.record.configuration.id(),
                    report: run.report?,
                    wall_s: run.record.wall_s,
                    others_cpus: run.record.others_cpus,
                    reading_factor: 1.0,
                })
            }));
        } else if path.is_dir() {
            return Err(format!(
                "--from {}: is a folder without a study (study.json)",
                path.display()
            ));
        } else {
            sources.push(Source {
                name: path.display().to_string(),
                report: read_json(path)?,
                wall_s: None,
                others_cpus: None,
                reading_factor: 1.0,
            });
        }
    }
    Ok(sources)
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

    #[test]
    fn the_plan_lies_beside_the_report() {
        let found = sibling(
            Path::new("/x/job.report.json"),
            ".report.json",
            ".plan.json",
        );
        assert_eq!(found, Some("/x/job.plan.json".into()));
        assert_eq!(
            sibling(Path::new("/x/other.json"), ".report.json", ".plan.json"),
            None
        );
    }
}
