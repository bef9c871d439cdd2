//! Ranks over MPI: the only file that names `mpi::`.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::{Message, Status};
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator as _, Destination as _, MatchedReceiveVec as _, Root as _, Source as _};

use super::flavour::MpiFlavour;
use super::{Communicator, ROOT, Tag};

/// How long a rank waits for the others' last words and for MPI's own end.
const FINALISE_LIMIT: Duration = Duration::from_secs(5);

/// Longest piece in which a message travels: MPI counts elements in 32 bits.
const PIECE_BYTES: usize = 1 << 30;

/// The MPI world, from start to finalisation. Dropping it finalises MPI, which waits for the other ranks.
pub struct MpiWorld {
    world: SimpleCommunicator,
    // Last, so that it is dropped last: dropping it finalises MPI.
    _universe: Universe,
}

/// Whether MPI is starting: a library that fails there ends the process by itself, with an exit code of its
/// own.
static STARTING: AtomicBool = AtomicBool::new(false);

/// Lets a process that MPI ends in its start end with [`EXIT_NO_MPI`]: 1 would mean that some images failed.
fn exit_code_of_failed_start() {
    extern "C" fn at_exit() {
        if STARTING.load(Ordering::Relaxed) {
            // SAFETY: ends the process without running anything else of it.
            unsafe { nix::libc::_exit(EXIT_NO_MPI) }
        }
    }
    // SAFETY: registers a function that lives as long as the program. Where that fails, the library's own
    // code stays.
    let _ = unsafe { nix::libc::atexit(at_exit) };
}

/// Exit code of a process whose MPI does not start (EX_SOFTWARE of sysexits.h).
pub(crate) const EXIT_NO_MPI: i32 = 70;

impl MpiWorld {
    /// Starts MPI. Collective. `None` when it was started before in this process.
    ///
    /// The main thread alone calls MPI; a worker that panics is reported to it. A library that offers less
    /// than that (`MPI_THREAD_SINGLE`) serves too, since no other thread makes a call.
    pub fn start() -> Option<Self> {
        exit_code_of_failed_start();
        STARTING.store(true, Ordering::Relaxed);
        let started = mpi::initialize_with_threading(Threading::Funneled);
        STARTING.store(false, Ordering::Relaxed);
        let (universe, _provided) = started?;
        Some(Self {
            world: universe.world(),
            _universe: universe,
        })
    }
}

impl MpiWorld {
    /// Takes a message whose first piece is matched; waits for the other pieces.
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
    /// MPICH over UCX (4.0.2 over TCP) hangs there in every second run over several nodes: a rank flushes its
    /// connections, and makes those that it never used, with the help of others that no longer listen. All
    /// pairs of ranks therefore exchange a last message first, which makes it rare. A rank that is not
    /// through after `FINALISE_LIMIT` ends with its exit code, instead of holding the job's nodes until the
    /// time limit.
    pub fn finish(self, exit_code: u8) {
        if MpiFlavour::of_library(&library()).broken_finalize() {
            let watch = move || {
                std::thread::sleep(FINALISE_LIMIT);
                let _ = std::io::stdout().flush();
                // SAFETY: ends the process without running anything else of it.
                unsafe { nix::libc::_exit(i32::from(exit_code)) }
            };
            // Without the thread there is only the chance that it goes well.
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

/// Ends every rank from wherever this process is, for a panic hook that has no communicator at hand.
pub fn abort_world(exit_code: i32) -> ! {
    std::thread::sleep(LAST_WORDS);
    SimpleCommunicator::world().abort(exit_code)
}

/// How long an abort waits for the launcher to hand on what this rank said last: MPICH's drops what it has
/// not yet read.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(500);

/// Name and version of the MPI library, by its own words. MPI answers this before it is started, too.
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
    }
}

/// Takes a matched piece. Its last byte says whether another piece follows.
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

    /// The ranks first wait for a message of a few bytes, so that they sleep while the root is still at work;
    /// the bytes themselves then go down MPI's broadcast tree.
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
