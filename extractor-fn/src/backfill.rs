//! What Gladly could not tell us: events of a gap are asked for and queued as if they had come.
//!
//! The work there is stands in a parameter, so that any invocation goes on where another ended or
//! died. Repeats are harmless: deliveries are upserts, and coverage makes most of them cheap.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use aws_sdk_ssm::Client;
use futures::{StreamExt as _, stream::FuturesUnordered};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::{Clock, Id, Incoming, Origin, Parameter, ParameterError, QueueMessage, chain};
use tokio::time::{Duration, Instant};
use tracing::{error, info, warn};

use crate::{
    Extractor,
    controller::ControlError,
    gladly::{EXPORTED_ITEMS, Exported, Gladly, GladlyError},
    queue::{Outgoing, Queue, QueueError},
    run::Run,
    status::events,
    unicode::whole_characters,
    watchdog::is_due,
};

/// How long Gladly lists an event (<https://developer.gladly.com/rest/>), less the time of asking.
const KEPT: SignedDuration = SignedDuration::from_mins(24 * 60 - 1);
/// How far Gladly's list is behind at most, and some time for its clock and ours.
const BEHIND: SignedDuration = SignedDuration::from_secs(25);
/// Messages of one request to SQS.
const BATCH: usize = 10;
/// Requests to SQS at once.
const AT_ONCE: usize = 8;
/// Queued events after which the progress is written down.
const STEP: u64 = 20_000;
/// Conversations of an export that are gathered before they are queued.
const GATHERED: usize = 100_000;

/// The work that stands in the parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Work {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) events: Option<Range>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) import: Option<Import>,
}

/// Events of Gladly's list that are still to be queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    /// Everything before this is done.
    pub(crate) from: Timestamp,
    /// Absent while the gap still lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<Timestamp>,
}

/// Export jobs that are still to be queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Import {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) jobs: Vec<Id>,
}

impl FromStr for Work {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(serde_json::from_str(text).unwrap_or_default())
    }
}

impl Work {
    /// Adds a gap. One parameter holds one range, so two gaps become one that spans both.
    fn add(&mut self, from: Timestamp, to: Option<Timestamp>) {
        self.events = Some(match self.events.take() {
            None => Range { from, to },
            Some(known) => Range {
                from: known.from.min(from),
                to: known.to.zip(to).map(|(known, to)| known.max(to)),
            },
        });
    }

    fn is_done(&self) -> bool {
        self.events.is_none() && self.import.is_none()
    }
}

/// The work, kept in a parameter of its own.
pub(crate) struct Backlog {
    parameter: Parameter<Work>,
    /// When Gladly last kept this environment from going on with it.
    failed_at: Mutex<Option<Timestamp>>,
}

impl Backlog {
    pub(crate) fn new(ssm: Client, name: String, clock: Clock) -> Self {
        let parameter = Parameter::new(ssm, name, SignedDuration::ZERO, clock);
        Self { parameter: parameter.or(Work::default()), failed_at: Mutex::default() }
    }

    pub(crate) async fn read(&self) -> Result<Work, ParameterError> {
        Ok(self.parameter.fresh().await?.0.as_ref().clone())
    }

    pub(crate) async fn write(&self, work: &Work) -> Result<(), ParameterError> {
        self.parameter.write(serde_json::to_string(work).unwrap_or_default()).await
    }

    /// Whether the schedule may go on with it: a Gladly that fails is left alone for as long as by
    /// the watch over its webhook.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        is_due(*self.failed_at.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn note_failure(&self, at: Option<Timestamp>) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Notes a gap that begins then and still lasts, before anything is done about it.
    pub(crate) async fn open(&self, from: Timestamp) -> Result<(), ParameterError> {
        let mut work = self.read().await?;
        work.add(from, None);
        self.write(&work).await
    }

