//! One invocation's work on one source, within its time.

use jiff::Timestamp;
use shared::Clock;
use tokio::time::{Instant, timeout_at};

use crate::{
    client::gladly::Gladly,
    controller::{
        backfill::{
            document::Document,
            ranges::{JobMark, Range, Ranges},
            sender::Sender,
        },
        error::ControllerError,
    },
};

/// One invocation's work on one source.
pub(super) struct Recovery<'a> {
    pub(super) document: &'a Document,
    pub(super) gladly: &'a Gladly,
    pub(super) clock: &'a Clock,
    pub(super) sender: Sender<'a>,
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
