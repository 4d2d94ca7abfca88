//! How each record of a batch is settled. Visibility is changed only here.

use std::{sync::Arc, time::Duration};

use aws_lambda_events::sqs::SqsBatchResponse;
use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use shared::{Clock, InvalidEvent, Metric, QuarantineReason, QueueMessage, error_chain};
use tokio::time::timeout_at;
use tracing::{error, warn};

use crate::{
    client::{
        Clients,
        message::Message,
        sqs::{ENTRIES, Queue},
    },
    gate::{
        DAY, Gate,
        breaker::{NONE_FOUND, OpenState, Upstream},
    },
    pipeline::{
        context::BatchContext,
        event::{Event, RecordIndex},
        lag::READ_LAG,
    },
};

/// Requests to SQS at once.
const MAX_REQUESTS: usize = 8;
/// The first wait of a record that failed or is held, in seconds; it doubles with each receive.
const FIRST_WAIT_SECONDS: u32 = 30;
/// The longest wait, in seconds.
const MAX_WAIT_SECONDS: u32 = 3_600;
/// A record that fails by itself is quarantined once it has been received more often than this, and
/// first more than a day ago.
const MIN_RECEIVES: u32 = 20;
/// A record with less than this many sixteenths of the retention left at its next receive is
/// re-enqueued. A renewal that begins while it is hidden misses it, and the next one begins a quarter
/// (four sixteenths) of the retention later; the fifth is for delays.
const RE_ENQUEUE_SIXTEENTHS: i32 = 5;

/// How a record ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// At the destination.
    Delivered,
    /// The operator wants nothing of its type.
    Ignored,
    /// The destination rejected its conversation with this status.
    Rejected(u16),
    /// Gladly does not have its conversation, nor any other.
    Missing,
    /// Not an event.
    InvalidEvent(InvalidEvent),
    /// Extraction is paused.
    Held,
    /// Not begun when time ran out.
    DeadlineExceeded,
    /// Gladly may show more in a moment.
    NotYetVisible,
    /// Not to be fetched for this long.
    Postponed(Duration),
    /// A failure that may pass, or not enough time.
    Failed(Failure),
}

/// How a record failed. By default not through an upstream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failure {
    /// The upstream that failed transiently, if one did.
    pub(crate) upstream: Option<Upstream>,
    /// How long a server asked to wait, if it did.
    pub(crate) retry_after: Option<Duration>,
}

impl Failure {
    /// Seconds until the record is visible again. While it is still to be determined whether its
    /// upstream is down, it comes back in time for that, however often it was received: where nothing
    /// else arrives, only retries show an outage.
    fn back_off(&self, receives: u32, context: &BatchContext) -> i32 {
        let most = self.upstream.and_then(|upstream| context.decides_in(upstream));
        back_off(receives, most, self.retry_after)
    }
}

/// The conditions beyond a record itself for quarantining it. By default it stays in the queue.
#[derive(Default)]
struct Conditions {
    /// Extraction was not held for a day, so what failed all that time failed by itself.
    free: bool,
    /// The breaker has been open or half-open for a day.
    open_state: Option<OpenState>,
    /// Only one conversation is left to try.
    lone: bool,
}

impl Conditions {
    /// Whether all conversations have been missing for a day.
    fn ends_missing(&self) -> bool {
        self.open_state.as_ref().is_some_and(|open_state| open_state.reason == NONE_FOUND)
    }

    /// Whether the only conversation left to try has been rejected for a day.
    fn ends_rejected(&self) -> bool {
        self.lone
            && self
                .open_state
                .as_ref()
                .is_some_and(|open_state| open_state.cause == Upstream::Destination)
    }
}

/// What SQS is to do with a record.
enum Settlement {
    Delete,
    Return { visibility_timeout: i32 },
    Quarantine(QuarantineReason, String),
}

impl Outcome {
    fn settlement(
        self,
        record: &Message,
        context: &BatchContext,
        conditions: &Conditions,
        now: Timestamp,
    ) -> Settlement {
        let exhausted = |detail| Settlement::Quarantine(QuarantineReason::Exhausted, detail);
        match self {
            Self::Delivered | Self::Ignored => Settlement::Delete,
            Self::InvalidEvent(why) => Settlement::Quarantine(why.reason(), why.to_string()),
            Self::Rejected(status)
                if context.fatal_error_of(Upstream::Destination).is_none()
                    || conditions.ends_rejected() =>
            {
                Settlement::Quarantine(
                    QuarantineReason::Rejected,
                    format!("the destination answered {status}"),
                )
            }
            Self::Missing if conditions.ends_missing() && is_a_day_old(record, now) => {
                exhausted("Gladly has answered 404 to every conversation for a day".into())
            }
            Self::DeadlineExceeded => Settlement::Return { visibility_timeout: 0 },
            Self::NotYetVisible => {
                Settlement::Return { visibility_timeout: whole_seconds(READ_LAG.unsigned_abs()) }
            }
            Self::Postponed(wait) => {
                Settlement::Return { visibility_timeout: whole_seconds(wait).max(1) }
            }
            Self::Held | Self::Rejected(_) | Self::Missing => {
                Settlement::Return { visibility_timeout: back_off(record.receives, None, None) }
            }
            Self::Failed(_)
                if conditions.free
                    && is_exhausted(record, now)
                    && failed_by_itself(record, context) =>
            {
                exhausted(format!("failed for more than a day, received {} times", record.receives))
            }
            Self::Failed(failure) => Settlement::Return {
                visibility_timeout: failure.back_off(record.receives, context),
            },
        }
    }
}

