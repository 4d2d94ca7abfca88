//! Standard queues: messages, visibility, redelivery and expiry.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use serde_json::{Map, Value, json};

use super::{Disorder, Fault, QUEUES, State, Unconfirmed, text};
use crate::record::system_attributes;

/// SQS's own limit of a message and of a batch, attributes included.
const MIB: usize = 1 << 20;
/// Messages of a queue that may be in flight.
const IN_FLIGHT: usize = 120_000;
/// Entries of a batch.
const ENTRIES: std::ops::RangeInclusive<usize> = 1..=10;
/// How far from its place in the order a message mostly comes.
const NEAR: usize = 30;
/// The longest a message may be hidden, in seconds.
const HIDDEN: i64 = 43_200;
/// The longest a message may be delayed, in seconds.
const DELAYED: i64 = 900;

/// A message that SQS has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The last part of its queue's URL.
    pub queue: String,
    /// Its body.
    pub body: String,
    /// Every attribute's name and value, all of them strings.
    pub attributes: Vec<(String, String)>,
    /// For how many seconds it was hidden first.
    pub delay: i64,
}

/// A message as SQS hands it out.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its id.
    pub id: String,
    /// What this receive can be answered with.
    pub receipt: String,
    /// Its body.
    pub body: Arc<str>,
    /// Its attributes.
    pub attributes: Vec<(String, String)>,
    /// When it came into the queue.
    pub sent_at: Timestamp,
    /// How often it was handed out, this time included.
    pub receives: u32,
    /// When it was handed out for the first time.
    pub first_received_at: Timestamp,
}

impl Received {
    /// SQS's own attributes, by their names.
    #[must_use]
    pub fn system(&self) -> Value {
        system_attributes(self.receives, self.sent_at, self.first_received_at)
    }
}

/// The account's queues. One exists once it is named.
#[derive(Debug, Default)]
pub struct Sqs {
    queues: BTreeMap<String, Queue>,
    /// Numbers given to messages and receipts.
    numbers: u64,
    /// Messages that were handed out again after a receive or a deletion.
    pub repeated: usize,
    /// Messages that the redrive policy moved.
    pub redriven: usize,
}

/// A queue. Times are milliseconds of the Unix clock.
#[derive(Debug)]
pub struct Queue {
    /// When it was created.
    pub created_at: Timestamp,
    /// How long a message stays.
    pub retention: SignedDuration,
    /// How long a receive hides a message, unless the receive sets it.
    pub visibility: SignedDuration,
    /// After how many receives a message moves, and to which queue.
    pub redrive: Option<(u32, String)>,
    /// Bodies of messages that were not deleted in time.
    pub expired: Vec<Arc<str>>,
    messages: BTreeMap<u64, Held>,
    ages: BTreeSet<(i64, u64)>,
    /// Visible messages, oldest first. May contain deleted messages.
    visible: VecDeque<u64>,
    hidden: BTreeSet<(i64, u64)>,
    delayed: BTreeSet<(i64, u64)>,
}

#[derive(Debug)]
struct Held {
    body: Arc<str>,
    attributes: Vec<(String, String)>,
    sent: i64,
    /// Its position in `hidden` or `delayed`, if any.
    due: i64,
    receives: u32,
    first_received: Option<i64>,
    received: i64,
    receipt: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            created_at: Timestamp::UNIX_EPOCH,
            retention: SignedDuration::from_hours(96),
            visibility: SignedDuration::from_mins(30),
            redrive: None,
            expired: Vec::new(),
            messages: BTreeMap::new(),
            ages: BTreeSet::new(),
            visible: VecDeque::new(),
            hidden: BTreeSet::new(),
            delayed: BTreeSet::new(),
        }
    }
}

impl Queue {
    /// How many messages it holds, seen and unseen, as of its last use.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The bodies of its messages with the time each was sent, oldest number first.
    pub fn bodies(&self) -> impl Iterator<Item = (Timestamp, &Arc<str>)> {
        self.messages.values().map(|held| (timestamp(held.sent), &held.body))
    }

