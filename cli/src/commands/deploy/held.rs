//! What a change must not take away: held events, and a pause. CloudFormation itself would do both
//! without a word.

use aws_sdk_sqs::types::QueueAttributeName;

use crate::{
    commands::deploy::change::{Change, Changes},
    error::{Error, Result, explain},
    relay::Relay,
};

/// Refuses a change that deletes held events or ends a pause.
pub(super) async fn check(relay: &Relay, changes: &Changes) -> Result<()> {
    let (events, pause) = tokio::join!(check_events(relay, changes), check_pause(relay, changes));
    events.and(pause)
}

async fn check_events(relay: &Relay, changes: &Changes) -> Result<()> {
    let queue = Queue::look_up(relay).await?;
    if queue.held == 0 {
        return Ok(());
    }
    if changes.resource("EventsQueue").is_some_and(may_vanish) {
        return Err(Error::failed(format!(
            "this change would replace or remove the events queue, which holds {}: wait until it is empty.",
            crate::times::count(queue.held, "event")
        )));
    }
    let parameter = changes
        .parameter("RetentionDays")
        .or(relay.parameters.get("RetentionDays").map(String::as_str));
    let days: Option<u64> = parameter.and_then(|days| days.parse().ok());
    match days {
        Some(days) if days * 86_400 < queue.retention_seconds => Err(Error::failed(format!(
            "a retention of {} (now {}) would delete the older ones of the {} held: wait until the queue is empty, \
             or leave RetentionDays as it is.",
            crate::times::count(days, "day"),
            queue.retention_seconds / 86_400,
            crate::times::count(queue.held, "event")
        ))),
        _ => Ok(()),
    }
}

/// Whether a resource may not be the same afterwards.
fn may_vanish(change: &Change) -> bool {
    change.action == "Remove"
        || matches!(change.replacement.as_deref(), Some("True" | "Conditional"))
}

/// The events queue.
struct Queue {
    retention_seconds: u64,
    /// Events, waiting or being processed.
    held: u64,
}

impl Queue {
    async fn look_up(relay: &Relay) -> Result<Self> {
        const HELD: [QueueAttributeName; 3] = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
            QueueAttributeName::ApproximateNumberOfMessagesDelayed,
        ];
        let found = aws_sdk_sqs::Client::new(&relay.session.config)
            .get_queue_attributes()
            .queue_url(relay.output("EventsQueueUrl")?)
            .attribute_names(QueueAttributeName::All)
            .send()
            .await
            .map_err(|err| explain("could not look up the events queue", &err))?;
        let attributes = found.attributes.unwrap_or_default();
        let number = |name: &QueueAttributeName| -> Result<u64> {
            attributes.get(name).and_then(|value| value.parse().ok()).ok_or_else(|| {
                Error::failed(format!(
                    "SQS does not report {name} of the events queue; deploy again."
                ))
            })
        };
        let held = HELD.iter().map(number).sum::<Result<u64>>()?;
        let retention_seconds = number(&QueueAttributeName::MessageRetentionPeriod)?;
        Ok(Self { retention_seconds, held })
    }
}

async fn check_pause(relay: &Relay, changes: &Changes) -> Result<()> {
    let writes = |change: &Change| change.is_written || may_vanish(change);
    let is_written = changes
        .resource("PauseParameter")
        .is_some_and(|change| change.action != "Add" && writes(change));
    if !is_written {
        return Ok(());
    }
    let pause = relay.parameter(relay.output("PauseParameterName")?).await?;
    let state = pause.and_then(|pause| pause.value);
    match state.as_deref().map(str::trim) {
        Some("running") | None => Ok(()),
        Some(_) => Err(Error::failed(format!(
            "extraction is paused, and this change would write \"running\" over it: {} first, then deploy.",
            relay.command("resume")
        ))),
    }
}
