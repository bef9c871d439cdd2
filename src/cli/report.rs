//! `niimpi report`: its arguments, and what they do: show a report in another form, or merge several.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::columns::{Style, Table, write_csv};
use crate::console;
use crate::journal::series::{self, Sample};
use crate::report::merge::{self, Source};
use crate::report::table;
use crate::report::{Report, State, csv, destination, html, trace};
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

/// Print a report that --report wrote, in another format
#[derive(Args, Debug)]
struct ShowArgs {
    /// The report
    #[arg(value_name = "FILE.json")]
    file: PathBuf,

    /// Format of the output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    format: Format,

    /// Rows of the CSV format [default: ranks]
    ///
    /// The output is one table with one header. samples are those of --series, accounts those of --sacct.
    #[arg(long, value_enum, value_name = "ROWS")]
    rows: Option<Rows>,

    /// Also print Slurm's accounting of the job: time, CPU, memory and state of every step. With --format
    /// csv, print only this
    ///
    /// Calls sacct, so it works on the cluster that ran the job. The states of a job: COMPLETED, FAILED (the
    /// exit code says how), TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED.
    #[arg(long)]
    sacct: bool,

    /// Also print CPU time, memory, images and bytes of each rank during the run (recorded with --sample
    /// SECONDS). With --format csv, print only these
    #[arg(long)]
    series: bool,
}

/// Merge the reports of the shards of an array, or of the runs of a requeued job, into one
///
/// Exit codes: 0 every image is done, 1 images failed, 75 shards or images are missing (niimpi lists them), 2
/// the reports do not belong together.
#[derive(Args, Debug)]
struct MergeArgs {
    /// The reports
    #[arg(value_name = "FILE.json", required = true)]
    files: Vec<PathBuf>,

    /// File for the merged report; replaces an earlier report, but no other file
    #[arg(short, long, value_name = "FILE.json")]
    output: PathBuf,

    /// Print no table
    #[arg(short, long)]
    quiet: bool,
}

/// A format of the report.
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
    /// For a browser: one file with charts, failures and a methods paragraph
    Html,
    /// For ui.perfetto.dev: a timeline of ranks (processes) and workers (threads)
    ChromeTrace,
}

