//! A line of Gladly's list or of an export.

use jiff::Timestamp;
use shared::{Origin, QueueMessage, WebhookEvent, replace_lone_surrogates};

use crate::client::message::Message;

/// A line of Gladly's list, as the queue needs it.
pub(super) enum Line {
    /// A queue message, and when the event was recorded.
    Event(Message, Option<Timestamp>),
    /// Not about anything that the relay forwards, or empty: ingest-fn would not queue it either.
    Ignored,
    /// Not an event.
    Invalid,
}

impl Line {
    pub(super) fn read(line: &[u8], now: Timestamp, forwards_erasures: bool) -> Self {
        let line = String::from_utf8_lossy(line);
        let line = replace_lone_surrogates(trimmed(&line).to_owned());
        if line.is_empty() {
            return Self::Ignored;
        }
        match WebhookEvent::read(&line) {
            Ok(WebhookEvent::Event(event))
                if event
                    .subject
                    .as_ref()
                    .is_some_and(|it| forwards_erasures || !it.is_erasure()) =>
            {
                let recorded = event.timestamp.and_then(|raw| serde_json::from_str(raw.get()).ok());
                let recorded = recorded.and_then(|at: String| instant(&at));
                let message = QueueMessage::wrap(&line, now, Origin::Backfill);
                let Ok(body) = message.and_then(|message| message.to_json()) else {
                    return Self::Invalid;
                };
                let event_type = QueueMessage::type_attribute(&event.event_type);
                let message = Message::new(body, "type", &event_type);
                message.map_or(Self::Invalid, |message| Self::Event(message, recorded))
            }
            Ok(_) => Self::Ignored,
            Err(_) => Self::Invalid,
        }
    }
}

/// Reads a time whose fraction of a second may have more than nine digits.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let (whole, rest) = text.split_once('.')?;
        let zone = rest.find(|character: char| !character.is_ascii_digit())?;
        format!("{whole}.{}{}", rest.get(..zone.min(9))?, &rest[zone..]).parse().ok()
    })
}

/// A line without surrounding whitespace and without a byte order mark.
pub(super) fn trimmed(line: &str) -> &str {
    line.trim_start_matches('\u{feff}').trim()
}
