//! The REST API as far as the relay calls it, with its peculiarities.

use std::fmt::Write as _;

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State as Extract},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{State, event, organization::text, webhook};
use crate::server::lock;

/// How many items or conversations Gladly lists.
const MAX_LISTED_ITEMS: usize = 1000;
const MAX_LISTED_CONVERSATIONS: usize = 100;
/// Says that there is more than what is listed; its value at Gladly is not documented.
const LIMITED: &str = "gladly-limited-data";
const EXPORT_FILE: &str = "conversation_items.jsonl";

pub(super) fn router(state: State) -> Router {
    let organization = async || Json(json!({"id": "sample-organization", "name": "Sample Shop"}));
    let api = Router::new()
        .route("/organization", get(organization))
        .route("/conversations/{id}", get(conversation))
        .route("/conversations/{id}/items", get(items))
        .route("/conversations/{id}/notes/{note}", get(note))
        .route("/conversation-items/{id}", get(item))
        .route("/conversation-items/{id}/voice-transcript", get(transcript))
        .route("/customer-profiles/{id}", get(customer))
        .route("/customers/{id}/conversations", get(conversations))
        .route(
            "/agents",
            get(async |Extract(state): Extract<State>| {
                Json(lock(&state.organization).agents.clone())
            }),
        )
        .route(
            "/topics",
            get(async |Extract(state): Extract<State>| {
                Json(lock(&state.organization).topics.clone())
            }),
        )
        .route(
            "/inboxes",
            get(async |Extract(state): Extract<State>| {
                Json(lock(&state.organization).inboxes.clone())
            }),
        )
        .route("/events", get(event::list))
        .route("/export/jobs", get(jobs))
        .route("/export/jobs/{id}", get(job))
        .route("/export/jobs/{id}/files/{name}", get(export))
        .merge(webhook::router())
        .fallback(async || not_found())
        .layer(middleware::from_fn_with_state(state.clone(), authenticate))
        .with_state(state);
    Router::new().nest("/api/v1", api)
}

async fn authenticate(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    let user = format!("{}:{}", state.options.email, state.options.token);
    let expected = format!("Basic {}", BASE64_STANDARD.encode(user));
    match request.headers().get(header::AUTHORIZATION) {
        Some(given) if *given == *expected => next.run(request).await,
        _ => error(StatusCode::UNAUTHORIZED, "invalid", "authentication failed"),
    }
}

pub(super) fn error(status: StatusCode, code: &str, detail: &str) -> Response {
    (status, Json(json!({"errors": [{"code": code, "detail": detail}]}))).into_response()
}

/// Some 400s come without `errors` around them.
pub(super) fn bare_error(attr: &str, code: &str, detail: &str) -> Response {
    let body = json!([{"attr": attr, "code": code, "detail": detail}]);
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}

pub(super) fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "not_exist", "no such resource")
}

fn found(value: Option<&Value>) -> Response {
    value.map_or_else(not_found, |value| Json(value).into_response())
}

async fn conversation(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    found(lock(&state.organization).conversations.get(&id).map(|it| &it.meta))
}

async fn items(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    match lock(&state.organization).conversations.get(&id) {
        Some(conversation) => listed(&conversation.items, MAX_LISTED_ITEMS),
        None => not_found(),
    }
}

async fn conversations(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    let organization = lock(&state.organization);
    let mut theirs: Vec<_> = organization.conversations.values().map(|it| &it.meta).collect();
    theirs.retain(|meta| meta["customerId"] == *id);
    theirs.sort_by_key(|meta| text(&meta["createdAt"]).parse::<Timestamp>().ok());
    listed(&theirs, MAX_LISTED_CONVERSATIONS)
}

/// Which end of a long list Gladly keeps is not documented; here the oldest stay.
fn listed<T: serde::Serialize>(list: &[T], most: usize) -> Response {
    if list.len() > most {
        ([(LIMITED, "true")], Json(&list[..most])).into_response()
    } else {
        Json(list).into_response()
    }
}

async fn note(
    Extract(state): Extract<State>,
    Path((id, note)): Path<(String, String)>,
) -> Response {
    let organization = lock(&state.organization);
    let mut notes = organization
        .items(&id)
        .iter()
        .filter(|item| item["content"]["type"] == "CONVERSATION_NOTE");
    found(notes.find(|item| item["id"] == *note))
}

