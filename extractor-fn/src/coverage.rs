//! Which events an earlier snapshot already covers.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use shared::Id;

/// How many conversations are remembered: some 20 MB. Forgetting one costs a fetch.
const CONVERSATIONS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
/// How far Gladly's clock may be ahead of ours.
const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// When the newest snapshot that the destination has accepted was begun, by conversation.
pub(crate) struct Coverage(Mutex<LruCache<Id, Timestamp>>);

impl Coverage {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(LruCache::new(CONVERSATIONS)))
    }

    /// The destination has a snapshot whose fetch began then.
    pub(crate) fn accepted(&self, conversation: &Id, fetched_at: Timestamp) {
        let mut snapshots = self.snapshots();
        if snapshots.peek(conversation).is_none_or(|known| *known < fetched_at) {
            snapshots.put(conversation.clone(), fetched_at);
        }
    }

    /// Whether the destination has a snapshot that was begun clearly after the event.
    pub(crate) fn covers(&self, conversation: &Id, event: Option<Timestamp>) -> bool {
        let (Some(event), Some(fetched_at)) = (event, self.snapshots().get(conversation).copied())
        else {
            return false;
        };
        fetched_at.duration_since(event) >= SKEW
    }

    fn snapshots(&self) -> MutexGuard<'_, LruCache<Id, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_fetched_clearly_after_an_event_covers_it() {
        let (coverage, id) = (Coverage::new(), "c".parse().unwrap());
        let at = |second| Timestamp::from_second(second).unwrap();
        assert!(!coverage.covers(&id, Some(at(0))));
        coverage.accepted(&id, at(100));
        coverage.accepted(&id, at(50));
        assert!(coverage.covers(&id, Some(at(95))));
        assert!(!coverage.covers(&id, Some(at(96))));
        assert!(!coverage.covers(&id, None));
        assert!(!coverage.covers(&"other".parse().unwrap(), Some(at(0))));
    }

    #[test]
    fn memory_is_bounded_and_the_most_recent_stay() {
        let coverage = Coverage::new();
        let id = |n: i64| format!("c{n}").parse::<Id>().unwrap();
        for n in 0..150_000 {
            coverage.accepted(&id(n), Timestamp::from_second(n).unwrap());
        }
        assert_eq!(coverage.snapshots().len(), 100_000);
        assert!(coverage.covers(&id(149_999), Some(Timestamp::UNIX_EPOCH)));
        assert!(!coverage.covers(&id(6), Some(Timestamp::UNIX_EPOCH)));
    }
}
