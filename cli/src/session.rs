//! The connection to AWS: one login and one region for everything that a command does.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_config::{BehaviorVersion, Region, SdkConfig, timeout::TimeoutConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_runtime_api::client::stalled_stream_protection::StalledStreamProtectionConfig;
use serde::Deserialize;
use tokio::time::Duration;

use crate::{
    args::Global,
    error::{Error, Result},
};

/// The longest that one attempt of a call to AWS takes, but for those that set a limit of their own.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// What `make up` started on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct LocalRelay {
    /// The emulated AWS.
    aws_url: String,
    /// The region that it is in.
    #[serde(default = "local_region")]
    region: String,
    /// The stack's name.
    #[serde(default = "local_stack")]
    stack: String,
    /// Where the emulated AWS takes webhooks, which is not the stack's output.
    webhook_url: String,
    /// One of the Gladly simulator's conversations.
    conversation: Option<String>,
}

fn local_region() -> String {
    "us-east-1".into()
}

fn local_stack() -> String {
    "gladly-relay".into()
}

impl LocalRelay {
    /// The one of the current folder or of the nearest folder above it.
    fn find() -> Option<Self> {
        let here = env::current_dir().ok()?;
        here.ancestors().find_map(Self::read)
    }

    fn read(folder: &Path) -> Option<Self> {
        let file: PathBuf = folder.join(".local/up/running.json");
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }
}

/// One login in one region.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) config: SdkConfig,
    pub(crate) region: String,
    /// The stack that the command is about.
    pub(crate) stack: String,
    /// The profile that was asked for, for the commands that this program suggests and starts.
    pub(crate) profile: Option<String>,
    /// Where the emulated AWS takes webhooks; `None` for an account.
    pub(crate) local_webhook_url: Option<Arc<str>>,
    /// One of the Gladly simulator's conversations, if this is what `make up` started.
    pub(crate) local_conversation: Option<String>,
    /// Whether the stack was chosen by default, as the one of `make up`.
    pub(crate) is_default: bool,
}

impl Session {
    /// Resolves stack, region and login.
    pub(crate) async fn open(global: &Global) -> Result<Self> {
        if let Some(stack) = &global.stack {
            check_stack_name(stack)?;
            return Self::account(global, stack.clone()).await;
        }
        let Some(local) = LocalRelay::find() else {
            return Err(Error::usage(
                "no relay runs on this machine; \"make up\" starts one, and --stack NAME selects one in your AWS account.",
            ));
        };
        Ok(Self::local(local))
    }

    /// A session that is about no stack: every stack of the account and region.
    pub(crate) async fn open_any(global: &Global) -> Result<Self> {
        match (&global.stack, LocalRelay::find()) {
            (None, Some(local)) if !has_login() => Ok(Self::local(local)),
            (stack, _) => Self::account(global, stack.clone().unwrap_or_default()).await,
        }
    }

    /// Nothing of the user's own login, profile or proxy applies to the emulated AWS.
    fn local(local: LocalRelay) -> Self {
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(local.region.clone()))
            .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
                "test", "test", None, None, "make up",
            )))
            .endpoint_url(&local.aws_url)
            .http_client(crate::http::loopback_client())
            .timeout_config(timeouts())
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .build();
        Self {
            config,
            region: local.region,
            stack: local.stack,
            profile: None,
            local_webhook_url: Some(local.webhook_url.into()),
            local_conversation: local.conversation,
            is_default: true,
        }
    }

    async fn account(global: &Global, stack: String) -> Result<Self> {
        let region = chosen_region(global.region.as_deref(), |name| env::var(name).ok())?;
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(profile) = &global.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = region {
            loader = loader.region(Region::new(region));
        }
        let config = loader.load().await;
        let Some(region) = config.region().map(ToString::to_string) else {
            return Err(Error::usage(
                "no region is set; pass --region NAME, export AWS_REGION or set one in the profile.",
            ));
        };
        let is_loopback = config.endpoint_url().is_some_and(is_loopback);
        let webhook = env::var("GLADLY_RELAY_WEBHOOK_URL").ok().filter(|_| is_loopback);
        Ok(Self {
            config,
            region,
            stack,
            profile: global.profile.clone(),
            local_webhook_url: is_loopback.then(|| webhook.unwrap_or_default().into()),
            local_conversation: None,
            is_default: false,
        })
    }

    /// Whether this is an emulated AWS.
    pub(crate) fn is_local(&self) -> bool {
        self.local_webhook_url.is_some()
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build()
}

