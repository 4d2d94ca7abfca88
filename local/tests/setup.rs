//! `tools/setup` on the deployed template, with the real AWS CLI and the Gladly simulator.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use local::stack::{Artifacts, EmulatedAws, Function, Settings, Stack};
use serde_json::{Value, json};
use testing::{
    fault::Fault,
    gladly::{self, EVENT_TYPES, Gladly},
};
use tokio::{process::Command, sync::OnceCell};

/// Comes before the AWS CLI. It writes down what everybody could see in a list of processes, a call a file, gives the
/// answers that are prepared for a command (and the parameter or slot it names), and has the AWS CLI ask the emulator
/// for the rest.
const AWS: &str = r#"#!/bin/bash
set -eu
printf '%s\n' "$@" >"$NOTES/$$-$RANDOM"
env >>"$NOTES/$$-$RANDOM-environment"
if [ "${1-}" = configure ]; then cat "$ANSWERS/configure"; exit; fi
endpoint=(--endpoint-url "$ENDPOINT")
if [ "${1-}" = --endpoint-url ]; then endpoint=("$1" "$2"); shift 2; fi
one=' ' all=$*
case $all in
  *Name=Slot,Value=*) one=${all##*Name=Slot,Value=} ;;
  *"--name "*) one=${all##*--name } ;;
esac
one=${one%% *}
for answer in "$ANSWERS/$2-${one##*/}" "$ANSWERS/$2"; do
  if [ -e "$answer.error" ]; then cat "$answer.error" >&2; exit 254; fi
  if [ -e "$answer" ]; then cat "$answer"; exit; fi
done
exec "$AWS" "${endpoint[@]}" "$@"
"#;

/// Types into a terminal: the arguments are what to wait for and what to type then, in turn.
const TYPIST: &str = r#"
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "tools/setup", sys.argv[1]])
shown, seen = b"", 0
words = iter(sys.argv[2:])
try:
    for wanted, typed in zip(words, words):
        while wanted.encode() not in shown[seen:]:
            shown += os.read(terminal, 1024)
        seen = len(shown)
        os.write(terminal, typed.encode() + b"\n")
    while True:
        shown += os.read(terminal, 1024)
except OSError:
    pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// The AWS of all tests.
async fn aws() -> &'static EmulatedAws {
    static CLOUD: OnceCell<EmulatedAws> = OnceCell::const_new();
    let start =
        async || EmulatedAws::start("setup", &Artifacts::build().await.unwrap()).await.unwrap();
    CLOUD.get_or_init(start).await
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// How a command ended, and what it showed.
#[derive(Debug)]
struct Ended {
    succeeded: bool,
    shown: String,
    complaint: String,
}

impl Ended {
    /// It failed, with one sentence that holds this.
    #[track_caller]
    fn complains(&self, part: &str) {
        assert!(!self.succeeded && self.complaint.contains(part), "{part}: {self:#?}");
        assert!(self.complaint.starts_with("make ") && self.complaint.lines().count() == 1);
    }

    #[track_caller]
    fn tells(&self, parts: &[&str]) {
        assert!(self.succeeded, "{self:#?}");
        for part in parts {
            assert!(self.shown.contains(part), "{part}: {self:#?}");
        }
    }
}

/// A stack, its Gladly, and a folder with the script as in the repository.
struct Sandbox {
    folder: PathBuf,
    stack: Stack<'static>,
    gladly: Gladly,
    settings: Settings,
    /// What may be seen nowhere.
    secrets: Vec<String>,
}

impl Sandbox {
    async fn new(name: &str) -> Self {
        Self::with(name, gladly::Options::default()).await
    }

