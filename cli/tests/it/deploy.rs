//! `deploy`, with a sam that only notes what it is asked for.

mod code;
mod sam;

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    fake_aws::{FakeAws, relay_stack, set_parameter},
    sandbox::{Ended, Sandbox},
};

/// Notes its arguments and the region that it finds, prints what is prepared, and may wait.
const SAM: &str = r#"#!/bin/bash
set -eu
printf '%s\n' "$*" >>"$HOME/sam.calls"
printf '%s %s %s\n' "${AWS_REGION-}" "${AWS_DEFAULT_REGION-}" "${AWS_PROFILE-}" >>"$HOME/sam.environment"
if [ -e "$HOME/sam.waits" ]; then read -rt 30 _ <> <(:) || :; fi
if [ -e "$HOME/sam.output" ]; then printf '%s\n' "$(<"$HOME/sam.output")"; fi
if [ -e "$HOME/sam.error" ]; then printf '%s\n' "$(<"$HOME/sam.error")" >&2; exit 1; fi
"#;
/// The change set of this run.
const OURS: &str =
    "arn:aws:cloudformation:us-east-1:123456789012:changeSet/samcli-deploy1767225600/0a1b";

/// A file that begins as an executable for Linux does; 0xB7 is aarch64, 0x3E is x86-64.
fn elf(machine: u8) -> Vec<u8> {
    [b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0", [machine, 0].as_slice(), b" code"].concat()
}

fn listed(arn: &str, status: &str) -> Value {
    let name = arn.rsplit('/').nth(1).unwrap_or(arn);
    json!({"ChangeSetId": arn, "ChangeSetName": name, "Status": status, "ExecutionStatus": "AVAILABLE"})
}

struct Deploy {
    aws: FakeAws,
    sandbox: Sandbox,
}

impl Deploy {
    /// With the stack acme, whose change is prepared.
    fn new() -> Self {
        let aws = FakeAws::start();
        let sandbox = Sandbox::new(&aws);
        sandbox.program("sam", SAM);
        sandbox.write("template.yaml", "Resources: {}\n");
        for function in ["ingest-fn", "extractor-fn"] {
            sandbox.write(&format!("target/lambda/{function}/bootstrap"), elf(0xb7));
        }
        sandbox.write("sam.output", format!("\nChangeset created successfully. {OURS}\n"));
        let deploy = Self { aws, sandbox };
        deploy.aws.answers("ListChangeSets", json!({"Summaries": []}));
        deploy.aws.answers("DeleteChangeSet", json!({}));
        deploy.held("345600", 0);
        deploy.changes("5", json!([]));
        deploy.stack(relay_stack("acme"), "UPDATE_COMPLETE");
        deploy
    }

    /// There is this stack, and an executed change ends in this status.
    fn stack(&self, stack: Value, ends: &str) {
        let looks = Arc::new(AtomicUsize::new(0));
        let executed = Arc::clone(&looks);
        self.aws.answers_by("ExecuteChangeSet", move |_| {
            executed.store(1, Ordering::SeqCst);
            json!({})
        });
        let ends = ends.to_owned();
        self.aws.answers_by("DescribeStacks", move |_| {
            let mut stack = stack.clone();
            let look = looks.load(Ordering::SeqCst);
            if look > 0 {
                looks.store(look + 1, Ordering::SeqCst);
                let is_done = look > 1;
                stack["StackStatus"] =
                    if is_done { ends.clone() } else { "UPDATE_IN_PROGRESS".into() }.into();
            }
            json!({"Stacks": [stack]})
        });
    }

    /// A queue with this retention that holds so many events.
    fn held(&self, seconds: &str, held: u32) {
        self.aws.answers(
            "GetQueueAttributes",
            json!({"Attributes": {
                "MessageRetentionPeriod": seconds,
                "ApproximateNumberOfMessages": held.to_string(),
                "ApproximateNumberOfMessagesNotVisible": "0",
                "ApproximateNumberOfMessagesDelayed": "0",
            }}),
        );
    }

    /// The prepared change: this retention, and these resources. It comes in two pages.
    fn changes(&self, days: &str, resources: Value) {
        let mut stack = relay_stack("acme");
        set_parameter(&mut stack, "RetentionDays", days);
        let first = json!({"ResourceChange": {
            "Action": "Modify", "LogicalResourceId": "ExtractorFunction",
            "ResourceType": "AWS::Lambda::Function", "Replacement": "False", "Scope": ["Properties"],
        }});
        self.aws.answers_by("DescribeChangeSet", move |call| {
            let parameters = &stack["Parameters"];
            if call.text("NextToken").is_empty() {
                json!({"Parameters": parameters, "Changes": [first], "NextToken": "more"})
            } else {
                json!({"Parameters": parameters, "Changes": resources})
            }
        });
    }

    fn changes_pause(&self, scope: &str) {
        self.changes(
            "4",
            json!([{"ResourceChange": {
                "Action": "Modify", "LogicalResourceId": "PauseParameter",
                "ResourceType": "AWS::SSM::Parameter", "Replacement": "False", "Scope": [scope],
            }}]),
        );
    }

    fn no_stack(&self) {
        self.aws.no_stack();
        self.aws.fails("ListChangeSets", "ValidationError", "Stack [acme] does not exist");
    }

    fn run(&self, more: &[&str]) -> Ended {
        self.aws.forget();
        self.sandbox.write("sam.calls", "");
        let arguments = ["deploy", "--stack", "acme", "--yes"];
        self.sandbox.run(&[&arguments, more].concat())
    }

    fn sam_calls(&self) -> String {
        self.sandbox.read("sam.calls")
    }

    #[track_caller]
    fn succeeds(&self) -> Ended {
        let ended = self.run(&[]);
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
        ended
    }

    /// It fails in one sentence that holds this, and sam and CloudFormation change nothing.
    #[track_caller]
    fn refuses(&self, code: i32, part: &str) {
        let ended = self.run(&[]);
        assert!(ended.code == code && ended.stderr.contains(part), "{part}: {ended:?}");
        assert!(ended.stderr.starts_with("gladly-relay deploy: "), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        assert!(self.aws.calls("ExecuteChangeSet").is_empty());
    }

    /// The same, and the prepared change is removed.
    #[track_caller]
    fn refuses_the_change(&self, part: &str) {
        self.refuses(1, part);
        self.removed(OURS);
    }

    #[track_caller]
    fn removed(&self, change_set: &str) {
        let removed = self.aws.calls("DeleteChangeSet");
        assert_eq!(removed.len(), 1);
        assert_eq!(removed[0].text("ChangeSetName"), change_set);
    }
}

#[test]
fn the_first_time_sam_asks_for_everything_and_proposes_secrets_of_this_stack_alone() {
    let deploy = Deploy::new();
    deploy.no_stack();
    let looks = AtomicUsize::new(0);
    deploy.aws.answers_by("DescribeStacks", move |_| {
        let mut stack = relay_stack("acme");
        if looks.fetch_add(1, Ordering::SeqCst) == 0 {
            // What is left of a change that was not confirmed.
            stack["StackStatus"] = "REVIEW_IN_PROGRESS".into();
            stack["Outputs"] = json!([]);
        }
        json!({"Stacks": [stack]})
    });
    let ended = deploy.sandbox.run_at_terminal(&["deploy", "--stack", "acme"], &[]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("sam asks for every parameter"), "{ended:?}");
    let calls = deploy.sam_calls();
    let template = deploy.sandbox.path("template.yaml");
    let config = deploy.sandbox.path("samconfig.acme.toml");
    for part in [
        &format!(
            "deploy --template-file {} --config-file {}",
            template.display(),
            config.display()
        ),
        "--stack-name acme --region us-east-1 --capabilities CAPABILITY_IAM",
        "--guided",
        r#"WebhookKeysParameter="/acme/webhook-keys""#,
        r#"GladlyTokenParameter="/acme/gladly-token""#,
        r#"DestinationTokenParameter="/acme/destination-token""#,
        r#"Architecture="arm64""#,
    ] {
        assert!(calls.contains(part), "{part}: {calls}");
    }
    assert!(!config.exists(), "this sam saved nothing");

    // Without a terminal sam cannot ask.
    deploy.no_stack();
    deploy.refuses(2, "needs the parameters GladlyHost, GladlyEmail, DestinationUrl in ");
    assert_eq!(deploy.sam_calls(), "");
    let ended = deploy.sandbox.run(&["deploy", "--stack", "acme"]);
    assert!(ended.code == 2 && ended.stderr.contains("pass --yes"), "{ended:?}");
}

#[test]
fn without_a_terminal_the_first_parameters_come_from_the_file() {
    let deploy = Deploy::new();
    let mut stack = relay_stack("acme");
    stack["StackStatus"] = "REVIEW_IN_PROGRESS".into();
    stack["Outputs"] = json!([]);
    stack["Parameters"] = json!([]);
    deploy.stack(stack, "CREATE_COMPLETE");
    deploy.sandbox.write(
        "samconfig.acme.toml",
        "[default.deploy.parameters]\nstack_name = \"acme\"\nparameter_overrides = \"GladlyHost=acme.gladly.com \
         GladlyEmail=relay@example.com DestinationUrl=https://x.example GladlyTokenParameter=/own/token\"\n",
    );
    deploy.succeeds();
    let calls = deploy.sam_calls();
    assert!(calls.contains("--no-execute-changeset") && !calls.contains("--guided"), "{calls}");
    for part in [
        r#"GladlyHost="acme.gladly.com""#,
        r#"WebhookKeysParameter="/acme/webhook-keys""#,
        r#"GladlyTokenParameter="/own/token""#,
    ] {
        assert!(calls.contains(part), "{part}: {calls}");
    }
}

#[test]
fn a_change_that_loses_nothing_is_shown_and_deployed() {
    let deploy = Deploy::new();
    let ended = deploy.succeeds();
    for part in [
        "Changes of acme:\n",
        "  parameter RetentionDays                4 → 5\n",
        "  modify    ExtractorFunction            AWS::Lambda::Function\n",
        "Deploying…\nDeployed.\n",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains("GladlyHost"), "only what changes");
    assert_eq!(deploy.aws.calls("ExecuteChangeSet")[0].text("ChangeSetName"), OURS);
    assert!(deploy.aws.calls("DeleteChangeSet").is_empty());
    crate::allowed::policy_allows("deploy", &deploy.aws.actions());

    let ended = deploy.run(&["--output", "json"]);
    let result = ended.json();
    assert_eq!(result["changed"], true);
    assert_eq!(result["parameters"], json!([{"name": "RetentionDays", "from": "4", "to": "5"}]));
    assert_eq!(result["resources"][0]["logical_id"], "ExtractorFunction");
}

#[test]
fn without_a_change_nothing_is_executed_and_the_empty_change_set_is_removed() {
    let deploy = Deploy::new();
    deploy.sandbox.write("sam.output", "No changes to deploy. Stack acme is up to date\n");
    let empty = OURS.replace("1767225600", "1767225601");
    let lists = [json!({"Summaries": []}), json!({"Summaries": [listed(&empty, "FAILED")]})];
    deploy.aws.answers_in_turn("ListChangeSets", lists);
    let ended = deploy.succeeds();
    assert!(ended.stdout.ends_with("Nothing has changed.\n"), "{}", ended.stdout);
    assert!(deploy.aws.calls("ExecuteChangeSet").is_empty());
    deploy.removed(&empty);
}

/// Issue 12, section 5: "A change set left by somebody else was executed".
#[test]
fn a_change_set_of_somebody_else_is_never_executed_or_removed() {
    let deploy = Deploy::new();
    let theirs = OURS.replace("1767225600", "1700000000");
    // Theirs is on the second page, left from before.
    deploy.aws.answers_by("ListChangeSets", move |call| {
        if call.text("NextToken").is_empty() {
            json!({"Summaries": [], "NextToken": "more"})
        } else {
            json!({"Summaries": [listed(&theirs, "CREATE_COMPLETE")]})
        }
    });
    deploy.succeeds();
    assert_eq!(deploy.aws.calls("ExecuteChangeSet")[0].text("ChangeSetName"), OURS);

    deploy.sandbox.write("sam.output", "No changes to deploy. Stack acme is up to date\n");
    let ended = deploy.succeeds();
    assert!(ended.stdout.ends_with("Nothing has changed.\n"), "{}", ended.stdout);
    assert!(deploy.aws.calls("ExecuteChangeSet").is_empty());
    assert!(deploy.aws.calls("DeleteChangeSet").is_empty());

    // Prepared while this run prepared its own, which sam does not name.
    let theirs = OURS.replace("1767225600", "1767225601");
    let later = json!({"Summaries": [listed(&theirs, "CREATE_COMPLETE")]});
    deploy.aws.answers_in_turn("ListChangeSets", [json!({"Summaries": []}), later]);
    deploy.refuses(1, "were prepared at the same time (samcli-deploy1767225601)");
    assert!(deploy.aws.calls("DeleteChangeSet").is_empty());
}

#[test]
fn a_lower_retention_is_refused_while_anything_is_held() {
    let deploy = Deploy::new();
    deploy.changes("3", json!([]));
    deploy.held("345600", 10);
    deploy.refuses_the_change(
        "a retention of 3 days (now 4) would delete the older ones of the 10 events held",
    );
    deploy.held("345600", 0);
    deploy.succeeds();
    deploy.held("86400", 10);
    deploy.succeeds();
}

#[test]
fn a_change_that_would_replace_the_queue_is_refused_while_anything_is_held() {
    let deploy = Deploy::new();
    deploy.changes("4", json!([{"ResourceChange": {
        "Action": "Modify", "LogicalResourceId": "EventsQueue", "ResourceType": "AWS::SQS::Queue",
        "Replacement": "True", "Scope": ["Properties"],
    }}]));
    deploy.held("345600", 1);
    deploy.refuses_the_change("would replace or remove the events queue, which holds 1 event");
    deploy.held("345600", 0);
    assert!(deploy.succeeds().stdout.contains("AWS::SQS::Queue, which replaces it"));
}

#[test]
fn a_change_that_would_lift_a_pause_is_refused_during_one() {
    let deploy = Deploy::new();
    for scope in ["Properties", "Tags"] {
        deploy.changes_pause(scope);
        for state in ["paused", "paused until 2026-12-01T08:00:00Z", "unclear"] {
            deploy.aws.answers("GetParameter", json!({"Parameter": {"Value": state}}));
            deploy.refuses_the_change("would write \"running\" over it: gladly-relay resume");
        }
        deploy.aws.answers("GetParameter", json!({"Parameter": {"Value": "running"}}));
        deploy.succeeds();
    }
    deploy.aws.forget();
    deploy.changes_pause("Metadata");
    deploy.succeeds();
    assert!(deploy.aws.calls("GetParameter").is_empty());
}

/// Issue 12, section 5: "`ROLLBACK_COMPLETE` and its three siblings leave no way forward".
#[test]
fn every_status_without_a_way_forward_names_one() {
    let deploy = Deploy::new();
    let event = |id: &str, status: &str, reason: &str| {
        json!({"StackId": "x", "EventId": id, "StackName": "acme", "LogicalResourceId": id,
            "ResourceStatus": status, "ResourceStatusReason": reason, "Timestamp": "2026-01-01T00:00:00Z"})
    };
    let events = json!({"StackEvents": [
        event("acme", "ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create"),
        event("IngestRole", "CREATE_FAILED", "Resource creation cancelled"),
        event("EventsQueue", "CREATE_FAILED", "ada may not create queues"),
        event("acme", "CREATE_IN_PROGRESS", "User Initiated"),
    ]});
    deploy.aws.answers("DescribeStackEvents", events);
    let delete = "sam delete --stack-name acme --region us-east-1";
    for (status, part) in [
        ("ROLLBACK_COMPLETE", delete),
        ("ROLLBACK_FAILED", delete),
        ("CREATE_FAILED", delete),
        ("DELETE_FAILED", delete),
        ("UPDATE_ROLLBACK_FAILED", "Continue update rollback"),
        ("UPDATE_FAILED", "\"Roll back\""),
        ("UPDATE_IN_PROGRESS", "is being changed (UPDATE_IN_PROGRESS)"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "is being changed"),
        ("DELETE_IN_PROGRESS", "is being changed"),
    ] {
        let mut stack = relay_stack("acme");
        stack["StackStatus"] = status.into();
        deploy.stack(stack, "");
        deploy.refuses(1, part);
        assert_eq!(deploy.sam_calls(), "", "{status}");
        if part == delete {
            deploy.refuses(1, "The cause was: EventsQueue: ada may not create queues.");
        }
    }
    for status in ["UPDATE_ROLLBACK_COMPLETE", "CREATE_COMPLETE", "IMPORT_COMPLETE"] {
        let mut stack = relay_stack("acme");
        stack["StackStatus"] = status.into();
        deploy.stack(stack, "UPDATE_COMPLETE");
        deploy.succeeds();
    }
    let mut stack = relay_stack("acme");
    stack["Outputs"] = json!([{"OutputKey": "Website", "OutputValue": "x"}]);
    deploy.stack(stack, "");
    deploy.refuses(2, "acme is not a gladly-relay stack");
}

#[test]
fn a_failed_update_names_the_first_failure() {
    let deploy = Deploy::new();
    deploy.stack(relay_stack("acme"), "UPDATE_ROLLBACK_COMPLETE");
    let event = |id: &str, status: &str, reason: &str| {
        json!({"StackId": "x", "EventId": id, "StackName": "acme", "LogicalResourceId": id,
            "ResourceStatus": status, "ResourceStatusReason": reason, "Timestamp": "2026-01-01T00:00:00Z"})
    };
    let pages = [
        json!({"NextToken": "more", "StackEvents": [
            event("LateAlarm", "UPDATE_FAILED", "Resource update cancelled"),
        ]}),
        json!({"StackEvents": [
            event("ExtractorFunction", "UPDATE_FAILED", "Memory is out of range"),
            event("acme", "UPDATE_IN_PROGRESS", "User Initiated"),
            event("EventsQueue", "UPDATE_FAILED", "of another update"),
        ]}),
    ];
    deploy.aws.answers_in_turn("DescribeStackEvents", pages);
    let ended = deploy.run(&[]);
    assert_eq!(ended.code, 1);
    let expected = "gladly-relay deploy: acme was not updated, and is as it was before (UPDATE_ROLLBACK_COMPLETE): \
                    ExtractorFunction: Memory is out of range.\n";
    assert_eq!(ended.stderr, expected);
    assert!(deploy.aws.calls("DeleteChangeSet").is_empty(), "it is executed");
}

/// Issue 12, section 5: "SAM's one `samconfig.toml` holds one stack's parameters".
#[test]
fn each_stack_has_a_configuration_of_its_own() {
    let deploy = Deploy::new();
    let config = |stack: &str, more: &str| {
        format!("version = 0.1\n[default.deploy.parameters]\nstack_name = \"{stack}\"\n{more}\n")
    };
    // Another stack's file is not used: the present parameters are written into one of this stack's own.
    deploy.sandbox.write("samconfig.toml", config("production", ""));
    let ended = deploy.succeeds();
    assert!(ended.stdout.contains("Wrote the stack's present parameters to "), "{ended:?}");
    let written = deploy.sandbox.read("samconfig.acme.toml");
    assert!(written.contains("GladlyHost=\\\"acme.gladly.com\\\""), "{written}");
    assert!(deploy.sam_calls().contains("/samconfig.acme.toml --stack-name acme"));
    assert!(!deploy.sam_calls().contains("--parameter-overrides"));
    let ended = deploy.succeeds();
    assert!(ended.stdout.contains("samconfig.acme.toml"), "{ended:?}");

    // The one file that sam itself prefers is used if it says that it is this stack's.
    std::fs::remove_file(deploy.sandbox.path("samconfig.acme.toml")).unwrap();
    deploy.sandbox.write("samconfig.toml", config("acme", "s3_bucket = \"own\""));
    let ended = deploy.succeeds();
    assert!(ended.stdout.contains("Parameters are those of "), "{ended:?}");
    let calls = deploy.sam_calls();
    assert!(calls.contains("/samconfig.toml ") && !calls.contains("--resolve-s3"), "{calls}");

    for (text, part) in [
        (config("production", ""), "has the stack_name production; expected acme"),
        (
            config("acme", "region = \"eu-west-1\""),
            "has the region eu-west-1; this command is about us-east-1",
        ),
        (config("acme", "profile = \"work\""), "has the profile work; this command uses none"),
        ("stack_name = ".into(), "samconfig.acme.toml is not valid: "),
    ] {
        deploy.sandbox.write("samconfig.acme.toml", text);
        deploy.refuses(2, part);
        assert!(deploy.aws.operations().is_empty() && deploy.sam_calls().is_empty());
    }
}

/// Issue 12, section 5: "`aws` v2 reads `AWS_REGION`, SAM and v1 only `AWS_DEFAULT_REGION`".
#[test]
fn one_region_and_one_login_reach_everything() {
    let mut deploy = Deploy::new();
    deploy.sandbox.write("aws-config", "[profile work]\nregion = eu-west-1\n");
    deploy.sandbox = deploy.sandbox.unset("AWS_REGION");
    let ended = deploy.run(&["--profile", "work"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(deploy.sam_calls().contains("--region eu-west-1"));
    assert!(deploy.sam_calls().contains("--profile work"));
    assert_eq!(deploy.sandbox.read("sam.environment"), "eu-west-1 eu-west-1 work\n");
    assert!(deploy.aws.calls("ExecuteChangeSet").iter().all(|call| call.region == "eu-west-1"));

    deploy.sandbox =
        deploy.sandbox.set("AWS_REGION", "eu-west-1").set("AWS_DEFAULT_REGION", "us-east-1");
    deploy.refuses(2, "pass --region");
    assert_eq!(deploy.sam_calls(), "");
}

/// Issue 12, section 5: "A stale `.aws-sam/build/template.yaml` wins over `template.yaml`".
#[test]
fn the_template_is_always_passed() {
    let deploy = Deploy::new();
    deploy.sandbox.write(".aws-sam/build/template.yaml", "Resources: {}\n");
    deploy.succeeds();
    let template = deploy.sandbox.path("template.yaml");
    assert!(deploy.sam_calls().contains(&format!("--template-file {} ", template.display())));
}

/// Issue 12, section 5: "An `x86_64` binary deploys cleanly as arm64 and never starts".
#[test]
fn code_for_another_processor_is_refused() {
    let deploy = Deploy::new();
    deploy.sandbox.write("target/lambda/extractor-fn/bootstrap", elf(0x3e));
    deploy.refuses(1, "ingest-fn is built for arm64 and extractor-fn for x86_64");
    deploy.sandbox.write("target/lambda/ingest-fn/bootstrap", elf(0x3e));
    deploy.refuses(1, "is built for x86_64, and the stack is for arm64, where it would never start; run \"make package ARCH=arm64\"");
    assert_eq!(deploy.sam_calls(), "");
    let mut stack = relay_stack("acme");
    set_parameter(&mut stack, "Architecture", "x86_64");
    deploy.stack(stack, "UPDATE_COMPLETE");
    deploy.succeeds();
    let file = "[default.deploy.parameters]\nstack_name = \"acme\"\nparameter_overrides = \"Architecture=arm64\"\n";
    deploy.sandbox.write("samconfig.acme.toml", file);
    deploy.refuses(1, "ARCH=arm64\", or set the parameter Architecture in samconfig.acme.toml");
    deploy.sandbox.write("target/lambda/ingest-fn/bootstrap", "#!/bin/sh\n");
    deploy.refuses(1, "is no executable for Lambda");
}

/// Issue 12, section 5: "Names that begin with `aws` or `ssm` fail at create".
#[test]
fn names_that_aws_refuses_are_refused_before_anything_is_called() {
    let deploy = Deploy::new();
    for name in ["a b", "../x", "é", "$(touch x)", "aws", "AWS-relay", "ssmRelay", "Ssm-1"] {
        let ended = deploy.sandbox.run(&["deploy", "--yes", "--stack", name]);
        assert!(ended.code == 2 && ended.stderr.lines().count() == 1, "{name}: {ended:?}");
    }
    assert!(deploy.aws.operations().is_empty() && deploy.sam_calls().is_empty());
}

/// Issue 12, section 5: "`cargo lambda deploy` as the README has it leaves a zip inside `CodeUri`".
#[test]
fn a_file_beside_the_code_is_refused() {
    let deploy = Deploy::new();
    deploy.sandbox.write("target/lambda/ingest-fn/bootstrap.zip", "x");
    deploy.refuses(1, "ingest-fn/bootstrap.zip would be deployed beside bootstrap; remove it");
}

#[test]
fn what_is_missing_is_one_sentence() {
    let deploy = Deploy::new();
    std::fs::remove_file(deploy.sandbox.path("target/lambda/ingest-fn/bootstrap")).unwrap();
    deploy.refuses(1, "run \"make package\" first");
    std::fs::remove_file(deploy.sandbox.path("template.yaml")).unwrap();
    deploy.refuses(2, "could not read the template template.yaml");
    std::fs::remove_file(deploy.sandbox.path("bin/sam")).unwrap();
    deploy.refuses(1, "cannot find the SAM CLI");
    assert!(deploy.aws.operations().is_empty());
}

#[test]
fn whatever_fails_is_one_sentence_and_leaves_no_prepared_change() {
    let deploy = Deploy::new();
    deploy.aws.denies("sqs:GetQueueAttributes");
    let ended = deploy.run(&[]);
    assert_eq!(ended.code, 3);
    let expected = "gladly-relay deploy: could not look up the events queue: you lack the permission \
                    sqs:GetQueueAttributes.\n";
    assert_eq!(ended.stderr, expected);
    deploy.removed(OURS);

    let deploy = Deploy::new();
    deploy.sandbox.write("sam.error", "Error: Failed to create changeset for the stack: acme, no");
    deploy.refuses(
        1,
        "sam could not prepare the change: Failed to create changeset for the stack: acme, no.",
    );

    deploy.aws.denies("cloudformation:DescribeStacks");
    deploy.refuses(3, "could not look up the stack: you lack the permission");
    let sandbox = deploy.sandbox.unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY");
    let ended = sandbox.run(&["deploy", "--stack", "acme", "--yes"]);
    assert!(ended.code == 3 && ended.stderr.contains("no valid AWS credentials"), "{ended:?}");
    let ended = sandbox.unset("AWS_REGION").run(&["deploy", "--stack", "acme", "--yes"]);
    assert!(ended.code == 2 && ended.stderr.contains("no region is set"), "{ended:?}");
}

#[test]
fn a_change_that_is_not_confirmed_is_removed() {
    let deploy = Deploy::new();
    let ended = deploy
        .sandbox
        .run_at_terminal(&["deploy", "--stack", "acme"], &[("Deploy this to acme? [y/N] ", "n")]);
    assert!(ended.code == 1 && ended.stdout.contains("nothing was changed."), "{ended:?}");
    assert!(ended.stdout.contains("4 → 5"), "{ended:?}");
    assert!(deploy.aws.calls("ExecuteChangeSet").is_empty());
    deploy.removed(OURS);
}

#[test]
fn ctrl_c_at_the_question_removes_what_was_prepared() {
    let deploy = Deploy::new();
    let ended = deploy.sandbox.run_at_terminal(
        &["deploy", "--stack", "acme"],
        &[("Deploy this to acme? [y/N] ", "\x03")],
    );
    assert!(
        ended.code == 130 && ended.stdout.contains("stopped; nothing was changed."),
        "{ended:?}"
    );
    deploy.removed(OURS);
}

#[test]
fn ctrl_c_removes_what_was_prepared_and_states_what_continues() {
    let deploy = Deploy::new();
    deploy.sandbox.write("sam.waits", "");
    let lists = [json!({"Summaries": []}), json!({"Summaries": [listed(OURS, "CREATE_COMPLETE")]})];
    deploy.aws.answers_in_turn("ListChangeSets", lists);
    let stopped = |deploy: &Deploy, until: &dyn Fn() -> bool| {
        let mut command = deploy.sandbox.command(&["deploy", "--stack", "acme", "--yes"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let started = Instant::now();
        while !until() {
            assert!(started.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(20));
        }
        let pid = child.id().to_string();
        let killed = std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap();
        assert!(killed.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        String::from_utf8(output.stderr).unwrap()
    };
    let stderr = stopped(&deploy, &|| !deploy.sam_calls().is_empty());
    assert!(stderr.contains("stopped; nothing was changed."), "{stderr}");
    deploy.removed(OURS);

    std::fs::remove_file(deploy.sandbox.path("sam.waits")).unwrap();
    deploy.aws.forget();
    deploy.aws.answers("ListChangeSets", json!({"Summaries": []}));
    deploy.stack(relay_stack("acme"), "UPDATE_IN_PROGRESS");
    let stderr = stopped(&deploy, &|| !deploy.aws.calls("ExecuteChangeSet").is_empty());
    assert!(stderr.contains("stopped; CloudFormation continues by itself."), "{stderr}");
    assert!(deploy.aws.calls("DeleteChangeSet").is_empty());
}
