//! Stream: the voxels of a compressed image on their way from the rank that inflates it to those that share
//! it, which hold a few pieces.
//!
//! The last rank of the group inflates, because it makes the last section of each round. It sends a piece
//! only to a rank that has asked for it, so it never waits in a send, and goes on when every rank that needs
//! the piece has it.
//!
//! | message | from | meaning |
//! |---|---|---|
//! | empty | rank | asks for its next piece |
//! | one byte | rank | the end: it asks no more and receives no more |
//! | bytes | inflating rank | the part of a piece that the rank's section needs |
//! | empty | inflating rank | there are no more pieces |
//!
//! After its end, a rank takes what may still be on its way: the pieces that it has asked for, or the last
//! message. The inflating rank waits for the end of every rank. So no message is left for the next image.

use std::ops::Range;

use crossbeam_channel::{Sender, TrySendError};

use super::groups::Group;
use crate::comm::{Communicator, Tag};
use crate::job::outcome::Failure;
use crate::job::shared::{
    Feed, Inflated, Inflater, Needs, PIECE_BYTES, PIECES_AHEAD, SectionFacts, pieces_of,
};

/// What a thread has found about the file that it inflates; `None` if it has not ended or has panicked.
pub(super) type Found = Option<Result<SectionFacts, Failure>>;

/// The next piece of a rank: pieces of its first section, of its second, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    section: usize,
    piece: u64,
}

/// What the ranks of a group need.
struct Order {
    group: Group,
    needs: Needs,
}

impl Order {
    fn begin(&self, rank: usize) -> Cursor {
        self.at_section(rank - self.group.first)
    }

    fn at_section(&self, section: usize) -> Cursor {
        let need = self.needs.get(section);
        Cursor {
            section,
            piece: need.map_or(0, |need| pieces_of(need).start),
        }
    }

    /// The part of a piece that the section needs; `None` after the last section.
    fn part(&self, cursor: Cursor) -> Option<Range<usize>> {
        let need = self.needs.get(cursor.section)?;
        let begin = cursor.piece * PIECE_BYTES;
        let of_piece = |byte: u64| byte.clamp(begin, begin + PIECE_BYTES) - begin;
        Some(of_piece(need.start) as usize..of_piece(need.end) as usize)
    }

    /// Whether it is the last piece of its section.
    fn ends_section(&self, cursor: Cursor) -> bool {
        let need = self.needs.get(cursor.section);
        need.is_none_or(|need| cursor.piece + 1 == pieces_of(need).end)
    }

    fn after(&self, cursor: Cursor) -> Cursor {
        match self.ends_section(cursor) {
            true => self.at_section(cursor.section + self.group.count),
            false => Cursor {
                piece: cursor.piece + 1,
                ..cursor
            },
        }
    }

    fn is_over(&self, cursor: Cursor) -> bool {
        cursor.section >= self.needs.len()
    }
}

/// One rank's part of a stream.
pub(super) struct Stream {
    order: Order,
    /// This rank's next piece.
    next: Cursor,
    /// Where its section takes pieces from, while it needs more.
    feed: Option<Sender<Vec<u8>>>,
    side: Side,
}

#[allow(clippy::large_enum_variant, reason = "a rank has one at a time")]
enum Side {
    Inflates(Inflating),
    Receives(Receiving),
}

/// The state of the rank that inflates.
struct Inflating {
    /// `None` after its end.
    inflater: Option<Inflater>,
    /// The number of the piece at hand.
    number: u64,
    piece: Option<Vec<u8>>,
    listeners: Vec<Listener>,
    /// What was found about the file, after its end.
    found: Found,
}

/// Another rank.
struct Listener {
    rank: usize,
    next: Cursor,
    asked: usize,
    ended: bool,
}

/// The state of another rank.
struct Receiving {
    from: usize,
    asked: usize,
    /// It has told its end.
    ended: bool,
    /// No more messages come.
    over: bool,
}