/// The rows of the CSV format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// One row per rank
    Ranks,
    /// One row per image
    Images,
    /// One row per rank and sample of --series
    Samples,
    /// One row per job and step of --sacct
    Accounts,
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
    let rows = rows_of(args)?;
    let sacct = args.sacct || rows == Rows::Accounts;
    let accounts = sacct.then(|| accounts_of(&report));
    let series = args.series || rows == Rows::Samples;
    let samples = series.then(|| series::read(report.journals.as_ref()));
    let mut complaints = Vec::new();
    let accounts = accounts.and_then(|known| known.map_err(|why| complaints.push(why)).ok());
    let samples = samples.and_then(|known| known.map_err(|why| complaints.push(why)).ok());
    let (accounts, samples) = (accounts.as_deref(), samples.as_deref());
    let mut text = Vec::new();
    match args.format {
        Format::Table => {
            let style = Style::Fitted(console::width());
            write_tables(&mut text, &report, accounts, samples, style);
        }
        Format::Markdown => write_tables(&mut text, &report, accounts, samples, Style::Markdown),
        Format::Csv => {
            write_rows(&mut text, &report, rows, accounts, samples).map_err(|error| error.to_string())?
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
        Format::Html => {
            let page = html::render(&report, accounts).map_err(|error| error.to_string())?;
            text.extend(page.into_bytes());
        }
        Format::ChromeTrace => {
            serde_json::to_writer(&mut text, &trace::to_json(&report)).map_err(|error| error.to_string())?;
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

/// The rows of the CSV format. The options must agree, because a table has one kind of row.
fn rows_of(args: &ShowArgs) -> Result<Rows, String> {
    if args.series && matches!(args.format, Format::Html | Format::ChromeTrace) {
        return Err("--series is for --format table, markdown, json or csv".to_owned());
    }
    if args.sacct && args.format == Format::ChromeTrace {
        return Err("--sacct is for any format but chrome-trace".to_owned());
    }
    if args.format != Format::Csv {
        return match args.rows {
            Some(_) => Err("--rows is for --format csv: add it, or leave --rows out".to_owned()),
            None => Ok(Rows::Ranks),
        };
    }
    let asked = [
        args.rows,
        args.series.then_some(Rows::Samples),
        args.sacct.then_some(Rows::Accounts),
    ];
    let mut asked = asked.into_iter().flatten();
    let rows = asked.next().unwrap_or(Rows::Ranks);
    match asked.all(|other| other == rows) {
        true => Ok(rows),
        false => Err("--format csv prints one table: give one of --rows, --series and --sacct".to_owned()),
    }
}

/// One table of rows. Accounts and samples that could not be read are an empty table.
fn write_rows(
    text: &mut Vec<u8>,
    report: &Report,
    rows: Rows,
    accounts: Option<&[Account]>,
    samples: Option<&[Sample]>,
) -> Result<(), ::csv::Error> {
    match rows {
        Rows::Ranks => write_csv(&csv::RANKS, &report.ranks, text),
        Rows::Images => csv::write_images(&report.images, text),
        Rows::Samples => write_csv(&series::COLUMNS, samples.unwrap_or_default(), text),
        Rows::Accounts => write_csv(&csv::ACCOUNTS, accounts.unwrap_or_default(), text),
    }
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
    let same = |path: &PathBuf| match (path.canonicalize(), args.output.canonicalize()) {
        (Ok(path), Ok(output)) => path == output,
        _ => false,
    };
    let (replaced, files): (Vec<&PathBuf>, Vec<_>) = args.files.iter().partition(|path| same(path));
    let sources: Result<Vec<Source>, String> = files.into_iter().map(|path| merge::read(path)).collect();
    let report = merge::merge(sources?)?;
    // A second merge into the same folder replaces the first one's result, but no other report.
    if let Some(path) = replaced.first()
        && !merge::contains(&report, &merge::read(path)?.report)
    {
        return Err(format!(
            "--output {}: is also one of the reports, and no other has its images; give another name",
            path.display()
        ));
    }
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
    use std::collections::HashSet;

    use super::*;
    use crate::job::warning::Warning;
    use crate::report::{Journals, ResumeCounts, Shards};

    #[test]
    fn csv_is_one_table_and_the_options_must_agree() {
        use clap::Parser;
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            args: ShowArgs,
        }
        let rows = |words: &str| {
            let words = ["show", "run.json"].into_iter().chain(words.split_whitespace());
            rows_of(&Cli::parse_from(words).args)
        };
        assert_eq!(rows("--format csv"), Ok(Rows::Ranks));
        assert_eq!(rows("--format csv --series"), Ok(Rows::Samples));
        assert_eq!(rows("--format csv --sacct"), Ok(Rows::Accounts));
        assert_eq!(rows("--format csv --rows samples --series"), Ok(Rows::Samples));
        assert!(
            rows("--format csv --rows images --series")
                .unwrap_err()
                .contains("one table")
        );
        assert!(
            rows("--format csv --sacct --series")
                .unwrap_err()
                .contains("one table")
        );
        assert_eq!(rows("--sacct --series"), Ok(Rows::Ranks));
        assert!(rows("--rows images").unwrap_err().contains("--format csv"));
        assert!(rows("--format html --series").is_err() && rows("--format chrome-trace --sacct").is_err());
        assert_eq!(rows("--format html --sacct"), Ok(Rows::Ranks));
    }

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

    /// The code spans in the tables of docs/report.md.
    fn defined() -> HashSet<&'static str> {
        let rows = include_str!("../../docs/report.md")
            .lines()
            .filter(|line| line.starts_with("| `"));
        rows.flat_map(|row| row.split('`').skip(1).step_by(2)).collect()
    }

    /// The keys of all objects in a value, but not those of `options`, which each filter defines.
    fn keys(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    found.push(name.clone());
                    if name != "options" {
                        keys(value, found);
                    }
                }
            }
            _ => {}
        }
    }

    /// A report in which no field is absent.
    fn full() -> Report {
        let mut report = crate::report::sample::report();
        report.filter.mask = Some("m.nii".to_owned());
        report.filter.outside = Some("zero".to_owned());
        report.filter.like = Some("fsl".to_owned());
        report.filter.reference = Some("fslmaths".to_owned());
        report.filter.sigma_mm = vec![1.0; 3];
        report.resume = Some(ResumeCounts::default());
        report.shard = Some(Shards {
            numbers: vec![1],
            count: 2,
        });
        report.journals = Some(Journals {
            folder: String::new(),
            runs: Vec::new(),
        });
        let warning = Warning {
            kind: "unit".into(),
            text: String::new(),
        };
        report.images[0].outcome.warnings.push(warning);
        report.images[0].outcome.quality = Some(Box::default());
        report.launch.slurm = Some(crate::slurm::Job::default());
        report
    }

    #[test]
    fn the_documentation_defines_every_field_and_column() {
        let defined = defined();
        let mut names = Vec::new();
        keys(&serde_json::to_value(full()).unwrap(), &mut names);
        assert!(names.len() > 100, "{names:?}");
        names.extend(csv::RANKS.iter().map(|column| column.name.to_owned()));
        names.extend(csv::IMAGES.iter().map(|column| column.name.to_owned()));
        names.extend(csv::QUALITY.iter().map(|column| column.name.to_owned()));
        names.extend(series::COLUMNS.iter().map(|column| column.name.to_owned()));
        names.extend(csv::ACCOUNTS.iter().map(|column| column.name.to_owned()));
        let heads = table::columns().map(|column| column.head.trim_end_matches("\ns").replace('\n', " "));
        names.extend(heads);
        let missing: Vec<_> = names
            .iter()
            .filter(|name| !defined.contains(name.as_str()))
            .collect();
        assert!(missing.is_empty(), "docs/report.md does not define {missing:?}");
    }
}