    async fn with(name: &str, options: gladly::Options) -> Self {
        let mut settings = Settings::new("", "");
        let gladly = Gladly::start(gladly::Options {
            email: settings.gladly_email.clone(),
            token: settings.gladly_token.clone(),
            requests_per_second: None,
            ..options
        });
        let gladly = gladly.unwrap();
        gladly.url().clone_into(&mut settings.gladly_url);
        // Something that can be connected to.
        settings.destination_url = format!("{}/deliveries", gladly.url());
        let stack = aws().await.deploy(name, &settings).await.unwrap();
        stack.stop_schedule().await.unwrap();

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("setup-{name}"));
        let _ = fs::remove_dir_all(&folder);
        for part in ["tools", "bin", "notes", "answers", "temporary", ".local/up"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        fs::copy(root().join("tools/setup"), folder.join("tools/setup")).unwrap();
        fs::write(folder.join("bin/aws"), AWS).unwrap();
        fs::set_permissions(folder.join("bin/aws"), fs::Permissions::from_mode(0o755)).unwrap();
        let (endpoint, url) = (aws().await.emulator().endpoint(), stack.webhook_url());
        let up = format!("endpoint={endpoint}\nstack={name}\nwebhook={url}\n");
        fs::write(folder.join(".local/up/aws.env"), up).unwrap();
        let secrets = vec![
            settings.gladly_token.clone(),
            settings.destination_token.clone(),
            settings.webhook_keys[0].clone(),
        ];
        let desk = Self { folder, stack, gladly, settings, secrets };
        desk.prepare("configure", "");
        desk
    }

    /// Spares the AWS CLI what is asked for again and again.
    fn shorten(&self, name: &str) {
        self.move_to_account(name);
        for (secret, value) in [
            ("webhook-keys", &self.settings.webhook_keys[0]),
            ("gladly-token", &self.settings.gladly_token),
        ] {
            let parameter = json!({"Parameter": {"Type": "SecureString", "Value": value}});
            self.prepare(&format!("get-parameter-{secret}"), &parameter.to_string());
        }
    }

    fn lengthen(&self) {
        for answer in
            ["describe-stacks", "get-parameter-webhook-keys", "get-parameter-gladly-token"]
        {
            self.forget(answer);
        }
    }

    /// Has the AWS CLI answer this to a command.
    fn prepare(&self, command: &str, answer: &str) {
        fs::write(self.folder.join("answers").join(command), answer).unwrap();
    }

    fn forget(&self, command: &str) {
        fs::remove_file(self.folder.join("answers").join(command)).unwrap();
    }

    /// Has the stack seem one of an account, with the URL that it has here.
    fn move_to_account(&self, name: &str) {
        let pairs = |key: &str, value: &str, pairs: &[(&str, &str)]| -> Value {
            pairs.iter().map(|(k, v)| json!({key: k, value: v})).collect()
        };
        let secret = |what: &str| format!("/{name}/{what}");
        let parameters = [
            ("GladlyHost", &*self.settings.gladly_url),
            ("GladlyEmail", &self.settings.gladly_email),
            ("DestinationUrl", &self.settings.destination_url),
            ("WebhookKeysParameter", &secret("webhook-keys")),
            ("GladlyTokenParameter", &secret("gladly-token")),
            ("DestinationTokenParameter", &secret("destination-token")),
        ];
        let outputs = [
            ("WebhookUrl", self.stack.webhook_url()),
            ("PauseParameterName", self.stack.pause_parameter()),
            ("EventsMappingId", self.stack.mapping_id()),
            ("IngestFunctionName", self.stack.function_name(Function::Ingest)),
        ];
        let stack = json!({
            "StackStatus": "UPDATE_COMPLETE",
            "Parameters": pairs("ParameterKey", "ParameterValue", &parameters),
            "Outputs": pairs("OutputKey", "OutputValue", &outputs),
        });
        self.prepare("describe-stacks", &json!({"Stacks": [stack]}).to_string());
    }

    async fn run(&self, command: &str, environment: &[(&str, &str)]) -> Ended {
        self.python(&["tools/setup", command], environment).await
    }

    async fn python(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let tools = root().join(".tools/venv/bin");
        let output = Command::new(tools.join("python"))
            .args(arguments)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", self.folder.join("bin").display()))
            .env("HOME", &self.folder)
            .env("TMPDIR", self.folder.join("temporary"))
            .env("NOTES", self.folder.join("notes"))
            .env("ANSWERS", self.folder.join("answers"))
            .env("ENDPOINT", aws().await.emulator().endpoint())
            .env("AWS", tools.join("aws"))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .envs(environment.iter().copied())
            .stdin(std::process::Stdio::null())
            .output()
            .await
            .unwrap();
        let ended = Ended {
            succeeded: output.status.success(),
            shown: String::from_utf8(output.stdout).unwrap(),
            complaint: String::from_utf8(output.stderr).unwrap(),
        };
        let mut secrets = self.secrets.clone();
        let keys = self.keys().await;
        secrets.extend(keys.lines().map(str::to_owned));
        let given = ["GLADLY_TOKEN", "DESTINATION_TOKEN", "WEBHOOK_KEY"];
        let given = environment.iter().filter(|(name, _)| given.contains(name));
        secrets.extend(given.map(|(_, secret)| (*secret).to_owned()));
        secrets.retain(|secret| secret.len() > 8);
        for secret in &secrets {
            assert!(!format!("{}{}", ended.shown, ended.complaint).contains(secret), "{ended:?}");
            assert_eq!(self.files_with(secret), Vec::<PathBuf>::new(), "{arguments:?}");
        }
        ended
    }

