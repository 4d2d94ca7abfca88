//! What the operator does to the relay in a run, by the same means as on AWS.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::json;
use tokio::{
    process::Command,
    time::{sleep, sleep_until},
    try_join,
};

use super::{
    STACK, Soak, SoakError,
    plan::{Act, By},
};
use crate::stack::Function;
use testing::root;
use testing::{fault::Fault, server::lock};

/// How long an outage of SQS lasts.
const OUTAGE_DURATION: Duration = Duration::from_secs(12);

impl Soak<'_> {
    /// What the operator does.
    pub(super) async fn operate(&self, began: Instant) -> Result<(), SoakError> {
        let mut rng = self.plan.rng(5);
        let acts = self.plan.acts();
        let last_deploy = acts.iter().rposition(|(_, act)| *act == Act::Redeploy);
        for (number, (at, act)) in acts.into_iter().enumerate() {
            sleep_until((began + at).into()).await;
            let name = match act {
                Act::Pause(by) => {
                    self.pause(by).await?;
                    "pause"
                }
                Act::Resume(by) => {
                    self.resume(by).await?;
                    "resume"
                }
                Act::RotateIn => {
                    self.rotate_in(&mut rng).await?;
                    "key added"
                }
                Act::RotateOut => {
                    let key = lock(&self.keys).last().cloned().unwrap_or_default();
                    self.stack.put_secret(&format!("/{STACK}/webhook-keys"), &key).await?;
                    "key rotated"
                }
                Act::Redeploy => {
                    self.redeploy().await?;
                    self.spares.store(last_deploy == Some(number), Ordering::Relaxed);
                    "redeploy"
                }
                Act::Outage => {
                    let fault = Fault::status(503).on("POST /sqs/SendMessage");
                    self.proxy.traffic().fault(fault);
                    sleep(OUTAGE_DURATION).await;
                    // The others are armed again in a moment.
                    self.proxy.traffic().clear_faults();
                    "outage of SQS"
                }
            };
            *lock(&self.ledger).acts.entry(name).or_default() += 1;
        }
        Ok(())
    }

    async fn pause(&self, by: By) -> Result<(), SoakError> {
        let written = async {
            match by {
                // What it complains of later does not matter: the pause is written.
                By::Command => drop(self.command("pause").await?),
                By::Parameter | By::Unheard => {
                    self.stack.set_pause(r#"{"state":"paused","by":"soak"}"#).await?;
                }
            }
            Ok(())
        };
        try_join!(written, self.held())?;
        self.notify(by).await
    }

    /// Waits until the pause can be read, from when on it holds.
    async fn held(&self) -> Result<(), SoakError> {
        let began = Instant::now();
        let parameter = self.stack.pause_parameter();
        while !self.stack.parameter(parameter).await?.is_some_and(|it| it.contains("paused")) {
            if began.elapsed() > Duration::from_mins(1) {
                let complaint = "nothing was written within a minute".to_owned();
                return Err(SoakError::Command { command: "pause", complaint });
            }
            sleep(Duration::from_millis(20)).await;
        }
        lock(&self.pauses).push((Instant::now(), None));
        Ok(())
    }

    pub(super) async fn resume(&self, by: By) -> Result<(), SoakError> {
        // No call from here on can be held against the relay.
        if let Some((_, end)) = lock(&self.pauses).last_mut() {
            end.get_or_insert_with(Instant::now);
        }
        match by {
            By::Command => drop(self.command("resume").await?),
            By::Parameter | By::Unheard => self.stack.set_pause("running").await?,
        }
        self.notify(by).await
    }

    /// What EventBridge would do, and the emulator does not.
    async fn notify(&self, by: By) -> Result<(), SoakError> {
        if by == By::Parameter {
            let detail = json!({"operation": "Update", "name": self.stack.pause_parameter(), "type": "String"});
            let event = json!({
                "version": "0", "id": "soak", "detail-type": "Parameter Store Change", "source": "aws.ssm",
                "resources": [], "detail": detail,
            });
            // It may fail, and may be killed: the schedule comes a minute later.
            self.stack.invoke(Function::Extractor, &event).await?;
        }
        Ok(())
    }

    /// One of the operator's commands; what it complains of, if it does.
    async fn command(&self, command: &'static str) -> Result<Option<String>, SoakError> {
        let output = Command::new("bash")
            .args(["tools/relay", command])
            .current_dir(root())
            .envs([("STACK", STACK), ("BY", "soak"), ("REASON", "to see what happens")])
            .env("AWS_ENDPOINT_URL", self.aws.emulator().endpoint())
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
            .envs([("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_REGION", "us-east-1")])
            .envs([("AWS_CONFIG_FILE", "/dev/null"), ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")])
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_SESSION_TOKEN")
            .output()
            .await?;
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Ok((!output.status.success()).then_some(complaint))
    }

    async fn rotate_in(&self, rng: &mut Rng) -> Result<(), SoakError> {
        let new: String = (0..40).map(|_| rng.alphanumeric()).collect();
        let both = {
            let mut keys = lock(&self.keys);
            let old = keys.last().cloned().unwrap_or_default();
            keys.push(new.clone());
            format!("{new}\n{old}")
        };
        self.stack.put_secret(&format!("/{STACK}/webhook-keys"), &both).await?;
        let url = format!("{}/api/v1/webhooks/{}", self.gladly.url(), self.webhook);
        reqwest::Client::builder()
            .no_proxy()
            .build()?
            .patch(url)
            .basic_auth(&self.settings.gladly_email, Some(&self.settings.gladly_token))
            .json(&json!({"headers": {"x-api-key": new}}))
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    async fn redeploy(&self) -> Result<(), SoakError> {
        let before = lock(&self.ledger).acts.get("redeploy").copied().unwrap_or_default();
        let changed = [("DEBUG", "true"), ("INFO", "false")][before % 2];
        let settings =
            self.settings.clone().with("LogLevel", changed.0).with("DestinationGzip", changed.1);
        self.stack.update(&settings).await?;
        Ok(self.tune().await?)
    }

    /// The operator's last resume, once all faults are over.
    pub(super) async fn final_resume(&self) -> Result<(), SoakError> {
        let mut complaint = None;
        // What hangs may still be in the way of the first.
        for _ in 0..3 {
            complaint = self.command("resume").await?;
            if complaint.is_none() {
                return Ok(());
            }
        }
        Err(SoakError::Command { command: "resume", complaint: complaint.unwrap_or_default() })
    }
}
