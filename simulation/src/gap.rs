//! Gladly's side of a gap: its webhook, which it disables or somebody switches off, its list of
//! events, and its exports.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    fakes::{Reply, instant},
    function::{Failure, Function},
    world::{EPOCH, World},
};

/// The relay's webhook.
pub(crate) const WEBHOOK_URL: &str = "https://relay.example.com/webhooks/gladly";
/// How far Gladly's list is behind.
const LAG: SignedDuration = SignedDuration::from_secs(15);
/// The time that an export covers. It is there at its end.
const EXPORT: SignedDuration = SignedDuration::from_mins(10);
/// What is still to be recovered.
const DOCUMENTS: [&str; 2] = ["/relay/pause-backfill", "/relay/pause-import"];
/// What the webhook is subscribed to: what the relay wants.
const EVENTS: [&str; 9] = [
    "CONVERSATION/CREATED",
    "CONVERSATION/CLOSED",
    "CONVERSATION/NOTE_CREATED",
    "CONVERSATION/TOPIC_ADDED",
    "CONVERSATION/TOPIC_REMOVED",
    "CONVERSATION_ASSIGNEE/UPDATED",
    "CONVERSATION_STATUS/UPDATED",
    "CONTACT/MESSAGE_RECEIVED",
    "CONTACT/MESSAGE_SENT",
];

/// While events do not come by webhook.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    /// Somebody switches the webhook off; otherwise the endpoint fails, and Gladly does.
    pub(crate) by_hand: bool,
}

/// What Gladly knows.
#[derive(Debug, Default)]
pub(crate) struct Gap {
    /// Since when the webhook is off, if it is.
    off_since: Option<Timestamp>,
    by_hand: bool,
    /// Every event with its time, whether or not it came by webhook.
    happened: Vec<(Timestamp, String)>,
    /// Requests of the operator's that are not yet written down.
    asked: usize,
    /// Conversations that an import has to bring, and those that one has brought.
    wanted: BTreeSet<String>,
    imported: BTreeSet<String>,
}

impl World {
    /// Whether an event that happens now comes by webhook.
    pub(crate) fn is_heard(&self) -> bool {
        let now = self.elapsed();
        let fails = |outage: &Outage| !outage.by_hand && (outage.from..outage.to).contains(&now);
        !self.plan.outages.iter().any(fails) && self.state().gap.off_since.is_none()
    }

    /// Puts an event on Gladly's list.
    pub(crate) fn happen(&self, event: &Value) {
        let at = event["timestamp"].as_str().and_then(|at| at.parse().ok()).unwrap_or(EPOCH);
        self.state().gap.happened.push((at, event.to_string()));
    }

    /// Switches the webhook off.
    pub(crate) fn switch_off(&self, by_hand: bool) {
        self.count(if by_hand { "webhooks switched off" } else { "webhooks disabled by Gladly" });
        let now = self.now();
        let gap = &mut self.state().gap;
        (gap.off_since, gap.by_hand) = (Some(now), by_hand);
    }

    /// Switches the webhook on, as somebody does who has switched it off.
    pub(crate) fn switch_on(&self) {
        let gap = &mut self.state().gap;
        gap.off_since = gap.off_since.filter(|_| !gap.by_hand);
    }

    /// Notes that a conversation was imported.
    pub(crate) fn see_imported(&self, conversation: &str) {
        self.state().gap.imported.insert(conversation.to_owned());
    }

    /// Conversations that were to be imported and were not.
    pub(crate) fn missing_imports(&self) -> Vec<String> {
        let state = self.state();
        state.gap.wanted.difference(&state.gap.imported).cloned().collect()
    }

    /// Whether nothing is left to be recovered.
    pub(crate) fn is_recovered(&self) -> bool {
        let done = {
            let gap = &self.state().gap;
            gap.off_since.is_none() && gap.asked == 0
        };
        let account = self.aws.state();
        let text = |name: &str| account.parameters.get(name).map_or("{}", |text| text);
        done && DOCUMENTS.iter().all(|name| text(name) == "{}")
    }

