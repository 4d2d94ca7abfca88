//! Messages of the two queues, read and written.

use jiff::Timestamp;
use shared::{
    Event, Id, MESSAGE_LIMIT, Origin, QuarantineReason, QuarantinedMessage, QueueMessage, Secret,
    WebhookEvent,
};

use crate::redaction::is_detail;

/// Bytes as an event, as a message of either queue, as an id and as a secret.
pub fn message(input: &[u8]) {
    quarantine(input);
    let Ok(text) = str::from_utf8(input) else { return };
    event(text);
    queue_message(text);
    quarantine_message(text);
    let is_id = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    assert_eq!(text.parse::<Id>().is_ok(), is_id);
    if let Ok(secret) = text.parse::<Secret>() {
        let header = secret.expose();
        assert!(!header.is_empty() && header.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        assert_eq!(format!("{secret:?}"), "Secret(…)");
    }
}

/// Asserts that SQS accepts the message.
pub(crate) fn is_sendable(body: &str) {
    assert!(body.len() <= MESSAGE_LIMIT, "{} bytes", body.len());
    let plain = |byte: u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..0x80);
    assert!(!body.is_empty() && body.bytes().all(plain), "not ASCII: {body:?}");
}

/// Asserts that SQS accepts the attribute.
pub(crate) fn is_attribute(text: &str) {
    assert!((1..=128).contains(&text.len()), "{text:?}");
    assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text:?}");
}

/// The JSON with every character outside ASCII escaped, and nothing else changed.
pub(crate) fn escaped(json: &str) -> String {
    let spelled = |unit: u16| match u8::try_from(unit) {
        Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    };
    json.encode_utf16().map(spelled).collect()
}

fn event(text: &str) {
    let incoming = WebhookEvent::read(text);
    if let Err(invalid) = &incoming {
        is_detail(&invalid.to_string());
    }
    let Ok(WebhookEvent::Event(read)) = incoming else { return };
    is_attribute(&QueueMessage::type_attribute(&read.event_type));
    for origin in [Origin::Webhook, Origin::Backfill] {
        let received = Timestamp::UNIX_EPOCH;
        let wrapped = QueueMessage::wrap(text, received, origin);
        let body = match wrapped.and_then(|message| message.to_json()) {
            Ok(body) => body,
            Err(invalid) => {
                assert_eq!(
                    invalid.reason(),
                    QuarantineReason::TooLarge,
                    "what was read can be written"
                );
                assert!(escaped(text).len() + 128 > MESSAGE_LIMIT, "it would have fitted");
                continue;
            }
        };
        is_sendable(&body);
        let back = QueueMessage::read(&body).unwrap_or_else(|err| panic!("{err}: {body}"));
        assert_eq!((back.received_at(), back.origin()), (received, origin));
        let json = text.trim_matches([' ', '\t', '\r', '\n']);
        assert_eq!(back.event_json(), escaped(json), "the event is as it came");
        let again = back.event().unwrap_or_else(|err| panic!("{err}: {body}"));
        same(&again, &read);
        assert_eq!(back.to_json().as_deref(), Ok(&*body), "written again, it is the same");
    }
}

fn same(one: &Event<'_>, other: &Event<'_>) {
    assert_eq!(
        (&one.event_type, &one.id, &one.subject),
        (&other.event_type, &other.id, &other.subject)
    );
    let fields = |event: &Event<'_>| {
        [event.content, event.timestamp, event.initiator]
            .map(|raw| raw.map(|raw| escaped(raw.get())))
    };
    assert_eq!(fields(one), fields(other));
}

fn queue_message(text: &str) {
    match QueueMessage::read(text) {
        Err(invalid) => is_detail(&invalid.to_string()),
        Ok(message) => {
            if let Err(invalid) = message.event() {
                is_detail(&invalid.to_string());
            }
            if let Ok(body) = message.to_json() {
                is_sendable(&body);
                let back = QueueMessage::read(&body).unwrap_or_else(|err| panic!("{err}: {body}"));
                assert_eq!(back.event_json(), escaped(message.event_json()));
                assert_eq!(back.origin(), message.origin());
                let lost =
                    message.received_at().as_millisecond() - back.received_at().as_millisecond();
                assert_eq!(lost, 0, "its time is kept to the millisecond");
            }
        }
    }
}

fn quarantine(raw: &[u8]) {
    let (at, reason) = (Timestamp::UNIX_EPOCH, QuarantineReason::Unreadable);
    let message = QuarantinedMessage::new(at, reason, "no type", "ingest-fn", raw);
    let body = message.and_then(|message| message.to_json()).unwrap_or_else(|err| panic!("{err}"));
    is_sendable(&body);
    holds(&body, raw);
}

/// A message in quarantine holds these bytes, or their beginning if it is marked as truncated.
pub(crate) fn holds(body: &str, raw: &[u8]) -> QuarantinedMessage<'static> {
    let message = QuarantinedMessage::read(body)
        .unwrap_or_else(|| panic!("not a quarantine message: {body}"));
    let kept = message.bytes().unwrap_or_else(|| panic!("raw cannot be recovered: {body}"));
    if message.truncated {
        assert!(raw.starts_with(&kept) && kept.len() < raw.len(), "cut at its end");
        assert!(body.len() + 16 > MESSAGE_LIMIT, "cut only where it has to be: {}", body.len());
    } else {
        assert_eq!(kept, raw, "the bytes come back");
    }
    assert_eq!(message.raw().map(String::into_bytes), str::from_utf8(&kept).ok().map(Into::into));
    message
}

fn quarantine_message(text: &str) {
    if let Some(message) = QuarantinedMessage::read(text) {
        let (bytes, text) = (message.bytes(), message.raw());
        assert_eq!(
            text.map(String::into_bytes),
            bytes.filter(|bytes| str::from_utf8(bytes).is_ok())
        );
    }
}
