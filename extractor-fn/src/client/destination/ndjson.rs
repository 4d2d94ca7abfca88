//! A delivery as objects of a bucket: newline-delimited JSON, compressed, in partitions by organisation and day.

use std::{borrow::Cow, io::Write as _};

use bytes::Bytes;
use flate2::{Compression, GzBuilder};
use jiff::{Timestamp, tz::Offset};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The level of the compression. Fixed, as everything that decides an object's bytes.
const LEVEL: Compression = Compression::new(6);

/// One object.
#[derive(Debug)]
pub(super) struct Object {
    /// Its key, without the prefix of the settings.
    pub(super) key: String,
    /// Its content.
    pub(super) body: Bytes,
}

/// Why a delivery's JSON has no objects. It is the relay's own, so this does not happen.
#[derive(Debug, thiserror::Error)]
pub(super) enum NdjsonError {
    #[error("could not read the delivery's JSON")]
    Json(#[from] serde_json::Error),
    #[error("could not compress an object")]
    Compression(#[from] std::io::Error),
}

/// What is read of a delivery; the entries are kept as they are.
#[derive(Deserialize)]
struct Delivery<'a> {
    #[serde(borrow)]
    schema: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    organization: Cow<'a, str>,
    #[serde(borrow, default)]
    tombstones: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    conversations: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    events: Vec<&'a RawValue>,
}

/// What each line begins with. No entry has members of these names: an entry's own id is `id`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    schema: &'a str,
    organization: &'a str,
    delivery_id: &'a str,
}

/// The times that decide an entry's day, each for one kind of entries.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EntryTimes {
    at: Option<Timestamp>,
    fetched_at: Option<Timestamp>,
    received_at: Option<Timestamp>,
}

/// Which of them.
type TimeOf = fn(EntryTimes) -> Option<Timestamp>;

/// The objects of a delivery, in the order in which they are to be written: what voids snapshots, then the
/// snapshots, then the events that speak of them. An empty list has none.
pub(super) fn objects(json: &[u8]) -> Result<Vec<Object>, NdjsonError> {
    let delivery: Delivery<'_> = serde_json::from_slice(json)?;
    let mut objects = Vec::new();
    let kinds: [(_, _, TimeOf); 3] = [
        ("tombstones", &delivery.tombstones, |times| times.at),
        ("conversations", &delivery.conversations, |times| times.fetched_at),
        ("events", &delivery.events, |times| times.received_at),
    ];
    for (kind, entries, time_of) in kinds {
        let Some(latest) = latest(entries, time_of)? else { continue };
        let Delivery { id, organization, .. } = &delivery;
        // By the entries, never by the clock: the same delivery has the same keys.
        let date = Offset::UTC.to_datetime(latest).date();
        let key = format!("{kind}/organization={organization}/date={date}/{id}.ndjson.gz");
        objects.push(Object { key, body: lines(&delivery, entries)? });
    }
    Ok(objects)
}

/// The greatest time of entries of one kind; `None` if there are none.
fn latest(entries: &[&RawValue], time_of: TimeOf) -> serde_json::Result<Option<Timestamp>> {
    let mut latest = None;
    for entry in entries {
        latest = latest.max(time_of(serde_json::from_str(entry.get())?));
    }
    Ok(latest)
}

