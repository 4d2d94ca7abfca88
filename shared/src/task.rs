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

impl Task {
    /// Its name, as in the payload.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reconcile => "reconcile",
            Self::Watch => "watch",
            Self::Status => "status",
            Self::Quarantine => "quarantine",
            Self::Show { .. } => "show",
            Self::Redrive(_) => "redrive",
            Self::Discard(_) => "discard",
            Self::Backfill(_) => "backfill",
            Self::Import(_) => "import",
        }
    }
}

/// Which quarantined messages: those that meet every condition; without any condition all of them.
///
/// An unknown field is an error: it may be a condition of a later version, without which the selection
/// would be larger than intended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
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
    /// At most this many; all of them, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// Only counts.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Selection {
    /// Whether it has a condition, so that it need not be all of the quarantine. A discard requires one.
    #[must_use]
    pub fn has_condition(&self) -> bool {
        self.id.is_some() || self.reason.is_some() || self.conversation_id.is_some()
    }
}

/// The range of a backfill or an import. An unknown field is an error, as in a [`Selection`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
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
    /// The subscriptions to deletions and merges of customers that it lacks, if those are to be forwarded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_erasures: Vec<String>,
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

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;
    use crate::{OpenState, Upstream};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Writes the value as this JSON, and reads it back from it.
    #[track_caller]
    fn assert_json<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
        value: &T,
        json: Value,
    ) {
        assert_eq!(serde_json::to_value(value).unwrap(), json);
        assert_eq!(serde_json::from_value::<T>(json).unwrap(), *value);
    }

    fn selection() -> Selection {
        Selection {
            id: Some("0123456789abcdef".into()),
            reason: Some(QuarantineReason::NoType),
            conversation_id: Some("c-1".parse().unwrap()),
            max: Some(7),
            dry_run: true,
        }
    }

    #[test]
    fn a_task_is_the_payload_of_its_invocation() {
        let (from, to) = (at("2026-01-02T03:04:05Z"), at("2026-01-02T04:04:05Z"));
        let range = RecoveryRange { from: Some(from), to: Some(to), dry_run: true };
        let selected = json!({
            "id": "0123456789abcdef", "reason": "no-type", "conversationId": "c-1", "max": 7,
            "dryRun": true,
        });
        let with = |task: &str, mut fields: Value| {
            fields["task"] = task.into();
            fields
        };
        for (task, payload) in [
            (Task::Reconcile, json!({"task": "reconcile"})),
            (Task::Watch, json!({"task": "watch"})),
            (Task::Status, json!({"task": "status"})),
            (Task::Quarantine, json!({"task": "quarantine"})),
            (
                Task::Show { id: "0123456789abcdef".into() },
                json!({"task": "show", "id": "0123456789abcdef"}),
            ),
            (Task::Redrive(Selection::default()), json!({"task": "redrive"})),
            (Task::Redrive(selection()), with("redrive", selected.clone())),
            (Task::Discard(selection()), with("discard", selected)),
            (Task::Backfill(RecoveryRange::default()), json!({"task": "backfill"})),
            (
                Task::Backfill(RecoveryRange { from: Some(from), ..RecoveryRange::default() }),
                json!({"task": "backfill", "from": "2026-01-02T03:04:05Z"}),
            ),
            (
                Task::Import(range),
                json!({"task": "import", "from": "2026-01-02T03:04:05Z", "to": "2026-01-02T04:04:05Z", "dryRun": true}),
            ),
        ] {
            assert_eq!(payload["task"], task.name());
            assert_json(&task, payload);
        }
    }

    #[test]
    fn a_condition_of_another_version_is_an_error() {
        for payload in [
            json!({"task": "redrive", "before": "2026-01-02T03:04:05Z"}),
            json!({"task": "discard", "id": "0123456789abcdef", "dryrun": true}),
            json!({"task": "discard", "conversationId": "../c"}),
            json!({"task": "discard", "reason": "boredom"}),
            json!({"task": "backfill", "from": "2026-01-02T03:04:05Z", "dryrun": true}),
            json!({"task": "show"}),
            json!({"task": "dance"}),
            json!({}),
        ] {
            assert!(serde_json::from_value::<Task>(payload.clone()).is_err(), "{payload}");
        }
        // Without a condition that it could miss.
        let status = serde_json::from_value::<Task>(json!({"task": "status", "as": "text"}));
        assert_eq!(status.unwrap(), Task::Status);
    }

    #[test]
    fn only_an_id_a_reason_or_a_conversation_is_a_condition() {
        let none = Selection { max: Some(1), dry_run: true, ..Selection::default() };
        assert!(!none.has_condition());
        let Selection { id, reason, conversation_id, .. } = selection();
        assert!(Selection { id, ..none.clone() }.has_condition());
        assert!(Selection { reason, ..none.clone() }.has_condition());
        assert!(Selection { conversation_id, ..none }.has_condition());
    }

    fn document(body: &Value) -> Value {
        let mut document =
            json!({"v": DOCUMENT_VERSION, "relayVersion": env!("CARGO_PKG_VERSION")});
        document.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        document
    }

    #[test]
    fn a_status_matches_the_contract() {
        let status = Status {
            state: Extraction::Running,
            by: None,
            reason: None,
            since: None,
            until: None,
            mapping: "Enabled".into(),
            backlog: 5,
            in_flight: 1,
            delayed: 2,
            quarantined: 3,
            quarantined_by_reason: None,
            oldest_event_age_seconds: 60,
            expires_in_seconds: 3_600,
            drain_seconds: 4,
            renews: true,
            breaker: None,
            webhook: None,
            recoveries: Vec::new(),
        };
        let least = json!({
            "state": "running", "mapping": "Enabled", "backlog": 5, "inFlight": 1, "delayed": 2,
            "quarantined": 3, "oldestEventAgeSeconds": 60, "expiresInSeconds": 3_600,
            "drainSeconds": 4, "renews": true,
        });
        assert_json(&Document::new(status.clone()), document(&least));
        // Of a function that lacks the fields added since.
        let mut earlier = least;
        for added in ["delayed", "renews"] {
            earlier.as_object_mut().unwrap().remove(added).unwrap();
        }
        assert!(serde_json::from_value::<Status>(earlier).is_ok());

        let breaker = OpenState {
            cause: Upstream::Gladly,
            reason: "HTTP 401".into(),
            since: at("2026-01-02T03:04:05Z"),
            retry_at: at("2026-01-02T03:05:05Z"),
            wait_seconds: 60,
        };
        let webhook = WebhookHealth {
            enabled: false,
            checked_at: at("2026-01-02T03:04:05Z"),
            missing: false,
            disabled_at_due_to_retry_limit: Some(at("2026-01-02T02:04:05Z")),
            missing_events: vec!["CONVERSATION/CLOSED".into()],
            missing_erasures: vec!["CUSTOMER/MERGED".into()],
        };
        let recovery =
            |source, to| PendingRecovery { source, from: at("2026-01-01T00:00:00Z"), to };
        let status = Status {
            state: Extraction::Breaker,
            by: Some("ada".into()),
            reason: Some("HTTP 401".into()),
            since: Some(at("2026-01-02T03:04:05Z")),
            until: Some(at("2026-01-03T03:04:05Z")),
            quarantined_by_reason: Some([("no-type".to_owned(), 3)].into()),
            breaker: Some(BreakerState::Open(breaker)),
            webhook: Some(webhook),
            recoveries: vec![
                recovery(RecoverySource::Backfill, None),
                recovery(RecoverySource::Import, Some(at("2026-01-02T00:00:00Z"))),
            ],
            ..status
        };
        assert_json(
            &Document::new(status),
            document(&json!({
                "state": "breaker", "by": "ada", "reason": "HTTP 401",
                "since": "2026-01-02T03:04:05Z", "until": "2026-01-03T03:04:05Z",
                "mapping": "Enabled", "backlog": 5, "inFlight": 1, "delayed": 2, "quarantined": 3,
                "quarantinedByReason": {"no-type": 3}, "oldestEventAgeSeconds": 60,
                "expiresInSeconds": 3_600, "drainSeconds": 4, "renews": true,
                "breaker": {
                    "state": "open", "cause": "gladly", "reason": "HTTP 401",
                    "since": "2026-01-02T03:04:05Z", "retryAt": "2026-01-02T03:05:05Z",
                    "waitSeconds": 60,
                },
                "webhook": {
                    "enabled": false, "checkedAt": "2026-01-02T03:04:05Z",
                    "disabledAtDueToRetryLimit": "2026-01-02T02:04:05Z",
                    "missingEvents": ["CONVERSATION/CLOSED"],
                    "missingErasures": ["CUSTOMER/MERGED"],
                },
                "recoveries": [
                    {"source": "backfill", "from": "2026-01-01T00:00:00Z"},
                    {"source": "import", "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"},
                ],
            })),
        );
        assert_eq!(serde_json::to_value(Extraction::Paused).unwrap(), "paused");
    }

    #[test]
    fn a_webhook_is_right_if_it_is_enabled_with_all_subscriptions() {
        let health = |enabled, missing_events| WebhookHealth {
            enabled,
            checked_at: at("2026-01-02T03:04:05Z"),
            missing: false,
            disabled_at_due_to_retry_limit: None,
            missing_events,
            missing_erasures: vec!["CUSTOMER/MERGED".into()],
        };
        assert!(health(true, Vec::new()).is_right());
        assert!(!health(false, Vec::new()).is_right());
        assert!(!health(true, vec!["CONVERSATION/CLOSED".into()]).is_right());
    }

    #[test]
    fn the_documents_of_the_quarantine_match_the_contract() {
        let entry = QuarantineEntry {
            id: "0123456789abcdef".into(),
            reason: "unreadable".into(),
            received_at: at("2026-01-02T03:04:05Z"),
            origin: "ingest-fn".into(),
            detail: "not JSON".into(),
            event_type: None,
            event_id: None,
            conversation_id: None,
            truncated: false,
        };
        let least = json!({
            "id": "0123456789abcdef", "reason": "unreadable",
            "receivedAt": "2026-01-02T03:04:05Z", "origin": "ingest-fn", "detail": "not JSON",
        });
        let body = QuarantinedBody { entry: entry.clone(), body: "hello".into(), encoding: None };
        let mut shown = least.clone();
        shown["body"] = "hello".into();
        assert_json(&Document::new(body.clone()), document(&shown));
        shown["encoding"] = "base64".into();
        assert_json(&QuarantinedBody { encoding: Some("base64".into()), ..body }, shown);

        let full = QuarantineEntry {
            event_type: Some("CONVERSATION/CLOSED".into()),
            event_id: Some("e-1".into()),
            conversation_id: Some("c-1".into()),
            truncated: true,
            ..entry.clone()
        };
        let mut more = least.clone();
        more["type"] = "CONVERSATION/CLOSED".into();
        more["eventId"] = "e-1".into();
        more["conversationId"] = "c-1".into();
        more["truncated"] = true.into();
        assert_json(
            &Document::new(QuarantineList { total: 3, messages: vec![entry, full] }),
            document(&json!({"total": 3, "messages": [least, more]})),
        );
        assert_json(
            &Document::new(Redriven { redriven: 2, stayed: 1, more: true }),
            document(&json!({"redriven": 2, "stayed": 1, "more": true})),
        );
        assert_json(
            &Document::new(Discarded { discarded: 2, more: false }),
            document(&json!({"discarded": 2, "more": false})),
        );
    }

    #[test]
    fn the_result_of_a_backfill_matches_the_contract() {
        let backfilled = Backfilled {
            queued: 7,
            from: at("2026-01-02T03:04:05Z"),
            to: at("2026-01-02T04:04:05Z"),
            cut: false,
            done: true,
            settling: false,
            invalid_lines: 0,
            missing_jobs: 0,
            postponed: None,
        };
        let least = json!({
            "queued": 7, "from": "2026-01-02T03:04:05Z", "to": "2026-01-02T04:04:05Z", "done": true,
        });
        assert_json(&Document::new(backfilled.clone()), document(&least));
        let mut more = least;
        let added = json!({
            "cut": true, "done": false, "settling": true, "invalidLines": 1, "missingJobs": 2,
            "postponed": "Gladly answered 503",
        });
        more.as_object_mut().unwrap().extend(added.as_object().unwrap().clone());
        let backfilled = Backfilled {
            cut: true,
            done: false,
            settling: true,
            invalid_lines: 1,
            missing_jobs: 2,
            postponed: Some("Gladly answered 503".into()),
            ..backfilled
        };
        assert_json(&backfilled, more);
    }
}
