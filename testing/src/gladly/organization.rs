//! The data of the simulated organisation: plain JSON in public fields, so that a test can create any state.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use fastrand::Rng;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Agents, customers, conversations and events, as Gladly's API shows them.
#[derive(Debug)]
pub struct Organization {
    /// As `GET /agents` lists them.
    pub agents: Vec<Value>,
    /// As `GET /inboxes` lists them.
    pub inboxes: Vec<Value>,
    /// As `GET /topics` lists them, disabled ones included.
    pub topics: Vec<Value>,
    /// Profiles by id.
    pub customers: BTreeMap<String, Value>,
    /// Merged customers: old id to new id.
    pub moved: BTreeMap<String, String>,
    /// Conversations by id.
    pub conversations: BTreeMap<String, Conversation>,
    /// Transcripts by the id of their call or voicemail.
    pub transcripts: BTreeMap<String, Value>,
    /// Ids of items that exist but whose type the API does not support.
    pub unsupported: BTreeSet<String>,
    /// Every event, as the Events API lists it.
    pub events: Vec<Value>,
    pub(super) rng: Rng,
}

/// A conversation and its timeline.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// As `GET /conversations/{id}` returns it.
    pub meta: Value,
    /// Oldest first; past 1,000 only the oldest are listed.
    pub items: Vec<Value>,
}

impl Organization {
    /// An organisation with agents, inboxes and topics, and no customers.
    pub(super) fn new(seed: u64) -> Self {
        let mut organization = Self {
            agents: Vec::new(),
            inboxes: Vec::new(),
            topics: Vec::new(),
            customers: BTreeMap::new(),
            moved: BTreeMap::new(),
            conversations: BTreeMap::new(),
            transcripts: BTreeMap::new(),
            unsupported: BTreeSet::new(),
            events: Vec::new(),
            rng: Rng::with_seed(seed),
        };
        organization.add_agents_inboxes_and_topics();
        organization
    }

