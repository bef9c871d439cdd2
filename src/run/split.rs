//! Split: the images that several ranks share, before all other images. The first rank of a group, its
//! leader, plans the sections of an image, writes its file and records it.
//!
//! All messages are between the leader and one other rank. The leader asks for each section when it can write
//! it, so a rank holds one compressed section, and the leader one message.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};

use super::Setup;
use super::stop::Grace;
use super::worker::{Event, MadeImage, Publishing, SharedWork, Waited, WorkerContext, begin_line};
use crate::comm::{self, Communicator, EXIT_PANIC, Tag, WORKER_THREAD};
use crate::fault::Fault;
use crate::image_io::{Chunk, StagedFile};
use crate::images::ImageEntry;
use crate::job::Paths;
use crate::job::outcome::{Failure, FailureKind, Outcome, Stage};
use crate::job::problem::Problem;
use crate::job::shared::{
    BATCH_BYTES, Plan, Section, SectionFacts, SectionWorker, Sections, SharedFile, changed, is_of,
};
use crate::journal::Line;
use crate::partition::Split;

/// How often a rank that computes or waits for a message looks for signals.
const LOOK: Duration = Duration::from_millis(2);
/// How long a rank waits at first.
const FIRST_PAUSE: Duration = Duration::from_micros(10);

/// The facts about a section, or its failure and whether that is an interruption, which messages leave out.
type Reported = Result<SectionFacts, (Failure, bool)>;

/// Consecutive ranks that share an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    /// The image's index in the run.
    pub(super) place: usize,
    /// The leader.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Whether one rank cannot process it: it has to be split even if that is not faster.
    pub(super) always: bool,
}

