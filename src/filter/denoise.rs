//! Denoise: the command line's arguments of the non-local means, and which filter they mean.

use super::anlm::{Anlm, NoiseModel, parse_patch_radius, parse_search_radius};
use super::per_axis::PerAxis;
use super::registry::Options;

/// Which non-local means.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Method {
    /// Adaptive: Manjón 2010, as ANTs computes it
    #[default]
    Anlm,
}

/// The command line's options of `niimpi denoise`.
#[derive(clap::Args, Clone, Debug, PartialEq)]
pub(crate) struct Args {
    /// Which non-local means
    #[arg(long, value_enum, value_name = "METHOD", default_value_t)]
    method: Method,

    /// What the noise is like
    #[arg(long, value_enum, value_name = "MODEL", default_value_t)]
    noise_model: NoiseModel,

    /// Radius of a patch in VOXELS: one value, or one each for x, y and z; 1 to 4
    #[arg(
        long,
        value_name = "VOX[,Y,Z]",
        default_value = "1",
        value_parser = parse_patch_radius,
        allow_negative_numbers = true
    )]
    patch_radius: PerAxis<usize>,

    /// How far similar patches are searched, in VOXELS: one value, or one each for x, y and z; 1 to 10
    #[arg(
        long,
        value_name = "VOX[,Y,Z]",
        default_value = "2",
        value_parser = parse_search_radius,
        allow_negative_numbers = true
    )]
    search_radius: PerAxis<usize>,
}

impl From<Args> for Options {
    fn from(args: Args) -> Self {
        match args.method {
            Method::Anlm => Anlm {
                noise_model: args.noise_model,
                patch_radius: args.patch_radius,
                search_radius: args.search_radius,
            }
            .into(),
        }
    }
}
