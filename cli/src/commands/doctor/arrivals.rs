//! What arrives at the endpoint: whether Gladly sends a key that is valid.

use jiff::Timestamp;

use super::{Check, Line};
use crate::{
    arrivals::{Arrivals, NO_METRICS},
    error::Result,
    keys::Keys,
    settings::Setting,
};

pub(super) async fn examine(mut check: Check<'_>) -> Vec<Line> {
    let done = arrivals(&mut check).await;
    check.end("what arrives", done)
}

async fn arrivals(check: &mut Check<'_>) -> Result<()> {
    if !check.is_deployed {
        return Ok(());
    }
    let now = Timestamp::now();
    let keys = check.settings.stored(check.terminal, Setting::WebhookKeys);
    let (arrivals, keys) = tokio::join!(Arrivals::read(&check.settings.relay, now), keys);
    let arrivals = match arrivals {
        Err(error) if error.sentence == NO_METRICS => {
            check.unsure(format!("what arrives: {}", NO_METRICS.trim_end_matches('.')));
            return Ok(());
        }
        arrivals => arrivals?,
    };
    // That they cannot be read is a line of its own.
    let keys = keys.ok().flatten().map_or(0, |keys| Keys::read(&keys.value).active.len());
    let text = arrivals.describe(keys, now);
    if arrivals.are_all_rejected() {
        let remedy = format!(
            "the webhook at Gladly sends another key, unless these are unauthorized requests: {} gives it the \
             current one",
            check.command("webhook")
        );
        check.wrong(&text, &remedy);
    } else if arrivals.last.is_none() || arrivals.unauthorized > 0 {
        check.unsure(text);
    } else {
        check.good(text);
    }
    Ok(())
}
