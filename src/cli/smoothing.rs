//! What is done to the images, as every command that smooths or plans smoothing takes it.

use std::ffi::OsString;

use clap::Args;

use crate::filter::gaussian::Gaussian;
use crate::filter::nonfinite::NonFiniteArgs;
use crate::filter::{Filter, OutputSpec};
use crate::image_io::CompressionLevel;
use crate::job::ImageJob;
use crate::partition::Strategy;

/// The options that decide what a run costs and what it writes, besides which images it has.
#[derive(Args, Clone, Debug)]
#[command(about = None, long_about = None)]
pub(super) struct SmoothingArgs {
    #[command(flatten)]
    pub(super) gaussian: Gaussian,

    #[command(flatten)]
    pub(super) output_spec: OutputSpec,

    #[command(flatten)]
    pub(super) non_finite: NonFiniteArgs,

    /// How images are shared out among the ranks
    #[arg(
        long,
        value_enum,
        value_name = "STRATEGY",
        default_value_t,
        help_heading = "Distribution"
    )]
    pub(super) strategy: Strategy,

    /// How strongly .gz outputs are compressed: 0 stores, 1 is the fastest, 2 and 3 are a little smaller, 4 to 9 smaller
    /// by a few percent and ten times slower or more
    #[arg(long, value_name = "LEVEL", default_value_t)]
    pub(super) compression: CompressionLevel,

    /// Do not wait until each result is on the disk: faster, but a power failure may leave one incomplete
    #[arg(long)]
    pub(super) no_sync: bool,
}

impl SmoothingArgs {
    /// What is done to each image.
    pub(super) fn job(&self) -> ImageJob {
        ImageJob {
            filter: Filter::Gaussian(self.gaussian.clone()),
            output: self.output_spec,
            nan: self.non_finite.nan,
            compression: self.compression,
            sync: !self.no_sync,
        }
    }

    /// The words of a command line that say the same. Every field is named here, so that none can be forgotten.
    pub(super) fn words(&self) -> Vec<OsString> {
        let Self {
            gaussian,
            output_spec,
            non_finite,
            strategy,
            compression,
            no_sync,
        } = self;
        let Gaussian {
            sigma,
            fwhm,
            boundary,
            cval,
            truncate,
        } = gaussian;
        let OutputSpec { output_type, round } = output_spec;
        let mut words: Vec<String> = Vec::new();
        let mut say = |option: &str, value: String| words.push(format!("--{option}={value}"));
        if let Some(sigma) = sigma {
            say("sigma", sigma.to_string());
        }
        if let Some(fwhm) = fwhm {
            say("fwhm", fwhm.to_string());
        }
        say("boundary", boundary.name().to_owned());
        say("cval", cval.to_string());
        say("truncate", truncate.to_string());
        say("output-type", output_type.to_string());
        say("round", spelling(round));
        say("nan", non_finite.nan.name().to_owned());
        say("strategy", strategy.name().to_owned());
        say("compression", compression.to_string());
        if *no_sync {
            words.push("--no-sync".to_owned());
        }
        words.into_iter().map(OsString::from).collect()
    }
}

fn spelling<T: clap::ValueEnum>(value: &T) -> String {
    value
        .to_possible_value()
        .map_or(String::new(), |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Alone {
        #[command(flatten)]
        smoothing: SmoothingArgs,
    }

    #[test]
    fn the_words_say_what_was_said() {
        for typed in [
            "--sigma=1,2,0.5 --boundary=constant --cval=-3.5 --truncate=3",
            "--fwhm=6 --output-type=float32 --strategy=dynamic --compression=6 --no-sync",
            "--sigma=2 --round=nearest --nan=ignore",
        ] {
            let parse = |words: &[OsString]| {
                Alone::try_parse_from(std::iter::once(OsString::from("x")).chain(words.to_vec()))
                    .unwrap()
                    .smoothing
            };
            let first = parse(
                &typed
                    .split_whitespace()
                    .map(OsString::from)
                    .collect::<Vec<_>>(),
            );
            let again = parse(&first.words());
            assert_eq!(format!("{first:?}"), format!("{again:?}"), "{typed}");
        }
    }
}
