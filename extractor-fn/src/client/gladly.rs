//! Gladly's REST API: authentication, the rate of requests, and what its responses mean.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use shared::{Clock, Id, Parameter, ParameterError, Secret, error_chain, replace_lone_surrogates};
use tokio::time::Instant;

use crate::{
    client::json::{self, Fields},
    client::rate_limiter::RateLimiter,
    client::{
        http::{Http, HttpError, Response, Wanted},
        lines::Lines,
        retry::{Retry, is_transient},
    },
    config::GladlyHost,
    gate::{Interrupted, Permission, breaker::Upstream},
};

/// The longest that one call may take, retries included.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Written by some programs at the start of a UTF-8 text.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// The largest response accepted, in bytes. A thousand items are a few MiB.
const RESPONSE_LIMIT: usize = 32 << 20;
/// The file of an export job that holds the conversation items.
pub(crate) const EXPORTED_ITEMS: &str = "conversation_items.jsonl";
/// How old a cached token may be when Gladly rejects it; an older one is read again.
const REJECTED_TOKEN_TTL: SignedDuration = SignedDuration::from_secs(10);

/// The API of one organisation.
pub(crate) struct Gladly {
    http: Http,
    host: GladlyHost,
    email: String,
    token: Parameter<Secret>,
    rate_limiter: RateLimiter,
    clock: Clock,
    calls: AtomicU64,
    throttled: AtomicU64,
}

/// Why a call to Gladly failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GladlyError {
    /// Not called: extraction has to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// Permanent until the operator corrects the credentials.
    #[error("Gladly rejected the API credentials (HTTP {0})")]
    Rejected(u16),
    /// Permanent until the operator writes the token.
    #[error("no usable Gladly token")]
    NoToken(#[from] ParameterError),
    /// Transient: the call may succeed later.
    #[error("Gladly answered {status}")]
    NotReady { status: u16, retry_after: Option<Duration> },
    /// Not called: the rate limit allows the call only after this.
    #[error("the relay's own rate limit does not allow the call in time")]
    RateLimited(Duration),
    /// Gladly rejected a token that has since been replaced, and no attempt is left for the new one.
    #[error("the Gladly token was replaced during the call")]
    TokenReplaced,
    /// There is no complete response.
    #[error("no complete response from Gladly")]
    Unreachable(#[source] HttpError),
    /// Not a status that this call can have.
    #[error("unexpected HTTP {0} from Gladly")]
    UnexpectedStatus(u16),
    /// A 200 with an unexpected body.
    #[error("unexpected response from Gladly: expected {0}")]
    Unreadable(&'static str),
}

impl GladlyError {
    /// How long Gladly asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotReady { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether every other call would fail the same way.
    pub(crate) fn is_fatal(&self) -> bool {
        match self {
            Self::Rejected(_) => true,
            Self::NoToken(err) => err.is_lasting(),
            _ => false,
        }
    }

    /// Whether no call with a token that may work was made, so that this is no evidence about Gladly.
    pub(crate) fn is_inconclusive(&self) -> bool {
        match self {
            Self::Interrupted(_) | Self::RateLimited(_) | Self::TokenReplaced => true,
            Self::NoToken(err) => !err.is_lasting(),
            _ => false,
        }
    }

    /// Whether the failure is Gladly's and transient.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::NotReady { .. } => true,
            Self::Unreachable(err) => !matches!(err, HttpError::TooLarge(_)),
            _ => false,
        }
    }
}

/// A webhook at Gladly: the fields that the relay uses.
#[derive(Debug)]
pub(crate) struct Webhook {
    pub(crate) id: Id,
    pub(crate) url: String,
    pub(crate) enabled: bool,
    pub(crate) events: Vec<String>,
    /// When Gladly disabled it, if it did.
    pub(crate) disabled_at_due_to_retry_limit: Option<Timestamp>,
}

