//! `tools/deploy` with an AWS CLI and a SAM CLI that only note what they are asked for.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod sandbox;

use std::fs;

use sandbox::{Ended, Sandbox};

/// Stands for either. It writes down what it is asked for, and answers from files of the command's name.
const TOOL: &str = r#"#!/bin/bash
set -eu
command=$2
if [ "${0##*/}" = sam ]; then command=sam; fi
printf '%s %s\n' "${0##*/}" "$*" >>"$NOTES/calls"
for argument; do
  case $argument in EventsQueue | PauseParameter) command+=-$argument ;; "Parameters["*) command+=-parameters ;; esac
done
if [ -e "$ANSWERS/$command.error" ]; then cat "$ANSWERS/$command.error" >&2; exit 254; fi
if [ -e "$ANSWERS/$command" ]; then cat "$ANSWERS/$command"; fi
"#;

impl Sandbox {
    /// With a stack whose change is prepared.
    fn new(name: &str) -> Self {
        let sandbox = Self::with(&format!("deploy-{name}"), &["tools/deploy", "tools/aws.bash"]);
        for program in ["bin/aws", "bin/sam"] {
            sandbox.program(program, TOOL);
        }
        for function in ["ingest-fn", "extractor-fn"] {
            sandbox.program(&format!("target/lambda/{function}/bootstrap"), "");
        }
        sandbox.answers("describe-stacks", "UPDATE_COMPLETE\n");
        sandbox.answers("list-change-sets", "samcli-deploy1\n");
        sandbox.answers("describe-stack-resource-EventsQueue", "https://sqs/events\n");
        sandbox.answers("describe-stack-resource-PauseParameter", "/acme/pause\n");
        sandbox.answers("get-queue-attributes", "345600\t7\t2\t1\n");
        sandbox.answers("describe-change-set-parameters", "4\n");
        sandbox
    }

    fn deploy(&self, stack: &str) -> Ended {
        let _ = fs::remove_file(self.folder.join("notes/calls"));
        self.bash(&["tools/deploy", stack], &[])
    }

    fn did(&self, what: &str) -> bool {
        fs::read_to_string(self.folder.join("notes/calls")).is_ok_and(|notes| notes.contains(what))
    }

    /// It fails in one sentence that holds this, nothing is deployed and no prepared change stays.
    #[track_caller]
    fn refuses(&self, part: &str) {
        let ended = self.deploy("acme");
        assert!(!ended.succeeded && ended.complaint.contains(part), "{part}: {}", ended.complaint);
        assert!(ended.complaint.starts_with("make deploy: "), "{}", ended.complaint);
        assert_eq!(ended.complaint.lines().count(), 1, "{}", ended.complaint);
        assert!(!self.did("execute-change-set"));
        assert!(self.did("delete-change-set --stack-name acme --change-set-name samcli-deploy1"));
    }
}

#[test]
fn the_first_time_sam_asks_for_everything() {
    let sandbox = Sandbox::new("first");
    let missing = "An error occurred (ValidationError) when calling the DescribeStacks operation: Stack with id acme does not exist";
    sandbox.answers("describe-stacks.error", missing);
    assert!(sandbox.deploy("acme").succeeded);
    assert!(sandbox.did("sam deploy --guided --stack-name acme"));

    // A change that somebody did not confirm has left a stack without anything in it.
    fs::remove_file(sandbox.folder.join("answers/describe-stacks.error")).unwrap();
    sandbox.answers("describe-stacks", "REVIEW_IN_PROGRESS\n");
    assert!(sandbox.deploy("acme").succeeded);
    assert!(sandbox.did("sam deploy --guided --stack-name acme"));
}

