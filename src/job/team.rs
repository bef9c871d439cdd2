//! Team: several threads carry one image together, its later slices being inflated while earlier ones are smoothed and
//! compressed.
//!
//! One thread, the leader, reads the file; inflating cannot be shared. The others follow it slab by slab: smooth along x and
//! y, then along z to where the result belongs, then compress whole chunks of it. What is nearest to the end goes first. The
//! leader joins them when it has read everything. Chunks are the same whoever compresses them, so the file has the bytes that
//! one thread gives it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{Builder, Scope};
use std::time::Instant;

use crate::filter::Stream;
use crate::image_io::{Chunk, ChunkEncoder, CompressionLevel, GrowingFile, ImageError};
use crate::volume::VoxelBuffer;

/// What one thread needs of its own; kept from image to image.
pub(super) struct Member {
    tile: VoxelBuffer,
    encoder: ChunkEncoder,
}

impl Member {
    /// A member with an empty buffer.
    pub(super) fn new(level: CompressionLevel) -> Self {
        Member {
            tile: VoxelBuffer::default(),
            encoder: ChunkEncoder::new(level),
        }
    }
}

/// Where the result's bytes are.
enum Content<'a> {
    /// They come out of the filter.
    Stream(Box<Stream>),
    /// They are all there.
    Ready(&'a [u8]),
}

/// What is to be done.
struct Work<'a> {
    content: Content<'a>,
    result_bytes: usize,
    /// Bytes of a voxel of the result.
    voxel_bytes: usize,
    chunks: usize,
    /// So many chunks may be compressed ahead of the one that is written next.
    ahead: usize,
}

/// How far the work is.
#[derive(Default)]
struct Progress {
    /// Slices that are read.
    read: usize,
    in_plane: Steps,
    through_planes: Steps,
    /// Chunks that somebody compresses or has compressed.
    chunks_taken: usize,
    /// Compressed chunks whose turn has not come.
    waiting: BTreeMap<usize, Chunk>,
    chunks_written: usize,
    spare_chunks: Vec<Chunk>,
    /// Away while somebody writes to it.
    file: Option<GrowingFile>,
    error: Option<ImageError>,
    /// Nobody begins anything more.
    over: bool,
    spent: Spent,
}

/// Seconds that the members spent, together.
#[derive(Clone, Copy, Default)]
pub(super) struct Spent {
    /// On smoothing.
    pub(super) filter_s: f64,
    /// On compressing and writing.
    pub(super) write_s: f64,
}

/// What became of an image's work.
pub(super) struct Made {
    /// The complete file, which has no name yet; or why it could not be written.
    pub(super) file: Result<GrowingFile, ImageError>,
    /// What has the result for the volume.
    pub(super) stream: Option<Stream>,
    /// What it took.
    pub(super) spent: Spent,
}

/// A step of all slabs: some are taken, some done, those before `until` all done.
#[derive(Default)]
struct Steps {
    taken: usize,
    done: Vec<bool>,
    until: usize,
}

impl Steps {
    fn finish(&mut self, slab: usize) {
        self.done[slab] = true;
        while self.done.get(self.until) == Some(&true) {
            self.until += 1;
        }
    }
}

/// What a member does next.
enum Task {
    InPlane(usize),
    ThroughPlanes(usize),
    Compress(usize, Chunk),
}

