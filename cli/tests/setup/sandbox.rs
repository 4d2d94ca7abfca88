//! A stack, its Gladly and its destination, and a folder in which the program runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use local::stack::{Artifacts, EmulatedAws, Function, Settings, Stack};
use serde_json::{Value, json};
use testing::{
    destination::{self, Destination},
    gladly::{self, Gladly},
};
use tokio::{process::Command, sync::OnceCell};

use crate::{allowed::policy_allows, aws::Front, metrics::Point};

/// The services that the program calls.
const SERVICES: [&str; 9] =
    ["CLOUDFORMATION", "CLOUDWATCH", "CLOUDWATCH_LOGS", "LAMBDA", "S3", "SNS", "SQS", "SSM", "STS"];
const SECRETS: [&str; 3] = ["GLADLY_TOKEN", "DESTINATION_TOKEN", "WEBHOOK_KEY"];

/// The AWS of all tests.
pub(crate) async fn aws() -> &'static EmulatedAws {
    static EMULATED: OnceCell<EmulatedAws> = OnceCell::const_new();
    let start =
        async || EmulatedAws::start("cli-setup", &Artifacts::build().await.unwrap()).await.unwrap();
    EMULATED.get_or_init(start).await
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) remarks: String,
}

impl Ended {
    /// It failed with this code and one sentence that holds this.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, part: &str) -> &Self {
        let last = self.remarks.lines().last().unwrap_or_default();
        assert!(self.code == Some(code) && last.contains(part), "{part}: {self:#?}");
        assert!(last.starts_with("gladly-relay "), "{self:#?}");
        self
    }

    /// It succeeded, and printed these.
    #[track_caller]
    pub(crate) fn shows(&self, parts: &[&str]) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.prints(parts)
    }

    /// It printed these.
    #[track_caller]
    pub(crate) fn prints(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.output.contains(part), "{part}: {self:#?}");
        }
        self
    }

    /// It printed none of these.
    #[track_caller]
    pub(crate) fn prints_no(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(!self.output.contains(part), "{part}: {self:#?}");
        }
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap()
    }
}

/// A stack, its Gladly and its destination, and a folder as of "make up".
pub(crate) struct Sandbox {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) stack: Stack<'static>,
    pub(crate) gladly: Gladly,
    pub(crate) destination: Destination,
    pub(crate) settings: Settings,
    pub(crate) front: Front,
}

impl Sandbox {
    pub(crate) async fn new(name: &str) -> Self {
        Self::with(name, gladly::Options::default()).await
    }

