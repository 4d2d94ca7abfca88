//! Renewal: no held message expires, because it is re-sent before the end of its queue's retention.
//!
//! This needs a bound of the oldest message's age. SQS does not report one: its metric leaves out
//! messages received three times or more, and receiving the whole queue to look at them would cost
//! what a pause is to save. So the controller keeps a low watermark for each queue: a time before
//! which no message in it was sent. It is only ever too early:
//!
//! - at first the queue's creation, and never further back than its retention: what is older is gone;
//! - when the queue is seen empty, that time minus a margin, because SQS counts approximately;
//! - when all that waits is delayed, also minus the longest delay: a live queue is never empty, since
//!   every event waits for its settle window;
//! - when a pass has covered the whole queue, its start minus a quarter of the retention, because it
//!   misses messages that are delayed, in flight elsewhere or out of order, and an eighth more if some
//!   could not be copied. So each of them is covered by another pass before it expires.
//!
//! A pass begins when the low watermark is half the retention ago. In a long pause that is once at
//! half the retention and then every quarter, at the cost of one receive per message.

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

/// How long a pass hides what it receives: enough to copy it, and to receive other messages first.
/// At most an eighth of the retention.
const MAX_VISIBILITY_TIMEOUT: Duration = Duration::from_mins(1);
/// A pass is complete once this many receives in a row return nothing to renew.
const QUIET_RECEIVES: u32 = 50;
/// The most messages that a pass hides before another receive.
const MAX_HIDDEN: usize = 990;
/// The margin of an observation that a queue is empty. At most an eighth of the retention.
const MAX_EMPTY_MARGIN: SignedDuration = SignedDuration::from_hours(1);

/// The state of both queues, kept in a parameter of its own.
pub(crate) struct RenewalStore {
    parameter: Parameter<RenewalState>,
    /// When this environment last saw each queue empty. Written only when it changes enough.
    empty: Mutex<[Option<Timestamp>; 2]>,
}

/// The parameter's document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RenewalState {
    pub(crate) events: QueueState,
    pub(crate) quarantine: QueueState,
}

/// The state of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct QueueState {
    /// No message in the queue was sent before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) low_watermark: Option<Timestamp>,
    /// The current pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pass: Option<Pass>,
}

/// One pass over a queue, in as many invocations as it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pass {
    /// Messages sent before this are renewed.
    pub(crate) begun_at: Timestamp,
    pub(crate) renewed: u64,
    /// Copies that failed; some of them may have succeeded since.
    #[serde(default)]
    pub(crate) failed: u64,
}

impl FromStr for RenewalState {
    type Err = Infallible;

    /// Never fails: what cannot be read counts as absent, which only renews messages early.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(serde_json::from_str(text).unwrap_or_default())
    }
}

/// One of the two queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueKind {
    Events,
    Quarantine,
}

impl RenewalState {
    fn queue_state(&mut self, kind: QueueKind) -> &mut QueueState {
        match kind {
            QueueKind::Events => &mut self.events,
            QueueKind::Quarantine => &mut self.quarantine,
        }
    }
}

impl QueueState {
    /// The low watermark, given the queue's attributes.
    pub(crate) fn low_watermark(&self, depth: &Depth, now: Timestamp) -> Timestamp {
        let oldest = depth.created_at.max(now - depth.retention);
        self.low_watermark.map_or(oldest, |low_watermark| low_watermark.max(oldest)).min(now)
    }

    /// Notes that the queue is empty but for delayed messages, or when it last was. Returns whether the
    /// state is to be written.
    fn observe(&mut self, depth: &Depth, seen: &mut Option<Timestamp>, now: Timestamp) -> bool {
        let low_watermark = self.low_watermark(depth, now);
        if let Some(delay) = depth.delay_alone() {
            let empty = now - delay - MAX_EMPTY_MARGIN.min(depth.retention / 8);
            *seen = Some(empty);
            // Written only if it moves far enough: an empty queue is observed every minute.
            let moves = empty.duration_since(low_watermark) > depth.retention / 8;
            if moves {
                self.low_watermark = Some(empty);
            }
            self.pass.take().is_some() || moves
        } else if let Some(empty) = seen.take().filter(|empty| *empty > low_watermark) {
            self.low_watermark = Some(empty);
            true
        } else {
            false
        }
    }

