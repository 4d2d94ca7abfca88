//! `policy`: the least IAM policy of each command.

mod table;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::BucketUrl;
use tokio::time::{Duration, timeout};

use crate::{
    Context,
    args::PolicyArgs,
    commands::policy::table::{BUCKET, Grant, NEEDS, Need},
    error::{Error, Result},
    relay::Relay,
    session::Session,
};

/// How long the stack is looked for: the policy is needed most where that is not allowed yet.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// Prints a command's policy, or the commands.
pub(crate) async fn run(context: &Context, args: &PolicyArgs) -> Result<()> {
    if args.command.is_empty() {
        let names: Vec<_> = NEEDS.iter().map(|need| need.command).collect();
        context.terminal.say("Commands that need permissions at AWS:");
        for name in &names {
            context.terminal.say(&format!("  {name}"));
        }
        context.terminal.say("\nThe policy of one: gladly-relay policy COMMAND --stack NAME");
        context.terminal.result("policy", &json!({"commands": names}));
        return Ok(());
    }
    let need = find(&args.command.join(" "))?;
    let names = if let Some(relay) = looked_up(context).await? {
        Names::of(&relay)
    } else {
        context.terminal.remark(
            "The stack could not be looked up: replace what is written in capitals, and * by its resources.",
        );
        Names::placeholders(context.global.stack.as_deref(), context.global.region.as_deref())
    };
    let policy = names.policy(need);
    context.terminal.say(&format!("{policy:#}"));
    context.terminal.result("policy", &policy);
    Ok(())
}

/// A command by its name, with or without the hyphens of its options.
fn find(asked: &str) -> Result<&'static Need> {
    let plain = |name: &str| {
        name.split_whitespace()
            .map(|word| word.trim_start_matches('-'))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let found = NEEDS.iter().find(|need| plain(need.command) == plain(asked));
    found.ok_or_else(|| {
        let names: Vec<_> = NEEDS.iter().map(|need| need.command).collect();
        Error::usage(format!(
            "expected a command that calls AWS, got {asked:?}; they are: {}.",
            names.join(", ")
        ))
    })
}

/// The stack that was asked for, if it can be looked up.
async fn looked_up(context: &Context) -> Result<Option<Relay>> {
    if context.global.stack.is_none() {
        return Ok(None);
    }
    let session = match Session::open(&context.global).await {
        Ok(session) => session,
        Err(error) if error.sentence.starts_with("no region") => return Ok(None),
        Err(error) => return Err(error),
    };
    let step = timeout(LOOK_UP_TIMEOUT, Relay::find(session));
    let found = context.terminal.during("looking up the stack", step).await;
    Ok(found.ok().and_then(Result::ok).and_then(|relay| relay.deployed().ok()))
}

