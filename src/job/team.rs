//! Team: the threads that share one image. Later slices are inflated while earlier ones are filtered and
//! compressed.
//!
//! One thread, the leader, reads the file, because inflating cannot be divided; then it joins the others.
//! Chunks of the result are compressed as soon as they are complete. Their bytes do not depend on the thread,
//! so the file is the same as from one thread.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, Scope};
use std::time::Instant;

use crate::filter::{Board, FilterError, ImageRun, Next, Progress, Task, ThreadScratch};
use crate::image_io::{Chunk, ChunkEncoder, ChunkedWriter, CompressionLevel, ImageError, InPlace};

/// The buffers of one thread; kept from image to image.
pub(super) struct Member {
    pub(super) scratch: ThreadScratch,
    encoder: ChunkEncoder,
}

impl Member {
    /// A member with an empty buffer.
    pub(super) fn new(level: CompressionLevel) -> Self {
        Member::with(ChunkEncoder::new(level), ThreadScratch::default())
    }

    /// The same for files of any kind, and with a device.
    pub(super) fn with(encoder: ChunkEncoder, scratch: ThreadScratch) -> Self {
        Member { scratch, encoder }
    }
}

/// Why the work on an image ended early.
pub(super) enum TeamError {
    Filter(FilterError),
    Write(ImageError),
}

/// What the members work on.
struct Image<'a> {
    run: ImageRun,
    /// Bytes of a voxel of the result.
    voxel_bytes: usize,
    /// The bytes of the result that are compressed; none if the file is written later as a whole.
    area: Range<usize>,
    /// The number of their chunks.
    chunks: usize,
    output: Output<'a>,
    /// This many chunks can be compressed ahead of the one that is written next.
    ahead: usize,
}

/// Where the chunks of a result go.
#[derive(Clone, Copy)]
enum Output<'a> {
    /// They are written to the team's file.
    File,
    /// They are kept.
    Memory,
    /// They are written to this file, not compressed.
    InPlace(&'a InPlace),
}

impl Image<'_> {
    /// The bytes of a chunk.
    fn chunk(&self, chunk: usize) -> Range<usize> {
        let start = self.area.start + chunk * ChunkEncoder::CHUNK_BYTES;
        start..self.area.end.min(start + ChunkEncoder::CHUNK_BYTES)
    }
}

/// The progress of the work.
#[derive(Default)]
struct Work {
    filter: Progress,
    /// Chunks that are being compressed or are compressed.
    chunks_taken: usize,
    /// Compressed chunks that wait for earlier ones.
    waiting: BTreeMap<usize, Chunk>,
    chunks_written: usize,
    spare_chunks: Vec<Chunk>,
    /// Taken while a member writes to it.
    file: Option<ChunkedWriter>,
    error: Option<TeamError>,
    /// Start no more work.
    over: bool,
    spent: Spent,
}

/// Seconds of all members together.
#[derive(Clone, Copy, Default)]
pub(super) struct Spent {
    pub(super) filter_s: f64,
    /// Compressing and writing.
    pub(super) write_s: f64,
}

/// What a member does next.
enum Step {
    Filter(Task),
    Compress(usize, Chunk),
}

/// The result of a team's work.
pub(super) struct Made {
    /// The finished filter, which holds the result.
    pub(super) run: ImageRun,
    /// The complete file, if the team has written it.
    pub(super) file: Option<ChunkedWriter>,
    /// The compressed chunks of a part, in their order.
    pub(super) chunks: Vec<Chunk>,
    pub(super) error: Option<TeamError>,
    pub(super) spent: Spent,
}

/// One image's work, shared by the members.
pub(super) struct Team<'a> {
    image: OnceLock<Image<'a>>,
    board: Board<Work>,
    stop: Option<&'a AtomicBool>,
}

impl<'a> Team<'a> {
    /// A team that waits for an image and leaves it unfinished once `stop` is set.
    pub(super) fn new(stop: Option<&'a AtomicBool>) -> Self {
        Team {
            image: OnceLock::new(),
            board: Board::default(),
            stop,
        }
    }

    /// Starts the work on an image with `members` members. The leader reports reading progress with
    /// [`Team::has_read`].
    ///
    /// # Panics
    /// If this team already has an image.
    pub(super) fn begin(&self, run: ImageRun, file: Option<ChunkedWriter>, members: usize) {
        let area = 0..file.as_ref().map_or(0, |_| run.result_bytes());
        self.begin_area(run, (file, Output::File), area, 2 * members + 2);
    }

    /// Starts the work on a part of an image. These bytes of the result are written in place if there is a
    /// file for that; otherwise they are compressed and kept.
    pub(super) fn begin_part(&self, run: ImageRun, area: Range<usize>, in_place: Option<&'a InPlace>) {
        let output = in_place.map_or(Output::Memory, Output::InPlace);
        self.begin_area(run, (None, output), area, usize::MAX);
    }

