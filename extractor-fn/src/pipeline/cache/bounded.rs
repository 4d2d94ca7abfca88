//! A cache that is bounded both in entries and in bytes.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    num::NonZeroUsize,
};

use lru::LruCache;
use shared::Id;

/// Bytes of an entry besides its value: an id, and the map's own overhead.
const ENTRY_BYTES: usize = 200;
/// A value larger than this fraction of all bytes is not kept: it would evict the others.
const MAX_VALUE_FRACTION: usize = 4;

/// A value's memory, besides its entry.
pub(crate) trait Weight {
    /// In bytes. It does not change while the value is kept.
    fn bytes(&self) -> usize;
}

/// Values by id. The least recently used are evicted first.
pub(crate) struct Bounded<V> {
    entries: LruCache<Id, V>,
    bytes: usize,
    limit: usize,
}

impl<V: Weight> Bounded<V> {
    /// Holds at most this many entries and bytes.
    pub(crate) fn new(entries: NonZeroUsize, bytes: usize) -> Self {
        Self { entries: LruCache::new(entries), bytes: 0, limit: bytes }
    }

    pub(crate) fn get(&mut self, id: &Id) -> Option<&V> {
        self.entries.get(id)
    }

    /// The value, without counting as a use.
    pub(crate) fn peek(&self, id: &Id) -> Option<&V> {
        self.entries.peek(id)
    }

    pub(crate) fn put(&mut self, id: Id, value: V) {
        self.remove(&id);
        let bytes = cost(&value);
        if bytes > self.limit / MAX_VALUE_FRACTION {
            return;
        }
        self.bytes += bytes;
        if let Some((_, forgotten)) = self.entries.push(id, value) {
            self.bytes -= cost(&forgotten);
        }
        while self.bytes > self.limit
            && let Some((_, forgotten)) = self.entries.pop_lru()
        {
            self.bytes -= cost(&forgotten);
        }
    }

    pub(crate) fn remove(&mut self, id: &Id) -> Option<V> {
        let removed = self.entries.pop(id);
        self.bytes -= removed.as_ref().map_or(0, cost);
        removed
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn cost(value: &impl Weight) -> usize {
    ENTRY_BYTES + value.bytes()
}

/// A text's hash, for where the text itself would take too much memory.
pub(crate) fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weight for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    #[test]
    fn neither_entries_nor_bytes_exceed_their_limit() {
        let id = |n: usize| format!("i-{n}").parse::<Id>().unwrap();
        let mut few = Bounded::new(NonZeroUsize::new(3).unwrap(), 1_000_000);
        for n in 0..10 {
            few.put(id(n), 1);
        }
        assert_eq!((few.len(), few.bytes), (3, 3 * (ENTRY_BYTES + 1)));

        let mut small = Bounded::new(NonZeroUsize::new(1_000).unwrap(), 10_000);
        for n in 0..100 {
            small.put(id(n), 1_000);
            small.get(&id(0));
            assert!(small.bytes <= 10_000);
        }
        assert_eq!(small.len(), 8);
        assert!(small.peek(&id(0)).is_some() && small.peek(&id(1)).is_none(), "the most used stay");

        small.put(id(0), 5_000);
        assert!(small.peek(&id(0)).is_none(), "too large beside others");
        assert_eq!(small.len(), 7);
        for n in 0..100 {
            small.remove(&id(n));
        }
        assert_eq!((small.len(), small.bytes), (0, 0));
    }
}
