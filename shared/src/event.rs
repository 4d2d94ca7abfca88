//! Gladly's webhook event, read only as far as the relay's handling depends on it.

use std::{borrow::Cow, fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::{
    QuarantineReason,
    event_types::{CUSTOMER_DELETED, CUSTOMERS_MERGED},
};

/// Deeper nesting than any webhook has. Many JSON parsers, the destination's perhaps among them,
/// stop at 128 levels, and a delivery wraps an event in a few more.
const DEPTH_LIMIT: usize = 100;

/// A text without the byte order mark that some editors and programs write at its start. RFC 8259
/// lets a reader ignore it; serde does not.
#[must_use]
pub fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Whether JSON is nested so deeply that many parsers would reject a document that contains it.
#[must_use]
pub fn exceeds_max_depth(json: &str) -> bool {
    depth(json) > DEPTH_LIMIT
}

/// An id that is safe in a URL: 1 to 64 characters of `A-Z a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Id(String);

/// A text that is not an [`Id`]. The error does not repeat the text, which is untrusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to 64 characters of A-Z a-z 0-9 _ -")]
pub struct InvalidId;

impl Id {
    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of an event without one: the hash of its bytes, so that a repeat of the same event has
    /// the same id.
    #[must_use]
    pub fn derived(event: &str) -> Self {
        Self(BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(event)))
    }
}

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId)
        }
    }
}

impl TryFrom<String> for Id {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What Gladly sent.
#[derive(Debug)]
pub enum WebhookEvent<'a> {
    /// Gladly tests the endpoint. Only its `type` can be relied on.
    Ping,
    /// Something happened at Gladly.
    Event(Event<'a>),
}

/// An event, borrowed from the text it was read from.
#[derive(Debug)]
pub struct Event<'a> {
    /// `NOUN/VERB`; an open list.
    pub event_type: Cow<'a, str>,
    /// Gladly's id of the event, if it has one.
    pub id: Option<Id>,
    /// What it is about; `None` if that is nothing that the relay forwards.
    pub subject: Option<Subject>,
    /// `content`, an object.
    pub content: Option<&'a RawValue>,
    /// `timestamp`, of any type.
    pub timestamp: Option<&'a RawValue>,
    /// `initiator`, of any type.
    pub initiator: Option<&'a RawValue>,
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A conversation, whatever the event's type.
    Conversation(Id),
    /// A customer whom Gladly has deleted.
    DeletedCustomer(Id),
    /// Two customers whom Gladly has merged.
    MergedCustomers(Merge),
}

impl Subject {
    /// Whether something is to be forgotten, or to be read under another id.
    #[must_use]
    pub fn is_erasure(&self) -> bool {
        !matches!(self, Self::Conversation(_))
    }
}

/// A merge of two customers, and of their open conversations if both had one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merge {
    /// The customer who is no more.
    pub from: Id,
    /// The customer who remains.
    pub into: Id,
    /// The conversation that is no more.
    pub from_conversation: Option<Id>,
    /// The conversation that remains.
    pub into_conversation: Option<Id>,
}

