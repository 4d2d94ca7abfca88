//! The receiver under test: takes deliveries, and shows what it holds.

use tokio::time::{Duration, sleep};

use crate::{
    commands::conformance::{delivery::Delivery, state::State},
    destination::credential,
    http::{Http, Response},
};

/// Attempts of one delivery or exchange, as the relay makes them.
const ATTEMPTS: u32 = 3;
/// The wait before the second attempt; it doubles from there.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// A receiver.
pub(super) struct Receiver {
    http: Http,
    /// For reads alone: on the connection of a delivery, a read would wait for what the receiver does after its answer.
    state_http: Http,
    url: String,
    state_url: String,
    header: String,
    token: String,
}

impl Receiver {
    pub(super) fn new(url: &str, state_url: String, header: &str, token: String) -> Self {
        let header = header.to_ascii_lowercase();
        let (http, state_http) = (Http::new(), Http::new());
        Self { http, state_http, url: url.to_owned(), state_url, header, token }
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
        let answer = retried(|| self.http.send("POST", &self.url, &headers, Some(&request.body)));
        answer.await.map(|answer| answer.status)
    }

    /// Sends a delivery until it is accepted; tries again where the relay would.
    pub(super) async fn deliver(&self, delivery: &Delivery) -> Result<(), String> {
        let (mut left, mut wait) = (ATTEMPTS, FIRST_WAIT);
        loop {
            left -= 1;
            let got = match self.post(delivery, Some(&self.token)).await {
                Ok(200..=299) => return Ok(()),
                Ok(408 | 425 | 429 | 500..=599) if left > 0 => {
                    sleep(wait).await;
                    wait *= 2;
                    continue;
                }
                Ok(status) => format!("HTTP {status}"),
                Err(reason) => reason,
            };
            return Err(format!("expected 2xx for {}, got {got}", delivery.label));
        }
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
        let headers = [(&*self.header, &*credential)];
        let answer = retried(|| self.state_http.send("GET", &url, &headers, None)).await;
        answer.map_err(|reason| format!("could not read the state: {reason}"))
    }
}

/// An exchange, attempted again if there is no answer: a server may close an idle connection at the moment of its use.
async fn retried<F: Future<Output = Result<Response, String>>>(
    exchange: impl Fn() -> F,
) -> Result<Response, String> {
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        if let Ok(answer) = exchange().await {
            return Ok(answer);
        }
        sleep(wait).await;
        wait *= 2;
    }
    exchange().await
}