impl Stream {
    /// The part of a rank in the stream of an image; `inflater` on the last rank of the group.
    pub(super) fn new(group: Group, needs: Needs, rank: usize, inflater: Option<Inflater>) -> Self {
        let order = Order { group, needs };
        let last = group.last();
        let listeners = (group.first..last).map(|rank| Listener {
            rank,
            next: order.begin(rank),
            asked: 0,
            ended: false,
        });
        let side = match rank == last {
            true => Side::Inflates(Inflating {
                inflater,
                number: 0,
                piece: None,
                listeners: listeners.collect(),
                found: None,
            }),
            false => Side::Receives(Receiving {
                from: last,
                asked: 0,
                ended: false,
                over: false,
            }),
        };
        let next = order.begin(rank);
        Stream {
            order,
            next,
            feed: None,
            side,
        }
    }

    /// The feed of this rank's next section.
    pub(super) fn feed(&mut self) -> Feed {
        let (sender, feed) = Feed::new();
        let is_left = match &self.side {
            Side::Receives(receiving) => receiving.ended,
            Side::Inflates(_) => false,
        };
        self.feed = (!is_left && !self.order.is_over(self.next)).then_some(sender);
        feed
    }

    /// Whether this rank's section needs more pieces.
    pub(super) fn has_feed(&self) -> bool {
        self.feed.is_some()
    }

    /// Does what is possible without waiting. Returns whether that was anything.
    pub(super) fn advance(&mut self, comm: &impl Communicator) -> bool {
        let Stream {
            order,
            next,
            feed,
            side,
        } = self;
        match side {
            Side::Inflates(inflating) => inflating.advance(comm, order, (next, feed)),
            Side::Receives(receiving) => receiving.advance(comm, order, (next, feed)),
        }
    }

    /// This rank needs no more pieces.
    pub(super) fn leave(&mut self, comm: &impl Communicator) {
        self.feed = None;
        match &mut self.side {
            Side::Receives(receiving) => receiving.end(comm, self.order.is_over(self.next)),
            Side::Inflates(_) => self.next = self.order.at_section(self.order.needs.len()),
        }
    }

    /// No rank needs more pieces, because the image has failed.
    pub(super) fn give_up(&mut self, comm: &impl Communicator) {
        self.leave(comm);
        if let Side::Inflates(inflating) = &mut self.side {
            inflating.end(comm, &self.order);
        }
    }

    /// Whether no more messages come. [`Stream::advance`] has to be called until then.
    pub(super) fn is_over(&self) -> bool {
        match &self.side {
            Side::Receives(receiving) => receiving.over,
            Side::Inflates(inflating) => {
                inflating.inflater.is_none() && inflating.listeners.iter().all(|listener| listener.ended)
            }
        }
    }

    /// On the rank that inflates, what its thread has found about the file.
    pub(super) fn into_found(self) -> Option<Found> {
        match self.side {
            Side::Inflates(inflating) => Some(inflating.found),
            Side::Receives(_) => None,
        }
    }
}

impl Inflating {
    fn advance(
        &mut self,
        comm: &impl Communicator,
        order: &Order,
        (next, feed): (&mut Cursor, &mut Option<Sender<Vec<u8>>>),
    ) -> bool {
        let mut active = false;
        for listener in self.listeners.iter_mut().filter(|listener| !listener.ended) {
            while let Some(message) = comm.try_receive_from(listener.rank, Tag::Voxels) {
                active = true;
                match message.is_empty() {
                    true => listener.asked += 1,
                    false => {
                        listener.ended = true;
                        if self.inflater.is_some() && !order.is_over(listener.next) {
                            comm.send(listener.rank, Tag::Voxels, &[]);
                        }
                        break;
                    }
                }
            }
        }
        let Some(inflater) = &self.inflater else {
            return active;
        };
        if self.piece.is_none() {
            match inflater.next() {
                Inflated::Piece(piece) => self.piece = Some(piece),
                Inflated::NotYet => return active,
                Inflated::End => {
                    *feed = None;
                    self.end(comm, order);
                    return true;
                }
            }
        }
        let (number, Some(piece)) = (self.number, &self.piece) else {
            return active;
        };
        let mut needed = false;
        for listener in self.listeners.iter_mut().filter(|listener| !listener.ended) {
            while listener.next.piece == number
                && listener.asked > 0
                && let Some(part) = order.part(listener.next)
            {
                comm.send(listener.rank, Tag::Voxels, &piece[part]);
                listener.asked -= 1;
                listener.next = order.after(listener.next);
                active = true;
            }
            needed |= listener.next.piece == number && !order.is_over(listener.next);
        }
        if let Some(part) = order.part(*next).filter(|_| next.piece == number) {
            active |= put(order, next, feed, || piece[part].to_vec());
            needed |= next.piece == number && !order.is_over(*next);
        }
        if !needed {
            active = true;
            self.number += 1;
            self.piece
                .take()
                .into_iter()
                .for_each(|piece| inflater.recycle(piece));
        }
        active
    }

