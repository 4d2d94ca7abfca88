//! The stack before, during and after a deployment.

use aws_sdk_cloudformation::{
    Client,
    types::{ResourceStatus, StackEvent},
};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    error::{Error, Result, explain, full_stop},
    relay::Relay,
};

/// The longest pause between two looks at a stack that is being changed.
const MAX_INTERVAL: Duration = Duration::from_secs(5);
/// For so long after the execution a status may still be the one before.
const STALE: Duration = Duration::from_secs(6);
/// So many looks in succession may fail.
const MAX_FAILURES: u32 = 5;

/// What a deployment finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Present {
    /// No stack, or an empty one that is left of a change which was not confirmed.
    Nothing,
    /// A stack that can be updated.
    Relay,
}

/// What there is; refuses a stack that cannot be deployed to, with what to do.
pub(super) async fn present(relay: &Relay) -> Result<Present> {
    let Some(status) = relay.status.as_deref() else { return Ok(Present::Nothing) };
    let (name, region) = (&relay.name, &relay.session.region);
    let delete = format!("delete it with \"sam delete --stack-name {name} --region {region}\"");
    let sentence = match status {
        "REVIEW_IN_PROGRESS" => return Ok(Present::Nothing),
        "ROLLBACK_COMPLETE" | "ROLLBACK_FAILED" | "CREATE_FAILED" => format!(
            "the first deployment of {name} failed ({status}), and CloudFormation does not update such a stack: \
             {delete}, and deploy again"
        ),
        "DELETE_FAILED" => format!(
            "{name} is deleted only in part ({status}): {delete}, which keeps what still cannot be deleted if you \
             choose so, and deploy again"
        ),
        "UPDATE_ROLLBACK_FAILED" => format!(
            "the last change of {name} could not be rolled back ({status}): choose \"Continue update rollback\" for \
             it in the CloudFormation console, and deploy again"
        ),
        "UPDATE_FAILED" => format!(
            "the last change of {name} stopped halfway ({status}): choose \"Roll back\" for it in the CloudFormation \
             console, and deploy again"
        ),
        _ if status.ends_with("IN_PROGRESS") => {
            return Err(Error::failed(format!(
                "{name} is being changed ({status}); deploy again when that is done."
            )));
        }
        _ if relay.is_deployed() => return Ok(Present::Relay),
        _ => {
            return Err(Error::usage(format!(
                "{name} is not a gladly-relay stack (missing outputs PauseParameterName, …), and deploying would \
                 replace what it holds; choose another --stack."
            )));
        }
    };
    let reason = first_failure(relay).await.ok().flatten();
    let reason = reason.map(|reason| format!(" The cause was: {}", full_stop(&reason)));
    Err(Error::failed(format!("{sentence}.{}", reason.unwrap_or_default())))
}

/// A change that CloudFormation executes.
pub(super) struct Update<'a> {
    relay: &'a Relay,
    client: Client,
    /// When the stack was changed last, before this one.
    changed_before: Option<aws_sdk_cloudformation::primitives::DateTime>,
    executed: Instant,
}

impl<'a> Update<'a> {
    /// Has CloudFormation execute a change set.
    pub(super) async fn execute(relay: &'a Relay, change_set: &str) -> Result<Self> {
        let client = Client::new(&relay.session.config);
        let mut update = Self { relay, client, changed_before: None, executed: Instant::now() };
        (_, update.changed_before) = update.describe().await?;
        update
            .client
            .execute_change_set()
            .change_set_name(change_set)
            .send()
            .await
            .map_err(|err| explain("could not execute the change", &err))?;
        update.executed = Instant::now();
        Ok(update)
    }

    async fn describe(
        &self,
    ) -> Result<(String, Option<aws_sdk_cloudformation::primitives::DateTime>)> {
        let mut stacks = self
            .client
            .describe_stacks()
            .stack_name(&self.relay.name)
            .into_paginator()
            .items()
            .send();
        let stack = stacks.next().await.transpose();
        let stack = stack.map_err(|err| explain("could not look up the stack", &err))?;
        let stack = stack.ok_or_else(|| {
            Error::failed(format!("the stack {} no longer exists.", self.relay.name))
        })?;
        let status = stack.stack_status.map(|status| status.as_str().to_owned());
        Ok((status.unwrap_or_default(), stack.last_updated_time))
    }

    /// Waits until it is done.
    pub(super) async fn wait(&self) -> Result<()> {
        let mut interval = Duration::from_millis(500);
        let mut failures = 0;
        let mut has_begun = false;
        loop {
            match self.describe().await {
                Ok((status, _)) if status.ends_with("IN_PROGRESS") => {
                    has_begun = true;
                    failures = 0;
                }
                Ok((status, changed)) => {
                    failures = 0;
                    let is_new = has_begun
                        || changed != self.changed_before
                        || self.executed.elapsed() > STALE;
                    match &*status {
                        "CREATE_COMPLETE" | "UPDATE_COMPLETE" if is_new => return Ok(()),
                        _ if is_new => return Err(self.failed(&status).await),
                        _ => {}
                    }
                }
                Err(_) if failures < MAX_FAILURES => failures += 1,
                Err(error) => return Err(error.after("CloudFormation continues by itself")),
            }
            sleep(interval).await;
            interval = (interval * 2).min(MAX_INTERVAL);
        }
    }

    async fn failed(&self, status: &str) -> Error {
        let name = &self.relay.name;
        let what = match status {
            "UPDATE_ROLLBACK_COMPLETE" => {
                format!("{name} was not updated, and is as it was before ({status})")
            }
            _ => format!("{name} was not deployed ({status})"),
        };
        match first_failure(self.relay).await {
            Ok(Some(reason)) => Error::failed(format!("{what}: {}", full_stop(&reason))),
            _ => Error::failed(format!(
                "{what}; its events in the CloudFormation console name the cause."
            )),
        }
    }
}

/// The first resource that failed in the newest change of the stack, and why.
async fn first_failure(relay: &Relay) -> Result<Option<String>> {
    let mut events = Client::new(&relay.session.config)
        .describe_stack_events()
        .stack_name(&relay.name)
        .into_paginator()
        .items()
        .send();
    let mut failure = None;
    // The newest comes first, so the last that is found is the first that failed.
    while let Some(event) = events.next().await {
        let event = event.map_err(|err| explain("could not read the events of the stack", &err))?;
        if begins_a_change(&event, &relay.name) {
            break;
        }
        let status = event.resource_status.as_ref().map(ResourceStatus::as_str);
        let reason = event.resource_status_reason.unwrap_or_default();
        let is_consequence = reason.contains("cancelled") || reason.starts_with("The following");
        if status.is_some_and(|status| status.ends_with("_FAILED")) && !is_consequence {
            let id = event.logical_resource_id.unwrap_or_default();
            failure = Some(if reason.is_empty() { id } else { format!("{id}: {reason}") });
        }
    }
    Ok(failure)
}

fn begins_a_change(event: &StackEvent, stack: &str) -> bool {
    let status = event.resource_status.as_ref().map(ResourceStatus::as_str);
    event.logical_resource_id.as_deref() == Some(stack)
        && matches!(status, Some("CREATE_IN_PROGRESS" | "UPDATE_IN_PROGRESS"))
}
