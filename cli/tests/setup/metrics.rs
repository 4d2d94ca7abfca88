//! CloudWatch's metrics as far as the program reads them: MiniStack understands the SDK's protocol only with a Python
//! package more, and has no limit of datapoints.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cbor;

/// The most datapoints that one request for statistics may ask for.
const MAX_POINTS: f64 = 1_440.0;

/// A count of ingest-fn.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) metric: String,
    pub(crate) slot: Option<String>,
    /// In seconds since the epoch.
    pub(crate) at: i64,
    pub(crate) value: u64,
}

/// Answers a request of the function's metrics, or the message of CloudWatch's error.
pub(crate) fn answer(
    action: &str,
    body: &[u8],
    function: &str,
    points: &[Point],
) -> Result<Vec<u8>, String> {
    let request = cbor::decode(body);
    let (start, end) = (seconds(&request["StartTime"]), seconds(&request["EndTime"]));
    if action == "GetMetricStatistics" {
        let period = seconds(&request["Period"]);
        let count = (end - start) / period;
        if count > MAX_POINTS {
            return Err(format!(
                "You have requested up to {count} datapoints, which exceeds the limit"
            ));
        }
        let sums = sums(points, &request, function, [start, end], period);
        let found: Vec<_> =
            sums.iter().map(|(at, sum)| json!({"Timestamp": timestamp(*at), "Sum": sum})).collect();
        return Ok(cbor::encode(&json!({"Datapoints": found})));
    }
    let queries = request["MetricDataQueries"].as_array().unwrap();
    let results = queries.iter().map(|query| {
        let asked = &query["MetricStat"];
        let sums =
            sums(points, &asked["Metric"], function, [start, end], seconds(&asked["Period"]));
        json!({
            "Id": query["Id"],
            "Timestamps": sums.keys().rev().map(|at| timestamp(*at)).collect::<Vec<_>>(),
            "Values": sums.values().rev().collect::<Vec<_>>(),
        })
    });
    Ok(cbor::encode(&json!({"MetricDataResults": results.collect::<Vec<_>>()})))
}

fn timestamp(seconds: i64) -> Value {
    json!({cbor::TIME: seconds})
}

/// The sums of a metric by the start of each period.
fn sums(
    points: &[Point],
    metric: &Value,
    function: &str,
    [start, end]: [f64; 2],
    period: f64,
) -> BTreeMap<i64, f64> {
    assert_eq!(metric["Namespace"], "GladlyRelay");
    let dimension = |name: &str| {
        let dimensions = metric["Dimensions"].as_array().unwrap();
        dimensions
            .iter()
            .find(|dimension| dimension["Name"] == name)
            .map(|dimension| dimension["Value"].as_str().unwrap().to_owned())
    };
    assert_eq!(dimension("FunctionName").as_deref(), Some(function));
    let slot = dimension("Slot");
    let [start, end, period] = [start, end, period].map(whole);
    let mut sums = BTreeMap::new();
    for point in points {
        let is_asked = metric["MetricName"] == *point.metric && point.slot == slot;
        if is_asked && (start..end).contains(&point.at) {
            let at = point.at.div_euclid(period) * period;
            *sums.entry(at).or_default() += f64::from(u32::try_from(point.value).unwrap());
        }
    }
    sums
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

#[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
fn whole(seconds: f64) -> i64 {
    seconds as i64
}
