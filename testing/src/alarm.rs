//! The template's alarms, evaluated as CloudWatch evaluates them, over the metrics that the code writes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "for tests")]

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::template;

/// An alarm of the template, deployed with the parameters' defaults.
#[derive(Debug)]
pub struct Alarm {
    namespace: String,
    metric: String,
    /// Name and value, the latter as the template calls the resource.
    dimension: (String, String),
    statistic: String,
    period: SignedDuration,
    periods: usize,
    datapoints: usize,
    below: bool,
    threshold: f64,
    missing: String,
}

impl Alarm {
    /// One of the template's alarms.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let template = template::read();
        let alarm = &template["Resources"][name];
        assert_eq!(alarm["Type"], "AWS::CloudWatch::Alarm", "{name}");
        let alarm = &alarm["Properties"];
        let text = |value: &Value| resolved(&template, value).as_str().unwrap().to_owned();
        let number = |value: &Value| match resolved(&template, value) {
            Value::String(text) => text.parse().unwrap(),
            value => value.as_i64().unwrap(),
        };
        let [dimension] = &alarm["Dimensions"].as_array().unwrap()[..] else {
            panic!("{name} has not one dimension")
        };
        let count = |value: &Value| usize::try_from(number(value)).unwrap();
        Self {
            namespace: text(&alarm["Namespace"]),
            metric: text(&alarm["MetricName"]),
            dimension: (text(&dimension["Name"]), text(&dimension["Value"])),
            statistic: text(&alarm["Statistic"]),
            period: SignedDuration::from_secs(number(&alarm["Period"])),
            periods: count(&alarm["EvaluationPeriods"]),
            datapoints: count(&alarm["DatapointsToAlarm"]),
            below: match &*text(&alarm["ComparisonOperator"]) {
                "LessThanThreshold" => true,
                "GreaterThanOrEqualToThreshold" => false,
                other => panic!("{name} compares by {other}"),
            },
            threshold: f64::from(u32::try_from(number(&alarm["Threshold"])).unwrap()),
            missing: text(&alarm["TreatMissingData"]),
        }
    }

    /// Whether these lines raise it at a time, if it was not raised before.
    #[must_use]
    pub fn is_raised_by(&self, lines: &[Value], at: Timestamp) -> bool {
        self.is_raised(&self.values(lines), at, false)
    }

    /// What was sent of its metric.
    fn values(&self, lines: &[Value]) -> Vec<(Timestamp, f64)> {
        let (name, value) = &self.dimension;
        values(lines, (&self.namespace, &self.metric), &[name, value])
    }

    /// What a period comes to; nothing where no metric was sent.
    fn datapoint(
        &self,
        values: &[(Timestamp, f64)],
        from: Timestamp,
        to: Timestamp,
    ) -> Option<f64> {
        let values =
            values.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, value)| *value);
        let values: Vec<_> = values.collect();
        (!values.is_empty()).then(|| statistic(&self.statistic, values))
    }

    /// Whether it is raised at a time, after it was or was not.
    fn is_raised(&self, values: &[(Timestamp, f64)], at: Timestamp, before: bool) -> bool {
        let (mut breaching, mut unknown) = (0, 0);
        let mut to = at;
        for _ in 0..self.periods {
            let from = to - self.period;
            let breaches = match self.datapoint(values, from, to) {
                Some(value) if self.below => Some(value < self.threshold),
                Some(value) => Some(value >= self.threshold),
                None => match &*self.missing {
                    "breaching" => Some(true),
                    "notBreaching" => Some(false),
                    "ignore" => None,
                    other => panic!("missing data are treated as {other}"),
                },
            };
            match breaches {
                Some(breaches) => breaching += usize::from(breaches),
                None => unknown += 1,
            }
            to = from;
        }
        if breaching < self.datapoints && breaching + unknown >= self.datapoints {
            return before;
        }
        breaching >= self.datapoints
    }
}

