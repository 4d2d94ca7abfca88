//! Webhooks: their settings over the REST API, and the sender with Gladly's retries and deactivation.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State as Extract},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    State,
    rest::{error, not_found},
    world::{text, without_nulls},
};
use crate::server::lock;

/// When an event is sent, in seconds after its first attempt. Gladly's table may mean intervals instead; it also says
/// that all this takes an hour.
const ATTEMPTS: [u32; 5] = [0, 30, 300, 1800, 3600];
/// How long Gladly waits for an answer.
const PATIENCE: Duration = Duration::from_secs(15);
const MOST_WEBHOOKS: usize = 20;

/// A webhook's settings, secrets included.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    id: String,
    settings: Settings,
    created_at: Timestamp,
    updated_at: Timestamp,
    disabled_at: Option<Timestamp>,
}

/// What POST and PATCH take, and what a webhook keeps.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Settings {
    name: Option<String>,
    url: Option<String>,
    events: Option<Vec<String>>,
    credentials: Option<Credentials>,
    headers: Option<BTreeMap<String, String>>,
    enabled: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
struct Credentials {
    username: String,
    password: String,
}

/// One request of the webhook sender.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The webhook it was for.
    pub webhook: String,
    /// The event's id and type.
    pub event: String,
    /// `NOUN/VERB`, or `PING`.
    pub kind: String,
    /// 1 for the first, at most 5.
    pub number: usize,
    /// What was answered; nothing when the receiver could not be reached in time.
    pub status: Option<u16>,
    /// The answer's body.
    pub answer: String,
}

impl Webhook {
    pub(super) fn new(id: String, settings: Settings) -> Self {
        let now = Timestamp::now();
        Self { id, settings, created_at: now, updated_at: now, disabled_at: None }
    }

    fn enabled(&self) -> bool {
        self.settings.enabled == Some(true)
    }

    fn wants(&self, kind: &str) -> bool {
        let events = self.settings.events.as_deref().unwrap_or_default();
        self.enabled() && events.iter().any(|event| event == kind)
    }

    /// As the API shows it: without the values of credentials and headers.
    pub(super) fn shown(&self) -> Value {
        let headers = self.settings.headers.iter().flatten();
        without_nulls(json!({
            "id": self.id,
            "name": self.settings.name,
            "url": self.settings.url,
            "events": self.settings.events,
            "hasCredentials": self.settings.credentials.is_some(),
            "headerKeys": headers.map(|(name, _)| name).collect::<Vec<_>>(),
            "enabled": self.enabled(),
            "createdAt": self.created_at.to_string(),
            "updatedAt": self.updated_at.to_string(),
            "disabledAtDueToRetryLimit": self.disabled_at.map(|at| at.to_string()),
        }))
    }

    /// The same webhook with other settings, and whether the receiver must answer a PING first.
    fn changed(&self, change: Settings) -> (Self, bool) {
        let Settings { name, url, events, credentials, headers, enabled } = change;
        let old = self.settings.clone();
        let settings = Settings {
            name: name.or(old.name),
            url: url.or(old.url),
            events: events.or(old.events),
            credentials: credentials.or(old.credentials),
            headers: headers.or(old.headers),
            enabled: enabled.or(old.enabled),
        };
        let mut webhook = Self { settings, updated_at: Timestamp::now(), ..self.clone() };
        let enabling = webhook.enabled() && !self.enabled();
        if enabling {
            webhook.disabled_at = None;
        }
        let moved = !self.id.is_empty() && webhook.settings.url != self.settings.url;
        (webhook, enabling || moved)
    }
}

impl Settings {
    /// Every event the relay wants, to a receiver that is taken to answer.
    pub(super) fn subscription(url: &str, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            name: Some("gladly-relay".to_owned()),
            url: Some(url.to_owned()),
            events: Some(super::EVENT_TYPES.map(str::to_owned).to_vec()),
            credentials: None,
            headers: Some(headers.collect()),
            enabled: Some(true),
        }
    }
}

pub(super) fn router() -> Router<State> {
    Router::new()
        .route("/webhooks", get(list).post(create))
        .route("/webhooks/{id}", get(one).patch(change).delete(remove))
}

async fn list(Extract(state): Extract<State>) -> Json<Vec<Value>> {
    Json(state.webhooks())
}

async fn one(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    state.webhook(&id).map_or_else(not_found, |webhook| Json(webhook.shown()).into_response())
}

async fn create(Extract(state): Extract<State>, Json(settings): Json<Settings>) -> Response {
    if settings.events.is_none() {
        return refused("events", "blank");
    }
    let (mut webhook, ping) = Webhook::new(String::new(), Settings::default()).changed(settings);
    webhook.id = lock(&state.world).new_id();
    let location = format!("/api/v1/webhooks/{}", webhook.id);
    match state.accept(webhook, ping).await {
        Ok(()) => (StatusCode::CREATED, [(header::LOCATION, location)]).into_response(),
        Err(refusal) => refusal,
    }
}

