//! What every command does when AWS refuses.

use std::fs;

use crate::sandbox::Sandbox;

#[tokio::test]
async fn what_the_aws_cli_refuses_is_told_in_one_sentence() {
    let sandbox = Sandbox::new("refused").await;
    for (said, complaint) in [
        (
            "Unable to locate credentials. You can configure credentials by running \"aws configure\".",
            "AWS does not know you",
        ),
        (
            "An error occurred (ExpiredToken) when calling the DescribeStacks operation: The security token included in the request is expired",
            "AWS does not know you",
        ),
        (
            "You must specify a region. You can also configure your region by running \"aws configure\".",
            "no region is set",
        ),
        (
            "Could not connect to the endpoint URL: \"https://cloudformation\"",
            "AWS is out of reach; is there a network, and is the region right?",
        ),
        ("The config profile (none) could not be found", "no such profile as AWS_PROFILE names"),
        (
            "An error occurred (Throttling) when calling the DescribeStacks operation (reached max retries: 4): Rate exceeded",
            "too many requests",
        ),
        (
            "An error occurred (AccessDenied) when calling the DescribeStacks operation: User: ada is not authorized to perform: cloudformation:DescribeStacks on resource: x",
            "you lack the permission cloudformation:DescribeStacks",
        ),
    ] {
        sandbox.prepare("describe-stacks.error", said);
        for command in ["secrets", "webhook", "doctor", "rotate-key"] {
            sandbox.run(command, &[("STACK", "acme")]).await.complains(complaint);
        }
    }
    sandbox.forget("describe-stacks.error");
    sandbox.prepare("describe-stacks", r#"{"Stacks":[{"StackStatus":"CREATE_COMPLETE"}]}"#);
    sandbox.run("doctor", &[("STACK", "acme")]).await.complains("acme is no relay");
    sandbox.prepare("describe-stacks", "nonsense");
    sandbox
        .run("doctor", &[("STACK", "acme")])
        .await
        .complains("something unforeseen went wrong (JSONDecodeError");
    fs::remove_file(sandbox.folder.join(".local/up/aws.env")).unwrap();
    sandbox.run("doctor", &[]).await.complains("no relay runs on this machine");
}
