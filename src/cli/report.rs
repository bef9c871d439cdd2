//! `niimpi report`: its arguments, and what they do: show a report in another form, or merge several.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::report::merge::{self, MergeError, Source};
use crate::report::series::{self, Sample};
use crate::report::table::{self, Style};
use crate::report::{Report, State, accounts, csv};
use crate::run::{EXIT_DONE, EXIT_SOME_FAILED, EXIT_USAGE, exit_code_of};
use crate::slurm::steps::{self, Account};

/// Show a run's report, or merge the reports of an array's tasks
#[derive(Args, Debug)]
pub(super) struct ReportArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(ShowArgs),
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

    /// Also print what Slurm's accounting says of the job: time, CPU, memory and state of every step
    ///
    /// Calls sacct, so it works on the cluster that ran the job. The states of a job: COMPLETED, FAILED (the exit code says
    /// how), TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED.
    #[arg(long)]
    sacct: bool,

    /// Also print what the ranks noted of themselves while they ran (`niimpi smooth --sample SECONDS`)
    #[arg(long)]
    series: bool,
}

/// Join reports of one piece of work into one: the shares of an array, or the runs of a requeued job
///
/// Ends with 0 when all is done, 1 when images failed, 75 when shares or images are missing (they are named), and 2 when the
/// reports are not of one piece of work.
#[derive(Args, Debug)]
struct MergeArgs {
    /// The reports
    #[arg(value_name = "FILE.json", required = true)]
    files: Vec<PathBuf>,

    /// Where the joined report goes
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,

    /// Print no table
    #[arg(short, long)]
    quiet: bool,
}

/// A form of the report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal: a row a rank, sums, failures
    #[default]
    Table,
    /// For a spreadsheet
    Csv,
    /// For a program: schema niimpi-report/1, with "accounts" and "series" beside it on request
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
pub(super) fn run(args: &ReportArgs) -> u8 {
    let result = match &args.action {
        Action::Show(args) => show(args),
        Action::Merge(args) => merge_files(args),
    };
    result.unwrap_or_else(|message| {
        eprintln!("niimpi: error: {message}");
        EXIT_USAGE
    })
}

fn show(args: &ShowArgs) -> Result<u8, String> {
    let report = merge::read(&args.file)
        .map_err(|error| error.to_string())?
        .report;
    let mut complaints = Vec::new();
    let mut heard =
        |answer: Result<Vec<_>, String>| answer.map_err(|message| complaints.push(message)).ok();
    let accounts = match (args.sacct, &report.launch.slurm) {
        (false, _) => None,
        (true, Some(job)) => heard(steps::of_job(&job.job_id).map_err(|error| error.to_string())),
        (true, None) => heard(Err(
            "the run was no Slurm job, so there are no accounts of it".to_owned(),
        )),
    };
    let samples = match args.series {
        false => None,
        true => series::read(report.journals.as_ref())
            .map_err(|error| complaints.push(error.to_string()))
            .ok(),
    };
    let mut text = Vec::new();
    match args.format {
        Format::Table => write_tables(
            &mut text,
            &report,
            accounts.as_deref(),
            samples.as_deref(),
            Style::Terminal,
        ),
        Format::Markdown => write_tables(
            &mut text,
            &report,
            accounts.as_deref(),
            samples.as_deref(),
            Style::Markdown,
        ),
        Format::Csv => {
            let write = || -> Result<(), ::csv::Error> {
                match args.rows {
                    Rows::Ranks => csv::write_ranks(&report, &mut text)?,
                    Rows::Images => csv::write_images(&report, &mut text)?,
                }
                if let Some(accounts) = &accounts {
                    text.push(b'\n');
                    csv::write_accounts(accounts, &mut text)?;
                }
                if let Some(samples) = &samples {
                    text.push(b'\n');
                    series::write_csv(samples, &mut text)?;
                }
                Ok(())
            };
            let mut write = write;
            write().map_err(|error| error.to_string())?;
        }
        Format::Json => {
            let value = json(&report, args, accounts.as_deref(), samples.as_deref());
            let value = value.map_err(|error| error.to_string())?;
            text.extend(format!("{value:#}\n").into_bytes());
        }
    }
    print(&text)?;
    for complaint in &complaints {
        eprintln!("niimpi: {complaint}");
    }
    Ok(if complaints.is_empty() {
        EXIT_DONE
    } else {
        EXIT_SOME_FAILED
    })
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
        accounts.map(|accounts| accounts::render(accounts, style)),
        samples.map(|samples| series::render(samples, style)),
    ];
    for part in further.into_iter().flatten() {
        text.push(b'\n');
        text.extend(part.into_bytes());
    }
}

/// The report's own keys, and beside them "accounts" and "series" where they were asked for: null when there are none.
fn json(
    report: &Report,
    args: &ShowArgs,
    accounts: Option<&[Account]>,
    samples: Option<&[Sample]>,
) -> Result<serde_json::Value, serde_json::Error> {
    let mut value = serde_json::to_value(report)?;
    if args.sacct {
        value["accounts"] = serde_json::to_value(accounts)?;
    }
    if args.series {
        value["series"] = serde_json::to_value(samples)?;
    }
    Ok(value)
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error.
fn print(text: &[u8]) -> Result<(), String> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn merge_files(args: &MergeArgs) -> Result<u8, String> {
    // A second merge into the same folder must not take the first one's result for a share.
    let same = |path: &PathBuf| match (path.canonicalize(), args.output.canonicalize()) {
        (Ok(path), Ok(output)) => path == output,
        _ => false,
    };
    let sources: Result<Vec<Source>, MergeError> = args
        .files
        .iter()
        .filter(|path| !same(path))
        .map(|path| merge::read(path))
        .collect();
    let report = sources
        .and_then(merge::merge)
        .map_err(|error| error.to_string())?;
    report.write_json(&args.output).map_err(|error| {
        format!(
            "{}: the report cannot be written: {error}",
            args.output.display()
        )
    })?;
    if !args.quiet {
        print(table::render(&report).as_bytes())?;
    }
    let missing = report
        .shard
        .as_ref()
        .map(|shares| (shares.missing(), shares.count));
    if let Some((missing, count)) = missing.filter(|(missing, _)| !missing.is_empty()) {
        let numbers: Vec<String> = missing.iter().map(usize::to_string).collect();
        eprintln!(
            "niimpi: {} of {count} shares have no report: {}; do them with --shard K/{count} and merge again",
            missing.len(),
            numbers.join(", ")
        );
    } else if report.state == State::Interrupted {
        eprintln!(
            "niimpi: some images are not done: run the same command with --resume, then merge all reports"
        );
    }
    Ok(exit_code_of(report.state))
}
