//! The destination's token, and the destination itself.

use super::{Check, Line};
use crate::{
    destination::{Probe, probe},
    error::Result,
    settings::Setting,
};

pub(super) async fn examine(mut check: Check<'_>) -> Vec<Line> {
    let done = destination(&mut check).await;
    check.end("the destination", done)
}

async fn destination(check: &mut Check<'_>) -> Result<()> {
    let name = check.settings.name(Setting::DestinationToken);
    let secrets = check.command("secrets");
    let Some(token) = check.settings.stored(check.terminal, Setting::DestinationToken).await?
    else {
        check.wrong(&format!("{name} holds no token of the destination"), &secrets);
        return Ok(());
    };
    let url = check.settings.find(Setting::DestinationUrl);
    let Some(url) = url.filter(|_| check.is_deployed) else {
        check.good(format!("{name} holds the destination's token"));
        return Ok(());
    };
    let header = check.settings.find(Setting::DestinationTokenHeader).unwrap_or_default();
    match probe(&url, &header, &token.value).await {
        Probe::Accepted => check.good(format!(
            "{name} holds a token that the destination {url} does not reject; whether it accepts deliveries \
             shows with the first"
        )),
        Probe::Rejected(status) => check.wrong(
            &format!("the destination {url} rejects the token of {name} (HTTP {status})"),
            &secrets,
        ),
        Probe::Unclear(status) => check.unsure(format!(
            "the destination {url} answers HTTP {status} with and without a token: whether the token is right \
             shows with a delivery"
        )),
        Probe::Unreachable(reason) => check.unsure(format!(
            "the destination {url} cannot be reached from here ({reason}): is DestinationUrl right?"
        )),
    }
    Ok(())
}