#[test]
fn a_change_that_loses_nothing_is_deployed() {
    let sandbox = Sandbox::new("harmless");
    let ended = sandbox.deploy("acme");
    assert!(ended.succeeded, "{}", ended.complaint);
    assert!(ended.shown.ends_with("Deploying…\nDeployed.\n"), "{}", ended.shown);
    assert!(sandbox.did("execute-change-set --stack-name acme --change-set-name samcli-deploy1"));
    assert!(!sandbox.did("delete-change-set"));

    sandbox.answers("list-change-sets", "None\n");
    let ended = sandbox.deploy("acme");
    assert!(ended.succeeded && ended.shown.ends_with("Nothing has changed.\n"));
    assert!(!sandbox.did("execute-change-set"));
}

#[test]
fn a_lower_retention_is_refused_while_anything_is_held() {
    let sandbox = Sandbox::new("retention");
    sandbox.answers("describe-change-set-parameters", "3\n");
    sandbox.refuses(
        "a retention of 3 days (now 4) would delete the older ones of the events held, 10",
    );
    sandbox.answers("get-queue-attributes", "345600\t0\t0\t0\n");
    assert!(sandbox.deploy("acme").succeeded);
    sandbox.answers("get-queue-attributes", "86400\t7\t2\t1\n");
    assert!(sandbox.deploy("acme").succeeded, "raising it loses nothing");
}

#[test]
fn a_change_that_would_lift_a_pause_is_refused_during_one() {
    let sandbox = Sandbox::new("pause");
    sandbox.answers("describe-change-set", "Properties\n");
    sandbox.answers("get-parameter", "paused\n");
    sandbox.refuses("would write \"running\" over it: resume first");
    sandbox.answers("get-parameter", "running\n");
    assert!(sandbox.deploy("acme").succeeded);
}

#[test]
fn whatever_fails_is_one_sentence_and_leaves_no_prepared_change() {
    let sandbox = Sandbox::new("failures");
    let denied = "An error occurred (AccessDenied) when calling the GetQueueAttributes operation: User: ada is not authorized to perform: sqs:GetQueueAttributes";
    sandbox.answers("get-queue-attributes.error", denied);
    sandbox.refuses("the events queue could not be looked at: User: ada is not authorized");
    fs::remove_file(sandbox.folder.join("answers/get-queue-attributes.error")).unwrap();

    for (said, told) in [
        ("Unable to locate credentials. You can configure them.", "AWS does not know you; log in"),
        ("The config profile (none) could not be found", "no such profile as AWS_PROFILE names"),
        ("You must specify a region.", "no region is set"),
        ("Could not connect to the endpoint URL: \"https://x/\"", "is the region right?"),
    ] {
        sandbox.answers("describe-stacks.error", said);
        let ended = sandbox.deploy("acme");
        let expected = "make deploy: the stack could not be looked up: ";
        assert!(ended.complaint.starts_with(expected), "{}", ended.complaint);
        assert!(!ended.succeeded && ended.complaint.contains(told), "{}", ended.complaint);
        assert!(!sandbox.did("sam"));
    }

    for name in ["-x", "a b", "../x", "é", "$(touch x)"] {
        let ended = sandbox.deploy(name);
        let complaint = "make deploy: STACK must be a stack's name: letters, digits and hyphens.\n";
        assert_eq!(ended.complaint, complaint, "{name}");
        assert!(!sandbox.did("aws"));
    }
    for name in ["aws", "AWS-relay", "ssmRelay", "Ssm-1"] {
        let ended = sandbox.deploy(name);
        assert!(!ended.succeeded && ended.complaint.contains("must not begin with aws or ssm"));
        assert_eq!(ended.complaint.lines().count(), 1, "{name}: {}", ended.complaint);
        assert!(!sandbox.did("aws"));
    }
    fs::remove_file(sandbox.folder.join("target/lambda/ingest-fn/bootstrap")).unwrap();
    assert!(sandbox.deploy("acme").complaint.contains("run \"make package\" first"));
    fs::remove_file(sandbox.folder.join("bin/sam")).unwrap();
    assert!(sandbox.deploy("acme").complaint.contains("the SAM CLI is missing"));
}
