//! The function's settings.

use shared::{ConfigError, Env};

/// What the environment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where events go.
    pub events_queue_url: String,
    /// Where authenticated webhooks go that are no events.
    pub quarantine_queue_url: String,
    /// The SSM parameter (SecureString) that holds the keys.
    pub webhook_keys_parameter: String,
}

impl Config {
    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&Env::new(&|name| std::env::var(name).ok()))
    }

    fn read(env: &Env<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            events_queue_url: env.required("EVENTS_QUEUE_URL")?,
            quarantine_queue_url: env.required("QUARANTINE_QUEUE_URL")?,
            webhook_keys_parameter: env.required("WEBHOOK_KEYS_PARAMETER")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_setting_keeps_the_function_from_starting() {
        let names = ["EVENTS_QUEUE_URL", "QUARANTINE_QUEUE_URL", "WEBHOOK_KEYS_PARAMETER"];
        for missing in names {
            let lookup = |name: &str| (name != missing).then(|| "x".to_owned());
            let err = Config::read(&Env::new(&lookup)).unwrap_err();
            assert_eq!(err, ConfigError::Missing { name: missing });
        }
    }
}
