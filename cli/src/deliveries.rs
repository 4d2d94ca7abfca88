//! How deliveries went lately, by extractor-fn's log.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::Duration;

use crate::{
    error::Result,
    logs::{Function, Log, LogLine},
    relay::Relay,
};

/// How far back failures count.
const LATELY: SignedDuration = SignedDuration::from_mins(15);
/// How long the log may be read for.
const LOG_TIME: Duration = Duration::from_secs(4);
/// The line of a delivery that succeeded, as docs/LOGGING.md lists it.
pub(crate) const DELIVERED: &str = "delivered";
/// The lines of transient failures, and what fails.
const FAILURES: [(&str, Upstream); 2] = [
    ("could not deliver; the records return to the queue", Upstream::Destination),
    ("could not fetch a conversation; its records return to the queue", Upstream::Gladly),
];

pub(crate) use shared::Upstream;

/// The deliveries of the last 15 minutes.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// Attempts that failed, oldest first.
    pub(crate) failed: Vec<(Upstream, LogLine)>,
    /// When one last succeeded.
    pub(crate) delivered_at: Option<Timestamp>,
}

/// An upstream that fails, while no delivery has succeeded since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Failing {
    pub(crate) upstream: Upstream,
    /// The first failure since the last success; what was not looked at may have older ones.
    pub(crate) since: Timestamp,
    /// How many failures.
    pub(crate) count: u64,
    /// How the last one failed.
    pub(crate) error: String,
}

impl Deliveries {
    pub(crate) async fn read(relay: &Relay, now: Timestamp) -> Result<Self> {
        let messages = FAILURES.map(|(message, _)| message).into_iter().chain([DELIVERED]);
        let terms: Vec<_> =
            messages.map(|message| format!("($.message = \"{message}\")")).collect();
        let pattern = format!("{{ {} }}", terms.join(" || "));
        let log = Log::of(relay, Function::Extractor);
        let lines = Box::pin(log.since(now - LATELY, Some(&pattern), LOG_TIME)).await?;
        Ok(Self::of(lines.into_iter().map(|(_, line)| line).collect()))
    }

    fn of(mut lines: Vec<LogLine>) -> Self {
        lines.sort_by_key(|line| line.at);
        let mut deliveries = Self::default();
        for line in lines {
            let failure = FAILURES.iter().find(|(message, _)| *message == line.message);
            if let Some((_, upstream)) = failure {
                deliveries.failed.push((*upstream, line));
            } else if line.message == DELIVERED {
                deliveries.delivered_at = Some(line.at);
            }
        }
        deliveries
    }

    /// What has been failing since the last success.
    pub(crate) fn failing(&self) -> Vec<Failing> {
        let failing = Upstream::BOTH.map(|upstream| {
            let failed = |(of, line): &&(Upstream, LogLine)| {
                *of == upstream && Some(line.at) > self.delivered_at
            };
            let failed: Vec<_> = self.failed.iter().filter(failed).map(|(_, line)| line).collect();
            let (first, last) = (failed.first()?, failed.last()?);
            Some(Failing {
                upstream,
                since: first.at,
                count: failed.len() as u64,
                error: reason(last).to_owned(),
            })
        });
        failing.into_iter().flatten().collect()
    }
}

/// Why an attempt failed.
pub(crate) fn reason(line: &LogLine) -> &str {
    line.field("error").unwrap_or("the log has no reason").trim_end_matches('.')
}
