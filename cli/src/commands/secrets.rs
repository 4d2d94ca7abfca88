//! `secrets`: asks for all secrets, checks all of them, and only then writes.

pub(super) mod ask;

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    Context,
    args::SecretsArgs,
    error::{Error, Result, explain},
    given::Given,
    keys::{self, Keys},
    settings::{self, SECRETS, Setting, Settings, Stored},
    times::count,
};

/// A secret as it is and as it is to be.
struct Secret {
    setting: Setting,
    name: String,
    before: Option<String>,
    /// The KMS key that encrypts it.
    kms_key: Option<String>,
    /// The new value; `None` keeps the one there is.
    after: Option<String>,
    /// The other stacks that use it.
    users: Vec<String>,
}

impl Secret {
    /// What is to be written, under which KMS key.
    fn change(&self, kms_key: Option<&str>) -> Option<(&str, Option<String>)> {
        let kms_key = kms_key.map(str::to_owned).or_else(|| self.kms_key.clone());
        let before = self.before.as_deref();
        let after = self.after.as_deref().or(before)?;
        let is_change = Some(after) != before || kms_key != self.kms_key;
        is_change.then_some((after, kms_key))
    }
}

pub(crate) async fn run(context: &Context, args: &SecretsArgs) -> Result<()> {
    let terminal = &context.terminal;
    let given = Given::read(terminal)?;
    settings::check(&args.settings)?;
    if let Some(token) = &given.destination_token {
        let header = args.settings.destination_token_header.as_deref();
        ask::check_destination_token(token, header.unwrap_or(settings::AUTHORIZATION))?;
    }
    keys::chosen(given.webhook_key.as_deref())?;
    let settings = Settings::new(context.any_relay().await?, &args.settings)?;
    let mut secrets = terminal.during("reading the secrets", read(context, &settings)).await?;
    for secret in secrets.iter().filter(|secret| !secret.users.is_empty()) {
        terminal.say(&format!("{} is also used by {}.", secret.name, list(&secret.users)));
    }

    let [gladly, destination, webhook] = &mut secrets;
    let host = ask::host(terminal, &settings).await?;
    gladly.after =
        Some(ask::gladly_token(terminal, &settings, &given, host, gladly.before.as_deref()).await?);
    let bucket = settings.bucket();
    if let Some(url) = &bucket {
        let url = url.as_str();
        terminal.say(&format!("Deliveries are written to {url}, which needs no token."));
    } else {
        let before = destination.before.as_deref();
        let token = ask::destination_token(terminal, &settings, &given, before).await?;
        destination.after = Some(token);
    }
    let active = Keys::read(webhook.before.as_deref().unwrap_or_default()).active;
    webhook.after = ask::webhook_key(terminal, &settings, &given, &active).await?;

    let mut secrets = Vec::from(secrets);
    secrets.retain(|secret| bucket.is_none() || secret.setting != Setting::DestinationToken);
    let kms_key = args.kms_key.as_deref().filter(|key| !key.trim().is_empty());
    confirm(context, &secrets, kms_key, args.yes).await?;
    let written = write(context, &settings, &secrets, kms_key, active.len()).await?;

    let deploy = settings.relay.command("deploy");
    let webhook = settings.relay.command("webhook");
    terminal.say(&if settings.has_stack() {
        format!("The relay reads them within a minute. Next: {webhook} gives Gladly the URL and the key.")
    } else {
        format!("Next: make package, then {deploy}, then {webhook}.")
    });
    let kept: Vec<_> =
        secrets.iter().map(|secret| &secret.name).filter(|name| !written.contains(name)).collect();
    terminal.result("secrets", &json!({"written": written, "kept": kept}));
    Ok(())
}

