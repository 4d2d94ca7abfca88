//! The deployed template.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use local::stack::{Artifacts, EmulatedAws, Queue, Settings};

#[tokio::test]
async fn a_deploy_changes_neither_a_pause_nor_held_events() {
    let aws = EmulatedAws::start("stack-test", &Artifacts::build().await.unwrap()).await.unwrap();
    let settings = Settings::new("http://127.0.0.1:1", "http://127.0.0.1:1/deliveries");
    let stack = aws.deploy("deploys", &settings).await.unwrap();
    stack.enable_mapping(false).await.unwrap();
    stack.set_pause("paused").await.unwrap();
    let event = r#"{"type":"CONVERSATION/CLOSED","id":"e","content":{"conversationId":"c"}}"#;
    let answer = stack.post(&settings.webhook_keys[0], event).await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"queued"}"#));

    let changed = settings.with("RetentionDays", "14").with("LogLevel", "DEBUG");
    stack.update(&changed).await.unwrap();

    let pause = stack.parameter(stack.pause_parameter()).await.unwrap();
    assert_eq!(pause.as_deref(), Some("paused"));
    assert_eq!(stack.mapping_state().await.unwrap(), "Disabled");
    assert_eq!(stack.counts(Queue::Events).await.unwrap().visible, 1);
    let attributes = stack.queue_attributes(Queue::Events).await.unwrap();
    assert_eq!(attributes["MessageRetentionPeriod"], (14 * 24 * 60 * 60).to_string());
}

#[tokio::test]
async fn a_refused_parameter_is_explained() {
    let aws = EmulatedAws::start("stack-test-2", &Artifacts::build().await.unwrap()).await.unwrap();
    let settings = Settings::new("http://gladly.example.com", "http://127.0.0.1:1/deliveries");
    let error = aws.deploy("refused", &settings).await.unwrap_err();
    let reason = "must be a host under gladly.com or gladly.qa, without https:// and path";
    assert!(error.to_string().contains(reason), "{error}");
}