    /// Files of the desk, the notes of calls among them, that hold this; but for the answers prepared here.
    fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let (mut pending, mut found) = (vec![self.folder.clone()], Vec::new());
        while let Some(path) = pending.pop() {
            if path.ends_with("answers") {
                continue;
            }
            if path.is_dir() {
                pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text) {
                found.push(path);
            }
        }
        found
    }

    /// A parameter's type and value.
    async fn parameter(&self, name: &str) -> Option<(String, String)> {
        let body = json!({"Name": name, "WithDecryption": true});
        let found = aws().await.emulator().ssm("GetParameter", body).await.ok()?;
        let text = |field: &str| found["Parameter"][field].as_str().unwrap().to_owned();
        Some((text("Type"), text("Value")))
    }

    fn keys_parameter(&self) -> String {
        self.stack.pause_parameter().replace("/pause", "/webhook-keys")
    }

    async fn keys(&self) -> String {
        self.stack.parameter(&self.keys_parameter()).await.unwrap().unwrap_or_default()
    }

    /// What the relay answers a PING that comes with this key.
    async fn ping(&self, key: &str) -> u16 {
        self.stack.post(key, r#"{"type":"PING"}"#).await.unwrap().status
    }
}

#[tokio::test]
async fn secrets_are_checked_written_encrypted_and_shown_nowhere() {
    let desk = Sandbox::new("secrets").await;
    // Two stacks: the one there is, and one whose names and addresses come from the environment.
    let names = ["/fresh/gladly-token", "/fresh/destination-token", "/fresh/webhook-keys"];
    let token = desk.settings.gladly_token.clone();
    let fresh = [
        ("STACK", "fresh"),
        ("GLADLY_TOKEN_PARAMETER", names[0]),
        ("DESTINATION_TOKEN_PARAMETER", names[1]),
        ("WEBHOOK_KEYS_PARAMETER", names[2]),
        ("GLADLY_HOST", desk.gladly.url()),
        ("GLADLY_EMAIL", &desk.settings.gladly_email),
        ("GLADLY_TOKEN", &token),
        ("DESTINATION_TOKEN", "a token of the destination"),
    ];
    let but = |name: &'static str, value: &'static str| {
        fresh
            .iter()
            .copied()
            .filter(move |(n, _)| *n != name)
            .chain([(name, value)])
            .collect::<Vec<_>>()
    };
    let none = "An error occurred (ParameterNotFound) when calling the GetParameter operation: ";
    desk.prepare("get-parameter.error", none);
    let none = "An error occurred (ValidationError) when calling the DescribeStacks operation: Stack with id fresh does not exist";
    desk.prepare("describe-stacks.error", none);
    for (environment, complaint) in [
        (
            but("GLADLY_TOKEN", "another-token-than-gladlys"),
            "refuses the token of relay@example.com",
        ),
        (but("GLADLY_TOKEN", ""), "GLADLY_TOKEN is missing"),
        (but("GLADLY_TOKEN", "a-first-line\na-second"), "must be one line of plain characters"),
        (but("DESTINATION_TOKEN", ""), "DESTINATION_TOKEN is missing"),
        (but("GLADLY_EMAIL", "nobody"), "is no e-mail address"),
        (but("GLADLY_HOST", "https://acme.gladly.com"), "without https://"),
        (but("GLADLY_HOST", "acme.gladly.com.example.org"), "must be one under gladly.com"),
        (but("GLADLY_HOST", "gladly.com.evil@127.0.0.1"), "must be one under gladly.com"),
        (but("GLADLY_HOST", "http://10.0.0.1:80"), "must be one under gladly.com"),
        (but("GLADLY_HOST", "http://127.0.0.1:1"), "Gladly is out of reach at 127.0.0.1"),
        (but("WEBHOOK_KEY", "only-thirty-one-characters-long"), "at least 32 characters"),
        (but("WEBHOOK_KEY", "'0123456789abcdef0123456789abcdef'"), "no quotation marks around it"),
        (but("WEBHOOK_KEYS_PARAMETER", "keys"), "must be the name of an SSM parameter"),
        (but("WEBHOOK_KEYS_PARAMETER", "/aws/keys"), "but not with /aws or /ssm"),
        (but("GLADLY_TOKEN_PARAMETER", "/SSM-relay/token"), "but not with /aws or /ssm"),
        (but("STACK", "Aws-relay"), "STACK must not begin with aws or ssm"),
        (but("MAKEFLAGS", " -- GLADLY_TOKEN=typed"), "stands in the shell's history"),
        (but("STACK", "--help"), "STACK must be a stack's name"),
    ] {
        desk.run("secrets", &environment).await.complains(complaint);
    }
    let calls = desk.gladly.traffic().calls("").len();
    desk.gladly.fault(Fault::redirect(302, "http://127.0.0.1:1/elsewhere").times(1));
    desk.run("secrets", &fresh).await.complains("answers with a redirect");
    assert_eq!(desk.gladly.traffic().calls("").len(), calls + 1);
    desk.forget("get-parameter.error");
    desk.forget("describe-stacks.error");
    for name in names {
        assert_eq!(desk.parameter(name).await, None, "nothing was written before all was right");
    }

    desk.run("secrets", &fresh)
        .await
        .tells(&["Gladly knows relay@example.com", "Next: make package"]);
    let written = desk.parameter(names[0]).await;
    assert_eq!(written, Some(("SecureString".to_owned(), token.clone())));
    let written = desk.parameter(names[1]).await;
    assert_eq!(written, Some(("SecureString".to_owned(), "a token of the destination".to_owned())));
    let (kind, key) = desk.parameter(names[2]).await.unwrap();
    assert_eq!((kind.as_str(), key.len()), ("SecureString", 64));
    assert_eq!(desk.files_with(&key), Vec::<PathBuf>::new());

    // What there is is kept, and a key in use is not simply replaced.
    let again = desk.run("secrets", &but("GLADLY_TOKEN", "")).await;
    assert!(!again.shown.contains(&key));
    assert_eq!(again.shown.matches("kept").count(), 3, "{again:?}");
    desk.run("secrets", &but("WEBHOOK_KEY", "generate"))
        .await
        .complains("make rotate-key STACK=fresh");
    assert_eq!(desk.parameter(names[2]).await.unwrap().1, key);

    // Of the stack that runs here everything is known.
    let ended = desk.run("secrets", &[("DESTINATION_TOKEN", "a new one of the destination")]).await;
    ended.tells(&[
        "/secrets/gladly-token                kept",
        "/secrets/destination-token           written",
    ]);
    let written = desk.parameter("/secrets/destination-token").await.unwrap();
    assert_eq!(written, ("SecureString".to_owned(), "a new one of the destination".to_owned()));

    desk.stack.delete_parameter(names[1]).await.unwrap();
    desk.stack.put_parameter(names[1], "in-the-clear").await.unwrap();
    desk.run("secrets", &fresh).await.complains("stored in the clear");
    desk.prepare("put-parameter.error", "An error occurred (AccessDeniedException) when calling the PutParameter operation: User: ada is not authorized to perform: ssm:PutParameter on resource: x");
    let ended = desk.run("secrets", &[("DESTINATION_TOKEN", "one more of the destination")]).await;
    ended.complains("you lack the permission ssm:PutParameter");
    desk.prepare("configure", "enabled\n");
    desk.run("secrets", &fresh).await.complains("cli_history disabled");
}

