//! The extractor with fakes of everything it calls, for one input.

use std::sync::Arc;

use extractor_fn::{Config, Extractor, Http, Invocation};
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use shared::{Clock, Env};
use testing::{
    aws::Aws,
    record::SqsRecord,
    settings::{
        DESTINATION_TOKEN_PARAMETER, ExtractorSettings, GLADLY_TOKEN_PARAMETER, PAUSE_PARAMETER,
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Duration, Instant},
};

use crate::{
    redaction::redacted_metrics,
    script::Section,
    scripted::{Allowed, Scripted},
};

/// When every run begins.
pub(crate) const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);
/// The URL of the monitored webhook.
pub(crate) const WEBHOOK: &str = "https://relay.example.com/webhooks/gladly";

/// The time for an invocation.
const TIME_LEFT: Duration = Duration::from_mins(5);

/// The function and its surroundings.
pub(crate) struct Relay {
    pub(crate) aws: Aws,
    pub(crate) scripted: Scripted,
    extractor: Arc<Extractor>,
    began: Instant,
}

/// The outcome of an invocation: its response, or the text of its error.
pub(crate) type Outcome = Result<Value, String>;

/// Runs something on a paused clock, so that waits take no real time.
pub(crate) fn in_no_time<T>(run: impl Future<Output = T>) -> T {
    runtime().block_on(run)
}

#[expect(clippy::expect_used, reason = "a runtime without I/O needs nothing")]
pub(crate) fn runtime() -> Runtime {
    let mut runtime = Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().expect("a runtime")
}

/// The current time of a run that began at `began`.
pub(crate) fn now(began: Instant) -> Timestamp {
    EPOCH + SignedDuration::try_from(began.elapsed()).unwrap_or_default()
}

impl Relay {
    /// The settings are words in the section `settings`.
    pub(crate) fn new(sections: &[Section<'_>]) -> Self {
        let settings = sections.iter().find(|section| section.name == "settings");
        let settings = settings.copied().unwrap_or_default();
        let allowed =
            Allowed { contact: !settings.has("no-contact"), notes: !settings.has("no-notes") };
        let began = Instant::now();
        let aws = Aws::new(move || now(began));
        aws.put(PAUSE_PARAMETER, "running");
        aws.put(GLADLY_TOKEN_PARAMETER, "gladly-token");
        aws.put(DESTINATION_TOKEN_PARAMETER, "destination-token");
        let scripted = Scripted::new(sections, allowed);
        let http = Http::over(scripted.connector().shared());
        let clock = Clock::new(move || now(began));
        let config = config(settings, allowed);
        let extractor = Extractor::new(&aws.config(), config, http, clock, redacted_metrics());
        Self { aws, scripted, extractor: Arc::new(extractor), began }
    }

    /// Invokes the function with these bytes, as Lambda does.
    pub(crate) async fn invoke(&self, payload: &[u8]) -> Outcome {
        let payload: Invocation = serde_json::from_slice(payload).map_err(|err| err.to_string())?;
        let deadline = now(self.began).as_millisecond().unsigned_abs();
        let mut context = Context::default();
        context.deadline = deadline + u64::try_from(TIME_LEFT.as_millis()).unwrap_or_default();
        let began = Instant::now();
        let answered = self.extractor.handle(LambdaEvent::new(payload, context)).await;
        assert!(began.elapsed() <= TIME_LEFT, "done by the deadline: {:?}", began.elapsed());
        let answer = answered.map_err(|err| format!("{err:?}"))?;
        serde_json::to_value(answer).map_err(|err| err.to_string())
    }

    /// Sends a batch of messages to the function, and returns the ids that stay in the queue.
    pub(crate) async fn batch(&self, messages: &[Value]) -> Vec<String> {
        let payload = json!({ "Records": messages }).to_string();
        let answer = self.invoke(payload.as_bytes()).await;
        let answer = answer.unwrap_or_else(|err| panic!("the batch failed: {err}"));
        let fields = answer.as_object().map(serde_json::Map::len);
        let kept = answer["batchItemFailures"].as_array().filter(|_| fields == Some(1));
        let kept = kept.unwrap_or_else(|| panic!("not a batch response: {answer}"));
        let name = |kept: &Value| kept["itemIdentifier"].as_str().map(str::to_owned);
        kept.iter()
            .map(|kept| name(kept).unwrap_or_else(|| panic!("not a batch response: {answer}")))
            .collect()
    }

    pub(crate) fn now(&self) -> Timestamp {
        now(self.began)
    }
}

/// A message as Lambda sends it, with any text for SQS's own attributes.
pub(crate) fn record(number: usize, body: &str, receives: &str, sent: &str, first: &str) -> Value {
    let record = SqsRecord::new(&format!("m-{number}"), body, EPOCH).attribute("type", "A");
    let mut record = record.to_json();
    record["attributes"] = json!({
        "ApproximateReceiveCount": receives,
        "SentTimestamp": sent,
        "ApproximateFirstReceiveTimestamp": first,
    });
    record
}

#[expect(clippy::expect_used, reason = "these settings are right")]
fn config(settings: Section<'_>, allowed: Allowed) -> Config {
    let settings = ExtractorSettings::default()
        .with("GLADLY_REQUESTS_PER_SECOND", "100")
        .with("DESTINATION_GZIP", settings.has("gzip").to_string())
        .with("FORWARD_CUSTOMER_CONTACT", allowed.contact.to_string())
        .with("FORWARD_NOTES", allowed.notes.to_string())
        .with("RENEW_HELD_EVENTS", (!settings.has("no-renewal")).to_string())
        .with("WEBHOOK_URL", WEBHOOK);
    Config::read(&Env::new(&|name: &str| settings.get(name))).expect("settings that can be read")
}
