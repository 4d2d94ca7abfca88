//! What must never change in `template.yaml`, each with what it would cost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use regex::Regex;
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Value, json};

#[test]
fn a_failed_record_is_never_deleted_and_a_deploy_never_switches_the_mapping() {
    // Frozen whole. Without the response type Lambda deletes what the function failed; with Enabled a deploy would undo
    // a pause; with FilterCriteria Lambda deletes what does not match; without ScalingConfig Gladly is stampeded.
    let mapping = &template()["Resources"]["EventsMapping"];
    let frozen = json!({
        "Type": "AWS::Lambda::EventSourceMapping",
        "Properties": {
            "EventSourceArn": {"Fn::GetAtt": "EventsQueue.Arn"},
            "FunctionName": {"Ref": "ExtractorFunction"},
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "BatchSize": 500,
            "MaximumBatchingWindowInSeconds": 5,
            "ScalingConfig": {"MaximumConcurrency": 2},
        },
    });
    assert_eq!(mapping, &frozen);
    assert_eq!(of_type("AWS::Lambda::EventSourceMapping").len(), 1);
}

#[test]
fn a_deploy_never_writes_over_a_pause() {
    // Frozen whole: CloudFormation writes the value again, "running", as soon as any property differs.
    let parameter = &template()["Resources"]["PauseParameter"];
    let frozen = json!({
        "Type": "AWS::SSM::Parameter",
        "Properties": {
            "Name": {"Fn::Sub": "/${AWS::StackName}/pause"},
            "Type": "String",
            "Value": "running",
        },
    });
    assert_eq!(parameter, &frozen);
    assert_eq!(of_type("AWS::SSM::Parameter").len(), 1);
}

#[test]
fn a_message_is_not_handed_out_twice_while_it_is_worked_on() {
    let visibility = properties("EventsQueue")["VisibilityTimeout"].as_u64().unwrap();
    let timeout = function("ExtractorFunction")["Timeout"].as_u64().unwrap();
    assert_eq!(timeout, 300);
    assert!(visibility >= 6 * timeout, "visibility {visibility} s, timeout {timeout} s");
}

#[test]
fn only_a_thousand_receives_move_an_event_to_quarantine_unasked() {
    let redrive = json!({
        "deadLetterTargetArn": {"Fn::GetAtt": "QuarantineQueue.Arn"},
        "maxReceiveCount": 1000,
    });
    assert_eq!(properties("EventsQueue")["RedrivePolicy"], redrive);
    let nobody = json!({"redrivePermission": "denyAll"});
    assert_eq!(properties("EventsQueue")["RedriveAllowPolicy"], nobody);
    assert_eq!(properties("QuarantineQueue")["RedrivePolicy"], Value::Null);
}

#[test]
fn retention_is_what_the_parameter_says_in_days() {
    let template = template();
    let lookup = json!({"Fn::FindInMap": ["Retention", {"Ref": "RetentionDays"}, "Seconds"]});
    assert_eq!(properties("EventsQueue")["MessageRetentionPeriod"], lookup);

    let parameter = &template["Parameters"]["RetentionDays"];
    let days = (1..=14).collect::<Vec<u64>>();
    assert_eq!(parameter["AllowedValues"], json!(days));
    assert_eq!(parameter["Default"], 4);
    let seconds =
        days.iter().map(|day| (day.to_string(), json!({"Seconds": day * 24 * 60 * 60}))).collect();
    assert_eq!(template["Mappings"]["Retention"], Value::Object(seconds));

    // The longest that SQS knows, since what is moved there keeps the age it came with.
    assert_eq!(properties("QuarantineQueue")["MessageRetentionPeriod"], 14 * 24 * 60 * 60);
}

#[test]
fn what_a_queue_holds_outlives_the_stack_and_is_only_read_over_tls() {
    let queues = of_type("AWS::SQS::Queue");
    assert_eq!(queues, ["EventsQueue", "QuarantineQueue"]);
    let mut guarded = BTreeSet::new();
    for policy in of_type("AWS::SQS::QueuePolicy") {
        let found = properties(&policy);
        let queue = found["Queues"][0]["Ref"].as_str().unwrap().to_owned();
        let only_over_tls = json!({
            "Queues": [{"Ref": queue}],
            "PolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [{
                    "Sid": "OnlyOverTls",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sqs:*",
                    "Resource": {"Fn::GetAtt": format!("{queue}.Arn")},
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }],
            },
        });
        assert_eq!(found, only_over_tls, "{policy}");
        assert_retained(&policy);
        guarded.insert(queue);
    }
    for queue in queues {
        assert!(guarded.contains(&queue), "{queue} has no policy");
        assert_retained(&queue);
        let properties = properties(&queue);
        assert_eq!(properties["SqsManagedSseEnabled"], true, "{queue}");
        assert_eq!(properties["MaximumMessageSize"], 1024 * 1024, "{queue}");
        // A retained queue would keep its name, and the stack could not be created again.
        assert_eq!(properties["QueueName"], Value::Null, "{queue}");
    }
}

