//! What has arrived at the destination, by event and by conversation.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use testing::destination::Delivery;

use crate::page::json::{list, text};

/// Everything that has arrived, read delivery by delivery.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// Oldest first.
    pub(super) deliveries: Vec<DeliveryRow>,
    /// By event id.
    pub(super) events: BTreeMap<String, DeliveredEvent>,
    /// By event id and kind.
    pub(super) tombstones: BTreeMap<(String, String), Value>,
    /// The conversations of which a snapshot came, whether or not a reader still shows it.
    pub(super) conversations: Vec<String>,
}

/// One delivery.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeliveryRow {
    id: String,
    sent_at: Value,
    events: usize,
    conversations: usize,
    tombstones: usize,
    /// Before compression, and on the wire.
    bytes: usize,
    wire_bytes: usize,
}

/// An event that has arrived.
#[derive(Debug, Clone, Serialize)]
pub(super) struct DeliveredEvent {
    /// As it last came.
    pub(super) event: Value,
    /// The delivery in which it first came.
    pub(super) delivery: String,
    /// In how many deliveries it came.
    pub(super) times: usize,
}

impl Delivered {
    /// Adds deliveries that came after all earlier ones.
    pub(super) fn extend(&mut self, deliveries: Vec<Delivery>) {
        for Delivery { body, bytes, wire_bytes, .. } in deliveries {
            let id = text(&body["id"]);
            for event in list(&body["events"]) {
                let entry = self.events.entry(text(&event["id"]));
                let held = entry.or_insert_with(|| DeliveredEvent {
                    event: Value::Null,
                    delivery: id.clone(),
                    times: 0,
                });
                held.event = event.clone();
                held.times += 1;
            }
            for tombstone in list(&body["tombstones"]) {
                let key = (text(&tombstone["eventId"]), text(&tombstone["kind"]));
                self.tombstones.insert(key, tombstone.clone());
            }
            for conversation in list(&body["conversations"]) {
                let id = text(&conversation["id"]);
                if !self.conversations.contains(&id) {
                    self.conversations.push(id);
                }
            }
            self.deliveries.push(DeliveryRow {
                id,
                sent_at: body["sentAt"].clone(),
                events: list(&body["events"]).count(),
                conversations: list(&body["conversations"]).count(),
                tombstones: list(&body["tombstones"]).count(),
                bytes,
                wire_bytes,
            });
        }
    }

    /// The kinds of the tombstones that an event became.
    pub(super) fn tombstone_kinds(&self, event: &str) -> Vec<&str> {
        let ids = self.tombstones.keys().filter(|(id, _)| id == event);
        ids.map(|(_, kind)| kind.as_str()).collect()
    }

    /// Why a reader no longer shows a conversation that has arrived.
    pub(super) fn why_void(&self, conversation: &str) -> String {
        let merged = self.tombstones.values().find(|tombstone| {
            tombstone["kind"] == "conversation-merged" && tombstone["from"] == conversation
        });
        match merged {
            Some(tombstone) => format!("merged into {}", text(&tombstone["into"])),
            None => "its customer was deleted".to_owned(),
        }
    }
}
