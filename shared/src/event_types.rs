//! The event types that the relay subscribes to at Gladly.

/// The required subscriptions.
pub const REQUIRED_EVENT_TYPES: [&str; 9] = [
    "CONVERSATION/CREATED",
    "CONVERSATION/CLOSED",
    "CONVERSATION/NOTE_CREATED",
    "CONVERSATION/TOPIC_ADDED",
    "CONVERSATION/TOPIC_REMOVED",
    "CONVERSATION_ASSIGNEE/UPDATED",
    "CONVERSATION_STATUS/UPDATED",
    "CONTACT/MESSAGE_RECEIVED",
    "CONTACT/MESSAGE_SENT",
];
/// No longer on Gladly's list for every organisation; `CONTACT/MESSAGE_RECEIVED` reports the same.
pub const LEGACY_EVENT_TYPE: &str = "MESSAGE/RECEIVED";

/// A customer was deleted, and all their conversations with them.
pub(crate) const CUSTOMER_DELETED: &str = "CUSTOMER_PROFILE/DELETED";
/// Two customers were merged.
pub(crate) const CUSTOMERS_MERGED: &str = "CUSTOMER/MERGED";
/// The types of deletions and merges of customers, which every holder of copies has to follow. Not
/// every organisation's API may offer them.
pub const ERASURE_EVENT_TYPES: [&str; 2] = [CUSTOMER_DELETED, CUSTOMERS_MERGED];
