//! Messages between ranks: one trait, with implementations for a single rank, threads (in tests) and MPI.
//!
//! Messages are bytes; [`encode`] and [`decode`] put values into them. A waiting rank polls and sleeps in
//! between, so that its CPU is free for the workers.

mod collective;
pub(crate) mod flavour;
mod handshake;
pub mod launcher;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod serial;
pub mod threads;
mod world;

pub(crate) use collective::{agree, all_gather, from_root, gather};
pub use world::World;

pub(crate) use handshake::{Request, refuse_differences};

use std::time::Duration;

use crate::console;
use serde::{Serialize, de::DeserializeOwned};

/// The rank that lists the images, answers requests for work, collects the records and prints the report.
pub const ROOT: usize = 0;

/// How long a waiting rank sleeps between two polls. At 2 ms a waiting rank uses about 2 % of a CPU; an image
/// takes 10 ms or more.
pub const WAIT: Duration = Duration::from_millis(2);

/// The kind of a message. Messages of one kind between two ranks arrive in the order of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    /// The root broadcasts.
    Broadcast,
    /// A rank's part of a gather.
    Gather,
    /// A rank's workers are idle and request images.
    Request,
    /// The root's reply to a request.
    Assignment,
    /// A rank reports its progress.
    Progress,
    /// A rank's records, when its share is done.
    Records,
    /// The root gives an order to all ranks.
    Order,
    /// A rank returns images that it cannot open.
    HandBack,
    /// About a section of an image that ranks share, or its bytes.
    Section,
    /// Voxels of an image that one rank inflates for others, or a request for them.
    Voxels,
    /// The final message between two ranks.
    Farewell,
}

/// The ranks of one run, seen from one of them.
///
/// Calls are made from one thread of a rank, its main thread. `broadcast` and `gather` are collective: every
/// rank calls them, in the same order. The others are local.
pub trait Communicator {
    /// This rank's number, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Sends bytes to another rank. Local; returns when the buffer can be reused. For a long message this can
    /// be when the receiver accepts it.
    ///
    /// # Panics
    /// When `to` is this rank or not a rank.
    fn send(&self, to: usize, tag: Tag, message: &[u8]);

    /// Receives one message of this kind from any rank, if there is one: the sender and the bytes. Local,
    /// does not wait.
    fn try_receive(&self, tag: Tag) -> Option<(usize, Vec<u8>)>;

    /// Receives one message of this kind from this rank, if there is one. Local, does not wait.
    fn try_receive_from(&self, from: usize, tag: Tag) -> Option<Vec<u8>>;

    /// Ends every rank at once, without cleanup.
    fn abort(&self, exit_code: i32) -> !;

    /// The transport, for the report: name and version of the MPI library, or a description.
    fn description(&self) -> String;

    /// Sends the root's bytes to every rank. Collective. `message` is only read on the root.
    fn broadcast(&self, message: Vec<u8>) -> Vec<u8> {
        if self.rank() == ROOT {
            for to in (0..self.size()).filter(|&rank| rank != ROOT) {
                self.send(to, Tag::Broadcast, &message);
            }
            message
        } else {
            self.receive_from(ROOT, Tag::Broadcast)
        }
    }

    /// Collects one message of each rank on the root, in the order of ranks. Collective; the other ranks get
    /// `None`.
    fn gather(&self, message: Vec<u8>) -> Option<Vec<Vec<u8>>> {
        if self.rank() != ROOT {
            self.send(ROOT, Tag::Gather, &message);
            return None;
        }
        // Receive from each rank in turn, not from any rank, because a fast rank can already be in the next
        // gather.
        let mut own = Some(message);
        let part = |rank| match rank {
            ROOT => own.take().unwrap_or_default(),
            rank => self.receive_from(rank, Tag::Gather),
        };
        Some((0..self.size()).map(part).collect())
    }

    /// Receives one message of this kind from any rank. Sleeps while waiting.
    fn receive(&self, tag: Tag) -> (usize, Vec<u8>) {
        wait_for(|| self.try_receive(tag))
    }

    /// Receives one message of this kind from this rank. Sleeps while waiting.
    fn receive_from(&self, from: usize, tag: Tag) -> Vec<u8> {
        wait_for(|| self.try_receive_from(from, tag))
    }
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(WAIT);
    }
}

