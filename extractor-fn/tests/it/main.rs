//! The extractor between SQS batches on one side and the Gladly simulator and a destination on the
//! other, over loopback; SQS and SSM are in this process. The tests of timing are in `deadlines`;
//! everything they use is in this process.

#![expect(clippy::unwrap_used, reason = "all of this crate is a test")]

mod alarm;
mod backfill;
mod batch;
mod breaker;
mod bucket;
mod control;
mod deadlines;
mod deliver;
mod erasure;
mod fetch;
mod log;
mod long;
mod malformed;
mod names;
mod pause;
mod permission;
mod quarantine;
mod redaction;
mod renewal;
mod sharing;
mod tls;
mod upgrade;

use std::{
    borrow::Borrow,
    collections::BTreeMap,
    sync::{Arc, Once},
    time::Duration,
};

use extractor_fn::{Config, Extractor, Http, InvocationError, Response};
use jiff::{SignedDuration, Timestamp};
use lambda_runtime::{Context, LambdaEvent};
use serde_json::{Value, json};
use shared::{
    Clock, Env, MetricsWriter, Origin, QueueMessage, https_connector_trusting, subscriber,
};
use testing::{
    aws::{Aws, Message},
    destination::{self, Destination},
    gladly::{self, Gladly},
    record::SqsRecord,
    settings::{
        DESTINATION_TOKEN_PARAMETER, ExtractorSettings, GLADLY_TOKEN_PARAMETER, PAUSE_PARAMETER,
    },
    tls::Tls,
};
use tracing::{level_filters::LevelFilter, subscriber::set_global_default};

const GLADLY_TOKEN: &str = "gladly-token";
const DESTINATION_TOKEN: &str = "destination-token";
const TIME_LEFT: Duration = Duration::from_mins(5);

/// An extractor with everything it reaches.
struct TestApp {
    aws: Aws,
    gladly: Gladly,
    destination: Destination,
    extractor: Arc<Extractor>,
}

/// The outcome of a batch.
#[derive(Debug)]
struct BatchResult {
    /// Ids of the records that stay in the queue.
    kept: Vec<String>,
    /// Seconds until each of them comes back.
    visibility: BTreeMap<String, i64>,
}

impl TestApp {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With these settings changed.
    fn with(settings: &[(&str, &str)]) -> Self {
        enable_log();
        Self::connected(settings, None, None)
    }

    /// The same, with Gladly and the destination optionally over TLS.
    fn connected(
        settings: &[(&str, &str)],
        gladly_tls: Option<Tls>,
        destination_tls: Option<Tls>,
    ) -> Self {
        let roots = [&gladly_tls, &destination_tls].into_iter().flatten().map(Tls::root);
        let connector = https_connector_trusting(roots).unwrap();
        let gladly = gladly::Options {
            requests_per_second: None,
            tls: gladly_tls,
            ..gladly::Options::default()
        };
        let gladly = Gladly::start(gladly).unwrap();
        let (name, value) =
            match settings.iter().find(|(name, _)| *name == "DESTINATION_TOKEN_HEADER") {
                Some((_, header)) => ((*header).to_owned(), DESTINATION_TOKEN.to_owned()),
                None => ("authorization".to_owned(), format!("Bearer {DESTINATION_TOKEN}")),
            };
        let destination = destination::Options {
            token: (name, value),
            tls: destination_tls,
            ..Default::default()
        };
        let destination = Destination::start(destination).unwrap();
        let aws = account(Aws::default());
        let urls = [("GLADLY_HOST", gladly.url()), ("DESTINATION_URL", destination.url())];
        let settings: Vec<_> = urls.into_iter().chain(settings.iter().copied()).collect();
        let extractor = Extractor::new(
            &aws.config(),
            config(&settings),
            Http::over(connector),
            Clock::system(),
            MetricsWriter::new("extractor-fn", |_| {}),
        );
        Self { aws, gladly, destination, extractor: Arc::new(extractor) }
    }

    /// A conversation of customer `u` with one message, and an event about it.
    fn conversation(&self, id: &str) -> Value {
        let mut app = self.gladly.organization();
        app.add_conversation(id, "u", [json!({"type": "SMS", "from": "+15555550100", "to": "+1", "content": format!("Hello from {id}")})]);
        app.event("CONVERSATION/CLOSED", id)
    }

    /// Sends a batch to the extractor as Lambda does.
    async fn batch(&self, records: &[SqsRecord]) -> BatchResult {
        settle(&self.extractor, &self.aws, records, TIME_LEFT).await
    }