/// One line for each entry, compressed; without a name and a time of its own, which would make repeats differ.
fn lines(delivery: &Delivery<'_>, entries: &[&RawValue]) -> Result<Bytes, NdjsonError> {
    let Delivery { schema, id, organization, .. } = delivery;
    let head = serde_json::to_string(&Head { schema, organization, delivery_id: id })?;
    let head = head.trim_end_matches('}');
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), LEVEL);
    for entry in entries {
        let members = entry.get().trim_start_matches('{').trim_start();
        // Between tokens, a line break is a space; within a text it is escaped.
        let members = members.replace(['\n', '\r'], " ");
        let separator = if members.starts_with('}') { "" } else { "," };
        writeln!(encoder, "{head}{separator}{members}")?;
    }
    Ok(encoder.finish()?.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;
    use serde_json::{Value, json};

    use super::*;

    fn text(object: &Object) -> String {
        let mut text = String::new();
        GzDecoder::new(&*object.body).read_to_string(&mut text).unwrap();
        text
    }

    fn delivery(lists: &Value) -> Vec<u8> {
        let mut delivery = json!({
            "schema": "gladly-relay/delivery/1", "id": "0a1b", "organization": "acme.gladly.com",
            "sentAt": "2026-05-05T00:00:00.000Z",
        });
        delivery.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
        delivery.to_string().into_bytes()
    }

    #[test]
    fn a_delivery_becomes_an_object_of_each_kind_that_it_has() {
        let json = delivery(&json!({
            "events": [
                {"id": "e-1", "receivedAt": "2026-01-31T23:59:59.999Z", "content": {"id": "x"}},
                {"id": "e-2", "receivedAt": "2026-01-30T00:00:00.000Z", "at": "2027-01-01T00:00:00.000Z"},
            ],
            "conversations": [
                {"id": "c-1", "fetchedAt": "2026-02-01T00:00:00.000Z", "items": []},
                {"id": "c-2", "fetchedAt": "2026-02-01T01:00:00.000+02:00"},
            ],
            "tombstones": [{"kind": "customer-deleted", "eventId": "e-3", "customerId": "u",
                            "at": "2026-02-02T00:00:35.000Z"}],
        }));
        let objects = objects(&json).unwrap();
        let keys: Vec<_> = objects.iter().map(|object| &*object.key).collect();
        assert_eq!(
            keys,
            [
                "tombstones/organization=acme.gladly.com/date=2026-02-02/0a1b.ndjson.gz",
                "conversations/organization=acme.gladly.com/date=2026-02-01/0a1b.ndjson.gz",
                "events/organization=acme.gladly.com/date=2026-01-31/0a1b.ndjson.gz",
            ],
        );
        let lines: Vec<Value> =
            text(&objects[2]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({"schema": "gladly-relay/delivery/1", "organization": "acme.gladly.com",
                       "deliveryId": "0a1b", "id": "e-1", "content": {"id": "x"},
                       "receivedAt": "2026-01-31T23:59:59.999Z"}),
                json!({"schema": "gladly-relay/delivery/1", "organization": "acme.gladly.com",
                       "deliveryId": "0a1b", "id": "e-2", "receivedAt": "2026-01-30T00:00:00.000Z",
                       "at": "2027-01-01T00:00:00.000Z"}),
            ],
        );
        assert_eq!(text(&objects[0]).lines().count(), 1);
        assert_eq!(text(&objects[1]).lines().count(), 2);
    }

    #[test]
    fn an_empty_list_has_no_object() {
        let tombstone = json!({"kind": "customer-merged", "at": "2026-01-01T00:00:00.000Z"});
        let json = delivery(&json!({"events": [], "conversations": [], "tombstones": [tombstone]}));
        let objects = objects(&json).unwrap();
        assert_eq!(objects.len(), 1);
        assert!(objects[0].key.starts_with("tombstones/"));
    }

    #[test]
    fn the_same_delivery_has_the_same_bytes() {
        let events = json!([{"id": "e", "receivedAt": "2026-01-01T00:00:00.000Z"}]);
        let json = delivery(&json!({"events": events, "conversations": []}));
        let [first, again] = [(); 2].map(|()| objects(&json).unwrap().remove(0));
        assert_eq!((first.key, &first.body), (again.key, &again.body));
        // RFC 1952: magic, deflate, no flags and so no name, no time, the default level, an unknown system.
        assert_eq!(first.body[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn an_entry_stays_on_its_line_whatever_its_white_space() {
        let json = br#"{"schema":"s","id":"i","organization":"o\"x","conversations":[],"events":[
            { "receivedAt" : "2026-01-01T00:00:00.000Z",
              "content": {"text": "a\nb",
 "list": [ 1 ]}}
        ]}"#;
        let json = String::from_utf8_lossy(json).replace("1 ]", "\r\n1 ]");
        let text = text(&objects(json.as_bytes()).unwrap()[0]);
        assert_eq!(text.matches(['\n', '\r']).count(), 1, "{text}");
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["content"], json!({"text": "a\nb", "list": [1]}));
        assert_eq!(line["organization"], "o\"x");
    }
}
