//! Events: their JSON, what they change, and the Events API that lists them.

use std::io;

use axum::{
    body::Body,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Shared,
    organization::{Organization, text, without_nulls},
    rest::bare_error,
};
use crate::server::lock;

/// The types of events about conversations that the relay subscribes to.
pub const EVENT_TYPES: [&str; 10] = [
    "CONVERSATION/CREATED",
    "CONVERSATION/CLOSED",
    "CONVERSATION/NOTE_CREATED",
    "CONVERSATION/TOPIC_ADDED",
    "CONVERSATION/TOPIC_REMOVED",
    "CONVERSATION_ASSIGNEE/UPDATED",
    "CONVERSATION_STATUS/UPDATED",
    "CONTACT/MESSAGE_RECEIVED",
    "CONTACT/MESSAGE_SENT",
    "MESSAGE/RECEIVED",
];

/// The types of events about customers that the relay subscribes to.
pub const ERASURE_TYPES: [&str; 2] = [DELETED, MERGED];
const DELETED: &str = "CUSTOMER_PROFILE/DELETED";
const MERGED: &str = "CUSTOMER/MERGED";

const ENTITIES: [&str; 8] = [
    "AGENT_AVAILABILITY",
    "AGENT_STATUS",
    "CONTACT",
    "CONVERSATION",
    "CUSTOMER",
    "CUSTOMER_PROFILE",
    "PAYMENT_REQUEST",
    "TASK",
];

/// Item types that count as a message, and the name of their channel in events.
const CHANNELS: [(&str, &str); 7] = [
    ("CHAT_MESSAGE", "CHAT"),
    ("EMAIL", "EMAIL"),
    ("FACEBOOK_MESSAGE", "FB_MESSENGER"),
    ("INSTAGRAM_DIRECT", "INSTAGRAM_DIRECT"),
    ("SMS", "SMS"),
    ("VOICEMAIL", "VOICEMAIL"),
    ("WHATSAPP", "WHATSAPP"),
];

impl Organization {
    /// The JSON of an event that happens now, neither sent nor listed. One about a message or a note names the last
    /// one there is and adds one where the conversation has none, and a close closes it; apart from that nothing changes.
    /// Works for conversations that do not exist too, and for `PING`.
    pub fn event(&mut self, kind: &str, conversation: &str) -> Value {
        let now = self.stamp(Timestamp::now());
        let mut event = json!({"id": self.new_id(), "type": kind, "timestamp": now, "content": {}});
        if kind == "PING" {
            return event;
        }
        let meta =
            self.conversations.get(conversation).map(|it| it.meta.clone()).unwrap_or_default();
        let customer = meta.get("customerId").cloned().unwrap_or_else(|| self.new_id().into());
        let by_customer = json!({"id": customer, "type": "CUSTOMER"});
        let by_agent = match &meta["agentId"] {
            Value::Null => json!({"id": "", "type": "AUTOMATION"}),
            agent => json!({"id": agent, "type": "AGENT"}),
        };
        let ids = json!({"customerId": customer, "conversationId": conversation});
        let unassigned = if self.rng.bool() { json!("") } else { Value::Null };
        let assignee = without_nulls(json!({
            "inboxId": meta.get("inboxId").unwrap_or(&self.inboxes[0]["id"]),
            "agentId": meta.get("agentId").unwrap_or(&unassigned),
        }));
        let context = json!({"context": {"assignee": assignee}});
        let (initiator, more) = match kind {
            "CONVERSATION_STATUS/UPDATED" => (Value::Null, vec![]),
            "MESSAGE/RECEIVED" => {
                let (item, _) = self.message(conversation, true);
                (Value::Null, vec![json!({"conversationItemId": item})])
            }
            "CONVERSATION/NOTE_CREATED" => {
                (by_agent, vec![json!({"noteId": self.note(conversation)})])
            }
            "CONTACT/MESSAGE_RECEIVED" | "CONTACT/MESSAGE_SENT" => {
                let inbound = kind == "CONTACT/MESSAGE_RECEIVED";
                let (item, channel) = self.message(conversation, inbound);
                let contact =
                    json!({"channel": channel, "contactId": self.new_id(), "messageId": item});
                (if inbound { by_customer } else { by_agent }, vec![contact, context])
            }
            "CONVERSATION/TOPIC_ADDED" | "CONVERSATION/TOPIC_REMOVED" => {
                let present = meta["topicIds"].as_array().cloned().unwrap_or_default();
                let wanted = kind == "CONVERSATION/TOPIC_REMOVED";
                let topics = self.topics.iter().map(|topic| &topic["id"]);
                let topic = topics
                    .clone()
                    .find(|id| present.contains(id) == wanted)
                    .or(topics.clone().next());
                (by_agent, vec![json!({"topicId": topic}), context])
            }
            "CONVERSATION_ASSIGNEE/UPDATED" => {
                let agent = self.rng.choice(&self.agents).map(|agent| agent["id"].clone());
                let inbox = self.rng.choice(&self.inboxes).map(|inbox| inbox["id"].clone());
                let new =
                    json!({"reason": "MANUAL", "assignee": {"inboxId": inbox, "agentId": agent}});
                (by_agent, vec![new, context])
            }
            "CONVERSATION/CREATED" => (by_customer, vec![context]),
            "CONVERSATION/CLOSED" => {
                let closed = json!({"status": "CLOSED", "closedAt": event["timestamp"]});
                self.change_conversation(conversation, closed);
                (by_agent, vec![context])
            }
            _ => (by_agent, vec![context]),
        };
        if !initiator.is_null() {
            event["initiator"] = initiator;
        }
        for part in std::iter::once(ids).chain(more) {
            if let (Some(content), Value::Object(part)) = (event["content"].as_object_mut(), part) {
                content.extend(part);
            }
        }
        event
    }

