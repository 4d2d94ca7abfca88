//! The quarantine as an operator uses it: listing and redriving.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use shared::{
    Clock, InvalidEvent, Origin, QuarantineReason, QuarantinedMessage, QueueMessage, WebhookEvent,
    replace_lone_surrogates,
};
use tokio::time::Instant;

use crate::{
    client::{
        message::Message,
        sqs::{ENTRIES, Queue, QueueError},
    },
    controller::{error::ControllerError, text::events},
};

/// How long a message is hidden during a scan; at the end of the scan it is returned at once.
const SCAN_VISIBILITY_TIMEOUT: Duration = Duration::from_mins(5);
/// The longest scan: no message becomes visible again before it ends.
const MAX_SCAN_TIME: Duration = Duration::from_mins(4);
/// A scan is complete once this many receives in a row return nothing.
const EMPTY_RECEIVES: u32 = 3;
/// The most messages in a list.
const MAX_LISTED: usize = 1_000;
/// The most bytes of receipts, which are kept to return the messages that stay. The messages
/// themselves, up to 1 MiB each, are not kept. A receipt has some hundred bytes.
const MAX_RECEIPT_BYTES: usize = 16 << 20;
/// The most characters of each text in a list: messages of other senders may contain anything, and
/// Lambda's response is limited to 6 MB.
const MAX_TEXT_CHARS: usize = 256;
/// The time reserved for returning the messages that stay.
const RESERVE: Duration = Duration::from_secs(30);

/// The list of the messages in quarantine.
#[derive(Debug, Serialize)]
pub(crate) struct Contents {
    total: u64,
    messages: Vec<Entry>,
}

/// A message in quarantine, without the event's content.
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

/// The result of a redrive.
#[derive(Debug, Serialize)]
pub(crate) struct Redriven {
    #[serde(rename = "redriven")]
    sent: u64,
    /// Truncated, or still not a valid event.
    stayed: u64,
    /// Others remain, for lack of time or beyond the requested maximum.
    more: bool,
}

/// The quarantine queue, and the events queue for redriving.
pub(crate) struct Quarantine {
    queue: Arc<Queue>,
    events: Arc<Queue>,
    clock: Clock,
}

impl Quarantine {
    pub(crate) fn new(queue: Arc<Queue>, events: Arc<Queue>, clock: Clock) -> Self {
        Self { queue, events, clock }
    }

    /// Lists the quarantine, at most [`MAX_LISTED`] messages.
    pub(crate) async fn list(&self, time_left: Duration) -> Result<Contents, ControllerError> {
        let total = self.queue.depth().await?.total;
        let mut scan = QuarantineScan::new(&self.queue, time_left);
        let mut messages = Vec::new();
        while messages.len() < MAX_LISTED {
            let Some(seen) = scan.next().await? else { break };
            messages.extend(seen.iter().map(Entry::read));
            for message in &seen {
                scan.keep(message);
            }
        }
        scan.end().await;
        messages.sort_by_key(|entry| entry.received_at);
        Ok(Contents { total: total.max(messages.len() as u64), messages })
    }

    /// Sends quarantined events back to the events queue, at most `max`, each before it is deleted
    /// from quarantine. Messages that arrive meanwhile wait for the next redrive: an event that is
    /// rejected again would otherwise loop.
    pub(crate) async fn redrive(
        &self,
        max: Option<u64>,
        time_left: Duration,
    ) -> Result<Redriven, ControllerError> {
        let mut scan = QuarantineScan::new(&self.queue, time_left);
        let redriven = self.send_back(&mut scan, max.unwrap_or(u64::MAX)).await;
        scan.end().await;
        redriven
    }

    async fn send_back(
        &self,
        scan: &mut QuarantineScan<'_>,
        max: u64,
    ) -> Result<Redriven, ControllerError> {
        let began = self.clock.now();
        let mut done = Redriven { sent: 0, stayed: 0, more: false };
        while let Some(seen) = scan.next().await? {
            for message in seen {
                let is_new = message.sent_at.is_some_and(|sent| sent > began);
                let event = to_queue_message(&message);
                done.more |= !is_new && event.is_some() && done.sent >= max;
                done.stayed += u64::from(!is_new && event.is_none());
                match event {
                    Some(event) if !is_new && done.sent < max => {
                        self.events.send(&event, 0).await?;
                        self.queue.delete(&[&message]).await;
                        done.sent += 1;
                    }
                    _ => scan.keep(&message),
                }
            }
            if done.more {
                break;
            }
        }
        done.more |= scan.is_cut_short;
        Ok(done)
    }
}

/// A pass over a queue that leaves it unchanged.
struct QuarantineScan<'a> {
    queue: &'a Queue,
    until: Instant,
    empty: u32,
    /// Receipts of the messages that stay.
    kept: Vec<String>,
    kept_bytes: usize,
    /// Some were not received, for lack of time or memory.
    is_cut_short: bool,
}

