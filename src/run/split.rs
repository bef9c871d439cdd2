//! Split: the images that several ranks share, before all other images. The first rank of a group, its
//! leader, plans the sections of an image, writes its file and records it.
//!
//! All messages are between the leader and one other rank. The leader asks for each section when it can write
//! it, so a rank holds one compressed section, and the leader one message.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::{Deserialize, Serialize};

use super::stop::Grace;
use super::worker::{Event, MadeImage, Publishing, Waited, WorkerContext, begin_line};
use super::{Config, Setup};
use crate::comm::{self, Communicator, EXIT_PANIC, Tag, WORKER_THREAD};
use crate::fault::Fault;
use crate::image_io::{Chunk, FileId, StagedFile};
use crate::images::ImageEntry;
use crate::job::outcome::{Failure, FailureKind, Outcome, Stage, Timings};
use crate::job::shared::{Plan, Section, SectionWorker, Sections, SharedFile, changed, is_of};
use crate::job::{OutputFolder, Paths};
use crate::journal::Line;
use crate::partition::Split;

/// Bytes of compressed chunks in a message, about.
const BATCH_BYTES: usize = 16 << 20;

/// How often a rank that computes or waits for a message looks for signals.
const LOOK: Duration = Duration::from_millis(2);

/// Consecutive ranks that share an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    /// The image's index in the run.
    pub(super) place: usize,
    /// The leader.
    pub(super) first: usize,
    pub(super) count: usize,
}

/// The groups of a run: each image to do with all ranks, or each large one with its own ranks if there are
/// fewer images than ranks.
pub(super) fn groups(
    split: Split,
    todo: &[usize],
    ranks: usize,
    is_large: impl Fn(usize) -> bool,
) -> Vec<Group> {
    let images = todo.len();
    let of = |(nth, &place): (usize, &usize)| match split {
        Split::Always => Group {
            place,
            first: 0,
            count: ranks,
        },
        _ => Group {
            place,
            first: ranks * nth / images,
            count: ranks * (nth + 1) / images - ranks * nth / images,
        },
    };
    match split {
        Split::Auto if images < ranks => {
            let all = todo.iter().enumerate().map(of);
            all.filter(|group| group.count > 1 && is_large(group.place))
                .collect()
        }
        Split::Always if ranks > 1 => todo.iter().enumerate().map(of).collect(),
        _ => Vec::new(),
    }
}

/// What a rank reports about a section before its bytes.
#[derive(Serialize, Deserialize)]
struct Facts {
    timings: Timings,
    nonfinite_voxels: u64,
    file: FileId,
    batches: usize,
}

/// Does this rank's part of all groups. Returns the images that are not split, which their leader is to
/// process alone, and the seconds of work without waiting for other ranks.
pub(super) fn run<C: Communicator>(
    comm: &C,
    context: &WorkerContext<'_>,
    config: &Config,
    setup: &Setup,
    groups: &[Group],
    stop: &AtomicBool,
    (abandon, events): (&AtomicBool, &Sender<Event>),
) -> (Vec<usize>, f64) {
    let rank = comm.rank();
    let output = OutputFolder {
        path: config.list.output.clone(),
        follow_links: config.list.follow_links,
    };
    let (threads, limit_bytes) = (setup.ranks.threads[rank], context.memory.limit_bytes());
    let mut sharing = Sharing {
        comm,
        context,
        setup,
        split: config.split,
        worker: SectionWorker::new(&config.job, threads, Some(output), limit_bytes, abandon),
        stop,
        abandon,
        grace: Grace::until(context.finish_by_s),
        events,
        busy_s: 0.0,
    };
    let mut alone = Vec::new();
    for group in groups {
        if group.first == rank {
            alone.extend((!sharing.lead(*group)).then_some(group.place));
        } else if (group.first..group.first + group.count).contains(&rank) {
            sharing.follow(*group);
        }
    }
    (alone, sharing.busy_s)
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
    /// Seconds of work, without waiting for other ranks.
    busy_s: f64,
}

fn paths(entry: &ImageEntry) -> Paths<'_> {
    Paths {
        input: &entry.input,
        output: &entry.output,
        mask: entry.mask.as_deref(),
        second: entry.second.as_deref(),
    }
}

