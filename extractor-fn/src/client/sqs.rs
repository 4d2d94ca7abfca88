//! The two queues as the extractor uses them.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{BuildError, SdkError},
    operation::{
        get_queue_attributes::GetQueueAttributesError, receive_message::ReceiveMessageError,
        send_message::SendMessageError, send_message_batch::SendMessageBatchError,
    },
    types::{
        ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
        MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
    },
};
use jiff::{SignedDuration, Timestamp};
use shared::{
    ClockErrors, MAX_SETTLE_SECONDS, ProofOfSending, QuarantineReason, QuarantinedMessage,
    error_chain, has_stored,
};
use tokio::sync::Mutex;
use tracing::warn;

use crate::client::message::Message;

/// The most entries that SQS accepts in one request.
pub(crate) const ENTRIES: usize = 10;
/// The most bytes of bodies in one request: SQS accepts 1 MiB, attributes included.
const REQUEST_LIMIT: usize = (1 << 20) - (16 << 10);
/// The longest delay of a message, in seconds.
const LONGEST_DELAY: i32 = MAX_SETTLE_SECONDS as i32;
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a queue's retention is cached.
const RETENTION_TTL: SignedDuration = SignedDuration::from_mins(10);
/// How long it is not read again after a failure.
const FAILURE_TTL: SignedDuration = SignedDuration::from_secs(10);

/// One of the queues.
pub(crate) struct Queue {
    sqs: Client,
    url: String,
    /// When it was read, and the value; `None` after a failure.
    retention: Mutex<Option<(Timestamp, Option<SignedDuration>)>>,
}

/// A queue's attributes. SQS calls its numbers approximate: they settle within a minute.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    /// Messages that were received and not yet deleted or returned.
    pub(crate) in_flight: u64,
    /// Messages that were sent with a delay that has not passed.
    pub(crate) delayed: u64,
    /// All messages, these included.
    pub(crate) total: u64,
    pub(crate) retention: SignedDuration,
    pub(crate) created_at: Timestamp,
}

