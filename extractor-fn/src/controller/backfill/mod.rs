//! Recovers what Gladly did not send: events of a gap, and conversations of its exports, are read
//! from Gladly and queued as if they had come by webhook.
//!
//! What is still to be done is in two parameters, one for events and one for exports, so that any
//! invocation continues where another ended or crashed ([`document`] explains why no range is lost).
//! A mark advances only after everything before it is durable in the queue. Repeats are harmless:
//! deliveries are upserts, and coverage makes most of them cheap.

pub(crate) mod document;
pub(crate) mod lease;
pub(crate) mod ranges;
mod sender;

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_sdk_ssm::Client;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use shared::{Clock, Id, Origin, QueueMessage, WebhookEvent, replace_lone_surrogates};
use tokio::time::{Duration, Instant, timeout_at};
use tracing::{error, info, warn};

use crate::{
    client::{
        gladly::{EXPORTED_ITEMS, Export, Exported, Gladly, GladlyError},
        message::Message,
        sqs::Queue,
    },
    controller::{
        backfill::{
            document::Document,
            lease::Lease,
            ranges::{JobMark, Range, Ranges},
            sender::Sender,
        },
        error::ControllerError,
        schedule::{RESERVE, is_due},
        text::events,
    },
    gate::ControllerPermission,
};

/// How long Gladly lists an event (<https://developer.gladly.com/rest/>), less a minute for the call.
const EVENTS_WINDOW: SignedDuration = SignedDuration::from_mins(24 * 60 - 1);
/// How long Gladly lists an export job, less a minute for the call: it rejects older ranges.
const EXPORTS_WINDOW: SignedDuration = SignedDuration::from_mins(14 * 24 * 60 - 1);
/// How far Gladly's list may lag behind, with a margin for clock skew.
const EVENT_LIST_LAG: SignedDuration = SignedDuration::from_secs(25);
/// How many events are queued before the progress is written.
const EVENTS_PER_MARK: u64 = 20_000;
/// How many conversations of an export are collected before they are queued.
const MAX_COLLECTED: usize = 100_000;

/// What is still to be recovered, and the lease of who recovers it.
pub(crate) struct BackfillStore {
    events: PendingBackfill,
    exports: PendingBackfill,
    lease: Lease,
}

/// Where events are recovered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Gladly's list of the last 24 hours.
    Events,
    /// Its exports of the last 14 days.
    Exports,
}

/// What is still to be recovered from one source.
struct PendingBackfill {
    document: Document,
    /// When a call to Gladly last failed for it in this environment.
    failed_at: Mutex<Option<Timestamp>>,
}

impl BackfillStore {
    /// The store next to the pause parameter of this name.
    pub(crate) fn new(ssm: &Client, pause: &str, clock: Clock) -> Self {
        let source = |name: &str| PendingBackfill {
            document: Document::new(ssm.clone(), format!("{pause}-{name}")),
            failed_at: Mutex::default(),
        };
        let lease = Lease::new(ssm.clone(), format!("{pause}-recovery-lease"), clock);
        Self { events: source("backfill"), exports: source("import"), lease }
    }

    fn recovery(&self, source: Source) -> &PendingBackfill {
        match source {
            Source::Events => &self.events,
            Source::Exports => &self.exports,
        }
    }

    /// Events of Gladly's list that are still to be queued.
    pub(crate) fn events(&self) -> &Document {
        &self.events.document
    }
}

/// The result of a backfill or an import so far.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backfilled {
    queued: u64,
    from: Timestamp,
    to: Timestamp,
    /// Part of the requested range is no longer at Gladly.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    /// Nothing is left to do; otherwise the controller continues every minute.
    done: bool,
    /// Gladly's lines that cannot be used.
    #[serde(skip_serializing_if = "is_zero")]
    invalid_lines: u64,
    /// Export jobs that no longer exist.
    #[serde(skip_serializing_if = "is_zero")]
    missing_jobs: u64,
    /// Only events of the last moments are left.
    #[serde(skip)]
    settling: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl fmt::Display for Backfilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cut {
            let from = self.from.strftime("%Y-%m-%d %H:%M:%S UTC");
            writeln!(f, "Gladly has nothing older than {from}: the range begins there.")?;
        }
        if self.invalid_lines > 0 {
            writeln!(f, "{} of Gladly's lines are malformed.", self.invalid_lines)?;
        }
        if self.missing_jobs > 0 {
            writeln!(f, "{} of Gladly's export jobs no longer exist.", self.missing_jobs)?;
        }
        write!(f, "{} queued", events(self.queued))?;
        f.write_str(match (self.done, self.settling) {
            (true, _) => ".",
            (false, true) => "; events from the last minute follow automatically.",
            (false, false) => "; the rest follows automatically, every minute.",
        })
    }
}