fn is_a_day_old(record: &Message, now: Timestamp) -> bool {
    record.first_received_at.is_some_and(|first| now.duration_since(first) > DAY)
}

fn is_exhausted(record: &Message, now: Timestamp) -> bool {
    record.receives > MIN_RECEIVES && is_a_day_old(record, now)
}

/// Whether another conversation succeeded where this record's failed.
fn failed_by_itself(record: &Message, context: &BatchContext) -> bool {
    let events = Event::read(RecordIndex(0), record).unwrap_or_default();
    events.iter().any(|event| context.failed_where_another_succeeded(&event.subject))
}

/// Seconds until a record is visible again: 30 doubling to an hour, ± 20 % so that records that
/// failed together do not return together; at most `most`; later if a server asked for it, within the
/// same hour.
fn back_off(receives: u32, most: Option<Duration>, retry_after: Option<Duration>) -> i32 {
    let doublings = receives.saturating_sub(1).min(16);
    let seconds = FIRST_WAIT_SECONDS.saturating_mul(1 << doublings).min(MAX_WAIT_SECONDS);
    let jittered = f64::from(seconds) * (0.8 + 0.4 * fastrand::f64());
    #[expect(clippy::cast_possible_truncation, reason = "at most 4,320")]
    let jittered = jittered.round() as i32;
    let capped = most.map_or(jittered, |most| jittered.min(whole_seconds(most)));
    capped.max(whole_seconds(retry_after.unwrap_or_default()))
}

/// A wait in seconds, an hour at most.
fn whole_seconds(wait: Duration) -> i32 {
    let longest = Duration::from_secs(MAX_WAIT_SECONDS.into());
    #[expect(clippy::cast_possible_truncation, reason = "at most 3,600")]
    let seconds = wait.min(longest).as_secs_f64().ceil() as i32;
    seconds
}

/// Settles the records of batches.
pub(crate) struct Settler {
    gate: Arc<Gate>,
    events: Arc<Queue>,
    quarantine: Arc<Queue>,
    /// Whether events are re-enqueued before they expire.
    renews: bool,
    clock: Clock,
}

impl Settler {
    pub(crate) fn new(clients: &Clients, renews: bool) -> Self {
        Self {
            gate: Arc::clone(&clients.gate),
            events: Arc::clone(&clients.events),
            quarantine: Arc::clone(&clients.quarantine),
            renews,
            clock: clients.clock.clone(),
        }
    }

    /// Settles each record. What cannot be settled by the deadline stays in the queue.
    pub(crate) async fn settle(
        &self,
        records: &[Message],
        outcomes: Vec<Outcome>,
        context: &BatchContext,
    ) -> SqsBatchResponse {
        let now = self.clock.now();
        let conditions = self.conditions(records, &outcomes, context, now);
        let conditions = timeout_at(context.deadlines.settle, conditions).await.unwrap_or_default();
        let settled = records.iter().zip(outcomes).map(async |(record, outcome)| {
            let kept = match outcome.settlement(record, context, &conditions, now) {
                Settlement::Delete => None,
                Settlement::Return { visibility_timeout } => Some((record, visibility_timeout)),
                Settlement::Quarantine(reason, detail) => {
                    self.quarantine(record, reason, &detail, now, context).await
                }
            };
            let (record, seconds) = kept?;
            let renewed = self.renewed(record, seconds, now, context).await;
            (!renewed).then_some((record, seconds))
        });
        let kept: Vec<_> = stream::iter(settled)
            .buffered(MAX_REQUESTS)
            .filter_map(async |kept| kept)
            .collect()
            .await;

        let receipts: Vec<_> =
            kept.iter().map(|(record, seconds)| (&*record.receipt, *seconds)).collect();
        let returns = stream::iter(receipts.chunks(ENTRIES))
            .for_each_concurrent(MAX_REQUESTS, |receipts| self.events.return_to_queue(receipts));
        if timeout_at(context.deadlines.settle, returns).await.is_err() {
            warn!(count = kept.len(), "timed out setting the visibility of returned records");
        }
        let mut response = SqsBatchResponse::default();
        response.set_failures(kept.into_iter().map(|(record, _)| record.id.clone()));
        response
    }

