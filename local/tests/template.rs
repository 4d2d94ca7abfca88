//! What must never change in `template.yaml`, and what each change would cost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use serde_json::{Value, json};
use testing::{role::Role, template::read as template};

#[test]
fn a_failed_record_is_never_deleted_and_a_deploy_never_switches_the_mapping() {
    // Every property is fixed. Without the response type Lambda deletes failed records; with Enabled a deploy would undo
    // a pause; with FilterCriteria Lambda deletes what does not match; without ScalingConfig Gladly is overloaded.
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
            "MetricsConfig": {"Metrics": ["EventCount"]},
        },
    });
    assert_eq!(mapping, &frozen);
    assert_eq!(of_type("AWS::Lambda::EventSourceMapping").len(), 1);
}

#[test]
fn a_deploy_never_overwrites_a_pause() {
    // Every property is fixed: CloudFormation writes the value "running" again as soon as any property differs.
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
fn a_message_is_not_received_twice_while_it_is_processed() {
    let visibility = properties("EventsQueue")["VisibilityTimeout"].as_u64().unwrap();
    let timeout = function("ExtractorFunction")["Timeout"].as_u64().unwrap();
    assert_eq!(timeout, 300);
    assert!(visibility >= 6 * timeout, "visibility {visibility} s, timeout {timeout} s");

    // Lambda's own limits; a message waits for the window before the function starts on it.
    let mapping = properties("EventsMapping");
    let window = mapping["MaximumBatchingWindowInSeconds"].as_u64().unwrap();
    let batch = mapping["BatchSize"].as_u64().unwrap();
    let most = mapping["ScalingConfig"]["MaximumConcurrency"].as_u64().unwrap();
    assert!((1..=300).contains(&window) && (11..=10_000).contains(&batch));
    assert!((2..=1_000).contains(&most));
    assert!(window + timeout < visibility);
    // Otherwise concurrent batches would hide more messages than SQS allows in flight.
    assert!(batch * most < 120_000);
}

#[test]
fn no_pause_held_by_the_gate_alone_uses_up_an_events_receives() {
    let budget = properties("EventsQueue")["RedrivePolicy"]["maxReceiveCount"].as_u64().unwrap();
    let visibility = properties("EventsQueue")["VisibilityTimeout"].as_u64().unwrap();
    let template = template();
    let retentions = template["Mappings"]["Retention"].as_object().unwrap();
    for (days, retention) in retentions {
        // Renewal re-enqueues it before that, as does a late return to the queue; without either, this is its whole
        // lifetime.
        let retention = retention["Seconds"].as_u64().unwrap();

        // extractor-fn hides a held event for 30 s, doubling to 1 h, and each time for 20 % less at worst.
        let (mut receives, mut age, mut wait) = (0, 0, 30);
        while age < retention {
            receives += 1;
            age += wait * 8 / 10;
            wait = (wait * 2).min(3_600);
        }
        // 14 days: 7 receives in the first 51 minutes, then one in every 48, which makes 426.
        assert!(2 * receives <= budget, "{days} days: {receives} of {budget} receives");

        // If it is throttled, or crashes before it hides anything, the queue's own visibility timeout applies: 672.
        let unsettled = retention.div_ceil(visibility);
        assert!(4 * unsettled <= 3 * budget, "{days} days: {unsettled} of {budget} receives");
    }
    assert_eq!(retentions.len(), 14);
}

#[test]
fn sqs_moves_an_event_to_quarantine_only_after_a_thousand_receives() {
    let redrive = json!({
        "deadLetterTargetArn": {"Fn::GetAtt": "QuarantineQueue.Arn"},
        "maxReceiveCount": 1000,
    });
    assert_eq!(properties("EventsQueue")["RedrivePolicy"], redrive);
    let deny_all = json!({"redrivePermission": "denyAll"});
    assert_eq!(properties("EventsQueue")["RedriveAllowPolicy"], deny_all);
    assert_eq!(properties("QuarantineQueue")["RedrivePolicy"], Value::Null);
}

#[test]
fn retention_is_the_parameter_in_days() {
    let template = template();
    let lookup = json!({"Fn::FindInMap": ["Retention", {"Ref": "RetentionDays"}, "Seconds"]});
    assert_eq!(properties("EventsQueue")["MessageRetentionPeriod"], lookup);

    let parameter = &template["Parameters"]["RetentionDays"];
    let days = (1..=14).collect::<Vec<u64>>();
    assert_eq!(parameter["AllowedValues"], json!(days));
    assert_eq!(parameter["Default"], 4);
    let spans = days.iter().map(|day| {
        (day.to_string(), json!({"Seconds": day * 24 * 60 * 60, "Quarter": day * 6 * 60 * 60}))
    });
    assert_eq!(template["Mappings"]["Retention"], Value::Object(spans.collect()));

    // SQS's maximum, since a moved message keeps its age.
    assert_eq!(properties("QuarantineQueue")["MessageRetentionPeriod"], 14 * 24 * 60 * 60);
}

#[test]
fn queues_outlive_the_stack_and_require_tls() {
    let queues = of_type("AWS::SQS::Queue");
    assert_eq!(queues, ["EventsQueue", "QuarantineQueue"]);
    let mut with_policy = BTreeSet::new();
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
        with_policy.insert(queue);
    }
    for queue in queues {
        assert!(with_policy.contains(&queue), "{queue} has no policy");
        assert_retained(&queue);
        let properties = properties(&queue);
        assert_eq!(properties["SqsManagedSseEnabled"], true, "{queue}");
        assert_eq!(properties["MaximumMessageSize"], 1024 * 1024, "{queue}");
        // A retained queue with a fixed name would prevent the stack from being created again.
        assert_eq!(properties["QueueName"], Value::Null, "{queue}");
    }
}

