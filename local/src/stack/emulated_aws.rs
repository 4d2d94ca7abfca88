//! An emulated AWS from which stacks are deployed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use reqwest::Client;
use testing::proxy::Proxy;

use crate::{
    emulator::{Emulator, EmulatorError, Options, texts},
    stack::{Artifacts, Settings, Stack, StackError, artifacts::package, put_secret},
};

/// How long a stack may take; it needs about a second.
const STACK_TIMEOUT: Duration = Duration::from_mins(1);

/// An emulated AWS that holds the packaged template. Any number of stacks can be deployed from it.
pub struct EmulatedAws {
    pub(super) emulator: Emulator,
    pub(super) artifacts: Artifacts,
    /// The URL it is at.
    pub(super) template: String,
    /// As the emulator's, it keeps no connections.
    pub(super) http: Client,
}

impl EmulatedAws {
    /// Starts an emulator and uploads the binaries to it. It logs to `.local/<name>/emulator.log`.
    pub async fn start(name: &str, artifacts: &Artifacts) -> Result<Self, StackError> {
        Self::start_behind(name, artifacts, None).await
    }

    /// The same with a proxy between the functions and the AWS they call.
    pub async fn start_behind(
        name: &str,
        artifacts: &Artifacts,
        proxy: Option<&Proxy>,
    ) -> Result<Self, StackError> {
        Self::start_with(&Options { proxy, ..Options::named(name) }, artifacts).await
    }

    /// The same with other options of the emulator.
    pub async fn start_with(
        options: &Options<'_>,
        artifacts: &Artifacts,
    ) -> Result<Self, StackError> {
        let emulator = Emulator::start(options).await?;
        emulator.put_object("/artifacts", Vec::new()).await?;
        let artifacts = artifacts.clone();
        let template = package(&emulator, &artifacts, "first").await?;
        let http = Client::builder()
            .no_proxy()
            .pool_max_idle_per_host(0)
            .build()
            .map_err(EmulatorError::from)?;
        Ok(Self { emulator, artifacts, template, http })
    }

    /// The emulator itself, for operations that `Stack` does not have.
    #[must_use]
    pub fn emulator(&self) -> &Emulator {
        &self.emulator
    }

    /// Writes the secrets, creates a stack and waits for it. Every stack has queues, parameters, secrets and functions
    /// of its own.
    pub async fn deploy(&self, name: &str, settings: &Settings) -> Result<Stack<'_>, StackError> {
        let keys = settings.webhook_keys.join("\n");
        for (secret, value) in [
            ("webhook-keys", &keys),
            ("gladly-token", &settings.gladly_token),
            ("destination-token", &settings.destination_token),
        ] {
            put_secret(&self.emulator, &format!("/{name}/{secret}"), value).await?;
        }
        let request = request(name, &self.template, settings);
        self.emulator.cloudformation("CreateStack", request).await?;
        let outputs = self.wait(name, "CREATE_COMPLETE").await?;
        Stack::new(self, name, &outputs)
    }

    /// Waits until a stack is in the wanted state, and gives its outputs.
    pub(super) async fn wait(
        &self,
        name: &str,
        wanted: &str,
    ) -> Result<BTreeMap<String, String>, StackError> {
        let stack = || vec![("StackName".to_owned(), name.to_owned())];
        let started = Instant::now();
        loop {
            let found = self.emulator.cloudformation("DescribeStacks", stack()).await?;
            let status = texts(&found, "StackStatus").pop().unwrap_or_default();
            if status == wanted {
                let keys = texts(&found, "OutputKey");
                return Ok(keys.into_iter().zip(texts(&found, "OutputValue")).collect());
            }
            // Also when it rolls back: the wanted state will not come.
            if !status.ends_with("_IN_PROGRESS")
                || status.contains("ROLLBACK")
                || started.elapsed() > STACK_TIMEOUT
            {
                let events = self.emulator.cloudformation("DescribeStackEvents", stack()).await?;
                let reasons = texts(&events, "ResourceStatusReason");
                return Err(StackError::Stack { name: name.to_owned(), status, reasons });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(super) fn request(name: &str, template: &str, settings: &Settings) -> Vec<(String, String)> {
    let mut fields = vec![
        ("StackName".to_owned(), name.to_owned()),
        ("TemplateURL".to_owned(), template.to_owned()),
        ("Capabilities.member.1".to_owned(), "CAPABILITY_IAM".to_owned()),
        ("Capabilities.member.2".to_owned(), "CAPABILITY_AUTO_EXPAND".to_owned()),
    ];
    for (number, (key, value)) in (1..).zip(settings.parameters(name)) {
        fields.push((format!("Parameters.member.{number}.ParameterKey"), key));
        fields.push((format!("Parameters.member.{number}.ParameterValue"), value));
    }
    fields
}
