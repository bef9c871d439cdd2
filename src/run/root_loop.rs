//! The root's loop: works, hands out images with `dynamic`, shows progress, and waits for the records of all
//! ranks.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::progress::{Counts, ProgressDisplay};
use super::rank_loop::{HandBack, LOOK_DYNAMIC, LOOK_FIXED, ProgressUpdate, RankLoop};
use super::{Config, ProgressStyle};
use crate::comm::{self, Communicator, ROOT, Tag};
use crate::job::outcome::Status;
use crate::report::RankRecord;
use crate::text::{counted, printable};

/// Orders from the root to all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Order {
    /// The disk is nearly full: process the smallest images next.
    SmallestFirst,
    /// Start no more images.
    Stop,
    /// The last message: the rank's records have arrived.
    End,
}

/// The root's result when every rank is done.
pub(super) struct Work {
    pub(super) records: Vec<RankRecord>,
    /// Some images were not started, because the run was stopped or reached its time limit.
    pub(super) interrupted: bool,
}

/// Detects that no rank can write results any more.
#[derive(Debug, Default)]
struct SpaceWatch {
    done: usize,
    no_space: usize,
}

impl SpaceWatch {
    /// How many consecutive images failed because the disk is full, over all ranks.
    fn in_a_row(&mut self, updates: impl Iterator<Item = ProgressUpdate> + Clone) -> usize {
        let done = updates.clone().map(|update| update.done).sum();
        let no_space: usize = updates.map(|update| update.no_space).sum();
        if done > self.done {
            self.done = done;
            self.no_space = no_space;
        }
        no_space.saturating_sub(self.no_space)
    }

    /// Restarts the count.
    fn start_again(&mut self, updates: impl Iterator<Item = ProgressUpdate>) {
        self.no_space = updates.map(|update| update.no_space).sum();
    }
}

/// The root's state of a rank.
#[derive(Debug, Default)]
struct RankState {
    progress: ProgressUpdate,
    /// Images that were sent to it and not returned.
    handed: usize,
    gave_up: bool,
    /// It was sent fewer images than it requested, so it closes its queue. Images that answer its other
    /// requests would be lost.
    has_its_last: bool,
    record: Option<RankRecord>,
}

impl RankState {
    /// Whether it can still return images.
    fn is_untested(&self) -> bool {
        self.handed > 0 && !self.progress.opens_images && self.record.is_none()
    }
}

/// The state of the run: the assignment of images and the reports of all ranks.
#[derive(Debug)]
struct Coordinator<'a> {
    costs_s: &'a [f64],
    /// Unassigned images in processing order.
    pending: VecDeque<usize>,
    /// Images that a rank could not open. The root and ranks that have opened other images try them once
    /// more.
    second_tries: VecDeque<usize>,
    ranks: Vec<RankState>,
    space: SpaceWatch,
    /// Number of consecutive failures that indicates a full disk.
    enough: usize,
    disk_full: bool,
    ordered: Option<Order>,
}

impl<'a> Coordinator<'a> {
    fn new(pending: VecDeque<usize>, costs_s: &'a [f64], threads: &[usize]) -> Self {
        Self {
            costs_s,
            pending,
            second_tries: VecDeque::new(),
            ranks: threads.iter().map(|_| RankState::default()).collect(),
            space: SpaceWatch::default(),
            // Each worker can fail one image on the full disk while another image is still being written.
            enough: (2 * threads.iter().sum::<usize>()).max(3),
            disk_full: false,
            ordered: None,
        }
    }

    /// Images for a rank's request; fewer if not enough are left.
    fn on_request(&mut self, from: usize, wanted: usize) -> Vec<usize> {
        let rank = &mut self.ranks[from];
        if rank.has_its_last {
            return Vec::new();
        }
        let retries = match from == ROOT || rank.progress.opens_images {
            true => wanted.min(self.second_tries.len()),
            false => 0,
        };
        let first_tries = (wanted - retries).min(self.pending.len());
        rank.handed += retries + first_tries;
        rank.has_its_last = from != ROOT && retries + first_tries < wanted;
        let retries = self.second_tries.drain(..retries);
        retries.chain(self.pending.drain(..first_tries)).collect()
    }

    /// Accepts returned images. Logs the first time that a rank gives up.
    fn on_hand_back(&mut self, from: usize, host: &str, hand_back: HandBack) {
        let rank = &mut self.ranks[from];
        rank.handed = rank.handed.saturating_sub(hand_back.places.len());
        if hand_back.gives_up && !rank.gave_up {
            rank.gave_up = true;
            tracing::warn!(
                "rank {from} on {host} cannot open its images and gets no more; other ranks do them. Check \
                 that this node sees the input: {}",
                printable(&hand_back.error)
            );
        }
        if self.ordered != Some(Order::Stop) {
            self.second_tries.extend(hand_back.places);
        }
    }

