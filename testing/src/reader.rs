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
    /// By event id and kind, and how often each came.
    tombstones: BTreeMap<(String, String), (Value, usize)>,
    /// Deleted customers, and from when on their snapshots hold.
    deleted: BTreeMap<String, Timestamp>,
    /// Merged customers, and whom into.
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
        for conversation in list(delivery, "conversations") {
            let held = self.conversations.entry(text(&conversation["id"])).or_default();
            if held.is_null() || fetched_at(held) <= fetched_at(conversation) {
                *held = conversation.clone();
            }
        }
        let Self { deleted, merged, merged_conversations, .. } = &*self;
        let is_void = |id: &str, snapshot: &Value| {
            merged_conversations.contains(id)
                || successors(snapshot, merged)
                    .iter()
                    .any(|id| deleted.get(id).is_some_and(|at| fetched_at(snapshot) < Some(*at)))
        };
        let void: Vec<_> = self.conversations.iter().filter(|(id, it)| is_void(id, it)).collect();
        let void: Vec<_> = void.into_iter().map(|(id, _)| id.clone()).collect();
        for id in void {
            self.conversations.remove(&id);
        }
    }

    fn bury(&mut self, tombstone: &Value) {
        let id = |name: &str| text(&tombstone[name]);
        match tombstone["kind"].as_str() {
            Some("customer-deleted") => {
                if let Ok(at) = text(&tombstone["at"]).parse() {
                    let until = self.deleted.entry(id("customerId")).or_insert(at);
                    *until = at.max(*until);
                }
            }
            Some("customer-merged") => {
                self.merged.entry(id("from")).or_default().insert(id("into"));
            }
            Some("conversation-merged") => drop(self.merged_conversations.insert(id("from"))),
            _ => {}
        }
        let key = (id("eventId"), id("kind"));
        let (_, times) = self.tombstones.entry(key).or_insert((tombstone.clone(), 0));
        *times += 1;
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

    /// How often a tombstone of this event and kind came.
    #[must_use]
    pub fn times(&self, event: &str, kind: &str) -> usize {
        let key = (event.to_owned(), kind.to_owned());
        self.tombstones.get(&key).map_or(0, |(_, times)| *times)
    }
}

/// A snapshot's customer, and everybody that they were merged into, directly or through others.
fn successors(snapshot: &Value, merged: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut next = vec![text(&snapshot["customerId"]), text(&snapshot["customer"]["id"])];
    while let Some(customer) = next.pop() {
        if let Some(into) = merged.get(&customer).filter(|_| !all.contains(&customer)) {
            next.extend(into.iter().cloned());
        }
        all.insert(customer);
    }
    all
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
    fn a_merged_conversation_is_not_shown_again() {
        let merged = merged("conversation-merged", "c", "d");
        let deliveries = [snapshot("c", "a", 0), snapshot("d", "a", 0), merged];
        assert_eq!(shown(&deliveries), ["d"]);
    }
}
