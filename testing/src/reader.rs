//! A reader of deliveries that keeps the schema's rule: the newest snapshot of each conversation, without what a
//! tombstone voids.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

/// What a reader holds after some deliveries, in whatever order they came.
#[derive(Debug, Default, Clone)]
pub struct Reader {
    /// The snapshot with the latest `fetchedAt` by conversation id, none of them void.
    conversations: BTreeMap<String, Value>,
    /// That `fetchedAt`, also of what is void: an older snapshot must not come back in its place.
    newest: BTreeMap<String, Option<Timestamp>>,
    /// By event id and kind, and how often each came.
    tombstones: BTreeMap<(String, String), (Value, usize)>,
    /// From when on a customer's snapshots hold: of those who are deleted, and of those merged into them.
    void_before: BTreeMap<String, Timestamp>,
    /// Who was merged into a customer.
    merged: BTreeMap<String, BTreeSet<String>>,
    /// Conversations that were merged away.
    merged_conversations: BTreeSet<String>,
}

impl Reader {
    /// Takes a delivery that matches the schema.
    pub fn take(&mut self, delivery: &Value) {
        for tombstone in list(delivery, "tombstones") {
            self.bury(tombstone);
        }
        for snapshot in list(delivery, "conversations") {
            let id = text(&snapshot["id"]);
            let newest = self.newest.entry(id.clone()).or_default();
            if *newest > fetched_at(snapshot) {
                continue;
            }
            *newest = fetched_at(snapshot);
            self.conversations.remove(&id);
            if !self.is_void(&id, snapshot) {
                self.conversations.insert(id, snapshot.clone());
            }
        }
        if list(delivery, "tombstones").next().is_some() {
            let mut conversations = std::mem::take(&mut self.conversations);
            conversations.retain(|id, snapshot| !self.is_void(id, snapshot));
            self.conversations = conversations;
        }
    }

    fn is_void(&self, id: &str, snapshot: &Value) -> bool {
        let is_deleted = |customer: &Value| {
            let until = customer.as_str().and_then(|customer| self.void_before.get(customer));
            until.is_some_and(|until| fetched_at(snapshot) < Some(*until))
        };
        self.merged_conversations.contains(id)
            || is_deleted(&snapshot["customerId"])
            || is_deleted(&snapshot["customer"]["id"])
    }

    fn bury(&mut self, tombstone: &Value) {
        let id = |name: &str| text(&tombstone[name]);
        match tombstone["kind"].as_str() {
            Some("customer-deleted") => {
                if let Ok(at) = text(&tombstone["at"]).parse() {
                    self.void(id("customerId"), at);
                }
            }
            Some("customer-merged") => {
                self.merged.entry(id("into")).or_default().insert(id("from"));
                if let Some(at) = self.void_before.get(&id("into")) {
                    self.void(id("from"), *at);
                }
            }
            Some("conversation-merged") => drop(self.merged_conversations.insert(id("from"))),
            _ => {}
        }
        let key = (id("eventId"), id("kind"));
        let (_, times) = self.tombstones.entry(key).or_insert((tombstone.clone(), 0));
        *times += 1;
    }

    /// Voids the snapshots of a customer, and of everybody who was merged into them, directly or through others.
    fn void(&mut self, customer: String, before: Timestamp) {
        let mut next = vec![customer];
        while let Some(customer) = next.pop() {
            if self.void_before.get(&customer).is_some_and(|known| *known >= before) {
                continue;
            }
            next.extend(self.merged.get(&customer).into_iter().flatten().cloned());
            self.void_before.insert(customer, before);
        }
    }

    /// The conversations that it shows, by id.
    #[must_use]
    pub fn conversations(&self) -> &BTreeMap<String, Value> {
        &self.conversations
    }

    /// The tombstones that came, each once.
    pub fn tombstones(&self) -> impl Iterator<Item = &Value> {
        self.tombstones.values().map(|(tombstone, _)| tombstone)
    }

