//! The destination, to which deliveries are posted or in which they are written.

pub(crate) mod https;
mod ndjson;
pub(crate) mod result;
pub(crate) mod s3;

use jiff::Timestamp;
use shared::{FailureStatus, ParameterError};
use tokio::time::Instant;

use crate::{
    client::destination::{https::Https, result::DeliveryResult, s3::S3},
    gate::Permission,
};

/// The destination.
pub(crate) enum Destination {
    /// Deliveries are posted to a URL.
    Https(Https),
    /// Deliveries are written to a bucket.
    S3(S3),
}

impl From<Https> for Destination {
    fn from(https: Https) -> Self {
        Self::Https(https)
    }
}

impl From<S3> for Destination {
    fn from(bucket: S3) -> Self {
        Self::S3(bucket)
    }
}

impl Destination {
    /// How a delivery is encoded: part of its identity.
    pub(crate) fn content_encoding(&self) -> &'static str {
        match self {
            Self::Https(https) => https.content_encoding(),
            Self::S3(_) => "gzip",
        }
    }

    /// Hands over a delivery, the same bytes in every attempt, by the deadline and only while extraction
    /// may run. Reports every failed request.
    pub(crate) async fn deliver(
        &self,
        id: &str,
        json: Vec<u8>,
        deadline: Instant,
        permission: &impl Permission,
        on_failure: impl Fn(FailureStatus),
    ) -> DeliveryResult {
        match self {
            Self::Https(https) => https.deliver(id, json, deadline, permission, on_failure).await,
            Self::S3(bucket) => bucket.deliver(&json, deadline, permission, on_failure).await,
        }
    }

    /// When the token was written, where one is needed. Reads it again.
    pub(crate) async fn token_written_at(&self) -> Result<Option<Timestamp>, ParameterError> {
        match self {
            Self::Https(https) => https.token_written_at().await,
            Self::S3(_) => Ok(None),
        }
    }
}