impl Group {
    /// The ranks.
    pub(super) fn ranks(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

/// Number of shared images that a rank records.
pub(super) fn led_by(groups: &[Group], rank: usize) -> usize {
    groups.iter().filter(|group| group.first == rank).count()
}

/// The groups of a run. With `always`, and for an image that does not fit into one rank, all ranks are a
/// group. If there are fewer other images than ranks, each large one has its own ranks.
pub(super) fn groups(
    split: Split,
    todo: &[usize],
    ranks: usize,
    is_large: impl Fn(usize) -> bool,
    exceeds_a_rank: impl Fn(usize) -> bool,
) -> Vec<Group> {
    if ranks < 2 || split == Split::Never {
        return Vec::new();
    }
    let of_all = |place: &usize| split == Split::Always || exceeds_a_rank(*place);
    let (of_all, others): (Vec<usize>, Vec<usize>) = todo.iter().partition(|place| of_all(place));
    let images = others.len();
    let own_ranks = others.into_iter().enumerate().map(|(nth, place)| Group {
        place,
        first: ranks * nth / images,
        count: ranks * (nth + 1) / images - ranks * nth / images,
        always: false,
    });
    let own_ranks = own_ranks.filter(|group| group.count > 1 && is_large(group.place));
    let of_all = of_all.into_iter().map(|place| Group {
        place,
        first: 0,
        count: ranks,
        always: true,
    });
    of_all.chain(own_ranks).collect()
}

/// Does this rank's part of all groups. Returns the images that are not split, which their leader is to
/// process alone, and this rank's own work.
pub(super) fn run<C: Communicator>(
    comm: &C,
    context: &WorkerContext<'_>,
    setup: &Setup,
    (split, groups): (Split, &[Group]),
    worker: SectionWorker<'_>,
    stop: &AtomicBool,
    (abandon, events): (&AtomicBool, &Sender<Event>),
) -> (Vec<usize>, SharedWork) {
    let mut sharing = Sharing {
        comm,
        context,
        setup,
        split,
        worker,
        stop,
        abandon,
        grace: Grace::until(context.finish_by_s),
        events,
        own: SharedWork::default(),
    };
    let mut alone = Vec::new();
    for group in groups {
        if group.first == comm.rank() {
            alone.extend((!sharing.lead(*group)).then_some(group.place));
        } else if group.ranks().contains(&comm.rank()) {
            sharing.follow(*group);
        }
    }
    (alone, sharing.own)
}

/// A rank's work on shared images.
struct Sharing<'a, 'c, C: Communicator> {
    comm: &'a C,
    context: &'a WorkerContext<'c>,
    setup: &'a Setup,
    split: Split,
    worker: SectionWorker<'a>,
    stop: &'a AtomicBool,
    abandon: &'a AtomicBool,
    grace: Grace,
    events: &'a Sender<Event>,
    own: SharedWork,
}

/// Why an image fails with `--split always`.
pub(super) fn not_split(entry: &ImageEntry, reason: &str) -> String {
    format!(
        "{}: cannot be split over ranks: {reason}; use --split auto to filter it on one rank",
        entry.input.display()
    )
}

/// The paths of an image.
pub(super) fn paths(entry: &ImageEntry) -> Paths<'_> {
    Paths {
        input: &entry.input,
        output: &entry.output,
        mask: entry.mask.as_deref(),
        second: entry.second.as_deref(),
        bids: entry.bids,
    }
}

impl<C: Communicator> Sharing<'_, '_, C> {
    /// Waits for a message. The next of several messages comes soon, so the first pauses are short.
    fn receive(&mut self, from: usize) -> Vec<u8> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(message) = self.comm.try_receive_from(from, Tag::Section) {
                return message;
            }
            look_for_signals(self.context, self.stop, self.abandon, &mut self.grace);
            std::thread::sleep(pause);
            pause = LOOK.min(pause * 2);
        }
    }

    fn send<T: Serialize>(&self, to: usize, value: &T) {
        self.comm.send(to, Tag::Section, &comm::encode(value));
    }

    /// Whether the image was finished, failed or must not be started, so that nobody has to process it.
    fn lead(&mut self, group: Group) -> bool {
        let (context, Group { place, count, .. }) = (self.context, group);
        let entry = &context.entries[place];
        let others = group.first + 1..group.first + count;
        let all_others = |own: &Self, sections: Sections| {
            others.clone().for_each(|to| own.send(to, &sections));
        };
        let cost_s = context.costs_s[place];
        let late = context.clock.now_s() + context.pace.predicted_s(cost_s) > context.finish_by_s;
        if self.stop.load(Ordering::Relaxed) || late {
            all_others(self, Sections::new());
            let _ = self.events.send(Event::Late(entry.index));
            return true;
        }
        let mut outcome = Outcome {
            index: entry.index,
            rank: self.comm.rank(),
            start_s: context.clock.now_s(),
            ..Outcome::default()
        };
        let started = Instant::now();
        let plan = self.worker.plan(paths(entry), count, group.always, &mut outcome);
        self.own.busy_s += started.elapsed().as_secs_f64();
        let made = match plan {
            Ok(Plan::Sections { sections, .. }) => {
                all_others(self, sections.clone());
                context.journal.write(&Line::Begin(begin_line(context, entry, 0)));
                self.collect(group, &sections, &mut outcome)
            }
            Ok(Plan::Whole(reason)) if self.split == Split::Always => {
                all_others(self, Sections::new());
                context.journal.write(&Line::Begin(begin_line(context, entry, 0)));
                Err(Failure {
                    stage: Stage::Filter,
                    error: not_split(entry, &reason),
                    problem: Some(Problem::Options),
                    kind: FailureKind::Own,
                })
            }
            Ok(Plan::Whole(reason)) => {
                tracing::debug!("image {} is not split over ranks: {reason}", entry.index);
                all_others(self, Sections::new());
                return false;
            }
            // Whoever processes it reports the reason.
            Err(_) => {
                all_others(self, Sections::new());
                return false;
            }
        };
        if matches!(&made, Err(failure) if failure.kind == FailureKind::Stopped) {
            let _ = self.events.send(Event::Unfinished(entry.index));
            return true;
        }
        let image = MadeImage {
            place,
            entry,
            begin: begin_line(context, entry, 0),
            cost_s,
            outcome,
            made,
        };
        let mut waited = Waited::default();
        let started = Instant::now();
        image.publish(context, self.events, Publishing::Here(&mut waited));
        self.own.add_writing(started);
        true
    }

    /// Writes all sections of an image in their order.
    fn collect(
        &mut self,
        group: Group,
        sections: &[Range<usize>],
        outcome: &mut Outcome,
    ) -> Result<StagedFile, Failure> {
        let entry = &self.context.entries[group.place];
        let mut ended = vec![false; group.count];
        let mut file = self
            .worker
            .begin_file(paths(entry))
            .and_then(|file| self.worker.record_mask(paths(entry), outcome).map(|()| file));
        for (section, slices) in sections.iter().enumerate() {
            let member = section % group.count;
            let rank = group.first + member;
            if ended[member] {
                continue;
            }
            if member > 0 {
                self.send(rank, &file.is_ok());
            }
            ended[member] = file.is_err();
            let Ok(open) = &mut file else {
                continue;
            };
            let written = match member {
                0 => self
                    .make(entry, group.count, slices.clone())
                    .and_then(|section| self.append_own(open, section, outcome)),
                _ => self.receive_section(rank, open, outcome, &mut ended[member]),
            };
            if let Err(failure) = written {
                file = Err(self.named(failure, rank));
            }
        }
        file.and_then(|file| self.worker.finish_file(file))
    }

    /// Writes this rank's section.
    fn append_own(
        &mut self,
        file: &mut SharedFile,
        section: Section,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        self.record(self.comm.rank(), &section.facts, outcome)?;
        let started = Instant::now();
        let mut written = file.append_bytes(&section.head);
        for chunk in &section.chunks {
            written = written.and_then(|()| file.append_chunk(chunk));
        }
        written = written.and_then(|()| file.append_bytes(&section.tail));
        self.was_written(started, outcome);
        written
    }

    /// Records a section that a rank has made.
    fn record(&self, rank: usize, facts: &SectionFacts, outcome: &mut Outcome) -> Result<(), Failure> {
        if !is_of(&facts.file, &outcome.input) {
            let entries = &self.context.entries;
            let place = entries.binary_search_by_key(&outcome.index, |entry| entry.index);
            return Err(changed(
                place.map_or(Path::new(""), |place| &entries[place].input),
            ));
        }
        outcome.add_sharer(rank, facts.timings);
        outcome.input.nonfinite_voxels += facts.nonfinite_voxels;
        Ok(())
    }

    fn was_written(&mut self, started: Instant, outcome: &mut Outcome) {
        outcome.timings.write_s += started.elapsed().as_secs_f64();
        self.own.add_writing(started);
    }

    fn named(&self, failure: Failure, rank: usize) -> Failure {
        let host = &self.setup.ranks.hosts[rank];
        Failure {
            error: format!(
                "{} (on rank {rank} on {host}, one of those that share it)",
                failure.error
            ),
            ..failure
        }
    }

    /// Computes a section while this thread looks for signals.
    fn make(&mut self, entry: &ImageEntry, ranks: usize, slices: Range<usize>) -> Result<Section, Failure> {
        let started = Instant::now();
        if let Some(Fault::Slow { rank, wait_ms }) = self.context.fault
            && self.comm.rank() >= rank
        {
            std::thread::sleep(Duration::from_millis(wait_ms));
        }
        let comm = self.comm;
        let Sharing {
            worker,
            context,
            stop,
            abandon,
            grace,
            ..
        } = self;
        let made = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(format!("{WORKER_THREAD}section"));
            let spawned = thread.spawn_scoped(scope, move || worker.make(paths(entry), ranks, slices));
            let computing = spawned.unwrap_or_else(|error| {
                tracing::error!("a thread cannot be started: {error}; use fewer --threads");
                comm.abort(EXIT_PANIC)
            });
            while !computing.is_finished() {
                look_for_signals(context, stop, abandon, grace);
                std::thread::sleep(LOOK);
            }
            computing.join()
        });
        self.own.busy_s += started.elapsed().as_secs_f64();
        let made = made.unwrap_or_else(|_| {
            tracing::error!("{}: a bug in niimpi ended the run", entry.input.display());
            self.comm.abort(EXIT_PANIC)
        });
        if let Ok(section) = &made {
            self.own.timings.add(section.facts.timings);
        }
        made
    }

    /// Computes this rank's sections of an image and sends each when the leader asks for it.
    fn follow(&mut self, group: Group) {
        let sections: Sections = comm::decode(&self.receive(group.first));
        let entry = &self.context.entries[group.place];
        let own = self.comm.rank() - group.first;
        for slices in sections.iter().skip(own).step_by(group.count) {
            let made = self.make(entry, group.count, slices.clone());
            let wanted: bool = comm::decode(&self.receive(group.first));
            if !wanted {
                return;
            }
            match made {
                Ok(section) => self.send_section(group.first, section),
                Err(failure) => {
                    let stopped = failure.kind == FailureKind::Stopped;
                    self.send::<Reported>(group.first, &Err((failure, stopped)));
                    return;
                }
            }
        }
    }

    /// Sends a section: its facts, the bytes before the first chunk, chunks in batches, an empty batch, and
    /// the bytes after the last chunk.
    fn send_section(&self, to: usize, section: Section) {
        self.send::<Reported>(to, &Ok(section.facts));
        self.comm.send(to, Tag::Section, &section.head);
        let mut batch = Vec::new();
        for chunk in section.chunks {
            push_chunk(&mut batch, &chunk);
            if batch.len() > BATCH_BYTES {
                self.comm.send(to, Tag::Section, &batch);
                batch.clear();
            }
        }
        if !batch.is_empty() {
            self.comm.send(to, Tag::Section, &batch);
        }
        self.comm.send(to, Tag::Section, &[]);
        self.comm.send(to, Tag::Section, &section.tail);
    }

    /// Receives the section that [`Sharing::send_section`] sends, and writes it. Sets `ended` if the rank
    /// sends no more sections.
    fn receive_section(
        &mut self,
        from: usize,
        file: &mut SharedFile,
        outcome: &mut Outcome,
        ended: &mut bool,
    ) -> Result<(), Failure> {
        let facts: Reported = comm::decode(&self.receive(from));
        let facts = facts.map_err(|(failure, stopped)| {
            *ended = true;
            Failure {
                kind: match stopped {
                    true => FailureKind::Stopped,
                    false => FailureKind::Own,
                },
                ..failure
            }
        })?;
        // All its messages have to be received, also after an error.
        let mut written = self.record(from, &facts, outcome);
        let head = self.receive(from);
        let started = Instant::now();
        written = written.and_then(|()| file.append_bytes(&head));
        self.was_written(started, outcome);
        loop {
            let batch = self.receive(from);
            if batch.is_empty() {
                break;
            }
            let started = Instant::now();
            for chunk in chunks_of(&batch) {
                written = written.and_then(|()| file.append_chunk(&chunk));
            }
            self.was_written(started, outcome);
        }
        let tail = self.receive(from);
        written.and_then(|()| file.append_bytes(&tail))
    }
}