fn assert_retained(resource: &str) {
    let found = &template()["Resources"][resource];
    // Without the exception a failed first deploy would leave an empty queue behind for ever.
    assert_eq!(found["DeletionPolicy"], "RetainExceptOnCreate", "{resource}");
    assert_eq!(found["UpdateReplacePolicy"], "Retain", "{resource}");
}

/// The template's roles. `permission.rs` of each function tests that it needs all of its role and nothing else; the reasons are in `docs/THREAT_MODEL.md`, which `docs.rs` compares with this.
const ROLES: [&str; 3] = ["ExtractorRole", "IngestRole", "ReconcileScheduleRole"];

#[test]
fn each_function_has_its_own_role_and_no_other_policies() {
    assert_eq!(of_type("AWS::IAM::Role"), ROLES);
    for (function, role) in
        [("IngestFunction", "IngestRole"), ("ExtractorFunction", "ExtractorRole")]
    {
        let found = self::function(function);
        assert_eq!(found["Role"], json!({"Fn::GetAtt": format!("{role}.Arn")}));
        assert_eq!(found["Policies"], Value::Null);
        let only_lambda = json!([{
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }]);
        assert_eq!(properties(role)["AssumeRolePolicyDocument"]["Statement"], only_lambda);
    }
    for role in ROLES {
        assert_eq!(properties(role)["ManagedPolicyArns"], Value::Null, "{role}");
    }
    let calls = [("lambda:InvokeFunction".to_owned(), "ExtractorFunction".to_owned())];
    assert_eq!(Role::named("ReconcileScheduleRole").pairs(), BTreeSet::from(calls));
    // Within the role it would be a circular dependency: role, function, mapping, role.
    assert_eq!(of_type("AWS::IAM::Policy"), ["MappingSwitchPolicy"]);
    assert_eq!(properties("MappingSwitchPolicy")["Roles"], json!([{"Ref": "ExtractorRole"}]));
    for elsewhere in ["AWS::IAM::ManagedPolicy", "AWS::IAM::RolePolicy"] {
        assert_eq!(of_type(elsewhere), [""; 0]);
    }
}

#[test]
fn only_actions_without_a_narrower_resource_are_allowed_on_everything() {
    let everywhere = ROLES.into_iter().flat_map(|role| {
        let pairs = Role::named(role).pairs();
        pairs.into_iter().filter(|(_, on)| on.ends_with('*')).map(move |(action, _)| (role, action))
    });
    let known = [
        ("ExtractorRole", "kms:Decrypt"),
        ("ExtractorRole", "lambda:ListEventSourceMappings"),
        ("ExtractorRole", "xray:PutTelemetryRecords"),
        ("ExtractorRole", "xray:PutTraceSegments"),
        ("IngestRole", "kms:Decrypt"),
        ("IngestRole", "xray:PutTelemetryRecords"),
        ("IngestRole", "xray:PutTraceSegments"),
    ];
    assert_eq!(
        everywhere.collect::<BTreeSet<_>>(),
        known.map(|(role, action)| (role, action.to_owned())).into()
    );
}

