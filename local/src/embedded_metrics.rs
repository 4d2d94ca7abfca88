//! Turns log lines in CloudWatch's embedded metric format into metrics, as AWS does and MiniStack does not
//! (<https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>).

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::stack::{Function, NewLines, Stack, StackError};

/// How often the logs are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// `PutMetricData` takes at most this many data.
const DATA_LIMIT: usize = 1_000;

/// The values of one metric in one line, with one set of dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Datum {
    /// The metric's namespace.
    pub namespace: String,
    /// The metric's name.
    pub metric: String,
    /// The names and values of its dimensions, in the line's order.
    pub dimensions: Vec<(String, String)>,
    /// Milliseconds since 1970.
    pub timestamp_ms: u64,
    /// The unit; `None` is a unit too.
    pub unit: String,
    /// At least one.
    pub values: Vec<f64>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "_aws")]
    head: Head,
    /// The values of metrics and dimensions by their names.
    #[serde(flatten)]
    members: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Head {
    timestamp: u64,
    #[serde(rename = "CloudWatchMetrics")]
    directives: Vec<Directive>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: String,
    dimensions: Vec<Vec<String>>,
    metrics: Vec<Definition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Definition {
    name: String,
    #[serde(default = "no_unit")]
    unit: String,
}

fn no_unit() -> String {
    "None".to_owned()
}

/// The metrics of a log line: none unless it is in the format. A metric without a value, and a set of dimensions of
/// which one has no value, are left out.
#[must_use]
pub fn parse(line: &str) -> Vec<Datum> {
    let Ok(Line { head, members }) = serde_json::from_str::<Line>(line) else { return Vec::new() };
    let mut data = Vec::new();
    for directive in &head.directives {
        for names in &directive.dimensions {
            let dimensions = names
                .iter()
                .map(|name| Some((name.clone(), members.get(name)?.as_str()?.to_owned())));
            let Some(dimensions) = dimensions.collect::<Option<Vec<_>>>() else { continue };
            for metric in &directive.metrics {
                let Some(values) = values(members.get(&metric.name)) else { continue };
                data.push(Datum {
                    namespace: directive.namespace.clone(),
                    metric: metric.name.clone(),
                    dimensions: dimensions.clone(),
                    timestamp_ms: head.timestamp,
                    unit: metric.unit.clone(),
                    values,
                });
            }
        }
    }
    data
}

/// A number, or a list of numbers that is not empty.
fn values(value: Option<&Value>) -> Option<Vec<f64>> {
    let values = match value? {
        Value::Array(values) => values.iter().map(Value::as_f64).collect::<Option<Vec<_>>>()?,
        value => vec![value.as_f64()?],
    };
    (!values.is_empty()).then_some(values)
}

impl Datum {
    /// As `PutMetricData` takes it.
    fn request(&self) -> Value {
        let dimensions: Vec<_> = self
            .dimensions
            .iter()
            .map(|(name, value)| json!({"Name": name, "Value": value}))
            .collect();
        let timestamp = Duration::from_millis(self.timestamp_ms).as_secs_f64();
        json!({
            "MetricName": self.metric,
            "Dimensions": dimensions,
            "Timestamp": timestamp,
            "Unit": self.unit,
            "Values": self.values,
        })
    }
}

/// Publishes the metrics in the logs of a stack's functions, each line once.
///
/// Whenever metrics arrive, MiniStack evaluates every alarm, without regard to dimensions, missing data or the number of
/// data points: an alarm's state on the emulated AWS is only roughly that of AWS.
#[derive(Debug)]
pub struct MetricsPublisher<'a> {
    stack: &'a Stack<'a>,
    logs: [NewLines; 2],
    /// Read and not yet published, by namespace.
    pending: BTreeMap<String, Vec<Value>>,
}

impl<'a> MetricsPublisher<'a> {
    /// For everything that the stack's functions have logged and will log.
    #[must_use]
    pub fn new(stack: &'a Stack<'a>) -> Self {
        let logs = [Function::Ingest, Function::Extractor].map(NewLines::of);
        Self { stack, logs, pending: BTreeMap::new() }
    }

    /// Publishes what the functions have logged since the last call.
    pub async fn publish(&mut self) -> Result<(), StackError> {
        for log in &mut self.logs {
            for datum in log.read(self.stack).await?.iter().flat_map(|line| parse(line)) {
                let request = datum.request();
                self.pending.entry(datum.namespace).or_default().push(request);
            }
        }
        let emulator = self.stack.aws().emulator();
        for (namespace, data) in &mut self.pending {
            while !data.is_empty() {
                let count = data.len().min(DATA_LIMIT);
                let request = json!({"Namespace": namespace, "MetricData": data[..count]});
                emulator.cloudwatch("PutMetricData", request).await?;
                data.drain(..count);
            }
        }
        Ok(())
    }

