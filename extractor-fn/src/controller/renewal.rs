//! Renewal: no held message outlives its queue's retention, because it is sent again before.
//!
//! For that one has to know how old the oldest message may be. SQS does not tell: its metric leaves
//! out messages received three times or more, and receiving all of a queue to look at them would
//! cost what a pause is to save. So the controller keeps a floor for each queue, a time before which
//! no message in it was sent, and only ever errs towards the past:
//!
//! - at first the queue's creation, and never further back than its retention: what is older is gone;
//! - when the queue is seen empty, that time less a margin, because SQS counts approximately;
//! - when a pass has gone over the whole queue, its begin less a quarter of the retention, for the
//!   sake of those that it missed because they were in flight elsewhere or came out of order, and an
//!   eighth more if it saw some that it could not copy. So each has another chance before it expires.
//!
//! A pass begins when the floor is half the retention ago. In a long pause that is once at half the
//! retention and then every quarter, each costing a message one receive.

use std::{
    collections::VecDeque,
    convert::Infallible,
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_ssm::Client;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::{Clock, Parameter, ParameterError, error_chain};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::client::{
    message::Message,
    sqs::{Depth, Queue},
};

/// How long a pass hides what it receives: time enough to copy it, and to see other messages first;
/// of a short retention an eighth.
const HIDE: Duration = Duration::from_mins(1);
/// A pass has seen everything once so many receives in a row found nothing to renew.
const QUIET: u32 = 50;
/// Messages that a pass hides at most, less those of one more receive.
const IN_FLIGHT: usize = 990;
/// The margin of an observation that a queue is empty; of a short retention an eighth.
const MARGIN: SignedDuration = SignedDuration::from_hours(1);

/// What is known of both queues, kept in a parameter of its own.
pub(crate) struct RenewalStore {
    parameter: Parameter<RenewalState>,
    /// When this environment last saw each queue empty. Only what is worth a write is written.
    empty: Mutex<[Option<Timestamp>; 2]>,
}

/// The parameter's document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RenewalState {
    pub(crate) events: QueueState,
    pub(crate) quarantine: QueueState,
}

/// What is known of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct QueueState {
    /// No message in the queue was sent before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) low_watermark: Option<Timestamp>,
    /// The pass that is going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pass: Option<Pass>,
}

/// Going over a queue once, in as many invocations as it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pass {
    /// What was sent before this is to be renewed.
    pub(crate) begun_at: Timestamp,
    pub(crate) renewed: u64,
    /// Copies that failed; some of them may have been made since.
    #[serde(default)]
    pub(crate) failed: u64,
}

impl FromStr for RenewalState {
    type Err = Infallible;

    /// Never fails: whatever cannot be read is not known, which only has messages renewed early.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(serde_json::from_str(text).unwrap_or_default())
    }
}

/// Which queue a book is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Events,
    Quarantine,
}

impl RenewalState {
    fn queue_state(&mut self, kind: Kind) -> &mut QueueState {
        match kind {
            Kind::Events => &mut self.events,
            Kind::Quarantine => &mut self.quarantine,
        }
    }
}

impl QueueState {
    /// The floor, given what the queue says of itself.
    pub(crate) fn low_watermark(&self, depth: &Depth, now: Timestamp) -> Timestamp {
        let oldest = depth.created_at.max(now - depth.retention);
        self.low_watermark.map_or(oldest, |low_watermark| low_watermark.max(oldest)).min(now)
    }

    /// Notes that the queue is empty, or when it last was. Whether there is something to write.
    fn observe(&mut self, depth: &Depth, seen: &mut Option<Timestamp>, now: Timestamp) -> bool {
        let low_watermark = self.low_watermark(depth, now);
        if depth.total == 0 {
            let empty = now - MARGIN.min(depth.retention / 8);
            *seen = Some(empty);
            let worth_it = empty.duration_since(low_watermark) > depth.retention / 8;
            self.low_watermark = self.low_watermark.max(worth_it.then_some(empty));
            self.pass.take().is_some() || worth_it
        } else if let Some(empty) = seen.take().filter(|empty| *empty > low_watermark) {
            self.low_watermark = Some(empty);
            true
        } else {
            false
        }
    }

