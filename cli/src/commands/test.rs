//! `test`: a PING and a real event through the real endpoint, followed to the destination.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use shared::{Extraction, Id, Status, Task};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    Context,
    args::{SettingsArgs, TestArgs},
    commands::trace::recent_events,
    deliveries::DELIVERED,
    endpoint,
    error::{Error, Result},
    keys::Keys,
    logs::{Function, Log, LogLine},
    relay::Relay,
    settings::{Setting, Settings},
};

/// The line of an event that was quarantined, as docs/LOGGING.md lists it.
const QUARANTINED: &str = "quarantined an event";
/// How long the event may take to the destination.
const DELIVERY_TIMEOUT: Duration = Duration::from_mins(5);
/// The interval between two looks at the log.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long one look may take.
const LOOK_TIME: Duration = Duration::from_secs(20);

pub(crate) async fn run(context: &Context, args: &TestArgs) -> Result<()> {
    let settings = Settings::new(context.relay().await?, &SettingsArgs::default())?;
    let relay = &settings.relay;
    let stored = settings.stored(&context.terminal, Setting::WebhookKeys).await?;
    let keys = Keys::read(&stored.map(|stored| stored.value).unwrap_or_default());
    let key = keys.newest().ok_or_else(|| {
        let name = settings.name(Setting::WebhookKeys);
        Error::failed(format!("{name} holds no webhook key: {}.", relay.command("secrets")))
    })?;
    let ping = post(relay, key, &json!({"type": "PING"})).await?;
    step(context, "PING", "answered 200", ping);
    let conversation = match &args.conversation {
        Some(conversation) => conversation.clone(),
        None => newest_conversation(context, &settings).await?,
    };
    let id = format!("test-{:032x}", fastrand::u128(..));
    let began = Timestamp::now();
    let event = json!({
        "id": id, "type": "RELAY/TEST", "timestamp": format!("{began:.3}"),
        "content": {"conversationId": conversation},
    });
    let queued = post(relay, key, &event).await?;
    step(context, "webhook", &format!("queued, about conversation {conversation}"), queued);
    context.if_stopped("the event is delivered all the same");
    let status = relay.task::<Status>(&Task::Status).await?.body;
    if status.state != Extraction::Running {
        let reason = status.reason.unwrap_or_else(|| "paused".into());
        return Err(Error::failed(format!(
            "the event is queued and held: {reason}; it is delivered after {}.",
            relay.command("resume")
        )));
    }
    let sent = Instant::now();
    let delivered = delivered(context, relay, &id, began).await?;
    let took = Duration::try_from(delivered.at.duration_since(began)).unwrap_or(sent.elapsed());
    step(context, "destination", "accepted the delivery", took);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    context.terminal.result(
        "test",
        &json!({
            "eventId": id, "conversationId": conversation, "pingMs": ms(ping), "queuedMs": ms(queued),
            "deliveredMs": ms(took), "deliveryId": delivered.field("delivery.id"),
        }),
    );
    context.terminal.say("Everything works, from the endpoint to the destination.");
    Ok(())
}

fn step(context: &Context, what: &str, how: &str, took: Duration) {
    let took = format!("{:.2} s", took.as_secs_f64());
    context.terminal.mark(crate::terminal::Mark::Good, &format!("{what:<12} {took:>8}  {how}"));
}

/// Posts a webhook, and returns how long the answer took.
async fn post(relay: &Relay, key: &str, body: &Value) -> Result<Duration> {
    let began = Instant::now();
    match endpoint::post(relay, key, body).await? {
        200 => Ok(began.elapsed()),
        401 => Err(Error::denied(
            "the endpoint rejected the key with 401: it was written less than a minute ago, or ingest-fn reads another parameter.",
        )),
        status => Err(Error::failed(format!(
            "the endpoint answered HTTP {status}: the log of ingest-fn shows why ({}).",
            relay.command("tail --level warn")
        ))),
    }
}

/// The conversation of the newest event that Gladly lists.
async fn newest_conversation(context: &Context, settings: &Settings) -> Result<Id> {
    let gladly = settings.gladly(&context.terminal).await?;
    let events = context.terminal.during("reading Gladly's events", recent_events(&gladly)).await?;
    let newest = events.iter().rev().find_map(|event| {
        event["content"]["conversationId"].as_str().and_then(|id| id.parse().ok())
    });
    let local = settings.relay.session.local_conversation.as_ref().and_then(|id| id.parse().ok());
    newest.or(local).ok_or_else(|| {
        Error::failed("Gladly lists no event of the last 24 hours; pass --conversation ID.")
    })
}

/// Waits for the log line of the delivery with this event, or of its quarantine.
async fn delivered(
    context: &Context,
    relay: &Relay,
    id: &str,
    began: Timestamp,
) -> Result<LogLine> {
    let log = Log::of(relay, Function::Extractor);
    let (pattern, from) = (format!("\"{id}\""), began - SignedDuration::from_secs(5));
    let wait = async {
        loop {
            let lines = log.since(from, Some(&pattern), LOOK_TIME).await?;
            for (_, line) in lines {
                if line.message == DELIVERED && line.details().contains(id) {
                    return Ok(line);
                }
                if line.message == QUARANTINED && line.field("event.id") == Some(id) {
                    let [reason, detail] =
                        ["reason", "detail"].map(|name| line.field(name).unwrap_or_default());
                    return Err(Error::failed(format!(
                        "the event was quarantined, {reason}: {detail}. Correct the cause, then: {}.",
                        relay.command("quarantine redrive")
                    )));
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    };
    let waited = tokio::time::timeout(DELIVERY_TIMEOUT, wait);
    context.terminal.during("waiting for the delivery", waited).await.unwrap_or_else(|_| {
        Err(Error::failed(format!(
            "the event is queued but was not delivered within 5 minutes: {}.",
            relay.command("status")
        )))
    })
}
