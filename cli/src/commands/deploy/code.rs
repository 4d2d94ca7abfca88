//! Code alone: shipping it without CloudFormation, and the way back.
//!
//! Before code is replaced, Lambda publishes it as a version of the function, which is what the way back
//! reads: it needs neither a checkout nor a build.

use aws_config::timeout::TimeoutConfig;
use aws_sdk_lambda::{
    Client,
    config::Builder,
    primitives::Blob,
    types::{FunctionConfiguration, LastUpdateStatus},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    Context,
    args::DeployArgs,
    commands::deploy::package::{Architecture, Package, code_sha256},
    error::{Error, Result, explain, full_stop},
    http::Http,
    relay::Relay,
    times,
};

/// How long an upload may take: a package over a slow line.
const UPLOAD_TIMEOUT: Duration = Duration::from_mins(5);
/// How long Lambda may take to put new code into use; it takes seconds.
const UPDATE_TIMEOUT: Duration = Duration::from_mins(2);
/// Between two looks at an update.
const INTERVAL: Duration = Duration::from_secs(1);
/// How the description of a kept version begins; the hash of what replaced it follows at the end.
const KEPT_PREFIX: &str = "replaced by gladly-relay deploy --code-only at ";

/// What a function runs.
struct Deployed {
    /// The function's name at Lambda.
    name: String,
    sha256: String,
    architecture: Architecture,
}

/// What happened to one function, for scripts.
#[derive(Serialize)]
struct Shipped {
    function: &'static str,
    changed: bool,
    /// The version that holds what was replaced, or what was gone back to.
    version: Option<String>,
}

/// Ships both functions' code.
pub(super) async fn ship(context: &Context, args: &DeployArgs, relay: Relay) -> Result<()> {
    let beside = args.template.parent().map(|folder| folder.join("target/lambda"));
    let folder = args.packages.clone().or(beside).unwrap_or_default();
    let packages = Package::both(&folder)?;
    let relay = found(context, relay).await?;
    let mut next = Vec::new();
    for package in packages {
        let deployed = look_up(&relay, package.function).await?;
        package.check(deployed.architecture, "")?;
        let zip = package.zip()?;
        if code_sha256(&zip) == deployed.sha256 {
            context.terminal.say(&format!("{} has this code already.", package.function));
        } else {
            next.push((package.function, deployed, zip));
        }
    }
    let names: Vec<_> = next.iter().map(|(function, ..)| *function).collect();
    if names.is_empty() {
        show(context, &[]);
        return Ok(());
    }
    let question = format!("Ship the code of {} to {}?", names.join(" and "), relay.name);
    context.terminal.confirm(&question, args.yes).await?;
    let mut shipped = Vec::new();
    for (function, deployed, zip) in next {
        let version = keep(&relay, function, &deployed, &code_sha256(&zip)).await?;
        replace(context, &relay, function, &deployed.name, zip).await?;
        context.holds(&format!("{function} has the new code"));
        context.terminal.say(&format!("{function}: shipped; version {version} keeps what it ran."));
        shipped.push(Shipped { function, changed: true, version: Some(version) });
    }
    context.holds("");
    let back = relay.command("deploy --roll-back");
    context
        .terminal
        .say(&format!("CloudFormation does not know of this code; \"{back}\" goes back."));
    show(context, &shipped);
    Ok(())
}

