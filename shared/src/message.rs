//! The two queues' messages.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    InvalidEvent, WebhookEvent, ascii,
    event::{Event, without_bom},
};

/// The most a message's body may have, in bytes. SQS takes 1 MiB, attributes included
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
pub const MESSAGE_LIMIT: usize = (1 << 20) - 1024;

/// Longest `type` attribute. The attribute is for people looking at the queue; the event has all of it.
const TYPE_ATTRIBUTE_LIMIT: usize = 128;

/// How an event came to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Gladly sent it.
    #[default]
    Webhook,
    /// We asked Gladly for it.
    Backfill,
}

impl Origin {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    fn is_webhook(&self) -> bool {
        *self == Self::Webhook
    }
}

/// An event on the events queue. Its JSON is ASCII.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueMessage<'a> {
    v: u32,
    #[serde(serialize_with = "serialize_rfc3339_millis")]
    received_at: Timestamp,
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(default, skip_serializing_if = "Origin::is_webhook")]
    origin: Origin,
}

impl<'a> QueueMessage<'a> {
    /// Wraps an event's JSON, which must have been read as an [`WebhookEvent`] before.
    pub fn wrap(
        event: &'a str,
        received_at: Timestamp,
        origin: Origin,
    ) -> Result<Self, InvalidEvent> {
        let event = serde_json::from_str(without_bom(event))
            .map_err(|err| InvalidEvent::NotJson { line: err.line(), column: err.column() })?;
        Ok(Self { v: 1, received_at, event, origin })
    }

    /// The message's body.
    pub fn to_json(&self) -> Result<String, InvalidEvent> {
        // Escapes make it longer still: what cannot fit is not written first to find that out.
        if self.event.get().len() > MESSAGE_LIMIT {
            return Err(InvalidEvent::TooLarge(self.event.get().len()));
        }
        let json = ascii::to_string(self).map_err(|_| InvalidEvent::NotAMessage)?;
        if json.len() > MESSAGE_LIMIT {
            return Err(InvalidEvent::TooLarge(json.len()));
        }
        Ok(json)
    }

    /// Reads a message's body.
    pub fn read(body: &'a str) -> Result<Self, InvalidEvent> {
        let message: Self = serde_json::from_str(body).map_err(|err| match err.classify() {
            serde_json::error::Category::Data => InvalidEvent::NotAMessage,
            _ => InvalidEvent::NotJson { line: err.line(), column: err.column() },
        })?;
        // A list is none of ours, though serde would take one for a struct; nor is what came before
        // there was a relay, in a year that RFC 3339 may not even have.
        let is_ours = message.v == 1
            && message.received_at >= Timestamp::UNIX_EPOCH
            && body.trim_start().starts_with('{');
        if is_ours { Ok(message) } else { Err(InvalidEvent::NotAMessage) }
    }

    /// The event inside.
    pub fn event(&self) -> Result<Event<'a>, InvalidEvent> {
        match WebhookEvent::read(self.event.get())? {
            WebhookEvent::Event(event) => Ok(event),
            WebhookEvent::Ping => Err(InvalidEvent::NoConversation),
        }
    }

    /// The event's own bytes.
    #[must_use]
    pub fn event_json(&self) -> &'a str {
        self.event.get()
    }

    /// When the relay received the event.
    #[must_use]
    pub fn received_at(&self) -> Timestamp {
        self.received_at
    }

    /// How the event came.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// An event's `type` as SQS accepts it for an attribute: printable ASCII, never empty.
    #[must_use]
    pub fn type_attribute(event_type: &str) -> String {
        let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        let text: String = event_type.chars().take(TYPE_ATTRIBUTE_LIMIT).map(printable).collect();
        if text.is_empty() { "?".into() } else { text }
    }
}

/// Why a message stands in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuarantineReason {
    /// Not an event: not UTF-8, not JSON, or not of an event's form.
    Unreadable,
    /// No `type`.
    NoType,
    /// An id that could not go into a URL.
    InvalidId,
    /// Too large for the queue; stored cut.
    TooLarge,
    /// The destination will not have its conversation.
    Rejected,
    /// It failed too often for too long.
    Exhausted,
}

impl QuarantineReason {
    /// The code, as in the message and its attribute.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::NoType => "no-type",
            Self::InvalidId => "invalid-id",
            Self::TooLarge => "too-large",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
        }
    }
}

