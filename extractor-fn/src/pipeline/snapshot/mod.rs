//! A conversation as it is delivered, built from Gladly's responses. Nothing here does I/O, and no
//! malformed item, field or type fails a conversation.

pub(crate) mod customer;
pub(crate) mod item;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use shared::{Id, serialize_rfc3339_millis};

use crate::{
    client::json::{Field, Fields, is_readable, text},
    pipeline::{
        cache::names::Names,
        snapshot::item::{CLOSED, DeliveredItem, Item, sort_by_time},
    },
};

/// The conversation itself, without its items.
#[derive(Debug)]
pub(crate) struct Conversation<'a>(Fields<'a>);

impl<'a> Conversation<'a> {
    pub(crate) fn read(json: &'a str) -> Option<Self> {
        Fields::read(json).map(Self)
    }

    pub(crate) fn customer_id(&self) -> Option<Id> {
        self.0.text("customerId")?.parse().ok()
    }

    pub(crate) fn inbox_id(&self) -> Option<Cow<'a, str>> {
        self.0.text("inboxId")
    }

    pub(crate) fn agent_id(&self) -> Option<Cow<'a, str>> {
        self.0.text("agentId")
    }

    /// Whether it is closed, or Gladly does not say.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.text("status").is_none_or(|status| status == CLOSED)
    }

    /// The texts of a list. `None` if there is no list.
    pub(crate) fn topic_ids(&self) -> Option<Vec<Cow<'a, str>>> {
        Some(self.0.list("topicIds")?.into_iter().filter_map(text).collect())
    }
}

/// Everything that a snapshot is built from.
pub(crate) struct SnapshotInput<'a> {
    pub(crate) id: &'a Id,
    pub(crate) fetched_at: Timestamp,
    /// Whose conversation it is, after merges; also if Gladly no longer has them.
    pub(crate) customer_id: Option<&'a Id>,
    pub(crate) conversation: &'a Conversation<'a>,
    pub(crate) items: Vec<Item<'a>>,
    pub(crate) truncated: bool,
    pub(crate) transcripts: &'a HashMap<Id, Arc<str>>,
    pub(crate) customer: Option<&'a RawValue>,
    pub(crate) agents: &'a Names,
    pub(crate) topics: &'a Names,
    pub(crate) inboxes: &'a Names,
    /// Whether items may contain customers' contact details.
    pub(crate) contact: bool,
    /// Whether internal notes are included.
    pub(crate) notes: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Snapshot<'a> {
    id: &'a Id,
    #[serde(serialize_with = "serialize_rfc3339_millis")]
    fetched_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer_id: Option<&'a Id>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed_at: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    inbox: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<Named<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<Named<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    custom_attributes: Field<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<&'a RawValue>,
    items: Vec<DeliveredItem<'a>>,
    truncated: bool,
}

#[derive(Serialize)]
struct Named<'a> {
    id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// Of a topic that is under another one.
    #[serde(rename = "parentId", skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'a str>,
}

/// The finished snapshot, as JSON.
pub(crate) fn build(from: SnapshotInput<'_>) -> serde_json::Result<Box<RawValue>> {
    let conversation = from.conversation;
    let topics = conversation
        .topic_ids()
        .map(|ids| ids.into_iter().map(|id| Named::topic(id, from.topics)).collect());
    let mut items = from.items;
    items.retain(|item| from.notes || !item.is_note());
    sort_by_time(&mut items);
    to_raw_value(&Snapshot {
        id: from.id,
        fetched_at: from.fetched_at,
        customer_id: from.customer_id,
        status: conversation.0.text("status"),
        created_at: conversation.0.text("createdAt"),
        closed_at: conversation.0.text("closedAt"),
        inbox: conversation.inbox_id().map(|id| Named::new(id, from.inboxes)),
        agent: conversation.agent_id().map(|id| Named::new(id, from.agents)),
        topics,
        custom_attributes: conversation
            .0
            .get("customAttributes")
            .filter(|raw| raw.get().starts_with('['))
            .filter(is_readable),
        customer: from.customer,
        items: items.into_iter().map(|item| item.deliver(from.transcripts, from.contact)).collect(),
        truncated: from.truncated,
    })
}

impl<'a> Named<'a> {
    fn new(id: Cow<'a, str>, names: &'a Names) -> Self {
        let name = names.get(&id).and_then(|label| label.name.as_deref());
        Self { id, name, parent_id: None }
    }