#[test]
fn no_role_may_write_the_operators_parameter() {
    let (mut written, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    for role in ROLES {
        for (action, on) in Role::named(role).pairs() {
            match action.strip_prefix("ssm:") {
                None | Some("GetParameter" | "GetParameterHistory") => {}
                Some("PutParameter") => drop(written.insert(on)),
                Some("DeleteParameter") => drop(deleted.insert(on)),
                Some(other) => panic!("{role} may {other}"),
            }
        }
    }
    // Complete names: all of them start with the pause parameter's.
    let own = ["breaker", "renewal", "backfill", "import", "recovery-lease"];
    assert_eq!(written, own.map(|state| format!("parameter${{PauseParameter}}-{state}")).into());
    // A deleted parameter starts again at version 1, so documents are never deleted.
    assert_eq!(deleted, ["parameter${PauseParameter}-recovery-lease".to_owned()].into());
}

#[test]
fn a_change_of_pause_or_breaker_calls_the_controller() {
    let rule = json!({
        "Description": "Invokes extractor-fn when the pause or the circuit breaker changes",
        "EventPattern": {
            "source": ["aws.ssm"],
            "detail-type": ["Parameter Store Change"],
            "detail": {
                "name": [{"Ref": "PauseParameter"}, {"Fn::Sub": "${PauseParameter}-breaker"}],
            },
        },
        "Targets": [{"Id": "extractor-fn", "Arn": {"Fn::GetAtt": "ExtractorFunction.Arn"}}],
    });
    assert_eq!(properties("StateRule"), rule);
    assert_eq!(of_type("AWS::Events::Rule"), ["StateRule"]);
    let permission = json!({
        "FunctionName": {"Ref": "ExtractorFunction"},
        "Action": "lambda:InvokeFunction",
        "Principal": "events.amazonaws.com",
        "SourceArn": {"Fn::GetAtt": "StateRule.Arn"},
    });
    assert_eq!(properties("StateRulePermission"), permission);
    assert_eq!(of_type("AWS::Lambda::Permission"), ["StateRulePermission", "WebhookPermission"]);
}

#[test]
fn the_controller_is_called_every_minute_without_retries() {
    let schedule = json!({
        "Description":
            "Invokes extractor-fn to reconcile with the pause and the circuit breaker",
        "ScheduleExpression": "rate(1 minute)",
        "FlexibleTimeWindow": {"Mode": "OFF"},
        "Target": {
            "Arn": {"Fn::GetAtt": "ExtractorFunction.Arn"},
            "RoleArn": {"Fn::GetAtt": "ReconcileScheduleRole.Arn"},
            "Input": r#"{"task":"reconcile"}"#,
            "RetryPolicy": {"MaximumRetryAttempts": 0},
        },
    });
    assert_eq!(properties("ReconcileSchedule"), schedule);
    assert_eq!(of_type("AWS::Scheduler::Schedule"), ["ReconcileSchedule"]);

    // Without the condition, the service could use the role for another account's schedule (confused deputy).
    let only_our_schedules = json!([{
        "Effect": "Allow",
        "Principal": {"Service": "scheduler.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {
            "aws:SourceAccount": {"Ref": "AWS::AccountId"},
            "aws:SourceArn": arn("scheduler", "schedule-group/default"),
        }},
    }]);
    let role = properties("ReconcileScheduleRole");
    assert_eq!(role["AssumeRolePolicyDocument"]["Statement"], only_our_schedules);

    // By default Lambda retries an event for six hours if throttled, and twice more if the function fails.
    let calls = json!({
        "FunctionName": {"Ref": "ExtractorFunction"},
        "Qualifier": "$LATEST",
        "MaximumRetryAttempts": 0,
        "MaximumEventAgeInSeconds": 60,
    });
    assert_eq!(properties("ExtractorInvokeConfig"), calls);
    assert_eq!(of_type("AWS::Lambda::EventInvokeConfig"), ["ExtractorInvokeConfig"]);
}

