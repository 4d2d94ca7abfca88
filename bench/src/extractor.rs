//! extractor-fn: the cost of a batch, how it grows, and a backfill of a million events.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bench::Peer;
use serde_json::{Value, json};

use crate::{
    Plan,
    gladly::{self, Counts, TestProfile},
    host::{Host, INVOCATION_LIMIT},
    process::{Function, Process},
    report::{
        Figure,
        Limit::{self, AtMost, Times},
        Measurements, Table, median,
    },
};

const DELAY: Duration = Duration::from_millis(20);
/// Conversations that extractor-fn fetches at once (`MAX_FETCHES` in its pipeline).
const CONCURRENT_FETCHES: u64 = 8;
/// The most records in a batch of the event source mapping.
const BATCH: u64 = 500;
const PAUSE: &str = "/bench/pause";
const TOKENS: [&str; 2] = ["/bench/gladly-token", "/bench/destination-token"];

const BESIDE: &str = "beside it";

const LINEAR: Limit = Times(10.0, BESIDE);
const STEADY: Limit = Times(1.1, BESIDE);
const SMALL: Limit = AtMost(48.0);

const fn figure(name: &'static str, limits: &'static [Limit]) -> Figure {
    Figure { name, limits }
}

const BATCH_CPU: Figure =
    figure("batch of 500 events on 100 conversations: CPU, ms", &[AtMost(150.0)]);
const BATCH_MEMORY: Figure = figure("that batch: memory, MiB", &[SMALL]);
const BATCH_WALL: Figure =
    figure("that batch: wall time, ms; beside it: its calls alone", &[Times(1.3, BESIDE)]);
const ITEMS_CPU: Figure =
    figure("snapshot of 1,000 items: CPU, ms; beside it: of 100", &[AtMost(10.0), LINEAR]);
const MANY_ITEMS_CPU: Figure =
    figure("snapshot of 10,000 items: CPU, ms; beside it: of 1,000", &[]);
const MANY_ITEMS_MEMORY: Figure = figure("those snapshots: memory, MiB", &[LINEAR]);
const SPREAD_CPU: Figure =
    figure("500 events on 500 conversations: CPU, ms; beside it: on 50", &[LINEAR]);
const SPREAD_MEMORY: Figure = figure("those batches: memory, MiB", &[LINEAR]);
const BACKLOG_CPU: Figure =
    figure("100,000 events in one environment: CPU per batch, ms; beside it: 10,000", &[STEADY]);
const BACKLOG_MEMORY: Figure = figure("those backlogs: memory, MiB", &[SMALL]);
const BACKFILL_MEMORY: Figure =
    figure("backfill of 1,000,000 events: memory, MiB; beside it: of 100,000", &[SMALL]);
const BACKFILL_CPU: Figure = figure("those backfills: CPU per event, µs", &[STEADY]);
const BACKFILL_RATE: Figure = figure("those backfills: events per second", &[]);
const BACKFILL_INVOCATIONS: Figure = figure("those backfills: invocations", &[]);

pub(crate) const TABLE: Table = Table {
    title: "extractor-fn",
    columns: &["extractor-fn", BESIDE],
    figures: &[
        BATCH_CPU,
        BATCH_MEMORY,
        BATCH_WALL,
        ITEMS_CPU,
        MANY_ITEMS_CPU,
        MANY_ITEMS_MEMORY,
        SPREAD_CPU,
        SPREAD_MEMORY,
        BACKLOG_CPU,
        BACKLOG_MEMORY,
        BACKFILL_MEMORY,
        BACKFILL_CPU,
        BACKFILL_RATE,
        BACKFILL_INVOCATIONS,
    ],
};

