//! Metrics in CloudWatch's embedded metric format: a line of JSON on standard output, at most one
//! an invocation and one for each status with which deliveries failed (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).

use std::{
    collections::BTreeMap,
    env,
    fmt::{self, Debug, Display, Formatter},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::log::request_id;

/// The format takes at most this many values of one metric in a line.
const VALUES_LIMIT: usize = 100;

/// Every metric the relay sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Webhooks made durable.
    Queued,
    /// Events about nothing that the relay forwards.
    Ignored,
    /// Messages put into quarantine.
    Quarantined,
    /// Webhooks without a right key.
    Unauthorized,
    /// Webhooks refused because the queue or the keys were out of reach.
    Unavailable,
    /// Webhooks with a right key, by the key's place in the parameter (dimension `Slot`).
    KeySlot,
    /// Events at the destination.
    Forwarded,
    /// Conversations at the destination.
    Snapshots,
    /// Events forwarded without a fetch, since an earlier snapshot covers them.
    Covered,
    /// Events forwarded whose conversation Gladly no longer has.
    Gone,
    /// Requests to Gladly.
    GladlyCalls,
    /// Requests that Gladly answered with 429.
    GladlyThrottled,
    /// Tombstones at the destination.
    Erased,
    /// Requests of deliveries that failed, retries included, in all and by how (dimension
    /// `Status`).
    DeliveryFailures,
    /// How long the destination took to accept a delivery.
    DeliveryMs,
    /// How late the latest event of a delivery is when the destination accepts it, or of a batch when
    /// it could not be delivered: milliseconds since the end of its settle window, which begins at its
    /// receipt or when it was last sent again, of events that came by webhook and that neither the pause
    /// nor the breaker may have held since.
    EventAgeMs,
    /// 1 while the pause parameter holds extraction.
    Paused,
    /// Events that wait to be forwarded.
    Backlog,
    /// Those of them that are delayed: in their settle window, all but a few.
    Delayed,
    /// The most that the oldest waiting event can be old, in the queue it is in.
    OldestEventAgeSeconds,
    /// The least that is left until a waiting event could expire.
    ExpiresInSeconds,
    /// How long forwarding all of them will take, about.
    DrainSeconds,
    /// Messages sent again so that they do not expire.
    Renewed,
    /// 1 while the circuit breaker holds extraction.
    BreakerOpen,
    /// 1 while Gladly's webhook is enabled and subscribed to everything.
    WebhookEnabled,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Queued,
        Self::Ignored,
        Self::Quarantined,
        Self::Unauthorized,
        Self::Unavailable,
        Self::KeySlot,
        Self::Forwarded,
        Self::Snapshots,
        Self::Covered,
        Self::Gone,
        Self::GladlyCalls,
        Self::GladlyThrottled,
        Self::Erased,
        Self::DeliveryFailures,
        Self::DeliveryMs,
        Self::EventAgeMs,
        Self::Paused,
        Self::Backlog,
        Self::Delayed,
        Self::OldestEventAgeSeconds,
        Self::ExpiresInSeconds,
        Self::DrainSeconds,
        Self::Renewed,
        Self::BreakerOpen,
        Self::WebhookEnabled,
    ];

    /// The metric's name in CloudWatch.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Ignored => "Ignored",
            Self::Quarantined => "Quarantined",
            Self::Unauthorized => "Unauthorized",
            Self::Unavailable => "Unavailable",
            Self::KeySlot => "KeySlot",
            Self::Forwarded => "Forwarded",
            Self::Snapshots => "Snapshots",
            Self::Covered => "Covered",
            Self::Gone => "Gone",
            Self::GladlyCalls => "GladlyCalls",
            Self::GladlyThrottled => "GladlyThrottled",
            Self::Erased => "Erased",
            Self::DeliveryFailures => "DeliveryFailures",
            Self::DeliveryMs => "DeliveryMs",
            Self::EventAgeMs => "EventAgeMs",
            Self::Paused => "Paused",
            Self::Backlog => "Backlog",
            Self::Delayed => "Delayed",
            Self::OldestEventAgeSeconds => "OldestEventAgeSeconds",
            Self::ExpiresInSeconds => "ExpiresInSeconds",
            Self::DrainSeconds => "DrainSeconds",
            Self::Renewed => "Renewed",
            Self::BreakerOpen => "BreakerOpen",
            Self::WebhookEnabled => "WebhookEnabled",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::DeliveryMs | Self::EventAgeMs => "Milliseconds",
            Self::OldestEventAgeSeconds | Self::ExpiresInSeconds | Self::DrainSeconds => "Seconds",
            _ => "Count",
        }
    }
}

