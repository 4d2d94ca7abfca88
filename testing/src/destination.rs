//! The destination: accepts deliveries, validates them against the published schema, and stores their contents.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Read},
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    routing::{get, post},
};
use flate2::read::MultiGzDecoder;
use jsonschema::{ValidationError, Validator};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    fault::Fault,
    reader::Reader,
    server::{Server, Traffic, lock},
    tls::Tls,
};

static SCHEMA: LazyLock<Result<Validator, String>> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/delivery.v1.json"))
        .map_err(|err| err.to_string())?;
    jsonschema::validator_for(&schema).map_err(|err| err.to_string())
});

/// What the destination accepts.
#[derive(Debug, Clone)]
pub struct Options {
    /// 0 takes a free port.
    pub port: u16,
    /// Serves over TLS, HTTP/2 where the client offers it.
    pub tls: Option<Tls>,
    /// Name and value of the header that must come with every delivery.
    pub token: (String, String),
    /// The largest body, before compression, that is not refused with 413.
    pub max_bytes: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 0,
            tls: None,
            token: ("authorization".to_owned(), "Bearer destination-token".to_owned()),
            max_bytes: None,
        }
    }
}

/// A running destination. Dropping it closes its connections.
#[derive(Debug)]
pub struct Destination {
    server: Server,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: Options,
    traffic: Arc<Traffic>,
    held: Mutex<Stored>,
}

/// Everything that was accepted.
#[derive(Debug, Default)]
struct Stored {
    deliveries: Vec<Delivery>,
    invalid: Vec<String>,
    /// By conversation id, the status it is refused with.
    refused: BTreeMap<String, StatusCode>,
    reader: Reader,
    /// The latest version of each event by its id, and how often it came.
    events: BTreeMap<String, (Value, usize)>,
}

/// One delivery that was accepted.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Path with its query.
    pub path: String,
    /// As they arrived.
    pub headers: HeaderMap,
    /// Decompressed and parsed.
    pub body: Value,
    /// Size before compression.
    pub bytes: usize,
    /// Size on the wire, without headers.
    pub wire_bytes: usize,
}

impl Destination {
    /// Starts serving on loopback.
    pub fn start(options: Options) -> io::Result<Self> {
        SCHEMA.as_ref().map_err(|err| io::Error::other(err.clone()))?;
        let (server, listener) = Server::bind("destination", options.port, options.tls.clone())?;
        let shared = Arc::new(Shared {
            options,
            traffic: Arc::new(Traffic::new(None, Duration::ZERO)),
            held: Mutex::default(),
        });
        let app = Router::new()
            .route("/", post(receive))
            .fallback(receive)
            .with_state(Arc::clone(&shared));
        let control = Router::new()
            .route("/", get(summary))
            .route("/_sim/conversations", get(conversations))
            .route("/_sim/state", get(state))
            .route("/_sim/refusals", post(refuse).delete(accept))
            .with_state(Arc::clone(&shared));
        server.serve(listener, &shared.traffic, app, control);
        Ok(Self { server, shared })
    }

