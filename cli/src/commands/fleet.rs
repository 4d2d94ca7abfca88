//! `fleet`: one line for each relay of the account and region.

use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use shared::{Document, Extraction, Status, Task};

use crate::{
    Context,
    error::{Result, explain},
    relay::Relay,
    session::Session,
    times::{count, span},
};

/// How many relays are asked at once.
const AT_ONCE: usize = 8;

pub(crate) async fn run(context: &Context) -> Result<()> {
    let session = Session::open_any(&context.global).await?;
    let region = session.region.clone();
    let relays = context.terminal.during("listing the stacks", relays(session)).await?;
    let asked = stream::iter(relays.into_iter().map(async |relay| {
        let status = relay.task::<Status>(&Task::Status).await;
        (relay, status)
    }));
    let asked = asked.buffered(AT_ONCE).collect::<Vec<_>>();
    let found = context.terminal.during("asking the relays", asked).await;
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "STACK",
        "STATE",
        "BACKLOG",
        "OLDEST",
        "EXPIRY",
        "BREAKER",
        "QUARANTINE",
        "WEBHOOK",
        "VERSION",
    ]);
    let mut result: Vec<Value> = Vec::new();
    for (relay, status) in &found {
        let row = status.as_ref().map_or_else(
            |error| {
                let mut row = vec![relay.name.clone(), format!("? {}", error.sentence)];
                row.resize(9, "-".into());
                row
            },
            |status| row(&relay.name, status),
        );
        table.add_row(row);
        let error = status.as_ref().err().map(|error| &error.sentence);
        result.push(json!({"stack": relay.name, "status": status.as_ref().ok(), "error": error}));
    }
    context.terminal.result("fleet", &json!({"region": region, "relays": result}));
    if !found.is_empty() {
        for line in table.lines() {
            context.terminal.say(line.trim_end());
        }
    }
    context.terminal.say(&format!("{} in {region}.", count(found.len() as u64, "relay")));
    Ok(())
}

/// Every stack with the outputs of a relay.
async fn relays(session: Session) -> Result<Vec<Relay>> {
    let cloudformation = aws_sdk_cloudformation::Client::new(&session.config);
    let mut stacks = cloudformation.describe_stacks().into_paginator().items().send();
    let mut relays = Vec::new();
    while let Some(stack) = stacks.next().await {
        let stack = stack.map_err(|err| explain("could not list the stacks", &err))?;
        let relay = Relay::of(&session, stack);
        if relay.is_deployed() {
            relays.push(relay);
        }
    }
    relays.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(relays)
}

fn row(name: &str, document: &Document<Status>) -> Vec<String> {
    let status = &document.body;
    let state = match status.state {
        Extraction::Running if status.mapping == "Enabled" => "running",
        Extraction::Running => "starting",
        Extraction::Paused => "paused",
        Extraction::Breaker => "held",
    };
    let waits = |text: String| if status.backlog == 0 { "-".into() } else { text };
    let breaker = status.breaker.as_ref().map_or("closed", |breaker| match breaker {
        shared::BreakerState::Open(_) => "open",
        shared::BreakerState::HalfOpen(_) => "half-open",
        shared::BreakerState::Closed { .. } => "closed",
        shared::BreakerState::Invalid => "malformed",
    });
    let webhook = match &status.webhook {
        None => "not checked",
        Some(webhook) if webhook.missing => "missing",
        Some(webhook) if !webhook.enabled => "DISABLED",
        Some(webhook) if !webhook.is_right() => "incomplete",
        Some(_) => "enabled",
    };
    vec![
        name.to_owned(),
        state.to_owned(),
        status.backlog.to_string(),
        waits(format!("≤ {}", span(status.oldest_event_age_seconds))),
        waits(span(status.expires_in_seconds)),
        breaker.to_owned(),
        status.quarantined.to_string(),
        webhook.to_owned(),
        document.relay_version.clone(),
    ]
}