impl Webhook {
    fn read(json: &str) -> Option<Self> {
        let fields = Fields::read(json)?;
        let disabled_at = fields.text("disabledAtDueToRetryLimit");
        Some(Self {
            id: fields.text("id")?.parse().ok()?,
            url: fields.text("url").unwrap_or_default().into_owned(),
            enabled: fields.get("enabled").is_some_and(|raw| raw.get() == "true"),
            events: texts(&fields, "events"),
            disabled_at_due_to_retry_limit: disabled_at.and_then(|at| at.parse().ok()),
        })
    }
}

/// An export job.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) id: Id,
    pub(crate) parameters: Exported,
    pub(crate) files: Vec<String>,
}

/// What an export job covers.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) start_at: Timestamp,
    pub(crate) end_at: Timestamp,
}

impl Export {
    fn read(json: &str) -> Option<Self> {
        let fields = Fields::read(json)?;
        let parameters = Fields::of(fields.get("parameters"));
        let time = |name| parameters.text(name)?.parse().ok();
        Some(Self {
            id: fields.text("id")?.parse().ok()?,
            parameters: Exported { start_at: time("startAt")?, end_at: time("endAt")? },
            files: texts(&fields, "files"),
        })
    }
}

/// The texts of a list.
fn texts(fields: &Fields<'_>, name: &str) -> Vec<String> {
    let entries = fields.list(name).unwrap_or_default().into_iter();
    entries.filter_map(json::text).map(Into::into).collect()
}

/// A list of items, which may be truncated.
pub(crate) struct Items {
    pub(crate) json: String,
    pub(crate) truncated: bool,
}

/// The result of looking up a customer.
pub(crate) enum Profile {
    Found(String),
    /// Merged into another one.
    Merged(Id),
    Gone,
}

impl Gladly {
    pub(crate) fn new(
        http: Http,
        host: GladlyHost,
        email: String,
        token: Parameter<Secret>,
        rate_limiter: RateLimiter,
        clock: Clock,
    ) -> Self {
        let (calls, throttled) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { http, host, email, token, rate_limiter, clock, calls, throttled }
    }

    /// Requests and 429s since the last call of this.
    pub(crate) fn take_counts(&self) -> (u64, u64) {
        (self.calls.swap(0, Ordering::Relaxed), self.throttled.swap(0, Ordering::Relaxed))
    }

    /// The time from one request to the next at the present rate.
    pub(crate) fn request_interval(&self) -> Duration {
        self.rate_limiter.present_interval()
    }

    /// The organisation's name in deliveries.
    pub(crate) fn organization(&self) -> &str {
        self.host.name()
    }

    /// A conversation, or `None` once Gladly no longer has it.
    pub(crate) async fn conversation(
        &self,
        id: &Id,
        permission: &impl Permission,
    ) -> Result<Option<String>, GladlyError> {
        let answer = self.get(&format!("/conversations/{id}"), permission).await?;
        found(answer).map(|found| found.map(text))
    }

    /// A conversation's items, or `None` once Gladly no longer has it.
    pub(crate) async fn items(
        &self,
        id: &Id,
        permission: &impl Permission,
    ) -> Result<Option<Items>, GladlyError> {
        let answer = self.get(&format!("/conversations/{id}/items"), permission).await?;
        Ok(found(answer)?.map(|answer| {
            // The header's value is not documented: its presence means that there are more.
            let limited = answer.header("gladly-limited-data");
            let truncated = limited.is_some_and(|value| !value.eq_ignore_ascii_case("false"));
            Items { truncated, json: text(answer) }
        }))
    }

    /// One item. `None` if there is none, or if the API cannot show its type (400).
    pub(crate) async fn item(
        &self,
        id: &Id,
        permission: &impl Permission,
    ) -> Result<Option<String>, GladlyError> {
        self.optional(&format!("/conversation-items/{id}"), permission).await
    }

    /// One internal note.
    pub(crate) async fn note(
        &self,
        conversation: &Id,
        id: &Id,
        permission: &impl Permission,
    ) -> Result<Option<String>, GladlyError> {
        self.optional(&format!("/conversations/{conversation}/notes/{id}"), permission).await
    }

