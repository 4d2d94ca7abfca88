//! Faults on request: what a server does instead of answering, or to its own response.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    future, io,
    time::Duration,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

/// One fault and the calls it hits. Made with a constructor, narrowed with [`Fault::on`] and [`Fault::times`];
/// the same fields are the JSON that `POST /_sim/faults` takes.
///
/// A fault with a `status`, `body` or `mebibytes` answers instead of the server, which then never sees the call.
/// One with neither lets the server do its work and damages only the response.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a word of the JSON that is written by hand"
)]
pub struct Fault {
    /// Which calls: see [`covers`]. Empty is every call.
    pub on: String,
    /// How many calls it hits; absent is all of them.
    pub times: Option<u32>,
    /// How many matching calls succeed first.
    pub after: u32,
    /// Waits this long before anything else.
    pub latency_ms: u64,
    /// Answers this instead.
    pub status: Option<u16>,
    /// Added to the answer, over what is there.
    pub headers: BTreeMap<String, String>,
    /// Answers this instead (with 200 unless `status` is set).
    pub body: Option<String>,
    /// Answers this many MiB of well-formed JSON, chunked.
    pub mebibytes: Option<usize>,
    /// Never answers.
    pub hang: bool,
    /// Closes the connection in the middle of the body it announced.
    pub cut: bool,
    /// Sends half of the body as if it were all: broken JSON.
    pub garbled: bool,
    /// Sends the body in ten pieces, each so much later than the one before.
    pub drip_ms: u64,
    /// Breaks the connection instead of processing the call.
    pub reset: bool,
    /// Processes the call, then breaks the connection without a response.
    pub lost: bool,
}

impl Fault {
    /// Answers `status` with an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::default().with(|fault| fault.status = Some(status))
    }

    /// Answers a redirect to `location`.
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::status(status).header("location", location)
    }

    /// Never answers.
    #[must_use]
    pub fn hang() -> Self {
        Self::default().with(|fault| fault.hang = true)
    }

    /// Processes the call, then breaks the connection half-way through the response.
    #[must_use]
    pub fn cut() -> Self {
        Self::default().with(|fault| fault.cut = true)
    }

    /// Processes the call, then answers with broken JSON.
    #[must_use]
    pub fn garbled() -> Self {
        Self::default().with(|fault| fault.garbled = true)
    }

    /// Answers 200 with this many MiB of JSON.
    #[must_use]
    pub fn large(mebibytes: usize) -> Self {
        Self::default().with(|fault| fault.mebibytes = Some(mebibytes))
    }

    /// Processes the call late.
    #[must_use]
    pub fn slow(latency_ms: u64) -> Self {
        Self::default().with(|fault| fault.latency_ms = latency_ms)
    }

    /// Processes the call, and sends the body in ten pieces that far apart.
    #[must_use]
    pub fn drip(pause_ms: u64) -> Self {
        Self::default().with(|fault| fault.drip_ms = pause_ms)
    }

    /// Breaks the connection before the call is processed.
    #[must_use]
    pub fn reset() -> Self {
        Self::default().with(|fault| fault.reset = true)
    }

    /// Processes the call, and breaks the connection instead of sending the response.
    #[must_use]
    pub fn lost() -> Self {
        Self::default().with(|fault| fault.lost = true)
    }

    /// Hits only the calls this pattern [`covers`].
    #[must_use]
    pub fn on(self, pattern: impl Into<String>) -> Self {
        self.with(|fault| fault.on = pattern.into())
    }

    /// Applies to this many calls.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        self.with(|fault| fault.times = Some(times))
    }

    /// Lets this many matching calls succeed first.
    #[must_use]
    pub fn after(self, after: u32) -> Self {
        self.with(|fault| fault.after = after)
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.with(|fault| drop(fault.headers.insert(name.to_owned(), value.to_owned())))
    }

    /// Answers this body.
    #[must_use]
    pub fn body(self, body: impl Into<String>) -> Self {
        self.with(|fault| fault.body = Some(body.into()))
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Takes the first fault that applies to this call, and counts it as used.
    pub(crate) fn take(faults: &mut Vec<Self>, method: &str, path: &str) -> Option<Self> {
        let mut due = None;
        for (position, fault) in faults.iter_mut().enumerate() {
            if !covers(&fault.on, method, path) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            due = Some(position);
            break;
        }
        let position = due?;
        let fault = faults[position].clone();
        match &mut faults[position].times {
            Some(..=1) => drop(faults.remove(position)),
            Some(times) => *times -= 1,
            None => {}
        }
        Some(fault)
    }

    /// The response under this fault; `server` is polled only if the fault lets the call through.
    pub(crate) async fn answer(self, server: impl Future<Output = Response>) -> Response {
        tokio::time::sleep(Duration::from_millis(self.latency_ms)).await;
        if self.hang {
            future::pending::<()>().await;
        }
        if self.reset {
            return Response::new(broken());
        }
        let mut response = if let Some(mebibytes) = self.mebibytes {
            Response::new(spaces(mebibytes))
        } else if self.status.is_some() || self.body.is_some() {
            let body = Bytes::from(self.body.unwrap_or_default());
            // hyper rejects a header that differs from the known length of a body.
            let lies = self.headers.contains_key("content-length");
            Response::new(if lies { breaking_off(body) } else { Body::from(body) })
        } else {
            server.await
        };
        if let Some(status) = self.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            *response.status_mut() = status;
        }
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), value.parse::<HeaderValue>())
            {
                response.headers_mut().insert(name, value);
            }
        }
        if self.cut || self.garbled {
            response = halve(response, self.cut).await;
        }
        if self.drip_ms > 0 {
            response = dripping(response, Duration::from_millis(self.drip_ms)).await;
        }
        if self.lost {
            return Response::new(broken());
        }
        response
    }
}

