//! The deliveries, checked against what Gladly showed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{
    Accepted, Context, Invocation,
    breaker::{BreakerHistory, NONE_FOUND},
};
use crate::{
    constants::{INVOCATION_TIMEOUT, elapsed, instant},
    plan::Plan,
};

/// How far an event may be ahead of the clock by which a snapshot covers it.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(5);
/// A list of names that failed is read again after a minute, by an environment that may have waited
/// for another call.
const NAME_LISTS_RETRIED: SignedDuration = SignedDuration::from_mins(3);
/// How far Gladly's reads may lag behind a close.
const READ_LAG: SignedDuration = SignedDuration::from_secs(30);
/// When what was given back for that comes again, at the earliest.
const SECOND_LOOK: SignedDuration = SignedDuration::from_secs(24);
/// This many missing conversations, and none found, mean a fault of Gladly.
const NOT_FOUND_LIMIT: usize = 10;

/// The deliveries until now.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    /// Every snapshot that it took, by conversation.
    snapshots: BTreeMap<String, Vec<Taken>>,
    /// From each event to its first delivery.
    pub(super) waits: Vec<Duration>,
    /// Conversations that were rejected alone.
    refused: BTreeSet<String>,
    /// When it last took anything.
    pub(super) accepted_at: Timestamp,
    /// Conversations that each environment called gone though they are not, since Gladly last
    /// showed it one or the breaker closed.
    pub(super) called_gone: BTreeMap<u64, BTreeSet<String>>,
    /// Conversations that any of them ever called gone.
    ever_gone: BTreeSet<String>,
}

/// A snapshot that the destination took.
#[derive(Debug)]
struct Taken {
    /// When its fetch began.
    fetched_at: Timestamp,
    /// Whether it shows a close.
    is_closed: bool,
    /// Whose delivery it was in.
    environment: u64,
}

impl Deliveries {
    pub(super) fn refused_alone(&self, conversation: &str) -> bool {
        self.refused.contains(conversation)
    }

    /// Whether an environment ever called it gone.
    pub(super) fn is_called_gone(&self, conversation: &str) -> bool {
        self.ever_gone.contains(conversation)
    }

    /// Notes which conversation, or which event's tombstones, were refused, if it was one.
    pub(super) fn refuse(&mut self, delivery: &Value) {
        let list = |name: &str| delivery[name].as_array().into_iter().flatten();
        let mut ids = conversations(delivery);
        ids.extend(list("conversations").filter_map(|it| it["id"].as_str()));
        ids.extend(list("tombstones").filter_map(|it| it["eventId"].as_str()));
        if let [id] = ids.iter().collect::<Vec<_>>()[..] {
            self.refused.insert((*id).to_owned());
        }
    }

    /// Records a delivery, or returns what is wrong with it.
    pub(super) fn take(
        &mut self,
        delivery: &Value,
        by: Invocation,
        (events, imported): (&mut BTreeMap<String, Accepted>, &mut BTreeSet<String>),
        breaker: &BreakerHistory,
        cx: &mut Context<'_>,
    ) -> Result<(), String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if delivery["schema"] != "gladly-relay/delivery/1"
            || delivery["organization"] != "acme.gladly.com"
        {
            return Err("another schema or organisation".into());
        }
        self.accepted_at = cx.now;
        let list = |name: &str| delivery[name].as_array().cloned().unwrap_or_default();
        let mut fetched = BTreeSet::new();
        for snapshot in list("conversations") {
            let (id, at) =
                (text(&snapshot["id"]), text(&snapshot["fetchedAt"]).parse::<Timestamp>());
            let at = at.map_err(|_| "no fetchedAt")?;
            check_snapshot(cx.plan, &snapshot, &id, at, cx.now)?;
            let is_closed = snapshot["status"] == "CLOSED";
            let taken = Taken { fetched_at: at, is_closed, environment: by.environment };
            self.snapshots.entry(id.clone()).or_default().push(taken);
            fetched.insert(id);
        }
        for event in list("events") {
            let (id, conversation) = (text(&event["id"]), text(&event["conversationId"]));
            let recorded =
                text(&event["timestamp"]).parse::<Timestamp>().map_err(|_| "no timestamp")?;
            if event["type"] == "RELAY/IMPORTED" && cx.plan.conversation(&conversation).is_some() {
                imported.insert(conversation);
                continue;
            }
            let Some(accepted) = events.get_mut(&id) else {
                return Err(format!("{id} is not an accepted event"));
            };
            let planned = &cx.plan.conversations[accepted.conversation];
            if event["type"].as_str().is_some_and(|kind| kind.starts_with("CUSTOMER")) {
                return Err(format!("{id} is among the events"));
            }
            if event["snapshot"] == "gone" {
                self.ever_gone.insert(conversation.clone());
            }
            if planned.id != conversation {
                return Err(format!("{id} is about {}, not {conversation}", planned.id));
            }
            accepted.deliveries += 1;
            let (first, waited) = (accepted.deliveries == 1, cx.now.duration_since(accepted.at));
            let is_close = event["type"] == "CONVERSATION/CLOSED";
            let known = self.snapshots.get(&conversation).into_iter().flatten();
            let shows = |taken: &Taken| {
                let needed = if is_close && !taken.is_closed { READ_LAG } else { CLOCK_SKEW };
                taken.fetched_at.duration_since(recorded) >= needed
            };
            let mut covering = known.clone().filter(|taken| shows(taken));
            let covered_itself = covering.clone().any(|taken| taken.environment == by.environment);
            let honest = match event["snapshot"].as_str() {
                // A close that is not shown yet is looked at again.
                Some("included") if is_close && waited < SECOND_LOOK && cx.plan.repeats == 0.0 => {
                    known.last().is_some_and(|taken| taken.is_closed)
                }
                Some("included") => fetched.contains(&conversation),
                Some("covered") if cx.plan.shares_coverage => covering.next().is_some(),
                Some("covered") => covered_itself,
                Some("gone") if planned.is_gone(elapsed(cx.now)) => {
                    let deletion = cx.plan.deletion(&planned.customer);
                    event["customerDeleted"].is_null()
                        || deletion.is_some_and(|it| instant(it.at) <= cx.now)
                }
                // Of a customer who was merged, the conversation may have been combined with another one.
                Some("gone") if cx.plan.was_merged(&planned.customer, cx.now) => was_missing(cx),
                // A few missing conversations count as gone, but never many, nor by an invocation
                // that began when the breaker was open for that.
                Some("gone") => {
                    let called = self.called_gone.entry(by.environment).or_default();
                    called.insert(conversation.clone());
                    let few = called.len() < NOT_FOUND_LIMIT;
                    few && !breaker.unclosed_before(by.began, "gladly", NONE_FOUND)
                        && was_missing(cx)
                }
                _ => false,
            };
            cx.journal.count(if first { "events delivered" } else { "events delivered again" });
            if first {
                let wait = cx.now.duration_since(recorded);
                self.waits.push(Duration::try_from(wait).unwrap_or_default());
            }
            if first && waited > cx.plan.retention {
                cx.journal.count("events delivered past the retention");
            }
            match event["snapshot"].as_str() {
                Some("covered") => {
                    cx.journal.count("events covered");
                    if !covered_itself {
                        cx.journal.count("events covered by another environment");
                    }
                }
                Some("gone") => cx.journal.count("events gone"),
                _ => {}
            }
            cx.note(|| {
                let environment = by.environment;
                format!("env {environment} delivers {id} of {conversation}, {}", event["snapshot"])
            });
            if !honest {
                return Err(format!("{id} has the snapshot {}", event["snapshot"]));
            }
        }
        Ok(())
    }
}

