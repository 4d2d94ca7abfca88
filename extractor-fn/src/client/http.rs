//! Exchanges over the process's one HTTP client, the AWS SDK's own: one TLS stack, one pool
//! of connections. It never follows a redirect.

use std::time::Duration;

use aws_smithy_runtime_api::client::{
    http::{HttpConnector as _, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// The longest line of a stream that is returned, in bytes.
const LINE_LIMIT: usize = 4 << 20;
/// How long a stream may send nothing.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts of one call.
const ATTEMPTS: u32 = 3;
/// The longest wait that a server can ask for: as long as a returned record can stay hidden.
const MAX_WAIT: Duration = Duration::from_hours(1);
/// How much of an unwanted body is read so that its connection can be reused, in bytes.
const DRAIN_BYTES: usize = 64 << 10;
/// How long an unwanted body is read.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// The wait before the second attempt; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// The client.
#[derive(Debug, Clone)]
pub struct Http(SharedHttpConnector);

/// What a call needs of its response.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// Its status and headers only.
    Head,
    /// Also the whole body where it has a meaning (200 and 301); at most this many bytes.
    Body(usize),
}

/// A response, with its body if that was wanted.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    head: HttpResponse,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)
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

    /// Begins an exchange whose response is read as it arrives, from this byte of it on. A server
    /// that ignores the range sends all of it (RFC 9110, 14.2), and the bytes before are skipped.
    /// No lines unless the status is a success.
    pub(crate) async fn lines(
        &self,
        mut request: HttpRequest,
        from: u64,
    ) -> Result<(Response, Option<Lines>), HttpError> {
        if from > 0 {
            request.headers_mut().insert("range", format!("bytes={from}-"));
        }
        let answer = timeout(LINE_TIMEOUT, self.0.call(request)).await;
        let mut response =
            answer.map_err(|_| HttpError::TimedOut)?.map_err(HttpError::ConnectionFailed)?;
        let range = response.headers().get("content-range").unwrap_or_default();
        let begins_there = range.starts_with(&format!("bytes {from}-"));
        let status = response.status().as_u16();
        let left_out = match status {
            200 => Some(from),
            206 if begins_there => Some(0),
            _ => None,
        };
        let body = std::mem::replace(response.body_mut(), SdkBody::empty());
        let lines = left_out.map(|left_out| Lines {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            skipping: false,
            left_out,
            position: from,
            too_long: 0,
        });
        Ok((Response { status, body: Vec::new(), head: response }, lines))
    }

    /// One exchange within `time`. An unwanted body can neither fail nor delay it.
    async fn exchange(
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
            _ => {
                // If the body did not end, the connector does not reuse the connection.
                let _ = timeout_at(end.min(Instant::now() + DRAIN_TIME), drain(stream)).await;
                Vec::new()
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

async fn drain(mut stream: SdkBody) {
    let mut left = DRAIN_BYTES;
    while let Some(Ok(frame)) = stream.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(less) => left = less,
            None => return,
        }
    }
}

/// A response that is read line by line, however long it is.
pub(crate) struct Lines {
    body: SdkBody,
    buffer: BytesMut,
    /// How many bytes of the buffer have been searched for a line's end.
    searched: usize,
    /// The line that is being read is too long to be returned.
    skipping: bool,
    /// How many bytes before the requested range are still to be skipped.
    left_out: u64,
    /// Where the next line begins, in bytes from the start of the response.
    position: u64,
    /// How many lines were too long to be returned.
    too_long: u64,
}

impl Lines {
    /// Where the next line begins, in bytes from the start of the response.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How many lines were too long to be returned.
    pub(crate) fn too_long(&self) -> u64 {
        self.too_long
    }

    /// The next line, or `None` after the last. Lines of more than [`LINE_LIMIT`] bytes are skipped.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>, HttpError> {
        loop {
            let unsearched = &self.buffer[self.searched..];
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                self.position += line.len() as u64;
                if !std::mem::take(&mut self.skipping) {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.buffer.len() > LINE_LIMIT {
                self.position += self.buffer.len() as u64;
                self.buffer.clear();
                self.too_long += u64::from(!self.skipping);
                self.skipping = true;
            }
            self.searched = self.buffer.len();
            match timeout(LINE_TIMEOUT, self.body.frame()).await.map_err(|_| HttpError::TimedOut)? {
                Some(frame) => {
                    if let Ok(mut data) = frame.map_err(HttpError::Truncated)?.into_data() {
                        let left_out = self.left_out.min(data.len() as u64);
                        self.left_out -= left_out;
                        data.advance(usize::try_from(left_out).unwrap_or(usize::MAX));
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() || self.skipping => return Ok(None),
                None => {
                    self.searched = 0;
                    self.position += self.buffer.len() as u64;
                    return Ok(Some(self.buffer.split()));
                }
            }
        }
    }
}

/// The attempts of one call and the time they may take together. Waits between them, such as for
/// the rate limiter, do not count.
pub(crate) struct Retry {
    left: u32,
    time: Duration,
    wait: Duration,
}

impl Retry {
    pub(crate) fn new(time: Duration) -> Self {
        Self { left: ATTEMPTS, time, wait: FIRST_WAIT }
    }

    /// One attempt, with a share of the time left so that another remains possible.
    pub(crate) async fn send(
        &mut self,
        http: &Http,
        request: HttpRequest,
        wanted: Wanted,
    ) -> Result<Response, HttpError> {
        let share = if self.left > 1 { self.time.mul_f64(0.6) } else { self.time };
        let began = Instant::now();
        let answer = http.exchange(request, wanted, share).await;
        self.time = self.time.saturating_sub(began.elapsed());
        answer
    }

    /// Waits before the next attempt, at least `retry_after`; returns `false` if there is none.
    pub(crate) async fn backoff(&mut self, retry_after: Option<Duration>) -> bool {
        self.left -= 1;
        let wait =
            self.wait.mul_f64(0.8 + 0.4 * fastrand::f64()).max(retry_after.unwrap_or_default());
        if self.left == 0 || wait >= self.time {
            return false;
        }
        sleep(wait).await;
        self.time -= wait;
        self.wait *= 2;
        true
    }
}

/// Whether a status is transient.
pub(crate) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}