fn assert_retained(resource: &str) {
    let found = &template()["Resources"][resource];
    assert_eq!(found["DeletionPolicy"], "Retain", "{resource}");
    assert_eq!(found["UpdateReplacePolicy"], "Retain", "{resource}");
}

#[test]
fn each_function_may_do_what_its_code_does_and_nothing_else() {
    let parameter = |name: &str| {
        let all = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter";
        json!({"Fn::Sub": format!("{all}${{{name}}}")}).to_string()
    };
    let attribute = |name: &str| json!({"Fn::GetAtt": format!("{name}.Arn")}).to_string();
    let any_key = json!({
        "Fn::Sub": "arn:${AWS::Partition}:kms:${AWS::Region}:${AWS::AccountId}:key/*"
    })
    .to_string();
    let anything = json!("*").to_string();
    let tracing = |allowed: &mut BTreeSet<(String, String)>| {
        for action in ["xray:PutTraceSegments", "xray:PutTelemetryRecords"] {
            allowed.insert((action.to_owned(), anything.clone()));
        }
    };

    let mut ingest = pairs(&[
        ("sqs:SendMessage", &attribute("EventsQueue")),
        ("sqs:SendMessage", &attribute("QuarantineQueue")),
        ("ssm:GetParameter", &parameter("WebhookKeysParameter")),
        ("kms:Decrypt", &any_key),
        ("logs:CreateLogStream", &attribute("IngestLogs")),
        ("logs:PutLogEvents", &attribute("IngestLogs")),
    ]);
    tracing(&mut ingest);
    let mut extractor = pairs(&[
        ("sqs:ReceiveMessage", &attribute("EventsQueue")),
        ("sqs:DeleteMessage", &attribute("EventsQueue")),
        ("sqs:GetQueueAttributes", &attribute("EventsQueue")),
        ("sqs:ChangeMessageVisibility", &attribute("EventsQueue")),
        ("sqs:SendMessage", &attribute("QuarantineQueue")),
        ("ssm:GetParameter", &parameter("PauseParameter")),
        ("ssm:GetParameter", &parameter("GladlyTokenParameter")),
        ("ssm:GetParameter", &parameter("DestinationTokenParameter")),
        ("kms:Decrypt", &any_key),
        ("logs:CreateLogStream", &attribute("ExtractorLogs")),
        ("logs:PutLogEvents", &attribute("ExtractorLogs")),
    ]);
    tracing(&mut extractor);
    let wanted = BTreeMap::from([
        ("IngestRole".to_owned(), ingest),
        ("ExtractorRole".to_owned(), extractor),
    ]);

    let found = of_type("AWS::IAM::Role").into_iter().map(|role| {
        let allowed = statements(&role).iter().flat_map(allowed).collect::<BTreeSet<_>>();
        (role, allowed)
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), wanted);
    for (function, role) in
        [("IngestFunction", "IngestRole"), ("ExtractorFunction", "ExtractorRole")]
    {
        let found = self::function(function);
        assert_eq!(found["Role"], json!({"Fn::GetAtt": format!("{role}.Arn")}));
        assert_eq!(found["Policies"], Value::Null);
        assert_eq!(properties(role)["ManagedPolicyArns"], Value::Null);
        let only_lambda = json!([{
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }]);
        assert_eq!(properties(role)["AssumeRolePolicyDocument"]["Statement"], only_lambda);
    }
    for elsewhere in ["AWS::IAM::Policy", "AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy"] {
        assert_eq!(of_type(elsewhere), [""; 0]);
    }
}

#[test]
fn a_key_decrypts_nothing_but_the_functions_own_secrets() {
    for (role, secrets) in [
        ("IngestRole", &["WebhookKeysParameter"][..]),
        ("ExtractorRole", &["GladlyTokenParameter", "DestinationTokenParameter"]),
    ] {
        let statements = statements(role);
        let decrypt = statements.iter().find(|found| found["Action"] == "kms:Decrypt").unwrap();
        let arns = secrets.iter().map(|name| {
            let all = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter";
            json!({"Fn::Sub": format!("{all}${{{name}}}")})
        });
        let condition = json!({"StringEquals": {
            "kms:ViaService": {"Fn::Sub": "ssm.${AWS::Region}.${AWS::URLSuffix}"},
            "kms:EncryptionContext:PARAMETER_ARN": one_or_many(arns.collect()),
        }});
        assert_eq!(decrypt["Condition"], condition, "{role}");
    }
}

