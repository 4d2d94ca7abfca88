//! `rotate-key`.

use serde_json::json;
use testing::{fault::Fault, gladly::Gladly};

use crate::sandbox::Sandbox;

const ROTATE: [&str; 1] = ["rotate-key"];

#[tokio::test]
async fn a_key_is_rotated_in_two_steps_and_the_old_one_removed_when_no_event_comes_with_it() {
    let sandbox = Sandbox::new("rotate").await;
    let old = sandbox.settings.webhook_keys[0].clone();
    sandbox.local(&["webhook"], &[]).await.shows(&[]);

    let first = sandbox.account(&ROTATE, &[]).await;
    first.shows(&[
        "Step 1 of 2",
        "Gladly sends the new key from now on",
        "gladly-relay rotate-key --stack rotate",
    ]);
    let keys = sandbox.keys().await;
    let [first, new] = keys.lines().collect::<Vec<_>>()[..] else { panic!("two keys") };
    assert_eq!((first, new.len()), (old.as_str(), 64));
    assert_eq!((sandbox.ping(&old).await, sandbox.ping(new).await), (200, 200));
    sandbox.gladly.organization().add_conversation("c-1", "u-1", []);
    sandbox.gladly.emit("CONVERSATION/CLOSED", "c-1");
    let accepted = |gladly: &Gladly| {
        gladly
            .attempts()
            .iter()
            .any(|attempt| attempt.kind != "PING" && attempt.status == Some(200))
    };
    assert!(sandbox.gladly.wait_for(accepted, std::time::Duration::from_mins(1)).await);

    // Nothing came, and then PINGs alone: neither proves anything.
    sandbox.account(&ROTATE, &[]).await.fails(1, "no event came in the last day");
    sandbox.metric("KeySlot", Some("2"), 0, 2);
    sandbox.metric("KeySlot", Some("1"), 10, 1);
    let ended = sandbox.account(&ROTATE, &[]).await;
    ended.fails(
        1,
        "no event came in the last day, with the new key or the old one, which proves nothing",
    );
    ended.prints(&["no event came in the last 14 days"]);
    sandbox.account(&["rotate-key", "--days", "14"], &[]).await.fails(1, "in the last 14 days");
    sandbox.front.refuse(
        "GetMetricStatistics",
        "",
        "AccessDenied",
        "User: ada is not authorized to perform: cloudwatch:GetMetricStatistics because",
    );
    let ended = sandbox.account(&ROTATE, &[]).await;
    ended.fails(
        3,
        "cloudwatch:GetMetricStatistics. Whether the old key is still used is therefore unknown",
    );
    sandbox.front.forget("GetMetricStatistics");
    let wrong = |arguments: &'static [&'static str]| sandbox.account(arguments, &[]);
    for arguments in [
        &["rotate-key", "--days", "30"][..],
        &["rotate-key", "--days", "0"],
        &["rotate-key", "--header", "maybe"],
        &["rotate-key", "--force=2"],
        &["rotate-key", "--force=false"],
    ] {
        assert_eq!(wrong(arguments).await.code, Some(2));
    }
    assert_eq!(sandbox.keys().await, keys, "nothing has changed");

    sandbox.metric("KeySlot", Some("2"), 0, 3);
    sandbox.metric("Queued", None, 0, 3);
    let ended = sandbox.account(&["rotate-key", "--output", "json"], &[]).await;
    assert_eq!(ended.json()["result"], json!({"step": 2, "keys": 1}), "{ended:?}");
    assert_eq!(sandbox.keys().await, new);
}

#[tokio::test]
async fn the_old_key_stays_while_events_come_with_it() {
    let sandbox = Sandbox::new("used").await;
    let (old, new) = (&sandbox.settings.webhook_keys[0], "n".repeat(40));
    sandbox.stack.put_secret("/used/webhook-keys", &format!("{old}\n{new}")).await.unwrap();
    sandbox.metric("KeySlot", Some("1"), 30, 2);
    sandbox.metric("Ignored", None, 30, 2);
    sandbox.metric("KeySlot", Some("2"), 0, 1);
    sandbox.metric("Queued", None, 0, 1);
    sandbox.metric("Unauthorized", None, 5, 7);
    let ended = sandbox.account(&ROTATE, &[]).await;
    ended.fails(1, "an event came with the old key in the last day, the last one around 20");
    assert!(ended.remarks.contains("gladly-relay webhook --stack used"), "{ended:?}");
    assert!(
        ended.remarks.contains("rotate-key --stack used --region us-east-1 --force"),
        "{ended:?}"
    );
    ended.prints(&["with the newer key; 7 requests were rejected with HTTP 401 in the last hour"]);
    assert_eq!(sandbox.keys().await.lines().count(), 2);
    // The limit of CloudWatch: 1,440 datapoints.
    assert!(!sandbox.front.calls("GetMetricStatistics").is_empty());
}

#[tokio::test]
async fn without_metrics_it_asks_and_with_force_it_asks_too() {
    let sandbox = Sandbox::new("forced").await;
    let old = sandbox.settings.webhook_keys[0].clone();
    let mine = "chosen-by-hand-chosen-by-hand-chosen";
    let by_hand = [("WEBHOOK_KEY", mine)];
    sandbox
        .local(&["rotate-key", "--header", "no"], &by_hand)
        .await
        .shows(&["Now set the header x-api-key", "gladly-relay webhook"]);
    assert_eq!(sandbox.keys().await, format!("{old}\n{mine}"));
    let ended = sandbox.local(&ROTATE, &[]).await;
    ended.fails(1, "the old key was not removed.").prints(&["has no metrics"]);

    let ended = sandbox.local(&["rotate-key", "--force"], &[]).await;
    ended.fails(2, "are rejected with HTTP 401 from then on. Without a terminal this needs --yes");
    assert!(ended.remarks.contains("Gladly has no webhook for this relay"), "{ended:?}");
    assert_eq!(sandbox.keys().await, format!("{old}\n{mine}"));
    let ended = sandbox.local(&["rotate-key", "--force", "--yes"], &[]).await;
    ended.shows(&["is removed now, because of --force", "The old key is removed"]);
    assert!(ended.remarks.contains("Gladly has no webhook for this relay"), "{ended:?}");
    assert_eq!(sandbox.keys().await, mine);
    let same = [("WEBHOOK_KEY", mine)];
    sandbox.local(&ROTATE, &same).await.fails(2, "expected a new webhook key");

    // Gladly did not accept the change: both keys are valid, and the next step waits for it.
    sandbox.local(&["webhook"], &[]).await.shows(&[]);
    sandbox.gladly.fault(Fault::status(500).on("PATCH /api/v1/webhooks/*").times(1));
    let ended = sandbox.local(&ROTATE, &[]).await;
    ended.fails(1, "step 1 is done: both keys are valid; but Gladly does not send the new key yet");
    assert_eq!(sandbox.keys().await.lines().count(), 2);
}