    /// The JSON of the event that a customer was deleted just now; emitting it deletes them.
    pub fn deletion(&mut self, customer: &str) -> Value {
        let now = self.stamp(Timestamp::now());
        json!({"id": self.new_id(), "type": DELETED, "timestamp": now, "content": {"customerId": customer}})
    }

    /// The JSON of the event that a customer was merged into another one just now, and their open conversation
    /// into the other one's if both have one; emitting it merges them.
    pub fn merge(&mut self, from: &str, into: &str) -> Value {
        let open = |customer: &str| {
            let is_open = |it: &&Value| it["customerId"] == customer && it["status"] != "CLOSED";
            let mut metas = self.conversations.values().map(|conversation| &conversation.meta);
            metas.find(is_open).map(|meta| text(&meta["id"]).to_owned())
        };
        let (source, destination) = open(from).zip(open(into)).unzip();
        let now = self.stamp(Timestamp::now());
        json!({
            "id": self.new_id(), "type": MERGED, "timestamp": now,
            "initiator": {"id": self.agents[0]["id"], "type": "AGENT"},
            "content": {
                "sourceCustomerId": from, "destinationCustomerId": into,
                // Empty where there is none, as in Gladly's own examples.
                "sourceConversationId": source.unwrap_or_default(),
                "destinationConversationId": destination.unwrap_or_default(),
            },
        })
    }

    /// Lists an event and applies its change.
    pub(super) fn apply(&mut self, event: Value) {
        let content = &event["content"];
        let named = |name: &str| text(&content[name]).to_owned();
        match text(&event["type"]) {
            DELETED => self.delete_customer(&named("customerId")),
            MERGED => {
                let (from, into) =
                    (named("sourceConversationId"), named("destinationConversationId"));
                self.merge_conversation(&from, &into);
                self.merge_customer(&named("sourceCustomerId"), &named("destinationCustomerId"));
            }
            _ => {}
        }
        let id = text(&content["conversationId"]).to_owned();
        let topics = self.conversations.get(&id).map(|it| it.meta["topicIds"].clone());
        let mut topics = topics.and_then(|topics| topics.as_array().cloned()).unwrap_or_default();
        let patch = match text(&event["type"]) {
            "CONVERSATION/TOPIC_ADDED" | "CONVERSATION/TOPIC_REMOVED" => {
                topics.retain(|topic| *topic != content["topicId"]);
                if event["type"] == "CONVERSATION/TOPIC_ADDED" {
                    topics.push(content["topicId"].clone());
                }
                json!({"topicIds": if topics.is_empty() { Value::Null } else { topics.into() }})
            }
            "CONVERSATION_ASSIGNEE/UPDATED" => content["assignee"].clone(),
            _ => Value::Null,
        };
        self.change_conversation(&id, patch);
        self.events.push(event);
    }