    /// Begins a pass if it is time for one.
    fn begin(&mut self, depth: &Depth, now: Timestamp) -> bool {
        let due = now.duration_since(self.low_watermark(depth, now)) > depth.retention / 2;
        let begins = self.pass.is_none() && due && depth.total > 0;
        if begins {
            // As precise as SQS, or what is sent in this very millisecond would be taken for older.
            let begun_at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
            self.pass = Some(Pass { begun_at, renewed: 0, failed: 0 });
        }
        begins
    }

    fn end(&mut self, depth: &Depth, pass: &Pass) {
        let eighths = if pass.failed == 0 { 2 } else { 3 };
        let margin = depth.retention / 8 * eighths;
        let low_watermark = pass.begun_at.saturating_sub(margin).unwrap_or(pass.begun_at);
        self.low_watermark =
            Some(self.low_watermark.map_or(low_watermark, |known| known.max(low_watermark)));
        self.pass = None;
    }
}

impl RenewalStore {
    pub(crate) fn new(ssm: Client, name: String, clock: Clock) -> Self {
        let parameter = Parameter::new(ssm, name, SignedDuration::ZERO, clock);
        Self { parameter: parameter.with_default(RenewalState::default()), empty: Mutex::default() }
    }

    /// The floor of a queue, with what this environment saw besides.
    pub(crate) async fn low_watermark(
        &self,
        kind: Kind,
        depth: &Depth,
        now: Timestamp,
    ) -> Result<Timestamp, ParameterError> {
        let mut state = RenewalState::clone(&*self.parameter.value().await?);
        let low_watermark = state.queue_state(kind).low_watermark(depth, now);
        Ok(self.seen(kind).map_or(low_watermark, |empty| empty.max(low_watermark)))
    }

    /// Keeps the book of a queue and, where it is time and `renews` says so, goes over it until
    /// `until`. Says how many messages were renewed.
    pub(crate) async fn run_pass(
        &self,
        kind: Kind,
        queue: &Queue,
        depth: &Depth,
        renews: bool,
        until: Instant,
        clock: &Clock,
    ) -> Result<u64, ParameterError> {
        let now = clock.now();
        let (state, _) = self.parameter.fetch().await?;
        let mut state = RenewalState::clone(&state);
        let queue_state = state.queue_state(kind);
        let mut seen = self.seen(kind);
        let observed = queue_state.observe(depth, &mut seen, now);
        self.empty.lock().unwrap_or_else(PoisonError::into_inner)[kind as usize] = seen;
        let changed = if renews {
            queue_state.begin(depth, now) || observed
        } else {
            queue_state.pass.take().is_some() || observed
        };
        let pass = queue_state.pass.clone();
        if changed {
            // Written before anything is renewed: a pass that starts again copies its copies.
            self.write(&state).await?;
        }
        let Some(mut pass) = pass else {
            return Ok(0);
        };
        let before = pass.renewed;
        let hide = HIDE.min(depth.retention.unsigned_abs() / 8);
        if sweep(queue, &mut pass, hide, until).await {
            let Pass { renewed, failed, .. } = pass;
            let queue = tracing::field::debug(kind);
            info!(
                renewal.queue = queue,
                renewal.renewed = renewed,
                renewal.failed = failed,
                "renewal pass done"
            );
            state.queue_state(kind).end(depth, &pass);
        } else {
            state.queue_state(kind).pass = Some(pass.clone());
        }
        self.write(&state).await?;
        Ok(pass.renewed - before)
    }

    fn seen(&self, kind: Kind) -> Option<Timestamp> {
        self.empty.lock().unwrap_or_else(PoisonError::into_inner)[kind as usize]
    }

    async fn write(&self, state: &RenewalState) -> Result<(), ParameterError> {
        self.parameter.write(serde_json::to_string(state).unwrap_or_default()).await
    }
}

