//! Quarantined messages, for a person to look at.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    json,
    message::{MESSAGE_LIMIT, serialize_rfc3339_millis},
};

/// Why a message is quarantined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuarantineReason {
    /// Not an event: not UTF-8, not JSON, or not in an event's form.
    Unreadable,
    /// No `type`.
    NoType,
    /// An id that is not safe in a URL.
    InvalidId,
    /// Too large for the queue; stored truncated.
    TooLarge,
    /// The destination rejected its conversation.
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

/// A message of the quarantine queue.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantinedMessage<'a> {
    #[serde(default)]
    v: u32,
    /// When the relay received the original.
    #[serde(serialize_with = "serialize_rfc3339_millis")]
    pub received_at: Timestamp,
    /// Why it is quarantined.
    pub reason: QuarantineReason,
    /// A description that repeats none of the content.
    pub detail: Cow<'a, str>,
    /// The function that quarantined it.
    pub origin: Cow<'a, str>,
    /// The webhook's body from ingest-fn, the queue message's body from extractor-fn.
    raw: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Cow<'a, str>>,
    /// Part of the original is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl<'a> QuarantinedMessage<'a> {
    /// A message of at most [`MESSAGE_LIMIT`] bytes: `raw` is truncated to fit, and base64 if it is not
    /// UTF-8.
    pub fn new(
        received_at: Timestamp,
        reason: QuarantineReason,
        detail: &'a str,
        origin: &'a str,
        raw: &'a [u8],
    ) -> serde_json::Result<Self> {
        let text = str::from_utf8(raw).ok();
        let mut message = Self {
            v: 1,
            received_at,
            reason,
            detail: detail.into(),
            origin: origin.into(),
            raw: "".into(),
            encoding: text.is_none().then(|| "base64".into()),
            truncated: true,
        };
        let room = MESSAGE_LIMIT.saturating_sub(message.to_json()?.len());
        if let Some(text) = text {
            let kept = fitting(text, room);
            message.truncated = kept.len() < text.len();
            message.raw = kept.into();
        } else {
            let kept = &raw[..raw.len().min(room / 4 * 3)];
            message.truncated = kept.len() < raw.len();
            message.raw = BASE64_STANDARD.encode(kept).into();
        }
        Ok(message)
    }

    /// The message's body, as ASCII JSON.
    pub fn to_json(&self) -> serde_json::Result<String> {
        json::to_string(self)
    }

    /// Reads a message's body. `None` without the relay's envelope: then SQS moved it.
    #[must_use]
    pub fn read(body: &str) -> Option<QuarantinedMessage<'static>> {
        body.trim_start().starts_with('{').then(|| serde_json::from_str(body).ok()).flatten()
    }

    /// The original, if it is a text.
    #[must_use]
    pub fn raw(&self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    /// The original, as far as it was kept. `None` if it is not encoded as declared, in a message of
    /// another program.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self.encoding.as_deref() {
            None => Some(self.raw.clone().into_owned().into_bytes()),
            Some(_) => BASE64_STANDARD.decode(&*self.raw).ok(),
        }
    }
}

/// The longest prefix of `text` that takes at most `room` bytes once escaped.
fn fitting(text: &str, room: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, character)| {
        used += json::escaped_len(*character);
        used > room
    });
    end.map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn quarantined(raw: &[u8]) -> Value {
        let at = at("2026-01-02T03:04:05Z");
        let reason = QuarantineReason::NoType;
        let message = QuarantinedMessage::new(at, reason, "no type", "ingest-fn", raw).unwrap();
        let json = message.to_json().unwrap();
        assert!(json.len() <= MESSAGE_LIMIT, "{} bytes", json.len());
        assert!(json.bytes().all(|byte| (0x20..0x80).contains(&byte)));
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_quarantine_message_matches_the_contract() {
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
    fn the_codes_match_the_contract() {
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
    fn what_does_not_fit_is_truncated_between_characters_and_marked() {
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
        fn any_bytes_survive_quarantine(raw in any::<Vec<u8>>()) {
            let message = quarantined(&raw);
            let read = QuarantinedMessage::read(&message.to_string()).unwrap();
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