/// Why bytes are not an event that can be extracted. Its text is safe to store and to show: it
/// repeats none of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// The bytes are not UTF-8.
    #[error("not UTF-8")]
    NotUtf8,
    /// A `content-encoding` that is not supported.
    #[error("unsupported content-encoding: expected gzip")]
    UnknownEncoding,
    /// `content-encoding: gzip`, but the bytes are not gzip, or are cut off.
    #[error("not valid gzip")]
    BrokenGzip,
    /// More bytes than are decompressed, so the content is unknown.
    #[error("larger than {} MiB when decompressed", .0 >> 20)]
    DecompressedTooLarge(usize),
    /// The text is not JSON.
    #[error("not JSON: error in line {line}, column {column}")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1; 0 at a line's start.
        column: usize,
    },
    /// Nested deeper than any webhook is.
    #[error("nested deeper than {DEPTH_LIMIT} levels")]
    TooDeep,
    /// Parsers disagree on which of two duplicates counts, so the event is invalid.
    #[error("duplicate field")]
    Ambiguous,
    /// `content` is present but not an object.
    #[error("content is not an object")]
    NoContent,
    /// The queue message around the event is not of a known version.
    #[error("not a queue message of version 1")]
    NotAMessage,
    /// In the queue, but about nothing that the relay forwards.
    #[error("no conversationId, nor the id of a deleted or merged customer")]
    NoSubject,
    /// No `type`, or one that is not a text.
    #[error("no type")]
    NoType,
    /// An id that is not safe in a URL.
    #[error("invalid {0}: expected 1 to 64 characters of A-Z a-z 0-9 _ -")]
    InvalidId(&'static str),
    /// Larger than a queue message can be.
    #[error("{0} bytes: larger than a queue message can be")]
    TooLarge(usize),
}

impl InvalidEvent {
    /// Its reason code in quarantine.
    #[must_use]
    pub fn reason(&self) -> QuarantineReason {
        match self {
            Self::NotUtf8
            | Self::UnknownEncoding
            | Self::BrokenGzip
            | Self::NotJson { .. }
            | Self::TooDeep
            | Self::Ambiguous
            | Self::NoContent
            | Self::NotAMessage
            | Self::NoSubject => QuarantineReason::Unreadable,
            Self::NoType => QuarantineReason::NoType,
            Self::InvalidId(_) => QuarantineReason::InvalidId,
            Self::TooLarge(_) | Self::DecompressedTooLarge(_) => QuarantineReason::TooLarge,
        }
    }
}

/// Fields stay raw until they are needed: the others may be of any type.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, rename = "type")]
    event_type: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    initiator: Option<&'a RawValue>,
}

/// Only the fields that decide: duplicates of others are as Gladly sent them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConversationContent<'a> {
    #[serde(borrow)]
    conversation_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeletedContent<'a> {
    #[serde(borrow)]
    customer_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "as Gladly names them")]
struct MergedContent<'a> {
    #[serde(borrow)]
    source_customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    destination_customer_id: Option<&'a RawValue>,
    #[serde(borrow)]
    source_conversation_id: Option<&'a RawValue>,
    #[serde(borrow)]
    destination_conversation_id: Option<&'a RawValue>,
}

impl<'a> WebhookEvent<'a> {
    /// Reads a webhook's body, or the event inside a queue message.
    pub fn read(json: &'a str) -> Result<Self, InvalidEvent> {
        let json = without_bom(json);
        if exceeds_max_depth(json) {
            return Err(InvalidEvent::TooDeep);
        }
        let fields: Fields<'_> = object(json, InvalidEvent::NoType)?;
        let event_type =
            fields.event_type.and_then(text).filter(|event_type| !event_type.is_empty());
        let event_type = event_type.ok_or(InvalidEvent::NoType)?;
        if event_type == "PING" {
            return Ok(Self::Ping);
        }
        let subject = match fields.content {
            None => None,
            Some(content) => subject(&event_type, content.get())?,
        };
        Ok(Self::Event(Event {
            event_type,
            id: id("id", fields.id)?,
            subject,
            content: fields.content,
            timestamp: fields.timestamp,
            initiator: fields.initiator,
        }))
    }
}

