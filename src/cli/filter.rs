//! The filters' commands: `niimpi smooth` and those like it, their arguments, and what they mean to the run.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::bids::BidsArgs;
use super::inputs::InputArgs;
use super::job::{FilterOptions, JobArgs};
use crate::comm;
use crate::fault::Fault;
use crate::filter::denoise;
use crate::filter::like::Tool;
use crate::filter::median::{self, Median};
use crate::filter::smooth;
use crate::filter::{Filter, Options};
use crate::images::{ListRequest, NameTemplate};
use crate::logging::LogArgs;
use crate::partition::Split;
use crate::run::{self, Config, Existing, ProgressStyle, Shard};

/// Declares the command of each filter.
macro_rules! filter_commands {
    ($($(#[$attribute:meta])* $command:ident($args:ty => $filter:ty)),* $(,)?) => {
        /// A filter's command with all its arguments.
        #[derive(Debug, Subcommand)]
        pub(super) enum FilterCommand {
            $($(#[$attribute])* $command(Box<FilterArgs<$args>>),)*
        }

        /// A filter and its own options, without those that all filters share.
        #[derive(Debug, Subcommand)]
        enum FilterWords {
            $($command($args),)*
        }

        impl FilterCommand {
            /// Starts the ranks and filters. The exit code is the same on every rank.
            pub(super) fn run(self) -> u8 {
                match self {
                    $(FilterCommand::$command(args) => run(*args),)*
                }
            }
        }

        impl FilterWords {
            fn options(self) -> Options {
                match self {
                    $(FilterWords::$command(args) => args.options(),)*
                }
            }
        }

        $(
            impl FilterOptions for $args {
                fn options(self) -> Options {
                    <$filter>::from(self).into()
                }
            }
        )*
    };
}

filter_commands! {
    /// Smooth images with a Gaussian
    ///
    /// Reads .nii, .nii.gz and .hdr/.img images (NIfTI-1 and NIfTI-2, any real datatype), smooths each 3-D
    /// volume and writes it with the same name below the output folder. Every image is done or named in the
    /// report with the reason.
    #[command(
        after_help = "Example: mpirun -n 4 niimpi smooth images --output smoothed --fwhm 6 --report run.json"
    )]
    Smooth(smooth::Args => Options),
    /// Replace each voxel by the median of the window around it
    ///
    /// The values are those of scipy.ndimage.median_filter, for any datatype. Reads and writes the same
    /// formats as `niimpi smooth`. An image with NaN or infinite voxels fails, unless --nan ignore (the
    /// median of the finite voxels in the window; NaN without any) or --nan zero is given.
    #[command(after_help = "Example: mpirun -n 4 niimpi median images --output filtered --size 3")]
    Median(median::Args => Median),
    /// Remove noise by non-local means, as ANTs or dipy do on one thread
    ///
    /// The results are those of ants.denoise_image (ANTsPy 0.6.3) with one thread, bit for bit. With several
    /// threads ANTs differs from itself from run to run; niimpi does not. The command DenoiseImage of ANTs
    /// assumes gaussian noise by default, ants.denoise_image and niimpi rician. With --method nlm or
    /// nlm-blockwise they are those of nlmeans (dipy 1.12.1) with one thread, for intensities as doubles.
    /// Images are as with smooth. --output-type same means float32 here, and whole numbers are rounded once.
    /// An image with voxels that are NaN or infinite fails unless --nan zero is given.
    #[command(after_help = "Example: mpirun -n 4 niimpi denoise images --output denoised")]
    Denoise(denoise::Args => Options),
}

/// The filter of a plan or a study: the options of the Gaussian, or any filter as a command line.
#[derive(Args, Clone, Debug)]
#[command(about = None, long_about = None)]
#[command(mut_arg("sigma", |arg| arg.required_unless_present("filter")))]
pub(super) struct AnyFilterArgs {
    /// Filter: its command and its own options, such as 'median --size 3'; without it, --sigma or --fwhm
    /// select smooth
    #[arg(
        long,
        value_name = "'COMMAND OPTIONS'",
        value_parser = parse_filter,
        conflicts_with_all = ["sigma", "fwhm", "boundary", "cval", "truncate", "method", "like", "sigma_mm"]
    )]
    filter: Option<Options>,

    #[command(flatten)]
    smooth: smooth::Args,
}

