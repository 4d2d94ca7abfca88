//! Gladly's side: its webhook is watched, and what it could not tell us is asked for.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use local::{
    aws::{Fault, THROTTLED, Unproven},
    gladly::EVENT_TYPES,
};
use serde_json::{Value, json};
use shared::QueueMessage;
use tokio::time::{Duration, sleep};

use crate::time::{Reply, World, working};

const URL: &str = "https://relay.example.com/webhooks/gladly";

/// Gladly's webhooks and events, and whether it gets an answer to its PING.
#[derive(Default)]
pub(crate) struct Side {
    pub(crate) webhooks: Value,
    pub(crate) pings: bool,
    pub(crate) events: Vec<(Timestamp, String)>,
}

pub(crate) fn webhook(enabled: bool) -> Value {
    json!({"id": "w-1", "name": "ours", "url": URL, "enabled": enabled, "events": EVENT_TYPES})
}

/// A world whose Gladly has this side.
pub(crate) fn watched(side: Side) -> (World, Arc<Mutex<Side>>) {
    let side = Arc::new(Mutex::new(side));
    let world = World::with(&[("WEBHOOK_URL", URL)], {
        let side = Arc::clone(&side);
        move |path| {
            let mut side = side.lock().unwrap();
            match path {
                "api/v1/webhooks" => Reply::Json(side.webhooks.clone()),
                // Gladly answers a change with 204; only an enabling is ever asked for.
                "api/v1/webhooks/w-1" if side.pings => {
                    side.webhooks = json!([webhook(true)]);
                    Reply::Status(204, None)
                }
                "api/v1/webhooks/w-1" => Reply::Status(400, None),
                path if path.starts_with("api/v1/events?") => Reply::Text(listed(&side, path)),
                _ => working(path),
            }
        }
    });
    (world, side)
}

/// Gladly's list of a range, oldest first.
fn listed(side: &Side, path: &str) -> String {
    let time = |name: &str| -> Timestamp {
        let value = path.split(['?', '&']).find_map(|pair| pair.strip_prefix(name)).unwrap();
        value.trim_start_matches('=').parse().unwrap()
    };
    let range = time("startAt")..=time("endAt");
    let mut text = String::new();
    for (_, event) in side.events.iter().filter(|(at, _)| range.contains(at)) {
        writeln!(text, "{event}").unwrap();
    }
    text
}

fn event(number: i32, at: Timestamp) -> (Timestamp, String) {
    let id = format!("e-{number}");
    let content = json!({"conversationId": format!("c-{}", number % 10), "customerId": "u"});
    let event = json!({"id": id, "type": "CONVERSATION/CLOSED", "timestamp": at.to_string(), "content": content});
    (at, event.to_string())
}

