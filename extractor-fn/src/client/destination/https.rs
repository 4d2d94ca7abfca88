//! A destination that deliveries are posted to: one POST each, and what its responses mean.

use std::io::Write as _;

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use jiff::{SignedDuration, Timestamp};
use shared::{Clock, FailureStatus, HttpUrl, Parameter, ParameterError, Secret, error_chain};
use tokio::time::Instant;

use crate::{
    client::{
        destination::result::{DeliveryResult, OPERATION_TIMEOUT, failure},
        http::{Http, Wanted},
        retry::{Retry, is_transient},
    },
    config::TokenHeader,
    gate::Permission,
};

/// How old a cached token may be when the destination rejects it; an older one is read again.
const REJECTED_TOKEN_TTL: SignedDuration = SignedDuration::from_secs(10);

/// The destination's client.
pub(crate) struct Https {
    http: Http,
    url: HttpUrl,
    header: TokenHeader,
    token: Parameter<Secret>,
    gzip: bool,
    clock: Clock,
}

impl Https {
    pub(crate) fn new(
        http: Http,
        url: HttpUrl,
        header: TokenHeader,
        token: Parameter<Secret>,
        gzip: bool,
        clock: Clock,
    ) -> Self {
        Self { http, url, header, token, gzip, clock }
    }

    /// How bodies are encoded: part of a delivery's identity.
    pub(super) fn content_encoding(&self) -> &'static str {
        if self.gzip { "gzip" } else { "identity" }
    }

    /// Sends a delivery, the same bytes in every attempt, by the deadline and only while extraction
    /// may run. Reports every failed request.
    pub(super) async fn deliver(
        &self,
        id: &str,
        json: Vec<u8>,
        deadline: Instant,
        permission: &impl Permission,
        on_failure: impl Fn(FailureStatus),
    ) -> DeliveryResult {
        let mut token = match self.token.value().await {
            Ok(token) => token,
            Err(err) if err.is_lasting() => return no_token(&err),
            Err(err) => return DeliveryResult::Inconclusive(error_chain(&err)),
        };
        let body = Bytes::from(if self.gzip { compress(&json) } else { json });
        let left = deadline.saturating_duration_since(Instant::now());
        let mut retry = Retry::new(OPERATION_TIMEOUT.min(left));
        loop {
            if let Err(interrupted) = permission.check().await {
                return DeliveryResult::Interrupted(interrupted);
            }
            let request = self.request(id, &token, &body);
            // Only the status matters: a response's body may be anything.
            let answer = retry.send(&self.http, request, Wanted::Head).await;
            if let Some(status) = failure(&answer) {
                on_failure(status);
            }
            let result = match answer {
                Ok(answer) => match answer.status {
                    200..=299 => return DeliveryResult::Accepted,
                    status @ (400 | 413 | 422) => return DeliveryResult::Rejected(status),
                    status if is_transient(status) => {
                        let why = format!("the destination answered {status}");
                        DeliveryResult::NotReady {
                            why,
                            retry_after: answer.retry_after(self.clock.now()),
                        }
                    }
                    status @ (401 | 403) => {
                        // The token may have been replaced since it was read.
                        match self.token.refresh_if_older(REJECTED_TOKEN_TTL).await {
                            Ok(read) if read != token => token = read,
                            _ => return rejected(status),
                        }
                        DeliveryResult::Inconclusive(
                            "the token was replaced during the delivery".into(),
                        )
                    }
                    status => return rejected(status),
                },
                Err(err) => {
                    let why = format!("could not reach the destination: {}", error_chain(&err));
                    DeliveryResult::NotReady { why, retry_after: None }
                }
            };
            let retry_after = match &result {
                DeliveryResult::NotReady { retry_after, .. } => *retry_after,
                _ => None,
            };
            if !retry.backoff(retry_after).await {
                return result;
            }
        }
    }

    /// When the token was written. Reads it again.
    pub(super) async fn token_written_at(&self) -> Result<Option<Timestamp>, ParameterError> {
        self.token.fetch().await.map(|(_, written_at)| written_at)
    }

    fn request(&self, id: &str, token: &Secret, body: &Bytes) -> HttpRequest {
        // Shares the bytes between attempts instead of copying them.
        let mut request = HttpRequest::new(SdkBody::from(body.clone()));
        // Neither can fail: the URL was validated when the settings were read.
        let _ = request.set_method("POST");
        let _ = request.set_uri(self.url.as_str());
        let headers = request.headers_mut();
        headers.insert("content-type", "application/json");
        headers.insert("user-agent", crate::USER_AGENT);
        headers.insert("idempotency-key", id.to_owned());
        headers.insert(self.header.name().to_owned(), self.header.value(token.expose()));
        if self.gzip {
            headers.insert("content-encoding", "gzip");
        }
        request
    }
}

fn rejected(status: u16) -> DeliveryResult {
    DeliveryResult::Fatal(format!("the destination answered {status}"))
}

fn no_token(err: &ParameterError) -> DeliveryResult {
    DeliveryResult::Fatal(format!("no usable destination token: {}", error_chain(err)))
}

fn compress(json: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let _ = encoder.write_all(json);
    encoder.finish().unwrap_or_default()
}