/// Reads what there is, side by side.
async fn read(context: &Context, settings: &Settings) -> Result<[Secret; 3]> {
    let terminal = &context.terminal;
    let names = SECRETS.map(|secret| settings.name(secret));
    let [gladly, destination, webhook] = SECRETS;
    let (gladly, destination, webhook, kms_keys, users) = tokio::join!(
        settings.stored(terminal, gladly),
        settings.stored(terminal, destination),
        settings.stored(terminal, webhook),
        settings.kms_keys(&names),
        other_users(settings, &names),
    );
    let before = [gladly?, destination?, webhook?]
        .map(|stored: Option<Stored>| stored.map(|stored| stored.value));
    // Without the permission to read it, another key would silently replace it.
    let exists = before.iter().any(Option::is_some);
    let kms_keys = match kms_keys {
        Ok(keys) => keys,
        Err(_) if !exists => vec![None; names.len()],
        Err(error) => return Err(error),
    };
    let users = match users {
        Ok(users) => users,
        Err(error) => {
            terminal.remark(&format!(
                "Whether other stacks use these secrets is unknown: {}",
                error.sentence
            ));
            BTreeMap::new()
        }
    };
    let mut parts = names.into_iter().zip(before).zip(kms_keys);
    Ok(SECRETS.map(|setting| {
        let ((name, before), kms_key) = parts.next().unwrap_or_default();
        let users = users.get(&name).cloned().unwrap_or_default();
        Secret { setting, name, before, kms_key, after: None, users }
    }))
}

/// The other stacks of the account and region that use one of these names.
async fn other_users(
    settings: &Settings,
    names: &[String],
) -> Result<BTreeMap<String, Vec<String>>> {
    let cloudformation = aws_sdk_cloudformation::Client::new(&settings.relay.session.config);
    let mut stacks = cloudformation.describe_stacks().into_paginator().items().send();
    let mut users = BTreeMap::<String, Vec<String>>::new();
    while let Some(stack) = stacks.next().await {
        let stack = stack.map_err(|err| explain("could not list the stacks", &err))?;
        let stack_name = stack.stack_name.unwrap_or_default();
        if stack_name == settings.relay.name {
            continue;
        }
        let is_secret = |key: &str| SECRETS.iter().any(|secret| secret.parameter() == key);
        for parameter in stack.parameters.unwrap_or_default() {
            let value = parameter.parameter_value.unwrap_or_default();
            if is_secret(&parameter.parameter_key.unwrap_or_default()) && names.contains(&value) {
                let users = users.entry(value).or_default();
                if !users.contains(&stack_name) {
                    users.push(stack_name.clone());
                }
            }
        }
    }
    Ok(users)
}

/// Asks before a secret is replaced that another stack uses.
async fn confirm(
    context: &Context,
    secrets: &[Secret],
    kms_key: Option<&str>,
    yes: bool,
) -> Result<()> {
    let shared = secrets
        .iter()
        .filter(|secret| secret.change(kms_key).is_some() && !secret.users.is_empty())
        .map(|secret| format!("{}, which {} uses", secret.name, list(&secret.users)))
        .collect::<Vec<_>>();
    if shared.is_empty() {
        return Ok(());
    }
    context.terminal.confirm(&format!("Replace {}?", shared.join(", and ")), yes).await
}

/// Writes what has changed; returns the names.
async fn write<'a>(
    context: &Context,
    settings: &Settings,
    secrets: &'a [Secret],
    kms_key: Option<&str>,
    keys: usize,
) -> Result<Vec<&'a String>> {
    let mut written = Vec::new();
    for secret in secrets {
        let name = &secret.name;
        let Some((value, kms_key)) = secret.change(kms_key) else {
            let keys = match secret.setting {
                Setting::WebhookKeys => format!(", {}", count(keys as u64, "key")),
                _ => String::new(),
            };
            context.terminal.say(&format!("  {name:36} kept{keys}"));
            continue;
        };
        let writing = settings.store(name, value, kms_key.as_deref());
        context.terminal.during("writing", writing).await?;
        written.push(name);
        let names: Vec<_> = written.iter().map(|name| (*name).clone()).collect();
        let verb = if names.len() == 1 { "is" } else { "are" };
        context.holds(&format!("{} {verb} written", names.join(" and ")));
        context.terminal.say(&format!("  {name:36} written"));
    }
    Ok(written)
}

/// Stacks, for people.
fn list(stacks: &[String]) -> String {
    let noun = if stacks.len() == 1 { "the stack" } else { "the stacks" };
    format!("{noun} {}", stacks.join(", "))
}

/// What is missing without a terminal.
fn missing(variable: &str) -> Error {
    Error::usage(format!("{variable} is missing: enter it at a terminal, or export it."))
}
