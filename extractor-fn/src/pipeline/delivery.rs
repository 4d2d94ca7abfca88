//! Deliveries: what goes into one, how they are packed, and their JSON.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use shared::{Id, Origin, serialize_rfc3339_millis};

use crate::pipeline::{
    event::{Event, Purpose},
    fetch::Snapshot,
    tombstone::Tombstone,
};

/// The most conversations in a delivery.
const MAX_CONVERSATIONS: usize = 100;
/// The most bytes of a delivery, before compression. A larger conversation is sent alone, whole.
const MAX_BYTES: usize = 1_000_000;
/// An upper bound of the bytes around the events and conversations.
const ENVELOPE_BYTES: usize = 512;
const SCHEMA: &str = "gladly-relay/delivery/1";
/// The placeholder for the id until it is computed.
const NO_ID: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Where the id begins in a delivery's JSON.
const ID_START: usize = r#"{"schema":"","id":""#.len() + SCHEMA.len();
/// `heldMs` grows until a delivery is sent: room for all its digits.
const HELD_DIGITS: usize = 20;

/// How an event's conversation is covered at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// Its snapshot is sent with the event.
    Included,
    /// An earlier snapshot is newer than the event.
    Covered,
    /// Gladly no longer has it.
    Gone {
        /// Nor its customer.
        customer_deleted: bool,
    },
}

impl Coverage {
    fn name(self) -> &'static str {
        match self {
            Self::Included => "included",
            Self::Covered => "covered",
            Self::Gone { .. } => "gone",
        }
    }
}

/// The events of one conversation, and its snapshot if one was fetched: they are sent together. Or the
/// tombstones of one event.
pub(crate) struct Update {
    /// The conversation; of tombstones the customer.
    pub(crate) subject: Id,
    pub(crate) events: Vec<Event>,
    pub(crate) coverage: Coverage,
    pub(crate) snapshot: Option<Snapshot>,
    bytes: usize,
}

impl Update {
    pub(crate) fn new(
        subject: Id,
        events: Vec<Event>,
        coverage: Coverage,
        snapshot: Option<Snapshot>,
    ) -> Self {
        let mut update = Self { subject, events, coverage, snapshot, bytes: 0 };
        let events = update.events.iter().map(|event| {
            let json = match event.purpose {
                Purpose::Forward => {
                    serde_json::to_vec(&Forwarded::new(event, coverage, event.received_at))
                }
                Purpose::Bury(ref tombstones) => serde_json::to_vec(tombstones),
                Purpose::Refetch => return 0,
            };
            json.map_or(0, |json| json.len()) + HELD_DIGITS
        });
        update.bytes = events.sum::<usize>()
            + update.snapshot.as_ref().map_or(0, |snapshot| snapshot.json.get().len() + 1);
        update
    }

    /// The tombstones of an event, which is covered by nothing.
    pub(crate) fn burial(event: Event) -> Self {
        let gone = Coverage::Gone { customer_deleted: false };
        Self::new(event.subject.clone(), vec![event], gone, None)
    }

    /// Whether it is tombstones alone.
    pub(crate) fn is_burial(&self) -> bool {
        self.events.iter().any(|event| !event.tombstones().is_empty())
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.events.iter().all(Event::is_refetch)
    }
}

/// Batches updates into deliveries.
#[derive(Default)]
pub(crate) struct Batcher {
    open: Vec<Update>,
    bytes: usize,
    full: VecDeque<Vec<Update>>,
}

impl Extend<Update> for Batcher {
    fn extend<T: IntoIterator<Item = Update>>(&mut self, updates: T) {
        updates.into_iter().for_each(|update| self.push(update));
    }
}

impl Batcher {
    fn push(&mut self, update: Update) {
        if self.open.len() == MAX_CONVERSATIONS
            || self.bytes + update.bytes > MAX_BYTES - ENVELOPE_BYTES
        {
            self.close();
        }
        self.bytes += update.bytes;
        self.open.push(update);
    }

    /// Closes the delivery being filled: no more updates will come for a while.
    pub(crate) fn close(&mut self) {
        if !self.open.is_empty() {
            self.full.push_back(std::mem::take(&mut self.open));
        }
        self.bytes = 0;
    }

    /// The next complete delivery.
    pub(crate) fn pop(&mut self) -> Option<Vec<Update>> {
        self.full.pop_front()
    }

    /// How many complete deliveries wait to be sent.
    pub(crate) fn waiting(&self) -> usize {
        self.full.len()
    }
}