/// What is put aside for a person to look at.
#[derive(Debug)]
pub struct Quarantined<'a> {
    /// When the relay received it.
    pub received_at: Timestamp,
    /// Why.
    pub reason: QuarantineReason,
    /// Why, in words that hold nothing of the content.
    pub detail: &'a str,
    /// The function that put it aside.
    pub origin: &'static str,
    /// The bytes: the webhook's body from ingest-fn, the queue message's body from extractor-fn.
    pub raw: &'a [u8],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QuarantineMessage<'a> {
    v: u32,
    #[serde(serialize_with = "serialize_rfc3339_millis")]
    received_at: Timestamp,
    reason: QuarantineReason,
    detail: &'a str,
    origin: &'a str,
    raw: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

impl Quarantined<'_> {
    /// The message's body: ASCII JSON of at most [`MESSAGE_LIMIT`] bytes, `raw` cut to fit.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let mut message = QuarantineMessage {
            v: 1,
            received_at: self.received_at,
            reason: self.reason,
            detail: self.detail,
            origin: self.origin,
            raw: "",
            encoding: None,
            truncated: true,
        };
        if let Ok(text) = str::from_utf8(self.raw) {
            let room = MESSAGE_LIMIT.saturating_sub(ascii::to_string(&message)?.len());
            message.raw = fitting(text, room);
            message.truncated = message.raw.len() < text.len();
            ascii::to_string(&message)
        } else {
            message.encoding = Some("base64");
            let room = MESSAGE_LIMIT.saturating_sub(ascii::to_string(&message)?.len());
            let kept = &self.raw[..self.raw.len().min(room / 4 * 3)];
            message.truncated = kept.len() < self.raw.len();
            let encoded = BASE64_STANDARD.encode(kept);
            message.raw = &encoded;
            ascii::to_string(&message)
        }
    }
}

/// A quarantine message, read again.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PutAside {
    /// When the relay received it.
    pub received_at: Timestamp,
    /// Why it was put aside.
    pub reason: QuarantineReason,
    /// The same in words.
    pub detail: String,
    /// The function that put it aside.
    pub origin: String,
    /// Part of the original is missing.
    #[serde(default)]
    pub truncated: bool,
    raw: String,
    encoding: Option<String>,
}

impl PutAside {
    /// Reads a message's body. `None` if it is without our envelope: SQS moved it.
    #[must_use]
    pub fn read(body: &str) -> Option<Self> {
        body.trim_start().starts_with('{').then(|| serde_json::from_str(body).ok()).flatten()
    }

    /// The original, if it is a text.
    #[must_use]
    pub fn raw(&self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    /// The original, as far as it was kept. `None` if somebody else wrote the message and it is not
    /// encoded as it says.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self.encoding.as_deref() {
            None => Some(self.raw.clone().into_bytes()),
            Some(_) => BASE64_STANDARD.decode(&self.raw).ok(),
        }
    }
}