/// What an event of this type is about, by its content.
fn subject(event_type: &str, content: &str) -> Result<Option<Subject>, InvalidEvent> {
    const NO_OBJECT: InvalidEvent = InvalidEvent::NoContent;
    Ok(match event_type {
        CUSTOMER_DELETED => {
            let content: DeletedContent<'_> = object(content, NO_OBJECT)?;
            id("content.customerId", content.customer_id)?.map(Subject::DeletedCustomer)
        }
        CUSTOMERS_MERGED => {
            let content: MergedContent<'_> = object(content, NO_OBJECT)?;
            let from = id("content.sourceCustomerId", content.source_customer_id)?;
            let into = id("content.destinationCustomerId", content.destination_customer_id)?;
            // Gladly gives them only where both customers had an open conversation.
            let conversation = |raw: Option<&RawValue>| raw.and_then(text)?.parse().ok();
            let from_conversation = conversation(content.source_conversation_id);
            let into_conversation = conversation(content.destination_conversation_id);
            let merged = |(from, into)| {
                let merge = Merge { from, into, from_conversation, into_conversation };
                Subject::MergedCustomers(merge)
            };
            from.zip(into).map(merged)
        }
        _ => {
            let content: ConversationContent<'_> = object(content, NO_OBJECT)?;
            id("content.conversationId", content.conversation_id)?.map(Subject::Conversation)
        }
    })
}

/// Missing or null is no id; anything else must be a valid one.
fn id(name: &'static str, raw: Option<&RawValue>) -> Result<Option<Id>, InvalidEvent> {
    let parse =
        |raw| text(raw).and_then(|text| text.parse().ok()).ok_or(InvalidEvent::InvalidId(name));
    raw.map(parse).transpose()
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    /// `Cow` alone would always be copied.
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str(raw.get()).ok().map(|Text(text)| text)
}

/// An object's fields. A list is rejected, although serde reads one as a struct.
fn object<'a, T: Deserialize<'a>>(
    json: &'a str,
    not_an_object: InvalidEvent,
) -> Result<T, InvalidEvent> {
    let is_object = json.trim_start().starts_with('{');
    if is_object && let Ok(fields) = serde_json::from_str(json) {
        return Ok(fields);
    }
    match serde_json::from_str::<IgnoredAny>(json) {
        Err(err) => Err(InvalidEvent::NotJson { line: err.line(), column: err.column() }),
        // The fields accept any type, so the error is a duplicate.
        Ok(_) if is_object => Err(InvalidEvent::Ambiguous),
        Ok(_) => Err(not_an_object),
    }
}