/// Measures everything once.
pub(crate) fn measure(plan: &Plan, binaries: &Path) -> Result<Measurements, Box<dyn Error>> {
    let mut run = Measurements::default();
    let mut add = |figure, ours, beside: Option<f64>| {
        run.add(figure, TABLE.columns[0], ours);
        if let Some(beside) = beside {
            run.add(figure, BESIDE, beside);
        }
    };
    let rounds = u64::from(plan.rounds) * 4;
    let (cost, alone) = batch_of_500(binaries, rounds)?;
    add(BATCH_CPU, cost.cpu_ms, None);
    add(BATCH_MEMORY, cost.memory_mib, None);
    add(BATCH_WALL, cost.wall_ms, Some(alone));
    let sizes = [100, 1_000, 10_000];
    let [small, thousand, large] =
        sizes.map(|items| snapshot(binaries, items, 100_000 / items as u64));
    let (small, thousand, large) = (small?, thousand?, large?);
    add(ITEMS_CPU, thousand.cpu_ms, Some(small.cpu_ms));
    add(MANY_ITEMS_CPU, large.cpu_ms, Some(thousand.cpu_ms));
    add(MANY_ITEMS_MEMORY, large.memory_mib, Some(thousand.memory_mib));
    let (few, many) = (spread(binaries, 50, rounds)?, spread(binaries, 500, rounds)?);
    add(SPREAD_CPU, many.cpu_ms, Some(few.cpu_ms));
    add(SPREAD_MEMORY, many.memory_mib, Some(few.memory_mib));
    let (first, second) = backlog(binaries, 20)?;
    add(BACKLOG_CPU, second.cpu_ms, Some(first.cpu_ms));
    add(BACKLOG_MEMORY, second.memory_mib, Some(first.memory_mib));
    let (little, million) = (backfill(binaries, 100_000)?, backfill(binaries, 1_000_000)?);
    add(BACKFILL_MEMORY, million.memory_mib, Some(little.memory_mib));
    add(BACKFILL_CPU, million.cpu_us, Some(little.cpu_us));
    add(BACKFILL_RATE, 1e6 / million.seconds, Some(1e5 / little.seconds));
    add(BACKFILL_INVOCATIONS, million.invocations as f64, Some(little.invocations as f64));
    Ok(run)
}

/// One running environment and everything that it reaches.
struct BenchStack {
    host: Host,
    process: Process,
    gladly: String,
    counts: Arc<Counts>,
    /// The next conversation, of which no batch had an event yet.
    next: u64,
}

/// What a batch cost.
struct Cost {
    cpu_ms: f64,
    wall_ms: f64,
    memory_mib: f64,
}

impl BenchStack {
    fn start(binaries: &Path, profile: TestProfile) -> Result<Self, Box<dyn Error>> {
        Self::start_by(binaries.join("extractor-fn"), Vec::new(), profile)
    }

    /// The same, started by another command.
    fn start_by(
        program: PathBuf,
        args: Vec<String>,
        profile: TestProfile,
    ) -> Result<Self, Box<dyn Error>> {
        let (gladly, counts) = gladly::start(profile)?;
        let parameters = [(PAUSE, "running"), (TOKENS[0], "token"), (TOKENS[1], "token")];
        // About the latency of SQS within a region.
        let (host, addresses) = Host::start(&parameters, None, Duration::from_millis(10))?;
        let text = |text: &str| text.to_owned();
        let function = Function {
            name: "extractor-fn",
            program,
            args,
            directory: PathBuf::from("."),
            settings: vec![
                ("EVENTS_QUEUE_ARN", text("arn:aws:sqs:eu-west-1:123456789012:events")),
                ("PAUSE_PARAMETER", text(PAUSE)),
                ("GLADLY_HOST", format!("http://{gladly}")),
                ("GLADLY_EMAIL", text("relay@example.com")),
                ("GLADLY_TOKEN_PARAMETER", text(TOKENS[0])),
                // No quota limits it.
                ("GLADLY_REQUESTS_PER_SECOND", text("1000000")),
                ("DESTINATION_URL", format!("http://{gladly}/deliveries")),
                ("DESTINATION_TOKEN_PARAMETER", text(TOKENS[1])),
                ("WATCH_WEBHOOK", text("false")),
            ],
        };
        let process = Process::start(&function, &addresses)?;
        Ok(Self { host, process, gladly: gladly.to_string(), counts, next: 0 })
    }

    /// One invocation's answer.
    fn invoke(&self, event: &Value) -> Result<Value, Box<dyn Error>> {
        self.host.give(event);
        let outcome = self.host.outcome(INVOCATION_LIMIT);
        Ok(outcome
            .map_err(|err| format!("{err}; its output:{}", self.process.last_lines()))?
            .answer)
    }

