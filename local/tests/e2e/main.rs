//! The real template with the real binaries on the emulated AWS, between the Gladly simulator and the destination, and
//! driven as Gladly drives it: over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod backfill;
mod bucket;
mod control;
mod deploy;
mod ingest;
mod pause;
mod quarantine;
mod schedule;
mod settle;
mod start;
mod volume;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use local::stack::{Artifacts, EmulatedAws, Function, Message, Peeked, Queue, Settings, Stack};
use regex::Regex;
use serde_json::{Value, json};
use testing::{
    destination::{self, Destination},
    gladly::{self, Gladly},
};
use tokio::sync::OnceCell;

/// The longest that any step may take; a back-off is 36 s, and other tests need the processors too.
const WAIT_TIMEOUT: Duration = Duration::from_mins(2);
/// The text of every customer message. It must never be logged.
const MESSAGE_TEXT: &str = "my cat is called Mitzi";

/// The AWS of all tests. A static is never dropped: the emulator ends when this process does, in any way.
async fn aws() -> &'static EmulatedAws {
    static AWS: OnceCell<EmulatedAws> = OnceCell::const_new();
    let start =
        async || EmulatedAws::start("e2e", &Artifacts::build().await.unwrap()).await.unwrap();
    AWS.get_or_init(start).await
}

/// A stack with its own Gladly and destination.
struct TestApp {
    stack: Stack<'static>,
    settings: Settings,
    gladly: Gladly,
    destination: Destination,
}

impl TestApp {
    async fn new(name: &str) -> Self {
        Self::with(name, &[]).await
    }

    /// With these parameters of the template changed.
    async fn with(name: &str, parameters: &[(&str, &str)]) -> Self {
        // A webhook's second attempt comes after 0.6 s.
        Self::at_pace(name, parameters, 0.02).await
    }

    /// With Gladly's retry schedule scaled by `time_scale`.
    async fn at_pace(name: &str, parameters: &[(&str, &str)], time_scale: f64) -> Self {
        let mut settings = Settings::new("", "")
            .with("GladlyRequestsPerSecond", "10")
            // Otherwise the calls to Gladly could not be counted.
            .with("WatchWebhook", "false");
        for (parameter, value) in parameters {
            settings = settings.with(parameter, value);
        }
        let gladly = Gladly::start(gladly::Options {
            email: settings.gladly_email.clone(),
            token: settings.gladly_token.clone(),
            requests_per_second: None,
            time_scale,
            ..gladly::Options::default()
        });
        let gladly = gladly.unwrap();
        let token = &settings.destination_token;
        let token = match settings.parameters.get("DestinationTokenHeader") {
            Some(header) => (header.clone(), token.clone()),
            None => ("authorization".to_owned(), format!("Bearer {token}")),
        };
        let destination =
            Destination::start(destination::Options { token, ..Default::default() }).unwrap();
        gladly.url().clone_into(&mut settings.gladly_url);
        settings.destination_url = format!("{}/deliveries", destination.url());
        let stack = aws().await.deploy(name, &settings).await.unwrap();
        Self { stack, settings, gladly, destination }
    }

    /// Collects events in the queue until the test enables the mapping; the controller would do so within a minute.
    async fn gather(&self) {
        self.stack.stop_schedule().await.unwrap();
        self.stack.enable_mapping(false).await.unwrap();
    }

    /// A valid webhook key.
    fn key(&self) -> &str {
        &self.settings.webhook_keys[0]
    }

    /// Adds a conversation with its own customer and one message.
    fn conversation(&self, id: &str) {
        let sms = json!({"type": "SMS", "from": "+15555550100", "to": "+1", "content": format!("{MESSAGE_TEXT}, {id}")});
        self.gladly.organization().add_conversation(id, &format!("u-{id}"), [sms]);
    }

    /// Adds a conversation and returns an event about it, as Gladly would send it.
    fn event(&self, conversation: &str) -> Value {
        self.conversation(conversation);
        self.gladly.organization().event("CONVERSATION/CLOSED", conversation)
    }

    /// Sends a valid event, and returns its id.
    async fn queue(&self, event: &Value) -> String {
        assert_eq!(self.post(event.to_string()).await, answer(200, "queued"));
        event["id"].as_str().unwrap().to_owned()
    }

    /// Sends one event about each of some new conversations, and returns the events' ids.
    async fn queue_all(&self, conversations: &[&str]) -> Vec<String> {
        let mut ids = Vec::new();
        for conversation in conversations {
            ids.push(self.queue(&self.event(conversation)).await);
        }
        ids
    }

    /// Posts a body with the valid key.
    async fn post(&self, body: impl Into<reqwest::Body>) -> (u16, String) {
        let answer = self.stack.post(self.key(), body).await.unwrap();
        (answer.status, answer.body)
    }

    async fn total(&self, queue: Queue) -> u64 {
        self.stack.counts(queue).await.unwrap().total()
    }

    /// Waits until all of these events have arrived at the destination.
    async fn arrived(&self, events: &[String]) {
        let wanted: BTreeSet<_> = events.iter().cloned().collect();
        let arrived = |destination: &Destination| destination.event_ids().is_superset(&wanted);
        let in_time = self.destination.wait_for(arrived, WAIT_TIMEOUT).await;
        assert!(in_time, "{wanted:?} of {:?}", self.destination.event_ids());
    }

