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
    #[error("the quarantine has no message with the id {0}")]
    NotInQuarantine(String),
    #[error("a discard needs an id, a reason or a conversationId: it cannot be undone")]
    NoCondition,
    #[error("from must be a time before to, and within {0}")]
    NoRange(&'static str),
}
