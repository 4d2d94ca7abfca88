//! The two queues' messages.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    InvalidEvent, WebhookEvent,
    event::{Event, without_bom},
    json,
};

/// The largest body of a message, in bytes. SQS accepts 1 MiB, attributes included
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
pub const MESSAGE_LIMIT: usize = (1 << 20) - 1024;

/// The longest `type` attribute, which is for people looking at the queue; the event has all of it.
const TYPE_ATTRIBUTE_LIMIT: usize = 128;

/// How an event came to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Gladly sent it.
    #[default]
    Webhook,
    /// The relay read it from Gladly.
    Backfill,
}

impl Origin {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_webhook(&self) -> bool {
        *self == Self::Webhook
    }
}

/// A message of the events queue. Its JSON is ASCII.
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
    /// Wraps an event's JSON, which must have been read as a [`WebhookEvent`] before.
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
        // Escapes only make it longer, so what cannot fit is rejected before it is written.
        if self.event.get().len() > MESSAGE_LIMIT {
            return Err(InvalidEvent::TooLarge(self.event.get().len()));
        }
        let json = json::to_string(self).map_err(|_| InvalidEvent::NotAMessage)?;
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
        // A list is rejected, although serde reads one as a struct; so is a time before the relay
        // existed, in a year that RFC 3339 may not have.
        let is_ours = message.v == 1
            && message.received_at >= Timestamp::UNIX_EPOCH
            && body.trim_start().starts_with('{');
        if is_ours { Ok(message) } else { Err(InvalidEvent::NotAMessage) }
    }

    /// The event inside.
    pub fn event(&self) -> Result<Event<'a>, InvalidEvent> {
        match WebhookEvent::read(self.event.get())? {
            WebhookEvent::Event(event) => Ok(event),
            WebhookEvent::Ping => Err(InvalidEvent::NoSubject),
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

/// Writes a time as in the relay's messages: RFC 3339, in milliseconds, `Z`.
pub fn serialize_rfc3339_millis<S: serde::Serializer>(
    at: &Timestamp,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{QuarantineReason, Subject};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_queue_message_matches_the_contract() {
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
        assert_eq!(
            read.event().unwrap().subject,
            Some(Subject::Conversation("c".parse().unwrap()))
        );
    }

    #[test]
    fn only_queue_messages_of_the_relay_are_read() {
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
    fn a_body_larger_than_a_message_is_too_large() {
        let event = format!(r#"{{"type":"A","text":"{}"}}"#, "é".repeat(200_000));
        let message =
            QueueMessage::wrap(&event, at("2026-01-01T00:00:00Z"), Origin::Webhook).unwrap();
        assert_eq!(message.to_json().unwrap_err().reason(), QuarantineReason::TooLarge);
    }

    #[test]
    fn sqs_accepts_the_type_attribute() {
        assert_eq!(QueueMessage::type_attribute("CONTACT/MESSAGE_SENT"), "CONTACT/MESSAGE_SENT");
        assert_eq!(QueueMessage::type_attribute("\u{0}é\n"), "???");
        assert_eq!(QueueMessage::type_attribute(""), "?");
        assert_eq!(QueueMessage::type_attribute(&"x".repeat(900)).len(), 128);
    }
}
