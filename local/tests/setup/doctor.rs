//! `make doctor`.

use serde_json::json;

use crate::sandbox::Sandbox;

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_and_says_how_to_mend_it() {
    let sandbox = Sandbox::new("doctor").await;
    sandbox.run("webhook", &[]).await.tells(&[]);
    let healthy = sandbox.run("doctor", &[]).await;
    healthy.tells(&["Nothing is wrong, as far as can be seen."]);
    assert!(!healthy.shown.contains("WRONG"), "{healthy:?}");

    let id = sandbox.gladly.webhooks()[0]["id"].as_str().unwrap().to_owned();
    sandbox.gladly.disable_webhook(&id);
    sandbox.stack.enable_mapping(false).await.unwrap();
    sandbox.stack.delete_parameter("/doctor/destination-token").await.unwrap();
    let key = &sandbox.settings.webhook_keys[0];
    sandbox.stack.put_secret("/doctor/webhook-keys", &format!("{key}\nshort")).await.unwrap();
    let ended = sandbox.run("doctor", &[]).await;
    ended.complains("make doctor: 4 things are wrong.");
    for line in [
        "WRONG /doctor/webhook-keys holds a line that is never used",
        "WRONG the webhook gladly-relay (doctor) at Gladly was switched off by Gladly at ",
        "WRONG /doctor/destination-token holds no token of the destination: make secrets",
        "WRONG the event source mapping is Disabled while the pause parameter says running: make resume",
        "ok    the relay answers a PING",
    ] {
        assert!(ended.shown.contains(line), "{line}: {ended:#?}");
    }

    // In an account: an alarm that nobody hears, a permission that is missing, a wrong token, an odd pause.
    sandbox.move_to_account("doctor");
    sandbox.stack.put_secret("/doctor/gladly-token", "not-gladlys-token").await.unwrap();
    sandbox
        .stack
        .put_secret("/doctor/webhook-keys", "a-key-of-32-characters-or-more-!")
        .await
        .unwrap();
    sandbox.stack.set_pause("off").await.unwrap();
    sandbox.prepare("list-stack-resources", r#"{"StackResourceSummaries":[{"ResourceType":"AWS::SNS::Topic","PhysicalResourceId":"arn:aws:sns:t"}]}"#);
    sandbox.prepare("list-subscriptions-by-topic", r#"{"Subscriptions":[{"SubscriptionArn":"PendingConfirmation","Endpoint":"ops@example.com"}]}"#);
    sandbox.prepare("get-event-source-mapping.error", "An error occurred (AccessDeniedException) when calling the GetEventSourceMapping operation: User: ada is not authorized to perform: lambda:GetEventSourceMapping on resource: x");
    let few = json!({"AccountLimit": {"ConcurrentExecutions": 10}});
    sandbox.prepare("get-account-settings", &few.to_string());
    let ended = sandbox.run("doctor", &[("STACK", "doctor")]).await;
    for line in [
        "WRONG the account's quota of concurrent Lambda executions is 10, so a burst of webhooks is refused: aws service-quotas request-service-quota-increase",
        "ok    stack doctor in region us-east-1 of account 000000000000",
        "WRONG Gladly at http://127.0.0.1:",
        "refuses the token of relay@example.com",
        "WRONG /doctor/pause says neither running nor paused, which counts as paused: make resume STACK=doctor",
        "WRONG nobody hears the alarms yet: open the link in the mail that AWS sent to ops@example.com",
        "?     the extraction: could not be looked at: you lack the permission lambda:GetEventSourceMapping",
    ] {
        assert!(ended.shown.contains(line), "{line}: {ended:#?}");
    }
    ended.complains("things are wrong.");
    let account = [("STACK", "doctor")];
    let enough = json!({"AccountLimit": {"ConcurrentExecutions": 1_000}});
    sandbox.prepare("get-account-settings", &enough.to_string());
    let ended = sandbox.run("doctor", &account).await;
    let line = "ok    the account's quota of concurrent Lambda executions is 1000";
    assert!(ended.shown.contains(line), "{ended:#?}");
    sandbox.prepare("get-account-settings.error", "An error occurred (AccessDeniedException) when calling the GetAccountSettings operation: User: ada is not authorized to perform: lambda:GetAccountSettings because");
    let ended = sandbox.run("doctor", &account).await;
    let line = "?     the account's quota of concurrent Lambda executions is unknown: you lack the permission lambda:GetAccountSettings";
    assert!(ended.shown.contains(line), "{ended:#?}");

    // Not there, perhaps because it is elsewhere.
    sandbox.prepare("describe-stacks.error", "An error occurred (ValidationError) when calling the DescribeStacks operation: Stack with id else does not exist");
    let ended = sandbox.run("doctor", &[("STACK", "else")]).await;
    assert!(ended.shown.contains("WRONG there is no stack else in region us-east-1"), "{ended:#?}");
    ended.complains("wrong.");
}
