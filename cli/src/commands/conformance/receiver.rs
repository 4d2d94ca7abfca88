//! The receiver under test: takes deliveries, and shows what it holds.

use tokio::time::{Duration, sleep};

use crate::{
    commands::conformance::{delivery::Delivery, state::State},
    destination::credential,
    http::{Http, Response},
};

/// Attempts of one delivery, as the relay makes them.
const ATTEMPTS: u32 = 3;
/// The wait before the second attempt; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// A receiver.
pub(super) struct Receiver {
    http: Http,
    url: String,
    state_url: String,
    header: String,
    token: String,
}

impl Receiver {
    pub(super) fn new(url: &str, state_url: String, header: &str, token: String) -> Self {
        let header = header.to_ascii_lowercase();
        Self { http: Http::new(), url: url.to_owned(), state_url, header, token }
    }

    /// The token, for variants of it.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// One request with a delivery, with this token or none. An error is the reason why there is no status.
    pub(super) async fn post(
        &self,
        delivery: &Delivery,
        token: Option<&str>,
    ) -> Result<u16, String> {
        let request = delivery.request();
        let credential = token.map(|token| credential(&self.header, token));
        let mut headers = vec![
            ("content-type", "application/json"),
            ("user-agent", concat!("gladly-relay/", env!("CARGO_PKG_VERSION"), " (conformance)")),
            ("idempotency-key", &*request.id),
        ];
        headers.extend(request.gzip.then_some(("content-encoding", "gzip")));
        headers.extend(credential.as_deref().map(|credential| (&*self.header, credential)));
        let answer = self.http.send("POST", &self.url, &headers, Some(&request.body)).await;
        answer.map(|answer| answer.status)
    }

    /// Sends a delivery until it is accepted; tries again where the relay would.
    pub(super) async fn deliver(&self, delivery: &Delivery) -> Result<(), String> {
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let reason = match self.post(delivery, Some(&self.token)).await {
                Ok(200..=299) => return Ok(()),
                Ok(status @ (408 | 425 | 429 | 500..=599)) => format!("HTTP {status}"),
                Ok(status) => return Err(unaccepted(delivery, &format!("HTTP {status}"))),
                Err(reason) => reason,
            };
            if attempt == ATTEMPTS {
                return Err(unaccepted(delivery, &format!("{reason}, {ATTEMPTS} times")));
            }
            sleep(wait).await;
            wait *= 2;
        }
        Ok(())
    }

    /// What the receiver shows of the ids that begin with the prefix.
    pub(super) async fn state(&self, prefix: &str) -> Result<State, String> {
        let answer = self.read_state(prefix).await?;
        if answer.status != 200 {
            return Err(format!("expected HTTP 200 for the state, got HTTP {}", answer.status));
        }
        State::read(&answer.body, prefix)
    }

    /// The answer of the read interface, whatever it is.
    pub(super) async fn read_state(&self, prefix: &str) -> Result<Response, String> {
        let separator = if self.state_url.contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}prefix={prefix}", self.state_url);
        let credential = credential(&self.header, &self.token);
        let answer = self.http.send("GET", &url, &[(&self.header, &credential)], None).await;
        answer.map_err(|reason| format!("could not read the state: {reason}"))
    }
}

fn unaccepted(delivery: &Delivery, got: &str) -> String {
    format!("expected 2xx for {}, got {got}", delivery.label)
}
