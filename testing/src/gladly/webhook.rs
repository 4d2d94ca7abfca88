//! Webhooks: their settings over the REST API, and the sender with Gladly's retries and deactivation.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, State as Extract},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::{
    State,
    organization::{merge, text},
    rest::not_found,
};
use crate::server::lock;

/// When an event is sent, in seconds after its first attempt. Gladly's table may mean intervals instead; its
/// documentation gives an hour in total.
const ATTEMPTS: [u32; 5] = [0, 30, 300, 1800, 3600];
/// How long Gladly waits for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_WEBHOOKS: usize = 20;

/// Fields that the API accepts but never returns.
const WRITE_ONLY: [&str; 2] = ["credentials", "headers"];
/// Fields that the API returns but does not accept.
const READ_ONLY: [&str; 6] =
    ["id", "createdAt", "updatedAt", "disabledAtDueToRetryLimit", "hasCredentials", "headerKeys"];

/// A webhook's settings, secrets included.
#[derive(Debug, Clone)]
pub(super) struct Webhook(Value);

/// One request of the webhook sender.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The webhook it was for.
    pub webhook: String,
    /// The event's id.
    pub event: String,
    /// `NOUN/VERB`, or `PING`.
    pub kind: String,
    /// The id of the conversation that the event is about; empty if it is about none.
    pub conversation: String,
    /// When it was sent.
    pub at: Timestamp,
    /// 1 for the first, at most 5.
    pub number: usize,
    /// The response's status; none if the receiver did not answer in time.
    pub status: Option<u16>,
    /// The answer's body.
    pub answer: String,
}

impl Webhook {
    /// A webhook with these settings, disabled by default.
    pub(super) fn new(id: &str, settings: Value) -> Self {
        let now = Timestamp::now().to_string();
        let mut webhook = json!({"id": id, "createdAt": now, "updatedAt": now, "enabled": false});
        merge(&mut webhook, settings);
        Self(webhook)
    }

    fn id(&self) -> &str {
        text(&self.0["id"])
    }

    fn url(&self) -> &str {
        text(&self.0["url"])
    }

    fn enabled(&self) -> bool {
        self.0["enabled"] == true
    }

    fn is_subscribed_to(&self, kind: &str) -> bool {
        let mut events = self.0["events"].as_array().into_iter().flatten();
        self.enabled() && events.any(|event| event == kind)
    }

    /// As the API shows it.
    fn public_fields(&self) -> Value {
        let keys = self.0["headers"].as_object().into_iter().flat_map(|headers| headers.keys());
        let mut shown = self.0.clone();
        shown["headerKeys"] = keys.cloned().collect();
        shown["hasCredentials"] = self.0["credentials"].is_object().into();
        merge(&mut shown, WRITE_ONLY.map(|field| (field, Value::Null)).into_iter().collect());
        shown
    }

    /// The same webhook with other settings.
    fn patched(&self, mut settings: Value) -> Self {
        if let Some(settings) = settings.as_object_mut() {
            settings.retain(|field, _| !READ_ONLY.contains(&field.as_str()));
            settings.insert("updatedAt".to_owned(), Timestamp::now().to_string().into());
        }
        let mut webhook = self.clone();
        merge(&mut webhook.0, settings);
        if webhook.enabled() && !self.enabled() {
            merge(&mut webhook.0, json!({"disabledAtDueToRetryLimit": null}));
        }
        webhook
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
    state
        .webhook(&id)
        .map_or_else(not_found, |webhook| Json(webhook.public_fields()).into_response())
}

async fn create(Extract(state): Extract<State>, Json(settings): Json<Value>) -> Response {
    let id = lock(&state.organization).new_id();
    let blank = Webhook::new(&id, Value::Null);
    let location = format!("/api/v1/webhooks/{id}");
    match state.accept(blank.patched(settings), None).await {
        Ok(()) => (StatusCode::CREATED, [(header::LOCATION, location)]).into_response(),
        Err(refusal) => refusal,
    }
}

async fn change(
    Extract(state): Extract<State>,
    Path(id): Path<String>,
    Json(settings): Json<Value>,
) -> Response {
    let Some(old) = state.webhook(&id) else {
        return not_found();
    };
    match state.accept(old.patched(settings), Some(&old)).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refusal) => refusal,
    }
}

