//! What a stack is deployed with.

use std::{collections::BTreeMap, env};

/// What a stack is deployed with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where Gladly's REST API is.
    pub gladly_url: String,
    /// The API user's name.
    pub gladly_email: String,
    /// The API user's token.
    pub gladly_token: String,
    /// Where deliveries go.
    pub destination_url: String,
    /// The token sent with them.
    pub destination_token: String,
    /// The valid webhook keys.
    pub webhook_keys: Vec<String>,
    /// Further parameters of the template, by name.
    pub parameters: BTreeMap<String, String>,
}

impl Settings {
    /// Settings with generated secrets. They protect only this machine's loopback, so any random number is good enough.
    #[must_use]
    pub fn new(gladly_url: &str, destination_url: &str) -> Self {
        let secret = || (0..40).map(|_| fastrand::alphanumeric()).collect::<String>();
        Self {
            gladly_url: gladly_url.to_owned(),
            gladly_email: "relay@example.com".to_owned(),
            gladly_token: secret(),
            destination_url: destination_url.to_owned(),
            destination_token: secret(),
            webhook_keys: vec![secret()],
            parameters: BTreeMap::new(),
        }
    }

    /// The same, with a parameter of the template set.
    #[must_use]
    pub fn with(mut self, parameter: &str, value: &str) -> Self {
        self.parameters.insert(parameter.to_owned(), value.to_owned());
        self
    }

    pub(super) fn parameters(&self, stack: &str) -> BTreeMap<String, String> {
        let architecture = if env::consts::ARCH == "aarch64" { "arm64" } else { "x86_64" };
        let mut parameters = BTreeMap::from(
            [
                ("Architecture", architecture),
                ("GladlyHost", &self.gladly_url),
                ("GladlyEmail", &self.gladly_email),
                ("DestinationUrl", &self.destination_url),
                ("WebhookKeysParameter", &format!("/{stack}/webhook-keys")),
                ("GladlyTokenParameter", &format!("/{stack}/gladly-token")),
                ("DestinationTokenParameter", &format!("/{stack}/destination-token")),
                // Tests would wait for it.
                ("SettleSeconds", "0"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        parameters.extend(self.parameters.clone());
        parameters
    }
}
