//! What a receiver shows, and how it differs from what it must show.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::commands::conformance::delivery::{Delivery, Scope};

/// What the receiver holds under one prefix.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The snapshots by conversation id, in the order in which they are listed.
    pub(super) conversations: BTreeMap<String, Vec<Snapshot>>,
    /// How often each event is listed, by id.
    pub(super) events: BTreeMap<String, usize>,
}

/// A snapshot, as far as it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) fetched_at: Timestamp,
    pub(super) texts: Vec<String>,
}

/// The read interface, as docs/DELIVERY.md defines it.
#[derive(Deserialize)]
struct Document {
    conversations: Vec<DeliveredConversation>,
    events: Vec<DeliveredEvent>,
}

/// A snapshot as it was delivered.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeliveredConversation {
    id: String,
    fetched_at: Timestamp,
    items: Vec<DeliveredItem>,
}

#[derive(Deserialize)]
struct DeliveredItem {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct DeliveredEvent {
    id: String,
}

impl DeliveredConversation {
    fn into_entry(self) -> (String, Snapshot) {
        let texts = self.items.into_iter().map(|item| item.text).collect();
        (self.id, Snapshot { fetched_at: self.fetched_at, texts })
    }
}

impl State {
    /// Reads what the read interface answers, as far as the ids begin with the prefix.
    pub(super) fn read(json: &[u8], prefix: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(json)
            .map_err(|err| format!("expected the state as docs/DELIVERY.md defines it: {err}"))?;
        let mut state = Self::default();
        let conversations =
            document.conversations.into_iter().map(DeliveredConversation::into_entry);
        for (id, snapshot) in conversations.filter(|(id, _)| id.starts_with(prefix)) {
            state.conversations.entry(id).or_default().push(snapshot);
        }
        for event in document.events.into_iter().filter(|event| event.id.starts_with(prefix)) {
            *state.events.entry(event.id).or_default() += 1;
        }
        Ok(state)
    }
}

/// What a receiver must show.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) shown: BTreeMap<String, Snapshot>,
    events: BTreeSet<String>,
}

impl Expected {
    /// These snapshots, and each event of the deliveries once.
    pub(super) fn of(deliveries: &[Delivery], shown: &[Value]) -> Self {
        let shown = shown.iter().filter_map(|snapshot| {
            serde_json::from_value::<DeliveredConversation>(snapshot.clone()).ok()
        });
        let events = deliveries.iter().filter_map(|delivery| delivery.json["events"].as_array());
        let ids = events.flatten().filter_map(|event| event["id"].as_str());
        Self {
            shown: shown.map(DeliveredConversation::into_entry).collect(),
            events: ids.map(str::to_owned).collect(),
        }
    }
}

/// The first difference between what a receiver must show and what it does.
pub(super) fn compare(scope: &Scope, expected: &Expected, state: &State) -> Result<(), String> {
    let ids: BTreeSet<_> = expected.shown.keys().chain(state.conversations.keys()).collect();
    for id in ids {
        let name = scope.name(id);
        let got = state.conversations.get(id).map(Vec::as_slice).unwrap_or_default();
        match (expected.shown.get(id), got) {
            (Some(expected), [got]) if expected == got => {}
            (Some(expected), [got]) if expected.fetched_at == got.fetched_at => {
                let count = |snapshot: &Snapshot| snapshot.texts.len();
                return Err(format!(
                    "expected conversation {name} with {} items as delivered, got {} that differ",
                    count(expected),
                    count(got)
                ));
            }
            (Some(expected), [got]) => {
                return Err(format!(
                    "expected conversation {name} fetched at {}, got {}",
                    expected.fetched_at, got.fetched_at
                ));
            }
            (Some(expected), []) => {
                return Err(format!(
                    "expected conversation {name} fetched at {}, got none",
                    expected.fetched_at
                ));
            }
            (Some(_), more) => {
                return Err(format!("expected conversation {name} once, got {}", more.len()));
            }
            (None, [got, ..]) => {
                return Err(format!(
                    "expected no conversation {name}, got it fetched at {}",
                    got.fetched_at
                ));
            }
            (None, []) => {}
        }
    }
    let ids: BTreeSet<_> = expected.events.iter().chain(state.events.keys()).collect();
    for id in ids {
        let (wanted, got) = (usize::from(expected.events.contains(id)), state.events.get(id));
        if got.copied().unwrap_or_default() != wanted {
            return Err(format!(
                "expected event {} {wanted} times, got {}",
                scope.name(id),
                got.copied().unwrap_or_default()
            ));
        }
    }
    Ok(())
}
