//! Denoise: the command-line arguments of non-local means, and the filter that they select.

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches};

use super::anlm::{Anlm, NoiseModel, parse_patch_radius, parse_search_radius, parse_shrink};
use super::interface::Filter;
use super::nlm::{self, Nlm};
use super::per_axis::PerAxis;
use super::registry::Options;

/// The variant of non-local means.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Method {
    /// Adaptive: Manjón 2010, as ANTs computes it
    #[default]
    Anlm,
    /// Classic: Buades 2005, as dipy computes it
    Nlm,
    /// Blockwise: Coupé 2008, as dipy computes it with one thread
    NlmBlockwise,
}

/// The standard deviation of the noise: `None` where it is estimated.
#[derive(Clone, Copy, Debug, PartialEq)]
struct SigmaNoise(Option<f64>);

fn parse_sigma_noise(text: &str) -> Result<SigmaNoise, String> {
    match text.parse() {
        _ if text == "estimate" => Ok(SigmaNoise(None)),
        Ok(sigma) => Ok(SigmaNoise(Some(sigma))),
        Err(_) => Err("give a number, or estimate".to_owned()),
    }
}

/// The options as they are typed. Those without a value are at the method's default.
#[derive(clap::Args, Clone, Debug)]
struct Words {
    /// Which non-local means
    #[arg(long, value_enum, value_name = "METHOD", default_value_t)]
    method: Method,

    /// What the noise is like
    #[arg(long, value_enum, value_name = "MODEL", default_value_t)]
    noise_model: NoiseModel,

    /// Radius of a patch in VOXELS: 1 to 4; with anlm one value, or one each for x, y and z [default: 1]
    #[arg(long, value_name = "VOX[,Y,Z]", value_parser = parse_patch_radius, allow_negative_numbers = true)]
    patch_radius: Option<PerAxis<usize>>,

    /// anlm: how far similar patches are searched, in VOXELS: one value, or one each for x, y and z; 1 to 10
    /// [default: 2]
    #[arg(long, value_name = "VOX[,Y,Z]", value_parser = parse_search_radius, allow_negative_numbers = true)]
    search_radius: Option<PerAxis<usize>>,

    /// nlm: how far the patches reach that a voxel's patch is compared with, in VOXELS; up to 12 [default: 5]
    ///
    /// nlm-blockwise: radius of the patches that are compared and averaged [default: 2]. --patch-radius is
    /// how far they are searched. Both radii mean what they mean in dipy.
    #[arg(long, value_name = "VOX", allow_negative_numbers = true)]
    block_radius: Option<usize>,

    /// nlm, nlm-blockwise: standard deviation of the noise, in intensities, or estimate [default: estimate]
    ///
    /// estimate: of each 3-D volume from all of its voxels, as dipy's estimate_sigma does.
    #[arg(
        long,
        value_name = "VALUE|estimate",
        value_parser = parse_sigma_noise,
        allow_negative_numbers = true
    )]
    sigma_noise: Option<SigmaNoise>,

    /// anlm: find the noise in every N-th voxel along each axis only, and interpolate between them: faster; 1
    /// to 8 [default: 1]
    ///
    /// As in ANTs. The axes of the image have to be parallel to those of space, and there is no mask.
    #[arg(long, value_name = "N", value_parser = parse_shrink)]
    shrink: Option<usize>,

    /// anlm: also write the noise that was removed, as float32, for example '{dir}/{stem}_noise'
    ///
    /// A second result of the same image, in the folder of the first: both are written, or none. {stem} and
    /// {dir} are filled in as with --name. It is a .nii or .nii.gz file.
    #[arg(long, value_name = "TEMPLATE")]
    output_noise: Option<String>,
}

impl Words {
    /// The filter that they mean.
    ///
    /// # Errors
    /// A sentence for the user.
    fn options(self) -> Result<Options, String> {
        let unknown = |is_given: bool, name: &str, method: &str, instead: &str| match is_given {
            true => Err(format!(
                "--{name} is not an option of --method {method}: {instead}"
            )),
            false => Ok(()),
        };
        let options: Options = match self.method {
            Method::Anlm => {
                let instead = "leave it out, or give --method nlm";
                unknown(self.block_radius.is_some(), "block-radius", "anlm", instead)?;
                unknown(self.sigma_noise.is_some(), "sigma-noise", "anlm", instead)?;
                let default = Anlm::default();
                Anlm {
                    noise_model: self.noise_model,
                    patch_radius: self.patch_radius.unwrap_or(default.patch_radius),
                    search_radius: self.search_radius.unwrap_or(default.search_radius),
                    shrink: self.shrink.unwrap_or(default.shrink),
                    output_noise: self.output_noise,
                }
                .into()
            }
            Method::Nlm | Method::NlmBlockwise => {
                let (name, instead, method) = match self.method {
                    Method::NlmBlockwise => (
                        "nlm-blockwise",
                        "give --patch-radius, which is how far patches are searched there",
                        nlm::Method::NlmBlockwise,
                    ),
                    _ => (
                        "nlm",
                        "give --block-radius, the search radius and the patch radius together",
                        nlm::Method::Nlm,
                    ),
                };
                unknown(self.search_radius.is_some(), "search-radius", name, instead)?;
                unknown(
                    self.shrink.is_some(),
                    "shrink",
                    name,
                    "leave it out, or give --method anlm",
                )?;
                let instead = "leave it out, or give --method anlm";
                unknown(self.output_noise.is_some(), "output-noise", name, instead)?;
                let default = Nlm::of(method);
                Nlm {
                    noise_model: self.noise_model,
                    patch_radius: match self.patch_radius {
                        None => default.patch_radius,
                        Some(PerAxis::All(radius)) => radius,
                        Some(PerAxis::Each(_)) => {
                            return Err(
                                "--patch-radius: give one value for all axes with --method nlm".into()
                            );
                        }
                    },
                    block_radius: self.block_radius.unwrap_or(default.block_radius),
                    sigma_noise: self.sigma_noise.and_then(|SigmaNoise(sigma)| sigma),
                    ..default
                }
                .into()
            }
        };
        match options.validate() {
            Ok(()) => Ok(options),
            Err(error) => Err(format!("--{error}")),
        }
    }
}

/// The command line's options of `niimpi denoise`: which of them may be given depends on the method.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Args(Options);

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let options = Words::from_arg_matches(matches)?.options();
        options
            .map(Args)
            .map_err(|fault| clap::Error::raw(ErrorKind::ArgumentConflict, format!("{fault}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Args::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        Words::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Words::augment_args_for_update(command)
    }
}

impl From<Args> for Options {
    fn from(Args(options): Args) -> Self {
        options
    }
}