    /// Batches of `events` each, about as many `conversations`, none of them known before.
    fn batches(
        &mut self,
        count: u64,
        events: u64,
        conversations: u64,
    ) -> Result<Cost, Box<dyn Error>> {
        let (mut walls, cpu) = (Vec::new(), self.process.cpu()?);
        let delivered = self.counts.events.load(Ordering::Relaxed);
        for _ in 0..count {
            let event = batch(self.next, events, conversations);
            self.next += conversations;
            let began = Instant::now();
            let answer = self.invoke(&event)?;
            walls.push(began.elapsed().as_secs_f64() * 1e3);
            if answer != json!({"batchItemFailures": []}) {
                return Err(format!("some records were returned: {answer}").into());
            }
        }
        let delivered = self.counts.events.load(Ordering::Relaxed) - delivered;
        if delivered != count * events {
            return Err(format!("{delivered} events arrived of {}", count * events).into());
        }
        let cpu = self.process.cpu()?.saturating_sub(cpu);
        Ok(Cost {
            cpu_ms: cpu.as_secs_f64() * 1e3 / count as f64,
            wall_ms: median(&walls),
            memory_mib: self.process.memory()?,
        })
    }
}

/// Whether extractor-fn forwards every event of a batch when it is started by this command.
pub(crate) fn check(program: PathBuf, args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let mut stack = BenchStack::start_by(program, args, TestProfile::default())?;
    stack.batches(1, 10, 3).map(drop)
}

/// A batch as Lambda delivers it.
fn batch(first: u64, events: u64, conversations: u64) -> Value {
    let now = jiff::Timestamp::now();
    let record = |number: u64| {
        let conversation = first + number % conversations;
        let body = json!({"v": 1, "receivedAt": format!("{now:.3}"), "event": {
            "id": format!("ev-{conversation:09}-{number:09}"), "type": "CONTACT/MESSAGE_RECEIVED",
            "timestamp": format!("{now:.3}"),
            "initiator": {"id": "cu-0123456789abcdef123", "type": "CUSTOMER"},
            "content": {
                "channel": "EMAIL", "contactId": "co-0123456789abcdef123",
                "conversationId": format!("cv-{conversation:019}"),
                "customerId": "cu-0123456789abcdef123", "messageId": "it-0",
            },
        }});
        json!({
            "messageId": format!("m-{number}"), "receiptHandle": format!("r-{number}"),
            "body": body.to_string(),
            "attributes": {
                "ApproximateReceiveCount": "1", "SentTimestamp": now.as_millisecond().to_string(),
                "ApproximateFirstReceiveTimestamp": now.as_millisecond().to_string(),
            },
            "messageAttributes": {"type": {"dataType": "String", "stringValue": "CONTACT/MESSAGE_RECEIVED"}},
            "eventSource": "aws:sqs", "awsRegion": "eu-west-1",
            "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:events",
        })
    };
    json!({"Records": (0..events).map(record).collect::<Vec<_>>()})
}

/// The time that a batch's calls alone take: as many conversations at once, the same calls in the
/// same order, by clients that do nothing else.
fn calls_alone(gladly: &str, conversations: u64) -> Result<f64, Box<dyn Error>> {
    let next = AtomicU64::new(0);
    let work = || -> Result<(), String> {
        let text = |err: Box<dyn Error>| err.to_string();
        let mut peers = (Peer::at(gladly).map_err(text)?, Peer::at(gladly).map_err(text)?);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= conversations {
                return Ok(());
            }
            let conversation = format!("/api/v1/conversations/cv-{number:019}");
            peers.0.send("GET", &conversation, "-", "").map_err(text)?;
            peers.1.send("GET", &format!("{conversation}/items"), "-", "").map_err(text)?;
            peers.0.receive().map_err(text)?;
            peers.1.receive().map_err(text)?;
            let customer = format!("/api/v1/customer-profiles/cu-{number:019}");
            peers.0.exchange("GET", &customer, "-", "").map_err(text)?;
        }
    };
    let began = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..CONCURRENT_FETCHES).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().map_err(|_| "a client panicked".to_owned()).and_then(|done| done)
        })
    })?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// A batch of 500 events on 100 conversations, beside the time that its calls alone take.
