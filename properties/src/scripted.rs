//! Gladly and the destination with scripted replies, which check the requests they receive.

use std::{
    collections::HashMap,
    io::Read as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use flate2::read::GzDecoder;
use serde_json::Value;
use testing::{
    connector::{Body, FakeConnector, Reply},
    destination::violations,
    settings::{DESTINATION_URL, GLADLY_HOST},
};

use crate::{redaction::CANARY, script::Section};

/// The contact fields of contents, as the contract lists them.
const CONTACT: [&str; 7] =
    ["from", "to", "cc", "bcc", "customerNumber", "customerAddress", "userId"];

/// What a delivery may contain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    pub(crate) contact: bool,
    pub(crate) notes: bool,
}

/// Gladly and the destination.
#[derive(Clone)]
pub(crate) struct Scripted(Arc<Mutex<State>>);

struct State {
    allowed: Allowed,
    /// Replies by kind of request, last one first.
    replies: HashMap<&'static str, Vec<Reply>>,
    calls: usize,
    /// Events of deliveries that were accepted, as themselves or as tombstones.
    forwarded: usize,
    violations: Vec<String>,
}

/// The kinds of request to Gladly, by the parts of the path; `{}` is an id.
const PATHS: [(&str, &[&str]); 15] = [
    ("conversation", &["conversations", "{}"]),
    ("items", &["conversations", "{}", "items"]),
    ("note", &["conversations", "{}", "notes", "{}"]),
    ("item", &["conversation-items", "{}"]),
    ("transcript", &["conversation-items", "{}", "voice-transcript"]),
    ("customer", &["customer-profiles", "{}"]),
    ("agents", &["agents"]),
    ("topics", &["topics"]),
    ("inboxes", &["inboxes"]),
    ("organization", &["organization"]),
    ("webhooks", &["webhooks"]),
    ("webhook", &["webhooks", "{}"]),
    ("exports", &["export", "jobs"]),
    ("exported", &["export", "jobs", "{}", "files", "conversation_items.jsonl"]),
    ("events", &["events"]),
];