#[tokio::test]
async fn secrets_typed_at_a_terminal_are_not_shown_there() {
    let desk = Sandbox::new("typed").await;
    let (token, sink) = (desk.settings.gladly_token.clone(), "typed-for-the-destination");
    for name in ["gladly-token", "destination-token", "webhook-keys"] {
        desk.stack.delete_parameter(&format!("/typed/{name}")).await.unwrap();
    }
    let typed = ["API user", token.as_str(), "destination", sink, "makes a strong one", ""];
    let arguments: Vec<_> = ["-c", TYPIST, "secrets"].into_iter().chain(typed).collect();
    let ended = desk.python(&arguments, &[]).await;
    ended.tells(&["/typed/webhook-keys                  written"]);
    assert!(!ended.shown.contains(sink), "{ended:?}");
    assert_eq!(desk.parameter("/typed/destination-token").await.unwrap().1, sink);
    assert_eq!(desk.keys().await.len(), 64);
}

#[tokio::test]
async fn a_webhook_is_created_once_and_then_kept_in_line() {
    let refused = vec!["MESSAGE/RECEIVED".to_owned()];
    let options = gladly::Options { refused_events: refused, ..gladly::Options::default() };
    let desk = Sandbox::with("webhook", options).await;
    let hooks = || desk.gladly.webhooks();

    // Nothing at Gladly is touched while something is wrong.
    desk.shorten("webhook");
    let webhooks = "/api/v1/webhooks";
    for (fault, complaint) in [
        (
            Fault::status(401).on("GET /api/v1/organization"),
            "refuses the token of relay@example.com",
        ),
        (Fault::status(403).on("GET /api/v1/webhooks"), "needs the permission API User"),
        (Fault::status(429), "too many requests"),
        (Fault::status(503), "Gladly is out of order"),
        (
            Fault::default().body("<html>").on("GET /api/v1/organization"),
            "does not answer like Gladly",
        ),
        (
            Fault::status(400)
                .body(r#"{"errors":{"attr":"url","code":"invalid","detail":"no answer"}}"#)
                .on(format!("POST {webhooks}")),
            "Gladly's PING to http://localhost:",
        ),
        (
            Fault::status(400)
                .body(r#"[{"attr":"name","code":"blank"}]"#)
                .on(format!("POST {webhooks}")),
            "does not accept the webhook: blank",
        ),
    ] {
        desk.gladly.fault(fault.times(1));
        desk.run("webhook", &[]).await.complains(complaint);
    }
    assert_eq!(hooks(), Vec::<Value>::new());
    desk.lengthen();

    let ended = desk.run("webhook", &[]).await;
    ended.tells(&[
        "Created the webhook of Sample Shop",
        "9 of 10",
        "MESSAGE/RECEIVED was left out",
        "enabled",
    ]);
    let [hook] = &hooks()[..] else { panic!("{:?}", hooks()) };
    assert_eq!(hook["name"], "gladly-relay (webhook)");
    assert_eq!((&hook["url"], &hook["enabled"]), (&json!(desk.stack.webhook_url()), &json!(true)));
    assert_eq!(
        (&hook["headerKeys"], &hook["events"]),
        (&json!(["x-api-key"]), &json!(EVENT_TYPES[..9]))
    );
    let pings = desk.gladly.attempts();
    assert_eq!((pings[0].kind.as_str(), pings[0].status), ("PING", Some(200)));

    // Gladly gave it up.
    desk.gladly.disable_webhook(hook["id"].as_str().unwrap());
    desk.run("webhook", &[]).await.tells(&["Updated the webhook of Sample Shop", "9 of 10"]);
    let [again] = &hooks()[..] else { panic!("{:?}", hooks()) };
    assert_eq!((&again["id"], &again["enabled"]), (&hook["id"], &json!(true)));

    // Taken, though the list does not tell.
    desk.gladly.fault(Fault::default().body("[]").on("GET /api/v1/webhooks").times(1));
    desk.run("webhook", &[]).await.complains("has the URL http://localhost:");

    // Neither the token nor the key there is will do; the endpoint is not there.
    desk.stack.put_secret("/webhook/gladly-token", "not-gladlys-token").await.unwrap();
    desk.run("webhook", &[]).await.complains("refuses the token");
    desk.stack.put_secret("/webhook/gladly-token", &desk.settings.gladly_token).await.unwrap();
    desk.stack.put_secret("/webhook/webhook-keys", "short").await.unwrap();
    desk.run("webhook", &[])
        .await
        .complains("there is no webhook key in /webhook/webhook-keys: make secrets");
    desk.stack.put_secret("/webhook/webhook-keys", &desk.settings.webhook_keys[0]).await.unwrap();
    let up = fs::read_to_string(desk.folder.join(".local/up/aws.env")).unwrap();
    let gone = up.replace("/webhooks/gladly", "/nowhere");
    fs::write(desk.folder.join(".local/up/aws.env"), gone).unwrap();
    desk.run("webhook", &[]).await.complains("answers a PING at http://localhost:");
    fs::write(desk.folder.join(".local/up/aws.env"), up).unwrap();
}

#[tokio::test]
async fn a_webhook_too_many_is_told_before_gladly_is_asked_for_it() {
    let desk = Sandbox::new("limit").await;
    for number in 0..20 {
        desk.gladly.subscribe(&format!("http://127.0.0.1:1/{number}"), &[]);
    }
    desk.run("webhook", &[]).await.complains("there are 20 webhooks, and Gladly allows no more");
    // One that was made by hand is taken over, with what else it has.
    let id = desk.gladly.webhooks()[0]["id"].as_str().unwrap().to_owned();
    let change = json!({"url": desk.stack.webhook_url(), "headers": {"X-Api-Key": desk.settings.webhook_keys[0]},
        "events": ["CONVERSATION/REOPENED"]});
    let changed = reqwest::Client::new()
        .patch(format!("{}/api/v1/webhooks/{id}", desk.gladly.url()))
        .basic_auth(&desk.settings.gladly_email, Some(&desk.settings.gladly_token))
        .json(&change);
    assert_eq!(changed.send().await.unwrap().status(), 204);
    desk.run("webhook", &[]).await.tells(&["Updated", "10 of 10, and 1 more", "X-Api-Key"]);
    let hooks = desk.gladly.webhooks();
    let ours = hooks.iter().find(|hook| hook["id"] == id.as_str()).unwrap();
    // A second header of another spelling would have the relay refuse everything.
    assert_eq!(ours["headerKeys"], json!(["X-Api-Key"]));
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong_and_says_how_to_mend_it() {
    let desk = Sandbox::new("doctor").await;
    desk.run("webhook", &[]).await.tells(&[]);
    let healthy = desk.run("doctor", &[]).await;
    healthy.tells(&["Nothing is wrong, as far as can be seen."]);
    assert!(!healthy.shown.contains("WRONG"), "{healthy:?}");

    let id = desk.gladly.webhooks()[0]["id"].as_str().unwrap().to_owned();
    desk.gladly.disable_webhook(&id);
    desk.stack.enable_mapping(false).await.unwrap();
    desk.stack.delete_parameter("/doctor/destination-token").await.unwrap();
    let key = &desk.settings.webhook_keys[0];
    desk.stack.put_secret("/doctor/webhook-keys", &format!("{key}\nshort")).await.unwrap();
    let ended = desk.run("doctor", &[]).await;
    ended.complains("make doctor: 4 things are wrong.");
    for line in [
        "WRONG /doctor/webhook-keys holds a line that is never used",
        "WRONG the webhook gladly-relay (doctor) at Gladly was switched off by Gladly at ",
        "WRONG /doctor/destination-token holds no token of the destination: make secrets",
        "WRONG the event source mapping is Disabled while the pause parameter says running: make resume",
        "ok    the relay answers a PING",
    ] {
        assert!(ended.shown.contains(line), "{line}: {ended:#?}");
    }

    // In an account: an alarm that nobody hears, a permission that is missing, a wrong token, an odd pause.
    desk.move_to_account("doctor");
    desk.stack.put_secret("/doctor/gladly-token", "not-gladlys-token").await.unwrap();
    desk.stack
        .put_secret("/doctor/webhook-keys", "a-key-of-32-characters-or-more-!")
        .await
        .unwrap();
    desk.stack.set_pause("off").await.unwrap();
    desk.prepare("list-stack-resources", r#"{"StackResourceSummaries":[{"ResourceType":"AWS::SNS::Topic","PhysicalResourceId":"arn:aws:sns:t"}]}"#);
    desk.prepare("list-subscriptions-by-topic", r#"{"Subscriptions":[{"SubscriptionArn":"PendingConfirmation","Endpoint":"ops@example.com"}]}"#);
    desk.prepare("get-event-source-mapping.error", "An error occurred (AccessDeniedException) when calling the GetEventSourceMapping operation: User: ada is not authorized to perform: lambda:GetEventSourceMapping on resource: x");
    let few = json!({"AccountLimit": {"ConcurrentExecutions": 10}});
    desk.prepare("get-account-settings", &few.to_string());
    let ended = desk.run("doctor", &[("STACK", "doctor")]).await;
    for line in [
        "WRONG the account's quota of concurrent Lambda executions is 10, so a burst of webhooks is refused: aws service-quotas request-service-quota-increase",
        "ok    stack doctor in region us-east-1 of account 000000000000",
        "WRONG Gladly at http://127.0.0.1:",
        "refuses the token of relay@example.com",
        "WRONG /doctor/pause says neither running nor paused, which counts as paused: make resume STACK=doctor",
        "WRONG nobody hears the alarms yet: open the link in the mail that AWS sent to ops@example.com",
        "?     the extraction: could not be looked at: you lack the permission lambda:GetEventSourceMapping",
    ] {
        assert!(ended.shown.contains(line), "{line}: {ended:#?}");
    }
    ended.complains("things are wrong.");
    let account = [("STACK", "doctor")];
    let enough = json!({"AccountLimit": {"ConcurrentExecutions": 1_000}});
    desk.prepare("get-account-settings", &enough.to_string());
    let ended = desk.run("doctor", &account).await;
    let line = "ok    the account's quota of concurrent Lambda executions is 1000";
    assert!(ended.shown.contains(line), "{ended:#?}");
    desk.prepare("get-account-settings.error", "An error occurred (AccessDeniedException) when calling the GetAccountSettings operation: User: ada is not authorized to perform: lambda:GetAccountSettings because");
    let ended = desk.run("doctor", &account).await;
    let line = "?     the account's quota of concurrent Lambda executions is unknown: you lack the permission lambda:GetAccountSettings";
    assert!(ended.shown.contains(line), "{ended:#?}");

    // Not there, perhaps because it is elsewhere.
    desk.prepare("describe-stacks.error", "An error occurred (ValidationError) when calling the DescribeStacks operation: Stack with id else does not exist");
    let ended = desk.run("doctor", &[("STACK", "else")]).await;
    assert!(ended.shown.contains("WRONG there is no stack else in region us-east-1"), "{ended:#?}");
    ended.complains("wrong.");
}

#[tokio::test]
async fn a_key_is_rotated_in_two_steps_and_the_old_one_dropped_when_it_is_silent() {
    let desk = Sandbox::new("rotate").await;
    let old = desk.settings.webhook_keys[0].clone();
    desk.run("webhook", &[]).await.tells(&[]);
    desk.move_to_account("rotate");
    let account = [("STACK", "rotate")];
    let used = |slot: usize, used: bool| {
        let points = if used { r#"{"Timestamp":"2026-11-22T10:00:00Z","Sum":2.0}"# } else { "" };
        desk.prepare(
            &format!("get-metric-statistics-{slot}"),
            &format!(r#"{{"Datapoints":[{points}]}}"#),
        );
    };

    desk.run("rotate-key", &account)
        .await
        .tells(&["Step 1 of 2", "Gladly sends the new key from now on"]);
    let keys = desk.keys().await;
    let [first, new] = keys.lines().collect::<Vec<_>>()[..] else { panic!("two keys") };
    assert_eq!((first, new.len()), (old.as_str(), 64));
    assert_eq!((desk.ping(&old).await, desk.ping(new).await), (200, 200));
    desk.gladly.organization().add_conversation("c-1", "u-1", []);
    desk.gladly.emit("CONVERSATION/CLOSED", "c-1");
    let taken = |gladly: &Gladly| {
        gladly
            .attempts()
            .iter()
            .any(|attempt| attempt.kind != "PING" && attempt.status == Some(200))
    };
    assert!(desk.gladly.wait_for(taken, std::time::Duration::from_mins(1)).await);

    used(1, true);
    used(2, true);
    desk.run("rotate-key", &account)
        .await
        .complains("The old key was used in the last day, lastly around 2026-11-22T10:00:00Z");
    used(1, false);
    used(2, false);
    desk.run("rotate-key", &account).await.complains("Not one webhook came in the last day");
    desk.prepare("get-metric-statistics-1.error", "An error occurred (AccessDenied) when calling the GetMetricStatistics operation: User: ada is not authorized to perform: cloudwatch:GetMetricStatistics because");
    desk.run("rotate-key", &account)
        .await
        .complains("cloudwatch:GetMetricStatistics, so nothing tells");
    desk.forget("get-metric-statistics-1.error");
    desk.run("rotate-key", &[("STACK", "rotate"), ("DAYS", "30")])
        .await
        .complains("DAYS must be a number from 1 to 14");
    for (name, word) in [("FORCE", "false"), ("FORCE", "2"), ("HEADER", "maybe")] {
        let ended = desk.run("rotate-key", &[("STACK", "rotate"), (name, word)]).await;
        ended.complains(&format!("{name} must be yes or no"));
    }
    assert_eq!(desk.keys().await, keys, "nothing has changed");
    used(2, true);
    desk.run("rotate-key", &account).await.tells(&["Step 2 of 2", "The old key is dropped"]);
    assert_eq!(desk.keys().await, new);

    // Here nothing tells, so it asks; without a terminal that means no. Gladly may also be told by hand.
    let mine = "chosen-by-hand-chosen-by-hand-chosen";
    let by_hand = [("WEBHOOK_KEY", mine), ("HEADER", "no")];
    desk.run("rotate-key", &by_hand).await.tells(&["Now set the header x-api-key"]);
    assert_eq!(desk.keys().await, format!("{new}\n{mine}"));
    let ended = desk.run("rotate-key", &[]).await;
    ended.complains("Nothing was dropped.");
    assert!(ended.shown.contains("The emulated AWS keeps no metrics"), "{ended:?}");
    let ended = desk.run("rotate-key", &[("FORCE", "1")]).await;
    ended.tells(&["the old one goes now, as FORCE says", "The old key is dropped"]);
    assert_eq!(desk.keys().await, mine);
    // What belongs to the second step is looked at before the first.
    desk.run("rotate-key", &[("DAYS", "0")]).await.complains("DAYS must be a number from 1 to 14");
    assert_eq!(desk.keys().await, mine);

    // Gladly could not be told: both keys are valid, and the next step waits for it.
    desk.gladly.fault(Fault::status(500).on("PATCH /api/v1/webhooks/*").times(1));
    desk.run("rotate-key", &[])
        .await
        .complains("both keys are valid, but Gladly does not send the new one yet");
    assert_eq!(desk.keys().await.lines().count(), 2);
}

#[tokio::test]
async fn what_the_aws_cli_refuses_is_told_in_one_sentence() {
    let desk = Sandbox::new("refused").await;
    for (said, complaint) in [
        (
            "Unable to locate credentials. You can configure credentials by running \"aws configure\".",
            "AWS does not know you",
        ),
        (
            "An error occurred (ExpiredToken) when calling the DescribeStacks operation: The security token included in the request is expired",
            "AWS does not know you",
        ),
        (
            "You must specify a region. You can also configure your region by running \"aws configure\".",
            "no region is set",
        ),
        (
            "Could not connect to the endpoint URL: \"https://cloudformation\"",
            "AWS is out of reach; is there a network, and is the region right?",
        ),
        ("The config profile (none) could not be found", "no such profile as AWS_PROFILE names"),
        (
            "An error occurred (Throttling) when calling the DescribeStacks operation (reached max retries: 4): Rate exceeded",
            "too many requests",
        ),
        (
            "An error occurred (AccessDenied) when calling the DescribeStacks operation: User: ada is not authorized to perform: cloudformation:DescribeStacks on resource: x",
            "you lack the permission cloudformation:DescribeStacks",
        ),
    ] {
        desk.prepare("describe-stacks.error", said);
        for command in ["secrets", "webhook", "doctor", "rotate-key"] {
            desk.run(command, &[("STACK", "acme")]).await.complains(complaint);
        }
    }
    desk.forget("describe-stacks.error");
    desk.prepare("describe-stacks", r#"{"Stacks":[{"StackStatus":"CREATE_COMPLETE"}]}"#);
    desk.run("doctor", &[("STACK", "acme")]).await.complains("acme is no relay");
    desk.prepare("describe-stacks", "nonsense");
    desk.run("doctor", &[("STACK", "acme")])
        .await
        .complains("something unforeseen went wrong (JSONDecodeError");
    fs::remove_file(desk.folder.join(".local/up/aws.env")).unwrap();
    desk.run("doctor", &[]).await.complains("no relay runs on this machine");
}
