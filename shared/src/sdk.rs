//! The AWS SDK's configuration in a Lambda function: settings from the environment, one connector.
//!
//! The SDK's default chain also tries profiles, containers and instance metadata. A function has none
//! of them, but would contain and initialize their code.

use std::{env, time::Duration};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, environment::EnvironmentVariableCredentialsProvider,
};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_http_client::{
    Connector, HttpClientError,
    tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn},
    interceptors::context::InterceptorContext,
    retries::classifiers::{ClassifyRetry, RetryAction, RetryClassifierPriority},
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

use serde::Deserialize;

use crate::{ConfigError, Env, connection::Retiring, setting::HttpUrl};

/// The longest that connecting may take. Callers with less time have a limit of their own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The variables that override the clients' endpoints. The SDK reads them at the first call.
const ENDPOINTS: [&str; 6] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_LAMBDA",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_SSM",
];

/// The process's one connector: the SDK's TLS, with the system's root certificates, which are read
/// once. It never follows a redirect, and it retires a connection whose response did not end.
#[must_use]
pub fn https_connector() -> SharedHttpConnector {
    connector(TlsContext::default())
}

/// The same connector, trusting these root certificates (PEM) instead of the system's.
///
/// # Errors
///
/// The certificates cannot be used.
pub fn https_connector_trusting<'a>(
    roots: impl IntoIterator<Item = &'a str>,
) -> Result<SharedHttpConnector, HttpClientError> {
    let add = |roots: TrustStore, root| roots.with_pem_certificate(root);
    let roots = roots.into_iter().fold(TrustStore::empty(), add);
    TlsContext::builder().with_trust_store(roots).build().map(connector)
}

fn connector(tls: TlsContext) -> SharedHttpConnector {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let connector = Connector::builder()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls)
        .connector_settings(settings)
        .sleep_impl(sleep())
        .build();
    SharedHttpConnector::new(Retiring(connector))
}

/// The settings of the SDK's clients, from the variables that Lambda sets, and the standard ones that
/// override endpoints: `AWS_ENDPOINT_URL`, also per service, `AWS_USE_FIPS_ENDPOINT`
/// and `AWS_USE_DUALSTACK_ENDPOINT` (<https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html>).
///
/// # Errors
///
/// A variable is missing or not valid.
pub fn sdk_config(connector: &SharedHttpConnector) -> Result<SdkConfig, ConfigError> {
    read(connector, |name| env::var(name).ok())
}

fn read(connector: &SharedHttpConnector, lookup: Lookup) -> Result<SdkConfig, ConfigError> {
    let env = Env::new(&lookup);
    let region: String = match env.optional("AWS_REGION")? {
        Some(region) => region,
        None => env.required("AWS_DEFAULT_REGION")?,
    };
    let (fips, dual_stack) = (
        env.switch("AWS_USE_FIPS_ENDPOINT", false)?,
        env.switch("AWS_USE_DUALSTACK_ENDPOINT", false)?,
    );
    for name in ENDPOINTS {
        env.optional::<HttpUrl>(name)?;
    }
    Ok(SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(region))
        .credentials_provider(SharedCredentialsProvider::new(
            EnvironmentVariableCredentialsProvider::new(),
        ))
        .service_config(Endpoints(lookup))
        .use_fips(fips)
        .use_dual_stack(dual_stack)
        .http_client(sdk_client(connector))
        .sleep_impl(sleep())
        // Every call has a timeout of its own, and stalled-stream protection costs a tenth of its time.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build())
}

/// Retries requests whose signing time AWS rejected: the SDK signs the next attempt by the time in
/// AWS's response.
///
/// The SDK itself does so for `RequestTimeTooSkewed` and for rejected signatures, but only if the
/// response has a time, and never for the other two.
#[derive(Debug)]
pub struct ClockErrors;

impl ClockErrors {
    const CODES: [&str; 3] = ["RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"];
}

