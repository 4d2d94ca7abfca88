//! The same with the real SAM CLI, which has to be on the `PATH`:
//! `cargo test -p cli --test it deploy::sam -- --ignored`.

use std::{collections::BTreeSet, os::unix::fs::symlink};

use serde_json::{Value, json};

use crate::{
    allowed::policy_allows,
    deploy::{Deploy, OURS},
    fake_aws::{Call, relay_stack},
};

/// With the real sam and the real template; what sam uploads is accepted.
fn with_sam() -> Deploy {
    let deploy = Deploy::new();
    let path = std::env::var_os("PATH").unwrap();
    let mut candidates = std::env::split_paths(&path).map(|folder| folder.join("sam"));
    let sam = candidates.find(|path| path.is_file()).expect("the SAM CLI on the PATH");
    std::fs::remove_file(deploy.sandbox.path("bin/sam")).unwrap();
    symlink(sam, deploy.sandbox.path("bin/sam")).unwrap();
    let template = std::fs::read_to_string(testing::root().join("template.yaml")).unwrap();
    deploy.sandbox.write("template.yaml", template);
    deploy.aws.serves("PUT s3", b"");
    let identity = json!({"Account": "123456789012", "Arn": "a", "UserId": "b"});
    deploy.aws.answers("GetCallerIdentity", identity);
    deploy.aws.answers("CreateChangeSet", json!({"Id": OURS, "StackId": "x"}));
    let parameters = relay_stack("acme")["Parameters"].clone();
    deploy.aws.answers("GetTemplateSummary", json!({"Parameters": parameters}));
    // With a status, for which sam waits.
    let prepared = json!({
        "Status": "CREATE_COMPLETE", "ExecutionStatus": "AVAILABLE", "ChangeSetId": OURS,
        "Parameters": parameters, "Changes": [],
    });
    deploy.aws.answers("DescribeChangeSet", prepared);
    deploy
}

impl Deploy {
    /// The parameters that sam sent to CloudFormation.
    #[track_caller]
    fn sent(&self) -> Vec<(String, String)> {
        let calls = self.aws.calls("CreateChangeSet");
        let call = &calls.last().expect("a change set").parameters;
        let field = |number: usize, name: &str| -> Option<String> {
            Some(call[&format!("Parameters.member.{number}.{name}")].as_str()?.to_owned())
        };
        let pairs = (1..).map_while(|number| {
            let key = field(number, "ParameterKey")?;
            Some((key, field(number, "ParameterValue").unwrap_or_else(|| "(previous)".into())))
        });
        pairs.collect()
    }

    /// The actions of this program and of sam.
    fn actions(&self) -> BTreeSet<String> {
        let named = |action: String| match &*action {
            "s3:PUT s3" => "s3:PutObject".to_owned(),
            "s3:HEAD s3" | "s3:GET s3" => "s3:GetObject".to_owned(),
            _ => action,
        };
        self.aws.actions().into_iter().map(named).collect()
    }
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

/// sam's own stack, with the bucket for packages, and this one, which an executed change updates.
fn managed_or(stack: Value) -> impl FnMut(&Call) -> Option<Value> + Send + 'static {
    let mut looks = 0;
    move |call| {
        if call.text("StackName") == "aws-sam-cli-managed-default" {
            let output = |key: &str, value: &str| json!({"OutputKey": key, "OutputValue": value});
            return Some(json!({"Stacks": [{
                "StackName": "aws-sam-cli-managed-default", "StackStatus": "CREATE_COMPLETE",
                "CreationTime": "2026-01-01T00:00:00Z",
                "Outputs": [output("SourceBucket", "own"), output("Version", "999")],
                "Tags": [{"Key": "ManagedStackSource", "Value": "AwsSamCli"}],
            }]}));
        }
        if call.text("StackName") != stack["StackName"] {
            return None;
        }
        // Each look finds another time of the last update.
        looks += 1;
        let mut stack = stack.clone();
        stack["LastUpdatedTime"] = format!("2026-01-01T00:00:{looks:02}Z").into();
        Some(json!({"Stacks": [stack]}))
    }
}

