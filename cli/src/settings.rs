//! Which hosts and secrets a relay uses: those of its stack or, before its first deployment, what was
//! given and the defaults.

use aws_sdk_ssm::types::ParameterType;
use jiff::Timestamp;
use shared::{BucketUrl, HttpUrl};

use crate::{
    args::SettingsArgs,
    error::{Error, Result, explain},
    gladly::{Gladly, base_url, is_email},
    relay::Relay,
    terminal::Terminal,
};

/// The header that carries the destination's token unless another one is set; it has `Bearer` before the
/// token.
pub(crate) const AUTHORIZATION: &str = "authorization";
/// The length of a secret's name, as in the template.
const MAX_NAME: usize = 512;
/// The levels of a secret's name, as SSM limits them.
const MAX_LEVELS: usize = 15;

/// A parameter of the template that the set-up needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Setting {
    GladlyHost,
    GladlyEmail,
    DestinationUrl,
    DestinationTokenHeader,
    GladlyToken,
    DestinationToken,
    WebhookKeys,
}

/// Those that name a SecureString.
pub(crate) const SECRETS: [Setting; 3] =
    [Setting::GladlyToken, Setting::DestinationToken, Setting::WebhookKeys];

impl Setting {
    const ALL: [Self; 7] = [
        Self::GladlyHost,
        Self::GladlyEmail,
        Self::DestinationUrl,
        Self::DestinationTokenHeader,
        Self::GladlyToken,
        Self::DestinationToken,
        Self::WebhookKeys,
    ];

    /// Its name in the template.
    pub(crate) fn parameter(self) -> &'static str {
        match self {
            Self::GladlyHost => "GladlyHost",
            Self::GladlyEmail => "GladlyEmail",
            Self::DestinationUrl => "DestinationUrl",
            Self::DestinationTokenHeader => "DestinationTokenHeader",
            Self::GladlyToken => "GladlyTokenParameter",
            Self::DestinationToken => "DestinationTokenParameter",
            Self::WebhookKeys => "WebhookKeysParameter",
        }
    }

    /// The variable that sets it, and the option.
    fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::GladlyHost => ("GLADLY_HOST", "--gladly-host"),
            Self::GladlyEmail => ("GLADLY_EMAIL", "--gladly-email"),
            Self::DestinationUrl => ("DESTINATION_URL", "--destination-url"),
            Self::DestinationTokenHeader => {
                ("DESTINATION_TOKEN_HEADER", "--destination-token-header")
            }
            Self::GladlyToken => ("GLADLY_TOKEN_PARAMETER", "--gladly-token-parameter"),
            Self::DestinationToken => {
                ("DESTINATION_TOKEN_PARAMETER", "--destination-token-parameter")
            }
            Self::WebhookKeys => ("WEBHOOK_KEYS_PARAMETER", "--webhook-keys-parameter"),
        }
    }

    fn given(self, args: &SettingsArgs) -> Option<&str> {
        let given = match self {
            Self::GladlyHost => &args.gladly_host,
            Self::GladlyEmail => &args.gladly_email,
            Self::DestinationUrl => &args.destination_url,
            Self::DestinationTokenHeader => &args.destination_token_header,
            Self::GladlyToken => &args.gladly_token_parameter,
            Self::DestinationToken => &args.destination_token_parameter,
            Self::WebhookKeys => &args.webhook_keys_parameter,
        };
        given.as_deref().map(str::trim).filter(|given| !given.is_empty())
    }

    fn default_value(self, stack: &str) -> Option<String> {
        match self {
            Self::GladlyHost | Self::GladlyEmail | Self::DestinationUrl => None,
            Self::DestinationTokenHeader => Some(AUTHORIZATION.to_owned()),
            Self::GladlyToken => Some(format!("/{stack}/gladly-token")),
            Self::DestinationToken => Some(format!("/{stack}/destination-token")),
            Self::WebhookKeys => Some(format!("/{stack}/webhook-keys")),
        }
    }

    /// Checks a value by the template's pattern.
    pub(crate) fn check(self, value: &str) -> Result<()> {
        let expected = match self {
            Self::GladlyHost => return base_url(value).map(drop),
            Self::GladlyEmail if !is_email(value) => "expected the e-mail address of a Gladly user",
            Self::DestinationUrl if !is_destination(value) => {
                "expected an https:// URL without a user name, password and fragment, or s3:// with a bucket and a \
                 prefix, without a slash at the end"
            }
            Self::DestinationTokenHeader if !is_header(value) => {
                "expected the name of an HTTP header: letters, digits and hyphens"
            }
            Self::GladlyToken | Self::DestinationToken | Self::WebhookKeys
                if !is_secret_name(value) =>
            {
                "expected the name of an SSM parameter that begins with a slash, but not with /aws or /ssm"
            }
            _ => return Ok(()),
        };
        Err(Error::usage(format!("{expected}, got {value:?}.")))
    }
}