    /// The transcript of a call or a voicemail, if there is one yet.
    pub(crate) async fn transcript(
        &self,
        item: &Id,
        permission: &impl Permission,
    ) -> Result<Option<String>, GladlyError> {
        self.optional(&format!("/conversation-items/{item}/voice-transcript"), permission).await
    }

    /// A customer's profile.
    pub(crate) async fn customer(
        &self,
        id: &Id,
        permission: &impl Permission,
    ) -> Result<Profile, GladlyError> {
        let answer = self.get(&format!("/customer-profiles/{id}"), permission).await?;
        match answer.status {
            200 => Ok(Profile::Found(text(answer))),
            // Without a readable target there is no customer to fetch.
            301 => Ok(moved_to(&text(answer)).map_or(Profile::Gone, Profile::Merged)),
            404 => Ok(Profile::Gone),
            other => Err(GladlyError::UnexpectedStatus(other)),
        }
    }

    /// Fetches what every API user may see, to find out whether Gladly accepts the credentials.
    pub(crate) async fn probe(&self, permission: &impl Permission) -> Result<(), GladlyError> {
        match self.call("GET", "/organization", None, Wanted::Head, permission).await?.status {
            200 => Ok(()),
            other => Err(GladlyError::UnexpectedStatus(other)),
        }
    }

    /// The organisation's webhooks, as Gladly lists them.
    pub(crate) async fn webhooks(
        &self,
        permission: &impl Permission,
    ) -> Result<Vec<Webhook>, GladlyError> {
        let answer = self.get("/webhooks", permission).await?;
        match answer.status {
            200 => list(&text(answer), Webhook::read)
                .ok_or(GladlyError::Unreadable("a list of webhooks")),
            other => Err(GladlyError::UnexpectedStatus(other)),
        }
    }

    /// Re-enables a webhook. Gladly sends it a PING first, and answers 400 if that is not
    /// answered.
    pub(crate) async fn enable(
        &self,
        webhook: &Id,
        permission: &impl Permission,
    ) -> Result<(), GladlyError> {
        let path = format!("/webhooks/{webhook}");
        let enabled = serde_json::json!({"enabled": true});
        let answer = self.call("PATCH", &path, Some(&enabled), Wanted::Head, permission).await?;
        match answer.status {
            200..=299 => Ok(()),
            other => Err(GladlyError::UnexpectedStatus(other)),
        }
    }

    /// The completed export jobs that were updated since, in the order of their ends.
    pub(crate) async fn exports(
        &self,
        since: Timestamp,
        permission: &impl Permission,
    ) -> Result<Vec<Export>, GladlyError> {
        let answer = self
            .get(&format!("/export/jobs?status=COMPLETED&startAt={since:.0}"), permission)
            .await?;
        match answer.status {
            200 => {
                let jobs = list(&text(answer), Export::read);
                let mut jobs = jobs.ok_or(GladlyError::Unreadable("a list of export jobs"))?;
                jobs.sort_by_key(|job| (job.parameters.end_at, job.parameters.start_at));
                Ok(jobs)
            }
            other => Err(GladlyError::UnexpectedStatus(other)),
        }
    }

    /// The events in a range of the last 24 hours, oldest first, one per line; also those about customers, if
    /// asked for.
    pub(crate) async fn events(
        &self,
        from: Timestamp,
        to: Timestamp,
        with_customers: bool,
        permission: &impl Permission,
    ) -> Result<Lines, GladlyError> {
        let range = format!("startAt={from:.3}&endAt={to:.3}");
        let conversations = "entities=CONVERSATION&entities=CONTACT";
        let customers =
            if with_customers { "&entities=CUSTOMER&entities=CUSTOMER_PROFILE" } else { "" };
        self.lines(&format!("/events?{range}&{conversations}{customers}"), 0, permission).await
    }

    /// The conversation items of an export job, one per line, from this byte of the file on.
    pub(crate) async fn exported_items(
        &self,
        job: &Id,
        offset: u64,
        permission: &impl Permission,
    ) -> Result<Lines, GladlyError> {
        self.lines(&format!("/export/jobs/{job}/files/{EXPORTED_ITEMS}"), offset, permission).await
    }

