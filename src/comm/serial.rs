//! One rank alone: no other rank, no messages.

use super::{Communicator, Tag};

/// The communicator of a run of one process without MPI.
pub struct Serial;

impl Communicator for Serial {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn send(&self, to: usize, tag: Tag, _message: &[u8]) {
        panic!("the only rank sends {tag:?} to rank {to}");
    }

    fn try_receive(&self, _tag: Tag) -> Option<(usize, Vec<u8>)> {
        None
    }

    fn try_receive_from(&self, _from: usize, _tag: Tag) -> Option<Vec<u8>> {
        None
    }

    fn abort(&self, exit_code: i32) -> ! {
        std::process::exit(exit_code)
    }

    fn description(&self) -> String {
        "one process, no MPI".to_owned()
    }
}
