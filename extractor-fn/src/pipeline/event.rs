//! An event, read from its message alone: an error in one never affects another.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::value::RawValue;
use shared::{
    Id, InvalidEvent, Origin, QueueMessage, SettleWindow, Subject, replace_lone_surrogates,
};

use crate::{
    client::{
        json::{Fields, participant},
        message::Message,
    },
    pipeline::{
        lag::{READ_LAG, SKEW},
        tombstone::Tombstone,
    },
};

/// Where an event's record is in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordIndex(pub(crate) usize);

/// What becomes of an event.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// It is forwarded, and its conversation with it.
    Forward,
    /// It is about a customer, and forwarded as these.
    Bury(Vec<Tombstone>),
    /// Its conversation remained after a merge and is forwarded again; it itself is not.
    Refetch,
}

/// An event to extract.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "type is a keyword")]
pub(crate) struct Event {
    pub(crate) record: RecordIndex,
    /// How often SQS has delivered it, including this time.
    pub(crate) receives: u32,
    pub(crate) id: Id,
    pub(crate) event_type: String,
    /// The conversation; of tombstones the customer.
    pub(crate) subject: Id,
    pub(crate) purpose: Purpose,
    pub(crate) customer: Option<Id>,
    pub(crate) item: Option<ItemRef>,
    pub(crate) timestamp: Option<String>,
    pub(crate) received_at: Timestamp,
    /// When it was sent to the queue; the last time if it was renewed or redriven.
    pub(crate) queued_at: Timestamp,
    pub(crate) origin: Origin,
    pub(crate) initiator: Option<Box<RawValue>>,
    pub(crate) content: Option<Box<RawValue>>,
}

/// The item that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ItemRef {
    Message(Id),
    Note(Id),
}

impl ItemRef {
    pub(crate) fn id(&self) -> &Id {
        match self {
            Self::Message(id) | Self::Note(id) => id,
        }
    }
}

impl Event {
    /// Reads the record at `index` in the batch: one event, or two of a merge of customers after which a
    /// conversation remained.
    pub(crate) fn read(index: RecordIndex, record: &Message) -> Result<Vec<Self>, InvalidEvent> {
        let body = replace_lone_surrogates(record.body.clone());
        let message = QueueMessage::read(&body)?;
        let event = message.event()?;
        let id = event.id.unwrap_or_else(|| Id::derived(message.event_json()));
        let timestamp: Option<String> =
            event.timestamp.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let received_at = message.received_at();
        let read = |subject: &Id, purpose| Self {
            record: index,
            receives: record.receives,
            id: id.clone(),
            event_type: event.event_type.to_string(),
            subject: subject.clone(),
            purpose,
            customer: None,
            item: None,
            timestamp: timestamp.clone(),
            received_at,
            queued_at: record.sent_at.map_or(received_at, |at| at.max(received_at)),
            origin: message.origin(),
            initiator: None,
            content: None,
        };
        let subject = event.subject.ok_or(InvalidEvent::NoSubject)?;
        let recorded_at = timestamp.as_deref().and_then(|at| at.parse().ok());
        let tombstones = Tombstone::of(&subject, &id, recorded_at.unwrap_or(received_at));
        let bury = |customer| read(customer, Purpose::Bury(tombstones));
        Ok(match &subject {
            Subject::Conversation(conversation) => {
                let content = Fields::of(event.content);
                let id = |name| content.text(name)?.parse::<Id>().ok();
                let message = id("messageId").or_else(|| id("conversationItemId"));
                let note = || id("noteId").map(ItemRef::Note);
                vec![Self {
                    customer: id("customerId"),
                    item: message.map(ItemRef::Message).or_else(note),
                    initiator: event.initiator.and_then(participant),
                    content: event.content.map(ToOwned::to_owned),
                    ..read(conversation, Purpose::Forward)
                }]
            }
            Subject::DeletedCustomer(customer) => vec![bury(customer)],
            Subject::MergedCustomers(merge) => {
                let refetch = |remains| Self {
                    customer: Some(merge.into.clone()),
                    ..read(remains, Purpose::Refetch)
                };
                let remains = merge.into_conversation.as_ref().map(refetch);
                [bury(&merge.into)].into_iter().chain(remains).collect()
            }
        })
    }

