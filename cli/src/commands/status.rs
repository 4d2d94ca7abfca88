//! `status`: what runs, what waits, what fails, and for how long that is safe.

use std::io::{self, IsTerminal as _, Write as _};

use jiff::Timestamp;
use serde_json::json;
use shared::{
    BreakerState, Document, Extraction, OpenState, RecoverySource, Status, Task, Upstream,
};
use tokio::time::{Duration, sleep};

use crate::{
    Context,
    activity::Activity,
    args::StatusArgs,
    deliveries::Failing,
    error::{Error, Result},
    relay::Relay,
    times::{ago, count, minute, span},
};

/// The interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// How late an event may be before that is worth a warning, in seconds.
const LATE_SECONDS: u64 = 600;
/// For how many minutes the backlog may grow, or wait without a delivery.
const BACKLOG_MINUTES: u64 = 10;

pub(crate) async fn run(context: &Context, args: &StatusArgs) -> Result<()> {
    let relay = context.relay().await?;
    loop {
        let report = context.terminal.during("asking the relay", Report::read(&relay)).await?;
        if args.watch && io::stdout().is_terminal() {
            let _ = write!(io::stdout(), "\x1b[H\x1b[2J");
        }
        report.show(context, &relay);
        if !args.watch {
            return report.verdict(args.check);
        }
        sleep(WATCH_INTERVAL).await;
    }
}

/// Everything that `status` shows.
pub(crate) struct Report {
    pub(crate) status: Document<Status>,
    pub(crate) activity: Activity,
    pub(crate) warnings: Vec<String>,
    /// The command that resumes, as it has to be typed.
    resume: String,
    now: Timestamp,
}

impl Report {
    pub(crate) async fn read(relay: &Relay) -> Result<Self> {
        let (status, activity) =
            futures::join!(relay.task::<Status>(&Task::Status), Activity::read(relay));
        Ok(Self::new(status?, activity, Timestamp::now(), |command| relay.command(command)))
    }

    fn new(
        status: Document<Status>,
        activity: Activity,
        now: Timestamp,
        command: impl Fn(&str) -> String,
    ) -> Self {
        let warnings = warnings(&status.body, &activity, now, &command);
        let resume = command("resume");
        Self { status, activity, warnings, resume, now }
    }

    fn show(&self, context: &Context, relay: &Relay) {
        for line in self.lines(relay) {
            context.terminal.say(&line);
        }
        for warning in &self.warnings {
            context.terminal.styled(anstyle::AnsiColor::Yellow, "Warning     ", warning);
        }
        context.terminal.say(&self.sentence());
        context.terminal.result(
            "status",
            &json!({
                "stack": relay.name, "region": relay.session.region,
                "status": self.status, "activity": self.activity, "warnings": self.warnings,
            }),
        );
    }

    fn verdict(&self, check: bool) -> Result<()> {
        match self.warnings.len() {
            0 => Ok(()),
            _ if !check => Ok(()),
            1 => Err(Error::wrong("one thing is wrong.")),
            many => Err(Error::wrong(format!("{many} things are wrong."))),
        }
    }

