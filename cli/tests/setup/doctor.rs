//! `doctor`.

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use testing::fault::Fault;

use crate::sandbox::{Ended, Sandbox};

/// Asserts that the lines come in this order.
#[track_caller]
fn assert_order(ended: &Ended, parts: &[&str]) {
    let mut rest = &*ended.output;
    for part in parts {
        let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("{part}: {ended:#?}"));
        rest = after;
    }
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_and_how_to_correct_it() {
    let sandbox = Sandbox::new("doctor").await;
    sandbox.local(&["webhook"], &[]).await.shows(&[]);
    let healthy = sandbox.local(&["doctor"], &[]).await;
    healthy.shows(&["Nothing is wrong, as far as it could be checked."]).prints_no(&["WRONG"]);
    assert_order(
        &healthy,
        &[
            "ok    stack doctor in region us-east-1 of the emulated AWS",
            "PING",
            "Gladly at",
            "extraction is running",
        ],
    );

    let id = sandbox.gladly.webhooks()[0]["id"].as_str().unwrap().to_owned();
    sandbox.gladly.disable_webhook(&id);
    sandbox.stack.enable_mapping(false).await.unwrap();
    sandbox.stack.delete_parameter("/doctor/destination-token").await.unwrap();
    let key = &sandbox.settings.webhook_keys[0];
    sandbox.stack.put_secret("/doctor/webhook-keys", &format!("{key}\nshort")).await.unwrap();
    let ended = sandbox.local(&["doctor"], &[]).await;
    ended.fails(4, "gladly-relay doctor: 4 things are wrong.").prints(&[
        "WRONG /doctor/webhook-keys holds a line that is ignored, line 2: shorter than 32 characters: gladly-relay rotate-key",
        "WRONG the webhook gladly-relay (doctor) at Gladly was disabled by Gladly at ",
        "WRONG /doctor/destination-token holds no token of the destination: gladly-relay secrets",
        "WRONG the event source mapping is Disabled although nothing holds extraction: gladly-relay resume",
        "ok    the relay answers a PING",
    ]);
    let json = sandbox.local(&["doctor", "--output", "json"], &[]).await;
    json.fails(4, "4 things are wrong");
    let lines = json.json()["result"].as_array().unwrap().clone();
    assert_eq!(lines.iter().filter(|line| line["mark"] == "WRONG").count(), 4, "{lines:?}");
}