#[test]
fn a_key_decrypts_nothing_but_the_functions_own_secrets() {
    let key = "arn:aws:kms:eu-west-1:123456789012:key/any";
    for (role, own) in [
        ("IngestRole", &["webhook-keys"][..]),
        ("ExtractorRole", &["gladly-token", "destination-token"]),
    ] {
        let role = Role::named(role);
        for secret in ["webhook-keys", "gladly-token", "destination-token", "pause", "another"] {
            let secret_arn = arn_of("ssm", &format!("parameter/relay/{secret}"));
            for service in ["ssm", "s3"] {
                let via = format!("{service}.eu-west-1.amazonaws.com");
                let context = [
                    ("kms:ViaService", &*via),
                    ("kms:EncryptionContext:PARAMETER_ARN", &*secret_arn),
                ];
                let allowed = role.allows("kms:Decrypt", key, &context).is_some();
                assert_eq!(allowed, service == "ssm" && own.contains(&secret), "{secret}, {via}");
                for alone in context {
                    assert!(role.allows("kms:Decrypt", key, &[alone]).is_none(), "{alone:?}");
                }
            }
        }
    }
}

#[test]
fn the_table_of_coverage_is_a_cache_that_can_be_left_out() {
    let template = template();
    let table = json!({
        "Type": "AWS::DynamoDB::Table",
        "Condition": "SharesCoverage",
        "DeletionPolicy": "Delete",
        "UpdateReplacePolicy": "Delete",
        "Properties": {
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "conversation", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "conversation", "KeyType": "HASH"}],
            "TimeToLiveSpecification": {"AttributeName": "expiresAt", "Enabled": true},
        },
    });
    assert_eq!(template["Resources"]["CoverageTable"], table);
    assert_eq!(of_type("AWS::DynamoDB::Table"), ["CoverageTable"]);
    let shared = json!({"Fn::Equals": [{"Ref": "ShareCoverage"}, "true"]});
    assert_eq!(template["Conditions"]["SharesCoverage"], shared);
    assert_eq!(template["Parameters"]["ShareCoverage"]["Default"], "true");
    // Without the table, its name is empty and nothing is allowed on it.
    let setting = &function("ExtractorFunction")["Environment"]["Variables"]["COVERAGE_TABLE"];
    let name = json!({"Fn::If": ["SharesCoverage", {"Ref": "CoverageTable"}, ""]});
    assert_eq!(setting, &name);
    let policies = properties("ExtractorRole")["Policies"].clone();
    let policies = policies.as_array().unwrap().iter();
    let on_table: Vec<_> =
        policies.filter(|policy| policy.to_string().contains("CoverageTable")).collect();
    let [policy] = on_table[..] else { panic!("{on_table:?}") };
    let [condition, _, otherwise] = &policy["Fn::If"].as_array().unwrap()[..] else {
        panic!("{policy}")
    };
    assert_eq!((condition, otherwise), (&json!("SharesCoverage"), &json!({"Ref": "AWS::NoValue"})));
    let pairs = Role::named("ExtractorRole").pairs();
    let actions = pairs.iter().filter(|(_, on)| on == "CoverageTable");
    let actions: Vec<_> = actions.map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["dynamodb:BatchGetItem", "dynamodb:BatchWriteItem"]);
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
        // SAM would generate resources that this test does not see.
        assert_eq!(function["Events"], Value::Null, "{name}");
    }
    assert_eq!(template()["Parameters"]["Architecture"]["Default"], "arm64");
    // Gladly closes the connection after 15 s.
    assert!(function("IngestFunction")["Timeout"].as_u64().unwrap() < 15);
    // By default Lambda stops a function that sends to its own queue, as the extractor does with what is about to expire.
    assert_eq!(function("ExtractorFunction")["RecursiveLoop"], "Allow");
}

