//! Hangs, waits and the deadline. Gladly and the destination are in this process and tokio's clock
//! is paused, so the tests take no real time.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector},
    orchestrator::HttpRequest,
};
use extractor_fn::{Extractor, Http};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::{Clock, MetricsWriter};
use testing::{
    alarm::MetricLog,
    aws::{Aws, Fault, Service},
    connector::{FakeConnector, Reply},
    record::SqsRecord,
};
use tokio::time::{Duration, Instant, sleep};

use crate::{BatchResult, FIRST_BACKOFF, account, config, enable_log, record, settle};

/// A request, and when it was made.
struct Call {
    path: String,
    at: Instant,
    body: String,
}

/// Gladly and the destination, as a function from a path to a reply. A range request has its range after the path.
fn network(
    calls: Arc<Mutex<Vec<Call>>>,
    reply: impl Fn(&str) -> Reply + Send + Sync + 'static,
) -> FakeConnector {
    FakeConnector::new(move |request| {
        let path = request.uri().split('/').skip(3).collect::<Vec<_>>().join("/");
        let body = String::from_utf8_lossy(request.body().bytes().unwrap_or_default()).into();
        calls.lock().unwrap().push(Call { path: path.clone(), at: Instant::now(), body });
        let part = request.headers().get("range").map(|range| format!("{path} {range}"));
        reply(part.as_deref().unwrap_or(&path))
    })
}

/// An extractor and everything that it reaches, on one virtual clock.
#[derive(Clone)]
pub(crate) struct TestApp {
    pub(crate) aws: Aws,
    network: FakeConnector,
    calls: Arc<Mutex<Vec<Call>>>,
    pub(crate) extractor: Arc<Extractor>,
    pub(crate) clock: Clock,
    pub(crate) metrics: MetricLog,
    pub(crate) began: Instant,
}

impl TestApp {
    pub(crate) fn new(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(&[], reply)
    }

    fn at_rate(rate: &str, reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(&[("GLADLY_REQUESTS_PER_SECOND", rate)], reply)
    }

    /// With these settings changed.
    pub(crate) fn with(
        settings: &[(&str, &str)],
        reply: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::at(Timestamp::now(), settings, reply)
    }

    /// The same, starting at another time.
    pub(crate) fn at(
        start: Timestamp,
        settings: &[(&str, &str)],
        reply: impl Fn(&str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        enable_log();
        let began = Instant::now();
        let now = move || start + SignedDuration::try_from(began.elapsed()).unwrap();
        let (aws, calls) = (account(Aws::new(now)), Arc::default());
        if settings.iter().any(|(_, value)| value.starts_with("s3://")) {
            aws.assume_with_a_bucket("ExtractorRole");
        }
        let network = network(Arc::clone(&calls), reply);
        let clock = Clock::new(now);
        let metrics = MetricLog::default();
        let extractor = environment(&aws, &network, &clock, &metrics, settings);
        Self { aws, network, calls, extractor, clock, metrics, began }
    }

    /// The same app with another environment of the function.
    pub(crate) fn another(&self, settings: &[(&str, &str)]) -> Self {
        let extractor = environment(&self.aws, &self.network, &self.clock, &self.metrics, settings);
        Self { extractor, ..self.clone() }
    }

    /// The connector of its environments.
    pub(crate) fn connector(&self) -> SharedHttpConnector {
        SharedHttpConnector::new(AppConnector(self.aws.clone(), self.network.clone()))
    }

    async fn batch(&self, records: &[SqsRecord], left: Duration) -> BatchResult {
        let settled = settle(&self.extractor, &self.aws, records, left).await;
        assert!(
            self.began.elapsed() <= left,
            "done by the deadline, at {:?}",
            self.began.elapsed()
        );
        settled
    }

    pub(crate) fn times(&self, part: &str) -> Vec<Instant> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.path.contains(part)).map(|call| call.at).collect()
    }

    /// The bodies that were sent to a path.
    pub(crate) fn sent(&self, path: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.path == path).map(|call| call.body.clone()).collect()
    }
}

