//! A record of the batch, read alone: what is wrong with one never touches another.

use std::{borrow::Cow, collections::HashMap};

use aws_lambda_events::sqs::{SqsMessage, SqsMessageAttribute};
use jiff::Timestamp;
use serde_json::value::RawValue;
use shared::{Id, InvalidEvent, Origin, QueueMessage};

use crate::{
    client::json::{Fields, participant, text},
    unicode::replace_lone_surrogates,
};

/// A message of the events queue.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) message_id: String,
    pub(crate) receipt: String,
    pub(crate) body: String,
    /// How often SQS has handed it out, this time included.
    pub(crate) receives: u32,
    pub(crate) sent_at: Option<Timestamp>,
    pub(crate) first_received_at: Option<Timestamp>,
    pub(crate) attributes: HashMap<String, SqsMessageAttribute>,
}

/// The batch cannot be settled record by record, so SQS keeps all of it.
#[derive(Debug, thiserror::Error)]
#[error("a record has no message id, so it cannot be reported alone")]
pub struct MissingMessageId;

/// A record of a batch as Lambda hands it over, as far as it can be read: what is malformed about
/// it costs neither its other fields nor its neighbours.
pub(crate) fn sqs_message(json: &str) -> SqsMessage {
    let fields = Fields::read(json).unwrap_or_default();
    let owned = |name| fields.text(name).map(Cow::into_owned);
    let mut message = SqsMessage::default();
    message.message_id = owned("messageId");
    message.receipt_handle = owned("receiptHandle");
    message.body = fields.get("body").map(|raw| {
        // A body that is not a text stands in quarantine as it came.
        serde_json::from_str(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
    });
    let attributes = Fields::of(fields.get("attributes"));
    let attributes = attributes.iter().map(|(name, raw)| {
        let value = text(raw).unwrap_or_else(|| raw.get().into());
        (name.to_owned(), value.into_owned())
    });
    message.attributes = attributes.collect();
    let attributes = Fields::of(fields.get("messageAttributes"));
    let attributes = attributes.iter().filter_map(|(name, raw)| {
        let fields = Fields::of(Some(raw));
        let mut attribute = SqsMessageAttribute::default();
        // SQS takes none without a type and a value.
        attribute.data_type = Some(fields.text("dataType")?.into_owned());
        attribute.string_value = fields.text("stringValue").map(Cow::into_owned);
        let binary = fields.get("binaryValue");
        attribute.binary_value = binary.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let has_value = attribute.string_value.is_some() || attribute.binary_value.is_some();
        has_value.then(|| (name.to_owned(), attribute))
    });
    message.message_attributes = attributes.collect();
    message
}

impl TryFrom<SqsMessage> for Record {
    type Error = MissingMessageId;

    fn try_from(message: SqsMessage) -> Result<Self, MissingMessageId> {
        let attributes = message.attributes;
        Ok(Self {
            message_id: message.message_id.filter(|id| !id.is_empty()).ok_or(MissingMessageId)?,
            receipt: message.receipt_handle.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            receives: number(&attributes, "ApproximateReceiveCount").unwrap_or(1),
            sent_at: instant(&attributes, "SentTimestamp"),
            first_received_at: instant(&attributes, "ApproximateFirstReceiveTimestamp"),
            attributes: message.message_attributes,
        })
    }
}

fn number<T: std::str::FromStr>(attributes: &HashMap<String, String>, name: &str) -> Option<T> {
    attributes.get(name)?.parse().ok()
}

fn instant(attributes: &HashMap<String, String>, name: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(number(attributes, name)?).ok()
}

/// An event to extract.
#[derive(Debug)]
pub(crate) struct Event {
    /// Where its record stands in the batch.
    pub(crate) record: usize,
    /// How often SQS has handed it out, this time included.
    pub(crate) receives: u32,
    pub(crate) id: Id,
    pub(crate) event_type: String,
    pub(crate) conversation: Id,
    pub(crate) customer: Option<Id>,
    pub(crate) item: Option<ItemRef>,
    pub(crate) timestamp: Option<String>,
    pub(crate) received_at: Timestamp,
    /// When it came into the queue, the last time if it was renewed or redriven.
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
    /// Reads the record that stands at `index` in the batch.
    pub(crate) fn read(index: usize, record: &Record) -> Result<Self, InvalidEvent> {
        let body = replace_lone_surrogates(record.body.clone());
        let message = QueueMessage::read(&body)?;
        let event = message.event()?;
        let content = Fields::of(event.content);
        let id = |name| content.text(name)?.parse::<Id>().ok();
        let message_id = id("messageId").or_else(|| id("conversationItemId"));
        Ok(Self {
            record: index,
            receives: record.receives,
            id: event.id.unwrap_or_else(|| Id::derived(message.event_json())),
            event_type: event.event_type.into_owned(),
            conversation: event.conversation.ok_or(InvalidEvent::NoConversation)?,
            customer: id("customerId"),
            item: message_id.map(ItemRef::Message).or_else(|| id("noteId").map(ItemRef::Note)),
            timestamp: event.timestamp.and_then(|raw| serde_json::from_str(raw.get()).ok()),
            received_at: message.received_at(),
            queued_at: record
                .sent_at
                .map_or(message.received_at(), |at| at.max(message.received_at())),
            origin: message.origin(),
            initiator: event.initiator.and_then(participant),
            content: event.content.map(ToOwned::to_owned),
        })
    }

    /// SQS hands it out for the first time.
    pub(crate) fn is_new(&self) -> bool {
        self.receives <= 1
    }

    /// When Gladly recorded it, if that can be read.
    pub(crate) fn recorded_at(&self) -> Option<Timestamp> {
        self.timestamp.as_deref()?.parse().ok()
    }

    /// For how many milliseconds the relay alone has kept it waiting; nothing for an event that an
    /// operator had queued, or that the pause or the breaker may have held since its receipt.
    ///
    /// An event that was sent again counts from then. A redrive is an operator's too, and a renewal
    /// leaves enough: what is renewed without a hold waits for days, so its lateness shows again
    /// within minutes.
    pub(crate) fn lateness(&self, last_hold: Option<Timestamp>, now: Timestamp) -> Option<u64> {
        let counts = self.origin == Origin::Webhook && last_hold < Some(self.received_at);
        let waited = now.as_millisecond() - self.queued_at.as_millisecond();
        // A clock set back makes it none.
        counts.then(|| waited.try_into().unwrap_or_default())
    }
}