async fn remove(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    match state.webhook(&id) {
        None => not_found(),
        Some(webhook) if webhook.enabled() => invalid("enabled", "invalid_state"),
        Some(_) => {
            lock(&state.sender).webhooks.retain(|webhook| webhook.id() != id);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

fn invalid(field: &str, code: &str) -> Response {
    invalid_because(field, code, &format!("{field} cannot be accepted"))
}

fn invalid_because(field: &str, code: &str, detail: &str) -> Response {
    let errors = json!({"errors": [{"attr": field, "code": code, "detail": detail}]});
    (StatusCode::BAD_REQUEST, Json(errors)).into_response()
}

/// The webhooks, and what was sent to them.
#[derive(Debug, Default)]
pub(super) struct Sender {
    webhooks: Vec<Webhook>,
    pub(super) attempts: Vec<Attempt>,
}

impl super::Shared {
    pub(super) fn webhooks(&self) -> Vec<Value> {
        lock(&self.sender).webhooks.iter().map(Webhook::public_fields).collect()
    }

    fn webhook(&self, id: &str) -> Option<Webhook> {
        lock(&self.sender).webhooks.iter().find(|webhook| webhook.id() == id).cloned()
    }

    /// Checks a webhook by Gladly's rules, sends a PING to a new receiver, and stores the webhook only if
    /// both succeed.
    async fn accept(&self, webhook: Webhook, old: Option<&Webhook>) -> Result<(), Response> {
        // Gladly accepts only https; the tests use loopback.
        let allowed = ["https://", "http://127.0.0.1:", "http://localhost:"];
        if !allowed.iter().any(|start| webhook.url().starts_with(start)) {
            return Err(invalid("url", "invalid"));
        }
        let Some(events) = webhook.0["events"].as_array() else {
            return Err(invalid("events", "blank"));
        };
        let mut unknown = events.iter().map(text);
        if let Some(kind) =
            unknown.find(|kind| self.options.refused_events.iter().any(|refused| refused == kind))
        {
            let detail = format!("{kind} is not an event that webhooks can have");
            return Err(invalid_because("events", "invalid", &detail));
        }
        if text(&webhook.0["name"]).chars().count() > 200 {
            return Err(invalid("name", "too_long"));
        }
        let mut others = lock(&self.sender).webhooks.clone();
        others.retain(|other| other.id() != webhook.id());
        if others.len() >= MAX_WEBHOOKS {
            return Err(invalid("webhooks", "too_long"));
        }
        if others.iter().any(|other| other.url() == webhook.url()) {
            return Err(invalid("url", "taken"));
        }
        let enabled = webhook.enabled() && !old.is_some_and(Webhook::enabled);
        let moved = old.is_some_and(|old| old.url() != webhook.url());
        if enabled || moved {
            let ping = lock(&self.organization).event("PING", "");
            // A PING must be answered with 200.
            if self.attempt(&webhook, &ping, 1).await != Some(200) {
                return Err(invalid("url", "invalid"));
            }
        }
        self.store(webhook);
        Ok(())
    }

    pub(super) fn store(&self, webhook: Webhook) {
        let mut sender = lock(&self.sender);
        sender.webhooks.retain(|other| other.id() != webhook.id());
        sender.webhooks.push(webhook);
        drop(sender);
        self.traffic.notify();
    }

    /// Disables a webhook as the retry limit does.
    pub(super) fn disable(&self, id: &str) {
        let now = Timestamp::now().to_string();
        if let Some(webhook) =
            lock(&self.sender).webhooks.iter_mut().find(|webhook| webhook.id() == id)
        {
            merge(&mut webhook.0, json!({"enabled": false, "disabledAtDueToRetryLimit": now}));
        }
        self.traffic.notify();
    }

    /// The webhooks that are subscribed to this event type now.
    pub(super) fn receivers(&self, kind: &str) -> Vec<String> {
        let sender = lock(&self.sender);
        let wanting = sender.webhooks.iter().filter(|webhook| webhook.is_subscribed_to(kind));
        wanting.map(|webhook| webhook.id().to_owned()).collect()
    }

    /// Sends an event until it is accepted; after the last failure the webhook is disabled.
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
        let mut request = self.http.post(webhook.url()).json(event).timeout(RESPONSE_TIMEOUT);
        for (name, value) in webhook.0["headers"].as_object().into_iter().flatten() {
            request = request.header(name, text(value));
        }
        if let Some(user) = webhook.0.get("credentials") {
            request = request.basic_auth(text(&user["username"]), user["password"].as_str());
        }
        let at = Timestamp::now();
        let (status, answer) = match request.send().await {
            Ok(response) => {
                let status = response.status().as_u16();
                (Some(status), response.text().await.unwrap_or_default())
            }
            Err(_) => (None, String::new()),
        };
        lock(&self.sender).attempts.push(Attempt {
            webhook: webhook.id().to_owned(),
            event: text(&event["id"]).to_owned(),
            kind: text(&event["type"]).to_owned(),
            conversation: text(&event["content"]["conversationId"]).to_owned(),
            at,
            number,
            status,
            answer,
        });
        self.traffic.notify();
        status
    }
}