async fn item(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    let organization = lock(&state.organization);
    if organization.unsupported.contains(&id) {
        return error(StatusCode::BAD_REQUEST, "invalid", "this type of item is not supported");
    }
    found(organization.item(&id))
}

async fn transcript(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    found(lock(&state.organization).transcripts.get(&id))
}

async fn customer(Extract(state): Extract<State>, Path(id): Path<String>) -> Response {
    let organization = lock(&state.organization);
    if let Some(new) = organization.moved.get(&id) {
        let error = json!({"code": "moved", "detail": "customer was merged", "meta": {"old": id, "new": new}});
        return (StatusCode::MOVED_PERMANENTLY, Json(json!({"errors": [error]}))).into_response();
    }
    let Some(profile) = organization.customers.get(&id) else {
        // Here `errors` is an object.
        let errors = json!({"errors": {"code": "not_exist", "detail": "no such customer"}});
        return (StatusCode::NOT_FOUND, Json(errors)).into_response();
    };
    Json(profile).into_response()
}

/// The daily exports of the last 14 days, newest first. One is ready two hours after its day.
fn export_jobs() -> Vec<(Value, Timestamp)> {
    const DAY: i64 = 86_400;
    let now = Timestamp::now().as_second();
    let jobs = (1..=14).filter_map(|ago| {
        let start = Timestamp::from_second((now / DAY - ago) * DAY).ok()?;
        let end = start + SignedDuration::from_hours(24);
        let ready = end + SignedDuration::from_hours(2);
        let done = ready.as_second() <= now;
        let job = json!({
            "id": BASE64_URL_SAFE_NO_PAD.encode(format!("export{:.10}", start.to_string())),
            "scheduleId": BASE64_URL_SAFE_NO_PAD.encode("a daily schedule"),
            "status": if done { "COMPLETED" } else { "IN_PROGRESS" },
            "updatedAt": if done { ready } else { end }.to_string(),
            "parameters": {"type": "CONVERSATIONS", "startAt": start.to_string(), "endAt": end.to_string()},
            "files": if done { json!([EXPORT_FILE]) } else { json!([]) },
        });
        Some((job, start))
    });
    jobs.collect()
}

async fn jobs(Query(query): Query<Vec<(String, String)>>) -> Response {
    let mut jobs: Vec<_> = export_jobs().into_iter().map(|(job, _)| job).collect();
    for (name, value) in query {
        let time = value.parse::<Timestamp>();
        let updated = |job: &Value| text(&job["updatedAt"]).parse::<Timestamp>();
        match (name.as_str(), time) {
            ("status", _) => jobs.retain(|job| job["status"] == *value),
            ("startAt", Ok(from)) => jobs.retain(|job| updated(job).is_ok_and(|at| at >= from)),
            ("endAt", Ok(to)) => jobs.retain(|job| updated(job).is_ok_and(|at| at <= to)),
            _ => return bare_error(&name, "invalid", "not a filter of export jobs"),
        }
    }
    Json(jobs).into_response()
}

async fn job(Path(id): Path<String>) -> Response {
    found(export_jobs().iter().map(|(job, _)| job).find(|job| job["id"] == *id))
}

async fn export(
    Extract(state): Extract<State>,
    Path((id, name)): Path<(String, String)>,
) -> Response {
    let jobs = export_jobs();
    let Some((_, start)) =
        jobs.iter().find(|(job, _)| job["id"] == *id && job["files"][0] == *name)
    else {
        return not_found();
    };
    let end = *start + SignedDuration::from_hours(24);
    let mut lines = String::new();
    for item in lock(&state.organization).conversations.values().flat_map(|it| &it.items) {
        // Two types are missing from Gladly's exports.
        let exported = !matches!(text(&item["content"]["type"]), "VOICE_AI_MESSAGE" | "TWITTER");
        let at = text(&item["timestamp"]).parse::<Timestamp>();
        if exported && at.is_ok_and(|at| *start <= at && at < end) {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{item}");
        }
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response()
}
