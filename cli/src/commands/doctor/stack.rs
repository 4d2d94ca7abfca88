//! The stack, and the region that everything else would use.

use std::{env, fs};

use super::{Check, Line};
use crate::error::{Result, explain};

/// The files in which SAM keeps the options of a stack.
const SAM_CONFIG: &str = "samconfig";

pub(super) async fn examine(mut check: Check<'_>) -> Vec<Line> {
    let done = stack(&mut check).await;
    region(&mut check);
    check.end("the stack", done)
}

async fn stack(check: &mut Check<'_>) -> Result<()> {
    let relay = &check.settings.relay;
    let identity =
        aws_sdk_sts::Client::new(&relay.session.config).get_caller_identity().send().await;
    let owner = match identity {
        _ if relay.session.is_local() => "the emulated AWS".to_owned(),
        Ok(identity) => format!("account {}", identity.account.unwrap_or_default()),
        // Every login may ask who it is, unless a policy denies everything.
        Err(err) => {
            let error = explain("could not read the account", &err);
            check.unsure(error.sentence.trim_end_matches('.'));
            "this account".to_owned()
        }
    };
    let place = format!("stack {} in region {} of {owner}", relay.name, relay.session.region);
    match relay.status.as_deref() {
        None => {
            let deploy = check.command("deploy");
            check.wrong(
                &format!("there is no {place}"),
                &format!(
                    "pass --region NAME or log in to its account if it is elsewhere; {deploy} creates it"
                ),
            );
        }
        Some("CREATE_COMPLETE" | "UPDATE_COMPLETE") => check.good(place),
        Some(status) if status.ends_with("_IN_PROGRESS") => {
            check.unsure(format!("{place} is being changed ({status}); try again when that is done"));
        }
        Some("UPDATE_ROLLBACK_COMPLETE") => check.unsure(format!(
            "{place} works, but its last change was rolled back: its events in CloudFormation have the reason"
        )),
        Some(status) => {
            let what = format!("{place} is in {status}");
            let deploy = check.command("deploy");
            check.wrong(
                &what,
                &format!("its events in CloudFormation have the reason; {deploy} names the way out"),
            );
        }
    }
    Ok(())
}

/// Whether AWS's other programs, and SAM for this stack, use the same region.
fn region(check: &mut Check<'_>) {
    let session = &check.settings.relay.session;
    if session.is_default {
        return;
    }
    let (region, stack) = (session.region.clone(), session.stack.clone());
    for name in ["AWS_REGION", "AWS_DEFAULT_REGION"] {
        let other = env::var(name).unwrap_or_default();
        if !other.is_empty() && other != region {
            check.unsure(format!(
                "{name} is {other}, so other programs of AWS use that region instead of {region}: export \
                 {name}={region}"
            ));
        }
    }
    let Ok(folder) = fs::read_dir(".") else { return };
    for file in folder.flatten() {
        let path = file.path();
        let name = file.file_name().to_string_lossy().into_owned();
        if !name.starts_with(SAM_CONFIG) || path.extension().is_none_or(|end| end != "toml") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap_or_default();
        for other in regions_of(&text, &stack).into_iter().filter(|other| *other != region) {
            check.wrong(
                &format!("{name} has region {other} for the stack {stack}, which is in {region}"),
                &format!("correct its line \"region\", or SAM deploys to {other}"),
            );
        }
    }
}

/// The regions that a configuration of SAM has for a stack, by its sections.
fn regions_of(text: &str, stack: &str) -> Vec<String> {
    let mut found = Vec::new();
    for section in text.split("\n[") {
        let value = |wanted: &str| {
            section.lines().find_map(|line| {
                let (key, value) = line.split_once('=')?;
                let value = value.trim().trim_matches(['"', '\'']);
                (key.trim() == wanted).then(|| value.to_owned())
            })
        };
        if value("stack_name").as_deref() == Some(stack) {
            found.extend(value("region"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_of_a_section_is_that_of_its_stack() {
        let text = "version = 0.1\n[default.deploy.parameters]\nstack_name = \"acme\"\nregion = \"eu-west-1\"\n\
                    [other.deploy.parameters]\nstack_name='other'\nregion='us-east-1'\n";
        assert_eq!(regions_of(text, "acme"), ["eu-west-1"]);
        assert_eq!(regions_of(text, "other"), ["us-east-1"]);
        assert!(regions_of(text, "none").is_empty());
    }
}
