//! What the destination must forget, checked with a reader who keeps the schema's rule.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use testing::reader::Reader;

use crate::plan::{ConversationKind, Erasure, FaultKind, Plan};

/// What a reader of all deliveries shows, and the erasures whose tombstones it has.
#[derive(Debug, Default)]
pub(super) struct Erasures {
    reader: Reader,
    /// By the id of Gladly's event.
    arrived: BTreeSet<String>,
}

impl Erasures {
    /// Takes a delivery. Returns what is wrong with its tombstones, or with what the reader shows then.
    pub(super) fn take(&mut self, delivery: &Value, plan: &Plan) -> Result<Vec<String>, String> {
        self.reader.take(delivery);
        let list = |name: &str| delivery[name].as_array().into_iter().flatten();
        let mut arrived: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for tombstone in list("tombstones") {
            let event = tombstone["eventId"].as_str().unwrap_or_default();
            arrived.entry(event).or_default().push(tombstone);
        }
        for (event, tombstones) in &arrived {
            let erasure = plan.erasures.iter().find(|erasure| erasure.event == *event);
            let erasure = erasure.ok_or_else(|| format!("there is no erasure {event}"))?;
            let expected = erasure.tombstones(plan);
            // A repeat in the same batch is there twice, as its event would be.
            let is_expected = |it: &&Value| expected.contains(it);
            if !tombstones.iter().all(is_expected)
                || !expected.iter().all(|it| tombstones.contains(&it))
            {
                return Err(format!("{event} has the tombstones {tombstones:?}"));
            }
            self.arrived.insert((*event).to_owned());
        }
        let delivered = list("conversations").filter_map(|it| it["id"].as_str());
        let shown: Vec<_> = if arrived.is_empty() {
            delivered.collect()
        } else {
            self.reader.conversations().keys().map(String::as_str).collect()
        };
        for id in shown.into_iter().filter(|id| self.reader.conversations().contains_key(*id)) {
            if let Some(why) = self.forgotten(id, plan) {
                return Err(format!("a reader shows {id} after {why}"));
            }
        }
        Ok(arrived.into_keys().map(str::to_owned).collect())
    }

    /// By which erasure, that the reader has the tombstones of, a conversation must not be shown.
    fn forgotten(&self, id: &str, plan: &Plan) -> Option<String> {
        let conversation = plan.conversation(id)?;
        let has_arrived = |erasure: &&Erasure| self.arrived.contains(&erasure.event);
        let own = plan.erasure(&conversation.customer).filter(has_arrived)?;
        let is_merged_away =
            own.conversations.is_some_and(|[from, _]| plan.conversations[from].id == id);
        if is_merged_away {
            return Some(own.event.clone());
        }
        // Of one who was merged, the reader needs both.
        let deletion = plan.deletion(&conversation.customer).filter(has_arrived)?;
        Some(deletion.event.clone())
    }

    /// What the reader lacks in the end of the erasures that were accepted and are not in quarantine.
    pub(super) fn missing(&self, plan: &Plan, is_due: impl Fn(&str) -> bool) -> Vec<String> {
        let mut missing = Vec::new();
        // A few conversations count as gone then, and nothing of them is fetched.
        let may_lack = plan.faults.iter().any(|fault| fault.kind == FaultKind::Missing);
        for erasure in plan.erasures.iter().filter(|erasure| is_due(&erasure.event)) {
            if !self.arrived.contains(&erasure.event) {
                missing.push(erasure.event.clone());
            }
            // What remained after a merge has the items of the other conversation.
            let Some([_, remains]) = erasure.conversations else { continue };
            let remains = &plan.conversations[remains];
            if may_lack || remains.gone_from.is_some() || remains.kind != ConversationKind::Plain {
                continue;
            }
            let shown = self.reader.conversations().get(&remains.id);
            let items = shown.and_then(|shown| shown["items"].as_array());
            if items.is_none_or(|items| items.len() < remains.items.len()) {
                missing.push(format!("what {} brought to {}", erasure.event, remains.id));
            }
        }
        missing
    }

    /// Whether a reader shows a conversation.
    pub(super) fn shows(&self, id: &str) -> bool {
        self.reader.conversations().contains_key(id)
    }
}