async fn change(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    Json(settings): Json<Settings>,
) -> Response {
    let Some(webhook) = state.webhook(&id) else {
        return not_found();
    };
    let (webhook, ping) = webhook.changed(settings);
    match state.accept(webhook, ping).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refusal,
    }
}

async fn remove(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    match state.webhook(&id) {
        None => not_found(),
        Some(webhook) if webhook.enabled() => refused("enabled", "invalid_state"),
        Some(_) => {
            lock(&state.sender).webhooks.retain(|webhook| webhook.id != id);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

fn refused(field: &str, code: &str) -> Response {
    error(StatusCode::BAD_REQUEST, code, &format!("{field} cannot be accepted"))
}

/// The webhooks, and what was sent to them.
#[derive(Debug, Default)]
pub(super) struct Sender {
    webhooks: Vec<Webhook>,
    pub(super) attempts: Vec<Attempt>,
}

impl super::Shared {
    pub(super) fn webhooks(&self) -> Vec<Value> {
        lock(&self.sender).webhooks.iter().map(Webhook::shown).collect()
    }

    fn webhook(&self, id: &str) -> Option<Webhook> {
        lock(&self.sender).webhooks.iter().find(|webhook| webhook.id == id).cloned()
    }

    /// Checks a webhook by Gladly's rules, has its receiver answer a PING, and only then stores it.
    async fn accept(&self, webhook: Webhook, ping: bool) -> Result<(), Response> {
        let url = webhook.settings.url.clone().unwrap_or_default();
        // Gladly takes nothing but https; loopback is what we have.
        if !["https://", "http://127.0.0.1:", "http://localhost:"]
            .iter()
            .any(|start| url.starts_with(start))
        {
            return Err(refused("url", "invalid"));
        }
        if webhook.settings.name.as_ref().is_some_and(|name| name.chars().count() > 200) {
            return Err(refused("name", "too_long"));
        }
        {
            let sender = lock(&self.sender);
            let mut others = sender.webhooks.iter().filter(|other| other.id != webhook.id);
            if others.clone().count() >= MOST_WEBHOOKS {
                return Err(refused("webhooks", "too_long"));
            }
            if others.any(|other| other.settings.url == webhook.settings.url) {
                return Err(refused("url", "taken"));
            }
        }
        if ping {
            let event = lock(&self.world).event("PING", "");
            // For a PING nothing but 200 will do.
            if self.attempt(&webhook, &event, 1).await != Some(200) {
                return Err(refused("url", "invalid"));
            }
        }
        self.store(webhook);
        Ok(())
    }

    pub(super) fn store(&self, webhook: Webhook) {
        let mut sender = lock(&self.sender);
        sender.webhooks.retain(|other| other.id != webhook.id);
        sender.webhooks.push(webhook);
        drop(sender);
        self.traffic.notify();
    }

    /// Switches a webhook off the way the retry limit does.
    pub(super) fn disable(&self, id: &str) {
        if let Some(webhook) =
            lock(&self.sender).webhooks.iter_mut().find(|webhook| webhook.id == id)
        {
            webhook.settings.enabled = Some(false);
            webhook.disabled_at = Some(Timestamp::now());
        }
        self.traffic.notify();
    }

    /// The webhooks an event of this type goes to now.
    pub(super) fn receivers(&self, kind: &str) -> Vec<String> {
        let sender = lock(&self.sender);
        let wanting = sender.webhooks.iter().filter(|webhook| webhook.wants(kind));
        wanting.map(|webhook| webhook.id.clone()).collect()
    }

    /// Sends an event until it is taken; after the last failure the whole webhook is switched off.
    pub(super) async fn deliver(&self, id: &str, event: &Value) {
        let first = Instant::now();
        for (after, number) in ATTEMPTS.into_iter().zip(1..) {
            sleep_until(first + Duration::from_secs(after.into()).mul_f64(self.options.time_scale))
                .await;
            let Some(webhook) = self.webhook(id).filter(Webhook::enabled) else {
                return;
            };
            if self
                .attempt(&webhook, event, number)
                .await
                .is_some_and(|status| (200..300).contains(&status))
            {
                return;
            }
        }
        self.disable(id);
    }

    async fn attempt(&self, webhook: &Webhook, event: &Value, number: usize) -> Option<u16> {
        let settings = &webhook.settings;
        let mut request = self
            .http
            .post(settings.url.as_deref().unwrap_or_default())
            .json(event)
            .timeout(PATIENCE);
        for (name, value) in settings.headers.iter().flatten() {
            request = request.header(name, value);
        }
        if let Some(Credentials { username, password }) = &settings.credentials {
            request = request.basic_auth(username, Some(password));
        }
        let (status, answer) = match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                (Some(status), response.text().await.unwrap_or_default())
            }
            Err(_) => (None, String::new()),
        };
        lock(&self.sender).attempts.push(Attempt {
            webhook: webhook.id.clone(),
            event: text(&event["id"]).to_owned(),
            kind: text(&event["type"]).to_owned(),
            number,
            status,
            answer,
        });
        self.traffic.notify();
        status
    }
}