    /// An id like Gladly's: 16 bytes in URL-safe base64, which may begin with `-` or `_`.
    pub fn new_id(&mut self) -> String {
        let bytes: [u8; 16] = std::array::from_fn(|_| self.rng.u8(..));
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// A time the way Gladly writes it: with any number of fraction digits.
    pub fn stamp(&mut self, time: Timestamp) -> String {
        let digits = self.rng.usize(..=9);
        format!("{time:.digits$}")
    }

    /// Adds a customer, or changes one: `patch` goes over a plain profile, and a null removes a field.
    pub fn add_customer(&mut self, id: &str, patch: Value) {
        let now = self.stamp(Timestamp::now());
        let profile = json!({
            "id": id,
            "name": "Sample Customer",
            "emails": [{"original": "Sample.Customer@example.com", "normalized": "sample.customer@example.com", "primary": true}],
            "phones": [{"original": "(555) 555-0100", "normalized": "+15555550100", "regionCode": "US", "type": ""}],
            "externalCustomerId": format!("ext-{id}"),
            "customAttributes": {"plan": "standard"},
            "createdAt": now,
            "updatedAt": now,
        });
        merge(self.customers.entry(id.to_owned()).or_insert(profile), patch);
    }

    /// Adds a conversation in the first inbox, and its customer where there is none. For `items` see
    /// [`Organization::add_item`].
    pub fn add_conversation(
        &mut self,
        id: &str,
        customer: &str,
        items: impl IntoIterator<Item = Value>,
    ) {
        if !self.customers.contains_key(customer) && !self.moved.contains_key(customer) {
            self.add_customer(customer, Value::Null);
        }
        let meta = json!({
            "id": id,
            "customerId": customer,
            "createdAt": self.stamp(Timestamp::now()),
            "inboxId": self.inboxes[0]["id"],
            "agentId": self.agents[0]["id"],
            "topicIds": [self.topics[0]["id"]],
            "status": "OPEN",
        });
        let conversation = Conversation { meta, items: Vec::new() };
        self.conversations.insert(id.to_owned(), conversation);
        for item in items {
            self.add_item(id, item);
        }
    }

    /// Changes fields of a conversation; a null removes one. No effect where there is no such conversation.
    pub fn change_conversation(&mut self, id: &str, patch: Value) {
        if let Some(conversation) = self.conversations.get_mut(id) {
            merge(&mut conversation.meta, patch);
        }
    }

    /// Adds an item at the end of a timeline and returns its id. `item` is either a content (`{"type":"SMS",…}`),
    /// from the customer, or a whole item (`{"content":{…},…}`), whose `id`, `customerId`, `conversationId` and
    /// `timestamp` are filled in where they are absent and left out where they are null.
    pub fn add_item(&mut self, conversation: &str, item: Value) -> String {
        let customer = self.conversations.get(conversation).map(|it| it.meta["customerId"].clone());
        let mut whole = json!({
            "id": self.new_id(),
            "customerId": customer,
            "conversationId": conversation,
            "timestamp": self.stamp(Timestamp::now()),
        });
        if item.get("type").is_some() {
            whole["initiator"] = json!({"id": customer, "type": "CUSTOMER"});
            whole["content"] = item;
        } else {
            merge(&mut whole, item);
        }
        let id = text(&whole["id"]).to_owned();
        if let Some(conversation) = self.conversations.get_mut(conversation) {
            conversation.items.push(whole);
        }
        id
    }

    /// Adds short chat messages until the conversation has this many items.
    pub fn fill(&mut self, conversation: &str, items: usize) {
        let present = self.conversations.get(conversation).map_or(items, |it| it.items.len());
        for number in present..items {
            let text = format!("Message {} of {items}", number + 1);
            self.add_item(
                conversation,
                json!({"type": "CHAT_MESSAGE", "sessionId": "s-1", "content": text}),
            );
        }
    }

    /// Gives a call or voicemail a transcript, one paragraph a line, the speakers taking turns.
    pub fn add_transcript(&mut self, item: &str, lines: &[&str]) {
        let paragraphs = lines.iter().enumerate().map(|(at, line)| {
            json!({"transcript": line, "speaker": at % 2, "startTime": at * 7, "endTime": at * 7 + 6})
        });
        let transcript = json!({
            "paragraphs": paragraphs.collect::<Vec<_>>(),
            "numberOfSpeakers": lines.len().min(2),
            "language": "en-US",
            "createdAt": self.stamp(Timestamp::now()),
        });
        self.transcripts.insert(item.to_owned(), transcript);
    }

    /// Merges a customer into another: from now on the old profile answers 301. Their conversations keep the
    /// old id, as at Gladly until the merge is complete.
    pub fn merge_customer(&mut self, old: &str, new: &str) {
        self.customers.remove(old);
        self.moved.insert(old.to_owned(), new.to_owned());
    }

    /// Deletes a customer and all their conversations permanently.
    pub fn delete_customer(&mut self, id: &str) {
        self.customers.remove(id);
        self.conversations.retain(|_, conversation| conversation.meta["customerId"] != id);
    }

    /// Merges a conversation into another: its items are the other's from now on.
    pub(super) fn merge_conversation(&mut self, from: &str, into: &str) {
        if let Some(merged) = self.conversations.remove(from) {
            let Some(remains) = self.conversations.get_mut(into) else { return };
            remains.items.extend(merged.items);
            remains.items.sort_by_key(|item| text(&item["timestamp"]).parse::<Timestamp>().ok());
        }
    }

    /// Deletes a conversation permanently.
    pub fn delete_conversation(&mut self, id: &str) {
        self.conversations.remove(id);
    }

    /// The timeline of a conversation; empty where there is no such conversation.
    #[must_use]
    pub fn items(&self, conversation: &str) -> &[Value] {
        self.conversations.get(conversation).map(|it| it.items.as_slice()).unwrap_or_default()
    }

    pub(super) fn item(&self, id: &str) -> Option<&Value> {
        let mut items = self.conversations.values().flat_map(|conversation| &conversation.items);
        items.find(|item| item["id"] == id)
    }
}

/// Puts the fields of `patch` over those of `target`; a null removes a field.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return;
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            target.insert(name, value);
        }
    }
}

/// The text of a JSON string, or nothing.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// An object without the fields that are null.
pub(super) fn without_nulls(value: Value) -> Value {
    let mut object = Value::Object(Map::new());
    merge(&mut object, value);
    object
}
