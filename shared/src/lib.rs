//! What both functions use and must agree on: the queue's messages, the ids in them, settings,
//! parameters read from SSM, how AWS is reached and when SQS has a message, metrics, log lines, and
//! how an error is written down.

mod ascii;
mod aws;
mod clock;
mod env;
mod error;
mod event;
mod log;
mod message;
mod metrics;
mod parameter;
mod sqs;

pub use crate::{
    aws::{ClockErrors, aws_config, https_connector},
    clock::Clock,
    env::{ConfigError, Env},
    error::chain,
    event::{Event, Id, Incoming, InvalidId, Unusable, is_deep, without_bom},
    log::{init_log, invocation_span, subscriber},
    message::{MESSAGE_LIMIT, Origin, PutAside, Quarantined, QueueMessage, Reason, milliseconds},
    metrics::{Metric, Metrics},
    parameter::{Parameter, ParameterError, Secret, ssm_client},
    sqs::{ProofOfSending, has_stored},
};