    /// A response that may be too long for memory, from this byte of it on. The caller tracks its
    /// position, and resumes there after an interruption.
    async fn lines(
        &self,
        path: &str,
        from: u64,
        permission: &impl Permission,
    ) -> Result<Lines, GladlyError> {
        let token = self.token.value().await?;
        permission.check().await?;
        let turn =
            self.rate_limiter.turn(OPERATION_TIMEOUT).await.map_err(GladlyError::RateLimited)?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let request = self.request("GET", path, None, &token);
        let answer = self.http.lines(request, from).await;
        let (answer, lines) = answer.map_err(GladlyError::Unreachable)?;
        self.apply_rate_limit_headers(turn, &answer);
        if let Some(lines) = lines {
            return Ok(lines);
        }
        Err(match answer.status {
            status @ (401 | 403) => {
                self.replaced_token(&token, status).await?;
                GladlyError::TokenReplaced
            }
            status if is_transient(status) => {
                GladlyError::NotReady { status, retry_after: answer.retry_after(self.clock.now()) }
            }
            status => GladlyError::UnexpectedStatus(status),
        })
    }

    /// The token that replaced one that Gladly rejected with this status: it may have been replaced
    /// after it was read.
    async fn replaced_token(
        &self,
        rejected: &Arc<Secret>,
        status: u16,
    ) -> Result<Arc<Secret>, GladlyError> {
        let read = self.token.refresh_if_older(REJECTED_TOKEN_TTL).await?;
        if read == *rejected { Err(GladlyError::Rejected(status)) } else { Ok(read) }
    }

    /// When the token was written. Reads it again.
    pub(crate) async fn token_written_at(&self) -> Result<Option<Timestamp>, ParameterError> {
        self.token.fetch().await.map(|(_, written_at)| written_at)
    }

    /// A complete list: `agents`, `topics` or `inboxes`.
    pub(crate) async fn list(
        &self,
        kind: &'static str,
        permission: &impl Permission,
    ) -> Result<String, GladlyError> {
        let answer = self.get(&format!("/{kind}"), permission).await?;
        match answer.status {
            200 => Ok(text(answer)),
            other => Err(GladlyError::UnexpectedStatus(other)),
        }
    }

    async fn optional(
        &self,
        path: &str,
        permission: &impl Permission,
    ) -> Result<Option<String>, GladlyError> {
        let answer = self.get(path, permission).await?;
        match answer.status {
            200 => Ok(Some(text(answer))),
            400 | 404 => Ok(None),
            other => Err(GladlyError::UnexpectedStatus(other)),
        }
    }

    /// One call: retried while its failure is transient, within the rate limit, and only while
    /// extraction may run.
    async fn get(&self, path: &str, permission: &impl Permission) -> Result<Response, GladlyError> {
        self.call("GET", path, None, Wanted::Body(RESPONSE_LIMIT), permission).await
    }

    async fn call(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        wanted: Wanted,
        permission: &impl Permission,
    ) -> Result<Response, GladlyError> {
        let mut retry = Retry::new(OPERATION_TIMEOUT);
        let mut token = self.token.value().await?;
        loop {
            permission.check().await?;
            let turn = self
                .rate_limiter
                .turn(OPERATION_TIMEOUT)
                .await
                .map_err(GladlyError::RateLimited)?;
            // Checked again: the wait for the turn may have been long.
            permission.check().await?;
            self.calls.fetch_add(1, Ordering::Relaxed);
            let request = self.request(method, path, body, &token);
            let err = match Box::pin(retry.send(&self.http, request, wanted)).await {
                Ok(answer) => {
                    self.apply_rate_limit_headers(turn, &answer);
                    match answer.status {
                        status @ (401 | 403) => {
                            token = self.replaced_token(&token, status).await?;
                            GladlyError::TokenReplaced
                        }
                        status if is_transient(status) => {
                            let retry_after = answer.retry_after(self.clock.now());
                            GladlyError::NotReady { status, retry_after }
                        }
                        _ => {
                            permission.answered(Upstream::Gladly);
                            return Ok(answer);
                        }
                    }
                }
                Err(err @ HttpError::TooLarge(_)) => return Err(GladlyError::Unreachable(err)),
                Err(err) => GladlyError::Unreachable(err),
            };
            tracing::debug!(error = error_chain(&err), "a call to Gladly failed");
            if !retry.backoff(err.retry_after()).await {
                return Err(err);
            }
        }
    }