/// Appends a chunk to a message: the length of its compressed bytes, its checksum, the length of its content,
/// and the compressed bytes.
fn push_chunk(batch: &mut Vec<u8>, chunk: &Chunk) {
    let (compressed, crc32, raw_bytes) = chunk.as_parts();
    for number in [compressed.len() as u64, u64::from(crc32), raw_bytes] {
        batch.extend_from_slice(&number.to_le_bytes());
    }
    batch.extend_from_slice(compressed);
}

/// The chunks of a message.
fn chunks_of(mut batch: &[u8]) -> impl Iterator<Item = Chunk> {
    std::iter::from_fn(move || {
        let (numbers, rest) = batch.split_first_chunk::<24>()?;
        let number = |at: usize| {
            let bytes = numbers[at..at + 8].try_into().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        let (compressed, rest) = rest.split_at(number(0) as usize);
        batch = rest;
        Some(Chunk::from_parts(
            compressed.to_vec(),
            number(8) as u32,
            number(16),
        ))
    })
}

/// Shows that this rank is alive, and abandons its sections once the run must end.
fn look_for_signals(context: &WorkerContext<'_>, stop: &AtomicBool, abandon: &AtomicBool, grace: &mut Grace) {
    context.journal.say_alive();
    if grace.is_over(stop.load(Ordering::Relaxed), context.clock.now_s()) {
        abandon.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_divided_evenly_among_fewer_images() {
        let of = |split, todo: &[usize], ranks| {
            let groups = groups(split, todo, ranks, |place| place > 3, |place| place > 8).into_iter();
            groups
                .map(|group| (group.place, group.first, group.count))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(Split::Auto, &[4, 7], 5), [(4, 0, 2), (7, 2, 3)]);
        assert_eq!(of(Split::Auto, &[4, 7], 2), []);
        assert_eq!(of(Split::Auto, &[2, 7], 5), [(7, 2, 3)]);
        assert_eq!(of(Split::Auto, &[4, 7], 3), [(7, 1, 2)]);
        assert_eq!(of(Split::Always, &[4, 7], 2), [(4, 0, 2), (7, 0, 2)]);
        assert_eq!(of(Split::Always, &[4], 1), []);
        assert_eq!(of(Split::Never, &[4], 3), []);
        assert_eq!(of(Split::Auto, &[], 3), []);
        // Place 9 does not fit into one rank.
        assert_eq!(of(Split::Auto, &[4, 5, 9], 2), [(9, 0, 2)]);
        assert_eq!(of(Split::Auto, &[4, 9], 2), [(9, 0, 2), (4, 0, 2)]);
        assert_eq!(of(Split::Auto, &[9], 1), []);
        assert_eq!(of(Split::Never, &[9], 2), []);
    }
}
