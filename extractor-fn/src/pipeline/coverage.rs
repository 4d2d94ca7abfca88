//! Which events an earlier snapshot already covers.

use std::{
    collections::BTreeSet,
    mem,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use shared::Id;

use crate::{
    client::coverage_store::{AcceptedSnapshot, CoverageStore, MAX_READ, stable_hash},
    pipeline::{
        cache::bounded::{Bounded, Weight},
        deletions::Deletions,
        event::Event,
        lag::{READ_LAG, SKEW},
    },
};

/// How many conversations are kept at most, and in how many bytes. Evicting one costs a fetch.
const MAX_CONVERSATIONS: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();
const MAX_BYTES: usize = 32 << 20;
/// How many items are kept of each conversation: its newest ones.
const NEWEST_ITEMS: usize = 64;

/// What a snapshot shows of the things that events are about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// Hashes of its newest items.
    items: Arc<[u64]>,
    /// The conversation is closed.
    is_closed: bool,
    /// When it was last closed, by its items: it may have been reopened since.
    closed_at: Option<Timestamp>,
}

impl Shown {
    /// From the items' ids, the newest first, and whether and when the conversation was last closed.
    pub(crate) fn new<'a>(
        newest_first: impl Iterator<Item = &'a str>,
        is_closed: bool,
        closed_at: Option<Timestamp>,
    ) -> Self {
        let items = newest_first.take(NEWEST_ITEMS).map(stable_hash).collect();
        Self { items, is_closed, closed_at }
    }

    fn item(&self, item: &Id) -> bool {
        self.items.contains(&stable_hash(item.as_str()))
    }

    /// Whether it shows a close of this time.
    pub(crate) fn close(&self, at: Option<Timestamp>) -> bool {
        let shows = |at: Timestamp| {
            self.closed_at.is_some_and(|closed_at| at.duration_since(closed_at) <= SKEW)
        };
        self.is_closed || at.is_some_and(shows)
    }
}

/// A complete snapshot that the destination has accepted.
struct Accepted {
    /// When its fetch began.
    fetched_at: Timestamp,
    shown: Shown,
}

impl Weight for Accepted {
    fn bytes(&self) -> usize {
        size_of_val(&*self.shown.items)
    }
}

/// The newest complete snapshot that the destination has accepted, by conversation.
pub(crate) struct Coverage {
    snapshots: Mutex<Bounded<Accepted>>,
    /// What the other environments know, if they share it.
    store: Option<CoverageStore>,
    /// The conversations of accepted snapshots that are not yet shared.
    unshared: Mutex<BTreeSet<Id>>,
    /// What was fetched of these customers is void.
    deletions: Arc<Deletions>,
}

impl Coverage {
    pub(crate) fn new(store: Option<CoverageStore>, deletions: Arc<Deletions>) -> Self {
        let snapshots = Mutex::new(Bounded::new(MAX_CONVERSATIONS, MAX_BYTES));
        Self { snapshots, store, unshared: Mutex::default(), deletions }
    }

    /// The destination has a complete snapshot whose fetch began then.
    pub(crate) fn accepted(&self, conversation: &Id, fetched_at: Timestamp, shown: Shown) {
        self.keep(conversation, fetched_at, shown);
        if self.store.is_some() {
            self.unshared().insert(conversation.clone());
        }
    }

    /// Adds what other environments had accepted of the first of these conversations: as many as one
    /// request can name.
    pub(crate) async fn look_up(&self, conversations: impl Iterator<Item = &Id>) {
        let Some(store) = &self.store else { return };
        for snapshot in store.read(conversations.take(MAX_READ)).await {
            let AcceptedSnapshot { conversation, fetched_at, items, is_closed, closed_at } =
                snapshot;
            self.keep(&conversation, fetched_at, Shown { items, is_closed, closed_at });
        }
    }

    /// Shares what was accepted since the last time.
    pub(crate) async fn share(&self) {
        let Some(store) = &self.store else { return };
        let unshared = mem::take(&mut *self.unshared());
        let snapshot = |conversation: Id| {
            let snapshots = self.snapshots();
            let Accepted { fetched_at, shown } = snapshots.peek(&conversation)?;
            let Shown { items, is_closed, closed_at } = shown.clone();
            let fetched_at = *fetched_at;
            Some(AcceptedSnapshot { conversation, fetched_at, items, is_closed, closed_at })
        };
        let accepted: Vec<_> = unshared.into_iter().filter_map(snapshot).collect();
        store.write(&accepted).await;
    }

    fn keep(&self, conversation: &Id, fetched_at: Timestamp, shown: Shown) {
        let mut snapshots = self.snapshots();
        if snapshots.peek(conversation).is_none_or(|known| known.fetched_at < fetched_at) {
            snapshots.put(conversation.clone(), Accepted { fetched_at, shown });
        }
    }

