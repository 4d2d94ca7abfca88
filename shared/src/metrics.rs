//! Metrics in CloudWatch's embedded metric format: a line of JSON on standard output, at most one
//! an invocation (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).

use std::{collections::BTreeMap, env};

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
    /// Events about no conversation.
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
    /// How long the destination took to accept a delivery.
    DeliveryMs,
    /// Age of a delivery's oldest event, from its receipt to the destination's acceptance.
    EventAgeMs,
    /// 1 while the pause parameter holds extraction.
    Paused,
    /// Events that wait to be forwarded.
    Backlog,
    /// The most that the oldest waiting event can be old, in the queue it is in.
    OldestEventAgeSeconds,
    /// The least that is left until a waiting event could expire.
    ExpiresInSeconds,
    /// How long forwarding all of them will take, about.
    DrainSeconds,
    /// Messages sent anew so that they do not expire.
    Renewed,
    /// 1 while the circuit breaker holds extraction.
    BreakerOpen,
    /// 1 while Gladly's webhook is enabled and subscribed to everything.
    WebhookEnabled,
}

impl Metric {
    /// All of them, for whoever watches.
    pub const ALL: [Self; 22] = [
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
        Self::DeliveryMs,
        Self::EventAgeMs,
        Self::Paused,
        Self::Backlog,
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
            Self::DeliveryMs => "DeliveryMs",
            Self::EventAgeMs => "EventAgeMs",
            Self::Paused => "Paused",
            Self::Backlog => "Backlog",
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

/// What one invocation has to report.
#[derive(Debug, Default)]
pub struct Metrics {
    values: BTreeMap<Metric, Vec<u64>>,
    slot: Option<usize>,
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

    /// What a counter stands at.
    #[must_use]
    pub fn count(&self, metric: Metric) -> u64 {
        self.values.get(&metric).map_or(0, |values| values.iter().sum())
    }

    /// Writes the line, if there is anything to report.
    pub fn emit(&self, now: Timestamp) {
        if self.values.is_empty() {
            return;
        }
        let function = env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_else(|_| "local".into());
        // In one piece: printed as it is written, each word of it would go through the lock alone.
        let line = serde_json::to_string(&self.line(&function, now)).unwrap_or_default();
        #[expect(clippy::print_stdout, reason = "this is how CloudWatch takes metrics")]
        {
            println!("{line}");
        }
    }

    fn line<'a>(&'a self, function: &'a str, now: Timestamp) -> Line<'a> {
        let directive = |dimensions, metrics| Directive {
            namespace: "GladlyRelay",
            dimensions: [dimensions],
            metrics,
        };
        let plain = self.values.keys().copied().filter(|metric| *metric != Metric::KeySlot);
        let plain: Vec<_> = plain.map(Definition::of).collect();
        let mut directives = Vec::with_capacity(2);
        if !plain.is_empty() {
            directives.push(directive(&["FunctionName"][..], plain));
        }
        if self.slot.is_some() {
            let keyed = vec![Definition::of(Metric::KeySlot)];
            directives.push(directive(&["FunctionName", "Slot"], keyed));
        }
        let head = Head { timestamp: now.as_millisecond(), directives };
        Line { head, function, request_id: request_id(), metrics: self }
    }
}

/// A line of the format: the definitions, then dimensions and values under their names.
struct Line<'a> {
    head: Head,
    function: &'a str,
    /// Which invocation this is of: a property, as the format calls it, and no dimension.
    request_id: Option<String>,
    metrics: &'a Metrics,
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
        if let Some(slot) = self.metrics.slot {
            line.serialize_entry("Slot", &slot.to_string())?;
        }
        for (metric, values) in &self.metrics.values {
            match values[..] {
                [value] => line.serialize_entry(metric.name(), &value)?,
                _ => line.serialize_entry(metric.name(), values)?,
            }
        }
        line.end()
    }
}

#[cfg(test)]
mod tests {
    use local::golden::Golden;
    use serde_json::Value;

    use super::*;
    use crate::{invocation_span, subscriber};

    fn line(metrics: &Metrics) -> Value {
        serde_json::to_value(metrics.line("f", Timestamp::UNIX_EPOCH)).unwrap()
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
}
