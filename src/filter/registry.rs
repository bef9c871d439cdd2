//! Registry: all filters of the program, one line each, and their options as data.

use serde::{Deserialize, Serialize};

use super::FilterError;
use super::anlm::Anlm;
use super::gaussian::{Gaussian, Method};
#[cfg(test)]
use super::identity::Identity;
use super::interface::{Filter, ImageInfo, Prepared, SharedOptions};
use super::like::{Like, Tool};
use super::mask::Outside;
use super::median::Median;
use super::nlm::Nlm;

/// Declares [`Options`] with a variant for each filter, named after its option type, and the command-line
/// arguments that select it.
macro_rules! filters {
    ($($(#[$attribute:meta])* $filter:ident: $command:expr),* $(,)?) => {
        /// The options of a filter: which one, and its parameters.
        ///
        /// ```
        /// use niimpi::filter::{Options, gaussian::Gaussian};
        ///
        /// let options = Options::from(Gaussian::from_sigma_vox(2.0));
        /// assert_eq!(options.name(), "gaussian");
        /// ```
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "name", rename_all = "lowercase")]
        pub enum Options {
            $(
                $(#[$attribute])*
                #[doc = concat!("[`", stringify!($filter), "`]")]
                $filter($filter),
            )*
        }

        $(
            $(#[$attribute])*
            impl From<$filter> for Options {
                fn from(options: $filter) -> Self {
                    Options::$filter(options)
                }
            }
        )*

        impl Options {
            /// The filter that these options belong to.
            pub fn filter(&self) -> &dyn Filter {
                match self {
                    $($(#[$attribute])* Options::$filter(filter) => filter,)*
                }
            }

            /// The subcommand of this filter, and the options that select it there.
            pub(crate) fn command(&self) -> &'static [&'static str] {
                match self {
                    $($(#[$attribute])* Options::$filter(_) => &$command,)*
                }
            }
        }
    };
}

filters! {
    Gaussian: ["smooth"],
    Like: ["smooth"],
    Median: ["median"],
    Anlm: ["denoise", "--method=anlm"],
    Nlm: ["denoise"],
    #[cfg(test)]
    Identity: ["identity"],
}

impl Options {
    /// The filter's name in reports.
    pub fn name(&self) -> String {
        let name = self.as_json().remove("name");
        name.and_then(|name| name.as_str().map(str::to_owned))
            .unwrap_or_default()
    }

    /// The program whose numbers the filter gives, if it is to give another's.
    pub(crate) fn like(&self) -> Option<Tool> {
        match self {
            Options::Like(like) => Some(like.like),
            _ => None,
        }
    }

    /// Whether integers are rounded once, whatever the type of the output is.
    pub(crate) fn rounds_once(&self) -> bool {
        matches!(self, Options::Gaussian(gaussian) if gaussian.method == Method::Fft)
    }

    /// All options as JSON. Two sets of options are equal if and only if their JSON is.
    pub(crate) fn as_json(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(options)) => options,
            _ => serde_json::Map::new(),
        }
    }
}

impl Filter for Options {
    fn validate(&self) -> Result<(), FilterError> {
        self.filter().validate()
    }

    fn validate_masked(&self) -> Result<(), FilterError> {
        self.filter().validate_masked()
    }

    fn validate_on_device(&self) -> Result<(), FilterError> {
        self.filter().validate_on_device()
    }

    fn uses_voxel_size(&self) -> bool {
        self.filter().uses_voxel_size()
    }

    fn refuses_nonfinite(&self) -> bool {
        self.filter().refuses_nonfinite()
    }

    fn reads_outside(&self) -> bool {
        self.filter().reads_outside()
    }

    fn default_outside(&self) -> Option<Outside> {
        self.filter().default_outside()
    }

    fn second_result(&self) -> Option<&str> {
        self.filter().second_result()
    }

    fn bids_desc(&self) -> Option<String> {
        self.filter().bids_desc()
    }

    fn radius_vox(&self) -> Option<[usize; 3]> {
        self.filter().radius_vox()
    }

    fn prepare(&self, image: &ImageInfo, shared: &SharedOptions) -> Result<Box<dyn Prepared>, FilterError> {
        self.filter().prepare(image, shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_cannot_hold_tell_options_apart() {
        let json = |cval: f64| {
            let gaussian = Gaussian::from_sigma_vox(2.0).with_cval(cval);
            serde_json::to_string(&Options::from(gaussian)).unwrap()
        };
        let all = [0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(json);
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one), "{one}");
            let back: Options = serde_json::from_str(one).unwrap();
            assert_eq!(serde_json::to_string(&back).unwrap(), *one);
        }
    }

    #[test]
    fn options_are_written_as_they_always_were() {
        let options = Options::from(Gaussian::from_sigma_vox(2.0));
        assert_eq!(
            serde_json::to_string(&options).unwrap(),
            r#"{"name":"gaussian","sigma":2.0,"fwhm":null,"boundary":"reflect","cval":0.0,"truncate":4.0}"#
        );
    }
}
