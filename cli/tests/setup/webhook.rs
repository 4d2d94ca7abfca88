//! `webhook`.

use serde_json::{Value, json};
use testing::{
    fault::Fault,
    gladly::{self, ERASURE_TYPES, EVENT_TYPES},
};

use crate::sandbox::Sandbox;

#[tokio::test]
async fn a_webhook_is_created_once_and_then_kept_up_to_date() {
    let refused = vec!["MESSAGE/RECEIVED".to_owned()];
    let options = gladly::Options { refused_events: refused, ..gladly::Options::default() };
    let sandbox = Sandbox::with("webhook", options).await;
    let hooks = || sandbox.gladly.webhooks();

    // Nothing at Gladly is changed while something is wrong.
    let webhooks = "/api/v1/webhooks";
    for (fault, code, part) in [
        (
            Fault::status(401).on("GET /api/v1/organization"),
            3,
            "rejected the token of relay@example.com",
        ),
        (Fault::status(403).on("GET /api/v1/webhooks"), 3, "needs the permission API User"),
        (Fault::status(503), 1, "Gladly answered HTTP 503"),
        (
            Fault::default().body("<html>").on("GET /api/v1/organization"),
            1,
            "does not answer like Gladly",
        ),
        (
            Fault::default().body("{}").on("GET /api/v1/webhooks"),
            1,
            "Gladly does not list the webhooks",
        ),
        (
            Fault::status(400)
                .body(r#"{"errors":{"attr":"url","code":"invalid","detail":"no answer"}}"#)
                .on(format!("POST {webhooks}")),
            1,
            "Gladly's PING to http://localhost:",
        ),
        (
            Fault::status(400)
                .body(r#"[{"attr":"name","code":"blank"}]"#)
                .on(format!("POST {webhooks}")),
            1,
            "does not accept the webhook: blank",
        ),
    ] {
        sandbox.gladly.fault(fault.times(1));
        sandbox.account(&["webhook"], &[]).await.fails(code, part);
    }
    // Gladly's quota is per second, so a call is repeated twice.
    let throttled = |times| Fault::status(429).on("GET /api/v1/webhooks").times(times);
    sandbox.gladly.fault(throttled(3));
    sandbox.account(&["webhook"], &[]).await.fails(1, "Gladly is throttling");
    assert_eq!(hooks(), Vec::<Value>::new());

    sandbox.gladly.fault(throttled(1));
    let ended = sandbox.local(&["webhook"], &[]).await;
    ended.shows(&[
        "Created the webhook of Sample Shop",
        "11 of 12",
        "MESSAGE/RECEIVED was left out",
        "enabled",
    ]);
    let [hook] = &hooks()[..] else { panic!("{:?}", hooks()) };
    assert_eq!(hook["name"], "gladly-relay (webhook)");
    assert_eq!(
        (&hook["url"], &hook["enabled"]),
        (&json!(sandbox.stack.webhook_url()), &json!(true))
    );
    assert_eq!(
        (&hook["headerKeys"], &hook["events"]),
        (&json!(["x-api-key"]), &[&EVENT_TYPES[..9], &ERASURE_TYPES].concat().into())
    );
    let pings = sandbox.gladly.attempts();
    assert_eq!(
        (pings.last().unwrap().kind.as_str(), pings.last().unwrap().status),
        ("PING", Some(200))
    );

    // Gladly has disabled it.
    sandbox.gladly.disable_webhook(hook["id"].as_str().unwrap());
    let ended = sandbox.account(&["webhook", "--output", "json"], &[]).await;
    assert_eq!(ended.json()["result"]["leftOut"], json!(["MESSAGE/RECEIVED"]));
    let [again] = &hooks()[..] else { panic!("{:?}", hooks()) };
    assert_eq!((&again["id"], &again["enabled"]), (&hook["id"], &json!(true)));
    sandbox
        .local(&["webhook"], &[])
        .await
        .shows(&["Updated the webhook of Sample Shop", "11 of 12"]);

    // Taken, although the list lacks it.
    sandbox.gladly.fault(Fault::default().body("[]").on("GET /api/v1/webhooks").times(1));
    sandbox.local(&["webhook"], &[]).await.fails(1, "already has the URL http://localhost:");
    // Deleted at Gladly between the list and the change.
    let change = Fault::status(404).on("PATCH /api/v1/webhooks/*");
    sandbox.gladly.fault(change.times(1));
    sandbox.local(&["webhook"], &[]).await.fails(1, "was just deleted at Gladly");
}

#[tokio::test]
async fn neither_a_wrong_token_nor_a_missing_key_nor_a_wrong_endpoint_reaches_gladly() {
    let sandbox = Sandbox::new("unready").await;
    let (token, key) = (&sandbox.settings.gladly_token, &sandbox.settings.webhook_keys[0]);
    let secret = async |what: &str, value: &str| {
        sandbox.stack.put_secret(&format!("/unready/{what}"), value).await.unwrap();
    };
    secret("gladly-token", "not-gladlys-token").await;
    sandbox.local(&["webhook"], &[]).await.fails(3, "rejected the token");
    secret("gladly-token", token).await;
    secret("webhook-keys", "short").await;
    let ended = sandbox.local(&["webhook"], &[]).await;
    ended.fails(1, "there is no webhook key in /unready/webhook-keys: gladly-relay secrets.");
    secret("webhook-keys", key).await;
    sandbox.write_up(&sandbox.stack.webhook_url().replace("/webhooks/gladly", "/nowhere"));
    sandbox.local(&["webhook"], &[]).await.fails(1, "answers a PING at http://localhost:");
    sandbox.write_up("http://example.com/webhooks/gladly");
    sandbox.local(&["webhook"], &[]).await.fails(1, "expected an https:// URL of the webhook");
    assert_eq!(sandbox.gladly.webhooks(), Vec::<Value>::new());
    let missing = ["webhook", "--stack", "not-deployed"];
    sandbox
        .at_account(&missing, &[])
        .await
        .fails(1, "there is no stack not-deployed in region us-east-1");
}

#[tokio::test]
async fn a_webhook_beyond_the_limit_is_refused_before_gladly_is_asked_for_it() {
    let sandbox = Sandbox::new("limit").await;
    for number in 0..20 {
        sandbox.gladly.subscribe(&format!("http://127.0.0.1:1/{number}"), &[]);
    }
    let ended = sandbox.local(&["webhook"], &[]).await;
    ended.fails(1, "there are 20 webhooks, and Gladly allows no more");
    // One that was made by hand is taken over, with what else it has.
    let id = sandbox.gladly.webhooks()[0]["id"].as_str().unwrap().to_owned();
    let change = json!({"url": sandbox.stack.webhook_url(), "headers": {"X-Api-Key": sandbox.settings.webhook_keys[0]},
        "events": ["CONVERSATION/REOPENED"]});
    let changed = reqwest::Client::new()
        .patch(format!("{}/api/v1/webhooks/{id}", sandbox.gladly.url()))
        .basic_auth(&sandbox.settings.gladly_email, Some(&sandbox.settings.gladly_token))
        .json(&change);
    assert_eq!(changed.send().await.unwrap().status(), 204);
    let ended = sandbox.local(&["webhook"], &[]).await;
    ended.shows(&["Updated", "12 of 12, and 1 more", "X-Api-Key"]);
    let hooks = sandbox.gladly.webhooks();
    let ours = hooks.iter().find(|hook| hook["id"] == id.as_str()).unwrap();
    // A second header in another spelling would have the relay reject everything.
    assert_eq!(ours["headerKeys"], json!(["X-Api-Key"]));
}

#[tokio::test]
async fn an_organisation_that_is_not_offered_deletions_is_told_what_follows() {
    let refused_events = ERASURE_TYPES.map(str::to_owned).into();
    let options = gladly::Options { refused_events, ..gladly::Options::default() };
    let sandbox = Sandbox::with("erasures", options).await;
    sandbox.local(&["webhook"], &[]).await.shows(&[
        "10 of 12",
        "CUSTOMER_PROFILE/DELETED was left out because Gladly rejects it here: the destination does not learn of them.",
        "CUSTOMER/MERGED was left out",
    ]);
    let doctor = sandbox.local(&["doctor"], &[]).await;
    doctor.shows(&[
        "lacks CUSTOMER_PROFILE/DELETED, CUSTOMER/MERGED: the destination does not learn of them",
    ]);
}
