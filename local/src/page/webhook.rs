//! The webhooks that arrived, and what became of each.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use shared::Extraction;
use testing::gladly::Attempt;

use crate::{
    page::{delivered::Delivered, json::text},
    stack::Peeked,
};

/// What is hidden for longer is in flight: a batch hides its messages for half an hour, a back-off is shorter.
const LONGEST_BACK_OFF_SECONDS: u64 = 15 * 60;

/// Gladly sends an event up to five times.
const LAST_ATTEMPT: usize = 5;

/// Where an event can be.
pub(super) struct Places<'a> {
    /// What Gladly sent, oldest first.
    pub(super) attempts: &'a [Attempt],
    /// The events queue.
    pub(super) queue: &'a [Peeked],
    /// The quarantine queue.
    pub(super) quarantine: &'a [Peeked],
    /// The destination.
    pub(super) delivered: &'a Delivered,
    /// Whether what is in the queue can leave it.
    pub(super) extraction: Extraction,
}

/// A webhook, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct WebhookRow {
    /// The event's id; of what is no event, a name that no event has.
    event: String,
    #[serde(rename = "type")]
    kind: String,
    conversation: String,
    /// When it was first sent, or received.
    at: Option<Timestamp>,
    via: Via,
    /// Gladly's, with the relay's answers.
    attempts: Vec<AttemptRow>,
    state: WebhookState,
    detail: String,
    /// The delivery in which it arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct AttemptRow {
    number: usize,
    status: Option<u16>,
    answer: String,
}

/// Who sent an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Via {
    Gladly,
    /// The relay read it from Gladly's list.
    Backfill,
    /// Somebody with a key, past the simulator.
    Hand,
}

/// What became of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WebhookState {
    /// Gladly has no answer yet.
    Sent,
    /// In the queue, on its way.
    Queued,
    /// In the queue for as long as extraction is held.
    Held,
    /// At the destination, with a snapshot.
    Delivered,
    /// At the destination; a snapshot that it already has is newer.
    Covered,
    /// At the destination; Gladly no longer has the conversation.
    Gone,
    /// At the destination as a tombstone.
    Tombstone,
    Quarantined,
    Ignored,
    Pong,
    Unauthorized,
    Unavailable,
    /// Accepted once and no longer anywhere: an operator took it out of a queue.
    Removed,
}

impl WebhookRow {
    /// Nothing is known but the event.
    fn new(event: &str, via: Via) -> Self {
        Self {
            event: event.to_owned(),
            kind: String::new(),
            conversation: String::new(),
            at: None,
            via,
            attempts: Vec::new(),
            state: WebhookState::Sent,
            detail: String::new(),
            delivery: None,
        }
    }

    pub(super) fn state(&self) -> WebhookState {
        self.state
    }

    fn become_of(&mut self, state: WebhookState, detail: impl Into<String>) {
        (self.state, self.detail) = (state, detail.into());
    }

    /// Takes the type, conversation and time of an event where they are not known yet.
    fn describe(&mut self, kind: &Value, conversation: &Value, at: &Value) {
        if self.kind.is_empty() {
            self.kind = text(kind);
        }
        if self.conversation.is_empty() {
            self.conversation = text(conversation);
        }
        self.at = self.at.or_else(|| text(at).parse().ok());
    }

    fn answered(&mut self, attempt: &Attempt) {
        let answer = serde_json::from_str::<Value>(&attempt.answer).unwrap_or_default();
        let answer = text(&answer["status"]);
        let again = if attempt.number < LAST_ATTEMPT {
            "Gladly tries again"
        } else {
            "after its last attempt, Gladly disabled the webhook"
        };
        let (state, detail) = match (attempt.status, answer.as_str()) {
            (_, "queued") => (WebhookState::Removed, "no longer in the queue"),
            (_, "quarantined") => (WebhookState::Removed, "no longer in quarantine"),
            (_, "ignored") => (WebhookState::Ignored, "about no conversation"),
            (_, "pong") => (WebhookState::Pong, "the endpoint is alive"),
            (Some(401), _) => (WebhookState::Unauthorized, again),
            _ => (WebhookState::Unavailable, again),
        };
        self.become_of(state, detail);
        let Attempt { number, status, .. } = *attempt;
        self.attempts.push(AttemptRow { number, status, answer });
    }

