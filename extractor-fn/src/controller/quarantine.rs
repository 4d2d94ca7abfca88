//! The quarantine as an operator uses it: listing, reading, redriving and discarding.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use shared::{
    Clock, Discarded, Event, InvalidEvent, Origin, QuarantineEntry, QuarantineList,
    QuarantineReason, QuarantinedBody, QuarantinedMessage, QueueMessage, Redriven, Selection,
    WebhookEvent, replace_lone_surrogates,
};
use tokio::time::Instant;

use crate::{
    client::{
        message::Message,
        sqs::{ENTRIES, Queue, QueueError},
    },
    controller::error::ControllerError,
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
/// How many hexadecimal digits of its body's SHA-256 are a message's id.
const ID_DIGITS: usize = 16;
/// The time reserved for returning the messages that stay.
const RESERVE: Duration = Duration::from_secs(30);

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
    pub(crate) async fn list(
        &self,
        time_left: Duration,
    ) -> Result<QuarantineList, ControllerError> {
        let total = self.queue.depth().await?.total;
        let mut scan = QuarantineScan::new(&self.queue, time_left);
        let mut messages = Vec::new();
        while messages.len() < MAX_LISTED {
            let Some(seen) = scan.next().await? else { break };
            messages.extend(seen.iter().map(entry));
            for message in &seen {
                scan.keep(message);
            }
        }
        scan.end().await;
        messages.sort_by_key(|entry| entry.received_at);
        Ok(QuarantineList { total: total.max(messages.len() as u64), messages })
    }

    /// One message with its body.
    pub(crate) async fn show(
        &self,
        id: &str,
        time_left: Duration,
    ) -> Result<QuarantinedBody, ControllerError> {
        let mut scan = QuarantineScan::new(&self.queue, time_left);
        let found = Self::find(&mut scan, id).await;
        scan.end().await;
        found?.ok_or_else(|| ControllerError::NotInQuarantine(id.to_owned()))
    }

    async fn find(
        scan: &mut QuarantineScan<'_>,
        id: &str,
    ) -> Result<Option<QuarantinedBody>, ControllerError> {
        while let Some(seen) = scan.next().await? {
            for message in &seen {
                scan.keep(message);
            }
            if let Some(message) = seen.iter().find(|message| message_id(&message.body) == id) {
                return Ok(Some(body(message)));
            }
        }
        Ok(None)
    }

    /// Sends the selected events back to the events queue, each before it is deleted from quarantine.
    pub(crate) async fn redrive(
        &self,
        selection: &Selection,
        time_left: Duration,
    ) -> Result<Redriven, ControllerError> {
        let mut done = Redriven::default();
        let handled = self
            .handle(selection, time_left, async |message| {
                let Some(event) = to_queue_message(message) else {
                    done.stayed += 1;
                    return Ok(false);
                };
                if !selection.dry_run {
                    self.events.send(&event, 0).await?;
                    self.queue.delete(&[message]).await;
                }
                Ok(true)
            })
            .await?;
        Ok(Redriven { redriven: handled.count, more: handled.more, ..done })
    }

    /// Deletes the selected messages for good.
    pub(crate) async fn discard(
        &self,
        selection: &Selection,
        time_left: Duration,
    ) -> Result<Discarded, ControllerError> {
        if !selection.has_condition() {
            return Err(ControllerError::NoCondition);
        }
        let handled = self
            .handle(selection, time_left, async |message| {
                if !selection.dry_run {
                    self.queue.delete(&[message]).await;
                }
                Ok(true)
            })
            .await?;
        Ok(Discarded { discarded: handled.count, more: handled.more })
    }

    /// Handles each selected message of a scan, at most as many as are selected; what `handle` does not
    /// take stays. Messages that arrive meanwhile wait for the next scan: an event that is rejected
    /// again would otherwise loop.
    async fn handle(
        &self,
        selection: &Selection,
        time_left: Duration,
        handle: impl AsyncFnMut(&Message) -> Result<bool, QueueError>,
    ) -> Result<Handled, ControllerError> {
        let mut scan = QuarantineScan::new(&self.queue, time_left);
        let handled = self.handle_all(&mut scan, selection, handle).await;
        scan.end().await;
        Ok(handled?)
    }

    async fn handle_all(
        &self,
        scan: &mut QuarantineScan<'_>,
        selection: &Selection,
        mut handle: impl AsyncFnMut(&Message) -> Result<bool, QueueError>,
    ) -> Result<Handled, QueueError> {
        let began = self.clock.now();
        let max = selection.max.unwrap_or(u64::MAX);
        let mut done = Handled { count: 0, more: false };
        while let Some(seen) = scan.next().await? {
            for message in seen {
                let is_new = message.sent_at.is_some_and(|sent| sent > began);
                let is_selected = !is_new && selects(selection, &message);
                done.more |= is_selected && done.count >= max;
                let is_handled = is_selected && done.count < max && handle(&message).await?;
                done.count += u64::from(is_handled);
                if !is_handled || selection.dry_run {
                    scan.keep(&message);
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

/// What became of a scan's messages.
struct Handled {
    count: u64,
    /// Others remain, for lack of time or beyond the requested maximum.
    more: bool,
}

/// Whether a message meets every condition.
fn selects(selection: &Selection, message: &Message) -> bool {
    let Selection { id, reason, conversation_id, .. } = selection;
    if id.is_none() && reason.is_none() && conversation_id.is_none() {
        return true;
    }
    let entry = entry(message);
    id.as_ref().is_none_or(|id| *id == entry.id)
        && reason.is_none_or(|reason| reason.code() == entry.reason)
        && conversation_id
            .as_ref()
            .is_none_or(|id| Some(id.as_str()) == entry.conversation_id.as_deref())
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
    let event_type = type_attribute(&body).ok()?;
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

/// The type attribute of a queue message that is a valid event about a conversation.
fn type_attribute(body: &str) -> Result<String, InvalidEvent> {
    let body = replace_lone_surrogates(body.to_owned());
    let event = QueueMessage::read(&body)?.event()?;
    event.conversation.ok_or(InvalidEvent::NoConversation)?;
    Ok(QueueMessage::type_attribute(&event.event_type))
}

/// A message's id: the start of its body's SHA-256, since SQS's own changes with a renewal.
fn message_id(body: &str) -> String {
    let digest = Sha256::digest(body);
    let mut id = String::with_capacity(ID_DIGITS);
    for byte in &digest[..ID_DIGITS / 2] {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id
}

/// What is known of a message.
fn entry(message: &Message) -> QuarantineEntry {
    let body = &*message.body;
    let id = message_id(body);
    let Some(quarantined) = QuarantinedMessage::read(body) else {
        let received_at = QueueMessage::read(body).map(|message| message.received_at());
        let entry = QuarantineEntry {
            id,
            reason: QuarantineReason::Exhausted.code().into(),
            received_at: received_at.ok().or(message.sent_at).unwrap_or_default(),
            origin: "sqs".into(),
            detail: "received too often: moved by SQS itself".into(),
            event_type: None,
            event_id: None,
            conversation_id: None,
            truncated: false,
        };
        return with_event(entry, Some(body.to_owned()));
    };
    let queued =
        if quarantined.origin == "ingest-fn" { wrapped(&quarantined) } else { quarantined.raw() };
    let entry = QuarantineEntry {
        id,
        reason: quarantined.reason.code().into(),
        received_at: quarantined.received_at,
        origin: shown(&quarantined.origin),
        detail: shown(&quarantined.detail),
        event_type: None,
        event_id: None,
        conversation_id: None,
        truncated: quarantined.truncated,
    };
    with_event(entry, queued)
}

/// The entry with its event's type and ids, if its queue message is a valid event.
fn with_event(entry: QuarantineEntry, queued: Option<String>) -> QuarantineEntry {
    let Some(body) = queued.map(replace_lone_surrogates) else { return entry };
    let event = QueueMessage::read(&body).and_then(|message| message.event());
    let Ok(Event { event_type, id, conversation: Some(conversation), .. }) = event else {
        return entry;
    };
    QuarantineEntry {
        event_type: Some(QueueMessage::type_attribute(&event_type)),
        event_id: id.map(|id| id.to_string()),
        conversation_id: Some(conversation.to_string()),
        ..entry
    }
}

/// A message with what was quarantined.
fn body(message: &Message) -> QuarantinedBody {
    let entry = entry(message);
    let bytes = QuarantinedMessage::read(&message.body).and_then(|quarantined| quarantined.bytes());
    let bytes = bytes.unwrap_or_else(|| message.body.clone().into_bytes());
    match String::from_utf8(bytes) {
        Ok(body) => QuarantinedBody { entry, body, encoding: None },
        Err(err) => QuarantinedBody {
            entry,
            body: BASE64_STANDARD.encode(err.as_bytes()),
            encoding: Some("base64".into()),
        },
    }
}

/// A text truncated for a list.
fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

/// The count of each reason.
pub(crate) fn reasons(list: &QuarantineList) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for entry in &list.messages {
        *reasons.entry(entry.reason.clone()).or_default() += 1;
    }
    reasons
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