/// A value as bytes for a message.
///
/// # Panics
/// If the value cannot be encoded. This does not happen for the plain data that ranks exchange.
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data can be encoded")
}

/// The value that [`encode`] turned into these bytes.
///
/// # Panics
/// If the bytes are not such a value, because the ranks then run different programs.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect("malformed message: do all ranks run the same niimpi version?")
}

/// Version string of the MPI library that this program was built with; `None` without MPI. Local; can be
/// called before `start`.
pub fn library() -> Option<String> {
    #[cfg(feature = "mpi")]
    return Some(mpi::library());
    #[cfg(not(feature = "mpi"))]
    None
}

/// Why the ranks did not start.
pub(crate) enum StartError {
    /// The launch cannot work: the reason and what to do.
    Launch(String),
    /// MPI does not start.
    #[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "there is no MPI to start"))]
    Mpi(String),
}

/// Starts the ranks and checks that they are connected. Collective. From here on a panic on a rank ends all
/// ranks. Also returns a warning for the user, if any.
///
/// MPI starts only in a process that a launcher started. Without a launcher, its start would take longer than
/// a small image.
///
/// # Errors
/// [`StartError`] if the launcher started several processes that MPI does not connect, because each of them
/// would process the whole list, or if MPI is known to end the process during its start.
pub(crate) fn start() -> Result<(World, Option<String>), StartError> {
    let library = library().unwrap_or_default();
    let warning = launcher::started_without_srun(&library);
    let world = start_world(&library)?;
    end_all_on_panic(&world);
    let warning = warning.filter(|_| world.size() == 1);
    let launch = launcher::Launch::from_env();
    match launch.and_then(|launch| launch.disagreement(world.size(), &world.description())) {
        Some(message) => Err(StartError::Launch(message)),
        None => Ok((world, warning)),
    }
}

#[cfg(feature = "mpi")]
fn start_world(library: &str) -> Result<World, StartError> {
    if !launcher::is_present() {
        return Ok(World::Alone(serial::Serial));
    }
    match launcher::outlook(library) {
        launcher::Outlook::Good => {}
        launcher::Outlook::Doubtful(advice) => {
            if launcher::Launch::speaks(launcher::Launch::from_env().as_ref()) {
                console::note(advice);
            }
        }
        launcher::Outlook::Hopeless(message) => return Err(StartError::Launch(message)),
    }
    let started = mpi::MpiWorld::start();
    let world =
        started.ok_or_else(|| StartError::Mpi("MPI was already started in this process".to_owned()))?;
    Ok(World::Mpi(world))
}

#[cfg(not(feature = "mpi"))]
fn start_world(_library: &str) -> Result<World, StartError> {
    Ok(World::Alone(serial::Serial))
}

/// Finalises the communicator after all work is done, and returns the exit code. Collective.
pub fn finish(world: World, exit_code: u8) -> u8 {
    match world {
        World::Alone(_) => {}
        #[cfg(feature = "mpi")]
        World::Mpi(world) => world.finish(exit_code),
    }
    exit_code
}

/// Name of the threads that can panic without ending the process at once: the main thread is notified and
/// ends the run in order.
pub const WORKER_THREAD: &str = "worker-";

/// A panic must end every rank. Unwinding out of the main thread would finalise MPI, which waits for ranks
/// that are waiting.
fn end_all_on_panic(world: &World) {
    let rank = world.rank();
    let is_alone = matches!(world, World::Alone(_));
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        console::note(format_args!(
            "rank {rank} panicked; this is a bug in niimpi, please report it with what follows"
        ));
        default_hook(panic);
        let worker = std::thread::current()
            .name()
            .is_some_and(|name| name.starts_with(WORKER_THREAD));
        if worker {
            return;
        }
        // Unwinding would wait for workers that are waiting for images.
        if is_alone {
            std::process::exit(EXIT_PANIC);
        }
        #[cfg(feature = "mpi")]
        mpi::abort_world(EXIT_PANIC);
    }));
}

/// Exit code of a rank that panicked, which ends the whole run.
pub(crate) const EXIT_PANIC: i32 = 101;
