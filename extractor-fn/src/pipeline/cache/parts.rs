//! The parts of a conversation that were fetched one by one, kept for its next attempt: a
//! conversation that needs more calls than an invocation has time for makes progress with each.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use shared::{Clock, Id};

use crate::pipeline::cache::bounded::{Bounded, Weight};

/// How long parts are cached, counted from the first of a conversation.
const PARTS_TTL: SignedDuration = SignedDuration::from_hours(1);
/// Conversations whose parts are kept, and the bytes they take together.
const MAX_CONVERSATIONS: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
const MAX_BYTES: usize = 32 << 20;
/// Bytes of a part besides its text.
const PART_BYTES: usize = 120;

/// A part of a conversation that needs a call of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// An item, as JSON.
    Item,
    /// The transcript of a call or a voicemail.
    Transcript,
}

/// Parts by conversation.
pub(crate) struct Parts {
    kept: Mutex<Bounded<Kept>>,
    clock: Clock,
}

/// The parts of a conversation. An empty text is a part that Gladly does not have.
struct Kept {
    since: Timestamp,
    texts: HashMap<(Part, Id), Arc<str>>,
    bytes: usize,
}

impl Weight for Kept {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Parts {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { kept: Mutex::new(Bounded::new(MAX_CONVERSATIONS, MAX_BYTES)), clock }
    }

    pub(crate) fn get(&self, conversation: &Id, part: Part, id: &Id) -> Option<Arc<str>> {
        let mut kept = self.kept();
        let kept = kept.get(conversation).filter(|kept| self.is_young(kept))?;
        kept.texts.get(&(part, id.clone())).cloned()
    }

    pub(crate) fn keep(&self, conversation: &Id, part: Part, id: Id, text: Arc<str>) {
        let mut all = self.kept();
        let known = all.remove(conversation).filter(|kept| self.is_young(kept));
        let mut kept = known.unwrap_or_else(|| Kept {
            since: self.clock.now(),
            texts: HashMap::new(),
            bytes: 0,
        });
        kept.bytes += PART_BYTES + text.len();
        kept.texts.insert((part, id), text);
        all.put(conversation.clone(), kept);
    }

    /// Whether part of a conversation was fetched and not delivered.
    pub(crate) fn has(&self, conversation: &Id) -> bool {
        self.kept().peek(conversation).is_some()
    }

    /// The conversation was delivered.
    pub(crate) fn forget(&self, conversation: &Id) {
        self.kept().remove(conversation);
    }

    fn is_young(&self, kept: &Kept) -> bool {
        let age = self.clock.now().duration_since(kept.since);
        !age.is_negative() && age < PARTS_TTL
    }

    fn kept(&self) -> MutexGuard<'_, Bounded<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn parts_last_an_hour_or_until_they_are_delivered() {
        let now = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&now);
        let clock =
            Clock::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).unwrap());
        let (parts, id) = (Parts::new(clock), |text: &str| text.parse::<Id>().unwrap());
        let get = |item: &str| parts.get(&id("c"), Part::Transcript, &id(item));

        parts.keep(&id("c"), Part::Transcript, id("a"), "hello".into());
        assert_eq!(get("a").as_deref(), Some("hello"));
        assert_eq!(parts.get(&id("c"), Part::Item, &id("a")), None);
        assert_eq!(parts.get(&id("d"), Part::Transcript, &id("a")), None);

        now.store(3_599, Ordering::Relaxed);
        parts.keep(&id("c"), Part::Transcript, id("b"), "".into());
        assert_eq!((get("a").as_deref(), get("b").as_deref()), (Some("hello"), Some("")));
        now.store(3_600, Ordering::Relaxed);
        assert_eq!((get("a"), get("b")), (None, None), "as old as the first");
        parts.keep(&id("c"), Part::Transcript, id("b"), "more".into());
        assert_eq!((get("a"), get("b").as_deref()), (None, Some("more")));

        assert!(parts.has(&id("c")));
        parts.forget(&id("c"));
        assert!(!parts.has(&id("c")) && get("b").is_none());
    }
}
