//! The operator's actions in a run, by the same means as on AWS.

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
    plan::{Action, Method},
};
use crate::stack::Function;
use testing::root;
use testing::{fault::Fault, server::lock};

/// How long an outage of SQS lasts.
const OUTAGE_DURATION: Duration = Duration::from_secs(12);

impl Soak<'_> {
    /// Performs the plan's actions.
    pub(super) async fn operate(&self, began: Instant) -> Result<(), SoakError> {
        let mut rng = self.plan.rng(5);
        let actions = self.plan.actions();
        let last_deploy = actions.iter().rposition(|(_, action)| *action == Action::Redeploy);
        for (number, (at, action)) in actions.into_iter().enumerate() {
            sleep_until((began + at).into()).await;
            let name = match action {
                Action::Pause(by) => {
                    self.pause(by).await?;
                    "pause"
                }
                Action::Resume(by) => {
                    self.resume(by).await?;
                    "resume"
                }
                Action::RotateIn => {
                    self.rotate_in(&mut rng).await?;
                    "key added"
                }
                Action::RotateOut => {
                    let key = lock(&self.keys).last().cloned().unwrap_or_default();
                    self.stack.put_secret(&format!("/{STACK}/webhook-keys"), &key).await?;
                    "key rotated"
                }
                Action::Redeploy => {
                    self.redeploy().await?;
                    self.spares.store(last_deploy == Some(number), Ordering::Relaxed);
                    "redeploy"
                }
                Action::Outage => {
                    let fault = Fault::status(503).on("POST /sqs/SendMessage");
                    self.proxy.traffic().fault(fault);
                    sleep(OUTAGE_DURATION).await;
                    // `disturb` adds the other faults again.
                    self.proxy.traffic().clear_faults();
                    "outage of SQS"
                }
            };
            *lock(&self.report).actions.entry(name).or_default() += 1;
        }
        Ok(())
    }

    async fn pause(&self, by: Method) -> Result<(), SoakError> {
        let written = async {
            match by {
                // A later error does not matter: the pause is written.
                Method::Command => drop(self.command("pause").await?),
                Method::Parameter | Method::ParameterEventLost => {
                    self.stack.set_pause(r#"{"state":"paused","by":"soak"}"#).await?;
                }
            }
            Ok(())
        };
        try_join!(written, self.paused())?;
        self.notify(by).await
    }

    /// Waits until the pause can be read, which is when it takes effect.
    async fn paused(&self) -> Result<(), SoakError> {
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

    pub(super) async fn resume(&self, by: Method) -> Result<(), SoakError> {
        // Later calls do not count as calls during the pause.
        if let Some((_, end)) = lock(&self.pauses).last_mut() {
            end.get_or_insert_with(Instant::now);
        }
        match by {
            Method::Command => drop(self.command("resume").await?),
            Method::Parameter | Method::ParameterEventLost => {
                self.stack.set_pause("running").await?;
            }
        }
        self.notify(by).await
    }

    /// Invokes the controller, as EventBridge does and the emulator does not.
    async fn notify(&self, by: Method) -> Result<(), SoakError> {
        if by == Method::Parameter {
            let detail = json!({"operation": "Update", "name": self.stack.pause_parameter(), "type": "String"});
            let event = json!({
                "version": "0", "id": "soak", "detail-type": "Parameter Store Change", "source": "aws.ssm",
                "resources": [], "detail": detail,
            });
            // It may fail or be killed: the schedule follows within a minute.
            self.stack.invoke(Function::Extractor, &event).await?;
        }
        Ok(())
    }

    /// Runs one of the operator's commands. Returns its error message if it fails.
    async fn command(&self, command: &'static str) -> Result<Option<String>, SoakError> {
        let mut program = Command::new(&self.program);
        if command == "pause" {
            program.args([command, "--by", "soak", "--reason", "to see what happens"]);
        } else {
            program.arg(command);
        }
        let output = program
            .args(["--stack", STACK])
            .current_dir(root())
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
        let before = lock(&self.report).actions.get("redeploy").copied().unwrap_or_default();
        let changed = [("DEBUG", "true"), ("INFO", "false")][before % 2];
        let settings =
            self.settings.clone().with("LogLevel", changed.0).with("DestinationGzip", changed.1);
        self.stack.update(&settings).await?;
        Ok(self.tune().await?)
    }

    /// The operator's last resume, after the end of all faults.
    pub(super) async fn final_resume(&self) -> Result<(), SoakError> {
        let mut complaint = None;
        // The first may still meet calls that hang.
        for _ in 0..3 {
            complaint = self.command("resume").await?;
            if complaint.is_none() {
                return Ok(());
            }
        }
        Err(SoakError::Command { command: "resume", complaint: complaint.unwrap_or_default() })
    }
}