#[test]
#[ignore = "needs the SAM CLI"]
fn sam_sends_the_parameters_of_this_stack_and_no_other() {
    let deploy = with_sam();
    // What "sam deploy" itself would take its parameters, region and template from.
    deploy.sandbox.write(
        "samconfig.toml",
        "version = 0.1\n[default.deploy.parameters]\nstack_name = \"production\"\nregion = \"eu-west-1\"\n\
         parameter_overrides = \"GladlyHost=production.gladly.com\"\n",
    );
    deploy.sandbox.write(".aws-sam/build/template.yaml", "Resources: {}\n");
    deploy.sandbox.write(
        "samconfig.acme.toml",
        "version = 0.1\n[default.deploy.parameters]\nstack_name = \"acme\"\ns3_bucket = \"own\"\n\
         parameter_overrides = \"GladlyHost=\\\"acme.gladly.com\\\" AlarmEmail=\\\"\\\" RetentionDays=5\"\n",
    );
    deploy.succeeds();
    let sent = deploy.sent();
    for expected in [
        pair("GladlyHost", "acme.gladly.com"),
        pair("AlarmEmail", ""),
        pair("RetentionDays", "5"),
        pair("DestinationUrl", "(previous)"),
    ] {
        assert!(sent.contains(&expected), "{expected:?}: {sent:?}");
    }
    let create = &deploy.aws.calls("CreateChangeSet")[0];
    assert_eq!((create.text("StackName"), &*create.region), ("acme", "us-east-1"));
    let executed = deploy.aws.calls("ExecuteChangeSet");
    assert_eq!((executed.len(), executed[0].text("ChangeSetName")), (1, OURS));
    // Each package, and the template.
    assert!(deploy.aws.calls("PUT s3").len() >= 2);
    policy_allows("deploy", &deploy.actions());
}

#[test]
#[ignore = "needs the SAM CLI"]
fn sam_reads_the_file_that_this_program_writes() {
    let deploy = with_sam();
    deploy.aws.answers_by("DescribeStacks", managed_or(relay_stack("acme")));
    deploy.succeeds();
    let sent = deploy.sent();
    for parameter in relay_stack("acme")["Parameters"].as_array().unwrap() {
        let text = |key: &str| parameter[key].as_str().unwrap();
        let expected = pair(text("ParameterKey"), text("ParameterValue"));
        assert!(sent.contains(&expected), "{expected:?}: {sent:?}");
    }
    policy_allows("deploy", &deploy.actions());
}

#[test]
#[ignore = "needs the SAM CLI"]
fn a_guided_first_deployment_proposes_secrets_of_this_stack_and_saves_its_file() {
    let deploy = with_sam();
    let mut review = relay_stack("acme");
    review["StackStatus"] = "REVIEW_IN_PROGRESS".into();
    review["Outputs"] = json!([]);
    deploy.aws.answers_by("DescribeStacks", managed_or(review));
    let kept = |questions: &[&'static str]| -> Vec<(&'static str, &'static str)> {
        questions.iter().map(|question| (*question, "")).collect()
    };
    let typed = [
        kept(&["Stack Name", "AWS Region"]),
        vec![
            ("Parameter GladlyHost", "acme.gladly.com"),
            ("Parameter GladlyEmail", "relay@example.com"),
            ("Parameter DestinationUrl", "https://destination.example.com/hook"),
        ],
        kept(&["[/acme/webhook-keys]", "[/acme/gladly-token]", "[/acme/destination-token]"]),
        kept(&["DestinationTokenHeader", "CustomerContact", "ForwardNotes", "DestinationGzip"]),
        kept(&["GladlyRequestsPerSecond", "RetentionDays", "RenewHeldEvents"]),
        kept(&["LogRetentionDays", "WatchWebhook", "WebhookRateLimit", "WebhookBurstLimit"]),
        kept(&["AlarmEmail", "PauseAlarmHours", "SilenceAlarmHours", "LateAlarmMinutes"]),
        kept(&["[arm64]", "LogLevel", "XRay"]),
        vec![("Confirm changes before deploy", "y")],
        kept(&["IAM role creation", "Disable rollback", "Save arguments"]),
        kept(&["samconfig.acme.toml]", "SAM configuration environment"]),
        vec![("Deploy this changeset?", "n")],
    ];
    let ended = deploy.sandbox.run_at_terminal(&["deploy", "--stack", "acme"], &typed.concat());
    assert!(ended.stdout.contains("sam ended without deploying acme"), "{}", ended.stdout);
    let saved = deploy.sandbox.read("samconfig.acme.toml");
    for part in ["stack_name = \"acme\"", "/acme/gladly-token"] {
        assert!(saved.contains(part), "{saved}");
    }
    assert!(!deploy.sandbox.path("samconfig.toml").exists());
    assert!(deploy.sent().contains(&pair("WebhookKeysParameter", "/acme/webhook-keys")));
    policy_allows("deploy", &deploy.actions());
}