#[derive(Serialize)]
struct Delivery<'a> {
    schema: &'static str,
    id: &'a str,
    organization: &'a str,
    #[serde(rename = "sentAt", serialize_with = "serialize_rfc3339_millis")]
    sent_at: Timestamp,
    events: Vec<Forwarded<'a>>,
    conversations: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tombstones: Vec<&'a Tombstone>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Forwarded<'a> {
    id: &'a Id,
    #[serde(rename = "type")]
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<&'a str>,
    #[serde(serialize_with = "serialize_rfc3339_millis")]
    received_at: Timestamp,
    held_ms: i64,
    conversation_id: &'a Id,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initiator: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a RawValue>,
    snapshot: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    customer_deleted: bool,
    origin: Origin,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl<'a> Forwarded<'a> {
    fn new(event: &'a Event, coverage: Coverage, sent_at: Timestamp) -> Self {
        Self {
            id: &event.id,
            event_type: &event.event_type,
            timestamp: event.timestamp.as_deref(),
            received_at: event.received_at,
            held_ms: held_ms(event, sent_at),
            conversation_id: &event.subject,
            customer_id: event.customer.as_ref(),
            initiator: event.initiator.as_deref(),
            content: event.content.as_deref(),
            snapshot: coverage.name(),
            customer_deleted: coverage == Coverage::Gone { customer_deleted: true },
            origin: event.origin,
        }
    }
}

/// Milliseconds since the relay received an event; 0 if the clock was set back.
pub(crate) fn held_ms(event: &Event, now: Timestamp) -> i64 {
    (now.as_millisecond() - event.received_at.as_millisecond()).max(0)
}

/// A delivery's id and its JSON.
///
/// The id is also the idempotency key, and the same key must always mean the same bytes. So it is
/// the SHA-256, in lower-case hexadecimal, of everything that decides the bytes: the content
/// encoding, a line feed, and the JSON with 64 zeros in the id's place. `sentAt`, the event ids, each
/// conversation's `fetchedAt` and the tombstones are in it, so what is sent again later has another id; the attempts
/// of one call send the same bytes, and those that a delivery is split into have ids of their own.
pub(crate) fn write(
    updates: &[Update],
    organization: &str,
    content_encoding: &str,
    sent_at: Timestamp,
) -> serde_json::Result<(String, Vec<u8>)> {
    let events = updates.iter().flat_map(|update| {
        let forwarded = |event: &&Event| matches!(event.purpose, Purpose::Forward);
        let events = update.events.iter().filter(forwarded);
        events.map(|event| Forwarded::new(event, update.coverage, sent_at))
    });
    let tombstones = updates.iter().flat_map(|update| &update.events).flat_map(Event::tombstones);
    let snapshots = updates.iter().filter_map(|update| Some(&*update.snapshot.as_ref()?.json));
    let delivery = Delivery {
        schema: SCHEMA,
        id: NO_ID,
        organization,
        sent_at,
        events: events.collect(),
        conversations: snapshots.collect(),
        tombstones: tombstones.collect(),
    };
    // The exact capacity: growing would copy what may be many megabytes.
    let bytes = updates.iter().map(|update| update.bytes).sum::<usize>() + ENVELOPE_BYTES;
    let mut json = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut json, &delivery)?;

    let hash = Sha256::new().chain_update(content_encoding).chain_update("\n").chain_update(&json);
    let id = hex::encode(hash.finalize());
    let place = json.iter_mut().skip(ID_START);
    place.zip(id.bytes()).for_each(|(place, digit)| *place = digit);
    Ok((id, json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_hash_of_what_decides_the_bytes() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let sent_at = at("2026-01-02T03:04:05.678Z");
        let (id, json) = write(&[], "acme.gladly.com", "gzip", sent_at).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap()["id"], id);
        let blank = String::from_utf8(json).unwrap().replace(&id, NO_ID);
        let hash = Sha256::digest(format!("gzip\n{blank}"));
        assert_eq!(id, hex::encode(hash));

        // Nanoseconds are not in the bytes, nor in the id.
        let same = at("2026-01-02T03:04:05.678999Z");
        assert_eq!(write(&[], "acme.gladly.com", "gzip", same).unwrap().0, id);
        for (organization, encoding, sent_at) in [
            ("acme.gladly.com", "identity", sent_at),
            ("acme.gladly.qa", "gzip", sent_at),
            ("acme.gladly.com", "gzip", at("2026-01-02T03:04:05.679Z")),
        ] {
            assert_ne!(write(&[], organization, encoding, sent_at).unwrap().0, id);
        }
    }
}
