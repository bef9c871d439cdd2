//! The options of the work on an image, for every command that filters or plans filtering.

use std::ffi::OsString;

use clap::Args;

use crate::filter::nonfinite::NonFiniteArgs;
use crate::filter::{DeviceChoice, Filter, Options, OutputSpec, Outside};
use crate::image_io::CompressionLevel;
use crate::images::{ListRequest, MaskChoice};
use crate::job::{ImageJob, Masking};
use crate::partition::Strategy;

/// The command line's arguments for a filter.
pub(super) trait FilterOptions: Args + Clone {
    /// The filter's options.
    fn options(self) -> Options;
}

/// The options, other than the images, that affect the results and the cost of a run.
#[derive(Args, Clone, Debug)]
#[command(about = None, long_about = None)]
pub(super) struct JobArgs<F: FilterOptions> {
    #[command(flatten)]
    filter: F,

    #[command(flatten)]
    output_spec: OutputSpec,

    #[command(flatten)]
    non_finite: NonFiniteArgs,

    /// Filter inside of a mask only: a file for all, a template such as '{dir}/{stem}_mask', or nonzero
    ///
    /// A voxel is inside where the mask is above 0. Only voxels inside count: a Gaussian becomes their
    /// weighted mean, a median is theirs. Denoising looks for similar patches only of voxels inside, but
    /// finds them everywhere. {stem}, {dir} and {index} are filled in as with --name, entities of BIDS names
    /// such as {sub}, {ses}, {task}, {run} and {space} from the image's name. A relative path begins in the
    /// working directory. nonzero takes the image's own voxels other than 0 and
    /// NaN; a file of that name is ./nonzero. A mask is 3-D and has the shape and the affine of the image, to
    /// a thousandth of a voxel at every corner. An image whose mask is missing or does not fit fails.
    #[arg(long, value_name = "FILE|TEMPLATE|nonzero")]
    mask: Option<MaskChoice>,

    /// What results have outside of the mask [default: zero; denoise --method anlm: what ANTs leaves there]
    ///
    /// Next to the mask ANTs leaves means of the patches of voxels inside, and further away the image.
    #[arg(long, value_enum, value_name = "WHAT", requires = "mask")]
    outside: Option<Outside>,

    /// How images are distributed over the ranks
    #[arg(
        long,
        value_enum,
        value_name = "STRATEGY",
        default_value_t,
        help_heading = "Distribution"
    )]
    pub(super) strategy: Strategy,

    /// What computes: cpu, opencl (the GPUs of a node, one for each rank in turn), opencl:N, or auto
    ///
    /// N is a number of `niimpi devices`. Results have the same bits as on the CPU. Devices compute smooth
    /// without --method fft and --like, median, and denoise --method nlm; other filters are refused. auto
    /// measures the filter on a small volume at the start of a run. Each rank then takes what is faster, and
    /// the CPU if there is no device or the filter is not computed on devices. docs/devices.md says when a
    /// device pays. A dry run looks for no device.
    #[arg(long, value_name = "DEVICE", default_value_t, help_heading = "Distribution")]
    pub(super) device: DeviceChoice,

    /// How strongly .gz outputs are compressed: 0 stores, 1 is the fastest, 2 and 3 are a little smaller, 4
    /// to 9 smaller by a few percent and ten times slower or more
    #[arg(long, value_name = "LEVEL", default_value_t)]
    compression: CompressionLevel,

    /// Do not wait until each result is on the disk: faster, but a power failure may leave one incomplete
    #[arg(long)]
    no_sync: bool,

    /// Measure each image before and after: range, mean, noise, smoothness, NaN, saturated and zero voxels;
    /// and draw three slices of it
    ///
    /// The figures go into the report, its CSV and the journal, the pictures into OUTPUT/.niimpi/pictures.
    /// The page of --report-html begins with the images that differ from the others. docs/report.md defines
    /// each figure.
    #[arg(long, help_heading = "Messages")]
    qc: bool,
}

impl<F: FilterOptions> JobArgs<F> {
    /// The work on each image.
    pub(super) fn job(&self) -> ImageJob {
        ImageJob {
            filter: self.filter.clone().options(),
            output: self.output_spec,
            nan: self.non_finite.nan,
            mask: self.mask.clone().map(|choice| Masking {
                choice,
                outside: self.outside,
            }),
            compression: self.compression,
            sync: !self.no_sync,
            qc: self.qc,
        }
    }

    /// The request for the list, with the masks and the second results of these options.
    pub(super) fn list(&self, request: ListRequest) -> ListRequest {
        ListRequest {
            mask: self.mask.as_ref().and_then(MaskChoice::template).cloned(),
            second: self.job().filter.second_result().map(str::to_owned),
            ..request
        }
    }

    /// The subcommand and the arguments that mean the same in any working directory.
    pub(super) fn words(&self) -> Vec<OsString> {
        let mut words = self.job().to_cli_args();
        words.push(format!("--strategy={}", self.strategy.name()));
        if self.device != DeviceChoice::Cpu {
            words.push(format!("--device={}", self.device));
        }
        words.into_iter().map(OsString::from).collect()
    }
}
