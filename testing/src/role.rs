//! The template's roles, and what they allow in the in-process account.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a policy that cannot be read fails the test"
)]

use std::{collections::BTreeSet, sync::OnceLock};

use serde_json::{Value, json};

use crate::{
    aws::{ACCOUNT, BUCKET, BUCKET_KEY, KEY_PREFIX, MAPPING, QUEUE_ARNS, REGION, TABLE},
    template,
};

/// The permissions of a role from all its policies: inline, conditional and attached.
#[derive(Debug, Clone)]
pub struct Role {
    grants: Vec<Grant>,
}

/// One action on one resource.
#[derive(Debug, Clone)]
pub struct Grant {
    /// As in `sqs:SendMessage`.
    pub action: String,
    /// As the template calls it: `EventsQueue`, `parameter${PauseParameter}-breaker`, `*`.
    pub named: String,
    /// Its ARN here; a `*` at the end matches anything.
    arn: String,
    /// Keys of the request's context, each with the values that it may have.
    conditions: Vec<(String, Vec<String>)>,
}

impl Role {
    /// One of the template's roles, by its logical id, in a stack that posts deliveries.
    #[must_use]
    pub fn named(role: &str) -> Self {
        Self::of(role, false)
    }

    /// The same in a stack that writes them to a bucket, which is encrypted with a KMS key.
    #[must_use]
    pub fn with_a_bucket(role: &str) -> Self {
        Self::of(role, true)
    }

    fn of(role: &str, has_bucket: bool) -> Self {
        static TEMPLATE: OnceLock<Value> = OnceLock::new();
        let template = TEMPLATE.get_or_init(template::read);
        let statements = statements(template, role, has_bucket);
        Self { grants: statements.iter().flat_map(Grant::of).collect() }
    }

    /// Everything it allows, as pairs of an action and a resource in the template's words.
    #[must_use]
    pub fn pairs(&self) -> BTreeSet<(String, String)> {
        self.grants.iter().map(Grant::pair).collect()
    }

    /// As [`Role::pairs`], without the actions of Lambda itself under this role.
    #[must_use]
    pub fn pairs_of_the_code(&self) -> BTreeSet<(String, String)> {
        let of_lambda = |action: &str| action.starts_with("logs:") || action.starts_with("xray:");
        self.pairs().into_iter().filter(|(action, _)| !of_lambda(action)).collect()
    }

    /// What allows an action on a resource in this context, if anything does.
    #[must_use]
    pub fn allows(&self, action: &str, arn: &str, context: &[(&str, &str)]) -> Option<&Grant> {
        self.grants.iter().find(|grant| {
            let covers = match grant.arn.strip_suffix('*') {
                Some(begin) => arn.starts_with(begin),
                None => arn == grant.arn,
            };
            let meets = |(key, values): &(String, Vec<String>)| {
                context.iter().any(|(name, value)| name == key && values.iter().any(|v| v == value))
            };
            grant.action == action && covers && grant.conditions.iter().all(meets)
        })
    }
}

impl Grant {
    /// The grants of a statement.
    fn of(statement: &Value) -> Vec<Self> {
        assert_eq!(statement["Effect"], "Allow");
        for unread in ["NotAction", "NotResource"] {
            assert_eq!(statement[unread], Value::Null);
        }
        let conditions = statement["Condition"].as_object().into_iter().flatten();
        let conditions: Vec<_> = conditions
            .flat_map(|(operator, keys)| {
                assert_eq!(operator, "StringEquals");
                keys.as_object().expect("a condition has keys")
            })
            .map(|(key, values)| (key.clone(), many(values).iter().map(arn).collect()))
            .collect();
        let resources = many(&statement["Resource"]);
        let grants = many(&statement["Action"]).into_iter().flat_map(|action| {
            let action = action.as_str().expect("an action is text").to_owned();
            // Wildcards would hide which actions are allowed.
            assert!(!action.contains(['*', '?']), "{action}");
            resources.iter().map(move |resource| (action.clone(), resource.clone()))
        });
        grants
            .map(|(action, resource)| Self {
                action,
                named: named(&resource),
                arn: arn(&resource),
                conditions: conditions.clone(),
            })
            .collect()
    }

    /// Action and resource, in the template's words.
    #[must_use]
    pub fn pair(&self) -> (String, String) {
        (self.action.clone(), self.named.clone())
    }
}

fn statements(template: &Value, role: &str, has_bucket: bool) -> Vec<Value> {
    let resources = template["Resources"].as_object().expect("the template has resources");
    assert_eq!(resources[role]["Type"], "AWS::IAM::Role", "{role}");
    let own = many(&resources[role]["Properties"]["Policies"]).into_iter();
    let attached = resources.values().filter(|resource| {
        resource["Type"] == "AWS::IAM::Policy"
            && many(&resource["Properties"]["Roles"]).contains(&json!({"Ref": role}))
    });
    let policies = own.chain(attached.map(|policy| policy["Properties"].clone()));
    let policies = policies.filter_map(|policy| decided(policy, has_bucket));
    let statements: Vec<_> =
        policies.flat_map(|policy| many(&policy["PolicyDocument"]["Statement"])).collect();
    assert!(!statements.is_empty(), "{role} has no policies");
    statements
}