#[test]
fn the_functions_get_the_settings_that_they_read() {
    let settings = |name: &str| {
        let variables = function(name)["Environment"]["Variables"].clone();
        let Value::Object(variables) = variables else { panic!("{name} has no environment") };
        for (variable, value) in &variables {
            // A dynamic reference would expose the secret to everyone who may read the function's configuration.
            assert!(value.is_object(), "{variable} of {name} is neither Ref, GetAtt nor Sub");
            assert!(!value.to_string().contains("{{resolve:"), "{variable} of {name}");
        }
        variables.into_iter().map(|(variable, _)| variable).collect::<BTreeSet<_>>()
    };
    assert_eq!(
        settings("IngestFunction"),
        names(&[
            "EVENTS_QUEUE_URL",
            "QUARANTINE_QUEUE_URL",
            "WEBHOOK_KEYS_PARAMETER",
            "SETTLE_SECONDS",
            "FORWARD_ERASURES",
        ])
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
            "COVERAGE_TABLE",
            "FORWARD_CUSTOMER_CONTACT",
            "FORWARD_NOTES",
            "FORWARD_ERASURES",
            "RENEW_HELD_EVENTS",
            "SETTLE_SECONDS",
            "WATCH_WEBHOOK",
            "WEBHOOK_URL",
        ])
    );
}

#[test]
fn every_parameter_is_described_and_validated() {
    for (name, parameter) in parameters() {
        let description = parameter["Description"].as_str().unwrap_or_default();
        assert!(description.len() > 40 && description.ends_with('.'), "{name}: {description:?}");
        let pattern = parameter["AllowedPattern"].as_str();
        let anchored = pattern.is_some_and(|it| it.starts_with('^') && it.ends_with('$'));
        let listed = parameter["AllowedValues"].is_array();
        let ranged = parameter["MinValue"].is_number() && parameter["MaxValue"].is_number();
        assert!(anchored || listed || ranged, "{name} accepts any value");
        // CloudFormation would show the bare pattern otherwise.
        assert!(listed || parameter["ConstraintDescription"].is_string(), "{name}");
    }
}

#[test]
fn no_parameter_takes_a_secret() {
    let suspicious = Regex::new("(?i)(token|key|secret|password|credential)").unwrap();
    for (name, parameter) in parameters() {
        assert_eq!(parameter["NoEcho"], Value::Null, "{name}");
        let is_public = ["DestinationTokenHeader", "DestinationKeyArn"].contains(&name.as_str());
        if suspicious.is_match(&name) && !is_public {
            assert!(name.ends_with("Parameter"), "{name} does not ask for a parameter's name");
            let default = parameter["Default"].as_str().unwrap_or_default();
            assert!(default.starts_with("/gladly-relay/"), "{name}: {default:?}");
            // A token pasted by mistake is refused, not stored where the stack shows it.
            assert!(!accepts(&name, "eyJhbGciOiJIUzI1NiJ9"), "{name}");
        }
    }
}

#[test]
fn hosts_and_urls_are_gladlys_https_or_loopback() {
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
        ("DestinationUrl", "s3://acme-conversations", true),
        ("DestinationUrl", "s3://acme.conversations/gladly/env=prod", true),
        ("DestinationUrl", "s3://acme-conversations/", false),
        ("DestinationUrl", "s3://acme-conversations//gladly", false),
        ("DestinationUrl", "s3://acme-conversations/gladly/", false),
        ("DestinationUrl", "s3://acme-conversations/*", false),
        ("DestinationUrl", "s3://acme-conversations/${aws:username}", false),
        ("DestinationUrl", "s3://ab", false),
        ("DestinationUrl", "s3://Acme", false),
        ("DestinationUrl", "S3://acme", false),
        ("DestinationKeyArn", "", true),
        ("DestinationKeyArn", "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/1a2b-3c4d", true),
        ("DestinationKeyArn", "arn:aws:kms:eu-west-1:123456789012:alias/relay", false),
        ("DestinationKeyArn", "arn:aws:kms:eu-west-1:123456789012:key/*", false),
        ("DestinationUrl", "http://in.example.com/v1", false),
        ("DestinationUrl", "http://127.0.0.1.example.com/", false),
        ("DestinationUrl", "http://127.0.0.1:80@example.com/", false),
        ("DestinationUrl", "https://user:password@in.example.com/", false),
        ("DestinationUrl", "https://in.example.com/ v1", false),
        ("DestinationUrl", "https:///v1", false),
        ("DestinationUrl", "https://in.example.com:65535/v1", true),
        ("DestinationUrl", "https://in.example.com:99999/v1", false),
        ("DestinationUrl", "https://in.example.com:8o80/v1", false),
        ("DestinationUrl", "https://in.example.com:0/v1", false),
        ("DestinationUrl", "https://in.example.com:/v1", false),
        ("DestinationUrl", "https://-in.example.com/v1", false),
        ("GladlyEmail", "relay@example.com", true),
        ("GladlyEmail", "relay", false),
        ("GladlyTokenParameter", "/acme/gladly/token", true),
        ("GladlyTokenParameter", "acme/gladly/token", false),
        ("GladlyTokenParameter", "/acme//token", false),
        ("AlarmEmail", "", true),
        ("AlarmEmail", "oncall@example.com", true),
        ("AlarmEmail", "oncall", false),
        ("DestinationTokenHeader", "x-api-key", true),
        ("DestinationTokenHeader", "x-api-key: abc", false),
    ] {
        assert_eq!(accepts(parameter, value), taken, "{parameter}: {value}");
    }
}

