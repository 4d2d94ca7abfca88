//! Deliveries of the kit's own: made-up events, snapshots and tombstones, in the form in which the relay sends them.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What every id of the kit begins with; no id of Gladly's does.
pub(super) const PREFIX: &str = "conformance-";
/// The organisation that all deliveries name, which is no customer's.
const ORGANIZATION: &str = "conformance.gladly.qa";
/// The version of the schema that the relay sends.
pub(super) const SCHEMA: &str = "gladly-relay/delivery/1";

/// Ids and times that occur in no other scenario.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    prefix: String,
    /// The scenario's second 0.
    start: Timestamp,
}

impl Scope {
    /// The scope of a run: an hour ago, so that every time is in the past.
    pub(super) fn new(run: &str, now: Timestamp) -> Self {
        let hour_ago = now - SignedDuration::from_hours(1);
        let start = Timestamp::from_second(hour_ago.as_second()).unwrap_or(hour_ago);
        Self { prefix: format!("{PREFIX}{run}-"), start }
    }

    /// A scope within this one.
    pub(super) fn part(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}-", self.prefix), start: self.start }
    }

    /// What all ids of the scope begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn id(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// An id without what all ids of the scope begin with.
    pub(super) fn name<'a>(&self, id: &'a str) -> &'a str {
        id.strip_prefix(&self.prefix).unwrap_or(id)
    }

    /// A second of the scenario in RFC 3339, ending in this: a fraction and an offset.
    pub(super) fn timestamp(&self, second: i64, end: &str) -> String {
        let at = self.start + SignedDuration::from_secs(second);
        format!("{}{end}", at.strftime("%Y-%m-%dT%H:%M:%S"))
    }

    /// A second of the scenario as the relay writes it.
    pub(super) fn second(&self, second: i64) -> String {
        self.timestamp(second, ".000Z")
    }

    pub(super) fn event(&self, name: &str, conversation: &str, coverage: &str) -> Value {
        json!({
            "id": self.id(name), "type": "CONVERSATION/CREATED", "timestamp": self.second(0),
            "receivedAt": self.second(0), "heldMs": 0, "conversationId": self.id(conversation),
            "content": {"conversationId": self.id(conversation)}, "snapshot": coverage, "origin": "webhook",
        })
    }

    /// A snapshot with one message, fetched at this second.
    pub(super) fn snapshot(&self, conversation: &str, customer: &str, second: i64) -> Value {
        self.snapshot_at(conversation, customer, &self.second(second))
    }

    /// A snapshot with one message, fetched at this time.
    pub(super) fn snapshot_at(&self, conversation: &str, customer: &str, at: &str) -> Value {
        let text = format!("made up: {conversation}, fetched at {at}");
        json!({
            "id": self.id(conversation), "fetchedAt": at, "customerId": self.id(customer), "status": "OPEN",
            "customer": {"id": self.id(customer)}, "items": [self.item(0, &text)], "truncated": false,
        })
    }

    pub(super) fn item(&self, number: usize, text: &str) -> Value {
        json!({
            "id": self.id(&format!("i{number}")), "timestamp": self.second(0), "type": "CHAT_MESSAGE",
            "author": {"kind": "customer"}, "text": text, "content": {"type": "CHAT_MESSAGE", "content": text},
        })
    }

    /// The deletion of a customer: what was fetched before this second is void.
    pub(super) fn deleted(&self, customer: &str, second: i64) -> Value {
        self.deleted_at(customer, &self.second(second))
    }

    pub(super) fn deleted_at(&self, customer: &str, at: &str) -> Value {
        let event = self.id(&format!("deleted-{customer}"));
        json!({"kind": "customer-deleted", "eventId": event, "customerId": self.id(customer), "at": at})
    }

    pub(super) fn merged(&self, from: &str, into: &str) -> Value {
        self.merge("customer-merged", from, into)
    }

    pub(super) fn merged_conversation(&self, from: &str, into: &str) -> Value {
        self.merge("conversation-merged", from, into)
    }

    fn merge(&self, kind: &str, from: &str, into: &str) -> Value {
        let event = self.id(&format!("merged-{from}-{into}"));
        json!({"kind": kind, "eventId": event, "from": self.id(from), "into": self.id(into), "at": self.second(0)})
    }
}

/// One delivery.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    /// What it holds, for a report.
    pub(super) label: String,
    pub(super) json: Value,
    pub(super) gzip: bool,
}

/// The request that a delivery is.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    pub(super) gzip: bool,
}

impl Delivery {
    /// A delivery of nothing, sent an hour after the scenario's second 0.
    pub(super) fn new(label: impl Into<String>, scope: &Scope) -> Self {
        let json = json!({
            "schema": SCHEMA, "organization": ORGANIZATION, "sentAt": scope.second(3_600),
            "events": [], "conversations": [],
        });
        Self { label: label.into(), json, gzip: false }
    }

    pub(super) fn events(self, events: impl IntoIterator<Item = Value>) -> Self {
        self.with("events", events.into_iter().collect())
    }

    pub(super) fn conversations(self, snapshots: impl IntoIterator<Item = Value>) -> Self {
        self.with("conversations", snapshots.into_iter().collect())
    }

    pub(super) fn tombstones(self, tombstones: impl IntoIterator<Item = Value>) -> Self {
        self.with("tombstones", tombstones.into_iter().collect())
    }

    /// With this field.
    pub(super) fn with(mut self, name: &str, value: Value) -> Self {
        self.json[name] = value;
        self
    }

    pub(super) fn gzipped(self) -> Self {
        Self { gzip: true, ..self }
    }

    /// The bytes, which are the same each time. As at the relay, the id is a hash of everything that decides them.
    pub(super) fn request(&self) -> Request {
        let encoding = if self.gzip { "gzip" } else { "identity" };
        let hash = Sha256::new().chain_update(encoding).chain_update("\n");
        let id = hex::encode(hash.chain_update(self.json.to_string()).finalize());
        let mut json = self.json.clone();
        json["id"] = id.clone().into();
        let json = json.to_string().into_bytes();
        Request { id, body: if self.gzip { compress(&json) } else { json }, gzip: self.gzip }
    }
}

fn compress(json: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let _ = encoder.write_all(json);
    encoder.finish().unwrap_or_default()
}