    /// Ends inflating, and tells the ranks that wait for more.
    fn end(&mut self, comm: &impl Communicator, order: &Order) {
        let Some(inflater) = self.inflater.take() else {
            return;
        };
        let waiting = self.listeners.iter().filter(|listener| !listener.ended);
        for listener in waiting.filter(|listener| !order.is_over(listener.next)) {
            comm.send(listener.rank, Tag::Voxels, &[]);
        }
        self.found = inflater.finish();
    }
}

impl Receiving {
    fn advance(
        &mut self,
        comm: &impl Communicator,
        order: &Order,
        (next, feed): (&mut Cursor, &mut Option<Sender<Vec<u8>>>),
    ) -> bool {
        let mut active = false;
        if let Some(sender) = feed {
            let section = order.needs.get(next.section).map_or(0..0, pieces_of);
            let left = (section.end - next.piece) as usize;
            while self.asked < left && self.asked + sender.len() < PIECES_AHEAD {
                comm.send(self.from, Tag::Voxels, &[]);
                self.asked += 1;
                active = true;
            }
        }
        while !self.over && (self.asked > 0 || self.ended) {
            let Some(message) = comm.try_receive_from(self.from, Tag::Voxels) else {
                break;
            };
            active = true;
            if message.is_empty() {
                *feed = None;
                self.end(comm, false);
                self.over = true;
                break;
            }
            self.asked -= 1;
            if self.ended {
                *next = order.after(*next);
            } else if !put(order, next, feed, || message) {
                // The section has failed.
                *next = order.after(*next);
                self.end(comm, order.is_over(*next));
            }
            if order.is_over(*next) {
                self.end(comm, true);
                self.over = true;
            }
        }
        active
    }

    /// Tells the end. If `all` pieces were received, no message is on its way.
    fn end(&mut self, comm: &impl Communicator, all: bool) {
        if !self.ended {
            comm.send(self.from, Tag::Voxels, &[1]);
            self.ended = true;
        }
        self.over |= all;
    }
}

