//! Exchanges over the process's one HTTP client, the AWS SDK's own: one TLS stack, one pool
//! of connections. It never follows a redirect.

use std::time::Duration;

use aws_smithy_runtime_api::client::{
    http::{HttpConnector as _, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

/// The longest wait that a server can ask for: as long as a returned record can stay hidden.
const MAX_WAIT: Duration = Duration::from_hours(1);
/// How much of an unwanted body is read so that its connection can be reused, in bytes.
const DRAIN_BYTES: usize = 64 << 10;
/// How much of an error's body is kept, in bytes.
const ERROR_BYTES: usize = 4 << 10;
/// How long an unwanted body, or an error's, is read.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// The client.
#[derive(Debug, Clone)]
pub struct Http(pub(super) SharedHttpConnector);

/// What a call needs of its response.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// Its status and headers only.
    Head,
    /// Also the whole body where it has a meaning (200 and 301); at most this many bytes.
    Body(usize),
    /// Also what can be had at once of an error's body, at most [`ERROR_BYTES`]; unlike the status it may
    /// be missing or cut.
    Error,
}

/// A response, with its body if that was wanted.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(super) head: HttpResponse,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)
    }

    /// The server's time, by its `date`.
    pub(crate) fn date(&self) -> Option<Timestamp> {
        let date = httpdate::parse_http_date(self.header("date")?).ok()?;
        Timestamp::try_from(date).ok()
    }

    /// How long the server asks to wait, in seconds or until a date; an hour at most.
    pub(crate) fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let text = self.header("retry-after")?.trim();
        let wait = if let Ok(seconds) = text.parse() {
            Duration::from_secs(seconds)
        } else {
            let date = Timestamp::try_from(httpdate::parse_http_date(text).ok()?).ok()?;
            date.duration_since(now).try_into().unwrap_or(Duration::ZERO)
        };
        Some(wait.min(MAX_WAIT))
    }
}

/// Why there is no complete response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("connection failed")]
    ConnectionFailed(#[source] ConnectorError),
    #[error("the response was cut off")]
    Truncated(#[source] aws_smithy_types::body::Error),
    #[error("timed out")]
    TimedOut,
    #[error("the response is larger than {0} bytes")]
    TooLarge(usize),
}

impl Http {
    /// A client over any connector.
    #[must_use]
    pub fn over(connector: SharedHttpConnector) -> Self {
        Self(connector)
    }

    /// One exchange within `time`. An unwanted body can neither fail nor delay it.
    pub(crate) async fn exchange(
        &self,
        request: HttpRequest,
        wanted: Wanted,
        time: Duration,
    ) -> Result<Response, HttpError> {
        let end = Instant::now() + time;
        let response = timeout_at(end, self.0.call(request)).await;
        let mut response =
            response.map_err(|_| HttpError::TimedOut)?.map_err(HttpError::ConnectionFailed)?;
        let stream = std::mem::replace(response.body_mut(), SdkBody::empty());
        let status = response.status().as_u16();
        let body = match wanted {
            Wanted::Body(limit) if matches!(status, 200 | 301) => {
                let announced = response.headers().get("content-length");
                let announced = announced.and_then(|length| length.parse().ok()).unwrap_or(0);
                let body = timeout_at(end, whole(stream, announced, limit)).await;
                body.map_err(|_| HttpError::TimedOut)??
            }
            wanted => {
                let kept = match wanted {
                    Wanted::Error if !(200..=299).contains(&status) => ERROR_BYTES,
                    _ => 0,
                };
                let mut body = Vec::new();
                // If the body did not end, the connector does not reuse the connection.
                let drain = drain(stream, &mut body, kept);
                let _ = timeout_at(end.min(Instant::now() + DRAIN_TIME), drain).await;
                body
            }
        };
        Ok(Response { status, body, head: response })
    }
}

async fn whole(mut stream: SdkBody, announced: usize, limit: usize) -> Result<Vec<u8>, HttpError> {
    let mut body = Vec::with_capacity(announced.min(limit));
    while let Some(frame) = stream.frame().await {
        if let Ok(data) = frame.map_err(HttpError::Truncated)?.into_data() {
            if body.len() + data.len() > limit {
                return Err(HttpError::TooLarge(limit));
            }
            body.extend_from_slice(&data);
        }
    }
    Ok(body)
}

/// Reads a body that is not needed, and keeps its first bytes.
async fn drain(mut stream: SdkBody, body: &mut Vec<u8>, kept: usize) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(frame)) = stream.frame().await {
        if let Some(data) = frame.data_ref() {
            let room = kept.saturating_sub(body.len()).min(data.len());
            body.extend_from_slice(&data[..room]);
        }
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(less) => left = less,
            None => return,
        }
    }
}
