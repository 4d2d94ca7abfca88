//! A message of one of the queues: delivered by Lambda, received by the relay, or about to be sent.

use std::{borrow::Cow, collections::HashMap, str::FromStr};

use aws_lambda_events::sqs::{SqsMessage, SqsMessageAttribute};
use aws_sdk_sqs::{
    error::BuildError,
    primitives::Blob,
    types::{self, MessageAttributeValue, MessageSystemAttributeName},
};
use jiff::Timestamp;

use crate::client::json::{Fields, text};

/// A message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) receipt: String,
    pub(crate) body: String,
    /// How often SQS has delivered it, including this time.
    pub(crate) receives: u32,
    /// When it was sent, by SQS's clock.
    pub(crate) sent_at: Option<Timestamp>,
    pub(crate) first_received_at: Option<Timestamp>,
    pub(crate) attributes: HashMap<String, MessageAttributeValue>,
}

impl Message {
    /// A message to be sent, with one attribute that is a text.
    pub(crate) fn new(body: String, name: &str, value: &str) -> Result<Self, BuildError> {
        let attribute = MessageAttributeValue::builder().data_type("String").string_value(value);
        let attributes = [(name.to_owned(), attribute.build()?)].into();
        Ok(Self { body, attributes, ..Self::default() })
    }

    /// Its size as SQS counts it, in bytes.
    pub(crate) fn size(&self) -> usize {
        let attributes = self.attributes.iter().map(|(name, value)| {
            let text = value.string_value.as_ref().map_or(0, String::len);
            let binary = value.binary_value.as_ref().map_or(0, |binary| binary.as_ref().len());
            name.len() + value.data_type.len() + text + binary
        });
        self.body.len() + attributes.sum::<usize>()
    }
}

/// A message that the relay received itself.
impl From<types::Message> for Message {
    fn from(message: types::Message) -> Self {
        let sent_at = message
            .attributes
            .as_ref()
            .and_then(|attributes| attributes.get(&MessageSystemAttributeName::SentTimestamp))
            .and_then(|at| Timestamp::from_millisecond(at.parse().ok()?).ok());
        Self {
            id: message.message_id.unwrap_or_default(),
            receipt: message.receipt_handle.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            receives: 1,
            sent_at,
            first_received_at: None,
            attributes: message.message_attributes.unwrap_or_default(),
        }
    }
}

/// The batch cannot be settled record by record, so SQS keeps all of it.
#[derive(Debug, thiserror::Error)]
#[error("a record has no message id, so the batch cannot be settled record by record")]
pub struct MissingMessageId;

/// A record of a batch as Lambda delivers it, as far as it can be read: a malformed field costs
/// neither the other fields nor the other records.
pub(crate) fn sqs_message(json: &str) -> SqsMessage {
    let fields = Fields::read(json).unwrap_or_default();
    let owned = |name| fields.text(name).map(Cow::into_owned);
    let mut message = SqsMessage::default();
    message.message_id = owned("messageId");
    message.receipt_handle = owned("receiptHandle");
    message.body = fields.get("body").map(|raw| {
        // A body that is not a text is quarantined unchanged.
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
        // SQS accepts none without a type and a value.
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

/// A message that Lambda delivered.
impl TryFrom<SqsMessage> for Message {
    type Error = MissingMessageId;

    fn try_from(message: SqsMessage) -> Result<Self, MissingMessageId> {
        let attributes = message.attributes;
        Ok(Self {
            id: message.message_id.filter(|id| !id.is_empty()).ok_or(MissingMessageId)?,
            receipt: message.receipt_handle.unwrap_or_default(),
            body: message.body.unwrap_or_default(),
            receives: number(&attributes, "ApproximateReceiveCount").unwrap_or(1),
            sent_at: instant(&attributes, "SentTimestamp"),
            first_received_at: instant(&attributes, "ApproximateFirstReceiveTimestamp"),
            attributes: message
                .message_attributes
                .into_iter()
                // What SQS would not accept again is left out.
                .filter_map(|(name, value)| Some((name, attribute(value)?)))
                .collect(),
        })
    }
}

fn number<T: FromStr>(attributes: &HashMap<String, String>, name: &str) -> Option<T> {
    attributes.get(name)?.parse().ok()
}

fn instant(attributes: &HashMap<String, String>, name: &str) -> Option<Timestamp> {
    Timestamp::from_millisecond(number(attributes, name)?).ok()
}

/// An attribute as Lambda delivers it, converted for SQS.
fn attribute(value: SqsMessageAttribute) -> Option<MessageAttributeValue> {
    MessageAttributeValue::builder()
        .set_data_type(value.data_type)
        .set_string_value(value.string_value)
        .set_binary_value(value.binary_value.map(|binary| Blob::new(binary.0)))
        .build()
        .ok()
}
