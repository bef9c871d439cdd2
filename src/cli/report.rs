//! `niimpi report`: its arguments, and what they do: show a report in another form, or merge several.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::columns::{Style, Table, write_csv};
use crate::console;
use crate::journal::series::{self, Sample};
use crate::report::merge::{self, Source};
use crate::report::table;
use crate::report::{Report, State, csv, destination};
use crate::run::{EXIT_DONE, EXIT_SOME_FAILED, exit_code_of};
use crate::slurm::steps::{self, Account};
use crate::text::ranges;

/// Show a run's report, or merge the reports of an array's tasks
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    #[command(after_help = "Example: niimpi report show run.json --format csv --rows images")]
    Show(ShowArgs),
    #[command(after_help = "Example: niimpi report merge logs/shards/4711-*.json --output all.json")]
    Merge(MergeArgs),
}

/// Print a report that --report wrote, in another form
#[derive(Args, Debug)]
struct ShowArgs {
    /// The report
    #[arg(value_name = "FILE.json")]
    file: PathBuf,

    /// How it is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,

    /// Rows of the CSV form
    #[arg(long, value_enum, value_name = "ROWS", default_value_t)]
    rows: Rows,

    /// Also print Slurm's accounting of the job: time, CPU, memory and state of every step
    ///
    /// Calls sacct, so it works on the cluster that ran the job. The states of a job: COMPLETED, FAILED (the
    /// exit code says how), TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED.
    #[arg(long)]
    sacct: bool,

    /// Also print what the ranks noted of themselves while they ran (`niimpi smooth --sample SECONDS`)
    #[arg(long)]
    series: bool,
}

/// Join reports of one piece of work into one: the shards of an array, or the runs of a requeued job
///
/// Ends with 0 when all is done, 1 when images failed, 75 when shards or images are missing (they are named),
/// and 2 when the reports are not of one piece of work.
#[derive(Args, Debug)]
struct MergeArgs {
    /// The reports
    #[arg(value_name = "FILE.json", required = true)]
    files: Vec<PathBuf>,

    /// Where the joined report goes; an earlier report there is replaced, any other file is not
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,

    /// Print no table
    #[arg(short, long)]
    quiet: bool,
}

/// A form of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal: one row per rank, sums, failures
    #[default]
    Table,
    /// For a spreadsheet
    Csv,
    /// For a program: schema niimpi-report/2, with "accounts" and "series" added on request
    Json,
    /// For a page or an issue
    Markdown,
}

/// What a row of the CSV form is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// A rank
    #[default]
    Ranks,
    /// An image
    Images,
}

/// Does what the arguments say and returns the exit code.
pub(super) fn run(args: &ReportArgs) -> Result<u8, String> {
    match &args.action {
        Action::Show(args) => show(args),
        Action::Merge(args) => merge_files(args),
    }
}

fn show(args: &ShowArgs) -> Result<u8, String> {
    let report = merge::read(&args.file)?.report;
    let accounts = args.sacct.then(|| accounts_of(&report));
    let samples = args.series.then(|| series::read(report.journals.as_ref()));
    let mut complaints = Vec::new();
    let accounts = accounts.and_then(|known| known.map_err(|why| complaints.push(why)).ok());
    let samples = samples.and_then(|known| known.map_err(|why| complaints.push(why)).ok());
    let (accounts, samples) = (accounts.as_deref(), samples.as_deref());
    let mut text = Vec::new();
    match args.format {
        Format::Table => write_tables(&mut text, &report, accounts, samples, Style::Terminal),
        Format::Markdown => write_tables(&mut text, &report, accounts, samples, Style::Markdown),
        Format::Csv => {
            write_csvs(&mut text, &report, args.rows, accounts, samples).map_err(|error| error.to_string())?
        }
        Format::Json => {
            let json = Json {
                report: &report,
                accounts: args.sacct.then_some(accounts),
                series: args.series.then_some(samples),
            };
            serde_json::to_writer_pretty(&mut text, &json).map_err(|error| error.to_string())?;
            text.push(b'\n');
        }
    }
    console::print(&text).map_err(|error| error.to_string())?;
    for complaint in &complaints {
        console::note(complaint);
    }
    Ok(if complaints.is_empty() {
        EXIT_DONE
    } else {
        EXIT_SOME_FAILED
    })
}

