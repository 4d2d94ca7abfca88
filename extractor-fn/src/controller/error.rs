//! Why a task of the controller failed.

use shared::ParameterError;

use crate::{
    client::{event_source_mapping::MappingError, gladly::GladlyError, sqs::QueueError},
    controller::backfill::document::StoreError,
};

/// Why a task of the controller failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControllerError {
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Gladly(#[from] GladlyError),
    #[error("invalid pause parameter: expected \"running\" or \"paused\"; treating as paused")]
    InvalidPause,
    #[error("no message in quarantine has this id")]
    NotQuarantined,
    #[error(
        "could not find a message with this id: the scan ended before it had read all of the quarantine"
    )]
    NotFoundInTime,
    #[error(
        "expected an id, a reason or a conversationId: without a condition, discard would delete all of the quarantine"
    )]
    NoCondition,
    #[error("from must be a time before to, and within {0}")]
    NoRange(&'static str),
}