/// The longest beginning of `text` that takes at most `room` bytes once escaped.
fn fitting(text: &str, room: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, character)| {
        used += ascii::escaped_len(*character);
        used > room
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// Writes a time as the relay's messages have it: RFC 3339, in milliseconds, `Z`.
pub fn serialize_rfc3339_millis<S: serde::Serializer>(
    at: &Timestamp,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_queue_message_is_as_the_contract_has_it() {
        let event = r#"{ "type":"A", "content":{"conversationId":"c"}, "note":"é" }"#;
        let received = at("2026-01-02T03:04:05.006789Z");
        let body = QueueMessage::wrap(event, received, Origin::Webhook).unwrap().to_json().unwrap();
        assert_eq!(
            body,
            r#"{"v":1,"receivedAt":"2026-01-02T03:04:05.006Z","event":{ "type":"A", "content":{"conversationId":"c"}, "note":"\u00e9" }}"#
        );

        let marked = format!("\u{feff}{event}");
        let unmarked = QueueMessage::wrap(&marked, received, Origin::Webhook).unwrap();
        assert_eq!(unmarked.to_json().unwrap(), body, "without its byte order mark");

        let body =
            QueueMessage::wrap(event, received, Origin::Backfill).unwrap().to_json().unwrap();
        assert!(body.ends_with(r#","origin":"backfill"}"#), "{body}");
        let read = QueueMessage::read(&body).unwrap();
        assert_eq!(read.origin(), Origin::Backfill);
        assert_eq!(read.received_at(), at("2026-01-02T03:04:05.006Z"));
        assert_eq!(read.event().unwrap().conversation.unwrap().as_str(), "c");
    }

    #[test]
    fn a_message_that_is_not_ours_is_told_from_one_that_is() {
        let cases = [
            ("", "not JSON: error in line 1, column 0"),
            ("hello", "not JSON: error in line 1, column 1"),
            (r#"{"type":"A"}"#, "not a queue message of version 1"),
            (
                r#"{"v":2,"receivedAt":"2026-01-01T00:00:00Z","event":{}}"#,
                "not a queue message of version 1",
            ),
            (r#"[1,"2026-01-01T00:00:00Z",{},"webhook"]"#, "not a queue message of version 1"),
            (r#"{"v":1,"receivedAt":"yesterday","event":{}}"#, "not a queue message of version 1"),
            (
                r#"{"v":1,"receivedAt":"-009999-01-02T01:59:59Z","event":{}}"#,
                "not a queue message of version 1",
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(QueueMessage::read(body).unwrap_err().to_string(), expected, "{body}");
        }
    }

    #[test]
    fn a_body_that_takes_more_than_a_message_is_too_large() {
        let event = format!(r#"{{"type":"A","text":"{}"}}"#, "é".repeat(200_000));
        let message =
            QueueMessage::wrap(&event, at("2026-01-01T00:00:00Z"), Origin::Webhook).unwrap();
        assert_eq!(message.to_json().unwrap_err().reason(), QuarantineReason::TooLarge);
    }

    #[test]
    fn the_type_attribute_is_one_that_sqs_accepts() {
        assert_eq!(QueueMessage::type_attribute("CONTACT/MESSAGE_SENT"), "CONTACT/MESSAGE_SENT");
        assert_eq!(QueueMessage::type_attribute("\u{0}é\n"), "???");
        assert_eq!(QueueMessage::type_attribute(""), "?");
        assert_eq!(QueueMessage::type_attribute(&"x".repeat(900)).len(), 128);
    }

    fn quarantined(raw: &[u8]) -> Value {
        let message = Quarantined {
            received_at: at("2026-01-02T03:04:05Z"),
            reason: QuarantineReason::NoType,
            detail: "no type",
            origin: "ingest-fn",
            raw,
        };
        let json = message.to_json().unwrap();
        assert!(json.len() <= MESSAGE_LIMIT, "{} bytes", json.len());
        assert!(json.bytes().all(|byte| (0x20..0x80).contains(&byte)));
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_quarantine_message_is_as_the_contract_has_it() {
        assert_eq!(
            quarantined(b"{\"a\":\"\xc3\xa9\"}"),
            json!({"v": 1, "receivedAt": "2026-01-02T03:04:05.000Z", "reason": "no-type", "detail": "no type",
                   "origin": "ingest-fn", "raw": "{\"a\":\"é\"}"})
        );
        assert_eq!(
            quarantined(b"\xff\x00"),
            json!({"v": 1, "receivedAt": "2026-01-02T03:04:05.000Z", "reason": "no-type", "detail": "no type",
                   "origin": "ingest-fn", "raw": "/wA=", "encoding": "base64"})
        );
    }

    #[test]
    fn the_codes_are_the_contracts() {
        for reason in [
            QuarantineReason::Unreadable,
            QuarantineReason::NoType,
            QuarantineReason::InvalidId,
            QuarantineReason::TooLarge,
            QuarantineReason::Rejected,
            QuarantineReason::Exhausted,
        ] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.code());
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_between_characters_and_says_so() {
        for raw in ["\u{1f600}".repeat(300_000), "\"".repeat(2_000_000), "a".repeat(3_000_000)] {
            let message = quarantined(raw.as_bytes());
            assert_eq!(message["truncated"], true);
            let kept = message["raw"].as_str().unwrap();
            assert!(raw.starts_with(kept) && kept.len() > 80_000);
        }
        let binary = vec![0xff; 2_000_000];
        let message = quarantined(&binary);
        assert_eq!(message["truncated"], true);
        let kept = BASE64_STANDARD.decode(message["raw"].as_str().unwrap()).unwrap();
        assert!(binary.starts_with(&kept) && kept.len() > 700_000);
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_from_quarantine(raw in any::<Vec<u8>>()) {
            let message = quarantined(&raw);
            let read = PutAside::read(&message.to_string()).unwrap();
            prop_assert_eq!(read.raw().map(String::into_bytes), str::from_utf8(&raw).ok().map(Into::into));
            let kept = message["raw"].as_str().unwrap();
            let back = if message.get("encoding").is_some() {
                BASE64_STANDARD.decode(kept).unwrap()
            } else {
                kept.as_bytes().to_vec()
            };
            prop_assert_eq!(back, raw);
        }
    }
}