#[test]
fn a_parameter_name_reserved_by_aws_is_refused() {
    let refused = ["/aws", "/ssm", "/AWS/x", "/Ssm-x", "/awsome/x", "/aws-relay/token", "aws", "x"];
    let taken = [
        "/a",
        "/aw",
        "/s",
        "/ss",
        "/Aw/aws",
        "/ss-m/ssm",
        "/relay/aws",
        "/a.ws",
        "/-aws",
        "/SaSsm",
    ];
    for parameter in ["WebhookKeysParameter", "GladlyTokenParameter", "DestinationTokenParameter"] {
        for name in refused {
            assert!(!accepts(parameter, name), "{parameter}: {name}");
        }
        for name in taken {
            assert!(accepts(parameter, name), "{parameter}: {name}");
        }
        // The pattern accepts exactly what the readable rule accepts.
        for text in ["a", "w", "s", "m", "S", "-"].map(|last| {
            let names = ["", "a", "aw", "s", "ss", "W", "as", "sw"].into_iter();
            names.map(move |first| format!("/{first}{last}x/aws"))
        }) {
            for name in text {
                let lower = name.to_lowercase();
                let reserved = lower.starts_with("/aws") || lower.starts_with("/ssm");
                assert_eq!(accepts(parameter, &name), !reserved, "{parameter}: {name}");
            }
        }
    }
}

#[test]
fn the_stack_policy_protects_only_the_pause_from_updates() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/stack-policy.json");
    let policy = std::fs::read_to_string(path).unwrap();
    let rule = |effect: &str, resource: &str| json!({"Effect": effect, "Action": "Update:*", "Principal": "*", "Resource": resource});
    let rules = [rule("Allow", "*"), rule("Deny", "LogicalResourceId/PauseParameter")];
    let policy = serde_json::from_str::<Value>(&policy).unwrap();
    assert_eq!(policy, json!({"Statement": rules}));
    assert!(template()["Resources"]["PauseParameter"].is_object());
}

#[test]
fn the_dashboards_url_holds_in_every_partition() {
    let template = template();
    let url = template["Outputs"]["DashboardUrl"]["Value"]["Fn::Sub"].clone();
    for (partition, region, host) in [
        ("aws", "eu-west-1", "eu-west-1.console.aws.amazon.com"),
        ("aws-cn", "cn-north-1", "cn-north-1.console.amazonaws.cn"),
        ("aws-us-gov", "us-gov-west-1", "us-gov-west-1.console.amazonaws-us-gov.com"),
        ("aws-eusc", "eusc-de-east-1", "eusc-de-east-1.console.amazonaws-eusc.eu"),
    ] {
        let console = json!({"Fn::FindInMap": ["Consoles", {"Ref": "AWS::Partition"}, "Host"]});
        assert_eq!(url[1]["Console"], console);
        let console = &template["Mappings"]["Consoles"][partition]["Host"];
        let found = url[0].as_str().unwrap().replace("${AWS::Region}", region);
        let found = found.replace("${Console}", console.as_str().unwrap());
        let expected = format!(
            "https://{host}/cloudwatch/home?region={region}#dashboards:name=${{Dashboard}}"
        );
        assert_eq!(found, expected, "{partition}");
    }
}