/// How a request of a delivery failed: the values of the dimension `Status`, each of which is a
/// metric that is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureStatus {
    /// The destination answered with this status, which is none of 2xx.
    Code(u16),
    /// There was a connection, and no answer in time.
    Timeout,
    /// There was no connection, or it broke before an answer.
    Connect,
}

impl FailureStatus {
    /// An HTTP status. One that HTTP does not define counts as 500, which a client is to take it
    /// for (RFC 9110, section 15), so that a server cannot make up metrics.
    #[must_use]
    pub fn code(status: u16) -> Self {
        Self::Code(if (100..600).contains(&status) { status } else { 500 })
    }
}

impl Display for FailureStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(status) => Display::fmt(status, f),
            Self::Timeout => f.write_str("timeout"),
            Self::Connect => f.write_str("connect"),
        }
    }
}

/// What one invocation has to report.
#[derive(Debug, Default)]
pub struct Metrics {
    values: BTreeMap<Metric, Vec<u64>>,
    slot: Option<usize>,
    failures: BTreeMap<FailureStatus, u64>,
}

impl Metrics {
    /// Adds to a count. Nothing happened, nothing is reported.
    pub fn add(&mut self, metric: Metric, count: u64) {
        if count == 0 {
            return;
        }
        let values = self.values.entry(metric).or_default();
        match values.first_mut() {
            Some(value) => *value = value.saturating_add(count),
            None => values.push(count),
        }
    }

    /// Adds one measurement.
    pub fn record(&mut self, metric: Metric, value: u64) {
        let values = self.values.entry(metric).or_default();
        if values.len() < VALUES_LIMIT {
            values.push(value);
        }
    }

    /// Counts a webhook that came with the key in this place of the parameter, counted from 1.
    pub fn key_slot(&mut self, slot: usize) {
        self.add(Metric::KeySlot, 1);
        self.slot = Some(slot);
    }

    /// Counts a request of a delivery that failed.
    pub fn delivery_failed(&mut self, status: FailureStatus) {
        *self.failures.entry(status).or_default() += 1;
    }

    /// What a counter stands at.
    #[must_use]
    pub fn count(&self, metric: Metric) -> u64 {
        if metric == Metric::DeliveryFailures {
            return self.failures.values().sum();
        }
        self.values.get(&metric).map_or(0, |values| values.iter().sum())
    }

    /// A line has one value of a dimension, so each status has a line of its own.
    fn lines<'a>(&'a self, function: &'a str, now: Timestamp) -> impl Iterator<Item = Line<'a>> {
        let main = (!self.values.is_empty()).then(|| self.line(function, now));
        main.into_iter().chain(self.failures.iter().map(move |(status, count)| {
            let of = |dimensions| {
                Directive::new(dimensions, vec![Definition::of(Metric::DeliveryFailures)])
            };
            // An alarm can watch only the sum of all: it cannot search for the statuses there are.
            let directives = vec![of(&["FunctionName"][..]), of(&["FunctionName", "Status"])];
            Line {
                head: Head { timestamp: now.as_millisecond(), directives },
                function,
                request_id: request_id(),
                dimension: Some(("Status", status.to_string())),
                values: vec![(Metric::DeliveryFailures, std::slice::from_ref(count))],
            }
        }))
    }

