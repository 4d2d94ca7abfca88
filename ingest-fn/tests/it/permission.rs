//! The function uses every permission of its role and needs no other. All other tests run under the
//! role too, and are denied what it does not allow.

use testing::role::Role;

use crate::{EVENT, KEY, TestApp};

#[tokio::test(start_paused = true)]
async fn every_permission_is_needed_and_none_is_missing() {
    let app = TestApp::new();
    for body in [EVENT, "no event"] {
        assert_eq!(app.post(KEY, body.as_bytes()).await.0, 200);
    }
    let account = app.aws.state();
    assert_eq!(account.used, Role::named("IngestRole").pairs_of_the_code());
    assert!(account.denied.is_empty(), "{:?}", account.denied);
}

#[tokio::test(start_paused = true)]
async fn actions_outside_the_role_are_denied() {
    let app = TestApp::new();
    // That role may send to the same queues, but read other secrets.
    app.aws.assume("ExtractorRole");
    assert_eq!(app.status(KEY).await, 503);
    let keys = "arn:aws:ssm:eu-west-1:123456789012:parameter/relay/webhook-keys";
    let denied = [("ssm:GetParameter".to_owned(), keys.to_owned())];
    assert_eq!(app.aws.state().denied, denied.into());
    assert_eq!(app.messages(), []);
}
