//! `status`, `pause`, `resume`, `quarantine`, `backfill`, `import`, `trace`, `replay`, `tail`, `fleet`.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    allowed::policy_allows,
    fake_aws::{FakeAws, relay_stack},
    sandbox::{Ended, Sandbox},
};

fn document(body: Value) -> Value {
    let mut document = json!({"v": 1, "relayVersion": "0.1.0"});
    let (Value::Object(fields), Value::Object(more)) = (&mut document, body) else { panic!() };
    fields.extend(more);
    document
}

fn status() -> Value {
    document(json!({
        "state": "running", "since": "2026-01-02T03:04:05Z", "mapping": "Enabled", "backlog": 0,
        "inFlight": 0, "quarantined": 0, "oldestEventAgeSeconds": 0, "expiresInSeconds": 345_600,
        "drainSeconds": 0, "webhook": {"enabled": true, "checkedAt": "2026-01-02T03:04:05Z"},
    }))
}

/// With a relay `acme`, which has nothing to report.
fn relay() -> FakeAws {
    let aws = FakeAws::start();
    aws.deployed("acme");
    aws.answers("Invoke", status());
    aws.answers("GetMetricData", json!({"MetricDataResults": []}));
    aws.answers("FilterLogEvents", json!({"events": []}));
    aws.answers("PutParameter", json!({"Version": 1}));
    aws.answers_by("GetParameter", |_| None::<Value>);
    aws
}

fn run(aws: &FakeAws, words: &[&str]) -> Ended {
    let words = [words, &["--stack", "acme"]].concat();
    Sandbox::new(aws).run(&words)
}