    /// Gladly's answer about its webhooks, events and exports, if that is what it was asked for.
    pub(crate) async fn gap(&self, method: &str, path: &str) -> Option<Reply> {
        let now = self.now();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let time = |name: &str| -> Timestamp {
            let value = query.split('&').find_map(|pair| pair.strip_prefix(name));
            value.and_then(|value| value.parse().ok()).unwrap_or(now)
        };
        match path {
            "/webhooks" => {
                let (off_since, by_hand) = {
                    let gap = &self.state().gap;
                    (gap.off_since, gap.by_hand)
                };
                let mut webhook = json!({
                    "id": "w-1", "url": WEBHOOK_URL, "enabled": off_since.is_none(), "events": EVENTS,
                });
                if let Some(at) = off_since.filter(|_| !by_hand) {
                    webhook["disabledAtDueToRetryLimit"] = json!(at.to_string());
                }
                Some(Reply::json(&json!([webhook])))
            }
            "/webhooks/w-1" if method == "PATCH" => {
                let now = self.elapsed();
                let fails = |outage: &Outage| (outage.from..outage.to).contains(&now);
                if self.plan.outages.iter().any(fails) {
                    return Some(Reply::status(400));
                }
                self.count("webhooks re-enabled");
                self.state().gap.off_since = None;
                Some(Reply::status(204))
            }
            "/events" => {
                let range = time("startAt=")..=time("endAt=").min(now - LAG);
                let mut listed = self.state().gap.happened.clone();
                listed.retain(|(at, _)| range.contains(at));
                listed.sort_by_key(|(at, _)| *at);
                // A long list takes its time.
                if self.goes_wrong(0.5) {
                    sleep(self.time_between(1_000, 25_000)).await;
                }
                Some(Reply::text(listed.into_iter().map(|(_, event)| event + "\n").collect()))
            }
            "/export/jobs" => {
                let job = |n: i32| {
                    let at = |number| (EPOCH + EXPORT * number).to_string();
                    json!({"id": format!("j-{n}"), "files": ["conversation_items.jsonl"],
                           "parameters": {"startAt": at(n), "endAt": at(n + 1)}})
                };
                let whole = i32::try_from(now.duration_since(EPOCH).as_mins() / EXPORT.as_mins());
                Some(Reply::json(&(-1..whole.unwrap_or_default()).map(job).collect()))
            }
            _ => {
                let job = path.strip_prefix("/export/jobs/j-")?;
                let number: i32 = job.split('/').next()?.parse().ok()?;
                if self.goes_wrong(0.3) {
                    sleep(self.time_between(1_000, 25_000)).await;
                }
                Some(Reply::text(self.exported(number)))
            }
        }
    }

    /// What was said in the time of an export, a line an item.
    fn exported(&self, number: i32) -> String {
        let range = EPOCH + EXPORT * number..EPOCH + EXPORT * (number + 1);
        let items = self.plan.conversations.iter().flat_map(|conversation| {
            conversation.items.iter().map(move |(at, _)| (conversation, instant(*at)))
        });
        let lines = items.filter(|(_, at)| range.contains(at)).map(|(conversation, at)| {
            let item = json!({"conversationId": conversation.id, "timestamp": at.to_string(),
                              "customerId": conversation.customer});
            item.to_string() + "\n"
        });
        lines.collect()
    }

    /// The operator asks for a range until it is written down, as whoever does not get an answer.
    pub(crate) async fn ask(
        self: Arc<Self>,
        function: Arc<Function>,
        task: &'static str,
        from: Timestamp,
    ) {
        self.state().gap.asked += 1;
        let to = self.now();
        loop {
            let payload = json!({"task": task, "from": from.to_string(), "to": to.to_string()});
            let answer = function.invoke(&payload).await;
            self.note(|| format!("{task} from {from}: {answer:?}"));
            match answer {
                Ok(_) => break,
                Err(Failure::Refused(why)) if why.starts_with("the range is recorded") => break,
                // There is no export of it yet.
                Err(Failure::Refused(why)) if why.starts_with("from must be") => {
                    self.state().gap.asked -= 1;
                    return;
                }
                Err(_) => sleep(Duration::from_secs(20)).await,
            }
        }
        self.count(if task == "import" { "imports" } else { "backfills" });
        let mut state = self.state();
        state.gap.asked -= 1;
        if task == "import" {
            let whole = i32::try_from(to.duration_since(EPOCH).as_mins() / EXPORT.as_mins());
            let end = to.min(EPOCH + EXPORT * whole.unwrap_or_default());
            let is_in = |(at, _): &(Duration, String)| (from..end).contains(&instant(*at));
            let wanted =
                self.plan.conversations.iter().filter(|known| known.items.iter().any(is_in));
            state.gap.wanted.extend(wanted.map(|conversation| conversation.id.clone()));
        }
    }
}
