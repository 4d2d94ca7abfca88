//! Whether events are extracted, and whether their deliveries succeed.

use aws_sdk_lambda::Client as Lambda;
use jiff::Timestamp;
use shared::{BreakerState, PauseState};

use super::{Check, Line};
use crate::{
    deliveries::{Deliveries, reason},
    error::{Result, explain},
    terminal::Mark,
    times::{ago, count, minute, shown},
};

pub(super) async fn examine(mut check: Check<'_>, mut further: Check<'_>) -> Vec<Line> {
    let (done, further_done) = tokio::join!(extraction(&mut check), deliveries(&mut further));
    let mut lines = check.end("extraction", done);
    let mut further = further.end("the deliveries", further_done);
    if lines.iter().any(|line| line.mark != Mark::Good) {
        // That nothing fails proves nothing where nothing may run.
        further.retain(|line| line.mark != Mark::Good);
    }
    lines.append(&mut further);
    lines
}

async fn extraction(check: &mut Check<'_>) -> Result<()> {
    if !check.is_deployed {
        return Ok(());
    }
    let relay = &check.settings.relay;
    let name = relay.output("PauseParameterName")?.to_owned();
    let breaker_name = format!("{name}-breaker");
    let mapping_id = relay.output("EventsMappingId")?;
    let (pause, breaker, mapping) = tokio::join!(
        relay.parameter(&name),
        relay.parameter(&breaker_name),
        Lambda::new(&relay.session.config).get_event_source_mapping().uuid(mapping_id).send()
    );
    let now = Timestamp::now();
    let value =
        |parameter: Option<aws_sdk_ssm::types::Parameter>| parameter.and_then(|it| it.value);
    let pause: PauseState =
        value(pause?).unwrap_or_default().parse().unwrap_or(PauseState::Invalid);
    let breaker = breaker.map(|breaker| match value(breaker) {
        Some(text) => text.parse().unwrap_or(BreakerState::Invalid),
        None => BreakerState::ABSENT,
    });
    let mut is_held = examine_pause(check, &name, &pause, now);
    match breaker {
        Ok(breaker) => is_held |= examine_breaker(check, &breaker_name, &breaker, now),
        Err(error) => check.lines.push(super::unfinished("the circuit breaker", &error)),
    }
    let mapping =
        mapping.map_err(|err| explain("could not read the event source mapping", &err))?;
    examine_mapping(check, mapping.state.as_deref().unwrap_or_default(), is_held);
    Ok(())
}

/// Whether the pause holds extraction.
fn examine_pause(check: &mut Check<'_>, name: &str, pause: &PauseState, now: Timestamp) -> bool {
    let resume = check.command("resume");
    match (pause, pause.held(now)) {
        (_, None) => false,
        (PauseState::Paused(pause), Some(_)) => {
            let by = pause.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
            let since = pause.since.map_or_else(String::new, |at| format!(" since {}", shown(at)));
            let reason = pause.reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
            let end = match pause.until {
                Some(until) => {
                    format!("it ends automatically at {}, and {resume} ends it now", shown(until))
                }
                None => format!("{resume} ends it"),
            };
            check
                .unsure(format!("extraction is paused{by}{since}{reason}; events are held: {end}"));
            true
        }
        (_, Some(_)) => {
            check.wrong(
                &format!("{name} is neither \"running\" nor \"paused\", which counts as paused"),
                &resume,
            );
            true
        }
    }
}

/// Whether the circuit breaker holds extraction.
fn examine_breaker(
    check: &mut Check<'_>,
    name: &str,
    breaker: &BreakerState,
    now: Timestamp,
) -> bool {
    match breaker {
        BreakerState::Closed { .. } => false,
        BreakerState::Open(open) => {
            let resume = check.command("resume");
            check.wrong(
                &format!(
                    "the circuit breaker is open since {}: {}",
                    shown(open.since),
                    open.reason.trim_end_matches('.')
                ),
                &format!(
                    "remove the cause; it is retried automatically at {}, and {resume} retries it now",
                    shown(open.retry_at)
                ),
            );
            true
        }
        BreakerState::HalfOpen(open) => {
            check.unsure(format!(
                "the circuit breaker is half-open, open since {}: {}; the next delivery shows whether the cause \
                 still exists",
                ago(open.since, now),
                open.reason.trim_end_matches('.')
            ));
            false
        }
        BreakerState::Invalid => {
            check.unsure(format!(
                "{name} is malformed, which holds extraction until the relay resets it within minutes"
            ));
            true
        }
    }
}

fn examine_mapping(check: &mut Check<'_>, state: &str, is_held: bool) {
    match (is_held, state) {
        (false, "Enabled") => {
            check.good("extraction is running; the event source mapping is Enabled");
        }
        (false, "Enabling" | "Updating" | "Creating") => {
            check.unsure(format!("the event source mapping is {state}; try again in a minute"));
        }
        (false, _) => {
            let (resume, status) = (check.command("resume"), check.command("status"));
            check.wrong(
                &format!("the event source mapping is {state} although nothing holds extraction"),
                &format!("{resume}; if it stays so, {status} and the log of extractor-fn"),
            );
        }
        // It follows within a minute.
        (true, "Enabled") => check.unsure(
            "the event source mapping is still Enabled; the relay disables it within minutes, and holds the \
             events until then too",
        ),
        (true, _) => {}
    }
}

async fn deliveries(check: &mut Check<'_>) -> Result<()> {
    if !check.is_deployed {
        return Ok(());
    }
    let deliveries = Deliveries::read(&check.settings.relay, Timestamp::now()).await?;
    let Some((upstream, latest)) = deliveries.failed.last() else {
        check.good("no delivery failed in the last 15 minutes");
        return Ok(());
    };
    let error = reason(latest);
    let failed = format!(
        "{} failed in the last 15 minutes, the last one at {}",
        count(deliveries.failed.len() as u64, "delivery attempt"),
        minute(latest.at)
    );
    if deliveries.failing().is_empty() {
        check.unsure(format!("{failed} ({error}); others succeeded since"));
    } else {
        let status = check.command("status");
        let remedy = format!(
            "{error}; correct that at {upstream}; events are safe and retried, and {status} shows for how long"
        );
        check.wrong(&format!("{failed}, and none succeeded since"), &remedy);
    }
    Ok(())
}
