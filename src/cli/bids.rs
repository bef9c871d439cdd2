//! The options of a BIDS dataset: which images, and how their results are named.

use std::ffi::OsString;

use clap::Args;

use crate::images::bids::{BidsRequest, Desc, Labels, is_label};

#[derive(Args, Clone, Debug)]
#[command(about = None, long_about = None)]
pub(super) struct BidsArgs {
    /// INPUT is a BIDS dataset, raw or derivative: results are named desc-sm6 and the like
    ///
    /// niimpi processes the images in sub-*/[ses-*/]DATATYPE/ and leaves out all other folders (sourcedata,
    /// code, derivatives). Results keep their folder and get another desc label: desc-sm6 for --fwhm 6,
    /// desc-sm4p5 for --fwhm 4.5, desc-median, desc-denoised. Masks and segmentations are left out unless
    /// --suffix selects them. Each result gets the metadata of its image (.json, .bval, .bvec), and the
    /// output folder a dataset_description.json.
    #[arg(long, help_heading = "BIDS")]
    bids: bool,

    /// Take only these participants, such as 01 02; sub- may be left out
    ///
    /// As with all options that select, an image must match each option that is given, and a label that
    /// selects no image ends the run before it starts.
    #[arg(long, alias = "participant_label", value_name = "LABEL", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    participant_label: Vec<String>,

    /// Take only these sessions
    #[arg(long, value_name = "LABEL", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    session: Vec<String>,

    /// Take only these tasks
    #[arg(long, value_name = "LABEL", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    task: Vec<String>,

    /// Take only these runs; 1 and 01 are the same
    #[arg(long, value_name = "INDEX", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    run: Vec<String>,

    /// Take only images in these spaces, such as MNI152NLin2009cAsym
    #[arg(long, value_name = "LABEL", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    space: Vec<String>,

    /// Take only images with these desc labels, such as preproc
    #[arg(long, value_name = "LABEL", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    desc: Vec<String>,

    /// Take only images with these suffixes, such as bold or T1w
    #[arg(long, value_name = "SUFFIX", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    suffix: Vec<String>,

    /// Take only images of these data types, such as func or anat
    #[arg(long, value_name = "DATATYPE", num_args = 1.., value_delimiter = ',')]
    #[arg(requires = "bids", help_heading = "BIDS")]
    datatype: Vec<String>,

    /// Name the results desc-LABEL, whatever desc the images have
    ///
    /// Needed with --sigma, with widths that differ between axes, and for images that have a desc other than
    /// preproc.
    #[arg(long, value_name = "LABEL", value_parser = parse_label, requires = "bids", help_heading = "BIDS")]
    desc_out: Option<String>,
}

fn parse_label(text: &str) -> Result<String, String> {
    let label = text.strip_prefix("desc-").unwrap_or(text);
    match is_label(label) {
        true => Ok(label.to_owned()),
        false => Err("a label has only letters, digits and +".to_owned()),
    }
}

impl BidsArgs {
    /// The options that select, each with the key of its labels.
    fn given(&self) -> impl Iterator<Item = (&'static str, &'static str, &Vec<String>)> {
        let all = [
            ("participant-label", "sub", &self.participant_label),
            ("session", "ses", &self.session),
            ("task", "task", &self.task),
            ("run", "run", &self.run),
            ("space", "space", &self.space),
            ("desc", "desc", &self.desc),
            ("suffix", "suffix", &self.suffix),
            ("datatype", "datatype", &self.datatype),
        ];
        all.into_iter().filter(|(_, _, labels)| !labels.is_empty())
    }

    /// The request; `None` without `--bids`. `desc` is the filter's own label.
    pub(super) fn request(&self, desc: Option<String>) -> Option<BidsRequest> {
        let labels = self
            .given()
            .map(|(option, key, labels)| Labels::new(option, key, labels));
        self.bids.then(|| BidsRequest {
            labels: labels.collect(),
            desc: self.desc_out.clone().map_or(Desc::OfFilter(desc), Desc::Given),
        })
    }

    /// These options as words of a command line.
    pub(super) fn words(&self) -> Vec<OsString> {
        let bids = self.bids.then(|| "--bids".to_owned());
        let labels = self
            .given()
            .map(|(option, _, labels)| format!("--{option}={}", labels.join(",")));
        let desc = self.desc_out.iter().map(|label| format!("--desc-out={label}"));
        bids.into_iter()
            .chain(labels)
            .chain(desc)
            .map(OsString::from)
            .collect()
    }
}
