//! How each record ends, and what SQS is told of it. Visibility is changed here only.

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
    },
};

/// Requests to SQS at once.
const AT_ONCE: usize = 8;
/// The first wait of a record that failed or is held; it doubles with each receive.
const FIRST_WAIT: u32 = 30;
/// The longest wait.
const LONGEST_WAIT: u32 = 3_600;
/// How long Gladly may take to show what it sent an event about.
const READ_LAG_SECONDS: i32 = 30;
/// A record that fails by itself is quarantined once it was received more often than this, and
/// first a day ago.
const MIN_RECEIVES: u32 = 20;
/// A record returned with less than this many sixteenths of the retention left at its next receive
/// is sent again. A renewal that begins while it is hidden misses it, and the next one begins a quarter
/// of the retention later; the rest is for what delays that one.
const RE_ENQUEUE_SIXTEENTHS: i32 = 5;

/// How a record ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// At the destination.
    Delivered,
    /// The destination will not have its conversation, and answered with this status.
    Refused(u16),
    /// Gladly has no such conversation, nor any other.
    Missing,
    /// Not an event.
    InvalidEvent(InvalidEvent),
    /// Extraction is paused.
    Held,
    /// Not begun when time ran out.
    DeadlineExceeded,
    /// Gladly may show more in a moment.
    NotYetVisible,
    /// The rate limit leaves no room for its calls before this.
    RateLimited(Duration),
    /// Something failed that may work later, or took more time than there was; not before this if
    /// a server asked for it.
    Failed(Option<Duration>),
}

/// What the end of a record depends on beside itself. Unknown, it leaves the record in the queue.
#[derive(Default)]
struct Grounds {
    /// Extraction was not held for a day, so what failed all that time did so by itself.
    free: bool,
    /// The breaker has been open or half-open for a day.
    open_state: Option<OpenState>,
    /// One conversation is all that there is to try.
    lone: bool,
}

impl Grounds {
    /// Whether a day of missing conversations is over.
    fn ends_missing(&self) -> bool {
        self.open_state.as_ref().is_some_and(|open_state| open_state.reason == NONE_FOUND)
    }

    /// Whether a day of refusals is over in which there was nothing else to try.
    fn ends_refused(&self) -> bool {
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
        grounds: &Grounds,
        now: Timestamp,
    ) -> Settlement {
        let exhausted = |detail| Settlement::Quarantine(QuarantineReason::Exhausted, detail);
        match self {
            Self::Delivered => Settlement::Delete,
            Self::InvalidEvent(why) => Settlement::Quarantine(why.reason(), why.to_string()),
            Self::Refused(status)
                if context.fatal_error_of(Upstream::Destination).is_none()
                    || grounds.ends_refused() =>
            {
                Settlement::Quarantine(
                    QuarantineReason::Rejected,
                    format!("the destination answered {status}"),
                )
            }
            Self::Missing if grounds.ends_missing() && is_a_day_old(record, now) => {
                exhausted("Gladly has answered 404 to every conversation for a day".into())
            }
            Self::DeadlineExceeded => Settlement::Return { visibility_timeout: 0 },
            Self::NotYetVisible => Settlement::Return { visibility_timeout: READ_LAG_SECONDS },
            Self::RateLimited(wait) => {
                Settlement::Return { visibility_timeout: whole_seconds(wait).max(1) }
            }
            Self::Held | Self::Refused(_) | Self::Missing => {
                Settlement::Return { visibility_timeout: back_off(record.receives, None) }
            }
            Self::Failed(_)
                if grounds.free && is_tired(record, now) && failed_by_itself(record, context) =>
            {
                exhausted(format!("failed for more than a day, received {} times", record.receives))
            }
            Self::Failed(retry_after) => {
                Settlement::Return { visibility_timeout: back_off(record.receives, retry_after) }
            }
        }
    }
}

fn is_a_day_old(record: &Message, now: Timestamp) -> bool {
    record.first_received_at.is_some_and(|first| now.duration_since(first) > DAY)
}

fn is_tired(record: &Message, now: Timestamp) -> bool {
    record.receives > MIN_RECEIVES && is_a_day_old(record, now)
}

/// Whether another conversation got past where this record's failed.
fn failed_by_itself(record: &Message, context: &BatchContext) -> bool {
    Event::read(RecordIndex(0), record)
        .is_ok_and(|event| context.failed_where_another_succeeded(&event.conversation))
}

/// Seconds until a record comes back: 30 doubling to an hour, 20 % up or down so that records that
/// failed together do not return together; later if a server asked for it, within the same hour.
fn back_off(receives: u32, retry_after: Option<Duration>) -> i32 {
    let doublings = receives.saturating_sub(1).min(16);
    let seconds = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    let jittered = f64::from(seconds) * (0.8 + 0.4 * fastrand::f64());
    #[expect(clippy::cast_possible_truncation, reason = "at most 4,320")]
    let jittered = jittered.round() as i32;
    jittered.max(whole_seconds(retry_after.unwrap_or_default()))
}

