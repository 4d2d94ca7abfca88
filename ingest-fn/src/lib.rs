//! ingest-fn: authenticates Gladly's webhooks and makes them durable in SQS before it answers.

mod config;
mod gateway;
mod handler;
mod keys;
mod queue;
mod webhook;

pub use crate::{
    config::Config,
    gateway::{Answer, Call},
    handler::{Ingest, Outcome},
    keys::ActiveKeys,
    webhook::{Rejection, Webhook},
};
