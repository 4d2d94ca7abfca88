//! `secrets` where an account has several stacks.

use crate::sandbox::Sandbox;

#[tokio::test]
async fn a_second_stack_replaces_the_secrets_of_the_first_only_with_consent() {
    let sandbox = Sandbox::new("first-stack").await;
    let names =
        ["gladly-token", "destination-token", "webhook-keys"].map(|what| sandbox.secret(what));
    let fresh = [
        ("GLADLY_TOKEN_PARAMETER", &*names[0]),
        ("DESTINATION_TOKEN_PARAMETER", &names[1]),
        ("WEBHOOK_KEYS_PARAMETER", &names[2]),
        ("GLADLY_HOST", sandbox.gladly.url()),
        ("GLADLY_EMAIL", &sandbox.settings.gladly_email),
        ("DESTINATION_TOKEN", "of-the-second-stack"),
    ];
    let before = sandbox.parameter(&names[1]).await;
    let second = ["secrets", "--stack", "second-stack"];
    let ended = sandbox.at_account(&second, &fresh).await;
    ended.fails(2, "needs --yes").prints(&[
        "/first-stack/destination-token is also used by the stack first-stack.",
        "/first-stack/webhook-keys is also used by the stack first-stack.",
    ]);
    assert!(
        ended
            .remarks
            .contains("Replace /first-stack/destination-token, which the stack first-stack uses?"),
        "{ended:?}"
    );
    assert_eq!(sandbox.parameter(&names[1]).await, before);
    let yes = ["secrets", "--stack", "second-stack", "--yes"];
    sandbox.at_account(&yes, &fresh).await.shows(&["/first-stack/destination-token       written"]);

    // Names of its own are the default.
    let fresh = &fresh[3..];
    let token = sandbox.settings.gladly_token.clone();
    let fresh: Vec<_> = fresh.iter().copied().chain([("GLADLY_TOKEN", &*token)]).collect();
    sandbox
        .at_account(&second, &fresh)
        .await
        .shows(&["/second-stack/destination-token      written"])
        .prints_no(&["also used"]);

    // Variables that were meant for another stack.
    let other = [("DESTINATION_TOKEN_PARAMETER", "/second-stack/destination-token")];
    sandbox
        .account(&["secrets"], &other)
        .await
        .fails(2, "but the stack first-stack was deployed with");

    // Whether there are others is not worth a failure.
    sandbox.front.refuse(
        "DescribeStacks",
        "Action=DescribeStacks&Version=2010-05-15",
        "AccessDenied",
        "User: ada is not authorized to perform: cloudformation:DescribeStacks on resource: x",
    );
    let ended = sandbox.at_account(&second, &fresh).await;
    ended.fails(3, "cloudformation:DescribeStacks");
}
