//! How each record ends, and what SQS is told of it. Visibility is changed here only.

use std::time::Duration;

use aws_lambda_events::sqs::SqsBatchResponse;
use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use shared::{Metric, QueueMessage, Reason, Unusable, chain};
use tokio::time::timeout_at;
use tracing::{error, warn};

use crate::{Extractor, queue::ENTRIES, record::Record, run::Run};

/// Requests to SQS at once.
const AT_ONCE: usize = 8;
/// The first wait of a record that failed or is held; it doubles with each receive.
const FIRST_WAIT: u32 = 30;
/// The longest wait.
const LONGEST_WAIT: u32 = 3_600;
/// How long Gladly may take to show what it sent an event about.
const LAG: i32 = 30;
/// A record is given up once it was received more often than this …
const RECEIVES: u32 = 20;
/// … and first received longer ago than this.
const PATIENCE: SignedDuration = SignedDuration::from_hours(24);
/// What is given back with less than this many sixteenths of the retention left at its next turn is
/// sent anew. A renewal that begins while it is hidden misses it, and the next one begins a quarter
/// of the retention later; the rest is for what delays that one.
const LATE: i32 = 5;

/// How a record ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// At the destination.
    Delivered,
    /// The destination will not have its conversation, and answered with this status.
    Refused(u16),
    /// Not an event.
    Unusable(Unusable),
    /// Extraction is paused.
    Held,
    /// Not begun, or not finished, when time ran out.
    OutOfTime,
    /// Gladly may show more in a moment.
    LookAgain,
    /// Something failed that may work later, not before this if somebody asked for it.
    Failed(Option<Duration>),
}

/// What SQS is to do with a record.
enum Settlement {
    Delete,
    GiveBack(i32),
    Quarantine(Reason, String),
}

impl Outcome {
    fn settlement(self, record: &Record, run: &Run, now: Timestamp) -> Settlement {
        match self {
            Self::Delivered => Settlement::Delete,
            Self::Unusable(why) => Settlement::Quarantine(why.reason(), why.to_string()),
            Self::Refused(status) if !run.destination_refuses_all() => Settlement::Quarantine(
                Reason::Rejected,
                format!("the destination answered {status}"),
            ),
            Self::OutOfTime => Settlement::GiveBack(0),
            Self::LookAgain => Settlement::GiveBack(LAG),
            Self::Held | Self::Refused(_) => Settlement::GiveBack(back_off(record.receives, None)),
            // What fails for everybody is no event's fault.
            Self::Failed(_) if run.fault().is_none() && is_exhausted(record, now) => {
                Settlement::Quarantine(
                    Reason::Exhausted,
                    format!("failed for more than a day, received {} times", record.receives),
                )
            }
            Self::Failed(retry_after) => {
                Settlement::GiveBack(back_off(record.receives, retry_after))
            }
        }
    }
}

fn is_exhausted(record: &Record, now: Timestamp) -> bool {
    let waited = record.first_received_at.map(|first| now.duration_since(first));
    record.receives > RECEIVES && waited.is_some_and(|waited| waited > PATIENCE)
}

/// Seconds until a record comes back: 30 doubling to an hour, 20 % up or down so that records that
/// failed together do not return together; later if somebody asked for it, within the same hour.
fn back_off(receives: u32, retry_after: Option<Duration>) -> i32 {
    let doublings = receives.saturating_sub(1).min(16);
    let seconds = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    let jittered = f64::from(seconds) * (0.8 + 0.4 * fastrand::f64());
    let asked = retry_after.unwrap_or_default().as_secs_f64().ceil().min(f64::from(LONGEST_WAIT));
    #[expect(clippy::cast_possible_truncation, reason = "at most 4,320")]
    let seconds = jittered.max(asked).round() as i32;
    seconds
}

impl Extractor {
    /// Tells SQS how each record ended. What cannot be told by the deadline stays in the queue.
    pub(crate) async fn settle(
        &self,
        records: &[Record],
        outcomes: Vec<Outcome>,
        run: &Run,
    ) -> SqsBatchResponse {
        let now = self.now();
        let settled = records.iter().zip(outcomes).map(async |(record, outcome)| {
            let kept = match outcome.settlement(record, run, now) {
                Settlement::Delete => None,
                Settlement::GiveBack(seconds) => Some((record, seconds)),
                Settlement::Quarantine(reason, detail) => {
                    self.put_aside(record, reason, &detail, now, run).await
                }
            };
            let (record, seconds) = kept?;
            let renewed = self.renewed(record, seconds, now, run).await;
            (!renewed).then_some((record, seconds))
        });
        let kept: Vec<_> =
            stream::iter(settled).buffered(AT_ONCE).filter_map(async |kept| kept).collect().await;

        let receipts: Vec<_> =
            kept.iter().map(|(record, seconds)| (&*record.receipt, *seconds)).collect();
        let told = stream::iter(receipts.chunks(ENTRIES))
            .for_each_concurrent(AT_ONCE, |receipts| self.events.give_back(receipts));
        if timeout_at(run.times.settle, told).await.is_err() {
            warn!(count = kept.len(), "no time to set the visibility of all records given back");
        }
        let mut response = SqsBatchResponse::default();
        response.set_failures(kept.into_iter().map(|(record, _)| record.message_id.clone()));
        response
    }

    /// Sends a record anew if the queue would soon let it expire while it is being given back.
    /// Whether that was done: then it is the old one that is to be deleted.
    async fn renewed(&self, record: &Record, seconds: i32, now: Timestamp, run: &Run) -> bool {
        let Some(sent_at) = record.sent_at.filter(|_| self.renews) else {
            return false;
        };
        let resend = async {
            let Some(retention) = self.events.retention(now).await? else {
                return Ok(false);
            };
            let next_turn = now + SignedDuration::from_secs(seconds.into());
            let expires = sent_at.saturating_add(retention).unwrap_or(sent_at);
            if expires.duration_since(next_turn) >= retention / 16 * LATE {
                return Ok(false);
            }
            self.events.resend(record, seconds).await.map(|()| true)
        };
        let id = &record.message_id;
        match timeout_at(run.times.settle, resend).await {
            Ok(Ok(renewed)) => {
                run.count(Metric::Renewed, renewed.into());
                renewed
            }
            Ok(Err(err)) => {
                warn!(sqs.message_id = id, error = chain(&err), "could not renew an event");
                false
            }
            Err(_) => {
                warn!(sqs.message_id = id, "no time to renew an event");
                false
            }
        }
    }

    /// Quarantines a record, or gives it back if that fails.
    async fn put_aside<'a>(
        &self,
        record: &'a Record,
        reason: Reason,
        detail: &str,
        now: Timestamp,
        run: &Run,
    ) -> Option<(&'a Record, i32)> {
        let received_at = QueueMessage::read(&record.body).map(|message| message.received_at());
        let received_at = received_at.ok().or(record.sent_at).unwrap_or(now);
        let send = self.quarantine.put_aside(record, received_at, reason, detail);
        let (id, code) = (&record.message_id, reason.code());
        match timeout_at(run.times.settle, send).await {
            Ok(Ok(())) => {
                error!(sqs.message_id = id, reason = code, detail, "put an event into quarantine");
                run.count(Metric::Quarantined, 1);
                return None;
            }
            Ok(Err(err)) => {
                error!(sqs.message_id = id, reason = code, error = chain(&err), "no quarantine");
            }
            Err(_) => error!(sqs.message_id = id, reason = code, "no time for quarantine"),
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
