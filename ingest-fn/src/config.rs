//! The function's settings.

use shared::{ConfigError, Env, SettleWindow};

/// The settings, read from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The queue for events.
    pub events_queue_url: String,
    /// The queue for authenticated webhooks that are not events.
    pub quarantine_queue_url: String,
    /// The SSM parameter (SecureString) that holds the keys.
    pub webhook_keys_parameter: String,
    /// How long events wait in the queue.
    pub settle_window: SettleWindow,
    /// Whether deletions and merges of customers are queued.
    pub forward_erasures: bool,
}

impl Config {
    /// Reads the settings from the process's environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&Env::new(&|name| std::env::var(name).ok()))
    }

    fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        let [events_queue_url, quarantine_queue_url] = env.queue_urls()?;
        Ok(Self {
            events_queue_url,
            quarantine_queue_url,
            webhook_keys_parameter: env.parameter_name("WEBHOOK_KEYS_PARAMETER")?,
            settle_window: env.optional("SETTLE_SECONDS")?.unwrap_or_default(),
            forward_erasures: env.switch("FORWARD_ERASURES", true)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: [(&str, &str); 3] = [
        ("EVENTS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/events"),
        ("QUARANTINE_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com/123456789012/quarantine"),
        ("WEBHOOK_KEYS_PARAMETER", "/relay/webhook-keys"),
    ];

    /// Valid settings, except for one.
    fn with(changed: &str, value: Option<&str>) -> Result<Config, ConfigError> {
        let lookup = |name: &str| {
            let good = SETTINGS.iter().find(|(setting, _)| *setting == name).map(|(_, good)| *good);
            if name == changed { value } else { good }.map(str::to_owned)
        };
        Config::read(&Env::new(&lookup))
    }

    #[test]
    fn a_missing_setting_keeps_the_function_from_starting() {
        for (missing, value) in SETTINGS {
            assert!(with(missing, Some(value)).is_ok());
            assert_eq!(with(missing, None), Err(ConfigError::Missing { name: missing }));
        }
    }

    #[test]
    fn a_setting_that_cannot_work_keeps_the_function_from_starting() {
        for (name, value) in [
            ("EVENTS_QUEUE_URL", "https://sqs.eu-west-1.amazonaws.com:8o80/123456789012/events"),
            ("EVENTS_QUEUE_URL", SETTINGS[1].1),
            ("QUARANTINE_QUEUE_URL", "quarantine"),
            ("WEBHOOK_KEYS_PARAMETER", "/relay/webhook-keys:2"),
            ("SETTLE_SECONDS", "901"),
            ("FORWARD_ERASURES", "no"),
        ] {
            let error = with(name, Some(value)).unwrap_err().to_string();
            assert!(
                error.contains("QUEUE_URL is not valid: ") || error.starts_with(name),
                "{error}"
            );
        }
    }
}
