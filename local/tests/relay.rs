//! `tools/relay` with an AWS CLI that only notes what it is asked for.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod sandbox;

use std::{fs, process::Command};

use serde_json::{Value, json};

use sandbox::{Ended, Sandbox, root};

/// Stands for the AWS CLI. It writes its arguments down, a call a file, and answers from files of the command's name.
const AWS: &str = r#"#!/bin/bash
set -eu
number=$(($(ls "$NOTES" | wc -l) + 1))
printf '%s\0' "$@" >"$NOTES/$number"
if [ "${1-}" = --endpoint-url ]; then shift 2; fi
for argument; do
  case $argument in fileb://*) cp "${argument#fileb://}" "$ANSWERS/task" ;; esac
done
if [ -e "$ANSWERS/$2.error" ]; then cat "$ANSWERS/$2.error" >&2; exit 254; fi
if [ "$2" = invoke ]; then cp "$ANSWERS/answer" "${!#}"; fi
if [ -e "$ANSWERS/$2" ]; then cat "$ANSWERS/$2"; fi
"#;

/// So many hours from now, as an operator would write it.
fn hours(hours: i64) -> String {
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Sandbox {
    /// With a relay in an account.
    fn new(name: &str) -> Self {
        let sandbox = Self::with(&format!("relay-{name}"), &["tools/relay", "tools/aws.bash"]);
        sandbox.program("bin/aws", AWS);
        sandbox.answers(
            "describe-stacks",
            "PauseParameterName\t/acme/pause\nExtractorFunctionName\tx-1\n",
        );
        sandbox.answers("invoke", "None\n");
        sandbox.answers("answer", r#""State       paused\nExtraction is paused.""#);
        sandbox
    }

    fn run(&self, command: &str, environment: &[(&str, &str)]) -> Ended {
        self.bash(&["tools/relay", command], environment)
    }

    /// The calls of the AWS CLI so far, in their order.
    fn calls(&self) -> Vec<Vec<String>> {
        let notes = self.folder.join("notes");
        let count = fs::read_dir(&notes).unwrap().count();
        let call = |number: usize| {
            let note = fs::read_to_string(notes.join(number.to_string())).unwrap();
            note.split_terminator('\0').map(str::to_owned).collect()
        };
        (1..=count).map(call).collect()
    }

    /// What was written into which parameter.
    fn written(&self) -> Vec<(String, String)> {
        let after = |call: &[String], name: &str| {
            call[call.iter().position(|argument| argument == name).unwrap() + 1].clone()
        };
        let calls = self.calls();
        let writes = calls.iter().filter(|call| call.contains(&"put-parameter".to_owned()));
        writes.map(|call| (after(call, "--name"), after(call, "--value"))).collect()
    }

    fn task(&self) -> Value {
        serde_json::from_slice(&fs::read(self.folder.join("answers/task")).unwrap()).unwrap()
    }
}

#[test]
fn a_pause_says_who_and_why_whatever_characters_they_have() {
    let sandbox = Sandbox::new("pause");
    let reason = r#"it's "quoted" \ $HOME `id` & 50 % – déjà vu 😀 {"state":"running"}"#;
    let until = "2099-02-28T08:00:00.5+01:00";
    let told = [("STACK", "acme"), ("BY", r#"Ada "L""#), ("REASON", reason), ("UNTIL", until)];
    let ended = sandbox.run("pause", &told);
    assert_eq!(ended.complaint, "");
    assert_eq!(ended.shown, "State       paused\nExtraction is paused.\n");
    assert!(ended.succeeded);

    let [(parameter, value)] = &sandbox.written()[..] else { panic!("{:?}", sandbox.calls()) };
    assert_eq!(parameter, "/acme/pause");
    let mut value: Value = serde_json::from_str(value).unwrap();
    let since = value["since"].take().as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(since.duration_until(jiff::Timestamp::now()).as_secs() < 60);
    assert_eq!(
        value,
        json!({"state": "paused", "by": r#"Ada "L""#, "reason": reason, "since": null, "until": until})
    );
    assert_eq!(sandbox.task(), json!({"task": "reconcile", "as": "text"}));
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_asked_or_written() {
    let sandbox = Sandbox::new("nonsense");
    let cases = [
        ("pause", "REASON", "two\nlines", "REASON must be one line"),
        ("pause", "REASON", "a bell \u{7}", "REASON must be one line"),
        ("pause", "BY", "\u{1b}[2J", "BY must be one line"),
        ("pause", "REASON", &"x".repeat(1_001), "REASON is too long"),
        ("pause", "UNTIL", "tomorrow", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-12-01", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-12-01T08:00:00", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-12-01 08:00:00Z", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-12-01T08:00Z", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-02-29T08:00:00Z", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-13-01T08:00:00Z", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-12-01T24:00:00Z", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-12-01T08:00:00+24:00", "UNTIL must be a time"),
        ("pause", "UNTIL", "2099-12-01T08:00:00Z\",\"x\":\"", "UNTIL must be a time"),
        ("pause", "UNTIL", "2024-02-29T23:59:59Z", "UNTIL is in the past"),
        ("pause", "UNTIL", "1999-12-01T08:00:00Z", "UNTIL must be a time of this century"),
        ("pause", "UNTIL", "2999-12-01T08:00:00Z", "UNTIL must be a time of this century"),
        ("pause", "STACK", "-x", "STACK must be a stack's name"),
        ("status", "STACK", "a b", "STACK must be a stack's name"),
        ("status", "STACK", "../x", "STACK must be a stack's name"),
        ("status", "STACK", "é", "STACK must be a stack's name"),
        ("redrive", "MAX", "all", "MAX must be a number"),
        ("redrive", "MAX", "0", "MAX must be a number"),
        ("redrive", "MAX", "-1", "MAX must be a number"),
        ("backfill", "TO", "2026-12-01T08:00:00Z", "FROM must say where to begin"),
        ("backfill", "FROM", "yesterday", "FROM must be a time"),
        ("import", "FROM", "2026-12-01 08:00", "FROM must be a time"),
        ("import", "FROM", &hours(1), "FROM is in the future"),
        ("backfill", "FROM", "2099-12-01T08:00:00Z", "FROM is in the future"),
    ];
    for (command, name, value, complaint) in cases {
        let ended = sandbox.run(command, &[("STACK", "acme"), (name, value)]);
        assert!(!ended.succeeded, "{name}={value}");
        let expected = format!("make {command}: {complaint}");
        assert!(ended.complaint.starts_with(&expected), "{name}={value}: {}", ended.complaint);
        assert_eq!(ended.complaint.lines().count(), 1, "{}", ended.complaint);
    }
    for (command, from, to, complaint) in [
        ("backfill", hours(-1), hours(-2), "FROM must be before TO."),
        ("backfill", hours(-48), hours(-25), "Gladly lists what happened in the last 24 hours"),
        ("import", hours(-500), hours(-400), "Gladly keeps its exports for 14 days"),
    ] {
        let ended = sandbox.run(command, &[("STACK", "acme"), ("FROM", &from), ("TO", &to)]);
        let expected = format!("make {command}: {complaint}");
        assert!(ended.complaint.starts_with(&expected), "{}", ended.complaint);
    }
    // Just past, and just not yet, in a zone of its own.
    let at = |minutes: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
        at.to_zoned(jiff::tz::offset(-5).to_time_zone())
            .strftime("%Y-%m-%dT%H:%M:%S%:z")
            .to_string()
    };
    assert!(!sandbox.run("pause", &[("STACK", "acme"), ("UNTIL", &at(-1))]).succeeded);
    assert_eq!(sandbox.calls(), Vec::<Vec<String>>::new());
    assert!(sandbox.run("pause", &[("STACK", "acme"), ("UNTIL", &at(1))]).succeeded);
}

#[test]
fn resume_lifts_the_pause_and_closes_the_breaker() {
    let sandbox = Sandbox::new("resume");
    assert!(sandbox.run("resume", &[("STACK", "acme")]).succeeded);
    let written = sandbox.written();
    let written: Vec<_> = written.iter().map(|(name, value)| (&**name, &**value)).collect();
    let closed = r#"{"state":"closed"}"#;
    assert_eq!(written, [("/acme/pause", "running"), ("/acme/pause-breaker", closed)]);
    assert_eq!(sandbox.task(), json!({"task": "reconcile", "as": "text"}));
}

#[test]
fn other_commands_ask_and_write_nothing() {
    let sandbox = Sandbox::new("ask");
    for (command, max, task) in [
        ("status", "", json!({"task": "status", "as": "text"})),
        ("quarantine", "", json!({"task": "quarantine", "as": "text"})),
        ("redrive", "", json!({"task": "redrive", "as": "text"})),
        ("redrive", "25", json!({"task": "redrive", "max": 25, "as": "text"})),
    ] {
        assert!(sandbox.run(command, &[("STACK", "acme"), ("MAX", max)]).succeeded);
        assert_eq!(sandbox.task(), task);
    }
    let (from, to) = (hours(-3), hours(-1));
    let range = [("STACK", "acme"), ("FROM", &*from), ("TO", &*to)];
    assert!(sandbox.run("backfill", &range).succeeded);
    assert_eq!(sandbox.task(), json!({"task": "backfill", "from": from, "to": to, "as": "text"}));
    assert!(sandbox.run("import", &range[..2]).succeeded);
    assert_eq!(sandbox.task(), json!({"task": "import", "from": from, "as": "text"}));
    // What is older than Gladly's list may be where a range begins, and the future where it ends.
    let wide = [("STACK", "acme"), ("FROM", &*hours(-99)), ("TO", &*hours(99))];
    assert!(sandbox.run("backfill", &wide).succeeded);
    // Nothing lies between two names of the same moment.
    let same = from.replace('Z', "+00:00");
    assert!(
        !sandbox.run("backfill", &[("STACK", "acme"), ("FROM", &from), ("TO", &same)]).succeeded
    );
    assert_eq!(sandbox.written(), []);
}

#[test]
fn the_answer_is_shown_as_it_was_meant() {
    let sandbox = Sandbox::new("answer");
    let screen = "A \"tab\"\tand \\ and / – 😀 \u{85}é\nlast line \\n";
    // As Lambda gives it, and with everything outside ASCII escaped; neither steers a terminal.
    let plain = format!("{}\u{1b}[2J\u{7f}\"", json!(screen).to_string().trim_end_matches('"'));
    let escaped =
        r#""A \"tab\"\tand \\ and \/ \u2013 \ud83d\ude00 \u0085\u00e9\nlast line \\n\u001b[2J\b""#;
    for answer in [plain.as_str(), escaped] {
        sandbox.answers("answer", answer);
        let ended = sandbox.run("status", &[("STACK", "acme")]);
        assert_eq!(ended.complaint, "");
        assert_eq!(ended.shown, format!("{}[2J\n", screen.replace('\u{85}', "")));
    }
}

#[test]
fn every_failure_is_one_sentence() {
    let failed = "An error occurred (AccessDeniedException) when calling the Invoke operation (reached max retries: 4): User: ada is not authorized to perform: lambda:InvokeFunction";
    for (name, command, answers, complaint) in [
        (
            "no-stack",
            "status",
            (
                "describe-stacks.error",
                "\nAn error occurred (ValidationError) when calling the DescribeStacks operation: Stack with id acme does not exist\n",
            ),
            "make status: there is no stack acme in this AWS account and region.",
        ),
        (
            "other-stack",
            "status",
            ("describe-stacks", "None\n"),
            "make status: acme is no relay: it has not the outputs of one.",
        ),
        (
            "no-permission",
            "status",
            ("invoke.error", failed),
            "make status: extractor-fn could not be asked: User: ada is not authorized to perform: lambda:InvokeFunction",
        ),
        (
            "not-written",
            "pause",
            (
                "put-parameter.error",
                "An error occurred (ThrottlingException) when calling the PutParameter operation: Rate exceeded",
            ),
            "make pause: the pause was not written: AWS is busy with too many requests; try again in a minute.",
        ),
        (
            "half-done",
            "pause",
            ("invoke.error", "Could not connect to the endpoint URL: \"https://lambda\""),
            "make pause: the pause is written, and holds within 15 s whatever else happens; but extractor-fn could not be asked: AWS is out of reach; is there a network, and is the region right?",
        ),
        (
            "no-profile",
            "status",
            ("describe-stacks.error", "\nThe config profile (none) could not be found\n"),
            "make status: the stack could not be looked up: your AWS CLI has no such profile as AWS_PROFILE names.",
        ),
        (
            "no-screen",
            "status",
            ("answer", "{\"state\":\"running\"}"),
            "make status: extractor-fn answered what is no screen; is it an older version?",
        ),
    ] {
        let sandbox = Sandbox::new(name);
        sandbox.answers(answers.0, answers.1);
        let ended = sandbox.run(command, &[("STACK", "acme")]);
        assert!(!ended.succeeded && ended.shown.is_empty(), "{name}");
        assert_eq!(ended.complaint.trim_end(), complaint, "{name}");
    }

    let sandbox = Sandbox::new("function-error");
    sandbox.answers("invoke", "Unhandled\n");
    sandbox.answers(
        "answer",
        r#"{"errorType":"ControlError","errorMessage":"could not look for the \"mapping\""}"#,
    );
    let ended = sandbox.run("resume", &[("STACK", "acme")]);
    let complaint = "make resume: the pause is lifted, and extraction goes on within a minute or two; but \
                     extractor-fn failed: could not look for the \"mapping\"";
    assert_eq!(ended.complaint.trim_end(), complaint);
    assert!(!ended.succeeded);
}

#[test]
fn without_a_name_it_is_the_stack_of_make_up_or_none() {
    let sandbox = Sandbox::new("up");
    let ended = sandbox.run("status", &[]);
    assert!(ended.complaint.starts_with("make status: no relay runs on this machine"));
    assert!(!ended.succeeded);
    assert_eq!(sandbox.calls(), Vec::<Vec<String>>::new());

    fs::create_dir_all(sandbox.folder.join(".local/up")).unwrap();
    let state = "endpoint=http://127.0.0.1:4566\nstack=gladly-relay\n";
    fs::write(sandbox.folder.join(".local/up/aws.env"), state).unwrap();
    assert!(sandbox.run("status", &[("AWS_PROFILE", "production")]).succeeded);
    for call in sandbox.calls() {
        assert_eq!(call[..2], ["--endpoint-url", "http://127.0.0.1:4566"]);
    }
    sandbox.answers(
        "describe-stacks.error",
        "Could not connect to the endpoint URL: \"http://127.0.0.1:4566/\"",
    );
    let ended = sandbox.run("status", &[]);
    let complaint = "make status: the stack could not be looked up: what \"make up\" started has ended; start it again.";
    assert_eq!(ended.complaint.trim_end(), complaint);
    // One of that name in an account is another.
    let before = sandbox.calls().len();
    assert!(!sandbox.run("status", &[("STACK", "gladly-relay")]).succeeded);
    assert_eq!(sandbox.calls()[before][0], "cloudformation");
}

/// Ctrl-C goes to all that run in a terminal: here to the AWS CLI, which ends as the real one does, and to the script.
#[test]
fn whoever_stops_it_is_told_what_holds() {
    for (command, during, told) in [
        ("pause", "describe-stacks", "stopped; nothing was changed."),
        ("pause", "put-parameter", "stopped; whether that was written, \"make status\" tells."),
        (
            "pause",
            "invoke",
            "stopped; the pause is written, and holds within 15 s whatever else happens.",
        ),
        (
            "resume",
            "invoke",
            "stopped; the pause is lifted, and extraction goes on within a minute or two.",
        ),
        ("status", "invoke", "stopped."),
        ("redrive", "invoke", "stopped; extractor-fn goes on by itself."),
    ] {
        let sandbox = Sandbox::new(&format!("stopped-{command}-{during}"));
        let signal = format!(
            "#!/bin/bash\ncase \" $* \" in *\" {during} \"*) kill -INT 0; exit 130 ;; esac\n"
        );
        let script = AWS.replacen("#!/bin/bash\n", &signal, 1);
        // The false AWS CLI itself goes on until it has said how it ends.
        let script = script.replacen("#!/bin/bash\n", "#!/bin/bash\ntrap : INT\n", 1);
        fs::write(sandbox.folder.join("bin/aws"), script).unwrap();
        let ended = sandbox.run(command, &[("STACK", "acme")]);
        assert!(!ended.succeeded);
        assert_eq!(ended.complaint, format!("\nmake {command}: {told}\n"), "{during}");
    }
}

#[test]
fn make_refuses_a_word_that_it_does_not_know() {
    for (words, complaint) in [
        (
            ["pause", "UNTILL=2099-01-01T00:00:00Z"],
            "make pause does not know UNTILL; what it knows: STACK REASON UNTIL BY.",
        ),
        (["status", "MAX=1"], "make status does not know MAX; what it knows: STACK."),
        (["deploy", "STAK=acme"], "make deploy does not know STAK; what it knows: STACK."),
        (["package", "ARCH=mips"], "ARCH is arm64 or x86_64."),
    ] {
        let output =
            Command::new("make").arg("-n").args(words).current_dir(root()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(complaint), "{said}");
    }
    let words = ["pause", "REASON=a $b", "UNTIL=x", "BY=x", "STACK=x", "AWS_PROFILE=x"];
    let output = Command::new("make").arg("-n").args(words).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