    /// Advances the time: old messages expire, hidden ones become visible.
    fn pass(&mut self, now: i64) {
        let retention = as_millis(self.retention);
        while let Some((sent, number)) = self.ages.first().copied()
            && sent + retention <= now
        {
            if let Some(held) = self.remove(number) {
                self.expired.push(held.body);
            }
        }
        for waiting in [&mut self.hidden, &mut self.delayed] {
            while let Some((due, number)) = waiting.first().copied()
                && due <= now
            {
                waiting.pop_first();
                self.visible.push_back(number);
            }
        }
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.messages.remove(&number)?;
        self.ages.remove(&(held.sent, number));
        self.hidden.remove(&(held.due, number));
        self.delayed.remove(&(held.due, number));
        Some(held)
    }

    fn hide(&mut self, number: u64, until: i64) {
        if let Some(held) = self.messages.get_mut(&number) {
            self.hidden.remove(&(held.due, number));
            held.due = until;
            self.hidden.insert((until, number));
        }
    }
}

impl State {
    /// A queue by the last part of its URL, as it is at this time.
    pub fn queue(&mut self, name: &str, now: Timestamp) -> &mut Queue {
        if !self.sqs.queues.contains_key(name) {
            let queue = Queue { created_at: now, ..Queue::default() };
            self.sqs.queues.insert(name.to_owned(), queue);
        }
        let queue = self.sqs.queues.entry(name.to_owned()).or_default();
        queue.pass(now.as_millisecond());
        queue
    }

    /// Puts a message into a queue, visible after so many seconds.
    pub fn send(
        &mut self,
        name: &str,
        body: &str,
        attributes: Vec<(String, String)>,
        delay: i64,
        now: Timestamp,
    ) -> String {
        let sent = now.as_millisecond();
        let held = Held {
            body: body.into(),
            attributes,
            sent,
            due: sent + delay * 1_000,
            receives: 0,
            first_received: None,
            received: 0,
            receipt: 0,
        };
        let number = self.number();
        let queue = self.queue(name, now);
        queue.place(number, held, delay > 0);
        message_id(number)
    }

    fn number(&mut self) -> u64 {
        self.sqs.numbers += 1;
        self.sqs.numbers
    }

    /// Hands out messages, hidden for so many seconds.
    pub fn receive(
        &mut self,
        name: &str,
        most: usize,
        visibility: Option<i64>,
        now: Timestamp,
    ) -> Result<Vec<Received>, Fault> {
        let most = if self.happens(|disorder| disorder.short) {
            self.disorder.as_mut().map_or(most, |disorder| disorder.rng.usize(0..=most))
        } else {
            most
        };
        let mut received = Vec::new();
        // A message that stays visible is not handed out twice at once.
        let mut repeated = Vec::new();
        while received.len() < most {
            if self.queue(name, now).hidden.len() >= IN_FLIGHT {
                if received.is_empty() {
                    return Err(Fault::Refused(400, "com.amazonaws.sqs#OverLimit"));
                }
                break;
            }
            let Some(number) = self.pick(name, now) else { break };
            let receipt = self.number();
            let again = self.happens(|disorder| disorder.twice);
            let queue = self.queue(name, now);
            let seconds = visibility.unwrap_or(queue.visibility.as_secs());
            let until = now.as_millisecond() + seconds * 1_000;
            let Some(held) = queue.messages.get_mut(&number) else { continue };
            held.receives += 1;
            held.received = now.as_millisecond();
            held.receipt = receipt;
            let first = *held.first_received.get_or_insert(held.received);
            received.push(Received {
                id: message_id(number),
                receipt: format!("{name}#{number}#{receipt}"),
                body: Arc::clone(&held.body),
                attributes: held.attributes.clone(),
                sent_at: timestamp(held.sent),
                receives: held.receives,
                first_received_at: timestamp(first),
            });
            if again || seconds == 0 {
                repeated.push(number);
            } else {
                queue.hide(number, until);
            }
            self.sqs.repeated += usize::from(again);
        }
        self.queue(name, now).visible.extend(repeated);
        Ok(received)
    }