/// How deeply arrays and objects are nested; without recursion, so that a sender cannot overflow
/// the stack.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(json: &str) -> Result<String, QuarantineReason> {
        match WebhookEvent::read(json) {
            Ok(WebhookEvent::Ping) => Ok("ping".into()),
            Ok(WebhookEvent::Event(Event { subject: None, .. })) => Ok("ignored".into()),
            Ok(WebhookEvent::Event(Event { event_type, subject: Some(subject), .. })) => {
                Ok(match subject {
                    Subject::Conversation(id) => format!("{event_type} {id}"),
                    Subject::DeletedCustomer(id) => format!("deleted {id}"),
                    Subject::MergedCustomers(Merge { from, into, .. }) => {
                        format!("{from} into {into}")
                    }
                })
            }
            Err(invalid) => Err(invalid.reason()),
        }
    }

    #[test]
    fn an_event_is_classified_by_type_and_conversation() {
        let long =
            format!(r#"{{"type":"A","content":{{"conversationId":"{}"}}}}"#, "x".repeat(10_240));
        let deep = format!(r#"{{"type":"A","x":{}{}}}"#, "[".repeat(100), "]".repeat(100));
        let bottomless = "[".repeat(1_000_000);
        let cases = [
            (r#"{"type":"PING"}"#, Ok("ping")),
            (r#"{"type":"PING","id":"../","content":"x"}"#, Ok("ping")),
            ("\u{feff}{\"type\":\"PING\"}", Ok("ping")),
            ("\u{feff}\r\n{\"type\":\"A\",\"content\":{\"conversationId\":\"c\"}}", Ok("A c")),
            ("\u{feff}\u{feff}{\"type\":\"PING\"}", Err(QuarantineReason::Unreadable)),
            (" \u{feff}{\"type\":\"PING\"}", Err(QuarantineReason::Unreadable)),
            ("\u{feff}", Err(QuarantineReason::Unreadable)),
            (r#" {"type":"A/B","content":{"conversationId":"c-_1"}} "#, Ok("A/B c-_1")),
            (r#"{"type":"\u0041","content":{"conversationId":"\u0063"}}"#, Ok("A c")),
            (r#"{"type":"A","id":null,"content":{"conversationId":"c"},"new":[{}]}"#, Ok("A c")),
            (
                r#"{"type":"A","initiator":7,"timestamp":{},"content":{"conversationId":"c"}}"#,
                Ok("A c"),
            ),
            (r#"{"type":"A"}"#, Ok("ignored")),
            (r#"{"type":"A","content":null}"#, Ok("ignored")),
            (r#"{"type":"A","content":{}}"#, Ok("ignored")),
            (r#"{"type":"A","content":{"conversationId":null}}"#, Ok("ignored")),
            ("", Err(QuarantineReason::Unreadable)),
            ("hello", Err(QuarantineReason::Unreadable)),
            (r#"{"type":"A""#, Err(QuarantineReason::Unreadable)),
            (r#"{"type":"A"} trailing"#, Err(QuarantineReason::Unreadable)),
            ("[1,", Err(QuarantineReason::Unreadable)),
            (r#"{"type":"A","type":"PING"}"#, Err(QuarantineReason::Unreadable)),
            (
                r#"{"type":"A","content":{"conversationId":"a","conversationId":"b"}}"#,
                Err(QuarantineReason::Unreadable),
            ),
            (r#"{"type":"A","content":[]}"#, Err(QuarantineReason::Unreadable)),
            (r#"{"type":"A","content":"c"}"#, Err(QuarantineReason::Unreadable)),
            (r#"{"type":"A","content":["c"]}"#, Err(QuarantineReason::Unreadable)),
            (&deep, Err(QuarantineReason::Unreadable)),
            (&bottomless, Err(QuarantineReason::Unreadable)),
            ("{}", Err(QuarantineReason::NoType)),
            ("[]", Err(QuarantineReason::NoType)),
            (r#"["PING",null,null,null,null]"#, Err(QuarantineReason::NoType)),
            ("null", Err(QuarantineReason::NoType)),
            (r#""PING""#, Err(QuarantineReason::NoType)),
            (r#"{"type":""}"#, Err(QuarantineReason::NoType)),
            (r#"{"type":7}"#, Err(QuarantineReason::NoType)),
            (r#"{"type":"\ud800"}"#, Err(QuarantineReason::NoType)),
            (
                r#"{"type":"A","id":"","content":{"conversationId":"c"}}"#,
                Err(QuarantineReason::InvalidId),
            ),
            (
                r#"{"type":"A","id":7,"content":{"conversationId":"c"}}"#,
                Err(QuarantineReason::InvalidId),
            ),
            (r#"{"type":"A","content":{"conversationId":""}}"#, Err(QuarantineReason::InvalidId)),
            (
                r#"{"type":"A","content":{"conversationId":"../customers"}}"#,
                Err(QuarantineReason::InvalidId),
            ),
            (
                r#"{"type":"A","content":{"conversationId":"%2e%2e"}}"#,
                Err(QuarantineReason::InvalidId),
            ),
            (
                r#"{"type":"A","content":{"conversationId":"a/b"}}"#,
                Err(QuarantineReason::InvalidId),
            ),
            (
                r#"{"type":"A","content":{"conversationId":"\ud800"}}"#,
                Err(QuarantineReason::InvalidId),
            ),
            (&long, Err(QuarantineReason::InvalidId)),
        ];
        for (json, expected) in cases {
            let shown: String = json.chars().take(90).collect();
            assert_eq!(outcome(json), expected.map(ToOwned::to_owned), "{shown}");
        }
    }

    #[test]
    fn an_event_about_a_customer_is_classified_by_its_customers() {
        let deleted = |content: &str| {
            outcome(&format!(r#"{{"type":"{CUSTOMER_DELETED}","content":{content}}}"#))
        };
        let merged = |content: &str| {
            outcome(&format!(r#"{{"type":"{CUSTOMERS_MERGED}","content":{content}}}"#))
        };
        for (seen, expected) in [
            (deleted(r#"{"customerId":"c"}"#), Ok("deleted c")),
            (deleted(r#"{"customerId":"c","conversationId":"../"}"#), Ok("deleted c")),
            (deleted(r#"{"conversationId":"c"}"#), Ok("ignored")),
            (deleted(r#"{"customerId":null}"#), Ok("ignored")),
            (deleted("null"), Ok("ignored")),
            (deleted(r#"{"customerId":""}"#), Err(QuarantineReason::InvalidId)),
            (deleted(r#"{"customerId":"a","customerId":"b"}"#), Err(QuarantineReason::Unreadable)),
            (deleted("[]"), Err(QuarantineReason::Unreadable)),
            (merged(r#"{"sourceCustomerId":"a","destinationCustomerId":"b"}"#), Ok("a into b")),
            (merged(r#"{"sourceCustomerId":"a","conversationId":"b"}"#), Ok("ignored")),
            (merged(r#"{"sourceCustomerId":null,"destinationCustomerId":"b"}"#), Ok("ignored")),
            (
                merged(r#"{"sourceCustomerId":"a/b","destinationCustomerId":null}"#),
                Err(QuarantineReason::InvalidId),
            ),
            (
                merged(r#"{"sourceCustomerId":"a","destinationCustomerId":7}"#),
                Err(QuarantineReason::InvalidId),
            ),
        ] {
            assert_eq!(seen, expected.map(ToOwned::to_owned));
        }
        let other = r#"{"type":"CUSTOMER_PROFILE/UPDATED","content":{"customerId":"c"}}"#;
        assert_eq!(outcome(other), Ok("ignored".into()));
    }

    #[test]
    fn a_merge_names_conversations_only_where_both_customers_had_one() {
        for (ids, expected) in [
            (
                r#""sourceConversationId":"c","destinationConversationId":"d""#,
                [Some("c"), Some("d")],
            ),
            (r#""sourceConversationId":"","destinationConversationId":"d""#, [None, Some("d")]),
            (r#""sourceConversationId":null,"destinationConversationId":"../""#, [None, None]),
            (r#""sourceConversationId":7"#, [None, None]),
        ] {
            let event = format!(
                r#"{{"type":"{CUSTOMERS_MERGED}","content":{{"sourceCustomerId":"a","destinationCustomerId":"b",{ids}}}}}"#
            );
            let Ok(WebhookEvent::Event(Event {
                subject: Some(Subject::MergedCustomers(merge)),
                ..
            })) = WebhookEvent::read(&event)
            else {
                panic!("{event}")
            };
            let seen = [&merge.from_conversation, &merge.into_conversation];
            assert_eq!(seen.map(|id| id.as_ref().map(Id::as_str)), expected, "{event}");
        }
    }

    #[test]
    fn the_reason_that_an_event_is_invalid_repeats_none_of_its_content() {
        for json in
            ["{\"secret", r#"{"type":"A","id":"secret !"}"#, r#"{"type":"A","content":"secret"}"#]
        {
            let reason = WebhookEvent::read(json).unwrap_err().to_string();
            assert!(!reason.contains("secret"), "{reason}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in any::<String>()) {
            let _ = WebhookEvent::read(&text);
        }

        #[test]
        fn an_id_is_safe_in_a_path(text in "\\PC{0,80}") {
            if let Ok(id) = text.parse::<Id>() {
                prop_assert!(id.as_str().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
                prop_assert!((1..=64).contains(&id.as_str().len()));
            }
        }
    }
}