    fn request(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
        token: &Secret,
    ) -> HttpRequest {
        let credentials = BASE64_STANDARD.encode(format!("{}:{}", self.email, token.expose()));
        let body = body.map(Value::to_string);
        let json = body.is_some();
        let mut request = HttpRequest::new(body.map_or_else(SdkBody::empty, SdkBody::from));
        let url = format!("{}/api/v1{path}", self.host.base());
        let _ = request.set_method(method);
        if json {
            request.headers_mut().insert("content-type", "application/json");
        }
        // Cannot fail: the host was validated with the settings, and ids are safe in a URL.
        let _ = request.set_uri(url);
        request.headers_mut().insert("authorization", format!("Basic {credentials}"));
        request.headers_mut().insert("accept", "application/json");
        request.headers_mut().insert("user-agent", crate::USER_AGENT);
        request
    }

    fn apply_rate_limit_headers(&self, turn: Instant, answer: &Response) {
        let left = answer.header("ratelimit-remaining-second").and_then(|left| left.parse().ok());
        self.rate_limiter.remaining(turn, left);
        if answer.status == 429 {
            self.throttled.fetch_add(1, Ordering::Relaxed);
            self.rate_limiter.throttled(answer.retry_after(self.clock.now()));
        }
    }
}

fn found(answer: Response) -> Result<Option<Response>, GladlyError> {
    match answer.status {
        200 => Ok(Some(answer)),
        404 => Ok(None),
        other => Err(GladlyError::UnexpectedStatus(other)),
    }
}

/// Reads a list, without the entries that cannot be read.
fn list<T>(json: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    Some(json::list(json)?.into_iter().filter_map(|entry| read(entry.get())).collect())
}

/// Where a merged customer went: `errors[0].meta.new`, with or without the list around it.
fn moved_to(body: &str) -> Option<Id> {
    let errors = Fields::read(body).and_then(|body| body.get("errors"));
    let errors = errors.map_or(body, |errors| errors.get());
    let new = |error: &str| Fields::of(Fields::read(error)?.get("meta")).text("new")?.parse().ok();
    match json::list(errors) {
        Some(errors) => errors.into_iter().find_map(|error| new(error.get())),
        None => new(errors),
    }
}

/// A response's body as text that JSON readers can read: without a byte order mark, and with lone
/// surrogates replaced (half a character where a text was truncated), which would otherwise cost the
/// whole conversation.
fn text(answer: Response) -> String {
    let mut body = String::from_utf8(answer.body)
        .unwrap_or_else(|err| String::from_utf8_lossy(err.as_bytes()).into_owned());
    if body.starts_with(BYTE_ORDER_MARK) {
        body.remove(0);
    }
    replace_lone_surrogates(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_customers_new_id_is_found_and_checked() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"moved","meta":{"old":"a","new":"b"}}]}"#, Some("b")),
            (r#"{"errors":{"code":"moved","meta":{"new":"b"}}}"#, Some("b")),
            (r#"[{"meta":{"new":"b"}}]"#, Some("b")),
            (r#"{"errors":[null,{"n":1e999,"meta":{"new":7,"new":"b"}}]}"#, Some("b")),
            (r#"{"errors":[{"meta":{"new":"../organization"}}]}"#, None),
            (r#"{"errors":[{"meta":{"new":""}}]}"#, None),
            (r#"{"errors":[]}"#, None),
            ("moved", None),
        ] {
            let id = moved_to(body);
            assert_eq!(id.as_ref().map(Id::as_str), expected, "{body}");
        }
    }
}