    /// The last message in or out, and its channel.
    fn message(&mut self, conversation: &str, inbound: bool) -> (String, &'static str) {
        let channel = |item: &Value| {
            let by = item["initiator"]["type"].as_str()?;
            let kind = text(&item["content"]["type"]);
            let (_, channel) = CHANNELS.iter().find(|(of, _)| *of == kind)?;
            ((by == "CUSTOMER") == inbound).then(|| (text(&item["id"]).to_owned(), *channel))
        };
        if let Some(found) = self.items(conversation).iter().rev().find_map(channel) {
            return found;
        }
        let (by, text) = if inbound {
            ("CUSTOMER", "One more thing about my order…")
        } else {
            ("AGENT", "Is there anything else I can do for you?")
        };
        let chat = json!({"type": "CHAT_MESSAGE", "sessionId": "chat-9", "content": text});
        let item = json!({"initiator": {"id": "", "type": by}, "content": chat});
        (self.add_item(conversation, item), "CHAT")
    }

    /// The last note.
    fn note(&mut self, conversation: &str) -> String {
        let mut items = self.items(conversation).iter().rev();
        let note = items.find(|item| item["content"]["type"] == "CONVERSATION_NOTE");
        if let Some(note) = note {
            return text(&note["id"]).to_owned();
        }
        let content =
            json!({"type": "CONVERSATION_NOTE", "body": "Customer will call back on Friday."});
        let by = json!({"id": self.agents[0]["id"], "type": "AGENT"});
        self.add_item(conversation, json!({"initiator": by, "content": content}))
    }
}

/// `GET /events`: the events recorded in a range of the last 24 hours, oldest first, one per line.
pub(super) async fn list(
    State(shared): State<super::State>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let Shared { options, organization, .. } = &*shared;
    let now = Timestamp::now();
    let time = |name: &str| {
        query.iter().find(|(key, _)| key == name).map(|(_, value)| value.parse::<Timestamp>())
    };
    let entities: Vec<_> = query
        .iter()
        .filter(|(key, _)| key == "entities")
        .map(|(_, value)| value.as_str())
        .collect();
    let (Some(Ok(from)), Ok(to)) = (time("startAt"), time("endAt").unwrap_or(Ok(now))) else {
        return bare_error("startAt", "invalid", "startAt and endAt must be ISO 8601 times");
    };
    // Some tolerance, since the request took time.
    if from < now - SignedDuration::from_mins(24 * 60 + 1) || to < from {
        return bare_error(
            "startAt",
            "invalid",
            "startAt must be within the last 24 hours and before endAt",
        );
    }
    if entities.is_empty() || entities.iter().any(|entity| !ENTITIES.contains(entity)) {
        return bare_error("entities", "invalid", "entities must name at least one entity");
    }
    let to = to.min(now - options.events_lag);
    let mut found = Vec::new();
    for event in &lock(organization).events {
        let recorded = text(&event["timestamp"]).parse::<Timestamp>();
        let wanted = entity(text(&event["type"])).is_some_and(|entity| entities.contains(&entity));
        if let Ok(recorded) = recorded.as_ref()
            && wanted
            && (from..=to).contains(recorded)
        {
            found.push((*recorded, format!("{event}\n")));
        }
    }
    found.sort();
    let lines = stream::iter(found.into_iter().map(|(_, line)| Ok::<_, io::Error>(line)));
    let kind = [(header::CONTENT_TYPE, "application/x-jsonlines")];
    (StatusCode::OK, kind, Body::from_stream(lines)).into_response()
}

/// Which entity an event is listed under; some types that webhooks carry are not listed at all.
fn entity(kind: &str) -> Option<&str> {
    match kind.split_once('/')? {
        ("CONVERSATION_STATUS" | "MESSAGE" | "EXPORT_JOB", _) => None,
        ("CONVERSATION_ASSIGNEE", _) => Some("CONVERSATION"),
        (entity, _) => Some(entity),
    }
}
