//! What both functions use and must agree on: the queue's messages, the ids in them, settings,
//! parameters read from SSM, metrics, and how an error is written down.

mod ascii;
mod clock;
mod env;
mod error;
mod event;
mod log;
mod message;
mod metrics;
mod parameter;

pub use crate::{
    clock::Clock,
    env::{ConfigError, Env},
    error::chain,
    event::{Event, Id, Incoming, InvalidId, Unusable, is_deep},
    log::init_log,
    message::{MESSAGE_LIMIT, Origin, PutAside, Quarantined, QueueMessage, Reason, milliseconds},
    metrics::{Metric, Metrics},
    parameter::{Parameter, ParameterError, Secret, ssm_client},
};
