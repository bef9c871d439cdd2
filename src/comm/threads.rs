//! Ranks as threads of one process, for tests of several ranks without MPI.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use super::{Communicator, Tag};

type Mailbox = Mutex<HashMap<Tag, VecDeque<(usize, Vec<u8>)>>>;

/// One rank of a world of threads.
pub struct ThreadRank {
    rank: usize,
    mailboxes: Arc<Vec<Mailbox>>,
}

/// Runs `rank_main` once on each of `size` ranks and returns what each returned, in the order of ranks.
///
/// # Panics
/// When one of the ranks panics.
pub fn run_on_threads<T: Send>(size: usize, rank_main: impl Fn(&ThreadRank) -> T + Sync) -> Vec<T> {
    let mailboxes: Arc<Vec<Mailbox>> = Arc::new((0..size).map(|_| Mailbox::default()).collect());
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let rank = ThreadRank {
                    rank,
                    mailboxes: Arc::clone(&mailboxes),
                };
                let rank_main = &rank_main;
                scope.spawn(move || rank_main(&rank))
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().expect("a rank panicked"))
            .collect()
    })
}

impl Communicator for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.mailboxes.len()
    }

    fn send(&self, to: usize, tag: Tag, message: &[u8]) {
        assert_ne!(to, self.rank, "a rank does not write to itself");
        let mut mailbox = self.mailboxes[to]
            .lock()
            .expect("no rank panics with a mailbox open");
        mailbox
            .entry(tag)
            .or_default()
            .push_back((self.rank, message.to_vec()));
    }

    fn try_receive(&self, tag: Tag) -> Option<(usize, Vec<u8>)> {
        let mut mailbox = self.mailboxes[self.rank]
            .lock()
            .expect("no rank panics with a mailbox open");
        mailbox.get_mut(&tag)?.pop_front()
    }

    fn try_receive_from(&self, from: usize, tag: Tag) -> Option<Vec<u8>> {
        let mut mailbox = self.mailboxes[self.rank]
            .lock()
            .expect("no rank panics with a mailbox open");
        let messages = mailbox.get_mut(&tag)?;
        let place = messages.iter().position(|(sender, _)| *sender == from)?;
        messages.remove(place).map(|(_, message)| message)
    }

    fn abort(&self, exit_code: i32) -> ! {
        panic!("rank {} aborts the run with exit code {exit_code}", self.rank)
    }

    fn description(&self) -> String {
        "threads of one process".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broadcast_reaches_every_rank_and_a_gather_keeps_their_order() {
        for size in 1..=5 {
            let results = run_on_threads(size, |comm| {
                let message = if comm.rank() == 0 {
                    b"plan".to_vec()
                } else {
                    Vec::new()
                };
                let heard = comm.broadcast(message);
                let gathered = comm.gather(vec![comm.rank() as u8]);
                (heard, gathered)
            });
            for (rank, (heard, gathered)) in results.into_iter().enumerate() {
                assert_eq!(heard, b"plan");
                let expected = (0..size).map(|rank| vec![rank as u8]).collect::<Vec<_>>();
                assert_eq!(gathered, (rank == 0).then_some(expected));
            }
        }
    }

    #[test]
    fn messages_of_one_kind_keep_their_order_and_kinds_do_not_mix() {
        run_on_threads(2, |comm| {
            if comm.rank() == 1 {
                comm.send(0, Tag::Progress, b"p");
                comm.send(0, Tag::Request, b"1");
                comm.send(0, Tag::Request, b"2");
            } else {
                assert_eq!(comm.receive(Tag::Request), (1, b"1".to_vec()));
                assert_eq!(comm.receive(Tag::Request), (1, b"2".to_vec()));
                assert_eq!(comm.receive(Tag::Progress), (1, b"p".to_vec()));
                assert_eq!(comm.try_receive(Tag::Progress), None);
            }
        });
    }

    #[test]
    fn a_fast_ranks_second_gather_is_not_taken_for_its_first() {
        let gathered = run_on_threads(3, |comm| {
            if comm.rank() == 1 {
                // Both messages of rank 1 arrive before rank 2 sends its first.
                let gathered = [comm.gather(b"1a".to_vec()), comm.gather(b"1b".to_vec())];
                comm.send(2, Tag::Progress, b"go");
                return gathered;
            }
            if comm.rank() == 2 {
                comm.receive(Tag::Progress);
            }
            let message = |gather: char| format!("{}{gather}", comm.rank()).into_bytes();
            [comm.gather(message('a')), comm.gather(message('b'))]
        });
        let expected = |gather: char| {
            let parts = (0..3).map(|rank| format!("{rank}{gather}").into_bytes());
            Some(parts.collect::<Vec<_>>())
        };
        assert_eq!(gathered[0], [expected('a'), expected('b')]);
    }
}