    fn topic(id: Cow<'a, str>, topics: &'a Names) -> Self {
        let parent_id = topics.get(&id).and_then(|label| label.parent_id.as_deref());
        Self { parent_id, ..Self::new(id, topics) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn snapshot(conversation: &str, items: &str, contact: bool, notes: bool) -> Value {
        let id: Id = "c-1".parse().unwrap();
        let call: Id = "call".parse().unwrap();
        let names = Names::read(r#"[{"id":"a","name":"Ada"}]"#).unwrap();
        let built = build(SnapshotInput {
            id: &id,
            fetched_at: "2026-01-02T03:04:05.678912Z".parse().unwrap(),
            customer_id: None,
            conversation: &Conversation::read(conversation).unwrap(),
            items: Item::list(items).unwrap(),
            truncated: false,
            transcripts: &HashMap::from([(call, "hello".into())]),
            customer: None,
            agents: &names,
            topics: &names,
            inboxes: &names,
            contact,
            notes,
        });
        serde_json::from_str(built.unwrap().get()).unwrap()
    }

    /// Subject and text of an item with this content.
    fn subject_and_text(content: &Value) -> (Option<String>, Option<String>) {
        let items = json!([{"id": "call", "content": content}]).to_string();
        let item = snapshot("{}", &items, true, true)["items"][0].take();
        let word = |name: &str| item.get(name).map(|word| word.as_str().unwrap().to_owned());
        (word("subject"), word("text"))
    }

    #[test]
    fn text_comes_from_the_field_of_the_items_type() {
        let plain = |kind: &str| json!({"type": kind, "content": "t", "body": "b"});
        for kind in
            ["CHAT_MESSAGE", "SMS", "FACEBOOK_MESSAGE", "WHATSAPP", "INSTAGRAM_DIRECT", "TWITTER"]
        {
            assert_eq!(subject_and_text(&plain(kind)), (None, Some("t".into())), "{kind}");
        }
        for kind in ["CONVERSATION_NOTE", "VOICE_AI_MESSAGE", "TASK"] {
            assert_eq!(subject_and_text(&plain(kind)), (None, Some("b".into())), "{kind}");
        }
        let cases = [
            (json!({"type": "EMAIL", "subject": "s", "content": "t"}), (Some("s"), Some("t"))),
            (json!({"type": "EMAIL", "content": "t"}), (None, Some("t"))),
            (
                json!({"type": "CUSTOMER_ACTIVITY", "title": "s", "body": "t"}),
                (Some("s"), Some("t")),
            ),
            (
                json!({"type": "TEXT", "content": {"text": "t"}, "status": {"value": "x"}}),
                (None, Some("t")),
            ),
            (json!({"type": "FILES", "content": {"caption": "t", "files": []}}), (None, Some("t"))),
            (json!({"type": "TEXT", "content": {"caption": "t", "files": []}}), (None, Some("t"))),
            (json!({"type": "FILES", "content": {"text": "t"}}), (None, Some("t"))),
            (json!({"type": "FILES", "content": {"text": null, "caption": 7}}), (None, None)),
            (
                json!({"type": "PHONE_CALL", "recordingSummary": {"status": "READY", "summary": "x"}}),
                (None, Some("hello")),
            ),
            (json!({"type": "TOPIC_CHANGE", "addedTopicIds": ["t"]}), (None, None)),
            (json!({"type": "CONVERSATION_STATUS_CHANGE", "status": "OPEN"}), (None, None)),
            (json!({"type": "HOLOGRAM", "content": "t"}), (None, Some("t"))),
            (json!({"type": "HOLOGRAM", "body": "t"}), (None, Some("t"))),
            (json!({"type": "HOLOGRAM", "content": {"x": 1}}), (None, None)),
            (json!({"type": "SMS", "content": 7}), (None, None)),
            (json!({"type": "SMS", "content": ""}), (None, None)),
            (json!({"type": 7, "content": "t"}), (None, Some("t"))),
            (json!({}), (None, None)),
        ];
        for (content, (subject, text)) in cases {
            let expected = (subject.map(str::to_owned), text.map(str::to_owned));
            assert_eq!(subject_and_text(&content), expected, "{content}");
        }
    }

    #[test]
    fn only_the_customer_is_the_customer() {
        let kind = |initiator: Value| {
            let items = json!([{"initiator": initiator, "content": {}}]).to_string();
            snapshot("{}", &items, true, true)["items"][0]["author"]["kind"].clone()
        };
        for (given, expected) in [
            ("CUSTOMER", "customer"),
            ("AGENT", "agent"),
            ("API", "bot"),
            ("AUTOMATION", "bot"),
            ("SYSTEM", "bot"),
            ("INTERNAL", "third-party"),
            ("EXTERNAL", "third-party"),
            ("ROBOT", "unknown"),
        ] {
            assert_eq!(kind(json!({"type": given, "id": "x"})), expected, "{given}");
        }
        for malformed in [json!(null), json!("CUSTOMER"), json!({}), json!({"type": 7})] {
            assert_eq!(kind(malformed), "unknown");
        }
    }

    #[test]
    fn items_are_sorted_by_time_and_not_by_text() {
        let at = |id: &str, time: &str| json!({"id": id, "timestamp": time});
        let items = json!([
            at("d", "2026-01-01T00:00:05.10Z"),
            at("b", "2026-01-01T00:00:05.1Z"),
            at("untimed", "soon"),
            at("a", "2026-01-01T01:00:05.099+01:00"),
            at("e", "2026-01-01T00:00:05.123456789Z"),
        ]);
        let items = snapshot("{}", &items.to_string(), true, true)["items"].take();
        let ids: Vec<_> = items.as_array().unwrap().iter().map(|item| item["id"].clone()).collect();
        assert_eq!(ids, ["a", "d", "b", "untimed", "e"]);
    }

    #[test]
    fn content_is_unchanged_and_absent_fields_are_left_out() {
        let items = r#"[{"id":"i","content":{"type":"X","z":1.10,"a":12345678901234567890123,"n":null}}, 7, null, "x"]"#;
        let conversation = r#"{"id":"other","status":"OPEN","agentId":"","inboxId":"a","topicIds":["a","b"],
                               "closedAt":null,"customAttributes":[{"id":"k","value":1},{"id":"k","value":2}],"new":1}"#;
        let conversation = Conversation::read(conversation).unwrap();
        let names = Names::read(r#"[{"id":"a","name":"Ada","parentId":"p"}]"#).unwrap();
        let built = build(SnapshotInput {
            id: &"c-1".parse().unwrap(),
            fetched_at: "2026-01-02T03:04:05.678912Z".parse().unwrap(),
            customer_id: None,
            conversation: &conversation,
            items: Item::list(items).unwrap(),
            truncated: true,
            transcripts: &HashMap::new(),
            customer: None,
            agents: &names,
            topics: &names,
            inboxes: &names,
            contact: true,
            notes: true,
        });
        assert_eq!(
            built.unwrap().get(),
            concat!(
                r#"{"id":"c-1","fetchedAt":"2026-01-02T03:04:05.678Z","status":"OPEN","#,
                r#""inbox":{"id":"a","name":"Ada"},"topics":[{"id":"a","name":"Ada","parentId":"p"},{"id":"b"}],"#,
                r#""customAttributes":[{"id":"k","value":1},{"id":"k","value":2}],"#,
                r#""items":[{"id":"i","type":"X","author":{"kind":"unknown"},"#,
                r#""content":{"type":"X","z":1.10,"a":12345678901234567890123,"n":null}}],"truncated":true}"#
            )
        );
    }

    /// JSON of any shape, with the names that the builder looks for.
    fn any_json() -> impl Strategy<Value = Value> {
        let names = prop::sample::select(vec![
            "id",
            "type",
            "content",
            "body",
            "subject",
            "title",
            "text",
            "timestamp",
            "initiator",
            "from",
            "recordingSummary",
            "summary",
            "status",
            "topicIds",
            "agentId",
            "customAttributes",
            "x",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            prop::sample::select(vec!["EMAIL", "TEXT", "PHONE_CALL", "CUSTOMER"])
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(names.clone().prop_map(String::from), inner, 0..6)
                    .prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_snapshot_can_be_built_from_any_json(
            conversation in prop::collection::btree_map("id|status|topicIds|agentId|customAttributes", any_json(), 0..5),
            items in prop::collection::vec(any_json(), 0..6),
            contact in any::<bool>(),
        ) {
            let conversation = Value::from_iter(conversation).to_string();
            let objects = items.iter().filter(|item| item.is_object()).count();
            let built = snapshot(&conversation, &Value::from(items).to_string(), contact, true);
            prop_assert_eq!(built["items"].as_array().unwrap().len(), objects);
            prop_assert!(contact || !built["items"].to_string().contains("\"from\":"));
        }
    }
}
