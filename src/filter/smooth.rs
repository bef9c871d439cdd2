//! Smooth: the command line's arguments of the Gaussian, and which filter they mean.

use super::gaussian::{self, Gaussian, PerAxis, parse_width};
use super::like::{Like, Tool};
use super::registry::Options;

/// The command line's options of `niimpi smooth`.
#[derive(clap::Args, Clone, Debug, PartialEq)]
#[command(about = None, long_about = None)]
#[command(mut_arg("sigma", |arg| arg.required_unless_present("sigma_mm")))]
// The group of `gaussian::Args` has the same name, and clap refuses two groups of one name.
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    gaussian: gaussian::Args,

    /// Give the numbers of another program, with --fwhm or --sigma-mm
    ///
    /// Kernel, radius, edges, precision, voxel size and the treatment of NaN are the program's. Options that
    /// it fixes are refused. Results are float32 or float64, or the type that --output-type names. How close
    /// each one comes: docs/compatibility.md.
    #[arg(long, value_enum, value_name = "PROGRAM")]
    like: Option<Tool>,

    /// With --like: standard deviation in MILLIMETRES, one value, or one each for x, y and z
    #[arg(
        long,
        value_name = "MM[,Y,Z]",
        value_parser = parse_width,
        allow_negative_numbers = true,
        requires = "like",
        conflicts_with_all = ["sigma", "fwhm"]
    )]
    sigma_mm: Option<PerAxis>,
}

impl From<Args> for Options {
    fn from(args: Args) -> Self {
        let gaussian = Gaussian::from(args.gaussian);
        match args.like {
            Some(like) => Like {
                like,
                fwhm: gaussian.fwhm,
                sigma_mm: args.sigma_mm,
            }
            .into(),
            None => gaussian.into(),
        }
    }
}
