//! extractor-fn: fetches what each queued event is about from Gladly and forwards it.
//!
//! An invocation (`invocation`) is a batch, which the `pipeline` turns into deliveries, or a task of
//! the `controller`, which keeps the pause, the breaker, held events and Gladly's webhook in order.
//! Both use the clients (`client`), which ask the `gate` whether extraction may continue.
//! `extractor` builds them all.

mod client;
mod config;
mod controller;
mod extractor;
mod gate;
mod invocation;
mod pipeline;

pub use crate::{
    client::{http::Http, message::MissingMessageId},
    config::{
        Config, DeliveryOptions, DestinationConfig, DestinationUrl, GladlyHost, Rate, TokenHeader,
    },
    extractor::Extractor,
    invocation::{Invocation, InvocationError, Response},
};

/// The `user-agent` of requests to Gladly and the destination.
const USER_AGENT: &str = concat!("gladly-relay/", env!("CARGO_PKG_VERSION"));
