//! The quarantine as an operator uses it: listing, showing, redriving and discarding.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};
use shared::{
    Clock, Discarded, InvalidEvent, Origin, QuarantineEntry, QuarantineList, QuarantineReason,
    QuarantinedBody, QuarantinedMessage, QueueMessage, Redriven, Selection, Subject, WebhookEvent,
    replace_lone_surrogates,
};
use tokio::time::Instant;
use tracing::info;

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
        let messages = Self::listed(&mut scan).await;
        scan.end().await;
        let mut messages = messages?;
        messages.sort_by_key(|entry| entry.received_at);
        Ok(QuarantineList { total: total.max(messages.len() as u64), messages })
    }

    async fn listed(
        scan: &mut QuarantineScan<'_>,
    ) -> Result<Vec<QuarantineEntry>, ControllerError> {
        let mut messages = Vec::new();
        while messages.len() < MAX_LISTED {
            let Some(seen) = scan.next().await? else { break };
            messages.extend(seen.iter().map(entry));
            scan.keep_all(&seen);
        }
        Ok(messages)
    }

    /// Shows the message with this id, with its body.
    pub(crate) async fn show(
        &self,
        id: &str,
        time_left: Duration,
    ) -> Result<QuarantinedBody, ControllerError> {
        let mut scan = QuarantineScan::new(&self.queue, time_left);
        let found = Self::found(&mut scan, id).await;
        let is_cut_short = scan.is_cut_short;
        scan.end().await;
        match found? {
            Some(message) => Ok(with_body(&message)),
            None if is_cut_short => Err(ControllerError::NotFoundInTime),
            None => Err(ControllerError::NotQuarantined),
        }
    }

    async fn found(
        scan: &mut QuarantineScan<'_>,
        id: &str,
    ) -> Result<Option<Message>, ControllerError> {
        while let Some(seen) = scan.next().await? {
            scan.keep_all(&seen);
            if let Some(message) = seen.into_iter().find(|message| message_id(message) == id) {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Sends the selected events back to the events queue, each before it is deleted from quarantine.
    /// Messages that arrive meanwhile wait for the next redrive: an event that is rejected again would
    /// otherwise loop.
    pub(crate) async fn redrive(
        &self,
        selection: &Selection,
        time_left: Duration,
    ) -> Result<Redriven, ControllerError> {
        let mut scan = self.scan_of(selection, time_left);
        let mut done = Redriven::default();
        let max = selection.max.unwrap_or(u64::MAX);
        let ended = async {
            while let Some(seen) = scan.next().await? {
                let mut seen = seen.iter();
                while let Some(message) = seen.next() {
                    let Some(event) = to_queue_message(message) else {
                        done.stayed += 1;
                        scan.keep(message);
                        continue;
                    };
                    if done.redriven >= max || selection.dry_run {
                        scan.keep(message);
                    } else if let Err(err) = self.events.send(&event, 0).await {
                        scan.keep(message);
                        scan.keep_all(seen);
                        return Err(err);
                    } else {
                        self.queue.delete(&[message]).await;
                    }
                    if done.redriven < max {
                        done.redriven += 1;
                    } else {
                        done.more = true;
                    }
                }
                if done.more {
                    break;
                }
            }
            Ok(())
        }
        .await;
        done.more |= scan.is_cut_short;
        scan.end().await;
        ended?;
        Ok(done)
    }

    /// Deletes the selected messages. Messages that arrive meanwhile stay: the decision was not about
    /// them.
    pub(crate) async fn discard(
        &self,
        selection: &Selection,
        time_left: Duration,
    ) -> Result<Discarded, ControllerError> {
        if !selection.has_condition() {
            return Err(ControllerError::NoCondition);
        }
        let mut scan = self.scan_of(selection, time_left);
        let mut done = Discarded::default();
        let max = selection.max.unwrap_or(u64::MAX);
        let ended = async {
            while let Some(seen) = scan.next().await? {
                let left = usize::try_from(max - done.discarded).unwrap_or(usize::MAX);
                let (selected, beyond) = seen.split_at(left.min(seen.len()));
                scan.keep_all(beyond);
                done.more |= !beyond.is_empty();
                let selected: Vec<_> = selected.iter().collect();
                if selection.dry_run {
                    scan.keep_all(selected.iter().copied());
                    done.discarded += selected.len() as u64;
                } else {
                    let failed = self.queue.delete(&selected).await;
                    for (index, message) in selected.into_iter().enumerate() {
                        if failed.contains(&index) {
                            done.more = true;
                            scan.keep(message);
                        } else {
                            done.discarded += 1;
                            let QuarantineEntry { id, reason, .. } = entry(message);
                            info!(quarantine.id = id, reason, "discarded a quarantined message");
                        }
                    }
                }
                if done.more {
                    break;
                }
            }
            Ok::<_, QueueError>(())
        }
        .await;
        done.more |= scan.is_cut_short;
        scan.end().await;
        ended?;
        Ok(done)
    }

    /// A scan of the selected messages that are in quarantine now.
    fn scan_of<'a>(&'a self, selection: &'a Selection, time_left: Duration) -> QuarantineScan<'a> {
        let began = self.clock.now();
        let is_new = move |message: &Message| message.sent_at.is_some_and(|sent| sent > began);
        QuarantineScan {
            wanted: Box::new(move |message| !is_new(message) && is_selected(message, selection)),
            ..QuarantineScan::new(&self.queue, time_left)
        }
    }
}

/// Whether a message meets every condition.
fn is_selected(message: &Message, selection: &Selection) -> bool {
    let Selection { id, reason, conversation_id, .. } = selection;
    if !selection.has_condition() {
        return true;
    }
    let entry = entry(message);
    id.as_ref().is_none_or(|id| *id == entry.id)
        && reason.is_none_or(|reason| reason.code() == entry.reason)
        && conversation_id
            .as_ref()
            .is_none_or(|id| entry.conversation_id.is_some_and(|found| found == id.as_str()))
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
    /// Which messages it returns; the others stay.
    wanted: Box<dyn Fn(&Message) -> bool + Send + Sync + 'a>,
}

impl<'a> QuarantineScan<'a> {
    fn new(queue: &'a Queue, time_left: Duration) -> Self {
        let until = Instant::now() + time_left.saturating_sub(RESERVE).min(MAX_SCAN_TIME);
        Self {
            queue,
            until,
            empty: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            is_cut_short: false,
            wanted: Box::new(|_| true),
        }
    }

    /// Notes that a message stays, as does one that turned out not to be deleted.
    fn keep(&mut self, message: &Message) {
        let receipt = message.receipt.clone();
        self.kept_bytes += size_of::<String>() + receipt.len();
        self.kept.push(receipt);
    }

    fn keep_all<'m>(&mut self, messages: impl IntoIterator<Item = &'m Message>) {
        for message in messages {
            self.keep(message);
        }
    }

    /// Further messages, or `None` when there are no others, or no time or memory.
    async fn next(&mut self) -> Result<Option<Vec<Message>>, QueueError> {
        while self.empty < EMPTY_RECEIVES {
            if Instant::now() >= self.until || self.kept_bytes >= MAX_RECEIPT_BYTES {
                self.is_cut_short = true;
                return Ok(None);
            }
            let seen = self.queue.receive(SCAN_VISIBILITY_TIMEOUT).await?;
            if seen.is_empty() {
                self.empty += 1;
                continue;
            }
            self.empty = 0;
            let (wanted, others): (Vec<_>, Vec<_>) = seen.into_iter().partition(&*self.wanted);
            self.keep_all(&others);
            if !wanted.is_empty() {
                return Ok(Some(wanted));
            }
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
    let event_type = event(&body).ok()?.event_type;
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

/// A queue message's event, if it is valid and about something that the relay forwards.
fn event(body: &str) -> Result<EventFields, InvalidEvent> {
    let body = replace_lone_surrogates(body.to_owned());
    let event = QueueMessage::read(&body)?.event()?;
    let conversation = match event.subject.ok_or(InvalidEvent::NoSubject)? {
        Subject::Conversation(id) => Some(id.to_string()),
        Subject::DeletedCustomer(_) | Subject::MergedCustomers(_) => None,
    };
    Ok(EventFields {
        event_type: QueueMessage::type_attribute(&event.event_type),
        id: event.id.map(|id| id.to_string()),
        conversation,
    })
}

/// What a list shows of an event.
struct EventFields {
    event_type: String,
    id: Option<String>,
    conversation: Option<String>,
}

/// The start of the SHA-256 of a message's body. A renewal copies that byte for byte.
fn message_id(message: &Message) -> String {
    let hash = Sha256::digest(&message.body);
    let start = hash.first_chunk().copied().unwrap_or_default();
    format!("{:016x}", u64::from_be_bytes(start))
}

/// A message as a list shows it.
fn entry(message: &Message) -> QuarantineEntry {
    let (body, id) = (&*message.body, message_id(message));
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
        return with_event(entry, Some(body));
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
    with_event(entry, queued.as_deref())
}

/// The entry with its event's type and ids, if its queue message has a valid one.
fn with_event(entry: QuarantineEntry, queued: Option<&str>) -> QuarantineEntry {
    let Some(Ok(EventFields { event_type, id, conversation })) = queued.map(event) else {
        return entry;
    };
    QuarantineEntry {
        event_type: Some(event_type),
        event_id: id,
        conversation_id: conversation,
        ..entry
    }
}

/// A message with what was quarantined.
fn with_body(message: &Message) -> QuarantinedBody {
    let entry = entry(message);
    let bytes = QuarantinedMessage::read(&message.body).and_then(|quarantined| quarantined.bytes());
    let bytes = bytes.unwrap_or_else(|| message.body.clone().into_bytes());
    match String::from_utf8(bytes) {
        Ok(body) => QuarantinedBody { entry, body, encoding: None },
        Err(err) => {
            let body = BASE64_STANDARD.encode(err.as_bytes());
            QuarantinedBody { entry, body, encoding: Some("base64".into()) }
        }
    }
}

/// A text truncated for a list.
fn shown(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

/// The count of each reason in a list.
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
