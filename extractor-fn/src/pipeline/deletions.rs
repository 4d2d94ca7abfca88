//! The customers that this environment knows to be deleted.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use lru::LruCache;
use shared::Id;

/// How many are kept. One that is no longer known costs a fetch whose snapshot is void.
const MAX_CUSTOMERS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// The longest that a fetch waits for a deletion to show, whose time may be anything: the read lag, and the
/// clock skew before and after it.
const MAX_WAIT: SignedDuration = SignedDuration::from_secs(40);

/// Deleted customers, and from when on Gladly shows nothing of them any more.
pub(crate) struct Deletions(Mutex<LruCache<Id, Timestamp>>);

impl Default for Deletions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_CUSTOMERS)))
    }
}

impl Deletions {
    /// Gladly shows nothing of this customer from then on.
    pub(crate) fn note(&self, customer: &Id, at: Timestamp) {
        let mut deletions = self.deletions();
        let at = deletions.peek(customer).map_or(at, |known| at.max(*known));
        deletions.put(customer.clone(), at);
    }

    /// Whether the customer is deleted.
    pub(crate) fn contains(&self, customer: &Id) -> bool {
        self.deletions().contains(customer)
    }

    /// Whether a snapshot of this customer whose fetch began then is void.
    pub(crate) fn void(&self, customer: &Id, fetched_at: Timestamp) -> bool {
        self.deletions().peek(customer).is_some_and(|at| fetched_at < *at)
    }

    /// How long to wait before anything of this customer may be fetched, if at all.
    pub(crate) fn wait(&self, customer: &Id, now: Timestamp) -> Option<Duration> {
        let at = self.deletions().peek(customer).copied().filter(|at| now < *at)?;
        at.duration_since(now).min(MAX_WAIT).try_into().ok()
    }

    fn deletions(&self) -> MutexGuard<'_, LruCache<Id, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_deleted_customer_is_fetched_or_kept_before_gladly_shows_nothing_of_them() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (deletions, customer) = (Deletions::default(), "c".parse().unwrap());
        assert!(!deletions.contains(&customer) && !deletions.void(&customer, at(0)));
        assert_eq!(deletions.wait(&customer, at(0)), None);

        deletions.note(&customer, at(100));
        deletions.note(&customer, at(90));
        assert!(deletions.contains(&customer));
        assert!(deletions.void(&customer, at(99)) && !deletions.void(&customer, at(100)));
        assert_eq!(deletions.wait(&customer, at(99)), Some(Duration::from_secs(1)));
        assert_eq!(deletions.wait(&customer, at(100)), None);

        deletions.note(&customer, Timestamp::MAX);
        assert_eq!(deletions.wait(&customer, at(100)), Some(Duration::from_secs(40)));
    }
}
