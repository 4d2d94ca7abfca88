//! Recovers what Gladly did not send: events of a gap, and conversations of its exports, are read
//! from Gladly and queued as if they had come by webhook.
//!
//! What is still to be done is in two parameters, one for events and one for exports, so that any
//! invocation continues where another ended or crashed ([`document`] explains why no range is lost).
//! A mark advances only after everything before it is durable in the queue. Repeats are harmless:
//! deliveries are upserts, and coverage makes most of them cheap.

pub(crate) mod document;
mod exports;
pub(crate) mod lease;
mod line;
mod list;
pub(crate) mod ranges;
mod recovery;
mod sender;

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_ssm::Client;
use jiff::Timestamp;
use shared::{Backfilled, Clock, PendingRecovery, RecoverySource, error_chain};
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use crate::{
    client::{gladly::Gladly, sqs::Queue},
    controller::{
        backfill::{
            document::Document,
            exports::{EXPORTS_WINDOW, is_wanted},
            lease::Lease,
            list::{EVENT_LIST_LAG, EVENTS_WINDOW},
            recovery::{Recovered, Recovery},
            sender::Sender,
        },
        error::ControllerError,
        schedule::{RESERVE, is_due},
    },
    gate::ControllerPermission,
};

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

    /// What is still to be queued, of both sources.
    pub(crate) async fn pending(&self) -> Result<Vec<PendingRecovery>, ControllerError> {
        let mut pending = Vec::new();
        for (source, name) in
            [(Source::Events, RecoverySource::Backfill), (Source::Exports, RecoverySource::Import)]
        {
            let ranges = self.store.recovery(source).document.read().await?;
            pending.extend(ranges.iter().map(|range| PendingRecovery {
                source: name,
                from: range.from,
                to: (range.end() < Timestamp::MAX).then(|| range.end()),
            }));
        }
        Ok(pending)
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
        dry_run: bool,
        time_left: Duration,
    ) -> Result<Backfilled, ControllerError> {
        let now = self.now();
        let (to, oldest) = (to.min(now), now - EVENTS_WINDOW);
        let begins = from.max(oldest).min(to);
        if from >= to || to <= oldest {
            return Err(ControllerError::NoRange("the last 24 hours"));
        }
        let requested = Requested { begins, to, from: begins, cut: begins > from, dry_run };
        self.begin(Source::Events, requested, time_left).await
    }

    /// Queues an event for each conversation of Gladly's exports of a range, as far as time allows.
    pub(crate) async fn import(
        &self,
        from: Timestamp,
        to: Timestamp,
        dry_run: bool,
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
        let requested = Requested { begins, to, from: exported, cut: exported > from, dry_run };
        self.begin(Source::Exports, requested, time_left).await
    }

    /// Records a range and begins with it; it stays recorded if that fails. A dry run records nothing,
    /// and only counts.
    async fn begin(
        &self,
        source: Source,
        requested: Requested,
        time_left: Duration,
    ) -> Result<Backfilled, ControllerError> {
        let Requested { begins, to, from, cut, dry_run } = requested;
        let began = self.now();
        let scratch = dry_run.then(|| Document::in_memory(begins, to));
        let document = scratch.as_ref().unwrap_or(&self.store.recovery(source).document);
        let recovered = if dry_run {
            self.work(source, document, Sender::counting(), time_left).await.1
        } else {
            document.update(|ranges| ranges.add(begins, Some(to))).await?;
            self.recover(source, time_left).await
        };
        let (recovered, postponed) = match recovered {
            Ok(recovered) => (recovered, None),
            Err(err) if dry_run => return Err(err),
            Err(err) => (Recovered::default(), Some(error_chain(&err))),
        };
        let Recovered { queued, invalid_lines, missing_jobs } = recovered;
        let left = document.read().await?;
        let settling = left.within(begins, to).all(|left| left.from >= began - EVENT_LIST_LAG);
        let done = left.within(begins, to).next().is_none();
        Ok(Backfilled {
            queued,
            from,
            to,
            cut,
            done,
            settling: settling && !done,
            invalid_lines,
            missing_jobs,
            postponed,
        })
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
        let sender = Sender::new(&self.events);
        let left = until.saturating_duration_since(Instant::now());
        let (moved, ended) = self.work(source, &pending.document, sender, left).await;
        self.store.lease.release(held).await;
        let failed = matches!(ended, Err(ControllerError::Gladly(_))) && !moved;
        *pending.failed_at.lock().unwrap_or_else(PoisonError::into_inner) =
            failed.then(|| self.now());
        ended
    }

    /// Recovers what a document holds. Returns whether any mark has advanced, and the result.
    async fn work<'a>(
        &'a self,
        source: Source,
        document: &'a Document,
        sender: Sender<'a>,
        time_left: Duration,
    ) -> (bool, Result<Recovered, ControllerError>) {
        let mut recovery = Recovery {
            document,
            gladly: &self.gladly,
            clock: &self.clock,
            sender,
            until: Instant::now() + time_left,
            moved: false,
            invalid_lines: 0,
            missing_jobs: 0,
        };
        let ended = match source {
            Source::Events => list::recover(&mut recovery).await,
            Source::Exports => exports::recover(&mut recovery).await,
        };
        let Recovery { moved, invalid_lines, missing_jobs, sender, .. } = recovery;
        let count = sender.queued;
        if count > 0 && !sender.is_counting() {
            info!(source = ?source, count, "backfill queued events");
        }
        if invalid_lines > 0 {
            warn!(source = ?source, count = invalid_lines, "ignored malformed lines");
        }
        (moved, ended.map(|()| Recovered { queued: count, invalid_lines, missing_jobs }))
    }
}

/// A range that was asked for.
#[derive(Clone, Copy)]
struct Requested {
    /// Where the range begins, as far as Gladly keeps it.
    begins: Timestamp,
    to: Timestamp,
    /// Where what Gladly has begins.
    from: Timestamp,
    /// Part of what was asked for is no longer at Gladly.
    cut: bool,
    dry_run: bool,
}
