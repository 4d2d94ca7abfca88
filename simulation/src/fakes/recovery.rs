//! Gladly's webhook, which Gladly or an operator disables, its list of events, and its
//! exports.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use testing::connector::Reply;
use tokio::time::sleep;

use super::status;
use crate::{
    constants::{EPOCH, WEBHOOK_URL, instant},
    gladly::{EXPORT_PERIOD, exports},
    plan::{Outage, Plan},
    sim::Simulation,
};

/// How far Gladly's list is behind.
const EVENT_LIST_LAG: SignedDuration = SignedDuration::from_secs(15);
/// The webhook's subscription: every event type of the relay.
const EVENT_TYPES: [&str; 11] = [
    "CONVERSATION/CREATED",
    "CONVERSATION/CLOSED",
    "CONVERSATION/NOTE_CREATED",
    "CONVERSATION/TOPIC_ADDED",
    "CONVERSATION/TOPIC_REMOVED",
    "CONVERSATION_ASSIGNEE/UPDATED",
    "CONVERSATION_STATUS/UPDATED",
    "CONTACT/MESSAGE_RECEIVED",
    "CONTACT/MESSAGE_SENT",
    "CUSTOMER_PROFILE/DELETED",
    "CUSTOMER/MERGED",
];

/// Gladly's reply to a request about webhooks, events or exports; none for other requests.
pub(super) async fn reply(sim: &Simulation, method: &str, path: &str) -> Option<Reply> {
    let now = sim.now();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let time = |name: &str| -> Timestamp {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name));
        value.and_then(|value| value.parse().ok()).unwrap_or(now)
    };
    match path {
        "/webhooks" => {
            let (off_since, by_hand) = {
                let gladly = &sim.state().gladly;
                (gladly.off_since, gladly.by_hand)
            };
            let mut webhook = json!({
                "id": "w-1", "url": WEBHOOK_URL, "enabled": off_since.is_none(),
                "events": EVENT_TYPES,
            });
            if let Some(at) = off_since.filter(|_| !by_hand) {
                webhook["disabledAtDueToRetryLimit"] = json!(at.to_string());
            }
            Some(Reply::json(json!([webhook])))
        }
        "/webhooks/w-1" if method == "PATCH" => {
            let now = sim.elapsed();
            let fails = |outage: &Outage| (outage.from..outage.to).contains(&now);
            if sim.plan.outages.iter().any(fails) {
                return Some(status(400));
            }
            sim.count("webhooks re-enabled");
            sim.state().gladly.off_since = None;
            Some(status(204))
        }
        "/events" => {
            let range = time("startAt=")..=time("endAt=").min(now - EVENT_LIST_LAG);
            let mut listed = sim.state().gladly.events.clone();
            listed.retain(|(at, _)| range.contains(at));
            listed.sort_by_key(|(at, _)| *at);
            // A long list takes a while.
            if sim.goes_wrong(0.5) {
                sleep(sim.time_between(1_000, 25_000)).await;
            }
            Some(Reply::text(listed.into_iter().map(|(_, event)| event + "\n").collect::<String>()))
        }
        "/export/jobs" => {
            let job = |n: i32| {
                let at = |number| (EPOCH + EXPORT_PERIOD * number).to_string();
                json!({"id": format!("j-{n}"), "files": ["conversation_items.jsonl"],
                       "parameters": {"startAt": at(n), "endAt": at(n + 1)}})
            };
            Some(Reply::json((-1..exports(now)).map(job).collect()))
        }
        _ => {
            let job = path.strip_prefix("/export/jobs/j-")?;
            let number: i32 = job.split('/').next()?.parse().ok()?;
            if sim.goes_wrong(0.3) {
                sleep(sim.time_between(1_000, 25_000)).await;
            }
            Some(Reply::text(exported(&sim.plan, number)))
        }
    }
}

/// The items of an export, one a line.
fn exported(plan: &Plan, number: i32) -> String {
    let range = EPOCH + EXPORT_PERIOD * number..EPOCH + EXPORT_PERIOD * (number + 1);
    let items = plan.conversations.iter().flat_map(|conversation| {
        conversation.items.iter().map(move |(at, _)| (conversation, instant(*at)))
    });
    let lines = items.filter(|(_, at)| range.contains(at)).map(|(conversation, at)| {
        let item = json!({"conversationId": conversation.id, "timestamp": at.to_string(),
                          "customerId": conversation.customer});
        item.to_string() + "\n"
    });
    lines.collect()
}