    /// The next message to hand out. One received too often moves on the way.
    fn pick(&mut self, name: &str, now: Timestamp) -> Option<u64> {
        loop {
            let count = self.queue(name, now).visible.len();
            if count == 0 {
                return None;
            }
            let index = self.disorder.as_mut().map_or(0, |Disorder { rng, .. }| {
                let near = if rng.u32(0..10) == 0 { count } else { count.min(NEAR) };
                rng.usize(0..near)
            });
            let queue = self.queue(name, now);
            let number = queue.visible.swap_remove_front(index)?;
            let Some(held) = queue.messages.get(&number) else { continue };
            let Some((most, to)) = &queue.redrive else { return Some(number) };
            if held.receives < *most {
                return Some(number);
            }
            // It keeps the time it was sent, and gets no reason.
            let to = to.clone();
            if let Some(held) = queue.remove(number) {
                self.sqs.redriven += 1;
                let held = Held { due: 0, receives: 0, first_received: None, ..held };
                self.queue(&to, now).place(number, held, false);
            }
        }
    }

    /// Deletes the message of a receipt, unless it has been received again since.
    pub fn delete(&mut self, receipt: &str, now: Timestamp) {
        let Some((name, number)) = self.by_receipt(receipt, now) else { return };
        let again = self.happens(|disorder| disorder.twice);
        let wait = self.disorder.as_mut().map_or(0, |disorder| disorder.rng.i64(1..60_000));
        let queue = self.queue(&name, now);
        if !again {
            queue.remove(number);
        } else if let Some(held) = queue.messages.get_mut(&number) {
            held.receipt = 0;
            let in_sight = !queue.hidden.contains(&(held.due, number));
            if !in_sight {
                queue.hide(number, now.as_millisecond() + wait);
            }
            self.sqs.repeated += 1;
        }
    }

    /// The message of a receipt, if it is that message's latest receipt.
    fn by_receipt(&mut self, receipt: &str, now: Timestamp) -> Option<(String, u64)> {
        let mut parts = receipt.split('#');
        let name = parts.next()?.to_owned();
        let (number, receipt): (u64, u64) =
            (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let held = self.queue(&name, now).messages.get(&number)?;
        (held.receipt == receipt).then_some((name, number))
    }

    fn set_visibility(
        &mut self,
        receipt: &str,
        seconds: i64,
        now: Timestamp,
    ) -> Result<(), &'static str> {
        self.visibility.insert(receipt.to_owned(), seconds);
        if !receipt.contains('#') {
            // A test's own receipt, of a message that is in no queue.
            return Ok(());
        }
        let (name, number) = self.by_receipt(receipt, now).ok_or("ReceiptHandleIsInvalid")?;
        let queue = self.queue(&name, now);
        let held = queue.messages.get(&number).ok_or("ReceiptHandleIsInvalid")?;
        if !queue.hidden.contains(&(held.due, number)) {
            return Err("MessageNotInflight");
        }
        let until = now.as_millisecond() + seconds * 1_000;
        if until - held.received > HIDDEN * 1_000 {
            return Err("InvalidParameterValue");
        }
        queue.hide(number, until);
        queue.pass(now.as_millisecond());
        Ok(())
    }