    /// Waits until nothing is left in the events queue.
    async fn settled(&self) {
        eventually("the events queue is empty", async || self.total(Queue::Events).await == 0)
            .await;
    }

    /// Waits until exactly this many messages are in the events queue, all of them returned with a delay by batches
    /// that have ended, and returns them.
    async fn returned(&self, messages: usize) -> Vec<Peeked> {
        let mut found = Vec::new();
        eventually("every message is returned", async || {
            found = self.stack.peek(Queue::Events).await.unwrap();
            found.len() == messages && found.iter().all(is_returned)
        })
        .await;
        eventually("the batches have ended", async || {
            let batches = batches(&self.stack.logs(Function::Extractor).await.unwrap());
            let returned = batches.iter().filter_map(|batch| batch["batch.returned"].as_u64());
            returned.sum::<u64>() >= messages as u64
        })
        .await;
        found
    }

    /// Takes the quarantined messages, once there are this many.
    async fn quarantined(&self, messages: u64) -> Vec<Message> {
        eventually("the messages are quarantined", async || {
            self.total(Queue::Quarantine).await == messages
        })
        .await;
        self.stack.drain(Queue::Quarantine).await.unwrap()
    }

    /// Deletes the stack, after checking what holds at the end of every test.
    async fn end(self) {
        self.end_after(0).await;
    }

    /// The same after this many failed invocations of extractor-fn, each with an error line.
    async fn end_after(self, failed: usize) {
        assert_eq!(self.destination.invalid(), Vec::<String>::new(), "deliveries fit the schema");
        let extractor = self.stack.logs(Function::Extractor).await.unwrap();
        let mut lines = self.stack.logs(Function::Ingest).await.unwrap();
        lines.extend(extractor.iter().cloned());
        assert_nothing_leaked(&lines, &self.settings);
        assert_metrics_are_well_formed(&lines);
        let started = extractor.iter().filter(|line| line.starts_with("START ")).count();
        // Other tests may have delayed this one until the schedule's call.
        let done = batches(&extractor).len() + summaries(&extractor, "task done").len();
        assert_eq!(done + failed, started, "one summary an invocation: {extractor:#?}");
        self.stack.delete().await.unwrap();
    }
}

/// The response to a webhook.
fn answer(status: u16, word: &str) -> (u16, String) {
    (status, format!(r#"{{"status":"{word}"}}"#))
}

/// Hidden, but not by a running invocation: that hides a message for half an hour.
fn is_returned(message: &Peeked) -> bool {
    message.receive_count > 0
        && !message.hidden_for.is_zero()
        && message.hidden_for < Duration::from_mins(15)
}

/// Waits for something without a notification.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < WAIT_TIMEOUT, "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A function's own log lines, without those that Lambda writes.
fn json_lines(lines: &[String]) -> Vec<Value> {
    let own =
        |line: &&String| !["START ", "END ", "REPORT "].iter().any(|start| line.starts_with(start));
    lines.iter().filter(own).map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// extractor-fn's summaries of its batches.
fn batches(lines: &[String]) -> Vec<Value> {
    summaries(lines, "batch done")
}

/// What is logged once at the end of every invocation, a batch or a task.
fn summaries(lines: &[String], message: &str) -> Vec<Value> {
    json_lines(lines).into_iter().filter(|line| line["message"] == message).collect()
}

#[track_caller]
fn assert_nothing_leaked(lines: &[String], settings: &Settings) {
    let keys = settings.webhook_keys.iter().map(String::as_str);
    // Part of the message text, of the header with user and token, and of any address.
    let others = ["Mitzi", "cmVsYXlAZXhhbXBsZS5jb206", "Sample", "5550100", "@"];
    let secrets = keys.chain([&*settings.gladly_token, &*settings.destination_token]).chain(others);
    for secret in secrets {
        assert_eq!(lines.iter().find(|line| line.contains(secret)), None, "{secret} was logged");
    }
}

/// The embedded metric format, as CloudWatch reads it.
#[track_caller]
fn assert_metrics_are_well_formed(lines: &[String]) {
    for line in json_lines(lines) {
        let Some(head) = line.get("_aws") else { continue };
        assert!(head["Timestamp"].is_u64(), "{line}");
        for directive in head["CloudWatchMetrics"].as_array().unwrap() {
            assert_eq!(directive["Namespace"], "GladlyRelay", "{line}");
            let dimensions = directive["Dimensions"][0].as_array().unwrap();
            assert!(dimensions.iter().all(|name| line[name.as_str().unwrap()].is_string()));
            for metric in directive["Metrics"].as_array().unwrap() {
                let value = &line[metric["Name"].as_str().unwrap()];
                assert!(value.is_u64() || value.is_array(), "{line}");
            }
        }
    }
}

/// A time in the contract's format: RFC 3339 with milliseconds and Z.
#[track_caller]
fn assert_is_a_time(value: &Value) {
    let form = Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$").unwrap();
    assert!(value.as_str().is_some_and(|text| form.is_match(text)), "{value}");
}
