//! What the page shows, collected from where it happens.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use testing::{destination::Destination, gladly::Gladly};

use crate::{
    page::{
        delivered::{Delivered, DeliveredEvent, DeliveryRow},
        extraction::ExtractionState,
        json::text,
        webhook::{Places, WebhookRow, WebhookState, rows},
    },
    stack::{Peeked, Queue, Stack, StackError},
};

/// The newest rows that are shown of each list.
const ROW_LIMIT: usize = 100;

/// Where the page looks.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// What sends the webhooks.
    pub gladly: &'a Gladly,
    /// What the deliveries arrive at.
    pub destination: &'a Destination,
    /// The relay between them.
    pub stack: &'a Stack<'a>,
    /// Commands to try, one a line.
    pub commands: &'a [String],
}

/// Everything that the page shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageState {
    now: Timestamp,
    extraction: ExtractionState,
    /// Whether Gladly sends webhooks.
    webhook_enabled: bool,
    backlog: WaitingEvents,
    quarantined: usize,
    /// Violations of the schema, by deliveries that the destination refused for them.
    violations: usize,
    /// How many webhooks are in which state.
    states: BTreeMap<WebhookState, usize>,
    /// Newest first, as the other lists.
    webhooks: Vec<WebhookRow>,
    delivery_count: usize,
    deliveries: Vec<DeliveryRow>,
    tombstones: Vec<Value>,
    conversations: Vec<ConversationRow>,
    /// The one that is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<OpenConversation>,
    commands: Vec<String>,
}

/// What waits in the events queue.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct WaitingEvents {
    total: usize,
    /// In their settle windows.
    settling: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_received_at: Option<Timestamp>,
}

/// A conversation that has arrived.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConversationRow {
    id: String,
    /// Why a reader no longer shows it. Then nothing else is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    void: Option<String>,
    customer: Value,
    status: Value,
    fetched_at: Value,
}

/// A conversation as a reader sees it, with its events.
#[derive(Debug, Serialize)]
struct OpenConversation {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    void: Option<String>,
    /// As the last delivery had it; null if none had it or a reader no longer shows it.
    snapshot: Value,
    /// Newest first.
    events: Vec<DeliveredEvent>,
}

/// Collects the state, and remembers what it has read of the destination.
pub(super) struct Collector<'a> {
    sources: Sources<'a>,
    delivered: Delivered,
}

impl<'a> Collector<'a> {
    pub(super) fn new(sources: Sources<'a>) -> Self {
        Self { sources, delivered: Delivered::default() }
    }

    /// The state now, with one conversation open.
    ///
    /// The places are read in the direction in which events travel, so that one that moves meanwhile is found twice
    /// rather than not at all.
    pub(super) async fn collect(&mut self, open: Option<&str>) -> Result<PageState, StackError> {
        let Sources { gladly, destination, stack, commands } = self.sources;
        let attempts = gladly.attempts();
        let queue = stack.peek(Queue::Events).await?;
        let quarantine = stack.peek(Queue::Quarantine).await?;
        let now = Timestamp::now();
        let extraction = ExtractionState::read(stack, now).await?;
        self.delivered.extend(destination.deliveries_after(self.delivered.deliveries.len()));
        let shown = destination.conversations();

        let mut webhooks = rows(&Places {
            attempts: &attempts,
            queue: &queue,
            quarantine: &quarantine,
            delivered: &self.delivered,
            extraction: extraction.state,
        });
        let mut states = BTreeMap::new();
        for row in &webhooks {
            *states.entry(row.state()).or_default() += 1;
        }
        webhooks.truncate(ROW_LIMIT);
        let mut tombstones: Vec<_> = self.delivered.tombstones.values().cloned().collect();
        tombstones
            .sort_by_key(|tombstone| Reverse(text(&tombstone["at"]).parse::<Timestamp>().ok()));
        tombstones.truncate(ROW_LIMIT);
        let newest = self.delivered.deliveries.iter().rev().take(ROW_LIMIT);
        Ok(PageState {
            now,
            extraction,
            webhook_enabled: gladly.webhooks().iter().any(|webhook| webhook["enabled"] == true),
            backlog: WaitingEvents::of(&queue),
            quarantined: quarantine.len(),
            violations: destination.invalid().len(),
            states,
            webhooks,
            delivery_count: self.delivered.deliveries.len(),
            deliveries: newest.cloned().collect(),
            tombstones,
            conversations: self.conversations(&shown),
            conversation: open.map(|id| self.open(id, &shown)),
            commands: commands.to_vec(),
        })
    }

    /// Those that have arrived, last fetched first; void ones at the end.
    fn conversations(&self, shown: &BTreeMap<String, Value>) -> Vec<ConversationRow> {
        let mut rows: Vec<_> = self
            .delivered
            .conversations
            .iter()
            .map(|id| {
                let snapshot = shown.get(id).unwrap_or(&Value::Null);
                ConversationRow {
                    id: id.clone(),
                    void: snapshot.is_null().then(|| self.delivered.why_void(id)),
                    customer: snapshot["customer"]["name"].clone(),
                    status: snapshot["status"].clone(),
                    fetched_at: snapshot["fetchedAt"].clone(),
                }
            })
            .collect();
        rows.sort_by_key(|row| Reverse(text(&row.fetched_at).parse::<Timestamp>().ok()));
        rows
    }

    fn open(&self, id: &str, shown: &BTreeMap<String, Value>) -> OpenConversation {
        let snapshot = shown.get(id).cloned().unwrap_or_default();
        let has_arrived = self.delivered.conversations.iter().any(|known| known == id);
        let events = self.delivered.events.values();
        let mut events: Vec<_> =
            events.filter(|held| held.event["conversationId"] == id).cloned().collect();
        events
            .sort_by_key(|held| Reverse(text(&held.event["receivedAt"]).parse::<Timestamp>().ok()));
        events.truncate(ROW_LIMIT);
        OpenConversation {
            id: id.to_owned(),
            void: (has_arrived && snapshot.is_null()).then(|| self.delivered.why_void(id)),
            snapshot,
            events,
        }
    }
}

impl WaitingEvents {
    fn of(queue: &[Peeked]) -> Self {
        let settles =
            |message: &&Peeked| message.receive_count == 0 && !message.hidden_for.is_zero();
        let received_at = |message: &Peeked| {
            let body: Value = serde_json::from_str(&message.body).ok()?;
            text(&body["receivedAt"]).parse().ok()
        };
        Self {
            total: queue.len(),
            settling: queue.iter().filter(settles).count(),
            oldest_received_at: queue.iter().filter_map(received_at).min(),
        }
    }
}
