//! The history of the pause parameter: what the operator wrote, and since when it holds extraction.

use jiff::Timestamp;

use crate::{constants::DAY, plan::Meaning};

/// A write of the operator's.
#[derive(Debug, Clone)]
pub(crate) struct PauseWrite {
    pub(crate) at: Timestamp,
    pub(crate) meaning: Meaning,
    pub(crate) text: String,
}

/// All of them, in order.
#[derive(Debug, Default)]
pub(super) struct PauseHistory(Vec<PauseWrite>);

impl PauseHistory {
    pub(super) fn push(&mut self, write: PauseWrite) {
        self.0.push(write);
    }

    /// The last text.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.last().map(|write| &*write.text)
    }

    /// Since when the operator has held everything without a break, if so.
    pub(super) fn held_since(&self, now: Timestamp) -> Option<Timestamp> {
        let mut since = None;
        for (index, write) in self.0.iter().enumerate() {
            let end = self.0.get(index + 1).map_or(now, |next| next.at);
            since = match write.meaning {
                Meaning::Running => None,
                Meaning::HeldUntil(until) if until <= end => None,
                Meaning::Held | Meaning::HeldUntil(_) => since.or(Some(write.at)),
            };
        }
        since
    }

    /// Whether the operator has held anything within a day.
    pub(super) fn held_within_a_day(&self, now: Timestamp) -> bool {
        let lately = |at: Timestamp| now.duration_since(at) < DAY;
        self.held_since(now).is_some()
            || self.0.iter().any(|write| match write.meaning {
                Meaning::HeldUntil(until) => lately(write.at) || lately(until),
                Meaning::Running | Meaning::Held => lately(write.at),
            })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::constants::EPOCH;

    #[test]
    fn a_pause_lasts_from_the_first_write_that_holds_to_the_last() {
        let at = |second| EPOCH + SignedDuration::from_secs(second);
        let writes = [
            (at(10), Meaning::Held),
            (at(20), Meaning::HeldUntil(at(50))),
            (at(60), Meaning::HeldUntil(at(80))),
            (at(70), Meaning::Held),
            (at(90), Meaning::Running),
        ];
        let writes = writes.map(|(at, meaning)| PauseWrite { at, meaning, text: String::new() });
        for (now, since) in [
            (9, None),
            (15, Some(10)),
            (49, Some(10)),
            (50, None),
            (65, Some(60)),
            (89, Some(60)),
            (91, None),
        ] {
            let written = writes.iter().filter(|write| write.at <= at(now)).cloned().collect();
            assert_eq!(PauseHistory(written).held_since(at(now)), since.map(at), "at {now} s");
        }
    }
}
