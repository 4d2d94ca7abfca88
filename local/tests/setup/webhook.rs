//! `make webhook`.

use std::fs;

use serde_json::{Value, json};
use testing::{
    fault::Fault,
    gladly::{self, EVENT_TYPES},
};

use crate::sandbox::Sandbox;

#[tokio::test]
async fn a_webhook_is_created_once_and_then_kept_in_line() {
    let refused = vec!["MESSAGE/RECEIVED".to_owned()];
    let options = gladly::Options { refused_events: refused, ..gladly::Options::default() };
    let sandbox = Sandbox::with("webhook", options).await;
    let hooks = || sandbox.gladly.webhooks();

    // Nothing at Gladly is touched while something is wrong.
    sandbox.shorten("webhook");
    let webhooks = "/api/v1/webhooks";
    for (fault, complaint) in [
        (
            Fault::status(401).on("GET /api/v1/organization"),
            "refuses the token of relay@example.com",
        ),
        (Fault::status(403).on("GET /api/v1/webhooks"), "needs the permission API User"),
        (Fault::status(429), "too many requests"),
        (Fault::status(503), "Gladly is out of order"),
        (
            Fault::default().body("<html>").on("GET /api/v1/organization"),
            "does not answer like Gladly",
        ),
        (
            Fault::status(400)
                .body(r#"{"errors":{"attr":"url","code":"invalid","detail":"no answer"}}"#)
                .on(format!("POST {webhooks}")),
            "Gladly's PING to http://localhost:",
        ),
        (
            Fault::status(400)
                .body(r#"[{"attr":"name","code":"blank"}]"#)
                .on(format!("POST {webhooks}")),
            "does not accept the webhook: blank",
        ),
    ] {
        sandbox.gladly.fault(fault.times(1));
        sandbox.run("webhook", &[]).await.complains(complaint);
    }
    assert_eq!(hooks(), Vec::<Value>::new());
    sandbox.lengthen();

    let ended = sandbox.run("webhook", &[]).await;
    ended.tells(&[
        "Created the webhook of Sample Shop",
        "9 of 10",
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
        (&json!(["x-api-key"]), &json!(EVENT_TYPES[..9]))
    );
    let pings = sandbox.gladly.attempts();
    assert_eq!((pings[0].kind.as_str(), pings[0].status), ("PING", Some(200)));

    // Gladly gave it up.
    sandbox.gladly.disable_webhook(hook["id"].as_str().unwrap());
    sandbox.run("webhook", &[]).await.tells(&["Updated the webhook of Sample Shop", "9 of 10"]);
    let [again] = &hooks()[..] else { panic!("{:?}", hooks()) };
    assert_eq!((&again["id"], &again["enabled"]), (&hook["id"], &json!(true)));

    // Taken, though the list does not tell.
    sandbox.gladly.fault(Fault::default().body("[]").on("GET /api/v1/webhooks").times(1));
    sandbox.run("webhook", &[]).await.complains("has the URL http://localhost:");

    // Neither the token nor the key there is will do; the endpoint is not there.
    sandbox.stack.put_secret("/webhook/gladly-token", "not-gladlys-token").await.unwrap();
    sandbox.run("webhook", &[]).await.complains("refuses the token");
    sandbox
        .stack
        .put_secret("/webhook/gladly-token", &sandbox.settings.gladly_token)
        .await
        .unwrap();
    sandbox.stack.put_secret("/webhook/webhook-keys", "short").await.unwrap();
    sandbox
        .run("webhook", &[])
        .await
        .complains("there is no webhook key in /webhook/webhook-keys: make secrets");
    sandbox
        .stack
        .put_secret("/webhook/webhook-keys", &sandbox.settings.webhook_keys[0])
        .await
        .unwrap();
    let up = fs::read_to_string(sandbox.folder.join(".local/up/aws.env")).unwrap();
    let gone = up.replace("/webhooks/gladly", "/nowhere");
    fs::write(sandbox.folder.join(".local/up/aws.env"), gone).unwrap();
    sandbox.run("webhook", &[]).await.complains("answers a PING at http://localhost:");
    fs::write(sandbox.folder.join(".local/up/aws.env"), up).unwrap();
}

#[tokio::test]
async fn a_webhook_too_many_is_told_before_gladly_is_asked_for_it() {
    let sandbox = Sandbox::new("limit").await;
    for number in 0..20 {
        sandbox.gladly.subscribe(&format!("http://127.0.0.1:1/{number}"), &[]);
    }
    sandbox.run("webhook", &[]).await.complains("there are 20 webhooks, and Gladly allows no more");
    // One that was made by hand is taken over, with what else it has.
    let id = sandbox.gladly.webhooks()[0]["id"].as_str().unwrap().to_owned();
    let change = json!({"url": sandbox.stack.webhook_url(), "headers": {"X-Api-Key": sandbox.settings.webhook_keys[0]},
        "events": ["CONVERSATION/REOPENED"]});
    let changed = reqwest::Client::new()
        .patch(format!("{}/api/v1/webhooks/{id}", sandbox.gladly.url()))
        .basic_auth(&sandbox.settings.gladly_email, Some(&sandbox.settings.gladly_token))
        .json(&change);
    assert_eq!(changed.send().await.unwrap().status(), 204);
    sandbox.run("webhook", &[]).await.tells(&["Updated", "10 of 10, and 1 more", "X-Api-Key"]);
    let hooks = sandbox.gladly.webhooks();
    let ours = hooks.iter().find(|hook| hook["id"] == id.as_str()).unwrap();
    // A second header of another spelling would have the relay refuse everything.
    assert_eq!(ours["headerKeys"], json!(["X-Api-Key"]));
}