/// Goes back to the code that was replaced last.
pub(super) async fn roll_back(context: &Context, args: &DeployArgs, relay: Relay) -> Result<()> {
    let relay = found(context, relay).await?;
    let mut next = Vec::new();
    let mut reasons = Vec::new();
    for function in ["ingest-fn", "extractor-fn"] {
        let deployed = look_up(&relay, function).await?;
        let versions = versions(&relay, &deployed.name).await?;
        match previous(&deployed.sha256, &versions) {
            Ok(version) => next.push((function, deployed, version.clone())),
            Err(reason) => reasons.push(format!("{function} {reason}")),
        }
    }
    if next.is_empty() {
        return Err(Error::failed(format!(
            "there is nothing to go back to: {}.",
            reasons.join(", and ")
        )));
    }
    for reason in reasons {
        context.terminal.say(&format!("{reason}: left as it is."));
    }
    for (function, _, version) in &next {
        let description = version.description.as_deref().unwrap_or_default();
        let description = description.split(" by sha256 ").next().unwrap_or_default();
        let number = version.version.as_deref().unwrap_or_default();
        context.terminal.say(&format!("{function}: back to version {number} ({description})"));
    }
    context.terminal.confirm(&format!("Roll back {}?", relay.name), args.yes).await?;
    let mut shipped = Vec::new();
    for (function, deployed, version) in next {
        let number = version.version.unwrap_or_default();
        let sha256 = version.code_sha256.unwrap_or_default();
        let step = download(&relay, &deployed.name, &number, &sha256);
        let zip = context.terminal.during("fetching the former code", step).await?;
        replace(context, &relay, function, &deployed.name, zip).await?;
        context.holds(&format!("{function} has its former code"));
        shipped.push(Shipped { function, changed: true, version: Some(number) });
    }
    context.holds("");
    context.terminal.say(&format!("Rolled back: {} runs the former code.", relay.name));
    show(context, &shipped);
    Ok(())
}

fn show(context: &Context, shipped: &[Shipped]) {
    let changed = !shipped.is_empty();
    context.terminal.result("deploy", &json!({"changed": changed, "functions": shipped}));
}

/// The relay, deployed and not being changed: CloudFormation would fail, or undo what is shipped.
async fn found(context: &Context, relay: Relay) -> Result<Relay> {
    let session = relay.session;
    let relay = context.terminal.during("looking up the stack", Relay::find(session)).await?;
    let relay = relay.deployed()?;
    match relay.status.as_deref() {
        Some(status) if status.ends_with("IN_PROGRESS") => Err(Error::failed(format!(
            "{} is being changed ({status}); try again when that is done.",
            relay.name
        ))),
        _ => Ok(relay),
    }
}

fn client(relay: &Relay) -> Client {
    Client::new(&relay.session.config)
}

async fn configuration(relay: &Relay, function: &str, name: &str) -> Result<FunctionConfiguration> {
    let found = client(relay).get_function_configuration().function_name(name).send().await;
    let found = found.map_err(|err| explain(&format!("could not look up {function}"), &err))?;
    Ok(FunctionConfiguration::builder()
        .set_code_sha256(found.code_sha256)
        .set_architectures(found.architectures)
        .set_last_update_status(found.last_update_status)
        .set_last_update_status_reason(found.last_update_status_reason)
        .build())
}

async fn look_up(relay: &Relay, function: &str) -> Result<Deployed> {
    let output =
        if function == "ingest-fn" { "IngestFunctionName" } else { "ExtractorFunctionName" };
    let name = relay.output(output)?.to_owned();
    let found = configuration(relay, function, &name).await?;
    let architecture = found.architectures.unwrap_or_default();
    // Lambda's own default is x86_64.
    let architecture = architecture.first().map_or("x86_64", |architecture| architecture.as_str());
    let architecture = architecture.parse()?;
    Ok(Deployed { name, sha256: found.code_sha256.unwrap_or_default(), architecture })
}

/// Publishes what a function runs. Lambda returns the newest version if that is the same already.
async fn keep(
    relay: &Relay,
    function: &str,
    deployed: &Deployed,
    replaced_by: &str,
) -> Result<String> {
    let published = client(relay)
        .publish_version()
        .function_name(&deployed.name)
        .code_sha256(&deployed.sha256)
        .description(format!(
            "{KEPT_PREFIX}{} by sha256 {replaced_by}",
            times::shown(Timestamp::now())
        ))
        .send()
        .await
        .map_err(|err| explain(&format!("could not keep the present code of {function}"), &err))?;
    Ok(published.version.unwrap_or_default())
}