    /// Whether the destination has what an event is about, and no tombstone voids it: a snapshot whose fetch
    /// began clearly after the event and that shows its item or its close, or that began so long after it
    /// that Gladly shows everything of that time.
    pub(crate) fn covers(&self, event: &Event) -> bool {
        let mut snapshots = self.snapshots();
        let (Some(at), Some(snapshot)) = (event.recorded_at(), snapshots.get(&event.subject))
        else {
            return false;
        };
        let Accepted { fetched_at, shown } = snapshot;
        let is_void = |customer| self.deletions.void(customer, *fetched_at);
        if event.customer.as_ref().is_some_and(is_void) {
            return false;
        }
        let is_shown = !event.is_refetch()
            && event.item.as_ref().is_none_or(|item| shown.item(item.id()))
            && (!event.is_close() || shown.close(Some(at)));
        fetched_at.duration_since(at) >= if is_shown { SKEW } else { READ_LAG }
    }

    fn snapshots(&self) -> MutexGuard<'_, Bounded<Accepted>> {
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unshared(&self) -> MutexGuard<'_, BTreeSet<Id>> {
        self.unshared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared::{Origin, QueueMessage};

    use super::*;
    use crate::{client::message::Message, pipeline::event::RecordIndex};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// An event of this second.
    fn event(kind: &str, conversation: &str, second: i64, item: Option<&str>) -> Event {
        let timestamp = at(second).to_string();
        let json = json!({"type": kind, "timestamp": timestamp, "content": {
            "conversationId": conversation, "messageId": item,
        }});
        read(&json)
    }

    fn read(event: &Value) -> Event {
        let json = event.to_string();
        let body = QueueMessage::wrap(&json, at(0), Origin::Webhook).unwrap().to_json().unwrap();
        let message = Message { body, ..Message::default() };
        Event::read(RecordIndex(0), &message).unwrap().remove(0)
    }

    #[test]
    fn only_what_was_fetched_clearly_after_an_event_covers_it() {
        let (coverage, id) = (Coverage::new(None, Arc::default()), "c".parse().unwrap());
        coverage.accepted(&id, at(100), Shown::default());
        coverage.accepted(&id, at(50), Shown::default());
        let covers = |conversation, second| {
            coverage.covers(&event("CONVERSATION/CREATED", conversation, second, None))
        };
        assert!(covers("c", 95));
        assert!(!covers("c", 96));
        assert!(!covers("other", 0));
        let timeless = json!({"type": "X", "content": {"conversationId": "c"}});
        assert!(!coverage.covers(&read(&timeless)));
    }

    #[test]
    fn an_item_missing_from_a_snapshot_needs_one_begun_after_the_read_lag() {
        let (coverage, id) = (Coverage::new(None, Arc::default()), "c".parse().unwrap());
        let ids: Vec<_> = (0..100).rev().map(|n| format!("i-{n}")).collect();
        let shown = Shown::new(ids.iter().map(String::as_str), false, None);
        coverage.accepted(&id, at(100), shown);
        let covers =
            |second, item| coverage.covers(&event("MESSAGE/RECEIVED", "c", second, Some(item)));
        for (item, latest) in [("i-99", 95), ("i-36", 95), ("i-35", 70), ("unseen", 70)] {
            assert!(covers(latest, item), "{item}");
            assert!(!covers(latest + 1, item), "{item}");
        }
    }

    #[test]
    fn a_close_that_a_snapshot_does_not_show_needs_one_begun_after_the_read_lag() {
        for (is_closed, closed_at, latest) in [
            (true, None, 95),
            (false, Some(95), 95),
            // Reopened since, and the close is an earlier one.
            (false, Some(64), 70),
            (false, None, 70),
        ] {
            let (coverage, id) = (Coverage::new(None, Arc::default()), "c".parse().unwrap());
            let shown = Shown::new([].into_iter(), is_closed, closed_at.map(at));
            coverage.accepted(&id, at(100), shown);
            let covers = |second| coverage.covers(&event("CONVERSATION/CLOSED", "c", second, None));
            assert!(covers(latest), "{is_closed} {closed_at:?}");
            assert!(!covers(latest + 1), "{is_closed} {closed_at:?}");
        }
    }

    #[test]
    fn a_close_at_the_end_of_time_is_after_every_event() {
        let shown = Shown::new([].into_iter(), false, Some(Timestamp::MAX));
        assert!(shown.close(Some(at(0))) && shown.close(Some(Timestamp::MAX)));
    }

    #[test]
    fn memory_is_bounded_and_the_most_recent_stay() {
        let coverage = Coverage::new(None, Arc::default());
        let id = |n: i64| format!("c{n}").parse::<Id>().unwrap();
        let covers = |n: i64| coverage.covers(&event("X", id(n).as_str(), 0, None));
        for n in 0..150_000 {
            coverage.accepted(&id(n), at(n), Shown::default());
        }
        assert_eq!(coverage.snapshots().len(), 100_000);
        assert!(covers(149_999));
        assert!(!covers(6));

        for n in 0..100_000 {
            let items = (0..200).map(|_| "an item");
            coverage.accepted(&id(n), at(200_000), Shown::new(items, false, None));
        }
        let most = MAX_BYTES / (NEWEST_ITEMS * 8);
        assert!(coverage.snapshots().len() < most, "bounded in bytes, too");
    }
}