impl<'a> QuarantineScan<'a> {
    fn new(queue: &'a Queue, time_left: Duration) -> Self {
        let until = Instant::now() + time_left.saturating_sub(RESERVE).min(MAX_SCAN_TIME);
        Self { queue, until, empty: 0, kept: Vec::new(), kept_bytes: 0, is_cut_short: false }
    }

    /// Notes that a message stays.
    fn keep(&mut self, message: &Message) {
        let receipt = message.receipt.clone();
        self.kept_bytes += size_of::<String>() + receipt.len();
        self.kept.push(receipt);
    }

    /// Further messages, or `None` when there are no others, or no time or memory.
    async fn next(&mut self) -> Result<Option<Vec<Message>>, QueueError> {
        while self.empty < EMPTY_RECEIVES {
            if Instant::now() >= self.until || self.kept_bytes >= MAX_RECEIPT_BYTES {
                self.is_cut_short = true;
                return Ok(None);
            }
            let seen = self.queue.receive(SCAN_VISIBILITY_TIMEOUT).await?;
            if !seen.is_empty() {
                self.empty = 0;
                return Ok(Some(seen));
            }
            self.empty += 1;
        }
        Ok(None)
    }

    /// Makes the messages that stay visible again.
    async fn end(self) {
        let receipts: Vec<_> = self.kept.iter().map(|receipt| (&**receipt, 0)).collect();
        for some in receipts.chunks(ENTRIES) {
            self.queue.return_to_queue(some).await;
        }
    }
}

/// The events queue's message for a quarantined one, if it is a valid event now.
fn to_queue_message(message: &Message) -> Option<Message> {
    let body = &*message.body;
    let body = match QuarantinedMessage::read(body) {
        // Moved by SQS, unchanged.
        None => body.to_owned(),
        Some(quarantined) if quarantined.truncated => return None,
        Some(quarantined) if quarantined.origin == "ingest-fn" => wrapped(&quarantined)?,
        Some(quarantined) => sendable(quarantined.raw()?)?,
    };
    let (event_type, _) = type_and_conversation(&body).ok()?;
    Message::new(body, "type", &event_type).ok()
}

/// A queue message that SQS accepts. One that the relay has written already is.
fn sendable(body: String) -> Option<String> {
    if body.is_ascii() { Some(body) } else { QueueMessage::read(&body).ok()?.to_json().ok() }
}

/// A webhook that ingest-fn quarantined, wrapped as ingest-fn wraps an event.
fn wrapped(quarantined: &QuarantinedMessage) -> Option<String> {
    let raw = quarantined.raw()?;
    WebhookEvent::read(&raw).ok()?;
    QueueMessage::wrap(&raw, quarantined.received_at, Origin::Webhook).ok()?.to_json().ok()
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
        let body = &*message.body;
        let Some(quarantined) = QuarantinedMessage::read(body) else {
            let received_at = QueueMessage::read(body).map(|message| message.received_at());
            let (event_type, conversation_id) = type_and_conversation(body).ok().unzip();
            return Self {
                reason: QuarantineReason::Exhausted.code().into(),
                received_at: received_at.ok().or(message.sent_at).unwrap_or_default(),
                origin: "sqs".into(),
                detail: "received too often: moved by SQS itself".into(),
                event_type,
                conversation_id,
            };
        };
        let queued = if quarantined.origin == "ingest-fn" {
            wrapped(&quarantined)
        } else {
            quarantined.raw()
        };
        let (event_type, conversation_id) =
            queued.and_then(|body| type_and_conversation(&body).ok()).unzip();
        Self {
            reason: quarantined.reason.code().into(),
            received_at: quarantined.received_at,
            origin: shown(&quarantined.origin),
            detail: shown(&quarantined.detail),
            event_type,
            conversation_id,
        }
    }
}

/// A text truncated for a list.
fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

impl Contents {
    /// The count of each reason.
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
    async fn kept_receipts_are_bounded() {
        let aws = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        let queue = Queue::new(sqs_client(&aws), "https://sqs.example/1/quarantine".into());
        let mut scan = QuarantineScan::new(&queue, Duration::from_mins(5));
        let message = Message {
            body: "x".repeat(1 << 20),
            receipt: "r".repeat(1 << 10),
            ..Message::default()
        };
        for _ in 0..1_000 {
            scan.keep(&message);
        }
        let bytes: usize = scan.kept.iter().map(String::capacity).sum();
        assert!(bytes <= scan.kept_bytes && scan.kept_bytes < 2 << 20, "{bytes}");
        while scan.kept_bytes < MAX_RECEIPT_BYTES {
            scan.keep(&message);
        }
        assert!(scan.next().await.unwrap().is_none(), "SQS is not called again");
        assert!(scan.is_cut_short);
    }
}