    /// Its address, like `http://127.0.0.1:40123`; any path accepts deliveries.
    #[must_use]
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Every call so far, and faults.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.traffic().fault(fault);
    }

    /// From now on answers this status to deliveries with this conversation.
    pub fn refuse(&self, conversation: &str, status: StatusCode) {
        lock(&self.shared.held).refused.insert(conversation.to_owned(), status);
    }

    /// Accepts every conversation again.
    pub fn accept(&self) {
        lock(&self.shared.held).refused.clear();
    }

    /// The accepted deliveries, repeats included, oldest first.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries_after(0)
    }

    /// The accepted deliveries without this many of the oldest.
    #[must_use]
    pub fn deliveries_after(&self, known: usize) -> Vec<Delivery> {
        lock(&self.shared.held).deliveries.iter().skip(known).cloned().collect()
    }

    /// The ids of the events that arrived at least once, as themselves or as tombstones.
    #[must_use]
    pub fn event_ids(&self) -> BTreeSet<String> {
        let held = lock(&self.shared.held);
        let buried = held.reader.tombstones().filter_map(|tombstone| tombstone["eventId"].as_str());
        held.events.keys().cloned().chain(buried.map(str::to_owned)).collect()
    }

    /// An event as it last came, by id.
    #[must_use]
    pub fn event(&self, id: &str) -> Option<Value> {
        lock(&self.shared.held).events.get(id).map(|(event, _)| event.clone())
    }

    /// How often an event came, as itself or as tombstones.
    #[must_use]
    pub fn times(&self, event: &str) -> usize {
        let held = lock(&self.shared.held);
        held.events.get(event).map_or(0, |(_, times)| *times) + held.reader.times(event)
    }

    /// The latest snapshot of a conversation, unless a tombstone voids it.
    #[must_use]
    pub fn conversation(&self, id: &str) -> Option<Value> {
        lock(&self.shared.held).reader.conversations().get(id).cloned()
    }

    /// The latest snapshots of all conversations that no tombstone voids, by id.
    #[must_use]
    pub fn conversations(&self) -> BTreeMap<String, Value> {
        lock(&self.shared.held).reader.conversations().clone()
    }

    /// The tombstones that arrived at least once.
    #[must_use]
    pub fn tombstones(&self) -> Vec<Value> {
        lock(&self.shared.held).reader.tombstones().cloned().collect()
    }

    /// The violations of the contract; each delivery with one was answered 422. Must be empty at the end of every test.
    #[must_use]
    pub fn invalid(&self) -> Vec<String> {
        lock(&self.shared.held).invalid.clone()
    }

    /// Waits for a delivery to make `reached` true. False at the timeout.
    pub async fn wait_for(&self, reached: impl Fn(&Self) -> bool, at_most: Duration) -> bool {
        self.traffic().wait_for(|| reached(self), at_most).await
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let (name, value) = &shared.options.token;
    if method != Method::POST {
        return StatusCode::METHOD_NOT_ALLOWED;
    }
    if headers.get(name).is_none_or(|given| given != value) {
        return StatusCode::UNAUTHORIZED;
    }
    let mut held = lock(&shared.held);
    let delivery = match read(&uri, headers, &body) {
        Ok(delivery) => delivery,
        Err(violations) => {
            held.invalid.extend(violations);
            return StatusCode::UNPROCESSABLE_ENTITY;
        }
    };
    if shared.options.max_bytes.is_some_and(|most| delivery.bytes > most) {
        return StatusCode::PAYLOAD_TOO_LARGE;
    }
    let ids = list(&delivery.body, "conversations").map(|conversation| &conversation["id"]);
    let about = list(&delivery.body, "events").map(|event| &event["conversationId"]);
    let refused = ids.chain(about).find_map(|id| held.refused.get(id.as_str()?));
    if let Some(status) = refused {
        return *status;
    }
    held.keep(delivery);
    StatusCode::OK
}

/// A delivery's violations of the published schema.
#[must_use]
pub fn violations(delivery: &Value) -> Vec<String> {
    match &*SCHEMA {
        Ok(schema) => {
            let describe = |err: ValidationError<'_>| format!("{}: {err}", err.instance_path());
            schema.iter_errors(delivery).map(describe).collect()
        }
        Err(err) => vec![err.clone()],
    }
}

fn list<'a>(body: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    body[name].as_array().into_iter().flatten()
}

