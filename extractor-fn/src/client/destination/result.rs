//! How a delivery ends, whichever way it is handed over.

use std::time::Duration;

use shared::FailureStatus;

use crate::{
    client::http::{HttpError, Response},
    gate::Interrupted,
};

/// The longest that one delivery may take, retries included.
pub(super) const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The result of a delivery.
#[derive(Debug)]
pub(crate) enum DeliveryResult {
    /// The destination accepted it.
    Accepted,
    /// It will never accept all of it; with this status.
    Rejected(u16),
    /// It may accept it later.
    NotReady { why: String, retry_after: Option<Duration> },
    /// It was not called with a credential that may work, so this is no evidence about the destination.
    Inconclusive(String),
    /// It accepts nothing until the operator corrects the configuration.
    Fatal(String),
    /// Not called again: extraction has to stop.
    Interrupted(Interrupted),
}

/// How a request failed, if it did.
pub(super) fn failure(answer: &Result<Response, HttpError>) -> Option<FailureStatus> {
    match answer {
        Ok(Response { status: 200..=299, .. }) => None,
        Ok(Response { status, .. }) => Some(FailureStatus::code(*status)),
        Err(HttpError::TimedOut) => Some(FailureStatus::Timeout),
        Err(_) => Some(FailureStatus::Connect),
    }
}
