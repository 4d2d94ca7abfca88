//! The functions' metrics, as CloudWatch has them.

use aws_sdk_cloudwatch::{
    Client,
    primitives::DateTime,
    types::{Dimension, Metric as MetricOf, MetricDataQuery, MetricStat},
};
use jiff::{SignedDuration, Timestamp};
use shared::Metric;

use crate::{
    error::{Result, explain},
    logs::Function,
    relay::Relay,
};

pub(crate) const NAMESPACE: &str = "GladlyRelay";

/// A metric with its statistic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query {
    pub(crate) metric: Metric,
    pub(crate) function: Function,
    /// A value of the dimension `Slot`.
    pub(crate) slot: Option<&'static str>,
    pub(crate) statistic: &'static str,
}

impl Query {
    /// A count of ingest-fn.
    pub(crate) fn arrivals(metric: Metric, slot: Option<&'static str>) -> Self {
        Self { metric, function: Function::Ingest, slot, statistic: "Sum" }
    }

    /// A metric of extractor-fn.
    pub(crate) fn extraction(metric: Metric, statistic: &'static str) -> Self {
        Self { metric, function: Function::Extractor, slot: None, statistic }
    }
}

/// A metric's values, each with the start of its period, oldest first.
pub(crate) type Series = Vec<(Timestamp, f64)>;

/// The dimensions of a function's metric.
pub(crate) fn dimensions(
    relay: &Relay,
    function: Function,
    slot: Option<&str>,
) -> Result<Vec<Dimension>> {
    let output = match function {
        Function::Ingest => "IngestFunctionName",
        Function::Extractor => "ExtractorFunctionName",
    };
    let dimension = |name: &str, value: &str| Dimension::builder().name(name).value(value).build();
    let function = dimension("FunctionName", relay.output(output)?);
    Ok([function].into_iter().chain(slot.map(|slot| dimension("Slot", slot))).collect())
}

/// Reads metrics over a span before now, in periods of so many seconds: whole ones, so that the last one
/// holds the present.
pub(crate) async fn read<const N: usize>(
    relay: &Relay,
    queries: [Query; N],
    now: Timestamp,
    span: SignedDuration,
    period: i32,
) -> Result<[Series; N]> {
    let mut asked = Vec::with_capacity(N);
    for (number, query) in queries.into_iter().enumerate() {
        let metric = MetricOf::builder()
            .namespace(NAMESPACE)
            .metric_name(query.metric.name())
            .set_dimensions(Some(dimensions(relay, query.function, query.slot)?))
            .build();
        let stat = MetricStat::builder().metric(metric).period(period).stat(query.statistic);
        let id = format!("m{number}");
        asked.push(MetricDataQuery::builder().id(id).metric_stat(stat.build()).build());
    }
    let seconds = i64::from(period);
    let end = now.as_second().div_euclid(seconds) * seconds + seconds;
    let mut pages = Client::new(&relay.session.config)
        .get_metric_data()
        .start_time(DateTime::from_secs(end - span.as_secs()))
        .end_time(DateTime::from_secs(end))
        .set_metric_data_queries(Some(asked))
        .into_paginator()
        .send();
    let mut found = [const { Series::new() }; N];
    // Boxed: the SDK's futures are large.
    while let Some(page) = Box::pin(pages.next()).await {
        let page = page.map_err(|err| explain("could not read the metrics", &err))?;
        for result in page.metric_data_results.unwrap_or_default() {
            let number = result.id.as_deref().and_then(|id| id.strip_prefix('m')?.parse().ok());
            let Some(series) = number.and_then(|number: usize| found.get_mut(number)) else {
                continue;
            };
            let times = result.timestamps.unwrap_or_default();
            let times = times.iter().filter_map(|at| Timestamp::from_second(at.secs()).ok());
            series.extend(times.zip(result.values.unwrap_or_default()));
        }
    }
    for series in &mut found {
        series.sort_by_key(|(at, _)| *at);
    }
    Ok(found)
}

/// A count, which CloudWatch gives as a fraction.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of events")]
pub(crate) fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}
