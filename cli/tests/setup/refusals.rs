//! What every command does when AWS refuses.

use std::fs;

use crate::sandbox::Sandbox;

const COMMANDS: [&str; 4] = ["secrets", "webhook", "doctor", "rotate-key"];

#[tokio::test]
async fn what_aws_refuses_is_one_sentence_and_an_exit_code() {
    let sandbox = Sandbox::new("refused").await;
    for (code, message, exit, part) in [
        (
            "ExpiredToken",
            "The security token included in the request is expired",
            3,
            "no valid AWS credentials",
        ),
        (
            "InvalidClientTokenId",
            "The security token included in the request is invalid",
            3,
            "no valid AWS credentials",
        ),
        (
            "AccessDenied",
            "User: ada is not authorized to perform: cloudformation:DescribeStacks on resource: x",
            3,
            "you lack the permission cloudformation:DescribeStacks",
        ),
        ("Throttling", "Rate exceeded", 1, "AWS is throttling requests"),
    ] {
        sandbox.front.refuse("DescribeStacks", "", code, message);
        let commands = COMMANDS.iter().map(|command| async {
            sandbox.account(&[command], &[]).await.fails(exit, part);
        });
        futures::future::join_all(commands).await;
    }
    sandbox.front.forget("DescribeStacks");
}

#[tokio::test]
async fn without_a_login_a_region_a_network_or_a_relay_nothing_begins() {
    let sandbox = Sandbox::new("nothing").await;
    for command in COMMANDS {
        let without_login = [
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ];
        sandbox.account(&[command], &without_login).await.fails(3, "no valid AWS credentials");
        let mut without_region = sandbox.account_command(&[command, "--stack", "nothing"], &[]);
        without_region.env_remove("AWS_DEFAULT_REGION").env("AWS_EC2_METADATA_DISABLED", "true");
        sandbox.run(&mut without_region, &[]).await.fails(2, "no region is set");
        let out_of_reach = [("AWS_ENDPOINT_URL_CLOUDFORMATION", "http://127.0.0.1:1")];
        let ended = sandbox.account(&[command], &out_of_reach).await;
        ended.fails(1, "cannot reach AWS; is there a network, and is the region right?");
    }
    let stack = |parameters: &str| {
        format!(
            "<DescribeStacksResponse><DescribeStacksResult><Stacks><member><StackName>nothing</StackName>\
             <StackStatus>CREATE_COMPLETE</StackStatus>{parameters}</member></Stacks></DescribeStacksResult>\
             </DescribeStacksResponse>"
        )
    };
    sandbox.front.answer("DescribeStacks", &stack(""));
    for command in COMMANDS {
        sandbox.account(&[command], &[]).await.fails(1, "nothing is not a gladly-relay stack");
    }
    sandbox.front.answer("DescribeStacks", "nonsense");
    sandbox.account(&["doctor"], &[]).await.fails(1, "could not look up the stack");
    fs::remove_file(sandbox.folder.join(".local/up/running.json")).unwrap();
    sandbox.local(&["doctor"], &[]).await.fails(2, "no relay runs on this machine");
}
