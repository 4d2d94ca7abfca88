//! The relay's share of the organisation's quota: adaptive, spread evenly, and never a burst.
//!
//! The rate increases slowly while some of the organisation's quota is left at the end of Gladly's seconds,
//! and falls by a fraction when none is or Gladly answers 429. Environments that do so share evenly, without
//! knowing of each other, and both give way to other integrations. The setting is the most.

mod quota;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{client::rate_limiter::quota::QuotaUse, config::Rate};

/// How long a 429 without `Retry-After` stops requests: Gladly counts by the second.
const THROTTLED_WAIT: Duration = Duration::from_secs(1);
/// The part of the cap that is used until something is known of the quota.
const START: f64 = 0.5;
/// The least rate, unless the cap is less, so that a full quota stops nothing for good.
const FLOOR: f64 = 0.25;
/// With this left at the end of a second, the quota is used up. It is below 0: what others send in the
/// rest of a second is an estimate, and the last of them may be less than a request.
const USED_UP: f64 = -0.45;
/// What the rate becomes when the quota is used up, and after a 429.
const DECREASE: f64 = 0.93;
const THROTTLED_DECREASE: f64 = 0.7;
/// After a decrease, responses to earlier requests cause no other for this long.
const DECREASE_INTERVAL: Duration = Duration::from_secs(1);
/// What is left is taken in about this many seconds.
const INCREASE_SECONDS: f64 = 60.0;
/// The fastest increase, in requests a second per second.
const MAX_INCREASE: f64 = 0.1;
/// The longest time between two responses for which the rate increases.
const MAX_ELAPSED: Duration = Duration::from_secs(2);

/// Lets requests through one at a time, evenly spaced.
pub(crate) struct RateLimiter {
    cap: Rate,
    /// Its holder is next; the others wait in the order they came.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

struct State {
    /// Requests per second.
    rate: f64,
    next: Instant,
    /// Whether a response had the number of requests left.
    adaptive: bool,
    quota: QuotaUse,
    adjusted: Instant,
    decreased: Option<Instant>,
}

impl RateLimiter {
    pub(crate) fn new(cap: Rate) -> Self {
        let now = Instant::now();
        Self {
            cap,
            turn: tokio::sync::Mutex::new(()),
            state: Mutex::new(State {
                rate: cap.per_second(),
                next: now,
                adaptive: false,
                quota: QuotaUse::new(),
                adjusted: now,
                decreased: None,
            }),
        }
    }

    /// Waits for the caller's turn, unless that is more than `max_wait` away: then returns the wait.
    /// Returns the time of the turn.
    pub(crate) async fn turn(&self, max_wait: Duration) -> Result<Instant, Duration> {
        let _turn = self.turn.lock().await;
        loop {
            let now = Instant::now();
            let wait = self.state().next.saturating_duration_since(now);
            if wait.is_zero() {
                break;
            }
            if wait > max_wait {
                return Err(wait);
            }
            sleep_until(now + wait).await;
        }
        let now = Instant::now();
        let mut state = self.state();
        state.quota.sent(now);
        let next = now + self.interval(state.rate);
        // At the cap there is room: the times need not fit Gladly's seconds.
        state.next = if state.rate < self.cap.per_second() {
            state.quota.in_second_with_fewer_than(state.rate.ceil(), next)
        } else {
            next
        };
        Ok(now)
    }

    /// Adapts the rate to what a response to a request of that turn left of the organisation's second.
    pub(crate) fn remaining(&self, turn: Instant, left: Option<u64>) {
        let mut state = self.state();
        let now = Instant::now();
        let elapsed = (now - state.adjusted).min(MAX_ELAPSED).as_secs_f64();
        state.adjusted = now;
        let Some(left) = left else {
            // A Gladly that never sends the header: only a 429 is known to be too much.
            if !state.adaptive {
                self.set_rate(&mut state, |rate| rate + MAX_INCREASE * elapsed);
            }
            return;
        };
        if !state.adaptive {
            state.adaptive = true;
            let start = START * self.cap.per_second();
            self.set_rate(&mut state, |rate| rate.min(start));
        }
        if state.quota.left_after(turn, left).is_some_and(|left| left < USED_UP) {
            self.decrease(&mut state, DECREASE);
        } else if let Some(left) = state.quota.least_left() {
            let increase = ((left - USED_UP) / INCREASE_SECONDS).clamp(0.0, MAX_INCREASE);
            self.set_rate(&mut state, |rate| rate + increase * elapsed);
        }
    }

    /// Stops requests for a while after a 429, and slows those after it.
    pub(crate) fn throttled(&self, retry_after: Option<Duration>) {
        let mut state = self.state();
        self.decrease(&mut state, THROTTLED_DECREASE);
        let until = Instant::now() + retry_after.unwrap_or(THROTTLED_WAIT);
        state.next = state.next.max(until);
    }

    /// The time from one request to the next at the present rate.
    pub(crate) fn present_interval(&self) -> Duration {
        self.interval(self.state().rate)
    }

    fn interval(&self, rate: f64) -> Duration {
        self.cap.interval().mul_f64(self.cap.per_second() / rate)
    }

