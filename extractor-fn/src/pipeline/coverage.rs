//! Which events an earlier snapshot already covers.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use shared::Id;

use crate::pipeline::cache::bounded::{Bounded, Weight, hash};

/// How many conversations are kept at most, and in how many bytes. Evicting one costs a fetch.
const MAX_CONVERSATIONS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
const MAX_BYTES: usize = 32 << 20;
/// How many items are kept of each conversation: its newest ones.
const NEWEST_ITEMS: usize = 64;
/// How far Gladly's clock may be ahead of AWS's.
const SKEW: SignedDuration = SignedDuration::from_secs(5);
/// How far Gladly's reads may lag behind its events: how long an item may stay invisible.
const READ_LAG: SignedDuration = SignedDuration::from_secs(30);

/// Hashes of the newest items that a snapshot shows.
#[derive(Debug, Clone, Default)]
pub(crate) struct SeenItems(Arc<[u64]>);

impl SeenItems {
    /// From ids, the newest first.
    pub(crate) fn new<'a>(newest_first: impl Iterator<Item = &'a str>) -> Self {
        Self(newest_first.take(NEWEST_ITEMS).map(hash).collect())
    }

    fn contains(&self, item: &Id) -> bool {
        self.0.contains(&hash(item.as_str()))
    }
}

/// A complete snapshot that the destination has accepted.
struct Accepted {
    /// When its fetch began.
    fetched_at: Timestamp,
    items: SeenItems,
}

impl Weight for Accepted {
    fn bytes(&self) -> usize {
        size_of_val(&*self.items.0)
    }
}

/// The newest complete snapshot that the destination has accepted, by conversation.
pub(crate) struct Coverage(Mutex<Bounded<Accepted>>);

impl Coverage {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Bounded::new(MAX_CONVERSATIONS, MAX_BYTES)))
    }

    /// The destination has a complete snapshot whose fetch began then.
    pub(crate) fn accepted(&self, conversation: &Id, fetched_at: Timestamp, items: SeenItems) {
        let mut snapshots = self.snapshots();
        if snapshots.peek(conversation).is_none_or(|known| known.fetched_at < fetched_at) {
            snapshots.put(conversation.clone(), Accepted { fetched_at, items });
        }
    }

    /// Whether the destination has what an event of this time is about: a snapshot whose fetch began
    /// clearly after it and that shows the event's item, or that began so long after it that Gladly
    /// shows every item of that time.
    pub(crate) fn covers(
        &self,
        conversation: &Id,
        event: Option<Timestamp>,
        item: Option<&Id>,
    ) -> bool {
        let mut snapshots = self.snapshots();
        let (Some(event), Some(snapshot)) = (event, snapshots.get(conversation)) else {
            return false;
        };
        let is_shown = item.is_none_or(|item| snapshot.items.contains(item));
        let needed = if is_shown { SKEW } else { READ_LAG };
        snapshot.fetched_at.duration_since(event) >= needed
    }

    fn snapshots(&self) -> MutexGuard<'_, Bounded<Accepted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn only_what_was_fetched_clearly_after_an_event_covers_it() {
        let (coverage, id) = (Coverage::new(), "c".parse().unwrap());
        let none = SeenItems::default;
        assert!(!coverage.covers(&id, Some(at(0)), None));
        coverage.accepted(&id, at(100), none());
        coverage.accepted(&id, at(50), none());
        assert!(coverage.covers(&id, Some(at(95)), None));
        assert!(!coverage.covers(&id, Some(at(96)), None));
        assert!(!coverage.covers(&id, None, None));
        assert!(!coverage.covers(&"other".parse().unwrap(), Some(at(0)), None));
    }

    #[test]
    fn an_item_missing_from_a_snapshot_needs_one_begun_after_the_read_lag() {
        let (coverage, id) = (Coverage::new(), "c".parse().unwrap());
        let ids: Vec<_> = (0..100).rev().map(|n| format!("i-{n}")).collect();
        coverage.accepted(&id, at(100), SeenItems::new(ids.iter().map(String::as_str)));
        let covers =
            |second, item: &str| coverage.covers(&id, Some(at(second)), item.parse().ok().as_ref());
        for (item, latest) in [("i-99", 95), ("i-36", 95), ("i-35", 70), ("unseen", 70)] {
            assert!(covers(latest, item), "{item}");
            assert!(!covers(latest + 1, item), "{item}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_most_recent_stay() {
        let coverage = Coverage::new();
        let id = |n: i64| format!("c{n}").parse::<Id>().unwrap();
        for n in 0..150_000 {
            coverage.accepted(&id(n), at(n), SeenItems::default());
        }
        assert_eq!(coverage.snapshots().len(), 100_000);
        assert!(coverage.covers(&id(149_999), Some(Timestamp::UNIX_EPOCH), None));
        assert!(!coverage.covers(&id(6), Some(Timestamp::UNIX_EPOCH), None));

        for n in 0..100_000 {
            let items = (0..200).map(|_| "an item");
            coverage.accepted(&id(n), at(200_000), SeenItems::new(items));
        }
        let most = MAX_BYTES / (NEWEST_ITEMS * 8);
        assert!(coverage.snapshots().len() < most, "bounded in bytes, too");
    }
}