    /// Whether SQS delivers it for the first time.
    pub(crate) fn is_new(&self) -> bool {
        self.receives <= 1
    }

    /// When Gladly recorded it, if that can be read; when it was queued, if that was an operator's wish
    /// to have its conversation delivered again: no earlier snapshot covers it.
    pub(crate) fn recorded_at(&self) -> Option<Timestamp> {
        let recorded_at = self.timestamp.as_deref()?.parse().ok()?;
        let is_wish = self.event_type.starts_with("RELAY/");
        Some(if is_wish { self.received_at.max(recorded_at) } else { recorded_at })
    }

    /// How many milliseconds longer than its settle window the relay itself has kept it waiting;
    /// `None` for an event that an operator had queued, or that the pause or the breaker may have held
    /// since its receipt.
    ///
    /// A re-sent event counts from its last sending, and its window is left out once more. A redrive
    /// is an operator's action too, and a renewal hides little: what is renewed without a hold has
    /// waited for days, so its lateness shows again within minutes.
    pub(crate) fn lateness(
        &self,
        window: SettleWindow,
        last_hold: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<u64> {
        let counts = self.origin == Origin::Webhook && last_hold < Some(self.received_at);
        let window = i64::from(window.seconds(&self.event_type)) * 1_000;
        let late = now.as_millisecond() - self.queued_at.as_millisecond() - window;
        // 0 within the window, or if the clock was set back.
        counts.then(|| late.try_into().unwrap_or_default())
    }

    /// What the destination must forget because of it.
    pub(crate) fn tombstones(&self) -> &[Tombstone] {
        if let Purpose::Bury(tombstones) = &self.purpose { tombstones } else { &[] }
    }

    /// Whether its conversation is to be fetched again, and nothing else.
    pub(crate) fn is_refetch(&self) -> bool {
        matches!(self.purpose, Purpose::Refetch)
    }

    /// How long until Gladly certainly shows a conversation as it is after a merge; at most the read lag
    /// and the clock skew, whatever the event's time.
    pub(crate) fn settles_in(&self, now: Timestamp) -> Option<Duration> {
        let recorded_at = self.recorded_at().unwrap_or(self.received_at);
        let settled_at = recorded_at.saturating_add(READ_LAG).ok()?;
        let wait = settled_at.duration_since(now).min(READ_LAG + SKEW);
        wait.try_into().ok().filter(|wait: &Duration| self.is_refetch() && !wait.is_zero())
    }

    /// Whether it reports that its conversation was closed.
    pub(crate) fn is_close(&self) -> bool {
        self.event_type == "CONVERSATION/CLOSED"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_late_from_the_end_of_its_settle_window_on() {
        let lateness = |kind: &str, origin, received_at: Timestamp, seconds| {
            let event = format!(r#"{{"type":"{kind}","content":{{"conversationId":"c"}}}}"#);
            let message = QueueMessage::wrap(&event, received_at, origin).unwrap();
            let body = message.to_json().unwrap();
            let record = Message { body, sent_at: Some(received_at), ..Message::default() };
            let event = Event::read(RecordIndex(0), &record).unwrap().remove(0);
            let now = Timestamp::from_second(seconds).unwrap();
            event.lateness(SettleWindow::default(), None, now)
        };
        for (kind, window) in [("CONVERSATION/CREATED", 300), ("CONVERSATION/CLOSED", 15)] {
            let at = |origin, seconds| lateness(kind, origin, Timestamp::UNIX_EPOCH, seconds);
            assert_eq!(at(Origin::Webhook, window - 1), Some(0), "{kind}");
            assert_eq!(at(Origin::Webhook, window + 2), Some(2_000), "{kind}");
            assert_eq!(at(Origin::Backfill, window + 2), None, "{kind}");
        }
        // Anybody who may send to the queue can write this.
        assert_eq!(lateness("X", Origin::Webhook, Timestamp::MAX, 0), Some(0));
    }
}
