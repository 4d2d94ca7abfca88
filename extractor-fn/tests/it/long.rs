//! Conversations that need more calls than an invocation has time for.

use serde_json::{Value, json};
use testing::connector::Reply;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    FIRST_BACKOFF,
    deadlines::{LEFT, TestApp, healthy_reply, records},
    settle,
};

/// `c-0` has this many voicemails, nine in ten with a transcript.
fn with_voicemails(count: usize, rate: &str) -> TestApp {
    TestApp::with(&[("GLADLY_REQUESTS_PER_SECOND", rate)], move |path| match path {
        "api/v1/conversations/c-0/items" => Reply::json(
            (0..count)
                .map(|n| json!({"id": format!("v-{n}"), "content": {"type": "VOICEMAIL"}}))
                .collect(),
        ),
        path if path.ends_with("1/voice-transcript") => Reply::status(404),
        path if path.ends_with("/voice-transcript") => {
            Reply::json(json!({"paragraphs": [{"transcript": path}]}))
        }
        path => healthy_reply(path),
    })
}

/// The latest delivered snapshot of `c-0`.
fn delivered(app: &TestApp) -> Option<Value> {
    let deliveries = app.sent("deliveries").into_iter().rev();
    let mut conversations = deliveries.flat_map(|delivery| {
        let delivery: Value = serde_json::from_str(&delivery).unwrap();
        delivery["conversations"].as_array().unwrap().clone()
    });
    conversations.find(|conversation| conversation["id"] == "c-0")
}

fn with_text(snapshot: &Value) -> usize {
    let items = snapshot["items"].as_array().unwrap();
    items.iter().filter(|item| item["text"].is_string()).count()
}

#[tokio::test(start_paused = true)]
async fn a_conversation_longer_than_an_invocation_progresses_in_each_and_delays_no_other() {
    let app = with_voicemails(1_000, "4");
    let began = Instant::now();
    settle(&app.extractor, &app.aws, &records(41), LEFT)
        .await
        .assert_returned(&["m-0"], FIRST_BACKOFF);
    assert!(began.elapsed() <= LEFT);
    let neighbours: Vec<Value> =
        app.sent("deliveries").iter().map(|sent| serde_json::from_str(sent).unwrap()).collect();
    let neighbours = neighbours.iter().flat_map(|sent| sent["events"].as_array().unwrap());
    assert_eq!(neighbours.count(), 40, "in the first invocation");
    assert_eq!(delivered(&app), None);

    // From now on it is processed last, and fetched parts are not fetched again.
    sleep(Duration::from_secs(36)).await;
    let second = Instant::now();
    let batch: Vec<_> = records(9).into_iter().map(|record| record.received(2)).collect();
    settle(&app.extractor, &app.aws, &batch, LEFT).await.is_done();
    let first_of = |part: &str| app.times(part).into_iter().find(|at| *at >= second).unwrap();
    assert!(first_of("conversations/c-0") > first_of("conversations/c-8"));
    let snapshot = delivered(&app).unwrap();
    assert_eq!((with_text(&snapshot), &snapshot["truncated"]), (900, &json!(false)));
    assert_eq!(app.times("voice-transcript").len(), 1_000);

    // The next event causes a complete fetch, as for any other conversation.
    settle(&app.extractor, &app.aws, &records(1), LEFT).await;
    assert!(app.times("voice-transcript").len() > 1_900);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_is_never_finished_is_delivered_truncated() {
    // Each attempt is in a new environment, which shares nothing with the others.
    for receives in 1..=4 {
        let app = with_voicemails(1_000, "1");
        let batch = [records(1).remove(0).received(receives)];
        let settled = settle(&app.extractor, &app.aws, &batch, LEFT).await;
        assert_eq!(settled.kept, ["m-0"]);
        assert!(settled.visibility["m-0"] > 0);
    }
    let app = with_voicemails(1_000, "1");
    let batch = [records(1).remove(0).received(5)];
    settle(&app.extractor, &app.aws, &batch, LEFT).await.is_done();
    let snapshot = delivered(&app).unwrap();
    assert_eq!(snapshot["truncated"], true);
    assert!(with_text(&snapshot) > 150, "{}", with_text(&snapshot));
    let newest = snapshot["items"][998]["text"].as_str().unwrap();
    assert!(newest.contains("v-998"), "the newest first");
}

#[tokio::test(start_paused = true)]
async fn started_conversations_back_off_and_the_others_return_immediately() {
    // 20 s leave 9 s to start in and 11.5 s to fetch in.
    let app = TestApp::with(&[("GLADLY_REQUESTS_PER_SECOND", "2")], |path| match path {
        "api/v1/conversations/c-0" => Reply::json(json!({"customerId": "slow"})),
        "api/v1/customer-profiles/slow" => Reply::Hang,
        path => healthy_reply(path),
    });
    let settled = settle(&app.extractor, &app.aws, &records(90), Duration::from_secs(20)).await;
    assert!(FIRST_BACKOFF.contains(&settled.visibility["m-0"]), "{settled:?}");
    assert_eq!(settled.visibility["m-89"], 0);
    for (id, wait) in &settled.visibility {
        let asked = app.times(&format!("{}/items", id.replace("m-", "conversations/c-"))).len();
        assert!(*wait > 0 || asked == 0, "{id} was started");
    }
    let begun = settled.visibility.values().filter(|wait| **wait > 0).count();
    assert!(begun <= 8, "as many as are fetched at once: {begun}");
}

#[tokio::test(start_paused = true)]
async fn only_conversations_that_the_rate_lets_finish_in_time_are_started() {
    // 11.5 s to fetch in, at 2 calls a second and 3 calls a conversation.
    let app = TestApp::with(&[("GLADLY_REQUESTS_PER_SECOND", "2")], healthy_reply);
    let settled = settle(&app.extractor, &app.aws, &records(90), Duration::from_secs(20)).await;
    assert!(settled.visibility.values().all(|wait| *wait == 0), "{settled:?}");
    assert!((80..90).contains(&settled.kept.len()), "{settled:?}");
    for id in &settled.kept {
        let conversation = id.replace("m-", "conversations/c-");
        assert!(app.times(&conversation).is_empty(), "{id} was started");
    }
}

#[tokio::test(start_paused = true)]
async fn transcripts_are_bounded_in_bytes() {
    let text = "x".repeat(1 << 20);
    let app = TestApp::new(move |path| match path {
        "api/v1/conversations/c-0/items" => Reply::json(
            (0..50)
                .map(|n| json!({"id": format!("v-{n}"), "content": {"type": "VOICEMAIL"}}))
                .collect(),
        ),
        path if path.ends_with("/voice-transcript") => {
            Reply::json(json!({"paragraphs": [{"transcript": text}]}))
        }
        path => healthy_reply(path),
    });
    settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
    let snapshot = delivered(&app).unwrap();
    assert_eq!(snapshot["truncated"], true);
    assert!((4..=8).contains(&with_text(&snapshot)), "{}", with_text(&snapshot));
}
