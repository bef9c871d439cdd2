//! What is done to the images, as every command that filters or plans filtering takes it.

use std::ffi::OsString;

use clap::Args;

use crate::filter::nonfinite::NonFiniteArgs;
use crate::filter::{Options, OutputSpec};
use crate::image_io::CompressionLevel;
use crate::job::ImageJob;
use crate::partition::Strategy;

/// The command line's arguments for a filter.
pub(super) trait FilterOptions: Args + Clone {
    /// The filter that they ask for.
    fn options(self) -> Options;
}

/// The options that decide what a run costs and what it writes, besides which images it has.
#[derive(Args, Clone, Debug)]
#[command(about = None, long_about = None)]
pub(super) struct JobArgs<F: FilterOptions> {
    #[command(flatten)]
    filter: F,

    #[command(flatten)]
    output_spec: OutputSpec,

    #[command(flatten)]
    non_finite: NonFiniteArgs,

    /// How images are distributed over the ranks
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
    compression: CompressionLevel,

    /// Do not wait until each result is on the disk: faster, but a power failure may leave one incomplete
    #[arg(long)]
    no_sync: bool,
}

impl<F: FilterOptions> JobArgs<F> {
    /// What is done to each image.
    pub(super) fn job(&self) -> ImageJob {
        ImageJob {
            filter: self.filter.clone().options(),
            output: self.output_spec,
            nan: self.non_finite.nan,
            compression: self.compression,
            sync: !self.no_sync,
        }
    }

    /// The subcommand and the arguments that mean the same.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words = self.job().to_cli_args();
        words.push(format!("--strategy={}", self.strategy.name()));
        words.into_iter().map(OsString::from).collect()
    }
}
