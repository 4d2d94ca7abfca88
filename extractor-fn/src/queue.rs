//! The events queue as the extractor uses it: visibility, and the way into quarantine.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::SdkError,
    operation::send_message::SendMessageError,
    types::{ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue},
};
use jiff::Timestamp;
use shared::{Quarantined, Reason, chain};
use tracing::warn;

use crate::record::Record;

/// SQS takes this many entries in one request.
pub(crate) const ENTRIES: usize = 10;
const CALL_LIMIT: Duration = Duration::from_secs(5);
const TRY_LIMIT: Duration = Duration::from_secs(2);

/// The queues.
pub(crate) struct Queue {
    sqs: Client,
    events_url: String,
    quarantine_url: String,
}

/// Why a message does not stand in quarantine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuarantineError {
    #[error("could not write the message")]
    Encode(#[from] serde_json::Error),
    #[error("could not send to SQS")]
    Send(#[source] Box<SdkError<SendMessageError>>),
}

impl Queue {
    pub(crate) fn new(aws: &SdkConfig, events_url: String, quarantine_url: String) -> Self {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(TRY_LIMIT)
            .operation_timeout(CALL_LIMIT);
        let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(100));
        let sqs = Builder::from(aws).timeout_config(timeouts.build()).retry_config(retries);
        Self { sqs: Client::from_conf(sqs.build()), events_url, quarantine_url }
    }

    /// Makes records come back after so many seconds. One that cannot be told comes back when the
    /// queue's own visibility timeout ends, so a failure costs time and nothing else.
    pub(crate) async fn give_back(&self, records: &[(&Record, i32)]) {
        let entries = records.iter().enumerate().filter_map(|(index, (record, seconds))| {
            let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(index.to_string())
                .receipt_handle(&record.receipt)
                .visibility_timeout(*seconds);
            entry.build().ok()
        });
        let request = self.sqs.change_message_visibility_batch().queue_url(&self.events_url);
        let answer = request.set_entries(Some(entries.collect())).send().await;
        let failed = match answer {
            Ok(answer) if answer.failed.is_empty() => return,
            Ok(answer) => {
                answer.failed.into_iter().map(|entry| entry.code).collect::<Vec<_>>().join(", ")
            }
            Err(err) => chain(&err),
        };
        warn!(error = failed, "could not set the visibility of some of {} records", records.len());
    }

    /// Puts a record aside for good. It may be deleted once this has returned.
    pub(crate) async fn quarantine(
        &self,
        record: &Record,
        received_at: Timestamp,
        reason: Reason,
        detail: &str,
    ) -> Result<(), QuarantineError> {
        let message = Quarantined {
            received_at,
            reason,
            detail,
            origin: "extractor-fn",
            raw: record.body.as_bytes(),
        };
        let value =
            MessageAttributeValue::builder().data_type("String").string_value(reason.code());
        let value = value.build().map_err(|err| QuarantineError::Send(Box::new(err.into())))?;
        let send = self.sqs.send_message().queue_url(&self.quarantine_url);
        let send = send.message_body(message.to_json()?).message_attributes("reason", value);
        send.send().await.map(drop).map_err(|err| QuarantineError::Send(Box::new(err)))
    }
}