    fn begin_area(
        &self,
        run: ImageRun,
        (file, output): (Option<ChunkedWriter>, Output<'a>),
        area: Range<usize>,
        ahead: usize,
    ) {
        let filter = run.progress();
        let image = Image {
            voxel_bytes: run.result_type().size_bytes(),
            chunks: area.len().div_ceil(ChunkEncoder::CHUNK_BYTES),
            area,
            output,
            ahead,
            run,
        };
        self.board.update(|work| {
            work.filter = filter;
            work.file = file;
            assert!(self.image.set(image).is_ok(), "a team is for one image");
        });
    }

    /// The image's work, if it has started.
    pub(super) fn run(&self) -> Option<&ImageRun> {
        self.image.get().map(|image| &image.run)
    }

    /// The slices before `until` are read.
    pub(super) fn has_read(&self, until: usize) {
        self.board.update(|work| work.filter.has_read(until));
    }

    /// Ends the work, finished or not.
    fn end(&self) {
        self.board.update(|work| work.over = true);
    }

    /// Works until all work is done, and waits for the other members where necessary. If it panics, the
    /// others stop.
    pub(super) fn work(&self, member: &mut Member) {
        let panicked = EndOnDrop(self);
        self.board
            .work(|work| self.next(work), |step| self.act(step, member));
        std::mem::forget(panicked);
    }

    /// The latest step that can be done now.
    fn next(&self, work: &mut Work) -> Next<Step> {
        if work.over || work.error.is_some() {
            return Next::Over;
        }
        if self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            work.error = Some(TeamError::Filter(FilterError::Stopped));
            return Next::Over;
        }
        let Some(image) = self.image.get() else {
            return Next::Wait;
        };
        let slices = work.filter.complete(image.run.parts());
        let chunk = work.chunks_taken;
        let is_complete = |chunk| image.chunk(chunk).end <= slices * image.run.result_slice_bytes();
        if chunk < image.chunks
            && chunk < work.chunks_written.saturating_add(image.ahead)
            && is_complete(chunk)
        {
            work.chunks_taken += 1;
            let memory = work.spare_chunks.pop().unwrap_or_default();
            return Next::Do(Step::Compress(chunk, memory));
        }
        if let Some(task) = work.filter.next(image.run.parts()) {
            return Next::Do(Step::Filter(task));
        }
        match slices == image.run.slices() && work.chunks_written == image.chunks {
            true => Next::Over,
            false => Next::Wait,
        }
    }

    fn act(&self, step: Step, member: &mut Member) {
        let Some(image) = self.image.get() else {
            return;
        };
        let started = Instant::now();
        match step {
            Step::Filter(task) => {
                // SAFETY: the volume does not move until the team is done, and `next` has started the part.
                let computed = unsafe { image.run.compute(task, self.stop, &mut member.scratch) };
                self.board.update(|work| {
                    work.spent.filter_s += started.elapsed().as_secs_f64();
                    match computed {
                        Ok(()) => work.filter.finish(task),
                        Err(error) => work.error = Some(TeamError::Filter(error)),
                    }
                });
            }
            Step::Compress(index, mut chunk) => {
                let bytes = image.chunk(index);
                let first = bytes.start;
                // SAFETY: the slices that contain these bytes are complete, as checked by `next`.
                let content = unsafe { image.run.result(bytes) };
                if let Output::InPlace(file) = image.output {
                    chunk.describe(content);
                    let written = file.write(first, content);
                    return self.keep(started, index, chunk, written);
                }
                member.encoder.encode(content, image.voxel_bytes, &mut chunk);
                match image.output {
                    Output::File => self.write(started, index, chunk),
                    _ => self.keep(started, index, chunk, Ok(())),
                }
            }
        }
    }

    /// Writes a compressed chunk and later ones that waited for it, or leaves it to the member that writes
    /// the preceding chunk.
    fn write(&self, started: Instant, index: usize, chunk: Chunk) {
        let mut turn = self.board.update(|work| {
            work.waiting.insert(index, chunk);
            work.turn()
        });
        while let Some((mut file, chunk)) = turn {
            let written = file.append(&chunk);
            turn = self.board.update(|work| {
                work.file = Some(file);
                work.spare_chunks.push(chunk);
                work.chunks_written += 1;
                match written {
                    Ok(()) => work.turn(),
                    Err(error) => {
                        work.error = Some(TeamError::Write(error));
                        None
                    }
                }
            });
        }
        let spent = started.elapsed().as_secs_f64();
        self.board.update(|work| work.spent.write_s += spent);
    }

    fn keep(&self, started: Instant, index: usize, chunk: Chunk, written: Result<(), ImageError>) {
        self.board.update(|work| {
            work.waiting.insert(index, chunk);
            work.chunks_written += 1;
            work.spent.write_s += started.elapsed().as_secs_f64();
            if let Err(error) = written {
                work.error = Some(TeamError::Write(error));
            }
        });
    }

    /// The result, after every member has returned from [`Team::work`]; `None` if no work had started.
    pub(super) fn into_made(self) -> Option<Made> {
        let work = self.board.into_inner();
        let image = self.image.into_inner()?;
        Some(Made {
            run: image.run,
            file: work.file,
            chunks: work.waiting.into_values().collect(),
            error: work.error,
            spent: work.spent,
        })
    }
}

impl Work {
    /// The file and the next chunk, if both are available.
    fn turn(&mut self) -> Option<(ChunkedWriter, Chunk)> {
        let turn = self.chunks_written;
        if self.file.is_none() || !self.waiting.contains_key(&turn) {
            return None;
        }
        Some((self.file.take()?, self.waiting.remove(&turn)?))
    }
}

/// Ends a team's work when dropped, so that no thread waits for one that has panicked.
pub(super) struct EndOnDrop<'a, 'b>(pub(super) &'a Team<'b>);

impl Drop for EndOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Starts the members of a team except the leader, under the leader's thread name. If a thread cannot be
/// started, the others do its work.
pub(super) fn start<'scope, 'team: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    team: &'scope Team<'team>,
    others: &'scope mut [Member],
) {
    let leader = std::thread::current();
    for member in others {
        let thread = Builder::new().name(leader.name().unwrap_or_default().to_owned());
        if let Err(error) = thread.spawn_scoped(scope, || team.work(member)) {
            tracing::debug!("cannot start a helper thread for an image: {error}");
            return;
        }
    }
}