/// Replaces a function's code, and waits until Lambda runs it.
async fn replace(
    context: &Context,
    relay: &Relay,
    function: &str,
    name: &str,
    zip: Vec<u8>,
) -> Result<()> {
    let what = format!("could not replace the code of {function}");
    let patient = Builder::default()
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_TIMEOUT).build());
    context.if_stopped(&format!("the code of {function} may have been replaced"));
    let client = client(relay);
    let upload = client
        .update_function_code()
        .function_name(name)
        .zip_file(Blob::new(zip))
        .customize()
        .config_override(patient)
        .send();
    let uploaded = context.terminal.during(&format!("uploading {function}"), upload).await;
    uploaded.map_err(|err| explain(&what, &err))?;
    let started = Instant::now();
    let wait = async {
        while started.elapsed() < UPDATE_TIMEOUT {
            let found = configuration(relay, function, name).await?;
            match found.last_update_status {
                Some(LastUpdateStatus::Successful) => return Ok(()),
                Some(LastUpdateStatus::Failed) => {
                    let reason = found.last_update_status_reason.unwrap_or_default();
                    return Err(Error::failed(format!("{what}: {}", full_stop(&reason))));
                }
                _ => sleep(INTERVAL).await,
            }
        }
        Err(Error::failed(format!("{what}: Lambda is still updating it; check it in the console.")))
    };
    context.terminal.during(&format!("updating {function}"), wait).await
}

/// The published versions of a function, oldest first.
async fn versions(relay: &Relay, name: &str) -> Result<Vec<FunctionConfiguration>> {
    let mut pages = client(relay)
        .list_versions_by_function()
        .function_name(name)
        .into_paginator()
        .items()
        .send();
    let mut versions = Vec::new();
    while let Some(version) = pages.next().await {
        versions.push(version.map_err(|err| explain("could not list the versions", &err))?);
    }
    versions.retain(|version| number(version).is_some());
    versions.sort_by_key(number);
    Ok(versions)
}

fn number(version: &FunctionConfiguration) -> Option<u64> {
    version.version.as_deref()?.parse().ok()
}

/// The version to go back to: the newest, if the function runs what replaced it.
fn previous<'a>(
    runs: &str,
    versions: &'a [FunctionConfiguration],
) -> std::result::Result<&'a FunctionConfiguration, String> {
    let newest = versions.last().ok_or("has no version that --code-only kept")?;
    if newest.code_sha256.as_deref() == Some(runs) {
        return Err("runs the newest code that was kept".into());
    }
    let description = newest.description.as_deref().unwrap_or_default();
    match description.rsplit_once(" by sha256 ") {
        Some((start, shipped)) if start.starts_with(KEPT_PREFIX) && shipped != runs => {
            Err("runs code that something else than --code-only has put there since".into())
        }
        // Without that description the code was published by other means before it was replaced.
        _ => Ok(newest),
    }
}

/// Fetches a version's package.
async fn download(relay: &Relay, name: &str, version: &str, sha256: &str) -> Result<Vec<u8>> {
    let what = format!("could not fetch version {version} of {name}");
    let found = client(relay).get_function().function_name(name).qualifier(version).send().await;
    let found = found.map_err(|err| explain(&what, &err))?;
    let location = found.code.and_then(|code| code.location).unwrap_or_default();
    // The URL is as good as a password for some minutes, and is never shown.
    let answer = Http::new().send("GET", &location, &[], None).await;
    let answer = answer.map_err(|reason| Error::failed(format!("{what}: {reason}.")))?;
    if answer.status != 200 {
        return Err(Error::failed(format!("{what}: S3 answered HTTP {}.", answer.status)));
    }
    if code_sha256(&answer.body) != sha256 {
        return Err(Error::failed(format!("{what}: it was damaged on the way; try again.")));
    }
    Ok(answer.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: &str, sha256: &str, description: &str) -> FunctionConfiguration {
        FunctionConfiguration::builder()
            .version(number)
            .code_sha256(sha256)
            .description(description)
            .build()
    }

    #[test]
    fn the_way_back_leads_to_what_was_replaced_and_nowhere_else() {
        let kept = format!("{KEPT_PREFIX}2026-01-01 00:00:00 UTC by sha256 new");
        let versions = [version("1", "older", ""), version("2", "old", &kept)];
        let number = |runs: &str, versions: &[FunctionConfiguration]| {
            previous(runs, versions).map(|version| number(version).unwrap())
        };
        assert_eq!(number("new", &versions), Ok(2));
        assert!(number("old", &versions).unwrap_err().contains("runs the newest"), "already back");
        assert!(number("deployed", &versions).unwrap_err().contains("something else"));
        assert!(number("new", &[]).is_err());
        assert_eq!(number("new", &versions[..1]), Ok(1), "published by other means");
    }
}
