//! What watches the relay: the dashboard and the alarms of `template.yaml`, held to the metrics that the code sends.
//! That each alarm is raised by them is shown beside the code, in `alarm.rs` of both functions.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

use std::{collections::BTreeSet, fs, path::Path};

use jiff::{SignedDuration, Timestamp};
use regex::Regex;
use serde_json::{Value, json};
use shared::Metric;
use testing::{
    alarm::{Timeline, line},
    template::read as template,
};

/// What AWS sends by itself, and is looked at here.
const OF_AWS: [(&str, &str); 9] = [
    ("AWS/ApiGateway", "4xx"),
    ("AWS/ApiGateway", "5xx"),
    ("AWS/Lambda", "DeletedEventCount"),
    ("AWS/Lambda", "Errors"),
    ("AWS/Lambda", "FailedInvokeEventCount"),
    ("AWS/Lambda", "PolledEventCount"),
    ("AWS/Lambda", "Throttles"),
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
    // Counted by the metric filter over the access log.
    ("GladlyRelay", "WebhookThrottled"),
];

/// The dashboard with the references in its texts as they stand, `${Name}`.
fn dashboard() -> Value {
    let body = &template()["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"];
    let mappings = template()["Mappings"].clone();
    let quarter = mappings["Retention"]["4"]["Quarter"].to_string();
    let late = mappings["Lateness"]["30"]["Milliseconds"].to_string();
    let body = body[0].as_str().unwrap().replace("${Quarter}", &quarter).replace("${Late}", &late);
    serde_json::from_str(&body).unwrap()
}

fn widgets() -> Vec<Value> {
    dashboard()["widgets"].as_array().unwrap().clone()
}

/// Every metric on the dashboard: namespace, name, and dimensions.
fn shown() -> Vec<(String, String, Vec<String>)> {
    let mut shown = Vec::new();
    for metric in
        widgets().iter().filter_map(|widget| widget["properties"]["metrics"].as_array()).flatten()
    {
        if let Some(search) = metric[0]["expression"].as_str() {
            shown.push(searched(search));
            continue;
        }
        let texts: Vec<_> = metric
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let [namespace, name, dimensions @ ..] = &texts[..] else { panic!("{metric}") };
        shown.push((namespace.clone(), name.clone(), dimensions.to_vec()));
    }
    shown
}

/// The metric that an expression searches for, whatever the values of the dimensions it leaves open.
fn searched(expression: &str) -> (String, String, Vec<String>) {
    let form = Regex::new(
        r#"^SEARCH\('\{(\w+),FunctionName,(\w+)\} MetricName="(\w+)" FunctionName="([^"]+)"', 'Sum', 60\)$"#,
    );
    let found = form.unwrap().captures(expression).unwrap();
    let dimensions = ["FunctionName", &found[4], &found[2]].map(str::to_owned);
    (found[1].to_owned(), found[3].to_owned(), dimensions.to_vec())
}

fn alarms() -> Vec<(String, Value)> {
    let Value::Object(resources) = template()["Resources"].take() else { panic!("no resources") };
    let alarms = resources.into_iter().filter(|(_, it)| it["Type"] == "AWS::CloudWatch::Alarm");
    alarms.map(|(name, mut it)| (name, it["Properties"].take())).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// The code of a function, its tests left out.
fn code(function: &str) -> String {
    let mut pending =
        vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(function).join("src")];
    let mut text = String::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[test]
fn every_widget_asks_a_question_and_has_a_place_of_its_own() {
    let mut taken = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for widget in widgets() {
        let title = widget["properties"]["title"].as_str().unwrap().to_owned();
        assert!(title.ends_with('?') && title.starts_with(char::is_uppercase), "{title}");
        assert!(titles.insert(title.clone()), "{title} is asked twice");
        let [x, y, width, height] =
            ["x", "y", "width", "height"].map(|side| widget[side].as_u64().unwrap());
        assert!(x + width <= 24, "{title}");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} covers another at {cell:?}");
        }
        let properties = &widget["properties"];
        assert_eq!(
            properties["region"].as_str(),
            (widget["type"] != "alarm").then_some("${AWS::Region}")
        );
        for metric in properties["metrics"].as_array().into_iter().flatten() {
            let options = metric.as_array().unwrap().last().unwrap();
            // An expression has its statistic within, and an empty label leaves the naming to CloudWatch.
            let is_complete = options["expression"].is_string() || options["stat"].is_string();
            assert!(options["label"].is_string() && is_complete, "{title}: {metric}");
            let right = options["yAxis"] == "right";
            assert!(
                !right || properties["yAxis"]["right"]["label"].is_string(),
                "{title}: {metric}"
            );
        }
    }
    // One screen, without a hole in it.
    let height = taken.iter().map(|(_, y)| y + 1).max().unwrap();
    assert!(height <= 20, "{height} rows");
    assert_eq!(taken.len() as u64, 24 * height);
}