    fn on_progress(&mut self, from: usize, progress: ProgressUpdate) {
        // A rank's records are final and can arrive before its last progress message.
        if self.ranks[from].record.is_none() {
            self.ranks[from].progress = progress;
        }
    }

    fn on_record(&mut self, from: usize, progress: ProgressUpdate, mut record: RankRecord) {
        // Decoding reserved up to twice the memory, and the list can be long.
        record.images.shrink_to_fit();
        let count = |status| {
            let images = record.images.iter();
            images.filter(|image| image.status() == status).count()
        };
        self.ranks[from].progress = ProgressUpdate {
            done: count(Status::Done),
            failed: count(Status::Failed),
            ..progress
        };
        self.ranks[from].record = Some(record);
    }

    /// Whether the root's own workers can get more images.
    fn may_bring_more(&self) -> bool {
        let others_may_give_back = || self.ranks.iter().skip(1).any(RankState::is_untested);
        !self.pending.is_empty() || !self.second_tries.is_empty() || others_may_give_back()
    }

    /// A new order for all ranks, if any.
    fn next_order(&mut self) -> Option<Order> {
        let order = if self.ranks.iter().any(|rank| rank.progress.stopping) {
            Some(Order::Stop)
        } else {
            self.order_for_full_disk()
        };
        let order = order.filter(|&order| self.ordered < Some(order))?;
        self.ordered = Some(order);
        match order {
            Order::SmallestFirst => {
                let costs_s = self.costs_s;
                let by_cost = |a: &usize, b: &usize| costs_s[*a].total_cmp(&costs_s[*b]);
                self.pending.make_contiguous().sort_by(by_cost);
                self.space
                    .start_again(self.ranks.iter().map(|rank| rank.progress));
            }
            Order::Stop | Order::End => {
                self.pending.clear();
                self.second_tries.clear();
            }
        }
        Some(order)
    }

    fn order_for_full_disk(&mut self) -> Option<Order> {
        let in_a_row = self.space.in_a_row(self.ranks.iter().map(|rank| rank.progress));
        if in_a_row < self.enough || self.disk_full {
            return None;
        }
        if self.ordered.is_none() {
            tracing::warn!(
                "the last {} failed because the disk is full or the quota is used up; trying the smallest \
                 images next",
                counted(in_a_row, "image")
            );
            return Some(Order::SmallestFirst);
        }
        self.disk_full = true;
        tracing::error!(
            "stopped early: the last {} failed because the disk is full or the quota is used up, the \
             smallest too; free space or choose another --output, then --resume does the rest",
            counted(in_a_row, "image")
        );
        Some(Order::Stop)
    }

    fn counts(&self) -> Counts {
        let sum = |count: fn(&ProgressUpdate) -> usize| {
            let updates = self.ranks.iter().map(|rank| &rank.progress);
            updates.map(count).sum()
        };
        Counts {
            done: sum(|progress| progress.done),
            failed: sum(|progress| progress.failed),
        }
    }

    fn is_over(&self) -> bool {
        self.ranks.iter().all(|rank| rank.record.is_some())
    }

    /// The root's result at the end of a run of this many images.
    fn into_work(self, images: usize) -> Work {
        let no_journal = self.ranks.iter().any(|rank| rank.progress.no_journal);
        let records: Vec<RankRecord> = self.ranks.into_iter().filter_map(|rank| rank.record).collect();
        let started: usize = records.iter().map(|record| record.images.len()).sum();
        Work {
            records,
            // A run that was stopped during its last images is complete. After a full disk, or without a
            // journal, no script must repeat the command automatically, because the disk has to be repaired
            // first.
            interrupted: started < images && !self.disk_full && !no_journal,
        }
    }
}

