//! The link between the ranks that share an image: its messages, and what the leader writes of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::groups::Group;
use super::messages::{Reported, chunks_of, push_chunk, report, reported};
use super::stream::Stream;
use crate::comm::{self, Communicator, EXIT_PANIC, Tag};
use crate::job::outcome::{Failure, FailureKind, Outcome};
use crate::job::shared::{BATCH_BYTES, Inflater, Needs, Section, SectionFacts, SharedFile, is_of};
use crate::run::Setup;
use crate::run::stop::Grace;
use crate::run::worker::{SharedWork, WorkerContext};

/// How often a rank that computes or waits for a message looks for signals.
pub(super) const LOOK: Duration = Duration::from_millis(2);
/// How long a rank waits at first.
pub(super) const FIRST_PAUSE: Duration = Duration::from_micros(10);

/// A rank's end of the link.
pub(super) struct Link<'a, 'c, C: Communicator> {
    pub(super) comm: &'a C,
    pub(super) context: &'a WorkerContext<'c>,
    pub(super) setup: &'a Setup,
    pub(super) stop: &'a AtomicBool,
    pub(super) abandon: &'a AtomicBool,
    pub(super) grace: Grace,
    /// This rank's own work.
    pub(super) own: SharedWork,
    /// The voxels of the image at hand, if one rank inflates it for all.
    pub(super) stream: Option<Stream>,
}

impl<C: Communicator> Link<'_, '_, C> {
    pub(super) fn send<T: Serialize>(&self, to: usize, value: &T) {
        self.comm.send(to, Tag::Section, &comm::encode(value));
    }

    pub(super) fn receive<T: DeserializeOwned>(&mut self, from: usize) -> T {
        comm::decode(&self.receive_bytes(from))
    }

    /// Receives a message if there is one.
    pub(super) fn try_receive<T: DeserializeOwned>(&self, from: usize) -> Option<T> {
        let message = self.comm.try_receive_from(from, Tag::Section);
        message.map(|message| comm::decode(&message))
    }