    pub(super) fn sqs(
        &mut self,
        target: &str,
        asked: &Value,
        failed: u16,
        now: Timestamp,
    ) -> Result<Value, Fault> {
        let name = queue_name(asked);
        let target = target.strip_prefix("AmazonSQS.").unwrap_or(target);
        match target {
            "SendMessage" => self.send_one(&name, asked, now),
            "SendMessageBatch" => {
                let sizes = entries(asked).iter().map(size).sum::<usize>();
                if sizes > MIB {
                    return Err(Fault::Refused(400, "com.amazonaws.sqs#BatchRequestTooLong"));
                }
                Ok(batch(asked, failed, |entry| match self.send_one(&name, entry, now) {
                    Ok(Value::Object(sent)) => Ok(sent),
                    Err(Fault::Refused(_, code)) => Err(code),
                    _ => Err("InternalError"),
                }))
            }
            "ReceiveMessage" => {
                let most = asked["MaxNumberOfMessages"].as_u64().unwrap_or(1);
                assert!((1..=10).contains(&most), "SQS gives 1 to 10 messages");
                let visibility = asked["VisibilityTimeout"].as_i64();
                assert!(visibility.is_none_or(|seconds| (0..=HIDDEN).contains(&seconds)));
                let received =
                    self.receive(&name, usize::try_from(most).unwrap_or(1), visibility, now)?;
                let log = received.iter();
                let log = log.map(|message| (name.clone(), message.id.clone(), message.sent_at));
                self.receives.extend(log);
                Ok(json!({"Messages": received.iter().map(shown).collect::<Vec<_>>()}))
            }
            "DeleteMessage" => {
                self.delete(&text(&asked["ReceiptHandle"]), now);
                Ok(json!({}))
            }
            "DeleteMessageBatch" => Ok(batch(asked, failed, |entry| {
                self.delete(&text(&entry["ReceiptHandle"]), now);
                Ok(Map::new())
            })),
            "ChangeMessageVisibilityBatch" => Ok(batch(asked, failed, |entry| {
                let seconds = entry["VisibilityTimeout"].as_i64().unwrap_or(-1);
                assert!((0..=HIDDEN).contains(&seconds), "SQS takes 0 to 43,200 s");
                let receipt = text(&entry["ReceiptHandle"]);
                self.set_visibility(&receipt, seconds, now).map(|()| Map::new())
            })),
            "GetQueueAttributes" => {
                let names = asked["AttributeNames"].as_array().map_or(&[][..], |names| names);
                let queue = self.queue(&name, now);
                let (hidden, delayed) = (queue.hidden.len(), queue.delayed.len());
                let value = |name: &str| match name {
                    "ApproximateNumberOfMessages" => (queue.len() - hidden - delayed).to_string(),
                    "ApproximateNumberOfMessagesNotVisible" => hidden.to_string(),
                    "ApproximateNumberOfMessagesDelayed" => delayed.to_string(),
                    "MessageRetentionPeriod" => queue.retention.as_secs().to_string(),
                    "CreatedTimestamp" => queue.created_at.as_second().to_string(),
                    other => panic!("the relay never uses this attribute: {other}"),
                };
                let wanted = names.iter().map(text);
                let shown: Map<_, _> =
                    wanted.map(|name| (name.clone(), json!(value(&name)))).collect();
                Ok(json!({"Attributes": shown}))
            }
            other => panic!("the relay never makes this call: {other}"),
        }
    }

    fn send_one(&mut self, name: &str, asked: &Value, now: Timestamp) -> Result<Value, Fault> {
        let body = text(&asked["MessageBody"]);
        let attributes = attributes(asked);
        let taken = |text: &str| !text.is_empty() && text.chars().all(character_is_taken);
        if !taken(&body) || !attributes.iter().all(|(_, value)| taken(value)) {
            return Err(Fault::Refused(400, "com.amazonaws.sqs#InvalidMessageContents"));
        }
        let delay = asked["DelaySeconds"].as_i64().unwrap_or_default();
        if size(asked) > MIB || !(0..=DELAYED).contains(&delay) || attributes.len() > 10 {
            return Err(Fault::Refused(400, "com.amazonaws.sqs#InvalidParameterValue"));
        }
        let id = self.send(name, &body, attributes.clone(), delay, now);
        self.messages.push(Message { queue: name.to_owned(), body, attributes, delay });
        Ok(json!({"MessageId": id, "MD5OfMessageBody": md5(asked)}))
    }
}

impl Queue {
    fn place(&mut self, number: u64, held: Held, delayed: bool) {
        self.ages.insert((held.sent, number));
        if delayed {
            self.delayed.insert((held.due, number));
        } else {
            self.visible.push_back(number);
        }
        self.messages.insert(number, held);
    }
}

/// Does what each entry asks, but for those whose bit is set in `failed`.
fn batch(
    asked: &Value,
    failed: u16,
    mut work: impl FnMut(&Value) -> Result<Map<String, Value>, &'static str>,
) -> Value {
    let entries = entries(asked);
    assert!(ENTRIES.contains(&entries.len()), "SQS takes 1 to 10 entries");
    let ids: BTreeSet<_> = entries.iter().map(|entry| entry["Id"].as_str()).collect();
    assert!(ids.len() == entries.len() && !ids.contains(&None), "SQS takes distinct ids");
    let (mut successful, mut refused) = (Vec::new(), Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        let outcome = if failed >> index & 1 == 1 { Err("InternalError") } else { work(entry) };
        match outcome {
            Ok(mut done) => {
                done.insert("Id".into(), entry["Id"].clone());
                successful.push(Value::Object(done));
            }
            Err(code) => refused.push(json!({
                "Id": entry["Id"], "Code": code, "SenderFault": code != "InternalError",
            })),
        }
    }
    json!({"Successful": successful, "Failed": refused})
}

