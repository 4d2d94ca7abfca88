//! The destination's token and the destination itself, or the bucket that deliveries are written to.

use shared::BucketUrl;

use super::{Check, Line};
use crate::{
    bucket::{self, Place},
    destination::{Probe, probe},
    error::Result,
    settings::Setting,
};

pub(super) async fn examine(mut check: Check<'_>) -> Vec<Line> {
    let done = match check.settings.bucket() {
        Some(url) => bucket(&mut check, &url).await,
        None => destination(&mut check).await,
    };
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

async fn bucket(check: &mut Check<'_>, url: &BucketUrl) -> Result<()> {
    let session = &check.settings.relay.session;
    let (name, url) = (url.bucket(), url.as_str());
    match bucket::find(session, name).await? {
        Place::Here => check.good(format!(
            "the destination {url} is a bucket in {}; whether the function may write there shows with the first \
             delivery",
            session.region
        )),
        Place::Elsewhere(region) => check.wrong(
            &format!("the bucket {name} is in {region}, and the stack in {}", session.region),
            "deploy with the DestinationUrl of a bucket in the stack's region",
        ),
        Place::Missing => check.wrong(
            &format!("there is no bucket {name}"),
            &format!("aws s3 mb s3://{name} --region {}", session.region),
        ),
    }
    Ok(())
}
