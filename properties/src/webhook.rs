//! A webhook, from Lambda's payload to what SQS and Gladly get.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ingest_fn::{Config, Ingest, Request};
use jiff::Timestamp;
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use shared::{Clock, QueueMessage};
use testing::aws::{Aws, Message, QUEUES, Sqs};
use tokio::runtime::Runtime;

use crate::{
    message::{escaped, holds, is_attribute, is_sendable},
    redaction::{CANARY, assert_log_redacted, assert_redacted, is_detail, redacted_metrics},
    relay::{EPOCH, runtime},
};

/// The right key.
const KEY: &str = "0123456789abcdef0123456789abcdef";
/// A number of characters that never fits into a message.
const MANY: usize = 175_000;

/// The function with its own account, at a fixed time.
struct Receiver {
    runtime: Runtime,
    aws: Aws,
    ingest: Ingest,
}

thread_local! {
    static RECEIVER: Receiver = Receiver::new();
}

/// The result of a request.
struct Stored {
    status: u64,
    status_word: String,
    messages: Vec<Message>,
}

/// The first byte is the encoding of the others: `t` as text, `b` in base64, `B` as possibly
/// invalid base64, `l` as text in which the first `~` is 175,000 characters, `p` as the whole payload.
///
/// With the valid key the response is 2xx and matches what is stored: the event unchanged, or every
/// byte of an invalid one. Without it nothing is stored.
pub fn webhook(input: &[u8]) {
    let (how, body) = input.split_first().map_or((b't', input), |(how, body)| (*how, body));
    let text = || String::from_utf8_lossy(body).into_owned();
    match how {
        b'p' => any_payload(body),
        b'b' => known(&BASE64_STANDARD.encode(body), true, body),
        b'B' => match BASE64_STANDARD.decode(body) {
            Ok(bytes) => known(&text(), true, &bytes),
            Err(_) => known(&text(), true, text().as_bytes()),
        },
        b'l' => {
            let long = text().replacen('~', &"\u{ffff}".repeat(MANY), 1);
            known(&long, false, long.as_bytes());
        }
        _ => known(&text(), false, text().as_bytes()),
    }
}

/// A body that decodes to these bytes.
fn known(body: &str, is_base64: bool, bytes: &[u8]) {
    let payload = json!({
        "version": "2.0", "headers": {"X-Api-Key": KEY, "content-type": CANARY},
        "body": body, "isBase64Encoded": is_base64,
    });
    let stored = call(payload.to_string().as_bytes());
    let Some(Stored { status, status_word, messages }) = stored else {
        panic!("not a payload of AWS")
    };
    assert_eq!(status, 200, "{status_word}");
    match (&*status_word, &messages[..]) {
        ("pong" | "ignored", []) => {}
        ("queued", [message]) => {
            assert_eq!(message.queue, "events");
            let read = QueueMessage::read(&message.body);
            let read = read.unwrap_or_else(|err| panic!("{err}: {}", message.body));
            let sent = str::from_utf8(bytes).unwrap_or_default();
            let sent = sent.strip_prefix('\u{feff}').unwrap_or(sent);
            let sent = sent.trim_matches([' ', '\t', '\r', '\n']);
            assert_eq!(read.event_json(), escaped(sent), "the event is as it came");
            assert_eq!(read.received_at(), EPOCH);
            let event = read.event().unwrap_or_else(|err| panic!("{err}: {}", message.body));
            assert!(event.subject.is_some(), "there is something to forward");
        }
        ("quarantined", [message]) => {
            assert_eq!(message.queue, "quarantine");
            let quarantined = holds(&message.body, bytes);
            assert_eq!((quarantined.received_at, &*quarantined.origin), (EPOCH, "ingest-fn"));
            is_detail(&quarantined.detail);
            assert_eq!(message.attributes, [("reason".into(), quarantined.reason.code().into())]);
        }
        _ => panic!("answered {status_word}, and stored {messages:?}"),
    }
}

/// Any bytes as the payload: without the valid key nothing is stored.
fn any_payload(payload: &[u8]) {
    let Some(Stored { status, status_word, messages }) = call(payload) else { return };
    // Parts that the function does not read may be invalid for other JSON parsers.
    let Ok(payload) = serde_json::from_slice::<Value>(payload) else { return };
    let headers = payload["headers"].as_object().into_iter().flatten();
    let mut keys = headers.filter(|(name, _)| name.eq_ignore_ascii_case("x-api-key"));
    let is_right = keys.next().is_some_and(|(_, key)| key == KEY) && keys.next().is_none();
    match (status, &*status_word) {
        (401, "unauthorized") => assert_eq!(messages, []),
        (200, "pong" | "ignored" | "queued" | "quarantined") => {
            assert!(is_right, "let in: {payload}");
        }
        other => panic!("{other:?} for {payload}"),
    }
}

/// The result of a payload, unless Lambda itself could not parse it.
fn call(payload: &[u8]) -> Option<Stored> {
    let call: Request = serde_json::from_slice(payload).ok()?;
    Some(RECEIVER.with(|receiver| receiver.call(call)))
}

impl Receiver {
    fn new() -> Self {
        let (aws, clock) = (Aws::new(|| EPOCH), Clock::new(|| -> Timestamp { EPOCH }));
        aws.put("/relay/webhook-keys", KEY);
        let config = Config {
            events_queue_url: format!("{QUEUES}events"),
            quarantine_queue_url: format!("{QUEUES}quarantine"),
            webhook_keys_parameter: "/relay/webhook-keys".into(),
            settle_window: shared::SettleWindow::default(),
            forward_erasures: true,
        };
        let ingest = Ingest::new(&aws.config(), config, clock, redacted_metrics());
        Self { runtime: runtime(), ingest, aws }
    }

    fn call(&self, call: Request) -> Stored {
        let call = self.ingest.handle(LambdaEvent::new(call, Context::default()));
        let answer = assert_log_redacted(|| self.runtime.block_on(call));
        let answer = answer.map(|answer| serde_json::to_value(answer).unwrap_or_default());
        let answer = answer.unwrap_or_default();
        let body = answer["body"].as_str().unwrap_or_default();
        assert_redacted("the answer", body);
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let messages = {
            let mut state = self.aws.state();
            state.sqs = Sqs::default();
            std::mem::take(&mut state.messages)
        };
        for message in &messages {
            is_sendable(&message.body);
            message.attributes.iter().for_each(|(_, value)| is_attribute(value));
        }
        Stored {
            status: answer["statusCode"].as_u64().unwrap_or_default(),
            status_word: body["status"].as_str().unwrap_or_default().to_owned(),
            messages,
        }
    }
}
