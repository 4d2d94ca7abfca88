//! The event source mapping, which polls the events queue for this function; a pause disables it.

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

/// The mapping between the events queue and this function.
pub(crate) struct Mapping {
    lambda: Client,
    function: String,
    queue_arn: String,
}

/// The mapping as it was found.
pub(crate) struct Found {
    id: String,
    /// `Enabled`, `Disabled`, or one of Lambda's transitional states.
    pub(crate) state: String,
}

impl Found {
    /// Whether it delivers events; `None` during a transition.
    pub(crate) fn enabled(&self) -> Option<bool> {
        match &*self.state {
            "Enabled" => Some(true),
            "Disabled" => Some(false),
            _ => None,
        }
    }
}

/// Why the mapping could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MappingError {
    #[error("could not list the event source mappings")]
    List(#[source] Box<SdkError<ListEventSourceMappingsError>>),
    #[error("could not update the event source mapping")]
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

    /// Finds it by function and queue: Lambda allows only one.
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

    /// Enables or disables it, which takes effect after a while. Does nothing while another caller is
    /// changing it.
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
