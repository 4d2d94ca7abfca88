//! `make demo`: shows the relay's main functions step by step, with the real binaries.

use std::{
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use axum::Router;
use serde_json::{Value, json};
use tokio::{select, sync::oneshot, time::timeout};

use crate::{
    emulator::EmulatorError,
    local_stack::{LocalStack, SETTLE_SECONDS},
    page::{Page, Sources},
    stack::{Artifacts, EmulatedAws, Function, Queue, Stack, StackError, WebhookResponse},
};
use testing::{
    destination::Destination,
    gladly::{EVENT_TYPES, Gladly},
};

/// The longest that a step of the demo may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the page stays after the summary, at a terminal.
const PAGE_STAYS: Duration = Duration::from_mins(5);
/// The batching window of the event source mapping, and a second.
const BATCHING_WINDOW: Duration = Duration::from_secs(6);
/// Scales Gladly's webhook retry schedule of an hour to seven seconds.
const TIME_SCALE: f64 = 0.002;
/// Webhooks sent at once: each needs its own process on the emulated AWS.
const AT_ONCE: usize = 4;

const BURST_EVENTS: usize = 200;
const BURST_CONVERSATIONS: usize = 20;
const HELD_EVENTS: usize = 30;

/// Why the demo ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A step of the demo did not happen.
    #[error("expected in the demo, but did not happen: {0}")]
    Missed(String),
    /// A server on loopback.
    #[error("starting a server on loopback")]
    Server(#[source] io::Error),
    /// The stack or the AWS under it.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The emulated AWS.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
}

/// Everything that takes part.
struct Demo<'a> {
    stack: &'a Stack<'a>,
    gladly: &'a Gladly,
    destination: &'a Destination,
    key: String,
    sent: Vec<String>,
}

/// The steps to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tour {
    /// The path of an event, the pause, and a deletion.
    Short,
    /// Also how a webhook that Gladly disabled recovers.
    Full,
}

/// Shows the relay at work. Fails unless everything happens as announced.
pub async fn demo(tour: Tour) -> Result<(), DemoError> {
    let began = Instant::now();
    print_line(
        "gladly-relay at work: Gladly -> HTTP API -> ingest-fn -> SQS -> extractor-fn -> destination.\n\
         Both functions run as they are. What follows: ten events and their delivery, invalid requests,\n\
         a burst, a pause during which events are held, and a customer who is deleted.",
    );
    heading("Starting an emulated AWS, a Gladly simulator and a destination, all on this machine");
    let LocalStack { gladly, destination, settings } =
        LocalStack::start(BURST_CONVERSATIONS + 2, TIME_SCALE).map_err(DemoError::Server)?;
    let aws = EmulatedAws::start("demo", &Artifacts::build().await?).await?;
    let stack = aws.deploy("gladly-relay", &settings).await?;
    print_line(&format!("  template.yaml is deployed; webhooks go to {}", stack.webhook_url()));
    let key = settings.webhook_keys.concat();
    stack.know_webhook().await?;
    gladly.subscribe(stack.webhook_url(), &[("x-api-key", &key)]);

    let page = Page::bind(0).await.map_err(DemoError::Server)?;
    let url = page.url();
    print_line(&format!("  a page shows all of it while it runs: {url}"));

    let mut demo =
        Demo { stack: &stack, gladly: &gladly, destination: &destination, key, sent: Vec::new() };
    let sources =
        Sources { gladly: &gladly, destination: &destination, stack: &stack, commands: &[] };
    select! {
        shown = demo.show(tour, began, &url) => shown?,
        served = page.serve(sources, Router::new()) => served.map_err(DemoError::Server)?,
    }
    stack.delete().await?;
    Ok(())
}

/// The result of the burst.
struct Burst {
    calls: usize,
    took: Duration,
}

/// How long the steps of the pause took.
struct Hold {
    /// From the pause until nothing was received any more.
    flip: Duration,
    /// From resuming to the first delivery.
    first: Duration,
    /// From resuming to the last.
    all: Duration,
}

