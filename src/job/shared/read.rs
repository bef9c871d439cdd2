//! Reading of sections. A compressed image is inflated once, in a thread of one rank, piece by piece; the
//! sections of all ranks are fed with the pieces that they need. Other images are read where they are needed.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, unbounded};

use super::super::failure::may_pass;
use super::super::outcome::{Failure, FailureKind, Stage, Timings};
use super::super::survey::Survey;
use super::super::team::Team;
use super::super::warning::Warning;
use super::{SectionFacts, changed};
use crate::comm::WORKER_THREAD;
use crate::filter::nonfinite;
use crate::image_io::{ImageError, ImageReader, SliceReader};
use crate::volume::Volume;

/// Bytes of voxels in a piece. A rank holds a few of them.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;

/// So many pieces wait for the thread that reads them, or for the main thread of the inflating rank.
pub(crate) const PIECES_AHEAD: usize = 2;

/// The bytes of all voxels that each section needs.
pub(crate) type Needs = Vec<Range<u64>>;

/// The pieces that contain these bytes.
pub(crate) fn pieces_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / PIECE_BYTES..bytes.end.div_ceil(PIECE_BYTES)
}

/// The failure of an input that cannot be read.
pub(super) fn reading_failure(error: &ImageError) -> Failure {
    let failure = super::failure(Stage::Read, error);
    match may_pass(&error.cause) {
        true => Failure {
            kind: FailureKind::Temporary,
            ..failure
        },
        false => failure,
    }
}

/// Whether `ranks` ranks can be fed from the first piece to the last: none has to begin a section before it
/// has all pieces of its previous one.
pub(super) fn can_be_fed(needs: &[Range<u64>], ranks: usize) -> bool {
    let pieces: Vec<Range<u64>> = needs.iter().map(pieces_of).collect();
    let ascending = pieces.is_sorted_by(|one, next| one.start <= next.start && one.end <= next.end);
    let mut of_one_rank = pieces.iter().zip(pieces.iter().skip(ranks));
    ascending
        && needs.iter().all(|need| !need.is_empty())
        && of_one_rank.all(|(one, next)| one.end <= next.start + 1)
}

/// The voxels of one section, in pieces.
pub(crate) struct Feed {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    used: usize,
    waited: Duration,
}

impl Feed {
    /// An empty feed, and where its pieces are put. It ends when that is dropped.
    pub(crate) fn new() -> (Sender<Vec<u8>>, Self) {
        let (sender, pieces) = bounded(PIECES_AHEAD);
        let feed = Feed {
            pieces,
            piece: Vec::new(),
            used: 0,
            waited: Duration::ZERO,
        };
        (sender, feed)
    }

    /// Fills `out` with the next voxels. Returns whether there were enough.
    pub(crate) fn read(&mut self, mut out: &mut [u8]) -> bool {
        while !out.is_empty() {
            if self.used == self.piece.len() {
                let started = Instant::now();
                let Ok(piece) = self.pieces.recv() else {
                    return false;
                };
                self.waited += started.elapsed();
                (self.piece, self.used) = (piece, 0);
            }
            let bytes = out.len().min(self.piece.len() - self.used);
            let (next, rest) = out.split_at_mut(bytes);
            next.copy_from_slice(&self.piece[self.used..][..bytes]);
            self.used += bytes;
            out = rest;
        }
        true
    }
}

/// Where the voxels of a section come from.
pub(super) enum Source {
    File,
    Feed(Feed),
}

impl Source {
    /// Reads voxels into `out`, from this byte of all voxels on.
    pub(super) fn read(
        &mut self,
        image: &mut SliceReader<'_>,
        first: u64,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        match self {
            Source::File => image.read(first, out),
            // If it ends early, the rank that inflates knows more.
            Source::Feed(feed) => feed.read(out).then_some(()).ok_or_else(|| image.changed()),
        }
    }

    /// The time that was spent waiting for another rank.
    pub(super) fn waited(&self) -> Duration {
        match self {
            Source::File => Duration::ZERO,
            Source::Feed(feed) => feed.waited,
        }
    }
}

/// What the next look at an [`Inflater`] finds.
pub(crate) enum Inflated {
    Piece(Vec<u8>),
    NotYet,
    /// There are no more pieces; [`Inflater::finish`] has the reason.
    End,
}

/// A thread that inflates the voxels of an image once, from the first to the last.
pub(crate) struct Inflater {
    pieces: Receiver<Vec<u8>>,
    used: Sender<Vec<u8>>,
    thread: JoinHandle<Result<SectionFacts, Failure>>,
}