    /// Notes when the gap ended, if there is one that lasts.
    pub(crate) async fn close(&self, to: Timestamp) -> Result<(), ParameterError> {
        let mut work = self.read().await?;
        match &mut work.events {
            Some(range) if range.to.is_none() => range.to = Some(to),
            _ => return Ok(()),
        }
        self.write(&work).await
    }
}

/// What a backfill or an import came to so far.
#[derive(Debug, Serialize)]
pub(crate) struct Backfilled {
    queued: u64,
    from: Timestamp,
    to: Timestamp,
    /// Part of what was asked for is no longer at Gladly.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    /// Nothing of it is left to do; otherwise the controller goes on every minute.
    done: bool,
    /// What is left is what happened just now.
    #[serde(skip)]
    settling: bool,
}

impl fmt::Display for Backfilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cut {
            let from = self.from.strftime("%Y-%m-%d %H:%M:%S UTC");
            writeln!(f, "Gladly has nothing older than {from}: the range begins there.")?;
        }
        write!(f, "{} queued", events(self.queued))?;
        f.write_str(match (self.done, self.settling) {
            (true, _) => ".",
            (false, true) => "; what happened just now follows by itself, in a minute or two.",
            (false, false) => "; the rest follows by itself, every minute.",
        })
    }
}

impl Extractor {
    /// Queues the events of a range, as far as time allows.
    pub(crate) async fn backfill(
        &self,
        from: Timestamp,
        to: Timestamp,
        time_left: Duration,
    ) -> Result<Backfilled, ControlError> {
        let now = self.now();
        let (to, oldest) = (to.min(now), now - KEPT);
        let begins = from.max(oldest).min(to);
        if from >= to || to <= oldest {
            return Err(ControlError::NoRange("the last 24 hours"));
        }
        let mut work = self.backlog.read().await?;
        work.add(begins, Some(to));
        self.backlog.write(&work).await?;
        let queued = self.begin(time_left).await?;
        let left = self.backlog.read().await?.events;
        let settling = left.as_ref().is_some_and(|left| left.from >= now - BEHIND);
        let done = left.is_none();
        Ok(Backfilled { queued, from: begins, to, cut: begins > from, done, settling })
    }

    /// Queues an event for each conversation of Gladly's exports of a range, as far as time allows.
    pub(crate) async fn import(
        &self,
        from: Timestamp,
        to: Timestamp,
        time_left: Duration,
    ) -> Result<Backfilled, ControlError> {
        let now = self.now();
        let to = to.min(now);
        if from >= to {
            return Err(ControlError::NoRange("the last 14 days"));
        }
        let run = Run::unguarded(Arc::clone(&self.guard), time_left);
        let gladly = self.fetcher.gladly();
        let jobs = gladly.exports(from, &run).await?;
        let first = jobs.iter().map(|job| job.parameters.start_at).min();
        let wanted = jobs.into_iter().filter(|job| {
            let Exported { start_at, end_at } = job.parameters;
            start_at < to && end_at > from && job.files.iter().any(|file| file == EXPORTED_ITEMS)
        });
        let jobs: Vec<_> = wanted.map(|job| job.id).collect();
        if jobs.is_empty() {
            return Err(ControlError::NoRange("what Gladly has exported in the last 14 days"));
        }
        let mut work = self.backlog.read().await?;
        work.import = Some(Import { from, to, jobs });
        self.backlog.write(&work).await?;
        let queued = self.begin(time_left).await?;
        let done = self.backlog.read().await?.import.is_none();
        let begins = first.map_or(from, |first| first.max(from));
        Ok(Backfilled { queued, from: begins, to, cut: begins > from, done, settling: false })
    }

    /// Begins with work that was written down, and stays so if this fails.
    async fn begin(&self, time_left: Duration) -> Result<u64, ControlError> {
        self.catch_up(time_left).await.map_err(|err| ControlError::Noted(Box::new(err)))
    }