    /// How often the tombstones of an event came.
    #[must_use]
    pub fn times(&self, event: &str) -> usize {
        let of_event = self.tombstones.iter().filter(|((id, _), _)| id == event);
        of_event.map(|(_, (_, times))| *times).max().unwrap_or_default()
    }
}

fn list<'a>(delivery: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    delivery[name].as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn fetched_at(conversation: &Value) -> Option<Timestamp> {
    conversation["fetchedAt"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A snapshot that was fetched in this second.
    fn snapshot(id: &str, customer: &str, second: u32) -> Value {
        let at = format!("2026-01-01T00:00:{second:02}Z");
        json!({"conversations": [{"id": id, "customerId": customer, "fetchedAt": at}]})
    }

    fn deleted(customer: &str, second: u32) -> Value {
        let at = format!("2026-01-01T00:00:{second:02}Z");
        json!({"tombstones": [{"kind": "customer-deleted", "eventId": "e", "customerId": customer, "at": at}]})
    }

    fn merged(kind: &str, from: &str, into: &str) -> Value {
        let at = "2026-01-01T00:00:00Z";
        json!({"tombstones": [{"kind": kind, "eventId": "m", "from": from, "into": into, "at": at}]})
    }

    /// The conversations that a reader shows after these deliveries, whatever their order.
    fn shown(deliveries: &[Value]) -> Vec<String> {
        let show = |order: &mut dyn Iterator<Item = &Value>| {
            let mut reader = Reader::default();
            order.for_each(|delivery| reader.take(delivery));
            reader.conversations.into_keys().collect::<Vec<_>>()
        };
        let shown = show(&mut deliveries.iter());
        assert_eq!(show(&mut deliveries.iter().rev()), shown, "in the other order");
        for turn in 1..deliveries.len() {
            let (last, first) = deliveries.split_at(turn);
            assert_eq!(show(&mut first.iter().chain(last)), shown, "begun with {turn}");
        }
        shown
    }

    #[test]
    fn a_deletion_voids_what_was_fetched_before() {
        let old = snapshot("c", "sam", 10);
        assert_eq!(shown(&[old.clone(), deleted("sam", 10)]), ["c"]);
        assert_eq!(shown(&[old.clone(), deleted("sam", 11)]), [""; 0]);
        assert_eq!(shown(&[old.clone(), deleted("sue", 11)]), ["c"]);
        assert_eq!(shown(&[old, snapshot("c", "sam", 11), deleted("sam", 11)]), ["c"]);
    }

    #[test]
    fn a_deletion_reaches_whoever_was_merged_into_the_customer() {
        let of_customer = json!({"conversations": [{"id": "c", "customer": {"id": "a"}, "fetchedAt": "2026-01-01T00:00:00Z"}]});
        for old in [snapshot("c", "a", 0), of_customer] {
            let chain = [merged("customer-merged", "a", "b"), merged("customer-merged", "b", "c")];
            let [first, second] = chain.clone();
            assert_eq!(shown(&[old.clone(), first.clone(), second.clone()]), ["c"]);
            assert_eq!(shown(&[old.clone(), first, deleted("c", 1)]), ["c"], "half of the chain");
            let [first, _] = chain;
            assert_eq!(shown(&[old, first, second, deleted("c", 1)]), [""; 0]);
        }
        let circle = [merged("customer-merged", "a", "b"), merged("customer-merged", "b", "a")];
        let [there, back] = circle;
        assert_eq!(shown(&[snapshot("c", "a", 0), there, back, deleted("b", 1)]), [""; 0]);
    }

    #[test]
    fn an_older_snapshot_does_not_take_the_place_of_a_void_one() {
        let snapshots = [snapshot("c", "sue", 5), snapshot("c", "sam", 10)];
        let [older, newer] = snapshots;
        assert_eq!(shown(&[older, newer, deleted("sam", 11)]), [""; 0]);
    }

    #[test]
    fn a_merged_conversation_is_not_shown_again() {
        let merged = merged("conversation-merged", "c", "d");
        let deliveries = [snapshot("c", "a", 0), snapshot("d", "a", 0), merged];
        assert_eq!(shown(&deliveries), ["d"]);
    }
}
