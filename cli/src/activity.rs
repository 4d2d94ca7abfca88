//! What happened lately: what arrived, what was delivered, and what waits.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use shared::Metric;

use crate::{
    arrivals::Arrivals,
    deliveries::{Deliveries, Failing},
    error::Result,
    metrics::{self, Query, Series, whole},
    relay::Relay,
};

/// The near past, minute by minute.
const NEAR: SignedDuration = SignedDuration::from_hours(3);
/// The far past, hour by hour: as long as Gladly's exports reach back.
const FAR: SignedDuration = SignedDuration::from_hours(14 * 24);
/// How far back lateness counts.
const LATELY: SignedDuration = SignedDuration::from_mins(15);

/// What happened lately.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Activity {
    /// When an event last came, to the minute or the hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_event_at: Option<Timestamp>,
    /// The line of its key in the keys parameter, if that is certain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_event_key: Option<usize>,
    /// Events of the last hour.
    pub(crate) events_last_hour: u64,
    /// Requests of the last hour without a valid key, answered 401.
    pub(crate) unauthorized_last_hour: u64,
    /// When the destination last accepted events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_delivery_at: Option<Timestamp>,
    /// The greatest lateness of the last 15 minutes, which the relay itself caused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lateness_seconds: Option<u64>,
    /// For how many minutes the backlog, without what is in its settle window, has grown without a break.
    pub(crate) backlog_grows_minutes: u64,
    /// For how many minutes it has not been empty, three hours at most.
    pub(crate) backlog_minutes: u64,
    /// What has been failing since the last success.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) failing: Vec<Failing>,
    /// What could not be found out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) unknown: Vec<String>,
}

impl Activity {
    /// Reads metrics and log side by side. What cannot be read is noted in `unknown`.
    pub(crate) async fn read(relay: &Relay) -> Self {
        let now = Timestamp::now();
        let forwarded = Query::extraction(Metric::Forwarded, "Sum");
        let near = [
            forwarded,
            Query::extraction(Metric::EventAgeMs, "Maximum"),
            Query::extraction(Metric::Backlog, "Maximum"),
            Query::extraction(Metric::Delayed, "Maximum"),
        ];
        let (arrivals, near, far, deliveries) = tokio::join!(
            Arrivals::read(relay, now),
            metrics::read(relay, near, now, NEAR, 60),
            metrics::read(relay, [forwarded], now, FAR, 3_600),
            Deliveries::read(relay, now),
        );
        let (mut activity, mut unknown) = (Self::default(), Vec::new());
        if let Some(arrivals) = known(arrivals, &mut unknown) {
            let (at, line) = arrivals.last.unzip();
            activity.last_event_at = at;
            activity.last_event_key = line.flatten();
            activity.events_last_hour = arrivals.events;
            activity.unauthorized_last_hour = arrivals.unauthorized;
        }
        if let Some([forwarded]) = known(far, &mut unknown) {
            activity.last_delivery_at = last(&forwarded);
        }
        if let Some(near) = known(near, &mut unknown) {
            activity.note_near(&near, now);
        }
        if let Some(deliveries) = known(deliveries, &mut unknown) {
            activity.last_delivery_at = activity.last_delivery_at.max(deliveries.delivered_at);
            activity.failing = deliveries.failing();
        }
        unknown.sort();
        unknown.dedup();
        Self { unknown, ..activity }
    }

    fn note_near(&mut self, [forwarded, lateness, backlog, delayed]: &[Series; 4], now: Timestamp) {
        let backlog = &beyond_window(backlog, delayed);
        self.last_delivery_at = self.last_delivery_at.max(last(forwarded));
        let late = lateness.iter().filter(|(at, _)| *at >= now - LATELY);
        self.lateness_seconds = late.map(|(_, ms)| ms / 1_000.0).reduce(f64::max).map(whole);
        let waiting = backlog.iter().rev().take_while(|(_, count)| *count > 0.0).last();
        self.backlog_minutes = minutes(waiting.map(|(at, _)| *at), backlog);
        let grows = backlog.windows(2).rev().take_while(|pair| pair[1].1 > pair[0].1).last();
        self.backlog_grows_minutes = minutes(grows.map(|pair| pair[0].0), backlog);
    }

    /// Whether requests come, and none of them with a valid key.
    pub(crate) fn are_all_rejected(&self) -> bool {
        self.unauthorized_last_hour > 0 && self.events_last_hour == 0
    }
}

/// What could be read; why something could not is noted.
fn known<T>(read: Result<T>, unknown: &mut Vec<String>) -> Option<T> {
    read.map_err(|error| unknown.push(error.sentence)).ok()
}

/// The backlog without what is delayed: an event in its settle window is not late.
fn beyond_window(backlog: &Series, delayed: &Series) -> Series {
    let delayed: BTreeMap<_, _> = delayed.iter().copied().collect();
    let without = |(at, count): &(Timestamp, f64)| {
        (*at, (count - delayed.get(at).copied().unwrap_or_default()).max(0.0))
    };
    backlog.iter().map(without).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_that_grows_or_stays_is_measured_to_its_beginning() {
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let series =
            |values: &[f64]| -> Series { (0_i64..).map(at).zip(values.iter().copied()).collect() };
        let measured = |values: &[f64]| {
            let mut activity = Activity::default();
            // Ten more are in their settle window, and more each minute.
            let backlog: Vec<_> =
                values.iter().zip(10_u8..).map(|(v, n)| v + f64::from(n)).collect();
            let delayed: Vec<_> = values.iter().zip(10_u8..).map(|(_, n)| f64::from(n)).collect();
            let late = series(&[1_000.0, 90_000.0]);
            let near = [Series::new(), late, series(&backlog), series(&delayed)];
            activity.note_near(&near, at(3));
            assert_eq!(activity.lateness_seconds, Some(90));
            (activity.backlog_minutes, activity.backlog_grows_minutes)
        };
        assert_eq!(measured(&[]), (0, 0));
        assert_eq!(measured(&[5.0, 0.0, 1.0, 2.0, 3.0]), (2, 3));
        assert_eq!(measured(&[1.0, 4.0, 4.0, 3.0]), (3, 0));
        assert_eq!(measured(&[1.0, 2.0, 0.0]), (0, 0));
    }
}