    /// Goes on with the work there is until time is over. Says how many events were queued.
    pub(crate) async fn catch_up(&self, time_left: Duration) -> Result<u64, ControlError> {
        let mut work = self.backlog.read().await?;
        if work.is_done() {
            return Ok(0);
        }
        let until = Instant::now() + time_left;
        let run = Run::unguarded(Arc::clone(&self.guard), time_left);
        let mut sender = Sender::new(&self.events);
        let gladly = self.fetcher.gladly();
        let events = self.catch_up_events(&mut work, gladly, &mut sender, &run, until).await;
        let imported = match events {
            Ok(()) => self.catch_up_import(&mut work, gladly, &mut sender, &run, until).await,
            Err(err) => Err(err),
        };
        if sender.queued > 0 {
            info!(
                count = sender.queued,
                backfill.done = work.is_done(),
                "queued what Gladly had to tell"
            );
        }
        let failed = matches!(imported, Err(ControlError::Gladly(_)));
        self.backlog.note_failure(failed.then(|| self.now()));
        imported.map(|()| sender.queued)
    }

    async fn catch_up_events(
        &self,
        work: &mut Work,
        gladly: &Gladly,
        sender: &mut Sender<'_>,
        run: &Run,
        until: Instant,
    ) -> Result<(), ControlError> {
        let Some(Range { from, to }) = work.events.clone() else { return Ok(()) };
        let now = self.now();
        let begins = from.max(now - KEPT);
        if begins > from {
            let before = tracing::field::display(begins);
            error!(before, "events of a gap are older than the 24 hours that Gladly lists: lost");
        }
        // What happened just now may not be listed yet.
        let settled = now - BEHIND;
        let end = to.map_or(settled, |to| to.min(settled));
        if begins >= end {
            if to.is_some_and(|to| begins >= to) {
                work.events = None;
                self.backlog.write(work).await?;
            }
            return Ok(());
        }
        let mut lines = gladly.events(begins, end, run).await?;
        let (mut reached, mut step) = (begins, sender.queued + STEP);
        let came_to = loop {
            if Instant::now() >= until {
                break reached;
            }
            let Some(line) = lines.next().await.map_err(GladlyError::Unreachable)? else {
                break end;
            };
            let received = self.now();
            if let Some((message, recorded)) = listed(&line, received) {
                sender.add(message).await?;
                reached = recorded.unwrap_or(reached).max(reached);
            }
            if sender.queued >= step {
                sender.flush().await?;
                step += STEP;
                work.events = Some(Range { from: reached, to });
                self.backlog.write(work).await?;
            }
        };
        sender.flush().await?;
        let done = to.is_some_and(|to| came_to >= to);
        work.events = (!done).then_some(Range { from: came_to, to });
        self.backlog.write(work).await?;
        Ok(())
    }

    async fn catch_up_import(
        &self,
        work: &mut Work,
        gladly: &Gladly,
        sender: &mut Sender<'_>,
        run: &Run,
        until: Instant,
    ) -> Result<(), ControlError> {
        while let Some(import) = work.import.clone() {
            let Some(job) = import.jobs.first().filter(|_| Instant::now() < until) else {
                if import.jobs.is_empty() {
                    work.import = None;
                    self.backlog.write(work).await?;
                }
                return Ok(());
            };
            let mut lines = gladly.exported_items(job, run).await?;
            let mut seen = HashMap::<Id, Spoken>::new();
            while let Some(line) = lines.next().await.map_err(GladlyError::Unreachable)? {
                let Some(item) = Spoken::read(&line, &import) else { continue };
                let (conversation, spoken) = item;
                let last = seen.entry(conversation).or_insert_with(|| spoken.clone());
                if spoken.at > last.at {
                    *last = spoken;
                }
                if seen.len() >= GATHERED {
                    self.send_spoken(&mut seen, sender).await?;
                }
            }
            self.send_spoken(&mut seen, sender).await?;
            let jobs = import.jobs[1..].to_vec();
            work.import = (!jobs.is_empty()).then_some(Import { jobs, ..import });
            self.backlog.write(work).await?;
        }
        Ok(())
    }

