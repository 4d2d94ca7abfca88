//! Controlling the simulator over HTTP: `curl` against `/_sim`.

use axum::{
    Json, Router,
    extract::State as Extract,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{State, organization::text};
use crate::server::lock;

const HELP: &str = r#"A Gladly simulator. Its API is under /api/v1; these endpoints control it.

GET    /_sim/conversations   the conversations
POST   /_sim/conversations   {"id":"c-1","customerId":"u-1","items":[{"type":"SMS","content":"Hello"}]}
POST   /_sim/emit            {"type":"CONVERSATION/CLOSED","conversation":"c-1"}; "send":false only shows the event
GET    /_sim/webhooks        the webhooks and what was sent to them
GET    /_sim/calls           what was called and answered
GET    /_sim/faults          the faults; POST {"on":"GET /api/v1/conversations/*","times":2,"status":500} adds one, DELETE clears all
       a fault may have: on, times, after, latencyMs, status, headers, body, mebibytes, hang, cut, garbled,
       dripMs, reset, lost
"#;

#[derive(Deserialize)]
struct Emit {
    #[serde(rename = "type")]
    kind: String,
    conversation: String,
    #[serde(default = "yes")]
    send: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Add {
    id: String,
    customer_id: String,
    #[serde(default)]
    items: Vec<Value>,
}

fn yes() -> bool {
    true
}

pub(super) fn router(state: State) -> Router {
    Router::new()
        .route("/_sim", get(async || HELP))
        .route("/_sim/conversations", get(conversations).post(add))
        .route("/_sim/emit", post(emit))
        .route("/_sim/webhooks", get(webhooks))
        .with_state(state)
}

async fn conversations(Extract(state): Extract<State>) -> Json<Vec<Value>> {
    let organization = lock(&state.organization);
    let rows = organization.conversations.iter().map(|(id, conversation)| {
        let customer = organization.customers.get(text(&conversation.meta["customerId"]));
        let first_message =
            conversation.items.iter().find_map(|item| item["content"]["content"].as_str());
        json!({
            "id": id,
            "status": conversation.meta["status"],
            "customer": customer.map(|customer| &customer["name"]),
            "items": conversation.items.len(),
            "firstMessage": first_message,
        })
    });
    Json(rows.collect())
}

async fn add(Extract(state): Extract<State>, Json(add): Json<Add>) -> StatusCode {
    lock(&state.organization).add_conversation(&add.id, &add.customer_id, add.items);
    StatusCode::CREATED
}

async fn emit(Extract(state): Extract<State>, Json(emit): Json<Emit>) -> Response {
    let event = lock(&state.organization).event(&emit.kind, &emit.conversation);
    if emit.send {
        state.send(&event);
    }
    Json(event).into_response()
}

async fn webhooks(Extract(state): Extract<State>) -> Json<Value> {
    let attempts = lock(&state.sender).attempts.clone();
    let attempts = attempts.iter().rev().take(100).map(|attempt| {
        json!({
            "webhook": attempt.webhook, "event": attempt.event, "type": attempt.kind, "attempt": attempt.number,
            "at": attempt.at, "status": attempt.status, "answer": attempt.answer,
        })
    });
    Json(json!({"webhooks": state.webhooks(), "lastAttempts": attempts.collect::<Vec<_>>()}))
}