    pub(crate) async fn with(name: &str, options: gladly::Options) -> Self {
        let mut settings = Settings::new("", "");
        let gladly = Gladly::start(gladly::Options {
            email: settings.gladly_email.clone(),
            token: settings.gladly_token.clone(),
            requests_per_second: None,
            ..options
        });
        let gladly = gladly.unwrap();
        let destination = Destination::start(destination::Options {
            token: ("authorization".into(), format!("Bearer {}", settings.destination_token)),
            ..destination::Options::default()
        });
        let destination = destination.unwrap();
        gladly.url().clone_into(&mut settings.gladly_url);
        settings.destination_url = format!("{}/deliveries", destination.url());
        let stack = aws().await.deploy(name, &settings).await.unwrap();
        stack.stop_schedule().await.unwrap();

        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-setup-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join(".local/up")).unwrap();
        let function = stack.function_name(Function::Ingest);
        let front = Front::start(aws().await.emulator().endpoint(), function).await;
        // An account's webhook URL is the stack's output, which here leads nowhere.
        let (output, url) = (webhook_output(&stack).await, stack.webhook_url());
        front.rewrite("DescribeStacks", &output, url);
        let name = name.to_owned();
        let sandbox = Self { name, folder, stack, gladly, destination, settings, front };
        sandbox.write_up(sandbox.stack.webhook_url());
        sandbox
    }

    /// What "make up" writes.
    pub(crate) fn write_up(&self, webhook_url: &str) {
        let up = json!({"aws_url": self.front.url, "stack": self.name, "webhook_url": webhook_url});
        fs::write(self.folder.join(".local/up/running.json"), up.to_string()).unwrap();
    }

    /// Runs a command on what "make up" would have started.
    pub(crate) async fn local(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let mut command = self.command(environment);
        command.args(arguments);
        self.allowed(arguments, &mut command, environment).await
    }

    /// Runs a command on the same stack as one of an account.
    pub(crate) async fn account(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        let arguments: Vec<_> = arguments.iter().copied().chain(["--stack", &self.name]).collect();
        self.at_account(&arguments, environment).await
    }

    /// Runs a command on an account.
    pub(crate) async fn at_account(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Ended {
        let mut command = self.account_command(arguments, environment);
        self.allowed(arguments, &mut command, environment).await
    }

    /// Runs a command, and checks that it called only what its policy allows.
    async fn allowed(
        &self,
        arguments: &[&str],
        command: &mut Command,
        environment: &[(&str, &str)],
    ) -> Ended {
        let earlier = self.front.count_calls();
        let ended = self.run(command, environment).await;
        policy_allows(arguments[0], &self.front.actions_after(earlier));
        ended
    }

    pub(crate) fn account_command(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Command {
        let login = [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ];
        let mut command = self.command(&login);
        for service in SERVICES {
            command.env(format!("AWS_ENDPOINT_URL_{service}"), &self.front.url);
        }
        command.args(arguments).envs(environment.iter().copied());
        command
    }

    /// The program with an empty PATH, and nothing of this process's environment.
    fn command(&self, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gladly-relay"));
        command
            .current_dir(&self.folder)
            .env_clear()
            .env("HOME", &self.folder)
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command and checks that no secret was printed or left in a file.
    pub(crate) async fn run(&self, command: &mut Command, environment: &[(&str, &str)]) -> Ended {
        let output = command.output().await.unwrap();
        let ended = Ended {
            code: output.status.code(),
            output: String::from_utf8(output.stdout).unwrap(),
            remarks: String::from_utf8(output.stderr).unwrap(),
        };
        let given = environment.iter().filter(|(name, _)| SECRETS.contains(name));
        self.assert_hidden(&ended, given.map(|(_, secret)| (*secret).to_owned())).await;
        ended
    }

    /// No secret is in what was printed, or in a file.
    pub(crate) async fn assert_hidden(
        &self,
        ended: &Ended,
        further: impl IntoIterator<Item = String>,
    ) {
        let keys = self.keys().await;
        let mut secrets: Vec<_> = keys.lines().map(str::to_owned).chain(further).collect();
        secrets.extend([
            self.settings.gladly_token.clone(),
            self.settings.destination_token.clone(),
            self.settings.webhook_keys[0].clone(),
        ]);
        secrets.retain(|secret| secret.len() > 8);
        for secret in &secrets {
            let printed = format!("{}{}", ended.output, ended.remarks);
            assert!(!printed.contains(secret), "{ended:?}");
            assert_eq!(self.files_with(secret), Vec::<PathBuf>::new());
        }
    }

    /// Files of the folder that hold this.
    pub(crate) fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let (mut pending, mut found) = (vec![self.folder.clone()], Vec::new());
        while let Some(path) = pending.pop() {
            if path.is_dir() {
                pending.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if String::from_utf8_lossy(&fs::read(&path).unwrap()).contains(text) {
                found.push(path);
            }
        }
        found
    }

    /// A parameter's type and value.
    pub(crate) async fn parameter(&self, name: &str) -> Option<(String, String)> {
        let body = json!({"Name": name, "WithDecryption": true});
        let found = aws().await.emulator().ssm("GetParameter", body).await.ok()?;
        let text = |field: &str| found["Parameter"][field].as_str().unwrap().to_owned();
        Some((text("Type"), text("Value")))
    }

    /// The name of one of the stack's secrets.
    pub(crate) fn secret(&self, what: &str) -> String {
        format!("/{}/{what}", self.name)
    }

    pub(crate) async fn keys(&self) -> String {
        self.stack.parameter(&self.secret("webhook-keys")).await.unwrap().unwrap_or_default()
    }

    /// What the relay answers a PING that comes with this key.
    pub(crate) async fn ping(&self, key: &str) -> u16 {
        self.stack.post(key, r#"{"type":"PING"}"#).await.unwrap().status
    }

    /// Has CloudWatch know a count of ingest-fn, a while ago.
    pub(crate) fn metric(&self, name: &str, slot: Option<&str>, minutes_ago: i64, value: u64) {
        let (metric, slot) = (name.to_owned(), slot.map(str::to_owned));
        let at = jiff::Timestamp::now().as_second() - minutes_ago * 60;
        self.front.count(Point { metric, slot, at, value });
    }

    /// Has extractor-fn have logged a line, a while ago.
    pub(crate) async fn log(&self, minutes_ago: u64, line: &Value) {
        let group = format!("/aws/lambda/{}/extractor-fn", self.name);
        let stream = format!("test-{}", fastrand::u64(..));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let at = u64::try_from(now).unwrap() - minutes_ago * 60_000;
        let emulator = aws().await.emulator();
        let _ = emulator.logs("CreateLogGroup", json!({"logGroupName": group})).await;
        let body = json!({"logGroupName": group, "logStreamName": stream});
        emulator.logs("CreateLogStream", body).await.unwrap();
        let events = json!([{"timestamp": at, "message": line.to_string()}]);
        let body = json!({"logGroupName": group, "logStreamName": stream, "logEvents": events});
        emulator.logs("PutLogEvents", body).await.unwrap();
    }
}

/// The stack's output `WebhookUrl`.
async fn webhook_output(stack: &Stack<'_>) -> String {
    let name = stack.pause_parameter().trim_start_matches('/').split('/').next().unwrap();
    let scope = "test/20260101/us-east-1/cloudformation/aws4_request";
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let call = http
        .post(aws().await.emulator().endpoint())
        .header("content-type", "application/x-www-form-urlencoded")
        .header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none"),
        )
        .body(format!("Action=DescribeStacks&Version=2010-05-15&StackName={name}"));
    let found = call.send().await.unwrap().text().await.unwrap();
    let (_, rest) = found.split_once("<OutputKey>WebhookUrl</OutputKey>").unwrap();
    let (_, rest) = rest.split_once("<OutputValue>").unwrap();
    rest.split_once('<').unwrap().0.to_owned()
}