fn entries(asked: &Value) -> &[Value] {
    asked["Entries"].as_array().map_or(&[][..], |entries| entries)
}

fn attributes(asked: &Value) -> Vec<(String, String)> {
    let attributes = asked["MessageAttributes"].as_object().into_iter().flatten();
    let read = attributes.map(|(name, value)| {
        assert_eq!(value["DataType"], "String");
        (name.clone(), text(&value["StringValue"]))
    });
    read.collect()
}

/// The bytes of a message that count.
fn size(asked: &Value) -> usize {
    let extra = |(name, value): &(String, String)| name.len() + "String".len() + value.len();
    let body = asked["MessageBody"].as_str().unwrap_or_default();
    body.len() + attributes(asked).iter().map(extra).sum::<usize>()
}

/// SQS's response to a message or a batch, with this defect.
pub(super) fn unconfirmed(how: Unconfirmed, asked: &Value) -> Value {
    let answer = |asked: &Value| {
        let mut answer = json!({"MessageId": "m-0", "MD5OfMessageBody": md5(asked)});
        match how {
            Unconfirmed::NoMessageId => answer["MessageId"] = Value::Null,
            Unconfirmed::OtherMd5 => answer["MD5OfMessageBody"] = md5(&Value::Null).into(),
            Unconfirmed::NoMd5 => answer["MD5OfMessageBody"] = Value::Null,
        }
        answer
    };
    let named = |entry: &Value| {
        let mut answer = answer(entry);
        answer["Id"] = entry["Id"].clone();
        answer
    };
    match entries(asked) {
        [] => answer(asked),
        entries => json!({"Successful": entries.iter().map(named).collect::<Vec<_>>()}),
    }
}

/// Of a message's body, in hexadecimal.
fn md5(asked: &Value) -> String {
    let digest = Md5::digest(asked["MessageBody"].as_str().unwrap_or_default());
    format!("{:032x}", u128::from_be_bytes(digest.into()))
}

fn shown(message: &Received) -> Value {
    let attributes = message
        .attributes
        .iter()
        .map(|(name, value)| (name.clone(), json!({"DataType": "String", "StringValue": value})));
    json!({
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": "0",
        "Body": &*message.body,
        "Attributes": message.system(),
        "MessageAttributes": attributes.collect::<Map<_, _>>(),
    })
}

/// The last part of the queue's URL.
fn queue_name(asked: &Value) -> String {
    let url = text(&asked["QueueUrl"]);
    assert!(url.starts_with(QUEUES), "not our queue");
    url[QUEUES.len()..].to_owned()
}

fn message_id(number: u64) -> String {
    format!("m-{number}")
}

fn timestamp(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(milliseconds).unwrap_or_default()
}

fn as_millis(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 2)
}

