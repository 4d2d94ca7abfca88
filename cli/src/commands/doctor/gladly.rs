//! The credentials and the webhook at Gladly.

use shared::{ERASURE_EVENT_TYPES, REQUIRED_EVENT_TYPES};

use super::{Check, Line, arrivals};
use crate::{
    endpoint::webhook_url,
    error::Result,
    gladly_webhook::{NO_ERASURES, Webhook},
    terminal::Mark,
};

pub(super) async fn examine(mut check: Check<'_>, further: Check<'_>) -> Vec<Line> {
    let (done, mut further) = tokio::join!(gladly(&mut check), arrivals::examine(further));
    let mut lines = check.end("Gladly", done);
    if lines.iter().any(|line| line.mark == Mark::Wrong) {
        // What came before proves nothing about a webhook that is wrong now.
        let good = further.iter_mut().filter(|line| line.mark == Mark::Good);
        good.for_each(|line| line.mark = Mark::Unsure);
    }
    lines.append(&mut further);
    lines
}

async fn gladly(check: &mut Check<'_>) -> Result<()> {
    let gladly = check.settings.gladly(check.terminal).await?;
    let (organization, webhooks) =
        tokio::join!(gladly.organization(), async { gladly.webhooks().await });
    let organization = organization?;
    check.good(format!(
        "Gladly at {} knows {}: organisation {organization}",
        gladly.host, gladly.email
    ));
    if !check.is_deployed {
        return Ok(());
    }
    let url = webhook_url(&check.settings.relay)?;
    match crate::gladly_webhook::find(webhooks?, &url) {
        Some(webhook) => examine_webhook(check, &webhook),
        None => {
            check.wrong(&format!("Gladly has no webhook for {url}"), &check.command("webhook"));
        }
    }
    Ok(())
}

fn examine_webhook(check: &mut Check<'_>, webhook: &Webhook) {
    let remedy = check.command("webhook");
    let what = format!("the webhook {} at Gladly", webhook.name());
    let before = check.lines.len();
    if let Some(since) = webhook.disabled_at() {
        check.wrong(
            &format!("{what} was disabled by Gladly at {since}, after five failures of one event"),
            &remedy,
        );
    } else if !webhook.is_enabled() {
        check.wrong(&format!("{what} is disabled"), &remedy);
    }
    match webhook.key_headers()[..] {
        [] => check.wrong(&format!("{what} sends no header x-api-key"), &remedy),
        [_] => {}
        ref names => check.wrong(
            &format!("{what} sends {}, and the relay rejects both", names.join(" and ")),
            &format!("remove them at Gladly, then {remedy}"),
        ),
    }
    let events = webhook.events();
    let missing: Vec<_> =
        REQUIRED_EVENT_TYPES.into_iter().filter(|kind| !events.contains(kind)).collect();
    if !missing.is_empty() {
        check.wrong(&format!("{what} lacks {}", missing.join(", ")), &remedy);
    }
    let missing: Vec<_> =
        ERASURE_EVENT_TYPES.into_iter().filter(|kind| !events.contains(kind)).collect();
    if check.settings.relay.forwards_erasures() && !missing.is_empty() {
        check.unsure(format!(
            "{what} lacks {}: {NO_ERASURES}; {remedy}, which shows whether Gladly offers them to your organisation",
            missing.join(", ")
        ));
    }
    if check.lines.len() == before {
        check.good(format!("{what} is enabled, with the relay's events and the header x-api-key"));
    }
}