impl Scripted {
    pub(crate) fn new(sections: &[Section<'_>], allowed: Allowed) -> Self {
        let mut replies = HashMap::<_, Vec<_>>::new();
        for section in sections.iter().rev() {
            let kinds = PATHS.iter().map(|(kind, _)| *kind).chain(["destination"]);
            if let Some(kind) = kinds.into_iter().find(|kind| *kind == section.name) {
                replies.entry(kind).or_default().push(read(section));
            }
        }
        let state = State { allowed, replies, calls: 0, forwarded: 0, violations: Vec::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of calls to either.
    pub(crate) fn calls(&self) -> usize {
        self.state().calls
    }

    /// The connector to them.
    pub(crate) fn connector(&self) -> FakeConnector {
        let scripted = self.clone();
        FakeConnector::new(move |request| scripted.state().reply(request))
    }

    /// The number of events that the destination has accepted. Panics if a request violated a property.
    pub(crate) fn forwarded(&self) -> usize {
        let state = self.state();
        assert!(state.violations.is_empty(), "{:#?}", state.violations);
        state.forwarded
    }
}

impl State {
    fn reply(&mut self, request: &HttpRequest) -> Reply {
        self.calls += 1;
        let uri = request.uri();
        if uri == DESTINATION_URL {
            let delivered = self.delivered(request);
            let reply = self.next("destination").unwrap_or_else(|| Reply::text(""));
            match delivered {
                Ok(events) if reply.code().is_some_and(|code| (200..300).contains(&code)) => {
                    self.forwarded += events;
                }
                Ok(_) => {}
                Err(found) => self.violations.extend(found),
            }
            return reply;
        }
        let Some(kind) = request_kind(uri) else {
            self.violations.push(format!("requested {uri}"));
            return Reply::text("");
        };
        self.next(kind).unwrap_or_else(|| default_reply(kind))
    }

    /// The next reply of a kind; the last one stays.
    fn next(&mut self, kind: &str) -> Option<Reply> {
        let replies = self.replies.get_mut(kind)?;
        if replies.len() > 1 { replies.pop() } else { replies.last().cloned() }
    }

    /// The number of events in a delivery, or its violations.
    fn delivered(&self, request: &HttpRequest) -> Result<usize, Vec<String>> {
        let header = |name| request.headers().get(name).unwrap_or_default();
        let wire = request.body().bytes().unwrap_or_default();
        let mut json = Vec::new();
        match header("content-encoding") {
            "gzip" => GzDecoder::new(wire).read_to_end(&mut json),
            _ => (&mut &*wire).read_to_end(&mut json),
        }
        .map_err(|err| vec![format!("cannot be decompressed: {err}")])?;
        let delivery: Value = match serde_json::from_slice(&json) {
            Ok(delivery) => delivery,
            // JSON does not limit numbers; this parser does.
            Err(err) if err.to_string().starts_with("number out of range") => {
                let text = String::from_utf8_lossy(&json);
                let tombstones = text.matches(r#"{"kind":"customer-"#).count();
                return Ok(text.matches(r#","snapshot":"#).count() + tombstones);
            }
            Err(err) => return Err(vec![format!("not valid JSON: {err}")]),
        };
        let mut found = violations(&delivery);
        if header("idempotency-key") != delivery["id"] || request.method() != "POST" {
            found.push("not sent as a delivery".into());
        }
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let conversations = list(&delivery["conversations"]);
        if json.len() > 1_000_000 && conversations.len() > 1 {
            found.push(format!("{} bytes of several conversations", json.len()));
        }
        for conversation in &conversations {
            let customer = &conversation["customer"];
            let contact = ["emails", "phones", "externalCustomerId", "externalCustomerIds"]
                .map(|name| !customer[name].is_null());
            if !self.allowed.contact && contact.contains(&true) {
                found.push("contains contact data".into());
            }
            for item in list(&conversation["items"]) {
                if !self.allowed.contact
                    && names(&item["content"]).any(|name| CONTACT.contains(&name))
                {
                    found.push(format!("contains contact data: {item}"));
                }
                let kinds = [&item["type"], &item["content"]["type"]];
                if !self.allowed.notes && kinds.iter().any(|kind| *kind == "CONVERSATION_NOTE") {
                    found.push(format!("contains an internal note: {item}"));
                }
            }
        }
        // Of a merge there may be a second tombstone, of its conversations.
        let is_event = |it: &&Value| it["kind"] != "conversation-merged";
        let buried = list(&delivery["tombstones"]).iter().filter(is_event).count();
        if found.is_empty() { Ok(list(&delivery["events"]).len() + buried) } else { Err(found) }
    }
}

/// Every field name, at any depth.
fn names(value: &Value) -> Box<dyn Iterator<Item = &str> + '_> {
    match value {
        Value::Object(fields) => Box::new(
            fields
                .iter()
                .flat_map(|(name, value)| std::iter::once(name.as_str()).chain(names(value))),
        ),
        Value::Array(values) => Box::new(values.iter().flat_map(names)),
        _ => Box::new(std::iter::empty()),
    }
}

/// The kind of request of a URL, if the relay may use it.
fn request_kind(uri: &str) -> Option<&'static str> {
    let path = uri.strip_prefix("https://")?.strip_prefix(GLADLY_HOST)?.strip_prefix("/api/v1/")?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    if !query.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=&:.-+_".contains(&byte)) {
        return None;
    }
    let parts: Vec<_> = path.split('/').collect();
    let is_id = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        (1..=64).contains(&part.len()) && part.bytes().all(plain)
    };
    let fits = |shape: &[&str]| {
        shape.len() == parts.len()
            && shape.iter().zip(&parts).all(|(shape, part)| match *shape {
                "{}" => is_id(part),
                name => name == *part,
            })
    };
    PATHS.iter().find(|(_, shape)| fits(shape)).map(|(kind, _)| *kind)
}

/// `STATUS|name: value|name: value`, and a body. Without a readable status, 200.
fn read(section: &Section<'_>) -> Reply {
    let mut parts = section.rest.split('|');
    let status = parts.next().and_then(|status| status.trim().parse().ok()).unwrap_or(200);
    let header = |part: &str| {
        let (name, value) = part.split_once(':')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = parts.filter_map(header).collect();
    Reply::Response { status, headers, body: Body::Whole(section.body.to_owned()) }
}

/// Gladly's reply if the script has none.
fn default_reply(kind: &str) -> Reply {
    match kind {
        "conversation" => Reply::text(r#"{"customerId":"u-1","agentId":"a-1"}"#),
        "items" => Reply::text(format!(
            r#"[{{"id":"i-1","content":{{"type":"SMS","content":"{CANARY}"}}}}]"#
        )),
        "customer" => Reply::text(format!(r#"{{"id":"u-1","name":"{CANARY}"}}"#)),
        "agents" | "topics" | "inboxes" | "webhooks" | "exports" => Reply::text("[]"),
        "organization" | "webhook" | "events" | "exported" => Reply::text(""),
        _ => Reply::status(404),
    }
}
