//! Secrets from the environment, or as they are typed without an echo.

use std::env;

use crate::{
    error::{Error, Result},
    terminal::Terminal,
};

/// The variables that hold secrets.
const VARIABLES: [&str; 3] = ["GLADLY_TOKEN", "DESTINATION_TOKEN", "WEBHOOK_KEY"];
/// The most that a standard parameter holds.
const MAX_SECRET: usize = 4_096;
/// Generates a webhook key.
const GENERATE: &str = "generate";

/// What the environment gives.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) gladly_token: Option<String>,
    pub(crate) destination_token: Option<String>,
    pub(crate) webhook_key: Option<String>,
}

impl Given {
    /// Reads the environment; what it holds is never shown.
    ///
    /// # Errors
    ///
    /// A secret was given as an argument of make, or is not one line.
    pub(crate) fn read(terminal: &Terminal) -> Result<Self> {
        let values = VARIABLES.map(|name| {
            let value = env::var(name).unwrap_or_default().trim().to_owned();
            if value != GENERATE {
                terminal.hide(&value);
            }
            Some(value).filter(|value| !value.is_empty())
        });
        if let Some(name) = on_command_line(&env::var("MAKEFLAGS").unwrap_or_default()) {
            return Err(Error::usage(format!(
                "a secret that follows \"make\" is in the shell's history: replace it, then run \
                 \"read -rs {name}; export {name}\" first."
            )));
        }
        for (name, value) in VARIABLES.iter().zip(&values) {
            check(name, value.as_deref().unwrap_or_default())?;
        }
        let [gladly_token, destination_token, webhook_key] = values;
        Ok(Self { gladly_token, destination_token, webhook_key })
    }
}

/// Checks that a secret is one line of printable ASCII.
pub(crate) fn check(name: &str, secret: &str) -> Result<()> {
    if !secret.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(Error::usage(format!(
            "{name}: expected one line of printable ASCII; was something else pasted?"
        )));
    }
    if secret.len() > MAX_SECRET {
        return Err(Error::usage(format!(
            "{name}: expected at most 4,096 characters, got {}.",
            secret.len()
        )));
    }
    Ok(())
}

/// The secret that make was given as an argument: `GLADLY_TOKEN=…`.
fn on_command_line(make_flags: &str) -> Option<&'static str> {
    let is_given = |name: &&str| {
        make_flags.split_whitespace().any(|word| {
            let value = word.strip_prefix(*name).and_then(|rest| rest.strip_prefix('='));
            value.is_some_and(|value| value != GENERATE)
        })
    };
    VARIABLES.into_iter().find(is_given)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_among_the_arguments_of_make_is_noticed() {
        assert_eq!(on_command_line(" -- GLADLY_TOKEN=typed STACK=x"), Some("GLADLY_TOKEN"));
        assert_eq!(on_command_line("w -- WEBHOOK_KEY=generate"), None);
        assert_eq!(on_command_line("w -- GLADLY_TOKEN_PARAMETER=/a/b"), None);
    }
}