    /// Publishes for as long as it is polled. What cannot be published is published later.
    pub async fn run(mut self) -> Infallible {
        loop {
            // The next call publishes what this one could not.
            let _ = self.publish().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use jiff::Timestamp;
    use shared::{FailureStatus, Metric, Metrics, MetricsWriter};
    use testing::golden::Golden;

    use super::*;

    /// What the functions write for these metrics, at second 7.
    fn written(metrics: &Metrics) -> Vec<String> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = MetricsWriter::new("f", {
            let lines = Arc::clone(&lines);
            move |line| lines.lock().unwrap().push(line.to_owned())
        });
        writer.write(metrics, Timestamp::from_second(7).unwrap());
        lines.lock().unwrap().clone()
    }

    fn datum(metric: &str, dimensions: &[(&str, &str)], unit: &str, values: &[f64]) -> Datum {
        let dimensions = dimensions.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Datum {
            namespace: "GladlyRelay".into(),
            metric: metric.into(),
            dimensions: dimensions.collect(),
            timestamp_ms: 7_000,
            unit: unit.into(),
            values: values.to_vec(),
        }
    }

    #[test]
    fn each_metric_has_its_dimensions_unit_and_values() {
        let mut metrics = Metrics::default();
        metrics.add(Metric::Queued, 3);
        metrics.key_slot(2);
        metrics.record(Metric::DeliveryMs, 7);
        metrics.record(Metric::DeliveryMs, 9);
        let data: Vec<_> = written(&metrics).iter().flat_map(|line| parse(line)).collect();
        let function = ("FunctionName", "f");
        assert_eq!(
            data,
            [
                datum("Queued", &[function], "Count", &[3.0]),
                datum("DeliveryMs", &[function], "Milliseconds", &[7.0, 9.0]),
                datum("KeySlot", &[function, ("Slot", "2")], "Count", &[1.0]),
            ]
        );
    }

    #[test]
    fn a_metric_is_published_for_each_set_of_dimensions() {
        let mut metrics = Metrics::default();
        metrics.delivery_failed(FailureStatus::code(503));
        metrics.delivery_failed(FailureStatus::Timeout);
        let data: Vec<_> = written(&metrics).iter().flat_map(|line| parse(line)).collect();
        let function = ("FunctionName", "f");
        let failures = |dimensions: &[_]| datum("DeliveryFailures", dimensions, "Count", &[1.0]);
        assert_eq!(
            data,
            [
                failures(&[function]),
                failures(&[function, ("Status", "503")]),
                failures(&[function]),
                failures(&[function, ("Status", "timeout")]),
            ]
        );
    }

    #[test]
    fn a_line_of_every_released_version_has_metrics() {
        for golden in Golden::all().unwrap() {
            let line = golden.read("metrics.json").unwrap();
            assert!(!parse(&line).is_empty(), "{}: {line}", golden.version);
        }
    }

    #[test]
    fn what_is_not_in_the_format_has_no_metrics() {
        let head = json!({"Timestamp": 7_000, "CloudWatchMetrics": [{
            "Namespace": "GladlyRelay",
            "Dimensions": [["FunctionName"]],
            "Metrics": [{"Name": "Queued"}],
        }]});
        let valid = json!({"_aws": head, "FunctionName": "f", "Queued": 1}).to_string();
        assert_eq!(parse(&valid), [datum("Queued", &[("FunctionName", "f")], "None", &[1.0])]);
        for line in [
            "START RequestId: r".to_owned(),
            json!({"level": "INFO", "message": "batch done"}).to_string(),
            json!({"_aws": {"Timestamp": 7_000}, "FunctionName": "f", "Queued": 1}).to_string(),
            json!({"_aws": head, "Queued": 1}).to_string(),
            json!({"_aws": head, "FunctionName": "f"}).to_string(),
            json!({"_aws": head, "FunctionName": "f", "Queued": "1"}).to_string(),
            json!({"_aws": head, "FunctionName": "f", "Queued": []}).to_string(),
        ] {
            assert_eq!(parse(&line), [], "{line}");
        }
    }

    #[test]
    fn a_datum_is_sent_with_the_time_of_its_line() {
        let request = datum("KeySlot", &[("Slot", "1")], "Count", &[2.0]).request();
        assert_eq!(
            request,
            json!({
                "MetricName": "KeySlot",
                "Dimensions": [{"Name": "Slot", "Value": "1"}],
                "Timestamp": 7.0,
                "Unit": "Count",
                "Values": [2.0],
            })
        );
    }
}