    /// Waits for a message. The next of several messages comes soon, so the first pauses are short.
    fn receive_bytes(&mut self, from: usize) -> Vec<u8> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(message) = self.comm.try_receive_from(from, Tag::Section) {
                return message;
            }
            self.look(&mut pause);
        }
    }

    /// Shows that this rank is alive, abandons its sections once the run must end, and passes voxels on.
    /// Pauses if there are none.
    pub(super) fn look(&mut self, pause: &mut Duration) {
        self.context.journal.say_alive();
        let (stop, now_s) = (self.stop.load(Ordering::Relaxed), self.context.clock.now_s());
        if self.grace.is_over(stop, now_s) {
            self.abandon.store(true, Ordering::Relaxed);
        }
        let comm = self.comm;
        if self.stream.as_mut().is_some_and(|stream| stream.advance(comm)) {
            *pause = FIRST_PAUSE;
        } else {
            std::thread::sleep(*pause);
            *pause = LOOK.min(*pause * 2);
        }
    }

    /// Begins this rank's part in the stream of an image, if there is one.
    pub(super) fn begin_stream(&mut self, group: Group, needs: &Needs) {
        if needs.is_empty() {
            return;
        }
        let (comm, rank) = (self.comm, self.comm.rank());
        let inflater = (rank == group.last()).then(|| {
            let input = self.context.entries[group.place].input.clone();
            Inflater::start(input).unwrap_or_else(|error| no_thread(comm, &error))
        });
        self.stream = Some(Stream::new(group, needs.clone(), rank, inflater));
    }

    /// This rank needs no more voxels.
    pub(super) fn leave_stream(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.leave(self.comm);
        }
    }

    /// No rank needs more voxels, because the image has failed.
    pub(super) fn give_up_stream(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.give_up(self.comm);
        }
    }

    /// Ends this rank's part in the stream of an image. Returns what was found about the file, on the
    /// rank that inflates it.
    pub(super) fn end_stream(&mut self, failed: bool) -> Option<Result<SectionFacts, Failure>> {
        let mut pause = FIRST_PAUSE;
        match failed {
            true => self.give_up_stream(),
            // A rank without a section has not told its end.
            false => self.leave_stream(),
        }
        while self.stream.as_ref().is_some_and(|stream| !stream.is_over()) {
            self.look(&mut pause);
        }
        let found = self.stream.take()?.into_found()?;
        let found = found.unwrap_or_else(|| {
            tracing::error!("a bug in niimpi ended the run while an image was inflated");
            self.comm.abort(EXIT_PANIC)
        });
        if let Ok(facts) = &found {
            self.own.busy_s += facts.timings.read_s;
            self.own.timings.add(facts.timings);
        }
        Some(found)
    }

    /// Waits for what the rank that inflates the image has found about its file. If that is damaged, this is
    /// the reason why sections have failed.
    pub(super) fn verified(
        &mut self,
        group: Group,
        made: Result<(), Failure>,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        if self.stream.is_none() {
            return made;
        }
        self.end_stream(made.is_err());
        let rank = group.last();
        let found = reported(self.receive::<Reported<SectionFacts>>(rank));
        match (found, made) {
            (_, Err(failure)) if failure.kind == FailureKind::Stopped => Err(failure),
            (Err(found), _) => Err(self.named(found, rank)),
            (Ok(facts), made) => made.and_then(|()| self.record(rank, &facts, outcome)),
        }
    }

    /// A failure on a rank.
    pub(super) fn named(&self, failure: Failure, rank: usize) -> Failure {
        let host = &self.setup.ranks.hosts[rank];
        Failure {
            error: format!(
                "{} (on rank {rank} on {host}, one of those that share it)",
                failure.error
            ),
            ..failure
        }
    }

    /// Records a section that a rank has made, and writes what is left of it.
    pub(super) fn append(
        &mut self,
        rank: usize,
        section: &Section,
        file: &mut SharedFile,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        self.record(rank, &section.facts, outcome)?;
        let started = Instant::now();
        file.add_found(section.facts.found);
        let written = file.append(section);
        self.was_written(started, outcome);
        written
    }

    fn record(&self, rank: usize, facts: &SectionFacts, outcome: &mut Outcome) -> Result<(), Failure> {
        if facts.stopping {
            self.stop.store(true, Ordering::Relaxed);
        }
        is_of(facts, &outcome.input)?;
        outcome.add_sharer(rank, facts.timings);
        outcome.input.nonfinite_voxels += facts.nonfinite_voxels;
        outcome.warnings.extend(facts.warnings.iter().cloned());
        Ok(())
    }

    fn was_written(&mut self, started: Instant, outcome: &mut Outcome) {
        outcome.timings.write_s += started.elapsed().as_secs_f64();
        self.own.add_writing(started);
    }

    /// Sends a section or the failure: all but its chunks, the chunks in batches, and an empty batch.
    pub(super) fn send_section(&self, to: usize, made: Result<Section, Failure>) {
        let made = report(made);
        self.send(to, &made);
        let Ok(section) = made else {
            return;
        };
        let mut batch = Vec::new();
        for chunk in &section.chunks {
            push_chunk(&mut batch, chunk);
            if batch.len() > BATCH_BYTES {
                self.comm.send(to, Tag::Section, &batch);
                batch.clear();
            }
        }
        if !batch.is_empty() {
            self.comm.send(to, Tag::Section, &batch);
        }
        self.comm.send(to, Tag::Section, &[]);
    }

    /// Receives and writes a round of sections, except the leader's, unless the image has failed.
    pub(super) fn receive_round(
        &mut self,
        (group, sections): (Group, usize),
        ended: &mut [bool],
        made: &mut Result<(), Failure>,
        file: &mut SharedFile,
        outcome: &mut Outcome,
    ) {
        for (rank, ended) in group.ranks().zip(ended).take(sections).skip(1) {
            if *ended {
                continue;
            }
            self.send(rank, &made.is_ok());
            *ended = made.is_err();
            if made.is_ok() {
                let received = self.receive_section(rank, file, outcome, ended);
                *made = received.map_err(|failure| self.named(failure, rank));
            }
        }
    }

    /// Receives the section that [`Link::send_section`] sends, and writes it. Sets `ended` if the rank sends
    /// no more sections.
    pub(super) fn receive_section(
        &mut self,
        from: usize,
        file: &mut SharedFile,
        outcome: &mut Outcome,
        ended: &mut bool,
    ) -> Result<(), Failure> {
        let made: Reported<Section> = self.receive(from);
        let section = reported(made).inspect_err(|_| *ended = true)?;
        // All its messages have to be received, also after an error.
        let mut written = self.record(from, &section.facts, outcome);
        file.add_found(section.facts.found);
        written = written.and_then(|()| file.append_bytes(&section.head));
        loop {
            let batch = self.receive_bytes(from);
            if batch.is_empty() {
                break;
            }
            let started = Instant::now();
            for chunk in chunks_of(&batch) {
                written = written.and_then(|()| file.append_chunk(&chunk));
            }
            self.was_written(started, outcome);
        }
        written.and_then(|()| file.append_bytes(&section.tail))
    }
}

/// Ends the run, because this rank cannot start a thread.
pub(super) fn no_thread(comm: &impl Communicator, error: &std::io::Error) -> ! {
    tracing::error!("a thread cannot be started: {error}; use fewer --threads");
    comm.abort(EXIT_PANIC)
}
