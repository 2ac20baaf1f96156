//! Ready: what may go as soon as the road is open: what the operator raised first, then in order of arrival.
//!
//! Pure. One shelf for each priority, so that nobody has to look through the others to find the next.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use crate::clock::Timestamp;
use crate::mail::{MessageId, Priority};

use super::job::Job;

/// Boxed, since a tree that grows at its end stays half empty.
type Shelf = BTreeMap<MessageId, Box<Job>>;

#[derive(Debug, Default)]
pub(super) struct Ready {
    high: Shelf,
    normal: Shelf,
    low: Shelf,
}

impl Ready {
    fn shelves(&self) -> [&Shelf; 3] {
        [&self.high, &self.normal, &self.low]
    }

    fn shelves_mut(&mut self) -> [&mut Shelf; 3] {
        [&mut self.high, &mut self.normal, &mut self.low]
    }

    /// The same message may come twice, by two of its recipients: one transaction serves both.
    pub(super) fn add(&mut self, mut job: Box<Job>) {
        if let Some(there) = self.remove(job.id()) {
            job.merge(*there);
        }
        let shelf = match job.order() {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
            Priority::Low => &mut self.low,
        };
        shelf.insert(job.id(), job);
    }

    pub(super) fn remove(&mut self, id: MessageId) -> Option<Box<Job>> {
        self.shelves_mut().into_iter().find_map(|shelf| shelf.remove(&id))
    }

    pub(super) fn get(&self, id: MessageId) -> Option<&Job> {
        self.shelves().into_iter().find_map(|shelf| shelf.get(&id)).map(|job| &**job)
    }

    pub(super) fn get_mut(&mut self, id: MessageId) -> Option<&mut Job> {
        self.shelves_mut().into_iter().find_map(|shelf| shelf.get_mut(&id)).map(|job| &mut **job)
    }

    pub(super) fn first(&self) -> Option<MessageId> {
        self.shelves().into_iter().find_map(|shelf| shelf.first_key_value()).map(|(id, _)| *id)
    }

    /// The first; but a message that was put off in the last probe lets the next one try, so that one
    /// message nobody wants cannot keep a road closed.
    pub(super) fn next_probe(&self, refused: Option<MessageId>) -> Option<MessageId> {
        let after =
            |shelf: &Shelf, refused| shelf.range((Excluded(refused), Unbounded)).next().map(|(id, _)| *id);
        refused
            .and_then(|refused| self.shelves().into_iter().find_map(|shelf| after(shelf, refused)))
            .or_else(|| self.first())
    }

    /// Takes out what expires by now. Those that were held expire later than their age says, and do not
    /// stand before the others.
    pub(super) fn take_expired(&mut self, expires: impl Fn(&Job) -> Timestamp, now: Timestamp) -> Vec<Job> {
        let mut expired = Vec::new();
        for shelf in self.shelves_mut() {
            let mut ids = Vec::new();
            for (id, job) in &*shelf {
                match (expires(job) <= now, job.was_held()) {
                    (true, _) => ids.push(*id),
                    (false, true) => {}
                    (false, false) => break,
                }
            }
            expired.extend(ids.iter().filter_map(|id| shelf.remove(id)).map(|job| *job));
        }
        expired
    }

    pub(super) fn next_expiry(&self, expires: impl Fn(&Job) -> Timestamp) -> Option<Timestamp> {
        let of_shelf = |shelf: &Shelf| {
            let held = shelf.values().take_while(|job| job.was_held());
            let first = shelf.values().find(|job| !job.was_held());
            held.chain(first).map(|job| expires(job)).min()
        };
        self.shelves().into_iter().filter_map(of_shelf).min()
    }

    pub(super) fn oldest(&self) -> Option<Timestamp> {
        let first = |shelf: &Shelf| shelf.first_key_value().map(|(_, job)| job.envelope.received_at);
        self.shelves().into_iter().filter_map(first).min()
    }

    /// The first of each shelf beyond this one; those that were held are passed over.
    pub(super) fn beyond(&self, id: MessageId) -> impl Iterator<Item = &Job> {
        self.shelves().into_iter().filter_map(move |shelf| {
            shelf.range((Excluded(id), Unbounded)).map(|(_, job)| &**job).find(|job| !job.was_held())
        })
    }

    /// Each shelf by itself, in order of arrival.
    pub(super) fn each_beyond_mut(
        &mut self,
        id: MessageId,
    ) -> [std::collections::btree_map::RangeMut<'_, MessageId, Box<Job>>; 3] {
        self.shelves_mut().map(|shelf| shelf.range_mut((Excluded(id), Unbounded)))
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Box<Job>> + use<> {
        let Self { high, normal, low } = std::mem::take(self);
        [high, normal, low].into_iter().flat_map(Shelf::into_values)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Job> {
        self.shelves().into_iter().flat_map(|shelf| shelf.values()).map(|job| &**job)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.shelves_mut().into_iter().flat_map(|shelf| shelf.values_mut()).map(|job| &mut **job)
    }

    pub(super) fn len(&self) -> usize {
        self.shelves().into_iter().map(BTreeMap::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