#[test]
fn nothing_is_shown_that_nobody_sends_and_nothing_is_sent_that_nobody_sees() {
    let mut seen = BTreeSet::new();
    for (namespace, name, dimensions) in shown() {
        let dimensions: Vec<_> = dimensions.iter().map(String::as_str).collect();
        if OF_AWS.contains(&(&namespace, &name)) {
            continue;
        }
        assert_eq!(namespace, "GladlyRelay", "{name}");
        let function = match dimensions[..] {
            ["FunctionName", function] if name != "KeySlot" => function,
            ["FunctionName", function, "Slot", "1" | "2"] if name == "KeySlot" => function,
            ["FunctionName", function, "Status"] if name == "DeliveryFailures" => function,
            _ => panic!("{name} has other dimensions than {dimensions:?}"),
        };
        let sender = match function {
            "${IngestFunction}" => code("ingest-fn"),
            "${ExtractorFunction}" => code("extractor-fn"),
            other => panic!("{name} is sent by no {other}"),
        };
        let sent = match &*name {
            "KeySlot" => sender.contains("key_slot"),
            "DeliveryFailures" => sender.contains("delivery_failed"),
            _ => sender.contains(&format!("Metric::{name}")),
        };
        assert!(sent, "{function} sends no {name}");
        seen.insert(name);
    }
    let sent: BTreeSet<_> =
        Metric::ALL.into_iter().map(|metric| metric.name().to_owned()).collect();
    assert_eq!(seen, sent);
    // The list is whole.
    let arm = Regex::new(r#"Self::([A-Za-z]+) => "([A-Za-z]+)","#).unwrap();
    let text = read("shared/src/metrics.rs");
    let names = arm.captures_iter(&text).filter(|found| found[1] == found[2]);
    assert_eq!(names.map(|found| found[1].to_owned()).collect::<BTreeSet<_>>(), sent);
}

#[test]
fn the_dashboard_refers_to_what_the_template_has() {
    let template = template();
    let body = dashboard().to_string();
    let reference = Regex::new(r"\$\{([A-Za-z:]+)(?:\.[A-Za-z]+)?\}").unwrap();
    let mut alarms_shown = BTreeSet::new();
    for found in reference.captures_iter(&body) {
        let known = template["Resources"][&found[1]].is_object() || found[1].starts_with("AWS::");
        assert!(known, "{}", &found[0]);
        if template["Resources"][&found[1]]["Type"] == "AWS::CloudWatch::Alarm" {
            alarms_shown.insert(found[1].to_owned());
        }
    }
    assert_eq!(alarms_shown, alarms().into_iter().map(|(name, _)| name).collect());
    let query = log_query();
    assert!(query.starts_with("SOURCE '${ExtractorLogs}' | SOURCE '${IngestLogs}' | "), "{query}");
}

fn log_query() -> String {
    let log = widgets().into_iter().find(|widget| widget["type"] == "log").unwrap();
    log["properties"]["query"].as_str().unwrap().to_owned()
}

/// Lines of a function's log and whether they say that something went wrong. Lambda's own have no level: their form is
/// <https://docs.aws.amazon.com/lambda/latest/dg/telemetry-schema-reference.html>.
const LINES: [(&str, bool); 9] = [
    (r#"{"level":"ERROR","message":"m"}"#, true),
    (r#"{"level":"WARN","message":"m"}"#, true),
    (r#"{"level":"INFO","message":"m"}"#, false),
    (r#"{"_aws":{},"FunctionName":"f","Queued":1}"#, false),
    (r#"{"type":"platform.start","record":{"requestId":"r"}}"#, false),
    (r#"{"type":"platform.report","record":{"requestId":"r","status":"success"}}"#, false),
    (r#"{"type":"platform.report","record":{"requestId":"r","status":"timeout"}}"#, true),
    (
        r#"{"type":"platform.report","record":{"status":"error","errorType":"Runtime.OutOfMemory"}}"#,
        true,
    ),
    (
        r#"{"type":"platform.report","record":{"status":"failure","errorType":"Runtime.ExitError"}}"#,
        true,
    ),
];

#[test]
fn a_timeout_and_a_crash_are_among_what_went_wrong() {
    let query = log_query();
    let widget = query.split(" | ").find_map(|part| part.strip_prefix("filter ")).unwrap();
    // What the runbook looks for: "gladly-relay tail --level warn".
    let tail = read("cli/src/commands/tail.rs");
    let pattern = Regex::new(r##"Level::Warn => Some\(\s*r#"\{ (.+) \}"#"##).unwrap();
    let runbook = pattern.captures(&tail).unwrap()[1].to_owned();
    for filter in [widget, &runbook] {
        for (line, wrong) in LINES {
            let line = serde_json::from_str(line).unwrap();
            assert_eq!(Filter::new(filter).matches(&line), wrong, "{filter}: {line}");
        }
    }
}

#[test]
fn only_what_the_endpoints_limit_refuses_is_counted_as_throttled() {
    let resources = &template()["Resources"];
    let filter = &resources["ThrottledFilter"]["Properties"];
    assert_eq!(filter["LogGroupName"], json!({"Ref": "AccessLogs"}));
    let counted = json!([{
        "MetricNamespace": "GladlyRelay",
        "MetricName": "WebhookThrottled",
        "MetricValue": "1",
        "Unit": "Count",
        "Dimensions": [{"Key": "ApiId", "Value": "$.apiId"}],
    }]);
    assert_eq!(filter["MetricTransformations"], counted);
    let pattern = filter["FilterPattern"].as_str().unwrap();
    let pattern = pattern.strip_prefix("{ ").and_then(|it| it.strip_suffix(" }")).unwrap();
    let log = resources["WebhookStage"]["Properties"]["AccessLogSettings"]["Format"].clone();
    for status in ["200", "401", "404", "429", "503"] {
        let line = log.as_str().unwrap().replace("$context.status", status);
        let line = serde_json::from_str::<Value>(&line).unwrap();
        // As the dimension has it; text, so that the pattern compares text.
        assert_eq!((&line["apiId"], &line["status"]), (&json!("$context.apiId"), &json!(status)));
        assert_eq!(Filter::new(pattern).matches(&line), status == "429", "{status}");
    }
}

/// A condition as CloudWatch writes it, in Logs Insights or in a filter pattern: comparisons of fields with texts,
/// joined by "and" before "or".
struct Filter<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Filter<'a> {
    fn new(text: &'a str) -> Self {
        let token = Regex::new(r#"'[^']*'|"[^"]*"|[()]|!=|=|&&|\|\||[\w.$]+"#).unwrap();
        Self { tokens: token.find_iter(text).map(|found| found.as_str()).collect(), at: 0 }
    }

    fn matches(mut self, line: &Value) -> bool {
        let matches = self.either(line);
        assert_eq!(self.at, self.tokens.len(), "{:?}", self.tokens);
        matches
    }

    fn next(&mut self) -> &'a str {
        self.at += 1;
        self.tokens[self.at - 1]
    }

    fn skips(&mut self, words: [&str; 2]) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|token| words.contains(token));
        self.at += usize::from(found);
        found
    }

    fn either(&mut self, line: &Value) -> bool {
        let mut matches = self.both(line);
        while self.skips(["or", "||"]) {
            matches |= self.both(line);
        }
        matches
    }

    fn both(&mut self, line: &Value) -> bool {
        let mut matches = self.one(line);
        while self.skips(["and", "&&"]) {
            matches &= self.one(line);
        }
        matches
    }

    fn one(&mut self, line: &Value) -> bool {
        if self.skips(["(", "("]) {
            let matches = self.either(line);
            assert_eq!(self.next(), ")");
            return matches;
        }
        let path = self.next();
        let path = path.strip_prefix("$.").unwrap_or(path);
        let found = path.split('.').fold(line, |value, name| &value[name]).as_str();
        let (comparison, text) = (self.next(), self.next());
        let is_equal = found == Some(&text[1..text.len() - 1]);
        match comparison {
            "=" => is_equal,
            // A field that is missing differs from nothing.
            "!=" => found.is_some() && !is_equal,
            other => panic!("no comparison: {other}"),
        }
    }
}

/// A minute of trouble, which the next makes good, then an hour of it, as AWS would count it each minute.
fn trouble(metric: (&str, &str), of: (&str, &str)) -> Timeline {
    let began = Timestamp::UNIX_EPOCH;
    let lines = (0..150).map(|minute| {
        let at = began + SignedDuration::from_mins(minute);
        let bad = minute == 20 || (50..110).contains(&minute);
        line(at, metric, of, u64::from(bad) * 3)
    });
    Timeline::new(began, 150, lines.collect())
}

#[test]
fn what_refuses_requests_before_a_function_runs_raises_its_alarm_and_a_moment_of_it_does_not() {
    let (from, until) = (55..=57, 114..=121);
    let api = ("ApiId", "WebhookApi");
    trouble(("AWS/ApiGateway", "5xx"), api).raises("ApiErrorsAlarm", from.clone(), until.clone());
    let run = trouble(("GladlyRelay", "WebhookThrottled"), api);
    run.raises("WebhookThrottledAlarm", from.clone(), until.clone());
    run.never_raises(&["ApiErrorsAlarm"]);
    let function = |name| trouble(("AWS/Lambda", "Throttles"), ("FunctionName", name));
    let run = function("IngestFunction");
    run.raises("IngestThrottledAlarm", from.clone(), until.clone());
    run.never_raises(&["ExtractorThrottledAlarm", "IngestErrorsAlarm"]);
    function("ExtractorFunction").raises("ExtractorThrottledAlarm", from, until);
}

/// Values are of a run, and age; words do not.
#[test]
fn the_picture_shows_the_dashboard_of_the_template() {
    let picture = read("docs/dashboard.svg");
    let text = Regex::new(r"<text [^>]+>\n(.+)\n</text>").unwrap();
    let texts: BTreeSet<_> = text
        .captures_iter(&picture)
        .map(|found| found[1].trim_end_matches(" (none)").replace("&amp;", "&"))
        .collect();
    let mut expected = BTreeSet::new();
    for widget in widgets() {
        let properties = &widget["properties"];
        expected.insert(properties["title"].as_str().unwrap().to_owned());
        for metric in properties["metrics"].as_array().into_iter().flatten() {
            let options = metric.as_array().unwrap().last().unwrap();
            // What is searched for is labelled with what is found.
            let label = options["label"].as_str().unwrap();
            expected.extend((!label.is_empty()).then(|| label.to_owned()));
        }
    }
    expected.extend(alarms().iter().map(|(name, _)| name.trim_end_matches("Alarm").to_owned()));
    let missing: Vec<_> = expected.difference(&texts).collect();
    assert!(missing.is_empty(), "make dashboard draws {missing:?}");
    let asks = |texts: &BTreeSet<String>| texts.iter().filter(|text| text.ends_with('?')).count();
    assert_eq!(asks(&texts), asks(&expected), "no other widget");
}

/// An alarm's text, with its variables.
fn description(alarm: &Value) -> String {
    alarm["AlarmDescription"]["Fn::Sub"][0].as_str().unwrap().to_owned()
}

#[test]
fn every_alarm_says_what_to_do_first_and_tells_somebody() {
    let template = template();
    let tests =
        ["ingest-fn/tests/it/alarm.rs", "extractor-fn/tests/it/alarm.rs", "local/tests/watch.rs"]
            .map(read)
            .concat();
    let alarms = alarms();
    assert_eq!(alarms.len(), 16);
    for (name, alarm) in alarms {
        let description = description(&alarm);
        let (what, first) = description.split_once(" First: ").unwrap();
        let (first, links) = first.split_once(" Dashboard: ").unwrap();
        assert!(what.starts_with("${AWS::StackName} in ${AWS::Region}: "), "{name}");
        assert!(what.ends_with('.') && first.ends_with('.'), "{name}");
        // CloudWatch's limit, with the longest names of a stack and a region.
        let long = description.replace("${AWS::StackName}", &"s".repeat(60));
        assert!(long.replace("${AWS::Region}", "ap-southeast-1").len() < 1_024, "{name}");
        let url = &template["Outputs"]["DashboardUrl"]["Value"]["Fn::Sub"][0];
        let url = url.as_str().unwrap().replace("${Dashboard}", "${AWS::StackName}-${AWS::Region}");
        assert_eq!(links, format!("{url} Runbook: ${{RunbookUrl}}"), "{name}");
        // A command is as it must be typed.
        let typed = "--stack ${AWS::StackName} --region ${AWS::Region}";
        assert_eq!(first.matches("gladly-relay ").count(), first.matches(typed).count(), "{name}");
        let topic = json!([{"Ref": "AlarmTopic"}]);
        assert_eq!((&alarm["AlarmActions"], &alarm["OKActions"]), (&topic, &topic), "{name}");
        let missing = alarm["TreatMissingData"].as_str().unwrap();
        assert!(["breaching", "notBreaching", "ignore"].contains(&missing), "{name}");
        let (namespace, metric) =
            (alarm["Namespace"].as_str().unwrap(), alarm["MetricName"].as_str().unwrap());
        let known = Metric::ALL.iter().any(|known| known.name() == metric);
        let sent = OF_AWS.contains(&(namespace, metric)) || namespace == "GladlyRelay" && known;
        assert!(sent, "{name} looks at {namespace} {metric}");

        // CloudWatch looks back a week, and only a day by periods under an hour.
        let most = |value: &Value| match value["Ref"].as_str() {
            Some(parameter) => template["Parameters"][parameter]["MaxValue"].as_u64().unwrap(),
            None => value.as_u64().unwrap(),
        };
        let period = most(&alarm["Period"]);
        let days = if period >= 3_600 { 7 } else { 1 };
        assert!(period * most(&alarm["EvaluationPeriods"]) <= days * 86_400, "{name}");

        assert!(tests.contains(&format!("raises(\"{name}\"")), "no test raises {name}");
    }
}

#[test]
fn the_runbook_says_the_same_as_the_alarms() {
    let operations = read("docs/OPERATIONS.md");
    let row = Regex::new(r"(?m)^\| `([A-Za-z]+Alarm)` \| (.+?) \| (.+?) \|$").unwrap();
    let link = Regex::new(r"\[([^]]+)\]\([^)]+\)").unwrap();
    let mut described = BTreeSet::new();
    for found in row.captures_iter(&operations) {
        let alarm = &template()["Resources"][&found[1]]["Properties"];
        let text =
            description(alarm).replace(" --stack ${AWS::StackName} --region ${AWS::Region}", "");
        let (_, first) = text.split_once(" First: ").unwrap();
        let (first, _) = first.split_once(" Dashboard: ").unwrap();
        let cell = link.replace_all(&found[3], "$1").replace('`', "");
        assert_eq!(first.trim_end_matches('.'), cell, "{}", &found[1]);
        described.insert(found[1].to_owned());
    }
    assert_eq!(described, alarms().into_iter().map(|(name, _)| name).collect());
}

#[test]
fn only_this_stacks_alarms_are_heard_and_only_by_who_was_asked() {
    let template = template();
    let resource = |name: &str| template["Resources"][name].clone();
    // AWS's own key would keep CloudWatch out without a word.
    assert_eq!(resource("AlarmTopic")["Properties"]["KmsMasterKeyId"], Value::Null);
    let policy = json!({
        "Topics": [{"Ref": "AlarmTopic"}],
        "PolicyDocument": {"Version": "2012-10-17", "Statement": [{
            "Sid": "OnlyAlarmsOfThisStack",
            "Effect": "Allow",
            "Principal": {"Service": "cloudwatch.amazonaws.com"},
            "Action": "sns:Publish",
            "Resource": {"Ref": "AlarmTopic"},
            "Condition": {
                "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
                "ArnLike": {"aws:SourceArn": {"Fn::Sub":
                    "arn:${AWS::Partition}:cloudwatch:${AWS::Region}:${AWS::AccountId}:alarm:${AWS::StackName}-*"}},
            },
        }]},
    });
    assert_eq!(resource("AlarmTopicPolicy")["Properties"], policy);
    // CloudFormation's own names begin with the stack's.
    assert!(alarms().iter().all(|(_, alarm)| alarm["AlarmName"].is_null()));

    let mail = resource("AlarmMail");
    assert_eq!(mail["Condition"], "Mailed");
    assert_eq!(mail["Properties"]["Endpoint"], json!({"Ref": "AlarmEmail"}));
    let asked = json!({"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmEmail"}, ""]}]});
    assert_eq!(template["Conditions"]["Mailed"], asked);
}
