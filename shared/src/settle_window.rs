//! The settle window: how long an event waits in the queue before it is extracted, so that the events
//! which follow it in its conversation share its fetch.

use std::str::FromStr;

use crate::event_types::ERASURE_EVENT_TYPES;

/// The longest window, in seconds: SQS delays a message by 15 minutes at most
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
pub const MAX_SETTLE_SECONDS: u16 = 900;
/// The window unless it is set, in seconds.
const DEFAULT_SECONDS: u16 = 300;
/// The longest delay of a close, in seconds: little follows it, and its conversation is complete.
const CLOSED_SECONDS: u16 = 15;

/// How long events wait, by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleWindow(u16);

impl SettleWindow {
    /// How many seconds an event of this type waits, if it came by webhook.
    #[must_use]
    pub fn seconds(self, event_type: &str) -> u16 {
        match event_type {
            // An operator waits for it.
            own if own.starts_with("RELAY/") => 0,
            // Nothing is fetched for it, and what it is about must not be shown any longer.
            erasure if ERASURE_EVENT_TYPES.contains(&erasure) => 0,
            "CONVERSATION/CLOSED" => self.0.min(CLOSED_SECONDS),
            _ => self.0,
        }
    }

    /// The most seconds that any event waits.
    #[must_use]
    pub fn longest(self) -> u16 {
        self.0
    }
}

impl Default for SettleWindow {
    fn default() -> Self {
        Self(DEFAULT_SECONDS)
    }
}

impl FromStr for SettleWindow {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().filter(|seconds| *seconds <= MAX_SETTLE_SECONDS);
        seconds.map(Self).ok_or("expected whole seconds from 0 to 900")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_waits_a_quarter_of_a_minute_and_erasures_and_the_relays_own_types_do_not() {
        let types = [
            "CONTACT/MESSAGE_RECEIVED",
            "CONVERSATION/CLOSED",
            "RELAY/TEST",
            "CUSTOMER_PROFILE/DELETED",
            "CUSTOMER/MERGED",
            "CUSTOMER_PROFILE/UPDATED",
        ];
        for (text, expected) in [
            ("300", [300, 15, 0, 0, 0, 300]),
            ("900", [900, 15, 0, 0, 0, 900]),
            ("10", [10, 10, 0, 0, 0, 10]),
            ("0", [0; 6]),
        ] {
            let window: SettleWindow = text.parse().unwrap();
            assert_eq!(types.map(|kind| window.seconds(kind)), expected, "{text}");
            assert_eq!(window.longest(), expected[0]);
        }
        assert_eq!("300".parse(), Ok(SettleWindow::default()));
    }

    #[test]
    fn what_sqs_would_refuse_is_no_window() {
        for text in ["901", "-1", "5m", "1.5", "70000", ""] {
            assert!(text.parse::<SettleWindow>().is_err(), "{text}");
        }
    }
}
