//! What arrived at the endpoint, by ingest-fn's metrics.

use aws_sdk_cloudwatch::{primitives::DateTime, types::Statistic};
use jiff::{SignedDuration, Timestamp};
use shared::Metric;

use crate::{
    error::{Error, Result, explain},
    logs::Function,
    metrics::{self, NAMESPACE, Query, dimensions, whole},
    relay::Relay,
    times::{ago, count},
};

/// The most datapoints that one request for statistics may ask for.
const MAX_POINTS: i64 = 1_440;
/// An emulated AWS need not have CloudWatch's metrics.
pub(crate) const NO_METRICS: &str = "this emulated AWS has no metrics.";
/// What an authenticated webhook that is no PING is counted as.
const EVENTS: [Metric; 3] = [Metric::Queued, Metric::Ignored, Metric::Quarantined];

/// When requests are counted: periods of equal length, the last of which holds the present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// In seconds since the epoch, a multiple of the period.
    start: i64,
    end: i64,
    /// In seconds.
    period: i64,
}

impl Window {
    /// The last days: as many datapoints as one request may ask for, and never one more, whatever the
    /// second of `now`.
    pub(crate) fn days(days: u32, now: Timestamp) -> Self {
        let period = 60 * i64::from(days);
        let end = now.as_second().div_euclid(period) * period + period;
        Self { start: end - MAX_POINTS * period, end, period }
    }

    /// The length of a period.
    pub(crate) fn seconds_of_period(self) -> i64 {
        self.period
    }

    fn points(self) -> i64 {
        (self.end - self.start).div_euclid(self.period)
    }
}

/// What arrived in one period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Period {
    /// Its start, in seconds since the epoch.
    pub(crate) start: i64,
    /// Webhooks that were no PING.
    events: u64,
    /// Webhooks with the key in the first and in the second line, PINGs included.
    slots: [u64; 2],
    unauthorized: u64,
}

impl Period {
    /// Whether events certainly came with the key of this line, counted from 0: more requests than there
    /// were PINGs, which this program and Gladly send too.
    fn has_events_of(&self, slot: usize) -> bool {
        let requests: u64 = self.slots.iter().sum();
        self.slots[slot] > requests.saturating_sub(self.events)
    }
}

/// The use of the two keys in a window.
#[derive(Debug)]
pub(crate) struct KeyUse(Vec<Period>);

impl KeyUse {
    /// Reads a window.
    pub(crate) async fn read(relay: &Relay, window: Window) -> Result<Self> {
        match Self::read_metrics(relay, window).await {
            Err(_) if relay.session.is_local() => Ok(Self(Vec::new())),
            read => read,
        }
    }

    async fn read_metrics(relay: &Relay, window: Window) -> Result<Self> {
        let slot = |slot| statistics(relay, Metric::KeySlot, Some(slot), window);
        let plain = |metric| statistics(relay, metric, None, window);
        let (first, second, queued, ignored, quarantined) = tokio::try_join!(
            slot("1"),
            slot("2"),
            plain(EVENTS[0]),
            plain(EVENTS[1]),
            plain(EVENTS[2])
        )?;
        let mut periods = Periods::default();
        periods.add(first, |period| &mut period.slots[0]);
        periods.add(second, |period| &mut period.slots[1]);
        for events in [queued, ignored, quarantined] {
            periods.add(events, |period| &mut period.events);
        }
        Ok(Self(periods.0))
    }

    /// Whether there is no datapoint at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When an event last came with the key of this line, counted from 0, since a time.
    pub(crate) fn last(&self, slot: usize, since: Timestamp) -> Option<Timestamp> {
        let since = since.as_second();
        let mut used = self
            .0
            .iter()
            .rev()
            .filter(|period| period.start >= since && period.has_events_of(slot));
        used.next().and_then(|period| Timestamp::from_second(period.start).ok())
    }
}

/// Periods in their order.
#[derive(Default)]
struct Periods(Vec<Period>);

