//! The quarantine as an operator uses it: what lies there, and the way back.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    time::Duration,
};

use aws_sdk_sqs::types::Message;
use jiff::Timestamp;
use serde::Serialize;
use shared::{InvalidEvent, Origin, PutAside, QuarantineReason, QueueMessage, WebhookEvent};
use tokio::time::Instant;

use crate::{
    Extractor,
    client::sqs::{ENTRIES, Queue, QueueError, sent_at, text_attribute},
    controller::ControlError,
    controller::status::events,
    unicode::replace_lone_surrogates,
};

/// How long a message is hidden while it is looked at; at the end it is given back at once.
const HIDE: Duration = Duration::from_mins(5);
/// The longest look: nothing comes back before it ends.
const LOOK: Duration = Duration::from_mins(4);
/// The quarantine has been seen once so many receives in a row found nothing.
const EMPTY: u32 = 3;
/// Messages that a list shows.
const LISTED: usize = 1_000;
/// Bytes of receipts that are kept for giving back what stays; of the messages themselves, which
/// may have a MiB each, nothing is kept. A receipt has some hundred bytes.
const KEPT_BYTES: usize = 16 << 20;
/// Characters of each text of a message that a list shows: what others put into the queue may hold
/// anything, and Lambda's answer has 6 MB.
const SHOWN: usize = 256;
/// Time kept for giving back what stays.
const RESERVE: Duration = Duration::from_secs(30);

/// What lies in quarantine.
#[derive(Debug, Serialize)]
pub(crate) struct Contents {
    total: u64,
    messages: Vec<Entry>,
}

/// A message in quarantine, without what it holds of the event.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    reason: String,
    received_at: Timestamp,
    origin: String,
    detail: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation_id: Option<String>,
}

/// What became of a redrive.
#[derive(Debug, Serialize)]
pub(crate) struct Redriven {
    #[serde(rename = "redriven")]
    sent: u64,
    /// Truncated, or still no event.
    stayed: u64,
    /// There are others, for which there was no time or which were not asked for.
    more: bool,
}

/// A message on its way back.
struct Revived {
    body: String,
    event_type: String,
}

impl Extractor {
    /// Lists what lies in quarantine, at most [`LISTED`] messages of it.
    pub(crate) async fn list_quarantine(
        &self,
        time_left: Duration,
    ) -> Result<Contents, ControlError> {
        let total = self.quarantine.depth().await?.total;
        let mut look = QuarantineScan::new(&self.quarantine, time_left);
        let mut messages = Vec::new();
        while messages.len() < LISTED {
            let Some(seen) = look.next().await? else { break };
            messages.extend(seen.iter().map(Entry::read));
            for message in &seen {
                look.keep(message);
            }
        }
        look.end().await;
        messages.sort_by_key(|entry| entry.received_at);
        Ok(Contents { total: total.max(messages.len() as u64), messages })
    }

    /// Sends quarantined events back into the events queue, at most `max`, each before it is taken
    /// out of quarantine. What came to lie there since this began waits for the next time, or an
    /// event that is rejected again would go round in circles.
    pub(crate) async fn redrive(
        &self,
        max: Option<u64>,
        time_left: Duration,
    ) -> Result<Redriven, ControlError> {
        let mut look = QuarantineScan::new(&self.quarantine, time_left);
        let redriven = self.send_back(&mut look, max.unwrap_or(u64::MAX)).await;
        look.end().await;
        redriven
    }

    async fn send_back(
        &self,
        look: &mut QuarantineScan<'_>,
        max: u64,
    ) -> Result<Redriven, ControlError> {
        let began = self.now();
        let mut done = Redriven { sent: 0, stayed: 0, more: false };
        while let Some(seen) = look.next().await? {
            for message in seen {
                let is_new = sent_at(&message).is_some_and(|sent| sent > began);
                let revived = to_queue_message(&message);
                done.more |= !is_new && revived.is_some() && done.sent >= max;
                done.stayed += u64::from(!is_new && revived.is_none());
                match revived {
                    Some(Revived { body, event_type }) if !is_new && done.sent < max => {
                        let event_type = text_attribute(&event_type).map_err(QueueError::from)?;
                        self.events.send(body, [("type".to_owned(), event_type)].into(), 0).await?;
                        self.quarantine.delete(&[&message]).await;
                        done.sent += 1;
                    }
                    _ => look.keep(&message),
                }
            }
            if done.more {
                break;
            }
        }
        done.more |= look.is_cut_short;
        Ok(done)
    }
}

/// The way through a queue, leaving it as it was.
struct QuarantineScan<'a> {
    queue: &'a Queue,
    until: Instant,
    empty: u32,
    /// Receipts of the messages that stay.
    kept: Vec<String>,
    kept_bytes: usize,
    /// Some were not seen, for want of time or room.
    is_cut_short: bool,
}

impl<'a> QuarantineScan<'a> {
    fn new(queue: &'a Queue, time_left: Duration) -> Self {
        let until = Instant::now() + time_left.saturating_sub(RESERVE).min(LOOK);
        Self { queue, until, empty: 0, kept: Vec::new(), kept_bytes: 0, is_cut_short: false }
    }

    /// Remembers that a message stays.
    fn keep(&mut self, message: &Message) {
        let receipt = message.receipt_handle.clone().unwrap_or_default();
        self.kept_bytes += size_of::<String>() + receipt.len();
        self.kept.push(receipt);
    }