fn batch_of_500(binaries: &Path, rounds: u64) -> Result<(Cost, f64), Box<dyn Error>> {
    let mut stack =
        BenchStack::start(binaries, TestProfile { delay: DELAY, ..TestProfile::default() })?;
    stack.batches(1, BATCH, 100)?;
    let (mut costs, mut alone) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        eprint!("\rextractor, batch of 500, round {} of {rounds}  ", round + 1);
        costs.push(stack.batches(1, BATCH, 100)?);
        alone.push(calls_alone(&stack.gladly, 100)?);
    }
    eprintln!();
    let of = |figure: fn(&Cost) -> f64| costs.iter().map(figure).collect::<Vec<_>>();
    let cost = Cost {
        cpu_ms: median(&of(|cost| cost.cpu_ms)),
        wall_ms: median(&of(|cost| cost.wall_ms)),
        memory_mib: stack.process.memory()?,
    };
    Ok((cost, median(&alone)))
}

/// A snapshot of a conversation with this many items: the cost of one event's batch.
fn snapshot(binaries: &Path, items: usize, count: u64) -> Result<Cost, Box<dyn Error>> {
    eprintln!("extractor, conversations of {items} items");
    let mut stack = BenchStack::start(binaries, TestProfile { items, ..TestProfile::default() })?;
    stack.batches(5, 1, 1)?;
    stack.batches(count, 1, 1)
}

/// Batches of 500 events on this many conversations.
fn spread(binaries: &Path, conversations: u64, count: u64) -> Result<Cost, Box<dyn Error>> {
    eprintln!("extractor, batches on {conversations} conversations");
    let mut stack = BenchStack::start(binaries, TestProfile::default())?;
    stack.batches(1, BATCH, 100)?;
    stack.batches(count, BATCH, conversations)
}

/// Memory after each of two backlogs in one environment, of which the second is ten times the first.
fn backlog(binaries: &Path, batches: u64) -> Result<(Cost, Cost), Box<dyn Error>> {
    eprintln!("extractor, a backlog of {} batches", 10 * batches);
    let profile = TestProfile { conversations_a_customer: 10, ..TestProfile::default() };
    let mut stack = BenchStack::start(binaries, profile)?;
    let first = stack.batches(batches, BATCH, 100)?;
    Ok((first, stack.batches(9 * batches, BATCH, 100)?))
}

/// The result of a backfill.
struct Backfill {
    seconds: f64,
    invocations: u64,
    cpu_us: f64,
    memory_mib: f64,
}

/// A backfill of this many events, from the task to its end.
fn backfill(binaries: &Path, events: u64) -> Result<Backfill, Box<dyn Error>> {
    eprintln!("extractor, a backfill of {events} events");
    let stack = BenchStack::start(binaries, TestProfile { events, ..TestProfile::default() })?;
    let now = jiff::Timestamp::now();
    let (from, to) =
        (now - jiff::SignedDuration::from_mins(1_430), now - jiff::SignedDuration::from_mins(1));
    let began = Instant::now();
    let mut task = json!({"task": "backfill", "from": from, "to": to});
    let mut invocations = 0;
    loop {
        let answer = stack.invoke(&task)?;
        invocations += 1;
        let left = stack.host.parameter(&format!("{PAUSE}-backfill")).unwrap_or_default();
        if left == "{}" {
            break;
        }
        let failed = ["errorMessage", "postponed"].iter().any(|why| answer.get(why).is_some());
        if failed || invocations > 100 {
            return Err(format!("it does not end: {answer}, {left}").into());
        }
        // The rest begins at the mark in the parameter.
        let left: Value = serde_json::from_str(&left)?;
        task = json!({"task": "backfill", "from": left["ranges"][0]["from"], "to": to});
    }
    let seconds = began.elapsed().as_secs_f64();
    if stack.host.batched() < events {
        return Err(format!("{} events were queued of {events}", stack.host.batched()).into());
    }
    let cpu_us = stack.process.cpu()?.as_secs_f64() * 1e6 / events as f64;
    Ok(Backfill { seconds, invocations, cpu_us, memory_mib: stack.process.memory()? })
}