/// Works and coordinates until every rank has sent its records.
pub(super) fn run<C: Communicator>(
    own: &mut RankLoop<'_, C>,
    config: &Config,
    pending: VecDeque<usize>,
    costs_s: &[f64],
    hands_out: bool,
) -> Work {
    let setup = own.setup;
    let images = setup.entries.len() - setup.decision.skipped.len();
    let style = match config.quiet {
        true => ProgressStyle::None,
        false => config.progress,
    };
    let mut display = ProgressDisplay::new(style, images);
    let mut state = Coordinator::new(pending, costs_s, &setup.ranks.threads);
    while !state.is_over() {
        let others_work = state.ranks.iter().skip(1).any(|rank| rank.record.is_none());
        own.listen(match hands_out && others_work {
            true => LOOK_DYNAMIC,
            false => LOOK_FIXED,
        });
        state.on_progress(ROOT, own.progress);
        take_messages(own.comm, &mut state, &setup.ranks.hosts);
        if hands_out && !own.progress.stopping {
            own.queue.add(state.on_request(ROOT, own.queue.wanted(0)));
            if !state.may_bring_more() {
                own.queue.close();
            }
        }
        if let Some(order) = state.next_order() {
            match order {
                Order::SmallestFirst => own.queue.put_smallest_first(costs_s),
                Order::Stop | Order::End => own.stop_early(),
            }
            let message = comm::encode(&order);
            let working = |&to: &usize| state.ranks[to].record.is_none();
            (1..state.ranks.len())
                .filter(working)
                .for_each(|to| own.comm.send(to, Tag::Order, &message));
        }
        display.update(state.counts());
        if !own.working && state.ranks[ROOT].record.is_none() {
            state.on_record(ROOT, own.progress, own.record());
        }
    }
    display.finish();
    // MPI requires that every message is received before it is finalised.
    while own.comm.try_receive(Tag::Progress).is_some() {}
    state.into_work(images)
}