impl FilterOptions for AnyFilterArgs {
    fn options(self) -> Options {
        self.filter.unwrap_or_else(|| self.smooth.options())
    }
}

#[derive(Parser)]
#[command(no_binary_name = true)]
struct FilterText {
    #[command(subcommand)]
    filter: FilterWords,
}

fn parse_filter(text: &str) -> Result<Options, String> {
    let words = shlex::split(text).ok_or("the quotes are not closed")?;
    let parsed = FilterText::command()
        .try_get_matches_from(words)
        .and_then(|matches| {
            refuse_fixed(&matches)?;
            FilterText::from_arg_matches(&matches)
        });
    let parsed = parsed.map_err(|mut error| {
        super::name_all_widths(&mut error, false);
        let message = error.to_string();
        // The usage follows after an empty line.
        let lines = message.lines().take_while(|line| !line.is_empty());
        let words = Vec::from_iter(lines.map(str::trim)).join(" ");
        words.trim_start_matches("error: ").to_owned()
    })?;
    Ok(parsed.filter.options())
}

/// Refuses options that --like fixes, whatever their values.
///
/// # Errors
/// A usage error that names what the program has instead.
pub(super) fn refuse_fixed(matches: &ArgMatches) -> Result<(), clap::Error> {
    const FIXED: [&str; 8] = [
        "sigma", "boundary", "cval", "truncate", "method", "nan", "round", "mask",
    ];
    let Some((_, matches)) = matches.subcommand() else {
        return Ok(());
    };
    let typed = matches.try_get_one::<Tool>("like").ok().flatten();
    let planned = matches.try_get_one::<Options>("filter").ok().flatten();
    let Some(tool) = typed.copied().or_else(|| planned.and_then(Options::like)) else {
        return Ok(());
    };
    let is_given = |option: &str| {
        matches.try_contains_id(option).is_ok()
            && matches.value_source(option) == Some(ValueSource::CommandLine)
    };
    for option in FIXED.into_iter().filter(|option| is_given(option)) {
        if let Some(value) = tool.fixed(option) {
            let text = format!("--{option} cannot be used with --like {tool}, which has {value}\n");
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
        }
    }
    Ok(())
}

#[derive(Args, Debug)]
#[command(mut_arg("bids", |arg| arg.conflicts_with_all(["list", "base", "name"])))]
pub(super) struct FilterArgs<F: FilterOptions> {
    #[command(flatten)]
    inputs: InputArgs,

    #[command(flatten)]
    bids: BidsArgs,

    /// Folder of the results; created if it is missing
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,

    /// Name the results, for example 'denoised_{index}.nii.gz'; {stem}, {index} and {dir} are filled in
    ///
    /// {stem} is the input's name without its suffix, {index} its place in the list from 1, {dir} its folder
    /// below the base. The suffix decides the format; without one the input's is kept.
    #[arg(long, value_name = "TEMPLATE")]
    name: Option<NameTemplate>,

    #[command(flatten)]
    job: JobArgs<F>,

    /// Threads of each rank; they share images where there are fewer images than threads [default: the CPUs
    /// that the rank was given]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    #[arg(help_heading = "Distribution")]
    threads: Option<u16>,

