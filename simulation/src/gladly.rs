//! What Gladly knows: how often it was asked, its webhook, its list of events, and its exports.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::constants::EPOCH;

/// Requests that Gladly takes in a second, all of the organisation's together.
const QUOTA: usize = 10;
/// The time that an export covers. It is there at its end.
pub(crate) const EXPORT_PERIOD: SignedDuration = SignedDuration::from_mins(10);

/// Gladly.
#[derive(Debug, Default)]
pub(crate) struct Gladly {
    /// When it was asked in the last second.
    second: VecDeque<Timestamp>,
    /// Since when the webhook is off, if it is.
    pub(crate) off_since: Option<Timestamp>,
    /// Whether it was switched off by hand.
    pub(crate) by_hand: bool,
    /// Every event with its time, whether or not it came by webhook.
    pub(crate) events: Vec<(Timestamp, String)>,
}

impl Gladly {
    /// Takes a request beside those that others make in each second. Returns how many more it would
    /// take before it, 0 where it refuses it.
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

    /// Switches the webhook off.
    pub(crate) fn switch_off(&mut self, by_hand: bool, now: Timestamp) {
        (self.off_since, self.by_hand) = (Some(now), by_hand);
    }

    /// Switches the webhook on, as an operator does who has switched it off.
    pub(crate) fn switch_on(&mut self) {
        self.off_since = self.off_since.filter(|_| !self.by_hand);
    }

    /// Puts an event on the list.
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