/// One image's work, shared by the members of a team.
#[derive(Default)]
pub(super) struct Board<'a> {
    work: OnceLock<Work<'a>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl<'a> Board<'a> {
    /// Begins the work on an image that is still to be read, `members` strong; the leader tells with [`Board::has_read`] how
    /// far it is.
    ///
    /// # Panics
    /// When this board has begun work before.
    pub(super) fn begin_stream(&self, stream: Stream, file: GrowingFile, members: usize) {
        let result_bytes = stream.slices() * stream.result_slice_bytes();
        let voxel_bytes = stream.result_type().size_bytes();
        let work = Work::new(
            Content::Stream(Box::new(stream)),
            result_bytes,
            voxel_bytes,
            members,
        );
        self.begin(work, file);
    }

    /// Begins the work on a result that only wants to be compressed.
    ///
    /// # Panics
    /// When this board has begun work before.
    pub(super) fn begin_ready(
        &self,
        result: &'a [u8],
        voxel_bytes: usize,
        file: GrowingFile,
        members: usize,
    ) {
        let work = Work::new(Content::Ready(result), result.len(), voxel_bytes, members);
        self.begin(work, file);
    }

    fn begin(&self, work: Work<'a>, file: GrowingFile) {
        let mut progress = self.progress();
        progress.in_plane.done = vec![false; work.slabs().len()];
        progress.through_planes.done = vec![false; work.slabs().len()];
        progress.file = Some(file);
        assert!(self.work.set(work).is_ok(), "a board is for one image");
        drop(progress);
        self.changed.notify_all();
    }

    /// The slabs of a stream that has begun, in the order in which they are read, and the stream.
    ///
    /// # Panics
    /// When no stream has begun.
    pub(super) fn to_read(&self) -> (&[Range<usize>], &Stream) {
        match self.work.get() {
            Some(Work {
                content: Content::Stream(stream),
                ..
            }) => (stream.slabs(), stream),
            _ => panic!("only a stream is read"),
        }
    }

    /// Says that the slices before `until` are read.
    pub(super) fn has_read(&self, until: usize) {
        self.progress().read = until;
        self.changed.notify_all();
    }

    /// Ends the work, done or not.
    pub(super) fn end(&self) {
        self.progress().over = true;
        self.changed.notify_all();
    }

    /// Works until there is nothing left to do, waiting for what others have yet to do. When it panics, the others stop.
    pub(super) fn work(&self, member: &mut Member) {
        let panicked = EndOnDrop(self);
        self.work_to_the_end(member);
        std::mem::forget(panicked);
    }

    fn work_to_the_end(&self, member: &mut Member) {
        while let Some((work, task)) = self.next() {
            let begun = Instant::now();
            match task {
                Task::InPlane(slab) => {
                    if let Content::Stream(stream) = &work.content {
                        // SAFETY: the slab was read, as `next` saw, and it is given to nobody else.
                        unsafe { stream.in_plane(stream.slabs()[slab].clone(), &mut member.tile) };
                    }
                    self.filtered(begun, |progress| progress.in_plane.finish(slab));
                }
                Task::ThroughPlanes(slab) => {
                    if let Content::Stream(stream) = &work.content {
                        // SAFETY: all that it needs is through `in_plane`, as `next` saw, and it is given to nobody else.
                        unsafe {
                            stream.through_planes(stream.slabs()[slab].clone(), &mut member.tile);
                        }
                    }
                    self.filtered(begun, |progress| progress.through_planes.finish(slab));
                }
                Task::Compress(index, mut chunk) => {
                    let start = index * ChunkEncoder::CHUNK_BYTES;
                    let bytes = start..work.result_bytes.min(start + ChunkEncoder::CHUNK_BYTES);
                    let content = match &work.content {
                        Content::Ready(result) => &result[bytes],
                        // SAFETY: the slices that hold these bytes are finished, as `next` saw.
                        Content::Stream(stream) => unsafe { stream.result(bytes) },
                    };
                    member.encoder.encode(content, work.voxel_bytes, &mut chunk);
                    self.write(begun, index, chunk);
                }
            }
        }
    }

    /// Waits for a task; `None` when there will be none.
    fn next(&self) -> Option<(&Work<'a>, Task)> {
        let mut progress = self.progress();
        loop {
            if progress.over || progress.error.is_some() {
                return None;
            }
            if let Some(work) = self.work.get() {
                if progress.chunks_written == work.chunks {
                    return None;
                }
                if let Some(task) = work.next(&mut progress) {
                    return Some((work, task));
                }
            }
            progress = self
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn filtered(&self, begun: Instant, finish: impl FnOnce(&mut Progress)) {
        let mut progress = self.progress();
        progress.spent.filter_s += begun.elapsed().as_secs_f64();
        finish(&mut progress);
        drop(progress);
        self.changed.notify_all();
    }

    /// Writes a compressed chunk, and those after it that waited for it; or leaves it to whoever comes to its turn.
    fn write(&self, begun: Instant, index: usize, chunk: Chunk) {
        let mut progress = self.progress();
        progress.waiting.insert(index, chunk);
        loop {
            let turn = progress.chunks_written;
            if progress.file.is_none() || !progress.waiting.contains_key(&turn) {
                break;
            }
            let (Some(mut file), Some(chunk)) =
                (progress.file.take(), progress.waiting.remove(&turn))
            else {
                break;
            };
            drop(progress);
            let written = file.append(&chunk);
            progress = self.progress();
            progress.file = Some(file);
            progress.spare_chunks.push(chunk);
            progress.chunks_written += 1;
            if let Err(error) = written {
                progress.error = Some(error);
                break;
            }
        }
        progress.spent.write_s += begun.elapsed().as_secs_f64();
        drop(progress);
        self.changed.notify_all();
    }

    /// Whether there is something to do.
    pub(super) fn has_begun(&self) -> bool {
        self.work.get().is_some()
    }

    /// What has become of the work, to be asked when every member has returned from [`Board::work`].
    ///
    /// # Panics
    /// When no work was begun.
    pub(super) fn made(self) -> Made {
        let progress = self
            .progress
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let content = self.work.into_inner().map(|work| work.content);
        Made {
            file: match (progress.error, progress.file) {
                (Some(error), _) => Err(error),
                (None, file) => Ok(file.expect("work begins with a file")),
            },
            stream: match content {
                Some(Content::Stream(stream)) => Some(*stream),
                _ => None,
            },
            spent: progress.spent,
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A panic of one member ends the others at `end`, and the run with it.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a board's work when it is dropped: whoever waits there would wait for ever.
pub(super) struct EndOnDrop<'a, 'b>(pub(super) &'a Board<'b>);

impl Drop for EndOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Starts the members of a team but the leader, under the leader's name. A thread that cannot be had is done without.
pub(super) fn start<'scope, 'board: 'scope>(
    scope: &'scope Scope<'scope, '_>,
    board: &'scope Board<'board>,
    others: &'scope mut [Member],
) {
    let leader = std::thread::current();
    for member in others {
        let thread = Builder::new().name(leader.name().unwrap_or_default().to_owned());
        if let Err(error) = thread.spawn_scoped(scope, || board.work(member)) {
            tracing::debug!("a thread that would help with an image cannot be started: {error}");
            return;
        }
    }
}

impl<'a> Work<'a> {
    fn new(content: Content<'a>, result_bytes: usize, voxel_bytes: usize, members: usize) -> Self {
        Work {
            content,
            result_bytes,
            voxel_bytes,
            chunks: result_bytes.div_ceil(ChunkEncoder::CHUNK_BYTES),
            ahead: 2 * members + 2,
        }
    }

    /// The parts of a stream.
    fn slabs(&self) -> &[Range<usize>] {
        match &self.content {
            Content::Stream(stream) => stream.slabs(),
            Content::Ready(_) => &[],
        }
    }

    /// The task that is nearest to the end of those that can be done now.
    fn next(&self, progress: &mut Progress) -> Option<Task> {
        let slices_until = |steps: &Steps| match steps.until {
            0 => 0,
            slab => self.slabs()[slab - 1].end,
        };
        let (bytes_ready, stream) = match &self.content {
            Content::Ready(result) => (result.len(), None),
            Content::Stream(stream) => (
                slices_until(&progress.through_planes) * stream.result_slice_bytes(),
                Some(stream),
            ),
        };
        let chunk = progress.chunks_taken;
        if chunk < self.chunks
            && self
                .result_bytes
                .min((chunk + 1) * ChunkEncoder::CHUNK_BYTES)
                <= bytes_ready
            && chunk < progress.chunks_written + self.ahead
        {
            progress.chunks_taken += 1;
            let memory = progress.spare_chunks.pop().unwrap_or_default();
            return Some(Task::Compress(chunk, memory));
        }
        let stream = stream?;
        let through = progress.through_planes.taken;
        if let Some(slab) = stream.slabs().get(through)
            && stream.needed_for(slab) <= slices_until(&progress.in_plane)
            && stream.has_room(slab, progress.through_planes.until)
        {
            progress.through_planes.taken += 1;
            return Some(Task::ThroughPlanes(through));
        }
        let flat = progress.in_plane.taken;
        if let Some(slab) = stream.slabs().get(flat)
            && slab.end <= progress.read
        {
            progress.in_plane.taken += 1;
            return Some(Task::InPlane(flat));
        }
        None
    }
}
