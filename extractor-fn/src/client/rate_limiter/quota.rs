//! What the responses of Gladly show of the organisation's quota: when its second begins, how much of it
//! others use, and what is left at its end.
//!
//! The header `Ratelimit-Remaining-Second` counts down through a second and starts again with the next, so
//! that a number is little late in the second and much at its beginning. Gladly does not document when its
//! seconds begin. Of a few candidates, the beginning that fits recent responses best is taken: those after
//! which the others' requests increase evenly.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Requests a second that Gladly allows an organisation. <https://developer.gladly.com/rest/>
const QUOTA: f64 = 10.0;
/// How long a request is remembered, and how many are.
const MEMORY: Duration = Duration::from_secs(30);
const MEMORY_LEN: usize = 512;
/// Responses without which nothing is known.
const MIN_RESPONSES: usize = 8;
/// How many beginnings of a second are compared.
const CANDIDATES: u8 = 20;
/// From here on a second is near enough to its end to know what is left at its end.
const END_PART: f64 = 0.7;
/// How far back the least that was left counts.
const RECENT: Duration = Duration::from_secs(10);
/// Around the beginning of a second it is uncertain to which one a request counts, for it is known when
/// a request was sent and not when it arrived.
const UNCERTAIN: f64 = 0.08;

/// The organisation's use of its quota.
pub(crate) struct QuotaUse {
    origin: Instant,
    /// In the order in which they were sent.
    requests: VecDeque<Request>,
    second: Option<Second>,
}

/// A request, and how many the response left.
#[derive(Clone, Copy)]
struct Request {
    /// Seconds since the origin.
    sent: f64,
    left: Option<f64>,
}

/// A second of Gladly's.
#[derive(Clone, Copy)]
struct Second {
    /// When it begins, in seconds since the origin.
    begins: f64,
    /// Requests that others make in it.
    others: f64,
}

impl QuotaUse {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), requests: VecDeque::new(), second: None }
    }

    /// Notes a request.
    pub(crate) fn sent(&mut self, at: Instant) {
        let sent = self.seconds(at);
        let oldest = sent - MEMORY.as_secs_f64();
        while self.requests.len() >= MEMORY_LEN
            || self.requests.front().is_some_and(|request| request.sent < oldest)
        {
            self.requests.pop_front();
        }
        self.requests.push_back(Request { sent, left: None });
    }

    /// Notes how many requests were left after the one that was sent then. Returns how many are left at the
    /// end of that second, if that is known; less than 0 means that some get a 429.
    pub(crate) fn left_after(&mut self, sent: Instant, left: u64) -> Option<f64> {
        let sent = self.seconds(sent);
        // More than anything that limits the relay is as good as this.
        let left = f64::from(u32::try_from(left).unwrap_or(u32::MAX));
        let request = self.requests.iter_mut().rev().find(|request| request.sent <= sent)?;
        request.left = Some(left);
        let request = *request;
        self.second = self.fit();
        self.second?.left_at_end(request)
    }

    /// The least that was recently left at the end of a second.
    pub(crate) fn least_left(&self) -> Option<f64> {
        let oldest = self.requests.back()?.sent - RECENT.as_secs_f64();
        let recent = self.requests.iter().rev().take_while(|request| request.sent > oldest);
        let second = self.second?;
        recent.filter_map(|request| second.left_at_end(*request)).reduce(f64::min)
    }

    /// This time, or the next at which a request counts for certain to a second that has fewer than
    /// `most` of the relay's.
    pub(crate) fn in_second_with_fewer_than(&self, most: f64, at: Instant) -> Instant {
        let Some(second) = self.second else { return at };
        let wanted = self.seconds(at);
        // The second with the uncertain time before it, in which no request is sent.
        let number = |time: f64| (time - second.begins + UNCERTAIN).floor();
        let begins = |number: f64| number + second.begins + UNCERTAIN;
        let counted = self.requests.iter().rev();
        let counted = counted.take_while(|request| number(request.sent) >= number(wanted)).count();
        let is_full = f64::from(u32::try_from(counted).unwrap_or(u32::MAX)) >= most;
        let earliest = begins(number(wanted) + f64::from(u8::from(is_full)));
        at + Duration::from_secs_f64((earliest - wanted).max(0.0))
    }

    fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.origin).as_secs_f64()
    }

    /// The second that fits the recent responses best.
    fn fit(&self) -> Option<Second> {
        if self.requests.iter().filter(|request| request.left.is_some()).count() < MIN_RESPONSES {
            return None;
        }
        let begins = |number: u8| f64::from(number) / f64::from(CANDIDATES);
        let fits = (0..CANDIDATES).map(|number| self.fit_of(begins(number)));
        fits.min_by(|(_, error), (_, other)| error.total_cmp(other)).map(|(second, _)| second)
    }

    /// The second that begins then, with the others' requests by least squares, and its mean squared error.
    fn fit_of(&self, begins: f64) -> (Second, f64) {
        let (mut own, mut number) = (0.0, f64::NAN);
        // Weights, and sums of squares and products of the elapsed part of the second and the others' requests.
        let (mut weights, mut elapsed2, mut product, mut others2) = (0.0, 0.0, 0.0, 0.0);
        for request in &self.requests {
            let time = request.sent - begins;
            own = if time - number < 1.0 { own + 1.0 } else { 1.0 };
            number = time.floor();
            let Some(left) = request.left else { continue };
            let (elapsed, others) = (time - number, (QUOTA - left - own).max(0.0));
            // Near the beginning of a second a request may count to either.
            let weight = elapsed * (1.0 - elapsed);
            weights += weight;
            elapsed2 += weight * elapsed * elapsed;
            product += weight * elapsed * others;
            others2 += weight * others * others;
        }
        let others = if elapsed2 > 0.0 { product / elapsed2 } else { 0.0 };
        let error = (others2 - others * product) / weights.max(f64::MIN_POSITIVE);
        (Second { begins, others }, error)
    }
}

impl Second {
    /// How many requests are left at the end of a request's second, if it was late in it.
    fn left_at_end(self, request: Request) -> Option<f64> {
        let elapsed = (request.sent - self.begins).rem_euclid(1.0);
        let left = request.left.filter(|_| elapsed > END_PART)?;
        Some(left - self.others * (1.0 - elapsed))
    }
}
