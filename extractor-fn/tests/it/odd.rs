//! What once broke a promise: found by the fuzz targets, and kept for them in `fuzz/findings`.

use jiff::SignedDuration;
use local::destination::violations;
use serde_json::{Value, json};
use tokio::time::Duration;

use crate::{
    FIRST_WAIT, Record, raw_record, record, settle,
    time::{LEFT, Reply, World, records, working},
};

/// A world in which one path has this answer.
fn answering(path: &'static str, answer: impl Into<String>) -> World {
    let answer = answer.into();
    World::new(move |asked| match asked.strip_prefix("api/v1/") {
        Some(asked) if asked == path => Reply::Text(answer.clone()),
        _ => working(asked),
    })
}

/// What reaches the destination of a world that is handed these records.
async fn delivered(world: &World, records: &[Record]) -> Value {
    settle(&world.extractor, &world.aws, records, LEFT).await.is_done();
    let delivery = serde_json::from_str(&world.sent("deliveries")[0]).unwrap();
    assert_eq!(violations(&delivery), Vec::<String>::new());
    delivery
}

fn nested(levels: usize) -> String {
    format!(r#"{{"a":{}1{}}}"#, "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test(start_paused = true)]
async fn an_item_or_topic_without_an_id_still_fits_the_schema() {
    let items =
        r#"[{"content":{"type":"SMS","content":"Hello"}},{"id":"i-2"},{"id":"","content":7}]"#;
    let world = answering("conversations/c-0/items", items);
    let delivery = delivered(&world, &records(1)).await;
    let items = delivery["conversations"][0]["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert_eq!((&items[0]["text"], &items[1]["content"]), (&json!("Hello"), &json!({})));
    assert_eq!(items[0]["id"].as_str().unwrap().len(), 43, "the hash of its bytes");

    let world = answering("conversations/c-0", r#"{"topicIds":["","t-1"]}"#);
    let delivery = delivered(&world, &records(1)).await;
    assert_eq!(delivery["conversations"][0]["topics"], json!([{"id": "t-1"}]));
}

#[tokio::test(start_paused = true)]
async fn an_initiator_that_names_nobody_is_left_out() {
    let event = |initiator: Value| {
        let event =
            json!({"type": "A", "initiator": initiator, "content": {"conversationId": "c-0"}});
        [record(0, &event)]
    };
    for initiator in [json!({"id": 7}), json!({"type": null}), json!(["a", "b"]), json!("AGENT")] {
        let delivery = delivered(&World::new(working), &event(initiator.clone())).await;
        assert_eq!(delivery["events"][0].get("initiator"), None, "{initiator}");
    }
    for initiator in [json!({}), json!({"id": "a-1", "type": "AGENT", "new": 1})] {
        let delivery = delivered(&World::new(working), &event(initiator.clone())).await;
        assert_eq!(delivery["events"][0]["initiator"], initiator);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_nested_too_deeply_for_most_readers_is_left_out() {
    let items = format!(r#"[{{"id":"i-1","content":{}}}]"#, nested(200));
    let world = answering("conversations/c-0/items", items);
    let delivery = delivered(&world, &records(1)).await;
    assert_eq!(delivery["conversations"][0]["items"][0]["content"], json!({}));
    for (path, answer) in [
        ("conversations/c-0", format!(r#"{{"customAttributes":[{}]}}"#, nested(200))),
        ("customer-profiles/u", format!(r#"{{"id":"u","customAttributes":{}}}"#, nested(200))),
    ] {
        delivered(&answering(path, answer), &records(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_note_whose_type_is_given_twice_is_still_a_note() {
    let items = r#"[{"id":"i-1","content":{"type":"SMS","type":"CONVERSATION_NOTE","body":"hm"}}]"#;
    let world = World::with(&[("FORWARD_NOTES", "false")], |path| match path {
        "api/v1/conversations/c-0/items" => Reply::Text(items.into()),
        _ => working(path),
    });
    let delivery = delivered(&world, &records(1)).await;
    assert_eq!(delivery["conversations"][0]["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_wait_of_centuries_is_an_hour() {
    let centuries = Some("18446744073709551615");
    for at in ["deliveries", "api/v1/conversations/c-0"] {
        let world = World::new(move |path| match path {
            path if path == at => Reply::Status(429, centuries),
            _ => working(path),
        });
        let settled = settle(&world.extractor, &world.aws, &records(1), LEFT).await;
        settled.gives_back(&["m-0"], 3_600..=3_600);
        // An hour later Gladly is asked again.
        tokio::time::sleep(Duration::from_hours(1)).await;
        let asked = world.times(at).len();
        settle(&world.extractor, &world.aws, &records(1), LEFT).await;
        assert!(world.times(at).len() > asked, "{at}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_at_the_ends_of_time_harm_nobody() {
    const FIRST: &str = "-009999-01-02T01:59:59Z";
    let open = json!({"state": "open", "cause": "gladly", "reason": "x", "since": FIRST, "retryAt": FIRST, "waitSeconds": 60});
    let pass = json!({"events": {"pass": {"begunAt": FIRST, "renewed": 0}}});
    for (name, text) in [("breaker", open), ("renewal", pass)] {
        let world = World::new(working);
        world.aws.put(&format!("/relay/pause-{name}"), &text.to_string());
        assert_eq!(world.task("reconcile").await["state"], "running", "{name}");
    }
    let webhook = json!({"id": "w-1", "url": "https://relay.example.com", "disabledAtDueToRetryLimit": FIRST});
    let world =
        World::with(&[("WEBHOOK_URL", "https://relay.example.com")], move |path| match path {
            "api/v1/webhooks" => Reply::Json(json!([webhook])),
            _ => working(path),
        });
    assert_eq!(world.task("reconcile").await["state"], "running");

    let mut record = raw_record(0, "");
    record.first_received = jiff::Timestamp::MAX - SignedDuration::from_secs(1);
    let world = World::new(working);
    world.aws.put("/relay/pause", "paused");
    let settled = settle(&world.extractor, &world.aws, &[record], LEFT).await;
    settled.gives_back(&["m-0"], FIRST_WAIT);
}

#[tokio::test(start_paused = true)]
async fn one_odd_webhook_or_export_hides_no_other() {
    let ours = json!({"id": "w-1", "url": "https://relay.example.com", "enabled": true});
    let odd = [json!({"id": "../w", "url": "x"}), json!({"id": "w-2", "url": null}), json!(7)];
    let webhooks = json!([odd[0], odd[1], odd[2], ours]);
    let world =
        World::with(&[("WEBHOOK_URL", "https://relay.example.com")], move |path| match path {
            "api/v1/webhooks" => Reply::Json(webhooks.clone()),
            _ => working(path),
        });
    assert_eq!(world.task("watch").await["webhook"]["enabled"], true);

    let job = json!({"id": "j-1", "files": ["conversation_items.jsonl"],
                     "parameters": {"startAt": "2026-01-01T00:00:00Z", "endAt": "2026-01-02T00:00:00Z"}});
    let now = "2026-01-03T00:00:00Z".parse().unwrap();
    let world = World::at(now, &[], move |path| match path {
        path if path.starts_with("api/v1/export/jobs?") => Reply::Json(json!([{"id": "j-0"}, job])),
        path if path.ends_with("/files/conversation_items.jsonl") => Reply::Text(String::new()),
        _ => working(path),
    });
    let range = json!({"task": "import", "from": "2026-01-01T00:00:00Z"});
    assert_eq!(world.invoke(range).await.unwrap()["done"], true);
    assert_eq!(world.times("export/jobs/j-1/files").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_sqs_would_refuse_goes_back_escaped() {
    let event = r#"{"type":"A","content":{"conversationId":"c-1","note":"\uffff"}}"#;
    let message = format!(r#"{{"v":1,"receivedAt":"2026-01-02T03:04:05.678Z","event":{event}}}"#);
    // Somebody else's JSON: what was an escape is the character itself once it is read.
    let aside = json!({"v": 1, "receivedAt": "2026-01-02T03:04:05.678Z", "reason": "rejected", "detail": "why",
                       "origin": "extractor-fn", "raw": message.replace(r"\uffff", "\u{ffff}")});
    let world = World::new(working);
    let aside = aside.to_string().replace('\u{ffff}', r"\uffff");
    world.aws.state().send("quarantine", &aside, Vec::new(), 0, world.clock.now());
    assert_eq!(world.task("redrive").await["redriven"], 1);
    assert_eq!(world.aws.state().messages[0].body, message);
}
