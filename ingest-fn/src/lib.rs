//! ingest-fn: authenticates Gladly's webhooks and makes them durable in SQS before it answers.

mod api_keys;
mod config;
mod handler;
mod http_api;
mod queue;
mod webhook;

pub use crate::{
    api_keys::ActiveKeys,
    config::Config,
    handler::{Ingest, Outcome},
    http_api::{Request, Response},
    webhook::{Rejection, Webhook},
};
