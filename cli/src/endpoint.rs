//! The relay's own endpoint, called as Gladly calls it.

use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use crate::{
    error::{Error, Result},
    http::Http,
    relay::Relay,
};

/// ingest-fn reads its keys again at most once in ten seconds.
const KEYS_REREAD: Duration = Duration::from_secs(11);

/// Where Gladly posts its webhooks: over TLS, or on this machine.
pub(crate) fn webhook_url(relay: &Relay) -> Result<String> {
    let url = relay.webhook_url()?;
    let is_safe = |url: &shared::HttpUrl| url.is_https() || url.is_loopback();
    if url.parse().is_ok_and(|url| is_safe(&url)) {
        Ok(url)
    } else {
        Err(Error::failed(format!("expected an https:// URL of the webhook, got {url:?}.")))
    }
}

/// Posts a webhook with this key, and returns the status of the answer.
pub(crate) async fn post(relay: &Relay, key: &str, body: &Value) -> Result<u16> {
    let url = webhook_url(relay)?;
    let headers = [("x-api-key", key), ("content-type", "application/json")];
    let answer = Http::new().send("POST", &url, &headers, Some(body.to_string().as_bytes())).await;
    match answer {
        Ok(answer) => Ok(answer.status),
        Err(reason) => Err(Error::failed(format!("could not reach the relay at {url}: {reason}."))),
    }
}

/// Checks that the relay answers a PING with this key as Gladly requires it; `tries` above 1 wait for it
/// to read a key that was written just now.
pub(crate) async fn ping(relay: &Relay, key: &str, tries: u32) -> Result<()> {
    for left in (0..tries).rev() {
        match post(relay, key, &json!({"type": "PING"})).await? {
            200 => return Ok(()),
            401 if left > 0 => sleep(KEYS_REREAD).await,
            status => return Err(unexpected(&webhook_url(relay)?, status)),
        }
    }
    Ok(())
}

fn unexpected(url: &str, status: u16) -> Error {
    let hint = match status {
        401 => "the relay has not read this key yet; try again in a minute",
        404 => "there is no relay at this URL",
        429 => "the endpoint is throttling; see the parameter WebhookRateLimit",
        503 => "it cannot read its keys or reach its queue; see the log of ingest-fn",
        _ => "see the log of ingest-fn",
    };
    Error::failed(format!("the relay answers a PING at {url} with HTTP {status}: {hint}."))
}