    /// One line for each thing that is known.
    fn lines(&self, relay: &Relay) -> Vec<String> {
        let Status { until, mapping, quarantined, .. } = &self.status.body;
        let mut lines = Vec::new();
        let mut line = |name: &str, text: String| lines.push(format!("{name:<12}{text}"));
        line(
            "Stack",
            format!(
                "{} in {}, version {}",
                relay.name, relay.session.region, self.status.relay_version
            ),
        );
        line("State", self.state());
        if let Some(reason) = &self.status.body.reason {
            line("Why", reason.clone());
        }
        if let Some(until) = until {
            let left = u64::try_from(until.duration_since(self.now).as_secs()).unwrap_or_default();
            line("Until", format!("{} (in {})", minute(*until), span(left)));
        } else if self.status.body.state == Extraction::Paused {
            line("Until", format!("no end: it lasts until \"{}\"", self.resume));
        }
        if let Some(breaker) = &self.status.body.breaker {
            line("Breaker", breaker_line(breaker));
        }
        line("Mapping", mapping.clone());
        lines.extend(self.backlog_lines());
        let mut line = |name: &str, text: String| lines.push(format!("{name:<12}{text}"));
        let reasons = self.status.body.quarantined_by_reason.iter().flatten();
        let found: u64 = reasons.clone().map(|(_, count)| count).sum();
        let reasons: Vec<_> = reasons.map(|(reason, count)| format!("{count} {reason}")).collect();
        let reasons =
            if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
        line("Quarantine", format!("{}{reasons}", count(found.max(*quarantined), "message")));
        line("Webhook", self.webhook());
        line("Last event", self.last_event());
        line(
            "Delivered",
            match self.activity.last_delivery_at {
                Some(at) => ago(at, self.now),
                None => "nothing in the last 14 days".into(),
            },
        );
        for recovery in &self.status.body.recoveries {
            let name = match recovery.source {
                RecoverySource::Backfill => "Backfill",
                RecoverySource::Import => "Import",
            };
            let to = recovery.to.map_or_else(|| "now on".to_owned(), minute);
            line(name, format!("{} to {to} is still to be queued", minute(recovery.from)));
        }
        for unknown in &self.activity.unknown {
            line("?", unknown.clone());
        }
        lines
    }

    fn state(&self) -> String {
        let Status { state, by, since, .. } = &self.status.body;
        let state = match state {
            Extraction::Running => "running",
            Extraction::Paused => "paused",
            Extraction::Breaker => "held by the circuit breaker",
        };
        let by = by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
        let since = since.map(|since| format!(", since {}", minute(since))).unwrap_or_default();
        format!("{state}{by}{since}")
    }

    fn backlog_lines(&self) -> Vec<String> {
        let status = &self.status.body;
        let mut lines = vec![format!(
            "{:<12}{}, {} of them in flight, {} delayed",
            "Backlog",
            count(status.backlog, "event"),
            status.in_flight,
            status.delayed
        )];
        if status.backlog > 0 {
            let age = span(status.oldest_event_age_seconds);
            let expires = span(status.expires_in_seconds);
            let renewed = if status.renews {
                "; renewed before that"
            } else {
                "; NOT renewed (RenewHeldEvents=false)"
            };
            lines.push(format!(
                "{:<12}at most {age} old, cannot expire within {expires}{renewed}",
                "Oldest"
            ));
            let held = if status.state == Extraction::Running { "" } else { " once it runs" };
            lines.push(format!("{:<12}about {}{held}", "Drain", span(status.drain_seconds)));
        }
        lines
    }

    fn webhook(&self) -> String {
        let Some(webhook) = &self.status.body.webhook else {
            return "not checked".into();
        };
        let checked = format!(" (checked {})", ago(webhook.checked_at, self.now));
        let state = if webhook.missing {
            "missing: Gladly has none with this relay's URL".to_owned()
        } else if let Some(at) = webhook.disabled_at_due_to_retry_limit.filter(|_| !webhook.enabled)
        {
            format!("DISABLED by Gladly at {}", minute(at))
        } else if !webhook.enabled {
            "DISABLED by hand at Gladly".into()
        } else {
            match [&*webhook.missing_events, &webhook.missing_erasures].concat().join(", ") {
                none if none.is_empty() => "enabled".into(),
                missing => format!("enabled, without {missing}"),
            }
        };
        state + &checked
    }

    fn last_event(&self) -> String {
        let Activity { last_event_at, last_event_key, unauthorized_last_hour, .. } = &self.activity;
        let mut text = match (last_event_at, last_event_key) {
            (Some(at), Some(key)) => format!("{}, with key {key}", ago(*at, self.now)),
            (Some(at), None) => ago(*at, self.now),
            _ => "none in the last 14 days".into(),
        };
        if *unauthorized_last_hour > 0 {
            let requests = count(*unauthorized_last_hour, "request");
            text = format!("{text}; {requests} rejected with 401 in the last hour");
        }
        text
    }