#[tokio::test]
async fn the_doctor_of_an_account_checks_alarms_quota_and_permissions() {
    let sandbox = Sandbox::new("account").await;
    let front = &sandbox.front;
    sandbox.stack.put_secret("/account/gladly-token", "not-gladlys-token").await.unwrap();
    let other = "a-key-of-32-characters-or-more-!";
    sandbox.stack.put_secret("/account/webhook-keys", other).await.unwrap();
    sandbox.stack.set_pause("off").await.unwrap();
    front.answer("ListSubscriptionsByTopic", &subscription("PendingConfirmation"));
    front.deny("GetEventSourceMapping", "lambda:GetEventSourceMapping");
    front.answer("GetAccountSettings", r#"{"AccountLimit":{"ConcurrentExecutions":10}}"#);
    let ended = sandbox.account(&["doctor"], &[]).await;
    ended.fails(4, "things are wrong.").prints(&[
        "WRONG the account's quota of concurrent Lambda executions is 10, so a burst of webhooks is rejected: aws service-quotas request-service-quota-increase",
        "ok    stack account in region us-east-1 of account 000000000000",
        "WRONG Gladly at http://127.0.0.1:",
        "rejected the token of relay@example.com",
        "WRONG /account/pause is neither \"running\" nor \"paused\", which counts as paused: gladly-relay resume --stack account --region us-east-1",
        "WRONG the alarms have no confirmed subscriber: open the link in the mail that AWS sent to ops@example.com",
        "?     extraction: cannot be checked: you lack the permission lambda:GetEventSourceMapping",
    ]);
    front.answer("GetAccountSettings", r#"{"AccountLimit":{"ConcurrentExecutions":1000}}"#);
    front.answer("ListSubscriptionsByTopic", &subscription("arn:aws:sns:us-east-1:1:t:1"));
    front.deny("GetMetricData", "cloudwatch:GetMetricData");
    front.deny("FilterLogEvents", "logs:FilterLogEvents");
    let ended = sandbox.account(&["doctor"], &[]).await;
    ended.prints(&[
        "ok    the account's quota of concurrent Lambda executions is 1000",
        "ok    the alarms have a subscriber",
        "?     what arrives: cannot be checked: you lack the permission cloudwatch:GetMetricData",
        "?     the deliveries: cannot be checked: you lack the permission logs:FilterLogEvents",
    ]);
    front.deny("GetAccountSettings", "lambda:GetAccountSettings");
    front.answer("ListSubscriptionsByTopic", &subscription("").replace("<member>", "<other>"));
    let ended = sandbox.account(&["doctor"], &[]).await;
    ended.prints(&[
        "?     the account's quota of concurrent Lambda executions: cannot be checked: you lack the permission lambda:GetAccountSettings",
    ]);

    // Not there, perhaps because it is elsewhere.
    let elsewhere = ["doctor", "--stack", "elsewhere"];
    let ended = sandbox.at_account(&elsewhere, &[]).await;
    ended.fails(4, "wrong.").prints(&[
        "WRONG there is no stack elsewhere in region us-east-1 of account 000000000000: pass --region NAME",
        "WRONG GLADLY_HOST is not set",
    ]);
}

#[tokio::test]
async fn the_doctor_looks_for_the_bucket_that_deliveries_are_written_to() {
    let sandbox = Sandbox::new("bucket").await;
    let front = &sandbox.front;
    let bucket = "s3://acme-conversations/gladly";
    front.rewrite("DescribeStacks", &sandbox.settings.destination_url, bucket);
    let ended = sandbox.account(&["doctor"], &[]).await;
    ended.prints(&[
        "WRONG there is no bucket acme-conversations: aws s3 mb s3://acme-conversations --region us-east-1",
    ]);
    front.answer("ListBucket", "");
    let ended = sandbox.account(&["doctor"], &[]).await;
    ended.prints(&[
        "ok    the destination s3://acme-conversations/gladly is a bucket in us-east-1;",
    ]);
    ended.prints_no(&["token of the destination"]);
}

fn subscription(arn: &str) -> String {
    format!(
        "<ListSubscriptionsByTopicResponse><ListSubscriptionsByTopicResult><Subscriptions><member>\
         <SubscriptionArn>{arn}</SubscriptionArn><Endpoint>ops@example.com</Endpoint><Protocol>email</Protocol>\
         </member></Subscriptions></ListSubscriptionsByTopicResult></ListSubscriptionsByTopicResponse>"
    )
}

#[tokio::test]
async fn the_doctor_shows_what_arrives_and_with_which_key() {
    let sandbox = Sandbox::new("arrivals").await;
    sandbox.local(&["webhook"], &[]).await.shows(&[]);
    sandbox
        .local(&["doctor"], &[])
        .await
        .shows(&["?     no event came in the last 14 days; 0 requests"]);
    // Days ago.
    sandbox.metric("Queued", None, 3 * 24 * 60, 1);
    sandbox.metric("KeySlot", Some("1"), 3 * 24 * 60, 1);
    sandbox.local(&["doctor"], &[]).await.shows(&[
        "ok    the last event came 3 d",
        "ago with the webhook key; 0 requests were rejected",
    ]);
    // As after a rotation whose new key Gladly does not have.
    sandbox.metric("Unauthorized", None, 10, 3);
    sandbox.local(&["doctor"], &[]).await.fails(4, "1 thing is wrong.").prints(&[
        "; 3 requests were rejected with HTTP 401 in the last hour: the webhook at Gladly sends another key, unless \
         these are unauthorized requests: gladly-relay webhook gives it the current one",
    ]);
    // It has it now.
    sandbox.metric("Queued", None, 5, 2);
    sandbox.metric("KeySlot", Some("1"), 5, 2);
    sandbox
        .local(&["doctor"], &[])
        .await
        .shows(&["?     the last event came ", "3 requests were rejected"]);
    // What came before proves nothing about a webhook that is disabled.
    let id = sandbox.gladly.webhooks()[0]["id"].as_str().unwrap().to_owned();
    sandbox.gladly.disable_webhook(&id);
    sandbox
        .local(&["doctor"], &[])
        .await
        .fails(4, "1 thing")
        .prints_no(&["ok    the last event came"]);
}

#[tokio::test]
async fn the_doctor_shows_deliveries_that_fail() {
    let sandbox = Sandbox::new("failing").await;
    sandbox.local(&["webhook"], &[]).await.shows(&[]);
    let failed = json!({
        "level": "WARN", "message": "could not deliver; the records return to the queue", "delivery.id": "d",
        "error": "the destination keeps answering 500",
    });
    sandbox.log(20, &failed).await;
    sandbox
        .local(&["doctor"], &[])
        .await
        .shows(&["ok    no delivery failed in the last 15 minutes"]);
    sandbox.log(12, &failed).await;
    sandbox.log(10, &failed).await;
    sandbox
        .local(&["doctor"], &[])
        .await
        .fails(4, "1 thing is wrong.")
        .prints(&[
            "WRONG 2 delivery attempts failed in the last 15 minutes, the last one at ",
            "none succeeded since: the destination keeps answering 500; correct that at the destination",
            "gladly-relay status shows for how long",
        ])
        .prints_no(&["no delivery failed"]);
    sandbox.log(5, &json!({"level": "INFO", "message": "delivered", "delivery.id": "d"})).await;
    sandbox
        .local(&["doctor"], &[])
        .await
        .shows(&["?     2 delivery attempts failed", "others succeeded since"]);
    let fetch = json!({
        "level": "WARN", "message": "could not fetch a conversation; its records return to the queue",
        "error": "Gladly answered 503",
    });
    sandbox.log(1, &fetch).await;
    sandbox
        .local(&["doctor"], &[])
        .await
        .fails(4, "1 thing")
        .prints(&["Gladly answered 503; correct that at Gladly"]);
    // What the destination answers to the token.
    sandbox.destination.fault(Fault::status(401).on("HEAD /deliveries"));
    sandbox.local(&["doctor"], &[]).await.fails(4, "2 things").prints(&[
        "rejects the token of /failing/destination-token (HTTP 401): gladly-relay secrets",
    ]);
}

#[tokio::test]
async fn the_doctor_reads_the_pause_and_the_reason_of_the_breaker() {
    let sandbox = Sandbox::new("holding").await;
    sandbox.local(&["webhook"], &[]).await.shows(&[]);
    sandbox.stack.enable_mapping(false).await.unwrap();
    let name = format!("{}-breaker", sandbox.stack.pause_parameter());
    let now = Timestamp::now();
    let later = now + SignedDuration::from_mins(2);
    let open = json!({
        "state": "open", "cause": "destination", "reason": "the destination keeps answering 500",
        "since": now.to_string(), "retryAt": later.to_string(), "waitSeconds": 120,
    });
    sandbox.stack.put_parameter(&name, &open.to_string()).await.unwrap();
    sandbox
        .local(&["doctor"], &[])
        .await
        .fails(4, "1 thing is wrong.")
        .prints(&[
            "WRONG the circuit breaker is open since 20",
            ": the destination keeps answering 500: remove the cause; it is retried automatically at 20",
            "gladly-relay resume retries it now",
        ])
        // Neither a mapping that follows nor what does not fail while nothing runs.
        .prints_no(&["event source mapping", "no delivery failed"]);
    sandbox.stack.put_parameter(&name, r#"{"state":"closed"}"#).await.unwrap();
    let paused =
        json!({"state": "paused", "by": "ada", "reason": "audit", "until": later.to_string()});
    sandbox.stack.set_pause(&paused.to_string()).await.unwrap();
    sandbox.local(&["doctor"], &[]).await.shows(&[
        "?     extraction is paused by ada (audit); events are held: it ends automatically at 20",
    ]);
    // Over already.
    let over = json!({"state": "paused", "until": "2026-01-01T00:00:00Z"});
    sandbox.stack.set_pause(&over.to_string()).await.unwrap();
    sandbox.stack.enable_mapping(true).await.unwrap();
    sandbox.local(&["doctor"], &[]).await.shows(&["ok    extraction is running"]);
}

#[tokio::test]
async fn the_doctor_compares_the_region_with_what_other_programs_use() {
    let sandbox = Sandbox::new("regions").await;
    sandbox.local(&["webhook"], &[]).await.shows(&[]);
    let config = "version = 0.1\n[default.deploy.parameters]\nstack_name = \"regions\"\nregion = \"eu-west-1\"\n";
    std::fs::write(sandbox.folder.join("samconfig.toml"), config).unwrap();
    let arguments = ["doctor", "--region", "us-east-1"];
    let environment = [("AWS_DEFAULT_REGION", "eu-north-1")];
    sandbox.account(&arguments, &environment).await.fails(4, "wrong.").prints(&[
        "?     AWS_DEFAULT_REGION is eu-north-1, so other programs of AWS use that region instead of us-east-1",
        "WRONG samconfig.toml has region eu-west-1 for the stack regions, which is in us-east-1: correct its line",
    ]);
    let environment = [("AWS_REGION", "eu-north-1")];
    let ended = sandbox.account(&["doctor"], &environment).await;
    ended.fails(2, "AWS_REGION is eu-north-1 and AWS_DEFAULT_REGION is us-east-1");
}