#[test]
fn the_late_alarm_compares_milliseconds() {
    let template = template();
    let parameter = &template["Parameters"]["LateAlarmMinutes"];
    assert_eq!(parameter["Default"], 30);
    let minutes = parameter["AllowedValues"].as_array().unwrap().iter();
    let spans = minutes.map(|minutes| {
        (minutes.to_string(), json!({"Milliseconds": minutes.as_u64().unwrap() * 60_000}))
    });
    assert_eq!(template["Mappings"]["Lateness"], Value::Object(spans.collect()));
    let late = json!({"Fn::FindInMap": ["Lateness", {"Ref": "LateAlarmMinutes"}, "Milliseconds"]});
    assert_eq!(properties("LateAlarm")["Threshold"], late);
}

#[test]
fn the_endpoint_accepts_gladlys_webhooks_and_logs_none_of_their_content() {
    assert_eq!(of_type("AWS::ApiGatewayV2::Route"), ["WebhookRoute"]);
    assert_eq!(properties("WebhookRoute")["RouteKey"], "POST /webhooks/gladly");
    assert_eq!(properties("WebhookIntegration")["PayloadFormatVersion"], "2.0");
    let source = properties("WebhookPermission")["SourceArn"]["Fn::Sub"].clone();
    assert!(source.as_str().unwrap().ends_with(":${WebhookApi}/*/POST/webhooks/gladly"));
    // The emulated AWS silently ignores this one's routes.
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
            "$context.apiId",
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
fn every_log_group_has_a_retention() {
    let logs = of_type("AWS::Logs::LogGroup");
    assert_eq!(logs, ["AccessLogs", "ExtractorLogs", "IngestLogs"]);
    for group in logs {
        let retention = &properties(&group)["RetentionInDays"];
        assert_eq!(retention, &json!({"Ref": "LogRetentionDays"}), "{group}");
    }
}

#[test]
fn the_outputs_that_scripts_read_exist() {
    let Value::Object(outputs) = template()["Outputs"].take() else { panic!("no outputs") };
    assert_eq!(
        outputs.into_iter().map(|(name, _)| name).collect::<BTreeSet<_>>(),
        names(&[
            "AlarmTopicArn",
            "DashboardUrl",
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

/// Whether a parameter accepts a value; CloudFormation matches the whole of it.
fn accepts(parameter: &str, value: &str) -> bool {
    let pattern = parameters()[parameter]["AllowedPattern"].as_str().unwrap().to_owned();
    Regex::new(&pattern).unwrap().is_match(value)
}

/// An ARN in this account and region.
fn arn(service: &str, resource: &str) -> Value {
    let account = "${AWS::Region}:${AWS::AccountId}";
    json!({"Fn::Sub": format!("arn:${{AWS::Partition}}:{service}:{account}:{resource}")})
}

/// An ARN in the account of the tests.
fn arn_of(service: &str, resource: &str) -> String {
    format!("arn:aws:{service}:eu-west-1:123456789012:{resource}")
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// CloudFormation fails on an index that a list does not have, wherever the function stands.
#[test]
fn every_destination_has_the_parts_that_the_template_takes_of_it() {
    let template = template();
    let parts = json!({"Fn::Split": ["://", {"Ref": "DestinationUrl"}]});
    let condition = &template["Conditions"]["WritesToBucket"]["Fn::Equals"];
    assert_eq!(*condition, json!([{"Fn::Select": [0, parts]}, "s3"]));
    let text = template.to_string();
    assert_eq!(text.matches(&parts.to_string()).count(), 2, "its scheme, and bucket and prefix");
    assert!(text.contains(&json!({"Place": {"Fn::Select": [1, parts]}}).to_string()));

    let pattern = template["Parameters"]["DestinationUrl"]["AllowedPattern"].as_str().unwrap();
    let pattern = Regex::new(pattern).unwrap();
    for (url, scheme, place) in [
        ("https://in.example.com", "https", "in.example.com"),
        ("https://in.example.com/a://b", "https", "in.example.com/a"),
        ("http://127.0.0.1:9000/deliveries", "http", "127.0.0.1:9000/deliveries"),
        ("s3://acme", "s3", "acme"),
        ("s3://acme/gladly/relay", "s3", "acme/gladly/relay"),
    ] {
        assert!(pattern.is_match(url), "{url}");
        let parts: Vec<_> = url.split("://").collect();
        assert_eq!(parts[..2], [scheme, place]);
    }
}
