//! A Gladly simulator: the REST API, the webhook sender and the Events API of one fictional organisation.

mod control;
mod event;
mod organization;
mod rest;
mod template;
mod webhook;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio::runtime::Handle;

pub use self::{
    event::{ERASURE_TYPES, EVENT_TYPES},
    organization::{Conversation, Organization},
    webhook::Attempt,
};
use self::{
    organization::text,
    webhook::{Sender, Webhook},
};
use crate::{
    fault::Fault,
    server::{Server, Traffic, lock},
    tls::Tls,
};

/// The simulator's settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// 0 takes a free port.
    pub port: u16,
    /// Serves over TLS, HTTP/2 where the client offers it.
    pub tls: Option<Tls>,
    /// The seed of the generated data.
    pub seed: u64,
    /// How many conversations to generate at the start.
    pub conversations: usize,
    /// The API user.
    pub email: String,
    /// The API user's token.
    pub token: String,
    /// The organisation's quota; none is unlimited.
    pub requests_per_second: Option<usize>,
    /// How long every answer takes.
    pub latency: Duration,
    /// Scales the webhook retry schedule: 0.5 halves its times.
    pub time_scale: f64,
    /// How far the Events API is behind (up to 15 s at Gladly).
    pub events_lag: Duration,
    /// Event types that no webhook may subscribe to.
    pub refused_events: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            tls: None,
            seed: 1,
            conversations: 0,
            email: "relay@example.org".to_owned(),
            token: "gladly-token".to_owned(),
            requests_per_second: Some(10),
            latency: Duration::ZERO,
            time_scale: 1.0,
            events_lag: Duration::ZERO,
            refused_events: Vec::new(),
        }
    }
}

/// A running simulator. Dropping it closes its connections.
#[derive(Debug)]
pub struct Gladly {
    server: Server,
    shared: State,
}

/// What the endpoints share.
#[derive(Debug)]
struct Shared {
    options: Options,
    organization: Mutex<Organization>,
    sender: Mutex<Sender>,
    traffic: Arc<Traffic>,
    http: reqwest::Client,
    runtime: Handle,
}

type State = Arc<Shared>;

impl Gladly {
    /// Starts serving on loopback.
    pub fn start(options: Options) -> io::Result<Self> {
        let (server, listener) = Server::bind("gladly", options.port, options.tls.clone())?;
        let mut organization = Organization::new(options.seed);
        organization.generate_conversations(options.conversations);
        let http = reqwest::Client::builder().no_proxy().redirect(Policy::none()).build();
        let shared = Arc::new(Shared {
            organization: Mutex::new(organization),
            sender: Mutex::default(),
            traffic: Arc::new(Traffic::new(options.requests_per_second, options.latency)),
            http: http.map_err(io::Error::other)?,
            runtime: server.handle(),
            options,
        });
        let control = control::router(Arc::clone(&shared));
        server.serve(listener, &shared.traffic, rest::router(Arc::clone(&shared)), control);
        Ok(Self { server, shared })
    }

    /// Its address, like `http://127.0.0.1:40123`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// The organisation, locked: drop the guard before the next call to the simulator.
    pub fn organization(&self) -> MutexGuard<'_, Organization> {
        lock(&self.shared.organization)
    }

    /// Every call so far, faults, and the rate limit.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.traffic().fault(fault);
    }

    /// Emits an event: changes the conversation, lists the event in the Events API, and sends it to the webhooks.
    /// Returns the event.
    pub fn emit(&self, kind: &str, conversation: &str) -> Value {
        let event = self.organization().event(kind, conversation);
        self.send(&event);
        event
    }

    /// Like [`Gladly::emit`], with an event made by hand.
    pub fn send(&self, event: &Value) {
        self.shared.send(event);
    }

    /// Adds an enabled webhook for every event the relay subscribes to, without the PING that the API would send. Returns its id.
    pub fn subscribe(&self, url: &str, headers: &[(&str, &str)]) -> String {
        let id = self.organization().new_id();
        let headers: Value = headers.iter().copied().collect();
        let events = [&EVENT_TYPES[..], &ERASURE_TYPES].concat();
        let settings = json!({"url": url, "events": events, "headers": headers, "enabled": true});
        let webhook = Webhook::new(&id, settings);
        self.shared.store(webhook);
        id
    }

    /// Disables a webhook as the retry limit does.
    pub fn disable_webhook(&self, id: &str) {
        self.shared.disable(id);
    }

    /// The webhooks as the API shows them.
    #[must_use]
    pub fn webhooks(&self) -> Vec<Value> {
        self.shared.webhooks()
    }

    /// Everything the webhook sender sent, PINGs included.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        lock(&self.shared.sender).attempts.clone()
    }

    /// Waits for a call, an attempt or a change of a webhook to make `reached` true. False when time is up.
    pub async fn wait_for(&self, reached: impl Fn(&Self) -> bool, at_most: Duration) -> bool {
        self.traffic().wait_for(|| reached(self), at_most).await
    }
}

impl Shared {
    fn send(self: &Arc<Self>, event: &Value) {
        let kind = text(&event["type"]).to_owned();
        lock(&self.organization).apply(event.clone());
        for webhook in self.receivers(&kind) {
            let (shared, event) = (Arc::clone(self), event.clone());
            self.runtime.spawn(async move { shared.deliver(&webhook, &event).await });
        }
    }
}