    async fn send_spoken(
        &self,
        seen: &mut HashMap<Id, Spoken>,
        sender: &mut Sender<'_>,
    ) -> Result<(), ControlError> {
        for (conversation, Spoken { customer, at }) in seen.drain() {
            let event = json!({
                "type": "RELAY/IMPORTED",
                "timestamp": at.to_string(),
                "content": {"customerId": customer, "conversationId": conversation},
            });
            if let Some((message, _)) = queued(&event.to_string(), self.now()) {
                sender.add(message).await?;
            }
        }
        sender.flush().await?;
        Ok(())
    }
}

/// When something was last said in a conversation.
#[derive(Debug, Clone)]
struct Spoken {
    customer: Option<String>,
    at: Timestamp,
}

impl Spoken {
    /// Reads a line of an export, if it is about a conversation in the range.
    fn read(line: &[u8], import: &Import) -> Option<(Id, Self)> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Item {
            conversation_id: Id,
            customer_id: Option<String>,
            timestamp: Timestamp,
        }
        let item: Item = serde_json::from_slice(line).ok()?;
        let within = (import.from..import.to).contains(&item.timestamp);
        let spoken = Self { customer: item.customer_id, at: item.timestamp };
        within.then_some((item.conversation_id, spoken))
    }
}

/// The queue message of a line of Gladly's list, and when it was recorded; `None` for what ingest-fn
/// would not queue either.
fn listed(line: &[u8], now: Timestamp) -> Option<(Outgoing, Option<Timestamp>)> {
    let line = whole_characters(String::from_utf8_lossy(line).trim().to_owned());
    queued(&line, now)
}

fn queued(event: &str, now: Timestamp) -> Option<(Outgoing, Option<Timestamp>)> {
    let Ok(Incoming::Event(read)) = Incoming::read(event) else { return None };
    read.conversation.as_ref()?;
    let recorded = read.timestamp.and_then(|raw| serde_json::from_str(raw.get()).ok());
    let body = QueueMessage::wrap(event, now, Origin::Backfill).ok()?.to_json().ok()?;
    let kind = QueueMessage::type_attribute(&read.kind);
    Some((Outgoing { body, kind }, recorded))
}

/// Sends events in batches, some at once. What was added is durable once it is flushed.
struct Sender<'a> {
    queue: &'a Queue,
    batch: Vec<Outgoing>,
    sending: FuturesUnordered<Sending<'a>>,
    queued: u64,
}

type Sending<'a> = std::pin::Pin<Box<dyn Future<Output = Result<u64, QueueError>> + Send + 'a>>;

impl<'a> Sender<'a> {
    fn new(queue: &'a Queue) -> Self {
        Self { queue, batch: Vec::new(), sending: FuturesUnordered::new(), queued: 0 }
    }

    async fn add(&mut self, message: Outgoing) -> Result<(), QueueError> {
        self.batch.push(message);
        if self.batch.len() >= BATCH {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), QueueError> {
        while self.sending.len() >= AT_ONCE {
            self.sent().await?;
        }
        let (queue, batch) = (self.queue, std::mem::take(&mut self.batch));
        self.sending.push(Box::pin(async move {
            let count = batch.len() as u64;
            queue.send_new(batch).await.map(|()| count)
        }));
        Ok(())
    }

    async fn sent(&mut self) -> Result<(), QueueError> {
        if let Some(sent) = self.sending.next().await {
            self.queued += sent.inspect_err(|err| warn!(error = chain(err), "could not queue"))?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), QueueError> {
        if !self.batch.is_empty() {
            self.send().await?;
        }
        while !self.sending.is_empty() {
            self.sent().await?;
        }
        Ok(())
    }
}
