//! `trace` and `replay`: where an event or a conversation is, and how to have it delivered again.

use aws_sdk_sqs::types::MessageAttributeValue;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use shared::{Id, Origin, QuarantineEntry, QuarantineList, QueueMessage, Task};

use crate::{
    Context,
    args::{ReplayArgs, SettingsArgs, TraceArgs},
    deliveries::DELIVERED,
    error::{Error, Result, explain},
    gladly::Gladly,
    logs::{Function, LogLine, lines_with},
    relay::Relay,
    settings::Settings,
    times::{count, shown},
};

/// What is known of an event or a conversation.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    deliveries: Vec<Delivery>,
    quarantined: Vec<QuarantineEntry>,
    /// What Gladly lists of the last 24 hours.
    listed: Vec<Listed>,
    /// What else the log has.
    log: Vec<Logged>,
    /// What could not be looked at, and why.
    unknown: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Delivery {
    id: String,
    at: Timestamp,
    events: Vec<String>,
    conversations: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    id: String,
    #[serde(rename = "type")]
    event_type: String,
    at: Option<Timestamp>,
    conversation: String,
    state: String,
}

#[derive(Debug, Serialize)]
struct Logged {
    at: Timestamp,
    function: &'static str,
    message: String,
    details: String,
}

pub(crate) async fn trace(context: &Context, args: &TraceArgs) -> Result<()> {
    let settings = Settings::new(context.relay().await?, &SettingsArgs::default())?;
    let relay = &settings.relay;
    let trace =
        context.terminal.during("searching", Box::pin(Trace::read(context, &settings, args))).await;
    context.terminal.result("trace", &trace);
    trace.show(context, relay, &args.id);
    Ok(())
}

impl Trace {
    async fn read(context: &Context, settings: &Settings, args: &TraceArgs) -> Self {
        let relay = &settings.relay;
        let (lines, quarantine, listed) = futures::join!(
            lines_with(relay, &args.id, args.since),
            relay.task::<QuarantineList>(&Task::Quarantine),
            listed(context, settings, &args.id),
        );
        let mut trace = Self::default();
        match lines {
            Ok(lines) => {
                for (function, line) in lines {
                    trace.note_line(function, line);
                }
            }
            Err(error) => trace.unknown.push(error.sentence),
        }
        match quarantine {
            Ok(found) => {
                let id = Some(args.id.as_str());
                let is_it = |entry: &QuarantineEntry| {
                    entry.conversation_id.as_deref() == id || entry.event_id.as_deref() == id
                };
                trace.quarantined = found.body.messages.into_iter().filter(is_it).collect();
            }
            Err(error) => trace.unknown.push(error.sentence),
        }
        match listed {
            Ok(listed) => trace.listed = listed,
            Err(error) => trace.unknown.push(error.sentence),
        }
        for at in 0..trace.listed.len() {
            trace.listed[at].state = trace.state(&trace.listed[at]);
        }
        trace
    }

