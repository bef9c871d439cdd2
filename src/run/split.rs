//! Split: the images that several ranks share, before all other images. The first rank of a group, its
//! leader, plans the sections of an image, writes its file and records it.
//!
//! All messages are between the leader and one other rank. If all ranks find the leader's file, each writes
//! its sections there, and the leader the bytes at their ends. Otherwise, and for a compressed file, the
//! leader asks for each section when it can write it. A rank then holds one compressed section, and the
//! leader one of its own and one message.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::Serialize;

use self::link::{FIRST_PAUSE, Link, no_thread};
use self::messages::{Order, Reported, report, reported};
use self::stream::Stream;
use super::Setup;
use super::stop::Grace;
use super::worker::{Event, MadeImage, Publishing, SharedWork, Waited, WorkerContext, begin_line};
use crate::comm::{Communicator, EXIT_PANIC, WORKER_THREAD};
use crate::fault::Fault;
use crate::image_io::{InPlace, Place, StagedFile};
use crate::images::ImageEntry;
use crate::job::Paths;
use crate::job::outcome::{Failure, FailureKind, Outcome, Stage};
use crate::job::problem::Problem;
use crate::job::shared::{self, Needs, Plan, Section, SectionWorker, Sections, SharedFile, changed};
use crate::journal::{Line, SharingLine};
use crate::partition::Split;

pub(super) use self::groups::{Group, groups, led_by};

mod groups;
mod link;
mod messages;
mod stream;

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
        link: Link {
            comm,
            context,
            setup,
            stop,
            abandon,
            grace: Grace::until(context.finish_by_s),
            own: SharedWork::default(),
            stream: None,
        },
        split,
        worker,
        events,
        not_written: 0,
    };
    let mut alone = Vec::new();
    for group in groups {
        if group.first == comm.rank() {
            alone.extend((!sharing.lead(*group)).then_some(group.place));
        } else if group.ranks().contains(&comm.rank()) {
            sharing.follow(*group);
        }
    }
    (alone, sharing.link.own)
}

/// A rank's work on shared images.
struct Sharing<'a, 'c, C: Communicator> {
    link: Link<'a, 'c, C>,
    split: Split,
    worker: SectionWorker<'a>,
    events: &'a Sender<Event>,
    /// Consecutive images that this rank could not write because the disk is full.
    not_written: usize,
}

