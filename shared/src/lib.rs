//! What both functions use and must agree on: the queue's messages, the ids in them, settings,
//! parameters read from SSM, how AWS is
//! reached, metrics, and how an error is written down.

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

pub use crate::{
    aws::{aws_config, https_connector},
    clock::Clock,
    env::{ConfigError, Env},
    error::chain,
    event::{Event, Id, Incoming, InvalidId, Unusable, is_deep},
    log::init_log,
    message::{MESSAGE_LIMIT, Origin, PutAside, Quarantined, QueueMessage, Reason, milliseconds},
    metrics::{Metric, Metrics},
    parameter::{Parameter, ParameterError, Secret, ssm_client},
};
