//! Gladly and the destination, who answer as a script says, and what they were asked.

use std::{
    collections::HashMap,
    fmt,
    io::Read as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use flate2::read::GzDecoder;
use serde_json::Value;
use testing::destination::violations;

use crate::{redaction::CANARY, script::Section};

pub(crate) const GLADLY: &str = "acme.gladly.com";
pub(crate) const DESTINATION: &str = "https://ingest.example.com/deliveries";

/// What hides the means of contact, as the contract lists it.
const CONTACT: [&str; 7] =
    ["from", "to", "cc", "bcc", "customerNumber", "customerAddress", "userId"];

/// What a delivery may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    pub(crate) contact: bool,
    pub(crate) notes: bool,
}

/// Both of them.
#[derive(Clone)]
pub(crate) struct Scripted(Arc<Mutex<State>>);

struct State {
    allowed: Allowed,
    /// Answers by what is asked for, last one first.
    answers: HashMap<&'static str, Vec<Response>>,
    calls: usize,
    /// Events of deliveries that were accepted.
    forwarded: usize,
    broken: Vec<String>,
}

#[derive(Clone)]
struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What Gladly is asked for, by the parts of the path; `{}` is an id.
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

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outside")
    }
}

impl Scripted {
    pub(crate) fn new(sections: &[Section<'_>], allowed: Allowed) -> Self {
        let mut answers = HashMap::<_, Vec<_>>::new();
        for section in sections.iter().rev() {
            let kinds = PATHS.iter().map(|(kind, _)| *kind).chain(["destination"]);
            if let Some(kind) = kinds.into_iter().find(|kind| *kind == section.name) {
                answers.entry(kind).or_default().push(Response::read(section));
            }
        }
        let state = State { allowed, answers, calls: 0, forwarded: 0, broken: Vec::new() };
        Self(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often either was asked for anything.
    pub(crate) fn calls(&self) -> usize {
        self.state().calls
    }

    /// Events that the destination has accepted. Panics where a promise was broken on the way.
    pub(crate) fn forwarded(&self) -> usize {
        let state = self.state();
        assert!(state.broken.is_empty(), "{:#?}", state.broken);
        state.forwarded
    }
}

impl HttpConnector for Scripted {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.state().answer(&request);
        HttpConnectorFuture::ready(answer.response())
    }
}

impl State {
    fn answer(&mut self, request: &HttpRequest) -> Response {
        self.calls += 1;
        let uri = request.uri();
        if uri == DESTINATION {
            let delivered = self.delivered(request);
            let answer = self.next("destination").unwrap_or_else(|| Response::ok(""));
            match delivered {
                Ok(events) if (200..300).contains(&answer.status) => self.forwarded += events,
                Ok(_) => {}
                Err(broken) => self.broken.extend(broken),
            }
            return answer;
        }
        let Some(kind) = asked_for(uri) else {
            self.broken.push(format!("asked for {uri}"));
            return Response::ok("");
        };
        self.next(kind).unwrap_or_else(|| Response::usual(kind))
    }

    /// The next answer of a kind; the last one stays.
    fn next(&mut self, kind: &str) -> Option<Response> {
        let answers = self.answers.get_mut(kind)?;
        if answers.len() > 1 { answers.pop() } else { answers.last().cloned() }
    }

    /// How many events a delivery has, or what is wrong with it.
    fn delivered(&self, request: &HttpRequest) -> Result<usize, Vec<String>> {
        let header = |name| request.headers().get(name).unwrap_or_default();
        let wire = request.body().bytes().unwrap_or_default();
        let mut json = Vec::new();
        match header("content-encoding") {
            "gzip" => GzDecoder::new(wire).read_to_end(&mut json),
            _ => (&mut &*wire).read_to_end(&mut json),
        }
        .map_err(|err| vec![format!("cannot be unpacked: {err}")])?;
        let delivery: Value = match serde_json::from_slice(&json) {
            Ok(delivery) => delivery,
            // JSON has no largest number; whoever reads these has their own.
            Err(err) if err.to_string().starts_with("number out of range") => {
                let text = String::from_utf8_lossy(&json);
                return Ok(text.matches(r#","snapshot":"#).count());
            }
            Err(err) => return Err(vec![format!("not JSON for every reader: {err}")]),
        };
        let mut broken = violations(&delivery);
        if header("idempotency-key") != delivery["id"] || request.method() != "POST" {
            broken.push("not sent as a delivery".into());
        }
        let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
        let conversations = list(&delivery["conversations"]);
        if json.len() > 1_000_000 && conversations.len() > 1 {
            broken.push(format!("{} bytes of several conversations", json.len()));
        }
        for conversation in &conversations {
            let customer = &conversation["customer"];
            let reachable = ["emails", "phones", "externalCustomerId", "externalCustomerIds"]
                .map(|name| !customer[name].is_null());
            if !self.allowed.contact && reachable.contains(&true) {
                broken.push("shows how to reach a customer".into());
            }
            for item in list(&conversation["items"]) {
                if !self.allowed.contact
                    && names(&item["content"]).any(|name| CONTACT.contains(&name))
                {
                    broken.push(format!("shows how to reach a customer: {item}"));
                }
                let kinds = [&item["type"], &item["content"]["type"]];
                if !self.allowed.notes && kinds.iter().any(|kind| *kind == "CONVERSATION_NOTE") {
                    broken.push(format!("shows an internal note: {item}"));
                }
            }
        }
        if broken.is_empty() { Ok(list(&delivery["events"]).len()) } else { Err(broken) }
    }
}

/// Every name of a field, at any depth.
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

/// What a URL asks for, if it is one that the relay may ever use.
fn asked_for(uri: &str) -> Option<&'static str> {
    let path = uri.strip_prefix("https://")?.strip_prefix(GLADLY)?.strip_prefix("/api/v1/")?;
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

impl Response {
    /// `STATUS|name: value|name: value`, and a body. Nobody has an answer without a status.
    fn read(section: &Section<'_>) -> Self {
        let mut parts = section.rest.split('|');
        let status = parts.next().and_then(|status| status.trim().parse().ok()).unwrap_or(200);
        let header = |part: &str| {
            let (name, value) = part.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        Self { status, headers: parts.filter_map(header).collect(), body: section.body.to_owned() }
    }

    fn ok(body: &str) -> Self {
        Self { status: 200, headers: Vec::new(), body: body.into() }
    }

    /// What Gladly answers where the script says nothing.
    fn usual(kind: &str) -> Self {
        match kind {
            "conversation" => Self::ok(r#"{"customerId":"u-1","agentId":"a-1"}"#),
            "items" => Self::ok(&format!(
                r#"[{{"id":"i-1","content":{{"type":"SMS","content":"{CANARY}"}}}}]"#
            )),
            "customer" => Self::ok(&format!(r#"{{"id":"u-1","name":"{CANARY}"}}"#)),
            "agents" | "topics" | "inboxes" | "webhooks" | "exports" => Self::ok("[]"),
            "organization" | "webhook" | "events" | "exported" => Self::ok(""),
            _ => Self { status: 404, ..Self::ok("") },
        }
    }

    fn response(self) -> Result<HttpResponse, ConnectorError> {
        // A status that HTTP does not have breaks the connection.
        let status = self.status.try_into();
        let status = status.map_err(|_| ConnectorError::io("not HTTP".into()))?;
        let mut response = HttpResponse::new(status, SdkBody::from(self.body));
        for (name, value) in self.headers {
            // So does no other client hand over what is no header.
            let _ = response.headers_mut().try_insert(name, value);
        }
        Ok(response)
    }
}
