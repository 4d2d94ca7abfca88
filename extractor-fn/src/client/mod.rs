//! The services that the function calls: Gladly, the destination, SQS, Lambda and DynamoDB.

pub(crate) mod coverage_store;
pub(crate) mod destination;
pub(crate) mod event_source_mapping;
pub(crate) mod gladly;
pub(crate) mod http;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod message;
pub(crate) mod rate_limiter;
pub(crate) mod retry;
pub(crate) mod sqs;
pub(crate) mod throughput;

use std::sync::Arc;

use shared::{Clock, MetricsWriter};

use crate::{
    client::{
        destination::Destination, gladly::Gladly, sqs::Queue, throughput::ThroughputEstimate,
    },
    gate::Gate,
};

/// What the pipeline and the controller share.
pub(crate) struct Clients {
    pub(crate) gate: Arc<Gate>,
    pub(crate) gladly: Arc<Gladly>,
    pub(crate) destination: Arc<Destination>,
    pub(crate) events: Arc<Queue>,
    pub(crate) quarantine: Arc<Queue>,
    pub(crate) throughput: Arc<ThroughputEstimate>,
    pub(crate) clock: Clock,
    pub(crate) metrics: MetricsWriter,
}