    fn decrease(&self, state: &mut State, factor: f64) {
        let now = Instant::now();
        if state.decreased.is_none_or(|at| now - at > DECREASE_INTERVAL) {
            state.decreased = Some(now);
            self.set_rate(state, |rate| rate * factor);
        }
    }

    fn set_rate(&self, state: &mut State, change: impl FnOnce(f64) -> f64) {
        let cap = self.cap.per_second();
        state.rate = change(state.rate).clamp(FLOOR.min(cap), cap);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact values")]
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

    /// Sends for this long through a Gladly whose seconds begin then, beside others that use the quota evenly.
    /// Returns the rate at the end, and how many requests were rejected.
    async fn send(
        rate_limiter: &RateLimiter,
        lasts: Duration,
        begins: f64,
        others: f64,
    ) -> (f64, usize) {
        let began = Instant::now();
        let (mut second, mut own, mut rejected) = (f64::NAN, 0.0, 0);
        for number in 0.. {
            if began.elapsed() >= lasts {
                break;
            }
            let turn = rate_limiter.turn(Duration::MAX).await.unwrap();
            // No network is as regular as a clock.
            tokio::time::sleep(Duration::from_millis(number * 37 % 60)).await;
            let now = began.elapsed().as_secs_f64() - begins;
            (second, own) = if now.floor() == second { (second, own) } else { (now.floor(), 0.0) };
            let of_others = (now * others).floor() - (second * others).floor();
            let left = 10.0 - of_others - own - 1.0;
            if left < 0.0 {
                rejected += 1;
                rate_limiter.remaining(turn, Some(0));
                rate_limiter.throttled(None);
            } else {
                own += 1.0;
                let left = (0..10).find(|number| f64::from(*number) >= left).unwrap();
                rate_limiter.remaining(turn, Some(u64::try_from(left).unwrap()));
            }
        }
        (rate_limiter.state().rate, rejected)
    }

    fn limiter(cap: &str) -> RateLimiter {
        RateLimiter::new(cap.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn alone_the_rate_starts_low_and_comes_up_to_the_cap() {
        for begins in [0.0, 0.3, 0.55, 0.98] {
            let rate_limiter = limiter("4");
            let (rate, _) = send(&rate_limiter, Duration::from_secs(1), begins, 0.0).await;
            assert!(rate <= 2.0, "{rate}");
            let (rate, rejected) = send(&rate_limiter, Duration::from_secs(40), begins, 0.0).await;
            assert!((3.6..=4.0).contains(&rate), "{rate}");
            assert_eq!(rejected, 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_gives_way_to_others_before_a_429_and_comes_back_after_them() {
        for begins in [0.0, 0.3, 0.55, 0.98] {
            let rate_limiter = limiter("4");
            send(&rate_limiter, Duration::from_mins(1), begins, 0.0).await;
            let (rate, _) = send(&rate_limiter, Duration::from_mins(1), begins, 7.5).await;
            assert!(rate < 3.0, "{rate}");
            let (rate, rejected) = send(&rate_limiter, Duration::from_mins(5), begins, 7.5).await;
            assert!((1.2..=2.6).contains(&rate), "{rate}");
            assert!(rejected <= 3, "{rejected}");
            let (rate, _) = send(&rate_limiter, Duration::from_mins(2), begins, 0.0).await;
            assert!(rate >= 3.6, "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_quota_slows_requests_and_never_stops_them() {
        let rate_limiter = limiter("4");
        let (rate, _) = send(&rate_limiter, Duration::from_mins(5), 0.3, 30.0).await;
        assert!((FLOOR..0.3).contains(&rate), "{rate}");
        let slow = limiter("0.1");
        send(&slow, Duration::from_mins(5), 0.3, 30.0).await;
        assert_eq!(slow.state().rate, 0.1, "the cap is less than the floor");
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_header_the_cap_is_used_and_only_a_429_lowers_the_rate() {
        let rate_limiter = limiter("4");
        let answered = async |seconds| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(seconds) {
                let turn = rate_limiter.turn(Duration::MAX).await.unwrap();
                rate_limiter.remaining(turn, None);
            }
            rate_limiter.state().rate
        };
        assert_eq!(answered(10).await, 4.0);
        rate_limiter.throttled(None);
        assert_eq!(rate_limiter.state().rate, 4.0 * THROTTLED_DECREASE);
        rate_limiter.throttled(None);
        assert_eq!(rate_limiter.state().rate, 4.0 * THROTTLED_DECREASE, "once a second");
        assert_eq!(answered(20).await, 4.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_stops_requests() {
        let rate_limiter = limiter("4");
        let wait = async || {
            let began = Instant::now();
            rate_limiter.turn(Duration::from_secs(10)).await.unwrap();
            began.elapsed()
        };
        wait().await;
        rate_limiter.throttled(None);
        assert!(wait().await >= Duration::from_secs(1));
        rate_limiter.throttled(Some(Duration::from_mins(1)));
        assert!(
            rate_limiter.turn(Duration::from_secs(10)).await.unwrap_err() > Duration::from_secs(59)
        );
    }
}
