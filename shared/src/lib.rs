//! What the functions and the operator's program use and must agree on: the queues' messages and ids,
//! the tasks and their documents, the states of pause and breaker, webhook keys, settings, SSM
//! parameters, the SDK's configuration, the proof that SQS has stored a message, metrics, log lines
//! and error texts.

mod breaker;
mod bucket;
mod bucket_url;
mod clock;
mod connection;
mod env;
mod error;
mod event;
mod event_types;
mod json;
mod log;
mod message;
mod metrics;
mod parameter;
mod pause;
mod quarantine;
mod sdk;
mod secret;
mod setting;
mod settle_window;
mod sqs;
mod task;
mod webhook_keys;

pub use crate::{
    breaker::{BreakerState, NONE_FOUND, OpenState, Upstream},
    bucket::{Bucket, SignError},
    bucket_url::BucketUrl,
    clock::Clock,
    env::{ConfigError, Env},
    error::error_chain,
    event::{
        Event, Id, InvalidEvent, InvalidId, Merge, Subject, WebhookEvent, exceeds_max_depth,
        without_bom,
    },
    event_types::{ERASURE_EVENT_TYPES, LEGACY_EVENT_TYPE, REQUIRED_EVENT_TYPES},
    json::replace_lone_surrogates,
    log::{init_log, invocation_span, subscriber},
    message::{MESSAGE_LIMIT, Origin, QueueMessage, serialize_rfc3339_millis},
    metrics::{FailureStatus, Metric, Metrics, MetricsWriter},
    parameter::{Parameter, ParameterError, ssm_client},
    pause::{Pause, PauseReason, PauseState},
    quarantine::{QuarantineReason, QuarantinedMessage},
    sdk::{ClockErrors, https_connector, https_connector_trusting, sdk_config},
    secret::Secret,
    setting::{HttpUrl, is_dns_name},
    settle_window::{MAX_SETTLE_SECONDS, SettleWindow},
    sqs::{ProofOfSending, has_stored},
    task::{
        Backfilled, DOCUMENT_VERSION, Discarded, Document, Extraction, PendingRecovery,
        QuarantineEntry, QuarantineList, QuarantinedBody, RecoveryRange, RecoverySource, Redriven,
        Selection, Status, Task, WebhookHealth,
    },
    webhook_keys::{KEY_LENGTH, KEY_LIMIT, WebhookKey, webhook_keys, why_unusable},
};