    /// Messages that were not seen yet, or `None` when there are no others, or no time or room.
    async fn next(&mut self) -> Result<Option<Vec<Message>>, QueueError> {
        while self.empty < EMPTY {
            if Instant::now() >= self.until || self.kept_bytes >= KEPT_BYTES {
                self.is_cut_short = true;
                return Ok(None);
            }
            let seen = self.queue.receive(HIDE).await?;
            if !seen.is_empty() {
                self.empty = 0;
                return Ok(Some(seen));
            }
            self.empty += 1;
        }
        Ok(None)
    }

    /// Makes what was kept visible again.
    async fn end(self) {
        let receipts: Vec<_> = self.kept.iter().map(|receipt| (&**receipt, 0)).collect();
        for some in receipts.chunks(ENTRIES) {
            self.queue.return_to_queue(some).await;
        }
    }
}

/// The events queue's message for a quarantined one, if it can be one now.
fn to_queue_message(message: &Message) -> Option<Revived> {
    let body = message.body.as_deref()?;
    let body = match PutAside::read(body) {
        // SQS moved it here by itself, as it was.
        None => body.to_owned(),
        Some(aside) if aside.truncated => return None,
        Some(aside) if aside.origin == "ingest-fn" => wrapped(&aside)?,
        Some(aside) => sendable(aside.raw()?)?,
    };
    let (event_type, _) = type_and_conversation(&body).ok()?;
    Some(Revived { body, event_type })
}

/// A queue message as SQS takes it. What the relay has written is so already.
fn sendable(body: String) -> Option<String> {
    if body.is_ascii() { Some(body) } else { QueueMessage::read(&body).ok()?.to_json().ok() }
}

/// A webhook that ingest-fn put aside, as it queues one that it does not.
fn wrapped(aside: &PutAside) -> Option<String> {
    let raw = aside.raw()?;
    WebhookEvent::read(&raw).ok()?;
    QueueMessage::wrap(&raw, aside.received_at, Origin::Webhook).ok()?.to_json().ok()
}

/// An event's type and conversation, from its queue message.
fn type_and_conversation(body: &str) -> Result<(String, String), InvalidEvent> {
    let body = replace_lone_surrogates(body.to_owned());
    let event = QueueMessage::read(&body)?.event()?;
    let conversation = event.conversation.ok_or(InvalidEvent::NoConversation)?;
    Ok((QueueMessage::type_attribute(&event.event_type), conversation.to_string()))
}

impl Entry {
    fn read(message: &Message) -> Self {
        let body = message.body.as_deref().unwrap_or_default();
        let Some(aside) = PutAside::read(body) else {
            let received_at = QueueMessage::read(body).map(|message| message.received_at());
            let (event_type, conversation_id) = type_and_conversation(body).ok().unzip();
            return Self {
                reason: QuarantineReason::Exhausted.code().into(),
                received_at: received_at.ok().or(sent_at(message)).unwrap_or_default(),
                origin: "sqs".into(),
                detail: "received too often: moved by SQS itself".into(),
                event_type,
                conversation_id,
            };
        };
        let queued = if aside.origin == "ingest-fn" { wrapped(&aside) } else { aside.raw() };
        let (event_type, conversation_id) =
            queued.and_then(|body| type_and_conversation(&body).ok()).unzip();
        Self {
            reason: aside.reason.code().into(),
            received_at: aside.received_at,
            origin: shown(&aside.origin),
            detail: shown(&aside.detail),
            event_type,
            conversation_id,
        }
    }
}

/// A text as a list shows it.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

impl Contents {
    /// How many there are of each reason.
    pub(crate) fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for entry in &self.messages {
            *reasons.entry(entry.reason.clone()).or_default() += 1;
        }
        reasons
    }
}

impl Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { reason, received_at, detail, event_type, conversation_id, .. } in &self.messages
        {
            let at = received_at.strftime("%Y-%m-%d %H:%M");
            let event_type = event_type.as_deref().unwrap_or("-");
            let conversation = conversation_id.as_deref().unwrap_or("-");
            writeln!(f, "{reason:<11}{at}  {event_type:<31} {conversation}  {detail}")?;
        }
        let shown = self.messages.len() as u64;
        if shown < self.total {
            writeln!(f, "… and {}", events(self.total - shown))?;
        }
        match shown {
            0 => f.write_str("Nothing is in quarantine."),
            _ => write!(f, "{} in quarantine.", events(self.total)),
        }
    }
}

impl Display for Redriven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stayed > 0 {
            writeln!(f, "Left in quarantine, cut short or still no event: {}.", self.stayed)?;
        }
        write!(f, "{} went back into the events queue", events(self.sent))?;
        f.write_str(if self.more { "; there are more." } else { "." })
    }
}

#[cfg(test)]
mod tests {
    use aws_config::{BehaviorVersion, SdkConfig};

    use super::*;
    use crate::client::sqs::sqs_client;

    #[tokio::test]
    async fn what_stays_is_kept_as_receipts_and_those_are_bounded() {
        let aws = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        let queue = Queue::new(sqs_client(&aws), "https://sqs.example/1/quarantine".into());
        let mut look = QuarantineScan::new(&queue, Duration::from_mins(5));
        let message =
            Message::builder().body("x".repeat(1 << 20)).receipt_handle("r".repeat(1 << 10));
        let message = message.build();
        for _ in 0..1_000 {
            look.keep(&message);
        }
        let bytes: usize = look.kept.iter().map(String::capacity).sum();
        assert!(bytes <= look.kept_bytes && look.kept_bytes < 2 << 20, "{bytes}");
        while look.kept_bytes < KEPT_BYTES {
            look.keep(&message);
        }
        assert!(look.next().await.unwrap().is_none(), "SQS is not asked for more");
        assert!(look.is_cut_short);
    }
}
