//! What both functions use and must agree on: the queue's messages, the ids in them, settings,
//! parameters read from SSM, how AWS is reached and when SQS has a message, metrics, log lines, and
//! how an error is written down.

mod ascii;
mod aws;
mod clock;
mod connection;
mod env;
mod error;
mod event;
mod log;
mod message;
mod metrics;
mod parameter;
mod setting;
mod sqs;

pub use crate::{
    aws::{ClockErrors, https_connector, https_connector_trusting, sdk_config},
    clock::Clock,
    env::{ConfigError, Env},
    error::error_chain,
    event::{Event, Id, InvalidEvent, InvalidId, WebhookEvent, exceeds_max_depth, without_bom},
    log::{init_log, invocation_span, subscriber},
    message::{
        MESSAGE_LIMIT, Origin, PutAside, QuarantineReason, Quarantined, QueueMessage,
        serialize_rfc3339_millis,
    },
    metrics::{FailureStatus, Metric, Metrics},
    parameter::{Parameter, ParameterError, Secret, ssm_client},
    setting::{HttpUrl, is_dns_name},
    sqs::{ProofOfSending, has_stored},
};