/// Why a queue operation failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QueueError {
    #[error("could not write the message")]
    Encode(#[from] serde_json::Error),
    #[error("could not build the request")]
    Build(#[from] BuildError),
    #[error("could not send to SQS")]
    Send(#[source] Box<SdkError<SendMessageError>>),
    #[error("could not send to SQS")]
    SendBatch(#[source] Box<SdkError<SendMessageBatchError>>),
    #[error("could not receive from SQS")]
    Receive(#[source] Box<SdkError<ReceiveMessageError>>),
    #[error("could not read the queue's attributes")]
    Attributes(#[source] Box<SdkError<GetQueueAttributesError>>),
    #[error("the queue's attributes are missing or invalid")]
    Invalid,
    #[error("SQS did not accept some of the messages: {0}")]
    NotAccepted(String),
}

/// An SQS client with this module's timeouts and retries.
pub(crate) fn sqs_client(aws: &SdkConfig) -> Client {
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT);
    let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(100));
    let sqs = Builder::from(aws).timeout_config(timeouts.build()).retry_config(retries);
    Client::from_conf(sqs.retry_classifier(ClockErrors).interceptor(ProofOfSending).build())
}

impl Depth {
    /// No message was sent longer ago than this, if those that wait are delayed ones alone.
    pub(crate) fn delay_alone(&self) -> Option<SignedDuration> {
        let longest = SignedDuration::from_secs(LONGEST_DELAY.into());
        match (self.total - self.delayed, self.delayed) {
            (0, 0) => Some(SignedDuration::ZERO),
            // Only a local stack has so short a retention, and its window is shorter yet.
            (0, _) => Some(longest.min(self.retention / 8)),
            _ => None,
        }
    }
}

impl Queue {
    pub(crate) fn new(sqs: Client, url: String) -> Self {
        Self { sqs, url, retention: Mutex::default() }
    }

    /// Sets the visibility timeout of received messages, in seconds. After a failure the queue's own
    /// visibility timeout applies, so it costs only time.
    pub(crate) async fn return_to_queue(&self, receipts: &[(&str, i32)]) {
        let entries = receipts.iter().enumerate().filter_map(|(index, (receipt, seconds))| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(*receipt)
                .visibility_timeout(*seconds);
            entry.build().ok()
        });
        let request = self.sqs.change_message_visibility_batch().queue_url(&self.url);
        let answer = request.set_entries(Some(entries.collect())).send().await;
        let failed = match answer {
            Ok(answer) => codes(answer.failed.into_iter().map(|entry| entry.code)),
            Err(err) => Some(error_chain(&err)),
        };
        if let Some(failed) = failed {
            let count = receipts.len();
            warn!(count, error = failed, "could not set the visibility of some of the messages");
        }
    }

    /// Quarantines a record. The record may be deleted once this has returned.
    pub(crate) async fn quarantine(
        &self,
        record: &Message,
        received_at: Timestamp,
        reason: QuarantineReason,
        detail: &str,
    ) -> Result<(), QueueError> {
        let raw = record.body.as_bytes();
        let message = QuarantinedMessage::new(received_at, reason, detail, "extractor-fn", raw)?;
        self.send(&Message::new(message.to_json()?, "reason", reason.code())?, 0).await
    }

    /// Sends a record again, unchanged, delayed by this many seconds, 15 minutes at most. The old one
    /// may be deleted once this has returned.
    pub(crate) async fn re_enqueue(
        &self,
        record: &Message,
        seconds: i32,
    ) -> Result<(), QueueError> {
        self.send(record, seconds.min(LONGEST_DELAY)).await
    }

    /// Sends a message. It is durable once this has returned.
    pub(crate) async fn send(&self, message: &Message, delay: i32) -> Result<(), QueueError> {
        let request = self.sqs.send_message().queue_url(&self.url).message_body(&message.body);
        let request = request.set_message_attributes(Some(message.attributes.clone()));
        let answer = request.delay_seconds(delay).send().await;
        answer.map(drop).map_err(|err| QueueError::Send(Box::new(err)))
    }

    /// Sends new messages, at most [`ENTRIES`]. All of them are durable once this has returned.
    pub(crate) async fn send_new(&self, messages: &[Message]) -> Result<(), QueueError> {
        for some in requests(messages) {
            let sent = self.send_all(some).await?.len();
            if sent < some.len() {
                let failed = some.len() - sent;
                return Err(QueueError::NotAccepted(format!("{failed} of {}", some.len())));
            }
        }
        Ok(())
    }

    /// Re-sends received messages byte for byte, then deletes the originals: the copies have the full
    /// retention ahead of them. Returns how many were copied; the others stay, and so does an
    /// original that cannot be deleted.
    pub(crate) async fn renew(&self, messages: &[Message]) -> usize {
        let mut renewed = 0;
        for some in requests(messages) {
            let sent = self.send_all(some).await.unwrap_or_else(|err| {
                warn!(count = some.len(), error = error_chain(&err), "could not renew messages");
                Vec::new()
            });
            self.delete(&sent).await;
            renewed += sent.len();
        }
        renewed
    }

    /// Sends messages, and returns those that SQS has proved to have stored.
    async fn send_all<'a>(&self, messages: &'a [Message]) -> Result<Vec<&'a Message>, QueueError> {
        let entries = messages.iter().enumerate().map(|(index, message)| {
            let entry = SendMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .message_body(&message.body)
                .set_message_attributes(Some(message.attributes.clone()));
            entry.build()
        });
        let entries = entries.collect::<Result<_, _>>()?;
        let request = self.sqs.send_message_batch().queue_url(&self.url);
        let answer = request.set_entries(Some(entries)).send().await;
        let answer = answer.map_err(|err| QueueError::SendBatch(Box::new(err)))?;
        if let Some(failed) = codes(answer.failed.into_iter().map(|entry| entry.code)) {
            warn!(count = messages.len(), error = failed, "could not send some of the messages");
        }
        let is_sent = |(index, message): &(usize, &Message)| {
            let (id, mut taken) = (index.to_string(), answer.successful.iter());
            taken.any(|taken| {
                let (named, md5) = (&*taken.message_id, &*taken.md5_of_message_body);
                taken.id == id && has_stored(&message.body, Some(named), Some(md5))
            })
        };
        Ok(messages.iter().enumerate().filter(is_sent).map(|(_, message)| message).collect())
    }

    /// Deletes received messages, at most [`ENTRIES`]. One that stays is received again; an event is
    /// only delivered twice then. Returns the indices of those that may not have been deleted.
    pub(crate) async fn delete(&self, messages: &[&Message]) -> Vec<usize> {
        if messages.is_empty() {
            return Vec::new();
        }
        let entries = messages.iter().enumerate().filter_map(|(index, message)| {
            let entry = DeleteMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(&message.receipt);
            entry.build().ok()
        });
        let request = self.sqs.delete_message_batch().queue_url(&self.url);
        let (error, failed) = match request.set_entries(Some(entries.collect())).send().await {
            Ok(answer) => {
                let is_deleted = |index: &usize| {
                    let id = index.to_string();
                    answer.successful.iter().any(|deleted| deleted.id == id)
                };
                let failed = (0..messages.len()).filter(|index| !is_deleted(index)).collect();
                (codes(answer.failed.into_iter().map(|entry| entry.code)), failed)
            }
            Err(err) => (Some(error_chain(&err)), (0..messages.len()).collect()),
        };
        if let Some(error) = error {
            warn!(count = messages.len(), error, "could not delete some of the messages");
        }
        failed
    }

    /// Receives up to ten messages and hides them for a while.
    pub(crate) async fn receive(&self, hide: Duration) -> Result<Vec<Message>, QueueError> {
        let seconds = hide.as_secs().try_into().unwrap_or(i32::MAX);
        let request = self.sqs.receive_message().queue_url(&self.url).visibility_timeout(seconds);
        let request = request
            .max_number_of_messages(10)
            .message_attribute_names("All")
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp);
        let answer = request.send().await.map_err(|err| QueueError::Receive(Box::new(err)))?;
        Ok(answer.messages.unwrap_or_default().into_iter().map(Message::from).collect())
    }

    /// Reads the queue's attributes.
    pub(crate) async fn depth(&self) -> Result<Depth, QueueError> {
        use QueueAttributeName as Name;
        let names = [
            Name::ApproximateNumberOfMessages,
            Name::ApproximateNumberOfMessagesNotVisible,
            Name::ApproximateNumberOfMessagesDelayed,
            Name::MessageRetentionPeriod,
            Name::CreatedTimestamp,
        ];
        let request = self.sqs.get_queue_attributes().queue_url(&self.url);
        let answer = request.set_attribute_names(Some(names.into())).send().await;
        let answer = answer.map_err(|err| QueueError::Attributes(Box::new(err)))?;
        let attributes = answer.attributes.unwrap_or_default();
        let number = |name: Name| -> Result<u64, QueueError> {
            let number = attributes.get(&name).and_then(|number| number.parse().ok());
            number.ok_or(QueueError::Invalid)
        };
        let seconds = |name| -> Result<i64, QueueError> {
            number(name)?.try_into().map_err(|_| QueueError::Invalid)
        };
        let in_flight = number(Name::ApproximateNumberOfMessagesNotVisible)?;
        let delayed = number(Name::ApproximateNumberOfMessagesDelayed)?;
        Ok(Depth {
            in_flight,
            delayed,
            total: number(Name::ApproximateNumberOfMessages)? + in_flight + delayed,
            retention: SignedDuration::from_secs(seconds(Name::MessageRetentionPeriod)?),
            created_at: Timestamp::from_second(seconds(Name::CreatedTimestamp)?)
                .map_err(|_| QueueError::Invalid)?,
        })
    }

    /// The queue's retention, cached for some minutes. `None` shortly after a failure to read it.
    pub(crate) async fn retention(
        &self,
        now: Timestamp,
    ) -> Result<Option<SignedDuration>, QueueError> {
        let mut known = self.retention.lock().await;
        let until = |age| known.is_some_and(|(read_at, _)| now.duration_since(read_at) < age);
        match *known {
            Some((_, Some(retention))) if until(RETENTION_TTL) => return Ok(Some(retention)),
            // Otherwise a batch of many records would wait for as many failures.
            Some((_, None)) if until(FAILURE_TTL) => return Ok(None),
            _ => {}
        }
        let depth = self.depth().await;
        *known = Some((now, depth.as_ref().ok().map(|depth| depth.retention)));
        depth.map(|depth| Some(depth.retention))
    }
}