    /// Whether several ranks share an image; the results are the same
    ///
    /// A series is divided into volumes, or a volume into slabs along z. Each rank also reads and filters the
    /// slices around its slab that the filter needs. Not split: pairs of files; floating-point images with
    /// --nan zero, ignore or keep, or with a filter that refuses NaN and a mask; --mask nonzero;
    /// --output-noise. Not divided into slabs: volumes of smooth with --boundary wrap or --method fft, and
    /// volumes that are thin for the filter. Whether an image exceeds the memory of a rank is known with
    /// --strategy size and dynamic, and in a Slurm job that requests memory.
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        help_heading = "Distribution"
    )]
    split: Split,

    /// Process only shard K of N of the list, for job arrays; 'slurm' takes K and N from the array task
    #[arg(long, value_name = "K/N", help_heading = "Distribution")]
    shard: Option<Shard>,

    /// Process the whole list N times, for measurements; repeats go into folders of their own
    #[arg(long, value_name = "N", hide = true, default_value_t = 1)]
    repeat: usize,

    /// Do only the first N images
    #[arg(long, value_name = "N", value_parser = parse_limit, help_heading = "Distribution")]
    limit: Option<usize>,

    /// Keep the results of earlier runs and process the other images
    ///
    /// A result is kept if niimpi wrote it from the same input with the same options. It is made again if it
    /// is missing, failed or was left unfinished, or if its input was changed since. Any other file under a
    /// result's name stops the run before it writes anything; add --overwrite to replace such files.
    #[arg(long)]
    resume: bool,

    /// Replace files that exist under the results' names
    ///
    /// With --resume, results that --resume would keep are kept, and only the others are replaced.
    #[arg(long)]
    overwrite: bool,

    /// Stop in time: start no image that would end more than SECONDS after the start of the run [default: the
    /// end of the Slurm job]
    ///
    /// The run then ends with exit code 75, and --resume continues. How long an image takes is estimated from
    /// the slowest image so far.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, allow_negative_numbers = true)]
    stop_before: Option<f64>,

    /// Write the report as JSON (schema niimpi-report/2)
    #[arg(long, value_name = "FILE.json", help_heading = "Messages")]
    report: Option<PathBuf>,

    /// With --report, also write the report's table to FILE.txt
    #[arg(long, requires = "report", help_heading = "Messages")]
    report_table: bool,

    /// With --report, also write the report's rows to FILE.ranks.csv and FILE.images.csv
    #[arg(long, requires = "report", help_heading = "Messages")]
    report_csv: bool,

    /// Write the report as a page for the browser: charts, ranks, failures, a paragraph for a methods section
    ///
    /// It is one file that needs no network. With many images, it shows sums and the slowest images.
    #[arg(long, value_name = "FILE.html", help_heading = "Messages")]
    report_html: Option<PathBuf>,

    /// Record CPU time, memory, images and bytes of each rank every SECONDS, in OUTPUT/.niimpi
    ///
    /// `niimpi report show FILE.json --series` prints them.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "Messages")]
    sample: Option<f64>,

    /// Print what would be done, from headers and sizes alone, and write nothing
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

fn run<F: FilterOptions>(args: FilterArgs<F>) -> u8 {
    let log = args.log.clone();
    let config = config(args);
    // Before the ranks find each other, which may take seconds.
    let stop = run::on_signals();
    run::end_set_up_on_signals();
    let (world, span) = match super::start_ranks(&log, &config.request()) {
        Ok(started) => started,
        Err(exit_code) => return exit_code,
    };
    let exit_code = span.in_scope(|| run::filter(&world, &config, &stop));
    comm::finish(world, exit_code)
}