    /// The current state in a sentence, the same for the same state.
    fn sentence(&self) -> String {
        let Status { state, mapping, breaker, .. } = &self.status.body;
        match (state, &**mapping) {
            (Extraction::Running, _) if matches!(breaker, Some(BreakerState::HalfOpen(_))) => {
                "Extraction is half-open: the first delivery decides whether it runs or is held again.".into()
            }
            (Extraction::Running, "Enabled") if self.warnings.is_empty() => "Extraction is running.".into(),
            (Extraction::Running, "Enabled") => "Extraction is running, with warnings.".into(),
            (Extraction::Running, _) => "Extraction is about to run: the mapping is not enabled yet.".into(),
            (Extraction::Paused, "Disabled") => {
                "Extraction is paused: events are held, and none is received, fetched or delivered.".into()
            }
            (Extraction::Paused, _) => {
                "Extraction is paused: events are held, within 15 s in every running extractor.".into()
            }
            (Extraction::Breaker, _) => {
                let retry = breaker.as_ref().and_then(BreakerState::open_state);
                let retry = retry.map(|open| format!(" at {}", minute(open.retry_at)));
                format!(
                    "Extraction is held by the circuit breaker; events are safe. Retrying automatically{} (now: {}).",
                    retry.unwrap_or_default(),
                    self.resume
                )
            }
        }
    }
}

fn breaker_line(breaker: &BreakerState) -> String {
    match breaker {
        BreakerState::Open(OpenState { cause, reason, since, .. }) => {
            format!("open for {cause} since {}: {reason}", minute(*since))
        }
        BreakerState::HalfOpen(OpenState { cause, reason, .. }) => {
            format!("half-open, trying {cause} again after: {reason}")
        }
        BreakerState::Closed { .. } => "closed".into(),
        BreakerState::Invalid => "its parameter is malformed".into(),
    }
}