/// Puts a piece into the feed of this rank's section, if there is room for it. Returns whether it did.
fn put(
    order: &Order,
    next: &mut Cursor,
    feed: &mut Option<Sender<Vec<u8>>>,
    piece: impl FnOnce() -> Vec<u8>,
) -> bool {
    let Some(sender) = feed.as_ref().filter(|sender| !sender.is_full()) else {
        return false;
    };
    match sender.try_send(piece()) {
        Ok(()) => {
            if order.ends_section(*next) {
                *feed = None;
            }
            *next = order.after(*next);
            true
        }
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            *feed = None;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::comm::threads::run_on_threads;
    use crate::image_io::{Image, ImageReader, ImageWriter};
    use crate::volume::{Datatype, Volume};

    /// Ten pieces of one image.
    const BYTES: usize = 10 * PIECE_BYTES as usize;

    fn voxel(place: usize) -> u8 {
        (place * 31 % 251) as u8
    }

    fn write(path: &Path) {
        let mut volume = Volume::zeros(&[1024, 1024, 10], Datatype::Uint8);
        for (place, byte) in volume.voxels.as_bytes_mut().iter_mut().enumerate() {
            *byte = voxel(place);
        }
        ImageWriter::new().write(path, &Image::new(volume)).unwrap();
    }

    /// So many sections with half a piece around each.
    fn needs(sections: usize) -> Needs {
        let around = PIECE_BYTES / 2;
        let end = |section: usize| (BYTES * section / sections) as u64;
        let bytes =
            |section| end(section).saturating_sub(around)..(end(section + 1) + around).min(BYTES as u64);
        (0..sections).map(bytes).collect()
    }

    /// When a rank fails: at its `nth` section, before it takes a piece.
    type Failing = Option<(usize, usize)>;

    /// How many of its sections a rank has made, and what was found about the file.
    fn of_rank(
        comm: &impl Communicator,
        path: &Path,
        needs: &Needs,
        failing: Failing,
    ) -> (usize, Option<Found>) {
        let (rank, group) = (comm.rank(), group(comm.size()));
        let inflater = (rank == group.last()).then(|| Inflater::start(path.to_path_buf()).unwrap());
        let mut stream = Stream::new(group, needs.clone(), rank, inflater);
        let mut made = 0;
        for (nth, need) in group.sections_of(rank, needs).enumerate() {
            let mut feed = stream.feed();
            let fails = failing == Some((rank, nth));
            let reading = std::thread::spawn({
                let mut bytes = vec![0; (need.end - need.start) as usize];
                move || (!fails && feed.read(&mut bytes)).then_some(bytes)
            });
            while !reading.is_finished() {
                if !stream.advance(comm) {
                    std::thread::sleep(Duration::from_micros(20));
                }
            }
            let Some(bytes) = reading.join().unwrap() else {
                stream.give_up(comm);
                break;
            };
            let same = |(place, &byte): (usize, &u8)| byte == voxel(need.start as usize + place);
            assert!(bytes.iter().enumerate().all(same), "rank {rank}, section {nth}");
            assert!(!stream.has_feed());
            made += 1;
        }
        stream.leave(comm);
        while !stream.is_over() {
            if !stream.advance(comm) {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
        // A message that is left would be one of the next image.
        assert_eq!(comm.try_receive(Tag::Voxels), None);
        (made, stream.into_found())
    }

    fn group(count: usize) -> Group {
        Group {
            place: 0,
            first: 0,
            count,
            always: true,
        }
    }

    #[test]
    fn every_section_gets_its_voxels_and_no_message_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii.gz");
        write(&path);
        for ranks in [2, 3, 4, 8] {
            for sections in [ranks - 1, ranks, 2 * ranks, 3 * ranks - 1] {
                let needs = needs(sections);
                let found = run_on_threads(ranks, |comm| of_rank(comm, &path, &needs, None));
                let made: usize = found.iter().map(|(made, _)| made).sum();
                assert_eq!(made, sections, "{ranks} ranks");
                let (_, file) = &found[ranks - 1];
                assert!(
                    matches!(file, Some(Some(Ok(_)))),
                    "{ranks} ranks, {sections} sections"
                );
            }
        }
    }

    #[test]
    fn a_rank_that_fails_stops_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii.gz");
        write(&path);
        for ranks in [2, 3, 4] {
            for failing in 0..ranks {
                for nth in 0..2 {
                    let needs = needs(2 * ranks);
                    let failing = Some((failing, nth));
                    let found = run_on_threads(ranks, |comm| of_rank(comm, &path, &needs, failing));
                    let made: usize = found.iter().map(|(made, _)| made).sum();
                    assert!(made < 2 * ranks, "{ranks} {failing:?}");
                }
            }
        }
    }

    #[test]
    fn a_damaged_file_ends_the_stream_of_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.nii.gz");
        write(&path);
        let whole = std::fs::read(&path).unwrap();
        let mut wrong_sum = whole.clone();
        let sum = wrong_sum.len() - 6;
        wrong_sum[sum] ^= 1;
        let garbage = [&whole[..], b"abc"].concat();
        for damaged in [&whole[..whole.len() / 2], &wrong_sum, &garbage] {
            std::fs::write(&path, damaged).unwrap();
            for ranks in [2, 4] {
                let needs = needs(2 * ranks);
                let found = run_on_threads(ranks, |comm| of_rank(comm, &path, &needs, None));
                let made: usize = found.iter().map(|(made, _)| made).sum();
                assert!(made < 2 * ranks);
                let Some(Some(Err(failure))) = &found[ranks - 1].1 else {
                    panic!("the damage is not found");
                };
                let whole = ImageReader::new().read(&path, &mut Image::default());
                assert_eq!(failure.error, whole.unwrap_err().to_string());
            }
        }
    }
}