fn config<F: FilterOptions>(args: FilterArgs<F>) -> Config {
    let filter = args.job.job().filter;
    Config {
        list: ListRequest {
            repeat: args.repeat,
            bids: args.bids.request(filter.bids_desc()),
            ..args.job.list(args.inputs.request(args.output, args.name))
        },
        limit: args.limit,
        shard: args.shard,
        existing: match (args.resume, args.overwrite) {
            (true, true) => Existing::ResumeAndOverwrite,
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        },
        job: args.job.job(),
        strategy: args.job.strategy,
        device: args.job.device,
        split: args.split,
        threads: args.threads.map(usize::from),
        stop_before_s: args.stop_before,
        report: args.report,
        report_table: args.report_table,
        report_csv: args.report_csv,
        report_html: args.report_html,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser, Debug)]
    #[command(no_binary_name = true)]
    struct Typed {
        #[command(subcommand)]
        command: FilterCommand,
    }

    fn words_of(command: &FilterCommand) -> Vec<String> {
        match command {
            FilterCommand::Smooth(args) => args.job.job().to_cli_args(),
            FilterCommand::Median(args) => args.job.job().to_cli_args(),
            FilterCommand::Denoise(args) => args.job.job().to_cli_args(),
        }
    }

    #[test]
    fn the_words_say_what_was_said() {
        for typed in [
            "smooth --sigma=1,2,0.5 --boundary=constant --cval=-3.5 --truncate=3",
            "smooth --fwhm=6 --output-type=float32 --compression=6 --no-sync",
            "smooth --sigma=2 --round=nearest --nan=ignore",
            "smooth --fwhm=60 --method=fft",
            "smooth --fwhm=6,6,4 --like=nilearn --output-type=int16",
            "smooth --sigma-mm=2.5 --like=wb",
            "smooth --sigma=2 --nan=keep --mask=/masks/{dir}/{stem}_mask --outside=keep",
            "median --mask=nonzero",
            "median",
            "median --size=3,3,1 --footprint=cross --boundary=constant --cval=-3.5 --nan=ignore",
            "median --size=5 --footprint=sphere:2.5",
            "denoise",
            "denoise --method=anlm --noise-model=gaussian --patch-radius=1,2,1 --search-radius=3 --shrink=2",
            "denoise --output-noise={dir}/{stem}_noise",
            "denoise --method=nlm",
            "denoise --method=nlm-blockwise --sigma-noise=estimate",
            "denoise --method=nlm --noise-model=gaussian --patch-radius=2 --block-radius=4 --sigma-noise=2.5",
        ] {
            let parse = |words: &[String]| {
                let inputs = ["x", "--output=y"].map(str::to_owned);
                Typed::try_parse_from(words.iter().chain(&inputs))
                    .unwrap()
                    .command
            };
            let first = parse(&typed.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            let again = parse(&words_of(&first));
            assert_eq!(format!("{first:?}"), format!("{again:?}"), "{typed}");
        }
    }

    #[test]
    fn options_that_a_preset_fixes_are_refused() {
        let refused = |line: &str| {
            let matches = Typed::command()
                .try_get_matches_from(line.split_whitespace())
                .unwrap();
            refuse_fixed(&matches).map_err(|error| error.to_string())
        };
        let line = "smooth x --output y --fwhm 6 --like spm";
        assert_eq!(refused(line), Ok(()));
        assert_eq!(refused(&format!("{line} --output-type int16")), Ok(()));
        for (option, said) in [
            ("--boundary reflect", "zeros along x and y"),
            ("--cval 0", "zeros along x and y"),
            ("--truncate 4", "6 sigmas, rounded to whole voxels"),
            ("--method direct", "sums of products"),
            ("--nan propagate", "zero for NaN and infinity"),
            ("--round nearest", "the input's type and scale can hold"),
            ("--mask nonzero", "the whole image"),
        ] {
            let error = refused(&format!("{line} {option}")).unwrap_err();
            assert!(error.contains(said) && error.contains("--like spm"), "{error}");
        }
        assert_eq!(refused("smooth x --output y --fwhm 6 --boundary wrap"), Ok(()));
        let sigma = refused("smooth x --output y --sigma 2 --like itk").unwrap_err();
        assert!(sigma.contains("--fwhm or --sigma-mm"), "{sigma}");
    }

    #[test]
    fn a_filter_is_named_by_its_command() {
        let options = parse_filter("smooth --fwhm '6,6,4'").unwrap();
        assert_eq!(options.command(), ["smooth"]);
        assert_eq!(options.as_json()["fwhm"], serde_json::json!([6.0, 6.0, 4.0]));
        for (text, said) in [
            (
                "smooth",
                "--sigma <VOX[,Y,Z]> (in voxels), --fwhm <MM[,Y,Z]>, with --like also --sigma-mm",
            ),
            ("smooth --fwhm 6 --output x", "--output"),
            ("sharpen", "sharpen"),
            ("smooth '", "quotes"),
            ("smooth --like fsl --fwhm 6 --truncate 4", "4 sigmas, rounded up"),
            ("smooth --like fsl --sigma 2", "--sigma-mm"),
        ] {
            let error = parse_filter(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