/// What lines in the embedded metric format hold of a metric: namespace and name, then the names and values of its
/// dimensions, which are all that it has.
#[must_use]
pub fn values(
    lines: &[Value],
    (namespace, metric): (&str, &str),
    dimensions: &[&str],
) -> Vec<(Timestamp, f64)> {
    let dimensions: Vec<_> = dimensions.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let set = json!([dimensions.iter().map(|(name, _)| name).collect::<Vec<_>>()]);
    let named = |it: &Value| it["Name"] == metric;
    let mut values = Vec::new();
    for line in lines {
        let mut directives = line["_aws"]["CloudWatchMetrics"].as_array().into_iter().flatten();
        let matches = directives.any(|directive| {
            directive["Namespace"] == namespace
                && directive["Dimensions"] == set
                && dimensions.iter().all(|(name, value)| line[name] == **value)
                && directive["Metrics"].as_array().into_iter().flatten().any(named)
        });
        if !matches {
            continue;
        }
        let at = line["_aws"]["Timestamp"].as_i64().unwrap();
        let at = Timestamp::from_millisecond(at).unwrap();
        match &line[metric] {
            Value::Array(several) => {
                values.extend(several.iter().map(|it| (at, it.as_f64().unwrap())));
            }
            one => values.push((at, one.as_f64().unwrap())),
        }
    }
    values
}

/// What CloudWatch makes of the values of a period.
#[expect(clippy::cast_precision_loss, reason = "counts")]
#[must_use]
pub fn statistic(name: &str, mut values: Vec<f64>) -> f64 {
    match name {
        "Sum" => values.iter().sum(),
        "SampleCount" => values.len() as f64,
        "Minimum" => values.into_iter().fold(f64::INFINITY, f64::min),
        "Maximum" => values.into_iter().fold(f64::NEG_INFINITY, f64::max),
        "p95" => {
            values.sort_by(f64::total_cmp);
            values[(values.len() * 95 / 100).min(values.len() - 1)]
        }
        other => panic!("unknown statistic {other}"),
    }
}

/// A value of the template with its references followed: a parameter's default, a mapping's entry, a resource's name.
fn resolved(template: &Value, value: &Value) -> Value {
    if let Some(name) = value["Ref"].as_str() {
        let default = &template["Parameters"][name]["Default"];
        return if default.is_null() { json!(name) } else { default.clone() };
    }
    if let Some(attribute) = value["Fn::GetAtt"].as_str() {
        return json!(attribute.split('.').next());
    }
    if let Some([map, key, entry]) = value["Fn::FindInMap"].as_array().map(Vec::as_slice) {
        let key = match resolved(template, key) {
            Value::String(key) => key,
            key => key.to_string(),
        };
        return template["Mappings"][map.as_str().unwrap()][&key][entry.as_str().unwrap()].clone();
    }
    value.clone()
}

/// The metrics of a test, in the order in which they are written: the functions' own, and what AWS sends beside them.
#[derive(Debug, Clone, Default)]
pub struct MetricLog {
    lines: Arc<Mutex<Vec<Value>>>,
}

impl MetricLog {
    /// Adds a line of the embedded metric format.
    pub fn push(&self, line: &str) {
        self.lines.lock().unwrap().push(serde_json::from_str(line).unwrap());
    }

    /// Adds a metric that AWS itself sends, in the name of a resource of the template: see [`line()`].
    pub fn push_from_aws(
        &self,
        now: Timestamp,
        metric: (&str, &str),
        dimension: (&str, &str),
        value: u64,
    ) {
        self.lines.lock().unwrap().push(line(now, metric, dimension, value));
    }

    /// What has been written so far, of a test that lasted from `start` to `end`.
    #[must_use]
    pub fn timeline(&self, start: Timestamp, end: Timestamp) -> Timeline {
        // Lines have whole milliseconds: one that is written at the start is not before it.
        let start = Timestamp::from_millisecond(start.as_millisecond()).unwrap();
        Timeline { lines: self.lines.lock().unwrap().clone(), start, end }
    }
}