impl World {
    /// The ids of the events that were queued, each with its origin looked at.
    fn queued(&self) -> Vec<String> {
        let messages = self.aws.state().messages.clone();
        let id = |body: &str| {
            assert!(body.ends_with(r#","origin":"backfill"}"#), "{body}");
            let message = QueueMessage::read(body).unwrap();
            message.event().unwrap().id.unwrap().to_string()
        };
        messages.iter().map(|message| id(&message.body)).collect()
    }

    fn work(&self) -> Value {
        let text = self.aws.state().parameters.get("/relay/pause-backfill").cloned();
        text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn the_webhook_is_asked_about_every_five_minutes_and_told() {
    let mut few = webhook(true);
    few["events"] = json!(EVENT_TYPES[1..]);
    let other = json!({"id": "w-2", "url": "https://elsewhere.example.com", "enabled": true, "events": EVENT_TYPES});
    for (webhooks, enabled, told) in [
        (json!([other, webhook(true)]), true, json!({})),
        (json!([other]), false, json!({"missing": true})),
        (json!([]), false, json!({"missing": true})),
        (json!([few]), true, json!({"missingEvents": ["CONVERSATION/CREATED"]})),
        // Switched off by hand: somebody's decision.
        (json!([webhook(false)]), false, json!({})),
    ] {
        let (world, side) = watched(Side { webhooks, pings: true, ..Side::default() });
        for _ in 0..20 {
            world.task("reconcile").await;
            sleep(Duration::from_mins(1)).await;
        }
        assert_eq!(world.times("webhooks").len(), 4, "in twenty minutes");
        let mut webhook = world.task("status").await["webhook"].take();
        webhook.as_object_mut().unwrap().remove("checkedAt").unwrap();
        assert_eq!(webhook["enabled"].take(), enabled);
        webhook.as_object_mut().unwrap().remove("enabled");
        assert_eq!(webhook, told);
        assert_eq!(side.lock().unwrap().events.len(), 0);
        assert_eq!(world.work(), Value::Null, "there is no gap");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gladly_that_refuses_us_is_not_asked_more_often() {
    let world = World::with(&[("WEBHOOK_URL", URL)], |_| Reply::Status(401, None));
    for _ in 0..20 {
        let _ = world.invoke(json!({"task": "reconcile"})).await;
        sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(world.times("webhooks").len(), 4, "in twenty minutes");
}

#[tokio::test(start_paused = true)]
async fn a_gladly_that_fails_is_not_asked_more_often_for_a_gap_either() {
    let world = World::new(|_| Reply::Status(500, None));
    let now = world.clock.now();
    let range = |hours| (now - SignedDuration::from_hours(hours)).to_string();
    let begun = json!({"events": {"from": range(3), "to": range(1)}});
    world.aws.put("/relay/pause-backfill", &begun.to_string());
    for _ in 0..20 {
        let told = world.invoke(json!({"task": "reconcile"})).await;
        assert!(told.is_ok() || told.unwrap_err().to_string().contains("Gladly is not ready"));
        sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(world.times("events").len(), 4, "in twenty minutes");

    // An operator does not wait.
    let asked = json!({"task": "backfill", "from": range(3), "to": range(1)});
    for _ in 0..3 {
        world.invoke(asked.clone()).await.unwrap_err();
    }
    assert_eq!(world.times("events").len(), 7);
    assert_ne!(world.work(), json!({}), "nothing is given up");
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_where_nobody_watches() {
    for settings in [&[("WEBHOOK_URL", URL), ("WATCH_WEBHOOK", "false")][..], &[]] {
        let world = World::with(settings, |_| Reply::Status(500, None));
        world.task("reconcile").await;
        assert_eq!(world.task("status").await.get("webhook"), None);
        assert!(world.times("").is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_gladly_gave_up_is_switched_on_and_its_gap_is_filled() {
    let mut given_up = webhook(false);
    let (world, side) = watched(Side::default());
    let now = world.clock.now();
    given_up["disabledAtDueToRetryLimit"] =
        (now - SignedDuration::from_mins(10)).to_string().into();
    side.lock().unwrap().webhooks = json!([given_up]);
    // Before the gap, in it, and after.
    let ages = [150, 129, 60, 5];
    let mut events: Vec<_> = ages
        .iter()
        .enumerate()
        .map(|(number, age)| (number.try_into().unwrap(), *age))
        .map(|(number, age)| event(number, now - SignedDuration::from_mins(age)))
        .collect();
    events.push((now, "not JSON".into()));
    events.push((now, json!({"type": "CONTACT/STARTED", "content": {}}).to_string()));
    side.lock().unwrap().events = events;

    // Our endpoint does not answer Gladly's PING yet.
    world.task("reconcile").await;
    let first = world.aws.state().writes[0].text.clone();
    let begins = now - SignedDuration::from_mins(130);
    assert_eq!(first, json!({"events": {"from": begins.to_string()}}).to_string());
    assert_eq!(world.queued().len(), 3, "what can be had already is");
    assert_eq!(world.work()["events"].get("to"), None, "the gap still lasts");
    assert_eq!(world.task("status").await["webhook"]["enabled"], false);
    sleep(Duration::from_mins(2)).await;
    let late = world.clock.now() - SignedDuration::from_secs(10);
    side.lock().unwrap().events.push(event(4, late));
    side.lock().unwrap().pings = true;
    for _ in 0..6 {
        sleep(Duration::from_mins(1)).await;
        world.task("reconcile").await;
    }
    assert_eq!(world.task("status").await["webhook"]["enabled"], true);
    assert_eq!(world.work(), json!({}), "all is done");
    assert_eq!(
        world.queued().into_iter().collect::<BTreeSet<_>>(),
        ["e-1", "e-2", "e-3", "e-4"].map(String::from).into()
    );
    world.assert_pause_is_the_operators();
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_the_switching_on_loses_no_gap() {
    let (world, side) = watched(Side { webhooks: json!([webhook(true)]), ..Side::default() });
    let now = world.clock.now();
    side.lock().unwrap().events = vec![event(1, now - SignedDuration::from_mins(30))];
    let begun = json!({"events": {"from": (now - SignedDuration::from_mins(60)).to_string()}});
    world.aws.put("/relay/pause-backfill", &begun.to_string());
    for _ in 0..3 {
        world.task("reconcile").await;
        sleep(Duration::from_mins(1)).await;
    }
    assert_eq!(world.queued(), ["e-1"]);
    assert_eq!(world.work(), json!({}));
}

#[tokio::test(start_paused = true)]
async fn a_range_is_cut_to_what_gladly_has_and_goes_on_after_a_fault() {
    let (world, side) = watched(Side { webhooks: json!([webhook(true)]), ..Side::default() });
    let now = world.clock.now();
    let hours = |hours| now - SignedDuration::from_hours(hours);
    let at = |n: i32| hours(23) + SignedDuration::from_secs(i64::from(n) * 10);
    let events = (0..2_500).map(|n| event(n, at(n)));
    side.lock().unwrap().events = events.collect();
    let range =
        json!({"task": "backfill", "from": hours(48).to_string(), "to": hours(1).to_string()});

    world.aws.state().sqs_fault = Some(THROTTLED);
    let told = world.invoke(range.clone()).await.unwrap_err().to_string();
    assert!(told.starts_with("the range is noted, and goes on by itself once it can"), "{told}");
    assert!(told.contains("could not send to SQS"), "{told}");
    world.aws.state().sqs_fault = None;
    world.task("reconcile").await;
    assert_eq!(world.queued().len(), 2_500, "the controller goes on by itself");
    assert_eq!(world.work(), json!({}));

    let done = world.invoke(range).await.unwrap();
    assert_eq!(
        (&done["queued"], &done["cut"], &done["done"]),
        (&json!(2_500), &json!(true), &json!(true))
    );
    for (from, to) in [(hours(1), hours(2)), (hours(50), hours(30))] {
        let range = json!({"task": "backfill", "from": from.to_string(), "to": to.to_string()});
        let told = world.invoke(range).await.unwrap_err().to_string();
        assert!(told.contains("within the last 24 hours"), "{told}");
    }
    let told = world.invoke(json!({"task": "backfill"})).await.unwrap_err().to_string();
    assert!(told.starts_with("from is missing"), "{told}");
}

#[tokio::test(start_paused = true)]
async fn what_sqs_took_only_in_part_is_queued_again() {
    let (world, side) = watched(Side { webhooks: json!([webhook(true)]), ..Side::default() });
    let begins = world.clock.now() - SignedDuration::from_hours(1);
    let at = |n: i32| begins + SignedDuration::from_secs(n.into());
    side.lock().unwrap().events = (0..25).map(|n| event(n, at(n))).collect();
    // Answered 200 all the same.
    world.aws.state().sqs_faults = [Fault::Entries(0b101)].into();
    let range = json!({"task": "backfill", "from": begins.to_string()});
    let told = world.invoke(range.clone()).await.unwrap_err().to_string();
    assert!(told.ends_with("SQS did not take some of the messages: 2 of 10"), "{told}");
    // Answered 200, without an id for any of them.
    world.aws.state().sqs_faults = [Fault::Unproven(Unproven::Unnamed)].into();
    let told = world.invoke(range).await.unwrap_err().to_string();
    assert!(told.ends_with("SQS did not take some of the messages: 10 of 10"), "{told}");
    sleep(Duration::from_mins(1)).await;
    world.task("reconcile").await;
    assert_eq!(world.queued().into_iter().collect::<BTreeSet<_>>().len(), 25);
    assert_eq!(world.work(), json!({}));
}

#[tokio::test(start_paused = true)]
async fn an_import_queues_one_event_for_each_conversation_of_the_exports() {
    let now = Timestamp::now();
    let days = |days: i64| now - SignedDuration::from_hours(24 * days);
    let job = |id: &str, from: i64| {
        json!({"id": id, "status": "COMPLETED", "files": ["agents.jsonl", "conversation_items.jsonl"],
               "parameters": {"type": "X", "startAt": days(from).to_string(), "endAt": days(from - 1).to_string()}})
    };
    let item = |conversation: &str, day: i64| {
        let at = days(day) + SignedDuration::from_hours(1);
        json!({"id": "i", "conversationId": conversation, "customerId": "u", "timestamp": at.to_string(), "content": {}}).to_string()
    };
    let files = [
        [item("c-1", 4), item("c-2", 4), "garbage".to_owned(), json!({"id": "i"}).to_string()]
            .join("\n"),
        [item("c-1", 3), item("c-1", 3)].join("\n"),
    ];
    let fetched = Arc::new(AtomicUsize::new(0));
    let world = World::new({
        let fetched = Arc::clone(&fetched);
        let jobs = json!([job("j-2", 3), job("j-1", 4), job("j-0", 9)]);
        move |path| match path {
            path if path.starts_with("api/v1/export/jobs?") => Reply::Json(jobs.clone()),
            path if path.ends_with("/files/conversation_items.jsonl") => {
                fetched.fetch_add(1, Ordering::Relaxed);
                Reply::Text(files[usize::from(path.contains("j-2"))].clone())
            }
            _ => working(path),
        }
    });
    let range = json!({"task": "import", "from": days(5).to_string()});
    let done = world.invoke(range).await.unwrap();
    assert_eq!((&done["queued"], &done["done"]), (&json!(3), &json!(true)), "{done}");
    assert_eq!(fetched.load(Ordering::Relaxed), 2, "an export outside the range is not read");
    let messages = world.aws.state().messages.clone();
    let last: Value = serde_json::from_str(&messages[2].body).unwrap();
    assert_eq!(last["origin"], "backfill");
    assert_eq!(
        last["event"],
        json!({"type": "RELAY/IMPORTED", "timestamp": (days(3) + SignedDuration::from_hours(1)).to_string(),
               "content": {"customerId": "u", "conversationId": "c-1"}})
    );
    assert_eq!(messages[2].attributes, [("type".to_owned(), "RELAY/IMPORTED".to_owned())]);
}
