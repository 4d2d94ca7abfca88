//! The pause and breaker parameters, as the gate in the extractor reads them.

use serde_json::Value;
use testing::settings::PAUSE_PARAMETER;

use crate::{
    redaction::{CANARY, assert_log_redacted},
    relay::{EPOCH, Relay, in_no_time, record},
    script::{Section, text},
};

/// The sections `pause` and `breaker` are the parameters' texts. Nothing is called and nothing leaves
/// the queue unless both clearly allow it.
pub fn pause(input: &[u8]) {
    let mut sections = Section::all(input);
    sections.retain(|section| matches!(section.name, "pause" | "breaker"));
    let (written, breaker) = (text(&sections, "pause"), text(&sections, "breaker"));
    let pause = written.unwrap_or_else(|| "running".into());
    let runs = assert_log_redacted(|| {
        in_no_time(async {
            let relay = Relay::new(&sections);
            relay.aws.put(PAUSE_PARAMETER, &pause);
            if let Some(breaker) = &breaker {
                relay.aws.put(&format!("{PAUSE_PARAMETER}-breaker"), breaker);
            }
            let body = format!(
                r#"{{"v":1,"receivedAt":"{EPOCH}","event":{{"type":"A","note":"{CANARY}","content":{{"conversationId":"c-1"}}}}}}"#
            );
            let kept = relay.batch(&[record(0, &body, "1", "", "")]).await;
            let forwarded = relay.scripted.forwarded();
            match (&kept[..], relay.scripted.calls(), forwarded) {
                ([], 1.., 1) => true,
                ([id], 0, 0) if id == "m-0" => {
                    let wait = relay.aws.state().visibility["receipt of m-0"];
                    assert!((24..=36).contains(&wait), "held for {wait} s");
                    false
                }
                other => panic!("neither held nor forwarded: {other:?}"),
            }
        })
    });
    let clear = is_running(&pause) && breaker.as_deref().is_none_or(is_closed);
    assert!(clear || !runs, "runs with {pause:?} and {breaker:?}");
    let plain = pause.trim().eq_ignore_ascii_case("running") && breaker.is_none();
    assert!(runs || !plain, "held with {pause:?}");
}

fn object(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok().filter(Value::is_object)
}

/// Whether an operator who wrote this means that extraction may run.
fn is_running(text: &str) -> bool {
    let Some(document) = object(text) else {
        return text.trim().eq_ignore_ascii_case("running");
    };
    let state = document["state"].as_str().unwrap_or_default().trim().to_ascii_lowercase();
    let until = match &document["until"] {
        Value::Null => None,
        Value::String(until) => match until.parse::<jiff::Timestamp>() {
            Ok(until) => Some(until),
            Err(_) => return false,
        },
        _ => return false,
    };
    match &*state {
        "running" => true,
        "paused" => until.is_some_and(|until| until <= EPOCH),
        _ => false,
    }
}

/// Whether the system wrote this of a breaker that lets events through.
fn is_closed(text: &str) -> bool {
    let state = object(text).map(|document| document["state"].clone());
    state.is_some_and(|state| state == "closed" || state == "half-open")
}