/// One invocation's work on one source.
struct Recovery<'a> {
    document: &'a Document,
    gladly: &'a Gladly,
    clock: &'a Clock,
    sender: Sender<'a>,
    /// Nothing is begun and nothing waits after this.
    until: Instant,
    /// Whether any mark has advanced.
    moved: bool,
    invalid_lines: u64,
    missing_jobs: u64,
}

/// What one invocation recovered.
#[derive(Debug, Default)]
struct Recovered {
    queued: u64,
    invalid_lines: u64,
    missing_jobs: u64,
}

/// Recovers from Gladly what did not arrive by webhook.
pub(crate) struct Backfill {
    store: Arc<BackfillStore>,
    gladly: Arc<Gladly>,
    events: Arc<Queue>,
    clock: Clock,
}

impl Backfill {
    pub(crate) fn new(
        store: Arc<BackfillStore>,
        gladly: Arc<Gladly>,
        events: Arc<Queue>,
        clock: Clock,
    ) -> Self {
        Self { store, gladly, events, clock }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether the schedule may continue: after a failure, Gladly is not called again before the
    /// webhook monitor's interval.
    pub(crate) fn is_due(&self, source: Source) -> bool {
        let failed_at = &self.store.recovery(source).failed_at;
        is_due(*failed_at.lock().unwrap_or_else(PoisonError::into_inner), self.now())
    }

    /// Queues the events of a range, as far as time allows.
    pub(crate) async fn backfill(
        &self,
        from: Timestamp,
        to: Timestamp,
        time_left: Duration,
    ) -> Result<Backfilled, ControllerError> {
        let now = self.now();
        let (to, oldest) = (to.min(now), now - EVENTS_WINDOW);
        let begins = from.max(oldest).min(to);
        if from >= to || to <= oldest {
            return Err(ControllerError::NoRange("the last 24 hours"));
        }
        self.begin(Source::Events, begins, to, begins, begins > from, time_left).await
    }

    /// Queues an event for each conversation of Gladly's exports of a range, as far as time allows.
    pub(crate) async fn import(
        &self,
        from: Timestamp,
        to: Timestamp,
        time_left: Duration,
    ) -> Result<Backfilled, ControllerError> {
        let until = Instant::now() + time_left;
        let now = self.now();
        let (to, oldest) = (to.min(now), now - EXPORTS_WINDOW);
        let begins = from.max(oldest).min(to);
        if from >= to || to <= oldest {
            return Err(ControllerError::NoRange("the last 14 days"));
        }
        let jobs = self.gladly.exports(begins, &ControllerPermission).await?;
        let first = jobs.iter().map(|job| job.parameters.start_at).min();
        if !jobs.iter().any(|job| is_wanted(job, begins, to)) {
            return Err(ControllerError::NoRange("what Gladly has exported in the last 14 days"));
        }
        let exported = first.map_or(begins, |first| first.max(begins));
        let time_left = until.saturating_duration_since(Instant::now());
        self.begin(Source::Exports, begins, to, exported, exported > from, time_left).await
    }

    /// Records a range and begins with it; it stays recorded if this fails.
    async fn begin(
        &self,
        source: Source,
        begins: Timestamp,
        to: Timestamp,
        from: Timestamp,
        cut: bool,
        time_left: Duration,
    ) -> Result<Backfilled, ControllerError> {
        let began = self.now();
        let document = &self.store.recovery(source).document;
        document.update(|ranges| ranges.add(begins, Some(to))).await?;
        let recovered = self.recover(source, time_left).await;
        let Recovered { queued, invalid_lines, missing_jobs } =
            recovered.map_err(|err| ControllerError::Noted(Box::new(err)))?;
        let left = document.read().await?;
        let settling = left.within(begins, to).all(|left| left.from >= began - EVENT_LIST_LAG);
        let done = left.within(begins, to).next().is_none();
        Ok(Backfilled { queued, from, to, cut, done, invalid_lines, missing_jobs, settling })
    }

    /// Continues with what is recorded, as far as time allows.
    pub(crate) async fn resume(
        &self,
        source: Source,
        time_left: Duration,
    ) -> Result<(), ControllerError> {
        self.recover(source, time_left).await.map(drop)
    }

    /// Recovers what is recorded, unless another invocation does, which then also finds new ranges.
    async fn recover(
        &self,
        source: Source,
        time_left: Duration,
    ) -> Result<Recovered, ControllerError> {
        let until = Instant::now() + time_left;
        let pending = self.store.recovery(source);
        if pending.document.read().await?.is_empty() {
            return Ok(Recovered::default());
        }
        let Some(held) = self.store.lease.acquire(time_left + RESERVE).await? else {
            info!(source = ?source, "another invocation is recovering events");
            return Ok(Recovered::default());
        };
        let mut recovery = Recovery {
            document: &pending.document,
            gladly: &self.gladly,
            clock: &self.clock,
            sender: Sender::new(&self.events),
            until,
            moved: false,
            invalid_lines: 0,
            missing_jobs: 0,
        };
        let ended = match source {
            Source::Events => recovery.events().await,
            Source::Exports => recovery.exports().await,
        };
        self.store.lease.release(held).await;
        let Recovery { moved, invalid_lines, missing_jobs, sender, .. } = recovery;
        let count = sender.queued;
        if count > 0 {
            info!(source = ?source, count, "backfill queued events");
        }
        if invalid_lines > 0 {
            warn!(source = ?source, count = invalid_lines, "ignored malformed lines");
        }
        let failed = matches!(ended, Err(ControllerError::Gladly(_))) && !moved;
        *pending.failed_at.lock().unwrap_or_else(PoisonError::into_inner) =
            failed.then(|| self.now());
        ended.map(|()| Recovered { queued: count, invalid_lines, missing_jobs })
    }
}

/// The result of reading an export job's file.
enum FileProgress {
    /// It was read to its end, or no longer exists.
    Complete,
    /// The invocation's time is over.
    Partial,
    /// Another invocation changed the range.
    Changed,
}

impl Recovery<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits for a future; `None` if time is over first.
    async fn in_time<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.until, future).await.ok()
    }

    /// Advances the mark of a range, before which all events are durable. `None` if the range has
    /// changed.
    async fn advance(
        &mut self,
        began: &Range,
        from: Timestamp,
        job: Option<JobMark>,
    ) -> Result<Option<Range>, ControllerError> {
        let change = |ranges: &mut Ranges| ranges.advance(began, from, job.clone());
        let left = self.document.update(change).await?;
        self.moved |= left.is_some();
        Ok(left)
    }

    /// Queues what Gladly lists, oldest first.
    async fn events(&mut self) -> Result<(), ControllerError> {
        // The newest events may not be listed yet.
        let settled = self.clock.now() - EVENT_LIST_LAG;
        while !self.is_over() {
            let oldest = self.clock.now() - EVENTS_WINDOW;
            let ranges = self.document.read().await?;
            let is_listed = |range: &&Range| {
                range.end() <= oldest || range.from.max(oldest) < range.end().min(settled)
            };
            let Some(range) = ranges.iter().find(is_listed) else { break };
            let (begins, end) = (range.from.max(oldest), range.end().min(settled));
            if begins > range.from {
                error!(
                    from = %range.from,
                    before = %begins.min(range.end()),
                    "events are outside Gladly's 24 h window and are lost"
                );
            }
            if begins >= end {
                self.advance(range, range.end(), None).await?;
            } else {
                self.list(range.clone(), begins, end).await?;
            }
        }
        Ok(())
    }

    /// Queues what Gladly lists of a range, and records the progress, also if the list is cut off.
    async fn list(
        &mut self,
        mut range: Range,
        begins: Timestamp,
        end: Timestamp,
    ) -> Result<(), ControllerError> {
        let Some(lines) =
            self.in_time(self.gladly.events(begins, end, &ControllerPermission)).await
        else {
            return Ok(());
        };
        let mut lines = lines?;
        let (mut reached, mut step) = (begins, self.sender.queued + EVENTS_PER_MARK);
        let ended = loop {
            if self.is_over() {
                break Ok(reached);
            }
            let line = match self.in_time(lines.next()).await {
                None => break Ok(reached),
                Some(Ok(None)) => break Ok(end),
                Some(Ok(Some(line))) => line,
                Some(Err(err)) => break Err(err),
            };
            match Line::read(&line, self.clock.now()) {
                Line::Event(message, recorded) => {
                    self.sender.add(message).await?;
                    // The list is ordered by this time. A time outside the requested range is not in
                    // order, and would make the mark skip what follows.
                    let recorded = recorded.filter(|at| (begins..=end).contains(at));
                    reached = recorded.unwrap_or(reached);
                }
                Line::Ignored => {}
                Line::Invalid => self.invalid_lines += 1,
            }
            if self.sender.queued >= step {
                self.sender.flush().await?;
                step = self.sender.queued + EVENTS_PER_MARK;
                let Some(left) = self.advance(&range, reached, None).await? else {
                    return Ok(());
                };
                range = left;
            }
        };
        self.invalid_lines += lines.too_long();
        self.sender.flush().await?;
        let reached = *ended.as_ref().unwrap_or(&reached);
        if reached > range.from {
            self.advance(&range, reached, None).await?;
        }
        ended.map(drop).map_err(|err| GladlyError::Unreachable(err).into())
    }

    /// Queues the conversations of Gladly's exports, in the order of the exports' ends.
    async fn exports(&mut self) -> Result<(), ControllerError> {
        while !self.is_over() {
            let oldest = self.clock.now() - EXPORTS_WINDOW;
            let Some(range) = self.document.read().await?.iter().next().cloned() else { break };
            if range.from < oldest {
                error!(
                    from = %range.from,
                    before = %oldest.min(range.end()),
                    "exports are outside Gladly's 14 days and are lost"
                );
            }
            let since = range.from.max(oldest);
            let Some(jobs) = self.in_time(self.gladly.exports(since, &ControllerPermission)).await
            else {
                break;
            };
            let mut jobs = jobs?;
            jobs.retain(|job| is_wanted(job, range.from, range.end()));
            if !self.jobs(range, &jobs).await? {
                break;
            }
        }
        Ok(())
    }

    /// Queues the conversations of a range's export jobs. `false` once time is over.
    async fn jobs(&mut self, mut range: Range, jobs: &[Export]) -> Result<bool, ControllerError> {
        let end = range.end();
        for (index, job) in jobs.iter().enumerate() {
            if self.is_over() {
                return Ok(false);
            }
            match self.export(&mut range, &job.id).await? {
                FileProgress::Complete => {}
                FileProgress::Partial => return Ok(false),
                FileProgress::Changed => return Ok(true),
            }
            // The mark means that every export job that ends before it is done.
            let ends = job.parameters.end_at;
            let is_last = jobs.get(index + 1).is_none_or(|next| next.parameters.end_at > ends);
            if is_last && ends < end {
                let Some(left) = self.advance(&range, ends, None).await? else { return Ok(true) };
                range = left;
            }
        }
        self.advance(&range, end, None).await?;
        Ok(true)
    }

    /// Queues the conversations of one export job, from where an earlier invocation ended.
    async fn export(
        &mut self,
        range: &mut Range,
        job: &Id,
    ) -> Result<FileProgress, ControllerError> {
        let offset =
            range.job.as_ref().filter(|mark| mark.id == *job).map_or(0, |mark| mark.offset);
        let Some(lines) =
            self.in_time(self.gladly.exported_items(job, offset, &ControllerPermission)).await
        else {
            return Ok(FileProgress::Partial);
        };
        let mut lines = match lines {
            Ok(lines) => lines,
            Err(GladlyError::UnexpectedStatus(404 | 410)) => {
                self.missing_jobs += 1;
                error!(gladly.job_id = %job, "export job no longer exists; its conversations are lost");
                return Ok(FileProgress::Complete);
            }
            // There is nothing more.
            Err(GladlyError::UnexpectedStatus(416)) if offset > 0 => {
                return Ok(FileProgress::Complete);
            }
            Err(err) => return Err(err.into()),
        };
        let mut seen = BTreeMap::<Id, LastActivity>::new();
        let ended = loop {
            if self.is_over() {
                break Ok(FileProgress::Partial);
            }
            let line = match self.in_time(lines.next()).await {
                None => break Ok(FileProgress::Partial),
                Some(Ok(None)) => break Ok(FileProgress::Complete),
                Some(Ok(Some(line))) => line,
                Some(Err(err)) => break Err(err),
            };
            let line = String::from_utf8_lossy(&line);
            let line = trimmed(&line);
            match LastActivity::read(line) {
                Some((conversation, activity)) if activity.is_in(range) => {
                    let last = seen.entry(conversation).or_insert_with(|| activity.clone());
                    if activity.at > last.at {
                        *last = activity;
                    }
                }
                Some(_) => {}
                None => self.invalid_lines += u64::from(!line.is_empty()),
            }
            if seen.len() >= MAX_COLLECTED {
                self.send(&mut seen).await?;
                let mark = JobMark { id: job.clone(), offset: lines.position() };
                let Some(left) = self.advance(range, range.from, Some(mark)).await? else {
                    return Ok(FileProgress::Changed);
                };
                *range = left;
            }
        };
        self.invalid_lines += lines.too_long();
        self.send(&mut seen).await?;
        if !matches!(ended, Ok(FileProgress::Complete)) && lines.position() > offset {
            let mark = JobMark { id: job.clone(), offset: lines.position() };
            if let Some(left) = self.advance(range, range.from, Some(mark)).await? {
                *range = left;
            }
        }
        ended.map_err(|err| GladlyError::Unreachable(err).into())
    }

    /// Queues an event for each conversation.
    async fn send(&mut self, seen: &mut BTreeMap<Id, LastActivity>) -> Result<(), ControllerError> {
        for (conversation, LastActivity { customer, at }) in std::mem::take(seen) {
            let mut event = json!({
                "type": "RELAY/IMPORTED", "content": {"conversationId": conversation},
            });
            if let Some(customer) = customer {
                event["content"]["customerId"] = json!(customer);
            }
            if let Some(at) = at {
                event["timestamp"] = json!(at.to_string());
            }
            let event = event.to_string();
            if let Line::Event(message, _) = Line::read(event.as_bytes(), self.clock.now()) {
                self.sender.add(message).await?;
            }
        }
        self.sender.flush().await?;
        Ok(())
    }
}

