//! What both functions use and must agree on: the queues' messages and ids, settings, SSM
//! parameters, the SDK's configuration, the proof that SQS has stored a message, metrics, log lines
//! and error texts.

mod clock;
mod connection;
mod env;
mod error;
mod event;
mod json;
mod log;
mod message;
mod metrics;
mod parameter;
mod quarantine;
mod sdk;
mod secret;
mod setting;
mod sqs;

pub use crate::{
    clock::Clock,
    env::{ConfigError, Env},
    error::error_chain,
    event::{Event, Id, InvalidEvent, InvalidId, WebhookEvent, exceeds_max_depth, without_bom},
    json::replace_lone_surrogates,
    log::{init_log, invocation_span, subscriber},
    message::{MESSAGE_LIMIT, Origin, QueueMessage, serialize_rfc3339_millis},
    metrics::{FailureStatus, Metric, Metrics, MetricsWriter},
    parameter::{Parameter, ParameterError, ssm_client},
    quarantine::{QuarantineReason, QuarantinedMessage},
    sdk::{ClockErrors, https_connector, https_connector_trusting, sdk_config},
    secret::Secret,
    setting::{HttpUrl, is_dns_name},
    sqs::{ProofOfSending, has_stored},
};
