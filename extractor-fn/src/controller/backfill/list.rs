//! Gladly's list of the events of the last 24 hours, queued as far as time allows.

use jiff::{SignedDuration, Timestamp};
use tracing::error;

use crate::{
    client::gladly::GladlyError,
    controller::{
        backfill::{line::Line, ranges::Range, recovery::Recovery},
        error::ControllerError,
    },
    gate::ControllerPermission,
};

/// How long Gladly lists an event (<https://developer.gladly.com/rest/>), less a minute for the call.
pub(super) const EVENTS_WINDOW: SignedDuration = SignedDuration::from_mins(24 * 60 - 1);
/// How far Gladly's list may lag behind, with a margin for clock skew.
pub(super) const EVENT_LIST_LAG: SignedDuration = SignedDuration::from_secs(25);
/// How many events are queued before the progress is written.
const EVENTS_PER_MARK: u64 = 20_000;

/// Queues what Gladly lists, oldest first.
pub(super) async fn recover(recovery: &mut Recovery<'_>) -> Result<(), ControllerError> {
    // The newest events may not be listed yet.
    let settled = recovery.clock.now() - EVENT_LIST_LAG;
    while !recovery.is_over() {
        let oldest = recovery.clock.now() - EVENTS_WINDOW;
        let ranges = recovery.document.read().await?;
        let is_listed = |range: &&Range| {
            range.end() <= oldest || range.from.max(oldest) < range.end().min(settled)
        };
        let Some(range) = ranges.iter().find(is_listed) else { break };
        let (begins, end) = (range.from.max(oldest), range.end().min(settled));
        if begins > range.from {
            error!(
                from = %range.from,
                before = %begins.min(range.end()),
                "events are outside Gladly's 24 h window and are lost; no import brings deletions of customers among them"
            );
        }
        if begins >= end {
            recovery.advance(range, range.end(), None).await?;
        } else {
            list(recovery, range.clone(), begins, end).await?;
        }
    }
    Ok(())
}

/// Queues what Gladly lists of a range, and records the progress, also if the list is cut off.
async fn list(
    recovery: &mut Recovery<'_>,
    mut range: Range,
    begins: Timestamp,
    end: Timestamp,
) -> Result<(), ControllerError> {
    let with_customers = recovery.forwards_erasures;
    let list = recovery.gladly.events(begins, end, with_customers, &ControllerPermission);
    let Some(lines) = recovery.in_time(list).await else {
        return Ok(());
    };
    let mut lines = lines?;
    let (mut reached, mut step) = (begins, recovery.sender.queued + EVENTS_PER_MARK);
    let ended = loop {
        if recovery.is_over() {
            break Ok(reached);
        }
        let line = match recovery.in_time(lines.next()).await {
            None => break Ok(reached),
            Some(Ok(None)) => break Ok(end),
            Some(Ok(Some(line))) => line,
            Some(Err(err)) => break Err(err),
        };
        match Line::read(&line, recovery.clock.now(), recovery.forwards_erasures) {
            Line::Event(message, recorded) => {
                recovery.sender.add(message).await?;
                // The list is ordered by this time. A time outside the requested range is not in
                // order, and would make the mark skip what follows.
                let recorded = recorded.filter(|at| (begins..=end).contains(at));
                reached = recorded.unwrap_or(reached);
            }
            Line::Ignored => {}
            Line::Invalid => recovery.invalid_lines += 1,
        }
        if recovery.sender.queued >= step {
            recovery.sender.flush().await?;
            step = recovery.sender.queued + EVENTS_PER_MARK;
            let Some(left) = recovery.advance(&range, reached, None).await? else {
                return Ok(());
            };
            range = left;
        }
    };
    recovery.invalid_lines += lines.too_long();
    recovery.sender.flush().await?;
    let reached = *ended.as_ref().unwrap_or(&reached);
    if reached > range.from {
        recovery.advance(&range, reached, None).await?;
    }
    ended.map(drop).map_err(|err| GladlyError::Unreachable(err).into())
}
