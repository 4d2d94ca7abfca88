//! The outcome of every body with a valid key.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use lambda_http::Response;
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::{MESSAGE_LIMIT, QueueMessage};

use crate::{EVENT, KEY, Message, Outcome, TestApp, answer, payload};

/// The expected outcome of a body with a valid key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    Pong,
    Ignored,
    /// In the events queue, with this attribute.
    Queued(&'static str),
    /// In quarantine for this reason, complete.
    Quarantined(&'static str),
    /// In quarantine for this reason, truncated.
    Truncated(&'static str),
}
use Expected::{Ignored, Pong, Quarantined, Queued, Truncated};

impl Expected {
    pub(crate) fn response(self) -> (Outcome, &'static str, &'static str) {
        match self {
            Pong => (Outcome::Pong, "pong", "KeySlot=1"),
            Ignored => (Outcome::Ignored, "ignored", "Ignored=1 KeySlot=1"),
            Queued(_) => (Outcome::Queued, "queued", "Queued=1 KeySlot=1"),
            Quarantined(_) | Truncated(_) => {
                (Outcome::Quarantined, "quarantined", "Quarantined=1 KeySlot=1")
            }
        }
    }

    /// Checks what SQS received for a body sent at the app's start time.
    pub(crate) fn check(self, messages: &[Message], body: &[u8]) {
        match (self, messages) {
            (Pong | Ignored, []) => {}
            (Queued(kind), [message]) => {
                let event = str::from_utf8(body).unwrap().trim_start_matches('\u{feff}').trim();
                assert_eq!(message.body, format!("{ENVELOPE}{}}}", ascii(event)));
                assert_eq!(message.queue, "events");
                assert_eq!(message.attributes, [("type".to_owned(), kind.to_owned())]);
                assert_eq!(message.delay, delay(kind));
            }
            (Quarantined(reason) | Truncated(reason), [message]) => {
                assert_eq!(message.queue, "quarantine");
                assert_eq!(message.attributes, [("reason".to_owned(), reason.to_owned())]);
                assert_eq!(message.delay, 0);
                let cut = matches!(self, Truncated(_));
                quarantined(&message.body, reason, cut, body);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The settle window of a type, in seconds.
fn delay(kind: &str) -> i64 {
    match kind {
        "CONVERSATION/CLOSED" => 15,
        "CUSTOMER_PROFILE/DELETED" | "CUSTOMER/MERGED" => 0,
        kind if kind.starts_with("RELAY/") => 0,
        _ => 300,
    }
}

/// The text before the event in a queue message.
const ENVELOPE: &str = r#"{"v":1,"receivedAt":"2026-01-02T03:04:05.678Z","event":"#;

/// The same JSON text with everything but ASCII escaped, as the contract requires.
fn ascii(json: &str) -> String {
    let escape = |unit: &u16| match u8::try_from(*unit) {
        Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    };
    json.encode_utf16().map(|unit| escape(&unit)).collect()
}

fn quarantined(message: &str, reason: &str, cut: bool, body: &[u8]) {
    assert!(message.is_ascii() && message.len() <= MESSAGE_LIMIT, "{} bytes", message.len());
    let message: Value = serde_json::from_str(message).unwrap();
    let raw = message["raw"].as_str().unwrap();
    let mut wanted = json!({
        "v": 1, "receivedAt": "2026-01-02T03:04:05.678Z", "reason": reason,
        "detail": message["detail"].as_str().unwrap(), "origin": "ingest-fn", "raw": raw,
    });
    let raw = if str::from_utf8(body).is_ok() {
        raw.as_bytes().to_vec()
    } else {
        wanted["encoding"] = json!("base64");
        BASE64_STANDARD.decode(raw).unwrap()
    };
    if cut {
        wanted["truncated"] = json!(true);
        assert!(body.starts_with(&raw) && raw.len() < body.len());
    } else {
        assert!(raw == body, "the body unchanged");
    }
    assert_eq!(message, wanted);
}

/// Sends a body twice: once to check its metrics, and once through Lambda's event.
async fn check(name: &str, body: &[u8], expected: Expected) {
    let app = TestApp::new();
    let (outcome, status, metrics) = expected.response();
    assert_eq!(app.receive_counted(body).await, (outcome, metrics.to_owned()), "{name}");
    expected.check(&app.messages(), body);
    assert_eq!(app.post(KEY, body).await, (200, answer(status)), "{name}");
    expected.check(&app.messages(), body);
}

#[tokio::test(start_paused = true)]
async fn every_subscribed_event_is_queued_and_a_ping_is_not() {
    let agent = r#""initiator":{"id":"agent-9_Z","type":"AGENT"}"#;
    let customer = r#""initiator":{"id":"customer-1","type":"CUSTOMER"}"#;
    let ids = r#""conversationId":"conv-1_A","customerId":"customer-1""#;
    let assignee = r#""context":{"assignee":{"inboxId":"inbox-1","agentId":""}}"#;
    let message = format!(r#""channel":"EMAIL","contactId":"k-1","messageId":"i-1",{ids}"#);
    let events = [
        ("CONVERSATION/CREATED", customer, format!("{ids},{assignee}")),
        ("CONTACT/MESSAGE_RECEIVED", customer, format!("{message},{assignee}")),
        ("MESSAGE/RECEIVED", "", format!(r#""conversationItemId":"i-1",{ids}"#)),
        ("CONVERSATION_ASSIGNEE/UPDATED", agent, format!(r#""reason":"MANUAL",{ids},{assignee}"#)),
        ("CONTACT/MESSAGE_SENT", agent, format!("{message},{assignee}")),
        ("CONVERSATION/NOTE_CREATED", agent, format!(r#""noteId":"i-2",{ids}"#)),
        ("CONVERSATION/TOPIC_ADDED", agent, format!(r#""topicId":"t-1",{ids},{assignee}"#)),
        ("CONVERSATION/TOPIC_REMOVED", agent, format!(r#""topicId":"t-1",{ids},{assignee}"#)),
        ("CONVERSATION/CLOSED", agent, format!("{ids},{assignee}")),
        ("CONVERSATION_STATUS/UPDATED", "", ids.to_owned()),
        ("NEW/KIND", r#""initiator":{}"#, format!(r#"{ids},"context":null"#)),
    ];
    for (kind, initiator, content) in events {
        let comma = if initiator.is_empty() { "" } else { "," };
        let body = format!(
            r#"{{"id":"ev-1","type":"{kind}","timestamp":"2025-02-03T15:04:05.12Z"{comma}{initiator},"content":{{{content}}}}}"#
        );
        check(kind, body.as_bytes(), Queued(kind)).await;
    }
    check("PING", br#"{"id":"p-1","type":"PING","timestamp":"x","content":{}}"#, Pong).await;
}

/// Gladly's own examples, and what must not become of them.
#[tokio::test(start_paused = true)]
async fn deletions_and_merges_of_customers_are_queued_at_once_or_ignored_if_not_wanted() {
    const DELETED: &str = "CUSTOMER_PROFILE/DELETED";
    const MERGED: &str = "CUSTOMER/MERGED";
    let event = |kind: &str, content: &str| {
        format!(
            r#"{{"id":"ev-1","type":"{kind}","timestamp":"2025-02-04T09:00:00.5Z","content":{content}}}"#
        )
    };
    let merged = |conversations: &str| {
        event(
            MERGED,
            &format!(r#"{{"sourceCustomerId":"a","destinationCustomerId":"b"{conversations}}}"#),
        )
    };
    #[rustfmt::skip]
    let rows = [
        ("a deletion", event(DELETED, r#"{"customerId":"a"}"#), Queued(DELETED)),
        ("its conversation decides nothing", event(DELETED, r#"{"customerId":"a","conversationId":"../"}"#), Queued(DELETED)),
        ("without its customer", event(DELETED, "{}"), Ignored),
        ("of null", event(DELETED, r#"{"customerId":null}"#), Ignored),
        ("without content", format!(r#"{{"type":"{DELETED}"}}"#), Ignored),
        ("of an empty id", event(DELETED, r#"{"customerId":""}"#), Quarantined("invalid-id")),
        ("of a path", event(DELETED, r#"{"customerId":"a/b"}"#), Quarantined("invalid-id")),
        ("a merge", merged(""), Queued(MERGED)),
        ("with conversations", merged(r#","sourceConversationId":"c","destinationConversationId":"d""#), Queued(MERGED)),
        ("with one", merged(r#","sourceConversationId":"","destinationConversationId":"d""#), Queued(MERGED)),
        ("with null", merged(r#","sourceConversationId":null,"destinationConversationId":null"#), Queued(MERGED)),
        ("with what is no id", merged(r#","sourceConversationId":7,"destinationConversationId":"../""#), Queued(MERGED)),
        ("a merge without its source", event(MERGED, r#"{"destinationCustomerId":"b"}"#), Ignored),
        ("a merge without its destination", event(MERGED, r#"{"sourceCustomerId":"a","destinationCustomerId":null}"#), Ignored),
        ("a merge into a path", event(MERGED, r#"{"sourceCustomerId":"a","destinationCustomerId":"../"}"#), Quarantined("invalid-id")),
        ("a change of a profile", event("CUSTOMER_PROFILE/UPDATED", r#"{"customerId":"a"}"#), Ignored),
    ];
    for (name, body, expected) in rows {
        check(name, body.as_bytes(), expected).await;
    }

    let app = TestApp::without_erasures();
    for body in [event(DELETED, r#"{"customerId":"a"}"#), merged("")] {
        assert_eq!(app.post(KEY, body.as_bytes()).await, (200, answer("ignored")));
        assert!(app.messages().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn every_unusual_body_has_exactly_one_outcome() {
    let event = |content: &str| format!(r#"{{"type":"A","content":{content}}}"#);
    let about = |id: &str| event(&format!(r#"{{"conversationId":{id}}}"#));
    let with =
        |field: &str| format!(r#"{{"type":"A",{field},"content":{{"conversationId":"c"}}}}"#);
    let nested = |levels| with(&format!(r#""x":{}{}"#, "[".repeat(levels), "]".repeat(levels)));
    #[rustfmt::skip]
    let rows = [
        ("a ping with nothing else", r#"{"type":"PING"}"#.into(), Pong),
        ("a ping with fields that are invalid in an event", r#"{"type":"PING","id":"../","content":7}"#.into(), Pong),
        ("no content", r#"{"type":"A"}"#.into(), Ignored),
        ("null content", event("null"), Ignored),
        ("no conversation", event(r#"{"customerId":"u"}"#), Ignored),
        ("a null conversation", about("null"), Ignored),
        ("a byte order mark", format!("\u{feff}{EVENT}"), Queued("CONVERSATION/CLOSED")),
        ("a byte order mark before a ping", "\u{feff}{\"type\":\"PING\"}".into(), Pong),
        ("a byte order mark before no event", "\u{feff}{}".into(), Quarantined("no-type")),
        ("a byte order mark alone", "\u{feff}".into(), Quarantined("unreadable")),
        ("two byte order marks", format!("\u{feff}\u{feff}{EVENT}"), Quarantined("unreadable")),
        ("spaces around", format!("\r\n {EVENT}\t"), Queued("CONVERSATION/CLOSED")),
        ("spaces inside", r#"{ "type" : "A" , "content" : { "conversationId" : "c" } }"#.into(), Queued("A")),
        ("a null id", with(r#""id":null"#), Queued("A")),
        ("initiator and context null", with(r#""initiator":null,"context":null"#), Queued("A")),
        ("initiator and agentId empty", with(r#""initiator":"","agentId":"""#), Queued("A")),
        ("initiator and timestamp of other types", with(r#""initiator":[],"timestamp":7"#), Queued("A")),
        ("the longest id", about(&format!("\"{}\"", "x".repeat(64))), Queued("A")),
        ("U+FFFE and U+FFFF", with("\"x\":\"\u{fffe}\u{ffff}\u{fdd0}\""), Queued("A")),
        ("their escapes", with(r#""x":"\ufffe\uFFFF""#), Queued("A")),
        ("lone surrogate escapes", with(r#""x":"\ud800 \uDFFF""#), Queued("A")),
        ("NUL and control escapes", with(r#""\u0000":"\u0000\u001b\b""#), Queued("A")),
        ("emoji, accents, DEL", with("\"\u{1f600}\":\"\u{e9}\u{1f468}\u{200d}\u{1f469}\u{7f}\u{2028}\""), Queued("A")),
        ("numbers that no double holds", with(r#""x":[1e999,12345678901234567890123,-0.0,1.10]"#), Queued("A")),
        ("a type outside ASCII", r#"{"type":"\u00e9 x","content":{"conversationId":"c"}}"#.into(), Queued("? x")),
        ("repeated fields that decide nothing", with(r#""x":1,"x":2"#), Queued("A")),
        ("nested as deeply as may be", nested(99), Queued("A")),
        ("nothing", String::new(), Quarantined("unreadable")),
        ("spaces", " \n".into(), Quarantined("unreadable")),
        ("text", "hello".into(), Quarantined("unreadable")),
        ("a form", "type=PING&id=1".into(), Quarantined("unreadable")),
        ("half an event", EVENT[..40].into(), Quarantined("unreadable")),
        ("more than an event", format!("{EVENT}{EVENT}"), Quarantined("unreadable")),
        ("a raw control character", with("\"x\":\"\u{1}\""), Quarantined("unreadable")),
        ("nested too deeply", nested(100), Quarantined("unreadable")),
        ("bottomless", "[".repeat(200_000), Quarantined("unreadable")),
        ("two types", r#"{"type":"PING","type":"A"}"#.into(), Quarantined("unreadable")),
        ("two contents", with(r#""content":{}"#), Quarantined("unreadable")),
        ("two conversations", event(r#"{"conversationId":"a","conversationId":"b"}"#), Quarantined("unreadable")),
        ("content that is text", event(r#""c""#), Quarantined("unreadable")),
        ("content that is a list", event("[]"), Quarantined("unreadable")),
        ("an empty object", "{}".into(), Quarantined("no-type")),
        ("no object", "[]".into(), Quarantined("no-type")),
        ("null", "null".into(), Quarantined("no-type")),
        ("a number for a type", r#"{"type":1,"content":{"conversationId":"c"}}"#.into(), Quarantined("no-type")),
        ("an empty type", r#"{"type":"","content":{"conversationId":"c"}}"#.into(), Quarantined("no-type")),
        ("a null type", r#"{"type":null}"#.into(), Quarantined("no-type")),
        ("an empty conversation", about(r#""""#), Quarantined("invalid-id")),
        ("a number for a conversation", about("7"), Quarantined("invalid-id")),
        ("an object for a conversation", about("{}"), Quarantined("invalid-id")),
        ("a way up", about(r#""../customers""#), Quarantined("invalid-id")),
        ("a way up, encoded", about(r#""%2e%2e%2f""#), Quarantined("invalid-id")),
        ("a slash", about(r#""a/b""#), Quarantined("invalid-id")),
        ("an escaped slash", about(r#""a\/b""#), Quarantined("invalid-id")),
        ("a query", about(r#""a?x=1""#), Quarantined("invalid-id")),
        ("a space", about(r#""a ""#), Quarantined("invalid-id")),
        ("a NUL", about(r#""a\u0000""#), Quarantined("invalid-id")),
        ("a lone surrogate for a conversation", about(r#""\ud800""#), Quarantined("invalid-id")),
        ("letters outside ASCII", about("\"\u{e9}\""), Quarantined("invalid-id")),
        ("an id that is too long", about(&format!("\"{}\"", "x".repeat(65))), Quarantined("invalid-id")),
        ("an id of 10 kB", about(&format!("\"{}\"", "x".repeat(10_240))), Quarantined("invalid-id")),
        ("an event id with a way up", with(r#""id":"../x""#), Quarantined("invalid-id")),
        ("an empty event id", with(r#""id":"""#), Quarantined("invalid-id")),
        ("a number for an event id", with(r#""id":7"#), Quarantined("invalid-id")),
        ("a bad event id about nothing", r#"{"type":"A","id":"a/b"}"#.into(), Quarantined("invalid-id")),
    ];
    for (name, body, expected) in &rows {
        check(name, body.as_bytes(), *expected).await;
    }
    check("a byte that is no UTF-8", b"{\"type\":\"A\xff\"}", Quarantined("unreadable")).await;
    check("UTF-16", b"\xff\xfe{\0}\0", Quarantined("unreadable")).await;
    check("a surrogate in UTF-8", b"{\"type\":\"PING\xed\xa0\x80\"}", Quarantined("unreadable"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_too_large_for_the_queue_is_quarantined_truncated() {
    let sized = |length: usize| {
        let event = r#"{"type":"A","content":{"conversationId":"c"},"x":"#;
        format!(r#"{event}"{}"}}"#, "a".repeat(length - event.len() - 3))
    };
    let room = MESSAGE_LIMIT - ENVELOPE.len() - 1;
    let padded = |text: &str, times| format!(r#"{{"type":"A","x":"{}"}}"#, text.repeat(times));
    let about = |text: &str, times| {
        padded(text, times).replacen('}', r#","content":{"conversationId":"c"}}"#, 1)
    };
    let rows = [
        ("the largest that fits", sized(room), Queued("A")),
        ("one byte more", sized(room + 1), Truncated("too-large")),
        ("1 MiB of text", about("a", 1 << 20), Truncated("too-large")),
        ("emoji that fit unescaped only", about("\u{1f600}", 100_000), Truncated("too-large")),
        ("quotes", about("\\\"", 1 << 20), Truncated("too-large")),
        ("3 MB", about("0123456789", 300_000), Truncated("too-large")),
        ("1 MiB about nothing", padded("a", 1 << 20), Ignored),
        ("1 MiB that is no JSON", "{".repeat(1 << 20), Truncated("unreadable")),
    ];
    for (name, body, expected) in &rows {
        check(name, body.as_bytes(), *expected).await;
    }
    check("2 MB that are no UTF-8", &vec![0xff; 2_000_000], Truncated("unreadable")).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_base64_flag_decides_how_a_body_is_decoded() {
    let whole = payload(&json!({"x-api-key": KEY}), EVENT.as_bytes());
    let (encoded, queued) = (BASE64_STANDARD.encode(EVENT), Queued("CONVERSATION/CLOSED"));
    let rows = [
        ("base64", json!({"body": encoded, "isBase64Encoded": true}), queued, EVENT),
        (
            "bad base64",
            json!({"body": "a!b", "isBase64Encoded": true}),
            Quarantined("unreadable"),
            "a!b",
        ),
        ("base64 without its flag", json!({"body": encoded}), Quarantined("unreadable"), &encoded),
        ("no body", json!({"body": null}), Quarantined("unreadable"), ""),
        ("no flag", json!({"isBase64Encoded": null}), queued, EVENT),
        (
            "another path and method",
            json!({"rawPath": "/../x", "requestContext": null}),
            queued,
            EVENT,
        ),
        (
            "another content type",
            json!({"headers": {"content-type": "\u{e9}", "x-api-key": KEY}}),
            queued,
            EVENT,
        ),
    ];
    for (name, change, expected, body) in rows {
        let (app, mut payload) = (TestApp::new(), whole.clone());
        let change = change.as_object().unwrap().clone();
        payload.as_object_mut().unwrap().extend(change);
        assert_eq!(app.call(&payload).await, (200, answer(expected.response().1)), "{name}");
        expected.check(&app.messages(), body.as_bytes());
    }
}

/// Arbitrary bytes, most of them close to an event.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just("PING".to_owned()), "[A-Z/]{0,9}", any::<String>()];
    let id = prop_oneof![
        4 => "[A-Za-z0-9_-]{1,64}".prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => any::<Option<i32>>().prop_map(Value::from),
    ];
    let event = (kind, id.clone(), id, any::<String>(), any::<f64>()).prop_map(
        |(kind, id, conversation, text, number)| {
            let content = json!({"conversationId": conversation, text.clone(): number});
            json!({"type": kind, "id": id, "content": content, "note": text}).to_string()
        },
    );
    let event = event.prop_map(String::into_bytes).boxed();
    let corrupt = (event.clone(), any::<prop::sample::Index>(), any::<u8>());
    prop_oneof![
        any::<Vec<u8>>(),
        any::<String>().prop_map(String::into_bytes),
        event,
        corrupt.prop_map(|(mut event, at, byte)| {
            let at = at.index(event.len());
            event[at] = byte;
            event
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_with_a_valid_key_get_200_and_exactly_one_outcome(body in bodies()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let app = TestApp::new();
            let (outcome, _) = app.receive_counted(&body).await;
            assert_eq!(Response::from(outcome).status(), 200);
            let messages = app.messages();
            match (outcome, &messages[..]) {
                (Outcome::Pong | Outcome::Ignored, []) => {}
                (Outcome::Queued, [message]) => {
                    assert_eq!(message.queue, "events");
                    let stored = QueueMessage::read(&message.body).unwrap();
                    assert!(stored.event().unwrap().subject.is_some());
                    let sent = str::from_utf8(&body).unwrap().trim();
                    assert_eq!(stored.event_json(), ascii(sent));
                    let json = |text| serde_json::from_str::<Value>(text).unwrap();
                    assert_eq!(json(stored.event_json()), json(sent));
                }
                (Outcome::Quarantined, [message]) => {
                    assert_eq!(message.queue, "quarantine");
                    let [(_, reason)] = &message.attributes[..] else { panic!() };
                    quarantined(&message.body, reason, false, &body);
                }
                other => panic!("{other:?}"),
            }
        });
    }
}