#[test]
fn the_functions_are_what_cargo_lambda_builds() {
    assert_eq!(of_type("AWS::Serverless::Function"), ["ExtractorFunction", "IngestFunction"]);
    assert_eq!(of_type("AWS::Lambda::Function"), [""; 0]);
    for (name, folder, logs) in [
        ("IngestFunction", "target/lambda/ingest-fn/", "IngestLogs"),
        ("ExtractorFunction", "target/lambda/extractor-fn/", "ExtractorLogs"),
    ] {
        let function = function(name);
        assert_eq!(function["CodeUri"], folder, "{name}");
        assert_eq!(function["Runtime"], "provided.al2023", "{name}");
        assert_eq!(function["Handler"], "bootstrap", "{name}");
        assert_eq!(function["Architectures"], json!([{"Ref": "Architecture"}]), "{name}");
        assert_eq!(function["LoggingConfig"]["LogFormat"], "JSON", "{name}");
        assert_eq!(function["LoggingConfig"]["LogGroup"], json!({"Ref": logs}), "{name}");
        // SAM would make resources of them that this test does not see.
        assert_eq!(function["Events"], Value::Null, "{name}");
    }
    assert_eq!(template()["Parameters"]["Architecture"]["Default"], "arm64");
    // Gladly hangs up after 15 s.
    assert!(function("IngestFunction")["Timeout"].as_u64().unwrap() < 15);
    // Lambda stops a function that feeds its own queue, as the extractor does with what is about to expire.
    assert_eq!(function("ExtractorFunction")["RecursiveLoop"], "Allow");
}

#[test]
fn the_functions_get_the_settings_that_they_read() {
    let settings = |name: &str| {
        let variables = function(name)["Environment"]["Variables"].clone();
        let Value::Object(variables) = variables else { panic!("{name} has no environment") };
        for (variable, value) in &variables {
            // A dynamic reference would resolve a secret into what everyone can read who may see the function.
            assert!(value.is_object(), "{variable} of {name} is neither Ref, GetAtt nor Sub");
            assert!(!value.to_string().contains("{{resolve:"), "{variable} of {name}");
        }
        variables.into_iter().map(|(variable, _)| variable).collect::<BTreeSet<_>>()
    };
    assert_eq!(
        settings("IngestFunction"),
        names(&["EVENTS_QUEUE_URL", "QUARANTINE_QUEUE_URL", "WEBHOOK_KEYS_PARAMETER"])
    );
    assert_eq!(
        settings("ExtractorFunction"),
        names(&[
            "EVENTS_QUEUE_URL",
            "QUARANTINE_QUEUE_URL",
            "EVENTS_QUEUE_ARN",
            "PAUSE_PARAMETER",
            "GLADLY_HOST",
            "GLADLY_EMAIL",
            "GLADLY_TOKEN_PARAMETER",
            "GLADLY_REQUESTS_PER_SECOND",
            "DESTINATION_URL",
            "DESTINATION_TOKEN_PARAMETER",
            "DESTINATION_TOKEN_HEADER",
            "DESTINATION_GZIP",
            "FORWARD_CUSTOMER_CONTACT",
            "FORWARD_NOTES",
            "RENEW_HELD_EVENTS",
            "WATCH_WEBHOOK",
            "WEBHOOK_URL",
        ])
    );
}

#[test]
fn every_parameter_explains_itself_and_refuses_nonsense() {
    for (name, parameter) in parameters() {
        let description = parameter["Description"].as_str().unwrap_or_default();
        assert!(description.len() > 40 && description.ends_with('.'), "{name}: {description:?}");
        let pattern = parameter["AllowedPattern"].as_str();
        let anchored = pattern.is_some_and(|it| it.starts_with('^') && it.ends_with('$'));
        let listed = parameter["AllowedValues"].is_array();
        let ranged = parameter["MinValue"].is_number() && parameter["MaxValue"].is_number();
        assert!(anchored || listed || ranged, "{name} takes anything");
        // CloudFormation would show the bare pattern otherwise.
        assert!(listed || parameter["ConstraintDescription"].is_string(), "{name}");
    }
}

