//! Records of SQS batches, as Lambda passes them to a function
//! (<https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html#example-standard-queue-message-event>).

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::aws::{QUEUE_ARNS, REGION, Received};

/// A record.
#[derive(Debug, Clone)]
pub struct SqsRecord {
    /// The message's id.
    pub id: String,
    /// The receipt handle.
    pub receipt: String,
    /// The message's body.
    pub body: String,
    /// The message's attributes, all of them strings.
    pub attributes: Vec<(String, String)>,
    /// How often the message was received, this time included.
    pub receives: u32,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// When it was received for the first time.
    pub first_received_at: Timestamp,
}

impl SqsRecord {
    /// A message that was sent and received for the first time at this moment. Its receipt is `receipt of ID`.
    #[must_use]
    pub fn new(id: &str, body: &str, at: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            receipt: format!("receipt of {id}"),
            body: body.to_owned(),
            attributes: Vec::new(),
            receives: 1,
            sent_at: at,
            first_received_at: at,
        }
    }

    /// The same with one attribute more.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same received for this time.
    #[must_use]
    pub fn received(self, receives: u32) -> Self {
        Self { receives, ..self }
    }

    /// The same sent, and received for the first time, at another moment.
    #[must_use]
    pub fn sent(self, at: Timestamp) -> Self {
        Self { sent_at: at, first_received_at: at, ..self }
    }

    /// The same sent, and received for the first time, this long ago.
    #[must_use]
    pub fn sent_ago(self, age: SignedDuration) -> Self {
        self.sent(Timestamp::now() - age)
    }

    /// The record as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let attributes = self.attributes.iter().map(|(name, value)| {
            let value = json!({
                "stringValue": value, "dataType": "String", "stringListValues": [], "binaryListValues": [],
            });
            (name.clone(), value)
        });
        json!({
            "messageId": self.id,
            "receiptHandle": self.receipt,
            "body": self.body,
            "attributes": system_attributes(self.receives, self.sent_at, self.first_received_at),
            "messageAttributes": attributes.collect::<Map<_, _>>(),
            "md5OfBody": "0",
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("{QUEUE_ARNS}events"),
            "awsRegion": REGION,
        })
    }
}

impl From<&Received> for SqsRecord {
    fn from(message: &Received) -> Self {
        Self {
            id: message.id.clone(),
            receipt: message.receipt.clone(),
            body: message.body.to_string(),
            attributes: message.attributes.clone(),
            receives: message.receives,
            sent_at: message.sent_at,
            first_received_at: message.first_received_at,
        }
    }
}

/// SQS's own attributes of a message, by their names.
pub(crate) fn system_attributes(
    receives: u32,
    sent_at: Timestamp,
    first_received_at: Timestamp,
) -> Value {
    json!({
        "ApproximateReceiveCount": receives.to_string(),
        "SentTimestamp": sent_at.as_millisecond().to_string(),
        "ApproximateFirstReceiveTimestamp": first_received_at.as_millisecond().to_string(),
        "SenderId": "AIDAEXAMPLE",
    })
}