/// The way to AWS, which Gladly and a destination at a URL are not part of.
#[derive(Debug, Clone)]
struct AppConnector(Aws, FakeConnector);

impl HttpConnector for AppConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self(aws, network) = self;
        if Service::of(&request).is_some() { aws.call(request) } else { network.call(request) }
    }
}

fn environment(
    aws: &Aws,
    network: &FakeConnector,
    clock: &Clock,
    metrics: &MetricLog,
    settings: &[(&str, &str)],
) -> Arc<Extractor> {
    let http = Http::over(SharedHttpConnector::new(AppConnector(aws.clone(), network.clone())));
    let metrics = metrics.clone();
    // The function's name in the template.
    let metrics = MetricsWriter::new("ExtractorFunction", move |line| metrics.push(line));
    Arc::new(Extractor::new(&aws.config(), config(settings), http, clock.clone(), metrics))
}

pub(crate) const LEFT: Duration = Duration::from_mins(5);

/// The reply of a healthy Gladly and destination.
pub(crate) fn healthy_reply(path: &str) -> Reply {
    Reply::json(match path {
        path if path.ends_with("/items") => json!([]),
        path if path.contains("/conversations/") => json!({"customerId": "u"}),
        path if path.contains("/customer-profiles/") => json!({"id": "u"}),
        _ => json!([]),
    })
}