    fn waits(&mut self, message: &Peeked, extraction: Extraction) {
        let (seconds, receives) = (message.hidden_for.as_secs(), message.receive_count);
        let (state, detail) = match extraction {
            Extraction::Paused => (WebhookState::Held, "until extraction resumes".to_owned()),
            Extraction::Breaker => {
                (WebhookState::Held, "until the circuit breaker closes".to_owned())
            }
            Extraction::Running => {
                let detail = match (seconds, receives) {
                    (0, _) => "about to be extracted".to_owned(),
                    (_, 0) => format!("settles for {seconds} s more"),
                    (LONGEST_BACK_OFF_SECONDS.., _) => "being extracted".to_owned(),
                    (_, 1) => format!("retried in {seconds} s"),
                    _ => format!("retried in {seconds} s, received {receives} times"),
                };
                (WebhookState::Queued, detail)
            }
        };
        self.become_of(state, detail);
    }

    fn arrived(&mut self, delivered: &Delivered) {
        let kinds = delivered.tombstone_kinds(&self.event);
        if !kinds.is_empty() {
            self.become_of(WebhookState::Tombstone, kinds.join(", "));
        }
        let Some(held) = delivered.events.get(&self.event) else { return };
        let event = &held.event;
        if event["origin"] == "backfill" && self.attempts.is_empty() {
            self.via = Via::Backfill;
        }
        self.describe(&event["type"], &event["conversationId"], &event["receivedAt"]);
        let mut detail =
            format!("after {}", duration(event["heldMs"].as_u64().unwrap_or_default()));
        if held.times > 1 {
            detail = format!("{detail}, {} times", held.times);
        }
        match event["snapshot"].as_str() {
            Some("covered") => {
                let detail = format!("{detail}, by an earlier snapshot");
                self.become_of(WebhookState::Covered, detail);
            }
            Some("gone") => {
                let what = match event["customerDeleted"] {
                    Value::Bool(true) => "customer deleted",
                    _ => "no longer at Gladly",
                };
                self.become_of(WebhookState::Gone, format!("{detail}, {what}"));
            }
            _ => self.become_of(WebhookState::Delivered, detail),
        }
        self.delivery = Some(held.delivery.clone());
    }
}

/// The webhooks with what became of each, newest first.
pub(super) fn rows(places: &Places<'_>) -> Vec<WebhookRow> {
    let mut rows = BTreeMap::<String, WebhookRow>::new();
    for attempt in places.attempts {
        let row = rows.entry(attempt.event.clone());
        let row = row.or_insert_with(|| WebhookRow {
            kind: attempt.kind.clone(),
            conversation: attempt.conversation.clone(),
            at: Some(attempt.at),
            ..WebhookRow::new(&attempt.event, Via::Gladly)
        });
        row.answered(attempt);
    }
    for message in places.queue {
        let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
        let row = row_of(&mut rows, &body["event"], &body["receivedAt"], &body["origin"]);
        row.waits(message, places.extraction);
    }
    for message in places.quarantine {
        let body: Value = serde_json::from_str(&message.body).unwrap_or_default();
        let raw: Value = serde_json::from_str(&text(&body["raw"])).unwrap_or_default();
        // From extractor-fn it is the queue's message.
        let event = if raw["event"].is_object() { &raw["event"] } else { &raw };
        let row = row_of(&mut rows, event, &body["receivedAt"], &raw["origin"]);
        let detail = format!("{}: {}", text(&body["reason"]), text(&body["detail"]));
        row.become_of(WebhookState::Quarantined, detail);
    }
    let arrived = places.delivered.events.keys();
    for event in arrived.chain(places.delivered.tombstones.keys().map(|(event, _)| event)) {
        let row = rows.entry(event.clone());
        row.or_insert_with(|| WebhookRow::new(event, Via::Hand));
    }
    for row in rows.values_mut() {
        row.arrived(places.delivered);
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by_key(|row| Reverse(row.at));
    rows
}

/// The row of a message's event, new if Gladly did not send it.
fn row_of<'a>(
    rows: &'a mut BTreeMap<String, WebhookRow>,
    event: &Value,
    received_at: &Value,
    origin: &Value,
) -> &'a mut WebhookRow {
    let id = match text(&event["id"]) {
        id if id.is_empty() => format!("received at {}", text(received_at)),
        id => id,
    };
    let via = if origin == "backfill" { Via::Backfill } else { Via::Hand };
    let row = rows.entry(id.clone()).or_insert_with(|| WebhookRow::new(&id, via));
    row.describe(&event["type"], &event["content"]["conversationId"], received_at);
    row
}

