//! What happened lately: the functions' metrics and their log.

use aws_sdk_cloudwatch::{
    Client,
    primitives::DateTime,
    types::{Dimension, Metric, MetricDataQuery, MetricStat},
};
use futures::future;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::Duration;

use crate::{
    args::Level,
    error::{Result, explain},
    logs::{Function, Log, LogLine},
    relay::Relay,
};

/// The near past, minute by minute: 180 values of each metric.
const NEAR: SignedDuration = SignedDuration::from_hours(3);
const NEAR_PERIOD_SECONDS: i32 = 60;
/// The far past, hour by hour: as long as CloudWatch Logs Insights and Gladly's exports reach back.
const FAR: SignedDuration = SignedDuration::from_hours(14 * 24);
const FAR_PERIOD_SECONDS: i32 = 3_600;
/// How far back failures are looked for.
const FAILURES: SignedDuration = SignedDuration::from_mins(15);
/// How long the log may be read for.
const LOG_TIME: Duration = Duration::from_secs(4);
/// What is wrong, or was delivered.
const PATTERN: &str = r#"{ $.level = "WARN" || $.level = "ERROR" || $.message = "delivered" }"#;

/// What happened lately.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Activity {
    /// When a webhook with a valid key last came, to the minute or the hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_event_at: Option<Timestamp>,
    /// Which line of the keys parameter that key was in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_event_key: Option<usize>,
    /// Requests of the last hour without a valid key, answered 401.
    pub(crate) unauthorized_last_hour: u64,
    /// When the last of them came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_unauthorized_at: Option<Timestamp>,
    /// When the destination last accepted events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_delivery_at: Option<Timestamp>,
    /// The greatest lateness of the last 15 minutes, which the relay itself caused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lateness_seconds: Option<u64>,
    /// For how many minutes the backlog has grown without a break.
    pub(crate) backlog_grows_minutes: u64,
    /// For how many minutes the backlog has not been empty, three hours at most.
    pub(crate) backlog_minutes: u64,
    /// What has been failing since the last success.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failing: Vec<Failing>,
    /// What could not be found out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unknown: Vec<String>,
}

/// An upstream that fails, and has not succeeded since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failing {
    /// What fails: "deliveries", "Gladly's API".
    pub(crate) what: &'static str,
    /// The first failure since the last success; the failure may be older than what was looked at.
    pub(crate) since: Timestamp,
    /// How many failures.
    pub(crate) count: u64,
    /// How the last one failed.
    pub(crate) error: String,
}

/// The messages of transient failures, which the log shows while they are retried.
const FAILURE_MESSAGES: [(&str, &str); 2] = [
    ("deliveries", "could not deliver; the records return to the queue"),
    ("Gladly's API", "could not fetch a conversation; its records return to the queue"),
];

/// Values of a metric by time.
type Series = Vec<(Timestamp, f64)>;

impl Activity {
    /// Reads metrics and log side by side. What cannot be read is noted in `unknown`.
    pub(crate) async fn read(relay: &Relay) -> Self {
        let now = Timestamp::now();
        let log = Log::of(relay, Function::Extractor);
        let (near, far, lines) = future::join3(
            series(relay, now, NEAR, NEAR_PERIOD_SECONDS),
            series(relay, now, FAR, FAR_PERIOD_SECONDS),
            log.since(now - FAILURES, Some(PATTERN), LOG_TIME),
        )
        .await;
        let mut activity = Self::default();
        let mut unknown = Vec::new();
        let mut known =
            |result: Result<[Series; 6]>| result.map_err(|error| unknown.push(error.sentence)).ok();
        if let Some(far) = known(far) {
            activity.note_far(&far);
        }
        if let Some(near) = known(near) {
            activity.note_near(&near, now);
        }
        match lines {
            Ok(lines) => activity.note_lines(lines.into_iter().map(|(_, line)| line).collect()),
            Err(error) => unknown.push(error.sentence),
        }
        unknown.dedup();
        Self { unknown, ..activity }
    }

    fn note_far(&mut self, [first, second, _, forwarded, _, _]: &[Series; 6]) {
        for (slot, series) in [(1, first), (2, second)] {
            self.note_event(slot, last(series));
        }
        self.last_delivery_at = last(forwarded);
    }

    fn note_event(&mut self, slot: usize, at: Option<Timestamp>) {
        if at.is_some() && at >= self.last_event_at {
            (self.last_event_at, self.last_event_key) = (at, Some(slot));
        }
    }