/// What it does, in a word or two, without the calls it hits.
impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self { hang: true, .. } => "hang",
            Self { reset: true, .. } => "reset",
            Self { lost: true, .. } => "lost answer",
            Self { cut: true, .. } => "cut answer",
            Self { garbled: true, .. } => "garbled answer",
            Self { mebibytes: Some(_), .. } => "large answer",
            Self { drip_ms: 1.., .. } => "slow body",
            Self { status: Some(status), headers, .. } => {
                let waits =
                    if headers.contains_key("retry-after") { " with retry-after" } else { "" };
                return write!(f, "{status}{waits}");
            }
            Self { latency_ms: 1.., .. } => "late answer",
            _ => "other answer",
        };
        f.write_str(word)
    }
}

/// Whether a pattern covers a call: `*` stands for one path segment, `**` for all that follow, and a method may come
/// first (`GET /api/v1/conversations/*`). The empty pattern covers everything; the query is ignored.
#[must_use]
pub fn covers(pattern: &str, method: &str, path: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let (wanted_method, pattern) = pattern.split_once(' ').unwrap_or((method, pattern));
    if wanted_method != method {
        return false;
    }
    let mut segments = path.split('/');
    for wanted in pattern.split('/') {
        match (wanted, segments.next()) {
            ("**", _) => return true,
            ("*", Some(_)) => {}
            (wanted, Some(segment)) if wanted == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

/// Half of the response; with `cut` and the length of the whole, so that the reader sees the connection break.
async fn halve(response: Response, cut: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let half = whole.slice(..whole.len() / 2);
    parts.headers.remove(header::CONTENT_LENGTH);
    if !cut {
        return Response::from_parts(parts, Body::from(half));
    }
    parts.headers.insert(header::CONTENT_LENGTH, whole.len().max(2).into());
    Response::from_parts(parts, breaking_off(half))
}

/// A body that sends this much and then breaks the connection.
fn breaking_off(sent: Bytes) -> Body {
    let broken = stream::once(async {
        // Time for what was sent to leave: hyper drops what it has not yet written.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(io::Error::other("cut by a fault"))
    });
    Body::from_stream(stream::iter([Ok(sent)]).chain(broken))
}

/// A body that breaks the connection immediately, before even the headers are sent.
fn broken() -> Body {
    Body::from_stream(stream::once(async { Err::<Bytes, _>(io::Error::other("lost by a fault")) }))
}

/// The same response with its body in pieces.
async fn dripping(response: Response, pause: Duration) -> Response {
    const PIECES: usize = 10;
    let (parts, body) = response.into_parts();
    let whole = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let size = whole.len().div_ceil(PIECES).max(1);
    let pieces = (0..whole.len()).step_by(size);
    let pieces: Vec<_> = pieces.map(|at| whole.slice(at..whole.len().min(at + size))).collect();
    let pieces = stream::iter(pieces).then(move |piece| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, io::Error>(piece)
    });
    Response::from_parts(parts, Body::from_stream(pieces))
}

fn spaces(mebibytes: usize) -> Body {
    const MIB: Bytes = Bytes::from_static(&[b' '; 1 << 20]);
    let chunks = std::iter::once(Bytes::from_static(b"["))
        .chain(std::iter::repeat_n(MIB, mebibytes))
        .chain([Bytes::from_static(b"]")]);
    Body::from_stream(stream::iter(chunks.map(Ok::<_, io::Error>)))
}
