//! extractor-fn: fetches what each queued event is about from Gladly and forwards it.
//!
//! A batch goes through `record` (read), `fetch` (ask Gladly), `delivery` and `destination`
//! (forward) to `settle`; `batch` drives it, and `context` says whether it may go on. The `controller`
//! looks after the pause (`mapping`, `breaker`, `renewal`) and Gladly's side (`webhook_monitor`, `backfill` with
//! its `ranges`, `document` and `lease`), and what it tells is a `status`.

mod client;
mod config;
mod controller;
mod gate;
mod invocation;
mod pipeline;
mod unicode;

pub use crate::{
    client::http::Http,
    config::{Config, DeliveryOptions, DestinationUrl, GladlyHost, Rate, TokenHeader},
    invocation::{Invocation, InvocationError, Response},
    pipeline::Extractor,
    pipeline::event::MissingMessageId,
};

/// What Gladly and the destination see as our name.
const USER_AGENT: &str = concat!("gladly-relay/", env!("CARGO_PKG_VERSION"));