fn is_destination(text: &str) -> bool {
    if BucketUrl::is_meant(text) {
        return text.parse::<BucketUrl>().is_ok();
    }
    text.parse::<HttpUrl>().is_ok_and(|url| url.is_https() || url.is_loopback())
}

fn is_header(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// The pattern of the template's parameters that name secrets.
fn is_secret_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let Some(path) = name.strip_prefix('/') else { return false };
    let start = path.get(..3).unwrap_or_default().to_ascii_lowercase();
    name.len() <= MAX_NAME
        && path.split('/').count() <= MAX_LEVELS
        && path.split('/').all(|level| !level.is_empty() && level.bytes().all(is_allowed))
        && start != "aws"
        && start != "ssm"
}

/// Checks what was given, before anything is called.
pub(crate) fn check(args: &SettingsArgs) -> Result<()> {
    for setting in Setting::ALL {
        if let Some(given) = setting.given(args) {
            let (variable, option) = setting.source();
            setting.check(given).map_err(|error| {
                Error::usage(format!("{variable} ({option}): {}", error.sentence))
            })?;
        }
    }
    Ok(())
}

/// What a SecureString holds.
pub(crate) struct Stored {
    pub(crate) value: String,
    pub(crate) written_at: Option<Timestamp>,
}

/// A relay with its settings.
pub(crate) struct Settings {
    pub(crate) relay: Relay,
    args: SettingsArgs,
}

impl Settings {
    /// # Errors
    ///
    /// The stack is none of a relay, or what was given contradicts it.
    pub(crate) fn new(mut relay: Relay, args: &SettingsArgs) -> Result<Self> {
        if relay.status.as_deref() == Some("REVIEW_IN_PROGRESS") {
            // A change set that was never executed: there is no stack yet.
            relay.status = None;
            relay.parameters.clear();
        }
        if relay.status.is_some() && !relay.parameters.contains_key("GladlyHost") {
            return Err(Error::failed(format!(
                "{} is not a gladly-relay stack (missing parameter GladlyHost).",
                relay.name
            )));
        }
        // Variables that are meant for another stack must not replace this one's secrets.
        for setting in Setting::ALL.into_iter().filter(|_| !relay.session.is_default) {
            let (variable, option) = setting.source();
            if let (Some(given), Some(own)) =
                (setting.given(args), relay.parameters.get(setting.parameter()))
                && given != own
            {
                return Err(Error::usage(format!(
                    "{variable} ({option}) is {given:?}, but the stack {} was deployed with {} {own:?}; unset \
                     it, or deploy the change first.",
                    relay.name,
                    setting.parameter()
                )));
            }
        }
        Ok(Self { relay, args: args.clone() })
    }

    /// Whether there is a stack.
    pub(crate) fn has_stack(&self) -> bool {
        self.relay.status.is_some()
    }

    /// A setting, if it is known.
    pub(crate) fn find(&self, setting: Setting) -> Option<String> {
        if let Some(own) = self.relay.parameters.get(setting.parameter()) {
            return Some(own.clone());
        }
        let given = setting.given(&self.args).map(str::to_owned);
        given.or_else(|| setting.default_value(&self.relay.name))
    }

    /// The bucket that deliveries are written to, if they are not posted: then there is no token.
    pub(crate) fn bucket(&self) -> Option<BucketUrl> {
        self.find(Setting::DestinationUrl)?.parse().ok()
    }

    /// A setting that must be known.
    pub(crate) fn require(&self, setting: Setting) -> Result<String> {
        self.find(setting).ok_or_else(|| {
            let (variable, option) = setting.source();
            Error::usage(format!(
                "{variable} is not set, and the stack {} does not exist yet: pass {option} or export {variable}.",
                self.relay.name
            ))
        })
    }

    /// The name of a SecureString.
    pub(crate) fn name(&self, secret: Setting) -> String {
        self.find(secret).unwrap_or_default()
    }

