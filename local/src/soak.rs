//! `make soak`: the real binaries under load while everything around them fails, and an account of every event.
//!
//! The functions are killed, and AWS, Gladly and the destination fail, while an operator pauses, resumes, rotates the
//! key and deploys. Gladly sends what was not taken again. At the end the faults stop, the operator resumes, and every
//! accepted event is looked for.

mod ledger;
mod operator;
mod plan;
mod process;

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tokio::{
    select,
    time::{MissedTickBehavior, interval, sleep, sleep_until},
    try_join,
};

use self::{
    ledger::Aside,
    plan::{By, Side, Who},
    process::{Exits, Processes},
};
pub use self::{ledger::Ledger, plan::Plan, process::Memory};
use crate::{
    emulator::EmulatorError,
    stack::{Artifacts, EmulatedAws, Function, Queue, Settings, Stack, StackError},
};
use testing::{
    destination::{self, Destination},
    fault::Fault,
    gladly::{self, EVENT_TYPES, Gladly},
    proxy::Proxy,
    server::{Traffic, lock},
};

/// The deployed stack.
const STACK: &str = "soak";
/// Environments of ingest-fn at once. The emulator starts a process for each.
const AT_ONCE: u32 = 40;
/// Nanoseconds of computing in a moment by which a process that works is told from one that waits.
const WORKING: u64 = 500_000;
/// How long what has not hit by the end is waited for.
const LAST_FAULTS: Duration = Duration::from_secs(30);
/// How many conversations go on at a time.
const LIVELY: usize = 40;
/// One event in so many names a conversation that no id rule allows.
const MALFORMED: usize = 200;
/// One conversation in so many is refused by the destination.
const REFUSED: usize = 50;
/// What everybody says here, and what must never be logged.
const SAID: &str = "the heron stood in the reeds";

/// Why a run did not end well.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    /// A server on loopback, or a process.
    #[error("starting a server on loopback, or looking after a process")]
    Io(#[from] io::Error),
    /// The stack or the AWS under it.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The emulated AWS.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// The simulated Gladly.
    #[error("calling the simulated Gladly")]
    Gladly(#[from] reqwest::Error),
    /// One of the operator's commands, once all faults were over.
    #[error("tools/relay {command} failed: {complaint}")]
    Command {
        /// Which one.
        command: &'static str,
        /// What it said.
        complaint: String,
    },
    /// A promise that was not kept, or something that was to happen and did not.
    #[error("{}", .0.join("; "))]
    Broken(Vec<String>),
}

/// Everything that takes part.
struct Soak<'a> {
    plan: &'a Plan,
    aws: &'a EmulatedAws,
    stack: &'a Stack<'a>,
    settings: Settings,
    gladly: &'a Gladly,
    destination: &'a Destination,
    proxy: &'a Proxy,
    webhook: String,
    processes: Mutex<Processes>,
    /// From the last deploy on the oldest process is spared, for its memory.
    spares: AtomicBool,
    sent: Mutex<Sent>,
    emitted: AtomicUsize,
    ledger: Mutex<Ledger>,
    /// When the operator's word was seen to hold, and when it was about to be taken back.
    pauses: Mutex<Vec<(Instant, Option<Instant>)>>,
    /// The keys that ever let somebody in.
    keys: Mutex<Vec<String>>,
}

/// What the sender was to send.
#[derive(Default)]
struct Sent {
    all: BTreeSet<String>,
    malformed: BTreeSet<String>,
}

