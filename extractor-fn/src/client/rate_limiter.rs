//! The relay's share of the organisation's quota, spread evenly: never a burst.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::config::Rate;

/// With this many requests left in the organisation's second, others are using the quota too.
/// <https://developer.gladly.com/rest/> documents the header `Ratelimit-Remaining-Second`.
const LOW_REMAINING: u64 = 2;
/// How long a 429 without `Retry-After` stops requests: Gladly counts by the second.
const THROTTLED_WAIT: Duration = Duration::from_secs(1);

/// Lets requests through one at a time, `interval` apart.
pub(crate) struct RateLimiter {
    interval: Duration,
    /// Its holder is next; the others wait in the order they came.
    turn: tokio::sync::Mutex<()>,
    next: Mutex<Instant>,
}

impl RateLimiter {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            interval: rate.interval(),
            turn: tokio::sync::Mutex::new(()),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits for the caller's turn, unless that is more than `max_wait` away: then returns the wait.
    pub(crate) async fn turn(&self, max_wait: Duration) -> Result<(), Duration> {
        let _turn = self.turn.lock().await;
        loop {
            let wait = self.next().saturating_duration_since(Instant::now());
            if wait.is_zero() {
                break;
            }
            if wait > max_wait {
                return Err(wait);
            }
            sleep_until(Instant::now() + wait).await;
        }
        self.not_before(Instant::now() + self.interval);
        Ok(())
    }

    /// Slows down while little of the organisation's quota is left.
    pub(crate) fn remaining(&self, left: u64) {
        if let Some(short @ 1..) = (LOW_REMAINING + 1).checked_sub(left) {
            let steps = u32::try_from(short + 1).unwrap_or(u32::MAX);
            self.not_before(Instant::now() + self.interval * steps);
        }
    }

    /// Stops requests for a while after a 429.
    pub(crate) fn throttled(&self, retry_after: Option<Duration>) {
        self.not_before(Instant::now() + retry_after.unwrap_or(THROTTLED_WAIT));
    }

    fn next(&self) -> Instant {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_before(&self, at: Instant) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = at.max(*next);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_requests_than_the_share() {
        let rate_limiter = RateLimiter::new("4".parse().unwrap());
        let began = Instant::now();
        let times = join_all((0..40).map(|_| async {
            rate_limiter.turn(Duration::MAX).await.unwrap();
            began.elapsed()
        }));
        let times = times.await;
        for start in &times {
            let window = *start..*start + Duration::from_secs(1);
            assert!(times.iter().filter(|time| window.contains(*time)).count() <= 4);
        }
        let rate = 39.0 / times.last().unwrap().as_secs_f64();
        assert!((3.8..=4.0).contains(&rate), "{rate}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_low_quota_slows_requests_and_a_429_stops_them() {
        let rate_limiter = RateLimiter::new("4".parse().unwrap());
        let wait = async || {
            let began = Instant::now();
            rate_limiter.turn(Duration::from_secs(10)).await.unwrap();
            began.elapsed()
        };
        wait().await;
        rate_limiter.remaining(3);
        assert!(wait().await < Duration::from_millis(300));
        rate_limiter.remaining(2);
        assert!(wait().await > Duration::from_millis(500));
        rate_limiter.remaining(0);
        assert!(wait().await > Duration::from_secs(1));
        rate_limiter.throttled(None);
        assert!(wait().await >= Duration::from_secs(1));
        rate_limiter.throttled(Some(Duration::from_mins(1)));
        assert!(
            rate_limiter.turn(Duration::from_secs(10)).await.unwrap_err() > Duration::from_secs(59)
        );
    }
}
