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
    gladly::{self, Counts, TestProfile},
    host::{Host, INVOCATION_LIMIT},
    process::{Function, Process},
    report::median,
};

const DELAY: Duration = Duration::from_millis(20);
/// Conversations that extractor-fn fetches at once (`MAX_FETCHES` in its pipeline).
const CONCURRENT_FETCHES: u64 = 8;
/// The most records in a batch of the event source mapping.
const BATCH: u64 = 500;
const PAUSE: &str = "/bench/pause";
const TOKENS: [&str; 2] = ["/bench/gladly-token", "/bench/destination-token"];

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
pub(crate) struct Cost {
    pub(crate) cpu_ms: f64,
    pub(crate) wall_ms: f64,
    pub(crate) memory_mib: f64,
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
        let (mut walls, cpu) = (Vec::new(), self.process.cpu());
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
        let cpu = self.process.cpu().saturating_sub(cpu);
        Ok(Cost {
            cpu_ms: cpu.as_secs_f64() * 1e3 / count as f64,
            wall_ms: median(&walls),
            memory_mib: self.process.memory(),
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
pub(crate) fn batch_of_500(binaries: &Path, rounds: u64) -> Result<(Cost, f64), Box<dyn Error>> {
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
    let cpu = of(|cost| cost.cpu_ms);
    let cost = Cost {
        // Counted in hundredths of a second, so the mean is more precise than the median.
        cpu_ms: cpu.iter().sum::<f64>() / cpu.len() as f64,
        wall_ms: median(&of(|cost| cost.wall_ms)),
        memory_mib: stack.process.memory(),
    };
    Ok((cost, median(&alone)))
}

/// A snapshot of a conversation with this many items: the cost of one event's batch.
pub(crate) fn snapshot(binaries: &Path, items: usize, count: u64) -> Result<Cost, Box<dyn Error>> {
    eprintln!("extractor, conversations of {items} items");
    let mut stack = BenchStack::start(binaries, TestProfile { items, ..TestProfile::default() })?;
    stack.batches(5, 1, 1)?;
    stack.batches(count, 1, 1)
}

/// Batches of 500 events on this many conversations.
pub(crate) fn spread(
    binaries: &Path,
    conversations: u64,
    count: u64,
) -> Result<Cost, Box<dyn Error>> {
    eprintln!("extractor, batches on {conversations} conversations");
    let mut stack = BenchStack::start(binaries, TestProfile::default())?;
    stack.batches(1, BATCH, 100)?;
    stack.batches(count, BATCH, conversations)
}

/// Memory after each of two backlogs in one environment, of which the second is ten times the first.
pub(crate) fn backlog(binaries: &Path, batches: u64) -> Result<(Cost, Cost), Box<dyn Error>> {
    eprintln!("extractor, a backlog of {} batches", 10 * batches);
    let profile = TestProfile { conversations_a_customer: 10, ..TestProfile::default() };
    let mut stack = BenchStack::start(binaries, profile)?;
    let first = stack.batches(batches, BATCH, 100)?;
    Ok((first, stack.batches(9 * batches, BATCH, 100)?))
}

/// The result of a backfill.
pub(crate) struct Backfill {
    pub(crate) seconds: f64,
    pub(crate) invocations: u64,
    pub(crate) cpu_us: f64,
    pub(crate) memory_mib: f64,
}

/// A backfill of this many events, from the task to its end.
pub(crate) fn backfill(binaries: &Path, events: u64) -> Result<Backfill, Box<dyn Error>> {
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
    let cpu_us = stack.process.cpu().as_secs_f64() * 1e6 / events as f64;
    Ok(Backfill { seconds, invocations, cpu_us, memory_mib: stack.process.memory() })
}