    /// A SecureString; `None` if there is none, or it is empty.
    pub(crate) async fn stored(
        &self,
        terminal: &Terminal,
        secret: Setting,
    ) -> Result<Option<Stored>> {
        let name = self.name(secret);
        // Boxed, as all calls here: the SDK's futures are large, and these are part of many others.
        let Some(found) = Box::pin(self.relay.parameter(&name)).await? else { return Ok(None) };
        if found.r#type != Some(ParameterType::SecureString) {
            let kind = found.r#type.map_or_else(String::new, |kind| kind.to_string());
            return Err(Error::failed(format!(
                "{name} is a {kind}, which is stored in the clear: delete it with \"aws ssm delete-parameter \
                 --name {name}\", then {}, preferably with another secret.",
                self.relay.command("secrets")
            )));
        }
        let value = found.value.unwrap_or_default();
        let value = shared::without_bom(&value).trim().to_owned();
        terminal.hide(&value);
        let written_at =
            found.last_modified_date.and_then(|at| Timestamp::from_second(at.secs()).ok());
        Ok(Some(Stored { value, written_at }).filter(|stored| !stored.value.is_empty()))
    }

    /// Writes a SecureString.
    pub(crate) async fn store(&self, name: &str, value: &str, kms_key: Option<&str>) -> Result<()> {
        let request = aws_sdk_ssm::Client::new(&self.relay.session.config)
            .put_parameter()
            .name(name)
            .value(value)
            .overwrite(true)
            .r#type(ParameterType::SecureString)
            .set_key_id(kms_key.map(str::to_owned));
        let written = Box::pin(request.send()).await;
        written.map(drop).map_err(|err| explain(&format!("could not write {name}"), &err))
    }

    /// The KMS key of each of these secrets, `None` for one that does not exist.
    pub(crate) async fn kms_keys(&self, names: &[String]) -> Result<Vec<Option<String>>> {
        let filter = aws_sdk_ssm::types::ParameterStringFilter::builder()
            .key("Name")
            .option("Equals")
            .set_values(Some(names.to_vec()))
            .build()
            .map_err(|err| Error::failed(format!("{err}.")))?;
        let mut pages = aws_sdk_ssm::Client::new(&self.relay.session.config)
            .describe_parameters()
            .parameter_filters(filter)
            .into_paginator()
            .send();
        let mut keys = vec![None; names.len()];
        // A filter leaves pages empty that are not the last.
        while let Some(page) = Box::pin(pages.next()).await {
            let page = page.map_err(|err| {
                explain("could not read which KMS key encrypts the secrets", &err)
            })?;
            for found in page.parameters.unwrap_or_default() {
                let at = names.iter().position(|name| found.name.as_ref() == Some(name));
                if let Some(key) = at.and_then(|at| keys.get_mut(at)) {
                    *key = found.key_id;
                }
            }
        }
        Ok(keys)
    }

    /// Gladly with the credentials that the relay uses.
    pub(crate) async fn gladly(&self, terminal: &Terminal) -> Result<Gladly> {
        let host = self.require(Setting::GladlyHost)?;
        let email = self.require(Setting::GladlyEmail)?;
        let Some(token) = self.stored(terminal, Setting::GladlyToken).await? else {
            return Err(Error::failed(format!(
                "there is no Gladly token in {}: {}.",
                self.name(Setting::GladlyToken),
                self.relay.command("secrets")
            )));
        };
        Gladly::new(terminal, &host, &email, &token.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_by_the_patterns_of_the_template() {
        for (setting, right, wrong) in [
            (Setting::GladlyHost, "acme.gladly.com", "https://acme.gladly.com"),
            (Setting::GladlyEmail, "relay@example.com", "nobody"),
            (Setting::DestinationUrl, "https://example.com/x?y", "http://example.com/"),
            (Setting::DestinationUrl, "http://127.0.0.1:4000/x", "https://user:pass@example.com"),
            (Setting::DestinationUrl, "s3://acme-conversations/gladly", "s3://acme/gladly/"),
            (Setting::DestinationTokenHeader, "X-Api-Key", "x api key"),
            (Setting::GladlyToken, "/acme/gladly-token", "gladly-token"),
            (Setting::GladlyToken, "/as/t", "/aws/t"),
            (Setting::DestinationToken, "/a/b/c", "/SSM-relay/token"),
            (Setting::WebhookKeys, "/a", "/a//b"),
        ] {
            assert!(setting.check(right).is_ok(), "{right}");
            assert!(setting.check(wrong).is_err(), "{wrong}");
        }
    }
}
