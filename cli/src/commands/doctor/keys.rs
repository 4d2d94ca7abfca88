//! The webhook keys, and the relay's endpoint.

use shared::KEY_LENGTH;

use super::{Check, Line};
use crate::{
    endpoint::{ping, webhook_url},
    error::Result,
    keys::Keys,
    settings::Setting,
};

pub(super) async fn examine(mut check: Check<'_>) -> Vec<Line> {
    let done = keys(&mut check).await;
    check.end("the webhook keys", done)
}

async fn keys(check: &mut Check<'_>) -> Result<()> {
    let name = check.settings.name(Setting::WebhookKeys);
    let stored = check.settings.stored(check.terminal, Setting::WebhookKeys).await?;
    let keys = Keys::read(&stored.map_or_else(String::new, |stored| stored.value));
    if keys.active.is_empty() {
        check.wrong(
            &format!("{name} holds no webhook key of {KEY_LENGTH} characters or more"),
            &check.command("secrets"),
        );
        return Ok(());
    }
    let rotate = check.command("rotate-key");
    if let Some((line, reason)) = keys.ignored.first() {
        check
            .wrong(&format!("{name} holds a line that is ignored, line {line}: {reason}"), &rotate);
    } else if keys.active.len() == 1 {
        check.good(format!("{name} holds one webhook key"));
    } else {
        check.good(format!("{name} holds two webhook keys; {rotate} continues the rotation"));
    }
    if check.is_deployed {
        let relay = &check.settings.relay;
        let pings = keys.active.iter().map(|key| ping(relay, key, 1));
        futures::future::try_join_all(pings).await?;
        let url = webhook_url(relay)?;
        check.good(format!("the relay answers a PING at {url}"));
    }
    Ok(())
}