/// Whether an export job overlaps a range.
fn is_wanted(job: &Export, from: Timestamp, to: Timestamp) -> bool {
    let Exported { start_at, end_at } = job.parameters;
    let overlaps = start_at < to && end_at > from;
    overlaps && job.files.iter().any(|file| file == EXPORTED_ITEMS)
}

/// The last activity in a conversation.
#[derive(Debug, Clone)]
struct LastActivity {
    customer: Option<String>,
    /// `None` if it cannot be read.
    at: Option<Timestamp>,
}

impl LastActivity {
    /// Reads a line of an export. Only the conversation's id is required.
    fn read(line: &str) -> Option<(Id, Self)> {
        #[derive(Deserialize)]
        struct Item<'a>(#[serde(borrow)] HashMap<Cow<'a, str>, &'a RawValue>);
        let Item(fields) = serde_json::from_str(line).ok()?;
        let text = |name: &str| serde_json::from_str::<String>(fields.get(name)?.get()).ok();
        let conversation = text("conversationId")?.parse().ok()?;
        let at = text("timestamp").and_then(|at| instant(&at));
        Some((conversation, Self { customer: text("customerId"), at }))
    }

    /// Whether it is in the requested range. An unknown time is.
    fn is_in(&self, range: &Range) -> bool {
        self.at.is_none_or(|at| (range.since..range.end()).contains(&at))
    }
}