/// A part of the template with its conditions decided: all are met but those about a bucket, which are as
/// `has_bucket`. `None` if nothing is left.
fn decided(value: Value, has_bucket: bool) -> Option<Value> {
    const OF_A_BUCKET: [&str; 2] = ["WritesToBucket", "HasBucketKey"];
    match value {
        Value::Object(mut members) => {
            if let Some(Value::Array(choice)) = members.get_mut("Fn::If") {
                let [Value::String(condition), then, or_else] = &mut choice[..] else {
                    panic!("no choice: {choice:?}");
                };
                let is_met = has_bucket || !OF_A_BUCKET.contains(&condition.as_str());
                return decided(if is_met { then.take() } else { or_else.take() }, has_bucket);
            }
            if members.get("Ref").is_some_and(|name| name == "AWS::NoValue") {
                return None;
            }
            let members = members.into_iter();
            let members =
                members.filter_map(|(name, value)| Some((name, decided(value, has_bucket)?)));
            Some(Value::Object(members.collect()))
        }
        Value::Array(values) => {
            Some(values.into_iter().filter_map(|value| decided(value, has_bucket)).collect())
        }
        value => Some(value),
    }
}

/// The template's word for a resource.
fn named(resource: &Value) -> String {
    let text = resource.as_str().or_else(|| substituted(resource));
    let text = text.or_else(|| resource["Ref"].as_str());
    let text = text.or_else(|| resource["Fn::GetAtt"].as_str()?.strip_suffix(".Arn"));
    let text = text.unwrap_or_else(|| panic!("no resource: {resource}"));
    text.rsplit_once("${AWS::AccountId}:").map_or(text, |(_, rest)| rest).to_owned()
}

/// What CloudFormation would make of a resource, or of a condition's value, in the account of this process.
fn arn(value: &Value) -> String {
    if let Some(resource) = value["Fn::GetAtt"].as_str() {
        return match resource {
            "EventsQueue.Arn" => format!("{QUEUE_ARNS}events"),
            "CoverageTable.Arn" => format!("arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{TABLE}"),
            "QuarantineQueue.Arn" => format!("{QUEUE_ARNS}quarantine"),
            other => format!("arn:aws:{other}"),
        };
    }
    if value["Ref"] == "DestinationKeyArn" {
        return BUCKET_KEY.to_owned();
    }
    let text = value.as_str().or_else(|| substituted(value));
    let mut text = text.unwrap_or_else(|| panic!("no ARN: {value}")).to_owned();
    let place = format!("{BUCKET}/{}", KEY_PREFIX.trim_end_matches('/'));
    while let Some((before, rest)) = text.split_once("${") {
        let (name, after) = rest.split_once('}').expect("a reference ends");
        let value = match name {
            "AWS::Partition" => "aws",
            "AWS::Region" => REGION,
            "AWS::AccountId" => ACCOUNT,
            "AWS::URLSuffix" => "amazonaws.com",
            "PauseParameter" => "/relay/pause",
            "WebhookKeysParameter" => "/relay/webhook-keys",
            "GladlyTokenParameter" => "/relay/gladly-token",
            "DestinationTokenParameter" => "/relay/destination-token",
            "EventsMapping" => MAPPING,
            "Place" => &place,
            other => panic!("{other} is nothing here"),
        };
        text = format!("{before}{value}{after}");
    }
    text
}

/// The text in which names are substituted, with names of its own or without.
fn substituted(value: &Value) -> Option<&str> {
    value["Fn::Sub"].as_str().or_else(|| value["Fn::Sub"][0].as_str())
}

fn many(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values.clone(),
        value => vec![value.clone()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_allows_exactly_its_statements() {
        let (ingest, extractor) = (Role::named("IngestRole"), Role::named("ExtractorRole"));
        let parameter =
            |name: &str| format!("arn:aws:ssm:eu-west-1:123456789012:parameter/relay/{name}");
        let queue = |name: &str| format!("{QUEUE_ARNS}{name}");
        for (role, action, arn, allowed) in [
            (&ingest, "sqs:SendMessage", queue("events"), true),
            (&ingest, "sqs:SendMessage", queue("events-2"), false),
            (&ingest, "sqs:ReceiveMessage", queue("events"), false),
            (&ingest, "ssm:GetParameter", parameter("webhook-keys"), true),
            (&ingest, "ssm:GetParameter", parameter("gladly-token"), false),
            (&ingest, "ssm:GetParameter", parameter("pause"), false),
            (&extractor, "ssm:GetParameter", parameter("webhook-keys"), false),
            (&extractor, "ssm:GetParameter", parameter("pause"), true),
            (&extractor, "ssm:PutParameter", parameter("pause"), false),
            (&extractor, "ssm:PutParameter", parameter("pause-breaker"), true),
            (&extractor, "ssm:PutParameter", parameter("gladly-token"), false),
            (&extractor, "lambda:ListEventSourceMappings", "*".into(), true),
        ] {
            assert_eq!(role.allows(action, &arn, &[]).is_some(), allowed, "{action} on {arn}");
        }
    }

    #[test]
    fn only_a_stack_with_a_bucket_may_write_to_it_and_it_needs_no_token() {
        let [https, bucket] = [Role::named, Role::with_a_bucket].map(|role| role("ExtractorRole"));
        let token =
            "arn:aws:ssm:eu-west-1:123456789012:parameter/relay/destination-token".to_owned();
        let key = |key: &str| format!("arn:aws:s3:::{BUCKET}{key}");
        for (action, arn, by_https, by_bucket) in [
            ("ssm:GetParameter", token, true, false),
            ("s3:PutObject", key("/gladly/events/x"), false, true),
            ("s3:PutObject", key("/gladly-2/events/x"), false, false),
            ("s3:PutObject", key("-2/gladly/events/x"), false, false),
            ("s3:GetObject", key("/gladly/events/x"), false, false),
        ] {
            let allows = [&https, &bucket].map(|role| role.allows(action, &arn, &[]).is_some());
            assert_eq!(allows, [by_https, by_bucket], "{action} on {arn}");
        }
    }
}
