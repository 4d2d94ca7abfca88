//! Whether anyone gets the alarms, and whether the account's quota is enough.

use super::{Check, Line};
use crate::error::{Result, explain};

/// How many functions the account must be able to run at once: what a burst of webhooks may need, with
/// two extractors and room for everything else in the account. A new account has 10.
const MIN_EXECUTIONS: i32 = 100;

pub(super) async fn examine(mut check: Check<'_>) -> Vec<Line> {
    let done = alarms(&mut check).await;
    check.end("the alarms", done)
}

async fn alarms(check: &mut Check<'_>) -> Result<()> {
    let relay = &check.settings.relay;
    if !check.is_deployed {
        return Ok(());
    }
    if relay.session.is_local() {
        check.unsure("the alarms: the emulated AWS sends none");
        return Ok(());
    }
    let Some(topic) = relay.outputs.get("AlarmTopicArn") else {
        check.unsure("the alarms: this stack has no topic that they are sent to");
        return Ok(());
    };
    let mut pages = aws_sdk_sns::Client::new(&relay.session.config)
        .list_subscriptions_by_topic()
        .topic_arn(topic)
        .into_paginator()
        .items()
        .send();
    let mut pending = None;
    while let Some(subscription) = pages.next().await {
        let subscription =
            subscription.map_err(|err| explain("could not list who gets the alarms", &err))?;
        if subscription.subscription_arn.is_some_and(|arn| arn.starts_with("arn:")) {
            check.good("the alarms have a subscriber");
            return Ok(());
        }
        pending = pending.or(subscription.endpoint);
    }
    match pending {
        Some(endpoint) => check.wrong(
            "the alarms have no confirmed subscriber",
            &format!("open the link in the mail that AWS sent to {endpoint}"),
        ),
        None => check.wrong(
            "the alarms have no subscriber",
            &format!("aws sns subscribe --topic-arn {topic} --protocol email --notification-endpoint ADDRESS"),
        ),
    }
    Ok(())
}

pub(super) async fn examine_quota(mut check: Check<'_>) -> Vec<Line> {
    let done = quota(&mut check).await;
    check.end("the account's quota of concurrent Lambda executions", done)
}

async fn quota(check: &mut Check<'_>) -> Result<()> {
    let session = &check.settings.relay.session;
    if !check.is_deployed || session.is_local() {
        return Ok(());
    }
    let found = aws_sdk_lambda::Client::new(&session.config).get_account_settings().send().await;
    let found = found.map_err(|err| explain("could not read the account's quota", &err))?;
    let limit = found.account_limit.map_or(0, |limit| limit.concurrent_executions);
    let what = "the account's quota of concurrent Lambda executions";
    if limit >= MIN_EXECUTIONS {
        check.good(format!("{what} is {limit}"));
    } else {
        check.wrong(
            &format!("{what} is {limit}, so a burst of webhooks is rejected"),
            "aws service-quotas request-service-quota-increase --service-code lambda --quota-code L-B99A9384 \
             --desired-value 1000",
        );
    }
    Ok(())
}