/// Runs it, and tells how it goes. The ledger is that of a run in which everything was as it should be.
pub async fn soak(plan: &Plan) -> Result<Ledger, SoakError> {
    say(&format!(
        "Seed {}: {} events in {} s on {} conversations, under fire.",
        plan.seed,
        plan.events,
        plan.length.as_secs(),
        plan.conversations
    ));
    let settings =
        Settings::new("", "").with("WatchWebhook", "false").with("GladlyRequestsPerSecond", "10");
    let gladly = Gladly::start(gladly::Options {
        seed: plan.seed,
        email: settings.gladly_email.clone(),
        token: settings.gladly_token.clone(),
        requests_per_second: None,
        time_scale: plan.time_scale,
        ..gladly::Options::default()
    })?;
    let conversations = populate(&gladly, plan.conversations);
    let token = ("authorization".to_owned(), format!("Bearer {}", settings.destination_token));
    let destination =
        Destination::start(destination::Options { token, ..destination::Options::default() })?;
    let settings = Settings {
        gladly_url: gladly.url().to_owned(),
        destination_url: format!("{}/deliveries", destination.url()),
        ..settings
    };
    let refused: BTreeSet<_> = conversations.iter().step_by(REFUSED).cloned().collect();
    for (id, status) in refused.iter().zip([422, 400, 413].into_iter().cycle()) {
        destination.refuse(id, StatusCode::from_u16(status).unwrap_or_default());
    }

    let proxy = Proxy::start()?;
    let aws =
        EmulatedAws::start_behind(plan.name, &Artifacts::build().await?, Some(&proxy)).await?;
    let stack = aws.deploy(STACK, &settings).await?;
    let key = settings.webhook_keys.concat();
    let soak = Soak {
        plan,
        aws: &aws,
        stack: &stack,
        gladly: &gladly,
        destination: &destination,
        proxy: &proxy,
        webhook: gladly.subscribe(stack.webhook_url(), &[("x-api-key", &key)]),
        processes: Mutex::new(Processes::new(aws.emulator(), &stack)),
        spares: AtomicBool::new(false),
        sent: Mutex::default(),
        emitted: AtomicUsize::new(0),
        ledger: Mutex::default(),
        pauses: Mutex::default(),
        keys: Mutex::new(settings.webhook_keys.clone()),
        settings,
    };
    soak.tune().await?;
    let began = Instant::now();
    select! {
        played = soak.play(&conversations) => played?,
        watched = soak.watch(began) => watched?,
    }
    let ledger = soak.close(&refused).await?;
    stack.delete().await?;
    say(&format!("\n{ledger}"));
    let failures = ledger.failures();
    if failures.is_empty() { Ok(ledger) } else { Err(SoakError::Broken(failures)) }
}

/// Made-up conversations, in each of which also something is said that can be recognised.
fn populate(gladly: &Gladly, count: usize) -> Vec<String> {
    let mut world = gladly.organization();
    world.add_made_up_conversations(count);
    let conversations: Vec<_> = world.conversations.keys().cloned().collect();
    for id in &conversations {
        let said = json!({"type": "SMS", "from": "+15555550100", "to": "+1", "content": SAID});
        world.add_item(id, said);
    }
    conversations
}

