//! ingest-fn between the HTTP API's event and the requests that reach SQS and SSM. tokio's clock is
//! paused, so hangs and back-offs take no real time.

#![expect(clippy::unwrap_used, reason = "how a test fails")]

mod alarm;
mod body;
mod encoding;
mod fault;
mod key;
mod log;
mod permission;
mod redaction;
mod upgrade;

use std::sync::Once;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ingest_fn::{Config, Ingest, Outcome};
use jiff::{SignedDuration, Timestamp};
use lambda_http::{Context, LambdaEvent, Request};
use serde_json::{Value, json};
use shared::{Clock, Metric, Metrics, MetricsWriter, SettleWindow, subscriber};
use testing::{
    alarm::MetricLog,
    aws::{Aws, Message, QUEUES},
};
use tokio::time::Instant;
use tracing::{level_filters::LevelFilter, subscriber::set_global_default};

/// The keys' parameter.
const KEYS: &str = "/relay/webhook-keys";
const KEY: &str = "0123456789abcdef-0123456789abcdef";
const NEXT_KEY: &str = "fedcba9876543210-fedcba9876543210";
const EVENT: &str = r#"{"type":"CONVERSATION/CLOSED","content":{"conversationId":"c-1"}}"#;

/// The request id of every invocation.
const REQUEST_ID: &str = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";

/// ingest-fn with its own AWS account, at 2026-01-02T03:04:05.678Z.
struct TestApp {
    aws: Aws,
    ingest: Ingest,
    clock: Clock,
    metrics: MetricLog,
}

impl TestApp {
    fn with_keys(keys: &str) -> Self {
        let metrics = MetricLog::default();
        let written = metrics.clone();
        Self { metrics, ..Self::with(keys, move |line| written.push(line)) }
    }

    /// With `FORWARD_ERASURES` false.
    fn without_erasures() -> Self {
        Self::with_switch(KEY, false, |_| {})
    }

    /// With metrics that are written elsewhere.
    fn with(keys: &str, write_line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self::with_switch(keys, true, write_line)
    }

    fn with_switch(
        keys: &str,
        forward_erasures: bool,
        write_line: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        enable_log();
        let aws = Aws::default();
        aws.assume("IngestRole");
        aws.put_secret(KEYS, keys);
        let config = Config {
            events_queue_url: format!("{QUEUES}events"),
            quarantine_queue_url: format!("{QUEUES}quarantine"),
            webhook_keys_parameter: KEYS.into(),
            settle_window: SettleWindow::default(),
            forward_erasures,
        };
        let (start, began): (Timestamp, _) =
            ("2026-01-02T03:04:05.678Z".parse().unwrap(), Instant::now());
        let clock = Clock::new(move || start + SignedDuration::try_from(began.elapsed()).unwrap());
        // The function's name in the template.
        let metrics = MetricsWriter::new("IngestFunction", write_line);
        let ingest = Ingest::new(&aws.config(), config, clock.clone(), metrics);
        Self { aws, ingest, clock, metrics: MetricLog::default() }
    }

    fn new() -> Self {
        Self::with_keys(KEY)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Sends the HTTP API's event as Lambda gets it: status and body of the answer.
    async fn call(&self, payload: &Value) -> (u64, String) {
        let call = serde_json::from_str(&payload.to_string()).unwrap();
        let mut context = Context::default();
        context.request_id = REQUEST_ID.into();
        let answer = self.ingest.handle(LambdaEvent::new(call, context)).await;
        let answer = serde_json::to_value(answer.unwrap()).unwrap();
        assert_eq!(answer["headers"], json!({"content-type": "application/json"}));
        assert_eq!(answer["isBase64Encoded"], false);
        (answer["statusCode"].as_u64().unwrap(), answer["body"].as_str().unwrap().to_owned())
    }

    /// Sends a body with this key: status and body of the answer.
    async fn post(&self, key: &str, body: &[u8]) -> (u64, String) {
        self.call(&payload(&json!({"x-api-key": key}), body)).await
    }

    /// As [`TestApp::post`], with the status alone.
    async fn status(&self, key: &str) -> u64 {
        self.post(key, EVENT.as_bytes()).await.0
    }

    /// Sends a body with the valid key, bypassing Lambda's event. Returns the metrics too.
    async fn receive_counted(&self, body: &[u8]) -> (Outcome, String) {
        let mut request = Request::new(body.into());
        request.headers_mut().insert("x-api-key", KEY.parse().unwrap());
        let mut metrics = Metrics::default();
        let outcome = self.ingest.receive(request, &mut metrics).await;
        (outcome, nonzero_counts(&metrics))
    }

    /// Takes what SQS has.
    fn messages(&self) -> Vec<Message> {
        std::mem::take(&mut self.aws.state().messages)
    }
}

/// Every metric that ingest-fn may send, with its count where that is not 0.
fn nonzero_counts(metrics: &Metrics) -> String {
    use Metric::{Ignored, KeySlot, Quarantined, Queued, Unauthorized, Unavailable};
    let all = [Queued, Ignored, Quarantined, Unauthorized, Unavailable, KeySlot];
    let counted = all.iter().filter(|metric| metrics.count(**metric) > 0);
    let words = counted.map(|metric| format!("{}={}", metric.name(), metrics.count(*metric)));
    words.collect::<Vec<_>>().join(" ")
}

/// The HTTP API's event, payload 2.0, as it is documented. Text stays text, as API Gateway has it.
fn payload(headers: &Value, body: &[u8]) -> Value {
    let text = str::from_utf8(body);
    let binary = text.is_err();
    json!({
        "version": "2.0", "routeKey": "POST /webhooks/gladly", "rawPath": "/webhooks/gladly",
        "rawQueryString": "", "headers": headers,
        "requestContext": {
            "accountId": "123456789012", "apiId": "a1", "domainName": "a1.example.com",
            "http": {"method": "POST", "path": "/webhooks/gladly", "protocol": "HTTP/1.1",
                     "sourceIp": "192.0.2.1", "userAgent": "Gladly"},
            "requestId": "r=", "routeKey": "POST /webhooks/gladly", "stage": "$default",
            "time": "02/Jan/2026:03:04:05 +0000", "timeEpoch": 1_767_323_045_678_u64,
        },
        "body": text.map_or_else(|_| BASE64_STANDARD.encode(body), ToOwned::to_owned),
        "isBase64Encoded": binary,
    })
}

fn answer(status: &str) -> String {
    format!(r#"{{"status":"{status}"}}"#)
}

/// Discards everything that the functions log. tracing caches for each call site whether it is enabled:
/// without this, a test that logs first could decide it for one that reads the log.
pub(crate) fn enable_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A child process may have a subscriber already.
        let _ = set_global_default(subscriber(LevelFilter::INFO, |_: &[u8]| {}));
    });
}