/// Renews what was sent before the pass began. Whether all of it was seen.
async fn sweep(queue: &Queue, pass: &mut Pass, hide: Duration, until: Instant) -> bool {
    let mut quiet = 0;
    // What was received and stays hidden, with the time it comes back.
    let mut hidden = VecDeque::<(Instant, usize)>::new();
    while quiet < QUIET {
        while hidden.front().is_some_and(|(back, _)| *back <= Instant::now()) {
            hidden.pop_front();
        }
        let in_flight: usize = hidden.iter().map(|(_, count)| count).sum();
        let next = hidden.front().map(|(back, _)| *back).filter(|_| in_flight > IN_FLIGHT);
        let begins = next.unwrap_or_else(Instant::now);
        if begins >= until {
            return false;
        }
        sleep_until(begins).await;

        let messages = match queue.receive(hide).await {
            Ok(messages) => messages,
            Err(err) => {
                warn!(error = error_chain(&err), "a renewal stopped");
                return false;
            }
        };
        // One whose age is not told is taken for old.
        let is_old = |message: &Message| message.sent_at.is_none_or(|sent| sent < pass.begun_at);
        let received = messages.len();
        let old: Vec<_> = messages.into_iter().filter(is_old).collect();
        let renewed = if old.is_empty() { 0 } else { queue.renew(&old).await };
        hidden.push_back((Instant::now() + hide, received - renewed));
        quiet = if old.is_empty() { quiet + 1 } else { 0 };
        pass.renewed += renewed as u64;
        pass.failed += (old.len() - renewed) as u64;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    /// A queue that was created at hour 0 and keeps messages for 96 hours.
    fn depth(total: u64) -> Depth {
        let retention = SignedDuration::from_hours(96);
        Depth { hidden: 0, total, retention, created_at: at(0) }
    }

    #[test]
    fn the_floor_is_the_creation_the_retention_or_what_was_seen() {
        let mut queue_state = QueueState::default();
        assert_eq!(queue_state.low_watermark(&depth(1), at(10)), at(0));
        assert_eq!(queue_state.low_watermark(&depth(1), at(100)), at(4), "what is older is gone");

        let mut seen = None;
        assert!(queue_state.observe(&depth(0), &mut seen, at(100)), "worth writing");
        assert_eq!((queue_state.low_watermark, seen), (Some(at(99)), Some(at(99))));
        assert!(!queue_state.observe(&depth(0), &mut seen, at(105)), "not worth writing yet");
        assert_eq!((queue_state.low_watermark, seen), (Some(at(99)), Some(at(104))));
        assert!(queue_state.observe(&depth(1), &mut seen, at(106)), "now it is");
        assert_eq!((queue_state.low_watermark, seen), (Some(at(104)), None));
        assert!(!queue_state.observe(&depth(1), &mut seen, at(107)));
    }

    #[test]
    fn a_pass_begins_at_half_the_retention_and_then_every_quarter() {
        let mut queue_state = QueueState { low_watermark: Some(at(1_000)), pass: None };
        let mut begun = Vec::new();
        for hour in 1_000..1_200 {
            if queue_state.begin(&depth(1), at(hour)) {
                begun.push(hour - 1_000);
                let pass = queue_state.pass.clone().unwrap();
                queue_state.end(&depth(1), &pass);
            }
        }
        assert_eq!(begun, [49, 74, 99, 124, 149, 174, 199]);
        assert!(!queue_state.begin(&depth(0), at(2_000)), "there is nothing to renew");
    }

    #[test]
    fn a_document_that_cannot_be_read_knows_nothing() {
        let text = r#"{"events":{"lowWatermark":"2026-01-02T03:04:05Z","pass":{"begunAt":"2026-01-02T03:04:05Z","renewed":7,"failed":1}},"quarantine":{}}"#;
        let state: RenewalState = text.parse().unwrap();
        assert_eq!(state.events.pass.as_ref().unwrap().renewed, 7);
        assert_eq!(serde_json::to_string(&state).unwrap(), text);
        for text in ["", "{}", "[]", r#"{"events":{"lowWatermark":"soon"}}"#] {
            assert_eq!(text.parse(), Ok(RenewalState::default()), "{text}");
        }
    }
}
