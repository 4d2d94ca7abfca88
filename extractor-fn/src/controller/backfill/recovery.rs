//! One invocation's work on one source, within its time.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use shared::Clock;
use tokio::time::{Instant, timeout_at};

use crate::{
    client::gladly::Gladly,
    controller::{
        backfill::{
            document::{Document, StoreError},
            ranges::{JobMark, Range, Ranges},
            sender::Sender,
        },
        error::ControllerError,
    },
};

/// Where the ranges are, and the progress is recorded.
pub(super) enum RangeStore<'a> {
    /// In the parameter.
    Parameter(&'a Document),
    /// Only here: a dry run, which changes nothing.
    DryRun(Mutex<Ranges>),
}

impl RangeStore<'_> {
    pub(super) async fn read(&self) -> Result<Ranges, StoreError> {
        match self {
            Self::Parameter(document) => document.read().await,
            Self::DryRun(ranges) => {
                Ok(ranges.lock().unwrap_or_else(PoisonError::into_inner).clone())
            }
        }
    }

    pub(super) async fn update<R>(
        &self,
        change: impl Fn(&mut Ranges) -> R,
    ) -> Result<R, StoreError> {
        match self {
            Self::Parameter(document) => document.update(change).await,
            Self::DryRun(ranges) => {
                Ok(change(&mut ranges.lock().unwrap_or_else(PoisonError::into_inner)))
            }
        }
    }
}

/// One invocation's work on one source.
pub(super) struct Recovery<'a> {
    pub(super) document: RangeStore<'a>,
    pub(super) gladly: &'a Gladly,
    pub(super) clock: &'a Clock,
    pub(super) sender: Sender<'a>,
    /// Whether deletions and merges of customers are queued.
    pub(super) forwards_erasures: bool,
    /// Nothing is begun and nothing waits after this.
    pub(super) until: Instant,
    /// Whether any mark has advanced.
    pub(super) moved: bool,
    pub(super) invalid_lines: u64,
    pub(super) missing_jobs: u64,
}

/// What one invocation recovered.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) queued: u64,
    pub(super) invalid_lines: u64,
    pub(super) missing_jobs: u64,
    /// Why it ended before its time.
    pub(super) failure: Option<ControllerError>,
}

impl Recovery<'_> {
    pub(super) fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits for a future; `None` if time is over first.
    pub(super) async fn in_time<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.until, future).await.ok()
    }

    /// Advances the mark of a range, before which all events are durable. `None` if the range has
    /// changed.
    pub(super) async fn advance(
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
}
