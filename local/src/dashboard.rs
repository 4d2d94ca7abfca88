//! `make dashboard`: runs the relay for some minutes on the emulated AWS, with and without faults, and draws the
//! deployed dashboard with the run's metrics.
//!
//! The functions' metrics are read from their logs. The metrics of AWS, which the emulator does not send, are counted
//! here: messages in the quarantine queue, failed invocations, rejected requests.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{select, time::sleep};

use crate::{
    emulator::EmulatorError,
    local_stack::LocalStack,
    picture::{self, SAMPLE_INTERVAL},
    stack::{Artifacts, EmulatedAws, Function, Queue, Stack, StackError},
};
use testing::root;
use testing::{
    alarm::{self, Alarm},
    fault::Fault,
    gladly::{EVENT_TYPES, Gladly},
    template,
};

/// Conversations of the Gladly simulator.
const CONVERSATION_COUNT: usize = 40;

/// Why there is nothing to draw.
#[derive(Debug, thiserror::Error)]
pub enum DashboardError {
    /// A server on loopback, or a file.
    #[error("could not start a server on loopback, or write the picture")]
    Io(#[from] io::Error),
    /// The deployed dashboard.
    #[error("the deployed dashboard is not JSON")]
    Body(#[from] serde_json::Error),
    /// The stack or the AWS under it.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The emulated AWS.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
}

struct DashboardRun<'a> {
    local_stack: &'a LocalStack,
    stack: &'a Stack<'a>,
}

/// Runs it and writes `docs/dashboard.svg`.
pub async fn draw() -> Result<(), DashboardError> {
    let mut local_stack = LocalStack::start(CONVERSATION_COUNT, 1.0)?;
    local_stack.settings.webhook_keys.push("the-next-key-which-comes-in-a-while-after".to_owned());
    let aws = EmulatedAws::start("dashboard", &Artifacts::build().await?).await?;
    let stack = aws.deploy("gladly-relay", &local_stack.settings).await?;
    stack.know_webhook().await?;
    local_stack
        .gladly
        .subscribe(stack.webhook_url(), &[("x-api-key", &local_stack.settings.webhook_keys[0])]);
    let run = DashboardRun { local_stack: &local_stack, stack: &stack };
    let mut lines_sent = Vec::new();
    select! {
        done = run.play() => done?,
        failed = run.watch(&mut lines_sent) => failed?,
    }

    let mut lines = lines_sent;
    for function in [Function::Ingest, Function::Extractor] {
        let logs = stack.logs(function).await?;
        lines.extend(logs.iter().filter_map(|line| serde_json::from_str(line).ok()));
    }
    let quarantine = stack.queue_url(Queue::Quarantine).rsplit('/').next().unwrap_or_default();
    let names = [
        ("FunctionName", stack.function_name(Function::Ingest), "IngestFunction"),
        ("FunctionName", stack.function_name(Function::Extractor), "ExtractorFunction"),
        ("QueueName", quarantine, "QuarantineQueue"),
    ];
    let alarms = alarms(&lines, &names);
    let body = aws.emulator().dashboard(&format!("gladly-relay-{REGION}")).await?;
    let picture = picture::Recording { lines, alarms }.picture(&serde_json::from_str(&body)?);
    svg::save(root().join("docs/dashboard.svg"), &picture)?;
    print_line("The picture is docs/dashboard.svg.");
    stack.delete().await?;
    Ok(())
}

/// Where the emulated AWS is.
const REGION: &str = "us-east-1";

/// The alarms of the template by name, and whether each is raised now.
fn alarms(lines: &[Value], names: &[(&str, &str, &str)]) -> Vec<(String, bool)> {
    let mut lines = lines.to_vec();
    for line in &mut lines {
        for (dimension, name, resource) in names {
            if line[dimension] == *name {
                line[dimension] = json!(resource);
            }
        }
    }
    let template = template::read();
    let resources = template["Resources"].as_object().into_iter().flatten();
    let alarms = resources.filter(|(_, resource)| resource["Type"] == "AWS::CloudWatch::Alarm");
    let now = Timestamp::now();
    alarms.map(|(name, _)| (name.clone(), Alarm::named(name).is_raised_by(&lines, now))).collect()
}

impl DashboardRun<'_> {
    /// Calls the controller and counts what AWS would, until it is dropped.
    async fn watch(&self, lines_sent: &mut Vec<Value>) -> Result<(), DashboardError> {
        let api = self.stack.webhook_url().split("/_aws/execute-api/").nth(1).unwrap_or_default();
        let api = ("ApiId", api.split('/').next().unwrap_or_default());
        let queue = self.stack.queue_url(Queue::Quarantine).rsplit('/').next().unwrap_or_default();
        let ingest = ("FunctionName", self.stack.function_name(Function::Ingest));
        let mut seen = 0;
        loop {
            self.invoke(json!({"task": "reconcile"}), lines_sent).await?;
            let now = Timestamp::now();
            let visible = self.stack.counts(Queue::Quarantine).await?.visible;
            let metric = ("AWS/SQS", "ApproximateNumberOfMessagesVisible");
            lines_sent.push(alarm::line(now, metric, ("QueueName", queue), visible));
            let attempts = self.local_stack.gladly.attempts().split_off(seen);
            seen += attempts.len();
            for (name, class) in [("4xx", 4), ("5xx", 5)] {
                let refused =
                    attempts.iter().filter(|it| it.status.is_some_and(|it| it / 100 == class));
                lines_sent.push(alarm::line(
                    now,
                    ("AWS/ApiGateway", name),
                    api,
                    refused.count() as u64,
                ));
            }
            // It never fails.
            lines_sent.push(alarm::line(now, ("AWS/Lambda", "Errors"), ingest, 0));
            sleep(SAMPLE_INTERVAL.unsigned_abs()).await;
        }
    }

