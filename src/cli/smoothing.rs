//! What is done to the images, as every command that smooths or plans smoothing takes it.

use std::ffi::OsString;

use clap::Args;

use crate::filter::OutputSpec;
use crate::filter::gaussian::{self, Gaussian};
use crate::filter::nonfinite::NonFiniteArgs;
use crate::image_io::CompressionLevel;
use crate::job::ImageJob;
use crate::partition::Strategy;

/// The options that decide what a run costs and what it writes, besides which images it has.
#[derive(Args, Clone, Debug)]
#[command(about = None, long_about = None)]
pub(super) struct SmoothingArgs {
    #[command(flatten)]
    pub(super) gaussian: gaussian::Args,

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

    /// How strongly .gz outputs are compressed: 0 stores, 1 is the fastest, 2 and 3 are a little smaller, 4
    /// to 9 smaller by a few percent and ten times slower or more
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
            filter: Gaussian::from(self.gaussian.clone()).into(),
            output: self.output_spec,
            nan: self.non_finite.nan,
            compression: self.compression,
            sync: !self.no_sync,
        }
    }

    /// The arguments of a command line with the same options.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words = self.job().to_cli_args();
        words.push(format!("--strategy={}", self.strategy.name()));
        words.into_iter().map(OsString::from).collect()
    }
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
            let first = parse(&typed.split_whitespace().map(OsString::from).collect::<Vec<_>>());
            let again = parse(&first.words());
            assert_eq!(format!("{first:?}"), format!("{again:?}"), "{typed}");
        }
    }
}