    fn note_near(
        &mut self,
        [first, second, unauthorized, forwarded, lateness, backlog]: &[Series; 6],
        now: Timestamp,
    ) {
        for (slot, series) in [(1, first), (2, second)] {
            self.note_event(slot, last(series));
        }
        self.last_delivery_at = self.last_delivery_at.max(last(forwarded));
        let since = |from: SignedDuration| move |(at, _): &&(Timestamp, f64)| *at >= now - from;
        let hour = unauthorized.iter().filter(since(SignedDuration::from_hours(1)));
        self.unauthorized_last_hour = whole(hour.map(|(_, count)| count).sum());
        self.last_unauthorized_at = last(unauthorized);
        let late = lateness.iter().filter(since(FAILURES)).map(|(_, ms)| ms / 1_000.0);
        self.lateness_seconds = late.reduce(f64::max).map(whole);
        let newest_first = || backlog.iter().rev();
        let waiting = newest_first().take_while(|(_, count)| *count > 0.0).last();
        self.backlog_minutes = minutes(waiting.map(|(at, _)| *at), backlog);
        let grows = backlog.windows(2).rev().take_while(|pair| pair[1].1 > pair[0].1).last();
        self.backlog_grows_minutes = minutes(grows.map(|pair| pair[0].0), backlog);
    }

    fn note_lines(&mut self, mut lines: Vec<LogLine>) {
        lines.sort_by_key(|line| line.at);
        let delivered = lines.iter().rev().find(|line| line.message == "delivered");
        let delivered = delivered.map(|line| line.at);
        self.last_delivery_at = self.last_delivery_at.max(delivered);
        for (what, message) in FAILURE_MESSAGES {
            let failed = lines.iter().filter(|line| {
                line.level >= Level::Warn && line.message == message && Some(line.at) > delivered
            });
            let failed: Vec<_> = failed.collect();
            if let [first, ..] = failed[..] {
                let error = failed.iter().rev().find_map(|line| line.field("error"));
                self.failing.push(Failing {
                    what,
                    since: first.at,
                    count: failed.len() as u64,
                    error: error.unwrap_or("the log has no reason").to_owned(),
                });
            }
        }
    }
}

/// From a time to the last value.
fn minutes(from: Option<Timestamp>, series: &Series) -> u64 {
    let span = from.zip(series.last()).map(|(from, (last, _))| last.duration_since(from).as_mins());
    span.and_then(|minutes| minutes.try_into().ok()).unwrap_or_default()
}

/// When a count was last above zero.
fn last(series: &Series) -> Option<Timestamp> {
    series.iter().rev().find(|(_, count)| *count > 0.0).map(|(at, _)| *at)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of events")]
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

/// Key slots 1 and 2, 401s, events delivered, lateness and backlog, oldest first.
async fn series(
    relay: &Relay,
    now: Timestamp,
    span: SignedDuration,
    period: i32,
) -> Result<[Series; 6]> {
    let ingest = relay.output("IngestFunctionName")?;
    let extractor = relay.output("ExtractorFunctionName")?;
    let queries = [
        ("KeySlot", ingest, Some("1"), "Sum"),
        ("KeySlot", ingest, Some("2"), "Sum"),
        ("Unauthorized", ingest, None, "Sum"),
        ("Forwarded", extractor, None, "Sum"),
        ("EventAgeMs", extractor, None, "Maximum"),
        ("Backlog", extractor, None, "Maximum"),
    ];
    let dimension = |name: &str, value: &str| Dimension::builder().name(name).value(value).build();
    let query =
        |(number, (name, function, slot, statistic)): (usize, (&str, &str, Option<&str>, &str))| {
            let mut dimensions = vec![dimension("FunctionName", function)];
            dimensions.extend(slot.map(|slot| dimension("Slot", slot)));
            let metric = Metric::builder()
                .namespace("GladlyRelay")
                .metric_name(name)
                .set_dimensions(Some(dimensions))
                .build();
            let stat = MetricStat::builder().metric(metric).period(period).stat(statistic).build();
            MetricDataQuery::builder().id(format!("m{number}")).metric_stat(stat).build()
        };
    // Whole periods, so that the first and the last value are of whole periods too.
    let end = now.as_second().div_euclid(period.into()) * i64::from(period) + i64::from(period);
    let mut pages = Client::new(&relay.session.config)
        .get_metric_data()
        .start_time(DateTime::from_secs(end - span.as_secs()))
        .end_time(DateTime::from_secs(end))
        .set_metric_data_queries(Some(queries.into_iter().enumerate().map(query).collect()))
        .into_paginator()
        .send();
    let mut found: [Series; 6] = Default::default();
    while let Some(page) = pages.next().await {
        let page = page.map_err(|err| explain("could not read the metrics", &err))?;
        for result in page.metric_data_results.unwrap_or_default() {
            let number =
                result.id.as_deref().and_then(|id| id.strip_prefix('m')?.parse::<usize>().ok());
            let Some(series) = number.and_then(|number| found.get_mut(number)) else { continue };
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