fn take_messages(comm: &impl Communicator, state: &mut Coordinator<'_>, hosts: &[String]) {
    while let Some((from, message)) = comm.try_receive(Tag::Progress) {
        state.on_progress(from, comm::decode(&message));
    }
    // Handle returned images before requests, so that they can be sent out at once.
    while let Some((from, message)) = comm.try_receive(Tag::HandBack) {
        state.on_hand_back(from, &hosts[from], comm::decode(&message));
    }
    while let Some((from, message)) = comm.try_receive(Tag::Request) {
        let wanted = comm::decode(&message);
        let places = state.on_request(from, wanted);
        comm.send(from, Tag::Assignment, &comm::encode(&(wanted, places)));
    }
    while let Some((from, message)) = comm.try_receive(Tag::Records) {
        // A rank returns images before it sends its records, so MPI has them now, even if they arrived after
        // the look above.
        while let Some(message) = comm.try_receive_from(from, Tag::HandBack) {
            state.on_hand_back(from, &hosts[from], comm::decode(&message));
        }
        let (progress, record): (ProgressUpdate, RankRecord) = comm::decode(&message);
        state.on_record(from, progress, record);
        comm.send(from, Tag::Order, &comm::encode(&Order::End));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::comm::threads::{ThreadRank, run_on_threads};
    use crate::report::RankRow;

    fn coordinator(images: usize, costs_s: &[f64]) -> Coordinator<'_> {
        Coordinator::new((0..images).collect(), costs_s, &[1, 1, 1])
    }

    fn progress(done: usize, no_space: usize) -> ProgressUpdate {
        ProgressUpdate {
            done,
            failed: no_space,
            no_space,
            opens_images: done > 0,
            ..ProgressUpdate::default()
        }
    }

    #[test]
    fn images_go_to_whom_asks_until_there_are_none() {
        let mut state = coordinator(4, &[]);
        assert_eq!(state.on_request(1, 2), [0, 1]);
        assert_eq!(state.on_request(ROOT, 1), [2]);
        assert_eq!(state.on_request(2, 3), [3]);
        assert_eq!(state.on_request(1, 1), [0; 0]);
        assert!(state.may_bring_more(), "a rank may still give images back");
        state.on_progress(1, progress(1, 0));
        state.on_progress(2, progress(1, 0));
        assert!(!state.may_bring_more());
    }

    #[test]
    fn what_a_rank_cannot_open_is_tried_once_more_by_one_that_opens_images() {
        let mut state = coordinator(4, &[]);
        assert_eq!(state.on_request(1, 2), [0, 1]);
        let hand_back = HandBack {
            places: vec![0, 1],
            error: "no such file".to_owned(),
            gives_up: true,
        };
        state.on_hand_back(1, "n1", hand_back);
        // Rank 2 has not opened any image yet.
        assert_eq!(state.on_request(2, 1), [2]);
        state.on_progress(2, progress(1, 0));
        assert_eq!(state.on_request(2, 1), [0]);
        assert_eq!(state.on_request(ROOT, 5), [1, 3]);
        assert!(!state.may_bring_more());
    }

    /// The root's view of messages that arrive after its first look for returned images.
    struct AfterALook<'a>(&'a ThreadRank, Cell<bool>);

    impl Communicator for AfterALook<'_> {
        fn rank(&self) -> usize {
            self.0.rank()
        }

        fn size(&self) -> usize {
            self.0.size()
        }

        fn send(&self, to: usize, tag: Tag, message: &[u8]) {
            self.0.send(to, tag, message);
        }

        fn try_receive(&self, tag: Tag) -> Option<(usize, Vec<u8>)> {
            let too_early = tag == Tag::HandBack && !self.1.replace(true);
            if too_early { None } else { self.0.try_receive(tag) }
        }

        fn try_receive_from(&self, from: usize, tag: Tag) -> Option<Vec<u8>> {
            self.0.try_receive_from(from, tag)
        }

        fn abort(&self, exit_code: i32) -> ! {
            self.0.abort(exit_code)
        }

        fn description(&self) -> String {
            self.0.description()
        }
    }

    #[test]
    fn images_that_arrive_just_before_the_records_are_tried_once_more() {
        let hand_back = HandBack {
            places: vec![0, 1],
            error: "no such file".to_owned(),
            gives_up: true,
        };
        let hosts = ["n0", "n1"].map(str::to_owned);
        run_on_threads(2, |comm| {
            let record = RankRecord {
                row: RankRow::default(),
                images: Vec::new(),
            };
            if comm.rank() == 1 {
                comm.send(ROOT, Tag::HandBack, &comm::encode(&hand_back));
                let records = comm::encode(&(ProgressUpdate::default(), record));
                comm.send(ROOT, Tag::Records, &records);
                comm::gather(comm, ());
                return;
            }
            comm::gather(comm, ());
            let mut state = Coordinator::new((0..2).collect(), &[], &[1, 1]);
            assert_eq!(state.on_request(1, 2), [0, 1]);
            take_messages(&AfterALook(comm, Cell::new(false)), &mut state, &hosts);
            assert!(state.ranks[1].record.is_some());
            assert!(state.may_bring_more(), "the images are lost");
            assert_eq!(state.on_request(ROOT, 2), [0, 1]);
        });
    }

    #[test]
    fn a_rank_that_got_its_last_images_gets_no_second_tries() {
        let mut state = coordinator(2, &[]);
        assert_eq!(state.on_request(1, 1), [0]);
        assert_eq!(state.on_request(2, 1), [1]);
        state.on_progress(2, progress(1, 0));
        // This reply ends rank 2. Its next request was already on its way.
        assert_eq!(state.on_request(2, 1), [0; 0]);
        let hand_back = HandBack {
            places: vec![0],
            ..HandBack::default()
        };
        state.on_hand_back(1, "n1", hand_back);
        assert_eq!(state.on_request(2, 1), [0; 0]);
        assert!(state.may_bring_more());
        assert_eq!(state.on_request(ROOT, 1), [0]);
    }

    #[test]
    fn on_a_full_disk_the_smallest_images_are_tried_before_all_stop() {
        let costs_s = [5.0, 4.0, 0.5, 0.2];
        let mut state = coordinator(4, &costs_s);
        assert_eq!(state.on_request(1, 1), [0]);
        state.on_progress(1, progress(0, state.enough - 1));
        assert_eq!(state.next_order(), None);
        state.on_progress(1, progress(0, state.enough));
        assert_eq!(state.next_order(), Some(Order::SmallestFirst));
        assert_eq!(state.next_order(), None);
        assert_eq!(state.on_request(1, 2), [3, 2]);
        let before = state.enough;
        state.on_progress(1, progress(2, before));
        state.on_progress(2, progress(0, before - 1));
        assert_eq!(state.next_order(), None);
        state.on_progress(2, progress(0, 2 * before));
        assert_eq!(state.next_order(), Some(Order::Stop));
        assert!(!state.may_bring_more() && state.disk_full);
    }

    #[test]
    fn one_rank_that_stops_stops_all_once() {
        let mut state = coordinator(4, &[]);
        state.on_progress(
            2,
            ProgressUpdate {
                stopping: true,
                ..progress(0, 0)
            },
        );
        assert_eq!(state.next_order(), Some(Order::Stop));
        assert_eq!(state.next_order(), None);
        assert_eq!(state.on_request(1, 1), [0; 0]);
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let mut watch = SpaceWatch::default();
        let mut in_a_row = |updates: &[(usize, usize)]| {
            watch.in_a_row(updates.iter().map(|&(done, no_space)| progress(done, no_space)))
        };
        assert_eq!(in_a_row(&[(0, 1), (0, 1)]), 2);
        assert_eq!(in_a_row(&[(1, 1), (0, 1)]), 0);
        assert_eq!(in_a_row(&[(1, 2), (0, 3)]), 3);
    }
}