impl Inflater {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system's, if it cannot be started.
    pub(crate) fn start(input: PathBuf) -> std::io::Result<Self> {
        let (sender, pieces) = bounded(PIECES_AHEAD);
        let (used, spare) = unbounded();
        let thread = Builder::new().name(format!("{WORKER_THREAD}inflate"));
        let thread = thread.spawn(move || inflate(&input, &sender, &spare))?;
        Ok(Inflater { pieces, used, thread })
    }

    /// The next piece, if it is ready. Does not wait.
    pub(crate) fn next(&self) -> Inflated {
        match self.pieces.try_recv() {
            Ok(piece) => Inflated::Piece(piece),
            Err(TryRecvError::Empty) => Inflated::NotYet,
            Err(TryRecvError::Disconnected) => Inflated::End,
        }
    }

    /// Takes back the memory of a piece.
    pub(crate) fn recycle(&self, piece: Vec<u8>) {
        let _ = self.used.send(piece);
    }

    /// Ends the thread. Returns the facts about the file if all of it was inflated and verified. `None`: the
    /// thread has panicked.
    pub(crate) fn finish(self) -> Option<Result<SectionFacts, Failure>> {
        drop(self.pieces);
        self.thread.join().ok()
    }
}

fn inflate(
    input: &Path,
    pieces: &Sender<Vec<u8>>,
    spare: &Receiver<Vec<u8>>,
) -> Result<SectionFacts, Failure> {
    let mut reader = ImageReader::new();
    let at = |error: ImageError| reading_failure(&error);
    let started = Instant::now();
    let mut waited = Duration::ZERO;
    let Some(mut image) = reader.open_slices(input).map_err(at)? else {
        return Err(changed(input));
    };
    let known = image.header.warnings().len();
    let bytes = image.header.voxel_bytes().unwrap_or(0);
    for first in (0..bytes).step_by(PIECE_BYTES as usize) {
        let mut piece = spare.try_recv().unwrap_or_default();
        piece.resize(PIECE_BYTES.min(bytes - first) as usize, 0);
        image.read(first, &mut piece).map_err(at)?;
        let sending = Instant::now();
        if pieces.send(piece).is_err() {
            // Nobody needs the others.
            break;
        }
        waited += sending.elapsed();
    }
    let warnings = image.header.warnings()[known..]
        .iter()
        .map(Warning::from)
        .collect();
    let file = image.finish().map_err(at)?;
    Ok(SectionFacts {
        timings: Timings {
            read_s: (started.elapsed() - waited).as_secs_f64(),
            ..Timings::default()
        },
        file,
        warnings,
        ..SectionFacts::default()
    })
}

/// What is learned from the voxels of a section while they are read.
pub(super) struct Seen {
    /// Whether NaN and infinite voxels are refused.
    pub(super) refused: bool,
    /// Those of its own slices.
    pub(super) nonfinite_voxels: u64,
    pub(super) survey: Option<Survey>,
    /// Seconds of reading, without waiting for another rank.
    pub(super) read_s: f64,
}

/// Reads the slices that a section needs, slab by slab. Returns `false` at the first voxel that is refused.
pub(super) fn read_slices(
    team: &Team<'_>,
    volume: &Volume,
    (image, source): (&mut SliceReader<'_>, &mut Source),
    own: &Range<usize>,
    seen: &mut Seen,
) -> Result<bool, ImageError> {
    let Some(run) = team.run() else {
        return Ok(true);
    };
    let count = |bytes: &[u8]| nonfinite::count_stored(volume.datatype, volume.scaling, bytes);
    let needed = run.read();
    let voxel_bytes = volume.datatype.size_bytes();
    let slice_bytes = volume.shape.iter().take(2).product::<usize>() * voxel_bytes;
    for slab in &run.parts().to_read {
        let slices = slab.start.max(needed.start)..slab.end.min(needed.end);
        if slices.is_empty() {
            continue;
        }
        // SAFETY: no thread uses a slab before `has_read` announces it, and these slices are held.
        let bytes = unsafe { run.unread(slices.clone()) };
        source.read(image, slices.start as u64 * slice_bytes as u64, bytes)?;
        if image.header.is_big_endian() {
            bytes.chunks_exact_mut(voxel_bytes).for_each(<[u8]>::reverse);
        }
        if seen.refused && count(bytes) > 0 {
            return Ok(false);
        }
        let counted = slices.start.max(own.start)..slices.end.min(own.end);
        if !counted.is_empty() {
            let from = (counted.start - slices.start) * slice_bytes;
            let counted = &bytes[from..from + counted.len() * slice_bytes];
            seen.nonfinite_voxels += count(counted);
            if let Some(survey) = &mut seen.survey {
                survey.add(counted);
            }
        }
        team.has_read(slices.end);
    }
    Ok(true)
}
