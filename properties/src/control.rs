//! The controller: its parameters, queues and payloads, and Gladly's lists.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use serde_json::Value;
use shared::{QuarantinedMessage, QueueMessage};
use testing::settings::PAUSE_PARAMETER;

use crate::{
    message::{is_attribute, is_sendable},
    redaction::{assert_log_redacted, assert_redacted},
    relay::{EPOCH, Relay, in_no_time},
    script::Section,
};

/// Messages do not get older in the queue than this: its retention is 96 hours.
const OLDEST_SECONDS: i64 = 90 * 3_600;

/// The sections `pause`, `breaker`, `renewal` and `backfill` are parameters; `queued` and `put-aside`
/// are messages of that age in seconds; each `invoke` is a payload; the other sections are replies.
///
/// The operator's parameter is unchanged, no message is lost but those that a discard counts, and only
/// events are queued. Only what `show` answers repeats the content.
pub fn control(input: &[u8]) {
    let sections = Section::all(input);
    assert_log_redacted(|| {
        in_no_time(async {
            let relay = Relay::new(&sections);
            prepare(&relay, &sections);
            let count = |relay: &Relay| {
                let (now, mut state) = (relay.now(), relay.aws.state());
                state.queue("events", now).len() + state.queue("quarantine", now).len()
            };
            let mut before = count(&relay);
            let written =
                |relay: &Relay| relay.aws.state().parameters.get(PAUSE_PARAMETER).cloned();
            let pause = written(&relay);
            let mut payloads: Vec<_> = sections
                .iter()
                .filter(|section| section.name == "invoke")
                .map(|s| s.body)
                .collect();
            if payloads.is_empty() {
                payloads.push(br#"{"task":"reconcile"}"#);
            }
            for payload in payloads.into_iter().take(4) {
                let answered = relay.invoke(payload).await;
                match &answered {
                    Err(error) => {
                        assert_redacted("the error", error);
                        assert!(
                            !error.contains("InvalidMessage"),
                            "SQS accepts every message: {error}"
                        );
                    }
                    Ok(answer) if answer.get("batchItemFailures").is_some() => {}
                    Ok(answer) => {
                        let mut answer = answer.clone();
                        assert_eq!(answer["v"], shared::DOCUMENT_VERSION);
                        let discarded = answer["discarded"].as_u64().unwrap_or_default();
                        before =
                            before.saturating_sub(usize::try_from(discarded).unwrap_or(usize::MAX));
                        // Of `show`, which is asked for the content.
                        answer["body"].take();
                        assert_redacted("the answer", &answer.to_string());
                    }
                }
                relay.scripted.forwarded();
                assert!(count(&relay) >= before, "nothing is lost");
                assert_eq!(written(&relay), pause, "only the operator writes it");
            }
            is_event_or_copy(&relay, &sections);
            documents(&relay);
        });
    });
}

fn prepare(relay: &Relay, sections: &[Section<'_>]) {
    for queue in ["events", "quarantine"] {
        relay.aws.state().queue(queue, EPOCH - SignedDuration::from_hours(24 * 30));
    }
    for section in sections {
        let text = section.text();
        let age = section.rest.parse().unwrap_or(0_i64).clamp(0, OLDEST_SECONDS);
        let sent = EPOCH - SignedDuration::from_secs(age);
        match section.name {
            "pause" => relay.aws.put(PAUSE_PARAMETER, &text),
            name @ ("breaker" | "renewal" | "backfill") => {
                relay.aws.put(&format!("{PAUSE_PARAMETER}-{name}"), &text);
            }
            // Not a valid SQS message.
            "queued" | "put-aside" if !text.chars().all(is_taken) || text.is_empty() => {}
            "queued" => {
                relay.aws.state().send("events", &text, Vec::new(), 0, sent);
            }
            "put-aside" => {
                relay.aws.state().send("quarantine", &text, Vec::new(), 0, sent);
            }
            _ => {}
        }
    }
}

/// Whether SQS accepts a character
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
fn is_taken(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Every sent message is a copy of an earlier one, an event that can be extracted, or a quarantine
/// message.
fn is_event_or_copy(relay: &Relay, sections: &[Section<'_>]) {
    let earlier: BTreeSet<_> = sections
        .iter()
        .filter(|section| matches!(section.name, "queued" | "put-aside"))
        .map(Section::text)
        .collect();
    for message in &relay.aws.state().messages {
        if earlier.contains(&message.body) {
            continue;
        }
        is_sendable(&message.body);
        message.attributes.iter().for_each(|(_, value)| is_attribute(value));
        if message.queue == "quarantine" {
            assert!(QuarantinedMessage::read(&message.body).is_some(), "{}", message.body);
            continue;
        }
        let read = QueueMessage::read(&message.body).and_then(|message| message.event());
        let event = read.unwrap_or_else(|err| panic!("{err}: {}", message.body));
        assert!(event.subject.is_some(), "there is something to forward");
    }
}

/// The relay writes JSON into its own parameters, and never writes the operator's.
fn documents(relay: &Relay) {
    for write in &relay.aws.state().writes {
        assert_ne!(write.name, PAUSE_PARAMETER, "only the operator writes it");
        let read = serde_json::from_str::<Value>(&write.text);
        assert!(read.is_ok_and(|document| document.is_object()), "{}", write.text);
    }
}
