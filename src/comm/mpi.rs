//! Ranks over MPI: the only file that names `mpi::`.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::{Message, Status};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, Destination as _, MatchedReceiveVec as _, Root as _, Source as _};
use nix::libc;

use super::flavour::MpiFlavour;
use super::{Communicator, ROOT, Tag};
use crate::signals::keeping_handlers;

/// How long a rank waits for the final messages of other ranks and for `MPI_Finalize`.
const FINALISE_LIMIT: Duration = Duration::from_secs(5);

/// Maximum length of a message piece, because MPI counts elements in 32 bits.
const PIECE_BYTES: usize = 1 << 30;

/// The MPI world, from start to finalisation. Dropping it finalises MPI, which waits for the other ranks.
pub struct MpiWorld {
    world: SimpleCommunicator,
    // Last field, so that it is dropped last: dropping it finalises MPI.
    _universe: Universe,
}

/// MPI is starting. A library that fails there ends the process itself, with its own exit code.
static STARTING: AtomicBool = AtomicBool::new(false);

/// Changes the exit code to [`EXIT_NO_MPI`] if MPI ends the process during its start, because 1 would mean
/// that some images failed.
fn exit_code_of_failed_start() {
    extern "C" fn at_exit() {
        if STARTING.load(Ordering::Relaxed) {
            // SAFETY: ends the process without running any other code.
            unsafe { nix::libc::_exit(EXIT_NO_MPI) }
        }
    }
    // SAFETY: registers a function that lives as long as the program. If this fails, the library's exit code
    // stays.
    let _ = unsafe { nix::libc::atexit(at_exit) };
}

/// Exit code of a process whose MPI does not start (EX_SOFTWARE of sysexits.h).
pub(crate) const EXIT_NO_MPI: i32 = 70;

impl MpiWorld {
    /// Starts MPI. Collective. `None` if it was already started in this process.
    ///
    /// Only the main thread calls MPI; it is notified if a worker panics. A library that offers only
    /// `MPI_THREAD_SINGLE` also works, because no other thread calls MPI.
    pub fn start() -> Option<Self> {
        exit_code_of_failed_start();
        STARTING.store(true, Ordering::Relaxed);
        // MPICH loads hwloc, which loads the drivers of all OpenCL devices, and LLVM in that of pocl takes
        // SIGINT and SIGUSR1.
        let own = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1];
        let started = keeping_handlers(own, || mpi::initialize_with_threading(Threading::Funneled));
        STARTING.store(false, Ordering::Relaxed);
        let (universe, _provided) = started?;
        Some(Self {
            world: universe.world(),
            _universe: universe,
        })
    }
}

impl MpiWorld {
    /// Receives a message whose first piece is matched; waits for the other pieces.
    fn take_message(&self, matched: (Message, Status), from: i32, tag: Tag) -> Vec<u8> {
        let (mut bytes, mut more) = take_piece(matched);
        while more {
            let sender = self.world.process_at_rank(from);
            let (piece, another) = take_piece(sender.matched_probe_with_tag(tag_number(tag)));
            bytes.extend_from_slice(&piece);
            more = another;
        }
        bytes
    }

    /// Finalises MPI, after all work is done. Collective.
    ///
    /// MPICH over UCX (4.0.2 over TCP) hangs there in about half of all multi-node runs: a rank flushes its
    /// connections, and opens unused ones, which requires other ranks that no longer process messages. All
    /// pairs of ranks therefore exchange a final message first, which makes this rare. A rank that has not
    /// finished after `FINALISE_LIMIT` exits with its exit code, so that it does not hold the job's nodes
    /// until the time limit.
    pub fn finish(self, exit_code: u8) {
        if MpiFlavour::of_library(&library()).broken_finalize() {
            let watch = move || {
                std::thread::sleep(FINALISE_LIMIT);
                let _ = std::io::stdout().flush();
                // SAFETY: ends the process without running any other code.
                unsafe { nix::libc::_exit(i32::from(exit_code)) }
            };
            // Without the thread there is no time limit.
            let _ = std::thread::Builder::new()
                .name("finalise".to_owned())
                .spawn(watch);
            let others = (1..self.size()).map(|ahead| (self.rank() + ahead) % self.size());
            others.for_each(|other| self.send(other, Tag::Farewell, &[]));
            (1..self.size()).for_each(|_| drop(self.receive(Tag::Farewell)));
        }
        drop(self);
    }
}