/// Milliseconds as a person reads them.
fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0..60 => format!("{seconds}.{} s", milliseconds % 1_000 / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use serde_json::json;

    use super::*;

    const AT: &str = "2026-01-01T12:00:00.000Z";

    fn attempt(event: &str, status: Option<u16>, answer: &str) -> Attempt {
        Attempt {
            webhook: "w".to_owned(),
            event: event.to_owned(),
            kind: "CONVERSATION/CLOSED".to_owned(),
            conversation: "c".to_owned(),
            at: AT.parse().unwrap(),
            number: 1,
            status,
            answer: json!({ "status": answer }).to_string(),
        }
    }

    fn peeked(body: &Value, receive_count: u64, hidden_seconds: u64) -> Peeked {
        let hidden_for = Duration::from_secs(hidden_seconds);
        Peeked { body: body.to_string(), receive_count, hidden_for }
    }

    fn message(event: &str) -> Value {
        let event =
            json!({"id": event, "type": "CONVERSATION/CLOSED", "content": {"conversationId": "c"}});
        json!({"v": 1, "receivedAt": AT, "event": event})
    }

    fn delivered(body: Value) -> Delivered {
        let mut delivered = Delivered::default();
        let delivery = testing::destination::Delivery {
            path: "/".to_owned(),
            headers: axum::http::HeaderMap::new(),
            body,
            bytes: 10,
            wire_bytes: 5,
        };
        delivered.extend(vec![delivery.clone(), delivery]);
        delivered
    }

    /// What the only row shows: the state and its detail.
    fn shown(places: &Places<'_>) -> (WebhookState, String) {
        let rows = rows(places);
        assert_eq!(rows.len(), 1, "{rows:?}");
        (rows[0].state, rows[0].detail.clone())
    }

    #[test]
    fn an_answer_alone_decides_where_nothing_was_queued() {
        let nothing = Delivered::default();
        for (status, answer, state) in [
            (Some(200), "pong", WebhookState::Pong),
            (Some(200), "ignored", WebhookState::Ignored),
            (Some(200), "queued", WebhookState::Removed),
            (Some(200), "quarantined", WebhookState::Removed),
            (Some(401), "unauthorized", WebhookState::Unauthorized),
            (Some(503), "unavailable", WebhookState::Unavailable),
            (None, "", WebhookState::Unavailable),
        ] {
            let places = Places {
                attempts: &[attempt("e", status, answer)],
                queue: &[],
                quarantine: &[],
                delivered: &nothing,
                extraction: Extraction::Running,
            };
            assert_eq!(shown(&places).0, state, "{answer}");
        }
    }

    #[test]
    fn an_event_in_the_queue_is_on_its_way_or_held() {
        let nothing = Delivered::default();
        for (receives, hidden, extraction, state, detail) in [
            (0, 2, Extraction::Running, WebhookState::Queued, "settles for 2 s more"),
            (0, 0, Extraction::Running, WebhookState::Queued, "about to be extracted"),
            (1, 1_800, Extraction::Running, WebhookState::Queued, "being extracted"),
            (1, 30, Extraction::Running, WebhookState::Queued, "retried in 30 s"),
            (4, 30, Extraction::Running, WebhookState::Queued, "retried in 30 s, received 4 times"),
            (0, 2, Extraction::Paused, WebhookState::Held, "until extraction resumes"),
            (1, 9, Extraction::Breaker, WebhookState::Held, "until the circuit breaker closes"),
        ] {
            let places = Places {
                attempts: &[attempt("e", Some(200), "queued")],
                queue: &[peeked(&message("e"), receives, hidden)],
                quarantine: &[],
                delivered: &nothing,
                extraction,
            };
            assert_eq!(shown(&places), (state, detail.to_owned()));
        }
    }

    #[test]
    fn a_quarantined_message_is_found_with_its_reason_whichever_function_sent_it() {
        let nothing = Delivered::default();
        let event = message("e")["event"].to_string();
        for raw in [event, message("e").to_string()] {
            let body =
                json!({"reason": "rejected", "detail": "status 422", "receivedAt": AT, "raw": raw});
            let places = Places {
                attempts: &[attempt("e", Some(200), "queued")],
                queue: &[],
                quarantine: &[peeked(&body, 0, 0)],
                delivered: &nothing,
                extraction: Extraction::Running,
            };
            let expected = (WebhookState::Quarantined, "rejected: status 422".to_owned());
            assert_eq!(shown(&places), expected);
        }
    }

    #[test]
    fn what_has_arrived_says_how_and_after_how_long() {
        for (snapshot, state, detail) in [
            ("included", WebhookState::Delivered, "after 2.4 s, 2 times"),
            ("covered", WebhookState::Covered, "after 2.4 s, 2 times, by an earlier snapshot"),
            ("gone", WebhookState::Gone, "after 2.4 s, 2 times, no longer at Gladly"),
        ] {
            let event = json!({"id": "e", "conversationId": "c", "snapshot": snapshot, "heldMs": 2_400, "receivedAt": AT});
            let delivered = delivered(json!({"id": "d", "events": [event]}));
            let places = Places {
                attempts: &[attempt("e", Some(200), "queued")],
                // Not deleted yet.
                queue: &[peeked(&message("e"), 1, 1_800)],
                quarantine: &[],
                delivered: &delivered,
                extraction: Extraction::Running,
            };
            assert_eq!(shown(&places), (state, detail.to_owned()));
            assert_eq!(rows(&places)[0].delivery.as_deref(), Some("d"));
        }
        let tombstone =
            json!({"kind": "customer-deleted", "eventId": "e", "customerId": "u", "at": AT});
        let delivered = delivered(json!({"id": "d", "tombstones": [tombstone]}));
        let places = Places {
            attempts: &[attempt("e", Some(200), "queued")],
            queue: &[],
            quarantine: &[],
            delivered: &delivered,
            extraction: Extraction::Running,
        };
        assert_eq!(shown(&places), (WebhookState::Tombstone, "customer-deleted".to_owned()));
    }

    #[test]
    fn what_gladly_did_not_send_has_rows_too() {
        let event = json!({"id": "b", "conversationId": "c", "snapshot": "included", "heldMs": 1, "receivedAt": AT, "origin": "backfill"});
        let delivered = delivered(json!({"id": "d", "events": [event]}));
        let invalid = json!({"reason": "unreadable", "detail": "not JSON", "receivedAt": AT, "raw": "nonsense"});
        let places = Places {
            attempts: &[],
            queue: &[peeked(&message("h"), 0, 2)],
            quarantine: &[peeked(&invalid, 0, 0)],
            delivered: &delivered,
            extraction: Extraction::Running,
        };
        let rows = rows(&places);
        let shown: BTreeSet<_> = rows
            .iter()
            .map(|row| (row.state, json!(row.via)))
            .map(|(state, via)| (state, via.to_string()))
            .collect();
        let expected = [
            (WebhookState::Queued, "\"hand\""),
            (WebhookState::Delivered, "\"backfill\""),
            (WebhookState::Quarantined, "\"hand\""),
        ];
        assert_eq!(shown, expected.map(|(state, via)| (state, via.to_owned())).into());
    }
}
