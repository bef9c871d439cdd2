//! BIDS: which images of a dataset are processed, and the names of their results.

mod choice;
mod dataset;
mod ignore;
mod metadata;
mod name;

pub(super) use choice::described;
pub use choice::{Desc, Labels};
pub(super) use dataset::Dataset;
pub(crate) use metadata::Metadata;
pub(super) use metadata::sidecars_of;
pub(super) use name::is_entity;
pub use name::{BidsName, NotBids, is_label};

/// What `--bids` and its options ask for.
#[derive(Clone, Debug)]
pub struct BidsRequest {
    /// The options that select images, each with its labels. An image must match all of them.
    pub labels: Vec<Labels>,
    /// The `desc` label of the results.
    pub desc: Desc,
}
