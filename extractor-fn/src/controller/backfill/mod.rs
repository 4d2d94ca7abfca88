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
            document::{Document, StoreError},
            exports::{EXPORTS_WINDOW, is_wanted},
            lease::Lease,
            list::{EVENT_LIST_LAG, EVENTS_WINDOW},
            ranges::{Range, Ranges},
            recovery::{RangeStore, Recovered, Recovery},
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

    fn recovery(&self, source: RecoverySource) -> &PendingBackfill {
        match source {
            RecoverySource::Backfill => &self.events,
            RecoverySource::Import => &self.exports,
        }
    }

    /// Events of Gladly's list that are still to be queued.
    pub(crate) fn events(&self) -> &Document {
        &self.events.document
    }
}

/// A requested range, as far as Gladly has it.
#[derive(Debug, Clone, Copy)]
struct RequestedRange {
    begins: Timestamp,
    to: Timestamp,
    /// Where Gladly's data begins.
    from: Timestamp,
    /// Part of what was requested is no longer at Gladly.
    cut: bool,
}

/// Recovers from Gladly what did not arrive by webhook.
pub(crate) struct Backfill {
    store: Arc<BackfillStore>,
    gladly: Arc<Gladly>,
    events: Arc<Queue>,
    /// Whether deletions and merges of customers are queued.
    forwards_erasures: bool,
    clock: Clock,
}

impl Backfill {
    pub(crate) fn new(
        store: Arc<BackfillStore>,
        gladly: Arc<Gladly>,
        events: Arc<Queue>,
        forwards_erasures: bool,
        clock: Clock,
    ) -> Self {
        Self { store, gladly, events, forwards_erasures, clock }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether the schedule may continue: after a failure, Gladly is not called again before the
    /// webhook monitor's interval.
    pub(crate) fn is_due(&self, source: RecoverySource) -> bool {
        let failed_at = &self.store.recovery(source).failed_at;
        is_due(*failed_at.lock().unwrap_or_else(PoisonError::into_inner), self.now())
    }

    /// What is still to be queued, from both sources.
    pub(crate) async fn pending(&self) -> Result<Vec<PendingRecovery>, ControllerError> {
        let mut pending = Vec::new();
        for source in [RecoverySource::Backfill, RecoverySource::Import] {
            let ranges = self.store.recovery(source).document.read().await?;
            let left = |range: &Range| PendingRecovery {
                source,
                from: range.from,
                to: (!range.lasts).then_some(range.to),
            };
            pending.extend(ranges.iter().map(left));
        }
        Ok(pending)
    }

    /// Queues the events of a range, as far as time allows; or only counts them.
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
        let range = RequestedRange { begins, to, from: begins, cut: begins > from };
        self.begin(RecoverySource::Backfill, range, dry_run, time_left).await
    }

    /// Queues an event for each conversation of Gladly's exports of a range, as far as time allows; or
    /// only counts them.
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
        let range = RequestedRange { begins, to, from: exported, cut: exported > from };
        self.begin(RecoverySource::Import, range, dry_run, time_left).await
    }

    /// Records a range and begins with it; it stays recorded if this fails. A dry run records nothing.
    async fn begin(
        &self,
        source: RecoverySource,
        range: RequestedRange,
        dry_run: bool,
        time_left: Duration,
    ) -> Result<Backfilled, ControllerError> {
        let began = self.now();
        let RequestedRange { begins, to, from, cut } = range;
        let document = &self.store.recovery(source).document;
        let (recovered, left) = if dry_run {
            let mut ranges = Ranges::default();
            ranges.add(begins, Some(to));
            let store = RangeStore::DryRun(Mutex::new(ranges));
            let (mut recovered, store, _) = self.run(source, store, None, time_left).await;
            if let Some(failure) = recovered.failure.take() {
                return Err(failure);
            }
            (recovered, store.read().await)
        } else {
            document.update(|ranges| ranges.add(begins, Some(to))).await?;
            (self.recover(source, time_left).await, document.read().await)
        };
        let Recovered { queued, invalid_lines, missing_jobs, mut failure } = recovered;
        let (settling, done) = match left {
            Ok(left) => {
                let left: Vec<_> = left.within(begins, to).collect();
                (left.iter().all(|left| left.from >= began - EVENT_LIST_LAG), left.is_empty())
            }
            Err(err) => {
                failure.get_or_insert(err.into());
                (false, false)
            }
        };
        let postponed = failure.map(|err| error_chain(&err));
        if let Some(error) = &postponed {
            warn!(source = ?source, error, "could not recover events; the controller tries again");
        }
        let settling = settling && !done;
        Ok(Backfilled {
            queued,
            from,
            to,
            cut,
            done,
            settling,
            invalid_lines,
            missing_jobs,
            postponed,
        })
    }

    /// Continues with what is recorded, as far as time allows.
    pub(crate) async fn resume(
        &self,
        source: RecoverySource,
        time_left: Duration,
    ) -> Result<(), ControllerError> {
        self.recover(source, time_left).await.failure.map_or(Ok(()), Err)
    }

    /// Recovers what is recorded, unless another invocation does, which then also finds new ranges.
    async fn recover(&self, source: RecoverySource, time_left: Duration) -> Recovered {
        let until = Instant::now() + time_left;
        let pending = self.store.recovery(source);
        let lease = async {
            if pending.document.read().await?.is_empty() {
                return Ok(None);
            }
            let held = self.store.lease.acquire(time_left + RESERVE).await?;
            if held.is_none() {
                info!(source = ?source, "another invocation is recovering events");
            }
            Ok::<_, StoreError>(held)
        };
        let held = match lease.await {
            Ok(Some(held)) => held,
            Ok(None) => return Recovered::default(),
            Err(err) => return Recovered { failure: Some(err.into()), ..Recovered::default() },
        };
        let time_left = until.saturating_duration_since(Instant::now());
        let store = RangeStore::Parameter(&pending.document);
        let (recovered, _, moved) = self.run(source, store, Some(&self.events), time_left).await;
        self.store.lease.release(held).await;
        let Recovered { queued: count, invalid_lines, .. } = recovered;
        if count > 0 {
            info!(source = ?source, count, "backfill queued events");
        }
        if invalid_lines > 0 {
            warn!(source = ?source, count = invalid_lines, "ignored malformed lines");
        }
        let failed = matches!(recovered.failure, Some(ControllerError::Gladly(_))) && !moved;
        *pending.failed_at.lock().unwrap_or_else(PoisonError::into_inner) =
            failed.then(|| self.now());
        recovered
    }

    /// Works on ranges, as far as time allows. Without a queue, events are only counted. Also returns
    /// the ranges, and whether any of their marks has advanced.
    async fn run<'a>(
        &'a self,
        source: RecoverySource,
        ranges: RangeStore<'a>,
        queue: Option<&'a Queue>,
        time_left: Duration,
    ) -> (Recovered, RangeStore<'a>, bool) {
        let mut recovery = Recovery {
            document: ranges,
            gladly: &self.gladly,
            clock: &self.clock,
            sender: Sender::new(queue),
            forwards_erasures: self.forwards_erasures,
            until: Instant::now() + time_left,
            moved: false,
            invalid_lines: 0,
            missing_jobs: 0,
        };
        let ended = match source {
            RecoverySource::Backfill => list::recover(&mut recovery).await,
            RecoverySource::Import => exports::recover(&mut recovery).await,
        };
        let Recovery { document, moved, invalid_lines, missing_jobs, sender, .. } = recovery;
        let failure = ended.err();
        (Recovered { queued: sender.queued, invalid_lines, missing_jobs, failure }, document, moved)
    }
}