    fn line<'a>(&'a self, function: &'a str, now: Timestamp) -> Line<'a> {
        let plain = self.values.keys().copied().filter(|metric| *metric != Metric::KeySlot);
        let plain: Vec<_> = plain.map(Definition::of).collect();
        let mut directives = Vec::with_capacity(2);
        if !plain.is_empty() {
            directives.push(Directive::new(&["FunctionName"], plain));
        }
        if self.slot.is_some() {
            let keyed = vec![Definition::of(Metric::KeySlot)];
            directives.push(Directive::new(&["FunctionName", "Slot"], keyed));
        }
        Line {
            head: Head { timestamp: now.as_millisecond(), directives },
            function,
            request_id: request_id(),
            dimension: self.slot.map(|slot| ("Slot", slot.to_string())),
            values: self.values.iter().map(|(metric, values)| (*metric, &values[..])).collect(),
        }
    }
}

/// Where a function writes its metrics, a line at a time.
#[derive(Clone)]
pub struct MetricsWriter {
    /// The dimension `FunctionName`.
    function: Arc<str>,
    write_line: Arc<dyn Fn(&str) + Send + Sync>,
}

impl MetricsWriter {
    /// Standard output, from which Lambda hands them to CloudWatch, in the name of the function that
    /// runs (`AWS_LAMBDA_FUNCTION_NAME`; `local` outside Lambda).
    #[must_use]
    pub fn stdout() -> Self {
        let function = env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| "local".into());
        #[expect(clippy::print_stdout, reason = "this is how CloudWatch takes metrics")]
        Self::new(&function, |line| println!("{line}"))
    }

    /// Another place, in the name of this function. It gets each line without its line break.
    #[must_use]
    pub fn new(function: &str, write_line: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { function: function.into(), write_line: Arc::new(write_line) }
    }

    /// Writes what there is to report, if anything.
    pub fn write(&self, metrics: &Metrics, now: Timestamp) {
        for line in metrics.lines(&self.function, now) {
            // In one piece: printed as it is serialized, each token would take the lock of standard output.
            (self.write_line)(&serde_json::to_string(&line).unwrap_or_default());
        }
    }
}

impl Debug for MetricsWriter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsWriter").field("function", &self.function).finish_non_exhaustive()
    }
}

/// A line of the format: the definitions, then dimensions and values under their names.
struct Line<'a> {
    head: Head,
    function: &'a str,
    /// Which invocation this is of: a property, as the format calls it, and no dimension.
    request_id: Option<String>,
    dimension: Option<(&'static str, String)>,
    values: Vec<(Metric, &'a [u64])>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Head {
    timestamp: i64,
    #[serde(rename = "CloudWatchMetrics")]
    directives: Vec<Directive>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: [&'static [&'static str]; 1],
    metrics: Vec<Definition>,
}

impl Directive {
    fn new(dimensions: &'static [&'static str], metrics: Vec<Definition>) -> Self {
        Self { namespace: "GladlyRelay", dimensions: [dimensions], metrics }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    name: &'static str,
    unit: &'static str,
}

impl Definition {
    fn of(metric: Metric) -> Self {
        Self { name: metric.name(), unit: metric.unit() }
    }
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("_aws", &self.head)?;
        line.serialize_entry("FunctionName", self.function)?;
        if let Some(request_id) = &self.request_id {
            line.serialize_entry("request_id", request_id)?;
        }
        if let Some((name, value)) = &self.dimension {
            line.serialize_entry(name, value)?;
        }
        for (metric, values) in &self.values {
            match values {
                [value] => line.serialize_entry(metric.name(), value)?,
                _ => line.serialize_entry(metric.name(), values)?,
            }
        }
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::{Value, json};
    use testing::golden::Golden;

    use super::*;
    use crate::{invocation_span, subscriber};

    fn lines(metrics: &Metrics) -> Vec<Value> {
        let lines = metrics.lines("f", Timestamp::UNIX_EPOCH);
        lines.map(|line| serde_json::to_value(line).unwrap()).collect()
    }