/// A wait in seconds, an hour at most.
fn whole_seconds(wait: Duration) -> i32 {
    let longest = Duration::from_secs(LONGEST_WAIT.into());
    #[expect(clippy::cast_possible_truncation, reason = "at most 3,600")]
    let seconds = wait.min(longest).as_secs_f64().ceil() as i32;
    seconds
}

/// Settles the records of batches.
pub(crate) struct Settler {
    gate: Arc<Gate>,
    events: Arc<Queue>,
    quarantine: Arc<Queue>,
    /// Whether events are sent again before the queue lets them expire.
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

    /// Tells SQS how each record ended. What cannot be told by the deadline stays in the queue.
    pub(crate) async fn settle(
        &self,
        records: &[Message],
        outcomes: Vec<Outcome>,
        context: &BatchContext,
    ) -> SqsBatchResponse {
        let now = self.clock.now();
        let grounds =
            timeout_at(context.deadlines.settle, self.grounds(records, &outcomes, context, now));
        let grounds = grounds.await.unwrap_or_default();
        let settled = records.iter().zip(outcomes).map(async |(record, outcome)| {
            let kept = match outcome.settlement(record, context, &grounds, now) {
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
        let kept: Vec<_> =
            stream::iter(settled).buffered(AT_ONCE).filter_map(async |kept| kept).collect().await;

        let receipts: Vec<_> =
            kept.iter().map(|(record, seconds)| (&*record.receipt, *seconds)).collect();
        let told = stream::iter(receipts.chunks(ENTRIES))
            .for_each_concurrent(AT_ONCE, |receipts| self.events.return_to_queue(receipts));
        if timeout_at(context.deadlines.settle, told).await.is_err() {
            warn!(count = kept.len(), "timed out setting the visibility of returned records");
        }
        let mut response = SqsBatchResponse::default();
        response.set_failures(kept.into_iter().map(|(record, _)| record.id.clone()));
        response
    }

    /// Looks for what decides about these records, and for nothing that decides about none.
    async fn grounds(
        &self,
        records: &[Message],
        outcomes: &[Outcome],
        context: &BatchContext,
        now: Timestamp,
    ) -> Grounds {
        // What fails for everybody is no event's fault.
        let tired = context.fatal_error().is_none()
            && records.iter().zip(outcomes).any(|(record, outcome)| {
                matches!(outcome, Outcome::Failed(_)) && is_tired(record, now)
            });
        let refused = context.fatal_error_of(Upstream::Destination).is_some()
            && outcomes.iter().all(|outcome| matches!(outcome, Outcome::Refused(_)));
        let missing = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Missing));
        let mut grounds = Grounds::default();
        if tired {
            grounds.free = self.gate.was_free_for(DAY).await;
        }
        if refused || missing {
            let state = self.gate.breaker.fetch().await.ok();
            let open_state = state.as_ref().and_then(|state| state.open_state());
            grounds.open_state =
                open_state.filter(|open_state| open_state.lasts(DAY, now)).cloned();
        }
        if refused
            && grounds.open_state.is_some()
            && self.gate.breaker.denied_one(Upstream::Destination)
        {
            let waiting = self.events.depth().await;
            grounds.lone = waiting.is_ok_and(|depth| depth.total <= records.len() as u64);
        }
        grounds
    }

    /// Re-enqueues a record that the queue would soon let expire after its return.
    /// Whether that was done: then it is the old one that is to be deleted.
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

    /// Quarantines a record, or gives it back if that fails.
    async fn quarantine<'a>(
        &self,
        record: &'a Message,
        reason: QuarantineReason,
        detail: &str,
        now: Timestamp,
        context: &BatchContext,
    ) -> Option<(&'a Message, i32)> {
        let received_at = QueueMessage::read(&record.body).map(|message| message.received_at());
        let received_at = received_at.ok().or(record.sent_at).unwrap_or(now);
        let send = self.quarantine.quarantine(record, received_at, reason, detail);
        let (id, code) = (&record.id, reason.code());
        match timeout_at(context.deadlines.settle, send).await {
            Ok(Ok(())) => {
                error!(sqs.message_id = id, reason = code, detail, "quarantined an event");
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
        Some((record, back_off(record.receives, None)))
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
            let waits: Vec<_> = (0..200).map(|_| back_off(receives, None)).collect();
            let (least, most) = (expected * 8 / 10, expected * 12 / 10);
            assert!(
                waits.iter().all(|wait| (least..=most).contains(wait)),
                "{receives}: {waits:?}"
            );
            assert!(waits.iter().any(|wait| *wait != waits[0]), "no jitter");
        }
    }

    #[test]
    fn a_wait_that_was_asked_for_is_kept_within_an_hour() {
        assert_eq!(back_off(1, Some(Duration::from_mins(10))), 600);
        assert!(back_off(1, Some(Duration::from_secs(1))) >= 24);
        assert_eq!(back_off(1, Some(Duration::from_secs(1 << 40))), 3_600);
    }
}