fn is_loopback(url: &str) -> bool {
    url.parse::<shared::HttpUrl>().is_ok_and(|url| url.is_loopback())
}

/// Whether the environment or a file says who to be at AWS.
fn has_login() -> bool {
    ["AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ENDPOINT_URL"]
        .iter()
        .any(|name| env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The region as asked for, or as both variables say that AWS's programs read: version 2 of the AWS CLI
/// and the SDKs prefer `AWS_REGION`, SAM and version 1 of the AWS CLI read only `AWS_DEFAULT_REGION`.
pub(crate) fn chosen_region(
    asked: Option<&str>,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>> {
    let set = |name| lookup(name).filter(|value: &String| !value.trim().is_empty());
    match (asked, set("AWS_REGION"), set("AWS_DEFAULT_REGION")) {
        (Some(region), _, _) => Ok(Some(region.to_owned())),
        (None, Some(one), Some(other)) if one != other => Err(Error::usage(format!(
            "AWS_REGION is {one} and AWS_DEFAULT_REGION is {other}, and AWS's programs disagree on which counts; \
             pass --region NAME."
        ))),
        (None, one, other) => Ok(one.or(other)),
    }
}

/// Whether CloudFormation and SSM accept a stack of this name: the pause parameter's name begins with
/// it, and AWS reserves names that begin with `aws` and `ssm`
/// (<https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html>).
pub(crate) fn check_stack_name(name: &str) -> Result<()> {
    let mut characters = name.chars();
    let is_valid = characters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '-')
        && name.len() <= 128;
    if !is_valid {
        return Err(Error::usage(
            "expected a stack's name: a letter, then letters, digits and hyphens, 128 at most.",
        ));
    }
    let start = name.get(..3).unwrap_or_default().to_ascii_lowercase();
    if start == "aws" || start == "ssm" {
        return Err(Error::usage(
            "a stack's name cannot begin with aws or ssm: AWS rejects parameters whose names begin so.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_region_is_resolved_and_two_that_differ_are_refused() {
        let region = |asked, one: &str, other: &str| {
            let lookup = |name: &str| match name {
                "AWS_REGION" => Some(one.to_owned()),
                _ => Some(other.to_owned()),
            };
            chosen_region(asked, lookup).map_err(|err| err.sentence)
        };
        assert_eq!(region(None, "", ""), Ok(None));
        assert_eq!(region(None, "", "eu-west-1").unwrap().as_deref(), Some("eu-west-1"));
        assert_eq!(region(None, "eu-west-1", "eu-west-1").unwrap().as_deref(), Some("eu-west-1"));
        assert_eq!(region(Some("eu-north-1"), "a", "b").unwrap().as_deref(), Some("eu-north-1"));
        assert!(region(None, "eu-west-1", "us-east-1").unwrap_err().contains("pass --region"));
    }

    #[test]
    fn names_that_aws_refuses_are_refused_before_anything_is_called() {
        for name in ["-x", "a b", "../x", "é", "", "1a", "aws", "AWS-relay", "ssmRelay", "Ssm-1"] {
            assert!(check_stack_name(name).is_err(), "{name}");
        }
        for name in ["acme", "Acme-2", "as", "sms"] {
            assert!(check_stack_name(name).is_ok(), "{name}");
        }
    }
}
