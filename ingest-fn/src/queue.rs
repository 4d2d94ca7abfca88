//! The two queues that webhooks go to.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::{
    Client,
    config::{
        Builder,
        retry::{RetryConfig, RetryPartition, TokenBucket},
        timeout::TimeoutConfig,
    },
    error::SdkError,
    operation::send_message::SendMessageError,
    types::MessageAttributeValue,
};
use jiff::Timestamp;
use shared::{ClockErrors, InvalidEvent, ProofOfSending, QuarantinedMessage};

use crate::{
    config::Config,
    webhook::{QueuedEvent, Webhook},
};

/// Gladly waits 15 s in all, for the keys and the cold start too.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// More attempts than fit: the timeout ends them.
const TRIES: u32 = 20;

/// Stores webhooks. A method returns once SQS has proved to have stored the message.
pub(crate) struct WebhookQueue {
    sqs: Client,
    events_url: String,
    quarantine_url: String,
}

/// Why a webhook is not durable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnqueueError {
    /// It could not be serialized.
    #[error("could not write the message")]
    Encode(#[from] serde_json::Error),
    /// SQS did not store it: Gladly must send it again.
    #[error("could not send to SQS")]
    Send(#[source] Box<SdkError<SendMessageError>>),
}

impl WebhookQueue {
    pub(crate) fn new(aws: &SdkConfig, config: Config) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT);
        let retries = RetryConfig::standard()
            .with_max_attempts(TRIES)
            .with_initial_backoff(Duration::from_millis(100))
            .with_max_backoff(Duration::from_secs(1));
        // The SDK's default token bucket would be empty after an outage, and prevent retries.
        let quota = RetryPartition::custom("webhooks").token_bucket(TokenBucket::unlimited());
        let sqs = Builder::from(aws)
            .timeout_config(timeouts.build())
            .retry_config(retries)
            .retry_partition(quota.build())
            .retry_classifier(ClockErrors)
            .interceptor(ProofOfSending);
        Self {
            sqs: Client::from_conf(sqs.build()),
            events_url: config.events_queue_url,
            quarantine_url: config.quarantine_queue_url,
        }
    }

    /// Makes an event durable.
    pub(crate) async fn enqueue(
        &self,
        _authenticated: &Webhook,
        event: QueuedEvent,
    ) -> Result<(), EnqueueError> {
        let QueuedEvent { body, type_attribute, delay_seconds } = event;
        self.send(&self.events_url, body, ("type", type_attribute), delay_seconds).await
    }

    /// Makes a body that is not an event durable, for a person to look at.
    pub(crate) async fn quarantine(
        &self,
        webhook: &Webhook,
        why: &InvalidEvent,
        received_at: Timestamp,
    ) -> Result<(), EnqueueError> {
        let (reason, detail) = (why.reason(), why.to_string());
        let raw = webhook.bytes();
        let message = QuarantinedMessage::new(received_at, reason, &detail, "ingest-fn", raw)?;
        let attribute = ("reason", reason.code().into());
        self.send(&self.quarantine_url, message.to_json()?, attribute, 0).await
    }

    async fn send(
        &self,
        url: &str,
        body: String,
        (attribute, value): (&str, String),
        delay_seconds: u16,
    ) -> Result<(), EnqueueError> {
        let value = MessageAttributeValue::builder().data_type("String").string_value(value);
        // Cannot fail: the data type is set. Otherwise the SDK's error would report it.
        let value = value.build().map_err(|err| EnqueueError::Send(Box::new(err.into())))?;
        let message = self.sqs.send_message().queue_url(url).message_body(body);
        let message = message.delay_seconds(delay_seconds.into());
        // Its future is large, and every future around it would be moved with it.
        let sent = Box::pin(message.message_attributes(attribute, value).send()).await;
        sent.map(drop).map_err(|err| EnqueueError::Send(Box::new(err)))
    }
}
