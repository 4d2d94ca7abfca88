//! The tasks that extractor-fn can be invoked with by hand, and the documents that it answers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{BreakerState, Id, QuarantineReason};

/// The version of the documents: raised by a change that another version of the program would
/// misread.
pub const DOCUMENT_VERSION: u32 = 1;

/// A task of the controller, from EventBridge Scheduler or by hand: the invocation's payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "lowercase")]
pub enum Task {
    /// Reconciles everything, every minute.
    Reconcile,
    /// Checks the webhook at Gladly now.
    Watch,
    /// Reports the current state: a [`Status`].
    Status,
    /// Lists the quarantine: a [`QuarantineList`].
    Quarantine,
    /// One quarantined message with its body: a [`QuarantinedBody`].
    Show {
        /// Its [`QuarantineEntry::id`].
        id: String,
    },
    /// Sends quarantined events back into the events queue: a [`Redriven`].
    Redrive(Selection),
    /// Deletes quarantined messages: a [`Discarded`].
    Discard(Selection),
    /// Queues what Gladly lists of a range: a [`Backfilled`].
    Backfill(RecoveryRange),
    /// Queues the conversations of Gladly's exports of a range: a [`Backfilled`].
    Import(RecoveryRange),
}

/// Which quarantined messages; without any condition all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selection {
    /// The one with this [`QuarantineEntry::id`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Those with this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<QuarantineReason>,
    /// Those about this conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<Id>,
    /// At most this many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Only counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// The range of a backfill or an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RecoveryRange {
    /// Where it begins; required.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Timestamp>,
    /// Where it ends: now, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
    /// Only counts what would be queued.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

/// What a task answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<T> {
    /// [`DOCUMENT_VERSION`] of the function.
    pub v: u32,
    /// The version of the function.
    pub relay_version: String,
    /// The result.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Document<T> {
    /// A document of this version.
    pub fn new(body: T) -> Self {
        Self { v: DOCUMENT_VERSION, relay_version: env!("CARGO_PKG_VERSION").into(), body }
    }
}

/// Whether extraction runs, or what holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Extraction {
    /// It runs, or is about to.
    Running,
    /// The operator's pause holds it.
    Paused,
    /// The circuit breaker holds it.
    Breaker,
}

/// The current state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether extraction runs.
    pub state: Extraction,
    /// Who paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why extraction is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when the state is what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the pause ends automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// The event source mapping's state, as Lambda names it.
    pub mapping: String,
    /// Events in the events queue, in flight and delayed ones included.
    pub backlog: u64,
    /// Those of them that were received and not yet settled.
    pub in_flight: u64,
    /// Those of them that were sent with a delay that has not passed.
    #[serde(default)]
    pub delayed: u64,
    /// Messages in the quarantine queue.
    pub quarantined: u64,
    /// Their reasons, as far as one scan found them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined_by_reason: Option<BTreeMap<String, u64>>,
    /// The most that the oldest waiting event can be old.
    pub oldest_event_age_seconds: u64,
    /// The least that is left until a waiting event could expire.
    pub expires_in_seconds: u64,
    /// About how long forwarding all of them takes.
    pub drain_seconds: u64,
    /// Whether held events are renewed before they expire.
    #[serde(default)]
    pub renews: bool,
    /// The circuit breaker, unless it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerState>,
    /// The webhook at Gladly, as last checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookHealth>,
    /// What a backfill or an import has still to queue.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoveries: Vec<PendingRecovery>,
}

/// The webhook's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WebhookHealth {
    /// Whether Gladly sends.
    pub enabled: bool,
    /// When Gladly was asked.
    pub checked_at: Timestamp,
    /// Gladly has no webhook with this relay's URL.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// When Gladly disabled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_at_due_to_retry_limit: Option<Timestamp>,
    /// The required subscriptions that it lacks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_events: Vec<String>,
}

impl WebhookHealth {
    /// Whether it is enabled with all required subscriptions.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.enabled && self.missing_events.is_empty()
    }
}

/// Where events are recovered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoverySource {
    /// Gladly's list of the last 24 hours.
    Backfill,
    /// Gladly's exports of the last 14 days.
    Import,
}

/// A range that is still to be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRecovery {
    /// Where from.
    pub source: RecoverySource,
    /// Where what is left begins.
    pub from: Timestamp,
    /// Where it ends; absent while the gap goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

/// The messages in quarantine, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineList {
    /// How many there are, by SQS's approximate count.
    pub total: u64,
    /// The first 1,000 of them.
    pub messages: Vec<QuarantineEntry>,
}

/// A message in quarantine, without the event's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineEntry {
    /// The start of its body's SHA-256, in hexadecimal: the same after a renewal.
    pub id: String,
    /// The reason's code.
    pub reason: String,
    /// When the relay received the original.
    pub received_at: Timestamp,
    /// What quarantined it: a function, or SQS itself.
    pub origin: String,
    /// A description that repeats none of the content.
    pub detail: String,
    /// The event's type, if it is an event.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The event's id, if it is an event that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The event's conversation, if it is an event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// Whether part of the original is missing, so that it can never be redriven.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One message in quarantine with its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedBody {
    /// What is known of it.
    #[serde(flatten)]
    pub entry: QuarantineEntry,
    /// What was quarantined: as a text, or in base64.
    pub body: String,
    /// `base64` if the body is not a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// The result of a redrive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redriven {
    /// How many went back into the events queue; with `dry_run`, would go.
    pub redriven: u64,
    /// Truncated, or still not valid events.
    pub stayed: u64,
    /// Others remain, for lack of time or beyond the requested maximum.
    pub more: bool,
}

/// The result of a discard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discarded {
    /// How many were deleted; with `dry_run`, would be.
    pub discarded: u64,
    /// Others remain, for lack of time or beyond the requested maximum.
    pub more: bool,
}

/// The result of a backfill or an import so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backfilled {
    /// How many events were queued; with `dry_run`, would be.
    pub queued: u64,
    /// Where the range begins at Gladly.
    pub from: Timestamp,
    /// Where it ends.
    pub to: Timestamp,
    /// Part of the requested range is no longer at Gladly.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Nothing is left to do; otherwise the controller continues every minute.
    pub done: bool,
    /// Only events of the last moments are left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub settling: bool,
    /// Gladly's lines that cannot be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub invalid_lines: u64,
    /// Export jobs that no longer exist.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missing_jobs: u64,
    /// Why nothing more could be queued now: the range is recorded, and the controller tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postponed: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
