//! `make rotate-key`.

use testing::{fault::Fault, gladly::Gladly};

use crate::sandbox::Sandbox;

#[tokio::test]
async fn a_key_is_rotated_in_two_steps_and_the_old_one_dropped_when_it_is_silent() {
    let sandbox = Sandbox::new("rotate").await;
    let old = sandbox.settings.webhook_keys[0].clone();
    sandbox.run("webhook", &[]).await.tells(&[]);
    sandbox.move_to_account("rotate");
    let account = [("STACK", "rotate")];
    let used = |slot: usize, used: bool| {
        let points = if used { r#"{"Timestamp":"2026-11-22T10:00:00Z","Sum":2.0}"# } else { "" };
        sandbox.prepare(
            &format!("get-metric-statistics-{slot}"),
            &format!(r#"{{"Datapoints":[{points}]}}"#),
        );
    };

    sandbox
        .run("rotate-key", &account)
        .await
        .tells(&["Step 1 of 2", "Gladly sends the new key from now on"]);
    let keys = sandbox.keys().await;
    let [first, new] = keys.lines().collect::<Vec<_>>()[..] else { panic!("two keys") };
    assert_eq!((first, new.len()), (old.as_str(), 64));
    assert_eq!((sandbox.ping(&old).await, sandbox.ping(new).await), (200, 200));
    sandbox.gladly.organization().add_conversation("c-1", "u-1", []);
    sandbox.gladly.emit("CONVERSATION/CLOSED", "c-1");
    let taken = |gladly: &Gladly| {
        gladly
            .attempts()
            .iter()
            .any(|attempt| attempt.kind != "PING" && attempt.status == Some(200))
    };
    assert!(sandbox.gladly.wait_for(taken, std::time::Duration::from_mins(1)).await);

    used(1, true);
    used(2, true);
    sandbox
        .run("rotate-key", &account)
        .await
        .complains("The old key was used in the last day, lastly around 2026-11-22T10:00:00Z");
    used(1, false);
    used(2, false);
    sandbox.run("rotate-key", &account).await.complains("Not one webhook came in the last day");
    sandbox.prepare("get-metric-statistics-1.error", "An error occurred (AccessDenied) when calling the GetMetricStatistics operation: User: ada is not authorized to perform: cloudwatch:GetMetricStatistics because");
    sandbox
        .run("rotate-key", &account)
        .await
        .complains("cloudwatch:GetMetricStatistics, so nothing tells");
    sandbox.forget("get-metric-statistics-1.error");
    sandbox
        .run("rotate-key", &[("STACK", "rotate"), ("DAYS", "30")])
        .await
        .complains("DAYS must be a number from 1 to 14");
    for (name, word) in [("FORCE", "false"), ("FORCE", "2"), ("HEADER", "maybe")] {
        let ended = sandbox.run("rotate-key", &[("STACK", "rotate"), (name, word)]).await;
        ended.complains(&format!("{name} must be yes or no"));
    }
    assert_eq!(sandbox.keys().await, keys, "nothing has changed");
    used(2, true);
    sandbox.run("rotate-key", &account).await.tells(&["Step 2 of 2", "The old key is dropped"]);
    assert_eq!(sandbox.keys().await, new);

    // Here nothing tells, so it asks; without a terminal that means no. Gladly may also be told by hand.
    let mine = "chosen-by-hand-chosen-by-hand-chosen";
    let by_hand = [("WEBHOOK_KEY", mine), ("HEADER", "no")];
    sandbox.run("rotate-key", &by_hand).await.tells(&["Now set the header x-api-key"]);
    assert_eq!(sandbox.keys().await, format!("{new}\n{mine}"));
    let ended = sandbox.run("rotate-key", &[]).await;
    ended.complains("Nothing was dropped.");
    assert!(ended.shown.contains("The emulated AWS keeps no metrics"), "{ended:?}");
    let ended = sandbox.run("rotate-key", &[("FORCE", "1")]).await;
    ended.tells(&["the old one goes now, as FORCE says", "The old key is dropped"]);
    assert_eq!(sandbox.keys().await, mine);
    // What belongs to the second step is looked at before the first.
    sandbox
        .run("rotate-key", &[("DAYS", "0")])
        .await
        .complains("DAYS must be a number from 1 to 14");
    assert_eq!(sandbox.keys().await, mine);

    // Gladly could not be told: both keys are valid, and the next step waits for it.
    sandbox.gladly.fault(Fault::status(500).on("PATCH /api/v1/webhooks/*").times(1));
    sandbox
        .run("rotate-key", &[])
        .await
        .complains("both keys are valid, but Gladly does not send the new one yet");
    assert_eq!(sandbox.keys().await.lines().count(), 2);
}