#[test]
fn no_parameter_takes_a_secret() {
    let suspicious = Regex::new("(?i)(token|key|secret|password|credential)").unwrap();
    for (name, parameter) in parameters() {
        assert_eq!(parameter["NoEcho"], Value::Null, "{name}");
        if suspicious.is_match(&name) && name != "DestinationTokenHeader" {
            assert!(name.ends_with("Parameter"), "{name} does not ask for a parameter's name");
            let default = parameter["Default"].as_str().unwrap_or_default();
            assert!(default.starts_with("/gladly-relay/"), "{name}: {default:?}");
            // A token pasted by mistake is refused, not stored where the stack shows it.
            assert!(!accepts(&name, "eyJhbGciOiJIUzI1NiJ9"), "{name}");
        }
    }
}

#[test]
fn hosts_and_urls_are_gladlys_encrypted_or_on_this_machine() {
    for (parameter, value, taken) in [
        ("GladlyHost", "acme.gladly.com", true),
        ("GladlyHost", "acme.us-1.gladly.qa", true),
        ("GladlyHost", "http://127.0.0.1:8080", true),
        ("GladlyHost", "gladly.com", false),
        ("GladlyHost", "https://acme.gladly.com", false),
        ("GladlyHost", "acme.gladly.com/api", false),
        ("GladlyHost", "acme.gladly.com.example.com", false),
        ("GladlyHost", "acmegladly.com", false),
        ("GladlyHost", "acme.gladlyxcom", false),
        ("GladlyHost", "user@acme.gladly.com", false),
        ("GladlyHost", "http://127.0.0.1.example.com:80", false),
        ("GladlyHost", "http://10.0.0.1:80", false),
        ("DestinationUrl", "https://in.example.com", true),
        ("DestinationUrl", "https://in.example.com:8443/v1/items?source=gladly", true),
        ("DestinationUrl", "http://127.0.0.1:9000/deliveries", true),
        ("DestinationUrl", "http://in.example.com/v1", false),
        ("DestinationUrl", "http://127.0.0.1.example.com/", false),
        ("DestinationUrl", "http://127.0.0.1:80@example.com/", false),
        ("DestinationUrl", "https://user:password@in.example.com/", false),
        ("DestinationUrl", "https://in.example.com/ v1", false),
        ("DestinationUrl", "https:///v1", false),
        ("GladlyEmail", "relay@example.com", true),
        ("GladlyEmail", "relay", false),
        ("GladlyTokenParameter", "/acme/gladly/token", true),
        ("GladlyTokenParameter", "acme/gladly/token", false),
        ("GladlyTokenParameter", "/acme//token", false),
        ("DestinationTokenHeader", "x-api-key", true),
        ("DestinationTokenHeader", "x-api-key: abc", false),
    ] {
        assert_eq!(accepts(parameter, value), taken, "{parameter}: {value}");
    }
}

#[test]
fn the_endpoint_takes_gladlys_webhooks_and_logs_nothing_of_them() {
    assert_eq!(of_type("AWS::ApiGatewayV2::Route"), ["WebhookRoute"]);
    assert_eq!(properties("WebhookRoute")["RouteKey"], "POST /webhooks/gladly");
    assert_eq!(properties("WebhookIntegration")["PayloadFormatVersion"], "2.0");
    let source = properties("WebhookPermission")["SourceArn"]["Fn::Sub"].clone();
    assert!(source.as_str().unwrap().ends_with(":${WebhookApi}/*/POST/webhooks/gladly"));
    // The emulated AWS ignores the routes of this one without a word.
    assert_eq!(of_type("AWS::Serverless::HttpApi"), [""; 0]);

    let limits = &properties("WebhookStage")["DefaultRouteSettings"];
    assert_eq!(limits["ThrottlingRateLimit"], json!({"Ref": "WebhookRateLimit"}));
    assert_eq!(limits["ThrottlingBurstLimit"], json!({"Ref": "WebhookBurstLimit"}));
    let format = properties("WebhookStage")["AccessLogSettings"]["Format"].clone();
    let format = serde_json::from_str::<BTreeMap<String, String>>(format.as_str().unwrap());
    let fields = format.expect("the access log is not JSON").into_values().collect::<BTreeSet<_>>();
    assert_eq!(
        fields,
        names(&[
            "$context.error.responseType",
            "$context.integrationLatency",
            "$context.integrationStatus",
            "$context.requestId",
            "$context.requestTimeEpoch",
            "$context.responseLatency",
            "$context.responseLength",
            "$context.routeKey",
            "$context.status",
        ])
    );
}

