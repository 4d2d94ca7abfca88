//! Settings from the environment, read once at start-up.

use std::{fmt::Display, str::FromStr};

/// Where settings come from: the process's environment, or a test's table.
pub struct Env<'a>(&'a dyn Fn(&str) -> Option<String>);

/// A setting that keeps the function from starting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is required, and missing or blank.
    #[error("{name} is not set")]
    Missing {
        /// The environment variable.
        name: &'static str,
    },
    /// Its value is not valid.
    #[error("{name} is not valid: {reason}")]
    Invalid {
        /// The environment variable.
        name: &'static str,
        /// What was expected.
        reason: String,
    },
}

impl<'a> Env<'a> {
    /// Settings that `lookup` returns by name.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self(lookup)
    }

    /// A required setting.
    pub fn required<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<T, ConfigError> {
        self.optional(name)?.ok_or(ConfigError::Missing { name })
    }

    /// An optional setting. Blank counts as missing: a template can empty a variable but not omit it.
    pub fn optional<T: FromStr<Err: Display>>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = (self.0)(name) else {
            return Ok(None);
        };
        let value = value.trim();
        if value.is_empty() {
            return Ok(None);
        }
        value
            .parse()
            .map(Some)
            .map_err(|err: T::Err| ConfigError::Invalid { name, reason: err.to_string() })
    }

    /// A required setting of a certain form.
    pub fn checked(
        &self,
        name: &'static str,
        is_valid: impl FnOnce(&str) -> bool,
        expected: &str,
    ) -> Result<String, ConfigError> {
        let text: String = self.required(name)?;
        let invalid = || ConfigError::Invalid { name, reason: expected.to_owned() };
        if is_valid(&text) { Ok(text) } else { Err(invalid()) }
    }

    /// A switch: `true` or `false`, in upper or lower case.
    pub fn switch(&self, name: &'static str, default: bool) -> Result<bool, ConfigError> {
        match self.optional::<String>(name)? {
            None => Ok(default),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(ConfigError::Invalid { name, reason: "expected true or false".into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_setting_is_named_with_what_was_expected() {
        let lookup = |name: &str| match name {
            "COUNT" => Some("many".to_owned()),
            "BLANK" => Some("  ".to_owned()),
            "SWITCH" => Some("TRUE".to_owned()),
            "MAYBE" => Some("maybe".to_owned()),
            _ => None,
        };
        let env = Env::new(&lookup);

        assert_eq!(env.required::<u32>("GONE").unwrap_err().to_string(), "GONE is not set");
        assert_eq!(env.required::<u32>("BLANK").unwrap_err().to_string(), "BLANK is not set");
        assert_eq!(
            env.optional::<u32>("COUNT").unwrap_err().to_string(),
            "COUNT is not valid: invalid digit found in string"
        );
        assert_eq!(env.switch("SWITCH", false), Ok(true));
        assert_eq!(env.switch("GONE", true), Ok(true));
        assert_eq!(
            env.switch("MAYBE", true).unwrap_err().to_string(),
            "MAYBE is not valid: expected true or false"
        );
    }
}
