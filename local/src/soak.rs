//! `make soak`: the real binaries under load and faults, and an account of every event.
//!
//! The functions are killed, and AWS, Gladly and the destination fail, while an operator pauses, resumes, rotates the
//! key and deploys. Gladly retries webhooks that fail. At the end the faults stop, the operator resumes, and every
//! accepted event is accounted for.

mod account;
mod faults;
mod load;
mod operator;
mod plan;
mod process;
mod report;

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::future::join_all;
use reqwest::StatusCode;
use testing::{
    destination::{self, Destination},
    gladly::{self, Gladly},
    proxy::Proxy,
    server::lock,
};
use tokio::{
    select,
    time::{MissedTickBehavior, interval},
    try_join,
};

use self::{
    faults::disturb,
    load::populate,
    plan::{BUCKET, KEY_PREFIX, PUTS},
    process::Processes,
};
pub use self::{
    plan::{Plan, Target},
    process::Memory,
    report::Report,
};
use crate::{
    bucket::Bucket,
    emulator::EmulatorError,
    stack::{Artifacts, EmulatedAws, Function, Queue, Settings, Stack, StackError, build_program},
};

/// The deployed stack.
const STACK: &str = "soak";
/// Environments of ingest-fn at once. The emulator starts a process for each.
const INGEST_CONCURRENCY: u32 = 40;
/// The destination rejects one in this many conversations.
const REFUSED_INTERVAL: usize = 50;
/// The text of every customer message, which must never be logged.
const MESSAGE_TEXT: &str = "the heron stood in the reeds";

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    /// A server on loopback, or a process.
    #[error("could not start a server on loopback, or control a process")]
    Io(#[from] io::Error),
    /// The stack or the AWS under it.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The emulated AWS.
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
    /// What was written to the bucket cannot be read back.
    #[error("could not read the bucket back")]
    ReadBack(#[source] io::Error),
    /// The simulated Gladly.
    #[error("could not call the simulated Gladly")]
    Gladly(#[from] reqwest::Error),
    /// One of the operator's commands, after the end of all faults.
    #[error("gladly-relay {command} failed: {complaint}")]
    Command {
        /// Which one.
        command: &'static str,
        /// Its error message.
        complaint: String,
    },
    /// Invariants that did not hold, or planned actions that did not happen.
    #[error("{}", .0.join("; "))]
    Broken(Vec<String>),
}

/// Everything that takes part.
struct Soak<'a> {
    /// The operator's program.
    program: PathBuf,
    plan: &'a Plan,
    aws: &'a EmulatedAws,
    stack: &'a Stack<'a>,
    settings: Settings,
    gladly: &'a Gladly,
    destination: &'a Destination,
    bucket: &'a Bucket<'a>,
    proxy: &'a Proxy,
    webhook: String,
    processes: Mutex<Processes>,
    /// After the last deploy the oldest process is not killed, to judge its memory.
    spares: AtomicBool,
    sent: Mutex<Sent>,
    emitted: AtomicUsize,
    report: Mutex<Report>,
    /// When each pause took effect, and when it was about to be lifted.
    pauses: Mutex<Vec<(Instant, Option<Instant>)>>,
    /// Every key that was ever valid.
    keys: Mutex<Vec<String>>,
}

/// The events that the sender had to send.
#[derive(Default)]
struct Sent {
    all: BTreeSet<String>,
    malformed: BTreeSet<String>,
}

/// Runs the plan, and prints its progress. Returns the report if the run succeeded.
pub async fn soak(plan: &Plan) -> Result<Report, SoakError> {
    print_line(&format!(
        "Seed {}: {} events in {} s on {} conversations, with faults.",
        plan.seed,
        plan.events,
        plan.length.as_secs(),
        plan.conversations
    ));
    let settings = Settings::new("", "")
        .with("WatchWebhook", "false")
        .with("GladlyRequestsPerSecond", "10")
        .with("SettleSeconds", "5");
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
        destination_url: match plan.target {
            Target::Https => format!("{}/deliveries", destination.url()),
            Target::Bucket => format!("s3://{BUCKET}/{KEY_PREFIX}"),
        },
        ..settings
    };
    let refused = conversations.iter().step_by(REFUSED_INTERVAL).cloned();
    // A bucket rejects none.
    let refused: BTreeSet<_> = refused.filter(|_| plan.target == Target::Https).collect();
    for (id, status) in refused.iter().zip([422, 400, 413].into_iter().cycle()) {
        destination.refuse(id, StatusCode::from_u16(status).unwrap_or_default());
    }

    let program = build_program().await?;
    let proxy = Proxy::start()?;
    let aws =
        EmulatedAws::start_behind(plan.name, &Artifacts::build().await?, Some(&proxy)).await?;
    let bucket = Bucket::create(aws.emulator(), BUCKET).await?;
    let stack = aws.deploy(STACK, &settings).await?;
    let key = settings.webhook_keys.concat();
    let soak = Soak {
        plan,
        program,
        aws: &aws,
        stack: &stack,
        gladly: &gladly,
        destination: &destination,
        bucket: &bucket,
        proxy: &proxy,
        webhook: gladly.subscribe(stack.webhook_url(), &[("x-api-key", &key)]),
        processes: Mutex::new(Processes::new(aws.emulator(), &stack)),
        spares: AtomicBool::new(false),
        sent: Mutex::default(),
        emitted: AtomicUsize::new(0),
        report: Mutex::default(),
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
    let report = soak.close(&refused).await?;
    stack.delete().await?;
    print_line(&format!("\n{report}"));
    let failures = report.failures();
    if failures.is_empty() { Ok(report) } else { Err(SoakError::Broken(failures)) }
}

impl Soak<'_> {
    /// Settings for the emulator, needed again after each deploy.
    async fn tune(&self) -> Result<(), StackError> {
        let visibility = self.plan.visibility.as_secs().to_string();
        self.stack.set_queue_attribute(Queue::Events, "VisibilityTimeout", &visibility).await?;
        self.stack.reserve_concurrency(Function::Ingest, INGEST_CONCURRENCY).await
    }

    /// The whole run, from the first event to the end of the drain.
    async fn play(&self, conversations: &[String]) -> Result<(), SoakError> {
        let began = Instant::now();
        let targets = self.plan.targets();
        let disturbers = (10..)
            .zip(&targets)
            .map(|(stream, target)| disturb(target, self.traffic(target), self.plan.rng(stream)));
        let workload = async {
            try_join!(
                self.send(conversations),
                self.operate(began),
                self.kill(Function::Ingest, began),
                self.kill(Function::Extractor, began),
            )?;
            Ok::<_, SoakError>(())
        };
        select! {
            done = workload => done?,
            _ = join_all(disturbers) => {}
        }
        self.complete(&targets).await?;
        lock(&self.report).with_faults = began.elapsed();

        let began = Instant::now();
        self.final_resume().await?;
        self.all_delivered_or_disabled().await;
        self.drained(began).await?;
        lock(&self.report).drain = began.elapsed();
        Ok(())
    }

    /// Samples the processes once a second, and prints the progress every 10 s, until it is dropped.
    async fn watch(&self, began: Instant) -> Result<(), SoakError> {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        for second in 0_u64.. {
            ticks.tick().await;
            lock(&self.processes).sample();
            if second % 10 == 0 && second > 0 {
                let waiting = self.stack.counts(Queue::Events).await?;
                let killed: usize = lock(&self.report).kills.iter().map(|(killed, _)| killed).sum();
                let at = began.elapsed().as_secs();
                let delivered = match self.plan.target {
                    Target::Https => format!("{} delivered", self.destination.event_ids().len()),
                    Target::Bucket => {
                        format!("{} objects written", self.proxy.traffic().count(PUTS))
                    }
                };
                print_line(&format!(
                    "  {}:{:02}  {} events sent, {delivered}, {} waiting, {killed} processes killed",
                    at / 60,
                    at % 60,
                    self.emitted.load(Ordering::Relaxed),
                    waiting.total(),
                ));
            }
        }
        Ok(())
    }
}

/// Prints a line, unless standard output is closed.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