#[test]
fn no_log_is_kept_for_ever() {
    let logs = of_type("AWS::Logs::LogGroup");
    assert_eq!(logs, ["AccessLogs", "ExtractorLogs", "IngestLogs"]);
    for group in logs {
        let retention = &properties(&group)["RetentionInDays"];
        assert_eq!(retention, &json!({"Ref": "LogRetentionDays"}), "{group}");
    }
}

#[test]
fn what_scripts_read_off_the_stack_is_there() {
    let Value::Object(outputs) = template()["Outputs"].take() else { panic!("no outputs") };
    assert_eq!(
        outputs.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(),
        names(&[
            "EventsMappingId",
            "EventsQueueUrl",
            "ExtractorFunctionName",
            "IngestFunctionName",
            "PauseParameterName",
            "QuarantineQueueUrl",
            "WebhookUrl",
        ])
    );
}

/// The template, its tags in the long form: `!Ref x` as `{"Ref": "x"}`, `!Sub x` as `{"Fn::Sub": "x"}`.
fn template() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../template.yaml");
    let documents = Yaml::load_from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(documents.len(), 1);
    json_of(&documents[0])
}

fn json_of(node: &Yaml<'_>) -> Value {
    match node {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => json!(value),
        Yaml::Value(Scalar::Integer(value)) => json!(value),
        Yaml::Value(Scalar::FloatingPoint(value)) => json!(value.0),
        Yaml::Value(Scalar::String(value)) => json!(value),
        Yaml::Sequence(nodes) => nodes.iter().map(json_of).collect(),
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                let key = key.as_str().expect("a key is not text").to_owned();
                object.insert(key, json_of(value));
            }
            Value::Object(object)
        }
        Yaml::Tagged(tag, node) => {
            let name = match tag.suffix.as_str() {
                "Ref" => "Ref".to_owned(),
                function => format!("Fn::{function}"),
            };
            Value::Object(Map::from_iter([(name, json_of(node))]))
        }
        Yaml::Representation(..) | Yaml::Alias(_) | Yaml::BadValue => panic!("odd node {node:?}"),
    }
}

fn properties(resource: &str) -> Value {
    let properties = template()["Resources"][resource]["Properties"].take();
    assert!(properties.is_object(), "{resource} is missing");
    properties
}

/// A function's properties, with what `Globals` adds to them.
fn function(name: &str) -> Value {
    let mut function = template()["Globals"]["Function"].take();
    merge(&mut function, properties(name));
    function
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// The names of all resources of a type, sorted.
fn of_type(kind: &str) -> Vec<String> {
    let Value::Object(resources) = template()["Resources"].take() else { panic!("no resources") };
    let found = resources.into_iter().filter(|(_, resource)| resource["Type"] == kind);
    let mut names = found.map(|(name, _)| name).collect::<Vec<_>>();
    names.sort();
    names
}

fn parameters() -> BTreeMap<String, Value> {
    let Value::Object(parameters) = template()["Parameters"].take() else {
        panic!("no parameters")
    };
    parameters.into_iter().collect()
}

/// Whether a parameter takes a value; CloudFormation matches the whole of it.
fn accepts(parameter: &str, value: &str) -> bool {
    let pattern = parameters()[parameter]["AllowedPattern"].as_str().unwrap().to_owned();
    Regex::new(&pattern).unwrap().is_match(value)
}

/// All statements of a role's policies, those under a condition too.
fn statements(role: &str) -> Vec<Value> {
    let mut statements = Vec::new();
    for policy in many(&properties(role)["Policies"]) {
        // [condition, then, else]
        let policy = policy["Fn::If"].get(1).cloned().unwrap_or(policy);
        statements.extend(many(&policy["PolicyDocument"]["Statement"]));
    }
    assert!(!statements.is_empty(), "{role} has no policies");
    statements
}

/// Every pair of an action and a resource that a statement allows.
fn allowed(statement: &Value) -> Vec<(String, String)> {
    assert_eq!(statement["Effect"], "Allow");
    for unread in ["NotAction", "NotResource"] {
        assert_eq!(statement[unread], Value::Null);
    }
    let resources = many(&statement["Resource"]);
    let pairs = many(&statement["Action"]).into_iter().flat_map(|action| {
        let action = action.as_str().unwrap().to_owned();
        resources.iter().map(move |resource| (action.clone(), resource.to_string()))
    });
    pairs.collect()
}

fn many(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values.clone(),
        value => vec![value.clone()],
    }
}

fn one_or_many(mut values: Vec<Value>) -> Value {
    if values.len() == 1 { values.remove(0) } else { Value::Array(values) }
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(action, on)| ((*action).to_owned(), (*on).to_owned())).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