/// Reads a time whose fraction of a second may have more than nine digits.
fn instant(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let (whole, rest) = text.split_once('.')?;
        let zone = rest.find(|character: char| !character.is_ascii_digit())?;
        format!("{whole}.{}{}", rest.get(..zone.min(9))?, &rest[zone..]).parse().ok()
    })
}

/// A line without surrounding whitespace and without a byte order mark.
fn trimmed(line: &str) -> &str {
    line.trim_start_matches('\u{feff}').trim()
}

/// A line of Gladly's list, as the queue needs it.
enum Line {
    /// A queue message, and when the event was recorded.
    Event(Message, Option<Timestamp>),
    /// Not about a conversation, or empty: ingest-fn would not queue it either.
    Ignored,
    /// Not an event.
    Invalid,
}

impl Line {
    fn read(line: &[u8], now: Timestamp) -> Self {
        let line = String::from_utf8_lossy(line);
        let line = replace_lone_surrogates(trimmed(&line).to_owned());
        if line.is_empty() {
            return Self::Ignored;
        }
        match WebhookEvent::read(&line) {
            Ok(WebhookEvent::Event(event)) if event.conversation.is_some() => {
                let recorded = event.timestamp.and_then(|raw| serde_json::from_str(raw.get()).ok());
                let recorded = recorded.and_then(|at: String| instant(&at));
                let message = QueueMessage::wrap(&line, now, Origin::Backfill);
                let Ok(body) = message.and_then(|message| message.to_json()) else {
                    return Self::Invalid;
                };
                let event_type = QueueMessage::type_attribute(&event.event_type);
                let message = Message::new(body, "type", &event_type);
                message.map_or(Self::Invalid, |message| Self::Event(message, recorded))
            }
            Ok(_) => Self::Ignored,
            Err(_) => Self::Invalid,
        }
    }
}