/// One event for each of `count` conversations, without a time, so that no snapshot covers it.
pub(crate) fn records(count: usize) -> Vec<SqsRecord> {
    let event = |n: usize| json!({"id": format!("e-{n}"), "type": "A", "content": {"conversationId": format!("c-{n}")}});
    (0..count).map(|n| record(n, &event(n))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_hanging_gladly_delays_its_conversation_by_ten_seconds() {
    let app =
        TestApp::new(|path| if path.contains("c-0") { Reply::Hang } else { healthy_reply(path) });
    app.batch(&records(3), LEFT).await.assert_returned(&["m-0"], FIRST_BACKOFF);
    assert!(app.began.elapsed() <= Duration::from_secs(11), "{:?}", app.began.elapsed());
    assert_eq!(app.times("conversations/c-0").len(), 6, "conversation and items, three tries each");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_destination_delays_a_delivery_by_half_a_minute() {
    let app =
        TestApp::new(|path| if path == "deliveries" { Reply::Hang } else { healthy_reply(path) });
    app.batch(&records(2), LEFT).await.assert_returned(&["m-0", "m-1"], FIRST_BACKOFF);
    assert!(app.began.elapsed() <= Duration::from_secs(35), "{:?}", app.began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_does_not_change_what_its_status_means() {
    for status in [200, 202] {
        let app = TestApp::new(move |path| match path {
            "deliveries" => Reply::endless(status),
            path => healthy_reply(path),
        });
        app.batch(&records(1), LEFT).await.is_done();
        assert_eq!(app.times("deliveries").len(), 1);
        assert!(app.began.elapsed() < Duration::from_secs(2), "{:?}", app.began.elapsed());
    }

    let app = TestApp::new(|path| match path {
        "deliveries" => Reply::endless(400),
        path => healthy_reply(path),
    });
    app.batch(&records(1), LEFT).await.is_done();
    assert_eq!(app.times("deliveries").len(), 1, "rejected immediately");

    // The same for Gladly's 404; a body that is used must still be complete.
    let app = TestApp::new(|path| match path {
        path if path.contains("customer-profiles") => Reply::endless(404),
        path => healthy_reply(path),
    });
    app.batch(&records(1), LEFT).await.is_done();
    assert_eq!(app.times("customer-profiles").len(), 1);
    let app = TestApp::new(|path| match path {
        path if path.ends_with("/items") => Reply::endless(200),
        path => healthy_reply(path),
    });
    app.batch(&records(1), LEFT).await.assert_returned(&["m-0"], FIRST_BACKOFF);
    assert_eq!(app.times("items").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn records_without_time_before_the_deadline_return_immediately() {
    for seconds in [1, 3, 20, 60, 300] {
        let left = Duration::from_secs(seconds);
        let app = TestApp::new(move |path| match path {
            "deliveries" => healthy_reply(path),
            _ => healthy_reply(path).after(Duration::from_secs(5).min(left / 12)),
        });
        let settled = app.batch(&records(400), left).await;
        assert!(
            (1..400).contains(&settled.kept.len()),
            "{seconds} s: expected some of them, got {}",
            settled.kept.len()
        );
        let begun = settled.visibility.values().filter(|wait| **wait > 0);
        assert!(begun.count() <= 8, "started but not finished: {settled:?}");
        assert_eq!(settled.visibility.len(), settled.kept.len());
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_met_even_if_everything_hangs() {
    let app = TestApp::new(|_| Reply::Hang);
    app.aws.state().sqs_fault = Some(Fault::Hang);
    let settled = app.batch(&records(50), Duration::from_mins(1)).await;
    assert_eq!(settled.kept.len(), 50);

    let app = TestApp::new(|_| Reply::Hang);
    app.aws.state().ssm_fault = Some(Fault::Hang);
    let settled = app.batch(&records(50), Duration::from_mins(1)).await;
    assert_eq!(settled.visibility.len(), 50);
    assert!(settled.visibility.values().all(|wait| FIRST_BACKOFF.contains(wait)));
}

#[tokio::test(start_paused = true)]
async fn the_rate_limit_is_used_and_never_exceeded() {
    let app = TestApp::at_rate("4", healthy_reply);
    app.batch(&records(100), LEFT).await.is_done();
    let times = app.times("api/v1");
    assert!(
        (201..=202).contains(&times.len()),
        "two a conversation and one for the customer: {}",
        times.len()
    );
    for start in &times {
        let second = *start..*start + Duration::from_secs(1);
        assert!(times.iter().filter(|at| second.contains(at)).count() <= 4);
    }
    let took = times[times.len() - 1] - times[0];
    let calls = u32::try_from(times.len() - 1).unwrap();
    assert!(took >= Duration::from_secs(1) * calls / 4, "at most 4 a second: {took:?}");
    assert!(took <= Duration::from_secs(1) * calls * 10 / 38, "at least 3.8: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_429_pauses_all_calls_for_its_retry_after() {
    let hits = Mutex::new(0);
    let app = TestApp::new(move |path| {
        let mut hits = hits.lock().unwrap();
        *hits += usize::from(path.contains("api/v1"));
        if *hits == 5 { Reply::status(429).header("retry-after", "3") } else { healthy_reply(path) }
    });
    app.batch(&records(40), LEFT).await.is_done();
    let times = app.times("api/v1");
    let quiet = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(quiet >= Duration::from_millis(2_900), "{quiet:?}");
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_stops_all_calls_of_the_batch() {
    let app = TestApp::new(|path| {
        if path.contains("api/v1") {
            Reply::status(429).header("retry-after", "600")
        } else {
            healthy_reply(path)
        }
    });
    let settled = app.batch(&records(100), LEFT).await;
    assert_eq!(settled.kept.len(), 100);
    assert!(settled.visibility.values().all(|wait| (590..=600).contains(wait)), "{settled:?}");
    assert!(app.times("api/v1").len() <= 2, "{}", app.times("api/v1").len());
    assert!(app.began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn records_beyond_the_rate_limit_return_later_and_count_as_no_failure() {
    let app = TestApp::at_rate("0.05", healthy_reply);
    for round in 0..10 {
        let records: Vec<_> = records(3).into_iter().map(|record| record.received(10)).collect();
        let settled = settle(&app.extractor, &app.aws, &records, LEFT).await;
        assert_eq!(settled.kept.len(), 3, "a call in 20.6 s, of the two that each needs");
        assert!(
            settled.visibility.values().all(|wait| (11..=21).contains(wait)),
            "{round}: {settled:?}"
        );
        sleep(Duration::from_secs(30)).await;
    }
    assert!(!app.aws.state().parameters.contains_key("/relay/pause-breaker"));
}

#[tokio::test(start_paused = true)]
async fn a_pause_in_mid_batch_stops_calls_and_deliveries_within_ten_seconds() {
    let app = TestApp::at_rate("4", healthy_reply);
    let aws = app.aws.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(15)).await;
        aws.put("/relay/pause", "paused");
    });
    let settled = app.batch(&records(200), LEFT).await;
    let flip = app.began + Duration::from_secs(15);
    let last = *app.times("").last().unwrap();
    assert!(
        last > flip - Duration::from_secs(1) && last - flip <= Duration::from_secs(10),
        "{:?}",
        last - flip
    );
    assert_eq!(app.times("deliveries").len(), 0, "nothing was ready before");
    assert_eq!(settled.kept.len(), 200);
    assert!(settled.visibility.values().all(|wait| FIRST_BACKOFF.contains(wait)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_stops_the_retries_of_a_delivery() {
    let app = TestApp::new(|path| {
        if path == "deliveries" {
            Reply::status(503).header("retry-after", "8")
        } else {
            healthy_reply(path)
        }
    });
    let aws = app.aws.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        aws.put("/relay/pause", "paused");
    });
    let settled = app.batch(&records(1), LEFT).await;
    settled.assert_returned(&["m-0"], FIRST_BACKOFF);
    assert_eq!(app.times("deliveries").len(), 2, "at 0 s and at 8 s, not at 16 s");
}

#[tokio::test(start_paused = true)]
async fn a_panic_affects_only_its_conversation() {
    let app = TestApp::new(|path| {
        if path.contains("c-1/items") { panic!("a bug") } else { healthy_reply(path) }
    });
    app.batch(&records(5), LEFT).await.assert_returned(&["m-1"], FIRST_BACKOFF);

    let app =
        TestApp::new(
            |path| if path == "deliveries" { panic!("a bug") } else { healthy_reply(path) },
        );
    app.batch(&records(2), LEFT).await.assert_returned(&["m-0", "m-1"], FIRST_BACKOFF);
}

#[tokio::test(start_paused = true)]
async fn names_are_cached_for_an_hour_and_customers_for_ten_minutes() {
    let app = TestApp::new(|path| match path {
        path if path.ends_with("/items") => Reply::json(json!([])),
        path if path.contains("/conversations/") => {
            Reply::json(json!({"customerId": "u", "inboxId": "i", "agentId": ""}))
        }
        path => healthy_reply(path),
    });
    let counts = async |wait: u64| {
        sleep(Duration::from_mins(wait)).await;
        settle(&app.extractor, &app.aws, &records(1), LEFT).await.is_done();
        (
            app.times("inboxes").len(),
            app.times("customer-profiles").len(),
            app.times("agents").len(),
        )
    };
    assert_eq!(counts(0).await, (1, 1, 0));
    assert_eq!(counts(9).await, (1, 1, 0));
    assert_eq!(counts(2).await, (1, 2, 0));
    assert_eq!(counts(50).await, (2, 3, 0), "an hour");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_is_used_immediately() {
    let (account, calls) = (Arc::new(OnceLock::<Aws>::new()), AtomicUsize::new(0));
    let app = TestApp::new({
        let account = Arc::clone(&account);
        move |path| {
            // The token is replaced during the first call, which still carries the old one.
            if path.contains("api/v1") && calls.fetch_add(1, Ordering::Relaxed) == 0 {
                account.get().unwrap().put("/relay/gladly-token", "another-token");
                return Reply::status(401);
            }
            healthy_reply(path)
        }
    });
    account.set(app.aws.clone()).unwrap();
    app.batch(&records(1), LEFT).await.is_done();
}
