//! One entry of a conversation's timeline, and its text.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::Id;

use crate::client::json::{
    Field, Fields, inner, is_object, is_readable, list, participant, without,
};

/// The status of a closed conversation.
pub(crate) const CLOSED: &str = "CLOSED";

/// The fields of an item's content that hold customers' contact details.
const CONTACT_FIELDS: [&str; 7] =
    ["from", "to", "cc", "bcc", "customerNumber", "customerAddress", "userId"];

/// One entry of a conversation's timeline.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    json: &'a str,
    id: Option<Cow<'a, str>>,
    timestamp: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    author: Author<'a>,
    responder: Field<'a>,
    content: Field<'a>,
}

#[derive(Debug, Serialize)]
struct Author<'a> {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
}

/// An item as it is delivered.
#[derive(Serialize)]
pub(crate) struct DeliveredItem<'a> {
    id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Cow<'a, str>>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'a, str>>,
    author: Author<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    responder: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    content: Cow<'a, RawValue>,
}

impl<'a> Item<'a> {
    /// Reads a list of items, oldest first, without entries that are not objects.
    pub(crate) fn list(json: &'a str) -> Option<Vec<Self>> {
        Some(list(json)?.into_iter().filter_map(|item| Self::read(item.get())).collect())
    }

    pub(crate) fn read(json: &'a str) -> Option<Self> {
        let fields = Fields::read(json)?;
        let initiator = Fields::of(fields.get("initiator"));
        let author = match initiator.text("type").as_deref() {
            Some("CUSTOMER") => "customer",
            Some("AGENT") => "agent",
            Some("API" | "AUTOMATION" | "SYSTEM") => "bot",
            Some("INTERNAL" | "EXTERNAL") => "third-party",
            _ => "unknown",
        };
        Some(Self {
            json,
            id: fields.text("id"),
            timestamp: fields.text("timestamp"),
            kind: Fields::of(fields.get("content")).text("type"),
            author: Author { kind: author, id: initiator.text("id") },
            responder: fields.object("responder"),
            content: fields.get("content").filter(is_object),
        })
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it may have a transcript.
    pub(crate) fn is_call(&self) -> bool {
        matches!(self.kind.as_deref(), Some("PHONE_CALL" | "VOICEMAIL"))
    }

    /// When the conversation was closed, if the item reports that.
    pub(crate) fn closed_at(&self) -> Option<Timestamp> {
        let is_close = self.kind.as_deref() == Some("CONVERSATION_STATUS_CHANGE")
            && Fields::of(self.content).text("status").as_deref() == Some(CLOSED);
        self.timestamp.as_deref().filter(|_| is_close)?.parse().ok()
    }

    pub(crate) fn is_note(&self) -> bool {
        self.kind.as_deref() == Some("CONVERSATION_NOTE")
    }

    /// The item as it is delivered, with the customers' contact details or without.
    pub(crate) fn deliver(
        self,
        transcripts: &HashMap<Id, Arc<str>>,
        contact: bool,
    ) -> DeliveredItem<'a> {
        let (subject, text) = self.subject_and_text(transcripts);
        let content = match self.content.filter(is_readable) {
            Some(raw) if contact => Cow::Borrowed(raw),
            Some(raw) => Cow::Owned(without_contact(raw)),
            None => Cow::Owned(no_content()),
        };
        DeliveredItem {
            // As for an event without an id: the hash of its bytes.
            id: self.id.unwrap_or_else(|| Id::derived(self.json).to_string().into()),
            timestamp: self.timestamp,
            kind: self.kind,
            author: self.author,
            responder: self.responder.and_then(participant),
            subject,
            text,
            content,
        }
    }

    /// Subject and text, from the fields that hold them in an item of this type.
    fn subject_and_text(
        &self,
        transcripts: &HashMap<Id, Arc<str>>,
    ) -> (Option<String>, Option<String>) {
        let content = Fields::of(self.content);
        let owned = |name| content.text(name).map(Cow::into_owned);
        match self.kind.as_deref().unwrap_or_default() {
            "EMAIL" => (owned("subject"), owned("content")),
            "CHAT_MESSAGE" | "SMS" | "FACEBOOK_MESSAGE" | "WHATSAPP" | "INSTAGRAM_DIRECT"
            | "TWITTER" => (None, owned("content")),
            "CONVERSATION_NOTE" | "VOICE_AI_MESSAGE" | "TASK" => (None, owned("body")),
            "CUSTOMER_ACTIVITY" => (owned("title"), owned("body")),
            "PHONE_CALL" | "VOICEMAIL" => {
                let id: Option<Id> = self.id().and_then(|id| id.parse().ok());
                let transcript = id.and_then(|id| transcripts.get(&id).map(ToString::to_string));
                (None, transcript.or_else(|| summary(content.get("recordingSummary"))))
            }
            // Custom channels: both types may have either content.
            "TEXT" | "FILES" => {
                let content = content.get("content");
                (None, inner(content, "text").or_else(|| inner(content, "caption")))
            }
            "TOPIC_CHANGE" | "CONVERSATION_STATUS_CHANGE" => (None, None),
            // An unknown type most likely resembles the others.
            _ => (owned("subject"), owned("content").or_else(|| owned("body"))),
        }
    }
}

/// A call's summary, unless it was redacted or does not exist yet.
fn summary(field: Field<'_>) -> Option<String> {
    let ready = inner(field, "status").is_none_or(|status| status == "READY");
    inner(field, "summary").filter(|_| ready)
}

/// Oldest first, compared as times: as text, "05.1Z" would come after "05.10Z". An item without a
/// readable time stays after its predecessor.
pub(crate) fn sort_by_time(items: &mut [Item<'_>]) {
    let mut latest = Timestamp::MIN;
    items.sort_by_cached_key(|item| {
        let time = item.timestamp.as_deref().and_then(|text| text.parse().ok());
        latest = time.unwrap_or(latest);
        latest
    });
}

/// The content without contact details, at any depth.
fn without_contact(content: &RawValue) -> Box<RawValue> {
    let content = without(content.get(), |_, name, _| CONTACT_FIELDS.contains(&name));
    RawValue::from_string(content).unwrap_or_else(|_| no_content())
}

fn no_content() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

/// A call's transcript, one line per paragraph.
pub(crate) fn transcript_text(transcript: &str) -> Option<String> {
    let paragraphs = Fields::read(transcript)?.list("paragraphs")?;
    let lines = paragraphs
        .into_iter()
        .filter_map(|paragraph| Fields::of(Some(paragraph)).text("transcript"));
    Some(lines.collect::<Vec<_>>().join("\n")).filter(|text| !text.is_empty())
}
