//! `policy`.

use serde_json::Value;

use crate::{
    allowed::listed,
    fake_aws::{FakeAws, relay_stack, set_parameter},
    sandbox::Sandbox,
};

#[test]
fn a_policy_names_the_resources_of_the_stack() {
    let aws = FakeAws::start();
    let mut stack = relay_stack("acme");
    set_parameter(&mut stack, "GladlyTokenParameter", "/own/token");
    aws.stack(&stack);
    let sandbox = Sandbox::new(&aws);
    let resources = |command: &str| -> Vec<String> {
        let ended = sandbox.run(&["policy", command, "--stack", "acme", "--output", "json"]);
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
        listed(&ended.json(), "Resource").into_iter().map(str::to_owned).collect()
    };
    assert_eq!(
        resources("replay"),
        [
            "arn:aws:cloudformation:us-east-1:123456789012:stack/acme/*",
            "arn:aws:sqs:us-east-1:123456789012:acme-EventsQueue-1A2B",
        ]
    );
    let trace = resources("trace");
    for resource in [
        "arn:aws:lambda:us-east-1:123456789012:function:acme-ExtractorFunction-7A8B",
        "arn:aws:ssm:us-east-1:123456789012:parameter/own/token",
        "arn:aws:logs:us-east-1:123456789012:log-group:/aws/lambda/acme/extractor-fn:*",
    ] {
        assert!(trace.iter().any(|listed| listed == resource), "{resource}: {trace:?}");
    }
    let doctor = resources("doctor");
    for resource in [
        "arn:aws:sns:us-east-1:123456789012:acme-AlarmTopic-9C0D",
        "arn:aws:lambda:us-east-1:123456789012:event-source-mapping:1b2c3d4e-0000-4000-8000-000000000000",
        "arn:aws:ssm:us-east-1:123456789012:parameter/acme/webhook-keys",
    ] {
        assert!(doctor.iter().any(|listed| listed == resource), "{resource}: {doctor:?}");
    }
}

#[test]
fn only_the_doctor_of_a_stack_with_a_bucket_may_look_for_it() {
    let aws = FakeAws::start();
    let sandbox = Sandbox::new(&aws);
    for (url, bucket) in [
        ("https://destination.example.com/hook", None),
        ("s3://acme-conversations/gladly", Some("arn:aws:s3:::acme-conversations")),
    ] {
        let mut stack = relay_stack("acme");
        set_parameter(&mut stack, "DestinationUrl", url);
        aws.stack(&stack);
        let ended = sandbox.run(&["policy", "doctor", "--stack", "acme", "--output", "json"]);
        let resources = listed(&ended.json(), "Resource").join(" ");
        assert_eq!(resources.contains(":s3:"), bucket.is_some(), "{url}: {resources}");
        assert!(bucket.is_none_or(|bucket| resources.contains(bucket)), "{url}: {resources}");
    }
}

#[test]
fn without_the_stack_a_policy_has_placeholders() {
    let sandbox = Sandbox::without_aws();
    let ended = sandbox.run(&["policy", "pause"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("replace what is written in capitals"), "{ended:?}");
    let policy: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    let pause = "arn:aws:ssm:REGION:ACCOUNT:parameter/STACK/pause";
    assert!(listed(&policy, "Resource").contains(&pause), "{policy}");

    // A login that may not look the stack up needs the policy most.
    let aws = FakeAws::start();
    aws.denies("cloudformation:DescribeStacks");
    let ended =
        Sandbox::new(&aws).run(&["policy", "pause", "--stack", "acme", "--region", "eu-west-1"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.stdout.contains("arn:aws:ssm:eu-west-1:ACCOUNT:parameter/acme/pause"),
        "{ended:?}"
    );
}

#[test]
fn commands_are_listed_and_others_are_refused() {
    let sandbox = Sandbox::without_aws();
    let ended = sandbox.run(&["policy"]);
    assert!(ended.code == 0 && ended.stdout.contains("\n  quarantine redrive\n"), "{ended:?}");
    for command in [["policy", "deploy", "roll-back"].as_slice(), &["policy", "deploy --roll-back"]]
    {
        let ended = sandbox.run(command);
        assert!(
            ended.code == 0 && ended.stdout.contains("lambda:ListVersionsByFunction"),
            "{ended:?}"
        );
    }
    let ended = sandbox.run(&["policy", "quarantine"]);
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("expected a command that calls AWS, got \"quarantine\""),
        "{ended:?}"
    );
}

/// Every command that the program has is in the table, but for those that call nothing.
#[test]
fn every_command_has_a_policy() {
    let sandbox = Sandbox::without_aws();
    let help = sandbox.run(&["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let listed = sandbox.run(&["policy"]).stdout;
    for command in commands.lines().filter_map(|line| line.split_whitespace().next()) {
        if !["conformance", "policy", "completions", "man", "help"].contains(&command) {
            assert!(listed.contains(&format!("\n  {command}")), "{command}: {listed}");
        }
    }
}