/// SQS refuses the others, though JSON may hold them.
fn character_is_taken(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn ids(received: &[Received]) -> Vec<&str> {
        received.iter().map(|message| message.id.as_str()).collect()
    }

    #[test]
    fn a_received_message_is_hidden_and_returns_with_its_count() {
        let mut state = State::default();
        state.send("events", "a", Vec::new(), 0, at(0));
        let first = state.receive("events", 10, Some(30), at(5)).unwrap();
        assert_eq!((ids(&first).len(), first[0].receives), (1, 1));
        assert!(state.receive("events", 10, Some(30), at(34)).unwrap().is_empty());
        let second = state.receive("events", 10, Some(30), at(35)).unwrap();
        assert_eq!((second[0].receives, second[0].first_received_at), (2, at(5)));

        state.delete(&first[0].receipt, at(36));
        assert_eq!(state.queue("events", at(36)).len(), 1, "an old receipt deletes nothing");
        assert_eq!(
            state.set_visibility(&first[0].receipt, 5, at(36)),
            Err("ReceiptHandleIsInvalid")
        );
        state.set_visibility(&second[0].receipt, 0, at(37)).unwrap();
        let third = state.receive("events", 10, None, at(37)).unwrap();
        state.delete(&third[0].receipt, at(38));
        assert!(state.queue("events", at(38)).is_empty());
    }

    #[test]
    fn an_expired_message_is_deleted_even_in_flight() {
        let mut state = State::default();
        state.queue("events", at(0)).retention = SignedDuration::from_hours(1);
        state.send("events", "a", Vec::new(), 0, at(0));
        let received = state.receive("events", 10, Some(2 * HOUR), at(10)).unwrap();
        assert_eq!(state.queue("events", at(HOUR)).expired.len(), 1);
        assert_eq!(
            state.set_visibility(&received[0].receipt, 0, at(HOUR)),
            Err("ReceiptHandleIsInvalid")
        );
    }

    #[test]
    fn a_message_received_too_often_moves_and_keeps_its_time() {
        let mut state = State::default();
        state.queue("events", at(0)).redrive = Some((2, "quarantine".into()));
        state.send("events", "a", Vec::new(), 0, at(0));
        for second in [1, 2, 3] {
            let received = state.receive("events", 10, Some(1), at(second)).unwrap();
            assert_eq!(received.len(), usize::from(second < 3));
        }
        let moved = state.receive("quarantine", 10, None, at(4)).unwrap();
        assert_eq!((moved[0].sent_at, &moved[0].attributes), (at(0), &Vec::new()));
    }

    #[test]
    fn a_delayed_message_is_not_in_flight() {
        let mut state = State::default();
        state.send("events", "a", Vec::new(), 60, at(0));
        let asked = json!({"QueueUrl": format!("{QUEUES}events"), "AttributeNames":
            ["ApproximateNumberOfMessagesDelayed", "ApproximateNumberOfMessagesNotVisible"]});
        let depth = state.sqs("AmazonSQS.GetQueueAttributes", &asked, 0, at(1)).unwrap();
        assert_eq!(
            depth["Attributes"],
            json!({"ApproximateNumberOfMessagesDelayed": "1", "ApproximateNumberOfMessagesNotVisible": "0"})
        );
        assert!(state.receive("events", 10, None, at(59)).unwrap().is_empty());
        assert_eq!(state.receive("events", 10, None, at(60)).unwrap().len(), 1);
    }

    #[test]
    fn no_more_than_the_limit_is_in_flight() {
        let mut state = State::default();
        for _ in 0..=IN_FLIGHT {
            state.send("events", "a", Vec::new(), 0, at(0));
        }
        let mut queue = std::mem::take(state.queue("events", at(0)));
        let all: Vec<_> = queue.visible.drain(1..).collect();
        for number in all {
            queue.hide(number, i64::MAX);
        }
        state.sqs.queues.insert("events".into(), queue);
        assert!(
            matches!(state.receive("events", 10, None, at(1)), Err(Fault::Refused(400, code)) if code.ends_with("OverLimit"))
        );
    }

    #[test]
    fn entries_fail_alone_and_a_batch_has_a_size() {
        let mut state = State::default();
        let entry =
            |n: usize, bytes| json!({"Id": n.to_string(), "MessageBody": "x".repeat(bytes)});
        let ask = |bytes| json!({"QueueUrl": format!("{QUEUES}events"), "Entries": (0..10).map(|n| entry(n, bytes)).collect::<Vec<_>>()});
        let sent = state.sqs("AmazonSQS.SendMessageBatch", &ask(100), 0b11, at(0)).unwrap();
        assert_eq!(sent["Failed"].as_array().unwrap().len(), 2);
        assert_eq!(state.queue("events", at(0)).len(), 8);
        let refused = state.sqs("AmazonSQS.SendMessageBatch", &ask(110_000), 0, at(0));
        assert!(
            matches!(refused, Err(Fault::Refused(400, code)) if code.ends_with("BatchRequestTooLong"))
        );
    }
}