/// What is wrong, each in one clause with what to do.
fn warnings(
    status: &Status,
    activity: &Activity,
    now: Timestamp,
    command: &impl Fn(&str) -> String,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |warning: String| warnings.push(warning);
    if status.state == Extraction::Breaker {
        let open = status.breaker.as_ref().and_then(BreakerState::open_state);
        let cause = open.map_or_else(|| "an upstream".to_owned(), |open| open.cause.to_string());
        let who = match open.map(|open| open.cause) {
            Some(Upstream::Destination) => "the destination's operators, or its token",
            _ => "Gladly's token and permissions",
        };
        warn(format!("extraction is held because of {cause}: check {who}"));
    }
    for Failing { upstream, since, count: failures, error } in &activity.failing {
        let since = format!("since {} ({})", minute(*since), count(*failures, "failure"));
        warn(match upstream {
            Upstream::Destination => format!("deliveries have been failing {since}: {error}"),
            Upstream::Gladly => format!("fetching from Gladly has been failing {since}: {error}"),
        });
    }
    if let Some(late) = activity.lateness_seconds.filter(|late| *late > LATE_SECONDS) {
        warn(format!(
            "events arrive {} late: see Drain and the log (gladly-relay tail)",
            span(late)
        ));
    }
    let runs = status.state == Extraction::Running;
    let silent = activity.last_delivery_at.is_none_or(|at| now.duration_since(at).as_mins() >= 10);
    if runs
        && status.backlog > status.delayed
        && activity.backlog_minutes >= BACKLOG_MINUTES
        && silent
    {
        let waits = span(activity.backlog_minutes * 60);
        warn(format!(
            "events have been waiting for {waits} and none is delivered: gladly-relay tail"
        ));
    } else if runs && activity.backlog_grows_minutes >= BACKLOG_MINUTES {
        let grows = span(activity.backlog_grows_minutes * 60);
        warn(format!("the backlog has been growing for {grows}: see GladlyRequestsPerSecond"));
    }
    if let Some(webhook) = status.webhook.as_ref().filter(|webhook| !webhook.is_right()) {
        let webhook_command = command("webhook");
        warn(if webhook.missing {
            format!("Gladly has no webhook for this relay: {webhook_command}")
        } else if !webhook.enabled {
            format!(
                "the webhook is disabled at Gladly: {webhook_command}, then {}",
                command("backfill")
            )
        } else {
            format!("the webhook lacks subscriptions: {webhook_command}")
        });
    }
    if activity.are_all_rejected() {
        warn(format!(
            "requests are rejected with 401 and no event came in the last hour: {}",
            command("doctor")
        ));
    }
    if status.quarantined > 0 {
        warn(format!(
            "{} in quarantine: {}",
            count(status.quarantined, "message"),
            command("quarantine list")
        ));
    }
    let retention = status.oldest_event_age_seconds + status.expires_in_seconds;
    if status.backlog > 0 && status.expires_in_seconds < retention / 4 {
        let left = span(status.expires_in_seconds);
        warn(format!("events may expire in {left}: raise RetentionDays, then look at renewal"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn status() -> Status {
        serde_json::from_value(json!({
            "state": "running", "mapping": "Enabled", "backlog": 0, "inFlight": 0, "quarantined": 0,
            "oldestEventAgeSeconds": 0, "expiresInSeconds": 345_600, "drainSeconds": 0,
            "webhook": {"enabled": true, "checkedAt": "2026-01-02T03:00:00Z"},
        }))
        .unwrap()
    }

    type Change = fn(&mut Status, &mut Activity);

    #[test]
    fn everything_that_is_wrong_is_a_warning() {
        let now = at("2026-01-02T03:04:05Z");
        let warned = |change: Change| {
            let (mut status, mut activity) = (status(), Activity::default());
            change(&mut status, &mut activity);
            warnings(&status, &activity, now, &|command: &str| format!("gladly-relay {command}"))
        };
        assert_eq!(warned(|_, _| {}), Vec::<String>::new());
        let cases: [(Change, &str); 8] = [
            (
                |_, activity| {
                    activity.failing.push(Failing {
                        upstream: Upstream::Destination,
                        since: "2026-01-02T03:00:00Z".parse().unwrap(),
                        count: 60,
                        error: "the destination answered HTTP 500".into(),
                    });
                },
                "deliveries have been failing since 2026-01-02 03:00 UTC (60 failures): the destination answered HTTP 500",
            ),
            (|_, activity| activity.lateness_seconds = Some(900), "events arrive 15 min late"),
            (
                |status, activity| (status.backlog, activity.backlog_minutes) = (3, 12),
                "waiting for 12 min and none is delivered",
            ),
            (
                |status, activity| (status.backlog, activity.backlog_grows_minutes) = (3, 10),
                "growing for 10 min",
            ),
            (
                |status, _| status.webhook.as_mut().unwrap().enabled = false,
                "the webhook is disabled at Gladly",
            ),
            (
                |_, activity| {
                    activity.unauthorized_last_hour = 3;
                },
                "rejected with 401",
            ),
            (|status, _| status.quarantined = 1, "1 message in quarantine"),
            (
                |status, _| {
                    (status.backlog, status.oldest_event_age_seconds) = (1, 300_000);
                    status.expires_in_seconds = 45_600;
                },
                "may expire in 12 h 40 min",
            ),
        ];
        for (change, expected) in cases {
            let found = warned(change);
            assert!(found.len() == 1 && found[0].contains(expected), "{expected}: {found:?}");
        }
    }

    #[test]
    fn a_half_open_breaker_is_not_called_running() {
        let mut half_open = status();
        half_open.breaker = Some(
            r#"{"state":"half-open","cause":"destination","reason":"HTTP 500","since":"2026-01-02T03:00:00Z","retryAt":"2026-01-02T03:01:00Z","waitSeconds":60}"#
                .parse()
                .unwrap(),
        );
        let report = Report::new(
            Document::new(half_open),
            Activity::default(),
            at("2026-01-02T03:04:05Z"),
            str::to_owned,
        );
        assert!(report.sentence().starts_with("Extraction is half-open"));
        assert!(report.warnings.is_empty());
    }
}
