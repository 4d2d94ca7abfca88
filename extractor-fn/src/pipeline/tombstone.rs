//! Tombstones: what the destination must forget, or read under another id.

use jiff::Timestamp;
use serde::Serialize;
use shared::{Id, Merge, Subject, serialize_rfc3339_millis};

use crate::pipeline::lag::{READ_LAG, SKEW};

/// What Gladly has deleted or merged, as it is delivered.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tombstone {
    #[serde(flatten)]
    pub(crate) kind: Kind,
    event_id: Id,
    #[serde(serialize_with = "serialize_rfc3339_millis")]
    pub(crate) at: Timestamp,
}

/// Who or what it is about.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum Kind {
    /// Every snapshot of this customer that was fetched before the tombstone's time is void.
    CustomerDeleted { customer_id: Id },
    /// The customer `from` is now `into`.
    CustomerMerged { from: Id, into: Id },
    /// Every snapshot of `from` is void.
    ConversationMerged { from: Id, into: Id },
}

impl Kind {
    /// As it is delivered.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::CustomerDeleted { .. } => "customer-deleted",
            Self::CustomerMerged { .. } => "customer-merged",
            Self::ConversationMerged { .. } => "conversation-merged",
        }
    }
}

impl Tombstone {
    /// The tombstones of an event that Gladly recorded then.
    pub(crate) fn of(subject: &Subject, event: &Id, recorded_at: Timestamp) -> Vec<Self> {
        let tombstone = |kind, at| Self { kind, event_id: event.clone(), at };
        match subject {
            Subject::Conversation(_) => Vec::new(),
            Subject::DeletedCustomer(customer) => {
                // What is fetched from then on shows nothing of the customer any more.
                let at = recorded_at.saturating_add(READ_LAG + SKEW).unwrap_or(recorded_at);
                vec![tombstone(Kind::CustomerDeleted { customer_id: customer.clone() }, at)]
            }
            Subject::MergedCustomers(merge) => {
                let Merge { from, into, from_conversation, into_conversation } = merge.clone();
                let conversations = from_conversation.zip(into_conversation);
                // One that remains is not void, whatever Gladly calls it.
                let conversations = conversations.filter(|(from, into)| from != into);
                let customers = tombstone(Kind::CustomerMerged { from, into }, recorded_at);
                let conversations = conversations.map(|(from, into)| {
                    tombstone(Kind::ConversationMerged { from, into }, recorded_at)
                });
                [customers].into_iter().chain(conversations).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(subject: &Subject, recorded_at: &str) -> Value {
        let event = "e-1".parse().unwrap();
        json!(Tombstone::of(subject, &event, recorded_at.parse().unwrap()))
    }

    fn id(text: &str) -> Id {
        text.parse().unwrap()
    }

    #[test]
    fn a_deletion_is_certain_after_the_read_lag_and_the_skew() {
        let deleted = Subject::DeletedCustomer(id("c-1"));
        for (recorded_at, at) in [
            ("2026-01-02T03:04:05.6789Z", "2026-01-02T03:04:40.678Z"),
            ("9999-12-30T22:00:00Z", "9999-12-30T22:00:00.999Z"),
        ] {
            let expected = json!([{
                "kind": "customer-deleted", "customerId": "c-1", "eventId": "e-1", "at": at,
            }]);
            assert_eq!(written(&deleted, recorded_at), expected);
        }
    }

    #[test]
    fn a_merge_names_customers_and_the_conversations_if_both_had_one() {
        let merged = |from_conversation: Option<&str>, into_conversation: Option<&str>| {
            let subject = Subject::MergedCustomers(Merge {
                from: id("a"),
                into: id("b"),
                from_conversation: from_conversation.map(id),
                into_conversation: into_conversation.map(id),
            });
            written(&subject, "2026-01-02T03:04:05Z")
        };
        let at = "2026-01-02T03:04:05.000Z";
        let customers = json!({"kind": "customer-merged", "from": "a", "into": "b", "eventId": "e-1", "at": at});
        let conversations = json!(
            {"kind": "conversation-merged", "from": "c", "into": "d", "eventId": "e-1", "at": at}
        );
        assert_eq!(merged(Some("c"), Some("d")), json!([customers, conversations]));
        for (from, into) in [(None, Some("d")), (Some("c"), None), (Some("d"), Some("d"))] {
            assert_eq!(merged(from, into), json!([customers]));
        }
    }
}