/// Splits messages into slices that each fit into one request.
fn requests(messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    let mut rest = messages;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |message: &&Message| {
            bytes += message.size();
            bytes <= REQUEST_LIMIT
        };
        let count = rest.iter().take(ENTRIES).take_while(fits).count().max(1).min(rest.len());
        let (some, others) = rest.split_at(count);
        rest = others;
        (!some.is_empty()).then_some(some)
    })
}

/// The codes of what failed in a batch, if anything did.
fn codes(failed: impl Iterator<Item = String>) -> Option<String> {
    let codes: Vec<_> = failed.collect();
    (!codes.is_empty()).then(|| codes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_ten_messages_or_a_megabyte() {
        let message = |bytes| Message { body: "a".repeat(bytes), ..Message::default() };
        for (sizes, expected) in [
            (vec![], vec![]),
            (vec![1; 25], vec![10, 10, 5]),
            (vec![400_000; 5], vec![2, 2, 1]),
            (vec![1_040_000, 1_040_000], vec![1, 1]),
            (vec![1_048_576, 1], vec![1, 1]),
        ] {
            let messages: Vec<_> = sizes.into_iter().map(message).collect();
            assert_eq!(requests(&messages).map(<[_]>::len).collect::<Vec<_>>(), expected);
        }
    }
}
