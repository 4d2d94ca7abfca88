//! The settings of the functions, as the template gives them: names and values of environment variables.

use std::collections::BTreeMap;

use crate::aws::{QUEUE_ARNS, QUEUES};

/// `PAUSE_PARAMETER`, unless a test changes it.
pub const PAUSE_PARAMETER: &str = "/relay/pause";
/// `GLADLY_HOST`, unless a test changes it.
pub const GLADLY_HOST: &str = "acme.gladly.com";
/// `GLADLY_EMAIL`, unless a test changes it.
pub const GLADLY_EMAIL: &str = "relay@example.org";
/// `GLADLY_TOKEN_PARAMETER`, unless a test changes it.
pub const GLADLY_TOKEN_PARAMETER: &str = "/relay/gladly-token";
/// `DESTINATION_URL`, unless a test changes it.
pub const DESTINATION_URL: &str = "https://ingest.example.com/deliveries";
/// `DESTINATION_URL` where deliveries are written to S3.
pub const DESTINATION_BUCKET_URL: &str = "s3://acme-conversations/gladly";
/// `DESTINATION_TOKEN_PARAMETER`, unless a test changes it.
pub const DESTINATION_TOKEN_PARAMETER: &str = "/relay/destination-token";

/// The environment variables of extractor-fn.
#[derive(Debug, Clone)]
pub struct ExtractorSettings(BTreeMap<String, String>);

impl Default for ExtractorSettings {
    /// Every variable that has no default.
    fn default() -> Self {
        Self(BTreeMap::new())
            .with("EVENTS_QUEUE_URL", format!("{QUEUES}events"))
            .with("EVENTS_QUEUE_ARN", format!("{QUEUE_ARNS}events"))
            .with("QUARANTINE_QUEUE_URL", format!("{QUEUES}quarantine"))
            .with("AWS_LAMBDA_FUNCTION_NAME", "extractor")
            .with("PAUSE_PARAMETER", PAUSE_PARAMETER)
            .with("GLADLY_HOST", GLADLY_HOST)
            .with("GLADLY_EMAIL", GLADLY_EMAIL)
            .with("GLADLY_TOKEN_PARAMETER", GLADLY_TOKEN_PARAMETER)
            .with("DESTINATION_URL", DESTINATION_URL)
            .with("DESTINATION_TOKEN_PARAMETER", DESTINATION_TOKEN_PARAMETER)
    }
}

impl ExtractorSettings {
    /// The same with this value of a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The same with these values of variables.
    #[must_use]
    pub fn with_all(self, settings: &[(&str, &str)]) -> Self {
        settings.iter().fold(self, |all, (name, value)| all.with(name, *value))
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}