    /// Begins a pass if one is due.
    fn begin(&mut self, depth: &Depth, now: Timestamp) -> bool {
        let due = now.duration_since(self.low_watermark(depth, now)) > depth.retention / 2;
        let begins = self.pass.is_none() && due && depth.total > depth.delayed;
        if begins {
            // As precise as SQS: otherwise a message of the same millisecond would count as older.
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

    /// The low watermark of a queue, including what this environment has observed.
    pub(crate) async fn low_watermark(
        &self,
        kind: QueueKind,
        depth: &Depth,
        now: Timestamp,
    ) -> Result<Timestamp, ParameterError> {
        let mut state = RenewalState::clone(&*self.parameter.value().await?);
        let low_watermark = state.queue_state(kind).low_watermark(depth, now);
        Ok(self.seen(kind).map_or(low_watermark, |empty| empty.max(low_watermark)))
    }

    /// Updates the state of a queue and, if a pass is due and `renews` is set, runs it until `until`.
    /// Returns how many messages were renewed.
    pub(crate) async fn run_pass(
        &self,
        kind: QueueKind,
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
            // Written before anything is renewed: a pass that restarted would copy its copies.
            self.write(&state).await?;
        }
        let Some(mut pass) = pass else {
            return Ok(0);
        };
        let before = pass.renewed;
        let hide = MAX_VISIBILITY_TIMEOUT.min(depth.retention.unsigned_abs() / 8);
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

    fn seen(&self, kind: QueueKind) -> Option<Timestamp> {
        self.empty.lock().unwrap_or_else(PoisonError::into_inner)[kind as usize]
    }

    async fn write(&self, state: &RenewalState) -> Result<(), ParameterError> {
        self.parameter.write(serde_json::to_string(state).unwrap_or_default()).await
    }
}

/// Renews the messages sent before the pass began. Returns whether the pass is complete.
async fn sweep(queue: &Queue, pass: &mut Pass, hide: Duration, until: Instant) -> bool {
    let mut quiet = 0;
    // Received messages that stay hidden, by the time they become visible.
    let mut hidden = VecDeque::<(Instant, usize)>::new();
    while quiet < QUIET_RECEIVES {
        while hidden.front().is_some_and(|(back, _)| *back <= Instant::now()) {
            hidden.pop_front();
        }
        let in_flight: usize = hidden.iter().map(|(_, count)| count).sum();
        let next = hidden.front().map(|(back, _)| *back).filter(|_| in_flight > MAX_HIDDEN);
        let begins = next.unwrap_or_else(Instant::now);
        if begins >= until {
            return false;
        }
        sleep_until(begins).await;

        let messages = match queue.receive(hide).await {
            Ok(messages) => messages,
            Err(err) => {
                warn!(error = error_chain(&err), "could not receive messages to renew");
                return false;
            }
        };
        // A message without a sent time counts as old.
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
        Depth { in_flight: 0, delayed: 0, total, retention, created_at: at(0) }
    }

    #[test]
    fn the_low_watermark_is_the_creation_the_retention_or_an_observation() {
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
    fn an_unreadable_document_counts_as_empty() {
        let text = r#"{"events":{"lowWatermark":"2026-01-02T03:04:05Z","pass":{"begunAt":"2026-01-02T03:04:05Z","renewed":7,"failed":1}},"quarantine":{}}"#;
        let state: RenewalState = text.parse().unwrap();
        assert_eq!(state.events.pass.as_ref().unwrap().renewed, 7);
        assert_eq!(serde_json::to_string(&state).unwrap(), text);
        for text in ["", "{}", "[]", r#"{"events":{"lowWatermark":"soon"}}"#] {
            assert_eq!(text.parse(), Ok(RenewalState::default()), "{text}");
        }
    }
}