impl Soak<'_> {
    /// What the emulator needs, and again after each deploy.
    async fn tune(&self) -> Result<(), StackError> {
        let visibility = self.plan.visibility.as_secs().to_string();
        self.stack.set_queue_attribute(Queue::Events, "VisibilityTimeout", &visibility).await?;
        self.stack.reserve_concurrency(Function::Ingest, AT_ONCE).await
    }

    /// The whole run, from the first event to the last account.
    async fn play(&self, conversations: &[String]) -> Result<(), SoakError> {
        let began = Instant::now();
        let sides = self.plan.sides();
        let disturbers = (10..)
            .zip(&sides)
            .map(|(purpose, side)| disturb(side, self.traffic(side), self.plan.rng(purpose)));
        let fire = async {
            try_join!(
                self.send(conversations),
                self.operate(began),
                self.kill(Function::Ingest, began),
                self.kill(Function::Extractor, began),
            )?;
            Ok::<_, SoakError>(())
        };
        select! {
            done = fire => done?,
            _ = join_all(disturbers) => {}
        }
        self.complete(&sides).await?;
        lock(&self.ledger).under_fire = began.elapsed();

        let began = Instant::now();
        self.resume_at_last().await?;
        self.taken().await;
        self.drained(began).await?;
        lock(&self.ledger).drain = began.elapsed();
        Ok(())
    }

    fn traffic(&self, side: &Side) -> &Traffic {
        match side.who {
            Who::Aws => self.proxy.traffic(),
            Who::Gladly => self.gladly.traffic(),
            Who::Destination => self.destination.traffic(),
        }
    }

    /// Lets events happen at their pace.
    async fn send(&self, conversations: &[String]) -> Result<(), SoakError> {
        let mut rng = self.plan.rng(4);
        let pace = self.plan.length / u32::try_from(self.plan.events.max(1)).unwrap_or(u32::MAX);
        let mut ticks = interval(pace);
        for number in 0..self.plan.events {
            ticks.tick().await;
            let malformed = number % MALFORMED == MALFORMED / 2;
            let kind = EVENT_TYPES[rng.usize(..EVENT_TYPES.len())];
            // One after the other they are lively for a while.
            let turn = number * conversations.len() / self.plan.events + rng.usize(..LIVELY);
            let conversation = &conversations[turn % conversations.len()];
            let event = if malformed {
                self.gladly.emit("CONVERSATION/CLOSED", "../agents")
            } else {
                self.gladly.emit(kind, conversation)
            };
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            let mut sent = lock(&self.sent);
            if malformed {
                sent.malformed.insert(id.clone());
            }
            sent.all.insert(id);
            self.emitted.store(number + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Kills processes of a function in the middle of their work: of those that work just now the busiest, one after
    /// the other until an invocation ends with its process.
    async fn kill(&self, function: Function, began: Instant) -> Result<(), SoakError> {
        let mut exits = Exits::new(self.aws.emulator(), self.stack, function);
        for at in self.plan.kills(function) {
            sleep_until((began + at).into()).await;
            let mut struck = false;
            while !struck && began.elapsed() < self.plan.length {
                if function == Function::Ingest {
                    // Else its requests are over before anybody could say who works.
                    let slow = Fault::slow(800).on("POST /sqs/SendMessage");
                    self.proxy.traffic().fault(slow.times(10));
                }
                let Some(busiest) = self.busiest(function).await else {
                    continue;
                };
                let exited = exits.count()?;
                if !process::end(busiest)? {
                    continue;
                }
                // The emulator looks every 50 ms.
                sleep(Duration::from_millis(400)).await;
                struck = exits.count()? > exited;
                let number = usize::from(function == Function::Extractor);
                let kills = &mut lock(&self.ledger).kills[number];
                kills.0 += 1;
                kills.1 += usize::from(struck);
            }
        }
        Ok(())
    }

    /// The process of a function that has worked most in a moment, if any has worked at all.
    async fn busiest(&self, function: Function) -> Option<u32> {
        let spare = self.spares.load(Ordering::Relaxed);
        let before = lock(&self.processes).busy(function, spare);
        sleep(Duration::from_millis(300)).await;
        let after = lock(&self.processes).busy(function, spare);
        let worked = after.iter().filter_map(|(pid, spent)| Some((spent - before.get(pid)?, *pid)));
        worked.max().filter(|(worked, _)| *worked > WORKING).map(|(_, pid)| pid)
    }

    /// Has what has not hit yet hit once, ends all faults, and writes down how often each has hit.
    async fn complete(&self, sides: &[Side]) -> Result<(), SoakError> {
        let unhit = || -> Vec<(&Side, &Fault)> {
            let hits = sides.iter().map(|side| self.traffic(side).befallen());
            let unhit = sides.iter().zip(hits).flat_map(|(side, hits)| {
                let hit = move |fault: &Fault| {
                    hits.contains_key(&(side.on.to_owned(), fault.to_string()))
                };
                side.faults.iter().filter(move |fault| !hit(fault)).map(move |fault| (side, fault))
            });
            unhit.filter(|(side, _)| side.required).collect()
        };
        for side in sides {
            self.traffic(side).clear_faults();
        }
        // Not in a row: that would outlast the tries of a call.
        for (number, (side, fault)) in (0..).zip(unhit()) {
            self.traffic(side).fault(fault.clone().on(side.on).after(3 * (number % 10)).times(1));
        }
        // Under a pause nothing would hit any more.
        self.resume(By::Parameter).await?;
        let began = Instant::now();
        while !unhit().is_empty() && began.elapsed() < LAST_FAULTS {
            sleep(Duration::from_millis(200)).await;
        }
        let mut ledger = lock(&self.ledger);
        ledger.unhit =
            unhit().iter().map(|(side, fault)| format!("{}: {fault}", side.name)).collect();
        for side in sides {
            let hits = self.traffic(side).befallen();
            for fault in &side.faults {
                let kind = fault.to_string();
                let times = hits.get(&(side.on.to_owned(), kind.clone())).copied();
                ledger.faults.push((side.name.to_owned(), kind, times.unwrap_or_default()));
            }
            self.traffic(side).clear_faults();
        }
        Ok(())
    }

    /// Waits until Gladly has nothing more to send, or has given the webhook up.
    async fn taken(&self) {
        let is_taken = |gladly: &Gladly| {
            let taken: BTreeSet<_> = gladly
                .attempts()
                .into_iter()
                .filter(|attempt| attempt.status.is_some_and(|status| (200..300).contains(&status)))
                .map(|attempt| attempt.event)
                .collect();
            lock(&self.sent).all.is_subset(&taken) || gladly.webhooks()[0]["enabled"] != true
        };
        while !is_taken(self.gladly) {
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits until nothing is left in the events queue.
    async fn drained(&self, began: Instant) -> Result<(), SoakError> {
        // Seen twice: what is on its way from one count to another may be in neither.
        let mut empty = 0;
        while empty < 2 && began.elapsed() < self.plan.patience {
            sleep(Duration::from_millis(500)).await;
            empty =
                if self.stack.counts(Queue::Events).await?.total() == 0 { empty + 1 } else { 0 };
        }
        lock(&self.ledger).waiting = self.stack.peek(Queue::Events).await?.len();
        Ok(())
    }

    /// Looks at the processes once a second, and tells how it goes now and then, until it is dropped.
    async fn watch(&self, began: Instant) -> Result<(), SoakError> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for second in 0_u64.. {
            ticks.tick().await;
            lock(&self.processes).look();
            if second % 10 == 0 && second > 0 {
                let waiting = self.stack.counts(Queue::Events).await?;
                let killed: usize = lock(&self.ledger).kills.iter().map(|(killed, _)| killed).sum();
                let at = began.elapsed().as_secs();
                say(&format!(
                    "  {}:{:02}  {} events sent, {} delivered, {} waiting, {killed} processes killed",
                    at / 60,
                    at % 60,
                    self.emitted.load(Ordering::Relaxed),
                    self.destination.event_ids().len(),
                    waiting.total(),
                ));
            }
        }
        Ok(())
    }

    /// Accounts for everything.
    async fn close(&self, refused: &BTreeSet<String>) -> Result<Ledger, SoakError> {
        let mut ledger = std::mem::take(&mut *lock(&self.ledger));
        ledger.judges_memory = self.plan.length >= Duration::from_mins(3);
        let aside = self.stack.peek(Queue::Quarantine).await?;
        let aside: Vec<_> = aside.iter().map(|message| Aside::read(&message.body)).collect();
        let Sent { all, malformed } = std::mem::take(&mut *lock(&self.sent));
        let accepted = ledger.sent(&all, &self.gladly.attempts());
        let times = |event: &str| self.destination.times(event);
        ledger.account(&accepted, times, &aside, refused, &malformed);
        let pauses = lock(&self.pauses).clone();
        let pauses: Vec<_> =
            pauses.into_iter().filter_map(|(from, to)| Some((from, to?))).collect();
        let calls = |traffic: &Traffic, pattern: &str, what: &str| -> Vec<(String, Instant)> {
            traffic.calls(pattern).iter().map(|call| (what.to_owned(), call.at)).collect()
        };
        let mut left = calls(self.destination.traffic(), "POST /deliveries", "a delivery left");
        left.extend(calls(
            self.gladly.traffic(),
            "GET /api/v1/conversations/**",
            "a conversation was fetched",
        ));
        ledger.hold(&pauses, &left);
        ledger.deliveries = self.destination.deliveries().len();
        ledger.invalid = self.destination.invalid();
        for (name, function) in
            [("ingest-fn", Function::Ingest), ("extractor-fn", Function::Extractor)]
        {
            ledger.memory.push((name, lock(&self.processes).memory(function)));
            let lines = self.stack.logs(function).await?;
            ledger.lines += lines.len();
            let secrets = self.secrets();
            for line in lines {
                let found = secrets.iter().filter(|(_, secret)| line.contains(secret.as_str()));
                ledger.leaks.extend(found.map(|(what, _)| format!("{what}, by {name}")));
            }
        }
        Ok(ledger)
    }

    /// What no log may hold.
    fn secrets(&self) -> Vec<(&'static str, String)> {
        let mut secrets: Vec<_> =
            lock(&self.keys).iter().map(|key| ("a webhook key", key.clone())).collect();
        secrets.extend([
            ("Gladly's token", self.settings.gladly_token.clone()),
            ("the destination's token", self.settings.destination_token.clone()),
            ("what somebody said", SAID.to_owned()),
            ("an address", "@".to_owned()),
            ("a number", "+1555555".to_owned()),
        ]);
        secrets
    }
}

/// Has one side fail, one way after the other in an order that is drawn again and again, until it is dropped.
async fn disturb(side: &Side, traffic: &Traffic, mut rng: Rng) {
    loop {
        let mut ways = side.faults.clone();
        rng.shuffle(&mut ways);
        for fault in ways {
            // Of several, the third outlasts the tries of one call. What hangs costs seconds, and a second one in a
            // row the grace of a pause.
            let times = if fault.hang { 1 } else { side.bursts[rng.usize(..side.bursts.len())] };
            let fault = Fault { after: rng.u32(..=2 * side.every), ..fault };
            traffic.fault(fault.on(side.on).times(times));
            while traffic.faults().iter().any(|waiting| waiting.on == side.on) {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Prints a line, unless whoever reads has seen enough.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