/// The metrics of a stretch of time.
#[derive(Debug)]
pub struct Timeline {
    lines: Vec<Value>,
    start: Timestamp,
    end: Timestamp,
}

impl Timeline {
    /// Lines of the embedded metric format, over so many minutes.
    #[must_use]
    pub fn new(start: Timestamp, minutes: i64, lines: Vec<Value>) -> Self {
        Self { lines, start, end: start + SignedDuration::from_mins(minutes) }
    }

    /// What a metric of the relay adds up to under these dimensions beside the function's name, and no others.
    #[must_use]
    pub fn sum(&self, metric: &str, dimensions: &[(&str, &str)]) -> u64 {
        let names = ["FunctionName"].into_iter().chain(dimensions.iter().map(|(name, _)| *name));
        let names = json!([names.collect::<Vec<_>>()]);
        let sums = self.lines.iter().map(|line| {
            let directives = line["_aws"]["CloudWatchMetrics"].as_array().into_iter().flatten();
            let is_reported = directives.into_iter().any(|directive| {
                let metrics = directive["Metrics"].as_array().into_iter().flatten();
                directive["Dimensions"] == names
                    && metrics.into_iter().any(|it| it["Name"] == *metric)
            });
            let is_of = dimensions.iter().all(|(name, value)| line[*name] == **value);
            if is_reported && is_of { line[metric].as_u64().unwrap() } else { 0 }
        });
        sums.sum()
    }

    /// The times from and until which an alarm was raised, in minutes since the start, evaluated every minute from when
    /// each period of the alarm has passed.
    fn raised(&self, alarm: &Alarm) -> Vec<(i64, i64)> {
        let values = alarm.values(&self.lines);
        let minute = |at: Timestamp| at.duration_since(self.start).as_mins();
        let sight = alarm.period * i32::try_from(alarm.periods).unwrap();
        let (mut at, mut is_raised, mut times) = (self.start + sight, false, Vec::new());
        while at <= self.end {
            let was_raised = is_raised;
            is_raised = alarm.is_raised(&values, at, was_raised);
            match (was_raised, is_raised) {
                (false, true) => times.push((minute(at), i64::MAX)),
                (true, false) => times.last_mut().unwrap().1 = minute(at),
                _ => {}
            }
            at += SignedDuration::from_mins(1);
        }
        times
    }

    /// The alarm is raised once, and is over again, in these minutes.
    #[track_caller]
    pub fn raises(&self, alarm: &str, from: RangeInclusive<i64>, until: RangeInclusive<i64>) {
        let raised = self.raised(&Alarm::named(alarm));
        let [(began, ended)] = raised[..] else { panic!("{alarm} is raised at {raised:?}") };
        assert!(
            from.contains(&began) && until.contains(&ended),
            "{alarm} is raised {began} to {ended}"
        );
    }

    /// The alarms are never raised.
    #[track_caller]
    pub fn never_raises(&self, alarms: &[&str]) {
        for name in alarms {
            let raised = self.raised(&Alarm::named(name));
            assert!(raised.is_empty(), "{name} is raised at {raised:?}");
        }
    }
}

/// A metric that AWS itself sends, as the functions' own are written: namespace and name, dimension and its value.
#[must_use]
pub fn line(now: Timestamp, metric: (&str, &str), dimension: (&str, &str), value: u64) -> Value {
    let directive = json!({
        "Namespace": metric.0,
        "Dimensions": [[dimension.0]],
        "Metrics": [{"Name": metric.1, "Unit": "Count"}],
    });
    let head = json!({"Timestamp": now.as_millisecond(), "CloudWatchMetrics": [directive]});
    json!({"_aws": head, dimension.0: dimension.1, metric.1: value})
}