impl Demo<'_> {
    async fn show(&mut self, tour: Tour, began: Instant, page: &str) -> Result<(), DemoError> {
        self.ping().await?;
        self.ten_events().await?;
        self.rejections().await?;
        let burst = self.burst().await?;
        let hold = self.pause().await?;
        self.deletion().await?;
        if tour == Tour::Full {
            self.recover_webhook().await?;
        }
        self.summary(&burst, &hold, began.elapsed(), page)?;
        keep_page().await;
        Ok(())
    }

    async fn ping(&self) -> Result<(), DemoError> {
        heading("Gladly pings the endpoint");
        let answer = self.stack.post(&self.key, r#"{"type":"PING"}"#).await?;
        show("PING", &answer);
        check(answer.status == 200 && answer.body.contains("pong"), "PING is answered")
    }

    async fn ten_events(&mut self) -> Result<(), DemoError> {
        heading("Gladly sends the ten subscribed events about one conversation, ids only");
        let conversation = self.conversations(1).remove(0);
        let events = EVENT_TYPES.map(|kind| (kind, conversation.as_str()));
        let fetched = || self.gladly.traffic().count("/api/v1/conversations/*");
        let before = fetched();
        let sent = self.send(&events).await?;
        for kind in EVENT_TYPES {
            print_line(&format!("  {kind:<31} 200 queued"));
        }
        print_line(&format!(
            "  … each waits in the queue for its settle window, here {SETTLE_SECONDS} s (SettleSeconds; 300 unless set), so that\n  \
             the events which follow share its fetch; then the extractor fetches the conversation and forwards it"
        ));
        self.arrived(&sent).await?;
        let fetched = fetched() - before;
        print_line(&format!(
            "  ten events, {fetched} {} of the conversation",
            plural(fetched, "fetch", "fetches")
        ));

        let deliveries = self.destination.deliveries();
        let delivery = deliveries.iter().find(|delivery| delivery.body["events"][0].is_object());
        let delivery = delivery.ok_or_else(|| missed("a delivery arrives"))?;
        print_line("\n  A delivery, shortened (schemas/delivery.v1.json describes it):");
        for line in excerpt(&delivery.body) {
            print_line(&format!("    {line}"));
        }
        let snapshot = self.destination.conversation(&conversation);
        let snapshot = snapshot.ok_or_else(|| missed("the conversation arrives"))?;
        let name = |field: &str| text(&snapshot[field]["name"]).to_owned();
        print_line(&format!("\n  At the destination: conversation {conversation}"));
        print_line(&format!(
            "  {} · {} · inbox {} · agent {} · {}",
            text(&snapshot["status"]),
            name("customer"),
            name("inbox"),
            name("agent"),
            snapshot["topics"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|topic| text(&topic["name"]))
                .collect::<Vec<_>>()
                .join(", "),
        ));
        let items = snapshot["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        for item in items.iter().filter(|item| item["text"].is_string()).take(8) {
            let message = text(&item["text"]).replace('\n', " / ");
            let author = text(&item["author"]["kind"]);
            print_line(&format!(
                "    {:<18} {author:<11} {}",
                text(&item["type"]),
                short(&message, 74)
            ));
        }
        check(
            items.iter().any(|item| item["author"]["kind"] == "customer"),
            "the customer's messages arrive",
        )
    }

    async fn rejections(&self) -> Result<(), DemoError> {
        heading("A wrong key is rejected; an invalid event is accepted and quarantined");
        let answer = self.stack.post(&"x".repeat(40), r#"{"type":"PING"}"#).await?;
        show("wrong key", &answer);
        check(answer.status == 401, "a wrong key is rejected")?;
        for (name, body, reason) in [
            ("not JSON", "hello", "unreadable"),
            (
                "id with ../",
                r#"{"type":"A","content":{"conversationId":"../agents"}}"#,
                "invalid-id",
            ),
        ] {
            let answer = self.stack.post(&self.key, body).await?;
            show(name, &answer);
            check(answer.status == 200, "Gladly does not try again")?;
            let messages = self.stack.drain(Queue::Quarantine).await?;
            let message = messages.first().ok_or_else(|| missed("it is quarantined"))?;
            let detail = text(&message.json()["detail"]).to_owned();
            print_line(&format!("  {:<31} in quarantine as {reason}: {detail}", ""));
            check(
                message.attributes.get("reason").is_some_and(|found| found == reason),
                "with its reason",
            )?;
        }
        Ok(())
    }

    async fn burst(&mut self) -> Result<Burst, DemoError> {
        heading(&format!("A burst: {BURST_EVENTS} events on {BURST_CONVERSATIONS} conversations"));
        let conversations = self.conversations(BURST_CONVERSATIONS);
        // The emulator hands out events at once and ten at a time. AWS gathers up to 500 for 5 s, the mapping's batching
        // window; here they gather before the mapping is enabled.
        self.stack.enable_mapping(false).await?;
        let kinds = EVENT_TYPES.iter().cycle();
        let events: Vec<_> = kinds
            .zip((0..BURST_EVENTS).map(|n| conversations[n % conversations.len()].as_str()))
            .map(|(kind, conversation)| (*kind, conversation))
            .collect();
        let sent = self.send(&events).await?;
        progress(
            "events gather for 5 s, as on AWS (the emulator has no batching window)",
            BATCHING_WINDOW,
        )
        .await;
        let (before, began) = (self.gladly.traffic().count("/api/v1/**"), Instant::now());
        self.stack.enable_mapping(true).await?;
        self.arrived(&sent).await?;
        let burst = Burst {
            calls: self.gladly.traffic().count("/api/v1/**") - before,
            took: began.elapsed(),
        };
        print_line(&format!(
            "  all {BURST_EVENTS} forwarded in {:.0} s with {} calls to Gladly: {:.2} an event",
            burst.took.as_secs_f64(),
            burst.calls,
            per_event(&burst)
        ));
        print_line(
            "  (ten at a time, to two extractors; AWS hands out up to 500 at a time, which takes about 60 calls)",
        );
        Ok(burst)
    }

    async fn pause(&mut self) -> Result<Hold, DemoError> {
        heading("An operator pauses, as \"gladly-relay pause --reason …\" does");
        let began = Instant::now();
        self.stack.set_pause(r#"{"state":"paused","by":"demo","reason":"to show it"}"#).await?;
        let status = self.controller("reconcile").await?;
        let flip = began.elapsed();
        show_status(&status);
        check(self.stack.mapping_state().await? == "Disabled", "the mapping is disabled")?;
        let conversations = self.conversations(5);
        let events: Vec<_> = (0..HELD_EVENTS)
            .map(|n| {
                (
                    EVENT_TYPES[n % EVENT_TYPES.len()],
                    conversations[n % conversations.len()].as_str(),
                )
            })
            .collect();
        let calls = self.gladly.traffic().count("/api/v1/**");
        let sent = self.send(&events).await?;
        let held = self.stack.peek(Queue::Events).await?;
        let receives: u64 = held.iter().map(|message| message.receive_count).sum();
        let arrived = sent.iter().filter(|id| self.destination.times(id) > 0).count();
        print_line(&format!(
            "  {HELD_EVENTS} more events were accepted; {} are held, received {receives} times, {arrived} forwarded",
            held.len()
        ));
        check(held.len() == HELD_EVENTS && receives == 0, "held events cost nothing")?;
        check(arrived == 0, "nothing is forwarded while paused")?;
        check(
            self.gladly.traffic().count("/api/v1/**") == calls,
            "nothing is fetched while paused",
        )?;

        heading("The status, as \"gladly-relay status\" reads it");
        let status = self.controller("status").await?;
        show_status(&status);
        check(status["backlog"] == HELD_EVENTS, "the status is right")?;

        heading("The operator resumes, as \"gladly-relay resume\" does");
        let began = Instant::now();
        self.stack.set_pause("running").await?;
        let status = self.controller("reconcile").await?;
        print_line(&format!("  State       {}", text(&status["state"])));
        let any = |destination: &Destination| sent.iter().any(|id| destination.times(id) > 0);
        if !self.destination.wait_for(any, STEP_TIMEOUT).await {
            return Err(missed("an event is forwarded"));
        }
        let first = began.elapsed();
        self.arrived(&sent).await?;
        let all = began.elapsed();
        print_line(&format!("  all {HELD_EVENTS} forwarded after {:.0} s", all.as_secs_f64()));
        Ok(Hold { flip, first, all })
    }

    async fn deletion(&mut self) -> Result<(), DemoError> {
        heading("Gladly deletes a customer, and the destination learns what to forget");
        let conversation = self.conversations(1).remove(0);
        let known = self.destination.conversation(&conversation);
        let known = known.ok_or_else(|| missed("the destination has the conversation"))?;
        let event = self.gladly.organization().deletion(text(&known["customerId"]));
        self.gladly.send(&event);
        self.sent.push(text(&event["id"]).to_owned());
        let arrived = |destination: &Destination| !destination.tombstones().is_empty();
        if !self.destination.wait_for(arrived, STEP_TIMEOUT).await {
            return Err(missed("the tombstone arrives"));
        }
        print_line(&format!("  {:<31} 200 queued, without a settle window", text(&event["type"])));
        for tombstone in self.destination.tombstones() {
            print_line(&format!(
                "  a tombstone: {}, customer {}, void if fetched before {}",
                text(&tombstone["kind"]),
                text(&tombstone["customerId"]),
                text(&tombstone["at"])
            ));
        }
        print_line(&format!(
            "  conversation {conversation} is no longer shown by a destination that keeps the schema's rule"
        ));
        check(self.destination.conversation(&conversation).is_none(), "the customer is forgotten")
    }

    async fn recover_webhook(&mut self) -> Result<(), DemoError> {
        heading("ingest-fn fails, and Gladly disables the webhook");
        self.stack.reserve_concurrency(Function::Ingest, 0).await?;
        let conversations = self.conversations(5);
        let emit = |demo: &Self, count: usize| -> Vec<String> {
            let kinds = ["CONVERSATION/CLOSED", "CONTACT/MESSAGE_RECEIVED"];
            (0..count)
                .map(|n| demo.gladly.emit(kinds[n % 2], &conversations[n % conversations.len()]))
                .map(|event| text(&event["id"]).to_owned())
                .collect()
        };
        let mut missed = emit(self, 5);
        print_line(
            "  five events fail; Gladly sends each five times within an hour (here 7 s), then disables the webhook",
        );
        let disabled = |gladly: &Gladly| gladly.webhooks()[0]["enabled"] == false;
        if !self.gladly.wait_for(disabled, STEP_TIMEOUT).await {
            return Err(self::missed("Gladly disables the webhook"));
        }
        let began = Instant::now();
        missed.extend(emit(self, 15));
        print_line(
            "  Gladly has disabled the webhook; fifteen more events happen that it never sends",
        );

        heading("ingest-fn is back: the controller re-enables the webhook and backfills");
        self.stack.reserve_concurrency(Function::Ingest, 10).await?;
        let status = self.controller("watch").await?;
        let webhook = &status["webhook"];
        let state = if webhook["enabled"] == true { "enabled" } else { "DISABLED" };
        let disabled_at = text(&webhook["disabledAtDueToRetryLimit"]);
        print_line(&format!("  Webhook     {state}; Gladly had disabled it at {disabled_at}"));
        check(self.gladly.webhooks()[0]["enabled"] == true, "the webhook is enabled again")?;
        print_line(
            "  events that Gladly could not deliver are backfilled, until half a minute after the webhook was enabled",
        );
        self.controller("reconcile").await?;
        self.arrived(&missed).await?;
        print_line(&format!(
            "  all {} events that Gladly could not deliver were forwarded {:.0} s after it disabled the webhook",
            missed.len(),
            began.elapsed().as_secs_f64()
        ));
        self.sent.extend(missed);
        Ok(())
    }

    /// Invokes the controller with a task, and returns the status that it answers.
    async fn controller(&self, task: &str) -> Result<Value, DemoError> {
        let task = json!({"task": task});
        let answer = self.stack.invoke(Function::Extractor, &task).await?;
        check(!answer.failed, "the controller answers")?;
        Ok(answer.payload)
    }

    fn summary(
        &self,
        burst: &Burst,
        hold: &Hold,
        took: Duration,
        page: &str,
    ) -> Result<(), DemoError> {
        let traffic = self.gladly.traffic();
        let lost = self.sent.iter().filter(|id| self.destination.times(id) == 0).count();
        let twice = self.sent.iter().filter(|id| self.destination.times(id) > 1).count();
        let invalid = self.destination.invalid();
        heading("Summary");
        for (what, value) in [
            ("events accepted", self.sent.len().to_string()),
            (
                "forwarded",
                format!("{} ({lost} lost, {twice} more than once)", self.sent.len() - lost),
            ),
            (
                "deliveries",
                format!(
                    "{}, {} schema violations",
                    self.destination.deliveries().len(),
                    invalid.len()
                ),
            ),
            (
                "burst",
                format!(
                    "{BURST_EVENTS} events, {} calls to Gladly ({:.2} an event), {:.0} s",
                    burst.calls,
                    per_event(burst),
                    burst.took.as_secs_f64()
                ),
            ),
            (
                "quota",
                format!(
                    "at most {} of 10 calls in any second, {} rejected with 429",
                    traffic.busiest_second(),
                    traffic.throttled()
                ),
            ),
            (
                "pause",
                format!(
                    "in effect after {:.1} s, {HELD_EVENTS} events without a receive; first delivery {:.1} s after resuming, all {:.0} s",
                    hold.flip.as_secs_f64(),
                    hold.first.as_secs_f64(),
                    hold.all.as_secs_f64()
                ),
            ),
            ("time", format!("{:.0} s", took.as_secs_f64())),
            ("page", format!("{page} until the demo ends; \"make up\" has one that stays")),
        ] {
            print_line(&format!("  {what:<16} {value}"));
        }
        check(lost == 0, "nothing is lost")?;
        check(invalid.is_empty(), "every delivery fits the schema")?;
        check(traffic.throttled() == 0, "Gladly never answers 429")?;
        print_line(
            "\nEverything went as expected. \"make up\" keeps all of this running to play with.",
        );
        Ok(())
    }

    fn conversations(&self, count: usize) -> Vec<String> {
        self.gladly.organization().conversations.keys().take(count).cloned().collect()
    }

    /// Emits events at Gladly, which sends its webhooks; waits until each was answered 200.
    async fn send(&mut self, events: &[(&str, &str)]) -> Result<Vec<String>, DemoError> {
        let mut sent = Vec::new();
        for some in events.chunks(AT_ONCE) {
            let ids = some.iter().map(|(kind, conversation)| self.gladly.emit(kind, conversation));
            sent.extend(ids.map(|event| text(&event["id"]).to_owned()));
            count("sent", sent.len(), events.len());
            let answered = |gladly: &Gladly| {
                let attempts = gladly.attempts();
                let answered = attempts.iter().filter(|attempt| attempt.status == Some(200));
                answered.count() == self.sent.len() + sent.len()
            };
            if !self.gladly.wait_for(answered, STEP_TIMEOUT).await {
                return Err(missed("every webhook is answered 200"));
            }
        }
        self.sent.extend(sent.iter().cloned());
        Ok(sent)
    }

    /// Waits until the destination has all of these events.
    async fn arrived(&self, events: &[String]) -> Result<(), DemoError> {
        let all = |destination: &Destination| {
            let arrived = events.iter().filter(|id| destination.times(id) > 0).count();
            count("forwarded", arrived, events.len());
            arrived == events.len()
        };
        if self.destination.wait_for(all, STEP_TIMEOUT).await {
            Ok(())
        } else {
            Err(missed("every event is forwarded"))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn per_event(burst: &Burst) -> f64 {
    burst.calls as f64 / BURST_EVENTS as f64
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn missed(what: &str) -> DemoError {
    DemoError::Missed(what.to_owned())
}

fn check(holds: bool, what: &str) -> Result<(), DemoError> {
    if holds { Ok(()) } else { Err(missed(what)) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The first characters of a text.
fn short(text: &str, most: usize) -> String {
    let mut short: String = text.chars().take(most).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A few lines of a status.
fn show_status(status: &Value) {
    let by = status["by"].as_str().map(|by| format!(" by {by}")).unwrap_or_default();
    let reason = status["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
    for (what, value) in [
        ("State", format!("{}{by}{reason}", text(&status["state"]))),
        ("Mapping", text(&status["mapping"]).to_owned()),
        (
            "Backlog",
            format!(
                "{} events, {} in flight, {} delayed",
                status["backlog"], status["inFlight"], status["delayed"]
            ),
        ),
        ("Oldest", format!("at most {} s old", status["oldestEventAgeSeconds"])),
        ("Drain", format!("about {} s once it runs", status["drainSeconds"])),
        ("Quarantine", format!("{} events", status["quarantined"])),
    ] {
        print_line(&format!("  {what:<11} {value}"));
    }
}

/// The main fields of a delivery, in a few lines of JSON.
fn excerpt(delivery: &Value) -> Vec<String> {
    let first = |field: &str, names: &[&str]| {
        let entries = delivery[field].as_array().map(Vec::as_slice).unwrap_or_default();
        let entry = entries.first().unwrap_or(&Value::Null);
        let of = |name: &&str| entry.get(*name).map(|value| format!("\"{name}\": {value}"));
        let fields: Vec<_> = names.iter().filter_map(of).collect();
        let more = match entries.len() {
            0 | 1 => String::new(),
            count => format!(", … {} more", count - 1),
        };
        format!("\"{field}\": [{{{}, …}}{more}]", fields.join(", "))
    };
    let events = first("events", &["type", "timestamp", "conversationId", "snapshot"]);
    let conversations = first("conversations", &["id", "fetchedAt", "status", "inbox"]);
    vec![
        format!(
            "{{\"schema\": {}, \"id\": \"{}\",",
            delivery["schema"],
            short(text(&delivery["id"]), 12)
        ),
        format!(" {events},"),
        format!(" {conversations}}}"),
    ]
}

fn heading(text: &str) {
    print_line(&format!("\n== {text}"));
}

fn show(what: &str, answer: &WebhookResponse) {
    let status = serde_json::from_str::<Value>(&answer.body).unwrap_or_else(|_| json!({}));
    print_line(&format!("  {what:<31} {} {}", answer.status, text(&status["status"])));
}

/// Prints a line, unless standard output is closed.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A counter updated in place, if standard error is a terminal.
fn count(what: &str, done: usize, all: usize) {
    if io::stderr().is_terminal() {
        let end = if done == all { "\r\x1b[K" } else { "" };
        let _ = write!(io::stderr(), "\r  {what} {done} of {all}{end}");
    }
}

/// Keeps the page if somebody is at a terminal.
async fn keep_page() {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return;
    }
    print_line(
        "\nPress Enter to stop everything; until then the page stays, for five minutes at most.",
    );
    let (entered, wait) = oneshot::channel();
    // The program ends without waiting for this thread.
    thread::spawn(move || {
        let _ = io::stdin().read_line(&mut String::new());
        let _ = entered.send(());
    });
    let _ = timeout(PAGE_STAYS, wait).await;
}

/// Waits, with a countdown on a terminal.
async fn progress(why: &str, time: Duration) {
    print_line(&format!("  {why}: waiting {} s", time.as_secs()));
    let began = Instant::now();
    while began.elapsed() < time {
        let left = time.saturating_sub(began.elapsed()).as_secs();
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r  {left} s \r\x1b[K");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