/// What Slurm's accounting has on the report's job.
fn accounts_of(report: &Report) -> Result<Vec<Account>, String> {
    let job = report.launch.slurm.as_ref();
    let job = job.ok_or("the run was no Slurm job, so there are no accounts of it")?;
    let accounts = steps::of_job(&job.job_id)?;
    if accounts.is_empty() {
        return Err(format!(
            "accounting has nothing on job {}: check that this cluster ran it, and that accounting keeps \
             records for that long",
            job.job_id
        ));
    }
    Ok(accounts)
}

/// The report, and below it what else was asked for, each a table.
fn write_tables(
    text: &mut Vec<u8>,
    report: &Report,
    accounts: Option<&[Account]>,
    samples: Option<&[Sample]>,
    style: Style,
) {
    text.extend(table::render_as(report, style).into_bytes());
    let further = [
        accounts.map(|accounts| Table::of(&csv::ACCOUNTS, accounts).draw(style)),
        samples.map(|samples| Table::of(&series::COLUMNS, samples).draw(style)),
    ];
    for part in further.into_iter().flatten() {
        text.push(b'\n');
        text.extend(part.into_bytes());
    }
}

/// Rows of ranks or images, and below an empty line each what else was asked for.
fn write_csvs(
    text: &mut Vec<u8>,
    report: &Report,
    rows: Rows,
    accounts: Option<&[Account]>,
    samples: Option<&[Sample]>,
) -> Result<(), ::csv::Error> {
    match rows {
        Rows::Ranks => write_csv(&csv::RANKS, &report.ranks, &mut *text)?,
        Rows::Images => write_csv(&csv::IMAGES, &report.images, &mut *text)?,
    }
    if let Some(accounts) = accounts {
        text.push(b'\n');
        write_csv(&csv::ACCOUNTS, accounts, &mut *text)?;
    }
    if let Some(samples) = samples {
        text.push(b'\n');
        write_csv(&series::COLUMNS, samples, &mut *text)?;
    }
    Ok(())
}

/// The JSON form: the report's own keys, and after them what else was asked for, null when it is not to be
/// had.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    accounts: Option<Option<&'a [Account]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<Option<&'a [Sample]>>,
}

/// Refuses to put the joined report in the place of anything but a report.
fn check_output(output: &Path) -> Result<(), String> {
    let shown = output.display();
    match std::fs::metadata(output) {
        Ok(metadata) if metadata.is_dir() => Err(format!(
            "--output {shown}: is a folder; give a file name in it, such as {}",
            output.join("all.json").display()
        )),
        _ => destination::check("--output", output, destination::REPORT),
    }
}

fn merge_files(args: &MergeArgs) -> Result<u8, String> {
    check_output(&args.output)?;
    // A second merge into the same folder must not take the first one's result for a shard.
    let same = |path: &PathBuf| match (path.canonicalize(), args.output.canonicalize()) {
        (Ok(path), Ok(output)) => path == output,
        _ => false,
    };
    let sources: Result<Vec<Source>, String> = args
        .files
        .iter()
        .filter(|path| !same(path))
        .map(|path| merge::read(path))
        .collect();
    let report = merge::merge(sources?)?;
    report
        .write_json(&args.output)
        .map_err(|error| format!("{}: the report cannot be written: {error}", args.output.display()))?;
    if !args.quiet {
        console::print(table::render(&report)).map_err(|error| error.to_string())?;
    }
    let gaps = merge::gaps(&report.images);
    let incomplete = report
        .shard
        .as_ref()
        .filter(|shards| !shards.missing().is_empty());
    if let Some(shards) = incomplete {
        console::note(format_args!(
            "{}; run what is missing with --shard K/{} and merge again",
            table::missing_text(shards),
            shards.count
        ));
    } else if !gaps.is_empty() {
        console::note(format_args!(
            "no report has the images {} of the list: it was another one for some of the runs; run all of \
             them again \
             with --resume, then merge the new reports",
            ranges(&gaps)
        ));
    } else if report.state == State::Interrupted {
        console::note(format_args!(
            "some images are not done: run the same command with --resume, then merge all reports"
        ));
    }
    Ok(exit_code_of(report.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_report_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("all.json");
        assert_eq!(check_output(&path), Ok(()));
        std::fs::write(&path, b"an image").unwrap();
        let error = check_output(&path).unwrap_err();
        assert!(error.contains("so it is not replaced"), "{error}");
        assert!(check_output(folder.path()).unwrap_err().contains("is a folder"));
        std::fs::remove_file(&path).unwrap();
        crate::report::sample::report().write_json(&path).unwrap();
        assert_eq!(check_output(&path), Ok(()));
        assert_eq!(check_output(Path::new("/dev/null")), Ok(()));
    }
}
