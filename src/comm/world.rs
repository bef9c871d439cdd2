//! The ranks of this process: MPI's world if a launcher started it, otherwise a single rank.

use super::serial::Serial;
use super::{Communicator, Tag};

/// The communicator of this process.
pub enum World {
    /// No launcher started the process, or the program is built without MPI.
    Alone(Serial),
    /// MPI's world.
    #[cfg(feature = "mpi")]
    Mpi(super::mpi::MpiWorld),
}

/// Calls a method of the active variant.
macro_rules! of_world {
    ($world:expr, $method:ident($($argument:expr),*)) => {
        match $world {
            World::Alone(serial) => serial.$method($($argument),*),
            #[cfg(feature = "mpi")]
            World::Mpi(mpi) => mpi.$method($($argument),*),
        }
    };
}

impl Communicator for World {
    fn rank(&self) -> usize {
        of_world!(self, rank())
    }

    fn size(&self) -> usize {
        of_world!(self, size())
    }

    fn send(&self, to: usize, tag: Tag, message: &[u8]) {
        of_world!(self, send(to, tag, message));
    }

    fn try_receive(&self, tag: Tag) -> Option<(usize, Vec<u8>)> {
        of_world!(self, try_receive(tag))
    }

    fn try_receive_from(&self, from: usize, tag: Tag) -> Option<Vec<u8>> {
        of_world!(self, try_receive_from(from, tag))
    }

    fn abort(&self, exit_code: i32) -> ! {
        of_world!(self, abort(exit_code))
    }

    fn description(&self) -> String {
        of_world!(self, description())
    }

    fn broadcast(&self, message: Vec<u8>) -> Vec<u8> {
        of_world!(self, broadcast(message))
    }
}