    /// Determines the conditions, reading only what matters for these records.
    async fn conditions(
        &self,
        records: &[Message],
        outcomes: &[Outcome],
        context: &BatchContext,
        now: Timestamp,
    ) -> Conditions {
        // A fatal error is not an event's own failure.
        let exhausted = context.fatal_error().is_none()
            && records.iter().zip(outcomes).any(|(record, outcome)| {
                matches!(outcome, Outcome::Failed(_)) && is_exhausted(record, now)
            });
        let rejected = context.fatal_error_of(Upstream::Destination).is_some()
            && outcomes.iter().all(|outcome| matches!(outcome, Outcome::Rejected(_)));
        let missing = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Missing));
        let mut conditions = Conditions::default();
        if exhausted {
            conditions.free = self.gate.was_free_for(DAY).await;
        }
        if rejected || missing {
            let state = self.gate.breaker.fetch().await.ok();
            let open_state = state.as_ref().and_then(|state| state.open_state());
            conditions.open_state =
                open_state.filter(|open_state| open_state.lasts(DAY, now)).cloned();
        }
        if rejected
            && conditions.open_state.is_some()
            && self.gate.breaker.denied_one(Upstream::Destination)
        {
            let waiting = self.events.depth().await;
            conditions.lone = waiting.is_ok_and(|depth| depth.total <= records.len() as u64);
        }
        conditions
    }

    /// Re-enqueues a record that would expire soon after its return. Returns whether it did: then the
    /// original is to be deleted.
    async fn renewed(
        &self,
        record: &Message,
        seconds: i32,
        now: Timestamp,
        context: &BatchContext,
    ) -> bool {
        let Some(sent_at) = record.sent_at.filter(|_| self.renews) else {
            return false;
        };
        let re_enqueue = async {
            let Some(retention) = self.events.retention(now).await? else {
                return Ok(false);
            };
            let next_turn = now + SignedDuration::from_secs(seconds.into());
            let expires = sent_at.saturating_add(retention).unwrap_or(sent_at);
            if expires.duration_since(next_turn) >= retention / 16 * RE_ENQUEUE_SIXTEENTHS {
                return Ok(false);
            }
            self.events.re_enqueue(record, seconds).await.map(|()| true)
        };
        let id = &record.id;
        match timeout_at(context.deadlines.settle, re_enqueue).await {
            Ok(Ok(renewed)) => {
                context.count(Metric::Renewed, renewed.into());
                renewed
            }
            Ok(Err(err)) => {
                warn!(
                    sqs.message_id = id,
                    error = error_chain(&err),
                    "could not re-enqueue an event; returned to the queue"
                );
                false
            }
            Err(_) => {
                warn!(
                    sqs.message_id = id,
                    "timed out re-enqueueing an event; returned to the queue"
                );
                false
            }
        }
    }

    /// Quarantines a record, or returns it to the queue if that fails.
    async fn quarantine<'a>(
        &self,
        record: &'a Message,
        reason: QuarantineReason,
        detail: &str,
        now: Timestamp,
        context: &BatchContext,
    ) -> Option<(&'a Message, i32)> {
        let message = QueueMessage::read(&record.body).ok();
        let received_at = message.as_ref().map(QueueMessage::received_at);
        let received_at = received_at.or(record.sent_at).unwrap_or(now);
        let event_id = message.as_ref().and_then(|message| message.event().ok()?.id);
        let send = self.quarantine.quarantine(record, received_at, reason, detail);
        let (id, code) = (&record.id, reason.code());
        match timeout_at(context.deadlines.settle, send).await {
            Ok(Ok(())) => {
                let event = event_id.as_ref().map(tracing::field::display);
                error!(
                    sqs.message_id = id,
                    event.id = event,
                    reason = code,
                    detail,
                    "quarantined an event"
                );
                context.count(Metric::Quarantined, 1);
                return None;
            }
            Ok(Err(err)) => {
                error!(
                    sqs.message_id = id,
                    reason = code,
                    error = error_chain(&err),
                    "could not quarantine an event; returned to the queue"
                );
            }
            Err(_) => error!(
                sqs.message_id = id,
                reason = code,
                "timed out quarantining an event; returned to the queue"
            ),
        }
        Some((record, back_off(record.receives, None, None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_half_a_minute_to_an_hour() {
        for (receives, expected) in [
            (0, 30),
            (1, 30),
            (2, 60),
            (3, 120),
            (7, 1_920),
            (8, 3_600),
            (9, 3_600),
            (u32::MAX, 3_600),
        ] {
            let waits: Vec<_> = (0..200).map(|_| back_off(receives, None, None)).collect();
            let (least, most) = (expected * 8 / 10, expected * 12 / 10);
            assert!(
                waits.iter().all(|wait| (least..=most).contains(wait)),
                "{receives}: {waits:?}"
            );
            assert!(waits.iter().any(|wait| *wait != waits[0]), "no jitter");
        }
    }

    #[test]
    fn a_requested_wait_is_kept_within_an_hour() {
        assert_eq!(back_off(1, None, Some(Duration::from_mins(10))), 600);
        assert!(back_off(1, None, Some(Duration::from_secs(1))) >= 24);
        assert_eq!(back_off(1, None, Some(Duration::from_secs(1 << 40))), 3_600);
    }

    #[test]
    fn a_wait_can_be_limited_but_not_a_requested_one() {
        let most = Some(Duration::from_millis(31_200));
        assert_eq!(back_off(5, most, None), 32);
        assert!((24..=32).contains(&back_off(1, most, None)));
        assert_eq!(back_off(5, most, Some(Duration::from_mins(1))), 60);
    }
}
