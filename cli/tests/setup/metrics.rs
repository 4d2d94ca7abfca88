//! CloudWatch's metrics as far as the program reads them: MiniStack understands the SDK's protocol only with a Python
//! package more, and has no limit of datapoints.

use std::collections::BTreeMap;

use aws_smithy_cbor::{Decoder, Encoder, data::Type};
use aws_smithy_types::DateTime;
use serde_json::{Map, Value};

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
    let request = decode(&mut Decoder::new(body));
    let (start, end) = (seconds(&request["StartTime"]), seconds(&request["EndTime"]));
    let mut out = Encoder::new(Vec::new());
    if action == "GetMetricStatistics" {
        let period = seconds(&request["Period"]);
        let asked = (end - start) / period;
        if asked > MAX_POINTS {
            return Err(format!(
                "You have requested up to {asked} datapoints, which exceeds the limit"
            ));
        }
        let sums = sums(points, &request, function, [start, end], period);
        out.map(1).str("Datapoints").array(sums.len());
        for (at, sum) in sums {
            out.map(2).str("Timestamp").timestamp(&DateTime::from_secs(at)).str("Sum").double(sum);
        }
    } else {
        let queries = request["MetricDataQueries"].as_array().unwrap();
        out.map(1).str("MetricDataResults").array(queries.len());
        for query in queries {
            let stat = &query["MetricStat"];
            let period = seconds(&stat["Period"]);
            let sums = sums(points, &stat["Metric"], function, [start, end], period);
            out.map(3).str("Id").str(query["Id"].as_str().unwrap());
            out.str("Timestamps").array(sums.len());
            for at in sums.keys().rev() {
                out.timestamp(&DateTime::from_secs(*at));
            }
            out.str("Values").array(sums.len());
            for sum in sums.values().rev() {
                out.double(*sum);
            }
        }
    }
    Ok(out.into_writer())
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

/// Any value; a timestamp as its seconds.
fn decode(from: &mut Decoder<'_>) -> Value {
    match from.datatype().unwrap() {
        Type::Map | Type::MapIndef => {
            let count = from.map().unwrap();
            let mut fields = Map::new();
            while goes_on(from, count, fields.len()) {
                let name = from.str().unwrap().into_owned();
                fields.insert(name, decode(from));
            }
            fields.into()
        }
        Type::Array | Type::ArrayIndef => {
            let count = from.list().unwrap();
            let mut items = Vec::new();
            while goes_on(from, count, items.len()) {
                items.push(decode(from));
            }
            items.into()
        }
        Type::String | Type::StringIndef => from.str().unwrap().into_owned().into(),
        Type::Tag => from.timestamp().unwrap().as_secs_f64().into(),
        _ => from.long().unwrap().into(),
    }
}

/// Whether an element follows, of this many or until a break.
fn goes_on(from: &mut Decoder<'_>, count: Option<u64>, read: usize) -> bool {
    match count {
        Some(count) => (read as u64) < count,
        None if matches!(from.datatype(), Ok(Type::Break)) => {
            from.skip().unwrap();
            false
        }
        None => true,
    }
}