/// Ends every rank from any code, for a panic hook without a communicator.
pub fn abort_world(exit_code: i32) -> ! {
    std::thread::sleep(LAST_WORDS);
    SimpleCommunicator::world().abort(exit_code)
}

/// How long an abort waits for the launcher to forward this rank's last output, because MPICH's launcher
/// drops unread output.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(500);

/// Name and version of the MPI library, from the library. Can be called before MPI is started.
pub fn library() -> String {
    let version = mpi::environment::library_version().unwrap_or_default();
    let first = version.lines().next().unwrap_or_default();
    let name = first.split(',').next().unwrap_or_default().trim();
    let words: Vec<&str> = name.split_whitespace().collect();
    if words.is_empty() {
        "MPI".to_owned()
    } else {
        words.join(" ")
    }
}

fn tag_number(tag: Tag) -> mpi::Tag {
    match tag {
        Tag::Broadcast => 1,
        Tag::Gather => 2,
        Tag::Request => 3,
        Tag::Assignment => 4,
        Tag::Progress => 5,
        Tag::Records => 6,
        Tag::Order => 7,
        Tag::HandBack => 8,
        Tag::Farewell => 9,
        Tag::Section => 10,
        Tag::Voxels => 11,
    }
}

/// Receives a matched piece. Its last byte indicates if another piece follows.
fn take_piece(matched: (Message, Status)) -> (Vec<u8>, bool) {
    let (mut piece, _status) = matched.matched_receive_vec::<u8>();
    let more = piece.pop() == Some(1);
    (piece, more)
}

impl Communicator for MpiWorld {
    fn rank(&self) -> usize {
        self.world.rank() as usize
    }

    fn size(&self) -> usize {
        self.world.size() as usize
    }

    fn send(&self, to: usize, tag: Tag, message: &[u8]) {
        assert!(
            to != self.rank() && to < self.size(),
            "rank {} sends to rank {to}",
            self.rank()
        );
        let destination = self.world.process_at_rank(to as i32);
        let mut pieces = message.chunks(PIECE_BYTES).peekable();
        let mut next = pieces.next().unwrap_or_default();
        loop {
            let more = pieces.peek().is_some();
            let mut piece = Vec::with_capacity(next.len() + 1);
            piece.extend_from_slice(next);
            piece.push(u8::from(more));
            destination.send_with_tag(&piece[..], tag_number(tag));
            match pieces.next() {
                Some(following) => next = following,
                None => return,
            }
        }
    }

    fn try_receive(&self, tag: Tag) -> Option<(usize, Vec<u8>)> {
        let any = self.world.any_process();
        let matched = any.immediate_matched_probe_with_tag(tag_number(tag))?;
        let from = matched.1.source_rank();
        Some((from as usize, self.take_message(matched, from, tag)))
    }

    fn try_receive_from(&self, from: usize, tag: Tag) -> Option<Vec<u8>> {
        let from = from as i32;
        let sender = self.world.process_at_rank(from);
        let matched = sender.immediate_matched_probe_with_tag(tag_number(tag))?;
        Some(self.take_message(matched, from, tag))
    }

    fn abort(&self, exit_code: i32) -> ! {
        abort_world(exit_code)
    }

    fn description(&self) -> String {
        library()
    }

    /// The ranks first wait for a message of a few bytes, so that they sleep while the root is still working.
    /// MPI's broadcast then transfers the bytes.
    fn broadcast(&self, message: Vec<u8>) -> Vec<u8> {
        let root = self.world.process_at_rank(ROOT as i32);
        let mut bytes = message;
        if self.rank() == ROOT {
            for to in (0..self.size()).filter(|&rank| rank != ROOT) {
                self.send(to, Tag::Broadcast, &bytes.len().to_le_bytes());
            }
        } else {
            let length = self.receive_from(ROOT, Tag::Broadcast);
            let length = length.try_into().expect("a broadcast begins with its length");
            bytes = vec![0; usize::from_le_bytes(length)];
        }
        for piece in bytes.chunks_mut(PIECE_BYTES) {
            root.broadcast_into(piece);
        }
        bytes
    }
}
