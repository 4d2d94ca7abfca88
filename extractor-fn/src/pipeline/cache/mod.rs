//! Caches. [`Cached`] is a value with a TTL, fetched by one caller at a time.

pub(crate) mod bounded;
pub(crate) mod names;
pub(crate) mod parts;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;

/// A value with the time it was fetched.
pub(crate) struct Cached<T>(Mutex<Option<(Timestamp, Arc<T>)>>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Cached<T> {
    /// The cached value if it is younger than `age`, else a new one. Concurrent callers wait for the
    /// same fetch; a failure is not cached.
    pub(crate) async fn get<E>(
        &self,
        now: Timestamp,
        age: SignedDuration,
        fetch: impl Future<Output = Result<T, E>>,
    ) -> Result<Arc<T>, E> {
        let mut kept = self.0.lock().await;
        if let Some((fetched_at, value)) = &*kept
            && now.duration_since(*fetched_at) < age
        {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(fetch.await?);
        *kept = Some((now, Arc::clone(&value)));
        Ok(value)
    }
}
