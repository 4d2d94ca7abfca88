//! The function uses every permission of its role and needs no other. All other tests run under the
//! role too, and are denied what it does not allow.

use jiff::SignedDuration;
use serde_json::json;
use testing::{
    aws::TABLE,
    connector::Reply,
    role::Role,
    settings::{DESTINATION_BUCKET_URL, DESTINATION_URL},
};
use tokio::time::{Duration, sleep};

use crate::{
    deadlines::{LEFT, TestApp, healthy_reply, records},
    raw_record, settle,
};

#[tokio::test(start_paused = true)]
async fn every_permission_is_needed_and_none_is_missing() {
    for (url, role) in [
        (DESTINATION_URL, Role::named("ExtractorRole")),
        (DESTINATION_BUCKET_URL, Role::with_a_bucket("ExtractorRole")),
    ] {
        needs_exactly(&role, url).await;
    }
}

async fn needs_exactly(role: &Role, destination: &str) {
    let settings = [("COVERAGE_TABLE", TABLE), ("DESTINATION_URL", destination)];
    let app = TestApp::with(&settings, |path| match path {
        path if path.starts_with("api/v1/events?") => Reply::text(String::new()),
        path if path.starts_with("api/v1/export/jobs?") => Reply::json(json!([{
            "id": "j-1", "files": ["conversation_items.jsonl"],
            "parameters": {"startAt": "2020-01-01T00:00:00Z", "endAt": "2099-01-01T00:00:00Z"},
        }])),
        path if path.contains("/files/") => Reply::text(String::new()),
        path if path.contains("/conversations/c-1") => Reply::status(401),
        path => healthy_reply(path),
    });
    app.aws.state().encrypts_bucket = true;
    // One event is delivered and one is quarantined; then Gladly rejects the token.
    let batch = [records(1), vec![raw_record(1, "no event")]].concat();
    settle(&app.extractor, &app.aws, &batch, LEFT).await.is_done();
    let refused = settle(&app.extractor, &app.aws, &records(2), LEFT).await;
    assert!(!refused.kept.is_empty());

    // Held for the whole retention.
    app.aws.put("/relay/pause", "paused");
    let now = app.clock.now();
    for queue in ["events", "quarantine"] {
        let mut account = app.aws.state();
        account.queue(queue, now).retention = SignedDuration::from_hours(24);
        account.send(queue, "held", Vec::new(), 0, now);
    }
    for _ in 0..24 {
        app.task("reconcile").await;
        sleep(Duration::from_hours(1)).await;
    }

    // The operator's tasks.
    let from = app.clock.now() - SignedDuration::from_hours(2);
    for task in ["status", "quarantine", "redrive"] {
        app.task(task).await;
    }
    app.invoke(json!({"task": "show", "id": "0123456789abcdef"})).await.unwrap_err();
    app.invoke(json!({"task": "discard", "reason": "exhausted"})).await.unwrap();
    for task in ["backfill", "import"] {
        // Repeated, so that a version may have been replaced unread.
        for _ in 0..2 {
            app.aws.put(&format!("/relay/pause-{task}"), "{}");
        }
        app.invoke(json!({"task": task, "from": from.to_string()})).await.unwrap();
    }

    let account = app.aws.state();
    assert_eq!(account.used, role.pairs_of_the_code(), "{destination}");
    assert!(account.denied.is_empty(), "{:?}", account.denied);
}