/// After so many images that cannot be written, ranks share no more of them.
const NOT_WRITTEN: usize = 3;

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
    /// Whether the image was finished, failed or must not be started, so that nobody has to process it.
    fn lead(&mut self, group: Group) -> bool {
        let (context, Group { place, count, .. }) = (self.link.context, group);
        let entry = &context.entries[place];
        let cost_s = context.costs_s[place];
        let late = context.clock.now_s() + context.pace.predicted_s(cost_s) > context.finish_by_s;
        if late {
            self.tell(group, &Order::default());
            let _ = self.events.send(Event::Late(entry.index));
            return true;
        }
        // The loop of this rank gets the images that are not started, and ends the run if it has to stop.
        if self.link.stop.load(Ordering::Relaxed) || self.not_written >= NOT_WRITTEN {
            self.tell(group, &Order::default());
            return false;
        }
        let mut outcome = Outcome {
            index: entry.index,
            rank: self.link.comm.rank(),
            start_s: context.clock.now_s(),
            ..Outcome::default()
        };
        let started = Instant::now();
        let plan = self.worker.plan(paths(entry), count, group.always, &mut outcome);
        self.link.own.busy_s += started.elapsed().as_secs_f64();
        let made = match plan {
            Ok(Plan::Sections { sections, needs, .. }) => {
                context.journal.write(&Line::Begin(begin_line(context, entry, 0)));
                let known = outcome.clone();
                match self.share(group, (&sections, needs), &mut outcome) {
                    Err(failure) if failure.kind == FailureKind::Temporary => {
                        outcome = Outcome { retries: 1, ..known };
                        self.make_alone(group, &sections, &mut outcome)
                    }
                    made => made,
                }
            }
            Ok(Plan::Whole(reason)) if self.split == Split::Always => {
                self.tell(group, &Order::default());
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
                self.tell(group, &Order::default());
                return false;
            }
            // Whoever processes it reports the reason.
            Err(_) => {
                self.tell(group, &Order::default());
                return false;
            }
        };
        if matches!(&made, Err(failure) if failure.kind == FailureKind::Stopped) {
            self.link.stop.store(true, Ordering::Relaxed);
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
        match image.publish(context, self.events, Publishing::Here(&mut waited)) {
            None => self.not_written = 0,
            Some(FailureKind::NoSpace) => self.not_written += 1,
            Some(FailureKind::NoJournal) => self.not_written = NOT_WRITTEN,
            Some(_) => {}
        }
        self.link.own.add_writing(started);
        true
    }

    /// Sends all other ranks of a group a message.
    fn tell<T: Serialize>(&self, group: Group, message: &T) {
        group.others().for_each(|to| self.link.send(to, message));
    }

    /// Makes an image together with the other ranks of the group.
    fn share(
        &mut self,
        group: Group,
        (sections, needs): (&Sections, Needs),
        outcome: &mut Outcome,
    ) -> Result<StagedFile, Failure> {
        let paths = paths(&self.link.context.entries[group.place]);
        let opened = self.worker.begin_file(paths);
        let opened = opened.and_then(|mut file| Ok((file.in_place()?, file)));
        let (in_place, mut file) = opened.inspect_err(|_| self.tell(group, &Order::default()))?;
        let (place, own) = in_place.unzip();
        let order = Order {
            sections: sections.clone(),
            needs,
            place,
        };
        self.tell(group, &order);
        self.link.begin_stream(group, &order.needs);
        let own = own.filter(|_| self.all_find_it(group));
        let mask_read = self.worker.record_mask(paths, outcome);
        if own.is_some() {
            tracing::debug!("the sections of image {} are written in place", outcome.index);
        }
        if mask_read.is_err() {
            self.link.leave_stream();
        }
        let made = match own {
            Some(own) => self.lead_in_place(group, sections, mask_read, (&mut file, &own), outcome),
            None => self.collect(group, sections, mask_read, &mut file, outcome),
        };
        self.link.verified(group, made, outcome)?;
        self.worker.finish_file(file, outcome)
    }

    /// Makes all sections of an image on this rank, after reading has failed for a reason that may be
    /// temporary.
    fn make_alone(
        &mut self,
        group: Group,
        sections: &Sections,
        outcome: &mut Outcome,
    ) -> Result<StagedFile, Failure> {
        let paths = paths(&self.link.context.entries[group.place]);
        let mut file = self.worker.begin_file(paths)?;
        self.worker.record_mask(paths, outcome)?;
        for slices in sections {
            let section = self.make(group, slices, None, |_| ())?;
            self.link.append(group.first, &section, &mut file, outcome)?;
        }
        self.worker.finish_file(file, outcome)
    }

    /// Whether all ranks of a group find the leader's file. Tells them.
    fn all_find_it(&mut self, group: Group) -> bool {
        let found: Vec<bool> = group.others().map(|from| self.link.receive(from)).collect();
        let all = found.into_iter().all(|found| found);
        self.tell(group, &all);
        all
    }

    /// Makes this rank's sections of an image in place. When all sections are written, writes the bytes at
    /// their ends.
    fn lead_in_place(
        &mut self,
        group: Group,
        sections: &[Range<usize>],
        mask_read: Result<(), Failure>,
        (file, own): (&mut SharedFile, &InPlace),
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let mut working: Vec<usize> = group.others().collect();
        let mut ends = VecDeque::new();
        let mut made = mask_read;
        for slices in group.sections_of(group.first, sections) {
            made = made.and_then(|()| self.failed_meanwhile(&mut working));
            let Ok(()) = &made else { break };
            match self.make(group, slices, Some(own), |_| ()) {
                Ok(section) => ends.push_back(section),
                Err(failure) => made = Err(self.link.named(failure, group.first)),
            }
        }
        let goes_on = made.is_ok();
        if !goes_on {
            self.link.leave_stream();
            self.tell(group, &false);
        }
        for rank in working {
            let report: Reported<()> = self.link.receive(rank);
            made = made.and_then(|()| reported(report).map_err(|failure| self.link.named(failure, rank)));
        }
        if goes_on {
            self.tell(group, &made.is_ok());
        }
        made?;
        let mut written = Ok(());
        for number in 0..sections.len() {
            let rank = group.rank_of(number);
            let section = match rank == group.first {
                true => ends.pop_front(),
                false => Some(self.link.receive(rank)),
            };
            if let Some(section) = section {
                written = written.and_then(|()| self.link.append(rank, &section, file, outcome));
            }
        }
        written
    }

    /// The failure of a rank that still works, if there is one.
    fn failed_meanwhile(&self, working: &mut Vec<usize>) -> Result<(), Failure> {
        let mut failed = Ok(());
        working.retain(|&rank| {
            let Some(report) = self.link.try_receive::<Reported<()>>(rank) else {
                return true;
            };
            let report = reported(report).map_err(|failure| self.link.named(failure, rank));
            failed = std::mem::replace(&mut failed, Ok(())).and(report);
            false
        });
        failed
    }

    /// Writes all sections of an image in their order. While this rank computes a section, it writes those
    /// that others have made before.
    fn collect(
        &mut self,
        group: Group,
        sections: &[Range<usize>],
        mask_read: Result<(), Failure>,
        file: &mut SharedFile,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let mut ended = vec![false; group.count];
        let mut made = mask_read;
        let mut before = 0;
        for round in sections.chunks(group.count) {
            let goes_on = made.is_ok();
            let before = std::mem::replace(&mut before, round.len());
            let mut others = |link: &mut Link<'_, '_, C>| {
                link.receive_round((group, before), &mut ended, &mut made, file, outcome);
            };
            if !goes_on {
                self.link.leave_stream();
                others(&mut self.link);
                continue;
            }
            let section = self.make(group, &round[0], None, others);
            made = made.and_then(|()| {
                let appended =
                    section.and_then(|section| self.link.append(group.first, &section, file, outcome));
                appended.map_err(|failure| self.link.named(failure, group.first))
            });
        }
        self.link
            .receive_round((group, before), &mut ended, &mut made, file, outcome);
        made
    }

    /// Computes a section while this thread does something else and looks for signals.
    fn make(
        &mut self,
        group: Group,
        slices: &Range<usize>,
        in_place: Option<&InPlace>,
        meanwhile: impl FnOnce(&mut Link<'_, '_, C>),
    ) -> Result<Section, Failure> {
        let started = Instant::now();
        let Sharing { link, worker, .. } = self;
        let busy_s = link.own.busy_s;
        let (comm, entry) = (link.comm, &link.context.entries[group.place]);
        if let Some(Fault::Slow { rank, wait_ms }) = link.context.fault
            && comm.rank() >= rank
        {
            std::thread::sleep(Duration::from_millis(wait_ms));
        }
        let feed = link.stream.as_mut().map(Stream::feed);
        let made = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(format!("{WORKER_THREAD}section"));
            let sources = (feed, in_place);
            let compute = move || {
                let made = worker.make(paths(entry), group.count, slices.clone(), sources);
                (made, started.elapsed())
            };
            let computing = thread.spawn_scoped(scope, compute);
            let computing = computing.unwrap_or_else(|error| no_thread(comm, &error));
            meanwhile(link);
            let mut pause = FIRST_PAUSE;
            while !computing.is_finished() {
                link.look(&mut pause);
            }
            computing.join()
        });
        let (made, spent) = made.unwrap_or_else(|_| {
            tracing::error!("{}: a bug in niimpi ended the run", entry.input.display());
            comm.abort(EXIT_PANIC)
        });
        let mut made = match &link.stream {
            Some(stream) if made.is_ok() && stream.has_feed() => Err(changed(&entry.input)),
            _ => made,
        };
        let waited_s = made.as_ref().map_or(0.0, |section| section.waited_s);
        // What was written meanwhile is counted already.
        link.own.busy_s = link.own.busy_s.max(busy_s + spent.as_secs_f64() - waited_s);
        match &mut made {
            Ok(section) => {
                section.facts.stopping = link.stop.load(Ordering::Relaxed);
                link.own.timings.add(section.facts.timings);
            }
            Err(_) => link.leave_stream(),
        }
        made
    }

    /// Computes this rank's sections of an image. Writes them in place, or sends each when the leader asks
    /// for it.
    fn follow(&mut self, group: Group) {
        let order: Order = self.link.receive(group.first);
        let sections = &order.sections;
        if sections.is_empty() {
            return;
        }
        self.record_sharing(group, false);
        self.link.begin_stream(group, &order.needs);
        let all_sent = match order.place.and_then(|place| self.find(group, &place)) {
            Some(in_place) => self.follow_in_place(group, sections, in_place),
            None => self.send_sections(group, sections),
        };
        if let Some(found) = self.link.end_stream(!all_sent) {
            self.link.send(group.first, &report(found));
        }
        self.record_sharing(group, true);
    }

    /// Writes into the journal that this rank begins or ends its part of an image, for `niimpi status`.
    fn record_sharing(&self, group: Group, ends: bool) {
        let context = self.link.context;
        let begin = begin_line(context, &context.entries[group.place], 0);
        context.journal.write(&Line::Sharing(SharingLine {
            unix_s: begin.unix_s,
            index: begin.index,
            output: begin.output,
            ends,
        }));
    }

    /// Returns whether all were wanted and made.
    fn send_sections(&mut self, group: Group, sections: &Sections) -> bool {
        for slices in group.sections_of(self.link.comm.rank(), sections) {
            let made = self.make(group, slices, None, |_| ());
            let wanted: bool = self.link.receive(group.first);
            if !wanted {
                return false;
            }
            let failed = made.is_err();
            self.link.send_section(group.first, made);
            if failed {
                return false;
            }
        }
        true
    }

    /// Opens the leader's file; `None` if a rank of the group does not find it.
    fn find(&mut self, group: Group, place: &Place) -> Option<InPlace> {
        let link = &mut self.link;
        let output = &link.context.entries[group.place].output;
        let is_apart = link.context.fault
            == Some(Fault::Apart {
                rank: link.comm.rank(),
            });
        let found = InPlace::open(output, place).filter(|_| !is_apart);
        link.send(group.first, &found.is_some());
        let all: bool = link.receive(group.first);
        found.filter(|_| all)
    }

    /// Returns whether all were wanted and made.
    fn follow_in_place(&mut self, group: Group, sections: &[Range<usize>], in_place: InPlace) -> bool {
        let mut wanted: Option<bool> = None;
        let mut made = Ok(Vec::new());
        for slices in group.sections_of(self.link.comm.rank(), sections) {
            // Before it knows that all are written, the leader sends this only if the image has failed.
            wanted = self.link.try_receive(group.first);
            let (None, Ok(ends)) = (wanted, &mut made) else {
                break;
            };
            match self.make(group, slices, Some(&in_place), |_| ()) {
                Ok(section) => ends.push(section),
                Err(failure) => made = Err(failure),
            }
        }
        let finished = shared::finish_in_place(in_place);
        let made = made.and_then(|ends| finished.map(|()| ends));
        self.link.send(
            group.first,
            &report(made.as_ref().map(|_| ()).map_err(Failure::clone)),
        );
        let wanted = wanted.unwrap_or_else(|| self.link.receive(group.first));
        let all_made = made.is_ok();
        for section in made.into_iter().flatten().filter(|_| wanted) {
            self.link.send(group.first, &section);
        }
        wanted && all_made
    }
}