impl Periods {
    fn add(&mut self, points: Vec<(i64, u64)>, field: impl Fn(&mut Period) -> &mut u64) {
        for (start, value) in points {
            let at = match self.0.binary_search_by_key(&start, |period| period.start) {
                Ok(at) => at,
                Err(at) => {
                    self.0.insert(at, Period { start, ..Period::default() });
                    at
                }
            };
            *field(&mut self.0[at]) += value;
        }
    }
}

/// The sums of a metric, each with the start of its period.
async fn statistics(
    relay: &Relay,
    metric: Metric,
    slot: Option<&str>,
    window: Window,
) -> Result<Vec<(i64, u64)>> {
    debug_assert!(window.points() <= MAX_POINTS);
    let request = aws_sdk_cloudwatch::Client::new(&relay.session.config)
        .get_metric_statistics()
        .namespace(NAMESPACE)
        .metric_name(metric.name())
        .set_dimensions(Some(dimensions(relay, Function::Ingest, slot)?))
        .start_time(DateTime::from_secs(window.start))
        .end_time(DateTime::from_secs(window.end))
        .period(window.period.try_into().unwrap_or(i32::MAX))
        .statistics(Statistic::Sum);
    // Boxed: the SDK's futures are large.
    let found = Box::pin(request.send())
        .await
        .map_err(|err| explain("could not read the use of the keys", &err))?;
    let mut points: Vec<_> = found
        .datapoints
        .unwrap_or_default()
        .into_iter()
        .filter_map(|point| Some((point.timestamp?.secs(), whole(point.sum?))))
        .filter(|(_, sum)| *sum > 0)
        .collect();
    points.sort_unstable();
    Ok(points)
}

/// What arrived lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// Requests that were answered with 401 in the last hour.
    pub(crate) unauthorized: u64,
    /// Events that came in the last hour.
    pub(crate) events: u64,
    /// When the last event came, to the minute or the hour, and the line of its key if it is certain.
    pub(crate) last: Option<(Timestamp, Option<usize>)>,
}

impl Arrivals {
    /// Reads the last day and, if nothing came in it, the last two weeks.
    pub(crate) async fn read(relay: &Relay, now: Timestamp) -> Result<Self> {
        match Self::read_metrics(relay, now).await {
            Err(_) if relay.session.is_local() => Err(Error::failed(NO_METRICS)),
            read => read,
        }
    }

    async fn read_metrics(relay: &Relay, now: Timestamp) -> Result<Self> {
        let day = periods(relay, now, SignedDuration::from_hours(24), 60).await?;
        let mut arrivals = Self::of(&day, now);
        if arrivals.last.is_none() {
            let weeks = periods(relay, now, SignedDuration::from_hours(14 * 24), 3_600).await?;
            arrivals.last = Self::of(&weeks, now).last;
        }
        Ok(arrivals)
    }

    fn of(periods: &[Period], now: Timestamp) -> Self {
        let hour_ago = now.as_second() - 3_600;
        let lately = || periods.iter().filter(|period| period.start >= hour_ago);
        let last = periods.iter().rev().find(|period| period.events > 0);
        // With the keys of both lines something came: which of them was the event's is uncertain.
        let line = |period: &Period| match period.slots {
            [0, 0] => None,
            [_, 0] => Some(1),
            [0, _] => Some(2),
            _ => None,
        };
        Self {
            unauthorized: lately().map(|period| period.unauthorized).sum(),
            events: lately().map(|period| period.events).sum(),
            last: last.and_then(|period| {
                Some((Timestamp::from_second(period.start).ok()?, line(period)))
            }),
        }
    }

    /// Whether requests come, and none of them with a valid key.
    pub(crate) fn are_all_rejected(&self) -> bool {
        self.unauthorized > 0 && self.events == 0
    }

    /// For people: "the last event came 3 min ago with the first key; 2 requests were rejected …".
    pub(crate) fn describe(&self, keys: usize, now: Timestamp) -> String {
        let last = match self.last {
            None => "no event came in the last 14 days".to_owned(),
            Some((at, line)) => {
                let key = match (keys, line) {
                    (2.., Some(1)) => " with the older key",
                    (2.., Some(_)) => " with the newer key",
                    (1, Some(1)) => " with the webhook key",
                    _ => "",
                };
                format!("the last event came {}{key}", ago(at.min(now), now))
            }
        };
        let rejected = count(self.unauthorized, "request");
        let were = if self.unauthorized == 1 { "was" } else { "were" };
        format!("{last}; {rejected} {were} rejected with HTTP 401 in the last hour")
    }
}

