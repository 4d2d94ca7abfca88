//! DynamoDB: the table of coverage, as far as batches read and write it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Fault, State, TABLE};

/// The most keys of a read, and the most items of a write.
const MAX_READ: usize = 100;
const MAX_WRITE: usize = 25;
/// The most bytes of an item.
const ITEM_BYTES: usize = 400 << 10;
const INVALID: Fault = Fault::Refused(400, "ValidationException");

impl State {
    /// Entries whose bit is set in `failed` are left unprocessed.
    pub(super) fn dynamodb(
        &mut self,
        target: &str,
        asked: &Value,
        failed: u16,
    ) -> Result<Value, Fault> {
        let tables = asked["RequestItems"].as_object().ok_or(INVALID)?;
        let [(table, entries)] = &tables.iter().collect::<Vec<_>>()[..] else {
            panic!("the relay has one table: {asked}");
        };
        if *table != TABLE {
            return Err(Fault::Refused(400, "ResourceNotFoundException"));
        }
        match target {
            "DynamoDB_20120810.BatchGetItem" => {
                assert_eq!(entries["ConsistentRead"], Value::Null, "it would cost twice as much");
                let keys = entries["Keys"].as_array().map_or(&[][..], |keys| keys);
                check(keys.iter().map(|key| &key["conversation"]), MAX_READ)?;
                self.coverage_reads.push(keys.len());
                let (unprocessed, keys) = split(keys, failed);
                let found = keys.iter().filter_map(|key| self.coverage.get(name(key)?));
                let mut answer = json!({
                    "Responses": {TABLE: found.collect::<Vec<_>>()}, "UnprocessedKeys": {},
                });
                if !unprocessed.is_empty() {
                    answer["UnprocessedKeys"] = json!({TABLE: {"Keys": unprocessed}});
                }
                Ok(answer)
            }
            "DynamoDB_20120810.BatchWriteItem" => {
                let writes = entries.as_array().map_or(&[][..], |writes| writes);
                let items = || writes.iter().map(|write| &write["PutRequest"]["Item"]);
                check(items().map(|item| &item["conversation"]), MAX_WRITE)?;
                if items().any(|item| item.to_string().len() > ITEM_BYTES) {
                    return Err(INVALID);
                }
                let (unprocessed, writes) = split(writes, failed);
                for write in writes {
                    let item = &write["PutRequest"]["Item"];
                    let name = name(item).ok_or(INVALID)?.to_owned();
                    self.coverage.insert(name, item.clone());
                }
                let mut answer = json!({"UnprocessedItems": {}});
                if !unprocessed.is_empty() {
                    answer["UnprocessedItems"] = json!({TABLE: unprocessed});
                }
                Ok(answer)
            }
            other => panic!("the relay never makes this call: {other}"),
        }
    }
}

/// The key of an item, or of a request for one.
fn name(item: &Value) -> Option<&str> {
    item["conversation"]["S"].as_str()
}

/// Checks the entries of a request by their keys, which have to be different.
fn check<'a>(keys: impl Iterator<Item = &'a Value>, most: usize) -> Result<(), Fault> {
    let keys: Vec<_> = keys.map(|key| key["S"].as_str().filter(|key| !key.is_empty())).collect();
    let different: BTreeSet<_> = keys.iter().flatten().collect();
    let is_valid = (1..=most).contains(&keys.len()) && different.len() == keys.len();
    if is_valid { Ok(()) } else { Err(INVALID) }
}

/// Those of the entries whose bit is set, and the others.
fn split(entries: &[Value], failed: u16) -> (Vec<Value>, Vec<Value>) {
    let is_failed = |index: usize| failed >> (index % 16) & 1 == 1;
    let (failed, others): (Vec<_>, Vec<_>) =
        entries.iter().cloned().enumerate().partition(|(index, _)| is_failed(*index));
    let values = |entries: Vec<(usize, Value)>| entries.into_iter().map(|(_, entry)| entry);
    (values(failed).collect(), values(others).collect())
}
