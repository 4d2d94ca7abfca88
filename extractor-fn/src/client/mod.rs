//! What the function reaches: Gladly, the destination, SQS and Lambda.

pub(crate) mod destination;
pub(crate) mod event_source_mapping;
pub(crate) mod gladly;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod rate_limiter;
pub(crate) mod sqs;