/// Everything that counts arrivals, over a span before now.
async fn periods(
    relay: &Relay,
    now: Timestamp,
    span: SignedDuration,
    period: i32,
) -> Result<Vec<Period>> {
    let queries = [
        Query::arrivals(EVENTS[0], None),
        Query::arrivals(EVENTS[1], None),
        Query::arrivals(EVENTS[2], None),
        Query::arrivals(Metric::KeySlot, Some("1")),
        Query::arrivals(Metric::KeySlot, Some("2")),
        Query::arrivals(Metric::Unauthorized, None),
    ];
    let found = metrics::read(relay, queries, now, span, period).await?;
    let [queued, ignored, quarantined, first, second, unauthorized] = found.map(|series| {
        let points = series.into_iter().map(|(at, sum)| (at.as_second(), whole(sum)));
        points.filter(|(_, sum)| *sum > 0).collect::<Vec<_>>()
    });
    let mut periods = Periods::default();
    for events in [queued, ignored, quarantined] {
        periods.add(events, |period| &mut period.events);
    }
    periods.add(first, |period| &mut period.slots[0]);
    periods.add(second, |period| &mut period.slots[1]);
    periods.add(unauthorized, |period| &mut period.unauthorized);
    Ok(periods.0)
}

/// Why the use of the keys is unknown.
pub(crate) fn unknown_use(error: Error) -> Error {
    Error {
        sentence: format!(
            "{} Whether the old key is still used is therefore unknown.",
            error.sentence
        ),
        ..error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_asks_for_1440_datapoints_whatever_the_second_and_the_days() {
        for days in 1..=14 {
            for second in [1_800_000_000, 1_800_000_001, 1_800_000_029, 1_800_000_059] {
                for milliseconds in [0, 1, 999] {
                    let now = Timestamp::from_millisecond(second * 1_000 + milliseconds).unwrap();
                    let window = Window::days(days, now);
                    // As CloudWatch counts them: the old program asked for 1,440.05.
                    assert_eq!((window.end - window.start) % window.period, 0);
                    assert_eq!(window.points(), 1_440, "{days} {second}");
                    assert_eq!(window.start % window.period, 0);
                    let latest = now.as_second();
                    assert!(window.end > latest && window.end - latest <= window.period);
                    assert_eq!(window.end - window.start, i64::from(days) * 86_400);
                }
            }
        }
    }

    fn period(start: i64, events: u64, slots: [u64; 2], unauthorized: u64) -> Period {
        Period { start, events, slots, unauthorized }
    }

    #[test]
    fn a_ping_is_no_use_of_a_key() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let usage = KeyUse(vec![
            period(60, 1, [1, 0], 0),
            // Only PINGs, as "rotate-key" and "doctor" send them.
            period(120, 0, [1, 1], 0),
            period(180, 3, [1, 4], 0),
        ]);
        assert_eq!((usage.last(0, at(0)), usage.last(1, at(0))), (Some(at(60)), Some(at(180))));
        assert_eq!((usage.last(0, at(61)), usage.last(1, at(181))), (None, None));
    }

    #[test]
    fn arrivals_of_the_last_hour_are_counted_apart_from_older_ones() {
        let now = Timestamp::from_second(100_000).unwrap();
        let arrivals = Arrivals::of(
            &[
                period(90_000, 2, [2, 0], 5),
                period(99_000, 0, [0, 0], 3),
                period(99_960, 0, [1, 0], 1),
            ],
            now,
        );
        assert_eq!((arrivals.unauthorized, arrivals.events), (4, 0));
        assert!(arrivals.are_all_rejected());
        assert_eq!(
            arrivals.describe(2, now),
            "the last event came 2 h 46 min ago with the older key; 4 requests were rejected with HTTP 401 in \
             the last hour"
        );
    }
}
