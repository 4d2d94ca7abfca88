//! The load: conversations at Gladly, and events about them.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use serde_json::json;
use testing::{
    gladly::{EVENT_TYPES, Gladly},
    server::lock,
};
use tokio::time::{interval, sleep};

use super::{MESSAGE_TEXT, Soak, SoakError};

/// How many conversations are active at a time.
const CONCURRENT_CONVERSATIONS: usize = 40;
/// One in this many events has an invalid conversation id.
const MALFORMED_INTERVAL: usize = 200;

impl Soak<'_> {
    /// Emits events at the plan's rate.
    pub(super) async fn send(&self, conversations: &[String]) -> Result<(), SoakError> {
        let mut rng = self.plan.rng(4);
        let pace = self.plan.length / u32::try_from(self.plan.events.max(1)).unwrap_or(u32::MAX);
        let mut ticks = interval(pace);
        for number in 0..self.plan.events {
            ticks.tick().await;
            let malformed = number % MALFORMED_INTERVAL == MALFORMED_INTERVAL / 2;
            let kind = EVENT_TYPES[rng.usize(..EVENT_TYPES.len())];
            // Each conversation is active for a part of the run.
            let turn = number * conversations.len() / self.plan.events
                + rng.usize(..CONCURRENT_CONVERSATIONS);
            let conversation = &conversations[turn % conversations.len()];
            let event = if malformed {
                self.gladly.emit("CONVERSATION/CLOSED", "../agents")
            } else {
                self.gladly.emit(kind, conversation)
            };
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            let mut sent = lock(&self.sent);
            if malformed {
                sent.malformed.insert(id.clone());
            }
            sent.all.insert(id);
            self.emitted.store(number + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Waits until Gladly has nothing more to send, or has disabled the webhook.
    pub(super) async fn all_delivered_or_disabled(&self) {
        let is_taken = |gladly: &Gladly| {
            let taken: BTreeSet<_> = gladly
                .attempts()
                .into_iter()
                .filter(|attempt| attempt.status.is_some_and(|status| (200..300).contains(&status)))
                .map(|attempt| attempt.event)
                .collect();
            lock(&self.sent).all.is_subset(&taken) || gladly.webhooks()[0]["enabled"] != true
        };
        while !is_taken(self.gladly) {
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Generates conversations, each with a message with the text to search for.
pub(super) fn populate(gladly: &Gladly, count: usize) -> Vec<String> {
    let mut organization = gladly.organization();
    organization.generate_conversations(count);
    let conversations: Vec<_> = organization.conversations.keys().cloned().collect();
    for id in &conversations {
        let message =
            json!({"type": "SMS", "from": "+15555550100", "to": "+1", "content": MESSAGE_TEXT});
        organization.add_item(id, message);
    }
    conversations
}
