//! The state of Gladly: its quota, its webhook, its list of events, and its exports.

use std::{collections::VecDeque, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::constants::EPOCH;

/// Gladly's quota: requests per second of the whole organisation.
const QUOTA: usize = 10;
/// The period of an export, which is available at its end.
pub(crate) const EXPORT_PERIOD: SignedDuration = SignedDuration::from_mins(10);

/// Gladly.
#[derive(Debug, Default)]
pub(crate) struct Gladly {
    /// The requests of the last second.
    second: VecDeque<Timestamp>,
    /// The quota by fixed seconds that is counted instead, if a neighbour shares it.
    pub(crate) shared: Option<SharedQuota>,
    /// Since when the webhook is disabled, if it is.
    pub(crate) off_since: Option<Timestamp>,
    /// Whether it was disabled by hand.
    pub(crate) by_hand: bool,
    /// Every event with its time, whether or not it came by webhook.
    pub(crate) events: Vec<(Timestamp, String)>,
}

/// A client of Gladly's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Neighbour,
    Environment(u64),
}

/// A request, as the quota counts it.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) at: Duration,
    pub(crate) caller: Caller,
    /// Whether it was not answered 429.
    pub(crate) accepted: bool,
}

/// The quota of all clients together, which starts again with each second of Gladly's.
#[derive(Debug)]
pub(crate) struct SharedQuota {
    /// How long after a simulation's seconds Gladly's begin.
    offset: Duration,
    /// The second of the last request, and the requests accepted in it.
    second: (u64, usize),
    pub(crate) requests: Vec<Counted>,
}

impl SharedQuota {
    pub(crate) const PER_SECOND: usize = QUOTA;

    pub(crate) fn new(offset: Duration) -> Self {
        Self { offset, second: (0, 0), requests: Vec::new() }
    }

    /// Counts a request. Returns how many requests were left before it; 0 means that it is rejected.
    pub(crate) fn take(&mut self, now: Duration, caller: Caller) -> usize {
        let second = (now + self.offset).as_secs();
        if second != self.second.0 {
            self.second = (second, 0);
        }
        let left = QUOTA.saturating_sub(self.second.1);
        self.second.1 += usize::from(left > 0);
        self.requests.push(Counted { at: now, caller, accepted: left > 0 });
        left
    }
}

impl Gladly {
    /// Counts a request, beside `others` per second from other clients. Returns how many requests were left
    /// before it; 0 means that it is rejected.
    pub(crate) fn take_request(&mut self, now: Timestamp, others: usize) -> usize {
        let second = &mut self.second;
        let is_over = |at: &Timestamp| now.duration_since(*at) >= SignedDuration::from_secs(1);
        while second.front().is_some_and(is_over) {
            second.pop_front();
        }
        let left = QUOTA.saturating_sub(others + second.len());
        if left > 0 {
            second.push_back(now);
        }
        left
    }

    pub(crate) fn is_webhook_on(&self) -> bool {
        self.off_since.is_none()
    }

    /// Disables the webhook.
    pub(crate) fn switch_off(&mut self, by_hand: bool, now: Timestamp) {
        // A webhook that is disabled already stays disabled for the reason and since the time it was.
        if self.off_since.is_none() {
            (self.off_since, self.by_hand) = (Some(now), by_hand);
        }
    }

    /// Enables the webhook, as the operator who disabled it does.
    pub(crate) fn switch_on(&mut self) {
        self.off_since = self.off_since.filter(|_| !self.by_hand);
    }

    /// Adds an event to the list.
    pub(crate) fn add_event(&mut self, event: &Value) {
        let at = event["timestamp"].as_str().and_then(|at| at.parse().ok()).unwrap_or(EPOCH);
        self.events.push((at, event.to_string()));
    }
}

/// How many exports there are.
pub(crate) fn exports(now: Timestamp) -> i32 {
    let whole = i32::try_from(now.duration_since(EPOCH).as_mins() / EXPORT_PERIOD.as_mins());
    whole.unwrap_or_default()
}