    fn line(metrics: &Metrics) -> Value {
        let lines = lines(metrics);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].clone()
    }

    #[test]
    fn whoever_watches_is_told_of_every_metric() {
        // A variant that is left out of the list leaves its place to the next one, or a hole.
        for (place, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric as usize, place, "{}", metric.name());
        }
    }

    #[test]
    fn a_line_is_in_the_embedded_metric_format() {
        let mut metrics = Metrics::default();
        metrics.add(Metric::Queued, 1);
        metrics.add(Metric::Queued, 2);
        metrics.key_slot(2);
        metrics.record(Metric::DeliveryMs, 7);
        metrics.record(Metric::DeliveryMs, 9);

        // CloudWatch reads fields by their names: their order may change.
        let golden = Golden::newest().unwrap().read("metrics.json").unwrap();
        let golden: Value = serde_json::from_str(&golden).unwrap();
        assert_eq!(line(&metrics), golden);
    }

    #[test]
    fn a_writer_gets_each_line_in_one_piece_and_nothing_where_there_is_nothing() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = MetricsWriter::new("f", {
            let written = Arc::clone(&written);
            move |line| written.lock().unwrap().push(serde_json::from_str::<Value>(line).unwrap())
        });
        writer.write(&Metrics::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(written.lock().unwrap().len(), 0);
        let mut metrics = Metrics::default();
        metrics.add(Metric::Forwarded, 2);
        metrics.delivery_failed(FailureStatus::Timeout);
        writer.write(&metrics, Timestamp::UNIX_EPOCH);
        assert_eq!(*written.lock().unwrap(), lines(&metrics));
    }

    #[test]
    fn a_line_within_an_invocation_names_it() {
        let mut metrics = Metrics::default();
        metrics.add(Metric::Queued, 1);
        assert!(line(&metrics).get("request_id").is_none());
        let listening = subscriber(tracing::level_filters::LevelFilter::ERROR, |_| ());
        tracing::subscriber::with_default(listening, || {
            let line = invocation_span("r-1").in_scope(|| line(&metrics));
            assert_eq!(line["request_id"], "r-1");
            assert!(!line["_aws"].to_string().contains("request_id"), "no dimension: {line}");
        });
    }

    #[test]
    fn a_key_alone_is_a_line_of_its_own() {
        let mut metrics = Metrics::default();
        metrics.key_slot(1);
        let line = line(&metrics);
        assert_eq!(line["_aws"]["CloudWatchMetrics"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_line_never_has_more_values_than_the_format_takes() {
        let mut metrics = Metrics::default();
        (0..500).for_each(|value| metrics.record(Metric::EventAgeMs, value));
        let line = line(&metrics);
        assert_eq!(line["EventAgeMs"].as_array().unwrap().len(), 100);
    }

    #[test]
    fn each_status_of_failed_deliveries_has_a_line_that_counts_in_the_sum_too() {
        let mut metrics = Metrics::default();
        let statuses = [
            FailureStatus::code(503),
            FailureStatus::Timeout,
            FailureStatus::code(503),
            FailureStatus::code(999),
            FailureStatus::code(0),
            FailureStatus::Connect,
        ];
        for status in statuses {
            metrics.delivery_failed(status);
        }
        assert_eq!(metrics.count(Metric::DeliveryFailures), 6);

        let lines = lines(&metrics);
        let counted: Vec<_> = lines
            .iter()
            .map(|line| {
                (line["Status"].as_str().unwrap(), line["DeliveryFailures"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(counted, [("500", 2), ("503", 2), ("timeout", 1), ("connect", 1)]);
        for line in &lines {
            let directives = line["_aws"]["CloudWatchMetrics"].as_array().unwrap();
            let dimensions: Vec<_> = directives.iter().map(|it| &it["Dimensions"]).collect();
            assert_eq!(
                dimensions,
                [&json!([["FunctionName"]]), &json!([["FunctionName", "Status"]])]
            );
            let named = &json!([{"Name": "DeliveryFailures", "Unit": "Count"}]);
            assert!(directives.iter().all(|it| &it["Metrics"] == named), "{line}");
        }
    }
}