impl<C: Communicator> Sharing<'_, '_, C> {
    fn receive(&mut self, from: usize) -> Vec<u8> {
        loop {
            if let Some(message) = self.comm.try_receive_from(from, Tag::Section) {
                return message;
            }
            look_for_signals(self.context, self.stop, self.abandon, &mut self.grace);
            std::thread::sleep(LOOK);
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
        let plan = self
            .worker
            .plan(paths(entry), count, self.split == Split::Always, &mut outcome);
        self.busy_s += started.elapsed().as_secs_f64();
        let made = match plan {
            Ok(Plan::Sections(sections)) => {
                all_others(self, sections.clone());
                context.journal.write(&Line::Begin(begin_line(context, entry, 0)));
                self.collect(group, &sections, &mut outcome)
            }
            Ok(Plan::Whole(reason)) if self.split == Split::Always => {
                all_others(self, Sections::new());
                context.journal.write(&Line::Begin(begin_line(context, entry, 0)));
                Err(Failure {
                    stage: Stage::Filter,
                    error: format!(
                        "{}: cannot be split over ranks: {reason}; use --split auto to filter it on one rank",
                        entry.input.display()
                    ),
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
        image.publish(context, self.events, Publishing::Here(&mut waited));
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
            let wanted = file.is_ok();
            let result = match member {
                0 if wanted => self.make(entry, group.count, slices.clone()),
                0 => continue,
                _ => {
                    self.send(rank, &wanted);
                    ended[member] = !wanted;
                    match wanted {
                        true => self.receive_section(rank),
                        false => continue,
                    }
                }
            };
            ended[member] = result.is_err();
            let written = result.and_then(|section| {
                if !is_of(&section.file, &outcome.input) {
                    return Err(changed(&entry.input));
                }
                outcome.add_sharer(rank, section.timings);
                outcome.input.nonfinite_voxels += section.nonfinite_voxels;
                Ok(section)
            });
            let started = Instant::now();
            let written = match (&mut file, written) {
                (Ok(file), Ok(section)) => append(file, &section),
                (_, Err(failure)) => Err(self.named(failure, rank)),
                _ => Ok(()),
            };
            let spent_s = started.elapsed().as_secs_f64();
            outcome.timings.write_s += spent_s;
            self.busy_s += spent_s;
            if let Err(failure) = written {
                file = Err(failure);
            }
        }
        file.and_then(SharedFile::finish)
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
        self.busy_s += started.elapsed().as_secs_f64();
        made.unwrap_or_else(|_| {
            tracing::error!("{}: a bug in niimpi ended the run", entry.input.display());
            self.comm.abort(EXIT_PANIC)
        })
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
                    self.send::<Result<Facts, (Failure, bool)>>(group.first, &Err((failure, stopped)));
                    return;
                }
            }
        }
    }

    fn send_section(&self, to: usize, section: Section) {
        let mut batches = vec![Vec::new()];
        for chunk in section.chunks {
            let (compressed, crc32, raw_bytes) = chunk.as_parts();
            if batches.last().is_some_and(|batch| batch.len() > BATCH_BYTES) {
                batches.push(Vec::new());
            }
            if let Some(batch) = batches.last_mut() {
                batch.extend_from_slice(&(compressed.len() as u64).to_le_bytes());
                batch.extend_from_slice(&u64::from(crc32).to_le_bytes());
                batch.extend_from_slice(&raw_bytes.to_le_bytes());
                batch.extend_from_slice(compressed);
            }
        }
        let facts = Facts {
            timings: section.timings,
            nonfinite_voxels: section.nonfinite_voxels,
            file: section.file,
            batches: batches.len(),
        };
        self.send::<Result<Facts, (Failure, bool)>>(to, &Ok(facts));
        self.comm.send(to, Tag::Section, &section.head);
        for batch in batches {
            self.comm.send(to, Tag::Section, &batch);
        }
        self.comm.send(to, Tag::Section, &section.tail);
    }

    fn receive_section(&mut self, from: usize) -> Result<Section, Failure> {
        let facts: Result<Facts, (Failure, bool)> = comm::decode(&self.receive(from));
        let facts = facts.map_err(|(failure, stopped)| Failure {
            kind: match stopped {
                true => FailureKind::Stopped,
                false => FailureKind::Own,
            },
            ..failure
        })?;
        let head = self.receive(from);
        let mut chunks = Vec::new();
        for _ in 0..facts.batches {
            let batch = self.receive(from);
            let mut rest = &batch[..];
            while let Some((sizes, after)) = rest.split_at_checked(24) {
                let number = |at: usize| {
                    let bytes = sizes[at..at + 8].try_into().unwrap_or_default();
                    u64::from_le_bytes(bytes)
                };
                let (compressed, after) = after.split_at(number(0) as usize);
                chunks.push(Chunk::from_parts(
                    compressed.to_vec(),
                    number(8) as u32,
                    number(16),
                ));
                rest = after;
            }
        }
        Ok(Section {
            timings: facts.timings,
            nonfinite_voxels: facts.nonfinite_voxels,
            file: facts.file,
            head,
            chunks,
            tail: self.receive(from),
        })
    }
}

/// Shows that this rank is alive, and abandons its sections once the run must end.
fn look_for_signals(context: &WorkerContext<'_>, stop: &AtomicBool, abandon: &AtomicBool, grace: &mut Grace) {
    context.journal.say_alive();
    if grace.is_over(stop.load(Ordering::Relaxed), context.clock.now_s()) {
        abandon.store(true, Ordering::Relaxed);
    }
}

fn append(file: &mut SharedFile, section: &Section) -> Result<(), Failure> {
    file.append_bytes(&section.head)?;
    for chunk in &section.chunks {
        file.append_chunk(chunk)?;
    }
    file.append_bytes(&section.tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_divided_evenly_among_fewer_images() {
        let of = |split, todo: &[usize], ranks| {
            let groups = groups(split, todo, ranks, |place| place > 3).into_iter();
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
    }
}