    async fn invoke(&self, task: Value, lines_sent: &mut Vec<Value>) -> Result<(), DashboardError> {
        let answer = self.stack.invoke(Function::Extractor, &task).await?;
        let extractor = ("FunctionName", self.stack.function_name(Function::Extractor));
        lines_sent.push(alarm::line(
            Timestamp::now(),
            ("AWS/Lambda", "Errors"),
            extractor,
            answer.failed.into(),
        ));
        Ok(())
    }

    /// Emits events at Gladly for a while.
    async fn events(&self, seconds: u64, each_second: usize) {
        let conversations: Vec<_> =
            self.local_stack.gladly.organization().conversations.keys().cloned().collect();
        for _ in 0..seconds {
            for _ in 0..each_second {
                let conversation = &conversations[fastrand::usize(..conversations.len())];
                self.local_stack
                    .gladly
                    .emit(EVENT_TYPES[fastrand::usize(..EVENT_TYPES.len())], conversation);
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    async fn play(&self) -> Result<(), DashboardError> {
        let LocalStack { gladly, destination, settings } = self.local_stack;
        let stack = self.stack;
        print_line("Events are forwarded; some have no conversation, some are invalid");
        self.events(30, 2).await;
        let key = &settings.webhook_keys[0];
        for body in [r#"{"type":"TASK/CREATED","content":{"taskId":"t"}}"#, "no event"] {
            stack.post(key, body).await?;
        }
        self.events(5, 2).await;

        print_line("An operator pauses while events keep arriving, and resumes");
        let paused =
            json!({"state": "paused", "by": "ada", "reason": "the destination is being moved"});
        stack.set_pause(&paused.to_string()).await?;
        self.events(40, 3).await;
        stack.set_pause("running").await?;
        self.events(20, 1).await;

        print_line("Gladly throttles; the key is rotated, with a mistyped one first");
        gladly.fault(Fault::status(429).on("GET /api/v1/*").header("retry-after", "2").times(3));
        self.events(10, 2).await;
        for key in ["a-key-that-was-typed-wrongly-at-the-other-end", &settings.webhook_keys[1]] {
            self.rotate(key);
            self.events(10, 1).await;
        }

        print_line("The destination rejects a conversation; another is deleted at Gladly");
        let [refused, gone] = two(gladly);
        destination.refuse(&refused, StatusCode::UNPROCESSABLE_ENTITY);
        gladly.emit(EVENT_TYPES[0], &refused);
        let event = gladly.organization().event(EVENT_TYPES[1], &gone);
        gladly.organization().conversations.remove(&gone);
        gladly.send(&event);
        self.events(15, 1).await;

        print_line("Gladly rejects the token: the breaker opens, and closes once it is corrected");
        let token = "/gladly-relay/gladly-token";
        stack.put_secret(token, "a-token-that-was-withdrawn").await?;
        // A token is cached for a minute.
        self.events(75, 1).await;
        stack.put_secret(token, &settings.gladly_token).await?;
        self.events(20, 1).await;
        print_line("The queue drains");
        for _ in 0..60 {
            sleep(Duration::from_secs(1)).await;
            if stack.counts(Queue::Events).await?.total() == 0 {
                break;
            }
        }
        sleep(3 * SAMPLE_INTERVAL.unsigned_abs()).await;
        Ok(())
    }

    /// Makes Gladly send another key.
    fn rotate(&self, key: &str) {
        for webhook in self.local_stack.gladly.webhooks() {
            self.local_stack.gladly.disable_webhook(webhook["id"].as_str().unwrap_or_default());
        }
        self.local_stack.gladly.subscribe(self.stack.webhook_url(), &[("x-api-key", key)]);
    }
}

/// Two of its conversations.
fn two(gladly: &Gladly) -> [String; 2] {
    let organization = gladly.organization();
    let mut ids = organization.conversations.keys().cloned();
    [ids.next().unwrap_or_default(), ids.next().unwrap_or_default()]
}

fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "  {line}");
}
