//! Gladly's exports of the last 14 days: an event for each of their conversations, queued as far as time allows.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use shared::Id;
use tracing::error;

use crate::{
    client::gladly::{EXPORTED_ITEMS, Export, Exported, GladlyError},
    controller::{
        backfill::{
            line::{Line, instant, trimmed},
            ranges::{JobMark, Range},
            recovery::Recovery,
        },
        error::ControllerError,
    },
    gate::ControllerPermission,
};

/// How long Gladly lists an export job, less a minute for the call: it rejects older ranges.
pub(super) const EXPORTS_WINDOW: SignedDuration = SignedDuration::from_mins(14 * 24 * 60 - 1);
/// How many conversations of an export are collected before they are queued.
const MAX_COLLECTED: usize = 100_000;

/// The result of reading an export job's file.
enum FileProgress {
    /// It was read to its end, or no longer exists.
    Complete,
    /// The invocation's time is over.
    Partial,
    /// Another invocation changed the range.
    Changed,
}

/// Queues the conversations of Gladly's exports, in the order of the exports' ends.
pub(super) async fn recover(recovery: &mut Recovery<'_>) -> Result<(), ControllerError> {
    while !recovery.is_over() {
        let oldest = recovery.clock.now() - EXPORTS_WINDOW;
        let Some(range) = recovery.document.read().await?.iter().next().cloned() else { break };
        if range.from < oldest {
            error!(
                from = %range.from,
                before = %oldest.min(range.end()),
                "exports are outside Gladly's 14 days and are lost"
            );
        }
        let since = range.from.max(oldest);
        let Some(jobs) =
            recovery.in_time(recovery.gladly.exports(since, &ControllerPermission)).await
        else {
            break;
        };
        let mut jobs = jobs?;
        jobs.retain(|job| is_wanted(job, range.from, range.end()));
        if !read_jobs(recovery, range, &jobs).await? {
            break;
        }
    }
    Ok(())
}

/// Queues the conversations of a range's export jobs. `false` once time is over.
async fn read_jobs(
    recovery: &mut Recovery<'_>,
    mut range: Range,
    jobs: &[Export],
) -> Result<bool, ControllerError> {
    let end = range.end();
    for (index, job) in jobs.iter().enumerate() {
        if recovery.is_over() {
            return Ok(false);
        }
        match read_job(recovery, &mut range, &job.id).await? {
            FileProgress::Complete => {}
            FileProgress::Partial => return Ok(false),
            FileProgress::Changed => return Ok(true),
        }
        // The mark means that every export job that ends before it is done.
        let ends = job.parameters.end_at;
        let is_last = jobs.get(index + 1).is_none_or(|next| next.parameters.end_at > ends);
        if is_last && ends < end {
            let Some(left) = recovery.advance(&range, ends, None).await? else { return Ok(true) };
            range = left;
        }
    }
    recovery.advance(&range, end, None).await?;
    Ok(true)
}

/// Queues the conversations of one export job, from where an earlier invocation ended.
async fn read_job(
    recovery: &mut Recovery<'_>,
    range: &mut Range,
    job: &Id,
) -> Result<FileProgress, ControllerError> {
    let offset = range.job.as_ref().filter(|mark| mark.id == *job).map_or(0, |mark| mark.offset);
    let Some(lines) =
        recovery.in_time(recovery.gladly.exported_items(job, offset, &ControllerPermission)).await
    else {
        return Ok(FileProgress::Partial);
    };
    let mut lines = match lines {
        Ok(lines) => lines,
        Err(GladlyError::UnexpectedStatus(404 | 410)) => {
            recovery.missing_jobs += 1;
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
        if recovery.is_over() {
            break Ok(FileProgress::Partial);
        }
        let line = match recovery.in_time(lines.next()).await {
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
            None => recovery.invalid_lines += u64::from(!line.is_empty()),
        }
        if seen.len() >= MAX_COLLECTED {
            send(recovery, &mut seen).await?;
            let mark = JobMark { id: job.clone(), offset: lines.position() };
            let Some(left) = recovery.advance(range, range.from, Some(mark)).await? else {
                return Ok(FileProgress::Changed);
            };
            *range = left;
        }
    };
    recovery.invalid_lines += lines.too_long();
    send(recovery, &mut seen).await?;
    if !matches!(ended, Ok(FileProgress::Complete)) && lines.position() > offset {
        let mark = JobMark { id: job.clone(), offset: lines.position() };
        if let Some(left) = recovery.advance(range, range.from, Some(mark)).await? {
            *range = left;
        }
    }
    ended.map_err(|err| GladlyError::Unreachable(err).into())
}

/// Queues an event for each conversation.
async fn send(
    recovery: &mut Recovery<'_>,
    seen: &mut BTreeMap<Id, LastActivity>,
) -> Result<(), ControllerError> {
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
        if let Line::Event(message, _) = Line::read(event.as_bytes(), recovery.clock.now(), false) {
            recovery.sender.add(message).await?;
        }
    }
    recovery.sender.flush().await?;
    Ok(())
}

/// Whether an export job overlaps a range.
pub(super) fn is_wanted(job: &Export, from: Timestamp, to: Timestamp) -> bool {
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