/// So many hours from now, as an operator would write it.
fn hours(hours: i64) -> String {
    let at = Timestamp::now() + SignedDuration::from_hours(hours);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn written(aws: &FakeAws) -> Vec<(String, String)> {
    let calls = aws.calls("PutParameter");
    calls.iter().map(|call| (call.text("Name").to_owned(), call.text("Value").to_owned())).collect()
}

fn tasks(aws: &FakeAws) -> Vec<Value> {
    aws.calls("Invoke").into_iter().map(|call| call.parameters["Payload"].clone()).collect()
}

#[test]
fn a_pause_names_who_and_why_whatever_characters_they_have() {
    let aws = relay();
    let reason = r#"it's "quoted" \ $HOME `id` & 50 % – déjà vu 😀 {"state":"running"}"#;
    let until = "2099-02-28T08:00:00.5+01:00";
    let words = ["pause", "--reason", reason, "--by", r#"Ada "L""#, "--until", until];
    let ended = run(&aws, &words);
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    assert!(ended.stdout.contains("Paused until 2099-02-28 07:00 UTC."), "{}", ended.stdout);

    let [(parameter, value)] = &written(&aws)[..] else { panic!("{:?}", aws.operations()) };
    assert_eq!(parameter, "/acme/pause");
    let mut value: Value = serde_json::from_str(value).unwrap();
    let since = value["since"].take().as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(since.duration_until(Timestamp::now()).as_secs() < 60);
    assert_eq!(
        value,
        json!({"state": "paused", "by": r#"Ada "L""#, "reason": reason, "since": null,
            "until": "2099-02-28T07:00:00.5Z"})
    );
    assert_eq!(tasks(&aws), [json!({"task": "reconcile"})]);
}

#[test]
fn a_pause_without_an_end_and_one_over_another_are_named() {
    let aws = relay();
    aws.answers_by(
        "GetParameter",
        |_| json!({"Parameter": {"Value": r#"{"state":"paused","by":"bea","reason":"audit"}"#}}),
    );
    let ended = run(&aws, &["pause", "--for", "2h"]);
    assert!(ended.stdout.contains("This replaces a pause: by bea, reason: audit."), "{ended:?}");
    let until = written(&aws)[0].1.parse::<Value>().unwrap()["until"].clone();
    let left = Timestamp::now().duration_until(until.as_str().unwrap().parse().unwrap());
    assert!((7_100..=7_200).contains(&left.as_secs()), "{left}");
    let ended = run(&aws, &["pause"]);
    let endless = "Paused without an end: it lasts until \"gladly-relay resume --stack acme";
    assert!(ended.stdout.contains(endless), "{ended:?}");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_called() {
    let aws = relay();
    let (long, soon, past) = ("x".repeat(1_001), hours(1), hours(-1));
    let cases: [(&[&str], &str); 22] = [
        (&["pause", "--reason", "two\nlines"], "one line"),
        (&["pause", "--reason", "a bell \u{7}"], "one line"),
        (&["pause", "--by", "\u{1b}[2J"], "one line"),
        (&["pause", "--reason", &long], "1,000 bytes"),
        (&["pause", "--until", "tomorrow"], "expected a time such as"),
        (&["pause", "--until", "2099-12-01"], "2099-12-01T00:00:00Z for UTC"),
        (&["pause", "--until", "2099-02-29T08:00:00Z"], "2099-02-28T08:00:00Z"),
        (&["pause", "--until", "2024-02-29T23:59:59Z"], "--until is in the past"),
        (&["pause", "--until", &past], "--until is in the past"),
        (&["pause", "--until", "1999-12-01T08:00:00Z"], "of this century"),
        (&["pause", "--until", &soon, "--for", "2h"], "cannot be used with"),
        (&["pause", "--for", "soon"], "expected a span such as 30m"),
        (&["pause", "until", "2026"], "unexpected argument 'until'"),
        (&["quarantine", "redrive", "--max", "all"], "invalid value 'all'"),
        (&["quarantine", "redrive", "--max", "0"], "invalid value '0'"),
        (&["quarantine", "redrive", "--reason", "bad"], "expected one of unreadable"),
        (&["quarantine", "discard"], "expected --id, --reason or --conversation"),
        (&["backfill"], "--from <TIME>"),
        (&["backfill", "--from", "yesterday"], "expected a time such as"),
        (&["import", "--from", &soon], "--from is in the future"),
        (&["backfill", "--from", &past, "--to", &past], "--from is not before --to"),
        (&["trace", "../x"], "expected 1 to 64 characters"),
    ];
    for (words, complaint) in cases {
        let ended = run(&aws, words);
        assert_eq!(ended.code, 2, "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(complaint), "{words:?}: {}", ended.stderr);
    }
    let ended = run(&aws, &["backfill", "--from", &hours(-48), "--to", &hours(-25)]);
    assert!(ended.code == 2 && ended.stderr.contains("gladly-relay import"), "{ended:?}");
    let ended = run(&aws, &["import", "--from", &hours(-500), "--to", &hours(-400)]);
    assert!(ended.code == 2 && ended.stderr.contains("14 days"), "{ended:?}");
    for name in ["-x", "a b", "../x", "é", "aws-relay", "SSMx"] {
        let ended = Sandbox::new(&aws).run(&["status", &format!("--stack={name}")]);
        assert_eq!(ended.code, 2, "{name}: {ended:?}");
    }
    assert_eq!(aws.operations(), Vec::<String>::new());
}

#[test]
fn resume_lifts_the_pause_and_closes_the_breaker() {
    let aws = relay();
    assert_eq!(run(&aws, &["resume"]).code, 0);
    let written = written(&aws);
    let written: Vec<_> = written.iter().map(|(name, value)| (&**name, &**value)).collect();
    let closed = r#"{"state":"closed"}"#;
    assert_eq!(written, [("/acme/pause", "running"), ("/acme/pause-breaker", closed)]);
    assert_eq!(tasks(&aws), [json!({"task": "reconcile"})]);
}

#[test]
fn resume_fails_while_its_cause_persists() {
    let aws = relay();
    let mut held = status();
    held["state"] = "breaker".into();
    held["reason"] = "Gladly rejected the API credentials (HTTP 401)".into();
    aws.answers("Invoke", held);
    let open = json!({"state": "open", "cause": "gladly", "reason": "HTTP 401", "since": "2026-01-02T03:04:05Z",
        "retryAt": "2026-01-02T03:05:05Z", "waitSeconds": 60});
    aws.answers_by("GetParameter", move |call| {
        let is_breaker = call.text("Name").ends_with("-breaker");
        is_breaker.then(|| json!({"Parameter": {"Value": open.to_string()}}))
    });
    let ended = run(&aws, &["resume"]);
    assert_eq!(ended.code, 1);
    assert!(ended.stdout.contains("was open for Gladly since 2026-01-02 03:04 UTC: HTTP 401"));
    let sentence = "gladly-relay resume: extraction is still held: Gladly rejected the API credentials (HTTP 401).\n";
    assert_eq!(ended.stderr, sentence);
}

#[test]
fn other_commands_ask_and_write_nothing() {
    let aws = relay();
    let empty = document(
        json!({"total": 0, "messages": [], "redriven": 2, "stayed": 1, "more": true,
        "discarded": 3, "queued": 4, "from": "2026-01-02T03:04:05Z", "to": "2026-01-02T03:04:05Z", "done": true,
        "id": "0a", "reason": "rejected", "receivedAt": "2026-01-02T03:04:05Z", "origin": "ingest-fn", "detail": "x",
        "body": "the body"}),
    );
    aws.answers("Invoke", empty);
    let (from, to) = (hours(-3), hours(-1));
    let cases: [(&[&str], Value); 9] = [
        (&["quarantine", "list"], json!({"task": "quarantine"})),
        (&["quarantine", "show", "0a"], json!({"task": "show", "id": "0a"})),
        (&["quarantine", "redrive"], json!({"task": "redrive"})),
        (
            &["quarantine", "redrive", "--max", "25", "--reason", "rejected", "--dry-run"],
            json!({"task": "redrive", "max": 25, "reason": "rejected", "dryRun": true}),
        ),
        (
            &["quarantine", "redrive", "--conversation", "c-1"],
            json!({"task": "redrive", "conversationId": "c-1"}),
        ),
        (
            &["quarantine", "discard", "--id", "0a", "--dry-run"],
            json!({"task": "discard", "id": "0a", "dryRun": true}),
        ),
        (
            &["backfill", "--from", &from, "--to", &to],
            json!({"task": "backfill", "from": from, "to": to}),
        ),
        (
            &["import", "--from", &from, "--dry-run"],
            json!({"task": "import", "from": from, "dryRun": true}),
        ),
        (
            &["import", "--from", "2026-01-01 08:00Z"],
            json!({"task": "import", "from": "2026-01-01T08:00:00Z"}),
        ),
    ];
    for (words, task) in cases {
        aws.forget();
        let ended = run(&aws, words);
        assert_eq!((ended.code, tasks(&aws)), (0, vec![task]), "{words:?}: {ended:?}");
        // The same for a script.
        let ended = run(&aws, &[words, &["--output", "json"]].concat());
        assert_eq!(ended.json()["relayVersion"], "0.1.0", "{ended:?}");
    }
    assert_eq!(written(&aws), []);
}

#[test]
fn a_discard_needs_a_yes_and_counts_first() {
    let aws = relay();
    aws.answers("Invoke", document(json!({"discarded": 3, "more": false})));
    let ended = run(&aws, &["quarantine", "discard", "--reason", "too-large"]);
    assert_eq!(ended.code, 2);
    assert!(
        ended.stderr.contains("Delete 3 messages for good? Without a terminal this needs --yes.")
    );
    assert_eq!(tasks(&aws), [json!({"task": "discard", "reason": "too-large", "dryRun": true})]);
    let ended = run(&aws, &["quarantine", "discard", "--reason", "too-large", "--yes"]);
    assert_eq!((ended.code, &*ended.stdout), (0, "3 messages deleted.\n"), "{ended:?}");
    assert_eq!(tasks(&aws)[2], json!({"task": "discard", "reason": "too-large"}));
}

#[test]
fn an_accepted_range_that_cannot_be_read_now_is_no_failure() {
    let aws = relay();
    let at = "2026-01-02T03:04:05Z";
    aws.answers(
        "Invoke",
        document(json!({"queued": 0, "from": at, "to": at, "done": false,
        "postponed": "Gladly answered HTTP 503"})),
    );
    let ended = run(&aws, &["backfill", "--since", "6h"]);
    assert_eq!(ended.code, 0);
    assert!(
        ended
            .stdout
            .contains("Accepted, but Gladly could not be read now: Gladly answered HTTP 503.")
    );
}

#[test]
fn status_shows_failing_deliveries_and_401s_and_check_exits_with_4() {
    let aws = relay();
    let now = Timestamp::now();
    let minutes = move |minutes: i64| (now - SignedDuration::from_mins(minutes)).as_millisecond();
    let line = json!({"level": "WARN", "message": "could not deliver; the records return to the queue",
        "error": "the destination answered HTTP 500"});
    let failed =
        |at: i64| json!({"timestamp": at, "message": line.to_string(), "eventId": at.to_string()});
    aws.answers("FilterLogEvents", json!({"events": [failed(minutes(9)), failed(minutes(1))]}));
    aws.answers_by("GetMetricData", move |call| {
        let queries = call.parameters["MetricDataQueries"].as_array().unwrap();
        let series = queries.iter().map(|query| {
            let metric = &query["MetricStat"]["Metric"];
            let slot =
                metric["Dimensions"].as_array().unwrap().iter().find(|it| it["Name"] == "Slot");
            let slot = slot.and_then(|slot| slot["Value"].as_str());
            let (minute, value) = match (metric["MetricName"].as_str().unwrap(), slot) {
                ("KeySlot", Some("2")) | ("Queued", None) => (67, 3.0),
                // A PING of this program, which is no event.
                ("KeySlot", Some("1")) => (3, 1.0),
                ("Unauthorized", None) => (2, 5.0),
                _ => return json!({"Id": query["Id"], "Timestamps": [], "Values": []}),
            };
            let at = minutes(minute) / 60_000 * 60;
            json!({"Id": query["Id"], "Timestamps": [{"$time": at}], "Values": [value]})
        });
        json!({"MetricDataResults": series.collect::<Vec<_>>()})
    });
    let ended = run(&aws, &["status"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in [
        "Warning     deliveries have been failing since",
        "(2 failures): the destination answered HTTP 500",
        "Last event  1 h 7 min ago, with key 2; 5 requests rejected with 401 in the last hour",
        "requests are rejected with 401 and no event came in the last hour: gladly-relay doctor --stack acme",
        "Extraction is running, with warnings.",
        "Webhook     enabled (checked ",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let ended = run(&aws, &["status", "--check"]);
    assert_eq!((ended.code, &*ended.stderr), (4, "gladly-relay status: 2 things are wrong.\n"));
    let ended = run(&aws, &["status", "--check", "--output", "json"]);
    assert_eq!(ended.json()["activity"]["unauthorizedLastHour"], 5);
    assert_eq!(run(&relay(), &["status", "--check"]).code, 0);
}

#[test]
fn every_failure_is_one_sentence_with_an_exit_code() {
    type Case = (&'static str, &'static [&'static str], fn(&FakeAws), i32, &'static str);
    let cases: [Case; 8] = [
        (
            "no stack",
            &["status"],
            FakeAws::no_stack,
            1,
            "gladly-relay status: there is no stack acme in region us-east-1 of this AWS account; is the login right?",
        ),
        (
            "another stack",
            &["status"],
            |aws| {
                let mut stack = relay_stack("acme");
                stack["Outputs"] = json!([]);
                aws.stack(&stack);
            },
            1,
            "gladly-relay status: acme is not a gladly-relay stack (missing outputs PauseParameterName, …).",
        ),
        (
            "no permission",
            &["status"],
            |aws| aws.denies("lambda:InvokeFunction"),
            3,
            "gladly-relay status: could not invoke extractor-fn: you lack the permission lambda:InvokeFunction.",
        ),
        (
            "not written",
            &["pause"],
            |aws| aws.fails("PutParameter", "ThrottlingException", "Rate exceeded"),
            1,
            "gladly-relay pause: could not write /acme/pause: AWS is throttling requests; try again in a minute.",
        ),
        (
            "half done",
            &["pause"],
            |aws| aws.denies("lambda:InvokeFunction"),
            3,
            "gladly-relay pause: the pause is written and takes effect within 15 s; but could not invoke extractor-fn: you lack the permission lambda:InvokeFunction.",
        ),
        (
            "the function fails",
            &["resume"],
            |aws| aws.function_fails("ControllerError", "could not find the \"mapping\""),
            1,
            "gladly-relay resume: the pause is lifted, and extraction continues within a minute or two; but extractor-fn failed: could not find the \"mapping\".",
        ),
        (
            "an older function",
            &["quarantine", "list"],
            |aws| aws.answers("Invoke", json!({"total": 0, "messages": []})),
            1,
            "gladly-relay quarantine list: extractor-fn is older than this program (0.1.0); gladly-relay deploy --stack acme --region us-east-1, or use the program of its version.",
        ),
        (
            "a newer function",
            &["quarantine", "list"],
            |aws| aws.answers("Invoke", json!({"v": 2, "relayVersion": "9.0.0"})),
            1,
            "gladly-relay quarantine list: extractor-fn (9.0.0) is newer than this program (0.1.0); update the program.",
        ),
    ];
    for (name, words, change, code, sentence) in cases {
        let aws = relay();
        change(&aws);
        let ended = run(&aws, words);
        assert_eq!((ended.code, ended.stderr.trim_end()), (code, sentence), "{name}: {ended:?}");
    }
}

#[test]
fn without_a_login_a_region_or_a_relay_it_says_which() {
    let aws = relay();
    let ended = Sandbox::new(&aws).run(&["status"]);
    assert!(ended.code == 2 && ended.stderr.contains("no relay runs on this machine"), "{ended:?}");
    let ended = Sandbox::new(&aws).unset("AWS_REGION").run(&["status", "--stack", "acme"]);
    assert!(ended.code == 2 && ended.stderr.contains("no region is set"), "{ended:?}");
    let ended = Sandbox::new(&aws)
        .set("AWS_DEFAULT_REGION", "eu-west-1")
        .run(&["status", "--stack", "acme"]);
    assert!(ended.code == 2 && ended.stderr.contains("pass --region"), "{ended:?}");
    let sandbox = Sandbox::new(&aws).unset("AWS_ACCESS_KEY_ID").unset("AWS_SECRET_ACCESS_KEY");
    let ended = sandbox.run(&["status", "--stack", "acme"]);
    assert!(ended.code == 3 && ended.stderr.contains("no valid AWS credentials"), "{ended:?}");
    let ended = sandbox.run(&["status", "--stack", "acme", "--profile", "none"]);
    assert!(ended.code == 3 && ended.stderr.contains("no valid AWS credentials"), "{ended:?}");
    assert_eq!(aws.operations(), Vec::<String>::new());
}

#[test]
fn the_region_is_resolved_once_for_every_call() {
    let aws = relay();
    let sandbox = Sandbox::new(&aws);
    assert_eq!(sandbox.run(&["status", "--stack", "acme", "--region", "eu-north-1"]).code, 0);
    let regions = ["DescribeStacks", "Invoke", "GetMetricData", "FilterLogEvents"]
        .map(|operation| aws.calls(operation)[0].region.clone());
    assert_eq!(regions, ["eu-north-1"; 4]);
}

#[test]
fn what_make_up_started_is_found_from_a_folder_below_it_and_nothing_of_the_login_is_used() {
    let aws = relay();
    aws.deployed("gladly-relay");
    let sandbox = Sandbox::new(&aws)
        .set("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .set("AWS_PROFILE", "production");
    let running =
        json!({"aws_url": aws.url(), "webhook_url": "http://localhost:1/webhooks/gladly"});
    sandbox.write(".local/up/running.json", running.to_string());
    sandbox.write("below/it/file", "");
    let output =
        sandbox.command(&["status"]).current_dir(sandbox.path("below/it")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8(output.stdout).unwrap().contains("Stack       gladly-relay in us-east-1")
    );
    drop(aws);
    let ended = sandbox.run(&["status"]);
    let sentence = "gladly-relay status: what \"make up\" started has ended; start it again.\n";
    assert_eq!((ended.code, &*ended.stderr), (1, sentence));
}

#[test]
fn trace_finds_deliveries_quarantine_and_what_gladly_lists() {
    let aws = relay();
    let line = json!({"level": "INFO", "message": "delivered", "delivery.id": "d-1", "delivery.event_ids": ["e-1"],
        "delivery.conversation_ids": ["c-1"]});
    aws.answers("StartQuery", json!({"queryId": "q"}));
    aws.answers("GetQueryResults", json!({"status": "Complete", "results": [[
        {"field": "@timestamp", "value": "2026-01-02 03:04:05.678"}, {"field": "@message", "value": line.to_string()},
    ]]}));
    aws.answers("Invoke", document(json!({"total": 1, "messages": [{"id": "0a", "reason": "rejected",
        "receivedAt": "2026-01-02T03:04:05Z", "origin": "extractor-fn", "detail": "HTTP 422", "conversationId": "c-1"}]})));
    let ended = run(&aws, &["trace", "c-1"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    for part in [
        "delivered   2026-01-02 03:04:05 UTC  delivery d-1: 1 event on 1 conversation",
        "quarantine  2026-01-02 03:04:05 UTC  rejected: HTTP 422",
        "?           there is no Gladly token in /acme/gladly-token",
        "c-1 was delivered, last at 2026-01-02 03:04:05 UTC.",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    let query = aws.calls("StartQuery")[0].text("queryString").to_owned();
    assert!(query.contains("like /c-1/"), "{query}");
    aws.answers("GetQueryResults", json!({"status": "Complete", "results": []}));
    aws.answers("Invoke", document(json!({"total": 0, "messages": []})));
    let ended = run(&aws, &["trace", "c-1"]);
    assert!(ended.stdout.contains("c-1 was not seen"), "{ended:?}");
}

#[test]
fn replay_queues_an_event_about_the_conversation() {
    let aws = relay();
    aws.answers_by("SendMessage", |call| {
        let body: Value = serde_json::from_str(call.text("MessageBody")).unwrap();
        assert_eq!((&body["v"], &body["origin"]), (&json!(1), &json!("backfill")));
        assert_eq!(body["event"]["type"], "RELAY/IMPORTED");
        assert_eq!(body["event"]["content"], json!({"conversationId": "c-1"}));
        json!({"MessageId": "m-1"})
    });
    // The fake computes no MD5, which the SDK would compare.
    let ended = run(&aws, &["replay", "--conversation", "c-1"]);
    assert_eq!(aws.calls("SendMessage").len(), 1, "{ended:?}");
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(aws.calls("SendMessage")[0].text("QueueUrl").contains("EventsQueue"));
}

#[test]
fn tail_shows_lines_for_people_of_the_level_and_above() {
    let aws = relay();
    let lines = [
        json!({"level": "INFO", "message": "task done", "task": "status"}),
        json!({"level": "ERROR", "message": "cannot start", "error": "GLADLY_HOST is not set\u{1b}[2J"}),
        json!({"_aws": {"Timestamp": 1}, "Queued": 1}),
    ];
    let events: Vec<_> = lines
        .iter()
        .enumerate()
        .map(|(n, line)| json!({"timestamp": 1_767_323_045_000_i64, "message": line.to_string(), "eventId": n.to_string()}))
        .collect();
    aws.answers_by("FilterLogEvents", move |call| {
        let is_extractor = call.text("logGroupName") == "/aws/lambda/acme/extractor-fn";
        json!({"events": if is_extractor { events.clone() } else { Vec::new() }})
    });
    let ended = run(&aws, &["tail", "--no-follow", "--since", "1h", "--level", "warn"]);
    let line =
        "2026-01-02 03:04:05 ERROR extractor-fn cannot start  error=GLADLY_HOST is not set[2J\n";
    assert_eq!((ended.code, &*ended.stdout), (0, line), "{ended:?}");
    let ended = run(&aws, &["tail", "--no-follow"]);
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
}

#[test]
fn fleet_lists_every_relay_of_all_pages_and_no_other_stack() {
    let aws = relay();
    let mut other = relay_stack("other");
    other["Outputs"] = json!([]);
    aws.answers_by("DescribeStacks", move |call| match call.text("NextToken") {
        "" => json!({"Stacks": [relay_stack("beta"), other], "NextToken": "2"}),
        _ => json!({"Stacks": [relay_stack("acme")]}),
    });
    let ended = Sandbox::new(&aws).run(&["fleet"]);
    let names: Vec<_> =
        ended.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["STACK", "acme", "beta", "2"], "{ended:?}");
    assert!(ended.stdout.contains("running") && ended.stdout.ends_with("2 relays in us-east-1.\n"));
}

#[test]
fn the_program_explains_itself_without_aws() {
    let sandbox = Sandbox::without_aws();
    for words in
        [&["--help"][..], &["pause", "--help"], &["man"], &["completions", "bash"], &["--version"]]
    {
        let ended = sandbox.run(words);
        assert!(ended.code == 0 && ended.stdout.len() > 10, "{words:?}: {ended:?}");
    }
    let manual = sandbox.run(&["man"]).stdout;
    assert!(manual.contains("rotate\\-key") && manual.contains("130"), "{manual}");
    let ended = sandbox.run(&["statsu"]);
    assert!(ended.code == 2 && ended.stderr.contains("'status'"), "{ended:?}");
    assert_eq!(sandbox.run(&[] as &[&str]).code, 2);
}

/// Ctrl-C, while AWS answers this call.
fn stopped_during(operation: &str, words: &[&str]) -> Ended {
    let aws = relay();
    let process = Arc::new(AtomicU32::new(0));
    let (ended, end) = mpsc::channel::<()>();
    let pid = Arc::clone(&process);
    aws.answers_by(operation, move |_| {
        let pid = pid.load(Ordering::SeqCst).to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        // No answer before the program has ended.
        let _ = end.recv();
        None::<Value>
    });
    let sandbox = Sandbox::new(&aws);
    let words = [words, &["--stack", "acme"]].concat();
    // Its number is known before it calls AWS: the program starts stopped, in a shell that waits for a line.
    let program = env!("CARGO_BIN_EXE_gladly-relay");
    let mut command = sandbox.command(&[] as &[&str]);
    let environment: Vec<_> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command = Command::new("/bin/sh");
    let child = command
        .args(["-c", "read line; exec \"$@\"", "sh", program])
        .args(words)
        .current_dir(&sandbox.folder)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.store(child.id(), Ordering::SeqCst);
    // Dropping standard input ends the line.
    let output = child.wait_with_output().unwrap();
    drop(ended);
    Ended {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn ctrl_c_shows_what_holds() {
    for (words, during, sentence) in [
        (&["pause"][..], "DescribeStacks", "stopped; nothing was changed."),
        (
            &["pause"],
            "PutParameter",
            "stopped; \"gladly-relay status\" shows whether the pause was written.",
        ),
        (&["pause"], "Invoke", "stopped; the pause is written and takes effect within 15 s."),
        (
            &["resume"],
            "Invoke",
            "stopped; the pause is lifted, and extraction continues within a minute or two.",
        ),
        (&["status"], "Invoke", "stopped; nothing was changed."),
        (&["quarantine", "redrive"], "Invoke", "stopped; extractor-fn continues by itself."),
    ] {
        let ended = stopped_during(during, words);
        let command = words.join(" ");
        let sentence = format!("\ngladly-relay {command}: {sentence}\n");
        assert_eq!((ended.code, ended.stderr), (130, sentence), "{during}");
    }
}

#[test]
fn every_command_calls_only_what_its_policy_allows() {
    let at = "2026-01-02T03:04:05Z";
    let anything = document(
        json!({"total": 0, "messages": [], "redriven": 0, "stayed": 0, "more": false,
        "discarded": 1, "queued": 0, "from": at, "to": at, "done": true, "id": "0a", "reason": "rejected",
        "receivedAt": at, "origin": "ingest-fn", "detail": "x", "body": "b"}),
    );
    let commands: [(&str, &[&str]); 13] = [
        ("status", &["status"]),
        ("pause", &["pause"]),
        ("resume", &["resume"]),
        ("version", &["version"]),
        ("quarantine list", &["quarantine", "list"]),
        ("quarantine show", &["quarantine", "show", "0a"]),
        ("quarantine redrive", &["quarantine", "redrive"]),
        ("quarantine discard", &["quarantine", "discard", "--id", "0a", "--yes"]),
        ("backfill", &["backfill", "--since", "1h"]),
        ("import", &["import", "--since", "1h"]),
        ("trace", &["trace", "c-1"]),
        ("tail", &["tail", "--no-follow"]),
        ("fleet", &["fleet"]),
    ];
    for (command, words) in commands {
        let aws = relay();
        if !["status", "pause", "resume", "version", "fleet"].contains(&command) {
            aws.answers("Invoke", anything.clone());
        }
        aws.answers("StartQuery", json!({"queryId": "q"}));
        aws.answers("GetQueryResults", json!({"status": "Complete", "results": []}));
        let ended = run(&aws, words);
        assert_eq!(ended.code, 0, "{command}: {ended:?}");
        policy_allows(command, &aws.actions());
    }
}
