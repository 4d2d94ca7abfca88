//! Requests to Gladly, to the relay's own endpoint and to the destination: the SDK's connector, with the
//! proxy of the environment but for loopback. It never follows a redirect.

use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpConnector as _, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
            http_client_fn,
        },
        orchestrator::HttpRequest,
    },
    http::{Headers, StatusCode},
};
use aws_smithy_types::body::SdkBody;
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use shared::error_chain;
use tokio::time::{Duration, timeout};

/// How long a connection may take to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an exchange may take. Gladly waits 15 s for the answer to a PING before it answers.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer that is read, in bytes.
const MAX_BODY: usize = 32 << 20;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// The body, which may be anything.
    pub(crate) body: Vec<u8>,
    headers: Headers,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// Sends requests.
#[derive(Clone)]
pub(crate) struct Http {
    direct: SharedHttpConnector,
    proxied: SharedHttpConnector,
}

impl Http {
    pub(crate) fn new() -> Self {
        Self {
            direct: connector(ProxyConfig::disabled()),
            proxied: connector(ProxyConfig::from_env()),
        }
    }

    /// One exchange. An error is the reason alone ("timed out"), without the URL.
    pub(crate) async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Response, String> {
        let mut request = HttpRequest::new(body.map_or_else(SdkBody::empty, SdkBody::from));
        request.set_method(method).map_err(|err| err.to_string())?;
        request.set_uri(url.to_owned()).map_err(|err| err.to_string())?;
        for (name, value) in headers {
            let name = (*name).to_owned();
            request
                .headers_mut()
                .try_insert(name, (*value).to_owned())
                .map_err(|_| "a header holds a character that no header can carry".to_owned())?;
        }
        self.exchange(request).await
    }

    /// The same with a request as it is.
    pub(crate) async fn exchange(&self, request: HttpRequest) -> Result<Response, String> {
        let url = request.uri().parse::<shared::HttpUrl>();
        let is_loopback = url.is_ok_and(|url| url.is_loopback());
        let connector = if is_loopback { &self.direct } else { &self.proxied };
        let exchange = async {
            let response =
                connector.call(request).await.map_err(|err| because(&error_chain(&err)))?;
            let status = StatusCode::as_u16(response.status());
            let headers = response.headers().clone();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
            let body = body.map_err(|_| "the answer was cut off, or is too large".to_owned())?;
            Ok(Response { status, body: body.to_bytes().to_vec(), headers })
        };
        timeout(EXCHANGE_TIMEOUT, exchange).await.unwrap_or_else(|_| Err("timed out".into()))
    }
}

/// Why there is no connection, without the names of libraries.
fn because(chain: &str) -> String {
    let lower = chain.to_lowercase();
    let reasons = [
        ("timed out", "timed out"),
        ("timeout", "timed out"),
        ("certificate", "its certificate is not trusted here"),
        ("dns", "its name cannot be resolved"),
        ("name or service", "its name cannot be resolved"),
        ("refused", "connection refused"),
        ("reset", "connection reset"),
        ("unreachable", "network unreachable"),
    ];
    let found = reasons.iter().find(|(part, _)| lower.contains(part)).map(|(_, reason)| *reason);
    found.map_or_else(|| "connection failed".to_owned(), str::to_owned)
}

fn connector(proxy: ProxyConfig) -> SharedHttpConnector {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
    let connector = Connector::builder()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .connector_settings(settings)
        .proxy_config(proxy)
        .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
        .build();
    SharedHttpConnector::new(connector)
}

/// The SDK's client for an emulated AWS: through no proxy.
pub(crate) fn loopback_client() -> SharedHttpClient {
    let connector = connector(ProxyConfig::disabled());
    http_client_fn(move |_, _| connector.clone())
}