/// Whether Gladly may have had no conversation when an invocation asked that delivers now.
fn was_missing(cx: &Context<'_>) -> bool {
    (0..=INVOCATION_TIMEOUT.as_secs()).any(|ago| {
        let at = elapsed(cx.now).saturating_sub(Duration::from_secs(ago));
        cx.plan.is_missing(at, at)
    })
}

/// The conversations that a delivery has events of.
pub(crate) fn conversations(delivery: &Value) -> BTreeSet<&str> {
    let events = delivery["events"].as_array().into_iter().flatten();
    events.filter_map(|event| event["conversationId"].as_str()).collect()
}

/// Whether a snapshot is whole and of one conversation.
fn check_snapshot(
    plan: &Plan,
    snapshot: &Value,
    id: &str,
    fetched_at: Timestamp,
    now: Timestamp,
) -> Result<(), String> {
    let conversation = plan.conversation(id);
    let conversation = conversation.ok_or_else(|| format!("there is no conversation {id}"))?;
    let merged = plan.is_merged(&conversation.customer).unwrap_or_default();
    let customer = format!("{}{}", conversation.customer, if merged { "-merged" } else { "" });
    let erasure = plan.erasure(&conversation.customer);
    let into = erasure.filter(|it| instant(it.at) <= now).and_then(|it| it.into.as_deref());
    let is_own = |id: &Value| *id == *customer || into.is_some_and(|into| *id == *into);
    let deletion = plan.deletion(&conversation.customer);
    // Between the calls of a fetch.
    let may_lack_customer = deletion.is_some_and(|it| instant(it.shown_at) <= now);
    let has_customer = is_own(&snapshot["customer"]["id"])
        && snapshot["customer"]["id"] == snapshot["customerId"]
        || may_lack_customer && snapshot["customer"].is_null();
    if !is_own(&snapshot["customerId"]) || !has_customer {
        return Err(format!(
            "{id} is of {} and has {}",
            snapshot["customerId"], snapshot["customer"]
        ));
    }
    let items = snapshot["items"].as_array().map_or(&[][..], |items| items);
    let there: BTreeSet<_> = items.iter().filter_map(|item| item["id"].as_str()).collect();
    for (at, item) in &conversation.items {
        if instant(*at) <= fetched_at && !there.contains(item.as_str()) {
            return Err(format!("{item} showed before the fetch"));
        }
    }
    for item in items {
        let item_id = item["id"].as_str().unwrap_or_default();
        let whole = item_id.starts_with(&format!("{id}-i-"))
            && item["type"] == "SMS"
            && item["text"] == format!("text of {item_id}")
            && item["author"] == json!({"kind": "customer", "id": conversation.customer});
        if !whole {
            return Err(format!("{id} has the item {item}"));
        }
    }
    // A failed list of names omits only names, until a minute after it can be read again.
    let may_lack = fetched_at < instant(plan.calm) + NAME_LISTS_RETRIED;
    let named = |entry: &Value, name: &str| {
        entry["id"].is_string() && (entry["name"] == name || may_lack && entry["name"].is_null())
    };
    let named = named(&snapshot["inbox"], "Help")
        && named(&snapshot["agent"], "Ada")
        && named(&snapshot["topics"][0], "Refunds");
    let mut statuses = (0..=now.duration_since(fetched_at).as_secs() * 2).map(|half| {
        elapsed(fetched_at) + Duration::from_millis(500) * u32::try_from(half).unwrap_or(0)
    });
    let is_right = statuses.any(|at| snapshot["status"] == conversation.status(at))
        || snapshot["status"] == conversation.status(elapsed(now));
    if !is_right || !named {
        return Err(format!("{id} lacks what Gladly has of it"));
    }
    Ok(())
}