/// What the names in braces of the table stand for.
struct Names(BTreeMap<&'static str, String>);

impl Names {
    /// A stack's own resources.
    fn of(relay: &Relay) -> Self {
        let mut names = Self::placeholders(Some(&relay.name), Some(&relay.session.region));
        let last = |text: &str| text.rsplit(['/', ':']).next().unwrap_or_default().to_owned();
        // arn:PARTITION:sns:REGION:ACCOUNT:NAME
        if let Ok(topic) = relay.output("AlarmTopicArn") {
            let parts: Vec<_> = topic.split(':').collect();
            if let [_, partition, _, region, account, _] = *parts {
                names.set("partition", partition);
                names.set("region", region);
                names.set("account", account);
            }
            names.set("topic", topic);
        }
        for (name, output) in [
            ("extractor", "ExtractorFunctionName"),
            ("ingest", "IngestFunctionName"),
            ("events", "EventsQueueUrl"),
            ("mapping", "EventsMappingId"),
        ] {
            if let Ok(value) = relay.output(output) {
                names.set(name, &last(value));
            }
        }
        if let Ok(pause) = relay.output("PauseParameterName") {
            names.set("pause", pause);
        }
        for (name, parameter) in [
            ("keys", "WebhookKeysParameter"),
            ("gladly-token", "GladlyTokenParameter"),
            ("destination-token", "DestinationTokenParameter"),
        ] {
            if let Some(value) = relay.parameters.get(parameter) {
                names.set(name, value);
            }
        }
        if let Some(url) = relay.parameters.get("DestinationUrl") {
            let url = url.parse::<BucketUrl>();
            names.set("bucket", url.as_ref().map_or("", BucketUrl::bucket));
        }
        names
    }

    /// As far as they are known without the stack.
    fn placeholders(stack: Option<&str>, region: Option<&str>) -> Self {
        let stack = stack.unwrap_or("STACK");
        let region = region.unwrap_or("REGION");
        let partition = match region.split('-').next() {
            Some("cn") => "aws-cn",
            Some("eusc") => "aws-eusc",
            _ if region.starts_with("us-gov-") => "aws-us-gov",
            _ => "aws",
        };
        Self(BTreeMap::from([
            ("partition", partition.to_owned()),
            ("region", region.to_owned()),
            ("account", "ACCOUNT".to_owned()),
            ("stack", stack.to_owned()),
            ("extractor", format!("{stack}-ExtractorFunction-*")),
            ("ingest", format!("{stack}-IngestFunction-*")),
            ("events", format!("{stack}-EventsQueue-*")),
            ("mapping", "*".to_owned()),
            ("bucket", "BUCKET".to_owned()),
            ("topic", format!("arn:{partition}:sns:{region}:ACCOUNT:{stack}-AlarmTopic-*")),
            ("pause", format!("/{stack}/pause")),
            ("keys", format!("/{stack}/webhook-keys")),
            ("gladly-token", format!("/{stack}/gladly-token")),
            ("destination-token", format!("/{stack}/destination-token")),
        ]))
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.0.insert(name, value.to_owned());
    }

    /// A pattern of the table with the names in their places.
    fn fill(&self, pattern: &str) -> String {
        let mut filled = pattern.to_owned();
        if let Some((service, rest)) =
            pattern.strip_prefix("{arn:").and_then(|rest| rest.split_once('}'))
        {
            filled = format!("arn:{{partition}}:{service}:{{region}}:{{account}}{rest}");
        }
        for (name, value) in &self.0 {
            filled = filled.replace(&format!("{{{name}}}"), value);
        }
        filled
    }

    fn policy(&self, need: &Need) -> Value {
        let applies = |grant: &&Grant| !(self.0["bucket"].is_empty() && grant.on.contains(&BUCKET));
        let grants = need.grants.iter().filter(applies);
        let statements: Vec<_> = grants.map(|grant| self.statement(grant)).collect();
        json!({"Version": "2012-10-17", "Statement": statements})
    }

    fn statement(&self, grant: &Grant) -> Value {
        let all =
            |patterns: &[&str]| patterns.iter().map(|each| self.fill(each)).collect::<Vec<_>>();
        let mut statement = json!({
            "Sid": grant.sid,
            "Effect": "Allow",
            "Action": grant.actions,
            "Resource": all(grant.on),
        });
        if !grant.through_ssm.is_empty() {
            let suffix =
                if self.0["partition"] == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
            statement["Condition"] = json!({"StringEquals": {
                "kms:ViaService": format!("ssm.{}.{suffix}", self.0["region"]),
                "kms:EncryptionContext:PARAMETER_ARN": all(grant.through_ssm),
            }});
        }
        if !grant.passed_to.is_empty() {
            statement["Condition"] =
                json!({"StringEquals": {"iam:PassedToService": grant.passed_to}});
        }
        statement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What AWS accepts on no narrower resource
    /// (<https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html>);
    /// the first of secrets, fleet and deploy are about other stacks too.
    const ANY_RESOURCE: &[&str] = &[
        "cloudformation:DescribeStacks",
        "cloudwatch:DescribeAlarms",
        "cloudwatch:GetMetricData",
        "cloudwatch:GetMetricStatistics",
        "lambda:CreateEventSourceMapping",
        "lambda:DeleteEventSourceMapping",
        "lambda:GetAccountSettings",
        "lambda:GetEventSourceMapping",
        "lambda:ListTags",
        "lambda:TagResource",
        "lambda:UpdateEventSourceMapping",
        "logs:CreateLogDelivery",
        "logs:DeleteLogDelivery",
        "logs:DescribeLogGroups",
        "logs:DescribeMetricFilters",
        "logs:DescribeResourcePolicies",
        "logs:GetLogDelivery",
        "logs:GetQueryResults",
        "logs:ListLogDeliveries",
        "logs:PutResourcePolicy",
        "logs:UpdateLogDelivery",
        "sns:GetSubscriptionAttributes",
        "sns:Unsubscribe",
        "ssm:DescribeParameters",
        "sts:GetCallerIdentity",
    ];

    #[test]
    fn every_policy_is_one_that_iam_accepts_and_as_narrow_as_it_can_be() {
        let names = Names::placeholders(Some("a-stack-with-a-long-name"), Some("ap-southeast-2"));
        for need in NEEDS {
            let policy = names.policy(need);
            let text = policy.to_string();
            // The quota of a managed policy, without white space.
            assert!(text.len() <= 6_144, "{}: {}", need.command, text.len());
            let mut sids = Vec::new();
            for grant in need.grants {
                assert!(grant.sid.chars().all(|c| c.is_ascii_alphanumeric()), "{}", grant.sid);
                sids.push(grant.sid);
                for pattern in grant.on.iter().chain(grant.through_ssm) {
                    let filled = names.fill(pattern);
                    assert!(!filled.contains(['{', '}']), "{filled}");
                    assert!(filled == "*" || filled.starts_with("arn:aws:"), "{filled}");
                }
                if grant.on == ["*"] {
                    for action in grant.actions {
                        assert!(ANY_RESOURCE.contains(action), "{}: {action}", need.command);
                    }
                }
            }
            let count = sids.len();
            sids.sort_unstable();
            sids.dedup();
            assert_eq!(sids.len(), count, "{}: a Sid occurs once", need.command);
        }
    }

    #[test]
    fn partitions_have_names_of_their_own() {
        let arn = |region: &str| Names::placeholders(None, Some(region)).fill("{arn:sqs}:{events}");
        assert_eq!(arn("eu-west-1"), "arn:aws:sqs:eu-west-1:ACCOUNT:STACK-EventsQueue-*");
        assert!(arn("cn-north-1").starts_with("arn:aws-cn:"));
        assert!(arn("us-gov-west-1").starts_with("arn:aws-us-gov:"));
        assert!(arn("eusc-de-east-1").starts_with("arn:aws-eusc:"));
    }
}
