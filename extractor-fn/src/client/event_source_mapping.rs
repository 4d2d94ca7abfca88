//! The event source mapping: what hands events to this function, and what a pause switches off.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_lambda::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::SdkError,
    operation::{
        list_event_source_mappings::ListEventSourceMappingsError,
        update_event_source_mapping::UpdateEventSourceMappingError,
    },
};
use shared::ClockErrors;

const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// The mapping between our queue and our function.
pub(crate) struct Mapping {
    lambda: Client,
    function: String,
    queue_arn: String,
}

/// The mapping as it was found.
pub(crate) struct Found {
    id: String,
    /// `Enabled`, `Disabled`, or what Lambda calls the way there.
    pub(crate) state: String,
}

impl Found {
    /// Whether it hands out events, unless it is about to change.
    pub(crate) fn enabled(&self) -> Option<bool> {
        match &*self.state {
            "Enabled" => Some(true),
            "Disabled" => Some(false),
            _ => None,
        }
    }
}

/// Why the mapping is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MappingError {
    #[error("could not look for the event source mapping")]
    List(#[source] Box<SdkError<ListEventSourceMappingsError>>),
    #[error("could not switch the event source mapping")]
    Update(#[source] Box<SdkError<UpdateEventSourceMappingError>>),
    #[error("there is no event source mapping between the events queue and this function")]
    Missing,
}

impl Mapping {
    pub(crate) fn new(aws: &SdkConfig, function: String, queue_arn: String) -> Self {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT);
        let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(200));
        let lambda = Builder::from(aws).timeout_config(timeouts.build()).retry_config(retries);
        let lambda = Client::from_conf(lambda.retry_classifier(ClockErrors).build());
        Self { lambda, function, queue_arn }
    }

    /// Finds it by function and queue: Lambda allows one.
    pub(crate) async fn find(&self) -> Result<Found, MappingError> {
        let request = self.lambda.list_event_source_mappings();
        let request = request.function_name(&self.function).event_source_arn(&self.queue_arn);
        let found = Box::pin(request.send()).await;
        let found = found.map_err(|err| MappingError::List(Box::new(err)))?;
        let mapping = found.event_source_mappings.into_iter().flatten().next();
        let found = mapping.and_then(|mapping| {
            Some(Found { id: mapping.uuid?, state: mapping.state.unwrap_or_default() })
        });
        found.ok_or(MappingError::Missing)
    }

    /// Switches it, which takes a while to be done. Where another caller is changing it at this
    /// moment, it is left to them.
    pub(crate) async fn switch(&self, found: &Found, enabled: bool) -> Result<(), MappingError> {
        let request = self.lambda.update_event_source_mapping().uuid(&found.id).enabled(enabled);
        match Box::pin(request.send()).await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(err))
                if err.err().is_resource_in_use_exception()
                    || err.err().is_resource_conflict_exception() =>
            {
                Ok(())
            }
            Err(err) => Err(MappingError::Update(Box::new(err))),
        }
    }
}