    fn note_line(&mut self, function: Function, line: LogLine) {
        let ids = |name: &str| {
            let ids = line.fields.get(name).map(Value::to_string).unwrap_or_default();
            let ids = ids.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
            ids.filter(|id| !id.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        if line.message == DELIVERED {
            self.deliveries.push(Delivery {
                id: line.field("delivery.id").unwrap_or_default().to_owned(),
                at: line.at,
                events: ids("delivery.event_ids"),
                conversations: ids("delivery.conversation_ids"),
            });
        } else {
            let details = line.details();
            let (at, message) = (line.at, line.message);
            self.log.push(Logged { at, function: function.name(), message, details });
        }
    }

    /// What is known of an event that Gladly lists. SQS cannot be searched, so "queued or held" is what
    /// remains of an event that Gladly lists and that is neither delivered nor quarantined.
    fn state(&self, listed: &Listed) -> String {
        let of_event = self.deliveries.iter().find(|delivery| delivery.events.contains(&listed.id));
        if let Some(delivery) = of_event {
            return format!("delivered at {} in {}", shown(delivery.at), delivery.id);
        }
        let id = Some(&listed.id);
        if let Some(entry) = self.quarantined.iter().find(|entry| entry.event_id.as_ref() == id) {
            return format!("in quarantine as {} ({})", entry.reason, entry.id);
        }
        // A large delivery logs its first 100 events only.
        let later = self.deliveries.iter().find(|delivery| {
            let of_conversation = delivery.conversations.contains(&listed.conversation);
            of_conversation && listed.at.is_some_and(|at| delivery.at > at)
        });
        match later {
            Some(delivery) => {
                format!("its conversation was delivered later, at {}", shown(delivery.at))
            }
            None => "queued or held".into(),
        }
    }

    fn show(&self, context: &Context, relay: &Relay, id: &Id) {
        let say = |line: &str| context.terminal.say(line);
        for Delivery { id, at, events, conversations } in &self.deliveries {
            let what = format!(
                "{} on {}",
                count(events.len() as u64, "event"),
                count(conversations.len() as u64, "conversation")
            );
            say(&format!("delivered   {}  delivery {id}: {what}", shown(*at)));
        }
        for entry in &self.quarantined {
            say(&format!(
                "quarantine  {}  {}: {} ({})",
                shown(entry.received_at),
                entry.reason,
                entry.detail,
                relay.command(&format!("quarantine show {}", entry.id))
            ));
        }
        for Listed { id, event_type, at, state, .. } in &self.listed {
            let at = at.map_or_else(|| "-".into(), shown);
            say(&format!("Gladly      {at}  {event_type} {id}: {state}"));
        }
        for Logged { at, function, message, details } in &self.log {
            say(&format!("log         {}  {function}: {message}  {details}", shown(*at)));
        }
        for unknown in &self.unknown {
            say(&format!("?           {unknown}"));
        }
        say(&self.sentence(id));
    }

    fn sentence(&self, id: &Id) -> String {
        if let Some(last) = self.deliveries.last() {
            return format!("{id} was delivered, last at {}.", shown(last.at));
        }
        if !self.quarantined.is_empty() {
            return format!("{id} is in quarantine.");
        }
        if self.listed.is_empty() {
            return format!(
                "{id} was not seen: neither the log, the quarantine nor Gladly's list of the last 24 hours has it."
            );
        }
        format!(
            "{id} is queued or held: Gladly lists it, and it is neither delivered nor in quarantine."
        )
    }
}

/// What Gladly lists of the last 24 hours of this event or conversation.
async fn listed(context: &Context, settings: &Settings, id: &Id) -> Result<Vec<Listed>> {
    let events = recent_events(&settings.gladly(&context.terminal).await?).await?;
    let listed = events.iter().filter_map(|event| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let conversation = text(&event["content"]["conversationId"]);
        let own = text(&event["id"]);
        (own == id.as_str() || conversation == id.as_str()).then(|| Listed {
            id: own,
            event_type: text(&event["type"]),
            at: text(&event["timestamp"]).parse().ok(),
            conversation,
            state: String::new(),
        })
    });
    Ok(listed.collect())
}

/// The conversation events of the last 24 hours, oldest first.
pub(crate) async fn recent_events(gladly: &Gladly) -> Result<Vec<Value>> {
    // A minute less than Gladly's limit: clocks differ.
    let from = Timestamp::now() - SignedDuration::from_hours(24) + SignedDuration::from_mins(1);
    let path = format!("events?startAt={from:.3}&entities=CONVERSATION&entities=CONTACT");
    let answer = gladly.call("GET", &path, None).await?;
    if answer.status != 200 {
        return Err(Error::failed(format!(
            "Gladly does not list its events (HTTP {}).",
            answer.status
        )));
    }
    let lines = String::from_utf8_lossy(&answer.body).into_owned();
    Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

pub(crate) async fn replay(context: &Context, args: &ReplayArgs) -> Result<()> {
    let relay = context.relay().await?;
    let now = Timestamp::now();
    let event = json!({
        "type": "RELAY/IMPORTED",
        "id": format!("replay-{:032x}", fastrand::u128(..)),
        "timestamp": format!("{now:.3}"),
        "content": {"conversationId": args.conversation},
    });
    let text = event.to_string();
    let message =
        QueueMessage::wrap(&text, now, Origin::Backfill).and_then(|message| message.to_json());
    let message = message.map_err(|err| Error::failed(err.to_string()))?;
    let event_type = MessageAttributeValue::builder()
        .data_type("String")
        .string_value("RELAY/IMPORTED")
        .build()
        .map_err(|err| Error::failed(err.to_string()))?;
    let sent = aws_sdk_sqs::Client::new(&relay.session.config)
        .send_message()
        .queue_url(relay.output("EventsQueueUrl")?)
        .message_body(message)
        .message_attributes("type", event_type)
        .send()
        .await
        .map_err(|err| explain("could not queue the event", &err))?;
    let id = event["id"].as_str().unwrap_or_default();
    context.terminal.result("replay", &json!({"eventId": id, "messageId": sent.message_id}));
    context.terminal.say(&format!(
        "Queued: the conversation is delivered as it is now. Follow it: {}.",
        relay.command(&format!("trace {}", args.conversation))
    ));
    Ok(())
}
