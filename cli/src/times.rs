//! Times and spans as operators write and read them.

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, civil::DateTime, tz::TimeZone};

/// The longest span that a command takes: a year.
const MAX_SPAN: SignedDuration = SignedDuration::from_hours(24 * 366);

/// A time to the second, for people.
pub(crate) fn shown(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time to the minute, for people.
pub(crate) fn minute(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// How long something takes, in its two largest units.
pub(crate) fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// How long ago a time is, for people: "3 min ago".
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs();
    format!("{} ago", span(seconds.try_into().unwrap_or_default()))
}

/// A count with its noun: "1 event", "2 events".
pub(crate) fn count(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Reads a time of this century: RFC 3339 with a zone, where seconds may be missing and a space may
/// stand for `T`. A wrong one is answered with the nearest right one.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    if let Some(at) = zoned(text) {
        let year = at.to_zoned(TimeZone::UTC).year();
        return if (2000..2100).contains(&year) {
            Ok(at)
        } else {
            Err(format!("expected a time of this century, got the year {year}"))
        };
    }
    if let Some(civil) = civil(text) {
        let nearest = civil.strftime("%Y-%m-%dT%H:%M:%SZ");
        return Err(format!("expected a time with a zone: {nearest} for UTC"));
    }
    let nearest = nearest_day(text).map_or_else(
        || "2026-12-01T08:00:00Z".to_owned(),
        |nearest| nearest.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    );
    Err(format!("expected a time such as {nearest}"))
}

/// With a zone.
fn zoned(text: &str) -> Option<Timestamp> {
    let text = text.replacen(' ', "T", 1);
    let time = text.split_once('T')?.1;
    // Jiff reads more than RFC 3339: hours alone, and the names of zones.
    let is_plain = text.is_ascii() && !text.contains('[') && time.as_bytes().get(2) == Some(&b':');
    is_plain.then(|| text.parse().ok()).flatten()
}

/// A date, or a date and a time, without a zone.
fn civil(text: &str) -> Option<DateTime> {
    let is_zoned = text.ends_with(['Z', 'z']);
    (!is_zoned).then(|| text.replacen(' ', "T", 1).parse().ok()).flatten()
}

/// The nearest day that exists, for a date such as 2026-02-30 or an hour such as 24.
fn nearest_day(text: &str) -> Option<DateTime> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    let mut next = |least: i16, most: i16| -> Option<i16> {
        Some(numbers.next()?.parse::<i16>().unwrap_or(most).clamp(least, most))
    };
    let (year, month, day) = (next(2000, 2099)?, next(1, 12)?, next(1, 31)?);
    let (hour, minute) = (next(0, 23).unwrap_or(0), next(0, 59).unwrap_or(0));
    let second = next(0, 59).unwrap_or(0);
    let [month, day, hour, minute, second] =
        [month, day, hour, minute, second].map(|number| i8::try_from(number).unwrap_or(1));
    (0..4).find_map(|less| DateTime::new(year, month, day - less, hour, minute, second, 0).ok())
}

/// Reads a span: `2h`, `90m`, `1d12h`, `1h 30min`. A day has 24 hours.
pub(crate) fn parse_span(text: &str) -> Result<SignedDuration, String> {
    let span: Option<Span> = text.trim().parse().ok();
    let span = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    span.filter(|span| span.is_positive() && *span <= MAX_SPAN)
        .ok_or_else(|| format!("expected a span such as 30m, 2h or 3d, got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_miss_its_seconds_and_have_a_space() {
        for (text, expected) in [
            ("2099-12-01T08:00:00Z", "2099-12-01T08:00:00Z"),
            ("2099-12-01 08:00Z", "2099-12-01T08:00:00Z"),
            ("2099-12-01T08:00+01:00", "2099-12-01T07:00:00Z"),
            ("2099-02-28T08:00:00.5+01:00", "2099-02-28T07:00:00.5Z"),
        ] {
            assert_eq!(
                parse_time(text).map(|at| at.to_string()).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_wrong_time_is_answered_with_the_nearest_right_one() {
        for (text, nearest) in [
            ("2099-12-01", "2099-12-01T00:00:00Z for UTC"),
            ("2099-12-01T08:00:00", "2099-12-01T08:00:00Z for UTC"),
            ("2099-12-01 08:00", "2099-12-01T08:00:00Z for UTC"),
            ("2099-02-29T08:00:00Z", "2099-02-28T08:00:00Z"),
            ("2099-13-01T08:00:00Z", "2099-12-01T08:00:00Z"),
            ("2099-12-01T24:00:00Z", "2099-12-01T23:00:00Z"),
            ("tomorrow", "a time such as 2026-12-01T08:00:00Z"),
            ("1999-12-01T08:00:00Z", "of this century"),
            ("2999-12-01T08:00:00Z", "of this century"),
            ("2099-12-01T08:00:00Z\",\"x\":\"", "2099-12-01T08:00:00Z"),
        ] {
            let answer = parse_time(text).unwrap_err();
            assert!(answer.contains(nearest), "{text}: {answer}");
        }
    }

    #[test]
    fn spans_are_read_and_shown() {
        for (text, seconds) in [
            ("2h", 7_200),
            ("30m", 1_800),
            ("1d12h", 129_600),
            ("3d", 259_200),
            ("1h 30min", 5_400),
        ] {
            assert_eq!(parse_span(text).map(|span| span.as_secs()), Ok(seconds), "{text}");
        }
        for text in ["", "2", "-2h", "soon", "0s", "9999999999d", "d"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
        assert_eq!([5, 65, 3_700, 90_000].map(span), ["5 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }
}
