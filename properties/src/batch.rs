//! A batch of SQS messages, and the replies of Gladly and the destination.

use std::collections::BTreeSet;

use shared::{QueueMessage, Subject, replace_lone_surrogates};

use crate::{
    message::{holds, is_sendable},
    redaction::{assert_log_redacted, assert_redacted, is_detail},
    relay::{Relay, in_no_time, record},
    script::Section,
};

/// Each section `message` is a message of the events queue, with its receive count and the times it
/// was sent and first received; the other sections are replies.
///
/// Every message has exactly one outcome; every request is one that the relay may make; every
/// delivery fits the schema and contains nothing that the settings exclude.
pub fn batch(input: &[u8]) {
    let sections = Section::all(input);
    let bodies: Vec<_> = sections.iter().filter(|section| section.name == "message").collect();
    let bodies: Vec<_> = bodies.iter().map(|section| (section.rest, section.text())).collect();
    let records = bodies.iter().enumerate().map(|(number, (attributes, body))| {
        let mut attributes = attributes.split(' ');
        let mut next = || attributes.next().unwrap_or_default();
        record(number, body, next(), next(), next())
    });
    let records: Vec<_> = records.collect();
    assert_log_redacted(|| {
        in_no_time(async {
            let relay = Relay::new(&sections);
            let kept = relay.batch(&records).await;
            let forwarded = relay.scripted.forwarded();

            let ids: BTreeSet<_> = kept.iter().map(String::as_str).collect();
            assert_eq!(ids.len(), kept.len(), "each is kept once");
            let known = |id: &&str| {
                let number = id.strip_prefix("m-").and_then(|number| number.parse::<usize>().ok());
                number.is_some_and(|number| number < records.len())
            };
            assert!(ids.iter().all(known), "{ids:?}");
            let state = relay.aws.state();
            for id in &ids {
                let wait = state.visibility[&format!("receipt of {id}")];
                assert!((0..=4_320).contains(&wait), "back after {wait} s");
            }
            let mut quarantined = 0;
            for message in &state.messages {
                if message.queue == "events" {
                    assert!(bodies.iter().any(|(_, body)| *body == message.body), "re-enqueued");
                    continue;
                }
                quarantined += 1;
                is_sendable(&message.body);
                let raw = bodies.iter().find(|(_, body)| {
                    shared::QuarantinedMessage::read(&message.body).is_some_and(|quarantined| {
                        quarantined.raw().is_some_and(|raw| raw == *body)
                    })
                });
                let (_, raw) =
                    raw.unwrap_or_else(|| panic!("none of the records: {}", message.body));
                let read = holds(&message.body, raw.as_bytes());
                is_detail(&read.detail);
                assert_redacted("the detail", &read.detail);
                assert_eq!(read.origin, "extractor-fn");
            }
            let renewed = state.messages.len() - quarantined;
            let gone = records.len() - kept.len();
            // The tombstones of a merge are forwarded whatever becomes of the conversation that remains.
            let merges = bodies.iter().filter(|(_, body)| leaves_conversation(body)).count();
            let ended = forwarded + quarantined + renewed;
            assert!(
                (gone..=gone + merges).contains(&ended),
                "each ends in exactly one way: {gone}, {ended}"
            );
        });
    });
}

/// Whether a message is about a merge of customers after which a conversation remained.
fn leaves_conversation(body: &str) -> bool {
    let body = replace_lone_surrogates(body.to_owned());
    let event = QueueMessage::read(&body).and_then(|message| message.event());
    event.is_ok_and(|event| {
        matches!(event.subject, Some(Subject::MergedCustomers(merge)) if merge.into_conversation.is_some())
    })
}
