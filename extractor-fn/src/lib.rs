//! extractor-fn: fetches what each queued event is about from Gladly and forwards it.
//!
//! A batch goes through `record` (read), `fetch` (ask Gladly), `delivery` and `destination`
//! (forward) to `settle`; `batch` drives it, and `run` says whether it may go on. The `controller`
//! looks after the pause (`mapping`, `breaker`, `renewal`) and Gladly's side (`watchdog`, `backfill` with
//! its `ranges`, `document` and `lease`), and what it tells is a `status`.

mod backfill;
mod batch;
mod bounded;
mod breaker;
mod config;
mod controller;
mod coverage;
mod delivery;
mod destination;
mod document;
mod fetch;
mod fresh;
mod gladly;
mod handler;
mod http;
mod json;
mod lease;
mod mapping;
mod names;
mod pacer;
mod parts;
mod pause;
mod queue;
mod ranges;
mod record;
mod redrive;
mod renewal;
mod run;
mod settle;
mod snapshot;
mod status;
mod unicode;
mod watchdog;

pub use crate::{
    batch::Extractor,
    config::{Config, DestinationUrl, GladlyHost, Rate, Shape, TokenHeader},
    handler::{Answer, Invocation, InvocationError},
    http::Http,
    record::Nameless,
};

/// What Gladly and the destination see as our name.
const USER_AGENT: &str = concat!("gladly-relay/", env!("CARGO_PKG_VERSION"));