    /// Sends events to the extractor as first receives. Record ids are `m-0`, `m-1`…
    async fn extract(&self, events: impl IntoIterator<Item: Borrow<Value>>) -> BatchResult {
        let records = events.into_iter().enumerate();
        let records: Vec<_> = records.map(|(index, event)| record(index, event.borrow())).collect();
        self.batch(&records).await
    }

    fn calls(&self, pattern: &str) -> usize {
        self.gladly.traffic().count(pattern)
    }

    fn quarantined(&self) -> Vec<(Message, Value)> {
        let messages = self.aws.state().messages.clone();
        assert!(messages.iter().all(|message| message.queue == "quarantine"));
        messages
            .into_iter()
            .map(|message| (message.clone(), serde_json::from_str(&message.body).unwrap()))
            .collect()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(
                self.destination.invalid(),
                Vec::<String>::new(),
                "every delivery fits the schema"
            );
        }
    }
}

/// An account with valid parameters and the permissions of the template.
fn account(aws: Aws) -> Aws {
    aws.assume("ExtractorRole");
    aws.put(PAUSE_PARAMETER, "running");
    aws.put_secret(GLADLY_TOKEN_PARAMETER, GLADLY_TOKEN);
    aws.put_secret(DESTINATION_TOKEN_PARAMETER, DESTINATION_TOKEN);
    aws
}

fn config(settings: &[(&str, &str)]) -> Config {
    let settings =
        ExtractorSettings::default().with("GLADLY_REQUESTS_PER_SECOND", "1000").with_all(settings);
    Config::read(&Env::new(&|name: &str| settings.get(name))).unwrap()
}

/// The record of an event received now.
fn record(index: usize, event: &Value) -> SqsRecord {
    let event = event.to_string();
    let message = QueueMessage::wrap(&event, Timestamp::now(), Origin::Webhook).unwrap();
    raw_record(index, &message.to_json().unwrap())
}

fn raw_record(index: usize, body: &str) -> SqsRecord {
    SqsRecord::new(&format!("m-{index}"), body, Timestamp::now()).attribute("type", "A")
}

/// Invokes the function with records, as Lambda does.
async fn invoke_batch(
    extractor: &Arc<Extractor>,
    aws: &Aws,
    records: Vec<Value>,
    left: Duration,
) -> Result<Response, InvocationError> {
    let payload = serde_json::from_value(json!({"Records": records})).unwrap();
    let mut context = Context::default();
    let deadline = aws.timestamp() + SignedDuration::try_from(left).unwrap();
    context.deadline = deadline.as_millisecond().try_into().unwrap();
    extractor.handle(LambdaEvent::new(payload, context)).await
}

async fn settle(
    extractor: &Arc<Extractor>,
    aws: &Aws,
    records: &[SqsRecord],
    left: Duration,
) -> BatchResult {
    aws.state().visibility.clear();
    let messages = records.iter().map(SqsRecord::to_json);
    // By the names that Lambda reads.
    let response = invoke_batch(extractor, aws, messages.collect(), left).await.unwrap();
    let response = serde_json::to_value(response).unwrap();
    let kept = response["batchItemFailures"].as_array().unwrap();
    let kept = kept.iter().map(|kept| kept["itemIdentifier"].as_str().unwrap().to_owned());
    let visibility = std::mem::take(&mut aws.state().visibility).into_iter();
    let visibility = visibility.map(|(receipt, seconds)| {
        (receipt.strip_prefix("receipt of ").unwrap().to_owned(), seconds)
    });
    BatchResult { kept: kept.collect(), visibility: visibility.collect() }
}

impl BatchResult {
    /// Nothing stays in the queue.
    #[track_caller]
    fn is_done(&self) {
        assert_eq!((self.kept.len(), self.visibility.len()), (0, 0), "{self:?}");
    }

    /// These records stay in the queue, each with a visibility timeout within `seconds`.
    #[track_caller]
    fn assert_returned(&self, ids: &[&str], seconds: std::ops::RangeInclusive<i64>) {
        assert_eq!(self.kept, ids);
        assert_eq!(
            self.visibility.keys().collect::<Vec<_>>(),
            ids,
            "each has a visibility timeout"
        );
        assert!(self.visibility.values().all(|wait| seconds.contains(wait)), "{self:?}");
    }
}

/// The back-off after a first failure: 30 s ± 20 %.
const FIRST_BACKOFF: std::ops::RangeInclusive<i64> = 24..=36;

/// Discards everything that the functions log. tracing caches for each call site whether it is enabled:
/// without this, a test that logs first could decide it for one that reads the log.
pub(crate) fn enable_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A child process may have a subscriber already.
        let _ = set_global_default(subscriber(LevelFilter::INFO, |_: &[u8]| {}));
    });
}