impl ClassifyRetry for ClockErrors {
    fn name(&self) -> &'static str {
        "ClockErrors"
    }

    fn priority(&self) -> RetryClassifierPriority {
        RetryClassifierPriority::run_after(RetryClassifierPriority::http_status_code_classifier())
    }

    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        /// An error of the JSON protocols, of any operation.
        #[derive(Deserialize)]
        struct ErrorBody {
            #[serde(rename = "__type")]
            code: String,
        }
        let response = context.response().filter(|response| !response.status().is_success());
        let code = response.and_then(|response| {
            let body = response.body().bytes().unwrap_or_default();
            let in_body = || serde_json::from_slice(body).ok().map(|ErrorBody { code }| code);
            let in_header = response.headers().get("x-amzn-errortype").map(ToOwned::to_owned);
            in_header.or_else(in_body)
        });
        // Between a namespace and a URL, either of which may be missing.
        let code = code.as_deref().unwrap_or_default();
        let code = code.split(':').next().and_then(|code| code.rsplit('#').next());
        match code {
            Some(code) if Self::CODES.contains(&code) => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }
}

/// Wraps the connector for the SDK.
fn sdk_client(connector: &SharedHttpConnector) -> SharedHttpClient {
    let connector = connector.clone();
    http_client_fn(move |_, _| connector.clone())
}

fn sleep() -> SharedAsyncSleep {
    SharedAsyncSleep::new(TokioSleep::new())
}

/// The process's variables, or a test's.
type Lookup = fn(&str) -> Option<String>;

/// The overridden endpoints of services.
#[derive(Debug)]
struct Endpoints(Lookup);

impl LoadServiceConfig for Endpoints {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let set = |name: &str| (self.0)(name).filter(|value| !value.is_empty());
        let service = key.service_id().to_uppercase();
        set(&format!("{}_{service}", key.env())).or_else(|| set(key.env()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_required_and_a_switch_is_true_or_false() {
        let connector = https_connector();
        let read = |lookup: Lookup| read(&connector, lookup).map_err(|err| err.to_string());
        assert_eq!(read(|_| None).unwrap_err(), "AWS_DEFAULT_REGION is not set");
        let config = read(|name| (name == "AWS_DEFAULT_REGION").then(|| "eu-west-1".into()));
        assert_eq!(config.unwrap().region().unwrap().as_ref(), "eu-west-1");
        assert_eq!(
            read(|name| Some(name.replace("AWS_REGION", "us-gov-west-1"))).unwrap_err(),
            "AWS_USE_FIPS_ENDPOINT is not valid: expected true or false"
        );
        let config = read(|name| match name {
            "AWS_REGION" => Some("eu-west-1".into()),
            "AWS_ENDPOINT_URL_SQS" => Some("http://localhost:4566o".into()),
            _ => None,
        });
        let error = config.unwrap_err();
        assert!(error.starts_with("AWS_ENDPOINT_URL_SQS is not valid: invalid port"), "{error}");
    }

    #[test]
    fn an_endpoint_is_set_for_one_service_or_for_all() {
        let endpoint = |service: &str, lookup: Lookup| {
            let key = ServiceConfigKey::builder().service_id(service).env("AWS_ENDPOINT_URL");
            Endpoints(lookup).load_config(key.profile("endpoint_url").build().unwrap())
        };
        let lookup: Lookup = |name| match name {
            "AWS_ENDPOINT_URL" => Some("http://all".into()),
            "AWS_ENDPOINT_URL_SQS" => Some("http://sqs".into()),
            "AWS_ENDPOINT_URL_SSM" => Some(String::new()),
            _ => None,
        };
        assert_eq!(endpoint("SQS", lookup).as_deref(), Some("http://sqs"));
        assert_eq!(endpoint("SSM", lookup).as_deref(), Some("http://all"));
        assert_eq!(endpoint("Lambda", |_| None), None);
    }
}