/// The delivery, or all its violations.
fn read(uri: &Uri, headers: HeaderMap, wire: &[u8]) -> Result<Delivery, Vec<String>> {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut text = Vec::new();
    let unpacked = match header("content-encoding") {
        "" => { wire }.read_to_end(&mut text),
        "gzip" => MultiGzDecoder::new(wire).read_to_end(&mut text),
        other => Err(io::Error::other(format!("content-encoding {other}"))),
    };
    unpacked.map_err(|err| vec![format!("cannot be unpacked: {err}")])?;
    let body: Value =
        serde_json::from_slice(&text).map_err(|err| vec![format!("not JSON: {err}")])?;

    let mut violations = violations(&body);
    for (name, expected) in [
        ("content-type", "application/json"),
        ("idempotency-key", body["id"].as_str().unwrap_or_default()),
    ] {
        if header(name) != expected {
            violations.push(format!("header {name} is {:?}, not {expected:?}", header(name)));
        }
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    Ok(Delivery { path: uri.to_string(), bytes: text.len(), wire_bytes: wire.len(), headers, body })
}

impl Stored {
    fn keep(&mut self, delivery: Delivery) {
        for event in list(&delivery.body, "events") {
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            let (last, times) = self.events.entry(id).or_default();
            *last = event.clone();
            *times += 1;
        }
        self.reader.take(&delivery.body);
        self.deliveries.push(delivery);
    }
}

async fn conversations(State(shared): State<Arc<Shared>>) -> Json<BTreeMap<String, Value>> {
    Json(lock(&shared.held).reader.conversations().clone())
}

#[derive(Deserialize)]
struct Selection {
    #[serde(default)]
    prefix: String,
}

/// What it shows of the ids that begin with the prefix: the read interface of `gladly-relay conformance`.
async fn state(
    State(shared): State<Arc<Shared>>,
    Query(selection): Query<Selection>,
) -> Json<Value> {
    let held = lock(&shared.held);
    let is_selected = |id: &str| id.starts_with(&selection.prefix);
    let conversations = held.reader.conversations().iter().filter(|(id, _)| is_selected(id));
    let events = held.events.iter().filter(|(id, _)| is_selected(id));
    Json(json!({
        "conversations": conversations.map(|(_, snapshot)| snapshot).collect::<Vec<_>>(),
        "events": events.map(|(_, (event, _))| event).collect::<Vec<_>>(),
    }))
}

#[derive(Deserialize)]
struct Refusal {
    conversation: String,
    status: u16,
}

async fn refuse(State(shared): State<Arc<Shared>>, Json(refusal): Json<Refusal>) -> StatusCode {
    let Ok(status) = StatusCode::from_u16(refusal.status) else {
        return StatusCode::BAD_REQUEST;
    };
    lock(&shared.held).refused.insert(refusal.conversation, status);
    StatusCode::NO_CONTENT
}

async fn accept(State(shared): State<Arc<Shared>>) -> StatusCode {
    lock(&shared.held).refused.clear();
    StatusCode::NO_CONTENT
}

/// What arrived, as text for people.
async fn summary(State(shared): State<Arc<Shared>>) -> String {
    let held = lock(&shared.held);
    let mut page = format!(
        "{} deliveries, {} events, {} conversations, {} tombstones, {} violations of the schema\n",
        held.deliveries.len(),
        held.events.len(),
        held.reader.conversations().len(),
        held.reader.tombstones().count(),
        held.invalid.len(),
    );
    // Writing to a string cannot fail.
    for violation in &held.invalid {
        let _ = writeln!(page, "  ! {violation}");
    }
    for (id, conversation) in held.reader.conversations() {
        let name = conversation["customer"]["name"].as_str().unwrap_or("unknown customer");
        let status = conversation["status"].as_str().unwrap_or("?");
        let _ = writeln!(page, "\n{id}  {status}  {name}");
        for item in list(conversation, "items") {
            if let Some(text) = item["text"].as_str() {
                let kind = item["type"].as_str().unwrap_or("?");
                let author = item["author"]["kind"].as_str().unwrap_or("?");
                let _ = writeln!(page, "    {author:<12}{kind:<18}{}", text.replace('\n', " / "));
            }
        }
    }
    for tombstone in held.reader.tombstones() {
        let of = |name: &str| tombstone[name].as_str();
        let (kind, at) = (of("kind").unwrap_or("?"), of("at").unwrap_or("?"));
        let whom = of("customerId").or(of("from")).unwrap_or("?");
        let into = of("into").map(|into| format!(" into {into}")).unwrap_or_default();
        let _ = writeln!(page, "\n{kind}  {whom}{into}  {at}");
    }
    page.push_str("\nAlso here: /_sim/conversations, /_sim/state, /_sim/calls, /_sim/faults, /_sim/refusals\n");
    page
}
