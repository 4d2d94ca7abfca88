//! A command's calls held against the policy that the program prints for it.

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// The command's policy allows what it called: `policy_allows("status", &aws.actions())`.
#[track_caller]
pub(crate) fn policy_allows(command: &str, actions: &BTreeSet<String>) {
    let policy = policy_of(command);
    let allowed = listed(&policy, "Action");
    // AWS asks for no permission for this one.
    for action in actions.iter().filter(|action| *action != "sts:GetCallerIdentity") {
        let is_allowed = allowed.iter().any(|pattern| matches(pattern, action));
        assert!(is_allowed, "{command} calls {action}, which its policy does not allow");
    }
}

fn policy_of(command: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_gladly-relay"))
        .args(["policy", "--output", "json", "--", command])
        .current_dir(std::env::temp_dir())
        .env_clear()
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    let mut document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["result"].take()
}

/// The name that IAM has for an operation of a service.
pub(crate) fn iam_action(service: &str, operation: &str) -> String {
    let action = match operation {
        "Invoke" => "InvokeFunction",
        "SendMessageBatch" => "SendMessage",
        operation => operation,
    };
    format!("{service}:{action}")
}

/// Whether IAM takes the action for the pattern.
fn matches(pattern: &str, action: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == action,
        Some((start, rest)) => action.strip_prefix(start).is_some_and(|left| {
            (0..=left.len())
                .any(|skipped| left.get(skipped..).is_some_and(|left| matches(rest, left)))
        }),
    }
}

/// Everything that the statements list under a key.
pub(crate) fn listed<'a>(policy: &'a Value, key: &str) -> Vec<&'a str> {
    let statements = policy["Statement"].as_array().unwrap();
    let lists = statements.iter().filter_map(|statement| statement[key].as_array());
    lists.flatten().filter_map(Value::as_str).collect()
}
