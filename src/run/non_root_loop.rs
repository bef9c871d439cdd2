//! The loop of every rank except the root: works, requests images with `dynamic`, and reports to the root.

use std::time::{Duration, Instant};

use super::rank_loop::{LOOK_DYNAMIC, LOOK_FIXED, ProgressUpdate, RankLoop};
use super::root_loop::Order;
use crate::comm::{self, Communicator, ROOT, Tag};

/// How often a rank reports its progress to the root.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// State of the exchange between a rank and the root.
struct Dialogue {
    /// The rank requests its images from the root.
    asks: bool,
    /// Requested images without a reply.
    requested: usize,
    reported: ProgressUpdate,
    reported_at: Instant,
}

/// Works until no images are left, then sends the records. Exchanges messages with the root.
pub(super) fn run<C: Communicator>(own: &mut RankLoop<'_, C>, asks: bool, costs_s: &[f64]) {
    let mut dialogue = Dialogue {
        asks,
        requested: 0,
        reported: ProgressUpdate::default(),
        reported_at: Instant::now(),
    };
    while own.working {
        own.listen(match dialogue.requested {
            0 => LOOK_FIXED,
            _ => LOOK_DYNAMIC,
        });
        dialogue.take_orders(own, costs_s);
        dialogue.ask(own);
        dialogue.report(own);
    }
    // Every message must be received before the end, and images that arrive after giving up must be returned.
    while dialogue.requested > 0 {
        let message = own.comm.receive_from(ROOT, Tag::Assignment);
        dialogue.on_assignment(own, &message);
    }
    dialogue.give_back(own);
    let record = own.record();
    let message = comm::encode(&(own.progress, record));
    own.comm.send(ROOT, Tag::Records, &message);
    take_last_orders(own.comm);
}

/// Receives the orders that the root sent before it had the records. MPI requires that every message is
/// received before it is finalised.
fn take_last_orders(comm: &impl Communicator) {
    while comm::decode::<Order>(&comm.receive_from(ROOT, Tag::Order)) != Order::End {}
}

impl Dialogue {
    fn take_orders<C: Communicator>(&mut self, own: &mut RankLoop<'_, C>, costs_s: &[f64]) {
        while let Some(message) = own.comm.try_receive_from(ROOT, Tag::Assignment) {
            self.on_assignment(own, &message);
        }
        while let Some(message) = own.comm.try_receive_from(ROOT, Tag::Order) {
            match comm::decode(&message) {
                Order::SmallestFirst => own.queue.put_smallest_first(costs_s),
                Order::Stop | Order::End => own.stop_early(),
            }
        }
    }

    fn on_assignment<C: Communicator>(&mut self, own: &mut RankLoop<'_, C>, message: &[u8]) {
        let (answered, places): (usize, Vec<usize>) = comm::decode(message);
        self.requested -= answered;
        if let Some(hand_back) = own.hand_back.as_mut().filter(|back| back.gives_up) {
            hand_back.places.extend(places);
        } else if !own.progress.stopping {
            let last = places.len() < answered;
            own.queue.add(places);
            if last {
                own.queue.close();
            }
        }
    }

    fn ask<C: Communicator>(&mut self, own: &RankLoop<'_, C>) {
        if !self.asks {
            return;
        }
        let wanted = own.queue.wanted(own.ahead()).saturating_sub(self.requested);
        if wanted > 0 {
            self.requested += wanted;
            own.comm.send(ROOT, Tag::Request, &comm::encode(&wanted));
        }
    }

    fn report<C: Communicator>(&mut self, own: &mut RankLoop<'_, C>) {
        self.give_back(own);
        let now = own.progress;
        // The root waits for these two.
        let urgent = now.stopping != self.reported.stopping
            || (self.asks && now.opens_images != self.reported.opens_images);
        if urgent || (now != self.reported && self.reported_at.elapsed() >= REPORT_EVERY) {
            self.reported = now;
            self.reported_at = Instant::now();
            own.comm.send(ROOT, Tag::Progress, &comm::encode(&now));
        }
    }

    fn give_back<C: Communicator>(&self, own: &mut RankLoop<'_, C>) {
        let Some(hand_back) = &mut own.hand_back else {
            return;
        };
        if !hand_back.places.is_empty() {
            own.comm.send(ROOT, Tag::HandBack, &comm::encode(hand_back));
            hand_back.places.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::threads::run_on_threads;

    #[test]
    fn orders_after_the_records_are_received() {
        run_on_threads(2, |comm| {
            if comm.rank() == ROOT {
                for order in [Order::SmallestFirst, Order::Stop, Order::End] {
                    comm.send(1, Tag::Order, &comm::encode(&order));
                }
            } else {
                take_last_orders(comm);
                assert_eq!(comm.try_receive_from(ROOT, Tag::Order), None);
            }
        });
    }
}
