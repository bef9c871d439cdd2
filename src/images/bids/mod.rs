//! BIDS: the names of images.

mod name;

pub use name::{BidsName, NotBids};
