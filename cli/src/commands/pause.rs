//! `pause` and `resume`.

use jiff::Timestamp;
use serde_json::json;
use shared::{BreakerState, Pause, PauseState, Status, Task};

use crate::{
    Context,
    args::PauseArgs,
    error::{Error, Result},
    relay::Relay,
    times::{minute, span},
};

pub(crate) async fn pause(context: &Context, args: &PauseArgs) -> Result<()> {
    let now = Timestamp::now();
    let until = match (args.until, args.for_) {
        (Some(until), _) if until <= now => {
            return Err(Error::usage(
                "--until is in the past: the pause would be over before it began.",
            ));
        }
        (Some(until), _) => Some(until),
        (None, Some(span)) => Some(to_second(now + span)),
        (None, None) => None,
    };
    let by = args.by.clone().filter(|by| !by.is_empty()).unwrap_or_else(login_name);
    let reason = args.reason.clone().filter(|reason| !reason.is_empty());
    let mut value = json!({"state": "paused", "by": by, "since": to_second(now)});
    for (name, text) in
        [("reason", reason.clone()), ("until", until.map(|until| until.to_string()))]
    {
        if let Some(text) = text {
            value[name] = text.into();
        }
    }
    let relay = context.relay().await?;
    let parameter = relay.output("PauseParameterName")?.to_owned();
    let before = relay.parameter(&parameter).await.ok().flatten().and_then(|found| found.value);
    if let Some(replaced) = before.and_then(|before| described(&before, now)) {
        context.terminal.say(&format!("This replaces a pause: {replaced}."));
    }
    context.if_stopped("\"gladly-relay status\" shows whether the pause was written");
    relay.write(&parameter, &value.to_string()).await?;
    context.if_stopped("");
    context.holds("the pause is written and takes effect within 15 s");
    context.terminal.say(&match until {
        Some(until) => format!("Paused until {}.", minute(until)),
        None => format!("Paused without an end: it lasts until \"{}\".", relay.command("resume")),
    });
    settle(context, &relay, "pause").await
}

pub(crate) async fn resume(context: &Context) -> Result<()> {
    let relay = context.relay().await?;
    let parameter = relay.output("PauseParameterName")?.to_owned();
    let breaker = format!("{parameter}-breaker");
    let (pause, open) = futures::join!(relay.parameter(&parameter), relay.parameter(&breaker));
    let value = |found: Result<Option<aws_sdk_ssm::types::Parameter>>| {
        found.ok().flatten().and_then(|found| found.value)
    };
    if let Some(lifted) = value(pause).and_then(|pause| described(&pause, Timestamp::now())) {
        context.terminal.say(&format!("This lifts a pause: {lifted}."));
    }
    let open = value(open).and_then(|text| match text.parse() {
        Ok(BreakerState::Open(open) | BreakerState::HalfOpen(open)) => Some(open),
        _ => None,
    });
    context.if_stopped("\"gladly-relay status\" shows whether the pause was lifted");
    relay.write(&parameter, "running").await?;
    context.holds("the pause is lifted");
    relay.write(&breaker, r#"{"state":"closed"}"#).await?;
    context.if_stopped("");
    context.holds("the pause is lifted, and extraction continues within a minute or two");
    if let Some(open) = open {
        context.terminal.say(&format!(
            "The circuit breaker was open for {} since {}: {}. If that cause persists, it opens again.",
            open.cause,
            minute(open.since),
            open.reason
        ));
    }
    settle(context, &relay, "resume").await
}

/// Has the controller switch the mapping, and shows the result. After a resume, a cause that still holds
/// extraction is a failure.
async fn settle(context: &Context, relay: &Relay, command: &str) -> Result<()> {
    let task = relay.task::<Status>(&Task::Reconcile);
    let what = "switching the event source mapping, which takes up to a minute";
    let status = context.terminal.during(what, task).await?;
    let body = &status.body;
    context.terminal.say(&format!(
        "Mapping {}, backlog {}.",
        body.mapping,
        crate::times::count(body.backlog, "event")
    ));
    context.terminal.result(command, &status);
    context.holds("");
    let held = body.state != shared::Extraction::Running;
    if command == "resume" && held {
        let reason = body.reason.clone().unwrap_or_else(|| "the reason is unknown".into());
        return Err(Error::failed(format!("extraction is still held: {reason}.")));
    }
    Ok(())
}

/// A pause in words, if the parameter holds one that is not over.
fn described(text: &str, now: Timestamp) -> Option<String> {
    let Ok(state) = text.parse::<PauseState>();
    state.held(now)?;
    let PauseState::Paused(Pause { by, reason, since, until }) = state else {
        return Some("the parameter was invalid, which counts as paused".into());
    };
    let mut words = vec![by.map_or_else(|| "by someone unknown".into(), |by| format!("by {by}"))];
    words.extend(since.map(|since| format!("since {}", minute(since))));
    words.extend(until.map(|until| {
        let left = u64::try_from(until.duration_since(now).as_secs()).unwrap_or_default();
        format!("until {} (in {})", minute(until), span(left))
    }));
    words.extend(reason.map(|reason| format!("reason: {reason}")));
    Some(words.join(", "))
}

/// To the second: people read it.
fn to_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The name that this program's user logged in with.
fn login_name() -> String {
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.trim().is_empty());
    let name =
        ["LOGNAME", "USER"].into_iter().find_map(set).unwrap_or_else(|| "an operator".into());
    name.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_described_and_a_running_relay_is_not() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(described("running", now), None);
        assert_eq!(described(r#"{"state":"paused","until":"2026-01-01T00:00:00Z"}"#, now), None);
        assert_eq!(described("paused", now).as_deref(), Some("by someone unknown"));
        assert_eq!(
            described(
                r#"{"state":"paused","by":"ada","reason":"audit","until":"2026-01-02T05:04:05Z"}"#,
                now
            )
            .as_deref(),
            Some("by ada, until 2026-01-02 05:04 UTC (in 2 h 0 min), reason: audit")
        );
        assert!(described("nonsense", now).unwrap().contains("invalid"));
    }
}
